# A broadcast: what is put once, and read by each of its readers, at its own pace.
#
# The states, the guarantees and the reasons are in the pure twin; here is what is different.
#
# With the GIL nothing in a section runs Python code, so no finalizer and no signal handler comes in
# the middle of a step, and what it does needs no delay. Without it a list that grows or shrinks may
# run a finalizer: whatever is done to a list is done last, or with all numbers right.
#
# **The items** lie in the queue's list, from ``begin`` on, and the counts of readers in memory of
# our own beside it: ``at[i]`` stand at ``items[i]``, and ``at[len(items)]`` at the end. ``offset`` is
# the position of ``items[0]``, also of a place that is given up. Such places are cut off by a put, not
# by a get, so that what a get has taken can be put back. An item that nobody needs any more is the one that
# is just being returned, as long as nothing is kept for late comers: so nothing is let go of in the
# section.

from cpython.mem cimport PyMem_RawFree, PyMem_RawRealloc
from libc.string cimport memmove, memset

cdef extern from *:
    """
    /* The interpreter's ``await`` asks for a StopIteration, and takes the value out of it at once. To
       make one takes as long as all the rest, so one is used again and again, if nobody has kept it.
       It holds its value until the get goes. */
    static PyObject *asgibridge_end = NULL;
    static void asgibridge_end_with(PyObject *value) {
        PyObject *end;
        if (value == Py_None)
            return;  /* no exception says the same */
    #ifdef Py_GIL_DISABLED
        end = PyObject_CallFunctionObjArgs(PyExc_StopIteration, value, NULL);
    #else
        end = asgibridge_end;
        if (end == NULL || Py_REFCNT(end) != 1) {
            end = PyObject_CallNoArgs(PyExc_StopIteration);
            if (end == NULL)
                return;
            Py_XSETREF(asgibridge_end, end);
        }
        Py_INCREF(end);
        Py_INCREF(value);
        Py_XSETREF(((PyStopIterationObject *)end)->value, value);
    #endif
        if (end == NULL)
            return;
    #if PY_VERSION_HEX >= 0x030C0000
        PyErr_SetRaisedException(end);
    #else
        Py_INCREF(PyExc_StopIteration);
        PyErr_Restore(PyExc_StopIteration, end, NULL);
    #endif
    }
    static int (*asgibridge_step_of_get)(PyObject *get, PyObject *value, PyObject **result);
    static PyObject *asgibridge_next_of_get(PyObject *get) {
        PyObject *result = NULL;
        int state = asgibridge_step_of_get(get, Py_None, &result);
        if (state != 0)
            return state > 0 ? result : NULL;
        asgibridge_end_with(result);
        Py_DECREF(result);
        return NULL;
    }
    /* In place of a `__dealloc__`, around which Cython puts any exception aside, and back. */
    static destructor asgibridge_free_get;
    static int (*asgibridge_has_begun)(PyObject *get);
    static void asgibridge_drop_get(PyObject *get) {
        if (!asgibridge_has_begun(get)) {
            PyObject *type, *error, *traceback;
            PyErr_Fetch(&type, &error, &traceback);
            if (PyErr_WarnEx(PyExc_RuntimeWarning,
                             "coroutine 'Reader.get' was never awaited", 1) < 0)
                PyErr_WriteUnraisable(NULL);
            PyErr_Restore(type, error, traceback);
        }
    #ifndef Py_GIL_DISABLED
        PyObject *end = asgibridge_end;
        if (end != NULL && ((PyStopIterationObject *)end)->value != Py_None && Py_REFCNT(end) == 1) {
            Py_INCREF(Py_None);
            Py_SETREF(((PyStopIterationObject *)end)->value, Py_None);
        }
    #endif
        asgibridge_free_get(get);
    }
    static void asgibridge_set_step_of_get(PyTypeObject *type,
                                           int (*step)(PyObject *, PyObject *, PyObject **),
                                           int (*has_begun)(PyObject *)) {
        asgibridge_step_of_get = step;
        asgibridge_has_begun = has_begun;
        type->tp_iternext = asgibridge_next_of_get;
        asgibridge_free_get = type->tp_dealloc;
        type->tp_dealloc = asgibridge_drop_get;
        asgibridge_set_send(type, step);
    }
    """
    void asgibridge_set_step_of_get(
        PyTypeObject* type,
        int (*step)(object, object, PyObject**) except -1,
        int (*has_begun)(PyObject*) noexcept,
    )

