"""Making a wrapper look like what it wraps.

Programs make wrappers on the fly, one for each call, and get one bound at each access of a method;
so what `functools.update_wrapper` and `inspect.iscoroutinefunction` do is done here for the usual
case, a plain function. What is seen of the result is the same.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any

_COROUTINE_MARKS = ("_is_coroutine", "_is_coroutine_marker")
# What, in a function's __dict__, inspect would go by.
_SAY_MORE = frozenset((*_COROUTINE_MARKS, "_partialmethod", "__partialmethod__"))
_NOTHING: dict[str, Any] = {}


def _adopt_names(wrapper: Any, wrapped: Any) -> None:
    names = getattr(wrapped, "__dict__", _NOTHING)
    if names:
        namespace = wrapper.__dict__
        defined = type(wrapper).__dict__
        for name, value in names.items():
            if name not in _COROUTINE_MARKS and name not in defined:
                namespace[name] = value


def is_async_def(function: Any) -> bool | None:
    """Whether ``function`` is an ``async def``; None if it is not as simple as that.

    Then `inspect.iscoroutinefunction` has to be asked, of it and of its ``__call__``.
    """
    if type(function) is MethodType:
        function = function.__func__
    if type(function) is FunctionType and _SAY_MORE.isdisjoint(function.__dict__):
        return bool(function.__code__.co_flags & inspect.CO_COROUTINE)
    return None


def adopt(wrapper: Any, wrapped: Any, mark: tuple[str, Any] | None = None) -> None:
    """`functools.update_wrapper`, and ``__self__``, for what wraps a function for other callers.

    Of what is in the function's ``__dict__`` it leaves out what the wrapper's class defines, and
    the marks by which a function passes for a coroutine function.

    :param mark: such a mark (its name and value), which the wrapper gets.
    """
    for name in functools.WRAPPER_ASSIGNMENTS:
        try:
            value = getattr(wrapped, name)
        except AttributeError:
            continue
        setattr(wrapper, name, value)
    _adopt_names(wrapper, wrapped)
    wrapper.__wrapped__ = wrapped
    if mark is not None:
        setattr(wrapper, *mark)
    if type(wrapped) is not FunctionType:  # which has none, and finding that out takes as long
        try:
            value = wrapped.__self__
        except AttributeError:
            return
        wrapper.__self__ = value


def _bind(call: Callable[..., Any], parent: Any, wrapped: Any) -> functools.partial[Any]:
    bound = functools.partial(call, parent)
    namespace = bound.__dict__
    for name in functools.WRAPPER_ASSIGNMENTS:
        try:
            namespace[name] = getattr(wrapped, name)
        except AttributeError:
            pass
    _adopt_names(bound, wrapped)
    namespace["__wrapped__"] = wrapped
    return bound


class SyncWrapper:
    """Binds to an instance, as a functools.partial that looks like ``self.func`` does by then.

    Through the class it is itself, as a function is.
    """

    __slots__ = ()

    if TYPE_CHECKING:
        __call__: Callable[..., Any]
        func: Any

    def __get__(self, parent: Any, objtype: Any = None) -> Any:
        return self if parent is None else _bind(self.__call__, parent, self.func)


class AsyncWrapper:
    """Binds to an instance, as a functools.partial that looks like ``self.awaitable`` by then.

    Through the class it is itself, as a function is.
    """

    __slots__ = ()

    if TYPE_CHECKING:
        __call__: Callable[..., Any]
        awaitable: Any

    def __get__(self, parent: Any, objtype: Any = None) -> Any:
        return self if parent is None else _bind(self.__call__, parent, self.awaitable)
