"""`runners.shared_loop`: one event loop for all the top-level calls of a process."""

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
from concurrent.futures import Executor, ThreadPoolExecutor

import anyio
import pytest

import children
from asgibridge import debug
from asgibridge._loops import shared as shared_loops
from asgibridge._loops.persistent import PersistentLoop
from asgibridge._process import threads
from asgibridge.iterators import async_to_sync_context_manager, async_to_sync_iterator
from asgibridge.local import Local
from asgibridge.runners import SharedLoop, shared_loop
from asgibridge.sync import (
    AsyncSingleThreadContext,
    AsyncToSync,
    ThreadSensitiveContext,
    async_to_sync,
    sync_to_async,
)
from threads import until_gone

pytestmark = pytest.mark.thread_unsafe(reason="the loop is the whole process's")

SECONDS = 20
MANY = 50

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


class Broken(Exception):
    pass


@pytest.fixture
def shared():
    with shared_loop() as handle:
        yield handle
    assert shared_loops.in_force is None
    assert AsyncToSync.loop_thread_executors == {}


@async_to_sync
async def loop_of_call():
    return asyncio.get_running_loop()


@async_to_sync
async def thread_of_call():
    return threading.current_thread()


@async_to_sync
async def new_event():
    """An event of the loop's, for others to wait for."""
    return asyncio.Event()


@async_to_sync
async def set_event(event):
    event.set()


class Callers:
    """Threads that each call ``function(number)``, all told to begin at the same moment."""

    def __init__(self, count, function):
        self.outcomes = [None] * count
        self._barrier = threading.Barrier(count)
        self.threads = [
            threading.Thread(target=self._call, args=(number, function)) for number in range(count)
        ]
        for thread in self.threads:
            thread.start()

    def _call(self, number, function):
        self._barrier.wait(SECONDS)
        try:
            self.outcomes[number] = function(number)
        except BaseException as error:
            self.outcomes[number] = error

    def join(self):
        for thread in self.threads:
            thread.join(SECONDS)
            assert not thread.is_alive()
        return self.outcomes


class InFlight:
    """A call of another thread, which waits on the shared loop until it is told to end."""

    def __init__(self):
        self._event = new_event()
        self._inside = threading.Event()

        async def wait():
            self._inside.set()
            await self._event.wait()
            return await sync_to_async(threading.current_thread)()

        self._callers = Callers(1, lambda _: async_to_sync(wait)())
        assert self._inside.wait(SECONDS)

    def end(self):
        set_event(self._event)
        assert self._callers.join() == self._callers.threads

    def join(self):
        return self._callers.join()[0]


