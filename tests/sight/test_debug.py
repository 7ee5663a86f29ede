"""`asgibridge.debug`: in each of the known shapes the dump names who is waited for.

The numbers are asgiref's issues; most of the shapes no longer hang here by themselves, and are made
to by the program's own fault, which is what a dump is for.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import gc
import io
import logging
import os
import signal
import sys
import threading
import time
import weakref

import pytest

from asgibridge import debug
from asgibridge.sync import ThreadSensitiveContext, async_to_sync, sync_to_async

SECONDS = 25  # or less: a machine may be busy
HAS_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()


@pytest.fixture(autouse=True, scope="module")
def fewer_objects():
    """What the tests' own libraries have made would take most of each look's time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def look(until):
    """A snapshot of which ``until`` is true, as of the two before: what it is about may just be
    under way."""
    deadline = time.monotonic() + SECONDS
    in_a_row = 0
    while True:
        seen = debug.snapshot()
        in_a_row = in_a_row + 1 if until(seen) else 0
        if in_a_row == 3:
            return seen
        assert time.monotonic() < deadline, str(seen)
        time.sleep(0.005)


def names(text, *parts):
    return all(part in text for part in parts)


@contextlib.contextmanager
def in_thread(function):
    """``function(end)`` runs in a thread; ``end`` is set, and the thread joined, at the end."""
    end = threading.Event()
    failed = []

    def run():
        try:
            function(end)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="the test's loop")
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join(SECONDS)
    assert failed == []


