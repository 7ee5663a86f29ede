"""The threads this package starts, and what becomes of them at exit and after a fork.

A `Worker` owns one inbox and runs what is put there until the inbox is closed. Who may do what:

* Its executor holds the worker; the worker holds only the inbox, so that an executor that is
  dropped can be collected and closes the inbox on its way.
* The executor starts and closes the worker, under its own lock; only the worker empties the inbox.

**Exit.** A call in flight is waited for, as ThreadPoolExecutor does. But our threads are started as
daemons, only so that `threading` leaves the waiting to us: we wait later, in `atexit`, when the
user's own threads, which may bridge until then, have ended; and a second Ctrl-C in a top-level
`async_to_sync` can leave a thread behind (`Worker.abandon`). To everybody else ours are ordinary,
non-daemon threads, which matters to the threads that user code starts from them: ``daemon`` is
inherited.

Three cases come without that later moment, and end in `threading`'s own hook: children that
multiprocessing forks, which leave without `atexit`; subinterpreters that allow no daemons; and
gevent, whose own waiting (from 3.13 on) looks at ``daemon`` itself. A worker that is started still
later serves what it was started for, and ends.
"""

from __future__ import annotations

import atexit
import contextvars
import functools
import itertools
import sys
import threading
import time
from collections.abc import Callable
from types import BuiltinFunctionType
from typing import Any, Protocol

from . import connections, cpython, fork, greenlets
from .items import Item


class ServedInbox(Protocol):
    """The part of a kernel's Inbox that a worker uses."""

    def serve(self) -> None: ...

    def drain(self) -> list[Item]: ...

    def close(self) -> None: ...


_names = itertools.count()
_get_ident = threading.get_ident
# Guards the pair below, so that no worker slips between the exit's two questions "who is there?"
# and "who waits for the next one?". Re-entrant: a finalizer may start a worker.
_lock = cpython.RLock()
exiting = False  # whether the interpreter has begun to wait for its threads
any_retired = False  # whether `Worker.retire` was ever called
_alive: set[Worker] = set()  # strong: whoever is in it has to be joined at exit
# Called on a worker's thread: when its `threading.local` values are about to go, and when it ends.
before_values_end: list[Callable[[], object]] = [connections.close_connections]
when_a_worker_ends: list[Callable[[], object]] = []
when_exiting: list[Callable[[], object]] = []  # called before the workers are waited for


def workers() -> list[Worker]:
    """Those that have not ended and are not abandoned."""
    with _lock:
        return list(_alive)


class CannotStart(RuntimeError):
    """The system starts no further thread, or has none at all."""


class TooLate(CannotStart):
    """The interpreter is shutting down."""


def refuse_if_late() -> None:
    """Raises TooLate while the interpreter is finalizing."""
    if sys.is_finalizing():
        raise TooLate(
            "cannot start a thread while the interpreter is shutting down: call this before the "
            "program ends (from atexit, or by leaving a `with` block), not from __del__"
        )


def start(thread: threading.Thread, begin: Callable[[], object]) -> None:
    """Start ``thread`` by ``begin()``. Raises CannotStart if there can be no further thread.

    While the interpreter is finalizing, `threading.Thread.start` does not raise before 3.12: it
    waits for a thread that the interpreter never lets run.
    """
    refuse_if_late()
    try:
        begin()
    except RuntimeError as error:
        if type(error) is RuntimeError and thread.ident is None:
            raise CannotStart(*error.args) from None
        raise


