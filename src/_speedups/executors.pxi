# The two executors that thread-sensitive code runs on.
#
# Each is a thin Python class over a cdef one: that alone can be a `concurrent.futures.Executor`, and
# have subclasses, attributes and weak references like any other.

cdef class _CurrentThread:
    # Nothing of it changes, once others know of it, but what is in the inbox.
    cdef unsigned long thread_ident
    cdef unsigned long generation
    cdef Inbox inbox
    cdef public object _old_executor
    cdef public object _task_context  # set once, by the thread whose frame it is

    def __cinit__(self, *args, **kwargs):
        self.thread_ident = PyThread_get_thread_ident()
        self.generation = _generation
        self.inbox = Inbox.__new__(Inbox)

    def __init__(self, old_executor):
        self._old_executor = old_executor

    def run_until_future(self, future):
        """Run what is submitted until ``future`` is done.

        On the thread the executor was made in, else RuntimeError.
        """
        if not self.is_mine():
            raise RuntimeError("You cannot run CurrentThreadExecutor from a different thread")
        future.add_done_callback(self.close)
        self.inbox.serve_on(None)

    def submit(self, fn, /, *args, **kwargs):
        """Have ``fn(*args, **kwargs)`` run in the thread the executor was made in.

        From any other thread. Raises RuntimeError from that one, or if neither this frame nor one
        further out waits for async code any more.
        """
        cdef _CurrentThread executor
        future = Future()
        call = _items.FutureCall(future, fn, args, kwargs)
        if _items.passing.take(self, call):
            return future
        while True:
            executor = self.find_serving()
            if (self if executor is None else executor).is_mine():
                raise RuntimeError(
                    "You cannot submit onto CurrentThreadExecutor from its own thread"
                )
            if executor is None:
                raise RuntimeError("CurrentThreadExecutor already quit or is broken")
            if executor.inbox.add(call, 0, False):
                return future

    cdef bint is_mine(self):
        return self.thread_ident == PyThread_get_thread_ident() and self.generation == _generation

    cdef _CurrentThread find_serving(self):
        cdef _CurrentThread executor = self
        while True:
            if not executor.inbox.is_closed() and executor.generation == _generation:
                return executor
            outer = executor._old_executor
            if not isinstance(outer, _CurrentThread):
                return None
            executor = <_CurrentThread>outer

    def owns_current_thread(self):
        """Whether this is the thread that the executor lends out."""
        return self.is_mine()

    def serving(self):
        """The innermost frame, from this one outwards, that still waits for its async code."""
        return self.find_serving()

    def post(self, item):
        """Give ``item`` to this frame; False if it has ended (then ask `serving` again)."""
        return self.generation == _generation and self.inbox.add(item, 0, False)

    def hold(self):
        """Say that `serve` comes next, before there is anything that could need the thread."""
        self.inbox.begin_wait()

    def serve(self, loop=None):
        """Run what is posted until `close`. On the thread the executor was made in.

        :param loop: on which the async code runs. Raises RuntimeError if that is closed instead.
        """
        self.inbox.serve_on(loop)

    def close(self, _future=None):
        """The async code has ended: refuse further calls. From any thread."""
        self.inbox.shut()

    def quit(self):
        """Stop serving though the async code goes on: what is queued goes to the next frame out.

        On the thread the executor was made in.
        """
        cdef _CurrentThread outer
        self.inbox.end_wait()
        self.inbox.shut()
        self.inbox.wake_other()  # a run that we have not come to wait for
        for item in self.inbox.drain():
            outer = self.find_serving()
            if outer is None or not outer.inbox.add(item, 0, False):
                item.cancel()
                item.deliver()


class CurrentThreadExecutor(_CurrentThread, Executor):
    """Runs code in the thread it is made in, while that thread waits for async code."""

    __slots__ = ()


