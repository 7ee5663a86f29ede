"""How a dump names tasks: as the program's own code, not what we put around it."""

from __future__ import annotations

from typing import Any

from .. import runners
from .._iteration.partner import Partner
from .._pure.drive import drive
from .._waits.names import function_words

__all__ = ["task_words"]

# The coroutines that run a coroutine of the user's, which they call ``awaitable``; and those that
# run what a Partner is about.
_DRIVERS = (drive.__code__, runners.TopLevelRun._body.__code__)
_PARTNERS = (Partner._own_main.__code__, Partner._main.__code__)


def task_words(task: Any) -> str:
    """A task's name, and the coroutine function that it is about, with its file and line."""
    coroutine = task.get_coro()
    while True:
        code = getattr(coroutine, "cr_code", None) or getattr(coroutine, "gi_code", None)
        frame = getattr(coroutine, "cr_frame", None)
        if frame is not None and code in _PARTNERS:
            return f"task {task.get_name()!r} of {function_words(frame.f_locals['self'].shown)}"
        # One that runs at this moment awaits nothing.
        inner = getattr(coroutine, "cr_await", None)
        if inner is None and frame is not None:
            inner = frame.f_locals.get("awaitable")
        if code not in _DRIVERS or not hasattr(inner, "cr_code"):
            break
        coroutine = inner
    name = getattr(coroutine, "__qualname__", None) or type(coroutine).__qualname__
    place = f" ({code.co_filename}:{code.co_firstlineno})" if code is not None else ""
    return f"task {task.get_name()!r} of {name}{place}"
