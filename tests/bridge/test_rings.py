"""Rings through what calls share: tokens, workers at the limit, the thread of a context.

A call in such a ring raises, and none does that can run after all. What never runs is a hang
without the detection: each test runs with a time limit of its own.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from asgibridge import workers
from asgibridge._waits import deadlocks
from asgibridge._workers.pool import pool
from asgibridge.iterators import async_to_sync_iterator, sync_to_async_iterator
from asgibridge.limiters import CapacityLimiter
from asgibridge.sync import SyncToAsync, ThreadSensitiveContext, async_to_sync, sync_to_async

pytestmark = [
    pytest.mark.timeout(20),
    pytest.mark.thread_unsafe(reason="there is one search at a time, and one policy"),
]

LIMIT = 10
thread = sync_to_async(threading.current_thread)


def run(coroutine):
    """Run in a thread of its own, so that no state of the test's thread plays a part."""
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(asyncio.run, coroutine).result()


def elsewhere(coroutine):
    """A task that inherits nothing: neither a frame that serves it nor a context."""
    return contextvars.Context().run(asyncio.ensure_future, coroutine)


def in_worker(coroutine_function):
    return sync_to_async(async_to_sync(coroutine_function))()


def limited(function, limiter, **options):
    return sync_to_async(function, thread_sensitive=False, limiter=limiter, **options)()


def holding(coroutine_function, limiter, **options):
    """A call that has a token while the coroutine runs."""
    return limited(async_to_sync(coroutine_function), limiter, **options)


async def in_line(limiter, n=1):
    """When so many wait for a token."""
    while limiter.statistics().tasks_waiting < n:
        await asyncio.sleep(0.001)


async def turns(n=5):
    for _ in range(n):
        await asyncio.sleep(0)


def waits_of(*tasks):
    """What these tasks wait for, that others have to give back."""
    waits = [getattr(task, "asgibridge_wait", None) for task in tasks]
    return [wait for wait in waits if wait is not None]


def search():
    """As it is looked for by who waits for long; of all tasks of this loop that do."""
    waits = waits_of(*asyncio.all_tasks())
    assert waits
    for wait in waits:
        assert deadlocks.chain(None, wait=wait) is None
    return True


def count(outcomes):
    """How many have raised that they would deadlock, if none has raised anything else."""
    errors = [each for each in outcomes if isinstance(each, BaseException)]
    assert [type(error) for error in errors] == [RuntimeError] * len(errors)
    assert all("would deadlock" in str(error) for error in errors)
    return len(errors)


@pytest.fixture
def policy():
    """`workers.set_policy`, taken back at the end."""
    old = workers.get_policy()
    yield workers.set_policy
    workers.set_policy(old)
    workers.end_idle_workers()


@pytest.fixture
def no_proof(monkeypatch):
    """Nor may one be found by a search that happens to come a moment sooner or later."""
    found = []
    chain = deadlocks.chain

    def noting(*args, **kwargs):
        why = chain(*args, **kwargs)
        found.append(why)
        return why

    monkeypatch.setattr(deadlocks, "chain", noting)
    yield found
    assert [why for why in found if why is not None] == []


@pytest.fixture
def no_look(monkeypatch):
    """Only who begins to wait may find it, at once."""
    monkeypatch.setattr(deadlocks, "look_for_ring", lambda *args: None)
    monkeypatch.setattr(deadlocks, "look_for_ring_from", lambda *args: None)


@pytest.fixture
def often(monkeypatch):
    """Who waits for a worker looks more often."""
    monkeypatch.setattr(deadlocks, "LOOK_EVERY", 0.02)


