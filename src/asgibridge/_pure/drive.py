"""On which event loop a thread's coroutine begins, how, and how its outcome comes back."""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Awaitable
from contextvars import Context, copy_context
from typing import Any

from .._process.cpython import makes_tasks_as_usual
from .._waits import names
from .context import restore_context


def begin_task(loop: Any, coroutine: Any, call_result: Any, no_result: str) -> None:
    """Run ``coroutine`` in a task of ``loop``, which runs on this thread.

    :param call_result: where the coroutine puts its outcome. If it can't begin, that says so.
    :param no_result: the error if it ends without.
    """
    try:
        if not makes_tasks_as_usual(loop):
            task = loop.create_task(coroutine)
        elif sys.version_info >= (3, 12):
            # A first step then and there saves a turn of the loop.
            task = asyncio.tasks.Task(coroutine, loop=loop, eager_start=True)  # type: ignore[call-arg, unused-ignore]
        else:
            # The same by hand: the task has put its first step at the end of what is ready. (Unless
            # another thread has been quicker.) It stays there, cancelled: what another thread puts
            # behind it in this moment is not to be taken out, and put back too late or never.
            task = asyncio.tasks.Task(coroutine, loop=loop)
            handle = loop._ready[-1]
            step = handle._callback
            if getattr(step, "__self__", None) is task:
                run = handle._context.run
                handle.cancel()
                run(step)
    except BaseException as error:
        if not call_result.done():
            call_result.set_exception(error)
        coroutine.close()
        raise
    if not call_result.done():  # in its first step, most often
        # It can't tell if the task is cancelled before that; and a patched main_wrap may fail. The
        # thread must not wait for ever. (A callback costs another turn of the loop.)
        task.add_done_callback(functools.partial(_ended, call_result, no_result))


def _ended(call_result: Any, no_result: str, task: asyncio.Task[None]) -> None:
    if call_result.done():
        return
    error = asyncio.CancelledError() if task.cancelled() else task.exception()
    call_result.set_exception(error or RuntimeError(no_result))


async def drive(
    call_result: Any,
    task_context: list[asyncio.Task[Any]] | None,
    context: list[Context] | None,
    awaitable: Awaitable[Any],
) -> None:
    """A coroutine that awaits ``awaitable`` and puts its outcome into ``call_result``.

    :param task_context: lists the task while it runs, so that a cancellation can reach it.
    :param context: a list of one: the caller's context, replaced by what became of it.
    """
    __traceback_hide__ = True
    if context is not None:
        restore_context(context[0], copy_context())
    task = asyncio.current_task()
    if task_context is None or task is None:
        task_context = []
    else:
        task_context.append(task)
    result: Any = None
    error: BaseException | None = None
    try:
        result = await awaitable
    except GeneratorExit:
        error = RuntimeError("the event loop was dropped before the async function had ended")
        raise
    except BaseException as raised:
        error = raised
    finally:
        if task_context:
            task_context.remove(task)  # type: ignore[arg-type]
        # Before the outcome: the caller goes on as soon as that is set.
        if context is not None:
            context[0] = copy_context()
        try:
            if error is None:
                call_result.set_result(result)
            else:
                call_result.set_exception(error)
        finally:
            # The traceback of the error refers to this frame.
            del call_result, result, error, task, task_context


names.drivers[drive.__code__] = "awaitable"
