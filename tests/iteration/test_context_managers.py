"""Context managers across the bridge: threads, tasks, contexts, and what happens to exceptions."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import sys
import threading
import time
import weakref

import pytest

from asgibridge.iterators import async_to_sync_context_manager, sync_to_async_context_manager
from asgibridge.sync import SyncToAsync, ThreadSensitiveContext, async_to_sync, sync_to_async

LIMIT = 10

variable: contextvars.ContextVar[object] = contextvars.ContextVar("variable", default="unset")


class Broken(Exception):
    pass


class Recorder:
    """A context manager of either kind, that keeps what was done to it, and where."""

    def __init__(self, suppress=False, fail_in=None):
        self.suppress = suppress
        self.fail_in = fail_in
        self.calls = []
        self.threads = []
        self.tasks = []
        self.error = None

    def _enter(self):
        self.calls.append("enter")
        self.threads.append(threading.get_ident())
        if self.fail_in == "enter":
            raise Broken("entering")
        return "value"

    def _exit(self, error):
        self.calls.append("exit")
        self.threads.append(threading.get_ident())
        self.error = error
        if self.fail_in == "exit":
            raise Broken("leaving")
        return self.suppress

    def __enter__(self):
        return self._enter()

    def __exit__(self, exc, value, tb):
        assert exc is (None if value is None else type(value))
        return self._exit(value)

    def asynchronous(self):
        return AsyncRecorder(self)


class AsyncRecorder:
    def __init__(self, recorder):
        self.recorder = recorder

    async def __aenter__(self):
        await asyncio.sleep(0)
        self.recorder.tasks.append(asyncio.current_task())
        return self.recorder._enter()

    async def __aexit__(self, exc, value, tb):
        await asyncio.sleep(0)
        self.recorder.tasks.append(asyncio.current_task())
        return self.recorder._exit(value)


async def reached(event):
    assert await asyncio.get_running_loop().run_in_executor(None, event.wait, LIMIT)


class TestSyncToAsync:
    @pytest.mark.asyncio
    async def test_it_is_entered_and_left_in_the_thread_of_sync_code(self):
        async with ThreadSensitiveContext():
            thread = await sync_to_async(threading.get_ident)()
            recorder = Recorder()
            async with sync_to_async_context_manager(recorder) as value:
                assert value == "value"
                assert recorder.calls == ["enter"]
        assert recorder.calls == ["enter", "exit"]
        assert set(recorder.threads) == {thread}

    @pytest.mark.asyncio
    async def test_an_exception_of_the_body_goes_through_it(self):
        recorder = Recorder()
        error = Broken()
        with pytest.raises(Broken) as raised:
            async with sync_to_async_context_manager(recorder):
                raise error
        assert raised.value is error
        assert recorder.error is error

    @pytest.mark.asyncio
    async def test_it_may_suppress_an_exception(self):
        async with sync_to_async_context_manager(Recorder(suppress=True)):
            raise Broken

    @pytest.mark.parametrize("where", ["enter", "exit"])
    @pytest.mark.asyncio
    async def test_its_own_exceptions_arrive(self, where):
        with pytest.raises(Broken, match="entering" if where == "enter" else "leaving"):
            async with sync_to_async_context_manager(Recorder(fail_in=where)):
                pass

    @pytest.mark.asyncio
    async def test_a_function_and_its_context_variable(self):
        threads = []

        @sync_to_async_context_manager
        @contextlib.contextmanager
        def inside(value, *, by):
            threads.append(threading.get_ident())
            token = variable.set(value * by)
            try:
                yield variable.get()
            finally:
                variable.reset(token)

        variable.set("outside")
        async with inside("x", by=3) as value:
            assert value == variable.get() == "xxx"
        assert variable.get() == "outside"
        assert threads == [await sync_to_async(threading.get_ident)()]
        assert inside.__name__ == "inside"

    @pytest.mark.asyncio
    async def test_a_decorator_with_arguments(self):
        @sync_to_async_context_manager(thread_sensitive=False)
        def manager():
            return recorder

        recorder = Recorder()
        async with manager():
            pass
        assert await sync_to_async(threading.get_ident)() not in recorder.threads

    @pytest.mark.asyncio
    async def test_entered_again(self):
        recorder = Recorder()
        manager = sync_to_async_context_manager(recorder)
        async with manager, manager:
            pass
        async with manager:
            pass
        assert recorder.calls == ["enter", "enter", "exit", "exit", "enter", "exit"]

    @pytest.mark.asyncio
    async def test_cancelled_while_it_enters_it_is_left_again_in_its_thread(self):
        entering, go_on, left = threading.Event(), threading.Event(), threading.Event()
        seen = []

        @sync_to_async_context_manager
        @contextlib.contextmanager
        def slow():
            entering.set()
            assert go_on.wait(LIMIT)
            try:
                yield
            except BaseException as error:
                seen.append((type(error), threading.get_ident()))
                raise
            finally:
                left.set()

        async def use():
            async with slow():
                raise AssertionError("entered")

        loop = asyncio.get_running_loop()
        reported = []
        loop.set_exception_handler(lambda loop, context: reported.append(context))
        task = asyncio.ensure_future(use())
        await reached(entering)
        task.cancel()
        await asyncio.wait({task}, timeout=LIMIT)
        assert task.cancelled()
        assert not left.is_set()
        go_on.set()
        await reached(left)
        assert seen == [(asyncio.CancelledError, await sync_to_async(threading.get_ident)())]
        assert reported == []

    @pytest.mark.asyncio
    async def test_cancelled_when_it_has_just_been_entered_it_is_left_again(self):
        loop = asyncio.get_running_loop()
        recorder = Recorder()
        executor = SyncToAsync.single_thread_executor

        def cancel():
            # The loop is not told before this has returned that the thread is done.
            give_up_at = time.monotonic() + LIMIT
            while not executor.is_idle() and time.monotonic() < give_up_at:
                pass
            task.cancel()

        @sync_to_async_context_manager
        def manager():
            loop.call_soon_threadsafe(cancel)
            return recorder

        async def use():
            async with manager():
                raise AssertionError("entered")

        task = asyncio.ensure_future(use())
        await asyncio.wait({task}, timeout=LIMIT)
        assert task.cancelled()
        assert recorder.calls == ["enter", "exit"]
        assert isinstance(recorder.error, asyncio.CancelledError)

    @pytest.mark.asyncio
    async def test_cancelled_before_its_turn_it_is_not_entered(self):
        go_on = threading.Event()
        holder = asyncio.ensure_future(sync_to_async(go_on.wait)(LIMIT))
        recorder = Recorder()

        async def use():
            async with sync_to_async_context_manager(recorder):
                raise AssertionError("entered")

        task = asyncio.ensure_future(use())
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task}, timeout=LIMIT)
        assert task.cancelled()
        go_on.set()
        await holder
        await sync_to_async(int)()
        assert recorder.calls == []

    @pytest.mark.parametrize("begun", [True, False])
    @pytest.mark.asyncio
    async def test_cancelled_while_it_leaves_it_leaves_first(self, begun):
        entered = asyncio.Event()
        leaving, go_on, finished = threading.Event(), threading.Event(), threading.Event()

        @sync_to_async_context_manager
        @contextlib.contextmanager
        def slow():
            try:
                yield
            finally:
                leaving.set()
                assert go_on.wait(LIMIT)
                finished.set()

        async def use():
            async with slow():
                entered.set()
                await proceed.wait()

        proceed = asyncio.Event()
        task = asyncio.ensure_future(use())
        await entered.wait()
        holder = None
        if not begun:
            holder = asyncio.ensure_future(sync_to_async(go_on.wait)(LIMIT))
            await asyncio.sleep(0)
        proceed.set()
        if begun:
            await reached(leaving)
        for _ in range(3):  # not even a second time
            for _ in range(5):
                await asyncio.sleep(0)
            task.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not task.done()
        go_on.set()
        await asyncio.wait({task}, timeout=LIMIT)
        assert task.cancelled()
        assert finished.is_set()
        if holder is not None:
            await holder

    def test_nothing_outlives_it(self, no_gc):
        references = []

        async def main():
            recorder = Recorder()
            references.append(weakref.ref(recorder))
            async with sync_to_async_context_manager(recorder):
                pass
            with contextlib.suppress(Broken):
                async with sync_to_async_context_manager(recorder):
                    raise Broken
            recorder.error = None
            await sync_to_async(int)()

        asyncio.run(main())
        assert references[0]() is None


def run_at_top_level(function):
    return function()


def run_in_worker(function):
    async def main():
        return await sync_to_async(function)()

    return asyncio.run(main())


@pytest.fixture(params=[run_at_top_level, run_in_worker])
def run(request):
    """Call a sync function where there is no event loop, and where one waits for it."""
    return request.param


class TestAsyncToSync:
    def test_it_is_entered_and_left_in_one_task(self, run):
        def use():
            recorder = Recorder()
            with async_to_sync_context_manager(recorder.asynchronous()) as value:
                assert value == "value"
                assert recorder.calls == ["enter"]
            assert recorder.calls == ["enter", "exit"]
            assert len(set(recorder.tasks)) == 1
            assert threading.get_ident() not in recorder.threads

        run(use)

    def test_an_exception_of_the_body_goes_through_it(self, run):
        def use():
            recorder = Recorder()
            error = Broken()
            with pytest.raises(Broken) as raised:
                with async_to_sync_context_manager(recorder.asynchronous()):
                    raise error
            assert raised.value is error
            assert recorder.error is error

        run(use)

    def test_it_may_suppress_an_exception(self, run):
        def use():
            with async_to_sync_context_manager(Recorder(suppress=True).asynchronous()):
                raise Broken

        run(use)

    @pytest.mark.parametrize("where", ["enter", "exit"])
    def test_its_own_exceptions_arrive(self, run, where):
        def use():
            with pytest.raises(Broken, match="entering" if where == "enter" else "leaving"):
                with async_to_sync_context_manager(Recorder(fail_in=where).asynchronous()):
                    pass

        run(use)

    def test_an_exception_raised_again_is_the_same(self, run):
        @async_to_sync_context_manager
        @contextlib.asynccontextmanager
        async def manager():
            try:
                yield
            except Broken as error:
                await asyncio.sleep(0)
                raise error

        def use():
            error = Broken()
            with pytest.raises(Broken) as raised:
                with manager():
                    raise error
            assert raised.value is error

        run(use)

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout is new in Python 3.11")
    def test_a_time_limit_of_asyncio_holds(self, run):
        def use():
            with async_to_sync_context_manager(asyncio.timeout)(None) as limit:
                assert limit.when() is None
            assert not limit.expired()

        # timeout() itself is called on the loop.
        run(use)

    def test_its_context_variables(self, run):
        @async_to_sync_context_manager()
        @contextlib.asynccontextmanager
        async def inside(value):
            token = variable.set(value)
            try:
                yield
            finally:
                variable.reset(token)

        def use():
            variable.set("outside")
            with inside("inside"):
                assert variable.get() == "inside"
            assert variable.get() == "outside"

        contextvars.copy_context().run(run, use)

    def test_sync_code_that_it_calls_runs_on_the_waiting_thread(self, run):
        threads = []

        @async_to_sync_context_manager
        @contextlib.asynccontextmanager
        async def manager():
            threads.append(await sync_to_async(threading.get_ident)())
            yield
            threads.append(await sync_to_async(threading.get_ident)())

        def use():
            with manager():
                async_to_sync(asyncio.sleep)(0)
            assert threads == [threading.get_ident()] * 2

        run(use)

    def test_in_a_worker_it_is_on_the_loop_of_other_calls(self):
        @contextlib.asynccontextmanager
        async def client():
            yield asyncio.get_running_loop()

        async def loop():
            return asyncio.get_running_loop()

        def use():
            with async_to_sync_context_manager(client()) as its:
                assert its is async_to_sync(loop)()
            with async_to_sync_context_manager(client(), force_new_loop=True) as its:
                assert its is not async_to_sync(loop)()

        run_in_worker(use)

    def test_entered_again(self, run):
        def use():
            recorder = Recorder()
            manager = async_to_sync_context_manager(recorder.asynchronous())
            with manager, manager:
                pass
            with manager:
                pass
            assert recorder.calls == ["enter", "enter", "exit", "exit", "enter", "exit"]

        run(use)

    def test_the_end_of_its_loop_leaves_it(self):
        recorder = Recorder()
        manager = async_to_sync_context_manager(recorder.asynchronous())

        async def main():
            await sync_to_async(manager.__enter__)()

        asyncio.run(main())
        assert recorder.calls == ["enter", "exit"]
        assert isinstance(recorder.error, asyncio.CancelledError)

    def test_what_is_left_open_is_left_at_exit(self, script_output):
        assert (
            script_output("""
            import contextlib
            from asgibridge.iterators import async_to_sync_context_manager

            @contextlib.asynccontextmanager
            async def manager():
                try:
                    yield
                finally:
                    print("left", flush=True)

            kept = async_to_sync_context_manager(manager())
            kept.__enter__()
        """)
            == "left"
        )

    def test_nothing_outlives_it(self, run, no_gc):
        references = []

        def use():
            recorder = Recorder()
            references.append(weakref.ref(recorder))
            with async_to_sync_context_manager(recorder.asynchronous()):
                pass
            with contextlib.suppress(Broken):
                with async_to_sync_context_manager(recorder.asynchronous()):
                    raise Broken
            recorder.error = None
            recorder.tasks.clear()

        run(use)
        assert references[0]() is None


class TestArguments:
    def test_the_wrong_way_round(self):
        recorder = Recorder()
        with pytest.raises(TypeError, match="wrong way round"):
            sync_to_async_context_manager(recorder.asynchronous())
        with pytest.raises(TypeError, match="wrong way round"):
            async_to_sync_context_manager(recorder)

    @pytest.mark.parametrize("subject", [3, asyncio.sleep])
    def test_what_is_no_context_manager(self, subject):
        with pytest.raises(TypeError, match="__enter__, or a function that returns one"):
            sync_to_async_context_manager(subject)
        with pytest.raises(TypeError, match="__aenter__, or a function that returns one"):
            async_to_sync_context_manager(subject)

    @pytest.mark.asyncio
    async def test_a_generator_function(self):
        def generate():
            yield

        with pytest.raises(TypeError, match=r"needs @contextlib\.contextmanager"):
            async with sync_to_async_context_manager(generate)():
                pass

    def test_an_async_generator_function(self):
        async def generate():
            yield

        with pytest.raises(TypeError, match=r"needs @contextlib\.asynccontextmanager"):
            with async_to_sync_context_manager(generate)():
                pass