cdef object _ReaderLagged = _queue_errors.ReaderLagged

cdef enum:  # what a put does where the slowest reader is too far behind
    _BLOCK = 0
    _DROP = 1
    _DISCONNECT = 2

_LAGS = "block", "drop_oldest", "disconnect"

cdef enum:  # a reader's state
    _OPEN = 0
    _CLOSED = 1
    _LAGGED = 2

cdef enum:  # in place of how many items a reader has before it
    _HAS_CLOSED = -1
    _HAS_LAGGED = -2


cdef class BroadcastCore(_Store):
    """What is put once and read by each reader. `lag` says what a put does where the slowest reader
    is `maxsize` items behind: ``block``, ``drop_oldest`` or ``disconnect``.
    """

    # Of any thread, in the section, with the guard held.
    cdef Py_ssize_t* at
    cdef Py_ssize_t size  # of `at`
    cdef Py_ssize_t offset
    cdef Py_ssize_t head  # the first position that a reader needs; `count` is from there to the end
    cdef Py_ssize_t floor  # who stands before this has lost what is before
    cdef Py_ssize_t open_readers
    cdef bint is_over  # shut down at once: readers get nothing more
    # Not changed any more.
    cdef char lag
    cdef Py_ssize_t replay

    def __cinit__(self):
        self.reserve(_CUT)

    def __init__(self, maxsize=0, lag="block", replay=0):
        if lag not in _LAGS:
            raise ValueError(f"lag={lag!r}: must be 'block', 'drop_oldest' or 'disconnect'")
        self.replay = replay
        if 0 < _places(maxsize) < self.replay:
            raise ValueError(f"replay={replay!r}: must not be more than maxsize={maxsize!r}")
        _Promises.__init__(self, maxsize)
        self.lag = _LAGS.index(lag)

    def __dealloc__(self):
        PyMem_RawFree(self.at)

    # In the section.

    cdef inline Py_ssize_t end(self) noexcept:
        return self.offset + len(self.items)

    cdef int reserve(self, Py_ssize_t size) except -1:
        cdef Py_ssize_t larger = self.size
        cdef Py_ssize_t* at
        if size <= larger:
            return 0
        while larger < size:
            larger = 2 * larger + _CUT
        at = <Py_ssize_t*>PyMem_RawRealloc(self.at, <size_t>larger * sizeof(Py_ssize_t))
        if at is NULL:
            raise MemoryError()
        memset(at + self.size, 0, <size_t>(larger - self.size) * sizeof(Py_ssize_t))
        self.at = at
        self.size = larger
        return 0

    cdef int add(self, object item, list dropped) except -1:
        # `dropped` takes what is to be let go of outside of the section; None where nothing can be.
        cdef Py_ssize_t cut, left
        while self.lag != _BLOCK and self.count > 0 and not self.has_room(1):
            self.leave_behind(dropped)
        if self.open_readers == 0 and self.replay == 0:
            return 0
        if self.begin >= _CUT and self.begin > len(self.items) - self.begin:
            # More places are given up than items are moved, as in `pull`. Of `at` the last place is
            # the end's.
            cut = self.begin
            left = len(self.items) - cut + 1
            memmove(self.at, self.at + cut, <size_t>left * sizeof(Py_ssize_t))
            memset(self.at + left, 0, <size_t>cut * sizeof(Py_ssize_t))
            self.offset += cut
            self.begin = 0
            PyList_SetSlice(self.items, 0, cut, NULL)
        self.reserve(len(self.items) + 2)
        self.items.append(item)
        self.reserve(len(self.items) + 1)  # if another has come between
        self.count = self.end() - self.head
        if self.replay > 0:
            self.trim(dropped)
        return 0

    cdef int leave_behind(self, list dropped) except -1:
        # The slowest readers, with the first item that they need.
        cdef Py_ssize_t i = self.head - self.offset
        cdef Py_ssize_t slowest = self.at[i]
        self.at[i] = 0
        if self.lag == _DROP:
            self.at[i + 1] += slowest
        else:
            self.open_readers -= slowest
        self.head += 1
        self.floor = self.head
        self.trim(dropped)
        return 0

    cdef int trim(self, list dropped) except -1:
        cdef Py_ssize_t end = self.end()
        while self.head < end and self.at[self.head - self.offset] == 0:
            self.head += 1
        self.count = end - self.head
        while (
            self.offset + self.begin < self.head
            and end - self.offset - self.begin > self.replay
        ):
            item = asgibridge_swap(self.items, self.begin, None)
            self.begin += 1
            dropped.append(item)
        return 0

    cdef inline Py_ssize_t find(self, ReaderCore reader) noexcept:
        # How many items the reader has before it, or why none.
        if self.is_over:
            return _HAS_CLOSED
        if reader.place < self.floor and reader.state == _OPEN:
            reader.lost += self.floor - reader.place
            reader.place = self.floor
            if self.lag == _DISCONNECT:
                reader.state = _LAGGED
        if reader.state == _LAGGED:
            return _HAS_LAGGED
        if reader.state == _CLOSED:
            return _HAS_CLOSED
        return self.end() - reader.place

    cdef inline object take(self, ReaderCore reader, list dropped):
        # The next item, which is there.
        cdef Py_ssize_t i = reader.place - self.offset
        item = self.items[i]
        self.at[i] -= 1
        self.at[i + 1] += 1
        reader.place += 1
        if self.at[i] == 0 and self.head == reader.place - 1:
            if self.replay > 0:
                self.trim(dropped)
            else:
                self.head += 1
                self.count -= 1
                self.begin = i + 1
                asgibridge_swap(self.items, i, None)  # we hold it
        return item

    cdef int drop_reader(self, ReaderCore reader, list dropped) except -1:
        cdef _Waiter waiter, after
        cdef bint was_open
        self.find(reader)  # which catches up
        was_open = reader.state == _OPEN and not self.is_over
        reader.state = _CLOSED
        if was_open:
            self.at[reader.place - self.offset] -= 1
            self.open_readers -= 1
            self.trim(dropped)
        # Who waits for an item of it is to see that, before all others.
        waiter = self.getters.first
        while waiter is not None:
            after = waiter.after
            if waiter.item is reader:
                waiter.units = -1
                self.getters.remove(waiter)
                self.getters.prepend(waiter)
            waiter = after
        return 0

    cdef _Waiter promise(self):
        cdef _Waiter waiter = self.getters.first
        if waiter is not None and (self.is_down or waiter.units < self.end()):
            return _tell(self.getters)
        waiter = self.putters.first
        if waiter is not None:
            if self.is_down:
                return _tell(self.putters)
            if self.has_room(1):
                self.putters.remove(waiter)
                self.keep_for(waiter)
                self.kept_slots += 1
                return waiter
        return None

    # Outside of the section.

    cdef bint advance(self, _Waiter waiter) except -1:
        cdef bint may, must_wait = False, is_down = False, is_over = False, has_taken = False
        cdef Py_ssize_t there = 0
        cdef _Waiter woken = None
        cdef ReaderCore reader = None
        cdef list many = None, dropped = []
        cdef object item = None
        if waiter.kind == _GET:
            if waiter.most >= 0:
                many = []
        if not waiter.has_begun:
            waiter.has_begun = True
            while self.reclaim():
                pass
        self.lock()
        try:
            with cython.critical_section(self):
                waiter.is_rung = False
                if waiter.state == _OVER:
                    is_over = True
                elif waiter.state == _WAITING and waiter.least >= 0:
                    must_wait = True
                elif waiter.kind == _PUT:
                    is_down = self.is_down
                    may = waiter.state == _PROMISED or (
                        self.putters.first is None and self.has_room(1)
                    )
                    if waiter.state == _PROMISED:
                        self.keep_no_more(waiter)
                    waiter.state = _OVER
                    if is_down:
                        pass
                    elif may:
                        self.add(waiter.item, dropped)
                    else:
                        waiter.state = _WAITING
                        self.putters.append(waiter)
                        must_wait = True
                else:
                    reader = <ReaderCore>waiter.item
                    if waiter.state == _WAITING:
                        self.getters.remove(waiter)
                    waiter.state = _OVER
                    there = self.find(reader)
                    if there > 0 and (
                        waiter.least <= 1 or self.are_enough(there, waiter.least)
                    ):
                        has_taken = True
                        if many is None:
                            item = self.take(reader, dropped)
                        else:
                            while there > 0 and len(many) < waiter.most:
                                many.append(self.take(reader, dropped))
                                there = self.find(reader)
                    elif there >= 0:
                        is_down = self.is_down
                        if not is_down and waiter.least >= 0:
                            waiter.state = _WAITING
                            waiter.units = self.end()
                            self.getters.append(waiter)
                            must_wait = True
                if not must_wait and not is_over:
                    woken = self.promise()
        finally:
            self.unlock()
        if is_over or must_wait:
            return must_wait
        if waiter.kind == _PUT:
            if woken is not None:
                self.wake(woken)
        else:
            if many is None and has_taken:
                waiter.item = item
            else:
                waiter.item = many  # empty, if its time is over
            if woken is not None:
                if many is None:
                    many = [item] if has_taken else []
                self.wake_or_go_back(woken, reader, many)
        if there < 0 and not has_taken:
            waiter.item = None
            self.raise_ended(there)
        if is_down:
            waiter.item = None
            raise _QueueShutDown()
        return False

    cdef int raise_ended(self, Py_ssize_t why) except -1:
        if why == _HAS_LAGGED:
            raise _ReaderLagged(
                f"the broadcast went on without this reader, which was {self.limit} items behind: "
                "read faster, raise maxsize=, or choose another lag="
            )
        raise _QueueShutDown()

    cdef int wake_or_go_back(self, _Waiter woken, ReaderCore reader, list got) except -1:
        # As `wake_or_put_back`.
        cdef Py_ssize_t place, i
        try:
            self.wake(woken)
        except BaseException:
            self.lock()
            try:
                with cython.critical_section(self):
                    for item in reversed(got):
                        place = reader.place - 1
                        i = place - self.offset
                        if (
                            self.is_over
                            or reader.state != _OPEN
                            or place < self.floor
                            or i < 0
                            or i < self.begin - 1
                        ):
                            reader.lost += 1
                            continue
                        if i < self.begin:
                            asgibridge_swap(self.items, i, item)
                            self.begin = i
                        self.at[i + 1] -= 1
                        self.at[i] += 1
                        self.head = min(self.head, place)
                        self.count = self.end() - self.head
                        reader.place = place
            finally:
                self.unlock()
            raise
        return 0

    cdef int enlist(self, _Waiter waiter) except -1:
        # Nothing is promised here: who may take something looks again.
        cdef int chance = _WAITS
        cdef Py_ssize_t there
        self.lock()
        try:
            with cython.critical_section(self):
                if waiter.state != _WAITING:
                    waiter.state = _NEW
                    there = self.find(<ReaderCore>waiter.item)
                    if there > 0 or there == _HAS_LAGGED:
                        chance = _MAY
                    elif there < 0 or self.is_down:
                        chance = _NEVER
                    else:
                        waiter.state = _WAITING
                        waiter.units = self.end()
                        self.getters.append(waiter)
        finally:
            self.unlock()
        return chance

    cdef int join(self, ReaderCore reader, Py_ssize_t replay) except -1:
        # The reader stands at the end, or up to `replay` items before.
        cdef Py_ssize_t place
        self.lock()
        try:
            with cython.critical_section(self):
                place = max(self.end() - replay, self.offset + self.begin, self.floor)
                reader.place = place
                reader.state = _OPEN
                if not self.is_over:
                    self.at[place - self.offset] += 1
                    self.open_readers += 1
                    self.head = min(self.head, place)
                    self.count = self.end() - self.head
        finally:
            self.unlock()
        return 0

    cdef bint offer(self, object item) except -1:
        # Whether there was room now.
        cdef _Waiter woken
        cdef bint done, is_down, is_promised
        cdef list dropped = None
        if self.lag != _BLOCK or self.replay > 0:
            dropped = []
        while True:
            woken = None
            done = False
            self.lock()
            try:
                with cython.critical_section(self):
                    is_down = self.is_down
                    if not is_down and (
                        self.limit <= 0
                        or self.lag != _BLOCK
                        or (self.putters.first is None and self.has_room(1))
                    ):
                        self.add(item, dropped)
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

    def put_nowait(self, item):
        """Put ``item`` for all readers; QueueFull if there is no room.

        QueueShutDown after `shutdown`. From any thread, also from a signal handler or a finalizer.
        """
        if not self.offer(item):
            raise _QueueFull()

    def shutdown(self, immediate=False):
        """Refuse each put from now on, and each get of a reader that has got all there is.

        A wait that is in vain raises QueueShutDown. With ``immediate``, readers get nothing more.
        May be called again.
        """
        cdef bint at_once = immediate
        cdef list fresh = [], items = None
        self.lock()
        try:
            with cython.critical_section(self):
                self.is_down = True
                if at_once and not self.is_over:
                    self.is_over = True  # from here on nobody looks for an item
                    items = self.items
                    self.items = fresh
                    self.begin = self.count = self.open_readers = 0
        finally:
            self.unlock()
        self.wake(self.next_waiter())

    @property
    def maxsize(self):
        """How many items the slowest reader may be behind; 0 or less is no limit."""
        return self.shown_limit

    @property
    def readers(self):
        """How many readers are open."""
        with cython.critical_section(self):
            return self.open_readers

    def qsize(self):
        """How many items the slowest reader is behind."""
        with cython.critical_section(self):
            return self.count


