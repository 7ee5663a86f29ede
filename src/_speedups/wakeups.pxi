# Workers are woken one at a time.
#
# A loop that has many calls in flight would wake a worker with each, all of which then wait for the
# GIL that the loop has: whenever the loop lets go of it, for a socket, say, one of them is woken in
# vain, and every hand-over costs the time of a wake-up. So only one worker is on its way at a time.
# It has the *baton*; who is to be woken meanwhile queues behind it. ::
#
#     parked --wake_worker()--> queued --pass_on() of the one before--> on its way --> running
#                    `--nobody is on the way----------------------------^
#
# **Nobody waits for a call.** The baton is passed on when its holder has the GIL again, before that
# runs anything: a call that blocks holds up no other, and one more worker than are running waits for
# the GIL. Under load (20 requests at once to a Django site, two cores) a hop takes 1.7 voluntary
# switches of its worker so and not 2.9, and the site serves 1.4 times as much.
#
# **When the GIL is scarce** (another thread computes) each wake-up may take a turn of the GIL, 5 ms,
# and it is better if all wait for it at once: if the holder needs nearly as long, all that queue are
# woken, and nobody queues any more until a holder comes sooner. (Not after one millisecond: a busy
# loop's own turn may take that, and a tenth of the gain was lost.)
#
# **The holder comes.** It has been unlocked and wants nothing but the GIL. If an exception takes it
# out of `Inbox.park` it leaves the queue, or passes on the baton (`no_more`). A forked child has
# only the thread that forked: it forgets who is on the way.
#
# Guarded by the GIL: nothing here lets go of it but to unlock, as the last step. Without one there
# is no queue: nobody waits for anything that wakers have.

cdef enum:
    _LATE = 4000000  # nanoseconds

cdef bint _is_one_coming = False  # somebody has the baton
cdef bint _is_gil_scarce = False
cdef long long _coming_since = 0  # when that was found out, if somebody queues or the GIL is scarce
cdef Inbox _first_queued = None
cdef Inbox _last_queued = None


cdef int wake_worker(Inbox inbox, bint hand_over) noexcept:
    global _is_one_coming, _coming_since, _first_queued, _last_queued
    if not _is_one_coming:
        _is_one_coming = True
        inbox.has_baton = True
        if _is_gil_scarce:
            _coming_since = asgibridge_now()
        asgibridge_unlock(inbox.bed, hand_over)
        return 0
    if _is_gil_scarce:
        asgibridge_unlock(inbox.bed, False)
        return 0
    if _first_queued is None:
        _first_queued = inbox
        _coming_since = asgibridge_now()
    else:
        _last_queued.next_queued = inbox
    _last_queued = inbox
    if _first_queued is not inbox and asgibridge_now() - _coming_since > _LATE:
        wake_all_queued()
    return 0


cdef int pass_on(Inbox inbox) noexcept:
    # On the thread of `inbox`, which has been woken.
    global _is_one_coming, _coming_since, _is_gil_scarce
    cdef Inbox following = _first_queued
    cdef long long now
    if not inbox.has_baton:
        return 0
    inbox.has_baton = False
    if following is None:
        _is_one_coming = False
        if _is_gil_scarce:
            _is_gil_scarce = asgibridge_now() - _coming_since > _LATE
        return 0
    now = asgibridge_now()
    if now - _coming_since > _LATE:
        _is_one_coming = False
        wake_all_queued()
        return 0
    _coming_since = now
    leave_queue(following, None)
    following.has_baton = True
    asgibridge_unlock(following.bed, False)
    return 0


cdef int wake_all_queued() noexcept:
    global _is_gil_scarce
    cdef Inbox inbox = _first_queued
    while inbox is not None:
        leave_queue(inbox, None)
        asgibridge_unlock(inbox.bed, False)
        inbox = _first_queued
    _is_gil_scarce = True
    return 0


cdef int leave_queue(Inbox inbox, Inbox before) noexcept:
    global _first_queued, _last_queued
    if before is None:
        _first_queued = inbox.next_queued
    else:
        before.next_queued = inbox.next_queued
    if _last_queued is inbox:
        _last_queued = before
    inbox.next_queued = None
    return 0


cdef int no_more(Inbox inbox) noexcept:
    # The thread of `inbox` is not going to wait any more, woken or not.
    cdef Inbox before = None, queued = _first_queued
    while queued is not None:
        if queued is inbox:
            leave_queue(inbox, before)
            return 0
        before = queued
        queued = queued.next_queued
    return pass_on(inbox)


def _forget_wakeups():
    global _is_one_coming, _is_gil_scarce, _first_queued, _last_queued
    _is_one_coming = _is_gil_scarce = False
    _first_queued = _last_queued = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_wakeups)
