"""Threads, event loops in threads, and waiting for something to be so: for the tests of queues."""

from __future__ import annotations

import asyncio
import contextlib
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
