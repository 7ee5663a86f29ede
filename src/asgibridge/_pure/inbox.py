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

from asgibridge._threads import Item

__all__ = ["Inbox"]

# Waiting for a lock can't be interrupted on Windows: come up for Ctrl-C four times a second.
_PATIENCE: float | None = 0.25 if sys.platform == "win32" else None


class Inbox:
    """A closable first-in-first-out queue of calls with one consumer."""

    __slots__ = ("_lock", "_queue", "closed", "finished", "posted")

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
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
            self._queue.put(item)
            return True

    def close(self) -> None:
        """Refuse what comes from now on; `serve` ends when it has run the rest. From any thread."""
        with self._lock:
            if not self.closed:
                self.closed = True
                self._queue.put(None)

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
            else:
                items.append(item)
        if ended:
            self._queue.put(None)  # that one was for the owner
        return items

    def _get(self) -> Item | None:
        while True:
            try:
                return self._queue.get(timeout=_PATIENCE)
            except queue.Empty:
                continue