class TestTokens:
    @pytest.mark.parametrize("way", ["pool", "executor", "new loop", "thread name"])
    def test_the_only_one(self, no_look, way):
        limiter = CapacityLimiter(1)

        async def inner():
            return await limited(threading.current_thread, limiter)

        async def main():
            if way == "new loop":
                return await limited(async_to_sync(inner, force_new_loop=True), limiter)
            if way == "thread name":
                return await holding(inner, limiter, thread_name="named")
            if way == "executor":
                with ThreadPoolExecutor(1) as executor:
                    return await holding(inner, limiter, executor=executor)
            return await holding(inner, limiter)

        for _ in range(2):
            with pytest.raises(RuntimeError, match=r"would deadlock: .*token.*inner .*in thread '"):
                run(main())
            assert limiter.borrowed_tokens == 0
            assert run(limited(int, limiter)) == 0

    def test_a_task_that_borrows_by_hand(self, no_look):
        limiter = CapacityLimiter(1)

        async def inner():
            async with limiter:
                return "never"

        with pytest.raises(RuntimeError, match="would deadlock"):
            run(holding(inner, limiter))
        assert limiter.borrowed_tokens == 0

    @pytest.mark.parametrize("tokens", [2, 5])
    def test_all_of_them(self, no_look, tokens):
        """The last one that waits raises, gives its own back, and all others go on."""
        limiter = CapacityLimiter(tokens)

        async def main():
            all_hold, owners = asyncio.Event(), []

            async def inner():
                owners.append(1)
                if len(owners) == tokens:
                    all_hold.set()
                await all_hold.wait()
                return await limited(int, limiter)

            calls = [holding(inner, limiter) for _ in range(tokens)]
            return await asyncio.gather(*calls, return_exceptions=True)

        assert count(run(main())) == 1
        assert limiter.borrowed_tokens == 0

    def test_of_two_limiters(self, no_look):
        first, second = CapacityLimiter(1), CapacityLimiter(1)

        async def main():
            both = []

            async def hold(other):
                both.append(1)
                while len(both) < 2:
                    await asyncio.sleep(0)
                return await limited(int, other)

            return await asyncio.gather(
                holding(partial(hold, second), first),
                holding(partial(hold, first), second),
                return_exceptions=True,
            )

        assert count(run(main())) == 1

    def test_by_way_of_a_thread(self, no_look):
        """Who has it waits for the process's thread, and what is there for a token."""
        limiter = CapacityLimiter(1)

        async def main():
            queued = asyncio.Event()

            async def in_thread():
                await queued.wait()
                return await limited(int, limiter)

            async def with_token():
                task = elsewhere(thread())
                await turns()
                queued.set()
                return await task

            in_its_thread = asyncio.ensure_future(in_worker(in_thread))
            await turns()
            return await asyncio.gather(
                in_its_thread, holding(with_token, limiter), return_exceptions=True
            )

        assert count(run(main())) == 1

    def test_a_call_for_a_thread_that_waits_for_a_token(self, no_look):
        """The same, and the call that is posted is the last."""
        limiter = CapacityLimiter(1)

        async def main():
            go = asyncio.Event()

            async def in_thread():
                return await limited(int, limiter)

            async def with_token():
                go.set()
                await in_line(limiter)
                return await elsewhere(thread())

            with_it = asyncio.ensure_future(holding(with_token, limiter))
            await go.wait()
            return await asyncio.gather(in_worker(in_thread), with_it, return_exceptions=True)

        assert count(run(main())) == 1

    @pytest.mark.parametrize("way", ["pool", "executor"])
    def test_a_task_that_is_waited_for_later(self, way):
        """The last link is none of ours: the thread that has the token finds it."""
        limiter = CapacityLimiter(1)

        async def main():
            tasks = []

            async def inner():
                await in_line(limiter)
                return await tasks[0]

            with ThreadPoolExecutor(1) as executor:
                options = {"executor": executor} if way == "executor" else {}
                has_it = asyncio.ensure_future(holding(inner, limiter, **options))
                while not limiter.borrowed_tokens:
                    await asyncio.sleep(0)
                tasks.append(asyncio.ensure_future(limited(int, limiter)))
                return await asyncio.gather(has_it, *tasks, return_exceptions=True)

        assert count(run(main())) == 2
        assert limiter.borrowed_tokens == 0

    def test_who_waits_behind_a_ring_goes_on_when_it_is_broken(self):
        limiter = CapacityLimiter(1)

        async def main():
            tasks = []

            async def inner():
                await in_line(limiter, 3)
                return await tasks[1]

            has_it = asyncio.ensure_future(holding(inner, limiter))
            while not limiter.borrowed_tokens:
                await asyncio.sleep(0)
            tasks.extend(asyncio.ensure_future(limited(int, limiter)) for _ in range(3))
            return await asyncio.gather(has_it, *tasks, return_exceptions=True)

        outcomes = run(main())
        assert count(outcomes) == 2
        assert outcomes[1] == outcomes[3] == 0

    def test_gathered(self, no_look):
        limiter = CapacityLimiter(1)

        async def main():
            async def inner():
                return await asyncio.gather(*[limited(int, limiter) for _ in range(3)])

            return await holding(inner, limiter)

        with pytest.raises(RuntimeError, match="would deadlock"):
            run(main())

    def test_a_time_out_further_out(self, no_look):
        limiter = CapacityLimiter(1)

        async def inner():
            return await limited(int, limiter)

        with pytest.raises(RuntimeError, match="would deadlock"):
            run(asyncio.wait_for(holding(inner, limiter), LIMIT))

    def test_a_call_that_goes_on_unheard(self, no_look):
        """Its task was cancelled, and its coroutine has survived that: it has its token still."""
        limiter = CapacityLimiter(1)

        async def main():
            begun = asyncio.Event()

            async def inner():
                begun.set()
                try:
                    await asyncio.sleep(30)
                except asyncio.CancelledError:
                    return await limited(int, limiter)

            task = asyncio.ensure_future(holding(inner, limiter))
            await begun.wait()
            task.cancel()
            return await task

        with pytest.raises(RuntimeError, match="would deadlock"):
            run(main())