class TestShapes:
    def test_one_slow_query_that_all_wait_behind(self):
        """#218, #316: all thread-sensitive code is serial."""

        def slow_query(end):
            assert end.wait(SECONDS)

        def quick():
            pass

        def program(end):
            async def main():
                await asyncio.gather(
                    sync_to_async(slow_query)(end), *[sync_to_async(quick)() for _ in range(3)]
                )

            asyncio.run(main())

        with in_thread(program):
            seen = look(
                lambda s: (
                    len(s.calls) == 4
                    and s.culprits
                    and names(s.culprits[0], "slow_query", __file__, "4 calls")
                )
            )
        assert seen.cycles == ()
        running, *queued = sorted(seen.calls, key=lambda call: call.state == "queued")
        assert running.function.startswith("TestShapes.test_one_slow_query")
        assert {call.state for call in queued} == {"queued"}
        assert {call.thread for call in seen.calls} == {running.thread}
        assert all("slow_query" in call.waits_for[-1] for call in queued)
        (thread,) = [t for t in seen.threads if t.name == running.thread]
        assert any(frame.function == "slow_query" for frame in thread.stack)

    def test_a_context_whose_thread_is_blocked(self):
        """#535, #560, #563: a request's exit waits for its last call."""

        def blocked(end):
            assert end.wait(SECONDS)

        def program(end):
            async def main():
                async with ThreadSensitiveContext():
                    task = asyncio.ensure_future(sync_to_async(blocked)(end))
                    await asyncio.sleep(0)
                await task

            asyncio.run(main())

        with in_thread(program):
            seen = look(lambda s: s.culprits and "blocked" in s.culprits[0])
        assert names(seen.culprits[0], "asgibridge-worker", "blocked", __file__)

    def test_a_blocked_event_loop(self):
        """#348, #458: sync code waits for a loop whose thread a coroutine blocks."""
        ready = threading.Event()

        def waits_for_loop(inner):
            ready.set()
            async_to_sync(inner)()

        def program(end):
            async def inner():
                pass

            async def main():
                task = asyncio.ensure_future(sync_to_async(waits_for_loop)(inner))
                await asyncio.sleep(0)
                blocks_the_loop(end)
                await task

            asyncio.run(main())

        def blocks_the_loop(end):
            assert end.wait(SECONDS)

        with in_thread(program):
            assert ready.wait(SECONDS)
            seen = look(
                lambda s: (
                    s.calls and s.calls[0].waits_for[1:] and "in blocks_the_loop" in s.culprits[0]
                )
            )
        (call,) = seen.calls
        assert names(call.waits_for[0], "waits_for_loop", "waits in async_to_sync")
        assert names(call.waits_for[1], "event loop", "the test's loop")
        assert names(seen.culprits[0], "the test's loop", "blocks_the_loop", __file__)

    def test_a_loop_that_was_stopped(self):
        """#525, #528, #545, #562: nobody runs the loop any more."""
        waiting = threading.Event()

        def waits_for_loop(inner, go):
            waiting.set()
            assert go.wait(SECONDS)
            async_to_sync(inner)()

        def program(end):
            async def inner():
                pass

            loop = asyncio.new_event_loop()
            go = threading.Event()
            task = loop.create_task(sync_to_async(waits_for_loop)(inner, go))

            async def until_it_waits():
                while not waiting.is_set():
                    await asyncio.sleep(0.001)

            loop.run_until_complete(until_it_waits())
            go.set()
            assert end.wait(SECONDS)
            try:
                loop.run_until_complete(task)
            finally:
                loop.close()

        with in_thread(program):
            assert waiting.wait(SECONDS)
            seen = look(lambda s: s.culprits and "not running" in s.culprits[0])
        assert names(seen.calls[0].waits_for[0], "waits_for_loop", "async_to_sync")
        assert "nobody will run what was given to it" in seen.culprits[0]

    def test_a_task_that_waits_for_the_task_it_works_for(self):
        """#214, #491, #492, #494: nested calls and tasks that wait for each other."""

        def program(end):
            async def waits_for_outer():
                await asyncio.wait([outer[0]])

            async def main():
                outer.append(asyncio.ensure_future(sync_to_async(async_to_sync(waits_for_outer))()))
                while not end.is_set():
                    await asyncio.sleep(0.001)
                outer[0].cancel()
                await asyncio.wait(outer)

            outer = []
            asyncio.run(main())

        with in_thread(program):
            seen = look(lambda s: [len(cycle) for cycle in s.cycles] == [4])
        (cycle,) = seen.cycles
        text = "\n".join(cycle)
        assert names(text, "the call of", "waits in async_to_sync", "waits_for_outer", "task")
        assert "CYCLE" in str(seen)

    def test_a_chain_of_nested_calls(self):
        """#249: sync in async in sync; the innermost is what all wait for."""

        def program(end):
            def innermost():
                assert end.wait(SECONDS)

            async def second():
                await sync_to_async(innermost)()

            async def first():
                await sync_to_async(async_to_sync(second))()

            async_to_sync(first)()

        with in_thread(program):
            seen = look(lambda s: any("innermost" in call.function for call in s.calls))
            seen = look(lambda s: s.culprits and "innermost" in s.culprits[0])
        assert names(seen.culprits[0], "innermost", "the test's loop")
        assert seen.cycles == ()

    def test_waiting_for_something_that_never_comes(self):
        """A coroutine that a sync function waits for: shown is where it awaits."""

        def program(end):
            async def never():
                while not end.is_set():
                    await asyncio.sleep(0.05)

            async_to_sync(never)()

        with in_thread(program):
            seen = look(lambda s: any("never" in each for each in s.culprits))
        (thread,) = [t for t in seen.threads if t.name == "the test's loop"]
        assert names(thread.waits_for[0], "task", "never")
        (task,) = [t for t in seen.tasks if "never" in t.name]
        assert "never" in [frame.function for frame in task.stack]

    @pytest.mark.skipif(not HAS_GIL, reason="needs a look at another thread's variables")
    def test_a_worker_that_waits_for_its_own_queue(self):
        """run_coroutine_threadsafe(...).result() on the thread that the coroutine needs."""

        def waits_for_itself(loop, inner, end, begun):
            future = asyncio.run_coroutine_threadsafe(inner(), loop)
            begun.set()
            with contextlib.suppress(concurrent.futures.CancelledError):
                future.result(SECONDS)

        def nothing():
            pass

        def program(end):
            tasks = []

            async def inner():
                tasks.append(asyncio.current_task())
                await sync_to_async(nothing)()

            async def main():
                loop = asyncio.get_running_loop()
                begun = threading.Event()
                outer = asyncio.ensure_future(
                    sync_to_async(waits_for_itself)(loop, inner, end, begun)
                )
                while not end.is_set():
                    await asyncio.sleep(0.001)
                tasks[0].cancel()
                await outer

            asyncio.run(main())

        with in_thread(program):
            seen = look(lambda s: s.cycles)
        (cycle,) = seen.cycles
        assert names("\n".join(cycle), "waits_for_itself", "inner", "call of", "nothing")

    @pytest.mark.parametrize("how", ["gather", "wait", "wait_for", "shield", "task"])
    def test_tasks_that_wait_for_tasks(self, how):
        def program(end):
            async def held_up():
                await sync_to_async(functools.partial(end.wait, SECONDS))()

            async def main():
                task = asyncio.ensure_future(held_up())
                if how == "gather":
                    await asyncio.gather(task)
                elif how == "wait":
                    await asyncio.wait([task])
                elif how == "wait_for":
                    await asyncio.wait_for(task, SECONDS)
                elif how == "shield":
                    await asyncio.shield(task)
                else:
                    await task

            async_to_sync(main)()

        with in_thread(program):
            seen = look(
                lambda s: (
                    any("held_up" in "".join(task.waits_for) for task in s.tasks)
                    and any("runs Event.wait" in "".join(task.waits_for) for task in s.tasks)
                )
            )
        (main,) = [task for task in seen.tasks if ".main" in task.name]
        assert names(main.waits_for[0], "task", "held_up")
        assert names(main.waits_for[1], "the call of Event.wait")
        assert names(main.waits_for[2], "the test's loop", "runs Event.wait")


