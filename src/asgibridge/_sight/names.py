"""How a dump names tasks: as the program's own code, not what we put around it."""

from __future__ import annotations

from typing import Any

from .._waits.names import drivers, function_words

__all__ = ["task_words"]


def task_words(task: Any) -> str:
    """A task's name, and the coroutine function that it is about, with its file and line."""
    coroutine = task.get_coro()
    while True:
        code = getattr(coroutine, "cr_code", None) or getattr(coroutine, "gi_code", None)
        frame = getattr(coroutine, "cr_frame", None)
        # Where a coroutine is that runs at this moment, it does not say what it awaits.
        inner = getattr(coroutine, "cr_await", None)
        if code in drivers and frame is not None:
            driven = frame.f_locals.get(drivers[code])
            if hasattr(driven, "shown"):
                return f"task {task.get_name()!r} of {function_words(driven.shown)}"
            inner = inner or driven
        if code not in drivers or not hasattr(inner, "cr_code"):
            break
        coroutine = inner
    name = getattr(coroutine, "__qualname__", None) or type(coroutine).__qualname__
    place = f" ({code.co_filename}:{code.co_firstlineno})" if code is not None else ""
    return f"task {task.get_name()!r} of {name}{place}"
