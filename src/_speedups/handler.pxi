# What a thread does around a sync function that `sync_to_async` brought to it.

@cython.final
@cython.freelist(32)
cdef class ThreadHandler:
    """Calls ``function()`` in ``context``, at the home where this object was made.

    :param threadlocal: ``SyncToAsync.threadlocal``, in which the calls that the function makes look
        up ``loop`` and ``task_context``.
    """

    # Nothing of it changes.
    cdef object home
    cdef object threadlocal
    cdef object loop
    cdef object task_context
    cdef object context
    cdef object function

    def __cinit__(self, threadlocal, loop, task_context, context, function):
        self.home = _this_thread().home
        self.threadlocal = threadlocal
        self.loop = loop
        self.task_context = task_context
        self.context = context
        self.function = function

    def __call__(self):
        cdef _Thread thread = _this_thread()
        cdef dict names = self.threadlocal.__dict__
        cdef object outer_loop = None, outer_pid = None, outer_task_context = None
        cdef bint is_outermost = not names
        if not is_outermost:
            outer_loop = names.get("main_event_loop")
            outer_pid = names.get("main_event_loop_pid")
            outer_task_context = names.get("task_context")
        names["main_event_loop"] = self.loop
        names["main_event_loop_pid"] = _pid
        names["task_context"] = self.task_context
        outer_home = thread.home
        thread.home = self.home
        try:
            return self.context.run(self.function)
        finally:
            thread = _this_thread()
            thread.home = outer_home
            if is_outermost:
                names.pop("main_event_loop", None)
                names.pop("main_event_loop_pid", None)
                names.pop("task_context", None)
                old = thread.names
                thread.names = names
            else:
                names["main_event_loop"] = outer_loop
                names["main_event_loop_pid"] = outer_pid
                names["task_context"] = outer_task_context


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
