"""How a cancellation of the awaiting task reaches the coroutine that its function waits for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from .._process.handover import call_if_open

if TYPE_CHECKING:
    from .._kernel import kernel


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
