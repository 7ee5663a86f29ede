# Message queues.
#
# The state machine, its guarantees and the reasons are written in the pure twin; here is what is
# different.
#
# **Items** lie in a list with a mark where they begin, as in `queue.SimpleQueue`. Nothing that is
# done with it makes an object that the collector counts, so no finalizer comes in the middle; and
# the collector sees the items, as it would not in memory of our own.
#
# **A section** is the queue's critical section: with the GIL nothing at all, because nothing in it
# runs Python code or lets go of the GIL. Without the GIL that is not enough: to let go of a
# reference to an object that another thread has made can mean to wait for a lock of CPython's, with
# which it is handed to its owner, and who waits for a lock lets go of all critical sections. Turns
# are let go of in here, by others than made them. So who changes more than one thing holds the
# queue's guard beside it (`lock`), which nobody lets go of; the critical section alone is for those
# that look at one thing or set one.
#
# Only a queue with hooks (a subclass that stores the items itself, as the priority queue does) has
# a lock of `threading` in place of the guard, and runs the hooks with it held: exclusive use is
# what it promises them.
#
# **A turn** is all there is to a wait, of a task (a `_Wait`, see calls.pxi) or of a thread (a lock
# of the interpreter's, as in inbox.pxi). It is linked into its line, so it leaves from the middle
# at no cost, however many waits run out of time. Whose loop is closed can't be seen inside a
# section (asking runs Python code), so a turn is promised first and the promise broken afterwards.
#
# A thread is woken with the GIL held on purpose: letting go of it would let the woken thread take
# its one item and lie down again, where it can find a hundred a moment later.

from asgibridge._process import queue_errors as _queues

cdef extern from *:
    """
    #ifdef Py_GIL_DISABLED
      /* Re-entrant, as critical sections are: a list that grows may free what others have left
         behind, and with that run a finalizer, which may use any queue. */
      typedef struct {
          PyMutex mutex;
          size_t owner;
          Py_ssize_t depth;
          Py_ssize_t renewed;  /* in which generation */
      } asgibridge_guard;
      /* In a forked child, by the first that comes: CPython may have handed either lock to a thread
         of the parent that had not woken up to it, and is not here. 0: another one does it. */
      static int asgibridge_guard_renew(asgibridge_guard *guard, PyObject *queue,
                                        unsigned long generation) {
          Py_ssize_t before = _Py_atomic_load_ssize_relaxed(&guard->renewed);
          if (before == (Py_ssize_t)generation ||
              !_Py_atomic_compare_exchange_ssize(&guard->renewed, &before, (Py_ssize_t)generation))
              return 0;
          memset(&guard->mutex, 0, sizeof guard->mutex);
          memset(&queue->ob_mutex, 0, sizeof queue->ob_mutex);
          guard->owner = 0;
          guard->depth = 0;
          return 1;
      }
      #define asgibridge_guard_begin(guard, generation) ((guard)->renewed = (Py_ssize_t)(generation))
      static void asgibridge_guard_lock(asgibridge_guard *guard) {
          size_t me = (size_t)PyThread_get_thread_ident();
          if ((size_t)_Py_atomic_load_ssize_relaxed((Py_ssize_t *)&guard->owner) == me) {
              guard->depth++;
              return;
          }
          PyMutex_Lock(&guard->mutex);
          _Py_atomic_store_ssize_relaxed((Py_ssize_t *)&guard->owner, (Py_ssize_t)me);
      }
      static void asgibridge_guard_unlock(asgibridge_guard *guard) {
          if (guard->depth > 0) {
              guard->depth--;
              return;
          }
          _Py_atomic_store_ssize_relaxed((Py_ssize_t *)&guard->owner, 0);
          PyMutex_Unlock(&guard->mutex);
      }
    #else
      typedef char asgibridge_guard;
      #define asgibridge_guard_renew(guard, queue, generation) ((void)(guard), 1)
      #define asgibridge_guard_begin(guard, generation) ((void)(guard))
      #define asgibridge_guard_lock(guard) ((void)(guard))
      #define asgibridge_guard_unlock(guard) ((void)(guard))
    #endif
    """
    ctypedef struct asgibridge_guard:
        pass
    bint asgibridge_guard_renew(asgibridge_guard* guard, object queue, unsigned long generation)
    void asgibridge_guard_begin(asgibridge_guard* guard, unsigned long generation)
    void asgibridge_guard_lock(asgibridge_guard* guard)
    void asgibridge_guard_unlock(asgibridge_guard* guard)

cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX
    int PyList_SetSlice(object list, Py_ssize_t low, Py_ssize_t high, PyObject* items) except -1

cdef object _QueueEmpty = _queues.QueueEmpty
cdef object _QueueFull = _queues.QueueFull
cdef object _QueueShutDown = _queues.QueueShutDown
cdef object _UnsupportedOperation = _queues.UnsupportedOperation
cdef object _NOTHING = _queues.NOTHING
cdef object _check_timeout = _queues.check_timeout
cdef object _running_loop = asyncio._get_running_loop
cdef object _monotonic = time.monotonic
cdef object _sleep = time.sleep
cdef object _RLock = threading.RLock
cdef object _allocate_lock = threading._allocate_lock


cdef enum:
    _FIFO = 0
    _LIFO = 1
    _HOOKED = 2

cdef enum:  # what a turn is for
    _GET = 0
    _PEEK = 1
    _PUT = 2
    _JOIN = 3

cdef enum:  # a turn's state
    _NEW = 0
    _WAITING = 1  # in its queue's line
    _PROMISED = 2  # an item or a slot is kept for it
    _TOLD = 3  # woken to look for itself, with nothing kept
    _OVER = 4

cdef enum:
    _CUT = 64  # places of items that were taken before anything is moved
    _NAP = 3600  # seconds; some platforms can't wait for very much longer at a time


@cython.final
@cython.freelist(4)
cdef class _Line:
    # Turns in order. Of any thread, in the queue's section.
    cdef _Turn first
    cdef _Turn last
    cdef Py_ssize_t size

    cdef int append(self, _Turn turn) except -1:
        self.size += 1
        turn.line = self
        turn.before = self.last
        if self.last is None:
            self.first = turn
        else:
            self.last.after = turn
        self.last = turn
        return 0

    cdef int prepend(self, _Turn turn) except -1:
        self.size += 1
        turn.line = self
        turn.after = self.first
        if self.first is None:
            self.last = turn
        else:
            self.first.before = turn
        self.first = turn
        return 0

    cdef int remove(self, _Turn turn) except -1:
        # The caller holds the turn.
        cdef _Turn before = turn.before, after = turn.after
        self.size -= 1
        turn.line = None
        turn.before = turn.after = None
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
cdef class _Turn(_Wait):
    # Of any thread, in the queue's section.
    cdef _Line line
    cdef _Turn before
    cdef _Turn after
    cdef char state
    cdef bint is_rung  # the bed has been unlocked, or is about to be, and its owner has not noticed
    # Set before it is shown to others, and not changed any more.
    cdef QueueCore queue
    cdef char kind
    cdef object item  # to be put; of the waiting side
    cdef Py_ssize_t most  # to be got; -1: a single item, not a list
    cdef unsigned long ident
    cdef unsigned long generation
    cdef bint has_begun  # of the owner
    cdef WakeChannel channel  # of a task, whose loop is in `loop`
    cdef PyThread_type_lock bed  # of a thread

    def __cinit__(self):
        self.ident = PyThread_get_thread_ident()
        self.generation = _generation

    def __dealloc__(self):
        if self.bed is not NULL:
            # Some platforms complain about freeing a locked lock.
            PyThread_acquire_lock(self.bed, 0)
            asgibridge_unlock(self.bed, False)
            PyThread_free_lock(self.bed)

    cdef int make_bed(self) except -1:
        self.bed = PyThread_allocate_lock()
        if self.bed is NULL:
            raise MemoryError("can't allocate lock")
        PyThread_acquire_lock(self.bed, 0)
        return 0

    cdef bint sleep(self, object deadline) except -1:
        # Until rung (1) or the deadline (0), a time.monotonic() or None. On the owner's thread.
        cdef PyLockStatus status
        cdef long long microseconds, patience = ASGIBRIDGE_PATIENCE
        cdef double left
        if self.ident == threading.main_thread().ident:
            # Never for ever: a signal that comes when we have looked for signals, and are not in the
            # system call yet, does not interrupt that.
            patience = ASGIBRIDGE_LONG_PATIENCE
        while True:
            microseconds = patience
            if deadline is not None:
                left = <double>deadline - <double>_monotonic()
                if left <= 0:
                    return PyThread_acquire_lock(self.bed, 0)
                if left > _NAP:
                    left = _NAP
                if microseconds < 0 or left * 1e6 < microseconds:
                    microseconds = <long long>(left * 1e6) + 1
            with nogil:
                status = PyThread_acquire_lock_timed(self.bed, microseconds, 1)
            if status == PY_LOCK_ACQUIRED:
                return True
            PyErr_CheckSignals()

    def is_in_line(self):
        # Whether it waits, and nothing is kept for it yet. From any thread.
        cdef bint is_waiting
        with cython.critical_section(self.queue):
            is_waiting = self.state == _WAITING
        return is_waiting

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
            raise RuntimeError("no running event loop: use the sync_ methods in a plain thread")
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
        return self.queue.take_outcome(self)


