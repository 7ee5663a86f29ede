"""Which thread and which loop code runs on."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import pytest

from asgibridge import _kernel
from asgibridge.current_thread_executor import CurrentThreadExecutor
from asgibridge.sync import (
    AsyncSingleThreadContext,
    AsyncToSync,
    SyncToAsync,
    ThreadSensitiveContext,
    async_to_sync,
    sync_to_async,
)
from threads import join_idle

thread = sync_to_async(threading.current_thread)


class RefusingExecutor(Executor):
    """Raises on submit, as an executor does that is shut down or has no resources left."""

    def submit(self, fn, /, *args, **kwargs):
        raise OSError("no more threads")


class CountingExecutor(ThreadPoolExecutor):
    def __init__(self) -> None:
        super().__init__(max_workers=1)
        self.calls = 0

    def submit(self, fn, /, *args, **kwargs):
        self.calls += 1
        return super().submit(fn, *args, **kwargs)


def run(coroutine):
    """Run in a thread of its own, so that no state of the test's thread plays a part."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


class TestThreadSensitiveCalls:
    def test_share_one_thread_in_the_whole_process(self):
        async def two():
            return await asyncio.gather(thread(), asyncio.create_task(thread()))

        assert len({*run(two()), *run(two())}) == 1

    def test_run_one_at_a_time_in_order(self):
        seen = []

        async def main():
            await asyncio.gather(*(sync_to_async(seen.append)(i) for i in range(50)))

        run(main())
        assert seen == list(range(50))

    def test_a_foreign_object_may_stand_in_for_a_context(self):
        class Context:
            pass

        async def main():
            SyncToAsync.thread_sensitive_context.set(context)
            return {await thread(), await thread()}

        context = Context()
        usual = run(thread())
        threads = run(main())
        SyncToAsync.context_to_thread_executor.pop(context).shutdown()
        assert len(threads) == 1
        assert usual not in threads

    def test_that_have_not_begun_are_dropped_when_cancelled(self):
        ran = []
        release = threading.Event()

        async def main():
            busy = asyncio.create_task(sync_to_async(release.wait)(10))
            queued = asyncio.create_task(sync_to_async(ran.append)(1))
            await asyncio.sleep(0)
            queued.cancel()
            with pytest.raises(asyncio.CancelledError):
                await queued
            release.set()
            assert await busy
            await thread()

        run(main())
        assert ran == []

    def test_use_an_executor_assigned_for_the_process(self, monkeypatch):
        executor = CountingExecutor()
        monkeypatch.setattr(SyncToAsync, "single_thread_executor", executor)
        with executor:
            assert run(thread()) is executor.submit(threading.current_thread).result()
        assert executor.calls == 2

    def test_use_an_executor_put_in_for_a_context(self):
        executor = CountingExecutor()

        async def main():
            async with ThreadSensitiveContext() as context:
                SyncToAsync.context_to_thread_executor[context] = executor
                first, second = await thread(), await thread()
                assert first is second
            with pytest.raises(RuntimeError):
                executor.submit(print)  # the context has shut it down, as it would its own

        run(main())
        assert executor.calls == 4  # with the context's own last one

    def test_go_to_a_current_executor_somebody_set(self):
        executor = CountingExecutor()

        async def main():
            AsyncToSync.executors.current = executor
            return await thread()

        with executor:
            assert run(main()) is executor.submit(threading.current_thread).result()


class TestNotThreadSensitiveCalls:
    def test_use_the_loops_default_executor(self):
        executor = CountingExecutor()

        async def main():
            asyncio.get_running_loop().set_default_executor(executor)
            await sync_to_async(threading.current_thread, thread_sensitive=False)()

        run(main())
        assert executor.calls == 1

    def test_leave_nothing_behind_for_other_work_of_the_same_thread(self):
        """asgiref's pool threads remember the last call's loop, and use it for unrelated work."""
        loops = []

        async def remember_loop():
            loops.append(asyncio.get_running_loop())

        async def main():
            loop = asyncio.get_running_loop()
            loop.set_default_executor(ThreadPoolExecutor(1))
            await sync_to_async(async_to_sync(remember_loop), thread_sensitive=False)()
            await loop.run_in_executor(None, async_to_sync(remember_loop))
            return loop

        own = run(main())
        assert loops[0] is own
        assert loops[1] is not own


class TestSubmitThatRaises:
    def test_leaves_no_false_deadlock(self, monkeypatch):
        """asgiref #495, #497."""

        async def main():
            with monkeypatch.context() as patch:
                patch.setattr(SyncToAsync, "single_thread_executor", RefusingExecutor())
                with pytest.raises(OSError, match="no more threads"):
                    await thread()
            assert await thread() is not threading.current_thread()

        run(main())

    def test_in_a_context(self):
        async def main():
            async with ThreadSensitiveContext(executor=RefusingExecutor()):
                with pytest.raises(OSError, match="no more threads"):
                    await thread()
            assert await thread() is not threading.current_thread()

        run(main())


