# From any thread to the tasks of one loop. ``idle`` is the pure kernel's token.
#
# **Two ways to wake.** ``loop.call_soon_threadsafe`` to begin with. The wake-up number
# `_BEFORE_READER` gives the loop a reader: an eventfd (elsewhere a pipe) that is one ``write`` for
# the worker, with the GIL held, and one ``read`` for the loop. asyncio's own socket pair takes a
# handle, a ``send`` that lets go of the GIL in the worst moment, and two ``recv``. Only asyncio's
# selector loops get one: uvloop's own way is as fast, Proactor has none.
#
# **The descriptor's life.** The channel owns it. The loop's registration holds the channel, and so
# does every call in flight, so the number cannot belong to somebody else's file when a late worker
# writes to it, nor be closed while it is registered. In a forked child it is neither written to (the
# parent would wake up) nor closed (a daemon may have opened something else under that number).
#
# **Waking a task** is calling its wake-up in its own context, then and there, without another turn
# of the loop. If a wake-up raises KeyboardInterrupt or SystemExit, the rest comes in the loop's next
# turn. ``call_soon`` does it in debug mode, so that slow tasks keep their name, and under
# nest_asyncio, so that a loop run inside a wake-up finds the others.

cdef extern from *:
    """
    /* tests/kernel/test_wake_ways.py builds those that this platform would not take. */
    #define ASGIBRIDGE_EVENTFD 2
    #define ASGIBRIDGE_PIPE 1
    #define ASGIBRIDGE_NO_DESCRIPTOR 0
    #ifndef ASGIBRIDGE_WAKE
      #if defined(__linux__)
        #define ASGIBRIDGE_WAKE ASGIBRIDGE_EVENTFD
      #elif !defined(_WIN32)
        #define ASGIBRIDGE_WAKE ASGIBRIDGE_PIPE
      #else
        #define ASGIBRIDGE_WAKE ASGIBRIDGE_NO_DESCRIPTOR
      #endif
    #endif
    #if ASGIBRIDGE_WAKE == ASGIBRIDGE_NO_DESCRIPTOR
      static int asgibridge_wake_open(int fds[2]) { (void)fds; return -1; }
      static void asgibridge_wake_close(int fds[2]) { (void)fds; }
      static void asgibridge_wake_signal(int fds[2]) { (void)fds; }
      static void asgibridge_wake_clear(int fds[2]) { (void)fds; }
    #else
      #include <stdint.h>
      #include <unistd.h>
      static void asgibridge_wake_close(int fds[2]) {
          close(fds[0]);
          if (fds[1] != fds[0]) close(fds[1]);
      }
      static void asgibridge_wake_signal(int fds[2]) {
          uint64_t one = 1;  /* what an eventfd takes, and a pipe as well */
          if (write(fds[1], &one, sizeof one) < 0) { /* full: it is readable, then */ }
      }
      static void asgibridge_wake_clear(int fds[2]) {
          uint64_t counts[8];  /* an eventfd gives one, a pipe all that it has */
          while (read(fds[0], counts, sizeof counts) == (ssize_t)sizeof counts) {}
      }
      #if ASGIBRIDGE_WAKE == ASGIBRIDGE_EVENTFD
        #include <sys/eventfd.h>
        static int asgibridge_wake_open(int fds[2]) {
            fds[0] = fds[1] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
            return fds[0] < 0 ? -1 : 0;
        }
      #else
        #include <fcntl.h>
        static int asgibridge_wake_open(int fds[2]) {
            int i;
            if (pipe(fds) < 0) return -1;
            for (i = 0; i < 2; i++) {
                if (fcntl(fds[i], F_SETFD, FD_CLOEXEC) < 0 ||
                    fcntl(fds[i], F_SETFL, O_NONBLOCK) < 0) {
                    asgibridge_wake_close(fds);
                    return -1;
                }
            }
            return 0;
        }
      #endif
    #endif
    """
    int asgibridge_wake_open(int* fds)
    void asgibridge_wake_close(int* fds)
    void asgibridge_wake_signal(int* fds)
    void asgibridge_wake_clear(int* fds)

