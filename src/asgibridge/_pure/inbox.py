"""A thread's inbox: calls go in from any thread, one thread takes them out.

Guarantees:

* First in, first out.
* What `put` accepted is run: an inbox that is closed still gives out what is in it, then ends. What
  comes after `close` is refused, so that the sender can go elsewhere.
* The owner waits in a call that signals can interrupt (`queue.SimpleQueue.get`), and holds no
  reference to the last item while it waits.

``posted`` is written under the lock, by whoever puts; ``finished`` by the owner alone, before the
item's waiter is told. Equal means: nothing queued, nothing running.

The lock is re-entrant because the collector may run a finalizer while it is held, and the finalizer
may close this very inbox; then the end marker can stand before the last item, so the owner looks
behind it. `threading` and `queue` are looked up when used: gevent replaces what they hold.

**Waiting for long**, a frame looks whether it waits in vain (`asgibridge._waits.deadlocks`).
"""

from __future__ import annotations

import queue
import sys
import threading
from types import BuiltinFunctionType
from typing import Any

from .._process import cpython, greenlets, threads
from .._process.items import Item, WhenIdle
from .._waits import deadlocks
from .calls import SyncCall, TaskContext
from .home import this_thread

# Waiting for a lock can't be interrupted on Windows: come up for Ctrl-C four times a second.
_PATIENCE: float | None = 0.25 if sys.platform == "win32" else None

IDLE_SECONDS = 10.0  # how long an idle worker waits; as long as in the other kernel

_AGAIN = object()

# When a frame looks whether it waits in vain; sooner the first time, if calls were queued beneath
# already when its wait began.
_LONG_PATIENCE = 0.5
_SHORT_PATIENCE = 0.01


