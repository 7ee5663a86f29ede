"""Calls with ``limiter``, ``thread_name`` or ``abandon_on_cancel``, and calls that are cancelled.

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

from .._process.handover import call_if_open
from . import state

if TYPE_CHECKING:
    from .._kernel import kernel
    from ..limiters import CapacityLimiter
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
        if thread_sensitive and limiter is not None:
            raise TypeError(
                "limiter must not be set when thread_sensitive is True: such calls run one at a "
                "time on each thread"
            )
        if limiter is not None:
            from ..limiters import CapacityLimiter  # only now: most programs have none

            if not isinstance(limiter, CapacityLimiter):
                raise TypeError(
                    f"limiter={limiter!r}: must be an asgibridge.limiters.CapacityLimiter"
                )
        if thread_sensitive and thread_name is not None:
            raise TypeError(
                "thread_name must not be set when thread_sensitive is True: the thread is not the "
                "call's alone"
            )
        if not isinstance(thread_name, (str, type(None))):
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


async def cancel_inner_task(
    loop: asyncio.AbstractEventLoop, task_context: kernel.TaskContext
) -> bool:
    """Cancel the task that the function waits for in `async_to_sync`, if there is one.

    On the thread of ``loop``, in the task that was cancelled. Returns whether to wait for the
    function: False if there is none, or it was cancelled too.
    """
    inner = next(iter(task_context), None)
    if inner is None:
        return False
    inner_loop = inner.get_loop()
    if inner_loop is not loop:  # force_new_loop: not ours to touch, or to await
        call_if_open(inner_loop, inner.cancel)  # if it is closed, the task has ended
        return True
    inner.cancel()
    try:
        await inner
    except asyncio.CancelledError:
        return False
    return True


def abandon(call: kernel.SyncCall) -> None:
    """Nobody waits for the call any more. On the loop's thread."""
    if call.revoke() or call.done():
        return
    assert call.task_context is not None
    call.task_context.is_abandoned = True
    if state.abandoned is not None:
        state.abandoned(call.task_context)


async def outwait(loop: asyncio.AbstractEventLoop, call: kernel.SyncCall) -> tuple[bool, Any]:
    """Wait for the end of the function, however often the task is cancelled meanwhile.

    A cancellation goes on to the coroutine that the function waits for in `async_to_sync`. Returns
    whether that coroutine has survived it, so that the function's result counts, and the result.
    Raises what the function raises.
    """
    while call.has_begun:
        assert call.task_context is not None
        survived = not call.done() and await cancel_inner_task(loop, call.task_context)
        try:
            return survived, await call
        except asyncio.CancelledError:
            if call.done():  # the function's own; or cancelled as the outcome came
                call.revoke()
                raise
    return False, None
