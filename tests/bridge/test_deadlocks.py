"""Calls that can never run raise; none that can run does; and a closed loop lets its threads go.

What never runs is a hang without the detection: each test runs with a time limit of its own.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from asgibridge import workers
from asgibridge._waits import deadlocks
from asgibridge.limiters import CapacityLimiter
from asgibridge.sync import (
    AsyncSingleThreadContext,
    SyncToAsync,
    ThreadSensitiveContext,
    async_to_sync,
    sync_to_async,
)

pytestmark = pytest.mark.timeout(20)

thread = sync_to_async(threading.current_thread)


def run(coroutine):
    """Run in a thread of its own, so that no state of the test's thread plays a part."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def elsewhere(coroutine):
    """A task that inherits nothing: neither a frame that serves it nor a context."""
    return contextvars.Context().run(asyncio.ensure_future, coroutine)


def in_worker(coroutine_function):
    return sync_to_async(async_to_sync(coroutine_function))()


def in_context(context, coroutine):
    """A task that inherits nothing but that ThreadSensitiveContext."""
    variables = contextvars.Context()
    variables.run(SyncToAsync.thread_sensitive_context.set, context)
    return variables.run(asyncio.ensure_future, coroutine)


@pytest.fixture
def policy():
    """`workers.set_policy`, taken back at the end."""
    old = workers.get_policy()
    yield workers.set_policy
    workers.set_policy(old)
    workers.end_idle_workers()


# What a context's worker is to the search: the kernel's own, and leased.
POLICIES = {"default": None, "keep": "keep", "hooks": workers.Policy(before_lease=id)}


