# A thread's inbox.
#
# A list with a mark where it begins; how the owner waits is in parking.pxi.
#
# **Handing over.** A thread that is woken while its waker holds the GIL only wakes up to wait for
# the GIL, and to be woken again: four switches in place of two, a third of a hop's time. So the
# waker lets go of the GIL for the moment of waking. With a call, only the first of one iteration of
# the loop does so: if the loop has not seen the last finished calls yet, calls had better gather.
# (Where there is no GIL there is nothing to let go of.)
#
# **Taking turns.** The thread that starts a top-level run, and the one that ends it, wake the other
# and lie down themselves: each unlocks the other (`to_wake`) when it has let go of the GIL for that.
#
# There is no end marker: closed and empty is the end. Nothing that `put` does can run a finalizer,
# so nothing can come between its steps.

cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1

cdef extern from *:
    """
    static CYTHON_INLINE PyObject *asgibridge_swap(PyObject *list, Py_ssize_t at, PyObject *item) {
        PyObject *old = PyList_GET_ITEM(list, at);
        Py_INCREF(item);
        PyList_SET_ITEM(list, at, item);
        return old;
    }
    /* Waiting for a lock can't be interrupted on Windows: come up for Ctrl-C four times a second. */
    #define ASGIBRIDGE_SHORT_PATIENCE 10000
    #ifdef _WIN32
      #define ASGIBRIDGE_PATIENCE 250000
      #define ASGIBRIDGE_LONG_PATIENCE 250000
    #else
      #define ASGIBRIDGE_PATIENCE -1
      #define ASGIBRIDGE_LONG_PATIENCE 500000
    #endif
    #ifdef Py_GIL_DISABLED
      #define ASGIBRIDGE_HAS_GIL 0
      /* A number that one thread counts up, and others read. */
      static void asgibridge_count_up(Py_ssize_t *count) {
          _Py_atomic_store_ssize_release(count, *count + 1);
      }
      #define asgibridge_counted(count) _Py_atomic_load_ssize_acquire(count)
    #else
      #define ASGIBRIDGE_HAS_GIL 1
      #define asgibridge_count_up(count) (++*(count))
      #define asgibridge_counted(count) (*(count))
    #endif
    """
    object asgibridge_swap(list, Py_ssize_t at, object item)  # nothing is let go of
    bint ASGIBRIDGE_HAS_GIL
    void asgibridge_count_up(Py_ssize_t* count)
    Py_ssize_t asgibridge_counted(Py_ssize_t* count)
    long long ASGIBRIDGE_PATIENCE, ASGIBRIDGE_SHORT_PATIENCE, ASGIBRIDGE_LONG_PATIENCE

# Long enough that a site with a request now and then keeps a warm worker, short enough that those of
# a burst are soon gone. What trio's thread cache takes.
IDLE_SECONDS = 10
# The same when the program has no event loop open any more, unless it has chosen IDLE_SECONDS itself:
# then nobody is likely to come, and a thread left over is in the way of a fork or a leak checker. A
# second is arbitrary: `asyncio.run` may follow `asyncio.run`.
LINGER_SECONDS = 1

# A sleep lock is locked, unless its owner has been woken and has not noticed yet.

cdef PyThread_type_lock new_sleep_lock() except NULL:
    cdef PyThread_type_lock lock = PyThread_allocate_lock()
    if lock is NULL:
        raise MemoryError("can't allocate lock")
    PyThread_acquire_lock(lock, 0)
    return lock


cdef void free_sleep_lock(PyThread_type_lock lock) noexcept:
    if lock is not NULL:
        # Some platforms complain about freeing a locked lock.
        PyThread_acquire_lock(lock, 0)
        PyThread_release_lock(lock)
        PyThread_free_lock(lock)


cdef void unlock(PyThread_type_lock lock, bint hand_over) noexcept:
    if ASGIBRIDGE_HAS_GIL and hand_over:
        with nogil:
            PyThread_release_lock(lock)
    else:
        PyThread_release_lock(lock)


cdef object take_first(list items, Py_ssize_t* first):
    # Of the items from `first` on, of which there is one at least; None lies before.
    cdef Py_ssize_t begin = first[0]
    cdef Py_ssize_t end = len(items)
    if begin + 1 == end:
        first[0] = 0
        item = items.pop()
        if begin:
            items.clear()  # of None
        return item
    item = asgibridge_swap(items, begin, None)
    begin += 1
    if begin >= 1024 and begin * 2 >= end:  # 1024 is arbitrary
        # Never empty: cut off what lies behind, before it grows without end.
        del items[:begin]  # of None
        begin = 0
    first[0] = begin
    return item


# Entering a `try` is a twentieth of what the kernel does for a hop: it saves the exception that is
# being handled. So `tell_loop` is called as if it raised nothing, and its -1 looked at.
ctypedef int (*_tells)(WakeChannel) noexcept


