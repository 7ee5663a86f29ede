# Workers that are kept: handed on from one ThreadSensitiveExecutor to the next, instead of made.
#
# The executor has a *lease* on its worker, by number; the inbox takes only calls that come with the
# number of the current lease, so a late one can't reach the next tenant. ::
#
#     started --> leased --let_go()--> idle --take_idle()--> leased ...
#                    |                 ^  `--IDLE_SECONDS, exit, changed--> ended
#                    `--end()--> ending --renew()
#                                         `--not as good as new--> ended
#
# **As good as new.** Whoever gets the worker must not be able to tell it from a new thread, but by
# its name. So it looks at itself each time it lies down (`look`): if the lease has left nothing
# behind, which is usual, the worker goes to the next without waking up (`let_go`). If there is
# something, or it is not idle, the lease's last item is a `_Renewal`: every `threading.local` value
# is dropped there, in a frame of ours only, which runs their finalizers on the thread they belong
# to. What can't be undone ends the thread: another name or attribute of its Thread object, trace or
# profile functions other than `threading`'s current ones, another signal mask, async generator
# hooks, a running loop, a key we don't know in the thread-state dict, locals made by finalizers.
# (That dict is not cleared: before 3.12 `_asyncio` keeps a borrowed pointer into it.)
#
# The set of processors is compared when it renews itself only: to ask for it at the end of each
# lease would cost a system call, 3 % of a context.
#
# Each lease has an empty context of its own beneath its calls, and a home of its own.
#
# **Who owns what.** `_Kept` is the worker's alone, but for what is said there. The idle ones lie in
# `_idle`, under its critical section; who takes one out of there, be it for a lease or because its
# time is up, decides what becomes of it. Last in, first out, so that few stay warm.
#
# In a forked child the idle ones are forgotten. At exit `_process.threads` closes every worker's inbox, also
# those of the idle ones; `take_idle` passes over them.

cdef extern from *:
    """
    #ifndef _WIN32
      #include <signal.h>
      typedef sigset_t asgibridge_mask;
      static void asgibridge_read_mask(asgibridge_mask *mask) {
          memset(mask, 0, sizeof *mask);  /* the C library fills in only a part */
          (void)pthread_sigmask(SIG_SETMASK, NULL, mask);
      }
    #else
      typedef int asgibridge_mask;
      static void asgibridge_read_mask(asgibridge_mask *mask) { *mask = 0; }
    #endif
    static int asgibridge_same_mask(asgibridge_mask *mask) {
        asgibridge_mask now;
        asgibridge_read_mask(&now);
        return memcmp(&now, mask, sizeof now) == 0;
    }

    /* From 3.13 on `threading.local` finds a thread's values by a key in the thread state, and is
       told of the thread's end by the death of a sentinel there; PyThreadState_Clear drops both, in
       this order. Before, there is an entry for each in the thread-state dict. A Python that we
       don't know may do it in another way: there nothing can be kept. */
    #if PY_VERSION_HEX < 0x03100000
      #define ASGIBRIDGE_CAN_RENEW 1
    #else
      #define ASGIBRIDGE_CAN_RENEW 0
    #endif
    #if PY_VERSION_HEX >= 0x030D0000 && ASGIBRIDGE_CAN_RENEW
      #define ASGIBRIDGE_LOCALS_IN_DICT 0
      static PyObject *asgibridge_sentinel(void) {
          return PyThreadState_Get()->threading_local_sentinel;
      }
      static void asgibridge_drop_locals(void) {
          PyThreadState *thread = PyThreadState_Get();
          Py_CLEAR(thread->threading_local_key);
          Py_CLEAR(thread->threading_local_sentinel);
      }
    #else
      #define ASGIBRIDGE_LOCALS_IN_DICT 1
      static PyObject *asgibridge_sentinel(void) { return NULL; }
      static void asgibridge_drop_locals(void) {}
    #endif

    /* The processors it may run on, which is asked of any thread on Linux. */
    #ifdef __linux__
      #include <sched.h>
      #include <sys/syscall.h>
      #include <unistd.h>
      typedef struct { pid_t thread; cpu_set_t set; } asgibridge_processors;
      static void asgibridge_read_processors(asgibridge_processors *processors) {
          memset(&processors->set, 0, sizeof processors->set);
          (void)sched_getaffinity(processors->thread, sizeof processors->set, &processors->set);
      }
      static void asgibridge_my_processors(asgibridge_processors *processors) {
          processors->thread = (pid_t)syscall(SYS_gettid);
          asgibridge_read_processors(processors);
      }
      static int asgibridge_same_processors(asgibridge_processors *processors) {
          asgibridge_processors now;
          now.thread = processors->thread;
          asgibridge_read_processors(&now);
          return memcmp(&now.set, &processors->set, sizeof now.set) == 0;
      }
    #else
      typedef int asgibridge_processors;
      static void asgibridge_my_processors(asgibridge_processors *processors) { *processors = 0; }
      static int asgibridge_same_processors(asgibridge_processors *processors) {
          (void)processors;
          return 1;
      }
    #endif

    static PyObject *asgibridge_trace(void) { return PyThreadState_Get()->c_traceobj; }
    static PyObject *asgibridge_profile(void) { return PyThreadState_Get()->c_profileobj; }
    static int asgibridge_is_current(PyObject *context) {
        return PyThreadState_Get()->context == context;
    }
    static int asgibridge_has_async_hooks(void) {
        PyThreadState *thread = PyThreadState_Get();
        return thread->async_gen_firstiter != NULL || thread->async_gen_finalizer != NULL ||
               thread->coroutine_origin_tracking_depth != 0;
    }
    """
    ctypedef struct asgibridge_mask:
        pass
    void asgibridge_read_mask(asgibridge_mask* mask)
    bint asgibridge_same_mask(asgibridge_mask* mask)
    ctypedef struct asgibridge_processors:
        pass
    void asgibridge_my_processors(asgibridge_processors* processors)
    bint asgibridge_same_processors(asgibridge_processors* processors)
    bint ASGIBRIDGE_CAN_RENEW
    bint ASGIBRIDGE_LOCALS_IN_DICT
    PyObject* asgibridge_sentinel()
    void asgibridge_drop_locals()
    PyObject* asgibridge_trace()
    PyObject* asgibridge_profile()
    bint asgibridge_has_async_hooks()
    bint asgibridge_is_current(object context)
    object PyContext_New()
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1

