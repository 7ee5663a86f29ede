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
"""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable
from typing import Any

from asgibridge import _threads
from asgibridge._threads import Item

from .calls import SyncCall

__all__ = ["Inbox", "set_idle_seconds"]

# As long as in the other kernel.
IDLE_SECONDS = 10.0


def set_idle_seconds(seconds: float) -> None:
    """How long a thread waits for its next lease from now on; those that wait begin anew."""
    global IDLE_SECONDS
    IDLE_SECONDS = seconds
    for worker in _threads.workers():
        worker.look_again()


# Waiting for a lock can't be interrupted on Windows: come up for Ctrl-C four times a second.
_PATIENCE: float | None = 0.25 if sys.platform == "win32" else None

_AGAIN = object()


class Inbox:
    """A closable first-in-first-out queue of calls with one consumer."""

    __slots__ = ("_lock", "_queue", "_when_idle", "closed", "finished", "posted")

    def __init__(self) -> None:
        # None is for the end, and `_AGAIN` to look again.
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._when_idle: Callable[[], bool] | None = None  # set before anybody else knows us
        self._lock = threading.RLock()
        self.closed = False
        self.posted = 0
        self.finished = 0

    def put(self, item: Item) -> bool:
        """Add ``item``, or return False if the inbox is closed. From any thread."""
        with self._lock:
            if self.closed:
                return False
            self.posted += 1
            if type(item) is SyncCall:
                item._count()
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
            item = self._get()
            if item is None:
                break
            item.run()
            self.finished += 1
            item.deliver()
            del item
        for item in self.drain():
            item.run()
            self.finished += 1
            item.deliver()

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

    def _get(self) -> Item | None:
        patience = _PATIENCE if self._when_idle is None else IDLE_SECONDS
        while True:
            try:
                item: Any = self._queue.get(timeout=patience)
            except queue.Empty:
                if patience is not _PATIENCE:
                    patience = _PATIENCE
                    if self._when_idle is not None and self._when_idle():
                        self.close()
                continue
            if item is not _AGAIN:
                return item  # type: ignore[no-any-return]
            patience = IDLE_SECONDS
