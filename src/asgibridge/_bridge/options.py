"""Calls with ``limiter``, ``thread_name`` or ``abandon_on_cancel``: see `asgibridge.limiters`.

A call with a limiter borrows its token on the loop's thread, before it goes to its executor::

    waiting --> queued --> running --> over     the thread gives the token back, whether
       |           |                            a task still waits for the outcome or not
       '-----------'--given up                  the side that gave the call up gives it back

So the token goes back exactly once: when the function has returned, in any way, or when the task
was cancelled or destroyed, or its executor refused or dropped the call, before the function has
begun.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from ..limiters import CapacityLimiter

if TYPE_CHECKING:
    from .._kernel import kernel
    from ..sync import SyncToAsync


class CallOptions:
    """How the calls of one `SyncToAsync` run, where that is not as usual."""

    __slots__ = ("abandon_on_cancel", "limiter", "thread_name")

    def __init__(
        self,
        thread_sensitive: bool,
        limiter: CapacityLimiter | None,
        thread_name: str | None,
        abandon_on_cancel: bool,
    ) -> None:
        if limiter is not None:
            if thread_sensitive:
                raise TypeError(
                    "limiter must not be set when thread_sensitive is True: such calls run one at "
                    "a time on each thread"
                )
            if not isinstance(limiter, CapacityLimiter):
                raise TypeError(
                    f"limiter={limiter!r}: must be an asgibridge.limiters.CapacityLimiter"
                )
        if thread_name is not None:
            if thread_sensitive:
                raise TypeError(
                    "thread_name must not be set when thread_sensitive is True: the thread is not "
                    "the call's alone"
                )
            if not isinstance(thread_name, str):
                raise TypeError(f"thread_name={thread_name!r}: must be a string")
        self.limiter = limiter
        self.thread_name = thread_name
        self.abandon_on_cancel = abandon_on_cancel

    async def run(
        self,
        wrapper: SyncToAsync[Any, Any],
        loop: asyncio.AbstractEventLoop,
        call: kernel.SyncCall,
    ) -> Any:
        """Wait for the call's token, give the call to its thread, and wait for its outcome."""
        __traceback_hide__ = True
        limiter = self.limiter
        if limiter is not None or self.thread_name is not None:
            call.guard = _Guard(self)
        call.accept()
        try:
            if limiter is not None:
                await limiter.acquire_on_behalf_of(call)
                limiter._calls[call] = call.task_context
            return await wrapper._send(loop, call)
        except BaseException:
            call.cancel()  # what has not begun by now never will
            raise
        finally:
            del call  # an exception's traceback refers to this frame, and the call to the exception


class _Guard:
    """The token of one call, and the name of its thread."""

    __slots__ = ("_limiter", "_outer_name", "_thread_name")

    def __init__(self, options: CallOptions) -> None:
        self._limiter = options.limiter
        self._thread_name = options.thread_name
        self._outer_name: str | None = None

    def begins(self, call: kernel.SyncCall) -> None:
        if self._limiter is not None:
            self._limiter._begins_here(call)
        if self._thread_name is not None:
            thread = threading.current_thread()
            self._outer_name, thread.name = thread.name, self._thread_name

    def ends(self, call: kernel.SyncCall) -> None:
        if self._outer_name is not None:
            threading.current_thread().name = self._outer_name
        self.given_up(call)

    def given_up(self, call: kernel.SyncCall) -> None:
        if self._limiter is not None:
            self._limiter._give_back(call)

    def blocker(self, call: kernel.SyncCall) -> None:
        return None