# Many loops live for one call (a top-level `async_to_sync`): a reader costs more than it saves there.
# Three is arbitrary.
cdef enum:
    _BEFORE_READER = 3

cdef object _SelectorLoop = asyncio.selector_events.BaseSelectorEventLoop
cdef object _weakref = weakref.ref
# By loop, weakly: a weak reference to the channel, which knows the loop weakly. The loop keeps it, by
# its registration or as an attribute: what finishes as the loop closes stays in the channel's queue,
# and a call refers to its loop.
cdef object _attached = weakref.WeakKeyDictionary()


@cython.final
cdef class WakeChannel:
    """The way from other threads to the tasks that wait on one event loop."""

    cdef object __weakref__
    cdef object loop  # a weak reference: a thread's cache must not keep a finished loop alive
    cdef unsigned long generation
    cdef bint is_of_helper  # set before anybody else knows us: `_waits.deadlocks.is_helper`
    # Of any thread, under the critical section.
    cdef list finished
    cdef bint idle
    cdef bint has_reader  # false to true once, on the loop's thread, which needs no section to ask
    # Of the loop's thread.
    cdef int wakes
    cdef bint has_descriptor
    cdef int fds[2]

    def __cinit__(self, loop):
        self.loop = _weakref(loop)
        self.generation = _generation
        self.finished = []
        self.idle = True

    def __dealloc__(self):
        # Not by the numbers: where __cinit__ was refused its arguments they are 0, standard input.
        if self.has_descriptor and self.generation == _generation:
            asgibridge_wake_close(self.fds)

    cpdef int post(self, object call) except -1:
        """Tell the loop that ``call`` has run. From any thread."""
        # 0 if the loop is closed and this call dropped with all others; nobody may have noticed yet.
        return self.wake_loop() if self.push(call) else 1

    cdef bint push(self, object call) except -1:
        # Whether the loop has to be woken, by the caller.
        cdef bint is_first
        with cython.critical_section(self):
            self.finished.append(call)
            is_first = self.idle
            self.idle = False
        return is_first

    cdef int wake_loop(self) except -1:
        cdef list dropped, fresh
        cdef bint has_reader
        loop = self.loop()
        if loop is not None and self.generation == _generation:
            with cython.critical_section(self):
                has_reader = self.has_reader
            if has_reader:
                # Not is_closed(): a Python function, at whose entry a signal handler may raise.
                if not loop._closed:
                    loop = None  # it may be judged by its references when it is awake
                    asgibridge_wake_signal(self.fds)
                    return 1
            else:
                try:
                    loop.call_soon_threadsafe(self._drain, context=Context())
                    return 1
                except BaseException as error:
                    # Not so a RecursionError, which leaves no frame to ask the loop in.
                    if not (type(error) is RuntimeError and loop.is_closed()):
                        with cython.critical_section(self):
                            self.idle = True  # not told: the next one tries again, for all
                        raise
        fresh = []
        with cython.critical_section(self):
            dropped = self.finished
            self.finished = fresh
            self.idle = True
        return 0

    def _drain(self):
        self.wakes += 1
        try:
            if self.wakes == _BEFORE_READER:
                self.add_reader()
        finally:
            self.drain()

    def _readable(self):
        asgibridge_wake_clear(self.fds)
        self.drain()

    cdef int add_reader(self) except -1:
        loop = self.loop()
        if not isinstance(loop, _SelectorLoop) or self.generation != _generation:
            return 0
        if asgibridge_wake_open(self.fds) != 0:
            return 0
        self.has_descriptor = True
        try:
            # In an empty context: a handle keeps its context, and that its values.
            Context().run(loop.add_reader, self.fds[0], self._readable)
        except Exception:
            # A selector that takes no such descriptor: it goes on as it began. (Or a signal handler
            # raised, and it is registered: so it stays open as long as the channel.)
            return 0
        _attached[loop] = _weakref(self)
        with cython.critical_section(self):
            self.has_reader = True
        return 0

    cdef int drain(self) except -1:
        cdef Py_ssize_t i, n
        cdef list batch
        cdef bint directly
        cdef list fresh = []  # made out here: making one may run the collector, and that a finalizer
        loop = self.loop()
        # Asked before the batch is taken: a signal handler may raise meanwhile.
        directly = not (
            loop is None
            or (loop._debug if self.has_reader else loop.get_debug())  # asyncio's own, then
            or hasattr(loop, "_nest_patched")
        )
        with cython.critical_section(self):
            self.idle = True
            batch = self.finished
            self.finished = fresh
        n = len(batch)
        i = 0
        try:
            while i < n:
                call = batch[i]
                batch[i] = None
                i += 1
                if type(call) is SyncCall:
                    (<SyncCall>call).woken(directly)
                elif type(call) is _Callback:
                    (<_Callback>call).wake_in(loop, directly)
                elif type(call) is _Waiter:
                    (<_Waiter>call).woken(directly)
                else:
                    call.wake()
                call = None
        except BaseException:
            if i < n:
                # First come, first served: before what has come in meanwhile.
                fresh = batch[i:]
                with cython.critical_section(self):
                    fresh.extend(self.finished)
                    batch = self.finished
                    self.finished = fresh
                    self.idle = False
                self.wake_loop()
            raise
        return 0


