"""A wait for the first item that comes to any of several queues.

**States.** The *master* is the waiter of the task or thread that waits. It has a *member* in each
queue's line, which is an ordinary waiter to get there, but that whoever rings it rings the master.
A member is promised an item like anybody else, in its turn. The master then

1. withdraws all other members: what may have been promised to them, too, goes to the next in line;
2. has the member that is left take its item.

In this order an interrupt in step 1, where code of event loops runs, finds every item still in its
queue. If the promise was taken back before step 2, all begins anew.

**Fairness.** The caller says in which order the queues are asked (`select` draws the first);
in each line a member is served in its turn.

**Who owns what.** The selection is one wait's. Its fields are of the thread, or the loop's thread,
that waits. Members are guarded by the locks of their queues; no two of these are ever held at the
same time.

**Cancellation, time-outs, closed queues, closed loops, forks.** Whatever ends the wait withdraws
all members, and a member has nothing. A queue that is shut down and empty takes no part; if no
other is left, that is QueueShutDown. A member of a closed loop, or of a thread that a forked child
does not have, is dropped as any waiter is.
"""

from __future__ import annotations

from typing import Any

from .._process.queue_errors import NOTHING, QueueShutDown
from .broadcast import ReaderCore
from .promises import _MAY, _WAITS, _Promises
from .waiters import _SELECT, _Member, _Waiter


class Selection(_Promises):
    """A wait for an item of any of these queues and readers, which are asked in their order."""

    __slots__ = ("_is_late", "_members", "_sources")

    def __init__(self, sources: list[Any]) -> None:
        # Nothing is kept here, and there is no lock.
        self._sources = sources
        self._members: list[_Member | None] = [None] * len(sources)
        self._is_late = False

    def _waiting(self) -> _Waiter:
        """To be awaited: the place of a queue among `sources`, and its item.

        NOTHING, if there is none when its time is over (`_Waiter.expire`).
        """
        return _Waiter(self, _SELECT, None, None)

    def _expire(self, waiter: _Waiter) -> None:
        # The time is over. On the thread that waits.
        self._is_late = True
        waiter.wake()

    def _enter(self, at: int, master: _Waiter) -> _Member:
        source = self._sources[at]
        if isinstance(source, ReaderCore):
            member = _Member(source._broadcast, source, master)
        else:
            member = _Member(source, None, master)
        self._members[at] = member
        return member

    def _advance(self, waiter: _Waiter) -> bool:
        # As `_Promises._advance`, for the master.
        while True:
            chosen: _Member | None = None
            place = 0
            can_come = False
            for place in range(len(self._sources)):
                member = self._members[place] or self._enter(place, waiter)
                chance = member.queue._enlist(member)
                if chance == _MAY:
                    chosen = member
                    break
                can_come = can_come or chance == _WAITS
            if chosen is not None:
                self._withdraw_all(chosen)
                if self._take(chosen):
                    self._members[place] = None
                    waiter.item = (place, chosen.take_outcome())
                    return False
                continue  # it was taken back meanwhile
            if can_come and not self._is_late:
                return True
            self._withdraw_all(None)
            if not can_come:
                raise QueueShutDown
            waiter.item = NOTHING
            return False

    def _take(self, chosen: _Member) -> bool:
        try:
            return not chosen.queue._advance(chosen)
        except QueueShutDown:
            return False

    def _withdraw_all(self, but: _Member | None) -> None:
        error: BaseException | None = None
        for place, member in enumerate(self._members):
            if member is None or member is but:
                continue
            self._members[place] = None
            try:
                member.queue._withdraw(member)
            except BaseException as interrupt:
                error = interrupt  # a signal handler's: the others are to go, too
        if error is not None:
            try:
                raise error
            finally:
                del error

    def _leave(self, waiter: _Waiter, if_in_line: bool) -> bool:
        # A thread's time is over: it looks once more.
        self._is_late = True
        return False

    def _withdraw(self, waiter: _Waiter) -> None:
        self._withdraw_all(None)
        waiter.item = None