class TestSwitch:
    def test_is_off_at_first(self):
        assert loop_of_call().is_closed()
        assert thread_of_call().name != shared_loops.THREAD_NAME

    def test_one_loop_on_one_thread_for_all_threads(self, shared):
        loop, thread = loop_of_call(), thread_of_call()
        assert thread.name == "asgibridge-shared-loop"
        assert loop.is_running()
        assert (
            Callers(4, lambda _: (loop_of_call(), thread_of_call())).join() == [(loop, thread)] * 4
        )

    def test_begins_with_the_first_call(self, shared):
        before = threading.active_count()
        assert not shared.is_running
        assert repr(shared) == "<SharedLoop: on, not running>"
        assert threading.active_count() == before
        loop_of_call()
        assert shared.is_running
        assert repr(shared) == "<SharedLoop: on, running>"

    def test_close_ends_it_and_the_next_call_begins_anew(self, shared):
        loop, thread = loop_of_call(), thread_of_call()
        shared.close()
        assert loop.is_closed()
        assert not thread.is_alive()
        assert not shared.is_running
        shared.close()  # there is none to close
        second = loop_of_call()
        assert second is not loop
        assert second.is_running()

    def test_leaving_the_block_switches_it_off(self):
        with shared_loop() as handle:
            assert isinstance(handle, SharedLoop)
            loop = loop_of_call()
            with shared_loop() as inner:
                assert inner is handle
                assert loop_of_call() is loop
            assert loop_of_call() is loop
        assert loop.is_closed()
        assert loop_of_call().is_closed()

    def test_switch_off(self):
        handle = shared_loop()
        try:
            loop = loop_of_call()
            with shared_loop():
                assert loop_of_call() is loop
            assert loop_of_call() is loop  # it was on before the block
        finally:
            handle.switch_off()
        assert loop.is_closed()
        assert loop_of_call().is_closed()
        with handle:
            loop = loop_of_call()
            assert loop.is_running()
        assert loop.is_closed()

    @pytest.mark.parametrize("persistent", [False, True])
    def test_a_block_of_a_thread_comes_first(self, shared, persistent):
        loop, thread = loop_of_call(), thread_of_call()
        with AsyncSingleThreadContext(persistent_loop=persistent):
            assert loop_of_call() is not loop
            assert thread_of_call() is not thread
        assert loop_of_call() is loop

    def test_a_block_that_was_left_changes_nothing(self, shared):
        with AsyncSingleThreadContext(persistent_loop=True):
            context = contextvars.copy_context()
            own = loop_of_call()
        assert context.run(loop_of_call) is loop_of_call() is not own

    def test_force_new_loop(self, shared):
        async def loop():
            return asyncio.get_running_loop()

        one = loop_of_call()
        assert async_to_sync(loop, force_new_loop=True)() is not one
        with async_to_sync_context_manager(Manager(), force_new_loop=True) as entered:
            assert entered.loop is not one
        assert loop_of_call() is one

    def test_where_a_loop_waits_calls_go_there(self, shared):
        async def main():
            return await sync_to_async(loop_of_call)() is asyncio.get_running_loop()

        assert asyncio.run(main())
        assert async_to_sync(main)()
        assert async_to_sync(main, force_new_loop=True)()

    def test_not_on_the_thread_of_a_loop(self, shared):
        async def main():
            with pytest.raises(RuntimeError, match="just await"):
                loop_of_call()

        async_to_sync(main)()
        asyncio.run(main())

    def test_by_the_environment(self, tmp_path):
        program = (
            "import asyncio\n"
            "from asgibridge.runners import shared_loop\n"
            "from asgibridge.sync import async_to_sync\n"
            "async def loop():\n    return asyncio.get_running_loop()\n"
            "one = async_to_sync(loop)()\n"
            "with shared_loop():\n    assert async_to_sync(loop)() is one\n"
            "print(async_to_sync(loop)() is one, one.is_running())\n"
        )
        done = children.run("-c", program, cwd=tmp_path, ASGIBRIDGE_LOOP="shared")
        assert (done.stdout, done.stderr) == ("True True\n", "")

    def test_a_bad_value_names_the_good_one(self, tmp_path):
        done = children.run("-c", "import asgibridge.sync", cwd=tmp_path, ASGIBRIDGE_LOOP="share")
        said = "ValueError: ASGIBRIDGE_LOOP='share': must be shared (or unset)"
        assert done.stderr.splitlines()[-1] == said

    def test_of_the_policys_kind(self, uvloop_by_policy, shared):
        loop = loop_of_call()
        assert isinstance(loop, uvloop_by_policy)
        assert Callers(4, lambda _: loop_of_call()).join() == [loop] * 4
        assert async_to_sync(sync_to_async(int))("5") == 5
        shared.close()
        assert loop.is_closed()

    def test_in_debug_mode(self, shared, monkeypatch):
        monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
        loop = loop_of_call()
        assert loop.get_debug()
        assert async_to_sync(sync_to_async(int))("5") == 5


