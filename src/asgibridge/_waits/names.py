"""How functions and tasks are called in messages and dumps, and how a foreign object is looked at.

Objects of the program are looked at from any thread, and with locks of ours held. A lazy proxy's
``__getattr__`` must not run there, so their attributes are read by `stored`.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import types
from typing import Any

__all__ = ["drivers", "function_words", "partners", "stored", "task_words", "waiting"]

drivers: dict[types.CodeType, str] = {}
"""The coroutines of ours that run the program's, by their code, and their local variable that has
what they run: a coroutine, or an object whose ``shown`` is the user's function."""
partners: list[types.CodeType] = []
"""The methods of ours in which a thread waits for the ``task`` of their object."""
waiting: list[types.CodeType] = []
"""The functions of ours in which a thread waits for async code."""

_SLOTS = (types.MemberDescriptorType, types.GetSetDescriptorType)


def stored(thing: Any, name: str) -> Any:
    """The attribute, without running any Python code of ``thing``'s class; None if it has none so.

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
        function = inner  # what a decorator has made is named as what it decorates
    name = stored(function, "__qualname__")
    code = stored(function, "__code__")
    if not isinstance(name, str):
        name = type(function).__qualname__
    if isinstance(code, types.CodeType):
        return f"{name} ({code.co_filename}:{code.co_firstlineno})"
    module = stored(function, "__module__")
    return f"{module}.{name}" if isinstance(module, str) else name


def task_words(task: asyncio.Task[Any]) -> str:
    """A task's name and what it runs, for a message."""
    try:
        coroutine: Any = task.get_coro()
        what = getattr(coroutine, "__qualname__", None) or type(coroutine).__name__
        return f"task {task.get_name()!r} ({what})"
    except AttributeError:  # a task class of somebody's own
        return repr(task)
