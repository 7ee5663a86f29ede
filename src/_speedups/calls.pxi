# The hops: a call on its way to a thread, and a call on its way to an event loop.

cdef class TaskContext(list):
    """The tasks that a call's function waits for in `async_to_sync`, innermost last."""

    cdef public bint is_cancelled
    cdef public bint is_abandoned


@cython.final
@cython.freelist(32)
cdef class SyncCall:
    """A call of ``function()`` on another thread, awaited by a task of ``loop``.

    Made and awaited on the loop's thread; `run` and `deliver` are the other thread's.

    :param shown: the user's function that it is about; by default ``function``.
    :param context: the contextvars.Context to run in, at the home where this object is made.
    :param threadlocal: ``SyncToAsync.threadlocal``, in which the calls that the function makes look
        up ``loop`` and ``task_context``. Goes with ``context``.
    """

    cdef object __weakref__
    # Of any thread, under the critical section: who takes the function owns the call. The function
    # stays here while it runs, and the user's until the call has ended or was given up.
    cdef object function
    cdef readonly object shown
    cdef bint is_taken
    # Of who puts it into an inbox, before anybody else can see it.
    cdef bint is_counted
    cdef long long submitted
    cdef public object guard
    cdef public object place  # for dumps: the executor that is to run it, if it is in no inbox yet
    cdef object context, threadlocal, home
    # Of the thread that runs it; a mere look is free to all.
    cdef readonly bint has_begun
    cdef long long thread_ident, started
    # Of any thread, under the critical section.
    cdef Inbox inbox  # where it was put last; None if nowhere yet, or if that has many threads
    cdef readonly TaskContext task_context  # nothing changes it
    # Handed from one thread to the other: the worker's until it delivers, then the loop's.
    cdef WakeChannel channel
    cdef object value, error
    # Of the loop's thread.
    cdef object loop
    cdef _Wait wait
    cdef bint is_done, is_abandoned
    cdef readonly bint is_blocked  # written where it is posted, before

    def __cinit__(self, loop, function, shown=None, context=None, threadlocal=None):
        self.loop = loop
        self.channel = _wake_channel(loop)
        self.function = (function,) if function is None else function
        self.shown = self.function if shown is None else shown
        if context is not None:
            self.context = context
            self.threadlocal = threadlocal
            self.home = _home_of(_this_thread())
            self.task_context = TaskContext.__new__(TaskContext)

    def __repr__(self):
        return f"<call of {self.shown!r}>"

    def call_instead(self, function):
        """Have ``function()`` called as it is, in no context. Before the call is put anywhere."""
        self.function = function
        self.context = None

    def call_by(self, caller):
        """Have ``caller(function)`` called, if the call has no context. As `call_instead`."""
        if self.context is None:
            self.function = functools.partial(caller, self.function)

    def generators(self):
        """The generators that its function will be called with. Before it is put anywhere."""
        # Asked of each call in a context that may lose its worker: most have no arguments.
        return _items.generators_given(self.function) if type(self.function) is _partial else []

    def accept(self):
        """Count it as submitted, if it was not yet. By who puts it into an inbox, before that."""
        self.count()

    cdef inline bint is_first(self):
        # Whether the loop knows of all calls that have finished. Only a hint, for the GIL's sake.
        return ASGIBRIDGE_HAS_GIL and self.channel is not None and self.channel.idle

    cdef bint take_function(self, error) except -1:
        # False if somebody else has it. With the error in one step: the thread may find the call
        # taken, and deliver it, as soon as it is.
        cdef bint is_ours
        cdef object function, shown
        with cython.critical_section(self):
            is_ours = not self.is_taken
            if is_ours:
                self.is_taken = True
                function, shown = self.function, self.shown
                self.function = self.shown = None
                if error is not None:
                    self.error = error
        if not is_ours:
            return False
        function = shown = None
        if self.is_counted:
            asgibridge_add(&_this_thread().tally.cancelled, 1)
        if self.guard is not None:
            self.guard.given_up(self)
        return True

    cdef inline void count(self) noexcept:
        # As submitted, if it was not yet. In a critical section: it lets nobody else run.
        cdef void* thread = PyThread_tss_get(&_thread_key)
        if self.is_counted or thread is NULL:
            return
        self.is_counted = True
        asgibridge_add(&(<_Thread>thread).tally.submitted, 1)
        if _timing:
            self.submitted = asgibridge_now()

    cpdef object run(self):
        """Run the function, unless it was given up. On the thread it was sent to."""
        cdef _Thread thread
        cdef SyncCall outer
        cdef asgibridge_tally* tally
        cdef long long outer_started = 0
        with cython.critical_section(self):
            function = None if self.is_taken else self.function
            self.is_taken = True
        if function is None:
            return
        thread = _this_thread()
        tally = thread.tally
        outer = thread.call
        thread.call = self
        self.has_begun = True
        if self.is_counted:
            outer_started = _begin_to_count(tally, &self.started)
            self.thread_ident = tally.thread_ident
            if self.submitted and self.started:
                asgibridge_note(&tally.waiting_time, tally.waiting, self.started - self.submitted)
        try:
            if self.guard is not None:
                self.guard.begins(self)
            if self.context is None:
                self.value = function()
            else:
                self.value = self.run_in_context(thread, function)
        except StopIteration as error:
            # It can't be thrown into a coroutine: PEP 479, and Future.set_exception refuses it.
            self.error = RuntimeError("the sync function raised StopIteration")
            self.error.__cause__ = error
        except BaseException as error:
            self.error = error
        finally:
            thread.call = outer
            if self.is_counted:
                _end_to_count(tally, outer_started, self.started, self.shown)
            with cython.critical_section(self):
                function = self.function
                shown = self.shown
                self.function = self.shown = None
            shown = None
            if self.guard is not None:
                self.guard.ends(self)

    cdef inline object run_in_context(self, _Thread thread, object function):
        # The same as the shell's ``SyncToAsync.thread_handler``, which is there to be overridden.
        cdef dict names = self.threadlocal.__dict__
        cdef object outer_loop, outer_pid, outer_task_context
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
            return self.context.run(function)
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

    def __call__(self):
        """Run the function, and return or raise what it does: for an executor of somebody's own."""
        self.run()
        return self.take_outcome() if self.has_begun else None

    def finish(self, value, error):
        """The outcome has come from an executor of somebody's own. On the loop's thread."""
        self.value = value
        self.error = error
        self.woken(False)

    cpdef object deliver(self):
        """Tell the waiting task. On the thread that ran it."""
        # The channel is let go, or one that nobody empties any more would be in a cycle with us.
        cdef WakeChannel channel = self.take_channel()
        if channel is not None:
            channel.post(self)

    cdef WakeChannel take_channel(self):
        with cython.critical_section(self):
            channel = self.channel
            self.channel = None
        return channel

    def cancel(self):
        """Give up a call that the thread will not run any more, in place of `run`. Any thread."""
        self.take_function(asyncio.CancelledError())

    cdef int put_into(self, Inbox inbox) except -1:
        with cython.critical_section(self):
            old = self.inbox
            self.inbox = inbox
        return 0

    def blocked_by(self):
        """What keeps this call from going on: the ``task_context`` of a call (or of this one) whose
        function waits in `async_to_sync`, on the thread that has to run this one to its end.

        None if nothing does. From any thread.
        """
        cdef Inbox inbox
        cdef object blocker = None
        cdef bint is_queued
        with cython.critical_section(self):
            inbox = self.inbox
        if inbox is not None:
            blocker = inbox.current_blocker()
        elif self.guard is not None:
            blocker = self.guard.blocker(self)
        # Asked afterwards: a call that has ended is not held by the next one.
        with cython.critical_section(self):
            is_queued = not self.is_taken
        if is_queued:
            return blocker
        if inbox is None:
            return self.task_context
        return blocker if blocker is self.task_context else None

    def fail(self, error):
        """Raise ``error`` in the waiting task in place of `run`; False if that has begun, or if
        this call has no ``task_context``.

        From any thread. The task is told at once.
        """
        if self.task_context is None or not self.take_function(error):
            return False
        self.deliver()
        return True

    def revoke(self):
        """Nobody waits for this call any more: keep it from running if it has not begun.

        On the loop's thread. Returns whether that succeeded. An error it may still raise goes to
        the loop's exception handler.
        """
        self.is_abandoned = True
        if self.is_done:  # cancelled in the moment it was woken
            self.report()
        return self.take_function(None)

    def wake(self):
        """The call has run: wake the task. On the loop's thread."""
        self.woken(False)

    cdef int woken(self, bint directly) except -1:
        cdef _Wait wait = self.wait
        self.is_done = True
        if wait is not None:
            if not wait.is_done:
                wait.finish(directly)
        elif self.is_abandoned:
            self.report()
        return 0

    def done(self):
        """Whether the result is there. On the loop's thread."""
        return self.is_done

    def __await__(self):
        cdef _Wait wait
        if not self.is_done:
            wait = _Wait.__new__(_Wait)
            wait.loop = self.loop
            wait.asgibridge_call = self
            wait._asyncio_future_blocking = True
            # Cython lets the old one go before it stores the new one: here and below, whatever is
            # replaced is held meanwhile, because its end may run anybody's code.
            old = self.wait
            self.wait = wait
            try:
                old = None
                yield wait
            finally:
                old = self.wait
                self.wait = None
                old = None
            if not self.is_done:
                raise RuntimeError("await wasn't used with future")
        return self.take_outcome()

    cpdef object take_outcome(self):
        """Take the result, or raise the exception. Once, by who waits."""
        value, error = self.value, self.error
        # Who delivers the call holds it until the task awaits again.
        self.value = self.error = self.context = None
        if error is None:
            return value
        raise error

    cdef int report(self) except -1:
        value, error = self.value, self.error
        self.value = self.error = None
        if error is not None and not isinstance(error, asyncio.CancelledError):
            message = "a sync_to_async call whose awaiting task was cancelled raised"
            self.loop.call_exception_handler({"message": message, "exception": error})
        return 0


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


