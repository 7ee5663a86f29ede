# Who waits for the sync function that a thread runs.

def awaiting(threadlocal):
    """The event loop that waits for the sync function which this thread runs, None if none does;
    and the ``task_context`` of the call.

    :param threadlocal: ``SyncToAsync.threadlocal``.
    """
    cdef dict names = threadlocal.__dict__
    if not names:
        return None, None
    # In a forked child the loop is the parent's (asgiref #194).
    loop = names.get("main_event_loop") if names.get("main_event_loop_pid") == _pid else None
    return loop, names.get("task_context")