class TestTokensThatComeBack:
    """None of these is a deadlock, though most of the chain is there."""

    pytestmark = pytest.mark.usefixtures("no_proof")

    @staticmethod
    async def with_another_holder(limiter, blocker, let_go):
        """One token's call waits for the other; `holder` has that, and gives it back later."""
        begun = asyncio.Event()

        async def inner():
            begun.set()
            return await limited(lambda: "ran", limiter)

        other = asyncio.ensure_future(blocker())
        while limiter.borrowed_tokens < 1:
            await asyncio.sleep(0.001)
        first = asyncio.ensure_future(holding(inner, limiter))
        await begun.wait()
        await in_line(limiter)
        assert search()
        let_go()
        return await asyncio.gather(first, other)

    def test_of_a_thread_in_foreign_code(self):
        event = threading.Event()
        limiter = CapacityLimiter(2)
        blocker = partial(limited, partial(event.wait, LIMIT), limiter)
        assert run(self.with_another_holder(limiter, blocker, event.set)) == ["ran", True]

    def test_of_a_thread_that_has_borrowed_by_hand(self):
        event = threading.Event()
        limiter = CapacityLimiter(2)

        def work():
            with limiter:
                return event.wait(LIMIT)

        async def blocker():
            return await asyncio.get_running_loop().run_in_executor(None, work)

        assert run(self.with_another_holder(limiter, blocker, event.set)) == ["ran", True]

    @pytest.mark.parametrize("by_hand", [True, False])
    def test_of_a_task_that_waits_for_an_event(self, by_hand):
        async def main():
            event = asyncio.Event()
            limiter = CapacityLimiter(2)

            async def blocker():
                if not by_hand:
                    return await holding(event.wait, limiter)
                async with limiter:
                    return await event.wait()

            return await self.with_another_holder(limiter, blocker, event.set)

        assert run(main()) == ["ran", True]

    def test_on_behalf_of_something(self):
        limiter = CapacityLimiter(2)

        async def blocker():
            await limiter.acquire_on_behalf_of("something")

        release = partial(limiter.release_on_behalf_of, "something")
        assert run(self.with_another_holder(limiter, blocker, release)) == ["ran", None]

    def test_by_a_task_that_has_borrowed_by_hand_and_waits_in_the_chain(self):
        """Who has entered it by hand may leave it by hand, from wherever."""
        limiter = CapacityLimiter(1)

        async def main():
            async def inner():
                return await limited(lambda: "ran", limiter)

            def release():
                limiter.release_on_behalf_of(task)

            task = asyncio.current_task()
            await limiter.acquire()
            waiting = asyncio.ensure_future(in_worker(inner))
            await in_line(limiter)
            asyncio.get_running_loop().call_later(0.05, release)
            return await waiting

        assert run(main()) == "ran"

    def test_gathered_with_one_that_is_free(self):
        limiter = CapacityLimiter(1)

        async def main():
            async def fails():
                await in_line(limiter)
                raise ValueError("enough")

            async def inner():
                await asyncio.gather(fails(), limited(int, limiter))

            with pytest.raises(ValueError, match="enough"):
                await holding(inner, limiter)
            return await limited(lambda: "ran", limiter)

        assert run(main()) == "ran"

    @pytest.mark.parametrize("way", ["wait_for", "timeout", "call_later"])
    def test_a_time_out_of_the_task_that_waits(self, way):
        limiter = CapacityLimiter(1)
        if way == "timeout" and sys.version_info < (3, 11):
            pytest.skip("asyncio.timeout is of Python 3.11")

        async def main():
            async def inner():
                try:
                    if way == "wait_for":
                        return await asyncio.wait_for(limited(int, limiter), 0.05)
                    if way == "timeout":
                        async with asyncio.timeout(0.05):
                            return await limited(int, limiter)
                    asyncio.get_running_loop().call_later(0.05, asyncio.current_task().cancel)
                    return await limited(int, limiter)
                except (asyncio.TimeoutError, asyncio.CancelledError):
                    return "gave up"

            return await holding(inner, limiter)

        assert run(main()) == "gave up"
        assert limiter.borrowed_tokens == 0

    def test_a_time_out_further_in_the_ring(self):
        """Not of the task that waits for the token, but of one that waits for that."""
        limiter = CapacityLimiter(1)

        async def main():
            async def outer():
                asyncio.get_running_loop().call_later(0.01, search)
                task = asyncio.ensure_future(limited(int, limiter))
                try:
                    if sys.version_info < (3, 11):
                        await asyncio.wait_for(task, 0.05)
                    else:
                        async with asyncio.timeout(0.05):
                            await task
                except asyncio.TimeoutError:
                    return "gave up"

            return await holding(outer, limiter)

        assert run(main()) == "gave up"

    def test_that_is_kept_already_for_who_waits(self):
        """It was given back a moment ago, and its loop has not come to that yet; and then there
        were fewer."""
        limiter = CapacityLimiter(2)

        async def main():
            begun, contexts = asyncio.Event(), []

            async def inner():
                contexts.append(next(iter(limiter._calls.values())))
                begun.set()
                return await limited(lambda: "ran", limiter)

            def release():
                limiter.release_on_behalf_of("something")
                limiter.total_tokens = 1

            await limiter.acquire_on_behalf_of("something")
            first = asyncio.ensure_future(holding(inner, limiter))
            await begun.wait()
            await in_line(limiter)
            elsewhere = threading.Thread(target=release)
            elsewhere.start()
            elsewhere.join(LIMIT)  # and this loop with it
            assert limiter._owners() is not None
            assert deadlocks.chain(contexts[0]) is None
            return await first

        assert run(main()) == "ran"

    def test_more_of_them_while_it_is_looked_for(self, monkeypatch):
        limiter = CapacityLimiter(1)

        def instead(*_args, **_options):
            limiter.total_tokens = 2
            return False

        async def main():
            async def inner():
                return await limited(lambda: "ran", limiter)

            monkeypatch.setattr(deadlocks, "has_time_out", instead)
            return await holding(inner, limiter)

        assert run(main()) == "ran"

    def test_a_limiter_without_any(self):
        """Nobody has one: who waits, waits for them to become more."""
        limiter = CapacityLimiter(0)

        async def main():
            async def inner():
                return await limited(lambda: "ran", limiter)

            waiting = asyncio.ensure_future(in_worker(inner))
            await in_line(limiter)
            assert search()
            limiter.total_tokens = 1
            return await waiting

        assert run(main()) == "ran"


