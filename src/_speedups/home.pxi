# To which chain of calls a thread belongs, and what else is kept per thread.
#
# `_Thread` is owned by the thread-state's dict, so it dies with its thread, on that thread; a
# thread-specific-storage key holds a borrowed pointer to it, because a look-up there costs 2 ns and
# one in `threading.local` 40. Whoever takes it out of the dict (a worker that is made as good as
# new) frees it there and then, and its end clears the pointer.

cdef extern from "Python.h":
    PyObject* PyThreadState_GetDict()

cdef Py_tss_t _thread_key  # Cython initializes it

@cython.final
cdef class Home:
    """An identity, compared by ``is``."""

    cdef object variable  # of one that stands for others: a Local's, set at the one it stands for

    def __init__(self):
        pass  # refuses arguments


def home_of_contexts(local):
    """A home that stands, at each moment, for the one at which ``local`` was set in the current
    context; for itself where that was not set.

    :param local: a ContextStorage.
    """
    cdef Home home = Home.__new__(Home)
    home.variable = (<ContextStorage?>local).variable
    return home


@cython.final
cdef class _Thread:
    # Of one thread, and only ever touched by it.
    cdef object home
    cdef WakeChannel channel  # of the loop that last ran here, or None
    cdef SyncCall call  # which it is running, or None
    cdef Inbox served  # if it is a worker: what it serves
    cdef dict names  # what the last call saw in SyncToAsync.threadlocal
    cdef asgibridge_tally* tally

    def __dealloc__(self):
        if self.tally is not NULL:
            _give_tally_back(self.tally)
        if PyThread_tss_get(&_thread_key) == <void*>self:
            PyThread_tss_set(&_thread_key, NULL)


_THREAD = "asgibridge._speedups.thread"  # the key in the thread-state's dict

if PyThread_tss_create(&_thread_key) != 0:
    raise MemoryError("no thread-specific storage left")


cdef inline _Thread _this_thread():
    cdef void* found = PyThread_tss_get(&_thread_key)
    if found is not NULL:
        return <_Thread>found
    return _meet_thread()


cdef _Thread _meet_thread():
    cdef _Thread thread = _Thread.__new__(_Thread)
    cdef PyObject* of_thread = PyThreadState_GetDict()
    if of_thread is NULL:
        raise RuntimeError("this thread has no Python thread state")
    thread.home = Home.__new__(Home)
    thread.tally = _take_tally()
    (<dict>of_thread)[_THREAD] = thread
    if PyThread_tss_set(&_thread_key, <void*>thread) != 0:
        raise MemoryError()
    return thread


cdef inline object _home_of(_Thread thread):
    # The home itself may be the other kernel's: from before gevent came.
    home = thread.home
    if type(home) is Home and (<Home>home).variable is not None:
        return _home_in_context(<Home>home)
    return home


def current_home():
    """The calling thread's home."""
    return _home_of(_this_thread())


def at_home(home, call, *args):
    """Call ``call(*args)`` on this thread as a part of the chain that ``home`` stands for."""
    cdef _Thread thread = _this_thread()
    outer = thread.home
    if outer is home:
        return call(*args)
    thread.home = home
    try:
        return call(*args)
    finally:
        # Looked up again: a new one is met if somebody emptied the thread-state's dict.
        _this_thread().home = outer
