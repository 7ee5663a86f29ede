# The hops: a call on its way to a thread, and a call on its way to an event loop.
#
# What a task sees of a `SyncCall` it awaits is a `_Wait`: it answers asyncio's future protocol, and
# that is all there is where asgiref has a concurrent Future, the future it is wrapped in, and a
# shield around that. One is made for each ``await`` and has its own fate: cancelled it says so once,
# as a shield does, and the call goes on and can be awaited again.

@cython.freelist(32)
cdef class _Wait:
    # Of the loop's thread.
    cdef public object _asyncio_future_blocking
    cdef object loop
    cdef object callback  # the first and, nearly always, only one: the task's wake-up
    cdef object context  # to run that in
    cdef list others  # pairs of the same
    cdef readonly SyncCall asgibridge_call  # for `asgibridge._waits.deadlocks`; nothing changes it
    cdef Py_ssize_t is_done  # 1 if so; that searches for deadlocks ask from their own threads
    cdef bint is_cancelled
    cdef object message

    def get_loop(self):
        return self.loop

    def done(self):
        return asgibridge_counted(&self.is_done) != 0

    def cancelled(self):
        return self.is_cancelled

    def result(self):
        self.check()

    def exception(self):
        self.check()

    cdef int check(self) except -1:
        # The call's value or exception is not asked for here: the awaiting coroutine takes it.
        if not self.is_done:
            raise asyncio.InvalidStateError("what is awaited has not come")
        if self.is_cancelled:
            if self.message is None:
                raise asyncio.CancelledError()
            raise asyncio.CancelledError(self.message)
        return 0

    def cancel(self, msg=None):
        if self.is_done:
            return False
        self.is_cancelled = True
        self.message = msg
        self.finish(False)
        return True

    def add_done_callback(self, callback, *, context=None):
        if context is None:
            context = copy_context()
        if self.is_done:
            self.loop.call_soon(callback, self, context=context)
        elif self.callback is None:
            self.callback = callback
            self.context = context
        elif self.others is None:
            self.others = [(callback, context)]
        else:
            self.others.append((callback, context))

    def remove_done_callback(self, callback):
        cdef list kept = []
        cdef int removed = 0
        pairs = [] if self.callback is None else [(self.callback, self.context)]
        if self.others is not None:
            pairs += self.others
        for pair in pairs:
            if pair[0] == callback:
                removed += 1
            else:
                kept.append(pair)
        if removed and not self.is_done:  # the comparison can have done anything
            self.callback = self.context = None
            if kept:
                self.callback, self.context = kept.pop(0)
            self.others = kept
        return removed

    cdef int finish(self, bint directly) except -1:
        callback, context, others = self.callback, self.context, self.others
        asgibridge_count_up(&self.is_done)
        self.callback = self.context = self.others = None
        if callback is None:
            return 0
        if others is not None:
            for pair in others:
                self.loop.call_soon(pair[0], self, context=pair[1])
            directly = False
        if not directly:
            self.loop.call_soon(callback, self, context=context)
            return 0
        try:
            context.run(callback, self)
        except Exception as error:
            self.loop.call_exception_handler(
                {"message": f"Exception in callback {callback!r}", "exception": error}
            )
        return 0


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


cdef extern from *:
    """
    /* 1: it yielded `*result`; 0: it returned that; -1: it raised. */
    static int asgibridge_send(PyObject *iterator, PyObject *value, PyObject **result) {
    #if PY_VERSION_HEX >= 0x030A0000
        switch (PyIter_Send(iterator, value, result)) {
            case PYGEN_NEXT: return 1;
            case PYGEN_RETURN: return 0;
            default: return -1;
        }
    #else
        if (value == Py_None && Py_TYPE(iterator)->tp_iternext != NULL)
            *result = Py_TYPE(iterator)->tp_iternext(iterator);
        else
            *result = PyObject_CallMethod(iterator, "send", "(O)", value);
        if (*result != NULL) return 1;
        return _PyGen_FetchStopIterationValue(result) == 0 ? 0 : -1;
    #endif
    }
    static PyObject *asgibridge_take_error(void) {
    #if PY_VERSION_HEX >= 0x030C0000
        return PyErr_GetRaisedException();
    #else
        PyObject *type, *error, *traceback;
        PyErr_Fetch(&type, &error, &traceback);
        PyErr_NormalizeException(&type, &error, &traceback);
        if (traceback != NULL) PyException_SetTraceback(error, traceback);
        Py_XDECREF(type);
        Py_XDECREF(traceback);
        return error;
    #endif
    }
    static void asgibridge_set_send(
        PyTypeObject *type, int (*send)(PyObject *, PyObject *, PyObject **)
    ) {
    #if PY_VERSION_HEX >= 0x030A0000
        type->tp_as_async->am_send = (sendfunc)(void (*)(void))send;
    #else
        (void)type;
        (void)send;
    #endif
    }
    """
    void asgibridge_set_send(
        PyTypeObject* type, int (*send)(object, object, PyObject**) except -1
    )
    int asgibridge_send(object iterator, object value, PyObject** result)
    object asgibridge_take_error()
    bint PyCoro_CheckExact(object coroutine)
    object PyContext_CopyCurrent()