class TestManyCallers:
    def test_each_has_its_own_thread_variables_and_locals(self, shared):
        """All of them in the middle of their calls at the same time."""
        variable, local = contextvars.ContextVar("variable"), Local()
        all_here, here = new_event(), []

        async def child(number):
            await asyncio.sleep(0)
            assert (variable.get(), local.value) == (number, number)
            thread = await sync_to_async(threading.current_thread)()
            local.value = "the child's own"
            return thread

        def sync_code(number):
            assert (variable.get(), local.value) == (number, number)
            variable.set(-number)
            local.value = -number
            return threading.current_thread(), async_to_sync(inner)(number)

        async def inner(number):
            assert (variable.get(), local.value) == (-number, -number)
            variable.set(number)
            local.value = number
            task = asyncio.ensure_future(child(number))
            return await task, asyncio.get_running_loop()

        async def main(number):
            here.append(number)
            if len(here) == MANY:
                all_here.set()
            await all_here.wait()
            thread, (inner_thread, loop) = await sync_to_async(sync_code)(number)
            gathered = await asyncio.gather(*(child(number) for _ in range(3)))
            async with ThreadSensitiveContext():  # the frame comes first
                gathered.append(await sync_to_async(threading.current_thread)())
            assert AsyncToSync.loop_thread_executors == {}
            variable.set(("done", variable.get()))
            local.value = ("done", local.value)
            return loop, {thread, inner_thread, *gathered}

        def call(number):
            variable.set(number)
            local.value = number
            loop, found = async_to_sync(main)(number)
            assert found == {threading.current_thread()}
            return loop, variable.get(), local.value

        loop = loop_of_call()
        assert Callers(MANY, call).join() == [
            (loop, ("done", number), ("done", number)) for number in range(MANY)
        ]

    def test_one_after_the_other_on_few_threads(self, shared):
        def call(number):
            return async_to_sync(sync_to_async(lambda: (number, threading.current_thread())))()

        with ThreadPoolExecutor(8) as pool:

            def check(number):
                return call(number) == (number, threading.current_thread())

            assert all(pool.map(check, range(400)))

    def test_an_error_is_its_callers(self, shared):
        async def main(number):
            await asyncio.sleep(0)
            if number % 2:
                raise Broken(number)
            return number

        found = Callers(8, lambda number: async_to_sync(main)(number)).join()
        assert found[::2] == [0, 2, 4, 6]
        assert [(type(each), each.args) for each in found[1::2]] == [
            (Broken, (number,)) for number in (1, 3, 5, 7)
        ]

    def test_values_of_a_thread_whose_context_was_copied_are_not_seen(self, shared):
        local = Local()
        local.value = "the main thread's"
        context = contextvars.copy_context()

        async def look():
            async def child():
                return getattr(local, "value", None)

            return getattr(local, "value", None), await asyncio.ensure_future(child())

        assert async_to_sync(look)() == (local.value, local.value)
        copied = Callers(1, lambda _: context.run(async_to_sync(look))).join()
        assert copied == [(None, None)]

    def test_a_call_leaves_nothing(self, shared, no_gc):
        class Thing:
            pass

        async def main(thing):
            await sync_to_async(lambda: None)()
            return weakref.ref(thing)

        gone = async_to_sync(main)(Thing())
        assert until_gone(gone)

    def test_what_is_bound_to_the_loop_is_for_all(self, shared):
        """A pool of connections, as a client has one, keeps them: few are opened."""
        accepted, idle = [], []

        async def serve():
            async def answer(reader, writer):
                accepted.append(asyncio.current_task())
                while line := await reader.readline():
                    writer.write(line)
                writer.close()

            return await asyncio.start_server(answer, "127.0.0.1", 0)

        server = async_to_sync(serve)()
        port = server.sockets[0].getsockname()[1]

        async def fetch(text):
            reader, writer = (
                idle.pop() if idle else await asyncio.open_connection("127.0.0.1", port)
            )
            writer.write(text)
            try:
                return await reader.readline()
            finally:
                idle.append((reader, writer))

        def call(number):
            return [async_to_sync(fetch)(b"%d %d\n" % (number, i)) for i in range(25)]

        assert Callers(8, call).join() == [
            [b"%d %d\n" % (number, i) for i in range(25)] for number in range(8)
        ]
        assert len(accepted) <= 8

        async def stop():
            for _, writer in idle:
                writer.close()
            server.close()
            await asyncio.gather(*accepted)

        async_to_sync(stop)()


class TestTasksThatAreLeft:
    """No thread waits for them: the process's single thread runs their sync code."""

    def single_thread(self):
        # Of no frame, no context, and a loop that no call of ours has started.
        return asyncio.run(sync_to_async(threading.current_thread)())

    def test_never_another_callers_thread(self, shared):
        go_on = new_event()

        async def leave():
            async def later():
                await go_on.wait()
                return await sync_to_async(threading.current_thread)()

            return asyncio.ensure_future(later())

        async def take(task):
            go_on.set()
            return await task

        task = Callers(1, lambda _: async_to_sync(leave)()).join()[0]
        other = InFlight()
        assert async_to_sync(take)(task) is self.single_thread()
        other.end()

    def test_nor_one_that_has_inherited_nothing(self, shared):
        async def main():
            async def stranger():
                return await sync_to_async(threading.current_thread)()

            loop = asyncio.get_running_loop()
            return await contextvars.Context().run(loop.create_task, stranger())

        other = InFlight()
        assert async_to_sync(main)() is self.single_thread()
        other.end()

    def test_its_sync_code_may_call_back(self, shared):
        async def main():
            async def stranger():
                return await sync_to_async(loop_of_call)()

            loop = asyncio.get_running_loop()
            return await contextvars.Context().run(loop.create_task, stranger())

        assert async_to_sync(main)() is loop_of_call()

    def test_it_runs_between_the_calls(self, shared):
        came = threading.Event()

        async def leave():
            async def later():
                await asyncio.sleep(0.001)
                came.set()

            return asyncio.ensure_future(later())

        task = async_to_sync(leave)()
        assert came.wait(SECONDS)
        shared.close()
        assert task.done()


