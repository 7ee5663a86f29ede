"""Message queues: the items, who waits for them, and who is woken.

A wait is a **turn** (`_Turn`): to get, to peek, to put or to join, of a task or of a thread. ::

    new --may go on at once------------------------------------------------.
     `--must wait--> waiting --is promised it--> promised --wakes up--> over
                        |  ^-------revoked----------'          |
                        |-- told that there is nothing to wait for, looks again
                        '-- cancelled, interrupted, too late --'--> over

**Promises, no hand-over.** Nothing is handed to a sleeper. A turn to get is promised *an* item, a
turn to put *a* free place. Both stay in the queue, counted (``_kept_items``, ``_kept_slots``) as
nobody else's, until the turn wakes up, and takes what is the first item then, or puts its own. So a
wait that ends in any other way has nothing to give back: its promise is broken, which is a count,
and the next in line gets it. No item is ever in nobody's hands: not when a task is cancelled
between its wake-up and its next step, nor when its loop is closed in that moment.

What holds whenever nobody is in the middle of a step:

1. Somebody waits to get: all items are promised.
2. Somebody waits to put: all room is taken or promised.
3. Newcomers take or put only if nobody waits for the same, so nobody is passed.

From 1 and 2: one item put, or one place that becomes free, wakes one turn at most (and those that
only peek), and while that one is on its way to the processor the rest gathers without any wake-up.
It then takes item after item without waiting. A full queue is emptied before its producer wakes up
to fill it, and the other way round, with nothing done to that end.

**Who wakes.** Whoever made the promise, after it has let the lock go, because waking runs Python
code of the event loop. A task of the loop that runs on this very thread is woken by ``call_soon``;
any other by its loop's `WakeChannel`, once for all tasks that have come by when the loop looks. A
turn that is woken for nothing looks at its state and waits on; waking twice does no harm.

**A loop that was closed** is noticed by who wakes: the promise is broken and goes to the next. If
it is closed between the wake-up and the task's next step, the oldest promise is looked at by
whoever finds the queue empty or full.

**Locks.** Everything but a task's future is guarded by ``_lock``, which is re-entrant because a
finalizer or a signal handler can put at any moment; each step's reads and writes are ordered so
that such a put comes before or after it. Hooks of subclasses run with it held. A thread sleeps on a
lock of its own, with no other held. `threading` is looked up when used: gevent replaces what it
holds.

**Ctrl-C** in a wait ends it like a time-out. An interrupt between any other two steps of a get, in
this Python code, may come too late to keep the item in the queue; the compiled kernel has no such
moment. A put that is interrupted while it wakes somebody has put its item.

**Fork.** The child drops the turns of all threads but the one that forked (whose loop's tasks live
on), with what was promised to them, at the queue's first use.

**Exit.** A daemon thread that waits here is frozen by the interpreter as in any wait for a lock;
any other has to be woken by `shutdown`, or the interpreter waits for it.
"""

from __future__ import annotations

import asyncio
import operator
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from .._process import fork
from .._process.cpython import running_loop
from .._process.queue_errors import (
    NOTHING,
    Nothing,
    QueueEmpty,
    QueueFull,
    QueueShutDown,
    UnsupportedOperation,
    check_timeout,
)
from .channel import WakeChannel, wake_channel

__all__ = ["QueueCore"]

_FIFO, _LIFO, _HOOKED = range(3)
_GET, _PEEK, _PUT, _JOIN = range(4)
_NEW, _WAITING, _PROMISED, _TOLD, _OVER = range(5)

# Waiting for a lock can't be interrupted on Windows: come up for Ctrl-C four times a second.
_PATIENCE: float = 0.25 if sys.platform == "win32" else 3600
_MAIN_PATIENCE = min(_PATIENCE, 0.5)