class TestNeverRuns:
    def test_a_task_that_inherits_nothing_and_is_waited_for(self):
        """The process's thread waits for it, and it for that thread."""

        async def inner():
            await asyncio.sleep(0)
            return await elsewhere(thread())

        with pytest.raises(RuntimeError, match=r"would deadlock: .*TestNeverRuns.*inner|drive"):
            run(in_worker(inner))
        assert run(thread()) is run(thread())  # and nothing is left of it

    def test_one_of_several_that_are_gathered(self):
        async def inner():
            await asyncio.sleep(0)
            return await asyncio.gather(elsewhere(thread()), elsewhere(thread()))

        with pytest.raises(RuntimeError, match="would deadlock"):
            run(in_worker(inner))

    def test_a_task_of_the_frame_further_out(self):
        """Its call has to wait until the inner frame has ended, which waits for the task."""

        async def late(begun):
            await begun.wait()
            return await thread()

        async def outer():
            begun = asyncio.Event()
            task = asyncio.ensure_future(late(begun))

            async def inner():
                begun.set()
                return await task

            return await in_worker(inner)

        with pytest.raises(RuntimeError, match=r"late.*makes this call"):
            async_to_sync(outer)()

    def test_a_call_that_was_queued_before(self):
        """The last link is a task that begins to wait for another: the waiting thread finds it."""

        async def main():
            loop = asyncio.get_running_loop()
            begun, go, tasks = asyncio.Event(), threading.Event(), []

            async def inner():
                return await tasks[0]

            def work():
                loop.call_soon_threadsafe(begun.set)
                go.wait(10)
                return async_to_sync(inner)()

            working = asyncio.ensure_future(sync_to_async(work)())
            await begun.wait()
            tasks.append(asyncio.ensure_future(thread()))
            await asyncio.sleep(0)
            go.set()
            return await asyncio.gather(working, *tasks, return_exceptions=True)

        errors = run(main())
        assert [str(error).count("would deadlock") for error in errors] == [1, 1]

    @pytest.mark.parametrize("force_new_loop", [False, True])
    def test_a_task_that_is_waited_for_later(self, force_new_loop):
        """When its call was posted it was nobody's: the waiting thread finds it, on its own loop
        too."""

        async def main():
            async with ThreadSensitiveContext() as context:

                async def inner():
                    task = in_context(context, thread())
                    for _ in range(3):
                        await asyncio.sleep(0)
                    return await task

                return await sync_to_async(async_to_sync(inner, force_new_loop=force_new_loop))()

        with pytest.raises(RuntimeError, match="would deadlock"):
            run(main())

    @pytest.mark.parametrize("length", [2, 3])
    def test_a_ring_of_executors(self, length):
        executors = [ThreadPoolExecutor(1) for _ in range(length)]

        async def step(n):
            async with ThreadSensitiveContext(executor=executors[n % length]):
                if n == length:
                    return await thread()
                return await sync_to_async(async_to_sync(step))(n + 1)

        try:
            with pytest.raises(RuntimeError, match="would deadlock"):
                run(step(0))
            for executor in executors:
                assert executor.submit(int).result(10) == 0
        finally:
            for executor in executors:
                executor.shutdown()

    def test_two_threads_that_queue_for_each_other(self):
        """Each holds its own, and its task has to wait for the other's: one of them raises."""
        first, second = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        both = threading.Barrier(2)

        async def hold(own, other):
            async def inner():
                await asyncio.get_running_loop().run_in_executor(None, both.wait, 10)
                async with ThreadSensitiveContext(executor=other):
                    return await thread()

            async with ThreadSensitiveContext(executor=own):
                return await in_worker(inner)

        async def main():
            return await asyncio.gather(
                asyncio.ensure_future(hold(first, second)),
                asyncio.ensure_future(hold(second, first)),
                return_exceptions=True,
            )

        with first, second:
            outcomes = run(main())
        errors = [outcome for outcome in outcomes if isinstance(outcome, RuntimeError)]
        assert len(errors) == 1
        assert "would deadlock" in str(errors[0])

    @pytest.mark.parametrize("is_first", [True, False])
    @pytest.mark.parametrize("force_new_loop", [False, True])
    @pytest.mark.parametrize("kind", POLICIES)
    def test_the_worker_of_a_context(self, kind, force_new_loop, is_first):
        async def main():
            async with ThreadSensitiveContext(policy=POLICIES[kind]) as context:

                async def inner():
                    await asyncio.sleep(0)
                    return await in_context(context, thread())

                call = sync_to_async(async_to_sync(inner, force_new_loop=force_new_loop))
                if not is_first:  # which is held while a leased one's hooks are called
                    await thread()
                return await call()

        with pytest.raises(RuntimeError, match="would deadlock"):
            run(main())

    def test_by_way_of_a_thread_of_a_pool(self):
        """Its call is in the middle of something, and has ended for nobody."""

        async def second():
            await asyncio.sleep(0)
            return await elsewhere(thread())

        async def first():
            return await sync_to_async(async_to_sync(second), thread_sensitive=False)()

        with pytest.raises(RuntimeError, match="would deadlock"):
            run(in_worker(first))

    @pytest.mark.thread_unsafe(reason="there is one limiter")
    @pytest.mark.parametrize("options", [{"thread_name": "a"}, {"limiter": CapacityLimiter(1)}])
    def test_by_way_of_a_call_with_options(self, options):
        async def second():
            await asyncio.sleep(0)
            return await elsewhere(thread())

        async def first():
            call = sync_to_async(async_to_sync(second), thread_sensitive=False, **options)
            return await call()

        with pytest.raises(RuntimeError, match="would deadlock"):
            run(in_worker(first))
        limiter = options.get("limiter")
        assert limiter is None or limiter.borrowed_tokens == 0

    @pytest.mark.thread_unsafe(reason="counts the process's calls")
    def test_a_call_with_options_that_was_queued_before(self):
        async def main():
            loop = asyncio.get_running_loop()
            begun, go, tasks = asyncio.Event(), threading.Event(), []
            queued = sync_to_async(threading.current_thread, abandon_on_cancel=False)

            async def inner():
                return await tasks[0]

            def work():
                loop.call_soon_threadsafe(begun.set)
                go.wait(10)
                return async_to_sync(inner)()

            working = asyncio.ensure_future(sync_to_async(work)())
            await begun.wait()
            tasks.append(asyncio.ensure_future(queued()))
            await asyncio.sleep(0)
            go.set()
            return await asyncio.gather(working, *tasks, return_exceptions=True)

        before = workers.stats()
        errors = run(main())
        assert [str(error).count("would deadlock") for error in errors] == [1, 1]
        after = workers.stats()
        assert (after.queued, after.cancelled) == (before.queued, before.cancelled + 1)

    def test_by_way_of_a_call_whose_task_was_cancelled(self):
        """The coroutine has survived that, so its call goes on, and is waited for."""

        async def main():
            begun = asyncio.Event()

            async def inner():
                begun.set()
                try:
                    await asyncio.sleep(30)
                except asyncio.CancelledError:
                    return await elsewhere(thread())

            task = asyncio.ensure_future(in_worker(inner))
            await begun.wait()
            task.cancel()
            return await task

        with pytest.raises(RuntimeError, match="would deadlock"):
            run(main())

    def test_a_new_loop_on_the_single_thread_that_waits_for_it(self):
        async def main():
            return await sync_to_async(async_to_sync(asyncio.sleep, force_new_loop=True))(0)

        with AsyncSingleThreadContext():
            with pytest.raises(RuntimeError, match=r"force_new_loop.*would deadlock"):
                async_to_sync(main)()
            assert async_to_sync(asyncio.sleep)(0, "works") == "works"

    @pytest.mark.thread_unsafe(reason="replaces the search")
    def test_the_same_while_the_task_that_waits_is_in_the_middle_of_a_step(self, monkeypatch):
        """As it is submitted that can't be known: the waiting thread finds it."""
        searches, search = [], deadlocks.chain

        def chain(*args, **kwargs):
            searches.append(args)
            return None if len(searches) == 1 else search(*args, **kwargs)

        monkeypatch.setattr(deadlocks, "chain", chain)
        self.test_a_new_loop_on_the_single_thread_that_waits_for_it()
        assert len(searches) == 2

    @pytest.mark.parametrize("kind", POLICIES)
    def test_leaving_a_context_from_its_own_thread_does_not_wait_for_that(self, kind):
        async def main():
            context = ThreadSensitiveContext(policy=POLICIES[kind])
            await context.__aenter__()

            async def inner():
                SyncToAsync.thread_sensitive_context.set(context)
                executor = SyncToAsync.context_to_thread_executor.pop(context)
                from asgibridge._bridge.contexts import _retire

                await _retire(executor)
                return "left"

            return await in_worker(inner)

        assert run(main()) == "left"


