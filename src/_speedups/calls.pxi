# The hops: a call on its way to a thread, and a call on its way to an event loop.

@cython.final
@cython.freelist(32)
cdef class SyncCall:
    """A call of ``function()`` on another thread, awaited by a task of ``loop``.

    Made and awaited on the loop's thread; `run` and `deliver` are the other thread's.

    :param task_context: lists the task that the function waits for in `async_to_sync`, if it does.
    """

    # Of any thread, under the critical section: who takes the function owns it. It stays here while
    # it runs, to be seen.
    cdef object function
    cdef bint is_taken
    # Of who puts it into an inbox, before anybody else can see it.
    cdef bint is_counted
    cdef long long submitted
    # Of the thread that runs it; a mere look is free to all.
    cdef long long thread_ident
    cdef long long started
    # Of any thread, under the critical section.
    cdef Inbox inbox  # where it was put last; None if nowhere yet, or if that has many threads
    cdef readonly list task_context  # nothing changes it
    # Handed from one thread to the other: the worker's until it delivers, then the loop's.
    cdef WakeChannel channel
    cdef object value
    cdef object error
    # Of the loop's thread.
    cdef object loop
    cdef _Wait wait
    cdef bint is_done
    cdef bint is_abandoned
    cdef readonly bint is_held  # written where it is posted, before

    def __cinit__(self, loop, function, list task_context=None):
        self.loop = loop
        self.channel = _wake_channel(loop)
        self.function = (function,) if function is None else function
        self.task_context = task_context

    cdef inline bint is_first(self):
        # Whether the loop knows of all calls that have finished. Only a hint, for the GIL's sake.
        return ASGIBRIDGE_HAS_GIL and self.channel is not None and self.channel.idle

    cdef object take_function(self):
        # None if somebody else has it.
        with cython.critical_section(self):
            function = None if self.is_taken else self.function
            self.is_taken = True
            if function is not None:
                self.function = None
        return function

    cdef object begin(self):
        # The same, by who is going to run it.
        with cython.critical_section(self):
            function = None if self.is_taken else self.function
            self.is_taken = True
        return function

    cdef inline void count(self) noexcept:
        # As submitted, if it was not yet. In a critical section: it lets nobody else run.
        cdef void* thread = asgibridge_thread_get()
        if self.is_counted or thread is NULL:
            return
        self.is_counted = True
        asgibridge_add(&(<_Thread>thread).tally.submitted, 1)
        if _timing:
            self.submitted = asgibridge_now()

    cdef int count_cancelled(self) except -1:
        if self.is_counted:
            asgibridge_add(&_this_thread().tally.cancelled, 1)
        return 0

    cdef int execute(self) except -1:
        cdef _Thread thread
        cdef SyncCall outer
        cdef asgibridge_tally* tally
        cdef long long outer_started = 0
        function = self.begin()
        if function is None:
            return 0
        thread = _this_thread()
        tally = thread.tally
        outer = thread.call
        thread.call = self
        if self.is_counted:
            outer_started = _begin_to_count(tally, &self.started)
            self.thread_ident = tally.thread_ident
            if self.submitted and self.started:
                asgibridge_note_wait(tally, self.started - self.submitted)
        try:
            self.value = function()
        except StopIteration as error:
            # It can't be thrown into a coroutine: PEP 479, and Future.set_exception refuses it.
            self.error = RuntimeError("the sync function raised StopIteration")
            self.error.__cause__ = error
        except BaseException as error:
            self.error = error
        finally:
            thread.call = outer
            if self.is_counted:
                _end_to_count(tally, outer_started, self.started, function)
            with cython.critical_section(self):
                self.function = None
        return 0

    cdef int send_back(self) except -1:
        # The channel is let go, or one that nobody empties any more would be in a cycle with us.
        cdef WakeChannel channel = self.take_channel()
        if channel is not None:
            channel.send(self)
        return 0

    cdef WakeChannel take_channel(self):
        with cython.critical_section(self):
            channel = self.channel
            self.channel = None
        return channel

    def run(self):
        """Run the function, unless it was revoked. On the thread it was sent to."""
        self.execute()

    def deliver(self):
        """Tell the waiting task. On the thread that ran it."""
        self.send_back()

    def cancel(self):
        """Give up a call that the thread will not run any more, in place of `run`. Any thread."""
        if self.take_function() is not None:
            self.count_cancelled()
            self.error = asyncio.CancelledError()

    cdef int put_into(self, Inbox inbox) except -1:
        with cython.critical_section(self):
            old = self.inbox
            self.inbox = inbox
        return 0

    def held_by(self):
        """What keeps this call from going on: the ``task_context`` of a call (or of this one) whose
        function waits in `async_to_sync`, on the thread that has to run this one to its end.

        None if nothing does. From any thread.
        """
        cdef Inbox inbox
        cdef list holder
        cdef bint is_queued
        with cython.critical_section(self):
            inbox = self.inbox
        holder = self.task_context if inbox is None else inbox.current_holder()
        # Asked afterwards: a call that has ended is not held by the next one.
        with cython.critical_section(self):
            is_queued = not self.is_taken
        if inbox is None:
            return None if is_queued else holder
        return holder if is_queued or holder is self.task_context else None

    def fail(self, error):
        """Raise ``error`` in the waiting task in place of `run`; False if that has begun, or if
        this call has no ``task_context``.

        From any thread. The task is told at once.
        """
        cdef bint is_ours
        if self.task_context is None:
            return False
        # In one step: the thread may find it taken, and deliver it, as soon as it is.
        with cython.critical_section(self):
            is_ours = not self.is_taken
            if is_ours:
                self.is_taken = True
                self.error = error
                function = self.function
                self.function = None
        if not is_ours:
            return False
        self.count_cancelled()
        self.send_back()
        return True

    def revoke(self):
        """Nobody waits for this call any more: keep it from running if it has not begun.

        On the loop's thread. Returns whether that succeeded. An error it may still raise goes to
        the loop's exception handler.
        """
        self.is_abandoned = True
        if self.is_done:  # cancelled in the moment it was woken
            self.report()
        if self.take_function() is None:
            return False
        self.count_cancelled()
        return True

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

    cdef object take_outcome(self):
        value, error = self.value, self.error
        self.value = self.error = None
        if error is None:
            return value
        raise error

    cdef int report(self) except -1:
        value, error = self.value, self.error
        self.value = self.error = None
        if error is not None and not isinstance(error, asyncio.CancelledError):
            self.loop.call_exception_handler(
                {
                    "message": "a sync_to_async call whose awaiting task was cancelled raised",
                    "exception": error,
                }
            )
        return 0


@cython.final
@cython.freelist(16)
cdef class AsyncCall:
    """The outcome of an async function that a thread waits for.

    It has the part of `concurrent.futures.Future` that a ``main_wrap`` needs.
    """

    # Of the loop's thread until it is done, then of the waiting thread.
    cdef object callback
    cdef object executor
    cdef object value
    cdef object error
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
        cdef _Beginning beginning
        cdef WakeChannel channel
        self.executor = executor
        inbox.hold()  # before the coroutine can run, and a call of its be posted
        try:
            channel = _channel_to(loop)
            if channel is None:
                loop.call_soon_threadsafe(begin_task, loop, coroutine, self, no_result)
            else:
                beginning = _Beginning.__new__(_Beginning)
                beginning.coroutine = coroutine
                beginning.call_result = self
                beginning.no_result = no_result
                beginning.context = PyContext_CopyCurrent()
                if not channel.send(beginning):
                    raise RuntimeError("Event loop is closed")
        except RuntimeError:
            self.executor = None
            inbox.let_go_of_outer()
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