class _Turn:
    # Owned by who waits. All of it but the future is the queue's, under its lock.
    __slots__ = (
        "bed",
        "channel",
        "future",
        "generation",
        "ident",
        "item",
        "kind",
        "line",
        "loop",
        "most",
        "queue",
        "rung",
        "state",
    )

    bed: Any  # a thread's
    channel: WakeChannel
    loop: asyncio.AbstractEventLoop

    def __init__(self, queue: QueueCore, kind: int, item: Any, most: int | None) -> None:
        self.queue = queue
        self.kind = kind
        self.item = item  # to be put, and later the outcome
        self.most = most  # how many to get; None: a single item, not a list
        self.state = _NEW
        self.line: OrderedDict[_Turn, None] | None = None
        self.ident = threading.get_ident()
        self.generation = fork.generation
        self.bed = None
        self.rung: list[bool] = []
        self.future: asyncio.Future[None] | None = None  # of the loop's thread

    def wake(self) -> None:
        # On the loop's thread.
        future = self.future
        if future is not None and not future.done():
            future.set_result(None)

    def is_in_line(self) -> bool:
        # Whether it waits, and nothing is kept for it yet. From any thread.
        return self.state == _WAITING

    def sleep(self, deadline: float | None) -> bool:
        # Until rung, or the deadline (False). On the owner's thread.
        longest = _PATIENCE
        if self.ident == threading.main_thread().ident:
            # A signal that comes when Python has looked for signals, and is not in the system call
            # yet, does not interrupt that.
            longest = _MAIN_PATIENCE
        while True:
            patience = longest
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    return bool(self.bed.acquire(False))
                patience = min(patience, left)
            if self.bed.acquire(True, patience):
                return True

    def __await__(self) -> Generator[Any, None, Any]:
        queue = self.queue
        loop = running_loop()
        if loop is None:
            raise RuntimeError("no running event loop: use the sync_ methods in a plain thread")
        self.loop = loop
        self.channel = wake_channel(loop)
        try:
            # Made before it is looked for: a wake-up that comes from now on finds it.
            self.future = loop.create_future()
            while queue._advance(self):
                yield from self.future
                self.future = loop.create_future()
        except BaseException:
            queue._withdraw(self)
            raise
        finally:
            self.future = None
        return queue._outcome(self)