@pytest.mark.thread_unsafe(reason="there is one search at a time")
class TestBehindARing:
    """Somebody else's call that waits for the same thread: what never runs is the ring's."""

    @staticmethod
    async def ring(stands):
        """The process's thread waits for a task whose call is queued behind its own."""
        loop = asyncio.get_running_loop()
        begun, go, tasks = asyncio.Event(), threading.Event(), []

        async def inner():
            loop.call_soon(stands.set)
            return await tasks[0]

        def work():
            loop.call_soon_threadsafe(begun.set)
            go.wait(10)
            return async_to_sync(inner)()

        working = asyncio.ensure_future(sync_to_async(work)())
        await begun.wait()
        tasks.append(asyncio.ensure_future(thread()))
        await asyncio.sleep(0)
        go.set()
        return await asyncio.gather(working, *tasks, return_exceptions=True)

    @staticmethod
    async def bystander(posted):
        task = elsewhere(thread())  # not served by a frame of its own thread
        await asyncio.sleep(0)
        posted.set()
        return await task

    def test_a_call_that_is_posted_meanwhile_waits(self):
        stands, posted = threading.Event(), threading.Event()
        with ThreadPoolExecutor(2) as pool:
            with deadlocks._looking:  # the ring is not broken before
                ring = pool.submit(asyncio.run, self.ring(stands))
                assert stands.wait(10)
                bystander = pool.submit(asyncio.run, self.bystander(posted))
                assert posted.wait(10)
            errors = ring.result()
            assert [str(error).count("would deadlock") for error in errors] == [1, 1]
            assert bystander.result() is run(thread())

    def test_a_thread_that_waits_for_such_a_call_breaks_the_ring(self, monkeypatch):
        """And not the call that it waits for itself, if it is the one that looks."""
        stands, posted, looked = threading.Event(), threading.Event(), threading.Event()
        look, lookers = deadlocks.look_for_ring, []

        def only_the_bystander(loop, beneath):
            if threading.get_ident() in lookers and posted.is_set():
                look(loop, beneath)
                looked.set()

        def wait_for_it():
            lookers.append(threading.get_ident())
            return async_to_sync(self.bystander)(posted)

        async def main():
            async with ThreadSensitiveContext():  # a thread of its own
                return await sync_to_async(wait_for_it)()

        monkeypatch.setattr(deadlocks, "look_for_ring", only_the_bystander)
        with ThreadPoolExecutor(2) as pool:
            ring = pool.submit(asyncio.run, self.ring(stands))
            assert stands.wait(10)
            bystander = pool.submit(asyncio.run, main())
            assert looked.wait(10)
            errors = ring.result()
            assert [str(error).count("would deadlock") for error in errors] == [1, 1]
            assert bystander.result() is run(thread())