class TestTaskScheduledFromAWorker:
    def test_is_no_deadlock(self):
        async def main():
            loop = asyncio.get_running_loop()
            done = loop.create_future()

            async def scheduled():
                done.set_result(await thread())

            def schedule():
                loop.call_soon_threadsafe(loop.create_task, scheduled())
                return threading.current_thread()

            assert await sync_to_async(schedule)() is await asyncio.wait_for(done, 10)

        run(main())


class TestTaskThatOutlivesItsFrame:
    """asgiref #526: "CurrentThreadExecutor already quit or is broken"."""

    async def _start_late(self, late):
        # A task started under an async_to_sync frame that ends before the task calls sync code.
        begun = asyncio.Event()

        async def frame():
            return asyncio.create_task(late(begun))

        task = await sync_to_async(async_to_sync(frame))()
        begun.set()
        return task

    def test_without_a_context_uses_the_process_thread(self):
        async def late(begun):
            await begun.wait()
            return await thread()

        async def main():
            return await (await self._start_late(late)), await thread()

        late_thread, process_thread = run(main())
        assert late_thread is process_thread

    def test_uses_its_contexts_thread_while_that_is_open(self):
        async def late(begun):
            await begun.wait()
            return await thread()

        async def main():
            async with ThreadSensitiveContext():
                own = await thread()
                return own, await (await self._start_late(late)), await self._outside(thread)

        own, late_thread, process_thread = run(main())
        assert own is late_thread is not process_thread

    @staticmethod
    async def _outside(call):
        return await contextvars.Context().run(asyncio.ensure_future, call())

    def test_uses_another_thread_when_its_context_was_left(self):
        async def late(begun, left):
            await begun.wait()
            await left.wait()
            return await thread(), await thread()

        async def main():
            left = asyncio.Event()
            async with ThreadSensitiveContext() as context:
                own = await thread()
                task = await self._start_late(lambda begun: late(begun, left))
            left.set()
            first, second = await task
            executor = SyncToAsync.context_to_thread_executor.pop(context)
            executor.shutdown()
            return own, first, second, await self._outside(thread)

        own, first, second, process_thread = run(main())
        assert first is second
        assert first not in (own, process_thread)

    def test_in_a_context_with_an_executor_that_was_left_raises(self):
        async def late(begun, left):
            await begun.wait()
            await left.wait()
            await thread()

        async def main():
            left = asyncio.Event()
            with ThreadPoolExecutor(1) as executor:
                async with ThreadSensitiveContext(executor=executor):
                    task = await self._start_late(lambda begun: late(begun, left))
                left.set()
                with pytest.raises(RuntimeError, match="has exited"):
                    await task

        run(main())

    def test_uses_the_next_frame_out_that_still_waits(self):
        async def late(begun):
            await begun.wait()
            return await thread()

        async def main():
            return await (await self._start_late(late))

        assert async_to_sync(main)() is threading.current_thread()


