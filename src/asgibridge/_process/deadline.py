"""A deadline for the current task, the same on every Python we run on.

``asyncio.timeout`` exists from 3.11 on and has no plain ``with`` form, which ``timeout.timeout``
must offer. So `timeout` and the ASGI communicator use this one.

A ``Deadline`` belongs to the task that entered it, from entry to exit. When the time is up, the
event loop cancels that task; on the way out the deadline takes that one request back (``uncancel``,
3.11 and up), so that a ``TaskGroup`` or an outer ``asyncio.timeout`` never counts it as its own. If
somebody else cancelled the task too, that CancelledError goes on. Below 3.11 nothing tells the two
apart, and an expired deadline reports the time-out.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

if sys.version_info >= (3, 11):
    TimedOut = TimeoutError

    def _cancel_requests(task: asyncio.Task[object]) -> int:
        return task.cancelling()

    def _take_back(task: asyncio.Task[object]) -> int:
        return task.uncancel()

else:

    class TimedOut(asyncio.TimeoutError, TimeoutError):
        """A time-out for either ``except``: these are two classes before Python 3.11."""

    def _cancel_requests(task: asyncio.Task[object]) -> int:
        return 0

    def _take_back(task: asyncio.Task[object]) -> int:
        return 0


class Deadline:
    """Cancels the current task after ``delay`` seconds and raises ``TimedOut`` from the block.

    ``None`` means no limit. Zero or less means at the next turn of the loop, so that the block runs
    up to its first real suspension. Enter and leave it, with ``with`` or ``async with``, in one
    task of ``loop``; entering a limited one outside a task raises RuntimeError. `expire` has the
    block end before its time, for whatever other reason there is.
    """

    def __init__(self, delay: float | None, loop: asyncio.AbstractEventLoop) -> None:
        self._delay = delay
        self._loop = loop
        self._when: float | None = None
        self._expired = False
        self._requests_before = 0
        # Both are set exactly while a limited block is running.
        self._task: asyncio.Task[object] | None = None
        self._handle: asyncio.Handle | None = None

    def __enter__(self) -> Self:
        self._expired = False
        task = asyncio.current_task(self._loop)
        if task is None:
            if self._delay is None:
                return self
            raise RuntimeError(
                "a time-out works by cancelling the task it is in, and there is none here: "
                "use it in a coroutine that the event loop runs"
            )
        self._task = task
        self._requests_before = _cancel_requests(task)
        if self._delay is None:
            return self
        if self._delay <= 0:
            self._handle = self._loop.call_soon(self.expire)
        else:
            self._when = self._loop.time() + self._delay
            self._handle = self._loop.call_at(self._when, self.expire)
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        task, self._task = self._task, None
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.cancel()
        if task is None or not self._expired:
            return
        cancelled_by_others = _take_back(task) > self._requests_before
        if kind is asyncio.CancelledError and not cancelled_by_others:
            raise TimedOut from error

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.__exit__(kind, error, traceback)

    @property
    def expired(self) -> bool:
        """Whether the time was up before the block ended."""
        return self._expired

    @property
    def remaining(self) -> float | None:
        """Seconds left, never negative; None before entry or where no time is measured."""
        if self._when is None:
            return None
        return max(self._when - self._loop.time(), 0.0)

    def expire(self) -> None:
        """End the block now as if the time were up. On the loop's thread."""
        if self._task is not None and not self._expired:
            self._expired = True
            self._task.cancel()