# Long enough that a site with a request now and then keeps a warm worker, short enough that those of
# a burst are soon gone. What trio's thread cache takes.
IDLE_SECONDS = 10

cdef object _Worker = _threads.Worker
cdef object _get_running_loop = asyncio._get_running_loop
cdef object _weakref_count = weakref.getweakrefcount
cdef dict _of_threading = threading.__dict__
# In the thread-state dict: what comes and goes without a trace. "Py_Repr" is the list of what
# repr() is in the middle of.
cdef frozenset _KNOWN = frozenset([_THREAD, "__asyncio_running_event_loop__", "Py_Repr"])


@cython.final
cdef class _Idle:
    # The idle workers' inboxes, under the critical section.
    cdef list inboxes

    def __cinit__(self):
        self.inboxes = []

    cdef int add(self, Inbox inbox) except -1:
        with cython.critical_section(self):
            self.inboxes.append(inbox)
        return 0

    cdef Inbox pop(self, object but):
        # The last one whose worker is not `but`; None if there is none.
        cdef Py_ssize_t i
        cdef Inbox inbox
        with cython.critical_section(self):
            i = len(self.inboxes) - 1
            while i >= 0:
                inbox = <Inbox>self.inboxes[i]
                if but is None or inbox.kept.worker is not but:
                    break
                i -= 1
            if i < 0:
                inbox = None
            else:
                del self.inboxes[i]
        return inbox

    cdef bint remove(self, Inbox inbox) except -1:
        cdef bint found
        with cython.critical_section(self):
            found = inbox in self.inboxes  # by identity: it has no __eq__
            if found:
                self.inboxes.remove(inbox)
        return found


cdef _Idle _idle = _Idle()


def _forget_idle():
    global _idle
    _idle = _Idle()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_idle)


cdef Inbox take_idle(object but):
    # An idle worker's inbox, for who takes it to lease; None if there is none.
    cdef Inbox inbox
    while True:
        inbox = _idle.pop(but)
        if inbox is None or (not inbox.is_closed() and inbox.kept.is_as_it_was()):
            return inbox
        inbox.shut()


