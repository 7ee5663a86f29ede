"""The two executors that thread-sensitive code runs on.

`CurrentThreadExecutor`
    A frame of sync code that waits for async code, lending its thread: from the start of an
    `AsyncToSync` call to its end. Then its inbox is closed; a call that comes later (from a task
    that outlives the frame) is refused, and goes to the next frame out that is still `serving`.

`ThreadSensitiveExecutor`
    One thread, started at the first call, for all the calls of a ThreadSensitiveContext or of the
    process. No foreign code runs under its lock. A call it accepted is run even if `shutdown`
    follows; a dropped executor lets its thread end. At interpreter exit and after a fork the worker
    is gone but the executor is not shut down: the next call starts another worker, which first
    waits for the old one's end, so that there is never more than one.

``submit`` is for others; our own hops are posted, with no Future.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

from .._process import fork, threads
from .._process.items import FutureCall, Item, WhenIdle, passing
from .._process.stock import Look, StockNames
from .._process.threads import Worker
from .calls import SyncCall, TaskContext
from .home import this_thread
from .inbox import Inbox

_R = TypeVar("_R")


class CurrentThreadExecutor(Executor):
    """Runs code in the thread it is made in, while that thread waits for async code."""

    def __init__(self, old_executor: CurrentThreadExecutor | None) -> None:
        self._thread_ident = threading.get_ident()
        self._generation = fork.generation
        self._inbox = Inbox()
        self._old_executor = old_executor
        # That of the sync_to_async call whose function this frame is in, if any: the shell's.
        self._task_context: list[Any] | None = None

    def run_until_future(self, future: Future[Any]) -> None:
        """Run what is submitted until ``future`` is done.

        On the thread the executor was made in, else RuntimeError.
        """
        if not self.owns_current_thread():
            raise RuntimeError("You cannot run CurrentThreadExecutor from a different thread")
        future.add_done_callback(self.close)
        self.serve()

    def submit(self, fn: Callable[..., _R], /, *args: Any, **kwargs: Any) -> Future[_R]:
        """Have ``fn(*args, **kwargs)`` run in the thread the executor was made in.

        From any other thread. Raises RuntimeError from that one, or if neither this frame nor one
        further out waits for async code any more.
        """
        future: Future[_R] = Future()
        call = FutureCall(future, fn, args, kwargs)
        if passing.take(self, call):
            return future
        while True:
            executor = self.serving()
            if (executor or self).owns_current_thread():
                raise RuntimeError(
                    "You cannot submit onto CurrentThreadExecutor from its own thread"
                )
            if executor is None:
                raise RuntimeError("CurrentThreadExecutor already quit or is broken")
            if executor.post(call):
                return future

    def owns_current_thread(self) -> bool:
        """Whether this is the thread that the executor lends out."""
        return self._thread_ident == threading.get_ident() and self._generation == fork.generation

    def serving(self) -> CurrentThreadExecutor | None:
        """The innermost frame, from this one outwards, that still waits for its async code."""
        executor: CurrentThreadExecutor | None = self
        while executor is not None:
            if not executor._inbox.closed and executor._generation == fork.generation:
                return executor
            executor = executor._old_executor
        return None

    def post(self, item: Item) -> bool:
        """Give ``item`` to this frame; False if it has ended (then ask `serving` again)."""
        return self._generation == fork.generation and self._inbox.put(item)

    def hold(self) -> None:
        """Say that `serve` comes next, before there is anything that could need the thread."""
        if this_thread.call is not None:
            self._inbox._begin_wait()

    def serve(self, loop: Any = None) -> None:
        """Run what is posted until `close`. On the thread the executor was made in.

        :param loop: on which the async code runs. Raises RuntimeError if that is closed instead.
        """
        self._inbox._serve_on(loop)

    def close(self, _future: Any = None) -> None:
        """The async code has ended: refuse further calls. From any thread."""
        self._inbox.close()

    def quit(self) -> None:
        """Stop serving though the async code goes on: what is queued goes to the next frame out.

        On the thread the executor was made in.
        """
        self._inbox._end_wait()
        self._inbox.close()
        for item in self._inbox.drain():
            outer = self.serving()
            if outer is None or not outer.post(item):
                item.cancel()
                item.deliver()


class ThreadSensitiveExecutor(StockNames):
    """Runs code in one thread of its own, one call after the other.

    :param avoiding: an executor whose thread this one must not get, though it may be free again.
    :param when_idle: makes the thread the executor's alone, a new one that serves nobody else. It
        is called there, with the seconds, when that has had nothing to do for as long as
        `set_patience` says, and tells what is next: see `asgibridge._process.items.WhenIdle`.
    :param is_new: whether the thread has to be a new one, which ends with the executor.
    """

    def __init__(
        self,
        avoiding: ThreadSensitiveExecutor | None = None,
        when_idle: WhenIdle | None = None,
        is_new: bool = False,  # it is without, too
    ) -> None:
        self._when_idle = when_idle
        self._idle_seconds: float | None = None
        self._make_worker = Worker
        self._generation = fork.generation
        self._lock = threading.RLock()
        self._inbox: Inbox | None = None
        self._worker: Worker | None = None
        self._is_shut_down = False

    def submit(self, fn: Callable[..., _R], /, *args: Any, **kwargs: Any) -> Future[_R]:
        """Have ``fn(*args, **kwargs)`` run in the executor's thread. From any thread.

        Raises RuntimeError after `shutdown`.
        """
        future: Future[_R] = Future()
        if not self.post(FutureCall(future, fn, args, kwargs)):
            raise RuntimeError("cannot schedule new futures after shutdown")
        return future

    def post(self, item: Item) -> bool:
        """Give ``item`` to the thread, starting it if need be; False after `shutdown`."""
        if self._generation != fork.generation:
            self._forget_parent()
        inbox = self._inbox
        if inbox is not None and inbox.put(item):
            return True
        with self._lock:
            if self._is_shut_down:
                return False
            if self._inbox is None or not self._inbox.put(item):
                inbox = Inbox()
                inbox._when_idle = self._when_idle
                inbox._idle_seconds = self._idle_seconds
                inbox.put(item)
                old_worker = self._worker
                # Known before it runs: the item may ask who owns the thread it is on. But nobody
                # else may put anything in as long as the start can fail.
                self._worker = self._make_worker(inbox, after=old_worker)
                try:
                    self._worker.start()
                except BaseException:
                    # Or a signal handler has raised, and it has started after all: let it end.
                    inbox.close()
                    self._worker = old_worker
                    raise
                self._inbox = inbox
            if threads.exiting:
                # Nobody will come to close it: the worker ends when it has nothing to do.
                self._inbox.close()
        return True

    def owns_current_thread(self) -> bool:
        """Whether this is the executor's own thread."""
        worker = self._worker
        return (
            worker is not None
            and worker.ident == threading.get_ident()
            and worker.is_alive()  # idents are used again
            and self._generation == fork.generation
        )

    def send(self, item: Item) -> bool | None:
        """`post` it; None, and nothing else, on the executor's own thread, which waits for it."""
        worker, inbox = self._worker, self._inbox
        if worker is None or self._generation != fork.generation:
            return self.post(item)
        # Asked first: the thread's first call may run before `post` has noted the inbox.
        if worker.ident == threading.get_ident() and worker.is_alive():
            return None
        return (inbox is not None and inbox.put(item)) or self.post(item)

    def is_idle(self) -> bool:
        """Whether all that was posted has been run. From any thread."""
        inbox = self._inbox
        return inbox is None or inbox.posted == inbox.finished

    def blocked_by(self) -> TaskContext | None:
        """The ``task_context`` of the call that the thread is in the middle of, while that waits in
        `async_to_sync`; else None. From any thread.
        """
        inbox = self._inbox
        return None if inbox is None else inbox._blocker

    def _look(self) -> Look:
        worker, inbox = self._worker, self._inbox
        if worker is None or self._generation != fork.generation or not worker.is_alive():
            worker = None
        queued = 0 if inbox is None or worker is None else inbox._queue.qsize()
        return worker, queued, self._is_shut_down

    def abandon(self) -> None:
        """Do not wait for the thread at exit. From any thread."""
        worker = self._worker
        if worker is not None:
            worker.abandon()

    def look_again(self) -> None:
        """Have the thread wait for `when_idle` anew. From any thread."""
        inbox = self._inbox
        if inbox is not None:
            inbox.look_again()

    def set_patience(self, seconds: float | None) -> None:
        """Have the thread ask `when_idle` after so many seconds with nothing to do, from the next
        time on that it begins to wait; with None, after as many as `set_idle_seconds` says.
        From any thread.
        """
        self._idle_seconds = seconds
        inbox = self._inbox
        if inbox is not None:
            inbox._idle_seconds = seconds

    def let_go(self, when_over: Callable[[], object]) -> None:
        """Refuse further calls, and let the thread go when it has run those it has.

        Then ``when_over()`` is called: on the thread, or at once if that has nothing to do. It must
        be fit to be called twice. From any thread.
        """
        self.shutdown(wait=False)
        worker = self._worker
        if worker is None or not worker.call_at_its_end(when_over):
            when_over()

    def retire(self, loop: asyncio.AbstractEventLoop) -> SyncCall | None:
        """Refuse further calls, and let the thread go when it has run those it has.

        On ``loop``'s thread. Returns what to await for that; None if it is done already, or cannot
        be waited for because this is that thread.
        """
        if self._generation != fork.generation:
            self._forget_parent()
        last: SyncCall | None = None
        if not (self.is_idle() or self.owns_current_thread()):
            last = SyncCall(loop, lambda: None)
            last._is_counted = None  # it is no user's
            with self._lock:
                if self._is_shut_down or not self.post(last):
                    last = None
        self.shutdown(wait=False)
        return last

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse further calls and let the thread go when it has run those it has.

        :param wait: wait for that (not if called on that thread).
        :param cancel_futures: cancel the calls that have not begun.
        """
        if self._generation != fork.generation:
            self._forget_parent()
        with self._lock:
            self._is_shut_down = True
            inbox, worker = self._inbox, self._worker
        if inbox is None or worker is None:
            return
        dropped = inbox.drain() if cancel_futures else ()
        inbox.close()
        for item in dropped:
            item.cancel()
            item.deliver()
        if wait and not worker.abandoned and worker is not threading.current_thread():
            worker.join()

    def _forget_parent(self) -> None:
        # In a forked child, before anything else: the thread is not there, and a thread that is
        # not there may hold the lock.
        self._lock = threading.RLock()
        self._inbox = self._worker = None
        self._generation = fork.generation

    def __del__(self) -> None:
        inbox = getattr(self, "_inbox", None)
        if inbox is not None and not inbox.closed and self._generation == fork.generation:
            inbox.close()
