"""A broadcast: what is put once, and read by each of its readers, at its own pace.

**States.** A position is the number of an item, counted from the first that was ever stored. ::

         _offset         _floor      _head               _end()
           |  .. replay .. |  ........ |  .. needed .. .... |
           [item, item, item, item, item, item, item, item]
    _at:   [  0     0     0     0     1     0     2     0     1  ]

A **reader** (`ReaderCore`) stands at the position that it reads next, its ``_place``. The broadcast
does not know its readers: it counts, in ``_at``, how many stand where. Items before ``_head`` are
needed by nobody, because all stand behind them; they go at once, but for the last ``_replay``. So
an item is stored once, whatever the number of readers, and a reader that ends is one count less.

A reader is *open*, then *closed* (by `close`, or because it was dropped), or *lagged*: what is
before ``_floor`` has been taken away from those who stood there. Under ``drop_oldest`` their count
is moved on to ``_floor``, and they notice how many they have missed when they look next; under
``disconnect`` it is dropped, and they raise ReaderLagged.

**Who waits.** A put waits for room, as at any queue (`promises`): there is room for ``maxsize``
items from ``_head`` on, so the slowest reader is waited for. A get is promised nothing, because no
other reader can take its item. It joins the line with the position of the end in its ``units``; as
soon as there is more, it is told to look for itself. So all who wait are told of each item, the
first in line first, and a get that ends in any other way has nothing to give back: whoever else
waits for the same reader has been told, too. Two tasks that share a reader get each item once, but
which of them is not said.

**Locks.** All is guarded by ``_lock``, the broadcast's, also the fields of its readers. A finalizer
or a signal handler may come in the middle of a step of the thread that it interrupts, which holds
the lock. ``_is_inside`` says so: what it puts or closes waits in ``_late`` until the step is done,
a get finds nothing, and a subscription is a RuntimeError. The compiled kernel has no such middle.

**Cancellation, time-outs, errors.** What a reader has not returned it has not taken. If waking a
put raises (a signal handler's exception, in code of the loop that is woken), what was read is put
back in the reader's place, or counted as missed if it is gone. An interrupt in the middle of a step
of this Python code may leave its reader uncounted: nobody waits for it, then.

**Closed loops.** A get leaves nothing behind. The room that was promised to a put is found by the
next put, as at any queue.

**Fork.** The child has copies of the broadcast and its readers, as far as they were, and none of
the parent's waiting threads. A reader that nobody uses there lags: close it, or `put` waits for it.
A step of this Python code that another thread of the parent was in the middle of stays half done in
the child; the compiled kernel's are done or not begun.

**Exit, collection.** A reader that is dropped unclosed is closed by the shell's ``__del__``. Who
waits at a reader of a broadcast that nobody else has waits for ever, as at any queue: `shutdown`
ends that.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from .._process import fork
from .._process.queue_errors import (
    NOTHING,
    QueueEmpty,
    QueueFull,
    QueueShutDown,
    ReaderLagged,
    check_timeout,
    places,
)
from .promises import _MAY, _NEVER, _WAITS, _tell
from .queue import _most, _Store
from .waiters import _GET, _NEW, _OVER, _PUT, _WAITING, _Batch, _Waiter

_BLOCK, _DROP, _DISCONNECT = range(3)
_LAGS = "block", "drop_oldest", "disconnect"
_OPEN, _CLOSED, _LAGGED = range(3)


class BroadcastCore(_Store):
    """What is put once and read by each reader. `lag` says what a put does where the slowest reader
    is `maxsize` items behind: ``block``, ``drop_oldest`` or ``disconnect``.
    """

    # Of any thread, with the lock held.
    __slots__ = (
        "_at",
        "_floor",
        "_head",
        "_is_inside",
        "_is_over",
        "_lag",
        "_late",
        "_offset",
        "_readers",
        "_replay",
        "_ring",
        "_was_late",
    )

    def __init__(self, maxsize: float = 0, lag: str = "block", replay: int = 0) -> None:
        if lag not in _LAGS:
            raise ValueError(f"lag={lag!r}: must be 'block', 'drop_oldest' or 'disconnect'")
        self._replay = replay
        if 0 < places(maxsize) < replay:
            raise ValueError(f"replay={replay!r}: must not be more than maxsize={maxsize!r}")
        super().__init__(maxsize)
        self._lag = _LAGS.index(lag)
        self._ring: deque[Any] = deque()
        self._at: deque[int] = deque([0])
        self._offset = 0
        self._head = 0
        self._floor = 0
        self._readers = 0
        self._is_inside = False
        self._is_over = False  # shut down at once: readers get nothing more
        self._late: deque[tuple[ReaderCore | None, Any]] = deque()
        self._was_late = False  # who waits may not have been told of what came so

    # With the lock held.

    def _end(self) -> int:
        return self._offset + len(self._ring)

    def _add(self, item: Any, dropped: list[Any]) -> None:
        # `dropped` gets what is to be let go of without the lock.
        while self._lag != _BLOCK and self._count > 0 and not self._has_room():
            self._leave_behind(dropped)
        if self._readers or self._replay:
            self._at.append(0)
            self._ring.append(item)
            if self._replay:
                self._trim(dropped)
            else:
                self._count = self._offset + len(self._ring) - self._head

    def _leave_behind(self, dropped: list[Any]) -> None:
        # The slowest readers, with the first item that they need.
        first = self._head - self._offset
        slowest = self._at[first]
        self._at[first] = 0
        if self._lag == _DROP:
            self._at[first + 1] += slowest
        else:
            self._readers -= slowest
        self._floor = self._head = self._head + 1
        self._trim(dropped)

    def _trim(self, dropped: list[Any]) -> None:
        end = self._end()
        while self._head < end and not self._at[self._head - self._offset]:
            self._head += 1
        self._count = end - self._head
        while self._offset < self._head and end - self._offset > self._replay:
            self._at.popleft()
            dropped.append(self._ring.popleft())
            self._offset += 1

    def _find(self, reader: ReaderCore) -> int:
        # How many items the reader has before it; raises if it has ended.
        if reader._state == _OPEN and reader._place >= self._floor and not self._is_over:
            return self._offset + len(self._ring) - reader._place  # nearly always
        if self._is_over:
            raise QueueShutDown
        self._catch_up(reader)
        if reader._state == _LAGGED:
            raise ReaderLagged(
                f"the broadcast went on without this reader, which was {self._limit} items behind: "
                "read faster, raise maxsize=, or choose another lag="
            )
        if reader._state == _CLOSED:
            raise QueueShutDown
        return self._end() - reader._place

    def _catch_up(self, reader: ReaderCore) -> None:
        floor = self._floor
        if reader._place < floor and reader._state == _OPEN:
            reader._missed += floor - reader._place
            reader._place = floor
            if self._lag == _DISCONNECT:
                reader._state = _LAGGED

    def _take(self, reader: ReaderCore, dropped: list[Any]) -> Any:
        # The next item, which is there.
        place = reader._place
        at = place - self._offset
        counts = self._at
        item = self._ring[at]
        left = counts[at] = counts[at] - 1
        counts[at + 1] += 1
        reader._place = place + 1
        if not left and place == self._head:
            if at or self._replay:
                self._trim(dropped)
            else:  # as that, for the one item that the caller gets
                self._head = place + 1
                self._count -= 1
                counts.popleft()
                self._ring.popleft()
                self._offset = place + 1
        return item

    def _end_step(self, dropped: list[Any]) -> None:
        # What has come in the middle of this step is done now. `dropped` gets more.
        if not self._late:
            self._is_inside = False
            if not self._late:
                return
            self._is_inside = True  # it came between these two lines
        while True:
            while self._late:
                self._was_late = True
                reader, item = self._late.popleft()
                if reader is not None:
                    self._drop_reader(reader, dropped)
                elif not self._is_over:
                    self._add(item, dropped)
            self._is_inside = False
            if not self._late:
                return
            self._is_inside = True  # it came between these two lines

    def _drop_reader(self, reader: ReaderCore, dropped: list[Any]) -> None:
        self._catch_up(reader)
        if reader._state == _OPEN and not self._is_over:
            self._at[reader._place - self._offset] -= 1
            self._readers -= 1
            self._trim(dropped)
        reader._state = _CLOSED
        # Who waits for an item of it is to see that, before all others.
        for waiter in [each for each in self._getters if each.item is reader]:
            waiter.units = -1
            self._getters.move_to_end(waiter, last=False)

    def _promise(self) -> _Waiter | None:
        if self._getters:
            waiter = next(iter(self._getters))
            if self._is_down or waiter.units < self._end():
                return _tell(self._getters)
        if self._putters:
            if self._is_down:
                return _tell(self._putters)
            waiter = next(iter(self._putters))
            if self._has_room():
                del self._putters[waiter]
                self._keep_for(waiter)
                self._kept_slots += 1
                return waiter
        return None

    def _forget(self) -> None:
        super()._forget()
        self._is_inside = False

    def _stored(self) -> int:
        return 0 if self._is_over else self._end() - self._head

    # Without the lock.

    def _advance(self, waiter: _Waiter) -> bool:
        if waiter.state == _NEW and self._promised:
            while self._reclaim():
                pass
        if self._generation != fork.generation:
            self._forget()
        if waiter.kind == _PUT:
            return super()._advance(waiter)
        try:
            return self._advance_get(waiter, waiter.item)
        finally:
            if self._was_late:
                self._tell_late()

    def _tell_late(self) -> None:
        self._was_late = False
        self._wake(self._next_waiter())

    def _advance_get(self, waiter: _Waiter, reader: ReaderCore) -> bool:
        dropped: list[Any] = []
        with self._lock:
            if waiter.state == _OVER:
                return False
            if waiter.state == _WAITING:
                if waiter.least >= 0:
                    return True
                del self._getters[waiter]
                waiter.line = None
            waiter.state = _OVER
            while True:
                end = self._end()
                got = self._read(reader, waiter.most or 1, waiter.least, dropped)
                if got:
                    waiter.item = got if waiter.most is not None else got[0]
                    break
                if self._is_down:
                    raise QueueShutDown
                if waiter.least < 0:
                    waiter.item = []  # its time is over
                    break
                if self._has_joined(waiter, end):
                    return True
            woken = self._promise()
        if woken is not None:
            self._wake_or_go_back(woken, reader, got)
        return False

    def _has_joined(self, waiter: _Waiter, end: int) -> bool:
        # With the lock held. False: something was put in the middle of this step, since `end` was.
        waiter.state = _WAITING
        waiter.units = end
        waiter.line = self._getters
        self._getters[waiter] = None
        if self._end() == end:
            return True
        self._getters.pop(waiter, None)  # it may have been told already
        waiter.line = None
        waiter.state = _OVER
        return False

    def _push(self, item: Any) -> list[Any]:
        # With the lock held. Returns what is to be let go of without it.
        if self._is_inside:
            self._late.append((None, item))
            return []
        dropped: list[Any] = []
        self._is_inside = True
        try:
            self._add(item, dropped)
        finally:
            self._end_step(dropped)
        return dropped

    def _read(self, reader: ReaderCore, most: int, least: int, dropped: list[Any]) -> list[Any]:
        # With the lock held: up to `most` items; none, if there are fewer than `least` and more can
        # come.
        got: list[Any] = []
        if self._is_inside:
            return got
        self._is_inside = True
        try:
            there = self._find(reader)
            if there and (least <= 1 or self._are_enough(there, least)):
                while there and len(got) < most:
                    got.append(self._take(reader, dropped))
                    there -= 1
        finally:
            self._end_step(dropped)
        return got

    def _wake_or_go_back(self, woken: _Waiter, reader: ReaderCore, got: list[Any]) -> None:
        # As `_wake_or_put_back`.
        try:
            self._wake(woken)
        except BaseException:
            with self._lock:
                for item in reversed(got):
                    place = reader._place - 1
                    is_gone = self._is_over or reader._state != _OPEN or place < self._floor
                    if is_gone or place < self._offset - 1:
                        reader._missed += 1
                        continue
                    if place < self._offset:
                        self._ring.appendleft(item)
                        self._at.appendleft(0)
                        self._offset = place
                    self._at[place + 1 - self._offset] -= 1
                    self._at[place - self._offset] += 1
                    self._head = min(self._head, place)
                    self._count = self._end() - self._head
                    reader._place = place
            raise

    def _enlist(self, waiter: _Waiter) -> int:
        # Nothing is promised here: who may take something looks again.
        if self._generation != fork.generation:
            self._forget()
        reader: ReaderCore = waiter.item
        with self._lock:
            if waiter.state == _WAITING:
                return _WAITS
            while True:
                waiter.state = _NEW
                end = self._end()
                try:
                    there = self._find(reader)
                except QueueShutDown:
                    return _NEVER
                except ReaderLagged:
                    return _MAY  # raise that
                if there:
                    return _MAY
                if self._is_down:
                    return _NEVER
                if self._has_joined(waiter, end):
                    return _WAITS

    def _join(self, reader: ReaderCore, replay: int) -> None:
        # The reader stands at the end, or up to `replay` items before.
        if self._generation != fork.generation:
            self._forget()
        with self._lock:
            if self._is_inside:
                raise RuntimeError(
                    "a signal handler or a finalizer cannot subscribe to the broadcast that it has "
                    "interrupted: subscribe elsewhere"
                )
            dropped: list[Any] = []
            self._is_inside = True
            try:
                end = self._end()
                place = max(end - replay, self._offset, self._floor)
                reader._place = place
                reader._state = _OPEN
                if not self._is_over:
                    self._at[place - self._offset] += 1
                    self._readers += 1
                    self._head = min(self._head, place)
                    self._count = end - self._head
            finally:
                self._end_step(dropped)
        del dropped
        if self._was_late:
            self._tell_late()

    def _offer(self, item: Any) -> bool:
        """Put ``item`` if there is room now; returns whether there was."""
        dropped: list[Any] = []
        woken: _Waiter | None = None
        while True:
            if self._generation != fork.generation:
                self._forget()
            with self._lock:
                if self._is_down:
                    raise QueueShutDown
                done = (
                    self._limit <= 0
                    or self._lag != _BLOCK
                    # As `_has_room` says it.
                    or (not self._putters and self._count + self._kept_slots < self._limit)
                )
                if done:
                    dropped = self._push(item)
                    if self._getters:
                        woken = self._promise()
            if woken is not None:
                self._wake(woken)
            if done or not self._promised or not self._reclaim():
                del dropped
                return done

    def put_nowait(self, item: Any) -> None:
        """Put ``item`` for all readers; QueueFull if there is no room.

        QueueShutDown after `shutdown`. From any thread, also from a signal handler or a finalizer.
        """
        if not self._offer(item):
            raise QueueFull

    def shutdown(self, immediate: bool = False) -> None:
        """Refuse each put from now on, and each get of a reader that has got all there is.

        A wait that is in vain raises QueueShutDown. With ``immediate``, readers get nothing more.
        May be called again.
        """
        if self._generation != fork.generation:
            self._forget()
        fresh: deque[Any] = deque()
        dropped = fresh
        with self._lock:
            self._is_down = True
            if immediate and not self._is_over:
                self._is_over = True  # from here on nobody looks for an item
                self._count = self._readers = 0
                if not self._is_inside:
                    dropped, self._ring = self._ring, fresh
        self._wake(self._next_waiter())
        del dropped

    @property
    def maxsize(self) -> Any:
        """How many items the slowest reader may be behind; 0 or less is no limit."""
        return self._maxsize

    @property
    def readers(self) -> int:
        """How many readers are open."""
        return self._readers

    def qsize(self) -> int:
        """How many items the slowest reader is behind."""
        return self._count


class ReaderCore:
    """A reader of a broadcast: of what is put from now on, and up to `replay` items from before."""

    # With the broadcast's lock held.
    __slots__ = ("_broadcast", "_missed", "_place", "_state")

    def __init__(self, broadcast: BroadcastCore, replay: int = 0) -> None:
        self._broadcast = broadcast
        self._missed = 0
        self._place = 0
        self._state = _CLOSED
        broadcast._join(self, replay)

    def _fetch_some(self, most: int) -> list[Any]:
        broadcast = self._broadcast
        if broadcast._generation != fork.generation:
            broadcast._forget()
        dropped: list[Any] = []
        woken: _Waiter | None = None
        try:
            with broadcast._lock:
                got = broadcast._read(self, most, 1, dropped)
                if not got and broadcast._is_down and not broadcast._is_inside:
                    raise QueueShutDown
                if got and broadcast._putters:
                    woken = broadcast._promise()
        finally:
            if broadcast._was_late:
                broadcast._tell_late()
        if woken is not None:
            broadcast._wake_or_go_back(woken, self, got)
        return got

    def _fetch(self) -> Any:
        """Take the next item if there is one now, else return NOTHING."""
        # As `_fetch_some(1)`, which takes half as long again.
        broadcast = self._broadcast
        if broadcast._generation != fork.generation:
            broadcast._forget()
        item: Any = NOTHING
        dropped: list[Any] = []
        woken: _Waiter | None = None
        try:
            with broadcast._lock:
                if not broadcast._is_inside:
                    head = broadcast._head
                    broadcast._is_inside = True
                    try:
                        if broadcast._find(self):
                            item = broadcast._take(self, dropped)
                    finally:
                        broadcast._end_step(dropped)
                    if item is NOTHING:
                        if broadcast._is_down:
                            raise QueueShutDown
                    elif broadcast._putters and broadcast._head > head:
                        woken = broadcast._promise()
        finally:
            if broadcast._was_late:
                broadcast._tell_late()
        if woken is not None:
            broadcast._wake_or_go_back(woken, self, [item])
        return item

    def _fetch_many(self, n: int | None) -> list[Any]:
        """Take up to ``n`` items (None: all), as many as there are now."""
        return self._fetch_some(_most(n))

    def _getting(self) -> _Waiter:
        """To be awaited: wait for an item and take it."""
        return _Waiter(self._broadcast, _GET, self, None)

    def _getting_many(self, n: int | None) -> _Waiter:
        """To be awaited: wait for an item and take up to ``n`` (None: all)."""
        return _Waiter(self._broadcast, _GET, self, _most(n))

    def _getting_batch(self, n: int | None) -> _Waiter:
        """To be awaited: wait for ``n`` items (None: all that come) and take them.

        Fewer, when no more would come or its time is over (`_Waiter.expire`): maybe none.
        """
        return _Batch(self._broadcast, self, _most(n))

    async def get(self) -> Any:
        """Take the next item, waiting for one. To be awaited, on any event loop."""
        item = self._fetch()
        if item is NOTHING:
            item = await _Waiter(self._broadcast, _GET, self, None)
        return item

    def get_nowait(self) -> Any:
        """Take the next item; QueueEmpty if there is none, QueueShutDown if none can come.

        ReaderLagged if the broadcast has ended this reader.
        """
        item = self._fetch()
        if item is NOTHING:
            raise QueueEmpty
        return item

    def sync_get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the next item, on a thread that can wait for it up to ``timeout`` seconds.

        QueueEmpty if there is none by then, or at once if ``block`` is false; QueueShutDown if none
        can come; ReaderLagged if the broadcast has ended this reader; RuntimeError where it would
        have to wait and the thread runs an event loop.
        """
        if timeout is not None and block:
            check_timeout(timeout)
        item = self._fetch()
        if item is NOTHING and block:
            item = self._getting().wait(timeout)
        if item is NOTHING:
            raise QueueEmpty
        return item

    def qsize(self) -> int:
        """How many items `get_nowait` could take now."""
        broadcast = self._broadcast
        if broadcast._generation != fork.generation:
            broadcast._forget()
        with broadcast._lock:
            broadcast._catch_up(self)
            if self._state != _OPEN or broadcast._is_over:
                return 0
            return broadcast._end() - self._place

    @property
    def missed(self) -> int:
        """How many items were dropped before this reader came to them."""
        self.qsize()  # which catches up
        return self._missed

    @property
    def closed(self) -> bool:
        """Whether it was closed, or the broadcast has ended it."""
        self.qsize()  # which catches up
        return self._state != _OPEN

    def close(self) -> None:
        """Read no more; nobody waits for this reader. A get that waits raises QueueShutDown.

        From any thread, and from a signal handler or a finalizer, too. May be called again.
        """
        broadcast = self._broadcast
        if broadcast._generation != fork.generation:
            broadcast._forget()
        dropped: list[Any] = []
        with broadcast._lock:
            if broadcast._is_inside:
                broadcast._late.append((self, None))
                return
            broadcast._is_inside = True
            try:
                broadcast._drop_reader(self, dropped)
            finally:
                broadcast._end_step(dropped)
            woken = broadcast._promise()
        if woken is not None:
            broadcast._wake(woken)
