"""What a thread does around a sync function that `sync_to_async` brought to it.

The same as the shell's ``SyncToAsync.thread_handler``, which is there to be overridden and patched.
The shell takes this where nobody has, and where the awaiting task handles no exception: it is a
third of the Python code of a hop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any

from .._process import fork
from .home import at_home, current_home

__all__ = ["ThreadHandler", "awaiting"]


class ThreadHandler:
    """Calls ``function()`` in ``context``, at the home where this object was made.

    :param threadlocal: ``SyncToAsync.threadlocal``, in which the calls that the function makes look
        up ``loop`` and ``task_context``.
    """

    __slots__ = ("_context", "_function", "_home", "_loop", "_task_context", "_threadlocal")

    def __init__(
        self,
        threadlocal: Any,
        loop: asyncio.AbstractEventLoop,
        task_context: list[asyncio.Task[Any]],
        context: Context,
        function: Callable[[], Any],
    ) -> None:
        self._home = current_home()
        self._threadlocal = threadlocal
        self._loop = loop
        self._task_context = task_context
        self._context = context
        self._function = function

    def __call__(self) -> Any:
        __traceback_hide__ = True
        threadlocal = self._threadlocal.__dict__
        outer = threadlocal.copy()
        threadlocal["main_event_loop"] = self._loop
        threadlocal["main_event_loop_pid"] = fork.pid
        threadlocal["task_context"] = self._task_context
        try:
            return at_home(self._home, self._context.run, self._function)
        finally:
            for name in ("main_event_loop", "main_event_loop_pid", "task_context"):
                if name in outer:
                    threadlocal[name] = outer[name]
                else:
                    threadlocal.pop(name, None)


def awaiting(threadlocal: Any) -> tuple[Any, Any]:
    """The event loop that waits for the sync function which this thread runs, None if none does;
    and the ``task_context`` of the call.

    :param threadlocal: ``SyncToAsync.threadlocal``.
    """
    names = threadlocal.__dict__
    if not names:
        return None, None
    # In a forked child the loop is the parent's (asgiref #194).
    is_mine = names.get("main_event_loop_pid") == fork.pid
    return names.get("main_event_loop") if is_mine else None, names.get("task_context")
