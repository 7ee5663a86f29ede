# Workers are woken one at a time.
#
# A loop with many calls in flight would wake a worker for each. All of them would wait for the GIL,
# and each time the loop lets go of that, for a socket say, one of them would wake up in vain. So
# only one worker is on its way at a time. It has the *baton*; the others queue behind it. ::
#
#     parked --wake_worker()--> queued --pass_on() of the one before--> on its way --> running
#                    `--nobody is on the way----------------------------^
#
# **No call waits for another.** The bearer passes the baton on when it has the GIL again, before it
# runs anything.
#
# **The loop hears of results** when no worker is on its way any more, or after 5 ms: the first of
# twenty results would only make it wait for the GIL, too. Until then its channel is *owed* a
# wake-up, which the worker that is on its way sees to.
#
# **When the GIL is scarce**, because another thread computes, each wake-up may take a slice of 5 ms,
# and it is better if all workers wait for the GIL at once. If the bearer needs nearly as long, all
# that queue are woken, and no worker queues until a bearer comes sooner. (With 1 ms as the limit,
# which a busy loop's own iteration may take, a tenth of the gain was lost.)
#
# **The bearer comes**: it is unlocked and wants nothing but the GIL. If an exception takes a worker
# out of `park`, it leaves the queue, or passes the baton on. A forked child forgets all of them.
#
# The GIL guards all of this: nothing here lets go of it but to unlock a worker, or to wake a loop, as
# the last step. Without a GIL there is no queue.

cdef enum:
    _LATE = 4000000  # nanoseconds: a little less than a slice
    _SLICE = 5000000  # after which the interpreter takes the GIL from a thread (sys.getswitchinterval)

cdef bint _is_one_coming = False  # somebody has the baton
cdef bint _is_gil_scarce = False
cdef long long _coming_since = 0  # when that was found out, if somebody queues or the GIL is scarce
cdef Inbox _first_queued = None
cdef Inbox _last_queued = None
cdef WakeChannel _owed = None
cdef long long _owed_since = 0


cdef void wake_worker(Inbox inbox, bint hand_over) noexcept:
    global _coming_since, _first_queued, _last_queued
    if not _is_one_coming:
        if _is_gil_scarce:
            _coming_since = asgibridge_now()
        give_baton(inbox, hand_over)
    elif _is_gil_scarce:
        unlock(inbox.sleep_lock, False)
    elif _first_queued is None:
        _first_queued = _last_queued = inbox
        _coming_since = asgibridge_now()
    else:
        _last_queued.next_queued = inbox
        _last_queued = inbox
        if asgibridge_now() - _coming_since > _LATE:
            wake_all_queued()


cdef void give_baton(Inbox inbox, bint hand_over) noexcept:
    global _is_one_coming
    _is_one_coming = inbox.has_baton = True
    unlock(inbox.sleep_lock, hand_over)


cdef int arrive(Inbox inbox) except -1:
    # On the thread of `inbox`, which has been woken.
    global _owed
    cdef WakeChannel channel = _owed
    if inbox.has_baton:
        inbox.has_baton = False
        pass_on()
    if channel is not None and (not _is_one_coming or asgibridge_now() - _owed_since > _SLICE):
        _owed = None
        try:
            channel.wake_loop()
        except BaseException as error:
            _threads.report_or_raise(error)


cdef void pass_on() noexcept:
    global _is_one_coming, _coming_since, _is_gil_scarce
    cdef Inbox following = _first_queued
    cdef long long now
    _is_one_coming = False
    if following is None:
        if _is_gil_scarce:
            _is_gil_scarce = asgibridge_now() - _coming_since > _LATE
        return
    now = asgibridge_now()
    if now - _coming_since > _LATE:
        wake_all_queued()
    else:
        _coming_since = now
        take_out(following, None)
        give_baton(following, False)


cdef int tell_loop(WakeChannel channel) except -1:
    # It has a result for its loop, which does not know yet.
    global _owed, _owed_since
    if _is_one_coming and not _is_gil_scarce and _owed is None:
        _owed = channel
        _owed_since = asgibridge_now()
    else:
        channel.wake_loop()


cdef void wake_all_queued() noexcept:
    global _is_gil_scarce
    cdef Inbox inbox = _first_queued
    while inbox is not None:
        take_out(inbox, None)
        unlock(inbox.sleep_lock, False)
        inbox = _first_queued
    _is_gil_scarce = True


cdef void take_out(Inbox inbox, Inbox before) noexcept:
    global _first_queued, _last_queued
    if before is None:
        _first_queued = inbox.next_queued
    else:
        before.next_queued = inbox.next_queued
    if _last_queued is inbox:
        _last_queued = before
    inbox.next_queued = None


cdef bint leave_queue(Inbox inbox) noexcept:
    # Whether it was there.
    cdef Inbox before = None, queued = _first_queued
    while queued is not None and queued is not inbox:
        before = queued
        queued = queued.next_queued
    if queued is not None:
        take_out(inbox, before)
    return queued is not None


def _forget_wakeups():
    global _is_one_coming, _is_gil_scarce, _first_queued, _last_queued, _owed
    _is_one_coming = _is_gil_scarce = False
    _first_queued = _last_queued = _owed = None


_fork.at_fork(_forget_wakeups)
