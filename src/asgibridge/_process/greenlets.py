"""Greenlets: what stands in for threads where gevent or eventlet has monkey-patched `threading`.

There every "thread" is a greenlet of one real thread. asyncio knows real threads only: it keeps the
running loop and the current task for each, so that of several loops in greenlets one at a time
works. So whatever runs an event loop gets a real thread with a hub of its own
(`run_in_real_thread`). It is none of gevent's thread pool: that has ten, which look up names, too,
and ten loops that wait for a greenlet that waits for a name would wait for ever.

Sync code stays in greenlets of the thread that made the call: its **home**. What a loop's thread
starts (workers, the default executor's threads) is started there (`call_at_home`), so that no sync
code sees a running loop, and no greenlet ends with a loop's thread.

gevent's queues and events are for the greenlets of one thread. What goes between two is made by
`make_queue`, `make_sleep_lock` and `make_event`, which return the library's where nothing is
patched. What is locked for a moment only, and never over a switch, has a real lock
(`cpython.RLock`).
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import queue
import sys
import threading
import time
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from types import BuiltinFunctionType
from typing import Any

from . import cpython


def are_here() -> bool:
    """Whether `threading` is patched. Asked anew each time: it may be about to."""
    return type(threading.get_ident) is not BuiltinFunctionType


def _module(name: str) -> Any:
    # Before CPython 3.10 `import_module` takes the module's lock though it is loaded (bpo-43392):
    # one of gevent's here, and who waits for such a lock in another thread may wait for ever.
    return sys.modules.get(name) or importlib.import_module(name)


def _is_gevent() -> bool:
    monkey: Any = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def are_eventlets() -> bool:
    """Whether it is eventlet that has patched `threading`."""
    return are_here() and not _is_gevent()


def runs_no_loop() -> bool:
    """Whether the running loop of this thread, if any, runs in another of its greenlets."""
    loop = cpython.running_loop()
    return loop is None or (are_here() and cpython.thread_of_loop(loop) != threading.get_ident())


class Bell:
    """One greenlet waits for it, and any other, of whatever thread, rings it."""

    __slots__ = ("_rung", "_wake")

    def __init__(self) -> None:
        self._rung: list[bool] = []
        self._wake: Callable[[], object] | None = None

    def ring(self) -> None:
        """Let the one that waits, or waits next, go on. From any thread."""
        # 1. This notes it, then looks for `_wake`. 2. `wait` sets `_wake`, then looks whether it
        # has been noted. One that has got up meanwhile is woken for nothing.
        self._rung.append(True)
        wake = self._wake
        if wake is not None:
            wake()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is rung; False if it was not in time. By one greenlet at a time."""
        if not self._rung:
            (self._wait_in_gevent if _is_gevent() else self._wait_in_eventlet)(timeout)
        was_rung = bool(self._rung)
        self._rung.clear()
        return was_rung

    def _wait_in_gevent(self, timeout: float | None) -> None:
        hubs = _module("gevent.hub")
        time_out = _module("gevent.timeout").Timeout
        hub = hubs.get_hub()
        waiter = hubs.Waiter(hub)
        watcher = hub.loop.async_()
        watcher.start(waiter.switch, None)
        limit = time_out.start_new(timeout)
        self._wake = watcher.send
        try:
            if not self._rung:
                waiter.get()
        except time_out as reached:
            if reached is not limit:
                raise
        finally:
            self._wake = None
            watcher.stop()
            limit.close()

    def _wait_in_eventlet(self, timeout: float | None) -> None:
        hubs = _module("eventlet.hubs")
        # `FileIO` keeps who rings from writing to a descriptor that is closed, and somebody else's.
        ends = os.pipe()
        with io.FileIO(ends[0], "r") as heard, io.FileIO(ends[1], "w") as rung:

            def wake() -> None:
                with contextlib.suppress(ValueError):  # it has got up
                    rung.write(b"!")

            self._wake = wake
            try:
                if not self._rung:
                    hubs.trampoline(heard.fileno(), read=True, timeout=timeout, timeout_exc=_Late)
            except _Late:
                pass
            finally:
                self._wake = None