class TestEndedWaits:
    """What becomes of a wait that is ended from outside."""

    @staticmethod
    async def ended(limiter, then):
        """A wait for a token that is ended, and `then` happens before its task comes to that."""
        task = asyncio.ensure_future(limited(lambda: "ran", limiter))
        await in_line(limiter)
        wait = task.asgibridge_wait
        wait.end(RuntimeError("ended"))
        then(task)
        outcome = (await asyncio.gather(task, return_exceptions=True))[0]
        assert task.asgibridge_wait is None
        return outcome

    @staticmethod
    def borrowed():
        limiter = CapacityLimiter(1)
        limiter.acquire_on_behalf_of_nowait("something")
        return limiter

    def test_raises(self):
        limiter = self.borrowed()
        error = run(self.ended(limiter, lambda task: None))
        assert (type(error), str(error)) == (RuntimeError, "ended")
        assert limiter.statistics().tasks_waiting == 0
        limiter.release_on_behalf_of("something")
        assert run(limited(int, limiter)) == 0

    def test_has_its_token_by_then(self):
        limiter = self.borrowed()
        assert run(self.ended(limiter, lambda _: limiter.release_on_behalf_of("something"))) == (
            "ran"
        )
        assert limiter.borrowed_tokens == 0

    def test_is_cancelled_by_then(self):
        limiter = self.borrowed()
        error = run(self.ended(limiter, lambda task: task.cancel()))
        assert isinstance(error, asyncio.CancelledError)
        assert limiter.statistics().tasks_waiting == 0

    def test_a_ring_that_is_gone_when_its_loop_comes_to_it(self, monkeypatch):
        """Found by a thread, and then there is another token, for somebody else that waits."""
        limiter = CapacityLimiter(1)
        event, breaks = threading.Event(), []

        async def main():
            tasks = []

            async def inner():
                await in_line(limiter, 2)
                return await tasks[1]

            def late(wait):
                breaks.append(wait)
                limiter.total_tokens = 2
                wait.loop.call_soon_threadsafe(wait.loop.call_later, 0.05, event.set)
                return break_at(wait)

            break_at = deadlocks._break_at
            monkeypatch.setattr(deadlocks, "_break_at", late)
            has_it = asyncio.ensure_future(holding(inner, limiter))
            while not limiter.borrowed_tokens:
                await asyncio.sleep(0)
            for function in (partial(event.wait, LIMIT), lambda: "ran"):
                tasks.append(asyncio.ensure_future(limited(function, limiter)))
            return await asyncio.gather(has_it, *tasks)

        assert run(main()) == ["ran", True, "ran"]
        assert len(breaks) == 1


@pytest.mark.parametrize("way", ["call_soon", "call_later", "call_soon with it"])
def test_a_timer_that_is_about_a_task(way):
    async def main():
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert not deadlocks.has_time_out([task])
        if way == "call_later":
            handle = loop.call_later(60, task.cancel)
        elif way == "call_soon":
            handle = loop.call_soon(task.cancel)
        else:
            handle = loop.call_soon(print, task)
        found = deadlocks.has_time_out([task])
        handle.cancel()
        return found, deadlocks.has_time_out([task])

    assert run(main()) == (True, False)


