# What is counted of the calls, and when each began.
#
# A tally is never freed. `_tallies`, the chain of them, and `is_taken` change under `_tallies_lock`,
# which is held for a few instructions, none of them Python's. The clock is read unless
# `collect_timings` was told not to: the three readings are 1 % of a hop.

from libc.stdlib cimport calloc

from asgibridge._process.buckets import BOUNDS as _BOUNDS

cdef extern from *:
    """
    #ifdef _WIN32
      #include <windows.h>
      static long long asgibridge_now(void) {
          LARGE_INTEGER frequency, count;
          QueryPerformanceFrequency(&frequency);
          QueryPerformanceCounter(&count);
          return (long long)((double)count.QuadPart * 1e9 / (double)frequency.QuadPart);
      }
    #else
      #include <time.h>
      static inline long long asgibridge_now(void) {
          struct timespec now;
          clock_gettime(CLOCK_MONOTONIC, &now);
          return now.tv_sec * 1000000000LL + now.tv_nsec;
      }
    #endif

    /* One thread writes, others read: no order is needed, only whole numbers. */
    #if defined(__GNUC__) || defined(__clang__)
      #define asgibridge_get(place) __atomic_load_n(place, __ATOMIC_RELAXED)
      #define asgibridge_put(place, value) __atomic_store_n(place, value, __ATOMIC_RELAXED)
    #else
      #define asgibridge_get(place) (*(volatile long long *)(place))
      #define asgibridge_put(place, value) (*(volatile long long *)(place) = (value))
    #endif
    #define asgibridge_add(place, value) asgibridge_put(place, asgibridge_get(place) + (value))

    #define ASGIBRIDGE_BUCKETS 32
    typedef struct asgibridge_tally {
        struct asgibridge_tally *next;
        int is_taken;
        long long thread_ident;
        long long since;  /* when the call began that the thread is running; 0 if none or unknown */
        long long submitted, started, finished, cancelled;
        long long waiting_time, running_time;
        long long waiting[ASGIBRIDGE_BUCKETS], running[ASGIBRIDGE_BUCKETS];
    } asgibridge_tally;

    static long long asgibridge_bounds[ASGIBRIDGE_BUCKETS];
    static int asgibridge_bounds_count = 0;
    static inline void asgibridge_note(long long *total, long long *buckets, long long spent) {
        int i = 0;
        while (i < asgibridge_bounds_count && spent > asgibridge_bounds[i]) i++;
        asgibridge_add(total, spent);
        asgibridge_add(&buckets[i], 1);
    }
    """
    ctypedef struct asgibridge_tally:
        asgibridge_tally* next
        int is_taken
        long long thread_ident, since
        long long submitted, started, finished, cancelled
        long long waiting_time, running_time
        long long* waiting
        long long* running
    long long asgibridge_now() nogil
    long long asgibridge_get(long long* place) nogil
    void asgibridge_put(long long* place, long long value) nogil
    void asgibridge_add(long long* place, long long value) nogil
    void asgibridge_note(long long* total, long long* buckets, long long spent) nogil
    long long* asgibridge_bounds
    int asgibridge_bounds_count
    int ASGIBRIDGE_BUCKETS

cdef asgibridge_tally* _tallies = NULL
cdef PyThread_type_lock _tallies_lock = NULL
cdef bint _timing = True
cdef long long _slow = 0  # how many nanoseconds are too many; 0 if nobody wants to know
cdef object _when_slow = None

if len(_BOUNDS) >= ASGIBRIDGE_BUCKETS:
    raise SystemError("too many buckets")
for _i in range(len(_BOUNDS)):
    asgibridge_bounds[_i] = <long long>(_BOUNDS[_i] * 1e9 + 0.5)
asgibridge_bounds_count = len(_BOUNDS)


cdef int _begin_tallies() except -1:
    global _tallies_lock
    _tallies_lock = PyThread_allocate_lock()
    if _tallies_lock is NULL:
        raise MemoryError("can't allocate lock")
    return 0


_begin_tallies()


cdef asgibridge_tally* _take_tally() except NULL:
    # For the calling thread.
    global _tallies
    cdef asgibridge_tally* tally
    PyThread_acquire_lock(_tallies_lock, 1)
    tally = _tallies
    while tally is not NULL and tally.is_taken:
        tally = tally.next
    if tally is NULL:
        tally = <asgibridge_tally*>calloc(1, sizeof(asgibridge_tally))
        if tally is not NULL:
            tally.next = _tallies
            _tallies = tally
    if tally is not NULL:
        tally.is_taken = 1
        asgibridge_put(&tally.thread_ident, <long long>PyThread_get_thread_ident())
    PyThread_release_lock(_tallies_lock)
    if tally is NULL:
        raise MemoryError()
    return tally


