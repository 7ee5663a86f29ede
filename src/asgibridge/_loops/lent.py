"""A thread that has something open on an event loop, and what it serves whenever it waits.

While iterators or context managers are open on a loop, their tasks rest there, and may have started
others that go on. All these inherit one executor, the ``frame`` of the thread. So the thread serves
that frame whenever it waits for a loop of its blocks, be it for the next item or in a call that was
made within the block: a call that needs what such a task does by `sync_to_async` would hang
otherwise. What comes while the thread does not wait is run when it waits again.

There is one `LentThread` for a thread, from the first thing opened to the end of the last. Its
users are what is open, and the calls that wait within that; the count is guarded by the lock, since
another thread may close something. ``waiters`` is the thread's alone.

**Waits nest**: a function that the frame runs, or a finalizer, may wait again. The innermost waiter
is asked whether it has its answer, by an item that raises out of ``serve``. A wait that ends has
the next one outwards ask again, whose item it may have taken.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

from .. import _kernel
from .._bridge import state
from .._process import cpython, fork
from .._process.items import Item

if TYPE_CHECKING:
    from ..current_thread_executor import CurrentThreadExecutor


class Waiter(Protocol):
    """What the thread waits for."""

    def is_answered(self) -> bool: ...


class _Answered(Exception):
    """Ends a wait; never leaves this module."""


class _Answer(Item):
    """An inbox's item that raises out of ``serve()`` if the innermost waiter has its answer."""

    __slots__ = ("_waiters",)

    def __init__(self, waiters: list[Waiter]) -> None:
        self._waiters = waiters

    def run(self) -> None:
        if self._waiters and self._waiters[-1].is_answered():
            raise _Answered


class LentThread:
    """See the module's header. Made on the thread."""

    def __init__(self) -> None:
        kernel = _kernel.kernel
        outer = kernel.peek(state.executors, "current", None)
        if type(outer) is kernel.CurrentThreadExecutor:
            outer = outer.serving()
        self.frame: CurrentThreadExecutor = kernel.CurrentThreadExecutor(outer)
        self.waiters: list[Waiter] = []
        self._answer = _Answer(self.waiters)
        self._lock = cpython.RLock()
        self._users = 1

    def add_user(self) -> bool:
        """Count one user more; False if the last has gone. On the thread."""
        with self._lock:
            if not self._users or not self.frame.owns_current_thread():
                return False
            self._users += 1
        return True

    def let_go(self) -> None:
        """A user is over; with the last one the frame ends. From any thread."""
        with self._lock:
            self._users -= 1
            if self._users:
                return
        for ident in [ident for ident, lent in list(_lent.items()) if lent is self]:
            _lent.pop(ident, None)
        if self.frame.owns_current_thread():
            self.frame.close()
            self.waiters.clear()  # Ctrl-C may have ended a wait before it had begun
            self.frame.serve()  # what is in its inbox still
        else:
            self.frame.quit()

    def begin_wait(self, waiter: Waiter) -> None:
        """The thread is about to wait. Before the loop knows, so that a dump may see it. There."""
        self.waiters.append(waiter)

    def serve_until_answered(self, waiter: Waiter) -> None:
        """Run what is posted until ``waiter`` has its answer. On the thread.

        Whoever answers calls `wake` afterwards.
        """
        while not waiter.is_answered():
            try:
                self.frame.serve()
            except _Answered:
                continue

    def end_wait(self) -> None:
        """The innermost wait is over. On the thread."""
        self.waiters.pop()
        if self.waiters:
            self.wake()

    def wake(self) -> None:
        """Have the innermost waiter look for its answer. From any thread."""
        self.frame.post(self._answer)


class LentWait:
    """A wait of the thread's, in place of an executor that serves until it is closed.

    It is one of ``waiters`` from the beginning, until `end`.
    """

    def __init__(self, lent: LentThread) -> None:
        self.lent = lent
        self._is_closed = False
        lent.begin_wait(self)

    def is_answered(self) -> bool:
        return self._is_closed

    def serve(self) -> None:
        self.lent.serve_until_answered(self)

    def close(self) -> None:
        self._is_closed = True
        self.lent.wake()

    quit = close

    def end(self) -> None:
        self.lent.end_wait()


_lent: dict[int, LentThread] = {}  # by ident of thread, which under gevent is a greenlet's


def lend() -> LentThread:
    """The calling thread's, with one user more."""
    lent = _lent.get(threading.get_ident())
    if lent is None or not lent.add_user():
        lent = _lent[threading.get_ident()] = LentThread()
    return lent


def lent_already() -> LentThread | None:
    """The calling thread's with one user more, if it has something open on a loop."""
    if not _lent:
        return None
    lent = _lent.get(threading.get_ident())
    return lent if lent is not None and lent.add_user() else None


fork.at_fork(_lent.clear)