def test_timers_of_lazy_objects_run_no_code_of_theirs():
    """Not on another thread, and with our lock held."""
    ran = []

    class Lazy:
        __slots__ = ("_task", "task")

        def __getattr__(self, name):
            ran.append(name)
            raise AttributeError(name)

        @property
        def _host_task(self):
            ran.append("_host_task")

        def tick(self):
            pass

        def __call__(self):
            pass

    async def main():
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        empty, full, later = Lazy(), Lazy(), loop.call_later
        handles = [later(60, empty.tick), later(60, empty), later(60, partial(empty))]
        found = deadlocks.has_time_out([task])
        full._task = task
        handles.append(later(60, full.tick))  # as `asyncio.timeout`'s, or async_timeout's
        found = found, deadlocks.has_time_out([task])
        for handle in handles:
            handle.cancel()
        return found

    assert run(main()) == (False, True)
    assert ran == []


KINDS = {
    "fresh": workers.Policy(limit=1),
    "keep": workers.Policy(kind="keep", limit=1, release_idle=None),
    "hooks": workers.Policy(before_lease=id, limit=1),
}


class TestWorkers:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("way", ["task", "worker"])
    def test_a_task_with_a_context_of_its_own(self, policy, no_look, kind, way):
        """It is waited for inside the context that has the only worker."""
        policy(KINDS[kind])

        async def in_its_own():
            await turns()
            async with ThreadSensitiveContext():
                return await thread()

        async def waits():
            return await elsewhere(in_its_own())

        async def main():
            async with ThreadSensitiveContext():
                await thread()
                with pytest.raises(RuntimeError, match=r"would deadlock: .*one of 1 workers"):
                    await (waits() if way == "task" else in_worker(waits))
                return await thread()
            return None

        assert run(main()) is not None
        assert pool.in_use == set()

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_task_that_is_waited_for_later(self, policy, often, kind):
        """No thread is a part of the ring."""
        policy(KINDS[kind])

        async def main():
            begun = asyncio.Event()

            async def in_its_own():
                await begun.wait()
                async with ThreadSensitiveContext():
                    return await thread()

            task = asyncio.ensure_future(in_its_own())
            async with ThreadSensitiveContext():
                await thread()
                begun.set()
                await turns()
                with pytest.raises(RuntimeError, match="would deadlock"):
                    await task
                return await thread()
            return None

        assert run(main()) is not None

    def test_by_way_of_an_iterator(self, policy, often):
        """Who takes its items waits for a future, and the call that sets it for a worker."""
        policy(workers.Policy(kind="keep", limit=1, release_idle=None))

        async def in_its_own():
            async with ThreadSensitiveContext():
                return [number async for number in sync_to_async_iterator(range(3))]

        async def main():
            async with ThreadSensitiveContext():
                await thread()
                with pytest.raises(RuntimeError, match="would deadlock"):
                    await elsewhere(in_its_own())
                return await thread()

        assert run(main()) is not None

    def test_two_workers(self, policy, no_look):
        policy(workers.Policy(kind="keep", limit=2, release_idle=None))

        async def main():
            both = []

            async def in_its_own():
                both.append(1)
                while len(both) < 2:
                    await asyncio.sleep(0)
                await turns()
                async with ThreadSensitiveContext():
                    return await thread()

            async def outer():
                async with ThreadSensitiveContext():
                    await thread()
                    return await elsewhere(in_its_own())

            tasks = [asyncio.ensure_future(outer()) for _ in range(2)]
            return await asyncio.gather(*tasks, return_exceptions=True)

        assert count(run(main())) == 1

    def test_a_token_and_a_worker(self, policy, no_look):
        policy(workers.Policy(kind="keep", limit=1, release_idle=None))
        limiter = CapacityLimiter(1)

        async def main():
            begun = asyncio.Event()

            async def in_its_own():
                async with ThreadSensitiveContext():
                    begun.set()
                    return await thread()

            async def has_token():
                return await elsewhere(in_its_own())

            async with ThreadSensitiveContext():
                await thread()
                other = elsewhere(holding(has_token, limiter))
                await begun.wait()
                await turns()
                # This task is inside, and waits for a token; who has that, for a worker.
                outcomes = await asyncio.gather(
                    asyncio.ensure_future(limited(int, limiter)), return_exceptions=True
                )
            return await asyncio.gather(other, return_exceptions=True), outcomes

        (other, mine) = run(main())
        assert count([*other, *mine]) == 1

    def test_a_call_that_has_its_worker_by_now(self, policy, no_look):
        """It is in the middle of something on its thread, as any other."""
        policy(workers.Policy(kind="keep", limit=1, release_idle=None))

        async def main():
            release, queued = asyncio.Event(), asyncio.Event()

            async def inner():
                await queued.wait()
                return await elsewhere(thread())

            async def had_to_wait():
                async with ThreadSensitiveContext():
                    return await in_worker(inner)

            async def in_process_thread():
                asyncio.get_running_loop().call_soon(queued.set)
                return await task

            async def has_it():
                async with ThreadSensitiveContext():
                    await thread()
                    await release.wait()

            first = elsewhere(has_it())
            while not pool.in_use:
                await asyncio.sleep(0)
            task = elsewhere(had_to_wait())
            while not pool.waiting:
                await asyncio.sleep(0)
            release.set()
            await first
            return await asyncio.gather(
                elsewhere(in_worker(in_process_thread)), task, return_exceptions=True
            )

        assert count(run(main())) == 2


