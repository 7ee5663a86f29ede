"""What cannot be delivered, as another loop or a callback raises, costs nobody else anything."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from concurrent.futures import Future

import pytest

from asgibridge._kernel import kernel
from asgibridge.sync import ThreadSensitiveContext, async_to_sync, sync_to_async

pytestmark = [
    pytest.mark.timeout(20),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]


class Refusing(asyncio.SelectorEventLoop):
    """Raises what it is told to, in place of being woken."""

    error: BaseException | None = None

    def call_soon_threadsafe(self, callback, *args, **options):
        if self.error is not None:
            error, self.error = self.error, None
            self.has_refused.set()
            raise error
        return super().call_soon_threadsafe(callback, *args, **options)


@pytest.fixture
def reported(monkeypatch):
    found = []
    monkeypatch.setattr(threading, "excepthook", lambda args: found.append(args.exc_value))
    return found


@pytest.mark.parametrize("error", [OSError("refused"), SystemExit(3)])
def test_to_a_loop_that_raises(reported, error):
    """Its call's worker goes on, and runs what others have queued there."""
    go, begun = threading.Event(), threading.Event()
    context = ThreadSensitiveContext()

    def function():
        begun.set()
        assert go.wait(10)

    def run_other():
        loop = other
        loop.has_refused = threading.Event()

        async def main():
            call = asyncio.ensure_future(sync_to_async(function)())
            await asyncio.sleep(0)
            while not loop.has_refused.is_set():
                await asyncio.sleep(0.01)
            call.cancel()

        loop.run_until_complete(main())

    async def main():
        async with context:
            copy = contextvars.copy_context()
            helper = threading.Thread(target=copy.run, args=(run_other,))
            helper.start()
            while not begun.is_set():
                await asyncio.sleep(0.01)
            mine = [asyncio.ensure_future(sync_to_async(int)(n)) for n in range(3)]
            await asyncio.sleep(0)
            other.error = error
            go.set()
            found = await asyncio.gather(*mine)
            while helper.is_alive():
                await asyncio.sleep(0.01)
            return found

    other = Refusing()
    try:
        assert asyncio.run(main()) == [0, 1, 2]
    finally:
        other.close()
    assert reported == [error]


def test_to_a_future_whose_callback_raises(reported):
    executor = kernel.ThreadSensitiveExecutor()
    error = SystemExit(3)

    def raise_it(_future):
        raise error

    begun, go = threading.Event(), threading.Event()

    def first():
        begun.set()
        assert go.wait(10)

    try:
        future = executor.submit(first)
        assert begun.wait(10)
        future.add_done_callback(raise_it)
        second = executor.submit(threading.get_ident)
        go.set()
        assert second.result(10)
    finally:
        executor.shutdown()
    assert reported == [error]


@pytest.mark.skipif(
    sys.version_info >= (3, 12), reason="tasks begin without the loop's queue there"
)
class TestWhatOthersHaveAdded:
    """A coroutine's first step is run ahead of the loop's queue, and nothing else moves there."""

    @pytest.mark.parametrize("interrupts", [False, True])
    def test_in_the_moment_the_task_is_made(self, interrupts):
        """Another thread adds one callback before the step is looked for, and one while it is."""
        order = []

        class Interrupt(BaseException):
            pass

        class Callback:
            """Looking for its `__self__` runs code: in it the next one comes."""

            def __call__(self):
                order.append("first")

            def __getattr__(self, name):
                if name == "__self__" and "second" not in planned:
                    planned.append("second")
                    loop.call_soon_threadsafe(order.append, "second")
                    if interrupts:
                        raise Interrupt
                raise AttributeError(name)

        planned = []

        class Task(asyncio.Task):
            def __init__(self, *args, **options):
                super().__init__(*args, **options)
                if not planned:
                    planned.append("first")
                    loop.call_soon_threadsafe(Callback())

        async def coroutine():
            order.append("coroutine")

        async def main():
            outcome = Future()
            tasks = asyncio.tasks.Task
            asyncio.tasks.Task = Task
            begun = coroutine()
            try:
                kernel.begin_task(loop, begun, outcome, "no result")
            except Interrupt:
                pass
            finally:
                asyncio.tasks.Task = tasks
            for _ in range(3):
                await asyncio.sleep(0)

        loop = asyncio.SelectorEventLoop()
        try:
            loop.run_until_complete(main())
        finally:
            loop.close()
        others = [each for each in order if each != "coroutine"]
        assert others == ["first", "second"]

    def test_the_step_itself_runs_once(self):
        steps = []

        async def coroutine():
            steps.append("step")
            await asyncio.sleep(0)
            return "done"

        def function():
            return async_to_sync(coroutine)()

        assert asyncio.run(sync_to_async(function)()) == "done"
        assert steps == ["step"]
