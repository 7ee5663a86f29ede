# Message queues, as the shell's classes use them: each method that a task or a thread calls.

cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX

cdef object _QueueEmpty = _queue_errors.QueueEmpty
cdef object _QueueFull = _queue_errors.QueueFull
cdef object _check_timeout = _queue_errors.check_timeout
cdef object _either_number = _queue_errors.either_number
cdef object _may_block = _queue_errors.may_block
cdef object _most_items = _queue_errors.most_items


cdef class _Store(_Promises):
    """What items are put into, a queue or a broadcast, and who waits there."""

    cdef bint offer(self, object item) except -1:
        # Whether there was room now.
        raise NotImplementedError

    cdef _Waiter new_waiter(self, char kind, object item, Py_ssize_t most):
        cdef _Waiter waiter = _Waiter.__new__(_Waiter)
        waiter.queue = self
        waiter.kind = kind
        waiter.item = item
        waiter.most = most
        return waiter

    cdef _Waiter new_batch(self, object item, Py_ssize_t most):
        cdef _Waiter waiter = self.new_waiter(_GET, item, most)
        waiter.least = most
        return waiter

    def _offer(self, item):
        """Put ``item`` if there is room now; returns whether there was."""
        return self.offer(item)

    def _putting(self, item):
        """To be awaited: wait for room and put ``item``."""
        return self.new_waiter(_PUT, item, -1)

    def sync_put(self, item, block=True, timeout=None, *, blocking=None):
        """Put ``item``, on a thread that can wait for room up to ``timeout`` seconds.

        QueueFull if there is none by then, or at once if ``block`` is false; QueueShutDown after
        `shutdown`, also if that comes meanwhile; RuntimeError where it would have to wait and the
        thread runs an event loop.
        """
        if blocking is not None:
            block = _may_block(block, blocking)
        if timeout is not None and block:
            _check_timeout(timeout)
        if not self.offer(item):
            if not block:
                raise _QueueFull()
            if self.new_waiter(_PUT, item, -1).wait(timeout) is _NOTHING:
                raise _QueueFull()

    @property
    def is_shutdown(self):
        """Whether `shutdown` has been called."""
        with cython.critical_section(self):
            return self.is_down

    @property
    def getting(self):
        """How many wait to get or to peek."""
        if self.generation != _generation:
            self.forget()
        with cython.critical_section(self):
            return self.getters.size

    @property
    def putting(self):
        """How many wait to put."""
        if self.generation != _generation:
            self.forget()
        with cython.critical_section(self):
            return self.putters.size


