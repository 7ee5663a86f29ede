"""Exit, fork, multiprocessing and subinterpreters, in shapes that test_interrupts.py leaves out.

Each script is a process of its own that ends by itself or fails with the stacks of its threads.
"""

from __future__ import annotations

import os
import sys

import pytest

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")

IMPORTS = """
    import asyncio, atexit, os, sys, threading, warnings
    warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork in a process with threads
    from asgibridge.sync import (
        AsyncSingleThreadContext, ThreadSensitiveContext, async_to_sync, sync_to_async
    )

    async def bridge(value):
        async with ThreadSensitiveContext():
            await sync_to_async(int)()
            return await sync_to_async(async_to_sync(asyncio.sleep))(0, value)
"""


class TestExit:
    def test_with_daemon_threads_that_bridge_for_ever(self, run_script):
        done = run_script(
            IMPORTS
            + """
    def for_ever():
        while True:
            try:
                async_to_sync(bridge)(1)
            except RuntimeError:  # no thread may be started any more
                return
            begun.set()

    for _ in range(3):
        begun = threading.Event()
        threading.Thread(target=for_ever, daemon=True).start()
        assert begun.wait(10)
    print("main ends", flush=True)
        """
        )
        assert (done.returncode, done.stdout) == (0, "main ends\n"), done.stderr
        assert "Fatal" not in done.stderr

    def test_with_a_daemon_thread_that_waits_for_ever(self, script_output):
        """In a worker of the process, for a task of a loop that the daemon thread runs."""
        assert (
            script_output(
                IMPORTS
                + """
    async def main():
        begun.set()
        await asyncio.sleep(0.2)  # in flight at exit: it is waited for
        print("done", flush=True)

    begun = threading.Event()
    threading.Thread(
        target=lambda: asyncio.run(sync_to_async(async_to_sync(main))()), daemon=True
    ).start()
    assert begun.wait(10)
        """
            )
            == "done"
        )

    def test_os_exit_in_the_middle_of_calls(self, run_script):
        done = run_script(
            IMPORTS
            + """
    def leave():
        print("leaving", flush=True)
        os._exit(7)

    async def main():
        asyncio.ensure_future(sync_to_async(threading.Event().wait, thread_sensitive=False)())
        await sync_to_async(leave)()

    async_to_sync(main)()
        """
        )
        assert (done.returncode, done.stdout, done.stderr) == (7, "leaving\n", "")

    def test_in_a_context_that_is_still_open(self, script_output):
        """With an idle worker, one that is busy, a thread of its own, and a kept loop."""
        assert (
            script_output(
                IMPORTS
                + """
    async_to_sync(asyncio.sleep)(0)
    single = AsyncSingleThreadContext()
    single.__enter__()
    async_to_sync(asyncio.sleep)(0)

    async def main():
        await ThreadSensitiveContext().__aenter__()
        await sync_to_async(int)()
        asyncio.ensure_future(sync_to_async(threading.Event().wait)(0.2))
        await asyncio.sleep(0)

    asyncio.run(main())
    print("ended", flush=True)
        """
            )
            == "ended"
        )

    def test_callbacks_that_bridge_get_an_answer_or_an_error(self, run_script):
        """Registered before and after the import, from a thread too; nothing hangs."""
        done = run_script(
            """
    import atexit
    atexit.register(lambda: attempt("early"))
        """
            + IMPORTS
            + """
    def attempt(name):
        for call in (lambda: async_to_sync(bridge)(1), lambda: asyncio.run(bridge(1))):
            try:
                print(name, call(), flush=True)
            except RuntimeError as error:
                print(name, "thread" in str(error) or "shutdown" in str(error), flush=True)

    atexit.register(attempt, "late")
    async_to_sync(bridge)(1)
        """
        )
        assert done.returncode == 0, done.stderr
        words = [line.split()[0] for line in done.stdout.splitlines()]
        assert words == ["late", "late", "early", "early"], done.stdout + done.stderr
        assert "False" not in done.stdout


