# What a queue keeps, and in what order it gives it out.
#
# The items lie in a list with a mark where they begin, as in `queue.SimpleQueue`. Nothing that is
# done with it makes an object that the collector counts, so no finalizer comes in the middle; and
# the collector sees the items, as it would not in memory of our own.

cdef extern from "Python.h":
    int PyList_SetSlice(object list, Py_ssize_t low, Py_ssize_t high, PyObject* items) except -1

cdef object _UnsupportedOperation = _queue_errors.UnsupportedOperation

cdef enum:
    _FIFO = 0
    _LIFO = 1
    _HOOKED = 2

cdef enum:
    # Places of items that were taken before anything is moved. Arbitrary: a move costs a call, and
    # these places cost half a kilobyte for each queue.
    _CUT = 64


cdef class _Storage:
    # All of it of any thread, in the queue's section.
    cdef list items  # from `begin` on; None before
    cdef Py_ssize_t begin
    cdef Py_ssize_t count
    cdef Py_ssize_t limit
    cdef bint is_in_hook
    cdef char order  # not changed any more

    def __cinit__(self):
        self.items = []

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

    cdef object front(self):
        if self.order == _HOOKED:
            return self._peek()
        return self.items[self.begin if self.order == _FIFO else self.count - 1]

    cdef int check_peekable(self) except -1:
        if self.order == _HOOKED and not self._peekable():
            raise _UnsupportedOperation(f"{type(self).__name__} cannot peek")
        return 0

    cdef int put_back_first(self, object item) except -1:
        # The item that was pulled last is not taken: it is the next again.
        if self.order == _FIFO:
            self.items.insert(self.begin, item)
            self.count += 1
        else:
            self.push(item)
        return 0

    cdef list drop_items(self, list fresh):
        # Returns the items, for the caller to let go of outside of the section: the end of an
        # object may run anybody's code.
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
        return dropped
