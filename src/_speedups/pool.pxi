# An inbox that several threads serve.
#
# The lists and numbers change under the critical section; each thread that serves has a sleep lock.

@cython.final
cdef class _SleepLock:
    cdef PyThread_type_lock lock

    def __cinit__(self):
        self.lock = new_sleep_lock()

    def __dealloc__(self):
        free_sleep_lock(self.lock)


@cython.final
cdef class PoolInbox:
    """A closable first-in-first-out queue of calls with up to ``limit`` consumers."""

    # All of it of any thread, under the critical section.
    cdef list items  # from `begin` on; None before
    cdef Py_ssize_t begin
    cdef list parked  # of the threads that have to be woken; last in, first out
    cdef Py_ssize_t looking  # how many threads are free and will look into the inbox by themselves
    cdef Py_ssize_t threads
    cdef Py_ssize_t limit
    cdef readonly bint closed

    def __init__(self, limit):
        self.limit = limit

    def __cinit__(self, *args, **kwargs):
        self.items = []
        self.parked = []

    cdef inline Py_ssize_t waiting(self):
        return len(self.items) - self.begin

    def put(self, item):
        """Add ``item``, or return False if the inbox is closed. From any thread.

        Then ask `hire`.
        """
        cdef bint accepted
        cdef bint is_call = type(item) is SyncCall
        cdef bint hand_over = is_call and (<SyncCall>item).is_first()
        cdef _SleepLock sleep_lock = None
        with cython.critical_section(self):
            accepted = not self.closed
            if accepted:
                if is_call:
                    (<SyncCall>item).count()
                self.items.append(item)
                if self.parked and self.waiting() > self.looking:
                    sleep_lock = self.parked.pop()
                    self.looking += 1
        if sleep_lock is not None:
            unlock(sleep_lock.lock, hand_over)
        return accepted

    def hire(self, list ticket=None):
        """Whether one more thread should `serve`, because all are busy. From any thread.

        If so it counts as one that does; `dismiss` it if it can't be started.

        :param ticket: a list that gets an element if so, and nothing comes in between.
        """
        cdef bint wanted
        with cython.critical_section(self):
            wanted = self.threads < self.limit and (
                self.waiting() > self.looking + len(self.parked)
            )
            if wanted:
                self.threads += 1
                self.looking += 1
        if wanted and ticket is not None:
            ticket.append(True)
        return wanted

    def dismiss(self):
        """The thread that was to be hired did not start. On the thread that called `hire`."""
        with cython.critical_section(self):
            self.threads -= 1
            self.looking -= 1

    def close(self):
        """Refuse what comes from now on; `serve` ends when the rest has been run. Any thread."""
        cdef list parked, fresh = []
        with cython.critical_section(self):
            self.closed = True
            parked = self.parked
            self.parked = fresh
            self.looking += len(parked)
        for sleep_lock in parked:
            unlock((<_SleepLock>sleep_lock).lock, False)

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

    def qsize(self):
        """How many calls wait in the inbox."""
        with cython.critical_section(self):
            return self.waiting()

    def serve(self):
        """Run what comes, until the inbox is closed and empty. On each thread that was hired."""
        cdef _SleepLock sleep_lock = _SleepLock.__new__(_SleepLock)
        cdef bint is_free
        while True:
            item = self.take(sleep_lock)
            if item is None:
                return
            is_free = False
            try:
                if type(item) is SyncCall:
                    (<SyncCall>item).run()
                    # Before the task is told: what that sends next needs no other thread than this.
                    self.is_free()
                    is_free = True
                    (<SyncCall>item).deliver()
                else:
                    item.run()
                    item.deliver()  # which may run callbacks, and those may wait for another call
            except BaseException as error:
                # Not the call's: a callback has raised SystemExit, say. It costs nobody else
                # anything, and not even the thread.
                _threads.report_error(error)
            item = None
            if not is_free:
                self.is_free()

    cdef int is_free(self) except -1:
        with cython.critical_section(self):
            self.looking += 1

    cdef object take(self, _SleepLock sleep_lock):
        # The first item; waits for one. None at the end.
        while True:
            with cython.critical_section(self):
                self.looking -= 1
                if self.begin < len(self.items):
                    return take_first(self.items, &self.begin)
                if self.closed:
                    self.threads -= 1
                    return None
                self.parked.append(sleep_lock)
            with nogil:
                PyThread_acquire_lock_timed(sleep_lock.lock, -1, 0)
