"""What goes wrong: exceptions, deadlocks, cancellation, and leaving a context in between."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from asgibridge import sync
from asgibridge.sync import (
    AsyncToSync,
    SyncToAsync,
    ThreadSensitiveContext,
    async_to_sync,
    sync_to_async,
)
from threads import join_idle

thread = sync_to_async(threading.current_thread)


def run(coroutine):
    """Run in a thread of its own, so that no state of the test's thread plays a part."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


class TestExceptions:
    @pytest.mark.parametrize("thread_sensitive", [True, False])
    def test_stop_iteration_is_a_runtime_error(self, thread_sensitive):
        """A Future can't carry it, so with asgiref the await never ends."""

        async def main():
            with pytest.raises(RuntimeError, match="raised StopIteration") as caught:
                await sync_to_async(next, thread_sensitive=thread_sensitive)(iter(()))
            assert isinstance(caught.value.__cause__, StopIteration)

        run(main())

    def test_stop_iteration_in_a_users_executor(self):
        async def main():
            with ThreadPoolExecutor(1) as executor:
                async with ThreadSensitiveContext(executor=executor):
                    with pytest.raises(RuntimeError, match="raised StopIteration"):
                        await sync_to_async(next)(iter(()))

        run(main())

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, ValueError])
    def test_of_any_kind_reach_the_awaiting_task(self, error):
        def fail():
            raise error("from the thread")

        async def main():
            with pytest.raises(error, match="from the thread"):
                await sync_to_async(fail)()
            return await thread()

        assert run(main()).is_alive()

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
    def test_of_any_kind_reach_the_waiting_thread(self, error):
        async def fail():
            raise error("from the loop")

        with pytest.raises(error):
            async_to_sync(fail)()

    def test_the_one_being_handled_is_seen_on_the_other_side(self):
        seen = []

        async def inner():
            seen.append(sys.exc_info()[1])

        def sync():
            seen.append(sys.exc_info()[1])
            async_to_sync(inner)()

        async def main():
            try:
                raise KeyError("handled")
            except KeyError as error:
                traceback = error.__traceback__
                await sync_to_async(sync)()
                assert seen == [error, error]
                assert error.__traceback__ is traceback

        run(main())

    def test_a_frames_own_traceback_hiding_mark_is_there(self):
        """Sentry and Django leave out frames with it."""

        def fail():
            raise ValueError

        async def main():
            await sync_to_async(fail)()

        with pytest.raises(ValueError) as caught:
            async_to_sync(main)()
        ours = [
            entry.frame.f_locals
            for entry in caught.traceback
            if Path(str(entry.frame.code.path)).name == "sync.py"  # a str without the sources
        ]
        assert [frame for frame in ours if "__traceback_hide__" in frame]


class TestWouldDeadlock:
    """A loop that runs on a worker awaits a call of that same worker."""

    @staticmethod
    def nested_loop():
        with pytest.raises(RuntimeError, match="would deadlock") as caught:
            asyncio.run(thread())
        return str(caught.value)

    def test_on_the_process_thread(self):
        message = run(sync_to_async(self.nested_loop)())
        assert "Single thread executor already being used" in message
        assert "asgibridge-worker-" in message
        assert "async_to_sync" in message  # what to do

    def test_in_a_context(self):
        async def main():
            async with ThreadSensitiveContext():
                return await sync_to_async(self.nested_loop)()

        assert "would deadlock" in run(main())

    def test_in_a_context_with_an_executor(self):
        async def main():
            with ThreadPoolExecutor(1) as executor:
                async with ThreadSensitiveContext(executor=executor):
                    return await sync_to_async(self.nested_loop)()

        assert "would deadlock" in run(main())

    def test_on_an_executor_assigned_for_the_process(self, monkeypatch):
        with ThreadPoolExecutor(1) as executor:
            monkeypatch.setattr(SyncToAsync, "single_thread_executor", executor)
            assert "would deadlock" in run(sync_to_async(self.nested_loop)())

    def test_on_the_thread_that_waits_in_async_to_sync(self):
        message = async_to_sync(sync_to_async(self.nested_loop))()
        assert "You cannot submit onto CurrentThreadExecutor from its own thread" in message

    def test_a_loop_on_a_pools_thread_is_none(self):
        def loop_elsewhere():
            return asyncio.run(thread())

        async def main():
            return await sync_to_async(loop_elsewhere, thread_sensitive=False)(), await thread()

        inner, own = run(main())
        assert inner is own

    def test_leaves_nothing_behind(self):
        async def main():
            await sync_to_async(self.nested_loop)()
            await sync_to_async(self.nested_loop)()
            return await thread()

        assert run(main()).is_alive()

    def test_async_to_sync_in_a_running_loop(self):
        async def main():
            with pytest.raises(RuntimeError, match="just await the async function directly"):
                async_to_sync(asyncio.sleep)(0)

        run(main())