@needs_fork
class TestFork:
    FORK = (
        IMPORTS
        + """
    def in_child(function):
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            try:
                function()
                os._exit(0)
            except BaseException:
                import traceback
                traceback.print_exc()
            finally:
                os._exit(1)
        return os.waitpid(pid, 0)[1]

    def child():
        assert async_to_sync(bridge)(1) == 1
        assert asyncio.run(bridge(2)) == 2
        with AsyncSingleThreadContext():
            assert async_to_sync(bridge)(3) == 3
    """
    )

    def test_with_calls_in_flight(self, script_output):
        """Running, queued, in the pool, in async_to_sync; on idle workers and a kept loop."""
        assert (
            script_output(
                self.FORK
                + """
    async_to_sync(bridge)(0)  # leaves a worker and a loop

    async def main():
        release, started = threading.Event(), threading.Event()
        def work():
            started.set()
            release.wait(10)
            return 1
        calls = [asyncio.ensure_future(sync_to_async(work)()) for _ in range(3)]
        calls += [asyncio.ensure_future(sync_to_async(work, thread_sensitive=False)())]
        async with ThreadSensitiveContext():
            async def inner():
                await asyncio.get_running_loop().run_in_executor(None, release.wait, 10)
                return 1
            calls += [asyncio.ensure_future(sync_to_async(async_to_sync(inner))())]
            await asyncio.get_running_loop().run_in_executor(None, started.wait, 10)
            # From a thread that has no part in it.
            status = []
            other = threading.Thread(target=lambda: status.append(in_child(child)))
            other.start()
            await asyncio.get_running_loop().run_in_executor(None, other.join)
            release.set()
            return status, await asyncio.gather(*calls)

    print(asyncio.run(main()))
        """
            )
            == "([0], [1, 1, 1, 1, 1])"
        )

    def test_in_the_middle_of_nested_calls(self, script_output):
        """In a worker's function, three frames deep: the child's calls go to threads of its own."""
        assert (
            script_output(
                self.FORK
                + """
    async def down(n):
        return await sync_to_async(lambda: async_to_sync(down)(n - 1) if n else in_child(child))()

    async def main():
        async with ThreadSensitiveContext():
            return await down(3)

    print(asyncio.run(main()), async_to_sync(down)(3))
        """
            )
            == "0 0"
        )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(script_output, method):
    import multiprocessing

    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this platform has no {method}")
    assert (
        script_output(
            IMPORTS
            + """
    import multiprocessing

    def work(value):
        return async_to_sync(bridge)(value), asyncio.run(bridge(value))

    if __name__ == "__main__":
        async_to_sync(bridge)(0)
        context = multiprocessing.get_context(sys.argv[1])
        with context.Pool(2) as pool:
            print(pool.map(work, range(3)))
            pool.close()
            pool.join()
        """,
            method,
        )
        == "[(0, 0), (1, 1), (2, 2)]"
    )


SUBINTERPRETERS = """
    import sys
    import asgibridge

    CODE = '''if True:
        import asyncio
        import threading
        import asgibridge
        from asgibridge.sync import ThreadSensitiveContext, async_to_sync, sync_to_async

        async def main():
            async with ThreadSensitiveContext():
                nested = await sync_to_async(async_to_sync(asyncio.sleep))(0, "nested")
            return nested, await sync_to_async(int, thread_sensitive=False)("7")

        print(asgibridge.IMPLEMENTATION, *async_to_sync(main)(), *asyncio.run(main()), flush=True)
        for thread in set(threading.enumerate()) - {threading.current_thread()}:
            thread.join()  # before 3.12 destroy() refuses while one is ending
    '''
    own_gil = sys.argv[1] == "own"
    try:
        import _interpreters
    except ImportError:
        import _xxsubinterpreters
        id = _xxsubinterpreters.create(isolated=own_gil)
        _xxsubinterpreters.run_string(id, CODE)
        _xxsubinterpreters.destroy(id)
    else:
        id = _interpreters.create("isolated" if own_gil else "legacy")
        failure = _interpreters.exec(id, CODE)
        _interpreters.destroy(id)
        assert failure is None, failure.errdisplay
    print(asgibridge.IMPLEMENTATION)
"""


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="of CPython")
class TestSubinterpreters:
    """mod_wsgi gives each site one."""

    @pytest.mark.parametrize("gil", ["shared", "own"])
    def test_auto_takes_the_pure_kernel(self, script_output, gil):
        if gil == "own" and sys.version_info < (3, 12):
            pytest.skip("isolated ones have no threads before 3.12")
        if gil == "own" and sys.version_info < (3, 13):
            # asyncio.run(asyncio.to_thread(int)) is enough.
            pytest.skip("in an isolated one CPython 3.12.1 crashes, 3.12.15 hangs, without us too")
        if (3, 12, 1) < sys.version_info[:3] < (3, 13):
            pytest.skip("CPython 3.12.15 hangs in asyncio.to_thread in one, without us too")
        here = script_output("import asgibridge; print(asgibridge.IMPLEMENTATION)", **AUTO)
        assert script_output(SUBINTERPRETERS, gil, **AUTO).splitlines() == [
            "pure nested 7 nested 7",
            here,
        ]

    def test_the_compiled_kernel_cannot_be_required(self, run_script):
        done = run_script(
            SUBINTERPRETERS.replace("import sys\n    import asgibridge\n", "import sys\n"),
            "shared",
            ASGIBRIDGE_SPEEDUPS="require",
        )
        assert done.returncode == 1
        assert "this is a subinterpreter" in done.stderr


AUTO = {"ASGIBRIDGE_SPEEDUPS": "auto"}
