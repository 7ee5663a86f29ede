"""Threads, event loops in threads, and waiting for something to be so: for the tests of queues."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

SECONDS = 20
"""More than anything takes that is not broken."""


def until(condition: Callable[[], Any]) -> None:
    """Return when ``condition()`` is true: what threads do next cannot always be waited for."""
    give_up_at = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < give_up_at, "did not happen"
        time.sleep(0.0002)


def in_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
    """The outcome of ``function`` on a thread of its own."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


@contextlib.contextmanager
def running_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs on a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(SECONDS)
        try:
            loop.run_until_complete(_cancel_all(loop))
        finally:
            loop.close()


async def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    others = asyncio.all_tasks(loop) - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def on_loop(loop: asyncio.AbstractEventLoop, coroutine: Any) -> Future[Any]:
    """The outcome of ``coroutine`` on a loop running elsewhere. Cancelling it cancels the task."""
    return asyncio.run_coroutine_threadsafe(coroutine, loop)


@contextlib.contextmanager
def abandoned(coroutine: Any, is_waiting: Callable[[], Any]) -> Iterator[Any]:
    """The loop, stopped for good, of a task that waits in ``coroutine``."""
    loop = asyncio.new_event_loop()
    task: Any = None

    def run() -> None:
        nonlocal task

        async def main() -> None:
            while not is_waiting():
                await asyncio.sleep(0)

        task = loop.create_task(coroutine)
        loop.run_until_complete(main())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(SECONDS)
    assert not task.done()
    task._log_destroy_pending = False
    try:
        yield loop
    finally:
        loop.close()


def run(main: Callable[[], Any]) -> Any:
    """The result of ``main()`` on a new loop, within the time."""
    return asyncio.run(asyncio.wait_for(main(), SECONDS))


async def step() -> None:
    """The loop's other tasks go on until they wait."""
    for _ in range(5):
        await asyncio.sleep(0)


async def cut_short(coroutine: Any, chance: Any) -> Any:
    """Cancelled a few turns of the loop later, or a little while."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(coroutine)
    how = chance.randrange(4)
    if how == 0:
        loop.call_soon(task.cancel)
    elif how == 1:
        loop.call_soon(loop.call_soon, task.cancel)
    else:
        loop.call_later(chance.choice((1e-5, 1e-4)), task.cancel)
    return await task


class InterruptedLoop(asyncio.SelectorEventLoop):
    """Where code of the loop that wakes a task may be interrupted, once."""

    interrupted = False

    def is_closed(self) -> bool:
        if self.interrupted:
            self.interrupted = False
            raise KeyboardInterrupt
        return super().is_closed()


def in_child(check: Callable[[], Any]) -> None:
    """Call ``check()`` in a forked child, which must succeed."""
    child = os.fork()
    if not child:
        try:
            check()
            os._exit(7)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert os.WEXITSTATUS(status) == 7, status