class TestCancellation:
    def test_of_a_running_function_ends_the_wait_and_not_the_function(self):
        started, release = threading.Event(), threading.Event()
        ended = []

        def work():
            started.set()
            release.wait(10)
            ended.append(threading.current_thread())

        async def main():
            task = asyncio.create_task(sync_to_async(work)())
            await sync_to_async(started.wait, thread_sensitive=False)(10)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert ended == []
            release.set()
            assert [await thread()] == ended

        run(main())

    @pytest.mark.parametrize("where", ["thread-sensitive", "pool", "own executor"])
    def test_what_a_function_that_goes_on_sets_stays_there(self, where):
        """It is in the middle of its context: without the GIL, reading that is a crash."""
        variable = contextvars.ContextVar("variable", default="before")
        started, release = threading.Event(), threading.Event()

        def work():
            variable.set("set by who goes on")
            started.set()
            release.wait(10)

        async def main(own):
            options = {
                "thread-sensitive": {},
                "pool": {"thread_sensitive": False},
                "own executor": {"thread_sensitive": False, "executor": own},
            }[where]

            async def call():
                try:
                    await sync_to_async(work, **options)()
                finally:
                    seen.append(variable.get())

            seen = []
            task = asyncio.create_task(call())
            await sync_to_async(started.wait, thread_sensitive=False)(10)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            release.set()
            assert seen == ["before"]

        with ThreadPoolExecutor(1) as own:
            run(main(own))

    def test_an_error_nobody_hears_any_more_is_reported(self):
        started, release = threading.Event(), threading.Event()
        reported = []

        def work():
            started.set()
            release.wait(10)
            raise ValueError("unheard")

        async def main():
            asyncio.get_running_loop().set_exception_handler(lambda _, told: reported.append(told))
            task = asyncio.create_task(sync_to_async(work)())
            await sync_to_async(started.wait, thread_sensitive=False)(10)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            release.set()
            await thread()

        run(main())
        assert [str(told["exception"]) for told in reported] == ["unheard"]

    def test_an_error_in_an_executor_of_the_users_is_reported(self):
        started, release, reported = threading.Event(), threading.Event(), []

        def work():
            started.set()
            release.wait(10)
            raise ValueError("unheard")

        async def main(own):
            told = asyncio.Event()

            def handler(_, context):
                reported.append(str(context["exception"]))
                told.set()

            asyncio.get_running_loop().set_exception_handler(handler)
            call = sync_to_async(work, thread_sensitive=False, executor=own)
            task = asyncio.create_task(call())
            await sync_to_async(started.wait)(10)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            release.set()
            await asyncio.wait_for(told.wait(), 10)

        with ThreadPoolExecutor(1) as own:
            run(main(own))
        assert reported == ["unheard"]

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio itself drops it before 3.11")
    def test_with_a_message(self):
        release = threading.Event()

        async def main():
            task = asyncio.create_task(sync_to_async(release.wait)(10))
            await asyncio.sleep(0)
            task.cancel("the client has gone")
            try:
                await task
            except asyncio.CancelledError as error:
                return error.args
            finally:
                release.set()

        assert run(main()) == ("the client has gone",)

    @pytest.mark.parametrize("options", [{}, {"thread_sensitive": False}])
    def test_a_second_one_does_not_lose_what_the_function_raises(self, options):
        """The first has gone to the coroutine, which survived it; the second ends the wait."""
        survived, go_on = threading.Event(), threading.Event()
        reported = []

        async def main():
            loop = asyncio.get_running_loop()
            begun, heard = asyncio.Event(), asyncio.Event()

            def report(_loop, context):
                reported.append(context)
                heard.set()

            loop.set_exception_handler(report)

            async def inner():
                begun.set()
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()

            def work():
                async_to_sync(inner)()
                survived.set()
                assert go_on.wait(10)
                raise ValueError("nobody waits")

            task = asyncio.create_task(sync_to_async(work, **options)())
            await begun.wait()
            task.cancel()
            await loop.run_in_executor(None, survived.wait, 10)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            go_on.set()
            await asyncio.wait_for(heard.wait(), 10)

        run(main())
        assert [repr(each["exception"]) for each in reported] == ["ValueError('nobody waits')"]

    def test_goes_on_to_the_coroutine_that_the_function_waits_for(self):
        events = []

        async def inner():
            started.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                events.append("cancelled")
                raise

        def work():
            try:
                async_to_sync(inner)()
            except asyncio.CancelledError:
                events.append("raised")
                raise

        async def main():
            nonlocal started
            started = asyncio.Event()
            task = asyncio.create_task(sync_to_async(work)())
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        started = None
        run(main())
        assert events == ["cancelled", "raised"]

    def test_a_coroutine_that_survives_it_gives_the_result(self):
        async def inner():
            started.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return "survived"

        async def main():
            nonlocal started
            started = asyncio.Event()
            task = asyncio.create_task(sync_to_async(async_to_sync(inner))())
            await started.wait()
            task.cancel()
            return await task

        started = None
        assert run(main()) == "survived"

    def test_goes_on_to_a_coroutine_on_another_loop(self):
        """asgiref awaits a task of another loop there, and raises RuntimeError."""
        events = []

        async def inner(loop, started):
            loop.call_soon_threadsafe(started.set)
            try:
                await asyncio.Event().wait()
            finally:
                events.append("cancelled")

        async def main():
            started = asyncio.Event()
            call = async_to_sync(inner, force_new_loop=True)
            task = asyncio.create_task(sync_to_async(call)(asyncio.get_running_loop(), started))
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        run(main())
        assert events == ["cancelled"]

    def test_of_a_coroutine_before_its_first_step_is_no_hang(self):
        """asgiref's thread waits for ever: the task never gets to where the result is set."""

        async def inner():
            raise AssertionError("must not run")

        async def main():
            loop = asyncio.get_running_loop()
            create_task = loop.create_task

            def create_cancelled(coroutine, **kwargs):
                task = create_task(coroutine, **kwargs)
                task.cancel()
                return task

            def work():
                loop.create_task = create_cancelled
                try:
                    with pytest.raises(asyncio.CancelledError):
                        async_to_sync(inner)()
                finally:
                    del loop.create_task
                return True

            return await sync_to_async(work)()

        assert run(main())

    def test_a_task_factory_that_fails_is_no_hang(self):
        async def main():
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda *_: None)

            def work():
                def fail(*args, **kwargs):
                    raise OSError("no task")

                loop.set_task_factory(fail)
                try:
                    with pytest.raises(OSError, match="no task"):
                        async_to_sync(asyncio.sleep)(0)
                finally:
                    loop.set_task_factory(None)
                return True

            return await sync_to_async(work)()

        assert run(main())

    def test_wait_for_times_out_on_time(self):
        release = threading.Event()

        async def main():
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(sync_to_async(release.wait)(10), 0.01)
            release.set()

        run(main())


