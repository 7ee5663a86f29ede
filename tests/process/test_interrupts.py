"""Ctrl-C, exit and fork. Each script is a process of its own that ends by itself or fails."""

from __future__ import annotations

import os
import signal
import sys

import pytest

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="sends itself SIGINT, and forks: POSIX"
)

CTRL_C = """
    import asyncio, os, signal, sys, threading, time
    from asgibridge.sync import AsyncSingleThreadContext, async_to_sync, sync_to_async

    main = threading.main_thread().ident

    def ctrl_c():
        signal.pthread_kill(main, signal.SIGINT)
"""


class TestCtrlC:
    def test_cancels_serves_and_then_raises(self, script_output):
        assert script_output(
            CTRL_C
            + """
    def clean_up():
        print("cleaned up in", threading.current_thread().name)

    async def coroutine():
        try:
            asyncio.get_running_loop().call_soon(ctrl_c)
            await asyncio.sleep(30)
        finally:
            await sync_to_async(clean_up)()

    try:
        async_to_sync(coroutine)()
    except KeyboardInterrupt as error:
        print("interrupted", error.__cause__, signal.getsignal(signal.SIGINT).__name__)
    print(async_to_sync(asyncio.sleep)(0, "and works again"))
        """
        ).splitlines() == [
            "cleaned up in MainThread",
            "interrupted None default_int_handler",
            "and works again",
        ]

    def test_that_the_coroutine_deals_with_is_dealt_with(self, script_output):
        """As with asyncio.Runner."""
        assert (
            script_output(
                CTRL_C
                + """
    async def coroutine():
        try:
            asyncio.get_running_loop().call_soon(ctrl_c)
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            return "dealt with"

    print(async_to_sync(coroutine)())
        """
            )
            == "dealt with"
        )

    def test_while_a_sync_function_runs_does_not_break_into_it(self, script_output):
        assert script_output(
            CTRL_C
            + """
    def work():
        ctrl_c()
        print("worked on")

    async def coroutine():
        await sync_to_async(work)()
        await asyncio.sleep(30)

    try:
        async_to_sync(coroutine)()
    except KeyboardInterrupt:
        print("interrupted")
        """
        ).splitlines() == ["worked on", "interrupted"]

    def test_before_the_coroutine_has_begun(self, script_output):
        assert (
            script_output(
                CTRL_C
                + """
    original = asyncio.run
    def late(coroutine):
        ctrl_c()
        while not signalled.wait(10): pass
        return original(coroutine)
    asyncio.run = late
    signalled = threading.Event()

    import asgibridge.runners as runners
    interrupt = runners.TopLevelRun._interrupt
    def noted(self):
        interrupt(self)
        signalled.set()
    runners.TopLevelRun._interrupt = noted

    try:
        async_to_sync(asyncio.sleep)(30)
    except KeyboardInterrupt:
        print("interrupted")
        """
            )
            == "interrupted"
        )

    @pytest.mark.parametrize("where", ["new thread", "AsyncSingleThreadContext"])
    def test_twice_raises_at_once_and_exit_waits_for_nobody(self, script_output, where):
        assert script_output(
            CTRL_C
            + """
    async def stubborn():
        threading.Thread(target=two_signals).start()
        while True:
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                print("refused", flush=True)
                refused.set()

    def two_signals():
        ctrl_c()
        refused.wait(10)
        ctrl_c()

    refused = threading.Event()
    try:
        if sys.argv[1] == "new thread":
            async_to_sync(stubborn)()
        else:
            with AsyncSingleThreadContext():
                async_to_sync(stubborn)()
    except KeyboardInterrupt:
        print("interrupted")
        """,
            where,
        ).splitlines() == ["refused", "interrupted"]

    def test_twice_while_a_sync_function_runs(self, script_output):
        assert script_output(
            CTRL_C
            + """
    queued = threading.Event()

    def work():
        queued.wait(10)
        ctrl_c()
        print("worked on", flush=True)
        ctrl_c()
        time.sleep(30)

    def never():
        print("must not run")

    async def coroutine():
        tasks = [asyncio.ensure_future(sync_to_async(call)()) for call in (work, never)]
        asyncio.get_running_loop().call_soon(queued.set)  # both tasks begin before that
        while True:
            try:
                await asyncio.wait(tasks)
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                pass

    try:
        async_to_sync(coroutine)()
    except KeyboardInterrupt:
        print("interrupted")
        """
        ).splitlines() == ["worked on", "interrupted"]

    def test_with_a_handler_of_the_users_own(self, script_output):
        """Its exception is raised when the cancelled coroutine has ended."""
        assert script_output(
            CTRL_C
            + """
    class Stop(Exception): pass
    def handler(*_):
        raise Stop
    signal.signal(signal.SIGINT, handler)

    async def coroutine():
        try:
            asyncio.get_running_loop().call_soon(ctrl_c)
            await asyncio.sleep(30)
        finally:
            await sync_to_async(print)("cleaned up")

    try:
        async_to_sync(coroutine)()
    except Stop:
        print("stopped", signal.getsignal(signal.SIGINT) is handler)
        """
        ).splitlines() == ["cleaned up", "stopped True"]

    def test_that_does_not_break_off_the_wait_is_heard_all_the_same(self, script_output):
        """One that comes between the last look for signals and the wait does not; nor does one that
        another thread gets, which can be had at will."""
        assert (
            script_output("""
    import asyncio, signal, threading
    from asgibridge.sync import async_to_sync

    heard = threading.Event()
    signal.signal(signal.SIGUSR1, lambda *_: heard.set())

    async def coroutine():
        await asyncio.sleep(0.05)  # until the main thread waits; were it later, it would hear
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        return heard.wait(10)

    print(async_to_sync(coroutine)())
        """)
            == "True"
        )

    def test_in_the_main_loop_while_a_worker_waits_for_it(self, run_script):
        done = run_script(
            CTRL_C
            + """
    async def inner():
        asyncio.get_running_loop().call_soon(ctrl_c)
        await asyncio.sleep(30)

    asyncio.run(sync_to_async(async_to_sync(inner))())
        """
        )
        assert done.returncode in (1, -signal.SIGINT)
        assert done.stderr.rstrip().endswith("KeyboardInterrupt")