@cython.final
cdef class _Kept:
    # What a worker knows of itself, from the moment it began.
    cdef object worker  # read by others
    cdef dict attributes
    cdef Py_ssize_t attribute_count
    cdef object name
    cdef Py_ssize_t weak_references  # a WeakKeyDictionary may know the thread
    cdef asgibridge_mask mask
    cdef asgibridge_processors processors
    cdef object trace  # read by others, but only while it is idle
    cdef object profile
    cdef object context  # in which its lease runs
    cdef Py_ssize_t lease  # the last that it has run a call of
    cdef bint is_new  # renewed, and nothing has been run since

    cdef int begin(self, object worker) except -1:
        self.worker = worker
        self.attributes = worker.__dict__
        self.attribute_count = len(self.attributes)
        self.name = self.attributes["_name"]
        self.weak_references = _weakref_count(worker)
        asgibridge_read_mask(&self.mask)
        asgibridge_my_processors(&self.processors)
        self.context = PyContext_New()
        PyContext_Enter(self.context)
        return 0

    cdef int end(self) except -1:
        context = self.context
        self.context = self.worker = self.attributes = None
        PyContext_Exit(context)
        return 0

    cdef bint has_current_hooks(self) except -1:
        return (
            self.trace is _of_threading["_trace_hook"]
            and self.profile is _of_threading["_profile_hook"]
        )

    cdef inline bint has_same_attributes(self) noexcept:
        return len(self.attributes) == self.attribute_count

    cdef inline bint has_same_processors(self) noexcept:
        return asgibridge_same_processors(&self.processors)

    cdef bint is_as_it_was(self) except -1:
        # Whether nobody else has changed it while it lay idle.
        return (
            self.has_current_hooks()
            and self.has_same_attributes()
            and self.attributes.get("_name") is self.name
            and _weakref_count(self.worker) <= self.weak_references
        )

    cdef Py_ssize_t local_count(self) except -1:
        # How many `threading.local` have a value of this thread.
        cdef PyObject* found
        cdef Py_ssize_t count = 0
        if ASGIBRIDGE_LOCALS_IN_DICT:
            for key in <dict>PyThreadState_GetDict():
                if type(key) is str and (<str>key).startswith("thread.local."):
                    count += 1
            return count
        found = asgibridge_sentinel()
        return 0 if found is NULL else _weakref_count(<object>found)

    cdef bint knows_all_keys(self) except -1:
        cdef dict of_thread = <dict>PyThreadState_GetDict()
        for key in of_thread:
            if key not in _KNOWN and not (
                ASGIBRIDGE_LOCALS_IN_DICT
                and type(key) is str
                and (<str>key).startswith("thread.local.")
            ):
                return False
        return True

    cdef bint is_fit(self) except -1:
        # Whether, but for its locals, this thread is what a new one would be.
        cdef PyObject* hook = asgibridge_trace()
        self.trace = None if hook is NULL else <object>hook
        hook = asgibridge_profile()
        self.profile = None if hook is NULL else <object>hook
        return (
            self.has_same_attributes()
            and self.attributes.get("_name") is self.name
            and _weakref_count(self.worker) <= self.weak_references
            and self.has_current_hooks()
            and asgibridge_same_mask(&self.mask)
            and not asgibridge_has_async_hooks()
            and asgibridge_is_current(self.context)
            and _get_running_loop() is None
            and self.knows_all_keys()
        )

    cdef bint look(self) except -1:
        # Whether the lease has left nothing behind. SyncToAsync.threadlocal does not count, which
        # every call uses and leaves empty.
        cdef _Thread thread = _this_thread()
        cdef Py_ssize_t ours = 0
        if thread.names is not None and not thread.names:
            ours = 1
        return self.local_count() == ours and len(self.context) == 0 and self.is_fit()

    cdef bint renew(self) except -1:
        # Make this thread as good as new, and say whether it is.
        cdef _Thread thread = _this_thread()
        if _threads.before_values_end and self.local_count() > (thread.names is not None):
            _threads.end_values()
            thread = _this_thread()
        old_context = self.context
        old_names, old_channel = thread.names, thread.channel
        PyContext_Exit(old_context)
        self.context = PyContext_New()
        PyContext_Enter(self.context)
        thread.names = thread.channel = None
        old_context = old_names = old_channel = None
        if ASGIBRIDGE_LOCALS_IN_DICT:
            of_thread = <dict>PyThreadState_GetDict()
            for key in [key for key in of_thread if type(key) is str]:
                if key.startswith("thread.local."):
                    of_thread.pop(key, None)  # a finalizer before may have dropped it already
        else:
            asgibridge_drop_locals()
        self.is_new = (
            self.local_count() == 0
            and len(self.context) == 0
            and self.is_fit()
            and self.has_same_processors()
        )
        return self.is_new


