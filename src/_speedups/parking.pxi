# How the owner of an inbox lies down until something comes, and gets up again.
#
# The owner waits for its sleep lock, which whoever puts something in unlocks. It waits without the
# GIL, in a call that signals interrupt; nothing of the inbox is held meanwhile.
#
# An owner that asks `when_idle` may have been woken in that moment, and have the baton (wakeups.pxi):
# so it must be quick. What takes longer it gives back as an item, which runs like any other.

cdef int get_up(Inbox inbox) except -1:
    # The owner is not going to wait any more; it has been woken, or queues for that.
    if ASGIBRIDGE_HAS_GIL and leave_queue(inbox):
        return 0
    if inbox.is_frame:
        # If it is unlocked later, it finds the sleep lock so when it lies down next, and looks again.
        PyThread_acquire_lock(inbox.sleep_lock, 0)
        return 0
    # Another thread may have let go of the GIL to unlock the sleep lock, and not have done so yet.
    with nogil:
        PyThread_acquire_lock_timed(inbox.sleep_lock, -1, 0)
    if ASGIBRIDGE_HAS_GIL:
        arrive(inbox)


cdef long long ask(Inbox inbox, long long waited) except -2:
    # Do what `when_idle` says after so many microseconds. Returns those after which it is to be asked
    # again, or -1.
    answer = inbox.when_idle(waited * 0.000001)
    if type(answer) is float:
        return <long long>(<double>answer * 1000000.0)
    if answer is True:
        inbox.shut()  # unlocks the sleep lock
    elif answer is not None:
        inbox.put(answer)  # so does this; or the inbox is closed, and that has
    return -1


cdef int park(Inbox inbox) except -1:
    cdef PyLockStatus status
    cdef bint was_woken
    cdef long long patience = ASGIBRIDGE_PATIENCE
    cdef long long left = -1  # of the idle time, when `patience` is over; -1: not asked yet
    cdef long long waited = 0  # in vain, by an owner that asks `when_idle`
    cdef bint asks = inbox.when_idle is not None
    cdef Inbox other = inbox.to_wake
    cdef PyThread_type_lock other_sleep_lock = NULL
    if other is not None:
        inbox.to_wake = None
        other_sleep_lock = other.sleep_lock
    if inbox.fingerprint is not None:
        patience = <long long>(LINGER_SECONDS * 1000000.0)
    elif asks:
        with cython.critical_section(inbox):
            patience = inbox.idle_patience
        if patience < 0:
            patience = <long long>(IDLE_SECONDS * 1000000.0)
    elif inbox.is_frame:
        # Never for ever: a signal that comes when we have looked for signals, and are not in
        # the system call yet, does not interrupt that.
        patience = ASGIBRIDGE_SHORT_PATIENCE if inbox.is_suspicious else ASGIBRIDGE_LONG_PATIENCE
    while True:
        with nogil:
            if other_sleep_lock is not NULL:
                PyThread_release_lock(other_sleep_lock)
                other_sleep_lock = NULL
            status = PyThread_acquire_lock_timed(inbox.sleep_lock, patience, 1)
        if status == PY_LOCK_ACQUIRED:
            with cython.critical_section(inbox):
                inbox.is_resting = False
            if ASGIBRIDGE_HAS_GIL:
                arrive(inbox)
            return 0
        if status == PY_LOCK_FAILURE and inbox.fingerprint is not None:
            if left < 0:
                left = <long long>(IDLE_SECONDS * 1000000.0) - patience
            if left > 0 and (_loops.any_open() or not _idle.has(inbox)):
                patience = min(left, patience)
                left -= patience
                continue
            if _idle.remove(inbox):
                inbox.shut()  # unlocks the sleep lock
            with cython.critical_section(inbox):
                inbox.is_resting = True  # leased: it waits for as long as that takes
            patience = -1
            continue
        try:
            if status == PY_LOCK_FAILURE and asks:
                waited += patience
                patience = ask(inbox, waited)
                if patience < 0:
                    asks = False
                    patience = ASGIBRIDGE_PATIENCE
                continue
            PyErr_CheckSignals()
            if status == PY_LOCK_FAILURE and inbox.is_frame:
                inbox.is_suspicious = False
                patience = ASGIBRIDGE_LONG_PATIENCE
                inbox.look()
        except BaseException:
            with cython.critical_section(inbox):
                was_woken = not inbox.is_parked
                inbox.is_parked = False
            if was_woken:
                get_up(inbox)
            raise
