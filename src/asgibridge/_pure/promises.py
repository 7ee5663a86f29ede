"""What a queue keeps and in what order, who waits for it, what is promised to whom, who is woken.

A wait is a **waiter** (`waiters._Waiter`), and goes through the states that are drawn there.

**Items.** First in first out and last in first out are kept here; any other order is a subclass's,
which overrides the hooks. A hook runs with the queue's lock held, and must not use the queue.

**Promises, no hand-over.** Nothing is handed to a sleeper. A waiter to get is promised *an* item, a
waiter to put *a* free place. Both stay in the queue, counted (``_kept_items``, ``_kept_slots``) as
nobody else's, until the waiter wakes up, and takes what is the first item then, or puts its own. So
a wait that ends in any other way has nothing to give back: its promise is broken, which is a count,
and the next in line gets it. No item is ever in nobody's hands: not when a task is cancelled
between its wake-up and its next step, nor when its loop is closed in that moment.

What holds whenever nobody is in the middle of a step:

1. Somebody waits to get: all items are promised.
2. Somebody waits to put: all room is taken or promised.
3. Newcomers take or put only if nobody waits for the same, so nobody is passed.

From 1 and 2: one item put, or one place that becomes free, wakes one waiter at most (and those that
only peek), and while that one is on its way to the processor the rest gathers without any wake-up.
It then takes item after item without waiting. A full queue is emptied before its producer wakes up
to fill it, and the other way round, with nothing done to that end.

**Waking.** The thread that made the promise wakes the waiter, after it has let the lock go, because
waking runs Python code of the event loop. A task of the loop that runs on this very thread is woken
by ``call_soon``; any other by its loop's `WakeChannel`, once for all tasks that have come by when
the loop looks. A waiter that is woken for nothing looks at its state and waits on; waking twice
does no harm.

**Closed loops.** The thread that wakes a task notices that its loop is closed, breaks the promise,
and promises it to the next waiter. A loop may also be closed between the wake-up and the task's
next step: so each get that finds the queue empty, and each put that finds it full, looks at the
oldest promise.

**Locks.** Everything but a task's future is guarded by ``_lock``, which is re-entrant because a
finalizer or a signal handler can put at any moment; each step's reads and writes are ordered so
that such a put comes before or after it. Hooks of subclasses run with it held. A thread sleeps on a
lock of its own, with no other held. `threading` is looked up when used: gevent replaces what it
holds.

**Ctrl-C** in a wait ends it like a time-out. An interrupt between any other two steps of a get, in
this Python code, may come too late to keep the item in the queue; the compiled kernel has no such
moment. A put that is interrupted while it wakes somebody has put its item.

**Batches.** A get that waits for several items at once (``max_wait=``) stands in the line like any
other, and what comes belongs to it while it is the first: the items gather in the queue, with
nothing promised, until there are as many as it wants (`_are_enough`), or its time is over
(`_expire`). So one that ends in any other way has nothing to give back, either. A batch of a loop
that was closed is found by the next get that finds nothing, as a broken promise is.

**Overwriting** drops the oldest items. Promises stay good, because they are of *an* item. Only
where the limit was lowered, or all room is promised, there are more promises than items or places:
the newest ones are taken back (`_revoke`), and these waiters are the first of their line again.

**Sizes.** Where items have sizes (``sizer=``), the limit is one of their sum: ``_extra`` is by how
much they are more than one each, and a waiter to put is promised as many places as it has
``units``. Such a queue has hooks. An item larger than the limit waits until the limit is raised.

**Fork.** The child drops the waiters of all threads but the one that forked (whose loop's tasks
live on), with what was promised to them, at the queue's first use.

**Exit.** A daemon thread that waits here is frozen by the interpreter as in any wait for a lock;
any other has to be woken by `shutdown`, or the interpreter waits for it.
"""

from __future__ import annotations

import operator
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any