class TestExit:
    def test_waits_for_every_call_in_flight(self, script_output):
        assert (
            script_output("""
    import asyncio, threading
    from asgibridge.sync import async_to_sync, sync_to_async

    async def coroutine():
        await sync_to_async(started.set)()
        await sync_to_async(main.join)()  # the main thread has ended: who is left is waited for
        await sync_to_async(print)("served", threading.active_count() > 2, flush=True)

    main = threading.main_thread()
    started = threading.Event()
    threading.Thread(target=async_to_sync(coroutine)).start()
    started.wait(10)
        """)
            == "served True"
        )

    def test_waits_for_a_function_in_flight(self, script_output):
        """Whose caller does not: the loop is gone."""
        assert (
            script_output("""
    import asyncio, threading
    from asgibridge.sync import sync_to_async

    def work():
        started.set()
        threading.main_thread().join(0.2)
        print("done")

    async def main():
        task = asyncio.ensure_future(sync_to_async(work)())
        await sync_to_async(started.wait, thread_sensitive=False)(10)

    started = threading.Event()
    asyncio.run(main())
        """)
            == "done"
        )

    def test_lets_threads_that_outlive_main_go_on_bridging(self, script_output):
        """Each call on the thread it belongs to."""
        assert (
            script_output("""
    import asyncio, threading
    from asgibridge.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
    thread = sync_to_async(threading.current_thread)

    async def coroutine():
        before = await thread()
        async with ThreadSensitiveContext():
            context_thread = await thread()
            ready.set()
            main.join()
            assert await thread() is context_thread
        assert await thread() is before
        print(await sync_to_async(async_to_sync(asyncio.sleep))(0, "bridged"))

    main = threading.main_thread()
    ready = threading.Event()
    threading.Thread(target=asyncio.run, args=(coroutine(),)).start()
    ready.wait(10)
        """)
            == "bridged"
        )

    @pytest.mark.skipif(
        (3, 12) <= sys.version_info < (3, 12, 2),
        reason="3.12.0 and 3.12.1 start no thread after main has ended (CPython #113964)",
    )
    def test_starts_threads_for_those_that_outlive_main(self, script_output):
        assert (
            script_output("""
    import asyncio, threading
    from asgibridge.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
    thread = sync_to_async(threading.current_thread)

    async def coroutine():
        async with ThreadSensitiveContext():
            assert await thread() is await thread()
        return "bridged"

    def outlive():
        main.join()
        print(asyncio.run(coroutine()), async_to_sync(coroutine)())

    main = threading.main_thread()
    threading.Thread(target=outlive).start()
        """)
            == "bridged bridged"
        )

    @pytest.mark.skipif(
        (3, 12) <= sys.version_info < (3, 12, 2),
        reason="3.12.0 and 3.12.1 start no thread after main has ended (CPython #113964)",
    )
    def test_lets_a_pools_last_call_bridge(self, script_output):
        """concurrent.futures waits for it, before we end our threads."""
        assert (
            script_output("""
    import asyncio, threading, time
    from concurrent.futures import ThreadPoolExecutor
    import concurrent.futures.thread as threads
    from asgibridge.sync import async_to_sync, sync_to_async

    def work():
        started.set()
        while not threads._shutdown:
            time.sleep(0.01)
        async def coroutine():
            return await sync_to_async(int)("7")
        print(async_to_sync(coroutine)(), asyncio.run(coroutine()))

    started = threading.Event()
    asyncio.run(sync_to_async(int)())
    pool = ThreadPoolExecutor(1)
    pool.submit(work)
    started.wait(10)
        """)
            == "7 7"
        )

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
    def test_of_a_forked_multiprocessing_child_waits_too(self, script_output):
        """It leaves without atexit."""
        assert (
            script_output("""
    import asyncio, multiprocessing, threading, time, warnings
    from asgibridge.sync import sync_to_async

    warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork in a process with threads

    def child():
        def work():
            started.set()
            time.sleep(0.2)
            print("done", flush=True)

        async def main():
            asyncio.ensure_future(sync_to_async(work)())
            await asyncio.get_running_loop().run_in_executor(None, started.wait, 10)

        started = threading.Event()
        asyncio.run(main())

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(20)
        """)
            == "done"
        )

    def test_in_atexit_there_is_an_answer_or_a_clear_error(self, run_script):
        done = run_script("""
    import asyncio, atexit
    from asgibridge.sync import async_to_sync, sync_to_async

    def at_exit():
        try:
            print(async_to_sync(asyncio.sleep)(0, "answer"))
        except RuntimeError as error:
            print("error:", error)

    atexit.register(at_exit)
    asyncio.run(sync_to_async(int)())
        """)
        assert done.returncode == 0
        assert done.stderr == ""
        assert done.stdout.strip() == "answer" or "shutdown" in done.stdout

    def test_of_an_idle_process_is_quick(self, script_output):
        assert (
            script_output("""
    import asyncio
    from asgibridge.sync import ThreadSensitiveContext, sync_to_async

    async def main():
        context = ThreadSensitiveContext()
        await context.__aenter__()
        await sync_to_async(print)("a context never left")

    asyncio.run(main())
        """)
            == "a context never left"
        )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