cdef int _raise_again() except -1:
    return -1  # what was raised is still set


cdef int report_what_was_raised() except -1:
    try:
        _raise_again()
    except BaseException as error:
        _threads.report_or_raise(error)
    return 0


@cython.final
@cython.freelist(16)  # one is made for each `async_to_sync` call
cdef class Inbox:
    """A closable first-in-first-out queue of calls with one consumer."""

    # Any thread may touch these under the critical section, but for what is the owner's. (What is
    # readonly is so for tests, of threads that are still.)
    cdef list items  # from `begin` on; None before
    cdef Py_ssize_t begin
    cdef bint is_parked  # whether the owner has to be woken; who finds it so clears it and unlocks
    cdef PyThread_type_lock sleep_lock
    cdef readonly bint closed
    cdef readonly Py_ssize_t posted
    cdef readonly Py_ssize_t finished  # counted by the owner
    # The `task_context` of the call that the owner runs, while that waits in `async_to_sync`.
    cdef object blocker
    # A worker's (see workers.pxi).
    cdef _Fingerprint fingerprint  # of the owner; None if this is not a worker that can be kept
    cdef size_t stack_size  # that the thread was started with, in bytes; 0: the system's
    cdef Py_ssize_t lease  # the number of the current or next one
    cdef bint is_ending  # the lease's last item has been put
    cdef bint is_clean  # nothing of the lease will be left if it ends now; if `is_parked`
    cdef bint is_resting  # parked, and no longer with a time-out
    cdef bint is_abandoned  # not to be handed on
    cdef object when_idle  # of a worker that its executor keeps; nothing changes it
    cdef long long idle_patience  # microseconds after which that is asked; -1: IDLE_SECONDS
    cdef Inbox to_wake  # of the owner: whom to unlock when lying down
    cdef bint has_baton  # see wakeups.pxi, to which this and the next belong
    cdef Inbox next_queued
    cdef bint is_frame  # of the owner: it waits in `serve_on`
    cdef object loop  # of the owner: what a frame waits for
    cdef Inbox outer  # of the owner: the inbox of the call that a frame is in, while it waits
    cdef object outer_blocker  # and what held that before
    cdef bint is_suspicious  # of the owner: calls were queued beneath when its wait began

    def __cinit__(self):
        self.items = []
        self.idle_patience = -1
        self.sleep_lock = new_sleep_lock()

    def __init__(self):
        pass  # refuses arguments

    def __dealloc__(self):
        free_sleep_lock(self.sleep_lock)

    def put(self, item):
        """Add ``item``, or return False if the inbox is closed. From any thread."""
        cdef Py_ssize_t lease
        with cython.critical_section(self):
            lease = self.lease
        return self.add(item, lease, False)

    cdef bint add(self, object item, Py_ssize_t lease, bint is_last) except -1:
        # `is_last`: the lease is over when this has been run.
        cdef bint accepted, hand_over = False
        cdef SyncCall call = None
        if type(item) is SyncCall:
            call = <SyncCall>item
            hand_over = call.is_first()
            call.put_into(self)
        with cython.critical_section(self):
            accepted = not self.closed and not self.is_ending and self.lease == lease
            if accepted:
                if call is not None:
                    if self.blocker is not None or (
                        call.channel is not None and call.channel.is_of_helper
                    ):
                        call.is_blocked = True
                    if not is_last:  # that is no user's
                        call.count()
                self.items.append(item)
                self.posted += 1
                self.is_ending = is_last
                if ASGIBRIDGE_HAS_GIL and self.is_parked and not self.is_frame:
                    self.is_parked = False
                    wake_worker(self, hand_over)
                else:
                    self.wake_owner(hand_over)
        return accepted

    cdef inline void wake_owner(self, bint hand_over) noexcept:
        # The last thing in a critical section: when handing over, others run before it returns.
        if self.is_parked:
            self.is_parked = False
            unlock(self.sleep_lock, hand_over)

    def close(self):
        """Refuse what comes from now on; `serve` ends when it has run the rest. From any thread."""
        self.shut()

    cdef int shut(self) except -1:
        with cython.critical_section(self):
            self.closed = True
            self.wake_owner(True)

    cdef bint shut_and_tell(self) except -1:
        # Returns whether the owner has to be unlocked, by the caller.
        cdef bint must_wake
        with cython.critical_section(self):
            self.closed = True
            must_wake = self.is_parked
            self.is_parked = False
        return must_wake

    def look_again(self):
        """Have the owner, if it waits with a time-out, begin that anew. From any thread."""
        with cython.critical_section(self):
            self.wake_owner(False)

    cdef int wake_other(self) except -1:
        cdef Inbox other = self.to_wake
        if other is not None:
            self.to_wake = None
            unlock(other.sleep_lock, True)

    def is_idle(self):
        """Whether all that was put has been run. From any thread."""
        with cython.critical_section(self):
            return self.posted == asgibridge_counted(&self.finished)

    cdef bint is_closed(self) except -1:
        with cython.critical_section(self):
            return self.closed

    def serve(self):
        """Run what comes, until the inbox is closed and empty. On the owning thread."""
        cdef _Thread thread = _this_thread()
        cdef Inbox outer = thread.served
        worker = threading.current_thread()
        thread.served = self
        if (
            ASGIBRIDGE_CAN_RENEW
            and type(worker) is _Worker
            and self.when_idle is None
            and not self.is_abandoned
        ):
            self.fingerprint = _Fingerprint.__new__(_Fingerprint)
            self.fingerprint.begin(worker)
        try:
            self.run()
        finally:
            thread.served = outer
            self.wake_other()
            if self.fingerprint is not None:
                self.fingerprint.end()

    cdef int serve_on(self, object loop) except -1:
        # By a frame, which waits for a task of `loop` and looks once in a while whether that can
        # still come to its end; or for something else, if that is None.
        self.begin_wait()
        self.is_frame = True
        self.loop = loop
        try:
            self.run()
        finally:
            self.loop = None  # or a task that outlives the frame would hold it, by its context
            self.end_wait()

    cdef int begin_wait(self) except -1:
        # A frame is about to wait: say so where the call came from that it is in.
        cdef SyncCall call = _this_thread().call
        if call is None or self.outer is not None or call.inbox is None:
            return 0
        self.outer = call.inbox
        self.outer_blocker = self.outer.change_blocker(call.task_context)
        self.is_suspicious = self.outer.has_items()

    cdef int end_wait(self) except -1:
        cdef Inbox outer = self.outer
        if outer is not None:
            self.outer = None
            blocker = self.outer_blocker
            self.outer_blocker = None
            outer.change_blocker(blocker)

    cdef object change_blocker(self, object blocker):
        cdef object old
        with cython.critical_section(self):
            old = self.blocker
            self.blocker = blocker
        return old

    cdef int look(self) except -1:
        cdef bint is_woken
        try:
            _deadlocks.look_for_ring(self.loop, _this_thread().call)
        except RuntimeError:
            # The loop was closed. Its task may have ended just before: then we have been woken.
            with cython.critical_section(self):
                is_woken = not self.is_parked
            if not is_woken:
                raise

    cdef bint has_items(self) except -1:
        with cython.critical_section(self):
            return self.begin < len(self.items)

    cdef object current_blocker(self):
        with cython.critical_section(self):
            return self.blocker

    cdef int run(self) except -1:
        cdef SyncCall call
        cdef WakeChannel channel
        cdef bint is_first
        while True:
            item = self.take()
            if item is None:
                return 0
            if self.fingerprint is not None:
                self.fingerprint.is_new = False
                if self.fingerprint.lease != self.lease:
                    self.fingerprint.lease = self.lease
                    _this_thread().home = Home.__new__(Home)
            if type(item) is SyncCall:
                call = <SyncCall>item
                item = None
                call.run()
                asgibridge_count_up(&self.finished)
                channel = call.take_channel()
                # Let go of the call before the loop hears of it: it holds the loop, which might
                # pass for known to somebody (`asgibridge._loops.kept`).
                is_first = channel is not None and channel.push(call)
                call = None
                if is_first and (<_tells>tell_loop)(channel) < 0:
                    # What another loop raises costs nobody else anything.
                    report_what_was_raised()
                channel = None
            else:
                item.run()
                asgibridge_count_up(&self.finished)
                try:
                    item.deliver()
                except BaseException as error:
                    # Nor does what a future's callback raises.
                    _threads.report_or_raise(error)
                item = None

    def drain(self):
        """Take out all that waits in the inbox now. From any thread."""
        cdef list items, fresh = []
        cdef Py_ssize_t begin
        with cython.critical_section(self):
            items = self.items
            self.items = fresh
            begin = self.begin
            self.begin = 0
        return items[begin:] if begin else items

    cdef object take(self):
        # The first item; waits for one. None at the end.
        cdef bint must_wait, has_looked = self.fingerprint is None
        while True:
            item = None
            must_wait = False
            with cython.critical_section(self):
                if self.begin < len(self.items):
                    item = take_first(self.items, &self.begin)
                elif not self.closed:
                    must_wait = True
                    self.is_parked = has_looked
            if not must_wait:
                self.wake_other()
                return item
            if has_looked:
                park(self)
            else:
                self.is_clean = self.fingerprint.is_new or self.fingerprint.look()
                has_looked = True


def set_idle_seconds(seconds):
    """How long a thread waits for its next lease from now on; those that wait begin anew."""
    global IDLE_SECONDS, LINGER_SECONDS
    IDLE_SECONDS = seconds
    LINGER_SECONDS = 1 if seconds == 10 else seconds
    for worker in _threads.workers():
        worker.look_again()