class TestClosing:
    def test_ends_the_loop_as_asyncio_run_does(self, shared):
        happened, kept = [], []

        async def main():
            async def sleeper():
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    happened.append(await sync_to_async(threading.current_thread)())
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

        executor = async_to_sync(main)()
        assert happened == []
        shared.close()
        assert happened == [threading.current_thread(), "generator"]
        assert [thread.is_alive() for thread in executor._threads] == [False]

    def test_waits_for_the_calls_in_flight_and_refuses_none(self, shared):
        other, loop = InFlight(), loop_of_call()
        closing = Callers(1, lambda _: shared.close())
        while shared.is_running:  # until it refuses: the other thread is on its way
            pass
        second = loop_of_call()
        assert second is not loop
        assert loop.is_running()

        async def set_it():
            loop.call_soon_threadsafe(other._event.set)

        async_to_sync(set_it)()
        assert closing.join() == [None]
        assert other.join() is other._callers.threads[0]
        assert loop.is_closed()
        assert loop_of_call() is second

    def test_calls_that_race_with_it(self, shared):
        """Each finds the loop that is there, or begins the next."""
        calling = [None] * 4

        def call(number):
            try:
                return [
                    async_to_sync(sync_to_async(lambda i=i: (i, threading.current_thread())))()
                    for i in range(100)
                ] == [(i, threading.current_thread()) for i in range(100)]
            finally:
                calling.pop()

        callers = Callers(4, call)
        while calling:
            shared.close()
        assert callers.join() == [True] * 4

    def test_from_two_threads_at_once(self, shared):
        loop = loop_of_call()
        assert Callers(2, lambda _: shared.close()).join() == [None, None]
        assert loop_of_call() is not loop

    def test_in_the_middle_of_a_call_is_refused(self, shared):
        async def main(thread_sensitive):
            await sync_to_async(shared.close, thread_sensitive=thread_sensitive)()

        async def nested():
            await sync_to_async(async_to_sync(main, force_new_loop=True))(True)

        async def on_the_loop():
            shared.close()

        loop = loop_of_call()
        for call in (main, nested):
            for arguments in ((True,), (False,)) if call is main else ((),):
                with pytest.raises(RuntimeError, match="would deadlock"):
                    async_to_sync(call)(*arguments)
        with pytest.raises(RuntimeError, match="would deadlock"):
            async_to_sync(on_the_loop)()
        with pytest.raises(RuntimeError, match="to_thread"):
            asyncio.run(on_the_loop())
        with pytest.raises(RuntimeError, match="would deadlock"):
            async_to_sync(sync_to_async(shared.switch_off))()
        assert loop_of_call() is loop

    def test_from_a_running_loop_in_a_thread(self, shared):
        loop = loop_of_call()
        asyncio.run(sync_to_async(shared.close, thread_sensitive=False)())
        assert loop.is_closed()

    def test_on_the_single_thread(self, shared):
        """Which a leftover task needs, that is cancelled."""

        async def leave():
            async def sleeper():
                try:
                    await asyncio.Event().wait()
                finally:
                    cleaned.append(await sync_to_async(threading.current_thread)())

            cleaned.append(asyncio.ensure_future(sleeper()))
            await asyncio.sleep(0)

        cleaned = []
        async_to_sync(leave)()

        async def main():
            await sync_to_async(shared.close)()
            return await sync_to_async(threading.current_thread)()

        assert asyncio.run(main()) is cleaned[1]

    def test_exit_without_closing(self, script_output):
        assert (
            script_output(
                """
                import asyncio, threading
                from asgibridge.runners import shared_loop
                from asgibridge.sync import async_to_sync, sync_to_async

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

                asyncio.run(sync_to_async(int)())  # 3.12.2 starts no thread at exit
                shared_loop()
                async_to_sync(main)()
                print("end", flush=True)
                """
            )
            == "end\ncancelled on MainThread"
        )

    def test_ctrl_c_ends_the_wait(self, run_script):
        """That for a task which takes no notice of its cancellation; the next one that at exit."""
        done = run_script(
            """
            import asyncio, os, signal, threading
            from asgibridge.runners import shared_loop
            from asgibridge.sync import async_to_sync

            cancelled, another = threading.Event(), threading.Event()

            async def stubborn():
                while True:
                    try:
                        await asyncio.Event().wait()
                    except asyncio.CancelledError:
                        cancelled.set()

            async def main():
                global task
                task = asyncio.ensure_future(stubborn())
                await asyncio.sleep(0)

            def interrupt():
                cancelled.wait()
                os.kill(os.getpid(), signal.SIGINT)
                another.wait()
                threading.main_thread().join()  # until the exit
                while True:
                    os.kill(os.getpid(), signal.SIGINT)
                    cancelled.clear()
                    cancelled.wait(0.05)

            shared_loop()
            async_to_sync(main)()
            threading.Thread(target=interrupt, daemon=True).start()
            try:
                shared_loop().close()
            except KeyboardInterrupt:
                print("interrupted", flush=True)
            another.set()
            """
        )
        assert done.stdout == "interrupted\n", done.stderr
        assert "Timeout" not in done.stderr  # faulthandler's: it was a hang

    def test_calls_of_other_threads_at_exit(self, script_output):
        """A thread that the program leaves is waited for, and may call."""
        assert (
            script_output(
                """
                import asyncio, threading
                from asgibridge.runners import shared_loop
                from asgibridge.sync import async_to_sync

                main_is_over = threading.main_thread().join

                def later():
                    main_is_over()
                    print(async_to_sync(loop)() is one, flush=True)

                async def loop():
                    return asyncio.get_running_loop()

                shared_loop()
                one = async_to_sync(loop)()
                threading.Thread(target=later).start()
                """
            )
            == "True"
        )