def later(function, *args):
    """When it has been looked for a deadlock, and none was found."""
    loop = asyncio.get_running_loop()
    loop.call_later(0.05, lambda: search() and function(*args))


class TestWorkersThatComeFree:
    pytestmark = pytest.mark.usefixtures("no_proof", "often")

    @staticmethod
    async def beside(has_it, let_go):
        """What is in one context waits for a task with its own; `has_it` has the other worker."""

        async def in_its_own():
            async with ThreadSensitiveContext():
                return await thread()

        async def outer():
            async with ThreadSensitiveContext():
                await thread()
                task = elsewhere(in_its_own())
                await turns()
                later(let_go)
                return await task

        other = elsewhere(has_it())
        while not pool.in_use:
            await asyncio.sleep(0.001)
        return await asyncio.gather(outer(), other)

    @pytest.mark.parametrize("where", ["task", "thread"])
    def test_of_a_context_that_is_left_later(self, policy, where):
        policy(workers.Policy(kind="keep", limit=2, release_idle=None))
        event = threading.Event()

        async def main():
            async def has_it():
                async with ThreadSensitiveContext():
                    await thread()
                    if where == "thread":
                        await sync_to_async(event.wait)(LIMIT)
                    while not event.is_set():
                        await asyncio.sleep(0.01)

            return await self.beside(has_it, event.set)

        assert None not in run(main())[:1]

    def test_of_a_context_that_was_left_while_its_worker_is_busy(self, policy):
        """The task that has left it waits itself, but not inside."""
        policy(workers.Policy(kind="keep", limit=1, release_idle=None))
        event = threading.Event()

        async def main():
            async def in_its_own():
                async with ThreadSensitiveContext():
                    return await thread()

            async def leaves():
                async with ThreadSensitiveContext():
                    busy = asyncio.ensure_future(sync_to_async(event.wait)(LIMIT))
                    await turns()
                    asyncio.current_task().cancel()  # it does not wait for that
                    try:
                        await asyncio.sleep(LIMIT)
                    except asyncio.CancelledError:
                        pass
                    asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)
                return busy

            async def outer():
                try:
                    await leaves()
                except asyncio.CancelledError:
                    pass
                task = elsewhere(in_its_own())
                await turns()
                later(event.set)
                return await task

            return await elsewhere(outer())

        assert run(main()) is not None

    def test_of_a_context_that_was_entered_before_there_was_a_limit(self, policy):
        """Who is inside is not known."""

        async def main():
            async def in_its_own():
                async with ThreadSensitiveContext():
                    return await thread()

            async with ThreadSensitiveContext():
                policy(workers.Policy(kind="keep", limit=1, release_idle=None))
                await thread()
                task = elsewhere(in_its_own())
                later(policy, workers.Policy(kind="keep", limit=2, release_idle=None))
                return await task

        assert run(main()) is not None

    def test_with_a_wait_timeout(self, policy):
        """The wait ends by itself, and says what is going on."""
        policy(workers.Policy(kind="keep", limit=1, wait_timeout=0.05, release_idle=None))

        async def main():
            async def in_its_own():
                async with ThreadSensitiveContext():
                    return await thread()

            async with ThreadSensitiveContext():
                await thread()
                with pytest.raises(workers.LimitReached):
                    await elsewhere(in_its_own())

        run(main())

    def test_a_time_out_of_who_is_inside(self, policy):
        policy(workers.Policy(kind="keep", limit=1, release_idle=None))

        async def main():
            async def in_its_own():
                async with ThreadSensitiveContext():
                    return await thread()

            async with ThreadSensitiveContext():
                await thread()
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(elsewhere(in_its_own()), 0.1)
                return "left"

        assert run(main()) == "left"