class _Late(Exception):
    pass


class SleepLock:
    """A lock that one greenlet holds and waits for, and another, of whatever thread, releases."""

    __slots__ = ("_bell", "_free")

    def __init__(self) -> None:
        self._free = [True]
        self._bell = Bell()

    def release(self) -> None:
        """Let the one that waits go on. From any thread."""
        self._free.append(True)
        self._bell.ring()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """As a lock's. By its one greenlet."""
        deadline = None if timeout < 0 else time.monotonic() + timeout
        while True:
            try:
                return self._free.pop()
            except IndexError:
                left = None if deadline is None else deadline - time.monotonic()
                if not blocking or (left is not None and left <= 0):
                    return False
            self._bell.wait(left)


class Queue:
    """`queue.SimpleQueue` with one consumer, and producers in whatever thread."""

    __slots__ = ("_bell", "_items")

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._bell = Bell()

    def put(self, item: Any) -> None:
        """Add it. From any thread."""
        self._items.append(item)
        self._bell.ring()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """The first item; raises `queue.Empty`. By the one consumer."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                return self._items.popleft()
            except IndexError:
                left = None if deadline is None else deadline - time.monotonic()
                if not block or (left is not None and left <= 0):
                    raise queue.Empty from None
            self._bell.wait(left)

    def get_nowait(self) -> Any:
        """The first item; raises `queue.Empty`. From any thread."""
        return self.get(False)

    def empty(self) -> bool:
        """Whether there is nothing. From any thread."""
        return not self._items

    def qsize(self) -> int:
        """How many there are. From any thread."""
        return len(self._items)


class Event:
    """`threading.Event`, between greenlets of different threads."""

    def __init__(self) -> None:
        self._is_set = False
        self._waiting: list[Bell] = []

    def is_set(self) -> bool:
        """Whether `set` was called."""
        return self._is_set

    def set(self) -> None:
        """Let all go on that wait. From any thread."""
        self._is_set = True
        for bell in self._waiting[:]:
            bell.ring()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until `set` was called; False if it was not in time."""
        bell = Bell()
        self._waiting.append(bell)
        try:
            return self._is_set or bell.wait(timeout) or self._is_set
        finally:
            self._waiting.remove(bell)


def make_queue() -> queue.SimpleQueue[Any]:
    """A `queue.SimpleQueue` with one consumer."""
    return Queue() if are_here() else queue.SimpleQueue()  # type: ignore[return-value]


def make_sleep_lock() -> Any:
    """A lock, held, for one thread to wait for."""
    lock: Any = SleepLock() if are_here() else threading.Lock()
    lock.acquire()
    return lock


def make_event() -> threading.Event:
    """A `threading.Event` that is set once."""
    return Event() if are_here() else threading.Event()  # type: ignore[return-value]


def follow_patching(modules: Iterable[Any]) -> None:
    """Tell greenlets apart in what the modules' subclasses of `threading.local` keep, though these
    were made before it was patched. Their instances are the same; the main greenlet has what the
    main thread had, all others begin anew."""
    if threading.local is _thread_local:
        return
    for module in modules:
        for cls in list(vars(module).values()):
            if isinstance(cls, type) and issubclass(cls, _thread_local) and cls.__dict__:
                _follow_patching(cls)


_thread_local: Any = threading.local