class TestRuns:
    """Shapes that asgiref's users reported as hangs or false alarms, by the issue's number."""

    @pytest.fixture(autouse=True)
    def _no_proof(self, monkeypatch):
        # Nor may one be found by a search that happens to come a moment sooner or later.
        found = []
        chain = deadlocks.chain

        def noting(*args, **kwargs):
            why = chain(*args, **kwargs)
            found.append(why)
            return why

        monkeypatch.setattr(deadlocks, "chain", noting)
        yield
        assert [why for why in found if why is not None] == []

    @pytest.mark.parametrize("wait", ["create_task", "wait_for", "gather", "shield"])
    @pytest.mark.parametrize("outermost", ["sync", "async"])
    def test_nested_waits(self, wait, outermost):
        """#214, #249, #348, #491, #492, #494."""

        async def leaf(n):
            return await sync_to_async(lambda: n)()

        async def across(n):
            if wait == "create_task":
                return await asyncio.create_task(down(n))
            if wait == "wait_for":
                return await asyncio.wait_for(down(n), 10)
            if wait == "gather":
                return (await asyncio.gather(down(n), down(0)))[0]
            return await asyncio.shield(down(n))

        async def down(n):
            if n == 0:
                return await leaf(0)
            return 1 + await sync_to_async(async_to_sync(across))(n - 1)

        if outermost == "sync":
            assert async_to_sync(across)(4) == 4
        else:
            assert run(across(4)) == 4

    def test_a_thread_that_is_held_and_let_go(self):
        """A queue of other tasks at a thread that waits for one of its own."""
        begun, go = threading.Event(), []

        async def inner():
            begun.set()
            go.append(asyncio.Event())
            await go[0].wait()
            return "inner"

        async def main():
            loop = asyncio.get_running_loop()
            held = asyncio.ensure_future(in_worker(inner))
            await loop.run_in_executor(None, begun.wait, 10)
            others = [asyncio.ensure_future(thread()) for _ in range(20)]
            await asyncio.sleep(0)
            go[0].set()
            return await held, len(set(await asyncio.gather(*others)))

        assert run(main()) == ("inner", 1)

    def test_a_gathering_of_which_one_will_let_go(self):
        """What another task of it raises ends the wait, and the thread goes on."""

        async def fails(event):
            await event.wait()
            raise ValueError("enough")

        async def main():
            event, late = asyncio.Event(), []

            async def inner():
                late.append(elsewhere(thread()))
                await asyncio.gather(late[0], fails(event))

            held = asyncio.ensure_future(in_worker(inner))
            while not late:
                await asyncio.sleep(0)
            for _ in range(3):
                await asyncio.sleep(0)
            event.set()
            with pytest.raises(ValueError, match="enough"):
                await held
            return await late[0]

        assert run(main()) is not None

    def test_waiting_for_a_token(self):
        """Who has it is in the middle of a call that waits for others, and will give it back."""
        limiter = CapacityLimiter(1)

        async def main():
            go, begun = asyncio.Event(), asyncio.Event()

            async def holds():
                begun.set()
                await go.wait()
                return await thread()

            def limited(function):
                return sync_to_async(function, thread_sensitive=False, limiter=limiter)

            async def waits():
                return await limited(threading.current_thread)()

            holding = asyncio.ensure_future(limited(async_to_sync(holds))())
            await begun.wait()
            waiting = [asyncio.ensure_future(in_worker(waits)) for _ in range(3)]
            waiting.append(asyncio.ensure_future(thread()))
            while limiter.statistics().tasks_waiting < 1:
                await asyncio.sleep(0.001)
            go.set()
            return await asyncio.gather(holding, *waiting)

        assert None not in run(main())
        assert limiter.borrowed_tokens == 0

    def test_waiting_for_a_worker(self, policy):
        """At the limit, a call is held until a context is left; who has that waits meanwhile."""
        policy(workers.Policy(kind="keep", limit=1, release_idle=None))

        async def main():
            go, begun = asyncio.Event(), asyncio.Event()

            async def inner():
                begun.set()
                await go.wait()
                return await thread()

            async def has_it():
                async with ThreadSensitiveContext():
                    return await in_worker(inner)

            async def waits():
                async with ThreadSensitiveContext():
                    return await asyncio.gather(thread(), in_worker(thread))

            first = asyncio.ensure_future(has_it())
            await begun.wait()
            second = asyncio.ensure_future(waits())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            go.set()
            return await asyncio.gather(first, second)

        assert None not in run(main())

    def test_a_task_that_was_cancelled_a_moment_ago(self, monkeypatch):
        """It has not heard of it yet, and seems to wait for a call that can't run."""
        look, not_yet = deadlocks.look_for_ring, [True]

        async def main():
            loop = asyncio.get_running_loop()
            begun, go, tasks = asyncio.Event(), threading.Event(), []

            def cancel_and_look(beneath):
                tasks[0].cancel()
                look(loop, beneath)

            def instead(_loop, beneath):
                if not_yet:
                    not_yet.pop()
                    loop.call_soon_threadsafe(cancel_and_look, beneath)

            async def inner():
                return await tasks[0]

            def work():
                loop.call_soon_threadsafe(begun.set)
                go.wait(10)
                return async_to_sync(inner)()

            monkeypatch.setattr(deadlocks, "look_for_ring", instead)
            working = asyncio.ensure_future(sync_to_async(work)())
            await begun.wait()
            tasks.append(asyncio.ensure_future(thread()))
            await asyncio.sleep(0)
            go.set()
            return await asyncio.gather(working, *tasks, return_exceptions=True)

        assert [type(error) for error in run(main())] == [asyncio.CancelledError] * 2
        assert not_yet == []

    def test_leaving_a_context_while_others_use_its_thread(self):
        """#458, #535, #560, #563: the loop goes on meanwhile."""
        release = threading.Event()

        async def main():
            ticks = []
            async with ThreadSensitiveContext():
                task = asyncio.ensure_future(sync_to_async(release.wait)(10))
                await asyncio.sleep(0)
                asyncio.get_running_loop().call_soon(ticks.append, 1)
                asyncio.get_running_loop().call_soon(release.set)
            assert ticks == [1]
            return await task

        assert run(main())

    def test_a_time_out_on_the_way(self):
        """#567: what waits with a time-out gives up, and then the thread is free."""

        async def inner():
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(elsewhere(asyncio.sleep(30)), 0.01)
            return await thread()

        assert run(in_worker(inner)) is not None


