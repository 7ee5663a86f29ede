# A waiter: one wait, of a task (a `_Wait`, see wait.pxi) or of a thread (a lock of the interpreter's,
# as in parking.pxi), and the line that it stands in. It is linked into its line, so it leaves from
# the middle at no cost, however many waits run out of time.
#
# A thread is woken with the GIL held on purpose: letting go of it would let the woken thread take
# its one item and sleep again, where it can find a hundred a moment later.

cdef object _running_loop = asyncio._get_running_loop
cdef object _monotonic = time.monotonic
cdef object _allocate_lock = threading._allocate_lock
# Seconds. Arbitrary: little beside what another process or the network takes to answer.
_LOOK_AGAIN = 0.001
cdef object _NOTHING = _queue_errors.NOTHING
cdef object _would_block_loop = _queue_errors.would_block_loop
cdef object _no_event_loop = _queue_errors.no_event_loop
cdef object _runs_trio = _queue_errors.runs_trio
cdef dict _modules = sys.modules

cdef enum:  # what a waiter is for
    _GET = 0
    _PEEK = 1
    _PUT = 2
    _JOIN = 3
    _SELECT = 4

cdef enum:  # a waiter's state
    _NEW = 0
    _WAITING = 1  # in its queue's line
    _PROMISED = 2  # an item or a slot is kept for it
    _TOLD = 3  # woken to look for itself, with nothing kept
    _OVER = 4

cdef enum:
    _NAP = 3600  # seconds; some platforms can't wait for very much longer at a time


@cython.final
@cython.freelist(4)
cdef class _Line:
    # Waiters in order. Of any thread, in the queue's section.
    cdef _Waiter first
    cdef _Waiter last
    cdef Py_ssize_t size

    cdef int append(self, _Waiter waiter) except -1:
        self.size += 1
        waiter.line = self
        waiter.before = self.last
        if self.last is None:
            self.first = waiter
        else:
            self.last.after = waiter
        self.last = waiter
        return 0

    cdef int prepend(self, _Waiter waiter) except -1:
        self.size += 1
        waiter.line = self
        waiter.after = self.first
        if self.first is None:
            self.last = waiter
        else:
            self.first.before = waiter
        self.first = waiter
        return 0

    cdef int remove(self, _Waiter waiter) except -1:
        # The caller holds the waiter.
        cdef _Waiter before = waiter.before, after = waiter.after
        self.size -= 1
        waiter.line = None
        waiter.before = waiter.after = None
        if before is None:
            self.first = after
        else:
            before.after = after
        if after is None:
            self.last = before
        else:
            after.before = before
        return 0