cdef class ReaderCore:
    """A reader of a broadcast: of what is put from now on, and up to `replay` items from before."""

    cdef BroadcastCore broadcast  # not changed any more
    # In the broadcast's section.
    cdef Py_ssize_t place
    cdef Py_ssize_t lost
    cdef char state

    def __cinit__(self, BroadcastCore broadcast not None, replay=0):
        self.broadcast = broadcast
        self.state = _CLOSED

    def __init__(self, broadcast, replay=0):
        self.broadcast.join(self, replay)

    cdef object fetch(self, bint by_thread):
        # The next item, if there is one now, else NOTHING.
        cdef BroadcastCore broadcast = self.broadcast
        cdef _Waiter woken = None
        cdef Py_ssize_t there = 0, before
        cdef bint is_down = False
        cdef list dropped = None
        if broadcast.replay > 0:
            dropped = []
        item = None
        broadcast.lock()
        try:
            with cython.critical_section(broadcast):
                there = broadcast.find(self)
                if there > 0:
                    before = broadcast.count
                    item = broadcast.take(self, dropped)
                    # Only a place that has become free is news to who waits to put. A thread looks
                    # all the same: without, ten readers that share a processor with their producer
                    # were a tenth slower, because it was taken off more often as it woke them.
                    if broadcast.putters.first is not None and (
                        by_thread or broadcast.count < before
                    ):
                        woken = broadcast.promise()
                else:
                    is_down = broadcast.is_down
        finally:
            broadcast.unlock()
        if there > 0:
            if woken is not None:
                broadcast.wake_or_go_back(woken, self, [item])
            return item
        if there < 0:
            broadcast.raise_ended(there)
        if is_down:
            raise _QueueShutDown()
        return _NOTHING

    cdef list fetch_many(self, Py_ssize_t most):
        cdef BroadcastCore broadcast = self.broadcast
        cdef _Waiter woken = None
        cdef Py_ssize_t there = 0
        cdef bint is_down = False
        cdef list dropped = [], many = []
        broadcast.lock()
        try:
            with cython.critical_section(broadcast):
                there = broadcast.find(self)
                while there > 0 and len(many) < most:
                    many.append(broadcast.take(self, dropped))
                    there = broadcast.find(self)
                if many and broadcast.putters.first is not None:
                    woken = broadcast.promise()
                is_down = broadcast.is_down
        finally:
            broadcast.unlock()
        if woken is not None:
            broadcast.wake_or_go_back(woken, self, many)
        if there < 0 and not many:
            broadcast.raise_ended(there)
        if is_down and not many:
            raise _QueueShutDown()
        return many

    def _fetch(self):
        """Take the next item if there is one now, else return NOTHING."""
        return self.fetch(False)

    def _fetch_many(self, n):
        """Take up to ``n`` items (None: all), as many as there are now."""
        return self.fetch_many(_most(n))

    def _getting(self):
        """To be awaited: wait for an item and take it."""
        return self.broadcast.new_waiter(_GET, self, -1)

    def _getting_many(self, n):
        """To be awaited: wait for an item and take up to ``n`` (None: all)."""
        return self.broadcast.new_waiter(_GET, self, _most(n))

    def _getting_batch(self, n):
        """To be awaited: wait for ``n`` items (None: all that come) and take them.

        Fewer, when no more would come or its time is over (`_Waiter.expire`): maybe none.
        """
        return self.broadcast.new_batch(self, _most(n))

    def get(self):
        """Take the next item, waiting for one. To be awaited, on any event loop."""
        cdef _Get get = _Get.__new__(_Get)
        get.reader = self
        return get

    def get_nowait(self):
        """Take the next item; QueueEmpty if there is none, QueueShutDown if none can come.

        ReaderLagged if the broadcast has ended this reader.
        """
        item = self.fetch(False)
        if item is _NOTHING:
            raise _QueueEmpty()
        return item

    def sync_get(self, block=True, timeout=None):
        """Take the next item, on a thread that can wait for it up to ``timeout`` seconds.

        QueueEmpty if there is none by then, or at once if ``block`` is false; QueueShutDown if none
        can come; ReaderLagged if the broadcast has ended this reader; RuntimeError where it would
        have to wait and the thread runs an event loop.
        """
        if timeout is not None and block:
            _check_timeout(timeout)
        item = self.fetch(True)
        if item is _NOTHING and block:
            item = self.broadcast.new_waiter(_GET, self, -1).wait(timeout)
        if item is _NOTHING:
            raise _QueueEmpty()
        return item

    cdef Py_ssize_t look(self) except -9:
        # How many items it has before it, or why none.
        cdef BroadcastCore broadcast = self.broadcast
        cdef Py_ssize_t there = 0
        broadcast.lock()
        try:
            with cython.critical_section(broadcast):
                there = broadcast.find(self)
        finally:
            broadcast.unlock()
        return there

    def qsize(self):
        """How many items `get_nowait` could take now."""
        return max(0, self.look())

    @property
    def missed(self):
        """How many items were dropped before this reader came to them."""
        self.look()  # which catches up
        return self.lost

    @property
    def closed(self):
        """Whether it was closed, or the broadcast has ended it."""
        self.look()  # which catches up
        return self.state != _OPEN

    def close(self):
        """Read no more; nobody waits for this reader. A get that waits raises QueueShutDown.

        From any thread, and from a signal handler or a finalizer, too. May be called again.
        """
        cdef BroadcastCore broadcast = self.broadcast
        cdef _Waiter woken = None
        cdef list dropped = []
        if broadcast is None:  # its constructor has raised
            return
        broadcast.lock()
        try:
            with cython.critical_section(broadcast):
                broadcast.drop_reader(self, dropped)
                woken = broadcast.promise()
        finally:
            broadcast.unlock()
        if woken is not None:
            broadcast.wake(woken)