class TestClosedLoop:
    """A loop that is closed while a thread waits for it, and one that is only stopped (#525, #528,
    #545, #562)."""

    @pytest.fixture
    def waiting(self):
        """A stopped loop, a worker that waits for a task of it, and its future outcome."""
        loop = asyncio.new_event_loop()
        started, outcome, futures = threading.Event(), [], []

        async def forever():
            futures.extend([loop.create_future(), asyncio.current_task()])
            started.set()
            return await futures[0]

        def work():
            try:
                outcome.append(async_to_sync(forever)())
            except BaseException as error:
                outcome.append(error)

        async def main():
            asyncio.ensure_future(sync_to_async(work)())
            await loop.run_in_executor(None, started.wait, 10)

        loop.run_until_complete(main())
        yield loop, outcome, futures
        for task in asyncio.all_tasks(loop):
            task._log_destroy_pending = False
        loop.close()

    def test_raises_within_a_second(self, waiting):
        loop, outcome, _ = waiting
        loop.close()
        process_thread = SyncToAsync.single_thread_executor
        assert process_thread.submit(int).result(10) == 0
        assert isinstance(outcome[0], RuntimeError)
        assert "loop was closed" in str(outcome[0])

    def test_whose_task_has_ended_just_before(self, waiting, monkeypatch):
        loop, outcome, (future, task) = waiting
        looking, closed = threading.Event(), threading.Event()
        look = deadlocks.look_for_ring

        def late(*args):
            looking.set()
            assert closed.wait(10)
            look(*args)

        monkeypatch.setattr(deadlocks, "look_for_ring", late)
        assert looking.wait(10)
        future.set_result("in time")
        loop.run_until_complete(task)
        loop.close()
        closed.set()
        assert SyncToAsync.single_thread_executor.submit(int).result(10) == 0
        assert outcome == ["in time"]

    def test_that_is_stopped_may_run_again(self, waiting, monkeypatch):
        loop, outcome, (future, _) = waiting
        looks = threading.Semaphore(0)
        look = deadlocks.look_for_ring

        def noting(*args):
            look(*args)
            looks.release()

        monkeypatch.setattr(deadlocks, "look_for_ring", noting)
        assert looks.acquire(timeout=10)
        assert outcome == []
        future.set_result("ran again")
        while not outcome:
            loop.run_until_complete(asyncio.sleep(0.01))
        assert outcome == ["ran again"]


