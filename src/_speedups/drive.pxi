# On which event loop a thread's coroutine begins, how it begins, and how its outcome comes back.

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
    #if PY_VERSION_HEX >= 0x030A0000
      #define asgibridge_set_send(type, send) \
          (type)->tp_as_async->am_send = (sendfunc)(void (*)(void))(send)
    #else
      #define asgibridge_set_send(type, send) ((void)(type), (void)(send))
    #endif
    """
    void asgibridge_set_send(PyTypeObject* type, int (*send)(object, object, PyObject**) except -1)
    int asgibridge_send(object iterator, object value, PyObject** result)
    object asgibridge_take_error()
    bint PyCoro_CheckExact(object coroutine)
    object PyContext_CopyCurrent()


cdef object _iterator_of(awaitable):
    # What ``await`` iterates over.
    if PyCoro_CheckExact(awaitable) or (
        isinstance(awaitable, _GeneratorType) and awaitable.gi_code.co_flags & _ITERABLE_COROUTINE
    ):
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
    cdef object call, task_context, awaitable, task
    cdef list context
    cdef object iterator  # None before the first step
    cdef object loop  # which runs it, if that is known
    cdef bint is_over

    def __getattr__(self, name):
        # Whoever looks at the task sees the function it is about.
        if name in ("__name__", "__qualname__"):
            return getattr(self.awaitable, name, type(self).__name__)
        if name in ("cr_frame", "cr_code", "cr_await", "cr_running"):
            return getattr(self.awaitable, name, None)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    cpdef object send(self, value):
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
        if state == 0:
            self.finish(result, None)
            return None
        is_over[0] = False
        return result

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
            # another thread has been quicker.) Between the comparison and `pop` no other thread can
            # run; what is not ours is not taken out, because it might be put back too late.
            if _takes_context:
                task = _tasks["Task"](coroutine, loop=loop, context=context)
            else:
                task = _tasks["Task"](coroutine, loop=loop)
            ready = loop._ready
            handle = ready[len(ready) - 1]
            step = handle._callback
            if getattr(step, "__self__", None) is task:
                ready.pop()
                handle._context.run(step)  # what goes wrong in it, the task keeps
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