@cython.final
@cython.freelist(16)
cdef class _Callback:
    # What goes to a loop by the same way as a finished call.
    cdef object callback, context
    cdef tuple args

    cdef int wake_in(self, object loop, bint directly) except -1:
        cdef tuple args = self.args
        if loop is None:
            return 0
        if not directly:
            loop.call_soon(self.callback, *args, context=self.context)
            return 0
        try:
            if self.callback is begin_task and _takes_context:
                # The task gets the context itself, which is neither entered here nor copied.
                _begin(args[0], args[1], args[2], args[3], self.context)
            else:
                self.context.run(self.callback, *args)
        except Exception as error:
            loop.call_exception_handler(
                {"message": f"Exception in callback {self.callback!r}", "exception": error}
            )
        return 0


def call_soon(loop, callback, *args):
    """``loop.call_soon_threadsafe(callback, *args)``, from a thread that runs a call of that loop.

    Raises RuntimeError if the loop is closed.
    """
    _call_soon(loop, callback, args)


cdef int _call_soon(object loop, object callback, tuple args) except -1:
    # By the way by which the call that this thread runs is going to tell its loop, if that is `loop`.
    cdef SyncCall call = _this_thread().call
    cdef WakeChannel channel = None if call is None else call.channel
    cdef _Callback item
    if channel is None or channel.generation != _generation or channel.loop() is not loop:
        loop.call_soon_threadsafe(callback, *args)
        return 0
    if loop._closed if channel.has_reader else loop.is_closed():
        raise RuntimeError("Event loop is closed")
    item = _Callback.__new__(_Callback)
    item.callback = callback
    item.args = args
    item.context = PyContext_CopyCurrent()
    if not channel.post(item):
        raise RuntimeError("Event loop is closed")
    return 0


cdef WakeChannel _wake_channel(object loop):
    # A thread that goes to and fro between loops gets a new one each time, as long as it has no
    # reader.
    cdef _Thread thread = _this_thread()
    cdef WakeChannel channel = thread.channel
    if channel is not None and channel.generation == _generation and channel.loop() is loop:
        return channel
    channel = None
    found = _attached.get(loop)
    if found is not None:
        channel = found()
    if channel is None or channel.generation != _generation:
        channel = WakeChannel(loop)
        _loops.note(loop)
        channel.is_of_helper = _deadlocks.is_helper()
    # Cython lets the old one go before it stores the new one, and its end may run anybody's code.
    old = thread.channel
    thread.channel = channel
    return channel


def attach_reader(loop):
    """Have other threads wake ``loop`` the cheapest way from the first time on.

    For a loop that will be used for long, while it is not running: it takes a file descriptor.
    """
    cdef WakeChannel channel = WakeChannel(loop)
    channel.add_reader()
    if not channel.has_reader:
        # Else each thread made a channel of its own, and whether anybody knows a loop is told by
        # the weak references to it, too (`asgibridge._loops.kept`).
        try:
            loop._asgibridge_channel = channel
        except AttributeError:
            return  # a loop of slots
        _attached[loop] = _weakref(channel)
