"""Observers, for tracers of the calls that go from one thread to another (APM agents).

Each call of `sync_to_async` and `async_to_sync` tells an `Observer` when it is about to be
submitted, in the context of the caller; when it starts on the other side; and when it ends there.
Nothing has to be patched. ::

    class Tracing(Observer):
        def before_submit(self, hop):
            hop.state[self] = tracer.current_span()

        def start(self, hop):
            parent = hop.state[self]
            hop.state[self] = tracer.start_span(hop.name, parent=parent)

        def end(self, hop):
            hop.state.pop(self).finish(error=hop.error)

        def never_began(self, hop):
            del hop.state[self]  # the caller's span

    asgibridge.observers.add(Tracing())

**Promises.** Each ``before_submit`` is followed by one ``start`` and then one ``end``; or, if the
call was refused or given up before it began, by one ``never_began``. That calls ``end`` unless it
is overridden, for observers that count calls in flight. ``start`` and ``end`` come on the thread
(and for a coroutine in the task) that runs the function, in its context: the function sees a
context variable that ``start`` has set, and so does the caller afterwards, as any that the function
sets. Calls tell observers in the order in which they were added, at ``end`` in the opposite one.
Calls that were under way when an observer was added do not tell it; those under way when it is
removed still do. An observer's errors are logged (logger ``asgibridge``), and the call goes on.

Without observers, a call pays one comparison.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Literal

from ._waits import names

__all__ = ["Hop", "Observer", "add", "remove"]


def __dir__() -> list[str]:
    return __all__


_logger = logging.getLogger("asgibridge")


class Hop:
    """One call on its way from a thread to another, as observers see it."""

    __slots__ = (
        "__weakref__",
        "_observers",
        "error",
        "function",
        "kind",
        "loop",
        "state",
        "task",
        "thread",
        "thread_sensitive",
        "times",
    )

    def __init__(
        self,
        kind: Literal["sync_to_async", "async_to_sync"],
        function: Callable[..., Any],
        thread_sensitive: bool | None,
        loop: asyncio.AbstractEventLoop | None,
        task: asyncio.Task[Any] | None,
    ) -> None:
        self.kind = kind
        """Which of the two bridges."""
        self.function = function
        """The function that the user wrapped."""
        self.thread_sensitive = thread_sensitive
        """As given to `sync_to_async`; None for `async_to_sync`."""
        self.loop = loop
        """The event loop: of the task that waits; for `async_to_sync`, from ``start`` on, the one
        that runs the coroutine."""
        self.task = task
        """The task that waits; for `async_to_sync`, from ``start`` on, the one that runs it."""
        self.thread: threading.Thread | None = None
        """Runs the function, from ``start`` on."""
        self.error: BaseException | None = None
        """The function's error, at ``end``. At ``never_began``: asyncio.CancelledError, or what
        kept the coroutine from being made."""
        self.state: dict[Any, Any] = {}
        """For the observers. By convention under the observer itself."""
        self.times: dict[str, float] = {}
        """``submitted``, ``started`` and ``ended``, in seconds, as `time.perf_counter` tells it."""
        self._observers: tuple[Observer, ...] = _observers

    @property
    def name(self) -> str:
        """The function's module and qualified name, as far as it has them."""
        function: Any = self.function
        while not hasattr(function, "__qualname__") and hasattr(function, "func"):
            function = function.func  # functools.partial
        name = getattr(function, "__qualname__", None) or type(function).__qualname__
        module = getattr(function, "__module__", None)
        return f"{module}.{name}" if module else str(name)

    def __repr__(self) -> str:
        return f"<Hop {self.kind} {self.name}>"

    def _submit(self) -> None:
        self.times["submitted"] = time.perf_counter()
        for observer in self._observers:
            _tell(observer.before_submit, self)

    def _start(self) -> None:
        self.thread = threading.current_thread()
        if self.kind == "async_to_sync":
            self.loop = asyncio.get_running_loop()
            self.task = asyncio.current_task()
        self.times["started"] = time.perf_counter()
        for observer in self._observers:
            _tell(observer.start, self)

    def _end(self, error: BaseException | None) -> None:
        if "ended" in self.times:
            return
        self.times["ended"] = time.perf_counter()
        has_begun = "started" in self.times
        if error is None and not has_begun:
            error = asyncio.CancelledError()
        self.error = error
        del error
        try:
            for observer in reversed(self._observers):
                # An observer that is not derived from ours may have no other method.
                end = observer.end if has_begun else getattr(observer, "never_began", observer.end)
                _tell(end, self)
        finally:
            # The error's traceback has frames that refer to us.
            self.error = self.task = self.loop = None


class Observer:
    """Override what you need. Calls come from any thread, and several at the same time."""

    def before_submit(self, hop: Hop) -> None:
        """The call is about to be given to the other side. On the caller's thread."""

    def start(self, hop: Hop) -> None:
        """The function begins. On the thread that runs it, in its context."""

    def end(self, hop: Hop) -> None:
        """It has ended (see ``hop.error``), on the same thread. Afterwards the hop drops
        ``error``, ``loop`` and ``task``."""

    def never_began(self, hop: Hop) -> None:
        """In place of ``start`` and ``end``: the call was refused, or given up before it began. On
        the thread that gives it up. Calls ``end``, unless overridden."""
        self.end(hop)


