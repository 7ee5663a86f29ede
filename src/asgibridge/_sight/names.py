"""How a dump names functions and tasks: as the program's own code, not what we put around it."""

from __future__ import annotations

import functools
import types
from typing import Any

from .. import _kernel, limiters, observers, runners, sync
from .._pure.drive import drive
from .._waits import names
from .._workers import leases

__all__ = ["function_words", "task_words"]

# The coroutines that run a coroutine of the user's.
_DRIVERS = tuple(
    function.__code__ for function in (drive, runners.TopLevelRun._body, observers._awaiting)
)


def function_words(function: Any) -> str:
    """The qualified name of the user's function that a call is about, with its file and line."""
    return names.function_words(user_function(function))


def user_function(function: Any) -> Any:
    """The user's function in what a kernel's call has to call."""
    while True:
        details = _kernel.kernel.details(function)
        if details is not None and details["kind"] == "handler":
            function = details["function"]
        elif type(function) is limiters._Job:
            return function._function
        elif type(function) is leases._Gate:
            function = function.function
        elif type(function) is functools.partial and _is_thread_handler(function.func):
            function = function.args[-1]
        elif type(function) is functools.partial and function.func is _kernel.kernel.at_home:
            function = function.args[-1]  # on a kept worker
        else:
            return function


def _is_thread_handler(function: Any) -> bool:
    # Which the program may have put its own in place of.
    return type(function) is types.MethodType and isinstance(function.__self__, sync.SyncToAsync)


def task_words(task: Any) -> str:
    """A task's name, and the coroutine function that it is about, with its file and line."""
    coroutine = task.get_coro()
    while True:
        code = getattr(coroutine, "cr_code", None) or getattr(coroutine, "gi_code", None)
        inner = getattr(coroutine, "cr_await", None)
        if code not in _DRIVERS or not hasattr(inner, "cr_code"):
            break
        coroutine = inner
    name = getattr(coroutine, "__qualname__", None) or type(coroutine).__qualname__
    place = f" ({code.co_filename}:{code.co_firstlineno})" if code is not None else ""
    return f"task {task.get_name()!r} of {name}{place}"