cdef object _iterator_of(awaitable):
    # What ``await`` iterates over.
    if PyCoro_CheckExact(awaitable):
        return awaitable
    if isinstance(awaitable, _GeneratorType) and awaitable.gi_code.co_flags & _ITERABLE_COROUTINE:
        return awaitable
    try:
        get = type(awaitable).__await__
    except AttributeError:
        raise TypeError(
            f"object {type(awaitable).__name__} can't be used in 'await' expression"
        ) from None
    return get(awaitable)


cdef object _GeneratorType = types.GeneratorType
cdef int _ITERABLE_COROUTINE = inspect.CO_ITERABLE_COROUTINE
cdef object _current_task = asyncio.current_task


@cython.final
cdef class _Drive:
    # The coroutine of `drive`. What a native one can't do: tell that it was thrown into, closed or
    # dropped before its first step. Of the loop's thread.
    cdef object call
    cdef list task_context
    cdef list context
    cdef object awaitable
    cdef object iterator  # None before the first step
    cdef object loop  # which runs it, if that is known
    cdef object task
    cdef bint is_over

    # Whoever looks at the task sees the function it is about.

    @property
    def __name__(self):
        return getattr(self.awaitable, "__name__", type(self).__name__)

    @property
    def __qualname__(self):
        return getattr(self.awaitable, "__qualname__", type(self).__name__)

    @property
    def cr_frame(self):
        return getattr(self.awaitable, "cr_frame", None)

    @property
    def cr_code(self):
        return getattr(self.awaitable, "cr_code", None)

    @property
    def cr_await(self):
        return getattr(self.awaitable, "cr_await", None)

    @property
    def cr_running(self):
        return getattr(self.awaitable, "cr_running", False)

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.step(None)

    def send(self, value):
        return self.step(value)

    cdef object step(self, value):
        cdef bint is_over
        found = self.advance(value, &is_over)
        if is_over:
            raise StopIteration
        return found

    def throw(self, type, value=None, traceback=None):
        if self.is_over:
            raise RuntimeError("cannot reuse already awaited coroutine")
        try:
            if self.iterator is None:
                self.begin()
            if not hasattr(self.iterator, "throw"):  # as by ``await``: it is raised where that is
                raise type if value is None else value
            if value is None and traceback is None:  # the other form is deprecated since 3.12
                return self.iterator.throw(type)
            return self.iterator.throw(type, value, traceback)
        except StopIteration as error:
            self.finish(error.value, None)
        except BaseException as error:
            self.finish(None, error)
        raise StopIteration

    def close(self):
        if self.is_over:
            return
        try:
            close = getattr(self.awaitable if self.iterator is None else self.iterator, "close", None)
            if close is not None:
                close()
            self.finish(None, RuntimeError(_DROPPED))
        except RecursionError:
            raise
        except BaseException:
            self.finish(None, RuntimeError(_DROPPED))
            raise

    def __del__(self):
        # Perhaps close to the recursion limit, which is what has made an end of us: then the
        # awaitable's own end closes it. But whoever waits must hear of it.
        if self.is_over:
            return
        try:
            self.close()
        except RecursionError:
            if not self.is_over:
                self.finish(None, _dropped)

    cdef int begin(self) except -1:
        if self.context is not None:
            restore_context(self.context[0], PyContext_CopyCurrent())
        if self.task_context is not None:
            # Told its loop, it need not ask which process this is, a system call.
            self.task = _current_task() if self.loop is None else _current_task(self.loop)
            if self.task is not None:
                self.task_context.append(self.task)
        self.iterator = _iterator_of(self.awaitable)
        return 0

    cdef object advance(self, value, bint* is_over):
        # To the next thing it waits for, or to its end.
        cdef PyObject* found = NULL
        cdef int state
        if self.is_over:
            raise RuntimeError("cannot reuse already awaited coroutine")
        is_over[0] = True
        try:
            if self.iterator is None:
                self.begin()
        except BaseException as error:
            self.finish(None, error)
            return None
        state = asgibridge_send(self.iterator, value, &found)
        if state < 0:
            # Not by an ``except`` here: that puts a frame of ours into the traceback, which up to
            # 3.10 keeps all frames below it alive, and with them the loop.
            self.finish(None, asgibridge_take_error())
            return None
        result = <object>found
        Py_DECREF(result)
        if state == 1:
            is_over[0] = False
            return result
        self.finish(result, None)
        return None

    cdef int finish(self, value, error) except -1:
        call, context, task = self.call, self.context, self.task
        self.is_over = True
        if task is not None:
            self.task_context.remove(task)
        # Before the outcome: the caller goes on as soon as that is set.
        if context is not None:
            (<list>context)[0] = PyContext_CopyCurrent()
        self.call = self.task_context = self.context = self.task = None
        self.awaitable = self.iterator = self.loop = None
        if type(call) is AsyncCall:
            if not (<AsyncCall>call).is_done:  # or whoever failed to start us has said so
                (<AsyncCall>call).finish(value, error)
            return 0
        if call.done():
            return 0
        if error is None:
            call.set_result(value)
        else:
            call.set_exception(error)
        return 0