class TestSyncCallFails:
    """What a call can come to if another thread ends it, in either kernel."""

    @staticmethod
    def outcome_of(kernel, steps):
        async def main():
            ran = []
            call = kernel.SyncCall(
                asyncio.get_running_loop(),
                lambda: ran.append(1) or "ran",
                None,
                contextvars.copy_context(),
                threading.local(),
            )
            done = steps(call)
            try:
                return done, ran, await call
            except ValueError as error:
                return done, ran, error

        return run(main())

    def test_before_it_has_begun(self, kernel):
        error = ValueError("failed")

        def steps(call):
            done = call.fail(error)
            call.run()
            call.deliver()
            return done

        assert self.outcome_of(kernel, steps) == (True, [], error)

    def test_not_when_it_has_run(self, kernel):
        def steps(call):
            call.run()
            done = call.fail(ValueError("failed"))
            call.deliver()
            return done

        assert self.outcome_of(kernel, steps) == (False, [1], "ran")

    def test_once(self, kernel):
        error = ValueError("failed")
        assert self.outcome_of(
            kernel, lambda call: [call.fail(error), call.fail(ValueError("again"))]
        ) == ([True, False], [], error)

    def test_not_if_it_is_the_end_of_a_lease(self, kernel):
        async def main():
            return kernel.SyncCall(asyncio.get_running_loop(), int).fail(ValueError("failed"))

        assert run(main()) is False

    def test_while_its_thread_comes_to_it(self):
        """In the pure kernel it is taken and failed in two steps; its thread may come between."""
        from asgibridge import _pure

        error = ValueError("failed")

        def steps(call):
            class Work(list):
                def pop(self):
                    function = super().pop()
                    if not delivered:
                        delivered.append(True)
                        call.run()
                        delivered[0] = call._error
                        call.deliver()
                    return function

            delivered = []
            call._work = Work(call._work)
            return call.fail(error), delivered

        assert self.outcome_of(_pure, steps) == ((True, [error]), [], error)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_that_was_forked_while_a_thread_looked(script_output):
    """Nothing of the search is left locked, nor an executor busy that has no thread there."""
    assert (
        script_output("""
            import os, warnings
            from asgibridge._waits import deadlocks

            warnings.simplefilter("ignore", DeprecationWarning)
            executor = object()
            deadlocks.occupy(executor, [])
            with deadlocks._looking:
                child = os.fork()
                if child == 0:
                    free = deadlocks._looking.acquire(timeout=1)
                    os._exit(0 if free and deadlocks.busy_with(executor) is None else 1)
                _, status = os.waitpid(child, 0)
            print(status)
        """)
        == "0"
    )
