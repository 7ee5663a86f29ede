"""Message queues, as the shell's classes use them: each method that a task or a thread calls.

What is kept in what order, who waits for it and who is woken is in `promises`.
"""

from __future__ import annotations

import sys
from typing import Any

from .._process import fork
from .._process.queue_errors import (
    NOTHING,
    Nothing,
    QueueEmpty,
    QueueFull,
    QueueShutDown,
    UnsupportedOperation,
    check_timeout,
    either_number,
    may_block,
    most_items,
    places,
)
from .promises import _FIFO, _SIZED, _Promises
from .waiters import _GET, _JOIN, _PEEK, _PUT, _TOLD, _WAITING, _Batch, _Waiter


class _Store(_Promises):
    """What items are put into, a queue or a broadcast, and who waits there."""

    __slots__ = ()

    def _offer(self, item: Any) -> bool:
        """Put ``item`` if there is room now; returns whether there was."""
        raise NotImplementedError

    def _putting(self, item: Any) -> _Waiter:
        """To be awaited: wait for room and put ``item``."""
        return _Waiter(self, _PUT, item, None)

    def sync_put(
        self,
        item: Any,
        block: bool = True,
        timeout: float | None = None,
        *,
        blocking: bool | None = None,
    ) -> None:
        """Put ``item``, on a thread that can wait for room up to ``timeout`` seconds.

        QueueFull if there is none by then, or at once if ``block`` is false; QueueShutDown after
        `shutdown`, also if that comes meanwhile; RuntimeError where it would have to wait and the
        thread runs an event loop.
        """
        if blocking is not None:
            block = may_block(block, blocking)
        if timeout is not None and block:
            check_timeout(timeout)
        if not self._offer(item):
            if not block:
                raise QueueFull
            if _Waiter(self, _PUT, item, None).wait(timeout) is NOTHING:
                raise QueueFull

    @property
    def is_shutdown(self) -> bool:
        """Whether `shutdown` has been called."""
        return self._is_down

    @property
    def getting(self) -> int:
        """How many wait to get or to peek."""
        if self._generation != fork.generation:
            self._forget()
        return len(self._getters)

    @property
    def putting(self) -> int:
        """How many wait to put."""
        if self._generation != fork.generation:
            self._forget()
        return len(self._putters)