class TestWorkersThatAreReleased:
    """Who idles gives it back: that is no ring. Who is bound, or in a call, does not."""

    @staticmethod
    async def in_its_own():
        async with ThreadSensitiveContext():
            return await thread()

    @pytest.fixture
    def released(self, policy):
        def set_policy(limit=1, release_idle=0.02, **more):
            policy(workers.Policy(kind="keep", limit=limit, release_idle=release_idle, **more))

        set_policy()
        return set_policy

    @pytest.mark.parametrize("contexts", [1, 2])
    def test_a_ring_of_idle_contexts_dissolves(self, released, no_proof, often, contexts):
        released(limit=contexts)

        async def main():
            all_have_one, having = asyncio.Event(), []

            async def outer():
                async with ThreadSensitiveContext():
                    having.append(await thread())
                    if len(having) == contexts:
                        all_have_one.set()
                    await all_have_one.wait()
                    return await elsewhere(self.in_its_own()), await thread()

            return await asyncio.gather(*(elsewhere(outer()) for _ in range(contexts)))

        assert len({each for pair in run(main()) for each in pair}) <= contexts

    def test_in_the_middle_of_a_call(self, released, no_look):
        async def waits():
            return await elsewhere(self.in_its_own())

        async def main():
            async with ThreadSensitiveContext():
                with pytest.raises(RuntimeError, match="would deadlock"):
                    await in_worker(waits)
                return await thread()

        assert run(main()) is not None

    def test_bound_by_who_waits(self, released, no_look):
        released(release_idle=LIMIT)  # or its worker may be looking at it this moment

        async def main():
            async with ThreadSensitiveContext():
                with workers.bind():
                    await thread()
                    with pytest.raises(RuntimeError, match="would deadlock"):
                        await elsewhere(self.in_its_own())
                    return await thread()

        assert run(main()) is not None

    def test_bound_by_nobody_that_is_known(self, released, often):
        """It is found as soon as it is known to be bound."""
        released(may_release=lambda _worker: False)

        async def main():
            async with ThreadSensitiveContext():
                await thread()
                with pytest.raises(RuntimeError, match="would deadlock"):
                    await elsewhere(self.in_its_own())
                return await thread()

        assert run(main()) is not None

    def test_bound_by_a_task_that_lets_go(self, released, no_proof, often):
        async def main():
            bound, let_go = asyncio.Event(), asyncio.Event()

            async def binds():
                with workers.bind():
                    await thread()
                    bound.set()
                    await let_go.wait()

            async with ThreadSensitiveContext():
                binding = asyncio.ensure_future(binds())
                await bound.wait()
                waiting = elsewhere(self.in_its_own())
                await turns()
                later(let_go.set)
                await waiting
                await binding
                return await thread()

        assert run(main()) is not None

    def test_in_the_middle_of_a_call_that_ends(self, released, no_proof, often):
        event = threading.Event()

        async def main():
            async with ThreadSensitiveContext():
                await thread()
                busy = asyncio.ensure_future(sync_to_async(event.wait)(LIMIT))
                await turns()
                waiting = elsewhere(self.in_its_own())
                await turns()
                later(event.set)
                await waiting
                await busy
                return await thread()

        assert run(main()) is not None

    def test_whose_next_call_waits_for_who_has_it_now(self, released, often):
        """It gave its worker to a context that keeps it, and waits for it."""

        async def main():
            idle, has_it = asyncio.Event(), asyncio.Event()

            async def gives():
                async with ThreadSensitiveContext():
                    await thread()
                    idle.set()
                    await has_it.wait()
                    return await thread()

            async def takes(task):
                async with ThreadSensitiveContext():
                    with workers.bind():
                        await thread()
                        has_it.set()
                        return await task

            task = elsewhere(gives())
            await idle.wait()
            return await asyncio.gather(elsewhere(takes(task)), task, return_exceptions=True)

        assert count(run(main())) == 2