class TestDump:
    def test_to_a_file(self):
        file = io.StringIO()

        async def main():
            debug.dump(file)

        asyncio.run(main())
        text = file.getvalue()
        assert text.startswith(f"asgibridge: process {os.getpid()}, ")
        assert names(text, "Threads:", "MainThread", "Event loops:", "main", "debug.dump(file)")
        # Its own frames are left out.
        assert "_snapshot.py" not in text

    def test_to_standard_error(self, capsys):
        debug.dump()
        assert "Threads:" in capsys.readouterr().err

    def test_keeps_nothing_alive(self, no_gc):
        class Thing:
            def method(self):
                return debug.snapshot()

        async def main():
            thing = Thing()
            seen = await sync_to_async(thing.method)()
            return weakref.ref(thing), seen

        there, seen = asyncio.run(main())
        assert "Thing.method" in seen.calls[0].function
        assert there() is None

    def test_a_loop_of_nobodys(self):
        """One that was made and never run has nothing to show."""
        loop = asyncio.new_event_loop()
        try:
            assert not any(f"{id(loop):#x}" in each for each in debug.snapshot().loops)
        finally:
            loop.close()


class Output:
    """A file that tells when something has been written."""

    def __init__(self):
        self.text = ""
        self.written = threading.Event()

    def write(self, text):
        self.text += text
        self.written.set()


class TestWatch:
    @pytest.fixture(autouse=True)
    def stop(self):
        yield
        debug.unwatch()

    def test_reports_a_stuck_call_once(self):
        output = Output()
        debug.watch(0.02, output)

        def stuck():
            assert output.written.wait(SECONDS)
            output.written.clear()
            # Longer than it takes to look again, several times.
            assert not output.written.wait(0.1)

        asyncio.run(sync_to_async(stuck)())
        assert names(output.text, "a call has been running for more than 0.02 s", "stuck", __file__)
        assert output.text.count("asgibridge: process") == 1

    def test_says_since_when(self):
        output = Output()
        debug.watch(0.05, output)

        def stuck():
            assert output.written.wait(SECONDS)

        asyncio.run(sync_to_async(stuck)())
        assert "stuck" in output.text
        assert " since 0." in output.text

    def test_says_nothing_of_what_is_in_time(self):
        output = Output()
        debug.watch(SECONDS, output)
        asyncio.run(sync_to_async(len)(""))
        debug._watcher.look()
        assert output.text == ""

    @pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
    def test_bad_seconds(self, seconds):
        with pytest.raises(ValueError, match="above 0"):
            debug.watch(seconds)
        with pytest.raises(ValueError, match="above 0"):
            debug.log_slow_calls(seconds)

    def test_by_environment(self, run_script):
        source = """
            import asyncio, threading, sys
            from asgibridge.sync import sync_to_async

            written = threading.Event()

            class Output:
                def write(self, text):
                    sys.__stderr__.write(text)
                    written.set()

                def flush(self):
                    pass

            sys.stderr = Output()

            def stuck_here():
                assert written.wait(30)

            asyncio.run(sync_to_async(stuck_here)())
        """
        done = run_script(source, ASGIBRIDGE_WATCH="0.05")
        assert done.returncode == 0, done.stderr
        assert "stuck_here" in done.stderr
        refused = run_script(source, ASGIBRIDGE_WATCH="soon")
        assert refused.returncode == 1
        assert "ASGIBRIDGE_WATCH='soon': must be a number of seconds" in refused.stderr