class TestLeavingAContext:
    def test_starts_no_thread_and_waits_for_nothing_when_idle(self, monkeypatch):
        async def leave():
            async with ThreadSensitiveContext():
                own = await thread()
                started, iterations = [], []
                original = threading.Thread.start

                def start(self):
                    started.append(self)
                    original(self)

                with monkeypatch.context() as patch:
                    patch.setattr(threading.Thread, "start", start)
                    asyncio.get_running_loop().call_soon(iterations.append, 1)
            return own, started, list(iterations)

        async def main():
            for _ in range(1000):
                own, started, iterations = await leave()
                assert started == []
                if iterations == []:  # left without giving the loop a turn
                    return own
            pytest.fail("the worker never was idle in time")

        join_idle(run(main()))

    def test_waits_for_the_calls_already_submitted(self):
        order = []
        release = threading.Event()

        async def main():
            async with ThreadSensitiveContext():
                first = asyncio.ensure_future(sync_to_async(release.wait)(10))
                second = asyncio.ensure_future(sync_to_async(order.append)("second"))
                await asyncio.sleep(0)
                asyncio.get_running_loop().call_soon(release.set)  # the loop is not blocked
            order.append("left")
            await asyncio.gather(first, second)

        run(main())
        assert order == ["second", "left"]

    def test_cancelled_stops_waiting(self):
        release = threading.Event()

        async def main():
            left = asyncio.Event()

            async def block():
                async with ThreadSensitiveContext():
                    asyncio.ensure_future(sync_to_async(release.wait)(10))
                    await asyncio.sleep(0)
                    left.set()

            task = asyncio.create_task(block())
            await left.wait()
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not release.is_set()
            release.set()

        run(main())

    def test_in_another_context_than_it_was_entered_in_still_ends_the_thread(self):
        """As async generator fixtures do."""

        async def main():
            block = ThreadSensitiveContext()

            async def enter():
                await block.__aenter__()
                return await thread()

            own = await asyncio.ensure_future(enter())
            with pytest.raises(ValueError, match="different Context"):
                await block.__aexit__(None, None, None)
            return own

        join_idle(run(main()))

    def test_restores_what_was_current(self):
        async def main():
            outer = AsyncToSync.executors.current
            assert outer is not None
            with ThreadPoolExecutor(1) as executor:
                async with ThreadSensitiveContext(executor=executor):
                    assert AsyncToSync.executors.current is None
                assert AsyncToSync.executors.current is outer

        async_to_sync(main)()

    def test_a_dropped_context_lets_its_thread_end(self):
        async def main():
            context = ThreadSensitiveContext()
            await context.__aenter__()
            own = await thread()
            SyncToAsync.thread_sensitive_context.reset(context.token)
            return own

        join_idle(run(main()))