class TestFork:
    FORK = """
    import asyncio, os, sys, threading, warnings
    warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork in a process with threads
    from asgibridge.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
    thread = sync_to_async(threading.current_thread)

    def in_child(function):
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            try:
                function()
                os._exit(0)
            finally:
                os._exit(1)
        return os.waitpid(pid, 0)[1]
    """

    def test_sync_to_async_works_in_the_child(self, script_output):
        """With asgiref it hangs if it was used in the parent."""
        assert (
            script_output(
                self.FORK
                + """
    def child():
        assert asyncio.run(thread()).name != parents.name
        assert asyncio.run(thread()) in threading.enumerate()

    parents = asyncio.run(thread())
    print(in_child(child), asyncio.run(thread()) is parents)
        """
            )
            == "0 True"
        )

    def test_of_a_worker_in_the_middle_of_a_call(self, script_output):
        assert (
            script_output(
                self.FORK
                + """
    def child():
        assert async_to_sync(asyncio.sleep)(0, "top level") == "top level"
        assert asyncio.run(thread()) is not threading.current_thread()
        async def main():
            async with ThreadSensitiveContext():
                assert await thread() is await thread()
        asyncio.run(main())

    async def main():
        async with ThreadSensitiveContext():
            return await sync_to_async(in_child)(child)
    print(asyncio.run(main()), asyncio.run(sync_to_async(in_child)(child)))
        """
            )
            == "0 0"
        )

    def test_of_the_loops_thread_while_another_waits(self, script_output):
        assert (
            script_output(
                self.FORK
                + """
    def child():
        # The frame that serves us belongs to a thread that is not here.
        assert asyncio.run(thread()) is not threading.main_thread()

    async def main():
        loop = asyncio.get_running_loop()
        asyncio._set_running_loop(None)
        try:
            return in_child(child)
        finally:
            asyncio._set_running_loop(loop)

    print(async_to_sync(main)())
        """
            )
            == "0"
        )

    def test_a_context_of_the_parent_works_in_the_child(self, script_output):
        assert (
            script_output(
                self.FORK
                + """
    async def main():
        async with ThreadSensitiveContext():
            parents = await thread()
            loop = asyncio.get_running_loop()
            def child():
                asyncio._set_running_loop(None)
                assert asyncio.run(thread()).name != parents.name
            status = in_child(child)
            assert await thread() is parents
            return status

    print(asyncio.run(main()))
        """
            )
            == "0"
        )