cdef class QueueCore:
    """The items of a queue and who waits for them. `order`: 0 first in first out, 1 last in first
    out, 2 as the subclass's hooks have it.
    """

    # All of it of any thread, in the section, and what is more than one step with the guard or the
    # mutex held.
    cdef asgibridge_guard guard
    cdef list items  # from `begin` on; None before
    cdef Py_ssize_t begin
    cdef Py_ssize_t count
    cdef Py_ssize_t limit
    cdef Py_ssize_t kept_items  # for turns that are promised one
    cdef Py_ssize_t kept_slots
    cdef Py_ssize_t unfinished
    cdef bint is_down
    cdef bint is_in_hook
    cdef _Line getters
    cdef _Line putters
    cdef _Line joiners
    cdef _Line promised
    cdef unsigned long generation
    # Not changed any more, but for a new mutex in a forked child.
    cdef char order
    cdef object mutex  # of a queue with hooks, else None

    def __cinit__(self, *args, **kwargs):
        self.items = []
        self.getters = _Line.__new__(_Line)
        self.putters = _Line.__new__(_Line)
        self.joiners = _Line.__new__(_Line)
        self.promised = _Line.__new__(_Line)
        self.generation = _generation
        asgibridge_guard_begin(&self.guard, _generation)

    def __init__(self, maxsize=0, order=0):
        self.limit = maxsize
        self.order = order
        if self.order == _HOOKED:
            self.mutex = _RLock()
            self._init(maxsize)
            self.count = self._qsize()

    # Storage. In the section.

    cdef inline int push(self, object item) except -1:
        if self.order == _HOOKED:
            self.push_by_hook(item)
        else:
            self.items.append(item)
            self.count += 1
        return 0

    cdef inline object pull(self):
        if self.order == _FIFO:
            item = asgibridge_swap(self.items, self.begin, None)
            self.begin += 1
            self.count -= 1
            if self.begin >= _CUT and self.begin > self.count:
                # As much lies behind as before us: each item is moved once, in the average.
                PyList_SetSlice(self.items, 0, self.begin, NULL)
                self.begin = 0
        elif self.order == _LIFO:
            item = self.items.pop()
            self.count -= 1
        else:
            item = self.pull_by_hook()
        return item

    cdef int push_by_hook(self, object item) except -1:
        self.enter_hook()
        try:
            self._put(item)
        finally:
            self.leave_hook()
        return 0

    cdef object pull_by_hook(self):
        self.enter_hook()
        try:
            return self._get()
        finally:
            self.leave_hook()

    cdef int enter_hook(self) except -1:
        # The mutex is re-entrant only so that this can be an error, and no deadlock.
        if self.is_in_hook:
            raise RuntimeError(
                "a queue's hook, or a comparison of its items, has used the queue it was called by"
            )
        self.is_in_hook = True
        return 0

    cdef int leave_hook(self) except -1:
        self.is_in_hook = False
        self.count = self._qsize()
        return 0

    cdef int check_peekable(self) except -1:
        if self.order == _HOOKED and not self._peekable():
            raise _UnsupportedOperation(f"{type(self).__name__} cannot peek")
        return 0

    cdef object front(self):
        if self.order == _HOOKED:
            return self._peek()
        return self.items[self.begin if self.order == _FIFO else self.count - 1]

    # Promises. In the section.

    cdef inline bint has_item(self) noexcept:
        return self.count > self.kept_items

    cdef inline bint has_room(self) noexcept:
        return self.limit <= 0 or self.count + self.kept_slots < self.limit

    cdef _Turn promise(self):
        # The next turn to be woken, with what is kept for it, or None.
        cdef _Turn turn = self.getters.first
        if turn is not None:
            if self.has_item():
                if turn.kind == _PEEK:
                    turn.item = self.front()
                self.getters.remove(turn)
                if turn.kind == _PEEK:
                    turn.state = _OVER
                else:
                    turn.state = _PROMISED
                    self.kept_items += 1
                    self.promised.append(turn)
                return turn
            if self.is_down:
                self.getters.remove(turn)
                turn.state = _TOLD
                return turn
        turn = self.putters.first
        if turn is not None:
            if self.is_down:
                self.putters.remove(turn)
                turn.state = _TOLD
                return turn
            if self.has_room():
                self.putters.remove(turn)
                turn.state = _PROMISED
                self.kept_slots += 1
                self.promised.append(turn)
                return turn
        if self.unfinished == 0:
            turn = self.joiners.first
            if turn is not None:
                self.joiners.remove(turn)
                turn.state = _OVER
                return turn
        return None

    cdef int keep_no_more(self, _Turn turn) except -1:
        self.promised.remove(turn)
        turn.state = _OVER
        if turn.kind == _GET:
            self.kept_items -= 1
        else:
            self.kept_slots -= 1
        return 0

    cdef list drop_all(self, list fresh, char state):
        # All items, promised or not: who was promised one is in `state` then. Returns the items.
        cdef _Turn turn, before
        cdef Py_ssize_t count = self.count
        cdef list dropped = fresh
        if self.order == _HOOKED:
            self.enter_hook()
            try:
                if self._clearable():
                    self._clear()
            finally:
                self.leave_hook()
            while self.count > 0:
                self.pull_by_hook()
        else:
            dropped = self.items
            self.items = fresh
            self.begin = self.count = 0
        self.unfinished = max(0, self.unfinished - (count - self.count))
        turn = self.promised.last
        while turn is not None:
            before = turn.before
            if turn.kind == _GET:
                self.keep_no_more(turn)
                turn.state = state
                if state == _WAITING:
                    self.getters.prepend(turn)
            turn = before
        return dropped

    cdef int forget(self) except -1:
        # In a forked child: nobody is there but the tasks of the thread that forked.
        # A thread that is not there may hold any of its locks.
        cdef _Line line
        cdef _Turn turn, after
        fresh = old = None
        if self.mutex is not None:
            fresh = _RLock()
            fresh.acquire()
        if self.generation == _generation:
            return 0  # with the GIL, another thread may have done it by now
        if not asgibridge_guard_renew(&self.guard, self, _generation):
            while self.generation != _generation:  # another thread does it, in a moment
                _sleep(0)
            return 0
        if fresh is None:
            asgibridge_guard_lock(&self.guard)
        else:
            old = self.mutex
            self.mutex = fresh
        self.generation = _generation
        try:
            with cython.critical_section(self):
                for line in (self.getters, self.putters, self.joiners, self.promised):
                    turn = line.first
                    while turn is not None:
                        after = turn.after
                        if not _survived(turn.generation, turn.ident):
                            if turn.state == _PROMISED:
                                self.keep_no_more(turn)
                            else:
                                line.remove(turn)
                                turn.state = _OVER
                        turn = after
        finally:
            self.unlock()
        return 0

    # Outside of the section.

    cdef inline int lock(self) except -1:
        if self.generation != _generation:
            self.forget()
        if self.mutex is not None:
            self.mutex.acquire()
        else:
            asgibridge_guard_lock(&self.guard)
        return 0

    cdef inline int unlock(self) except -1:
        if self.mutex is not None:
            self.mutex.release()
        else:
            asgibridge_guard_unlock(&self.guard)
        return 0

    cdef int wake(self, _Turn turn) except -1:
        # This turn, and all that can be promised something after it.
        cdef bint is_there
        error = None
        while turn is not None:
            try:
                is_there = self.call(turn)
            except BaseException as interrupt:
                # A signal's. Waking twice does no harm, not at all would.
                error = interrupt
                is_there = self.call(turn)
            if not is_there:
                self.withdraw_quietly(turn)
            turn = self.next_turn()
        if error is not None:
            raise error
        return 0

    cdef _Turn next_turn(self):
        cdef _Turn turn
        self.lock()
        try:
            with cython.critical_section(self):
                turn = self.promise()
        finally:
            self.unlock()
        return turn

    cdef bint call(self, _Turn turn) except -1:
        # Wake who waits. False: its loop is closed, and nobody will ever look.
        cdef bint must_ring
        if turn.bed is not NULL:
            with cython.critical_section(self):
                must_ring = not turn.is_rung
                turn.is_rung = True
            if must_ring:
                asgibridge_unlock(turn.bed, False)
            return True
        if turn.loop.is_closed():
            return False
        if _running_loop() is turn.loop:
            # Not then and there, as the channel does: a task is in the middle of its step here.
            turn.woken(False)
            return True
        if turn.channel.generation != _generation:
            turn.loop.call_soon_threadsafe(turn.wake)
            return True
        return turn.channel.send(turn)

    cdef int withdraw_quietly(self, _Turn turn) except -1:
        self.lock()
        try:
            with cython.critical_section(self):
                if turn.state == _PROMISED:
                    self.keep_no_more(turn)
                elif turn.line is not None:
                    turn.line.remove(turn)
                turn.state = _OVER
        finally:
            self.unlock()
        return 0

    cdef int withdraw(self, _Turn turn) except -1:
        # Who waited does so no more; what was kept for it is the next one's.
        self.withdraw_quietly(turn)
        turn.item = None
        self.wake(self.next_turn())
        return 0

    cdef bint is_late(self, _Turn turn) except -1:
        # Its time is over: whether it goes away with nothing.
        cdef bint late = False
        self.lock()
        try:
            with cython.critical_section(self):
                if turn.state == _WAITING:
                    turn.line.remove(turn)
                    turn.state = _OVER
                    late = True
        finally:
            self.unlock()
        return late

    cdef bint reclaim(self) except -1:
        # Take back what was promised to a task whose loop was closed before it could take it.
        # Only the oldest promise is looked at: those of the living are taken soon.
        cdef _Turn turn
        with cython.critical_section(self):
            turn = self.promised.first
        if turn is None or turn.bed is not NULL or not turn.loop.is_closed():
            return False
        self.withdraw(turn)
        return True

    cdef bint advance(self, _Turn turn) except -1:
        # Do what the turn is for, if it may: the outcome is in its `item` then. True: wait (on).
        cdef bint may = False, must_wait = False, is_down = False
        cdef _Turn woken = None
        cdef _Line line
        cdef list many = None
        cdef object item = None
        if turn.most >= 0:
            many = []
        if not turn.has_begun:
            turn.has_begun = True
            while self.reclaim():
                pass
        self.lock()
        try:
            with cython.critical_section(self):
                turn.is_rung = False
                if turn.state == _OVER:
                    pass
                elif turn.state == _WAITING:
                    must_wait = True
                else:
                    is_down = self.is_down
                    if turn.kind == _PUT:
                        line = self.putters
                        may = turn.state == _PROMISED or (line.first is None and self.has_room())
                    elif turn.kind == _JOIN:
                        line = self.joiners
                        may = self.unfinished == 0
                        is_down = False
                    else:
                        line = self.getters
                        may = turn.state == _PROMISED or (line.first is None and self.has_item())
                        is_down = is_down and not may
                    if turn.state == _PROMISED:
                        self.keep_no_more(turn)
                    turn.state = _OVER
                    if is_down:
                        pass
                    elif not may:
                        turn.state = _WAITING
                        line.append(turn)
                        must_wait = True
                    elif turn.kind == _GET:
                        item = self.pull()
                        if many is not None:
                            many.append(item)
                            while self.has_item() and len(many) < turn.most:
                                many.append(self.pull())
                    elif turn.kind == _PEEK:
                        item = self.front()
                    elif turn.kind == _PUT:
                        self.push(turn.item)
                        self.unfinished += 1
                    if not must_wait:
                        woken = self.promise()
        finally:
            self.unlock()
        if many is not None and not must_wait:
            turn.item = many
        elif turn.kind == _GET or (turn.kind == _PEEK and item is not None):
            turn.item = item
        if woken is not None:
            if many is not None or turn.kind != _GET:
                item = _NOTHING
            self.wake_or_put_back(woken, item, many)
        if is_down:
            turn.item = None
            raise _QueueShutDown()
        return must_wait

    cdef int wake_or_put_back(self, _Turn woken, object item, list many) except -1:
        # An interrupt can strike in the Python code of the loop that is woken: then who has just
        # got these items does not get them.
        try:
            self.wake(woken)
        except BaseException:
            if item is not _NOTHING:
                many = [item]
            if many:
                self.put_back(many)
            raise
        return 0

    cdef int put_back(self, list many) except -1:
        cdef _Turn woken
        self.lock()
        try:
            with cython.critical_section(self):
                for item in reversed(many):
                    if self.order == _FIFO:
                        self.items.insert(self.begin, item)
                        self.count += 1
                    else:
                        self.push(item)
                woken = self.promise()
        finally:
            self.unlock()
        if woken is not None:
            self.wake(woken)
        return 0

    cdef object take_outcome(self, _Turn turn):
        item = turn.item
        turn.item = None
        return None if turn.kind == _PUT else item

    cdef object wait(self, _Turn turn, object timeout):
        # On the calling thread, which sleeps. NOTHING if it is too late.
        if threading._allocate_lock is not _allocate_lock:
            raise RuntimeError(
                "threading was monkey-patched after asgibridge.queue was imported, and waiting in "
                "compiled code would block every greenlet: patch first, then import"
            )
        deadline = None
        if timeout is not None:
            deadline = _monotonic() + timeout
        turn.make_bed()
        try:
            while self.advance(turn):
                if not turn.sleep(deadline) and self.is_late(turn):
                    return _NOTHING
        except BaseException:
            self.withdraw(turn)
            raise
        return self.take_outcome(turn)

    cdef _Turn new_turn(self, char kind, object item, Py_ssize_t most):
        cdef _Turn turn = _Turn.__new__(_Turn)
        turn.queue = self
        turn.kind = kind
        turn.item = item
        turn.most = most
        return turn

    # What tasks and threads do.

    cdef bint offer(self, object item) except -1:
        # Whether there was room now.
        cdef _Turn woken
        cdef bint done, is_down, is_promised
        while True:
            woken = None
            done = False
            self.lock()
            try:
                with cython.critical_section(self):
                    is_down = self.is_down
                    if not is_down and (
                        self.limit <= 0 or (self.has_room() and self.putters.first is None)
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
        cdef _Turn woken
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
                    is_promised = self.promised.first is not None
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
        cdef _Turn woken = None
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

    def _offer(self, item):
        """Put ``item`` if there is room now; returns whether there was."""
        return self.offer(item)

    def _fetch(self):
        """Take the first item if there is one now, else return NOTHING."""
        return self.fetch()

    def _fetch_many(self, n):
        """Take up to ``n`` items (None: all), as many as there are now."""
        return self.fetch_many(_most(n))

    def _putting(self, item):
        """To be awaited: wait for room and put ``item``."""
        return self.new_turn(_PUT, item, -1)

    def _getting(self):
        """To be awaited: wait for an item and take it."""
        return self.new_turn(_GET, None, -1)

    def _getting_many(self, n):
        """To be awaited: wait for an item and take up to ``n`` (None: all)."""
        return self.new_turn(_GET, None, _most(n))

    def _peeking(self):
        """To be awaited: wait for an item and leave it where it is."""
        self.check_peekable()
        return self.new_turn(_PEEK, None, -1)

    def _joining(self):
        """To be awaited: wait until nothing is unfinished."""
        return self.new_turn(_JOIN, None, -1)

    def put_nowait(self, item):
        """Put ``item``; QueueFull if there is no room, QueueShutDown after `shutdown`.

        From any thread, and from a signal handler or a finalizer, too.
        """
        if not self.offer(item):
            raise _QueueFull()

    def get_nowait(self):
        """Take the first item; QueueEmpty if there is none, QueueShutDown if none can come."""
        item = self.fetch()
        if item is _NOTHING:
            raise _QueueEmpty()
        return item

    def sync_put(self, item, block=True, timeout=None):
        """Put ``item``, on a thread that can wait for room up to ``timeout`` seconds.

        QueueFull if there is none by then, or at once if ``block`` is false; QueueShutDown after
        `shutdown`, also if that comes meanwhile. On an event loop's thread it blocks the loop.
        """
        if timeout is not None and block:
            _check_timeout(timeout)
        if not self.offer(item):
            if not block:
                raise _QueueFull()
            if self.wait(self.new_turn(_PUT, item, -1), timeout) is _NOTHING:
                raise _QueueFull()

    def sync_get(self, block=True, timeout=None):
        """Take the first item, on a thread that can wait for it up to ``timeout`` seconds.

        QueueEmpty if there is none by then, or at once if ``block`` is false; QueueShutDown if the
        queue is empty and was shut down. On an event loop's thread it blocks the loop.
        """
        if timeout is not None and block:
            _check_timeout(timeout)
        item = self.fetch()
        if item is _NOTHING and block:
            item = self.wait(self.new_turn(_GET, None, -1), timeout)
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

    def sync_peek(self, block=True, timeout=None):
        """The first item, which stays, on a thread that can wait for it as in `sync_get`."""
        if timeout is not None and block:
            _check_timeout(timeout)
        self.check_peekable()
        item = self.look()
        if item is _NOTHING and block:
            item = self.wait(self.new_turn(_PEEK, None, -1), timeout)
        if item is _NOTHING:
            raise _QueueEmpty()
        return item

    def get_many_nowait(self, n=None):
        """Take all items, ``n`` at most, as a list; QueueEmpty if there is none."""
        cdef list many = self.fetch_many(_most(n))
        if not many:
            raise _QueueEmpty()
        return many

    def sync_get_many(self, n=None, block=True, timeout=None):
        """Wait for an item as in `sync_get`, and take all that are there, ``n`` at most."""
        cdef Py_ssize_t most = _most(n)
        if timeout is not None and block:
            _check_timeout(timeout)
        many = self.fetch_many(most)
        if not many and block:
            many = self.wait(self.new_turn(_GET, None, most), timeout)
        if many is _NOTHING or not many:
            raise _QueueEmpty()
        return many

    def sync_join(self):
        """Wait until as many items are done (`task_done`) as were put. Blocks the thread."""
        self.wait(self.new_turn(_JOIN, None, -1), None)

    def qsize(self):
        """How many items `get_nowait` could take now."""
        cdef Py_ssize_t size
        if self.generation != _generation:
            self.forget()
        with cython.critical_section(self):
            size = self.count - self.kept_items
        return max(0, size)

    def empty(self):
        """Whether `get_nowait` would find nothing now."""
        return self.qsize() == 0

    def full(self):
        """Whether `put_nowait` would find no room now."""
        cdef bint has_room
        if self.generation != _generation:
            self.forget()
        with cython.critical_section(self):
            has_room = self.has_room()
        return not has_room

    @property
    def maxsize(self):
        """How many items there is room for; 0 or less is no limit. It may be changed: those who
        wait for room get it in order, and items beyond a smaller limit stay."""
        cdef Py_ssize_t limit
        with cython.critical_section(self):
            limit = self.limit
        return limit

    @maxsize.setter
    def maxsize(self, value):
        cdef Py_ssize_t limit = value  # out here: it may be an object's __index__
        with cython.critical_section(self):
            self.limit = limit
        self.wake(self.next_turn())

    @property
    def unfinished_tasks(self):
        """How many items were put for which `task_done` has not been called."""
        cdef Py_ssize_t unfinished
        with cython.critical_section(self):
            unfinished = self.unfinished
        return unfinished

    @property
    def is_shutdown(self):
        """Whether `shutdown` has been called."""
        cdef bint is_down
        with cython.critical_section(self):
            is_down = self.is_down
        return is_down

    @property
    def getting(self):
        """How many wait to get or to peek."""
        return self.size_of(self.getters)

    @property
    def putting(self):
        """How many wait to put."""
        return self.size_of(self.putters)

    cdef Py_ssize_t size_of(self, _Line line) except -1:
        cdef Py_ssize_t size
        with cython.critical_section(self):
            size = line.size
        return size

    def task_done(self):
        """One item that was taken is done with; ValueError if none is left."""
        cdef _Turn woken = None
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
        """Let nothing be put any more; who gets is refused when the queue is empty.

        Whoever waits in vain is woken to a QueueShutDown. With ``immediate``, the items are dropped
        as by `clear`. May be called again.
        """
        if immediate:
            self.drop(True, _TOLD)
        else:
            with cython.critical_section(self):
                self.is_down = True
            self.wake(self.next_turn())

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
        self.wake(self.next_turn())
        return 0  # the items are let go last: their end may run anybody's code


cdef Py_ssize_t _most(n) except -1:
    if n is None:
        return PY_SSIZE_T_MAX
    if n < 1:
        raise ValueError(f"n={n!r}: must be at least 1, or None for all items")
    return n


cdef bint _survived(unsigned long generation, unsigned long ident):
    # Whether what was of this thread then is not that of a parent process.
    while generation < _generation:
        if <object>_forkers[generation] != ident:
            return False
        generation += 1
    return True