class TestErrors:
    async def wait_in_vain(self):
        await asyncio.Event().wait()

    def test_a_system_exit_of_the_coroutine_is_the_callers(self, shared):
        async def leave():
            raise SystemExit(3)

        loop = loop_of_call()
        other = InFlight()
        with pytest.raises(SystemExit):
            async_to_sync(leave)()
        other.end()
        assert loop_of_call() is loop

    def test_one_that_ends_the_loop_with_one_call_in_flight(self, shared):
        async def leave():
            async def later():
                raise SystemExit(3)

            tasks.append(asyncio.ensure_future(later()))
            await self.wait_in_vain()

        tasks = []
        loop = loop_of_call()
        with pytest.raises(SystemExit):
            async_to_sync(leave)()
        assert loop.is_closed()
        assert loop_of_call().is_running()
        assert isinstance(tasks[0].exception(), SystemExit)

    def test_with_several(self, shared):
        others = [InFlight(), InFlight()]
        loop = loop_of_call()

        async def stop():
            asyncio.get_running_loop().call_soon(fail)
            await self.wait_in_vain()

        def fail():
            raise SystemExit(3)

        with pytest.raises(RuntimeError, match="raised SystemExit") as caught:
            async_to_sync(stop)()
        errors = [caught.value, *(each.join() for each in others)]
        assert [type(each) for each in errors] == [RuntimeError] * 3
        assert len(set(map(id, errors))) == 3
        assert {type(each.__cause__) for each in errors} == {SystemExit}
        assert loop.is_closed()
        assert loop_of_call().is_running()

    def test_with_none_it_is_reported(self, shared, monkeypatch):
        reported, came = [], threading.Event()

        def hook(args):
            reported.append(args.exc_value)
            came.set()

        monkeypatch.setattr(threading, "excepthook", hook)

        async def leave():
            def fail():
                raise SystemExit(3)

            asyncio.get_running_loop().call_later(0.001, fail)

        loop = loop_of_call()
        async_to_sync(leave)()
        assert came.wait(SECONDS)
        assert isinstance(reported[0], RuntimeError)
        assert isinstance(reported[0].__cause__, SystemExit)
        assert loop_of_call() is not loop

    def test_a_loop_that_is_stopped(self, shared):
        async def stop():
            asyncio.get_running_loop().stop()
            await self.wait_in_vain()

        with pytest.raises(RuntimeError, match="stopped before"):
            async_to_sync(stop)()
        assert loop_of_call().is_running()

    def test_a_loop_that_is_stopped_between_two_calls_goes_on(self, shared):
        async def stop():
            loop = asyncio.get_running_loop()
            loop.call_later(0.001, loop.stop)
            loop.call_later(0.002, stopped.set)

        stopped = threading.Event()
        loop = loop_of_call()
        async_to_sync(stop)()
        assert stopped.wait(SECONDS)
        assert loop_of_call() is loop

    def test_a_loop_that_cannot_be_made(self, shared, monkeypatch):
        def fail():
            raise OSError("no loop today")

        with monkeypatch.context() as patched:
            patched.setattr(asyncio, "new_event_loop", fail)
            with pytest.raises(OSError, match="no loop today"):
                loop_of_call()
        assert loop_of_call() is loop_of_call()

    def test_a_thread_that_cannot_start_is_told_to_all_who_wait_for_it(self):
        class Waiting:
            error = None

            def finish(self, error):
                self.error = error

        class Refusing(Executor):
            def submit(self, fn, /, *args, **kwargs):
                assert persistent.add(other)  # another thread's, in between
                raise threads.CannotStart("no thread today")

        mine, other = Waiting(), Waiting()
        persistent = PersistentLoop(Refusing())
        with pytest.raises(threads.CannotStart, match="no thread today"):
            persistent.add(mine)
        assert mine.error is None
        assert isinstance(other.error, RuntimeError)
        assert isinstance(other.error.__cause__, threads.CannotStart)
        assert not persistent.is_usable()