@cython.final
cdef class _Renewal:
    # The last item of a lease, or what a SyncCall that is the last item calls.
    cdef Inbox inbox  # of who runs it, until it is run
    cdef Inbox runs_in  # the same, if its owner will lie down next
    cdef Inbox served  # to close when it is over
    # Of any thread, under the critical section.
    cdef object future
    cdef object when_over
    cdef bint is_over  # `when_over` has been called, or is about to be
    cdef bint is_through  # and the worker is idle again, or ends

    def __call__(self):
        cdef Inbox inbox = self.inbox
        cdef bint is_new = False
        self.inbox = None
        if inbox is None:
            return
        try:
            is_new = inbox.kept is not None and not inbox.is_closed() and inbox.kept.renew()
        except BaseException:
            is_new = False  # then it ends; serve() meets the same and says so
        self.say_over()
        if is_new and inbox.offer():
            self.runs_in = inbox
        else:
            inbox.shut()
        self.say_through()  # not before: who has waited would start a worker in place of this one

    def run(self):
        self()

    def deliver(self):
        cdef Inbox served = self.served
        self.served = None
        if served is not None and served.shut_and_tell():
            if self.runs_in is None:
                asgibridge_unlock(served.bed, True)
            else:
                self.runs_in.to_wake = served

    def cancel(self):
        self.inbox = None
        self.say_through()
        self.say_over()

    cdef int say_over(self) except -1:
        with cython.critical_section(self):
            self.is_over = True
            when_over = self.when_over
            self.when_over = None
        if when_over is not None:
            when_over()
        return 0

    cdef int say_through(self) except -1:
        with cython.critical_section(self):
            self.is_through = True
            future = self.future
            self.future = None
        if future is not None:
            future.set_result(None)
        return 0

    cdef int tell(self, object when_over) except -1:
        # Have it called at the end, or now if that has been.
        cdef bint is_over
        with cython.critical_section(self):
            is_over = self.is_over
            if not is_over:
                self.when_over = when_over
        if is_over:
            when_over()
        return 0

    cdef int wait(self) except -1:
        # For its end. On any other thread.
        cdef bint is_through
        fresh = Future()
        with cython.critical_section(self):
            is_through = self.is_through
            if self.future is None:
                self.future = fresh
            future = self.future
        if not is_through:
            future.result()
        return 0


cdef _Renewal _renewal(Inbox inbox, Inbox served):
    cdef _Renewal renewal = _Renewal.__new__(_Renewal)
    renewal.inbox = inbox
    renewal.served = served
    return renewal


def end_idle_workers():
    """Have the threads that wait for a next lease end now. From any thread; waits for none."""
    cdef Inbox inbox
    while True:
        inbox = _idle.pop(None)
        if inbox is None:
            return
        inbox.shut()


def set_idle_seconds(seconds):
    """How long a thread waits for its next lease from now on; those that wait begin anew."""
    global IDLE_SECONDS
    IDLE_SECONDS = seconds
    for worker in _threads.workers():
        worker.look_again()


def start_run(item, executor, announce):
    """Run ``item`` on a worker of its own, which then closes ``executor``; serve that meanwhile.

    On the thread the executor was made in. ``announce(worker)`` is called first, so that the caller
    knows whether that has started if this raises: what keeps a thread from starting, or whatever a
    signal handler raises. In the second case the executor can be served again. ``announce`` must
    let no signal handler run; it is called with None if nothing will come of what it was told.
    """
    cdef Inbox served = (<_CurrentThread?>executor).inbox
    cdef Inbox inbox
    cdef bint must_wake = False
    while True:
        inbox = take_idle(None)
        if inbox is None:
            break
        announce(inbox.kept.worker)
        if inbox.add_run(item, served, &must_wake):
            if must_wake:
                served.to_wake = inbox
            if _threads.is_exiting():
                inbox.shut()
            break
        announce(None)  # the exit has closed it just now
    if inbox is None:
        inbox = Inbox.__new__(Inbox)
        inbox.add_run(item, served, &must_wake)
        worker = _Worker(inbox)
        announce(worker)
        try:
            worker.start()
        finally:
            if _threads.is_exiting():
                inbox.shut()
    served.serve_on(None)
