"""One event loop for all the top-level `async_to_sync` calls of the process, from any thread.

`SharedLoop` is the switch, of which there is one. While it is on, a top-level call for which no
AsyncSingleThreadContext is in force runs on the loop that the handle has, a `_LoopOfProcess`; the
first such call makes it. ::

    none --a call--> has begun --close(), switch_off(), exit--> refuses, ends when the calls in
     ^                  |                                       flight have
     |                  '--an error, or loop.stop()-----------> refuses, ends at once
     '--------------------------------------------------------------'

The handle lets go of a loop that refuses, and the next call makes another, also while the old one
ends. The rest is a `asgibridge._loops.persistent.PersistentLoop`: see there how a run begins and
ends. What is different is that the callers have nothing to do with each other:

**Whose task it is** no step of the loop is told, but the context of a step tells. Each caller has
set its frame in ``state.executors``, in the context that all its tasks inherit. So the loop's
thread is at a home that stands for others (`kernel.home_of_contexts`): the one at which that was
set. By it, all tasks of a call find the frame, and so the thread, and the `Local` values of their
caller, and of nobody else.

**Tasks that have not inherited a frame**, or whose caller has gone, have their thread-sensitive
calls run by the process's single thread. No run `serves` the loop: that would be another caller's
thread. Only who closes the loop serves it, as the tasks' cancellation may need a thread, and that
may be the single thread itself.

**Ctrl-C.** The second one abandons the run, not the thread. It is taken out of the runs, its task
is cancelled and goes on, and what comes of it is reported to the loop's exception handler. If such
a task is still there at exit, it may hold the loop up for ever: then the thread is not waited for.

**An error** that ends the loop is raised by the call in flight, if there is one; if there are
several, by each a RuntimeError that says so; if there is none, it is reported.

**Deadlock.** A thread that is in a call on the loop cannot wait for the loop's end, which waits for
that call: `close` is a RuntimeError there.

**`at_close`.** What was registered before the loop began lies in the handle. The loop takes that
over when it begins, and is then the one that takes what is registered next; it gives up both, under
the handle's lock, when its last function has been called. So each function is called once:

1. A thread looks which loop takes functions, finds this one, and adds its own.
2. Or the loop has found none left, and takes no more: the thread finds the handle.

A task that runs on a loop which is ending adds to that loop, whatever the handle has by now: what
it has made belongs there. A forked child inherits what was not registered by a task.

**Fork.** The child's handle has no loop. (`asgibridge._loops.persistent` keeps the parent's.)
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import NamedTuple, TypeVar

from .._bridge import state
from .._kernel import kernel
from .._process import cpython, fork, greenlets, settings, threads
from .._process.handover import call_if_open
from .._process.threads import LoopWorker, Worker
from .persistent import PersistentLoop, Run

_C = TypeVar("_C", bound="Callable[[], Awaitable[object]]")

THREAD_NAME = "asgibridge-shared-loop"

in_force: SharedLoop | None = None
"""The handle, while it is switched on. Each top-level call looks here."""


class _LoopOfProcess(PersistentLoop):
    """See the module's header."""

    is_shared = True

    def __init__(self, handle: SharedLoop) -> None:
        # A new thread, which ends with the loop: its name is not to be seen on other work.
        executor = kernel.ThreadSensitiveExecutor(None, None, True)
        executor._make_worker = LoopWorker
        self._thread: kernel.ThreadSensitiveExecutor = executor
        super().__init__(executor)
        self._home = kernel.home_of_contexts(state.executors)
        self._handle = handle
        self._abandoned: set[Run] = set()
        self._worker: Worker | None = None  # set on the thread
        self.to_close: list[_ToClose] = []  # guarded by the handle's lock

    def is_running(self) -> bool:
        """Whether it takes runs, and has had the first. From any thread."""
        return self._has_begun and self.is_usable()

    def successor(self) -> PersistentLoop | None:
        return self._handle._runs_on()

    def raise_failure(self) -> None:
        pass  # the next call, and who closes it, have nothing to do with it

    def refuse_to_wait(self) -> None:
        """Raises RuntimeError on a thread that cannot wait for the end of this loop."""
        waiting, _task_context = kernel.awaiting(state.threadlocal)
        running = None if greenlets.runs_no_loop() else cpython.running_loop()
        with self._lock:
            runs, loop = list(self._runs), self._loop
        is_in_call = loop is not None and (loop is waiting or loop is running)
        if is_in_call or any(run.is_of_this_thread() for run in runs):
            raise RuntimeError(
                "SharedLoop.close() would deadlock: it waits for the calls on the loop, and this "
                "one is in the middle of such a call. Close it when that has returned. See "
                "docs/loops.md#how-it-ends"
            )
        if running is not None:
            raise RuntimeError(
                "SharedLoop.close() waits, and would block the event loop that runs in this "
                "thread: await asyncio.to_thread(shared_loop().close) there"
            )

    def close_and_wait(self) -> None:
        """End it and wait until its thread has ended, serving its leftover tasks meanwhile."""
        self.leave()
        self._thread.shutdown(wait=True)
        if self._worker is not None:
            self._worker.join()  # it may have a step to go: who forks next is warned of threads

    def end_at_exit(self) -> None:
        if self._abandoned:
            self.end()
            self._thread.abandon()
        else:
            super().end_at_exit()

    def abandon(self, run: Run) -> None:
        if self._generation != fork.generation:
            return
        with self._lock:
            if run not in self._runs:
                return  # abandoned before, by the signal handler: cancel it once
            self._abandoned.add(run)
            self._take_out(run)  # now `_start` would not begin it, nor would `_begin`
            loop = self._loop
        if loop is None or not call_if_open(loop, self._cancel, run):
            self._abandoned.discard(run)

    # On the loop's thread.

    def _run(self) -> None:
        worker = threading.current_thread()
        if isinstance(worker, Worker):  # under gevent that is a greenlet elsewhere
            worker.name = THREAD_NAME
            self._worker = worker
        try:
            super()._run()
        finally:
            # gevent's lock in there is for one real thread: there the dropped executor ends it.
            if not greenlets.are_here():
                self._thread.shutdown(wait=False)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._handle._let_take(loop, self)
        super()._begin(loop)

    def _close(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            while True:
                function = self._handle._next_to_close(loop, self)
                if function is None:
                    break
                try:
                    loop.run_until_complete(_call(function))
                except (Exception, asyncio.CancelledError) as error:
                    what = f"{function!r}, which was to be called at the end of the loop, failed"
                    loop.call_exception_handler({"message": what, "exception": error})
        finally:
            super()._close(loop)

    def _cancel(self, run: Run) -> None:
        task = self._tasks.get(run)
        if task is None:  # not begun, or over
            self._abandoned.discard(run)
        else:
            task.cancel()

    def _ended(self, run: Run, task: asyncio.Task[None]) -> None:
        super()._ended(run, task)
        if run not in self._abandoned:
            return
        self._abandoned.discard(run)
        error = run.take_unheard()
        if error is not None and not isinstance(error, asyncio.CancelledError):
            what = "what was left of an async_to_sync call after a second Ctrl-C raised"
            task.get_loop().call_exception_handler({"message": what, "exception": error})

    def _serve_by_another(self) -> None:
        pass

    def _tell(self, runs: list[Run], error: BaseException) -> None:
        if len(runs) == 1:
            super()._tell(runs, error)
            return
        for run in runs:
            run.finish(_ended_by(error))
        if not runs:
            threads.report_error(_ended_by(error))

    def _let_leave(self, failure: BaseException | None) -> bool:
        super()._let_leave(None)
        return False  # so it is reported


def _ended_by(error: BaseException) -> RuntimeError:
    # One for each caller: each adds to its traceback.
    ended = RuntimeError(
        "the event loop that all threads share has ended, because something that ran on it raised "
        f"{type(error).__name__} or stopped it; the next call has a new one"
    )
    ended.__cause__ = error
    return ended


async def _call(function: Callable[[], Awaitable[object]]) -> None:
    await function()


class _ToClose(NamedTuple):
    function: Callable[[], Awaitable[object]]
    is_of_task: bool
    """Whether a task of the loop has registered it."""


class SharedLoop:
    """The switch of the event loop that all threads share. `shared_loop` returns the only one.

    As a context manager it switches the loop on for the block: for the whole process, not for this
    thread alone. Leaving the outermost block is `switch_off`, unless the loop was switched on
    before the block. Any thread may use it.
    """

    def __init__(self) -> None:
        self._lock = cpython.RLock()  # re-entrant: a finalizer may call async code
        # Guarded by the lock, but for a look.
        self._current: _LoopOfProcess | None = None
        self._blocks = 0
        self._was_on = False  # before it was last asked for
        self._stays_on = False  # after the outermost block
        self._to_close: list[_ToClose] = []
        self._takers: dict[asyncio.AbstractEventLoop, _LoopOfProcess] = {}

    def __repr__(self) -> str:
        is_on = "on" if in_force is self else "off"
        return f"<SharedLoop: {is_on}, {'running' if self.is_running else 'not running'}>"

    @property
    def is_running(self) -> bool:
        """Whether there is a loop that takes calls now: it begins with the first."""
        current = self._current
        return current is not None and current.is_running()

    def close(self) -> None:
        """End the loop as `asyncio.run` does, and wait until its thread has ended.

        Calls in flight are waited for. Then `at_close` functions are called, leftover tasks
        cancelled, async generators and the default executor shut down; the calling thread runs the
        thread-sensitive sync code that they need for that. Calls that come meanwhile or later have
        a new loop. Does nothing if there is no loop. Raises RuntimeError, and does nothing, in a
        thread that is in the middle of a call on the loop, or that runs an event loop.

        There is no time-out, as `asyncio.run` has none: what never ends holds it up. Ctrl-C ends
        the wait.
        """
        self._end(switch_off=False)

    def switch_off(self) -> None:
        """`close` the loop, and have later calls run on loops of their own. Raises as that does."""
        self._end(switch_off=True)

    def at_close(self, function: _C) -> _C:
        """Have the async ``function()`` called on the loop when it ends. From any thread.

        ::

            client = httpx.AsyncClient()
            shared_loop().at_close(client.aclose)

        Each is called once: by `close`, or as the program exits; after the calls in flight, before
        leftover tasks are cancelled; the last registered first. If the loop has not begun, it is
        for the one that does; if none does in this process, it is not called. A forked child
        inherits what was registered before, but for what tasks on the loop have. An error goes to
        the loop's exception handler, and the others are called all the same.

        Returns ``function``, so it is a decorator, too. TypeError if that cannot be called.
        """
        if not callable(function):
            raise TypeError(f"at_close takes an async function of no parameters: {function!r}")
        running = cpython.running_loop()
        with self._lock:
            taker = None if running is None else self._takers.get(running)
            made = _ToClose(function, taker is not None)
            if taker is None and self._current in self._takers.values():
                taker = self._current
            (self._to_close if taker is None else taker.to_close).append(made)
        return function

    def _let_take(self, loop: asyncio.AbstractEventLoop, taker: _LoopOfProcess) -> None:
        with self._lock:
            taker.to_close, self._to_close = self._to_close, []
            self._takers[loop] = taker

    def _next_to_close(
        self, loop: asyncio.AbstractEventLoop, taker: _LoopOfProcess
    ) -> Callable[[], Awaitable[object]] | None:
        with self._lock:
            if taker.to_close:
                return taker.to_close.pop().function
            self._takers.pop(loop, None)
            return None

    def _end(self, switch_off: bool) -> None:
        global in_force
        with self._lock:
            current = self._current
            if current is not None:
                current.refuse_to_wait()
            self._current = None
            if switch_off:
                in_force = None
        if current is not None:
            current.close_and_wait()

    def __enter__(self) -> SharedLoop:  # noqa: PYI034 - Self is 3.11's
        global in_force
        with self._lock:
            if not self._blocks:
                self._stays_on = self._was_on and in_force is not None
            self._blocks += 1
            in_force = self
        return self

    def __exit__(
        self,
        exc: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        with self._lock:
            self._blocks -= 1
            is_over = not self._blocks and not self._stays_on
            if is_over:
                self._was_on = False
        if is_over:
            self.switch_off()

    def _runs_on(self) -> PersistentLoop | None:
        # Where a top-level call runs; None: on a loop of its own. From any thread.
        current = self._current
        if current is not None and current.is_usable():
            return current
        with self._lock:
            current = self._current
            if current is not None and current.is_usable():
                return current
            self._current = None
            if in_force is not self or threads.exiting:
                return None
            if not isinstance(state.executors, kernel.ContextStorage):
                raise RuntimeError(
                    "threading was monkey-patched after asgibridge was imported: the shared event "
                    "loop could not tell whose its tasks are. Patch first, or do without it"
                )
            self._current = current = _LoopOfProcess(self)
            return current

    def _begin_anew(self) -> None:
        # In a forked child.
        self._lock = cpython.RLock()
        self._current = None
        for taker in self._takers.values():
            inherited = [each for each in taker.to_close if not each.is_of_task]
            self._to_close = inherited + self._to_close
        self._takers = {}


_the_one = SharedLoop()


def shared_loop() -> SharedLoop:
    """Run all top-level `async_to_sync` calls of this process on one event loop, from now on.

    Returns the handle, to close the loop by, and to switch it off::

        shared_loop()  # in a WSGI module, or in a worker's start-up
        ...
        shared_loop().close()  # when the worker ends

        with shared_loop():  # or for a part of a program
            ...

    The loop runs on one thread, named ``asgibridge-shared-loop``, from the first call until the
    process ends or it is closed, also between calls. So HTTP clients, connection pools and locks,
    which belong to a loop, can be used by all threads, one call after the other. Thread-sensitive
    sync code that a coroutine calls runs on the thread that made the call. Code that blocks the
    loop blocks the calls of all threads.

    Within an AsyncSingleThreadContext, with ``force_new_loop=True``, and in sync code for which an
    event loop waits, calls go where they go without this. ``ASGIBRIDGE_LOOP=shared`` in the
    environment is this call, made at import.
    """
    global in_force
    with _the_one._lock:
        _the_one._was_on = in_force is not None
        in_force = _the_one
    return _the_one


def at_close(function: _C) -> _C:
    """Have the async ``function()`` called on the shared loop when that ends. From any thread.

    ::

        client = httpx.AsyncClient()
        at_close(client.aclose)

    It is `SharedLoop.at_close` without switching the loop on: for a module of tasks, which
    processes that only send them import, too.
    """
    return _the_one.at_close(function)


fork.at_fork(_the_one._begin_anew)

if settings.read("ASGIBRIDGE_LOOP") == "shared":
    shared_loop()
