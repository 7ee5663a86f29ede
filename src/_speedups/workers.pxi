# Workers that are kept: handed on from one ThreadSensitiveExecutor to the next, instead of made.
#
# The executor has a *lease* on its worker, by number; the inbox takes only calls that come with the
# number of the current lease, so a late one can't reach the next tenant. ::
#
#     started --> leased --let_go()--> idle --take_idle()--> leased ...
#                    |                 ^  `--IDLE_SECONDS, exit, changed--> ended
#                    `--end()--> ending --renew()
#                                         `--not as good as new--> ended
#
# **As good as new.** A lease must not be able to tell its worker from a new thread, but by the
# name. So the worker looks at itself each time it lies down (`look`): if the lease has left nothing
# behind, which is usual, the worker goes to the next without waking up (`let_go`). If there is
# something, or it is not idle, the lease's last item is a `_LeaseEnd`: every `threading.local` value
# is dropped there, in a frame of ours only, which runs their finalizers on the thread they belong
# to. What can't be undone ends the thread (`is_fit`). Each lease has a context and a home of its own.
#
# Whoever takes the worker looks at what the system knows of it (`take_idle`): a new thread would have
# the taker's priority, processors, rights and directories, and the stack size of this moment. A
# worker that differs, because its last lease or the taker has changed, ends.
#
# **Who owns what.** `_Fingerprint` is the worker's alone, but for what is said there. The idle
# inboxes lie in `_idle`; whoever takes one out, be it for a lease or because its time is up, decides
# what becomes of it. Last in, first out, so that few stay warm.
#
# A forked child forgets the idle ones. At exit `_process.threads` closes every worker's inbox, also
# those of the idle ones; `take_idle` passes over them.

cdef object _Worker = _threads.Worker


@cython.final
cdef class _Idle:
    # The idle workers' inboxes, under the critical section.
    cdef list inboxes

    def __cinit__(self):
        self.inboxes = []

    cdef int add(self, Inbox inbox) except -1:
        with cython.critical_section(self):
            self.inboxes.append(inbox)

    cdef Inbox pop(self, object but):
        # The last one whose worker is not `but`; None if there is none.
        cdef Py_ssize_t i
        cdef Inbox inbox
        with cython.critical_section(self):
            for i in range(len(self.inboxes) - 1, -1, -1):
                inbox = <Inbox>self.inboxes[i]
                if but is None or inbox.fingerprint.worker is not but:
                    del self.inboxes[i]
                    return inbox
        return None

    cdef bint has(self, Inbox inbox) except -1:
        cdef bint found
        with cython.critical_section(self):
            found = inbox in self.inboxes  # by identity: it has no __eq__
        return found

    cdef bint remove(self, Inbox inbox) except -1:
        with cython.critical_section(self):
            if inbox not in self.inboxes:
                return False
            self.inboxes.remove(inbox)
        return True


cdef _Idle _idle = _Idle()


def _forget_idle():
    global _idle
    _idle = _Idle()


_fork.at_fork(_forget_idle)


cdef Inbox take_idle(object but):
    # An idle worker's inbox, for who takes it to lease; None if there is none.
    cdef Inbox inbox
    while True:
        inbox = _idle.pop(but)
        if inbox is None or (
            not inbox.is_closed()
            and inbox.fingerprint.is_as_it_was()
            and inbox.stack_size == PyThread_get_stacksize()
            and asgibridge_is_as_inherited(inbox.fingerprint.tid)
        ):
            return inbox
        inbox.shut()


cdef bint add_run(Inbox inbox, object item, Inbox served, bint* must_wake) except -1:
    # `item`, as a lease of its own, and the end of who serves an inbox until that is over. Tells
    # whether our owner has to be unlocked, by the caller.
    cdef _LeaseEnd renewal = _renewal(inbox, served)
    with cython.critical_section(inbox):
        if inbox.closed:
            return False
        inbox.items.append(item)
        inbox.items.append(renewal)
        inbox.posted += 2
        inbox.is_ending = True
        must_wake[0] = inbox.is_parked
        inbox.is_parked = False
    return True


cdef bint let_go(Inbox inbox, Py_ssize_t lease) except -1:
    # The lease is over here and now, if the worker has nothing to do for that.
    cdef bint has_rested
    with cython.critical_section(inbox):
        if (
            not inbox.is_parked
            or not inbox.is_clean
            or inbox.is_resting
            or inbox.is_abandoned
            or inbox.closed
            or inbox.lease != lease
            or not inbox.fingerprint.has_same_attributes()
        ):
            return False
        inbox.lease += 1
    _idle.add(inbox)
    with cython.critical_section(inbox):
        has_rested = inbox.is_resting
    if has_rested and _idle.remove(inbox):
        inbox.shut()  # its time was up in between
    return True


cdef bint offer(Inbox inbox) except -1:
    # By the owner, renewed. Returns whether it was accepted.
    with cython.critical_section(inbox):
        if inbox.is_abandoned:
            return False
        inbox.is_ending = False
        inbox.lease += 1
    _idle.add(inbox)
    return True


cdef bint disown(Inbox inbox, Py_ssize_t lease) except -1:
    # Hand the worker on to nobody. Returns whether it is still in that lease.
    with cython.critical_section(inbox):
        if inbox.lease != lease:
            return False
        inbox.is_abandoned = True
    return True


cdef list drain_lease(Inbox inbox, Py_ssize_t lease):
    # What waits of a lease's calls, but for its end.
    cdef list items, fresh = []
    cdef Py_ssize_t begin
    with cython.critical_section(inbox):
        if inbox.lease != lease:
            return fresh
        items = inbox.items
        begin = inbox.begin
        inbox.begin = 0
        inbox.items = fresh
        if inbox.is_ending and begin < len(items):
            fresh.append(items.pop())
    return items[begin:]


def end_idle_workers():
    """Have the threads that wait for a next lease end now, and return them. From any thread; waits
    for none.
    """
    cdef Inbox inbox
    cdef list ended = []
    while True:
        inbox = _idle.pop(None)
        if inbox is None:
            return ended
        ended.append(inbox.fingerprint.worker)
        inbox.shut()


def start_run(item, executor, announce):
    """Run ``item`` on a worker of its own, which then closes ``executor``; serve that meanwhile.

    On the thread the executor was made in. ``announce(worker)`` is called first, so that the caller
    knows whether that has started if this raises: what keeps a thread from starting, or whatever a
    signal handler raises. In the second case the executor can be served again. ``announce`` must
    let no signal handler run; it is called with None if nothing will come of what it was told.
    """
    cdef Inbox served = (<_CurrentThread?>executor).inbox
    cdef Inbox inbox
    cdef bint must_wake = False
    while True:
        inbox = take_idle(None)
        if inbox is None:
            break
        announce(inbox.fingerprint.worker)
        if add_run(inbox, item, served, &must_wake):
            if must_wake:
                served.to_wake = inbox
            if _threads.exiting:
                inbox.shut()
            break
        announce(None)  # the exit has closed it just now
    if inbox is None:
        inbox = Inbox.__new__(Inbox)
        inbox.stack_size = PyThread_get_stacksize()
        add_run(inbox, item, served, &must_wake)
        worker = _Worker(inbox)
        announce(worker)
        try:
            worker.start()
        finally:
            if _threads.exiting:
                inbox.shut()
    served.serve_on(None)
