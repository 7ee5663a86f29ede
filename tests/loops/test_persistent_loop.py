"""AsyncSingleThreadContext(persistent_loop=True): one event loop for all calls of a block."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import os
import signal
import sys
import threading
import weakref
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import pytest

from asgibridge.iterators import async_to_sync_context_manager
from asgibridge.local import Local
from asgibridge.sync import AsyncSingleThreadContext, AsyncToSync, async_to_sync, sync_to_async

SECONDS = 20

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


def persistent():
    return AsyncSingleThreadContext(persistent_loop=True)


@async_to_sync
async def loop_of_call():
    return asyncio.get_running_loop()


@async_to_sync
async def thread_of_call():
    return threading.current_thread()


class TestOneLoop:
    @pytest.mark.thread_unsafe(reason="looks at all loops there are")
    def test_for_all_calls(self):
        with persistent():
            loop, thread = loop_of_call(), thread_of_call()
            assert loop_of_call() is loop
            assert thread_of_call() is thread
            assert loop.is_running()
        assert loop.is_closed()
        assert AsyncToSync.loop_thread_executors == {}
        assert loop_of_call() is not loop

    def test_another_one_after_the_block(self):
        context = persistent()
        with context:
            first = loop_of_call()
        with context:
            second = loop_of_call()
            assert not second.is_closed()
        assert first is not second
        assert first.is_closed()
        assert second.is_closed()

    @pytest.mark.thread_unsafe(reason="counts all threads")
    def test_none_is_made_where_nothing_is_called(self):
        before = threading.active_count()
        with persistent():
            assert threading.active_count() == before

    def test_what_is_bound_to_it_lives_across_calls(self):
        server, client = [], []

        async def start():
            async def echo(reader, writer):
                while True:
                    line = await reader.readline()
                    if not line:
                        break
                    writer.write(line)
                writer.close()

            server.append(await asyncio.start_server(echo, "127.0.0.1", 0))
            port = server[0].sockets[0].getsockname()[1]
            client.extend(await asyncio.open_connection("127.0.0.1", port))

        async def ask(line):
            client[1].write(line)
            return await client[0].readline()

        async def stop():
            client[1].close()
            with contextlib.suppress(ConnectionError):
                await client[1].wait_closed()
            server[0].close()

        with persistent():
            async_to_sync(start)()
            for line in (b"one\n", b"two\n"):
                assert async_to_sync(ask)(line) == line
            async_to_sync(stop)()

    def test_runs_between_the_calls(self):
        came = threading.Event()

        async def leave_task():
            async def later():
                await asyncio.sleep(0.001)
                came.set()

            return asyncio.ensure_future(later())

        with persistent():
            task = async_to_sync(leave_task)()
            assert came.wait(SECONDS)
        assert task.done()

    def test_results_errors_and_context_variables_as_ever(self):
        variable = contextvars.ContextVar("variable", default=0)

        async def add(number):
            variable.set(variable.get() + number)
            if number > 2:
                raise KeyError(number)
            return variable.get()

        with persistent():
            assert async_to_sync(add)(1) == 1
            assert async_to_sync(add)(2) == 3
            with pytest.raises(KeyError):
                async_to_sync(add)(3)
            assert variable.get() == 6

    def test_thread_sensitive_code_runs_on_the_calling_thread(self):
        async def inner():
            return asyncio.get_running_loop(), threading.current_thread()

        def sync():
            return threading.current_thread(), async_to_sync(inner)()

        async def main():
            return asyncio.get_running_loop(), await sync_to_async(sync)()

        with persistent():
            loop, (thread, (inner_loop, inner_thread)) = async_to_sync(main)()
            assert thread is threading.current_thread()
            assert inner_loop is loop
            assert inner_thread is thread_of_call()

    def test_force_new_loop(self):
        async def loop():
            return asyncio.get_running_loop()

        with persistent():
            one = loop_of_call()
            assert async_to_sync(loop, force_new_loop=True)() is not one
            assert loop_of_call() is one

    def test_changes_nothing_where_a_loop_waits(self):
        async def main():
            def sync():
                with persistent():
                    return loop_of_call()

            assert await sync_to_async(sync)() is asyncio.get_running_loop()

        asyncio.run(main())

    def test_locals_of_the_caller(self):
        local = Local()
        local.value = 1

        async def main():
            local.value += 1

            async def child():
                return local.value

            return await asyncio.ensure_future(child())

        with persistent():
            assert async_to_sync(main)() == 2
            assert async_to_sync(main)() == 3

    def test_loop_of_the_policy(self, uvloop_by_policy):
        with persistent():
            loop = loop_of_call()
            assert isinstance(loop, uvloop_by_policy)
            assert loop_of_call() is loop
            assert async_to_sync(sync_to_async(int))("5") == 5
        assert loop.is_closed()


class TestSeveralThreads:
    def test_with_copies_of_the_context_share_the_loop(self):
        loops, threads_of_sync = [], []
        barrier = threading.Barrier(4)

        async def main():
            thread = await sync_to_async(threading.current_thread)()
            threads_of_sync.append(thread is threads[asyncio.current_task()])
            return asyncio.get_running_loop()

        threads = {}

        async def call(thread):
            threads[asyncio.current_task()] = thread
            return await main()

        def caller():
            barrier.wait(SECONDS)
            for _ in range(10):
                loops.append(async_to_sync(call)(threading.current_thread()))

        with persistent():
            workers = [
                threading.Thread(target=contextvars.copy_context().run, args=(caller,))
                for _ in range(4)
            ]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join(SECONDS)
            assert len(loops) == 40
            assert set(loops) == {loop_of_call()}
        assert threads_of_sync == [True] * 40

    def test_have_their_own_locals(self):
        local = Local()
        got = []

        async def main():
            await asyncio.sleep(0)
            return getattr(local, "value", None)

        def caller(value):
            local.value = value
            got.append((value, async_to_sync(main)()))

        with persistent():
            local.value = 0
            assert async_to_sync(main)() == 0
            for number in (1, 2):
                copy = contextvars.copy_context()
                thread = threading.Thread(target=copy.run, args=(caller, number))
                thread.start()
                thread.join(SECONDS)
        assert got == [(1, 1), (2, 2)]

    def test_leaving_waits_for_their_calls(self):
        inside, go_on, left = threading.Event(), threading.Event(), threading.Event()
        got = []

        async def main():
            inside.set()
            await asyncio.get_running_loop().run_in_executor(None, go_on.wait, SECONDS)
            left.wait(0)
            return "done"

        def caller():
            got.append(async_to_sync(main)())

        context = persistent()
        with context:
            thread = threading.Thread(target=contextvars.copy_context().run, args=(caller,))
            late = contextvars.copy_context()
            thread.start()
            assert inside.wait(SECONDS)
            loop = late.run(loop_of_call)
            threading.Timer(0.01, go_on.set).start()
        thread.join(SECONDS)
        assert got == ["done"]
        assert loop.is_closed()
        # Who has a copy of the context goes on as outside.
        assert late.run(loop_of_call) is not loop


class TestNestedBlocks:
    def test_join_the_outermost(self):
        with persistent():
            loop = loop_of_call()
            for inner in (persistent(), AsyncSingleThreadContext()):
                with inner:
                    assert loop_of_call() is loop
                assert loop_of_call() is loop

    def test_within_one_that_has_no_loop(self):
        with AsyncSingleThreadContext():
            thread = thread_of_call()
            with persistent():
                loop = loop_of_call()
                assert loop_of_call() is loop
            assert loop.is_closed()
            assert thread_of_call() is thread


class TestLeaving:
    def test_ends_the_loop_as_asyncio_run_does(self):
        happened = []
        sync_threads = []

        async def main():
            async def sleeper():
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    # Nobody's frame is left but that of who leaves the block.
                    sync_threads.append(await sync_to_async(threading.current_thread)())
                    happened.append("cancelled")
                    raise

            async def generator():
                try:
                    yield 1
                finally:
                    happened.append("generator")

            kept.append(generator())
            await kept[0].__anext__()
            kept.append(asyncio.ensure_future(sleeper()))
            await asyncio.sleep(0)
            await asyncio.get_running_loop().run_in_executor(None, int)
            return asyncio.get_running_loop()._default_executor

        kept = []
        with persistent():
            executor = async_to_sync(main)()
            assert happened == []
        assert happened == ["cancelled", "generator"]
        assert sync_threads == [threading.current_thread()]
        assert [thread.is_alive() for thread in executor._threads] == [False]

    def test_before_what_is_open_whose_end_needs_the_thread(self):
        """It is cancelled, and its own sync code comes to this thread all the same."""
        threads = []

        @contextlib.asynccontextmanager
        async def manager():
            try:
                yield
            finally:
                threads.append(await sync_to_async(threading.current_thread)())

        opened = async_to_sync_context_manager(manager())
        with persistent():
            opened.__enter__()
        assert threads == [threading.current_thread()]
        with pytest.raises(RuntimeError, match="has ended"):
            opened.__exit__(None, None, None)

    def test_with_an_error(self):
        with pytest.raises(KeyError):
            with persistent():
                loop = loop_of_call()
                raise KeyError
        assert loop.is_closed()

    def test_in_a_running_loop(self):
        async def main():
            def sync():
                return async_to_sync(noop, force_new_loop=True)()

            async def noop():
                return 5

            with persistent():
                assert await sync_to_async(sync)() == 5

        asyncio.run(main())

    def test_leaves_nothing(self, no_gc):
        class Thing:
            pass

        async def main(thing):
            return weakref.ref(thing)

        with persistent() as context:
            gone = async_to_sync(main)(Thing())
            loop_of_call()
            assert gone() is None
        gone = weakref.ref(context)
        del context
        gc.collect()
        assert gone() is None

    def test_a_context_that_is_dropped(self):
        def enter():
            context = persistent()
            context.__enter__()
            return thread_of_call()

        thread = contextvars.Context().run(enter)
        loop_closed = threading.Event()
        # Compiled, the worker may be kept for others; its loop is not.
        for _ in range(SECONDS * 1000):
            gc.collect()  # each time: the loop's thread may still be letting go of the call
            if not AsyncToSync.loop_thread_executors and not _loops_running(thread):
                loop_closed.set()
                break
            loop_closed.wait(0.001)
        assert loop_closed.is_set()

    def test_exit_without_leaving(self, script_output):
        assert (
            script_output(
                """
                import asyncio, threading
                from asgibridge.sync import AsyncSingleThreadContext, async_to_sync, sync_to_async

                def cancelled():
                    print("cancelled on", threading.current_thread().name, flush=True)

                async def main():
                    async def sleeper():
                        try:
                            await asyncio.Event().wait()
                        finally:
                            await sync_to_async(cancelled)()
                    global task
                    task = asyncio.ensure_future(sleeper())
                    await asyncio.sleep(0)

                context = AsyncSingleThreadContext(persistent_loop=True)
                context.__enter__()
                async_to_sync(main)()
                print("end", flush=True)
                """
            )
            == "end\ncancelled on MainThread"
        )


def _loops_running(thread):
    frame = sys._current_frames().get(thread.ident)
    while frame is not None:
        if frame.f_code.co_name == "run_forever":
            return True
        frame = frame.f_back
    return False


class TestErrors:
    def test_a_system_exit_ends_the_loop(self):
        async def leave():
            async def later():
                raise SystemExit(3)

            tasks.append(asyncio.ensure_future(later()))
            await asyncio.Event().wait()

        tasks = []

        with persistent():
            first = loop_of_call()
            with pytest.raises(SystemExit):
                async_to_sync(leave)()
            second = loop_of_call()
            assert first is not second
            assert first.is_closed()
        assert second.is_closed()
        assert isinstance(tasks[0].exception(), SystemExit)

    @pytest.mark.parametrize("next_call", [False, True])
    def test_between_two_calls(self, next_call):
        ended = threading.Event()

        async def leave():
            async def later():
                await asyncio.sleep(0.001)
                ended.set()
                raise SystemExit(3)

            return asyncio.ensure_future(later())

        with pytest.raises(SystemExit):
            with persistent():
                task = async_to_sync(leave)()
                assert ended.wait(SECONDS)
                while next_call:
                    loop_of_call()
        assert isinstance(task.exception(), SystemExit)

    def test_a_loop_that_is_stopped(self):
        async def stop():
            asyncio.get_running_loop().stop()
            await asyncio.Event().wait()

        with persistent():
            with pytest.raises(RuntimeError, match="stopped before"):
                async_to_sync(stop)()
            assert not loop_of_call().is_closed()

    def test_a_loop_that_cannot_be_made(self, monkeypatch):
        def fail():
            raise OSError("no loop today")

        with persistent():
            with monkeypatch.context() as patched:
                patched.setattr(asyncio, "new_event_loop", fail)
                with pytest.raises(OSError, match="no loop today"):
                    loop_of_call()
            assert loop_of_call() is loop_of_call()

    def test_a_thread_that_cannot_be_started(self):
        class Refusing(Executor):
            def submit(self, fn, /, *args, **kwargs):
                raise RuntimeError("no thread today")

        with persistent() as context:
            AsyncToSync.context_to_thread_executor[context] = Refusing()
            with pytest.raises(RuntimeError, match="no thread today"):
                loop_of_call()

    def test_an_executor_that_drops_the_call_is_no_hang(self):
        class Dropping(Executor):
            def submit(self, fn, /, *args, **kwargs):
                future = Future()
                future.cancel()
                future.set_running_or_notify_cancel()
                return future

        with persistent() as context:
            AsyncToSync.context_to_thread_executor[context] = Dropping()
            with pytest.raises(BaseException) as caught:
                loop_of_call()
        assert "Cancelled" in type(caught.value).__name__

    def test_an_executor_put_in_is_used(self):
        with ThreadPoolExecutor(1, thread_name_prefix="mine") as executor:
            with persistent() as context:
                AsyncToSync.context_to_thread_executor[context] = executor
                assert thread_of_call().name == "mine_0"
                assert loop_of_call() is loop_of_call()


@needs_signals
@pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="needs the main thread"
)
class TestInterrupts:
    @pytest.mark.thread_unsafe(reason="signals go to the main thread")
    def test_the_first_cancels_the_call_alone(self):
        other = []

        async def leave_task():
            other.append(asyncio.ensure_future(asyncio.Event().wait()))

        async def main():
            os.kill(os.getpid(), signal.SIGINT)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                other.append("cancelled")
                raise

        with persistent():
            async_to_sync(leave_task)()
            loop = loop_of_call()
            with pytest.raises(KeyboardInterrupt):
                async_to_sync(main)()
            assert other[1:] == ["cancelled"]
            assert not other[0].done()
            assert loop_of_call() is loop
        assert other[0].cancelled()

    @pytest.mark.thread_unsafe(reason="signals go to the main thread")
    def test_the_second_abandons_the_thread(self):
        go_on = threading.Event()
        inside = threading.Event()

        async def main():
            os.kill(os.getpid(), signal.SIGINT)
            try:
                await asyncio.Event().wait()
            finally:  # the first has been seen, so the second is another
                inside.set()
                go_on.wait(SECONDS)  # stuck, with the loop

        def second():
            assert inside.wait(SECONDS)
            os.kill(os.getpid(), signal.SIGINT)

        with persistent():
            loop = loop_of_call()
            killer = threading.Thread(target=second)
            killer.start()
            with pytest.raises(KeyboardInterrupt):
                async_to_sync(main)()
            killer.join(SECONDS)
            assert loop_of_call() is not loop
        go_on.set()
        for _ in range(SECONDS * 1000):
            if loop.is_closed():
                break
            inside.clear()
            inside.wait(0.001)
        assert loop.is_closed()


@needs_fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
class TestFork:
    def test_the_child_begins_anew(self):
        with persistent():
            loop = loop_of_call()
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    code = (
                        0 if loop_of_call() is not loop and loop_of_call() is loop_of_call() else 2
                    )
                finally:
                    os._exit(code)
            assert os.waitpid(pid, 0)[1] == 0
            assert loop_of_call() is loop

    def test_the_child_leaves_the_block(self, script_output):
        assert (
            script_output(
                """
                import os, warnings
                warnings.simplefilter("ignore", DeprecationWarning)
                from asgibridge.sync import AsyncSingleThreadContext, async_to_sync

                async def main():
                    return 5

                with AsyncSingleThreadContext(persistent_loop=True):
                    async_to_sync(main)()
                    pid = os.fork()
                    if pid:
                        assert os.waitpid(pid, 0)[1] == 0
                        assert async_to_sync(main)() == 5
                print("left", flush=True)
                if not pid:
                    os._exit(0)  # the watchdog of this script is not in the child, and waited for
                """
            )
            == "left\nleft"
        )