class Worker(threading.Thread):
    """A thread that serves one inbox until that is closed."""

    runs_loop = False
    abandoned = False
    is_retired = False
    """Whether it has to end with its lease: see `retire`."""
    on_end: Callable[[Worker], object] | None = None
    """Set on the thread itself; called there when it ends, while it has its values."""

    def __init__(self, inbox: ServedInbox, *, after: Worker | None = None) -> None:
        options: dict[str, Any] = {}
        if sys.version_info >= (3, 14):
            # Free-threaded 3.14 would start it in a copy of whatever context happens to be current.
            options["context"] = contextvars.Context()
        super().__init__(name=f"asgibridge-worker-{next(_names)}", daemon=False, **options)
        self._inbox = inbox
        self._after = after
        self._left_to_us = False
        self._at_its_end: list[Callable[[], object]] | None = []  # None when that has been

    @property
    def daemon(self) -> bool:
        """False, but True while the thread starts: that is when `threading` looks (see above)."""
        return self._left_to_us and not self.is_alive()

    @daemon.setter
    def daemon(self, value: bool) -> None:
        raise RuntimeError("a worker thread's daemon status is asgibridge's own business")

    def start(self) -> None:
        if self.runs_loop and type(threading.get_ident) is not BuiltinFunctionType:
            greenlets.refuse_without_gil()
        if Worker.__base__ is not threading.Thread and cpython.threading_is_patched():
            # gevent came after our import. Before 3.13 only its own class ends a `join`.
            Worker.__bases__ = (threading.Thread,)
        with _lock:
            # Subinterpreters may refuse daemons; there, `threading` waits and nothing is abandoned.
            self._left_to_us = not exiting and cpython.DAEMONS_ALLOWED
            _alive.add(self)
        try:
            if type(threading.get_ident) is BuiltinFunctionType and not sys.is_finalizing():
                super().start()  # `start` without its calls, as each top-level run does it
            else:
                begin = super().start
                start(self, lambda: greenlets.call_at_home(begin) or begin())
        except RuntimeError as error:
            _alive.discard(self)
            if type(error) is RuntimeError and self.ident is None:
                raise CannotStart(*error.args) from None
            raise
        except BaseException:
            _alive.discard(self)
            raise

    def join(self, timeout: float | None = None) -> None:
        if not greenlets.call_at_home(functools.partial(super().join, timeout)):
            super().join(timeout)

    def run(self) -> None:
        self._left_to_us = False  # or `daemon` would be True again when it has ended
        with _lock:
            if not self.abandoned:
                _alive.add(self)  # once more: a signal handler may have raised in our start()
        try:
            if self._after is not None:
                # One thread at a time: a successor takes over when the old one has finished.
                self._after.join()
                self._after = None
            if type(self) is Worker:
                self._inbox.serve()
            else:
                self._serve()
        except BaseException:
            # Only what somebody else raised in this thread (PyThreadState_SetAsyncExc) gets here.
            self._inbox.close()
            for item in self._inbox.drain():
                item.cancel()
                item.deliver()
            raise
        finally:
            self._end()

    def _serve(self) -> None:
        # What a subclass does otherwise.
        self._inbox.serve()

    def _end(self) -> None:
        if self.on_end is not None:
            call_and_report(self.on_end, self)
        end_values()
        _alive.discard(self)
        for callback in when_a_worker_ends:
            callback()
        with _lock:
            last, self._at_its_end = self._at_its_end, None
        for callback in last or ():
            callback()
        if threading.get_ident is not _get_ident:
            cpython.follow_patching(self)

    def call_at_its_end(self, function: Callable[[], object]) -> bool:
        """Have it called on this thread, last of all; False if that has ended. Any thread."""
        with _lock:
            if self._at_its_end is None:
                return False
            self._at_its_end.append(function)
            return True

    def look_again(self) -> None:
        """Have it begin anew to wait for its time-out, if it has one. From any thread."""
        look_again = getattr(self._inbox, "look_again", None)
        if look_again is not None:
            look_again()

    def retire(self) -> None:
        """Have the thread end with its lease. On the thread.

        An attribute more is one of the traces by which the compiled kernel tells that a worker is
        not as good as new.
        """
        global any_retired
        self.is_retired = any_retired = True

    def close(self) -> None:
        """Let the thread end when it has served what is in its inbox. From any thread."""
        self._inbox.close()

    def abandon(self) -> None:
        """Do not wait for this thread at exit. From any thread."""
        self.abandoned = True
        _alive.discard(self)


class LoopWorker(Worker):
    """A worker that runs an event loop: in a real thread, though gevent makes greenlets of ours."""

    runs_loop = True

    def _serve(self) -> None:
        if type(threading.get_ident) is BuiltinFunctionType:
            self._inbox.serve()
        else:
            greenlets.run_in_real_thread(self._inbox.serve)


def end_values() -> None:
    """Call those who want to know that this thread's `threading.local` values are about to go."""
    for callback in before_values_end:
        call_and_report(callback)


def call_and_report(function: Callable[..., object], *args: object) -> bool:
    """``function(*args)``; what it raises goes to `threading.excepthook`, and False is returned."""
    try:
        function(*args)
    except BaseException as error:
        report_error(error)
        return False
    return True


def report_error(error: BaseException) -> None:
    """Give it to `threading.excepthook`, as what ends a thread: there is nobody to raise it to."""
    threading.excepthook(
        threading.ExceptHookArgs(
            (type(error), error, error.__traceback__, threading.current_thread())
        )
    )


def report_or_raise(error: BaseException) -> None:
    """An outcome could not be delivered: report that, as it is not the business of this thread.

    On the main thread it is raised: there a signal handler may have raised it. So is a
    RecursionError, which says that the frame that serves here is close to the limit itself.
    """
    if threading.current_thread() is threading.main_thread() or isinstance(error, RecursionError):
        raise error
    report_error(error)


def _before_threads_are_joined() -> None:
    process = sys.modules.get("multiprocessing.process")
    leaves_without_atexit = process is not None and process.parent_process() is not None
    if (
        (leaves_without_atexit and not users_threads())
        or not cpython.DAEMONS_ALLOWED
        or cpython.threading_is_patched()
    ):
        _end_workers()


def users_threads() -> list[threading.Thread]:
    """The threads that are neither ours, nor daemons, nor this or the main one."""
    return [
        thread
        for thread in threading.enumerate()
        if not thread.daemon
        and thread not in (threading.main_thread(), threading.current_thread())
        and not isinstance(thread, Worker)
    ]


def _end_workers() -> None:
    global exiting
    with _lock:
        exiting = True
        workers = list(_alive)
    for callback in when_exiting:
        callback()
    for worker in workers:
        worker.close()
    for worker in workers:
        while worker in _alive:
            try:
                worker.join(0.1)  # in slices: it may be abandoned while we wait
            except RuntimeError:  # another thread is just starting it
                time.sleep(0.001)


def _after_fork_in_child() -> None:
    global _lock
    _lock = cpython.RLock()
    _alive.clear()


# Or it is imported while the interpreter is already waiting for its threads.
exiting = not cpython.at_threading_exit(_before_threads_are_joined)
atexit.register(_end_workers)

fork.at_fork(_after_fork_in_child)
