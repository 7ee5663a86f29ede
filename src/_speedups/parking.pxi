# How the owner of an inbox lies down until something comes, and gets up again.
#
# The owner waits for its sleep lock, which whoever puts something in unlocks. It waits without the
# GIL, in a call that signals interrupt; nothing of the inbox is held meanwhile.

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


cdef int park(Inbox inbox) except -1:
    cdef PyLockStatus status
    cdef bint was_woken, has_told = False
    cdef long long patience = ASGIBRIDGE_PATIENCE
    cdef long long left = -1  # of the idle time, when `patience` is over; -1: not asked yet
    cdef Inbox other = inbox.to_wake
    cdef PyThread_type_lock other_sleep_lock = NULL
    if other is not None:
        inbox.to_wake = None
        other_sleep_lock = other.sleep_lock
    if inbox.fingerprint is not None or inbox.when_idle is not None:
        if inbox.fingerprint is not None:
            patience = <long long>(LINGER_SECONDS * 1000000.0)
        else:
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
            if status == PY_LOCK_FAILURE and inbox.when_idle is not None:
                patience = ASGIBRIDGE_PATIENCE
                if not has_told:
                    has_told = True
                    if inbox.when_idle():
                        inbox.shut()
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