class TestLeaving:
    """A task that leaves a context waits for its thread, and that for the task."""

    @pytest.mark.parametrize(
        "kind", ["default", *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS)]
    )
    def test_a_task_that_is_waited_for_later(self, policy, kind):
        """It stops waiting, and nobody hears of it."""
        if kind != "default":
            policy(KINDS[kind])

        async def main():
            begun, leaving, tasks = asyncio.Event(), asyncio.Event(), []

            async def inner():
                begun.set()
                await leaving.wait()
                await turns(20)
                return await tasks[0]

            async def leaves():
                async with ThreadSensitiveContext():
                    call = asyncio.ensure_future(in_worker(inner))
                    await begun.wait()
                    leaving.set()
                return "left", call

            tasks.append(asyncio.ensure_future(leaves()))
            left, call = await tasks[0]
            return left, (await call)[0]

        assert run(main()) == ("left", "left")

    def test_rather_than_that_anything_raises(self):
        """The ring goes through a call that waits for a token, too."""
        limiter = CapacityLimiter(1)

        async def main():
            begun, leaving, tasks = asyncio.Event(), asyncio.Event(), []

            async def with_token():
                await leaving.wait()
                await in_line(limiter)
                return await tasks[0]

            async def inner():
                begun.set()
                return await limited(lambda: "ran", limiter)

            async def leaves():
                async with ThreadSensitiveContext():
                    call = asyncio.ensure_future(in_worker(inner))
                    await begun.wait()
                    leaving.set()
                return call

            has_it = asyncio.ensure_future(holding(with_token, limiter))
            while not limiter.borrowed_tokens:
                await asyncio.sleep(0)
            tasks.append(asyncio.ensure_future(leaves()))
            await has_it
            return await (await tasks[0])

        assert run(main()) == "ran"

    @pytest.mark.parametrize("kind", ["default", *KINDS])
    def test_a_thread_that_has_nothing_to_do_with_the_task(self, policy, no_proof, kind):
        if kind != "default":
            policy(KINDS[kind])

        async def main():
            begun, event = asyncio.Event(), asyncio.Event()

            async def inner():
                begun.set()
                await event.wait()
                return "inner"

            async with ThreadSensitiveContext():
                call = asyncio.ensure_future(in_worker(inner))
                await begun.wait()
                later(event.set)
            assert event.is_set()
            return await call

        assert run(main()) == "inner"

    def test_a_worker_that_is_another_leases_by_now(self, policy):
        """What holds it then is nothing that the former one waits for."""
        policy(workers.Policy(kind="keep", limit=1, release_idle=None))

        async def main():
            begun, event, leases = asyncio.Event(), asyncio.Event(), []

            async def inner():
                begun.set()
                await event.wait()

            for function in (thread, partial(in_worker, inner)):
                context = ThreadSensitiveContext()
                async with context:
                    call = asyncio.ensure_future(function())
                    await turns(1)
                    leases.append(SyncToAsync.context_to_thread_executor[context])
                    if function is thread:
                        await call
                    else:  # the worker was kept
                        await begun.wait()
                        found = (
                            len(leases[0].blocked_by()),
                            [each.end_blocked_by() for each in leases],
                        )
                        event.set()
                        await call
            return found

        held, ends = run(main())
        assert held == 1
        assert ends == [None, None]


class TestPartnersOfClosedLoops:
    def test_raises_within_a_second(self, monkeypatch):
        """As `async_to_sync` does, here in the middle of an iteration."""
        loop = asyncio.new_event_loop()
        looking, outcome, futures = threading.Event(), [], []
        look = deadlocks.look_for_ring

        def noting(*args):
            looking.set()
            look(*args)

        async def numbers():
            yield 1
            futures.append(loop.create_future())
            await futures[0]
            yield 2

        def work():
            try:
                for number in async_to_sync_iterator(numbers)():
                    outcome.append(number)
            except RuntimeError as error:
                outcome.append(error)

        async def main():
            asyncio.ensure_future(sync_to_async(work)())
            await loop.run_in_executor(None, looking.wait, LIMIT)

        monkeypatch.setattr(deadlocks, "look_for_ring", noting)
        loop.run_until_complete(main())
        for task in asyncio.all_tasks(loop):
            task._log_destroy_pending = False
        loop.close()
        assert run(sync_to_async(lambda: outcome[0])()) == 1
        assert isinstance(outcome[1], RuntimeError)
        assert "loop was closed" in str(outcome[1])


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize("release_idle", [None, 0.01])
@pytest.mark.parametrize("has_rings", [False, True])
def test_random_programs(policy, often, has_rings, release_idle):
    """Where the second limiter is only wanted by who has the first, and is given back without any,
    nothing can deadlock, and nothing says so; else nothing hangs. With time-outs and by hand."""
    policy(workers.Policy(kind="keep", limit=2, release_idle=release_idle))
    first, second = CapacityLimiter(2), CapacityLimiter(2)
    rnd = random.Random(7)
    errors = []

    async def leaf():
        return await limited(lambda: threading.Event().wait(rnd.random() / 1000), second)

    async def middle():
        if rnd.random() < 0.3:
            await asyncio.gather(leaf(), leaf())
        else:
            await asyncio.ensure_future(leaf())

    async def again():
        try:
            await asyncio.sleep(0)
            await limited(int, first)
        except RuntimeError as error:
            errors.append(error)

    async def in_context():
        async with ThreadSensitiveContext():
            await thread()
            if rnd.random() < 0.2:  # it idles
                await asyncio.sleep(rnd.random() / 30)
            await in_worker(middle)

    async def by_hand():
        async with first:
            await middle()

    async def program():
        kinds = [partial(holding, middle, first), in_context, by_hand]
        if has_rings:
            kinds.append(partial(holding, again, first))
        coroutine = rnd.choice(kinds)()
        try:
            if rnd.random() < 0.2:
                await asyncio.wait_for(coroutine, rnd.random() / 50)
            else:
                await coroutine
        except asyncio.TimeoutError:
            pass

    async def main():
        for _ in range(40):
            await asyncio.gather(*[elsewhere(program()) for _ in range(30)])
        while first.borrowed_tokens or second.borrowed_tokens:  # calls that go on unheard
            await asyncio.sleep(0.001)

    run(main())
    assert count(errors) == len(errors)
    assert bool(errors) == has_rings