@cython.final
@cython.freelist(16)
cdef class AsyncCall:
    """The outcome of an async function that a thread waits for.

    It has the part of `concurrent.futures.Future` that a ``main_wrap`` needs.
    """

    # Of the loop's thread until it is done, then of the waiting thread.
    cdef object callback, executor, value, error
    cdef bint is_done

    def __init__(self):
        pass  # refuses arguments

    def done(self):
        """Whether there is an outcome."""
        return self.is_done

    def add_done_callback(self, callback):
        """Have ``callback(self)`` called when the outcome is set, on that thread. One at most."""
        with cython.critical_section(self):
            old = self.callback
            self.callback = callback

    def set_result(self, result):
        """Set the result and wake the thread. On the loop's thread."""
        self.finish(result, None)

    def set_exception(self, exception):
        """Set the exception and wake the thread. On the loop's thread."""
        self.finish(None, exception)

    def result(self):
        """Take the result, or raise the exception. On the waiting thread, once."""
        if not self.is_done:
            raise InvalidStateError("the async function has not finished")
        with cython.critical_section(self):
            value, error = self.value, self.error
            self.value = self.error = None
        if error is None:
            return value
        raise error

    def run_on(self, loop, coroutine, executor, no_result):
        """Run ``coroutine`` on another thread's loop, and serve ``executor`` until we are done.

        On the thread the executor was made in. False if the loop is closed: nothing has happened.

        :param no_result: the error if the coroutine ends without setting the outcome.
        """
        cdef Inbox inbox = (<_CurrentThread?>executor).inbox
        self.executor = executor
        inbox.begin_wait()  # before the coroutine can run, and a call of its be posted
        try:
            _call_soon(loop, begin_task, (loop, coroutine, self, no_result))
        except RuntimeError:
            self.executor = None
            inbox.end_wait()
            return False
        inbox.serve_on(loop)
        return True

    cdef int finish(self, value, error) except -1:
        cdef bint was_done
        with cython.critical_section(self):
            was_done = self.is_done
            if not was_done:
                self.value = value
                self.error = error
                self.is_done = True
            callback, executor = self.callback, self.executor
            self.callback = self.executor = None
        if was_done:
            raise InvalidStateError("the outcome of this call is already set")
        if callback is not None:
            callback(self)
        if executor is not None:
            (<_CurrentThread>executor).inbox.shut()
        return 0