@cython.final
@cython.freelist(16)
cdef class _Get:
    # The coroutine of `ReaderCore.get`. Of the loop's thread.
    cdef ReaderCore reader
    cdef object iterator  # what it waits for
    cdef bint has_begun

    def __getattr__(self, name):
        # Whoever looks at the task sees the function it is about.
        if name in ("__name__", "__qualname__"):
            return "Reader.get"
        if name == "cr_await":
            return self.iterator
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __await__(self):
        if self.has_begun:
            raise RuntimeError("cannot reuse already awaited coroutine")
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value):
        cdef PyObject* found = NULL
        cdef int state = _step_of_get(self, value, &found)
        result = <object>found
        Py_DECREF(result)
        if state == 0:
            raise StopIteration(result)
        return result

    def throw(self, type, value=None, traceback=None):
        cdef object iterator = self.iterator
        if iterator is None:
            if self.has_begun:
                raise RuntimeError("cannot reuse already awaited coroutine")
            self.has_begun = True
            raise type if value is None else value
        try:
            if value is None and traceback is None:  # the other form is deprecated since 3.12
                return iterator.throw(type)
            return iterator.throw(type, value, traceback)
        except BaseException:
            self.iterator = None
            raise

    def close(self):
        cdef object iterator = self.iterator
        self.has_begun = True
        self.iterator = None
        if iterator is not None:
            iterator.close()


cdef int _step_of_get(object get, object value, PyObject** result) except -1:
    # 1: it waits for `*result`; 0: it has got that.
    cdef _Get self = <_Get>get
    cdef object item
    cdef int state
    if self.iterator is None:
        if self.has_begun:
            raise RuntimeError("cannot reuse already awaited coroutine")
        if value is not None:
            raise TypeError("can't send non-None value to a just-started coroutine")
        self.has_begun = True
        item = self.reader.fetch(False)
        if item is not _NOTHING:
            Py_INCREF(item)
            result[0] = <PyObject*>item
            return 0
        self.iterator = self.reader._getting().__await__()
    state = asgibridge_send(self.iterator, value, result)
    if state <= 0:
        self.iterator = None
    return state


cdef int _has_begun(PyObject* get) noexcept:
    # It is about to go: nothing here may take a reference.
    return (<_Get>get).has_begun


asgibridge_set_step_of_get(<PyTypeObject*>_Get, _step_of_get, _has_begun)
if hasattr(inspect, "markcoroutinefunction"):  # from 3.12 on; else the shell has a `get` of its own
    inspect.markcoroutinefunction(ReaderCore.get)