_lock = threading.Lock()
_observers: tuple[Observer, ...] = ()
wrap: Any = None
"""`asgibridge.sync` asks it for a function to call instead. None if there is no observer."""


def add(observer: Observer) -> None:
    """Tell ``observer`` of the calls that are made from now on. Any thread.

    TypeError if it is a class, or lacks a method; adding it twice changes nothing.
    """
    global _observers
    if isinstance(observer, type):
        raise TypeError(f"{observer!r} is a class: add an instance, {observer.__name__}()")
    for name in ("before_submit", "start", "end"):
        if not callable(getattr(observer, name, None)):
            raise TypeError(f"{observer!r} has no method {name}: derive it from Observer")
    with _lock:
        if not any(each is observer for each in _observers):
            _set((*_observers, observer))


def remove(observer: Observer) -> None:
    """Tell ``observer`` of no further calls. ValueError if it was not added. Any thread."""
    with _lock:
        if not any(each is observer for each in _observers):
            raise ValueError(f"{observer!r} was not added")
        _set(tuple(each for each in _observers if each is not observer))


def _set(observers: tuple[Observer, ...]) -> None:
    global _observers, wrap
    _observers = observers
    wrap = _wrap if observers else None


def _tell(method: Callable[[Hop], None], hop: Hop) -> None:
    try:
        method(hop)
    except Exception:
        _logger.exception("an observer raised in %s", getattr(method, "__qualname__", method))


def _wrap(wrapper: Any, function: Callable[..., Any], shown: Any) -> Callable[..., Any]:
    # On the caller's thread, before the call. The wrapper is None for an async function.
    if wrapper is None:
        hop = Hop("async_to_sync", function, None, None, None)
        hop._submit()
        return ObservedAwaitable(hop, function)._begin
    hop = Hop(
        "sync_to_async",
        shown,
        wrapper._thread_sensitive,
        asyncio.get_running_loop(),
        asyncio.current_task(),
    )
    hop._submit()
    return _ObservedFunction(hop, function)


class _ObservedFunction:
    """Calls the function, and tells observers; also if it is dropped without a call."""

    __slots__ = ("__wrapped__", "_hop")

    def __init__(self, hop: Hop, function: Callable[..., Any]) -> None:
        self._hop = hop
        self.__wrapped__ = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        __traceback_hide__ = True
        hop, function = self._hop, self.__wrapped__
        hop._start()
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            hop._end(error)
            raise
        hop._end(None)
        return result

    def __del__(self) -> None:
        if hasattr(self, "_hop"):
            self._hop._end(None)


class ObservedAwaitable:
    """A coroutine that runs another, and tells observers; also if it is dropped before its
    start."""

    __slots__ = ("__weakref__", "_awaitable", "_coroutine", "_hop")

    def __init__(self, hop: Hop, function: Callable[..., Any]) -> None:
        self._hop = hop
        self._awaitable: Any = function

    def _begin(self, *args: Any, **kwargs: Any) -> ObservedAwaitable:
        # On the caller's thread, which calls the async function itself.
        __traceback_hide__ = True
        function, self._awaitable = self._awaitable, None
        try:
            self._awaitable = function(*args, **kwargs)
        except BaseException as error:
            self._hop._end(error)
            raise
        self._coroutine = _observed(self._hop, self._awaitable)
        return self

    def __getattr__(self, name: str) -> Any:
        # asyncio and debuggers look at the task's coroutine: show them the program's.
        if name in ("__name__", "__qualname__") or name.startswith(("cr_", "gi_", "ag_")):
            return getattr(self._awaitable, name)
        raise AttributeError(name)

    def __await__(self) -> ObservedAwaitable:
        return self

    __iter__ = __await__

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        __traceback_hide__ = True
        return self._coroutine.send(value)

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> Any:
        __traceback_hide__ = True
        error = kind if value is None else value
        if isinstance(error, type):
            error = error()
        try:
            return self._coroutine.throw(
                error if traceback is None else error.with_traceback(traceback)
            )
        finally:
            self.close_if_not_begun()
            del error, kind, value

    def close_if_not_begun(self) -> None:
        """End it if it has not started, and never will."""
        if "started" not in self._hop.times:
            self.close()

    def close(self) -> None:
        has_begun = "started" in self._hop.times
        try:
            self._coroutine.close()
            if not has_begun and hasattr(self._awaitable, "close"):
                self._awaitable.close()
        finally:
            self._hop._end(None)

    def __del__(self) -> None:
        if hasattr(self, "_coroutine"):
            self.close()


async def _observed(hop: Hop, awaitable: Any) -> Any:
    __traceback_hide__ = True
    hop._start()
    try:
        result = await awaitable
    except BaseException as error:
        hop._end(error)
        raise
    hop._end(None)
    return result


names.drivers[_observed.__code__] = "awaitable"
