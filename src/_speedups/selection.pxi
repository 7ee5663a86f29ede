# A wait for the first item that comes to any of several queues: see the pure twin.
#
# A member is a waiter with a `master`, which is rung in its place. Nothing but the owner's own code
# touches a selection: the mark that a sleeping thread has been rung is in its section.


cdef class Selection(_Promises):
    """A wait for an item of any of these queues and readers, which are asked in their order."""

    # Of the thread, or the loop's thread, that waits.
    cdef list sources
    cdef list members
    cdef bint is_late

    def __init__(self, sources):
        self.sources = list(sources)
        self.members = [None] * len(self.sources)

    cdef _Waiter enter(self, Py_ssize_t place, _Waiter master):
        cdef _Waiter member = _Waiter.__new__(_Waiter)
        source = self.sources[place]
        if isinstance(source, ReaderCore):
            member.queue = (<ReaderCore>source).broadcast
            member.item = source
        else:
            member.queue = <_Promises?>source
        member.kind = _GET
        member.most = -1
        member.master = master
        member.loop = master.loop  # None: a thread's
        self.members[place] = member
        return member

    cdef bint advance(self, _Waiter waiter) except -1:
        # As `_Promises.advance`, for the master.
        cdef _Waiter member, chosen
        cdef Py_ssize_t place, at
        cdef bint can_come
        cdef int chance
        with cython.critical_section(self):
            waiter.is_rung = False
        while True:
            chosen = None
            at = 0
            can_come = False
            for place in range(len(self.sources)):
                member = self.members[place]
                if member is None:
                    member = self.enter(place, waiter)
                chance = member.queue.enlist(member)
                if chance == _MAY:
                    chosen = member
                    at = place
                    break
                if chance == _WAITS:
                    can_come = True
            if chosen is not None:
                self.withdraw_all(chosen)
                if self.take(chosen):
                    self.members[at] = None
                    waiter.item = (at, chosen.take_outcome())
                    return False
                continue  # it was taken back meanwhile
            if can_come and not self.is_late:
                return True
            self.withdraw_all(None)
            if not can_come:
                raise _QueueShutDown()
            waiter.item = _NOTHING
            return False

    cdef bint take(self, _Waiter chosen) except -1:
        try:
            return not chosen.queue.advance(chosen)
        except _QueueShutDown:
            return False

    cdef int withdraw_all(self, _Waiter but) except -1:
        cdef _Waiter member
        cdef Py_ssize_t place
        error = None
        for place in range(len(self.members)):
            member = self.members[place]
            if member is None or member is but:
                continue
            self.members[place] = None
            try:
                member.queue.withdraw(member)
            except BaseException as interrupt:
                error = interrupt  # a signal handler's: the others are to go, too
        if error is not None:
            raise error
        return 0

    cdef bint leave(self, _Waiter waiter, bint if_in_line) except -1:
        # A thread's time is over: it looks once more.
        self.is_late = True
        return False

    cdef int withdraw(self, _Waiter waiter) except -1:
        self.withdraw_all(None)
        waiter.item = None
        return 0

    cdef int expire(self, _Waiter waiter) except -1:
        # The time is over. On the thread that waits.
        self.is_late = True
        waiter.woken(False)
        return 0

    def _waiting(self):
        """To be awaited: the place of a queue among `sources`, and its item.

        NOTHING, if there is none when its time is over (`_Waiter.expire`).
        """
        cdef _Waiter waiter = _Waiter.__new__(_Waiter)
        waiter.queue = self
        waiter.kind = _SELECT
        waiter.most = -1
        return waiter