def _follow_patching(cls: Any) -> None:
    if cls is _thread_local or cls in _followed:
        return
    _followed.append(cls)
    defaults = {
        name: value
        for name, value in vars(cls).items()
        if not name.startswith("__") and not callable(value)
    }
    names = {*defaults, *vars(cls())}
    of_instances: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()

    def here(instance: Any) -> Any:
        local = of_instances.get(instance)
        if local is None:
            local = of_instances.setdefault(instance, threading.local())
        try:
            return local.kept
        except AttributeError:
            kept = local.kept = types.SimpleNamespace(**defaults)
        if threading.get_ident() == threading.main_thread().ident and vars(instance):
            vars(kept).update(vars(instance))
        elif "__init__" in vars(cls):
            cls.__init__(kept)
        return kept

    def follow(name: str) -> property:
        return property(
            lambda instance: getattr(here(instance), name),
            lambda instance, value: setattr(here(instance), name, value),
        )

    for name in names:
        setattr(cls, name, follow(name))


_followed: list[Any] = []


class _Home:
    """Where a loop's thread has greenlets started: by the one that waits for that thread."""

    def __init__(self) -> None:
        self._asked = Queue()

    def ask(self, function: Callable[[], object] | None) -> None:
        """Have ``function()`` called in a greenlet; None: no more will come. From any thread."""
        self._asked.put(function)

    def serve(self) -> None:
        """Start what is asked for, until there will be no more."""
        while (function := self._asked.get()) is not None:
            if _is_gevent():
                _module("gevent").spawn(function)
            else:
                _module("eventlet").spawn_n(function)


_homes: dict[int, _Home] = {}  # of each real thread that runs a loop of ours


def _original(name: str) -> Any:
    # A function of the interpreter's module `_thread`.
    if _is_gevent():
        return _module("gevent.monkey").get_original("_thread", name)
    return getattr(_module("eventlet.patcher").original("_thread"), name)


def _end_hub() -> None:
    # Of a loop's thread, with its descriptors.
    if _is_gevent():
        hub = _module("gevent.hub").get_hub()
        hub.join()
        hub.destroy(destroy_loop=True)
        return
    hub = _module("eventlet.hubs").get_hub()
    hub.abort(wait=True)
    close = getattr(getattr(hub, "poll", None), "close", None)
    if close is not None:
        close()


_NO_GIL = (
    "async_to_sync needs a real thread, and eventlet's locks are for one thread where there is no "
    "GIL: start Python with PYTHON_GIL=1 or -X gil=1"
)


def refuse_without_gil() -> None:
    """RuntimeError if real threads are not safe here: under eventlet without the GIL.

    1. `threading.current_thread` takes one of eventlet's locks, in one thread. 2. In another it
    finds that taken, and waits. 3. The first lets the lock go, and switches to the greenlet that
    waits, which is not of this thread. With the GIL no thread gets between 1 and 3.
    """
    if not cpython.is_gil_enabled() and not _is_gevent():
        raise RuntimeError(_NO_GIL)


def run_in_real_thread(function: Callable[[], object]) -> None:
    """Call ``function()`` in a new real thread, while this greenlet waits for its end.

    Its return value is dropped, and what it raises is raised here. Greenlets that it leaves behind
    in its thread go on there under gevent until they end.
    """
    if not _is_gevent():
        cpython.share_register_of_threads()  # each time: a forked child has its own
    thread_ident = _original("get_ident")
    home = _Home()
    errors: list[BaseException] = []

    def run() -> None:
        ident = thread_ident()
        _homes[ident] = home
        try:
            function()
            _end_hub()
        except BaseException as error:
            errors.append(error)
        finally:
            del _homes[ident]
            home.ask(None)

    _original("start_new_thread")(run, ())
    home.serve()
    _raise(errors)


def call_at_home(function: Callable[[], object]) -> bool:
    """Call ``function()`` in a greenlet of this thread's home, and wait for its end.

    Raises what it does. False, and nothing is done, if this thread is its own home.
    """
    home = _homes.get(_original("get_ident")()) if _homes and are_here() else None
    if home is None:
        return False
    over = Bell()
    errors: list[BaseException] = []

    def call() -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)
        finally:
            over.ring()

    home.ask(call)
    while not over.wait():
        pass
    _raise(errors)
    return True


def _raise(errors: list[BaseException]) -> None:
    try:
        for error in errors:
            raise error
    finally:
        errors.clear()
