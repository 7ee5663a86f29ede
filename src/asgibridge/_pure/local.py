"""Where a `Local` keeps its attributes.

`ContextStorage` (a plain Local): one context variable, whose value is a home (`.home`) and the dict
of the attributes that were set at it. The dict is never changed, only replaced by a changed copy,
because contexts share it. Set at one home, it does not exist at another.

`ThreadStorage` (thread-critical): in a thread without a running event loop one namespace for the
thread; in a thread with one, a namespace per context, which other threads cannot reach because each
thread has a variable of its own.

No locks: a write is one ``ContextVar.set``.
"""

from __future__ import annotations

import threading
from contextvars import ContextVar
from typing import Any, NoReturn, Optional

from .._process.cpython import running_loop
from .home import Home, current_home, this_thread

_setattr = object.__setattr__
_Attributes = tuple[Optional[Home], dict[str, Any]]  # at that home; immutable
_NONE: _Attributes = (None, {})


class _ThreadNamespace(threading.local):
    """What one thread sees of a ThreadStorage."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = {}
        self.variable: ContextVar[dict[str, Any]] = ContextVar("asgibridge.local")


def _missing(local: object, key: str) -> NoReturn:
    raise AttributeError(f"{type(local).__name__.lstrip('_')!r} object has no attribute {key!r}")


class ContextStorage:
    """Attributes that follow the chain of calls, wherever it goes."""

    __slots__ = ("__variable", "__weakref__")  # mangled: any other name is the user's

    __variable: ContextVar[_Attributes]

    def __init__(self) -> None:
        _setattr(self, "_ContextStorage__variable", ContextVar("asgibridge.local", default=_NONE))

    def __getattr__(self, key: str) -> Any:
        home, data = self.__variable.get()
        if home is this_thread.home or (home is not None and home is current_home()):
            try:
                return data[key]
            except KeyError:
                pass
        _missing(self, key)

    def __setattr__(self, key: str, value: Any) -> None:
        if key == "_data":
            raise AttributeError("Cannot set attribute '_data' on Local")
        home, data = self.__variable.get()
        here = current_home()
        self.__variable.set((here, {**(data if home is here else {}), key: value}))

    def __delattr__(self, key: str) -> None:
        home, data = self.__variable.get()
        if home is not current_home() or key not in data:
            _missing(self, key)
        data = data.copy()
        del data[key]
        self.__variable.set((home, data))


def peek(local: Any, key: str, default: Any) -> Any:
    """``getattr(local, key, default)``; of a `ContextStorage`, without making an AttributeError.

    That costs a microsecond, and on most hops there is nothing to find.
    """
    if not isinstance(local, ContextStorage):
        return getattr(local, key, default)
    home, data = local._ContextStorage__variable.get()
    if home is this_thread.home or (home is not None and home is current_home()):
        return data.get(key, default)
    return default


class ThreadStorage:
    """Attributes of one thread, and in a thread with an event loop, of one context."""

    __slots__ = ("__namespace", "__weakref__")

    __namespace: _ThreadNamespace

    def __init__(self) -> None:
        _setattr(self, "_ThreadStorage__namespace", _ThreadNamespace())

    def __getattr__(self, key: str) -> Any:
        namespace = self.__namespace
        try:
            if running_loop() is None:
                return namespace.data[key]
            return namespace.variable.get({})[key]
        except KeyError:
            pass
        _missing(self, key)

    def __setattr__(self, key: str, value: Any) -> None:
        namespace = self.__namespace
        if running_loop() is None:
            namespace.data[key] = value
        else:
            namespace.variable.set({**namespace.variable.get({}), key: value})

    def __delattr__(self, key: str) -> None:
        namespace = self.__namespace
        if running_loop() is None:
            if namespace.data.pop(key, _setattr) is _setattr:
                _missing(self, key)
        else:
            data = namespace.variable.get({}).copy()
            if data.pop(key, _setattr) is _setattr:
                _missing(self, key)
            namespace.variable.set(data)