class Inbox:
    """A closable first-in-first-out queue of calls with one consumer."""

    __slots__ = (
        "_blocker",
        "_idle_seconds",
        "_is_frame",
        "_lock",
        "_loop",
        "_outer",
        "_outer_blocker",
        "_patience",
        "_queue",
        "_when_idle",
        "closed",
        "finished",
        "posted",
    )

    def __init__(self) -> None:
        # None is for the end, and `_AGAIN` to look again.
        self._queue: queue.SimpleQueue[Any] = (
            queue.SimpleQueue()
            if type(threading.get_ident) is BuiltinFunctionType  # asked here: one is made a call
            else greenlets.make_queue()
        )
        self._when_idle: WhenIdle | None = None  # set before anybody else knows us
        self._idle_seconds: float | None = None  # after which it is asked; None: IDLE_SECONDS
        self._lock = cpython.RLock()
        self.closed = False
        self.posted = 0
        self.finished = 0
        self._is_frame = False  # it has waited in `_serve_on`
        # Of a frame, while it waits: the loop it waits for; the inbox of the call that it is in,
        # and what held that before.
        self._loop: Any = None
        self._outer: Inbox | None = None
        self._outer_blocker: TaskContext | None = None
        self._patience = _LONG_PATIENCE
        # The `task_context` of the call that the owner runs, while that waits in `async_to_sync`.
        self._blocker: TaskContext | None = None

    def put(self, item: Item) -> bool:
        """Add ``item``, or return False if the inbox is closed. From any thread."""
        with self._lock:
            if self.closed:
                return False
            if type(item) is SyncCall:
                item.accept()
                item._inbox = self
                item.is_blocked = self._blocker is not None or item._channel._is_of_helper
            # Nothing is called between these two: it might raise (a signal's handler, or near the
            # recursion limit), and we would pass for busy ever after.
            self.posted += 1
            self._queue.put(item)
            return True

    def close(self) -> None:
        """Refuse what comes from now on; `serve` ends when it has run the rest. From any thread."""
        with self._lock:
            if not self.closed:
                self.closed = True
                self._queue.put(None)

    def look_again(self) -> None:
        """Have the owner, if it waits with a time-out, begin that anew. From any thread."""
        if self._when_idle is not None:
            self._queue.put(_AGAIN)

    def is_idle(self) -> bool:
        """Whether all that was put has been run. From any thread."""
        return self.posted == self.finished

    def serve(self) -> None:
        """Run what comes, until the inbox is closed and empty. On the owning thread."""
        while True:
            item = self._take()
            if item is None:
                return
            item.run()
            self.finished += 1
            try:
                item.deliver()
            except BaseException as error:
                # What another loop, or a future's callback, has raised costs nobody else anything.
                threads.report_or_raise(error)
            del item

    def _serve_on(self, loop: Any) -> None:
        """`serve`, by a frame that waits for a task of ``loop``; or for something else, if None."""
        if this_thread.call is not None:
            self._begin_wait()
        self._is_frame = True
        self._loop = loop
        try:
            self.serve()
        finally:
            self._loop = None  # or a task that outlives the frame would hold it, by its context
            if self._outer is not None:
                self._end_wait()

    def _begin_wait(self) -> None:
        """A frame is about to wait: say so where the call came from that it is in."""
        call = this_thread.call
        # Greenlets of one thread are not told apart by what was made before they came.
        if (
            call is None
            or call._inbox is None
            or self._outer is not None
            or threading.local not in type(this_thread).__mro__
        ):
            return
        self._outer = outer = call._inbox
        self._outer_blocker, outer._blocker = outer._blocker, call.task_context
        self._patience = _LONG_PATIENCE if outer._queue.empty() else _SHORT_PATIENCE

    def _end_wait(self) -> None:
        """The frame has waited."""
        outer, self._outer = self._outer, None
        if outer is not None:
            outer._blocker, self._outer_blocker = self._outer_blocker, None

    def _look(self) -> None:
        try:
            deadlocks.look_for_ring(self._loop, this_thread.call)
        except RuntimeError:
            # The loop was closed. Its task may have ended just before: then we have been woken.
            if not self.closed and self._queue.empty():
                raise

    def drain(self) -> list[Item]:
        """Take out all that waits in the inbox now. From any thread."""
        items: list[Item] = []
        ended = False
        while True:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                break
            if item is None:
                ended = True
            elif item is not _AGAIN:
                items.append(item)
        if ended:
            self._queue.put(None)  # that one was for the owner
        return items

    def _take(self) -> Item | None:
        """The first item; waits for one. None at the end. On the owning thread."""
        asks = self._when_idle is not None
        patience = self._idle_patience() if asks else _PATIENCE
        waited = 0.0
        if self._is_frame:
            # Never for ever: a signal that comes when the interpreter has looked for signals, and
            # is not in the system call yet, does not interrupt that.
            patience = self._patience
        while True:
            try:
                item: Any = self._queue.get(timeout=patience)
            except queue.Empty:
                if self._is_frame:
                    patience = self._patience = _LONG_PATIENCE
                    self._look()
                elif asks:
                    waited += patience or 0.0
                    further = self._ask(waited)
                    asks = further is not None
                    patience = further if asks else _PATIENCE
                continue
            if item is _AGAIN:
                asks, patience, waited = True, self._idle_patience(), 0.0
            elif item is not None:
                return item  # type: ignore[no-any-return]
            else:
                with self._lock:  # so that the `put` that it came into the middle of is over
                    if self._queue.empty():
                        return None
                    self._queue.put(None)  # it stood before the last item: see above

    def _idle_patience(self) -> float:
        return IDLE_SECONDS if self._idle_seconds is None else self._idle_seconds

    def _ask(self, waited: float) -> float | None:
        # Does what `when_idle` says. Returns the seconds after which it is to be asked again.
        assert self._when_idle is not None
        answer = self._when_idle(waited)
        if isinstance(answer, float):
            return answer
        if answer is True:
            self.close()
        elif answer is not None:
            self.put(answer)  # or it is closed, and the owner ends
        return None


def set_idle_seconds(seconds: float) -> None:
    """How long a thread waits for its next lease from now on; those that wait begin anew."""
    global IDLE_SECONDS
    IDLE_SECONDS = seconds
    for worker in threads.workers():
        worker.look_again()