class QueueCore(_Store):
    """The items of a queue and who waits for them. `order`: 0 first in first out, 1 last in first
    out, 2 as the subclass's hooks have it, 3 the same with sizes of items (``_isize``).
    """

    __slots__ = ()

    def _offer(self, item: Any) -> bool:
        """Put ``item`` if there is room now; returns whether there was."""
        woken: _Waiter | None = None
        while True:
            if self._generation != fork.generation:
                self._forget()
            with self._lock:
                if self._is_down:
                    raise QueueShutDown
                order = self._order_
                limit = self._limit
                if limit <= 0:
                    done = True
                elif self._putters:
                    done = False
                elif order == _SIZED:
                    done = self._has_room(self._units(item))
                else:  # as `_has_room` has it
                    done = self._count + self._extra + self._kept_slots < limit
                if done:
                    if order == _FIFO:  # as `_push` has it
                        self._items.append(item)
                        self._count += 1
                    else:
                        self._push(item)
                    self._unfinished += 1
                    if not self._getters:
                        return True
                    woken = self._promise()
            if woken is not None:
                self._wake(woken)
            if done or not self._promised or not self._reclaim():
                return done

    def _fetch(self) -> Any:
        """Take the first item if there is one now, else return NOTHING."""
        woken: _Waiter | None = None
        while True:
            if self._generation != fork.generation:
                self._forget()
            item: Any = NOTHING
            with self._lock:
                if self._count > self._kept_items and not self._getters:
                    if self._order_ == _FIFO:  # as `_pull` has it
                        item = self._items.popleft()
                        self._count -= 1
                    else:
                        item = self._pull()
                    if not self._putters:
                        return item
                    woken = self._promise()
                is_down = self._is_down
            if item is not NOTHING:
                if woken is not None:
                    self._wake_or_put_back(woken, [item])
                return item
            if not (self._promised or self._has_batches) or not self._reclaim():
                if is_down:
                    raise QueueShutDown
                return NOTHING

    def _overwrite(self, item: Any) -> None:
        """Put ``item``; where there is no room, the oldest items are dropped."""
        if self._order_ != _FIFO:
            raise UnsupportedOperation(
                f"{type(self).__name__} cannot overwrite: only a queue whose items come first in, "
                "first out, without sizes and hooks, knows its oldest item"
            )
        dropped: list[Any] = []  # let go of without the lock: their end may run anybody's code
        if self._generation != fork.generation:
            self._forget()
        with self._lock:
            if self._is_down:
                raise QueueShutDown
            while self._count and not self._has_room():
                dropped.append(self._pull())
                self._unfinished = max(0, self._unfinished - 1)
            while self._kept_slots and not self._has_room():
                self._revoke(self._putters)
            self._push(item)
            self._unfinished += 1
            while self._kept_items > self._count:
                self._revoke(self._getters)
            woken = self._promise()
        if woken is not None:
            self._wake(woken)
        del dropped

    def _fetch_many(self, n: int | None) -> list[Any]:
        """Take up to ``n`` items (None: all), as many as there are now."""
        most = _most(n)
        many: list[Any] = []
        self._reclaim()
        with self._lock:
            if not self._getters:
                while self._has_item() and len(many) < most:
                    many.append(self._pull())
            is_down = self._is_down
            woken = self._promise()
        if woken is not None:
            self._wake_or_put_back(woken, many)
        if is_down and not many:
            raise QueueShutDown
        return many

    def _look(self) -> Any:
        # The first item if there is one now, left where it is, else NOTHING.
        self._reclaim()
        with self._lock:
            if self._has_item() and not self._getters:
                self._check_peekable()
                return self._front()
            if self._is_down:
                raise QueueShutDown
            return NOTHING

    def _getting(self) -> _Waiter:
        """To be awaited: wait for an item and take it."""
        return _Waiter(self, _GET, None, None)

    def _getting_many(self, n: int | None) -> _Waiter:
        """To be awaited: wait for an item and take up to ``n`` (None: all)."""
        return _Waiter(self, _GET, None, _most(n))

    def _getting_batch(self, n: int | None) -> _Waiter:
        """To be awaited: wait for ``n`` items (None: all that come) and take them.

        Fewer, when there is no room for more or its time is over (`_Waiter.expire`): maybe none.
        """
        return _Batch(self, None, _most(n))

    def _peeking(self) -> _Waiter:
        """To be awaited: wait for an item and leave it where it is."""
        self._check_peekable()
        return _Waiter(self, _PEEK, None, None)

    def _joining(self) -> _Waiter:
        """To be awaited: wait until nothing is unfinished."""
        return _Waiter(self, _JOIN, None, None)

    def put_nowait(self, item: Any, overwrite: bool = False) -> None:
        """Put ``item``; QueueFull if there is no room, QueueShutDown after `shutdown`.

        With ``overwrite``, the oldest items are dropped where there is no room;
        UnsupportedOperation if the queue is not plainly first in, first out. From any thread, and
        from a signal handler or a finalizer, too.
        """
        if overwrite:
            self._overwrite(item)
        elif not self._offer(item):
            raise QueueFull

    def get_nowait(self) -> Any:
        """Take the first item; QueueEmpty if there is none, QueueShutDown if none can come."""
        item = self._fetch()
        if item is NOTHING:
            raise QueueEmpty
        return item

    def sync_get(
        self, block: bool = True, timeout: float | None = None, *, blocking: bool | None = None
    ) -> Any:
        """Take the first item, on a thread that can wait for it up to ``timeout`` seconds.

        QueueEmpty if there is none by then, or at once if ``block`` is false; QueueShutDown if the
        queue is empty and was shut down; RuntimeError where it would have to wait and the thread
        runs an event loop.
        """
        if blocking is not None:
            block = may_block(block, blocking)
        if timeout is not None and block:
            check_timeout(timeout)
        item = self._fetch()
        if item is NOTHING and block:
            item = _Waiter(self, _GET, None, None).wait(timeout)
        if item is NOTHING:
            raise QueueEmpty
        return item

    def peek_nowait(self) -> Any:
        """The first item, which stays; QueueEmpty if there is none.

        UnsupportedOperation if the queue stores its items in a way that has no first one.
        """
        item = self._look()
        if item is NOTHING:
            raise QueueEmpty
        return item

    def sync_peek(
        self, block: bool = True, timeout: float | None = None, *, blocking: bool | None = None
    ) -> Any:
        """The first item, which stays, on a thread that can wait for it as in `sync_get`."""
        if blocking is not None:
            block = may_block(block, blocking)
        if timeout is not None and block:
            check_timeout(timeout)
        self._check_peekable()
        item = self._look()
        if item is NOTHING and block:
            item = _Waiter(self, _PEEK, None, None).wait(timeout)
        if item is NOTHING:
            raise QueueEmpty
        return item

    def get_many_nowait(self, n: int | None = None) -> list[Any]:
        """Take all items, ``n`` at most, as a list; QueueEmpty if there is none."""
        many = self._fetch_many(n)
        if not many:
            raise QueueEmpty
        return many

    def sync_get_many(
        self,
        n: int | None = None,
        block: bool = True,
        timeout: float | None = None,
        *,
        blocking: bool | None = None,
        max_items: int | None = None,
        max_wait: float | None = None,
    ) -> list[Any]:
        """Wait for an item as in `sync_get`, and take all that are there, ``n`` at most.

        With ``max_wait``, take as many as come within so many seconds, which may be none; sooner if
        ``n`` are there, or there is no room for more. ``max_items`` is another name of ``n``.
        """
        if max_items is not None:
            n = either_number(n, max_items)
        if max_wait is not None:
            check_timeout(max_wait)
            batch = self._getting_batch(n).wait(max_wait)
            return [] if batch is NOTHING else batch
        if blocking is not None:
            block = may_block(block, blocking)
        if timeout is not None and block:
            check_timeout(timeout)
        many = self._fetch_many(n)
        if not many and block:
            many = _Waiter(self, _GET, None, _most(n)).wait(timeout)
        if not many or isinstance(many, Nothing):
            raise QueueEmpty
        return many

    def sync_join(self, timeout: float | None = None) -> None:
        """Wait until as many items are done (`task_done`) as were put.

        On a thread that can wait, up to ``timeout`` seconds; TimeoutError after that.
        """
        if timeout is not None:
            check_timeout(timeout)
        if _Waiter(self, _JOIN, None, None).wait(timeout) is NOTHING:
            raise TimeoutError(f"not all items were done within {timeout} seconds")

    def qsize(self) -> int:
        """How many items `get_nowait` could take now."""
        if self._generation != fork.generation:
            self._forget()
        if self._has_batches and self._getters:
            return 0  # they are the first batch's
        return max(0, self._count - self._kept_items)

    def _size(self) -> int:
        """The sum of the items' sizes: how many there are, unless they have sizes of their own."""
        if self._generation != fork.generation:
            self._forget()
        with self._lock:
            return max(0, self._count - self._kept_items + self._extra)

    def _mutex(self) -> Any:
        """The re-entrant lock that each step of the queue takes from now on."""
        if self._generation != fork.generation:
            self._forget()
        return self._lock

    def _look_for_waiters(self) -> None:
        """Wake the waiters that can go on, as each step of the queue does."""
        self._wake(self._next_waiter())

    def empty(self) -> bool:
        """Whether `get_nowait` would find nothing now."""
        return self.qsize() == 0

    def full(self) -> bool:
        """Whether `put_nowait` would find no room now."""
        if self._generation != fork.generation:
            self._forget()
        return not self._has_room()

    @property
    def maxsize(self) -> Any:
        """How many items there is room for; 0 or less is no limit, as `math.inf` is. It may be
        changed: waiting puts get new room in order, and items beyond a smaller limit stay."""
        return self._maxsize

    @maxsize.setter
    def maxsize(self, value: float) -> None:
        limit = places(value)
        self._maxsize = value
        self._limit = limit
        self._wake(self._next_waiter())

    @property
    def unfinished_tasks(self) -> int:
        """How many items were put for which `task_done` has not been called."""
        return self._unfinished

    def task_done(self) -> None:
        """One item that was taken is done with; ValueError if none is left."""
        if self._generation != fork.generation:
            self._forget()
        woken: _Waiter | None = None
        with self._lock:
            if self._unfinished <= 0:
                raise ValueError("task_done() called too many times")
            self._unfinished -= 1
            if self._unfinished == 0:
                woken = self._promise()
        if woken is not None:
            self._wake(woken)

    def clear(self) -> None:
        """Drop all items, as if they were taken and done with."""
        self._drop(False, _WAITING)

    def shutdown(self, immediate: bool = False) -> None:
        """Refuse each put from now on, and each get once the queue is empty.

        A wait that is in vain raises QueueShutDown. With ``immediate``, the items are dropped as by
        `clear`. May be called again.
        """
        if immediate:
            self._drop(True, _TOLD)
        else:
            self._is_down = True
            self._wake(self._next_waiter())

    def _drop(self, is_down: bool, state: int) -> None:
        if self._generation != fork.generation:
            self._forget()
        with self._lock:
            if is_down:
                self._is_down = True
            # Let go when the lock has been: their end may run anybody's code.
            dropped = self._drop_all(state)
        self._wake(self._next_waiter())
        del dropped


def _most(n: int | None) -> int:
    return sys.maxsize if n is None else most_items(n)
