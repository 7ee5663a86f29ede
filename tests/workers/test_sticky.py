"""``Policy(sticky=key)``: contexts of one key share a worker."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, ContextVar

import pytest

from asgibridge._waits import deadlocks
from asgibridge._workers import sticky
from asgibridge._workers.pool import pool
from asgibridge.sync import SyncToAsync, ThreadSensitiveContext, async_to_sync, sync_to_async
from asgibridge.workers import LimitReached, Policy, bind, set_policy, stats
from threads import SECONDS, clean_pool, until_gone

KINDS = pytest.mark.parametrize("kind", ["fresh", "keep", "new"])
current_thread = sync_to_async(threading.current_thread)


@pytest.fixture(autouse=True)
def default_policy():
    with clean_pool():
        yield
    gc.collect()
    assert sticky._shares == {}


def run(main):
    """On a loop of its own; a hang is an error."""

    async def limited():
        return await asyncio.wait_for(main(), SECONDS)

    return asyncio.run(limited())


def context(key="ann", **more):
    return ThreadSensitiveContext(policy=Policy(sticky=key, **more))


def executor_of(entered):
    return SyncToAsync.context_to_thread_executor[entered]


class Insider:
    """A context with a worker in a task of its own, until it is told to leave."""

    def __init__(self, key="ann", **more):
        self._context = context(key, **more)
        self._orders: asyncio.Queue = asyncio.Queue()

    async def __aenter__(self):
        self.entered = asyncio.Event()
        # In nobody's context.
        self.task = Context().run(asyncio.ensure_future, self._stay())
        await self.entered.wait()
        return self

    async def __aexit__(self, *_):
        await self.leave()

    async def _stay(self):
        async with self._context as self.context:
            self.thread = await current_thread()
            self.entered.set()
            while order := await self._orders.get():
                function, future = order
                try:
                    future.set_result(await function())
                except BaseException as error:
                    future.set_exception(error)

    def do(self, function):
        """Have the async function called inside."""
        future = asyncio.get_running_loop().create_future()
        self._orders.put_nowait((function, future))
        return future

    async def leave(self):
        self._orders.put_nowait(None)
        await self.task


async def until(condition):
    while not condition():
        await asyncio.sleep(0)


class TestSharing:
    @KINDS
    def test_contexts_of_one_key_share_a_worker(self, kind):
        async def main():
            async with Insider(kind=kind) as first, Insider(kind=kind) as second:
                async with Insider("bob", kind=kind) as other:
                    assert first.thread is second.thread
                    assert first.thread is not other.thread
                assert await first.do(current_thread) is first.thread
                await first.leave()
                assert await second.do(current_thread) is first.thread
                async with Insider(kind=kind) as third:
                    assert third.thread is first.thread
                    await second.leave()
                    assert await third.do(current_thread) is first.thread

        run(main)

    def test_equal_keys_are_one_and_others_are_not(self):
        class Key:
            def __init__(self, name):
                self.name = name

            def __eq__(self, other):
                return isinstance(other, Key) and self.name == other.name

            def __hash__(self):
                return 7

        async def main():
            async with Insider(Key("a")) as one, Insider(Key("b")) as two, Insider(7) as three:
                async with Insider(Key("a")) as same:
                    assert one.thread is same.thread
                    assert len({one.thread, two.thread, three.thread}) == 3

        run(main)

    def test_one_key_of_two_kinds(self):
        def hook(worker): ...

        async def main():
            async with Insider(kind="fresh") as fresh, Insider(kind="keep") as kept:
                hooked = Insider(kind="keep", after_lease=hook)
                async with hooked, Insider(kind="keep", after_lease=hook) as same:
                    assert len({fresh.thread, kept.thread, hooked.thread}) == 3
                    assert hooked.thread is same.thread

        run(main)

    def test_a_nested_context_joins_the_outermost(self):
        async def main():
            async with context("ann"):
                mine = await current_thread()
                async with context("bob"):
                    assert await current_thread() is mine

        run(main)

    @pytest.mark.parametrize("kind", ["fresh", "keep"])
    def test_in_the_order_in_which_they_come(self, kind):
        """From contexts of one key in turn, the first of which had to wait for a worker."""
        order = []

        async def request(number):
            note = sync_to_async(order.append)
            async with context(kind=kind):
                await note(number)
                await asyncio.gather(note(number + 100), note(number + 200))

        async def main():
            set_policy(Policy(limit=1))
            async with Insider("somebody else") as holder:
                requests = [asyncio.ensure_future(request(number)) for number in range(50)]
                await until(lambda: len(pool.waiting) == 1)
                for _ in range(3):
                    await asyncio.sleep(0)
                await holder.leave()
                await asyncio.gather(*requests)

        run(main)
        assert order[:50] == list(range(50))
        assert sorted(order[50:]) == sorted(
            number + more for number in range(50) for more in (100, 200)
        )
        for number in range(50):
            assert order.index(number + 100) < order.index(number + 200)

    def test_one_at_a_time_from_two_loops(self):
        rounds, at_once, most, threads = 100, [], [], set()
        barrier = threading.Barrier(2, timeout=SECONDS)

        def work():
            at_once.append(1)
            most.append(len(at_once))
            threads.add(threading.current_thread())
            at_once.pop()

        async def main():
            async with context():
                await current_thread()
                await asyncio.get_running_loop().run_in_executor(None, barrier.wait)
                for _ in range(rounds):
                    await sync_to_async(work)()
                await asyncio.get_running_loop().run_in_executor(None, barrier.wait)

        with ThreadPoolExecutor(2) as executor:
            for future in [executor.submit(run, main) for _ in range(2)]:
                future.result()
        assert most == [1] * (2 * rounds)
        assert len(threads) == 1

    def test_threads_that_make_the_first_of_a_key_at_once(self):
        """Each round is a key that nobody has had: there may be one worker for it."""
        barrier = threading.Barrier(3, timeout=SECONDS)

        def rounds():
            async def main():
                found = []
                for key in range(50):
                    barrier.wait()
                    async with context(key):
                        found.append(await current_thread())
                        barrier.wait()
                return found

            return run(main)

        with ThreadPoolExecutor(3) as executor:
            found = [executor.submit(rounds) for _ in range(3)]
            first, second, third = [each.result() for each in found]
        assert first == second == third

    def test_values_of_the_thread_are_the_keys_while_somebody_is_inside(self):
        local, seen = threading.local(), []

        def look():
            seen.append(getattr(local, "value", None))
            local.value = len(seen)

        async def request():
            async with context():
                await sync_to_async(look)()

        async def main():
            async with Insider() as insider:
                await request()
                await insider.do(sync_to_async(look))
                await request()
            await request()

        run(main)
        assert seen == [None, 1, 2, None]

    def test_variables_beneath_the_calls_are_each_contexts_own(self):
        """What ``submit`` runs, and what an override of `thread_handler` sets."""
        variable, seen = ContextVar("variable", default=None), []

        def look(value):
            seen.append(variable.get())
            variable.set(value)

        class Overriding(SyncToAsync):
            def thread_handler(self, loop, *args, **kwargs):
                look("overriding")
                return super().thread_handler(loop, *args, **kwargs)

        async def main():
            for kind in ("fresh", "keep"):
                async with Insider(kind=kind) as first, Insider(kind=kind) as second:
                    for insider in (first, second):
                        executor = executor_of(insider.context)
                        await asyncio.wrap_future(executor.submit(look, "submitted"))
                        await asyncio.wrap_future(executor.submit(look, "again"))
                        await insider.do(Overriding(int))

        run(main)
        assert seen == [None, "submitted", "again"] * 4


class TestLeaving:
    def test_does_not_wait_for_the_calls_of_others(self):
        begun, go_on = threading.Event(), threading.Event()

        def work():
            begun.set()
            assert go_on.wait(SECONDS)
            return "done"

        async def main():
            async with Insider() as first, Insider() as second:
                others = second.do(sync_to_async(work))
                await until(begun.is_set)
                await first.leave()
                assert not others.done()
                go_on.set()
                assert await others == "done"

        run(main)

    @pytest.mark.parametrize("others", [0, 1])
    def test_waits_for_its_own(self, others):
        begun, go_on = threading.Event(), threading.Event()

        def work():
            begun.set()
            assert go_on.wait(SECONDS)

        async def main():
            stays = Insider()
            if others:
                await stays.__aenter__()
            async with Insider() as first:
                executor = executor_of(first.context)
                calls = [executor.submit(work), executor.submit(int), executor.submit(int)]
                assert calls[1].cancel()
                await until(begun.is_set)
                leaving = asyncio.ensure_future(first.leave())
                await until(lambda: executor._shutdown)
                for _ in range(5):
                    await asyncio.sleep(0)
                assert not leaving.done()
                go_on.set()
                await leaving
                assert calls[2].result(0) == 0
            if others:
                assert await stays.do(current_thread) is stays.thread
                await stays.leave()

        run(main)

    def test_waits_for_a_call_that_was_cancelled_while_it_ran(self):
        begun, go_on = threading.Event(), threading.Event()

        def work():
            begun.set()
            assert go_on.wait(SECONDS)

        async def main():
            async with Insider() as stays:
                async with context():
                    task = asyncio.ensure_future(sync_to_async(work)())
                    await until(begun.is_set)
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                    asyncio.get_running_loop().call_soon(go_on.set)
                assert go_on.is_set()
                assert await stays.do(current_thread) is stays.thread

        run(main)

    def test_refuses_further_calls(self):
        async def main():
            async with Insider() as stays:
                async with context() as entered:
                    await current_thread()
                    executor = executor_of(entered)
                with pytest.raises(RuntimeError, match="after shutdown"):
                    executor.submit(int)
                assert executor._shutdown
                assert await stays.do(current_thread) is stays.thread

        run(main)

    def test_a_call_that_comes_after_the_exit_joins_anew(self):
        async def main():
            go = asyncio.Event()

            async def late():
                await go.wait()
                return await current_thread()

            async with Insider() as stays:
                async with context():
                    task = asyncio.ensure_future(late())
                    await current_thread()
                go.set()
                assert await task is stays.thread
                del task
                gc.collect()  # the context that was left, and has a worker

        run(main)

    def test_hooks_are_called_once_for_all_of_a_key(self):
        called = []
        hooks = {
            name: (lambda worker, name=name: called.append(name))
            for name in ("on_start", "before_lease", "after_lease", "on_end")
        }

        async def main():
            async with Insider(**hooks) as first:
                async with Insider(**hooks):
                    pass
                await first.do(current_thread)
                assert called == ["on_start", "before_lease"]
            # The exit of the last one has waited for that.
            assert called == ["on_start", "before_lease", "after_lease", "on_end"]

        run(main)

    def test_shutdown(self):
        async def main():
            async with Insider() as stays, Insider() as goes:
                executor = executor_of(goes.context)
                future = executor.submit(threading.current_thread)
                executor.shutdown()
                assert future.result(0) is stays.thread
                assert await stays.do(current_thread) is stays.thread

        run(main)


class TestLimit:
    def test_counts_a_key_once(self):
        async def main():
            set_policy(Policy(limit=1))
            async with Insider() as first, Insider() as second:
                assert first.thread is second.thread
                assert stats().waiting == 0
                other = Insider("bob")
                entering = asyncio.ensure_future(other.__aenter__())
                await until(lambda: pool.waiting)
                await first.leave()
                assert stats().waiting == 1
                await second.leave()
                await entering
                await other.leave()

        run(main)

    def test_the_first_of_a_key_waits_in_line(self):
        order = []

        async def request(key):
            async with context(key):
                await sync_to_async(order.append)(key)

        async def main():
            set_policy(Policy(limit=1))
            async with Insider("somebody else") as holder:
                tasks = []
                for key in ("ann", "bob", "ann"):
                    tasks.append(asyncio.ensure_future(request(key)))
                    await asyncio.sleep(0)
                await until(lambda: len(pool.waiting) == 2)
                await holder.leave()
                await asyncio.gather(*tasks)

        run(main)
        assert order == ["ann", "ann", "bob"]

    def test_wait_timeout(self):
        async def request():
            async with context():
                return await current_thread()

        async def main():
            set_policy(Policy(limit=1, wait_timeout=0.01))
            async with Insider("somebody else") as holder:
                outcomes = await asyncio.gather(request(), request(), return_exceptions=True)
                assert [type(each) for each in outcomes] == [LimitReached] * 2
                assert not pool.waiting
                await holder.leave()
                assert await request()

        run(main)

    def test_a_cancelled_call_gives_up_its_place(self):
        async def request():
            async with context():
                return await current_thread()

        async def main():
            set_policy(Policy(limit=1))
            async with Insider("somebody else") as holder:
                tasks = [asyncio.ensure_future(request()) for _ in range(2)]
                await until(lambda: pool.waiting)
                await asyncio.sleep(0)
                for left, task in zip((1, 0), tasks):
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                    assert len(pool.waiting) == left
                await holder.leave()

        run(main)

    def test_shutdown_that_cancels(self):
        async def main():
            set_policy(Policy(limit=1))
            async with Insider("somebody else"):
                policy = Policy(sticky="ann")
                first = sticky.executor_of_context(policy, None)
                second = sticky.executor_of_context(policy, None)
                future, others = first.submit(int), second.submit(int)
                first.shutdown(cancel_futures=True)
                assert future.cancelled()
                assert not others.done()
                second.shutdown(cancel_futures=True)
                assert others.cancelled()
                assert not pool.waiting

        run(main)

    def test_a_dump_names_the_key(self):
        async def request():
            async with context("ann" * 100):
                await current_thread()

        async def main():
            set_policy(Policy(limit=1))
            async with Insider("bob") as holder, Insider("bob") as other:
                task = Context().run(asyncio.ensure_future, request())
                await until(lambda: pool.waiting)
                what = task.asgibridge_wait.what
                assert what.startswith("a worker for the contexts of the sticky key 'annann")
                assert what.endswith("..., at the limit of 1")
                assert set(task.asgibridge_wait.borrowers()) == {holder.task, other.task}
                await holder.leave()
                await other.leave()
                await task

        run(main)


class TestRelease:
    def test_while_nobody_of_the_key_has_a_call(self):
        async def main():
            set_policy(Policy(kind="keep", limit=1))
            policy = {"kind": "keep", "release_idle": 0}
            before = stats().released
            async with Insider(**policy) as first, Insider(**policy) as second:
                async with Insider("bob"):
                    assert stats().released > before
                async with Insider("bob", **policy):
                    assert await first.do(current_thread) is await second.do(current_thread)

        run(main)

    def test_one_that_is_bound_keeps_the_worker_for_all(self):
        async def main():
            set_policy(Policy(kind="keep", limit=1))
            policy = {"kind": "keep", "release_idle": 0}
            binding = bind()

            async def enter():
                binding.__enter__()

            async with Insider(**policy) as first, Insider(**policy) as second:
                await second.do(enter)
                await first.do(current_thread)  # if the worker was given back before that
                other = Insider("bob")
                entering = asyncio.ensure_future(other.__aenter__())
                await until(lambda: "bind()" in pool.kept_by_idle())
                assert await first.do(current_thread) is first.thread
                await until(lambda: "bind()" in pool.kept_by_idle())
                assert not entering.done()
                binding.__exit__()
                await entering
                await other.leave()

        run(main)


class TestDropped:
    def test_without_an_exit(self):
        """The last one that is dropped lets the worker go."""

        async def main():
            set_policy(Policy(limit=1))
            first = sticky.executor_of_context(Policy(sticky="ann"), None)
            second = sticky.executor_of_context(Policy(sticky="ann"), None)
            thread = first.submit(threading.current_thread).result(SECONDS)
            assert second.submit(threading.current_thread).result(SECONDS) is thread
            reference = weakref.ref(first)
            del first
            assert until_gone(reference)
            assert len(pool.in_use) == 1
            assert second.submit(threading.current_thread).result(SECONDS) is thread
            reference = weakref.ref(second)
            del second
            assert until_gone(reference)
            assert sticky._shares == {}
            async with context("bob"):
                await current_thread()

        run(main)

    def test_while_it_waits(self):
        async def main():
            set_policy(Policy(limit=1))
            async with Insider("somebody else"):
                executor = sticky.executor_of_context(Policy(sticky="ann"), None)
                future = executor.submit(int)
                del executor
                gc.collect()
                assert len(pool.waiting) == 1  # somebody may wait for the future
                del future
                gc.collect()
                assert not pool.waiting
                assert len(sticky._shares) == 1

        run(main)

    def test_with_its_loop(self):
        """A task that waits for a worker, and is dropped."""

        async def wait():
            SyncToAsync.thread_sensitive_context.set(context())
            await current_thread()

        def wait_and_close():
            loop = asyncio.new_event_loop()
            task = loop.create_task(wait())
            while not pool.waiting:
                loop.call_soon(loop.stop)
                loop.run_forever()
            task._log_destroy_pending = False
            loop.close()

        async def main():
            set_policy(Policy(limit=1))
            async with Insider("somebody else"):
                thread = threading.Thread(target=Context().run, args=(wait_and_close,))
                thread.start()
                await asyncio.get_running_loop().run_in_executor(None, thread.join, SECONDS)
                gc.collect()
                assert not pool.waiting
                assert len(sticky._shares) == 1

        run(main)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_in_a_forked_child_nobody_is_inside(script_output):
    assert (
        script_output(
            """
            import asyncio, os, threading, warnings
            from asgibridge._workers import sticky
            from asgibridge.workers import Policy

            warnings.simplefilter("ignore", DeprecationWarning)  # of a fork with threads
            policy = Policy(sticky="ann", kind="keep")
            mine = sticky.executor_of_context(policy, None)
            other = sticky.executor_of_context(policy, None)
            theirs = mine.submit(threading.get_native_id).result()
            child = os.fork()
            if child == 0:
                assert sticky._shares == {}
                new = sticky.executor_of_context(policy, None)
                first = new.submit(os.getpid).result()
                assert first == os.getpid()
                ids = {each.submit(threading.get_ident).result() for each in (mine, other, new)}
                assert len(ids) == 1  # they are together again
                for each in (mine, other, new):
                    each.shutdown()
                assert sticky._shares == {}
                print("child", flush=True)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            assert other.submit(threading.get_native_id).result() == theirs
            """
        )
        == "child"
    )


class TestPolicy:
    def test_is_a_contexts_alone(self):
        with pytest.raises(ValueError, match="sticky is a context's alone: give that policy to"):
            set_policy(Policy(sticky="ann"))

    def test_key(self):
        assert repr(Policy(kind="keep", sticky="ann")) == "Policy(kind='keep', sticky='ann')"
        assert Policy(sticky=(1, "a")) == Policy(sticky=(1, "a"))
        assert Policy(sticky="a") != Policy(sticky="b")
        assert Policy(sticky=0).sticky == 0
        with pytest.raises(TypeError, match="sticky must be hashable, like the id of a user"):
            Policy(sticky=[])

    def test_a_key_that_is_false_is_one(self):
        async def main():
            async with Insider(0) as first, Insider(0) as second:
                assert first.thread is second.thread

        run(main)

    def test_a_key_whose_comparison_fails(self):
        class Key:
            def __hash__(self):
                return 7

            def __eq__(self, other):
                raise LookupError("no such row")

        async def main():
            async with Insider(7) as insider:
                async with context(Key()):
                    with pytest.raises(LookupError, match="no such row"):
                        await current_thread()
                assert await insider.do(current_thread) is insider.thread

        run(main)

    def test_a_key_whose_comparison_uses_contexts(self):
        """It runs with no lock of ours held: another thread may do the same meanwhile."""

        class Key:
            def __init__(self, name):
                self.name = name

            def __hash__(self):
                return 7

            def __eq__(self, other):
                def elsewhere():
                    async def main():
                        async with context(8):
                            await current_thread()

                    Context().run(run, main)

                thread = threading.Thread(target=elsewhere)
                thread.start()
                thread.join(SECONDS)
                assert not thread.is_alive()
                return isinstance(other, Key) and self.name == other.name

        async def main():
            async with Insider(Key("a")) as one, Insider(Key("b")) as other, Insider(7):
                assert one.thread is not other.thread
                async with Insider(Key("a")) as same:
                    assert one.thread is same.thread

        run(main)

    def test_another_comes_while_a_key_is_compared(self):
        """The share that was made in vain is dropped in the search that follows."""

        class Key:
            def __init__(self, others):
                self.others = others

            def __hash__(self):
                return 7

            def __eq__(self, other):
                if self.others:  # this one joins between the look and the lock
                    joined.append(lease_of(self.others.pop()))
                return False

        def lease_of(key):
            return sticky.StickyLease(pool.family, key, None, None, None, None)

        joined = [lease_of(Key([Key([])]))]
        joined.append(lease_of(Key([])))
        assert len({each._share for each in joined}) == 3


@pytest.mark.timeout(20)
class TestRings:
    """Without a time-out around them: it would break the ring."""

    def test_of_a_task_that_is_waited_for_on_the_shared_worker(self):
        async def needs_it():
            async with context():
                return await current_thread()

        async def main():
            async def inner():
                return await Context().run(asyncio.ensure_future, needs_it())

            async with context():
                with pytest.raises(RuntimeError, match="would deadlock"):
                    await sync_to_async(async_to_sync(inner))()
                assert await current_thread()

        asyncio.run(main())

    def test_at_the_limit_if_all_who_are_inside_wait(self, monkeypatch):
        monkeypatch.setattr(deadlocks, "LOOK_EVERY", 0.02)

        async def wants_one():
            async with context("bob"):
                return await current_thread()

        async def main():
            set_policy(Policy(limit=1))
            wanting = []

            async def wait():
                return await wanting[0]

            async with Insider() as first, Insider() as second:
                wanting.append(Context().run(asyncio.ensure_future, wants_one()))
                await until(lambda: pool.waiting)
                waits = [first.do(wait), second.do(wait)]
                with pytest.raises(RuntimeError, match="would deadlock: its context needs one of"):
                    await wanting[0]
                outcomes = await asyncio.gather(*waits, return_exceptions=True)
                assert [type(each) for each in outcomes] == [RuntimeError] * 2

        asyncio.run(main())

    def test_at_the_limit_if_one_of_them_may_go_on(self):
        """It is inside and idles: whether its worker is given back, nobody can know."""

        async def wants_one():
            async with context("bob"):
                return await current_thread()

        async def main():
            set_policy(Policy(limit=1))
            wanting = []

            async def wait():
                return await wanting[0]

            async with Insider() as first, Insider() as second:
                wanting.append(Context().run(asyncio.ensure_future, wants_one()))
                await until(lambda: pool.waiting)
                waiting = first.do(wait)
                for _ in range(5):
                    await asyncio.sleep(0)
                wait_for_worker = wanting[0].asgibridge_wait
                assert deadlocks.chain(None, wait=wait_for_worker) is None
                assert wait_for_worker.owners() == [[first.task], [second.task]]
                wanting[0].cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting

        run(main)

    def test_who_is_leaving_is_not_waited_for(self):
        begun, go_on = threading.Event(), threading.Event()

        def work():
            begun.set()
            assert go_on.wait(SECONDS)

        async def main():
            set_policy(Policy(limit=1))
            async with Insider() as stays, Insider() as goes:
                entered = executor_of(goes.context)
                assert entered.task() is goes.task
                busy = goes.do(sync_to_async(work))
                await until(begun.is_set)
                leaving = asyncio.ensure_future(asyncio.to_thread(entered.shutdown))
                await until(lambda: entered.task() is None)
                assert pool.borrowers() != [stays.task, goes.task]
                go_on.set()
                await busy
                await leaving
                assert pool.borrowers() == [stays.task]

        run(main)