@needs_signals
@pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="needs the main thread"
)
class TestInterrupts:
    def test_the_first_cancels_the_call_alone(self, shared):
        cancelled = []

        async def main():
            os.kill(os.getpid(), signal.SIGINT)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(await sync_to_async(threading.current_thread)())
                raise

        loop, other = loop_of_call(), InFlight()
        with pytest.raises(KeyboardInterrupt):
            async_to_sync(main)()
        assert cancelled == [threading.current_thread()]
        other.end()
        assert loop_of_call() is loop

    def test_the_second_abandons_the_call_alone(self, shared):
        inside, heard = threading.Event(), threading.Event()
        reported = []

        async def main():
            def handler(_loop, context):
                reported.append(context)
                heard.set()

            asyncio.get_running_loop().set_exception_handler(handler)
            os.kill(os.getpid(), signal.SIGINT)
            try:
                await asyncio.Event().wait()
            finally:  # the first has been seen, so the second is another
                inside.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    reported.append(await sync_to_async(threading.current_thread)())
                    raise Broken

        def second(_number):
            assert inside.wait(SECONDS)
            os.kill(os.getpid(), signal.SIGINT)

        loop, other = loop_of_call(), InFlight()
        killer = Callers(1, second)
        with pytest.raises(KeyboardInterrupt):
            async_to_sync(main)()
        killer.join()
        assert heard.wait(SECONDS)
        thread, context = reported
        assert thread is asyncio.run(sync_to_async(threading.current_thread)())
        assert isinstance(context["exception"], Broken)
        assert "after a second Ctrl-C" in context["message"]
        other.end()
        assert loop_of_call() is loop

    def test_a_loop_that_is_held_up_is_not_waited_for_at_exit(self, script_output):
        assert (
            script_output(
                """
                import asyncio, os, signal, threading
                from asgibridge.runners import shared_loop
                from asgibridge.sync import async_to_sync

                inside = threading.Event()

                async def main():
                    os.kill(os.getpid(), signal.SIGINT)
                    try:
                        await asyncio.Event().wait()
                    finally:
                        inside.set()
                        threading.Event().wait()  # blocks the loop for ever

                def second():
                    inside.wait()
                    os.kill(os.getpid(), signal.SIGINT)

                shared_loop()
                threading.Thread(target=second).start()
                try:
                    async_to_sync(main)()
                except KeyboardInterrupt:
                    print("interrupted", flush=True)
                """
            )
            == "interrupted"
        )


