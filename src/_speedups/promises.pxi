# What a queue keeps and in what order, who waits for it, what is promised to whom, who is woken.
#
# The state machine, its guarantees and the reasons are written in the pure twin; here is what is
# different.
#
# **A section** is the queue's critical section: with the GIL nothing at all, because nothing in it
# runs Python code or lets go of the GIL. Without the GIL that is not enough: to let go of a
# reference to an object that another thread has made can mean to wait for a lock of CPython's, with
# which it is handed to its owner, and a thread that waits for a lock lets go of all its critical
# sections. Waiters are let go of in here, by other threads than made them. So code that changes more
# than one thing holds the queue's guard, too (`lock`), which no such wait lets go of; the critical
# section alone is for code that looks at one thing or sets one.
#
# Only a queue with hooks (a subclass that stores the items itself, as the priority queue does) has
# a lock of `threading` in place of the guard, and runs the hooks with it held: exclusive use is
# what it promises them. Any other queue gets one when its user asks for it (`make_mutex`).
#
# Whether a task's loop is closed can't be seen inside a section (asking runs Python code), so a
# waiter is promised first and the promise broken afterwards.
#
# **The items** lie in a list with a mark where they begin, as in `queue.SimpleQueue`. Nothing that is
# done with it makes an object that the collector counts, so no finalizer comes in the middle; and
# the collector sees the items, as it would not in memory of our own.

cdef extern from "Python.h":
    int PyList_SetSlice(object list, Py_ssize_t low, Py_ssize_t high, PyObject* items) except -1

cdef object _UnsupportedOperation = _queue_errors.UnsupportedOperation
cdef object _QueueShutDown = _queue_errors.QueueShutDown
cdef object _places = _queue_errors.places
cdef object _sleep = time.sleep
cdef object _RLock = threading.RLock

cdef enum:
    _FIFO = 0
    _LIFO = 1
    _HOOKED = 2
    _SIZED = 3

cdef enum:  # what `enlist` says: it gets something never, later, now
    _NEVER = 0
    _WAITS = 1
    _MAY = 2