@cython.final
cdef class _Waiter(_Wait):
    # Of any thread, in the queue's section.
    cdef _Line line
    cdef _Waiter before
    cdef _Waiter after
    cdef char state
    cdef bint is_rung  # the sleep lock has been unlocked, or is about to be, and its owner has not noticed
    # Set before it is shown to others, and not changed any more.
    cdef _Promises queue
    cdef char kind
    cdef object item  # to be put; of the waiting side
    cdef Py_ssize_t most  # to be got; -1: a single item, not a list
    cdef Py_ssize_t units  # places that its item takes, or items that are kept for it; in the section
    cdef Py_ssize_t least  # items that it waits for; below 0: its time is over; in the section
    cdef _Waiter master  # who waits, if this is one of several waits: see selection.pxi
    cdef unsigned long ident
    cdef unsigned long generation
    cdef bint has_begun  # of the owner
    cdef WakeChannel channel  # of a task, whose loop is in `loop`
    cdef PyThread_type_lock sleep_lock  # of a thread

    def __cinit__(self):
        self.ident = PyThread_get_thread_ident()
        self.generation = _generation
        self.units = 1

    def __dealloc__(self):
        free_sleep_lock(self.sleep_lock)

    cdef bint sleep(self, object deadline) except -1:
        # Until rung (1) or the deadline (0), a time.monotonic() or None. On the owner's thread.
        cdef PyLockStatus status
        cdef long long microseconds, patience = ASGIBRIDGE_PATIENCE
        cdef double left
        if threading._allocate_lock is not _allocate_lock:
            return self.sleep_as_a_greenlet(deadline)
        if self.ident == threading.main_thread().ident:
            # 1. We look for signals, and find none. 2. A signal comes. 3. The thread begins to
            # wait: nothing interrupts this wait, so it must end by itself.
            patience = ASGIBRIDGE_LONG_PATIENCE
        while True:
            microseconds = patience
            if deadline is not None:
                left = <double>deadline - <double>_monotonic()
                if left <= 0:
                    return PyThread_acquire_lock(self.sleep_lock, 0)
                if left > _NAP:
                    left = _NAP
                if microseconds < 0 or left * 1e6 < microseconds:
                    microseconds = <long long>(left * 1e6) + 1
            with nogil:
                status = PyThread_acquire_lock_timed(self.sleep_lock, microseconds, 1)
            if status == PY_LOCK_ACQUIRED:
                return True
            PyErr_CheckSignals()

    cdef bint sleep_as_a_greenlet(self, object deadline) except -1:
        # `threading` was patched when the queue was made already. Waiting in compiled code would
        # stop every greenlet; so this one looks now and then, and lets others run between.
        while not PyThread_acquire_lock(self.sleep_lock, 0):
            if deadline is not None and _monotonic() >= deadline:
                return False
            time.sleep(_LOOK_AGAIN)  # looked up now: it is a greenlet's
        return True

    cdef bint ring(self) except -1:
        # Wakes the task or thread that waits; from any thread. False: the task's loop is closed, so
        # that the task will never look.
        cdef bint must_ring
        if self.master is not None:
            return self.master.ring()
        if self.sleep_lock is not NULL:
            with cython.critical_section(self.queue):
                must_ring = not self.is_rung
                self.is_rung = True
            if must_ring:
                unlock(self.sleep_lock, False)
            return True
        if self.loop.is_closed():
            return False
        if _running_loop() is self.loop:
            # By call_soon. The channel would resume the task here and now, in the middle of the
            # step of the task that rings.
            self.woken(False)
            return True
        if self.channel.generation != _generation:
            self.loop.call_soon_threadsafe(self.wake)
            return True
        return self.channel.post(self)

    cdef bint has_survived(self):
        # Whether its thread is in this process: each fork since then was by that thread.
        cdef unsigned long generation = self.generation
        while generation < _generation:
            if <object>_forkers[generation] != self.ident:
                return False
            generation += 1
        return True

    def expire(self):
        # Its time is over: a batch takes what is there, a select ends. On the thread that waits.
        self.queue.expire(self)

    def dismiss(self):
        # Ends the wait if nothing is promised to it: its outcome is NOTHING. From any thread.
        self.queue.dismiss(self)

    def is_in_line(self):
        # Whether it waits, and nothing is kept for it yet. From any thread.
        with cython.critical_section(self.queue):
            return self.state == _WAITING

    def wake(self):
        self.woken(False)

    cdef int woken(self, bint directly) except -1:
        # On the loop's thread.
        if not self.is_done:
            self.finish(directly)
        return 0

    def __await__(self):
        # On the loop's thread.
        loop = _running_loop()
        if loop is None:
            raise _no_event_loop()
        self.loop = loop
        self.channel = _wake_channel(loop)
        try:
            while self.queue.advance(self):
                self.is_done = False
                self._asyncio_future_blocking = True
                yield self
                if not self.is_done:
                    raise RuntimeError("await wasn't used with future")
        except BaseException:
            self.queue.withdraw(self)
            raise
        return self.take_outcome()

    cpdef object wait(self, object timeout):
        # As ``await``, on a thread, which sleeps meanwhile. NOTHING: the time-out came first.
        # RuntimeError if the thread runs an event loop.
        deadline = None
        if timeout is not None:
            deadline = _monotonic() + timeout
        self.sleep_lock = new_sleep_lock()
        try:
            while self.queue.advance(self):
                if timeout != 0 and (
                    _running_loop() is not None or ("trio" in _modules and _runs_trio())
                ):
                    raise _would_block_loop(self.kind)
                if not self.sleep(deadline):
                    if self.least > 1:
                        self.queue.expire(self)
                    elif self.queue.leave(self, True):
                        return _NOTHING
        except BaseException:
            self.queue.withdraw(self)
            raise
        return self.take_outcome()

    cdef object take_outcome(self):
        item = self.item
        self.item = None
        return None if self.kind == _PUT and item is not _NOTHING else item