class TestTopLevelCall:
    def test_callers_thread_serves_tasks_that_did_not_inherit_it(self):
        async def main():
            return await contextvars.Context().run(asyncio.ensure_future, thread())

        assert async_to_sync(main)() is threading.current_thread()

    def test_returns_when_leftover_tasks_are_cancelled_and_served(self):
        """All that asyncio.run does at its end, with the caller's thread still serving."""
        seen = []

        async def leftover():
            try:
                await asyncio.Event().wait()
            finally:
                seen.append(await thread())

        async def main():
            task = asyncio.create_task(leftover())
            await asyncio.sleep(0)
            return asyncio.get_running_loop(), task

        loop, task = async_to_sync(main)()
        assert seen == [threading.current_thread()]
        assert task.cancelled()
        assert loop.is_closed()

    def test_serves_a_leftover_task_that_did_not_inherit_its_thread(self):
        """To asgiref the loop is nobody's any more by then, and it takes the process's thread."""
        seen = []

        async def leftover():
            try:
                await asyncio.Event().wait()
            finally:
                seen.append(await thread())

        async def main():
            kept.append(contextvars.Context().run(asyncio.ensure_future, leftover()))
            await asyncio.sleep(0)

        kept = []
        async_to_sync(main)()
        assert seen == [threading.current_thread()]

    def test_cancels_what_a_function_calls_back_when_leftover_tasks_have_been(self):
        """Its own call was cancelled with them, which it can't know. asyncio.run forgets the task,
        half done."""
        begun, left, late = threading.Event(), threading.Event(), threading.Event()
        tasks, seen = [], []

        async def call_back():
            tasks.append(asyncio.current_task())
            late.set()
            await asyncio.Event().wait()

        def work():
            begun.set()
            assert left.wait(10)
            try:
                async_to_sync(call_back)()
            except BaseException as error:
                seen.append(type(error))

        async def leftover():
            try:
                await asyncio.Event().wait()
            finally:
                left.set()

        async def main():
            tasks.append(asyncio.create_task(sync_to_async(work)()))
            tasks.append(asyncio.create_task(leftover()))
            loop = asyncio.get_running_loop()
            assert await loop.run_in_executor(None, begun.wait, 10)
            loop.run_in_executor(None, late.wait, 10)  # so long the loop stays open

        async_to_sync(main)()
        assert [task.done() for task in tasks] == [True] * 3
        assert seen == [asyncio.CancelledError]

    def test_returns_when_async_generators_and_default_executor_are_shut_down(self):
        seen = []

        async def generator():
            try:
                yield 1
            finally:
                await asyncio.sleep(0)
                seen.append("generator")

        async def main():
            kept.append(generator())
            await kept[0].__anext__()
            asyncio.get_running_loop().run_in_executor(None, release.wait, 10)
            asyncio.get_running_loop().run_in_executor(None, lambda: seen.append("executor"))
            asyncio.get_running_loop().call_soon(release.set)

        kept = []
        release = threading.Event()
        async_to_sync(main)()
        assert sorted(seen) == ["executor", "generator"]

    @pytest.mark.thread_unsafe(reason="there is one table of loops")
    def test_leaves_no_thread_and_no_entry(self):
        async def current():
            return threading.current_thread()

        threads = {async_to_sync(current)() for _ in range(5)}
        assert AsyncToSync.loop_thread_executors == {}
        for thread in threads:
            join_idle(thread)

    def test_uses_whatever_asyncio_run_is(self, monkeypatch):
        """Programs replace it: nest_asyncio, debuggers, uvloop's helpers."""
        calls = []

        def patched(coroutine, **kwargs):
            calls.append(coroutine)
            return original(coroutine, **kwargs)

        original = asyncio.run
        monkeypatch.setattr(asyncio, "run", patched)
        async_to_sync(asyncio.sleep)(0)
        assert len(calls) == 1

    def test_raises_what_asyncio_run_raises(self, monkeypatch):
        def broken(coroutine, **kwargs):
            raise OSError("no loop today")

        monkeypatch.setattr(asyncio, "run", broken)
        with pytest.raises(OSError, match="no loop today"):
            async_to_sync(asyncio.sleep)(0)  # and no "never awaited": warnings are errors

    def test_that_cannot_start_a_thread_says_so(self, monkeypatch):
        def refuse(self):
            raise RuntimeError("can't start new thread")

        _kernel.kernel.end_idle_workers()
        monkeypatch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            async_to_sync(asyncio.sleep)(0)
        monkeypatch.undo()
        assert async_to_sync(asyncio.sleep)(0, "works again") == "works again"

    def test_runs_side_by_side_in_several_threads(self):
        barrier = threading.Barrier(8)

        async def meet(i):
            await asyncio.get_running_loop().run_in_executor(None, barrier.wait, 10)
            return i

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(async_to_sync(meet), range(8))) == list(range(8))

    def test_force_new_loop(self):
        async def loop():
            return asyncio.get_running_loop()

        async def main():
            same = await sync_to_async(async_to_sync(loop))()
            other = await sync_to_async(async_to_sync(loop, force_new_loop=True))()
            return asyncio.get_running_loop(), same, other

        own, same, other = run(main())
        assert own is same is not other

    def test_on_a_loop_that_was_closed_meanwhile_uses_a_new_one(self):
        async def answer():
            return 42

        got = []

        async def main():
            def spawn():
                context = contextvars.copy_context()
                threadlocal = dict(SyncToAsync.threadlocal.__dict__)

                def later():
                    SyncToAsync.threadlocal.__dict__.update(threadlocal)
                    closed.wait(10)
                    got.append(async_to_sync(answer)())

                other = threading.Thread(target=context.run, args=(later,))
                other.start()
                return other

            return await sync_to_async(spawn)()

        closed = threading.Event()
        other = run(main())
        closed.set()
        other.join(10)
        assert got == [42]