_DROPPED = "the event loop was dropped before the async function had ended"


cdef object _dropped = RuntimeError(_DROPPED)


cdef int _send_to_drive(object drive, object value, PyObject** result) except -1:
    # tp_as_async's `am_send`, for who steps coroutines by PyIter_Send, as asyncio's Task does from
    # 3.10 on: no StopIteration is made, with a traceback, to say that it has ended.
    cdef bint is_over
    found = (<_Drive>drive).advance(value, &is_over)
    Py_INCREF(found)
    result[0] = <PyObject*>found
    return 0 if is_over else 1


asgibridge_set_send(<PyTypeObject*>_Drive, _send_to_drive)


def drive(call_result, task_context, context, awaitable):
    """A coroutine that awaits ``awaitable`` and puts its outcome into ``call_result``.

    :param task_context: lists the task while it runs, so that a cancellation can reach it.
    :param context: a list of one: the caller's context, replaced by what became of it.
    """
    cdef _Drive coroutine = _Drive.__new__(_Drive)
    coroutine.call = call_result
    coroutine.task_context = task_context
    coroutine.context = context
    coroutine.awaitable = awaitable
    return coroutine


cdef dict _tasks = asyncio.tasks.__dict__  # nest_asyncio puts another Task there
cdef object _create_task = asyncio.BaseEventLoop.create_task
cdef bint _is_eager = sys.version_info >= (3, 12)


@cython.final
@cython.freelist(16)
cdef class _Beginning:
    # `begin_task`, on its way to the loop.
    cdef object coroutine
    cdef object call_result
    cdef object no_result
    cdef object context

    cdef int wake_in(self, object loop, bint directly) except -1:
        coroutine, call_result, context = self.coroutine, self.call_result, self.context
        if loop is None:
            return 0
        if not directly:
            loop.call_soon(
                begin_task, loop, coroutine, call_result, self.no_result, context=context
            )
            return 0
        try:
            if _takes_context:
                _begin(loop, coroutine, call_result, self.no_result, context)
            else:
                context.run(begin_task, loop, coroutine, call_result, self.no_result)
        except Exception as error:
            loop.call_exception_handler(
                {"message": f"Exception in callback {begin_task!r}", "exception": error}
            )
        return 0


cdef bint _takes_context = sys.version_info >= (3, 11)


def begin_task(loop, coroutine, call_result, no_result):
    """Run ``coroutine`` in a task of ``loop``, which runs on this thread.

    :param call_result: where the coroutine puts its outcome. If it can't begin, that says so.
    :param no_result: the error if it ends without.
    """
    _begin(loop, coroutine, call_result, no_result, None)


cdef int _begin(loop, coroutine, call_result, no_result, context) except -1:
    # `context`: the task's own; None for a copy of this one.
    cdef dict names
    cdef bint is_usual = type(loop).create_task is _create_task
    if type(coroutine) is _Drive:
        (<_Drive>coroutine).loop = loop
    try:
        if is_usual:
            names = loop.__dict__
            is_usual = (
                "create_task" not in names
                and names.get("_task_factory", _MISSING) is None
                and not names.get("_debug", True)
            )
        if not is_usual:
            if context is None:
                task = loop.create_task(coroutine)
            else:
                task = context.run(loop.create_task, coroutine)
        elif _is_eager:
            # A first step then and there saves a turn of the loop.
            task = _tasks["Task"](coroutine, loop=loop, context=context, eager_start=True)
        else:
            # The same by hand: the task has put its first step at the end of what is ready. (Unless
            # another thread has been quicker.)
            if _takes_context:
                task = _tasks["Task"](coroutine, loop=loop, context=context)
            else:
                task = _tasks["Task"](coroutine, loop=loop)
            ready = loop._ready
            handle = ready.pop()
            step = handle._callback
            if getattr(step, "__self__", None) is task:
                handle._context.run(step)  # what goes wrong in it, the task keeps
            else:
                ready.append(handle)
    except BaseException as error:
        if not call_result.done():
            call_result.set_exception(error)
        coroutine.close()
        raise
    if type(coroutine) is not _Drive:
        # Unlike ours, it can't tell if the task is cancelled before its first step; and a patched
        # main_wrap may fail. The thread must not wait for ever.
        task.add_done_callback(functools.partial(_ended, call_result, no_result))
    return 0


def _ended(call_result, no_result, task):
    if call_result.done():
        return
    error = asyncio.CancelledError() if task.cancelled() else task.exception()
    call_result.set_exception(error or RuntimeError(no_result))
