# What a task is suspended on while it awaits a `SyncCall`, or waits at a queue.
#
# A `_Wait` answers asyncio's future protocol, and that is all there is where asgiref has a concurrent
# Future, the future it is wrapped in, and a shield around that. One is made for each ``await`` and
# has its own fate: cancelled it says so once, as a shield does, and the call goes on and can be
# awaited again.
#
# The pure kernel has no such room: it takes a future of the loop's.

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
        cdef list pairs = [] if self.callback is None else [(self.callback, self.context)]
        cdef list kept
        if self.others is not None:
            pairs += self.others
        kept = [pair for pair in pairs if not pair[0] == callback]
        removed = len(pairs) - len(kept)
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