class TestAsyncSingleThreadContext:
    def test_an_executor_put_in_is_used(self):
        executor = CountingExecutor()

        async def current():
            return threading.current_thread()

        with AsyncSingleThreadContext() as context:
            AsyncToSync.context_to_thread_executor[context] = executor
            first, second = async_to_sync(current)(), async_to_sync(current)()
        assert first is second
        assert executor.calls == 2
        with pytest.raises(RuntimeError):
            executor.submit(print)

    def test_an_executor_that_drops_the_call_is_no_hang(self):
        class Dropping(Executor):
            def submit(self, fn, /, *args, **kwargs):
                future = Future()
                future.cancel()
                future.set_running_or_notify_cancel()
                return future

        with AsyncSingleThreadContext() as context:
            AsyncToSync.context_to_thread_executor[context] = Dropping()
            with pytest.raises(BaseException) as caught:
                async_to_sync(asyncio.sleep)(0)
        assert "Cancelled" in type(caught.value).__name__

    def test_can_be_entered_again(self):
        async def current():
            return threading.current_thread()

        context = AsyncSingleThreadContext()
        with context:
            first = async_to_sync(current)()
        with context:
            second = async_to_sync(current)()
        assert threading.current_thread() not in (first, second)
        join_idle(first)
        join_idle(second)


class TestNesting:
    def test_fifty_levels(self):
        main_thread = threading.current_thread()

        def down(level):
            assert threading.current_thread() is main_thread
            return async_to_sync(across)(level - 1) if level else 0

        async def across(level):
            return 1 + await sync_to_async(down)(level)

        assert down(50) == 50

    def test_within_a_worker(self):
        async def main():
            async with ThreadSensitiveContext():
                own = await thread()

                def sync(level):
                    assert threading.current_thread() is own
                    return async_to_sync(level_below)(level) if level else 0

                async def level_below(level):
                    return 1 + await sync_to_async(sync)(level - 1)

                return await sync_to_async(sync)(20)

        assert run(main()) == 20


class TestWorkerThread:
    def test_looks_like_any_thread(self):
        async def main():
            return await thread()

        worker = run(main())
        assert type(worker).__mro__[1] is threading.Thread
        assert worker.daemon is False
        assert worker.name.startswith("asgibridge-worker-")
        assert worker in threading.enumerate()

    def test_threads_started_in_it_are_not_daemons(self):
        def start():
            return threading.Thread(target=print).daemon

        assert run(sync_to_async(start)()) is False

    def test_starts_in_an_empty_context(self):
        variable = contextvars.ContextVar("variable")
        seen = []

        class Handler(SyncToAsync):
            def thread_handler(self, loop, *args, **kwargs):
                seen.append(variable.get("unset"))
                return super().thread_handler(loop, *args, **kwargs)

        async def main():
            variable.set("set")
            async with ThreadSensitiveContext():
                assert await Handler(variable.get)() == "set"

        run(main())
        assert seen == ["unset"]


class TestCurrentThreadExecutor:
    def test_runs_what_is_submitted_until_the_future_is_done(self):
        executor = CurrentThreadExecutor(None)
        future: Future[str] = Future()

        def elsewhere():
            result = executor.submit(threading.current_thread).result(10)
            future.set_result(result)

        other = threading.Thread(target=elsewhere)
        other.start()
        executor.run_until_future(future)
        other.join()
        assert future.result() is threading.current_thread()

    def test_cannot_be_run_from_another_thread(self):
        executor = CurrentThreadExecutor(None)
        with ThreadPoolExecutor(1) as pool:
            refused = pool.submit(executor.run_until_future, Future()).exception()
        assert "from a different thread" in str(refused)

    def test_cannot_be_submitted_to_from_its_own_thread(self):
        with pytest.raises(RuntimeError, match="from its own thread"):
            CurrentThreadExecutor(None).submit(print)

    def test_refuses_when_it_has_ended(self):
        executor = CurrentThreadExecutor(CurrentThreadExecutor(None))
        done: Future[None] = Future()
        done.set_result(None)
        executor.run_until_future(done)
        executor._old_executor.run_until_future(done)
        with ThreadPoolExecutor(1) as pool:
            refused = pool.submit(executor.submit, print).exception()
        assert "already quit or is broken" in str(refused)

    def test_passes_on_to_the_frame_further_out(self):
        outer = CurrentThreadExecutor(None)
        inner = CurrentThreadExecutor(outer)
        done: Future[None] = Future()
        done.set_result(None)
        inner.run_until_future(done)
        end: Future[None] = Future()

        def elsewhere():
            try:
                return inner.submit(lambda: 7).result(10)
            finally:
                end.set_result(None)

        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(elsewhere)
            outer.run_until_future(end)
            assert future.result() == 7

    def test_an_exception_goes_to_its_future(self):
        executor = CurrentThreadExecutor(None)
        end: Future[None] = Future()

        def elsewhere():
            future = executor.submit(int, "x")
            try:
                return future.exception(10)
            finally:
                end.set_result(None)

        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(elsewhere)
            executor.run_until_future(end)
            assert isinstance(future.result(), ValueError)