cdef void _give_tally_back(asgibridge_tally* tally) noexcept:
    PyThread_acquire_lock(_tallies_lock, 1)
    asgibridge_put(&tally.thread_ident, 0)
    asgibridge_put(&tally.since, 0)
    tally.is_taken = 0
    PyThread_release_lock(_tallies_lock)


def _forget_tallies():
    # In a forked child: only this thread is there, and another may have held the lock.
    cdef int i
    cdef long long mine = <long long>PyThread_get_thread_ident()
    _begin_tallies()
    cdef asgibridge_tally* tally = _tallies
    while tally is not NULL:
        tally.is_taken = tally.is_taken and tally.thread_ident == mine
        if not tally.is_taken:
            tally.thread_ident = tally.since = 0
        tally.submitted = tally.started = tally.finished = tally.cancelled = 0
        tally.waiting_time = tally.running_time = 0
        for i in range(ASGIBRIDGE_BUCKETS):
            tally.waiting[i] = tally.running[i] = 0
        tally = tally.next


_fork.at_fork(_forget_tallies)


cdef asgibridge_tally* _first_tally() noexcept:
    # In front of which others may be put, never behind.
    PyThread_acquire_lock(_tallies_lock, 1)
    tally = _tallies
    PyThread_release_lock(_tallies_lock)
    return tally


def counts():
    """The calls submitted, started, finished and cancelled before they began, and their times.

    A time is a pair: seconds altogether, and how many calls there were in each of the buckets.
    """
    cdef asgibridge_tally* tally
    cdef long long submitted = 0, started = 0, finished = 0, cancelled = 0
    cdef long long waiting_time = 0, running_time = 0
    cdef int part, i
    cdef list waiting = [0] * (asgibridge_bounds_count + 1)
    cdef list running = [0] * (asgibridge_bounds_count + 1)
    # The last step of a call first, so that no call is seen as finished and not as submitted.
    for part in range(4):
        tally = _first_tally()
        while tally is not NULL:
            if part == 0:
                finished += asgibridge_get(&tally.finished)
                running_time += asgibridge_get(&tally.running_time)
                for i in range(asgibridge_bounds_count + 1):
                    running[i] += asgibridge_get(&tally.running[i])
            elif part == 1:
                started += asgibridge_get(&tally.started)
                waiting_time += asgibridge_get(&tally.waiting_time)
                for i in range(asgibridge_bounds_count + 1):
                    waiting[i] += asgibridge_get(&tally.waiting[i])
            elif part == 2:
                cancelled += asgibridge_get(&tally.cancelled)
            else:
                submitted += asgibridge_get(&tally.submitted)
            tally = tally.next
    return (
        submitted, started, finished, cancelled,
        (waiting_time * 1e-9, waiting), (running_time * 1e-9, running),
    )


def collect_timings(on):
    """Have the clock read for each call from now on, or not."""
    global _timing
    _timing = on


def now():
    """The time, in seconds, on the clock that calls are timed by."""
    return asgibridge_now() * 1e-9


def running():
    """The idents of the threads that are running a call, and since when, as `now` tells it.

    If timings are collected.
    """
    cdef asgibridge_tally* tally = _first_tally()
    cdef long long since, ident
    cdef list found = []
    while tally is not NULL:
        since = asgibridge_get(&tally.since)
        ident = asgibridge_get(&tally.thread_ident)
        if since and ident:
            found.append((ident, since * 1e-9))
        tally = tally.next
    return found


def report_slow(seconds, report):
    """Have ``report(function, seconds)`` called for a call that has run for ``seconds`` or longer.

    On the thread that ran it, before its task is told; if timings are collected. 0: not any more.
    """
    global _slow, _when_slow
    old = _when_slow
    _when_slow = report
    _slow = <long long>(seconds * 1e9)


cdef inline long long _begin_to_count(asgibridge_tally* tally, long long* started) noexcept:
    # Returns what `_end_to_count` is to put back.
    cdef long long outer = tally.since
    asgibridge_add(&tally.started, 1)
    started[0] = asgibridge_now() if _timing else 0
    asgibridge_put(&tally.since, started[0])
    return outer


cdef inline int _end_to_count(
    asgibridge_tally* tally, long long outer, long long started, object function
) except -1:
    cdef long long spent
    asgibridge_put(&tally.since, outer)
    asgibridge_add(&tally.finished, 1)
    if started:
        spent = asgibridge_now() - started
        asgibridge_note(&tally.running_time, tally.running, spent)
        if _slow and spent >= _slow:
            report = _when_slow
            if report is not None:  # what it raises costs nobody else anything
                _threads.call_and_report(report, function, spent * 1e-9)
    return 0