class TestSlowCalls:
    @pytest.fixture(autouse=True)
    def stop(self):
        yield
        debug.log_slow_calls(None)

    def test_are_logged(self, caplog):
        debug.log_slow_calls(0.02)

        def slow():
            threading.Event().wait(0.03)

        async def main():
            await sync_to_async(slow)()
            await sync_to_async(len)("")

        with caplog.at_level(logging.WARNING, "asgibridge"):
            asyncio.run(main())
        (record,) = [r for r in caplog.records if "slow" in r.getMessage()]
        assert names(record.getMessage(), "slow", __file__, "took 0.0", "asgibridge-worker")

    def test_a_failing_logger_costs_nobody_anything(self, monkeypatch):
        reported = []
        monkeypatch.setattr(threading, "excepthook", lambda args: reported.append(args.exc_type))

        def fail(*_args):
            raise LookupError

        monkeypatch.setattr(debug._logger, "warning", fail)
        debug.log_slow_calls(1e-9)
        assert asyncio.run(sync_to_async(len)("abc")) == 3
        assert reported == [LookupError]


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signals here")
class TestOnSignal:
    def test_while_the_main_thread_waits(self, script_output):
        """In async_to_sync, where nobody wakes it but what it waits for."""
        source = """
            import asyncio, io, os, signal, threading
            from asgibridge import debug
            from asgibridge.sync import async_to_sync

            class Output(io.StringIO):
                def flush(self):
                    written.set()

            written, output = threading.Event(), Output()

            async def main():
                wait = asyncio.get_running_loop().run_in_executor
                for _ in range(100):  # the threads may just be going to where they wait
                    os.kill(os.getpid(), signal.SIGUSR1)
                    await wait(None, written.wait, 0.3)
                    written.clear()
                    if "waits for task" in output.getvalue():
                        break

            debug.dump_on_signal(signal.SIGUSR1, output)
            async_to_sync(main)()
            debug.no_dump_on_signal(signal.SIGUSR1)
            assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
            print(output.getvalue())
        """
        assert names(script_output(source), "MainThread", "waits for task", "main", "async_to_sync")

    def test_while_the_main_thread_runs_no_python(self, script_output):
        """A C function that does not look at signals: no handler of Python's would run."""
        source = """
            import ctypes, os, signal, threading
            from asgibridge import debug

            class Output:
                def write(self, text):
                    os.write(1, text.splitlines()[0][:19].encode())
                    os._exit(0)

            debug.dump_on_signal(signal.SIGUSR1, Output())
            def kill():
                os.kill(os.getpid(), signal.SIGUSR1)
            threading.Timer(0.05, kill).start()
            libc = ctypes.CDLL(None)
            while True:
                libc.usleep(200000)  # with its own loop, it never comes back for long
        """
        assert script_output(source) == "asgibridge: process"

    def test_a_child_answers_for_itself(self, script_output):
        source = """
            import os, signal, sys, warnings
            from asgibridge import debug

            read, write = os.pipe()

            class Output:
                def write(self, text):
                    os.write(write, (text.split(",")[0] + "|").encode())

            debug.dump_on_signal(signal.SIGUSR1, Output())
            warnings.simplefilter("ignore")
            child = os.fork()
            if child == 0:
                os.kill(os.getpid(), signal.SIGUSR1)
                import time
                time.sleep(30)
            text = os.read(read, 1000).decode()
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            print(text == f"asgibridge: process {child}|")
        """
        assert script_output(source) == "True"

    def test_what_cannot_be_caught(self):
        with pytest.raises(ValueError, match="cannot be caught"):
            debug.dump_on_signal(signal.SIGKILL)
        with pytest.raises(ValueError, match="cannot be caught"):
            debug.dump_on_signal(signal.SIGSEGV)