cdef class _ThreadSensitive:
    cdef object lock  # of threading: who holds it takes or starts a worker and waits for that
    # Of any thread, under the critical section; changed only by who holds the lock, too.
    cdef unsigned long generation
    cdef Inbox inbox  # its worker's
    cdef Py_ssize_t lease  # and with what number it takes our calls
    cdef object worker
    cdef Inbox served  # by the worker; `inbox` as soon as that has started
    cdef bint is_shut_down
    cdef _LeaseEnd renewal  # the lease's end, once it has been asked for
    cdef long long idle_patience  # of its workers' inboxes; of any thread, under the critical section
    # Nothing changes these.
    cdef object avoided  # a worker not to take
    cdef object when_idle
    cdef bint is_new

    def __cinit__(self, *args, **kwargs):
        self.generation = _generation
        self.idle_patience = -1
        self.lock = threading.RLock()

    def __init__(self, avoiding=None, when_idle=None, is_new=False):
        if avoiding is not None:
            self.avoided = (<_ThreadSensitive?>avoiding).current_worker()
        self.when_idle = when_idle
        self.is_new = is_new

    cdef Inbox current_inbox(self):
        with cython.critical_section(self):
            inbox = self.inbox
        return inbox

    cdef object current_worker(self):
        with cython.critical_section(self):
            worker = self.worker
        return worker

    cdef int change(self, worker, Inbox served, Inbox inbox, Py_ssize_t lease) except -1:
        with cython.critical_section(self):
            old, old_served, old_inbox = self.worker, self.served, self.inbox
            self.worker = worker
            self.served = served
            self.inbox = inbox
            self.lease = lease
        return 0

    def submit(self, fn, /, *args, **kwargs):
        """Have ``fn(*args, **kwargs)`` run in the executor's thread. From any thread.

        Raises RuntimeError after `shutdown`.
        """
        future = Future()
        if not self.add(_items.FutureCall(future, fn, args, kwargs)):
            raise RuntimeError("cannot schedule new futures after shutdown")
        return future

    def post(self, item):
        """Give ``item`` to the thread, starting it if need be; False after `shutdown`."""
        return self.add(item)

    def send(self, item):
        """`post` it; None, and nothing else, on the executor's own thread, which waits for it."""
        return None if self.is_mine() else self.add(item)

    cdef bint put(self, object item, bint is_last) except -1:
        # To the worker that there is.
        cdef Inbox inbox
        cdef Py_ssize_t lease
        with cython.critical_section(self):
            inbox = self.inbox
            lease = self.lease
        return inbox is not None and inbox.add(item, lease, is_last)

    cdef bint add(self, object item) except -1:
        if self.generation != _generation:
            self.forget_parent()
        if self.put(item, False):
            return True
        with self.lock:
            if self.is_shut_down:
                return False
            if not self.put(item, False) and not self.take_worker(item):
                self.start_worker(item)
            if _threads.exiting:
                # Nobody will come to close it: the worker ends when it has nothing to do.
                self.current_inbox().shut()
        return True

    cdef bint take_worker(self, object item) except -1:
        # Go on with an idle worker, if this is our first.
        cdef Inbox inbox
        while self.worker is None and self.when_idle is None and not self.is_new:
            inbox = take_idle(self.avoided)
            if inbox is None:
                return False
            self.change(inbox.fingerprint.worker, inbox, inbox, inbox.lease)
            if self.put(item, False):
                return True
            self.change(None, None, None, 0)  # the exit has closed it just now
        return False

    cdef int start_worker(self, object item) except -1:
        cdef Inbox inbox = Inbox.__new__(Inbox)
        cdef Inbox old_served = self.served
        cdef Py_ssize_t old_lease = self.lease
        old_worker = self.current_worker()
        inbox.when_idle = self.when_idle
        with cython.critical_section(self):
            inbox.idle_patience = self.idle_patience
        inbox.is_abandoned = self.is_new
        inbox.stack_size = PyThread_get_stacksize()
        inbox.add(item, 0, False)
        worker = _Worker(inbox, after=old_worker)
        # Known before it runs: the item may ask who owns the thread it is on. But nobody else may
        # put anything in as long as the start can fail.
        self.change(worker, inbox, self.inbox, 0)
        try:
            worker.start()
        except BaseException:
            # Or a signal handler has raised, and it has started after all: let it end.
            inbox.shut()
            self.change(old_worker, old_served, self.inbox, old_lease)
            raise
        self.change(worker, inbox, inbox, 0)
        return 0

    def owns_current_thread(self):
        """Whether this is the executor's own thread."""
        return self.is_mine()

    cdef bint is_mine(self):
        # Not by its ident, which is used again when it has ended; and the worker is, too.
        cdef Inbox served = _this_thread().served
        cdef bint is_ours
        cdef Py_ssize_t lease
        if served is None or self.generation != _generation:
            return False
        with cython.critical_section(self):
            is_ours = served is self.served
            lease = self.lease
        return is_ours and served.lease == lease

    def is_idle(self):
        """Whether all that was posted has been run. From any thread."""
        cdef Inbox inbox = self.current_inbox()
        return inbox is None or inbox.is_idle()

    def blocked_by(self):
        """The ``task_context`` of the call that the thread is in the middle of, while that waits in
        `async_to_sync`; else None. From any thread.
        """
        cdef Inbox inbox = self.current_inbox()
        return None if inbox is None else inbox.current_blocker()

    def _look(self):
        cdef Inbox served
        cdef Py_ssize_t lease, queued = 0
        with cython.critical_section(self):
            worker = self.worker
            served = self.served
            lease = self.lease
        if served is None or self.generation != _generation or served.lease != lease:
            worker = None
        else:
            with cython.critical_section(served):
                queued = len(served.items) - served.begin
        return worker if worker is not None and worker.is_alive() else None, queued, self.is_shut_down

    def abandon(self):
        """Do not wait for the thread at exit. From any thread."""
        cdef Inbox inbox
        cdef Py_ssize_t lease
        with cython.critical_section(self):
            worker = self.worker
            inbox = self.served
            lease = self.lease
        if worker is not None and disown(inbox, lease):  # else it is another's by now
            worker.abandon()

    def look_again(self):
        """Have the thread wait for `when_idle` anew. From any thread."""
        cdef Inbox inbox = self.current_inbox()
        if inbox is not None:
            inbox.look_again()

    def set_patience(self, seconds):
        """Have the thread ask `when_idle` after so many seconds with nothing to do, from the next
        time on that it begins to wait; with None, after as many as `set_idle_seconds` says.
        From any thread.
        """
        cdef Inbox inbox
        cdef long long patience = -1
        if seconds is not None:
            patience = <long long>(<double>seconds * 1000000.0)
        with cython.critical_section(self):
            self.idle_patience = patience
            inbox = self.inbox
        if inbox is not None:
            with cython.critical_section(inbox):
                inbox.idle_patience = patience

    def retire(self, loop):
        """Refuse further calls, and let the thread go when it has run those it has.

        On ``loop``'s thread. Returns what to await for that; None if it is done already, or cannot
        be waited for because this is that thread.
        """
        cdef _LeaseEnd renewal = self.begin_to_end()
        cdef SyncCall call
        if renewal is None:
            return None
        call = SyncCall(loop, renewal)
        return call if self.put(call, True) and not self.is_mine() else None

    def shutdown(self, wait=True, *, cancel_futures=False):
        """Refuse further calls and let the thread go when it has run those it has.

        :param wait: wait for that (not if called on that thread).
        :param cancel_futures: cancel the calls that have not begun.
        """
        cdef Inbox inbox
        cdef Py_ssize_t lease
        cdef _LeaseEnd renewal = self.begin_to_end()
        if renewal is None:
            return
        inbox, worker = self.current_inbox(), self.current_worker()
        if cancel_futures:
            for item in drain_lease(inbox, self.lease):
                item.cancel()
                item.deliver()
        self.put(renewal, True)  # refused if that is on its way already, or the worker is ending
        if not wait or worker.abandoned or self.is_mine():
            return
        with cython.critical_section(inbox):
            lease = inbox.lease
        if lease == self.lease and inbox.is_closed():
            worker.join()
        else:
            renewal.wait()

    def let_go(self, when_over):
        """Refuse further calls, and let the thread go when it has run those it has.

        Then ``when_over()`` is called: on the thread, or at once if that has nothing to do. It must
        be fit to be called twice. From any thread.
        """
        cdef Inbox inbox
        cdef _LeaseEnd renewal = self.begin_to_end()
        if renewal is None:
            when_over()
            return
        renewal.tell(when_over)
        inbox = self.current_inbox()
        if not self.put(renewal, True) and (inbox is None or inbox.closed):
            when_over()  # it has ended, or does

    cdef _LeaseEnd begin_to_end(self):
        # Refuse further calls. Returns what has still to be run on the worker, if it has any.
        cdef Inbox inbox
        if self.generation != _generation:
            self.forget_parent()
        with self.lock:
            self.is_shut_down = True
            inbox = self.current_inbox()
            if inbox is None:
                return None
            if self.renewal is None:
                if let_go(inbox, self.lease):
                    self.change(self.worker, self.served, None, 0)
                    return None
                self.renewal = _renewal(inbox, None)
        return self.renewal

    cdef int forget_parent(self) except -1:
        # In a forked child, before anything else: the thread is not there, and a thread that is
        # not there may hold the lock.
        lock = threading.RLock()
        old = self.lock
        self.lock = lock
        self.change(None, None, None, 0)
        self.generation = _generation
        return 0

    cdef int let_worker_go(self) except -1:
        # When we are dropped.
        cdef Inbox inbox = self.inbox
        if inbox is None or self.generation != _generation or let_go(inbox, self.lease):
            return 0
        inbox.add(_renewal(inbox, None), self.lease, True)
        return 0


class ThreadSensitiveExecutor(_ThreadSensitive, _StockNames):
    """Runs code in one thread of its own, one call after the other.

    :param avoiding: an executor whose thread this one must not get, though it may be free again.
    :param when_idle: makes the thread the executor's alone, a new one that serves nobody else. It
        is called there, with the seconds, when that has had nothing to do for as long as
        `set_patience` says, and tells what is next: see `asgibridge._process.items.WhenIdle`.
    :param is_new: whether the thread has to be a new one, which ends with the executor.
    """

    __slots__ = ()

    def __del__(self):
        (<_ThreadSensitive>self).let_worker_go()
