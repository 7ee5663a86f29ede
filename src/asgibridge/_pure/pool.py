"""An inbox that several threads serve: the calls of a loop's default executor.

Guarantees:

* First in, first out; each item is run once. What `put` accepted is run, also after `close`.
* A thread is woken for an item only if none is on its way to look into the inbox, and then the one
  that went to sleep last: its stack and its locals are still in the cache.
* A thread is wanted (`hire`) only if those that are free are fewer than the items that wait. A
  thread counts as free from before its call's task is told: a task that makes one call after the
  other keeps one thread busy, not all of them.

State, guarded by the lock: the items; ``_looking``, how many threads are free and will look by
themselves; ``_parked``, a lock for each thread that has to be woken; ``_threads``, how many serve.
A thread is busy, looking or parked. Nothing but these changes under the lock, which is re-entrant
because the collector may run a finalizer there that closes this inbox. `threading` is looked up
when used: gevent replaces what it holds.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from .._process import cpython, greenlets
from .._process.items import Item
from .._process.threads import report_error
from .calls import SyncCall


class PoolInbox:
    """A closable first-in-first-out queue of calls with up to ``limit`` consumers."""

    __slots__ = ("_items", "_limit", "_lock", "_looking", "_parked", "_threads", "closed")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = cpython.RLock()
        self._items: deque[Item] = deque()
        self._parked: list[Any] = []
        self._looking = 0
        self._threads = 0
        self.closed = False

    def put(self, item: Item) -> bool:
        """Add ``item``, or return False if the inbox is closed. From any thread.

        Then ask `hire`.
        """
        with self._lock:
            if self.closed:
                return False
            if type(item) is SyncCall:
                item.accept()
            self._items.append(item)
            if self._parked and len(self._items) > self._looking:
                self._looking += 1
                self._parked.pop().release()
            return True

    def hire(self, ticket: list[bool] | None = None) -> bool:
        """Whether one more thread should `serve`, because all are busy. From any thread.

        If so it counts as one that does; `dismiss` it if it can't be started.

        :param ticket: a list that gets an element if so, and nothing comes in between.
        """
        with self._lock:
            wanted = self._threads < self._limit and (
                len(self._items) > self._looking + len(self._parked)
            )
            if wanted:
                self._threads += 1
                self._looking += 1
                if ticket is not None:
                    ticket.append(True)
            return wanted

    def dismiss(self) -> None:
        """The thread that was to be hired did not start. On the thread that called `hire`."""
        with self._lock:
            self._threads -= 1
            self._looking -= 1

    def close(self) -> None:
        """Refuse what comes from now on; `serve` ends when the rest has been run. Any thread."""
        with self._lock:
            self.closed = True
            self._looking += len(self._parked)
            while self._parked:
                self._parked.pop().release()

    def drain(self) -> list[Item]:
        """Take out all that waits in the inbox now. From any thread."""
        with self._lock:
            items = list(self._items)
            self._items.clear()
            return items

    def qsize(self) -> int:
        """How many calls wait in the inbox."""
        return len(self._items)

    def serve(self) -> None:
        """Run what comes, until the inbox is closed and empty. On each thread that was hired."""
        sleep_lock = greenlets.make_sleep_lock()
        while True:
            item = self._take(sleep_lock)
            if item is None:
                return
            is_free = False
            try:
                item.run()
                if type(item) is SyncCall:
                    # Before the task is told: what that sends next needs no other thread than this.
                    self._is_free()
                    is_free = True
                item.deliver()  # which may run callbacks, and those may wait for another call
            except BaseException as error:
                # Not the call's: a callback has raised SystemExit, say. It costs nobody else
                # anything, and not even the thread.
                report_error(error)
            if not is_free:
                self._is_free()
            del item

    def _is_free(self) -> None:
        with self._lock:
            self._looking += 1

    def _take(self, sleep_lock: Any) -> Item | None:
        # The first item; waits for one. None at the end.
        while True:
            with self._lock:
                self._looking -= 1
                if self._items:
                    return self._items.popleft()
                if self.closed:
                    self._threads -= 1
                    return None
                self._parked.append(sleep_lock)
            sleep_lock.acquire()