cdef enum:
    # Places of items that were taken before anything is moved. Arbitrary: a move costs a call, and
    # these places cost half a kilobyte for each queue.
    _CUT = 64

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
      #define ASGIBRIDGE_HAS_GUARD 1
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
      #define ASGIBRIDGE_HAS_GUARD 0
      #define asgibridge_guard_renew(guard, queue, generation) ((void)(guard), 1)
      #define asgibridge_guard_begin(guard, generation) ((void)(guard))
      #define asgibridge_guard_lock(guard) ((void)(guard))
      #define asgibridge_guard_unlock(guard) ((void)(guard))
    #endif
    """
    ctypedef struct asgibridge_guard:
        pass
    bint _HAS_GUARD "ASGIBRIDGE_HAS_GUARD"
    bint asgibridge_guard_renew(asgibridge_guard* guard, object queue, unsigned long generation)
    void asgibridge_guard_begin(asgibridge_guard* guard, unsigned long generation)
    void asgibridge_guard_lock(asgibridge_guard* guard)
    void asgibridge_guard_unlock(asgibridge_guard* guard)


cdef class _Promises:
    # All of it of any thread, in the section, and what is more than one step with the guard or the
    # mutex held.
    cdef asgibridge_guard guard
    cdef list items  # from `begin` on; None before
    cdef Py_ssize_t begin
    cdef Py_ssize_t count
    cdef Py_ssize_t extra  # what sizes are more than one for each item
    cdef Py_ssize_t limit
    cdef object shown_limit  # `maxsize` as it was given
    cdef bint is_in_hook
    cdef Py_ssize_t kept_items  # for waiters that are promised one
    cdef Py_ssize_t kept_slots
    cdef Py_ssize_t unfinished
    cdef bint is_down
    cdef bint has_batches  # whether any get has ever waited for several items
    cdef _Line getters
    cdef _Line putters
    cdef _Line joiners
    cdef _Line promised
    cdef unsigned long generation
    # Not changed any more, but for a mutex that is asked for, and a new one in a forked child.
    cdef char order
    cdef object mutex  # of a queue with hooks, or whose mutex somebody has, else None

    def __cinit__(self):
        self.items = []
        self.getters = _Line.__new__(_Line)
        self.putters = _Line.__new__(_Line)
        self.joiners = _Line.__new__(_Line)
        self.promised = _Line.__new__(_Line)
        self.generation = _generation
        asgibridge_guard_begin(&self.guard, _generation)

    def __init__(self, maxsize=0, order=0):
        self.shown_limit = maxsize
        self.limit = _places(maxsize)
        self.order = order
        if self.order >= _HOOKED:
            self.mutex = _RLock()
            self._init(maxsize)
            self.count = self._qsize()

    # In the section: the items.

    cdef inline int push(self, object item) except -1:
        if self.order >= _HOOKED:
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
                # More places are given up than items are moved: each item is moved once, on
                # average.
                PyList_SetSlice(self.items, 0, self.begin, NULL)
                self.begin = 0
        elif self.order == _LIFO:
            item = self.items.pop()
            self.count -= 1
        else:
            item = self.pull_by_hook()
        return item

    cdef int push_by_hook(self, object item) except -1:
        cdef Py_ssize_t extra = self.units(item) - 1, before = self.count, grown
        self.enter_hook()
        try:
            self._put(item)
        finally:
            self.leave_hook()
        grown = self.count - before
        if grown:
            self.extra += extra
        # The caller counts one that is unfinished. A hook that keeps each item once adds none, and
        # nobody will ever call `task_done` for it.
        self.unfinished += grown - 1
        return 0

    cdef object pull_by_hook(self):
        cdef Py_ssize_t extra = 0, before = self.count
        self.enter_hook()
        try:
            item = self._get()
            if self.order == _SIZED:
                try:
                    extra = self.size_of(item) - 1
                except BaseException:
                    self._put(item)  # nothing has been taken
                    raise
        finally:
            self.leave_hook()
        if self.count < before:
            self.extra -= extra
        if self.count == 0:
            self.extra = 0  # if an item's size has changed meanwhile
        return item

    cdef inline Py_ssize_t units(self, object item) except -1:
        # How many places the item takes.
        return 1 if self.order != _SIZED else self.units_by_hook(item)

    cdef Py_ssize_t units_by_hook(self, object item) except -1:
        self.enter_hook()
        try:
            return self.size_of(item)
        finally:
            self.is_in_hook = False

    cdef Py_ssize_t size_of(self, object item) except -1:
        cdef Py_ssize_t size = self._isize(item)
        if size < 0:
            raise ValueError(f"an item's size is {size}: must be 0 or more")
        return size

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

    cdef object front(self):
        if self.order >= _HOOKED:
            return self._peek()
        return self.items[self.begin if self.order == _FIFO else self.count - 1]

    cdef int check_peekable(self) except -1:
        if self.order >= _HOOKED and not self._peekable():
            raise _UnsupportedOperation(f"{type(self).__name__} cannot peek")
        return 0

    cdef list drop_all(self, list fresh, char state):
        # All items, promised or not: a waiter that was promised one is in `state` then. Returns the
        # items, for the caller to let go of outside of the section: the end of an object may run
        # anybody's code.
        cdef _Waiter waiter, before
        cdef Py_ssize_t count = self.count
        cdef list dropped = fresh
        if self.order >= _HOOKED:
            self.enter_hook()
            try:
                if self._clearable():
                    self._clear()
            finally:
                self.leave_hook()
            while self.count > 0:
                self.pull()
            self.extra = 0
        else:
            dropped = self.items
            self.items = fresh
            self.begin = self.count = 0
        self.unfinished = max(0, self.unfinished - (count - self.count))
        waiter = self.promised.last
        while waiter is not None:
            before = waiter.before
            if waiter.kind == _GET:
                self.keep_no_more(waiter)
                waiter.state = state
                if state == _WAITING:
                    self.getters.prepend(waiter)
            waiter = before
        return dropped

    # In the section: who waits.

    cdef inline bint has_item(self) noexcept:
        return self.count > self.kept_items

    cdef inline bint has_room(self, Py_ssize_t units) noexcept:
        # Said in this way round, because the sum may be too large for a number of C's.
        return self.limit <= 0 or self.count + self.extra + self.kept_slots <= self.limit - units

    cdef inline Py_ssize_t free(self) noexcept:
        return self.count - self.kept_items

    cdef bint are_enough(self, Py_ssize_t there, Py_ssize_t least) noexcept:
        # Whether a batch that finds so many waits for no more: none would come, or others wait.
        return (
            there >= least
            or self.is_down
            or (self.limit > 0 and self.count + self.extra >= self.limit)
        )

    cdef _Waiter promise(self):
        # Returns the next waiter to be woken, for which something is kept now, or None.
        cdef _Waiter waiter = self.getters.first
        if waiter is not None:
            if self.has_item():
                if waiter.least <= 1 or self.are_enough(self.free(), waiter.least):
                    if waiter.kind == _PEEK:
                        waiter.item = self.front()
                    self.getters.remove(waiter)
                    if waiter.kind == _PEEK:
                        waiter.state = _OVER
                    else:
                        waiter.units = 1
                        if waiter.least > 1:
                            waiter.units = min(waiter.least, self.free())
                        self.keep_for(waiter)
                        self.kept_items += waiter.units
                    return waiter
            elif self.is_down:
                return _tell(self.getters)
        waiter = self.putters.first
        if waiter is not None:
            if self.is_down:
                return _tell(self.putters)
            if self.has_room(waiter.units):
                self.putters.remove(waiter)
                self.keep_for(waiter)
                self.kept_slots += waiter.units
                return waiter
        if self.unfinished == 0:
            waiter = self.joiners.first
            if waiter is not None:
                self.joiners.remove(waiter)
                waiter.state = _OVER
                return waiter
        return None

    cdef inline int keep_for(self, _Waiter waiter) except -1:
        waiter.state = _PROMISED
        self.promised.append(waiter)
        return 0

    cdef int keep_no_more(self, _Waiter waiter) except -1:
        self.promised.remove(waiter)
        waiter.state = _OVER
        if waiter.kind == _GET:
            self.kept_items -= waiter.units
        else:
            self.kept_slots -= waiter.units
        return 0

    cdef int revoke(self, _Line line) except -1:
        # The newest promise to one of this line, which there is, is broken: it is the first of the
        # line again.
        cdef _Waiter waiter = self.promised.last
        while (waiter.kind == _PUT) != (line is self.putters):
            waiter = waiter.before
        self.keep_no_more(waiter)
        waiter.state = _WAITING
        line.prepend(waiter)
        return 0

    cdef int forget(self) except -1:
        # In a forked child, which has no other waiters than those of the thread that forked. Another
        # thread of the parent may have held any of the locks.
        cdef _Line line
        cdef _Waiter waiter, after
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
                    waiter = line.first
                    while waiter is not None:
                        after = waiter.after
                        if not waiter.has_survived():
                            if waiter.state == _PROMISED:
                                self.keep_no_more(waiter)
                            else:
                                line.remove(waiter)
                                waiter.state = _OVER
                        waiter = after
            if self.order >= _HOOKED:  # a thread of the parent may have been in the middle of one
                self.is_in_hook = False
                self.count = self._qsize()
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
            if _HAS_GUARD and self.mutex is not None:  # `make_mutex` has come before us
                asgibridge_guard_unlock(&self.guard)
                self.mutex.acquire()
        return 0

    cdef object make_mutex(self):
        # While this thread has the guard nobody else is between `lock` and `unlock`: those that wait
        # for it take the mutex then. With the GIL, nobody ever is.
        if self.generation != _generation:
            self.forget()
        if self.mutex is None:
            fresh = _RLock()
            asgibridge_guard_lock(&self.guard)
            if self.mutex is None:
                self.mutex = fresh
            asgibridge_guard_unlock(&self.guard)
        return self.mutex

    cdef inline int unlock(self) except -1:
        if self.mutex is not None:
            self.mutex.release()
        else:
            asgibridge_guard_unlock(&self.guard)
        return 0

    cdef int wake(self, _Waiter waiter) except -1:
        # Wakes this waiter, and then each waiter that something can be promised to.
        cdef bint is_there
        error = None
        while waiter is not None:
            try:
                is_there = waiter.ring()
            except BaseException as interrupt:
                # A signal handler's. The waiter may have been rung or not: to ring it twice does no
                # harm, never to ring it would.
                error = interrupt
                is_there = waiter.ring()
            if not is_there:
                self.leave(waiter, False)
            waiter = self.next_waiter()
        if error is not None:
            raise error
        return 0

    cdef _Waiter next_waiter(self):
        cdef _Waiter waiter
        self.lock()
        try:
            with cython.critical_section(self):
                waiter = self.promise()
        finally:
            self.unlock()
        return waiter

    cdef bint leave(self, _Waiter waiter, bint if_in_line) except -1:
        # The waiter waits no more, and nothing is kept for it; with `if_in_line`, only if nothing
        # is kept for it yet and it was not told to look. Returns whether it has left.
        cdef bint has_left = True
        self.lock()
        try:
            with cython.critical_section(self):
                if waiter.state == _WAITING:
                    waiter.line.remove(waiter)
                elif if_in_line:
                    has_left = False
                elif waiter.state == _PROMISED:
                    self.keep_no_more(waiter)
                if has_left:
                    waiter.state = _OVER
        finally:
            self.unlock()
        return has_left

    cdef int withdraw(self, _Waiter waiter) except -1:
        # The waiter waits no more; what was kept for it goes to the next waiter.
        self.leave(waiter, False)
        waiter.item = None
        self.wake(self.next_waiter())
        return 0

    cdef bint reclaim(self) except -1:
        # Takes back what was promised to a task whose loop was closed before the task could take
        # it. Looks at the oldest promise alone: a task whose loop runs takes its own soon. Or at
        # the batch to which all items belong.
        cdef _Waiter waiter
        cdef bint has_batches
        with cython.critical_section(self):
            waiter = self.promised.first
            has_batches = self.has_batches
        if waiter is None and has_batches:
            waiter = self.batch()
        if waiter is None or waiter.loop is None or not waiter.loop.is_closed():  # None: a thread's
            return False
        self.withdraw(waiter)
        return True

    cdef _Waiter batch(self):
        # The first of the line, if it waits for several items.
        cdef _Waiter waiter
        self.lock()
        try:
            with cython.critical_section(self):
                waiter = self.getters.first
                if waiter is not None and waiter.least <= 1:
                    waiter = None
        finally:
            self.unlock()
        return waiter

    cdef bint advance(self, _Waiter waiter) except -1:
        # Does what the waiter is for, if it may: the outcome is in its `item` then. True: it must
        # wait.
        cdef bint may = False, must_wait = False, is_down = False, is_over = False
        cdef bint was_first = False
        cdef _Waiter woken = None
        cdef _Line line
        cdef list many = None
        cdef object item = None
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
                else:
                    if waiter.state == _WAITING:
                        was_first = self.getters.first is waiter
                        self.getters.remove(waiter)
                    is_down = self.is_down
                    if waiter.kind == _PUT:
                        line = self.putters
                        if self.order == _SIZED and waiter.state != _PROMISED:
                            waiter.units = self.units(waiter.item)
                        may = waiter.state == _PROMISED or (
                            line.first is None and self.has_room(waiter.units)
                        )
                    elif waiter.kind == _JOIN:
                        line = self.joiners
                        may = self.unfinished == 0
                        is_down = False
                    else:
                        line = self.getters
                        may = waiter.state == _PROMISED or (
                            (line.first is None or was_first)
                            and self.has_item()
                            and (waiter.least <= 1 or self.are_enough(self.free(), waiter.least))
                        )
                        is_down = is_down and not may
                    if waiter.state == _PROMISED:
                        self.keep_no_more(waiter)
                    waiter.state = _OVER
                    if is_down:
                        pass
                    elif not may:
                        if waiter.least >= 0:
                            waiter.state = _WAITING
                            line.append(waiter)
                            must_wait = True
                            if waiter.least > 1:
                                self.has_batches = True
                    elif waiter.kind == _GET:
                        item = self.pull()
                        if many is not None:
                            many.append(item)
                            while self.has_item() and len(many) < waiter.most:
                                many.append(self.pull())
                    elif waiter.kind == _PEEK:
                        item = self.front()
                    elif waiter.kind == _PUT:
                        self.push(waiter.item)
                        self.unfinished += 1
                    if not must_wait:
                        woken = self.promise()
        finally:
            self.unlock()
        if is_over or must_wait:
            return must_wait
        if many is not None:
            waiter.item = many  # empty, if its time is over
        elif waiter.kind == _GET or (waiter.kind == _PEEK and item is not None):
            waiter.item = item
        if woken is not None:
            if many is not None or waiter.kind != _GET:
                item = _NOTHING
            self.wake_or_put_back(woken, item, many)
        if is_down:
            waiter.item = None
            raise _QueueShutDown()
        return False

    cdef int expire(self, _Waiter waiter) except -1:
        # The time of a batch is over: it takes what is there. On the thread that waits.
        self.lock()
        try:
            with cython.critical_section(self):
                waiter.least = -1
        finally:
            self.unlock()
        waiter.woken(False)
        return 0

    cdef int dismiss(self, _Waiter waiter) except -1:
        # Ends a wait to which nothing is promised: its outcome is NOTHING. From any thread.
        cdef bint is_asleep = False, is_over = False
        item = waiter.item  # let go of outside of the section
        self.lock()
        try:
            with cython.critical_section(self):
                is_asleep = waiter.state == _WAITING
                if is_asleep:
                    waiter.line.remove(waiter)
                if is_asleep or waiter.state == _NEW:
                    waiter.state = _OVER
                    waiter.item = _NOTHING
                    is_over = True
        finally:
            self.unlock()
        if is_asleep:  # else its thread is about to look
            waiter.ring()
        if is_over:
            self.wake(self.next_waiter())
        return 0

    cdef int enlist(self, _Waiter waiter) except -1:
        # For one of several waits, instead of `advance`, as which it is to be called next: nothing
        # is taken yet.
        cdef int chance = _WAITS
        if not waiter.has_begun:
            waiter.has_begun = True
            while self.reclaim():
                pass
        self.lock()
        try:
            with cython.critical_section(self):
                if waiter.state == _WAITING:
                    pass
                elif waiter.state == _PROMISED:
                    chance = _MAY
                elif self.getters.first is None and self.has_item():
                    self.keep_for(waiter)
                    self.kept_items += 1
                    chance = _MAY
                elif self.is_down:
                    waiter.state = _OVER
                    chance = _NEVER
                else:
                    waiter.state = _WAITING
                    self.getters.append(waiter)
        finally:
            self.unlock()
        return chance

    cdef int wake_or_put_back(self, _Waiter woken, object item, list many) except -1:
        # A KeyboardInterrupt can strike in the Python code of the loop that is woken: the caller
        # then raises it instead of returning what it got, so these items go back.
        try:
            self.wake(woken)
        except BaseException:
            if item is not _NOTHING:
                many = [item]
            self.lock()
            try:
                with cython.critical_section(self):
                    for item in reversed(many or ()):
                        if self.order == _FIFO:
                            self.items.insert(self.begin, item)
                            self.count += 1
                        else:
                            self.push(item)
                    woken = self.promise()
            finally:
                self.unlock()
            self.wake(woken)
            raise
        return 0


cdef _Waiter _tell(_Line line):
    # The first of the line is woken to look for itself: nothing is kept for it.
    cdef _Waiter waiter = line.first
    line.remove(waiter)
    waiter.state = _TOLD
    return waiter