@needs_fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
class TestFork:
    def in_child(self, check):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = 0 if check() else 2
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0

    def test_the_child_begins_anew(self, shared):
        loop, other = loop_of_call(), InFlight()

        def check():
            assert not shared.is_running
            shared.close()
            own = loop_of_call()
            assert own is not loop
            assert Callers(2, lambda _: loop_of_call()).join() == [own] * 2
            shared.close()
            return own.is_closed() and not loop.is_closed()

        self.in_child(check)
        other.end()
        assert loop_of_call() is loop

    def test_in_the_middle_of_what_is_open(self, shared):
        with async_to_sync_context_manager(Manager()) as entered:
            assert entered.loop is loop_of_call()
            self.in_child(lambda: loop_of_call() is not entered.loop)
            assert entered.loop is loop_of_call()

    def test_with_the_lock_of_a_thread_that_is_not_there(self, shared):
        loop_of_call()
        held, let_go = threading.Event(), threading.Event()

        def hold(_number):
            with shared._lock, shared._current._lock:
                held.set()
                assert let_go.wait(SECONDS)

        holder = Callers(1, hold)
        assert held.wait(SECONDS)
        self.in_child(lambda: loop_of_call() is loop_of_call())
        let_go.set()
        holder.join()

    def test_each_exits_by_itself(self, script_output):
        """Before a fork nothing has to be done, as under ``gunicorn --preload``."""
        assert (
            script_output(
                """
                import os, warnings
                warnings.simplefilter("ignore", DeprecationWarning)
                from asgibridge.runners import shared_loop
                from asgibridge.sync import async_to_sync

                async def main():
                    return 5

                shared_loop()
                async_to_sync(main)()
                pid = os.fork()
                assert async_to_sync(main)() == 5
                if pid:
                    assert os.waitpid(pid, 0)[1] == 0
                shared_loop().close()
                print("closed", flush=True)
                if not pid:
                    os._exit(0)  # the watchdog of this script is not in the child, and waited for
                """
            )
            == "closed\nclosed"
        )


class Manager:
    """An async context manager that notes where it is entered and left."""

    def __init__(self):
        self.tasks, self.threads, self.loop = [], [], None

    async def __aenter__(self):
        self.loop = asyncio.get_running_loop()
        await self._note()
        return self

    async def __aexit__(self, *exc):
        await self._note()

    async def _note(self):
        self.tasks.append(asyncio.current_task())
        self.threads.append(await sync_to_async(threading.current_thread)())

    async def use(self):
        return asyncio.get_running_loop() is self.loop


@contextlib.asynccontextmanager
async def session(said):
    """As an MCP session is made: what it has must be left in the task that has entered it."""
    async with anyio.create_task_group() as group:
        sender, receiver = anyio.create_memory_object_stream(10)

        async def answer():
            async with receiver:
                async for text, replies in receiver:
                    await replies.send(text.upper())

        async def ask(text):
            to, replies = anyio.create_memory_object_stream(1)
            with anyio.fail_after(SECONDS):
                await sender.send((text, to))
                answered = await replies.receive()
            to.close()
            replies.close()
            return answered

        group.start_soon(answer)
        with anyio.CancelScope():
            yield ask
        sender.close()
        said.append("left")