class QueueCore:
    """The items of a queue and who waits for them. `order`: 0 first in first out, 1 last in first
    out, 2 as the subclass's hooks have it.
    """

    __slots__ = (
        "_born",
        "_count",
        "_down",
        "_getters",
        "_in_hook",
        "_items",
        "_joiners",
        "_kept_items",
        "_kept_slots",
        "_limit",
        "_lock",
        "_order_",
        "_promised",
        "_putters",
        "_unfinished",
    )

    def __init__(self, maxsize: int = 0, order: int = 0) -> None:
        self._limit = operator.index(maxsize)
        self._order_ = order
        self._items: deque[Any] = deque()
        self._kept_items = 0  # for turns that are promised one
        self._kept_slots = 0
        self._unfinished = 0
        self._down = False
        self._in_hook = False
        # Turns in order. A dict's first key is slow to find when many before it were removed.
        self._getters: OrderedDict[_Turn, None] = OrderedDict()
        self._putters: OrderedDict[_Turn, None] = OrderedDict()
        self._joiners: OrderedDict[_Turn, None] = OrderedDict()
        self._promised: OrderedDict[_Turn, None] = OrderedDict()
        self._born = fork.generation
        self._lock = threading.RLock()
        self._count = 0
        if order == _HOOKED:
            self._init(maxsize)
            self._count = self._qsize()

    if TYPE_CHECKING:  # the hooks of a subclass; called with the lock held

        def _init(self, maxsize: int) -> None: ...
        def _qsize(self) -> int: ...
        def _put(self, item: Any) -> None: ...
        def _get(self) -> Any: ...
        def _peekable(self) -> bool: ...
        def _peek(self) -> Any: ...
        def _clearable(self) -> bool: ...
        def _clear(self) -> None: ...

    # Storage, with the lock held.

    def _push(self, item: Any) -> None:
        if self._order_ == _HOOKED:
            self._enter_hook()
            try:
                self._put(item)
            finally:
                self._leave_hook()
        else:
            self._items.append(item)
            self._count += 1

    def _pull(self) -> Any:
        if self._order_ == _HOOKED:
            self._enter_hook()
            try:
                item = self._get()
            finally:
                self._leave_hook()
        else:
            item = self._items.popleft() if self._order_ == _FIFO else self._items.pop()
            self._count -= 1
        return item

    def _enter_hook(self) -> None:
        # The lock is re-entrant, so this is no deadlock but has to be an error.
        if self._in_hook:
            raise RuntimeError(
                "a queue's hook, or a comparison of its items, has used the queue it was called by"
            )
        self._in_hook = True

    def _leave_hook(self) -> None:
        self._in_hook = False
        self._count = self._qsize()

    def _front(self) -> Any:
        if self._order_ == _HOOKED:
            return self._peek()
        return self._items[0 if self._order_ == _FIFO else -1]

    def _check_peekable(self) -> None:
        if self._order_ == _HOOKED and not self._peekable():
            raise UnsupportedOperation(f"{type(self).__name__} cannot peek")

    # Promises, with the lock held.

    def _has_item(self) -> bool:
        return self._count > self._kept_items

    def _has_room(self) -> bool:
        return self._limit <= 0 or self._count + self._kept_slots < self._limit

    def _promise(self) -> _Turn | None:
        # The next turn to be woken, with what is kept for it, or None.
        if self._getters:
            if self._has_item():
                turn = next(iter(self._getters))
                if turn.kind == _PEEK:
                    turn.item = self._front()
                del self._getters[turn]
                turn.line = None
                if turn.kind == _PEEK:
                    turn.state = _OVER
                else:
                    self._keep_for(turn)
                    self._kept_items += 1
                return turn
            if self._down:
                return self._tell(self._getters)
        if self._putters:
            if self._down:
                return self._tell(self._putters)
            if self._has_room():
                turn, _ = self._putters.popitem(last=False)
                self._keep_for(turn)
                self._kept_slots += 1
                return turn
        if self._joiners and self._unfinished == 0:
            turn, _ = self._joiners.popitem(last=False)
            turn.line = None
            turn.state = _OVER
            return turn
        return None

    def _keep_for(self, turn: _Turn) -> None:
        turn.state = _PROMISED
        turn.line = self._promised
        self._promised[turn] = None

    def _tell(self, line: OrderedDict[_Turn, None]) -> _Turn:
        turn, _ = line.popitem(last=False)
        turn.line = None
        turn.state = _TOLD
        return turn

    def _keep_no_more(self, turn: _Turn) -> None:
        del self._promised[turn]
        turn.line = None
        turn.state = _OVER
        if turn.kind == _GET:
            self._kept_items -= 1
        else:
            self._kept_slots -= 1

    def _drop_all(self, state: int) -> deque[Any]:
        # All items, promised or not: who was promised one is in `state` then. Returns the items.
        count = self._count
        dropped = self._items
        if self._order_ == _HOOKED:
            self._enter_hook()
            try:
                if self._clearable():
                    self._clear()
            finally:
                self._leave_hook()
            while self._count > 0:
                self._pull()
        else:
            self._items = deque()
            self._count = 0
        self._unfinished = max(0, self._unfinished - (count - self._count))
        for turn in reversed(list(self._promised)):
            if turn.kind == _GET:
                self._keep_no_more(turn)
                turn.state = state
                if state == _WAITING:
                    turn.line = self._getters
                    self._getters[turn] = None
                    self._getters.move_to_end(turn, last=False)
        return dropped

    def _forget(self) -> None:
        # In a forked child: nobody is there but the tasks of the thread that forked. The lock may
        # have been held by somebody.
        self._lock = threading.RLock()
        self._born = fork.generation
        for line in (self._getters, self._putters, self._joiners, self._promised):
            for turn in list(line):
                survived = all(ident == turn.ident for ident in fork.forkers[turn.generation :])
                if not survived and turn.state == _PROMISED:
                    self._keep_no_more(turn)
                elif not survived:
                    del line[turn]
                    turn.line = None
                    turn.state = _OVER

    # Without the lock.

    def _wake(self, turn: _Turn | None) -> None:
        # This turn, and all that can be promised something after it.
        error: BaseException | None = None
        while turn is not None:
            try:
                is_there = self._call(turn)
            except BaseException as interrupt:
                # A signal's. Waking twice does no harm, not at all would.
                error = interrupt
                is_there = self._call(turn)
            if not is_there:
                self._withdraw_quietly(turn)
            # Who joins a line after this look has found that there is nothing to be had.
            is_last = not (self._getters or self._putters or self._joiners)
            turn = None if is_last else self._next_turn()
        if error is not None:
            try:
                raise error
            finally:
                del error

    def _next_turn(self) -> _Turn | None:
        if self._born != fork.generation:
            self._forget()
        with self._lock:
            return self._promise()

    def _call(self, turn: _Turn) -> bool:
        # Wake who waits. False: its loop is closed, and nobody will ever look.
        if turn.bed is not None:
            with self._lock:
                must_ring = not turn.rung
                turn.rung.append(True)
            if must_ring:
                turn.bed.release()
            return True
        loop = turn.loop
        if loop.is_closed():
            return False
        if running_loop() is loop:
            turn.wake()
        elif turn.generation != fork.generation:
            loop.call_soon_threadsafe(turn.wake)
        else:
            turn.channel.post(turn)
        return True

    def _withdraw_quietly(self, turn: _Turn) -> None:
        if self._born != fork.generation:
            self._forget()
        with self._lock:
            if turn.state == _PROMISED:
                self._keep_no_more(turn)
            elif turn.line is not None:
                del turn.line[turn]
                turn.line = None
            turn.state = _OVER

    def _withdraw(self, turn: _Turn) -> None:
        # Who waited does so no more; what was kept for it is the next one's.
        self._withdraw_quietly(turn)
        turn.item = None
        self._wake(self._next_turn())

    def _is_late(self, turn: _Turn) -> bool:
        # Its time is over: whether it goes away with nothing.
        if self._born != fork.generation:
            self._forget()
        with self._lock:
            if turn.state != _WAITING or turn.line is None:
                return False
            del turn.line[turn]
            turn.line = None
            turn.state = _OVER
            return True

    def _reclaim(self) -> bool:
        # Take back what was promised to a task whose loop was closed before it could take it.
        # Only the oldest promise is looked at: those of the living are taken soon.
        if self._born != fork.generation:
            self._forget()
        with self._lock:
            turn = next(iter(self._promised), None)
        if turn is None or turn.bed is not None or not turn.loop.is_closed():
            return False
        self._withdraw(turn)
        return True

    def _advance(self, turn: _Turn) -> bool:
        # Do what the turn is for, if it may: the outcome is in its `item` then. True: wait (on).
        if turn.state == _NEW and self._promised:
            while self._reclaim():
                pass
        if self._born != fork.generation:
            self._forget()
        kind = turn.kind
        with self._lock:
            turn.rung.clear()
            if turn.state == _OVER:
                return False
            if turn.state == _WAITING:
                return True
            promised = turn.state == _PROMISED
            is_down = self._down
            if kind == _PUT:
                line = self._putters
                may = promised or (not line and self._has_room())
            elif kind == _JOIN:
                line = self._joiners
                may = self._unfinished == 0
                is_down = False
            else:
                line = self._getters
                may = promised or (not line and self._has_item())
                is_down = is_down and not may
            if promised:
                self._keep_no_more(turn)
            turn.state = _OVER
            if is_down:
                pass
            elif not may:
                turn.state = _WAITING
                turn.line = line
                line[turn] = None
                return True
            elif kind == _GET:
                if turn.most is None:
                    turn.item = self._pull()
                else:
                    turn.item = [self._pull()]
                    while self._has_item() and len(turn.item) < turn.most:
                        turn.item.append(self._pull())
            elif kind == _PEEK:
                turn.item = self._front()
            elif kind == _PUT:
                self._push(turn.item)
                self._unfinished += 1
            woken = self._promise()
        if woken is not None:
            got = [] if kind != _GET else [turn.item] if turn.most is None else turn.item
            self._wake_or_put_back(woken, got)
        if is_down:
            turn.item = None
            raise QueueShutDown
        return False

    def _wake_or_put_back(self, woken: _Turn, got: list[Any]) -> None:
        # An interrupt can strike in the Python code of the loop that is woken: then who has just
        # got these items does not get them.
        try:
            self._wake(woken)
        except BaseException:
            if got:
                self._put_back(got)
            raise

    def _put_back(self, many: list[Any]) -> None:
        with self._lock:
            for item in reversed(many):
                if self._order_ == _FIFO:
                    self._items.appendleft(item)
                    self._count += 1
                else:
                    self._push(item)
            woken = self._promise()
        if woken is not None:
            self._wake(woken)

    def _outcome(self, turn: _Turn) -> Any:
        item, turn.item = turn.item, None
        return None if turn.kind == _PUT else item

    def _wait(self, turn: _Turn, timeout: float | None) -> Any:
        # On the calling thread, which sleeps. NOTHING if it is too late.
        deadline = None if timeout is None else time.monotonic() + timeout
        turn.bed = threading.Lock()
        turn.bed.acquire()
        try:
            while self._advance(turn):
                if not turn.sleep(deadline) and self._is_late(turn):
                    return NOTHING
        except BaseException:
            self._withdraw(turn)
            raise
        return self._outcome(turn)

    # What tasks and threads do.

    def _offer(self, item: Any) -> bool:
        """Put ``item`` if there is room now; returns whether there was."""
        woken: _Turn | None = None
        while True:
            if self._born != fork.generation:
                self._forget()
            with self._lock:
                if self._down:
                    raise QueueShutDown
                done = self._limit <= 0 or (self._has_room() and not self._putters)
                if done:
                    self._push(item)
                    self._unfinished += 1
                    if self._getters:
                        woken = self._promise()
            if woken is not None:
                self._wake(woken)
            if done or not self._promised or not self._reclaim():
                return done

    def _fetch(self) -> Any:
        """Take the first item if there is one now, else return NOTHING."""
        woken: _Turn | None = None
        while True:
            if self._born != fork.generation:
                self._forget()
            item: Any = NOTHING
            with self._lock:
                if self._count > self._kept_items and not self._getters:
                    item = self._pull()
                    if self._putters:
                        woken = self._promise()
                is_down = self._down
            if item is not NOTHING:
                if woken is not None:
                    self._wake_or_put_back(woken, [item])
                return item
            if not self._promised or not self._reclaim():
                if is_down:
                    raise QueueShutDown
                return NOTHING

    def _fetch_many(self, n: int | None) -> list[Any]:
        """Take up to ``n`` items (None: all), as many as there are now."""
        most = _most(n)
        many: list[Any] = []
        self._reclaim()
        with self._lock:
            if not self._getters:
                while self._has_item() and len(many) < most:
                    many.append(self._pull())
            is_down = self._down
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
            if self._down:
                raise QueueShutDown
            return NOTHING

    def _putting(self, item: Any) -> _Turn:
        """To be awaited: wait for room and put ``item``."""
        return _Turn(self, _PUT, item, None)

    def _getting(self) -> _Turn:
        """To be awaited: wait for an item and take it."""
        return _Turn(self, _GET, None, None)

    def _getting_many(self, n: int | None) -> _Turn:
        """To be awaited: wait for an item and take up to ``n`` (None: all)."""
        return _Turn(self, _GET, None, _most(n))

    def _peeking(self) -> _Turn:
        """To be awaited: wait for an item and leave it where it is."""
        self._check_peekable()
        return _Turn(self, _PEEK, None, None)

    def _joining(self) -> _Turn:
        """To be awaited: wait until nothing is unfinished."""
        return _Turn(self, _JOIN, None, None)

    def put_nowait(self, item: Any) -> None:
        """Put ``item``; QueueFull if there is no room, QueueShutDown after `shutdown`.

        From any thread, and from a signal handler or a finalizer, too.
        """
        if not self._offer(item):
            raise QueueFull

    def get_nowait(self) -> Any:
        """Take the first item; QueueEmpty if there is none, QueueShutDown if none can come."""
        item = self._fetch()
        if item is NOTHING:
            raise QueueEmpty
        return item

    def sync_put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Put ``item``, on a thread that can wait for room up to ``timeout`` seconds.

        QueueFull if there is none by then, or at once if ``block`` is false; QueueShutDown after
        `shutdown`, also if that comes meanwhile. On an event loop's thread it blocks the loop.
        """
        if timeout is not None and block:
            check_timeout(timeout)
        if not self._offer(item):
            if not block:
                raise QueueFull
            if self._wait(_Turn(self, _PUT, item, None), timeout) is NOTHING:
                raise QueueFull

    def sync_get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the first item, on a thread that can wait for it up to ``timeout`` seconds.

        QueueEmpty if there is none by then, or at once if ``block`` is false; QueueShutDown if the
        queue is empty and was shut down. On an event loop's thread it blocks the loop.
        """
        if timeout is not None and block:
            check_timeout(timeout)
        item = self._fetch()
        if item is NOTHING and block:
            item = self._wait(_Turn(self, _GET, None, None), timeout)
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

    def sync_peek(self, block: bool = True, timeout: float | None = None) -> Any:
        """The first item, which stays, on a thread that can wait for it as in `sync_get`."""
        if timeout is not None and block:
            check_timeout(timeout)
        self._check_peekable()
        item = self._look()
        if item is NOTHING and block:
            item = self._wait(_Turn(self, _PEEK, None, None), timeout)
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
        self, n: int | None = None, block: bool = True, timeout: float | None = None
    ) -> list[Any]:
        """Wait for an item as in `sync_get`, and take all that are there, ``n`` at most."""
        if timeout is not None and block:
            check_timeout(timeout)
        many = self._fetch_many(n)
        if not many and block:
            many = self._wait(_Turn(self, _GET, None, _most(n)), timeout)
        if not many or isinstance(many, Nothing):
            raise QueueEmpty
        return many

    def sync_join(self) -> None:
        """Wait until as many items are done (`task_done`) as were put. Blocks the thread."""
        self._wait(_Turn(self, _JOIN, None, None), None)

    def qsize(self) -> int:
        """How many items `get_nowait` could take now."""
        if self._born != fork.generation:
            self._forget()
        return max(0, self._count - self._kept_items)

    def empty(self) -> bool:
        """Whether `get_nowait` would find nothing now."""
        return self.qsize() == 0

    def full(self) -> bool:
        """Whether `put_nowait` would find no room now."""
        if self._born != fork.generation:
            self._forget()
        return not self._has_room()

    @property
    def maxsize(self) -> int:
        """How many items there is room for; 0 or less is no limit. It may be changed: those who
        wait for room get it in order, and items beyond a smaller limit stay."""
        return self._limit

    @maxsize.setter
    def maxsize(self, value: int) -> None:
        self._limit = operator.index(value)
        self._wake(self._next_turn())

    @property
    def unfinished_tasks(self) -> int:
        """How many items were put for which `task_done` has not been called."""
        return self._unfinished

    @property
    def is_shutdown(self) -> bool:
        """Whether `shutdown` has been called."""
        return self._down

    @property
    def getting(self) -> int:
        """How many wait to get or to peek."""
        return len(self._getters)

    @property
    def putting(self) -> int:
        """How many wait to put."""
        return len(self._putters)

    def task_done(self) -> None:
        """One item that was taken is done with; ValueError if none is left."""
        if self._born != fork.generation:
            self._forget()
        woken: _Turn | None = None
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
        """Let nothing be put any more; who gets is refused when the queue is empty.

        Whoever waits in vain is woken to a QueueShutDown. With ``immediate``, the items are dropped
        as by `clear`. May be called again.
        """
        if immediate:
            self._drop(True, _TOLD)
        else:
            self._down = True
            self._wake(self._next_turn())

    def _drop(self, is_down: bool, state: int) -> None:
        if self._born != fork.generation:
            self._forget()
        with self._lock:
            if is_down:
                self._down = True
            # Let go when the lock has been: their end may run anybody's code.
            dropped = self._drop_all(state)
        self._wake(self._next_turn())
        del dropped


def _most(n: int | None) -> int:
    if n is None:
        return sys.maxsize
    if n < 1:
        raise ValueError(f"n={n!r}: must be at least 1, or None for all items")
    return n