cdef class QueueCore(_Store):
    """The items of a queue and who waits for them. `order`: 0 first in first out, 1 last in first
    out, 2 as the subclass's hooks have it, 3 the same with sizes of items (``_isize``).
    """

    cdef bint offer(self, object item) except -1:
        # Whether there was room now.
        cdef _Waiter woken
        cdef bint done, is_down, is_promised
        while True:
            woken = None
            done = False
            self.lock()
            try:
                with cython.critical_section(self):
                    is_down = self.is_down
                    if not is_down and (
                        self.limit <= 0
                        or (self.putters.first is None and self.has_room(self.units(item)))
                    ):
                        self.push(item)
                        self.unfinished += 1
                        done = True
                        if self.getters.first is not None:
                            woken = self.promise()
                    is_promised = self.promised.first is not None
            finally:
                self.unlock()
            if is_down:
                raise _QueueShutDown()
            if woken is not None:
                self.wake(woken)
            if done or not is_promised or not self.reclaim():
                return done

    cdef object fetch(self):
        # The first item, if there is one now, else NOTHING.
        cdef _Waiter woken
        cdef bint is_down, is_promised
        while True:
            woken = None
            item = _NOTHING
            is_down = False
            self.lock()
            try:
                with cython.critical_section(self):
                    if self.count > self.kept_items and self.getters.first is None:
                        item = self.pull()
                        if self.putters.first is not None:
                            woken = self.promise()
                    else:
                        is_down = self.is_down
                    is_promised = self.promised.first is not None or self.has_batches
            finally:
                self.unlock()
            if item is not _NOTHING:
                if woken is not None:
                    self.wake_or_put_back(woken, item, None)
                return item
            if not is_promised or not self.reclaim():
                if is_down:
                    raise _QueueShutDown()
                return _NOTHING

    cdef int overwrite(self, object item) except -1:
        cdef _Waiter woken = None
        cdef bint is_down = False
        cdef list dropped = []  # let go of outside of the section: their end may run anybody's code
        if self.order != _FIFO:
            raise _UnsupportedOperation(
                f"{type(self).__name__} cannot overwrite: only a queue whose items come first in, "
                "first out, without sizes and hooks, knows its oldest item"
            )
        self.lock()
        try:
            with cython.critical_section(self):
                is_down = self.is_down
                if not is_down:
                    while self.count > 0 and not self.has_room(1):
                        dropped.append(self.pull())
                        if self.unfinished > 0:
                            self.unfinished -= 1
                    while self.kept_slots > 0 and not self.has_room(1):
                        self.revoke(self.putters)
                    self.push(item)
                    self.unfinished += 1
                    while self.kept_items > self.count:
                        self.revoke(self.getters)
                    woken = self.promise()
        finally:
            self.unlock()
        if is_down:
            raise _QueueShutDown()
        if woken is not None:
            self.wake(woken)
        return 0

    cdef object look(self):
        # The same, left where it is.
        cdef bint is_down = False
        item = _NOTHING
        self.reclaim()
        self.lock()
        try:
            with cython.critical_section(self):
                if self.has_item() and self.getters.first is None:
                    self.check_peekable()
                    item = self.front()
                else:
                    is_down = self.is_down
        finally:
            self.unlock()
        if is_down:
            raise _QueueShutDown()
        return item

    cdef list fetch_many(self, Py_ssize_t most):
        cdef _Waiter woken = None
        cdef bint is_down = False
        cdef list many = []
        self.reclaim()
        self.lock()
        try:
            with cython.critical_section(self):
                if self.getters.first is None:
                    while self.has_item() and len(many) < most:
                        many.append(self.pull())
                is_down = self.is_down
                woken = self.promise()
        finally:
            self.unlock()
        if woken is not None:
            self.wake_or_put_back(woken, _NOTHING, many)
        if is_down and not many:
            raise _QueueShutDown()
        return many

    def _fetch(self):
        """Take the first item if there is one now, else return NOTHING."""
        return self.fetch()

    def _overwrite(self, item):
        """Put ``item``; where there is no room, the oldest items are dropped."""
        self.overwrite(item)

    def _fetch_many(self, n):
        """Take up to ``n`` items (None: all), as many as there are now."""
        return self.fetch_many(_most(n))

    def _getting(self):
        """To be awaited: wait for an item and take it."""
        return self.new_waiter(_GET, None, -1)

    def _getting_many(self, n):
        """To be awaited: wait for an item and take up to ``n`` (None: all)."""
        return self.new_waiter(_GET, None, _most(n))

    def _getting_batch(self, n):
        """To be awaited: wait for ``n`` items (None: all that come) and take them.

        Fewer, when there is no room for more or its time is over (`_Waiter.expire`): maybe none.
        """
        return self.new_batch(None, _most(n))

    def _peeking(self):
        """To be awaited: wait for an item and leave it where it is."""
        self.check_peekable()
        return self.new_waiter(_PEEK, None, -1)

    def _joining(self):
        """To be awaited: wait until nothing is unfinished."""
        return self.new_waiter(_JOIN, None, -1)

    def put_nowait(self, item, overwrite=False):
        """Put ``item``; QueueFull if there is no room, QueueShutDown after `shutdown`.

        With ``overwrite``, the oldest items are dropped where there is no room;
        UnsupportedOperation if the queue is not plainly first in, first out. From any thread, and
        from a signal handler or a finalizer, too.
        """
        if overwrite:
            self.overwrite(item)
        elif not self.offer(item):
            raise _QueueFull()

    def get_nowait(self):
        """Take the first item; QueueEmpty if there is none, QueueShutDown if none can come."""
        item = self.fetch()
        if item is _NOTHING:
            raise _QueueEmpty()
        return item

    def sync_get(self, block=True, timeout=None, *, blocking=None):
        """Take the first item, on a thread that can wait for it up to ``timeout`` seconds.

        QueueEmpty if there is none by then, or at once if ``block`` is false; QueueShutDown if the
        queue is empty and was shut down; RuntimeError where it would have to wait and the thread
        runs an event loop.
        """
        if blocking is not None:
            block = _may_block(block, blocking)
        if timeout is not None and block:
            _check_timeout(timeout)
        item = self.fetch()
        if item is _NOTHING and block:
            item = self.new_waiter(_GET, None, -1).wait(timeout)
        if item is _NOTHING:
            raise _QueueEmpty()
        return item

    def peek_nowait(self):
        """The first item, which stays; QueueEmpty if there is none.

        UnsupportedOperation if the queue stores its items in a way that has no first one.
        """
        item = self.look()
        if item is _NOTHING:
            raise _QueueEmpty()
        return item

    def sync_peek(self, block=True, timeout=None, *, blocking=None):
        """The first item, which stays, on a thread that can wait for it as in `sync_get`."""
        if blocking is not None:
            block = _may_block(block, blocking)
        if timeout is not None and block:
            _check_timeout(timeout)
        self.check_peekable()
        item = self.look()
        if item is _NOTHING and block:
            item = self.new_waiter(_PEEK, None, -1).wait(timeout)
        if item is _NOTHING:
            raise _QueueEmpty()
        return item

    def get_many_nowait(self, n=None):
        """Take all items, ``n`` at most, as a list; QueueEmpty if there is none."""
        cdef list many = self.fetch_many(_most(n))
        if not many:
            raise _QueueEmpty()
        return many

    def sync_get_many(
        self, n=None, block=True, timeout=None, *, blocking=None, max_items=None, max_wait=None
    ):
        """Wait for an item as in `sync_get`, and take all that are there, ``n`` at most.

        With ``max_wait``, take as many as come within so many seconds, which may be none; sooner if
        ``n`` are there, or there is no room for more. ``max_items`` is another name of ``n``.
        """
        cdef Py_ssize_t most
        if max_items is not None:
            n = _either_number(n, max_items)
        most = _most(n)
        if max_wait is not None:
            _check_timeout(max_wait)
            many = self.new_batch(None, most).wait(max_wait)
            return [] if many is _NOTHING else many
        if blocking is not None:
            block = _may_block(block, blocking)
        if timeout is not None and block:
            _check_timeout(timeout)
        many = self.fetch_many(most)
        if not many and block:
            many = self.new_waiter(_GET, None, most).wait(timeout)
        if many is _NOTHING or not many:
            raise _QueueEmpty()
        return many

    def sync_join(self, timeout=None):
        """Wait until as many items are done (`task_done`) as were put.

        On a thread that can wait, up to ``timeout`` seconds; TimeoutError after that.
        """
        if timeout is not None:
            _check_timeout(timeout)
        if self.new_waiter(_JOIN, None, -1).wait(timeout) is _NOTHING:
            raise TimeoutError(f"not all items were done within {timeout} seconds")

    def qsize(self):
        """How many items `get_nowait` could take now."""
        if self.generation != _generation:
            self.forget()
        with cython.critical_section(self):
            if self.has_batches and self.getters.first is not None:
                return 0  # they are the first batch's
            return max(0, self.count - self.kept_items)

    def _size(self):
        """The sum of the items' sizes: how many there are, unless they have sizes of their own."""
        if self.generation != _generation:
            self.forget()
        with cython.critical_section(self):
            return max(0, self.count - self.kept_items + self.extra)

    def _mutex(self):
        """The re-entrant lock that each step of the queue takes from now on."""
        return self.make_mutex()

    def _look_for_waiters(self):
        """Wake the waiters that can go on, as each step of the queue does."""
        self.wake(self.next_waiter())

    def empty(self):
        """Whether `get_nowait` would find nothing now."""
        return self.qsize() == 0

    def full(self):
        """Whether `put_nowait` would find no room now."""
        if self.generation != _generation:
            self.forget()
        with cython.critical_section(self):
            return not self.has_room(1)

    @property
    def maxsize(self):
        """How many items there is room for; 0 or less is no limit, as `math.inf` is. It may be
        changed: waiting puts get new room in order, and items beyond a smaller limit stay."""
        with cython.critical_section(self):
            return self.shown_limit

    @maxsize.setter
    def maxsize(self, value):
        cdef Py_ssize_t limit = _places(value)  # out here: it may run an object's methods
        with cython.critical_section(self):
            self.shown_limit = value
            self.limit = limit
        self.wake(self.next_waiter())

    @maxsize.deleter
    def maxsize(self):
        raise AttributeError("property 'maxsize' of a queue has no deleter")

    @property
    def unfinished_tasks(self):
        """How many items were put for which `task_done` has not been called."""
        with cython.critical_section(self):
            return self.unfinished

    def task_done(self):
        """One item that was taken is done with; ValueError if none is left."""
        cdef _Waiter woken = None
        cdef bint too_many = False
        self.lock()
        try:
            with cython.critical_section(self):
                if self.unfinished <= 0:
                    too_many = True
                else:
                    self.unfinished -= 1
                    if self.unfinished == 0:
                        woken = self.promise()
        finally:
            self.unlock()
        if too_many:
            raise ValueError("task_done() called too many times")
        if woken is not None:
            self.wake(woken)

    def clear(self):
        """Drop all items, as if they were taken and done with."""
        self.drop(False, _WAITING)

    def shutdown(self, immediate=False):
        """Refuse each put from now on, and each get once the queue is empty.

        A wait that is in vain raises QueueShutDown. With ``immediate``, the items are dropped as by
        `clear`. May be called again.
        """
        if immediate:
            self.drop(True, _TOLD)
        else:
            with cython.critical_section(self):
                self.is_down = True
            self.wake(self.next_waiter())

    cdef int drop(self, bint is_down, char state) except -1:
        cdef list items = []
        self.lock()
        try:
            with cython.critical_section(self):
                if is_down:
                    self.is_down = True
                items = self.drop_all(items, state)
        finally:
            self.unlock()
        self.wake(self.next_waiter())
        return 0  # the items are let go last: their end may run anybody's code


cdef Py_ssize_t _most(n) except -1:
    if n is None:
        return PY_SSIZE_T_MAX
    return _most_items(n)
