# Whether a worker is as good as a new thread, and how it is made so: see workers.pxi.
#
# The pure kernel has no such room: its workers end with their lease.

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

    /* What a new thread has from the one that starts it, and Linux alone tells of another thread:
       niceness, policy and priority; processors; capabilities, which go with the user; the working
       directory, root and umask, and with them the mount namespace. (To ask for the other
       namespaces takes as long as to start a thread.) */
    #ifdef __linux__
      #include <stdint.h>
      #include <unistd.h>
      #include <sys/prctl.h>
      #include <sys/syscall.h>
      typedef struct {
          char scheduling[56];   /* struct sched_attr, version 1 */
          char processors[128];  /* 1,024 of them; with more the kernel refuses, for every thread */
          uint32_t capabilities[6];
      } asgibridge_inherited;

      static void asgibridge_read_inherited(int tid, asgibridge_inherited *of) {
          uint32_t header[2] = {0x20080522u, (uint32_t)tid};  /* _LINUX_CAPABILITY_VERSION_3 */
          memset(of, 0, sizeof *of);
          (void)syscall(SYS_sched_getattr, tid, of->scheduling, sizeof of->scheduling, 0);
          /* Behind the priority comes what the scheduler may change by itself. */
          memset(of->scheduling + 24, 0, sizeof of->scheduling - 24);
          (void)syscall(SYS_sched_getaffinity, tid, sizeof of->processors, of->processors);
          (void)syscall(SYS_capget, header, of->capabilities);
      }
      static int asgibridge_thread_id(void) { return (int)syscall(SYS_gettid); }
      /* Not under a filter of system calls, which might end the process for this rare one. */
      static int asgibridge_shares_files_system(int tid) {
      #ifdef SYS_kcmp
          if (prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == 0)
              return syscall(SYS_kcmp, asgibridge_thread_id(), tid, 3 /* KCMP_FS */, 0, 0) <= 0;
      #endif
          (void)tid;
          return 1;
      }
      /* Whether the thread is what a new one that this thread starts would be. */
      static int asgibridge_is_as_inherited(int tid) {
          asgibridge_inherited ours, theirs;
          asgibridge_read_inherited(0, &ours);
          asgibridge_read_inherited(tid, &theirs);
          return memcmp(&ours, &theirs, sizeof ours) == 0 && asgibridge_shares_files_system(tid);
      }
    #else
      static int asgibridge_thread_id(void) { return 0; }
      static int asgibridge_is_as_inherited(int tid) { (void)tid; return 1; }
    #endif

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
    int asgibridge_thread_id()
    bint asgibridge_is_as_inherited(int tid)
    bint ASGIBRIDGE_CAN_RENEW
    bint ASGIBRIDGE_LOCALS_IN_DICT
    PyObject* asgibridge_sentinel()
    void asgibridge_drop_locals()
    bint asgibridge_has_async_hooks()
    ctypedef struct PyThreadState:
        PyObject* c_traceobj
        PyObject* c_profileobj
        PyObject* context
    PyThreadState* PyThreadState_Get()
    object PyContext_New()
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1

cdef object _get_running_loop = asyncio._get_running_loop
cdef object _weakref_count = weakref.getweakrefcount
cdef dict _of_threading = threading.__dict__
# In the thread-state dict, which is not cleared (before 3.12 `_asyncio` keeps a borrowed pointer into
# it): what comes and goes without a trace. "Py_Repr" is the list of what repr() is in the middle of.
cdef frozenset _KNOWN = frozenset([_THREAD, "__asyncio_running_event_loop__", "Py_Repr"])


cdef bint _is_local(object key) except -1:
    # Whether it is a `threading.local`'s key in the thread-state dict.
    return type(key) is str and (<str>key).startswith("thread.local.")


@cython.final
cdef class _Fingerprint:
    # What a worker knows of itself, from the moment it began.
    cdef object worker  # read by others
    cdef dict attributes
    cdef Py_ssize_t attribute_count
    cdef object name
    cdef Py_ssize_t weak_references  # a WeakKeyDictionary may know the thread
    cdef asgibridge_mask mask
    cdef int tid  # the system's, of the thread
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
        self.tid = asgibridge_thread_id()
        self.context = PyContext_New()
        PyContext_Enter(self.context)

    cdef int end(self) except -1:
        context = self.context
        self.context = self.worker = self.attributes = None
        PyContext_Exit(context)

    cdef inline bint has_same_attributes(self) noexcept:
        return len(self.attributes) == self.attribute_count

    cdef bint is_as_it_was(self) except -1:
        # Whether nobody else has changed it. Of any thread, while it is idle.
        return (
            self.trace is _of_threading["_trace_hook"]
            and self.profile is _of_threading["_profile_hook"]
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
                count += _is_local(key)
            return count
        found = asgibridge_sentinel()
        return 0 if found is NULL else _weakref_count(<object>found)

    cdef bint knows_all_keys(self) except -1:
        for key in <dict>PyThreadState_GetDict():
            if key not in _KNOWN and not (ASGIBRIDGE_LOCALS_IN_DICT and _is_local(key)):
                return False
        return True

    cdef bint is_fit(self) except -1:
        # Whether, but for its locals, this thread is what a new one would be.
        cdef PyThreadState* state = PyThreadState_Get()
        self.trace = None if state.c_traceobj is NULL else <object>state.c_traceobj
        self.profile = None if state.c_profileobj is NULL else <object>state.c_profileobj
        return (
            self.is_as_it_was()
            and asgibridge_same_mask(&self.mask)
            and not asgibridge_has_async_hooks()
            and state.context is <PyObject*>self.context
            and _get_running_loop() is None
            and self.knows_all_keys()
        )

    cdef bint look(self) except -1:
        # Whether the lease has left nothing behind. SyncToAsync.threadlocal does not count, which
        # every call uses and leaves empty.
        cdef _Thread thread = _this_thread()
        cdef Py_ssize_t ours = thread.names is not None and not thread.names
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
            for key in [key for key in of_thread if _is_local(key)]:
                of_thread.pop(key, None)  # a finalizer before may have dropped it already
        else:
            asgibridge_drop_locals()
        self.is_new = self.local_count() == 0 and len(self.context) == 0 and self.is_fit()
        return self.is_new


@cython.final
cdef class _LeaseEnd:
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
            is_new = (
                inbox.fingerprint is not None
                and not inbox.is_closed()
                and inbox.fingerprint.renew()
            )
        except BaseException:
            is_new = False  # then it ends; serve() meets the same and says so
        self.say_over()
        if is_new and offer(inbox):
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
                unlock(served.sleep_lock, True)
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

    cdef int say_through(self) except -1:
        with cython.critical_section(self):
            self.is_through = True
            future = self.future
            self.future = None
        if future is not None:
            future.set_result(None)

    cdef int tell(self, object when_over) except -1:
        # Have it called at the end, or now if that has been.
        cdef bint is_over
        with cython.critical_section(self):
            is_over = self.is_over
            if not is_over:
                self.when_over = when_over
        if is_over:
            when_over()

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


cdef _LeaseEnd _renewal(Inbox inbox, Inbox served):
    cdef _LeaseEnd renewal = _LeaseEnd.__new__(_LeaseEnd)
    renewal.inbox = inbox
    renewal.served = served
    return renewal