class TestMisuse:
    def test_an_executor_goes_with_thread_sensitive_false_only(self):
        executor = ThreadPoolExecutor(1)
        with pytest.raises(TypeError, match="must not be set when thread_sensitive is True"):
            sync_to_async(print, executor=executor)

    @pytest.mark.parametrize("func", [asyncio.sleep, 3, None])
    def test_only_sync_functions_become_async(self, func):
        with pytest.raises(TypeError, match="can only be applied to sync functions"):
            SyncToAsync(func)

    def test_submit_after_shutdown(self, kernel):
        executor = kernel.ThreadSensitiveExecutor()
        executor.shutdown()
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(print)

    def test_the_original_beside_ours_is_warned_of_once(self, script_output):
        """Two thread-sensitive worlds: database work happens on the wrong thread."""
        assert (
            script_output("""
    import asyncio, sys, types, warnings
    from asgibridge.sync import sync_to_async

    async def hops():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(3):
                assert await sync_to_async(int)("7") == 7
        return [(str(each.message), each.filename == __file__) for each in caught]

    assert asyncio.run(hops()) == []
    sys.modules["asgiref.sync"] = types.ModuleType("asgiref.sync")
    [(message, here)] = asyncio.run(hops())
    assert "asgibridge.install()" in message and "asgibridge run" in message, message
    print(here, asyncio.run(hops()))
        """)
            == "True []"
        )

    def test_a_coroutine_that_begins_while_its_caller_leaves_it(self, monkeypatch):
        """1. The caller finds that it has not begun. 2. A thread begins it. 3. The caller closes
        it."""
        inside, go_on = threading.Event(), threading.Event()

        async def main():
            inside.set()
            assert go_on.wait(20)
            return "done"

        def step():
            try:
                coroutine.send(None)
            except StopIteration as end:
                outcomes.append(end.value)

        coroutine, outcomes = main(), []
        monkeypatch.setattr(inspect, "getcoroutinestate", lambda coroutine: "CORO_CREATED")
        thread = threading.Thread(target=step)
        thread.start()
        assert inside.wait(20)
        sync._close_if_not_begun(coroutine)
        go_on.set()
        thread.join(20)
        assert outcomes == ["done"]