from .._process import cpython, fork
from .._process.queue_errors import NOTHING, QueueShutDown, UnsupportedOperation, places
from .waiters import (
    _GET,
    _JOIN,
    _NEW,
    _OVER,
    _PEEK,
    _PROMISED,
    _PUT,
    _TOLD,
    _WAITING,
    _Line,
    _Waiter,
)

_FIFO, _LIFO, _HOOKED, _SIZED = range(4)
_NEVER, _WAITS, _MAY = range(3)  # what `_enlist` says: it gets something never, later, now


class _Promises:
    # Of any thread, with the lock held.
    __slots__ = (
        "_count",
        "_extra",
        "_generation",
        "_getters",
        "_has_batches",
        "_is_down",
        "_is_in_hook",
        "_items",
        "_joiners",
        "_kept_items",
        "_kept_slots",
        "_limit",
        "_lock",
        "_maxsize",
        "_order_",
        "_promised",
        "_putters",
        "_unfinished",
    )

    def __init__(self, maxsize: float = 0, order: int = 0) -> None:
        self._kept_items = 0  # for waiters that are promised one
        self._kept_slots = 0
        self._unfinished = 0
        self._is_down = False
        self._has_batches = False  # whether any get has ever waited for several items
        # In order. A dict's first key is slow to find when many before it were removed.
        self._getters: _Line = OrderedDict()
        self._putters: _Line = OrderedDict()
        self._joiners: _Line = OrderedDict()
        self._promised: _Line = OrderedDict()
        self._generation = fork.generation
        self._lock = cpython.RLock()
        self._maxsize = maxsize  # as it was given
        self._limit = places(maxsize)
        self._order_ = order
        self._items: deque[Any] = deque()
        self._is_in_hook = False
        self._count = 0
        self._extra = 0  # what sizes are more than one for each item
        if order >= _HOOKED:
            self._init(maxsize)
            self._count = self._qsize()

    # With the lock held: the items.

    if TYPE_CHECKING:  # the hooks of a subclass; called with the lock held

        def _init(self, maxsize: float) -> None: ...
        def _isize(self, item: Any) -> int: ...
        def _qsize(self) -> int: ...
        def _put(self, item: Any) -> None: ...
        def _get(self) -> Any: ...
        def _peekable(self) -> bool: ...
        def _peek(self) -> Any: ...
        def _clearable(self) -> bool: ...
        def _clear(self) -> None: ...

    def _push(self, item: Any) -> list[Any] | None:
        # Returns what is to be let go of without the lock, if anything.
        if self._order_ >= _HOOKED:
            self._push_by_hook(item)
        else:
            self._items.append(item)
            self._count += 1
        return None

    def _pull(self) -> Any:
        if self._order_ >= _HOOKED:
            item = self._pull_by_hook()
        else:
            item = self._items.popleft() if self._order_ == _FIFO else self._items.pop()
            self._count -= 1
        return item

    def _push_by_hook(self, item: Any) -> None:
        extra = self._units(item) - 1
        before = self._count
        self._enter_hook()
        try:
            self._put(item)
        finally:
            self._leave_hook()
        grown = self._count - before
        if grown:
            self._extra += extra
        # The caller counts one that is unfinished. A hook that keeps each item once adds none, and
        # nobody will ever call `task_done` for it.
        self._unfinished += grown - 1

    def _pull_by_hook(self) -> Any:
        before = self._count
        self._enter_hook()
        try:
            item = self._get()
            extra = 0
            if self._order_ == _SIZED:
                try:
                    extra = self._size_of(item) - 1
                except BaseException:
                    self._put(item)  # nothing has been taken
                    raise
        finally:
            self._leave_hook()
        if self._count < before:
            self._extra -= extra
        if self._count == 0:
            self._extra = 0  # if an item's size has changed meanwhile
        return item

    def _units(self, item: Any) -> int:
        # How many places the item takes.
        if self._order_ != _SIZED:
            return 1
        self._enter_hook()
        try:
            return self._size_of(item)
        finally:
            self._is_in_hook = False

    def _size_of(self, item: Any) -> int:
        size = operator.index(self._isize(item))
        if size < 0:
            raise ValueError(f"an item's size is {size}: must be 0 or more")
        return size

    def _enter_hook(self) -> None:
        # The lock is re-entrant, so a hook that uses its queue is no deadlock; it has to be an
        # error.
        if self._is_in_hook:
            raise RuntimeError(
                "a queue's hook, or a comparison of its items, has used the queue it was called by"
            )
        self._is_in_hook = True

    def _leave_hook(self) -> None:
        self._is_in_hook = False
        self._count = self._qsize()

    def _front(self) -> Any:
        if self._order_ >= _HOOKED:
            return self._peek()
        return self._items[0 if self._order_ == _FIFO else -1]

    def _check_peekable(self) -> None:
        if self._order_ >= _HOOKED and not self._peekable():
            raise UnsupportedOperation(f"{type(self).__name__} cannot peek")

    def _drop_all(self, state: int) -> deque[Any]:
        # All items, promised or not: a waiter that was promised one is in `state` then. Returns the
        # items, for the caller to let go of without the lock: the end of an object may run
        # anybody's code.
        count = self._count
        dropped = self._items
        if self._order_ >= _HOOKED:
            self._enter_hook()
            try:
                if self._clearable():
                    self._clear()
            finally:
                self._leave_hook()
            while self._count > 0:
                self._pull()
            self._extra = 0
        else:
            self._items = deque()
            self._count = 0
        self._unfinished = max(0, self._unfinished - (count - self._count))
        for waiter in reversed(list(self._promised)):
            if waiter.kind == _GET:
                self._keep_no_more(waiter)
                waiter.state = state
                if state == _WAITING:
                    waiter.line = self._getters
                    self._getters[waiter] = None
                    self._getters.move_to_end(waiter, last=False)
        return dropped

    # With the lock held: who waits.

    def _has_item(self) -> bool:
        return self._count > self._kept_items

    def _has_room(self, units: int = 1) -> bool:
        used = self._count + self._extra + self._kept_slots
        return self._limit <= 0 or used + units <= self._limit

    def _free(self) -> int:
        return self._count - self._kept_items

    def _are_enough(self, there: int, least: int) -> bool:
        # Whether a batch that finds so many waits for no more: none would come, or others wait.
        is_full = 0 < self._limit <= self._count + self._extra
        return is_full or self._is_down or there >= least

    def _promise(self) -> _Waiter | None:
        # Returns the next waiter to be woken, for which something is kept now, or None.
        if self._getters:
            if self._has_item():
                waiter = next(iter(self._getters))
                least = waiter.least
                if least <= 1 or self._are_enough(self._free(), least):
                    if waiter.kind == _PEEK:
                        waiter.item = self._front()
                    del self._getters[waiter]
                    waiter.line = None
                    if waiter.kind == _PEEK:
                        waiter.state = _OVER
                    else:
                        waiter.units = 1 if least <= 1 else min(least, self._free())
                        self._keep_for(waiter)
                        self._kept_items += waiter.units
                    return waiter
            elif self._is_down:
                return _tell(self._getters)
        if self._putters:
            if self._is_down:
                return _tell(self._putters)
            waiter = next(iter(self._putters))
            if self._has_room(waiter.units):
                del self._putters[waiter]
                self._keep_for(waiter)
                self._kept_slots += waiter.units
                return waiter
        if self._joiners and self._unfinished == 0:
            waiter, _ = self._joiners.popitem(last=False)
            waiter.line = None
            waiter.state = _OVER
            return waiter
        return None

    def _keep_for(self, waiter: _Waiter) -> None:
        waiter.state = _PROMISED
        waiter.line = self._promised
        self._promised[waiter] = None

    def _keep_no_more(self, waiter: _Waiter) -> None:
        del self._promised[waiter]
        waiter.line = None
        waiter.state = _OVER
        if waiter.kind == _GET:
            self._kept_items -= waiter.units
        else:
            self._kept_slots -= waiter.units

    def _revoke(self, line: _Line) -> None:
        # The newest promise to one of this line is broken: it is the first of the line again.
        for waiter in reversed(self._promised):
            if (waiter.kind == _PUT) == (line is self._putters):
                self._keep_no_more(waiter)
                waiter.state = _WAITING
                waiter.line = line
                line[waiter] = None
                line.move_to_end(waiter, last=False)
                return

    def _forget(self) -> None:
        # In a forked child, which has no other waiters than those of the thread that forked.
        # Another thread of the parent may have held the lock.
        self._lock = cpython.RLock()
        self._generation = fork.generation
        for line in (self._getters, self._putters, self._joiners, self._promised):
            for waiter in list(line):
                if waiter.has_survived():
                    continue
                if waiter.state == _PROMISED:
                    self._keep_no_more(waiter)
                else:
                    del line[waiter]
                    waiter.line = None
                    waiter.state = _OVER
        # A thread of the parent may have been in the middle of a step, or of a hook.
        self._is_in_hook = False
        self._count = self._stored()

    def _stored(self) -> int:
        return self._qsize() if self._order_ >= _HOOKED else len(self._items)

    # Without the lock.

    def _wake(self, waiter: _Waiter | None) -> None:
        # Wakes this waiter, and then each waiter that something can be promised to.
        error: BaseException | None = None
        while waiter is not None:
            try:
                is_there = waiter.ring()
            except BaseException as interrupt:
                # A signal handler's. The waiter may have been rung or not: to ring it twice does no
                # harm, never to ring it would.
                error = interrupt
                is_there = waiter.ring()
            if not is_there:
                self._leave(waiter, False)
            # A waiter that joins a line after this look has found nothing to be had.
            is_last = not (self._getters or self._putters or self._joiners)
            waiter = None if is_last else self._next_waiter()
        if error is not None:
            try:
                raise error
            finally:
                del error

    def _next_waiter(self) -> _Waiter | None:
        if self._generation != fork.generation:
            self._forget()
        with self._lock:
            return self._promise()

    def _leave(self, waiter: _Waiter, if_in_line: bool) -> bool:
        # The waiter waits no more, and nothing is kept for it; with `if_in_line`, only if nothing
        # is kept for it yet and it was not told to look. Returns whether it has left.
        if self._generation != fork.generation:
            self._forget()
        with self._lock:
            if waiter.state == _WAITING and waiter.line is not None:
                del waiter.line[waiter]
                waiter.line = None
            elif if_in_line:
                return False
            elif waiter.state == _PROMISED:
                self._keep_no_more(waiter)
            waiter.state = _OVER
            return True

    def _withdraw(self, waiter: _Waiter) -> None:
        # The waiter waits no more; what was kept for it goes to the next waiter.
        self._leave(waiter, False)
        waiter.item = None
        self._wake(self._next_waiter())

    def _reclaim(self) -> bool:
        # Takes back what was promised to a task whose loop was closed before the task could take
        # it. Looks at the oldest promise alone: a task whose loop runs takes its own soon. Or at
        # the batch to which all items belong.
        if self._generation != fork.generation:
            self._forget()
        with self._lock:
            waiter = next(iter(self._promised), None)
            if waiter is None and self._has_batches:
                waiter = next(iter(self._getters), None)
                if waiter is not None and waiter.least <= 1:
                    waiter = None
        if waiter is None or waiter.sleep_lock is not None or not waiter.loop.is_closed():
            return False
        self._withdraw(waiter)
        return True

    def _advance(self, waiter: _Waiter) -> bool:
        # Does what the waiter is for, if it may: the outcome is in its `item` then. True: it must
        # wait.
        if waiter.state == _NEW and (self._promised or self._has_batches):
            while self._reclaim():
                pass
        if self._generation != fork.generation:
            self._forget()
        kind = waiter.kind
        dropped: list[Any] | None = None
        with self._lock:
            if waiter.state == _OVER:
                return False
            was_first = False
            if waiter.state == _WAITING:
                if waiter.least >= 0:
                    return True
                was_first = next(iter(self._getters)) is waiter
                del self._getters[waiter]
                waiter.line = None
            promised = waiter.state == _PROMISED
            is_down = self._is_down
            if kind == _PUT:
                line = self._putters
                if self._order_ == _SIZED and not promised:
                    waiter.units = self._units(waiter.item)
                may = promised or (not line and self._has_room(waiter.units))
            elif kind == _JOIN:
                line = self._joiners
                may = self._unfinished == 0
                is_down = False
            else:
                line = self._getters
                may = promised or (
                    (not line or was_first)
                    and self._has_item()
                    and (waiter.least <= 1 or self._are_enough(self._free(), waiter.least))
                )
                is_down = is_down and not may
            if promised:
                self._keep_no_more(waiter)
            waiter.state = _OVER
            if is_down:
                pass
            elif not may and waiter.least >= 0:
                waiter.state = _WAITING
                waiter.line = line
                line[waiter] = None
                if waiter.least > 1:
                    self._has_batches = True
                return True
            elif not may:
                waiter.item = []  # its time is over
            elif kind == _GET:
                if waiter.most is None:
                    waiter.item = self._pull()
                else:
                    waiter.item = [self._pull()]
                    while self._has_item() and len(waiter.item) < waiter.most:
                        waiter.item.append(self._pull())
            elif kind == _PEEK:
                waiter.item = self._front()
            elif kind == _PUT:
                dropped = self._push(waiter.item)
                self._unfinished += 1
            woken = self._promise()
        if woken is not None:
            got: list[Any] = []
            if kind == _GET and may:
                got = [waiter.item] if waiter.most is None else waiter.item
            self._wake_or_put_back(woken, got)
        del dropped
        if is_down:
            waiter.item = None
            raise QueueShutDown
        return False

    def _expire(self, waiter: Any) -> None:
        # The time of a `_Batch` is over: it takes what is there. On the thread that waits.
        if self._generation != fork.generation:
            self._forget()
        with self._lock:
            waiter.least = -1
        waiter.wake()

    def _dismiss(self, waiter: _Waiter) -> None:
        # Ends a wait to which nothing is promised: its outcome is NOTHING. From any thread.
        if self._generation != fork.generation:
            self._forget()
        with self._lock:
            if waiter.state not in (_NEW, _WAITING):
                return
            is_asleep = waiter.line is not None
            if waiter.line is not None:
                del waiter.line[waiter]
                waiter.line = None
            waiter.state = _OVER
            waiter.item = NOTHING
        if is_asleep:  # else its thread is about to look
            waiter.ring()
        self._wake(self._next_waiter())

    def _enlist(self, waiter: _Waiter) -> int:
        # For one of several waits, instead of `_advance`, as which it is to be called next: nothing
        # is taken yet.
        if waiter.state == _NEW and (self._promised or self._has_batches):
            while self._reclaim():
                pass
        if self._generation != fork.generation:
            self._forget()
        with self._lock:
            if waiter.state == _WAITING:
                return _WAITS
            if waiter.state == _PROMISED:
                return _MAY
            if self._has_item() and not self._getters:
                self._keep_for(waiter)
                self._kept_items += 1
                return _MAY
            if self._is_down:
                waiter.state = _OVER
                return _NEVER
            waiter.state = _WAITING
            waiter.line = self._getters
            self._getters[waiter] = None
            return _WAITS

    def _wake_or_put_back(self, woken: _Waiter, got: list[Any]) -> None:
        # A KeyboardInterrupt can strike in the Python code of the loop that is woken: the caller
        # then raises it instead of returning what it got, so these items go back.
        try:
            self._wake(woken)
        except BaseException:
            with self._lock:
                for item in reversed(got):
                    if self._order_ == _FIFO:
                        self._items.appendleft(item)
                        self._count += 1
                    else:
                        self._push(item)
                again = self._promise()
            self._wake(again)
            raise


def _tell(line: _Line) -> _Waiter:
    # The first of the line is woken to look for itself: nothing is kept for it.
    waiter, _ = line.popitem(last=False)
    waiter.line = None
    waiter.state = _TOLD
    return waiter