class TestWhatStaysOpen:
    def test_is_entered_and_left_in_one_task(self, shared):
        with contextlib.ExitStack() as stack:
            managers = [
                stack.enter_context(async_to_sync_context_manager(Manager())) for _ in range(2)
            ]
            loop = loop_of_call()
            for each in managers:
                assert each.loop is loop
                assert async_to_sync(each.use)()
                assert Callers(2, lambda _, each=each: async_to_sync(each.use)()).join() == [
                    True,
                    True,
                ]
        for each in managers:
            assert len(each.tasks) == 2
            assert len(set(each.tasks)) == 1
            assert set(each.threads) == {threading.current_thread()}
        assert loop_of_call() is loop

    def test_with_task_groups_and_cancel_scopes(self, shared):
        said = []
        with contextlib.ExitStack() as stack:
            ask = stack.enter_context(async_to_sync_context_manager(session(said)))
            other = stack.enter_context(async_to_sync_context_manager(session(said)))
            assert async_to_sync(ask)("one") == "ONE"
            asked = Callers(4, lambda number: async_to_sync(other)(f"two {number}")).join()
            assert asked == [f"TWO {number}" for number in range(4)]
            assert async_to_sync(ask)("three") == "THREE"
        assert said == ["left", "left"]

    def test_an_iterator(self, shared):
        async def loops():
            for _ in range(3):
                yield asyncio.get_running_loop(), asyncio.current_task()

        loop, seen = loop_of_call(), []
        for each in async_to_sync_iterator(loops(), max_size=1):
            seen.append(each)
            assert loop_of_call() is loop
        assert [each for each, _ in seen] == [loop] * 3
        assert len({task for _, task in seen}) == 1

    def test_in_several_threads_at_once(self, shared):
        """Each has its own thread served, and its own values."""
        local = Local()

        def use(number):
            local.value = number

            async def look():
                async def child():
                    return local.value, await sync_to_async(threading.current_thread)()

                return await asyncio.gather(child(), child())

            with async_to_sync_context_manager(Manager()) as entered:
                found = async_to_sync(look)()
            mine = threading.current_thread()
            return found == [(number, mine)] * 2 and set(entered.threads) == {mine}

        assert Callers(16, use).join() == [True] * 16

    def test_left_in_another_thread_is_refused_and_left_behind(self, shared):
        entered = Manager()
        manager = async_to_sync_context_manager(entered)
        manager.__enter__()

        def leave(_number):
            with pytest.raises(RuntimeError, match="on the thread on which it was begun"):
                manager.__exit__(None, None, None)

        assert Callers(1, leave).join() == [None]
        shared.close()
        assert len(entered.tasks) == 2
        assert len(set(entered.tasks)) == 1

    def test_when_the_loop_is_closed(self, shared):
        entered = Manager()
        with pytest.raises(RuntimeError, match="before you close the shared loop"):
            with async_to_sync_context_manager(entered):
                shared.close()
        assert entered.threads == [threading.current_thread()] * 2

    def test_open_at_exit(self, script_output):
        assert (
            script_output(
                """
                import contextlib
                from asgibridge.iterators import async_to_sync_context_manager
                from asgibridge.runners import shared_loop

                @contextlib.asynccontextmanager
                async def client():
                    try:
                        yield
                    finally:
                        print("closed", flush=True)

                shared_loop()
                stack = contextlib.ExitStack()
                stack.enter_context(async_to_sync_context_manager(client()))
                """
            )
            == "closed"
        )


class TestDeadlocks:
    def run(self, what_b_waits_for):
        """A's thread is in a call that waits for B's task, and B's for a call for A's thread."""
        a_waits, b_waits = new_event(), new_event()
        self.a_waits = a_waits
        tasks = {}

        async def sibling():
            await a_waits.wait()
            return await sync_to_async(threading.current_thread)()

        async def main_of_a():
            tasks["sibling"] = asyncio.ensure_future(sibling())
            await sync_to_async(async_to_sync(inner_of_a))()
            return await tasks["sibling"]

        async def inner_of_a():
            await b_waits.wait()
            a_waits.set()
            await tasks["b"]

        async def main_of_b():
            await sync_to_async(async_to_sync(inner_of_b))()

        async def inner_of_b():
            tasks["b"] = asyncio.current_task()
            b_waits.set()
            await what_b_waits_for(tasks)

        a = Callers(1, lambda _: async_to_sync(main_of_a)())
        while "sibling" not in tasks:
            loop_of_call()
        b = Callers(1, lambda _: async_to_sync(main_of_b)())
        return a, b

    def test_a_ring_through_two_callers_is_found(self, shared):
        async def wait_for_sibling(tasks):
            await tasks["sibling"]

        a, b = self.run(wait_for_sibling)
        for callers in (a, b):
            [error] = callers.join()
            assert isinstance(error, RuntimeError)
            assert "would deadlock" in str(error)

    def test_what_a_third_caller_ends_is_none(self, shared):
        event = new_event()

        async def wait_for_event(_tasks):
            await event.wait()

        a, b = self.run(wait_for_event)
        while not self.a_waits.is_set():
            loop_of_call()
        loop_of_call()  # by now the sibling has made its call
        set_event(event)
        assert b.join() == [None]
        assert a.join() == a.threads


def test_a_dump_names_its_thread(shared):
    other = InFlight()
    shown = debug.snapshot()
    assert [each.name for each in shown.threads].count("asgibridge-shared-loop") == 1
    assert "of thread asgibridge-shared-loop" in str(shown)
    other.end()


def test_a_closed_loop_is_not_held(shared, no_gc):
    gone = weakref.ref(loop_of_call())
    shared.close()
    gc.collect()
    assert gone() is None
