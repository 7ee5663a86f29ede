"""A **waiter** is one wait of a task or of a thread: to get, peek, put, join or select. ::

    new --may go on at once------------------------------------------------.
     `--must wait--> waiting --is promised it--> promised --wakes up--> over
                        |  ^-------revoked----------'          |
                        |-- told that there is nothing to wait for, looks again
                        '-- cancelled, interrupted, too late --'--> over

How a waiter gets from one state to the next is in `promises`; here is how it sleeps and is woken.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from .._process import fork, greenlets
from .._process.cpython import running_loop
from .._process.queue_errors import NOTHING, no_event_loop, runs_trio, would_block_loop
from .channel import WakeChannel, wake_channel

if TYPE_CHECKING:
    from .promises import _Promises

_GET, _PEEK, _PUT, _JOIN, _SELECT = range(5)
_NEW, _WAITING, _PROMISED, _TOLD, _OVER = range(5)

# Seconds that a thread waits for its sleep lock at a time. Elsewhere than on Windows, Ctrl-C
# interrupts the wait, and an hour is arbitrary: some platforms cannot wait for very much longer. On
# Windows it does not: a thread looks for it four times a second, which a user takes for at once.
_PATIENCE: float = 0.25 if sys.platform == "win32" else 3600
# The main thread's, which alone runs signal handlers: see `sleep`. Half a second is arbitrary.
_MAIN_PATIENCE = min(_PATIENCE, 0.5)


class _Waiter:
    # The task or thread that waits makes it and keeps it. The queue's lock guards all but the
    # future, which is of the loop's thread.
    __slots__ = (
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
        "sleep_lock",
        "state",
        "units",
    )

    sleep_lock: Any  # a thread's
    # How many items it waits for; below 0: its time is over, and it takes what is there. Of the
    # class, because nearly all waiters wait for one.
    least: int = 1
    channel: WakeChannel
    loop: asyncio.AbstractEventLoop

    def __init__(self, queue: _Promises, kind: int, item: Any, most: int | None) -> None:
        self.queue = queue
        self.kind = kind
        self.item = item  # to be put, and later the outcome
        self.most = most  # how many to get; None: a single item, not a list
        self.units = 1  # places that the item to be put takes
        self.state = _NEW
        self.line: _Line | None = None
        self.ident = threading.get_ident()
        self.generation = fork.generation
        self.sleep_lock = None
        self.future: asyncio.Future[None] | None = None  # of the loop's thread

    def wake(self) -> None:
        # On the loop's thread.
        future = self.future
        if future is not None and not future.done():
            future.set_result(None)

    def expire(self) -> None:
        # Its time is over: a batch takes what is there, a select ends. On the thread that waits.
        self.queue._expire(self)

    def dismiss(self) -> None:
        # Ends the wait if nothing is promised to it: its outcome is NOTHING. From any thread.
        self.queue._dismiss(self)

    def is_in_line(self) -> bool:
        # Whether it waits, and nothing is kept for it yet. From any thread.
        return self.state == _WAITING

    def has_survived(self) -> bool:
        # Whether its thread is in this process: each fork since then was by that thread.
        return all(ident == self.ident for ident in fork.forkers[self.generation :])

    def ring(self) -> bool:
        # Wakes the task or thread that waits; from any thread. False: the task's loop is closed, so
        # that the task will never look.
        if self.sleep_lock is not None:
            try:
                self.sleep_lock.release()
            except RuntimeError:
                pass  # it is rung already, and has not looked yet
            return True
        loop = self.loop
        if loop.is_closed():
            return False
        if running_loop() is loop:
            self.wake()
        elif self.generation != fork.generation:
            loop.call_soon_threadsafe(self.wake)
        else:
            self.channel.post(self)
        return True

    def sleep(self, deadline: float | None) -> bool:
        # Until rung, or the deadline (False). On the owner's thread.
        longest = _PATIENCE
        if self.ident == threading.main_thread().ident:
            # 1. Python looks for signals, and finds none. 2. A signal comes. 3. The thread begins
            # to wait: nothing interrupts this wait, so it must end by itself.
            longest = _MAIN_PATIENCE
        while True:
            patience = longest
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    return bool(self.sleep_lock.acquire(False))
                patience = min(patience, left)
            if self.sleep_lock.acquire(True, patience):
                return True

    def __await__(self) -> Generator[Any, None, Any]:
        queue = self.queue
        loop = running_loop()
        if loop is None:
            raise no_event_loop()
        self.loop = loop
        self.channel = wake_channel(loop)
        try:
            # Made before `_advance` shows the waiter to others: whoever rings finds it.
            self.future = loop.create_future()
            while queue._advance(self):
                yield from self.future
                self.future = loop.create_future()
        except BaseException:
            queue._withdraw(self)
            raise
        finally:
            self.future = None
        return self.take_outcome()

    def wait(self, timeout: float | None) -> Any:
        # As ``await``, on a thread, which sleeps meanwhile. NOTHING: the time-out came first.
        # RuntimeError if the thread runs an event loop.
        queue = self.queue
        deadline = None if timeout is None else time.monotonic() + timeout
        self.sleep_lock = greenlets.make_sleep_lock()
        try:
            while queue._advance(self):
                if timeout != 0 and (runs_trio() or not greenlets.runs_no_loop()):
                    raise would_block_loop(self.kind)
                if not self.sleep(deadline):
                    if self.least > 1:
                        self.expire()
                    elif queue._leave(self, True):
                        return NOTHING
        except BaseException:
            queue._withdraw(self)
            raise
        return self.take_outcome()

    def take_outcome(self) -> Any:
        item, self.item = self.item, None
        return None if self.kind == _PUT and item is not NOTHING else item


class _Batch(_Waiter):
    # To get several items: it waits until as many are there, or until its time is over.
    __slots__ = ("least",)

    def __init__(self, queue: _Promises, item: Any, most: int) -> None:
        super().__init__(queue, _GET, item, most)
        self.least = most


class _Member(_Waiter):
    # A wait to get that is one of several: who waits is its master, see `selection`.
    __slots__ = ("master",)

    def __init__(self, queue: _Promises, item: Any, master: _Waiter) -> None:
        super().__init__(queue, _GET, item, None)
        self.master = master
        self.sleep_lock = master.sleep_lock
        if master.sleep_lock is None:
            self.loop = master.loop

    def ring(self) -> bool:
        return self.master.ring()


_Line = OrderedDict[_Waiter, None]
"""Waiters in order. A waiter leaves from the middle at no cost, and in one step: a signal handler
or a finalizer that uses the queue finds it in the line or not."""
