"""What errors and dumps call functions and tasks, and how they read a foreign object.

They read the program's objects on any thread, and with locks of ours held. A lazy proxy's
``__getattr__`` must not run there, so `stored` reads attributes without running code.
"""

from __future__ import annotations

import functools
import inspect
import types
from typing import Any

drivers: dict[types.CodeType, str] = {}
"""By the code of each of our coroutines that runs one of the program's: the local variable with
what it runs, a coroutine or an object whose ``shown`` is the user's function."""
partners: list[type] = []
"""The classes of ours whose objects have a ``task``, and an ``_ask`` and a ``close`` in which a
thread waits for it and serves their ``_frame``."""
waiting: list[types.CodeType] = []
"""The functions of ours in which a thread waits for async code."""

_SLOTS = (types.MemberDescriptorType, types.GetSetDescriptorType)


def stored(thing: Any, name: str) -> Any:
    """The attribute, read without running Python code of ``thing``'s class; None if there is none.

    From any thread.
    """
    found = inspect.getattr_static(thing, name, None)
    if type(found) not in _SLOTS:
        return None if type(found) is property else found
    try:
        return found.__get__(thing, type(thing))
    except AttributeError:  # an empty slot
        return None


def function_words(function: Any) -> str:
    """The qualified name of the user's function, with its file and line. From any thread."""
    for _ in range(100):  # arbitrary: a wrapper that wraps itself must not hang a dump
        if type(function) is types.MethodType:
            function = function.__func__
        inner = stored(function, "__wrapped__")
        if issubclass(type(function), functools.partial):
            inner = stored(function, "func")
        if inner is None:
            break
        function = inner  # a decorated function has the name of what it decorates
    name = stored(function, "__qualname__")
    code = stored(function, "__code__")
    if not isinstance(name, str):
        name = type(function).__qualname__
    if isinstance(code, types.CodeType):
        return f"{name} ({code.co_filename}:{code.co_firstlineno})"
    module = stored(function, "__module__")
    return f"{module}.{name}" if isinstance(module, str) else name


def task_words(task: Any) -> str:
    """A task's name, and the coroutine function of the program that it runs, with file and line.

    From any thread.
    """
    try:
        coroutine, name = task.get_coro(), task.get_name()
    except AttributeError:  # a task class of somebody's own
        return repr(task)
    while True:
        code = getattr(coroutine, "cr_code", None) or getattr(coroutine, "gi_code", None)
        frame = getattr(coroutine, "cr_frame", None)
        # None for a coroutine that runs at this moment.
        inner = getattr(coroutine, "cr_await", None)
        if code in drivers and frame is not None:
            driven = frame.f_locals.get(drivers[code])
            if hasattr(driven, "shown"):
                return f"task {name!r} of {function_words(driven.shown)}"
            inner = inner or driven
        if code not in drivers or not hasattr(inner, "cr_code"):
            break
        coroutine = inner
    function = getattr(coroutine, "__qualname__", None) or type(coroutine).__qualname__
    place = f" ({code.co_filename}:{code.co_firstlineno})" if code is not None else ""
    if code is not None and code.co_name != getattr(coroutine, "__name__", None):
        # A decorator's, which has taken over the name of what it decorates, but not the place.
        for value in () if frame is None else frame.f_locals.values():
            if type(value) is types.FunctionType and value.__qualname__ == function:
                return f"task {name!r} of {function_words(value)}"
        place = ""
    return f"task {name!r} of {function}{place}"
