"""A top-level `async_to_sync` call: one `asyncio.run` on another thread, served by the caller's.

`shared_loop` has all such calls of the process run on one event loop instead.

Two threads take part. The **caller** waits, and meanwhile runs the thread-sensitive calls of the
async code, until the run has *closed* its executor; the **runner** (a thread of its own, or that of
an AsyncSingleThreadContext) executes `asyncio.run` from beginning to end: leftover tasks cancelled,
async generators and default executor shut down, loop closed. Only then does the run close the
caller's executor, whatever happened, so the caller cannot wait for ever and serves to the end.
(Within an AsyncSingleThreadContext with a persistent loop, and on the shared loop, the run is a
task there, and ends when that does: see `asgibridge._loops.persistent` and
`asgibridge._loops.shared`.)

**Ctrl-C**, as in `asyncio.Runner`. In the main thread, where Python runs signal handlers, and if
the SIGINT handler is Python's own, ours stands in for it as long as the call takes:

* the first SIGINT cancels the main task and interrupts nothing; the caller goes on serving. If the
  coroutine ends cancelled, the call raises KeyboardInterrupt.
* a second raises KeyboardInterrupt at once, wherever the main thread is. The runner is abandoned:
  nobody waits for it, here or at exit. (On the shared loop, the task is.)

Any other exception that a signal handler raises while the caller waits counts as the first of those
two, and is raised when the coroutine has ended. Every other call in flight is not concerned.

State: ``_tasks`` holds the main task while it runs; the caller's thread alone counts
``_interrupts``. Begun before interrupted: the interrupt cancels the task through its loop.
Interrupted before begun: the task sees the count first thing and cancels itself. Each side writes
its own half before it reads the other's, so at least one of them sees both; the side that pops
``_cancel`` does it, so that the task is not cancelled again in the middle of its cleaning up.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Executor, Future
from contextvars import Context
from types import FrameType
from typing import Any, Protocol

from ._kernel import kernel
from ._loops import kept
from ._loops.lent import LentWait, lent_already
from ._loops.persistent import PersistentLoop, at_home, make_task
from ._loops.shared import SharedLoop, shared_loop
from ._process import greenlets
from ._process.cpython import signals
from ._process.handover import call_if_open, take
from ._process.items import Item
from ._process.threads import Worker
from ._waits import deadlocks, names
from ._workers import leases
from ._workers.pool import is_in_hook
from ._workers.pool import pool as worker_pool
from .current_thread_executor import CurrentThreadExecutor

__all__ = ["SharedLoop", "TopLevelRun", "shared_loop"]


def __dir__() -> list[str]:
    return __all__


_SIGINT = int(signals.SIGINT)


class Outcome(Protocol):
    """A `kernel.AsyncCall`, or the Future that a ``main_wrap`` of somebody else's gets."""

    def done(self) -> bool: ...

    def result(self) -> Any: ...


class TopLevelRun:
    """One `asyncio.run` of ``awaitable``, on behalf of a thread that serves ``executor``.

    :param context: the caller's context, in which the main task runs.
    :param served: `AsyncToSync.loop_thread_executors`.
    """

    _on: PersistentLoop | None = None  # that it was given to
    _outcome: Outcome | None = None  # of the coroutine; with `_on`

    def __init__(
        self,
        awaitable: Awaitable[None],
        executor: CurrentThreadExecutor,
        context: Context,
        served: dict[asyncio.AbstractEventLoop, CurrentThreadExecutor],
    ) -> None:
        self._awaitable = [awaitable]  # popped by whoever begins it, or drops it: one of them
        self._executor = executor
        # What the caller waits in. Not the executor where the caller is lent already: then tasks
        # that were there before need the caller, too, and the executor passes its calls on.
        self.server: CurrentThreadExecutor | LentWait = executor
        self._context = context
        self._served = served
        self._home = kernel.current_home()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._interrupts = 0
        self._cancel = [True]
        self._started = False
        # The last one counts. A list, because no signal handler comes in between of its append.
        self._workers: list[Worker | None] = [None]
        self._has_run = False  # then the worker is somebody else's, or soon
        self._abandoned = False
        self._abandon_thread: Callable[[], None] | None = None
        self._error: BaseException | None = None
        self._tasks: list[asyncio.Task[Any]] = []  # the main task, while there is one

    def run(
        self,
        on: Executor | PersistentLoop | None,
        task_context: list[asyncio.Task[Any]] | None = None,
        outcome: Outcome | None = None,
    ) -> bool:
        """Run to the end, on ``on``'s thread or a new one, while this thread serves its executor.

        :param task_context: of the `sync_to_async` call that this thread is in the middle of.
        :param outcome: where ``awaitable`` puts what comes of it.

        Returns whether the coroutine was interrupted. Raises what `asyncio.run` itself raised, the
        exception of a signal handler if there was one, or whatever keeps the thread from starting;
        RuntimeError if ``on``'s thread waits for that call.
        """
        pending: BaseException | None = None
        try:
            handler = self._take_sigint()
            try:
                while True:
                    try:
                        if self._started:
                            self.server.serve()
                        else:
                            self._start_and_serve(on, task_context, outcome)
                        break
                    except BaseException as error:
                        if not self._started:
                            raise
                        if self._interrupts:
                            self._abandon()
                            raise
                        pending = error
                        self._interrupt()
            finally:
                if handler is not None and signals.getsignal(_SIGINT) is handler:
                    signals.signal(_SIGINT, signals.default_int_handler)
                handler = None  # it refers to this run
            if self._abandoned:
                # The second interrupt struck in a sync function, which kept the exception.
                raise KeyboardInterrupt
            if pending is not None:
                raise pending
            if self._interrupts and isinstance(self._error, asyncio.CancelledError):
                return True
            if self._error is not None:
                raise self._error
            return self._interrupts > 0
        finally:
            if not self._started:
                self._drop_awaitable()
            if self.server is not self._executor:
                self._let_go_of_lent()
            pending = self._error = None
            if not self._abandoned and self._outcome is not None:
                self._outcome = None

    def _start_and_serve(
        self,
        on: Executor | PersistentLoop | None,
        task_context: list[asyncio.Task[Any]] | None,
        outcome: Outcome | None,
    ) -> None:
        if isinstance(on, PersistentLoop):
            self._outcome = outcome
            if self._begin_on(on):
                self.server.serve()
                return
            on = None
        self._executor.hold()
        if on is None:
            if not (worker_pool.is_plain_run or is_in_hook.get() or greenlets.are_here()):
                lease = leases.Lease(worker_pool.family, is_counted=False)
                self._abandon_thread = lease.abandon
                lease.post(_LeasedRunItem(self, lease))
                self._started = True
                self._executor.serve()
                return
            try:
                kernel.start_run(_RunItem(self), self._executor, self._workers.append)
            finally:
                # A signal handler may raise while we wait for the thread to report that it is up.
                worker = self._workers[-1]
                self._started = worker is not None and worker.ident is not None
        else:
            assert not isinstance(on, PersistentLoop)
            wait = deadlocks.ForeignWait(on, task_context)
            wait.look()
            self._abandon_thread = getattr(on, "abandon", None)
            future = on.submit(self._execute_in, on)
            future.add_done_callback(self._submitted)
            self._started = True
            try:
                self._executor.serve(wait)
            except deadlocks.NeverRuns:
                # When it was submitted, the task that is in the way was in the middle of a step.
                if not future.cancel():
                    self._executor.serve()  # it runs
                    return
                self._started = False
                raise

    def _begin_on(self, persistent: PersistentLoop) -> bool:
        # False if nobody takes the run.
        lent = lent_already()
        if lent is None:
            self._executor.hold()
        else:
            self.server = LentWait(lent)
        on: PersistentLoop | None = persistent
        served = self._served
        while on is not None:
            self._on = on
            self._served = {} if on.is_shared else served  # there it serves its own tasks only
            if on.add(self):
                self._started = True
                return True
            on = on.successor()  # the block was left, or the loop closed, a moment ago
        self._on = None
        self._served = served
        self._let_go_of_lent()
        return False

    def _let_go_of_lent(self) -> None:
        server = self.server
        if isinstance(server, LentWait):
            self.server = self._executor
            server.end()
            server.lent.let_go()

    def _submitted(self, future: Future[None]) -> None:
        # An executor that was shut down or broke may not have run us; then it says why.
        error = CancelledError() if future.cancelled() else future.exception()
        self.finish(error or self._error)

    def _abandon(self) -> None:
        self._abandoned = True
        if self._on is not None:
            # First: what its task calls from now on goes elsewhere, and is not dropped with us.
            self.server.quit()
            self._on.abandon(self)
            return
        worker = self._workers[-1]
        if worker is not None:
            if not self._has_run:
                worker.abandon()
        elif self._abandon_thread is not None:
            self._abandon_thread()
        self.server.quit()

    def _drop_awaitable(self) -> None:
        close = getattr(take(self._awaitable), "close", None)
        if close is not None:
            close()  # or Python warns that it was never awaited

    def _execute_in(self, executor: Executor) -> None:
        outer = deadlocks.occupy(executor, self._tasks)
        try:
            self._execute()
        finally:
            deadlocks.occupy(executor, outer)

    def _execute(self) -> None:
        # On the runner. asyncio.run is looked up now: a program may have replaced it.
        try:
            kernel.at_home(
                self._home,
                self._context.run,
                kept.run,
                self._body,
                2,  # references to the loop: self._loop's, and that of the key in self._served
                self._let_go_of_loop,
                self._workers[-1] is not None,
            )
        except BaseException as error:
            self._error = error
        finally:
            if self._awaitable:
                self._drop_awaitable()
            if self._loop is not None:
                self._let_go_of_loop()

    # In place of `_execute`, on the thread of a persistent loop.

    def start_on(
        self, loop: asyncio.AbstractEventLoop, home: kernel.Home | None
    ) -> asyncio.Task[None]:
        """Make the main task, on a thread at ``home``; None: at that of whatever task it runs."""
        if isinstance(self.server, LentWait):
            self._executor._old_executor = self.server.lent.frame
            self._executor.close()
        body = self._body(None)
        if home is not None and home is not self._home:
            body = at_home(self._home, body)
        return make_task(loop, self._context, body)

    def serves(self, loop: asyncio.AbstractEventLoop) -> None:
        """Note that the caller serves the thread-sensitive calls of that loop."""
        self._served[loop] = self._executor

    def finish(self, error: BaseException | None) -> None:
        """The main task has ended, or never will be: tell the caller."""
        self._error = error
        self._drop_awaitable()
        self._let_go_of_loop()
        self.server.close()

    def is_of_this_thread(self) -> bool:
        """Whether it is this thread that waits for it."""
        return self._executor.owns_current_thread()

    def take_unheard(self) -> BaseException | None:
        """The error of a coroutine that has ended when nobody waited for it any more."""
        outcome, self._outcome = self._outcome, None
        if outcome is not None and outcome.done():
            try:
                outcome.result()
            except BaseException as error:
                return error
        return None

    def _let_go_of_loop(self) -> None:
        loop, self._loop = self._loop, None
        if loop is not None:
            self._served.pop(loop, None)

    async def _body(self, stop: Callable[[], None] | None) -> None:
        try:
            loop = asyncio.get_running_loop()
            task = asyncio.current_task()
            assert task is not None
            self._loop = loop
            self.serves(loop)
            self._tasks.append(task)
            if self._interrupts > 0 and take(self._cancel):
                task.cancel()
            awaitable = take(self._awaitable)
            if awaitable is None:
                raise asyncio.CancelledError  # the caller has given up already
            await awaitable
        finally:
            # Nothing is left to cancel. And a loop that is known to more than the two above would
            # not be kept.
            self._tasks.clear()
            awaitable = task = loop = None  # type: ignore[assignment]
            if stop is not None:
                stop()
                stop = None

    def _interrupt(self) -> None:
        # On the caller's thread, possibly in a signal handler.
        self._interrupts += 1
        for task in self._tasks[:]:
            if take(self._cancel):
                call_if_open(task.get_loop(), task.cancel)  # if it is closed, the task has ended

    def _take_sigint(self) -> Callable[[int, FrameType | None], None] | None:
        # Put our handler in place of Python's; None if it is not ours to replace.
        if (
            threading.current_thread() is not threading.main_thread()
            or signals.getsignal(_SIGINT) is not signals.default_int_handler
        ):
            return None

        def handler(_signum: int, _frame: FrameType | None) -> None:
            if self._interrupts:
                self._abandon()
                raise KeyboardInterrupt
            self._interrupt()

        try:
            signals.signal(_SIGINT, handler)
        except ValueError:  # the main thread of a subinterpreter: signals are not ours there
            return None
        return handler


names.drivers[TopLevelRun._body.__code__] = "awaitable"


class _RunItem(Item):
    """A run as the one item in the inbox of its own worker."""

    __slots__ = ("_run",)

    def __init__(self, run: TopLevelRun) -> None:
        self._run: TopLevelRun | None = run

    def run(self) -> None:
        run, self._run = self._run, None
        assert run is not None
        try:
            run._execute()
        finally:
            run._has_run = True


class _LeasedRunItem:
    """A run as the one item of a lease."""

    __slots__ = ("_lease", "_run")

    def __init__(self, run: TopLevelRun, lease: leases.Lease) -> None:
        self._run = run
        self._lease: leases.Lease | None = lease

    def run(self) -> None:
        lease, self._lease = self._lease, None
        assert lease is not None
        try:
            self._run._execute()
        except BaseException as error:
            self._run._error = error
        finally:
            # Before the caller goes on: the next run may have this worker.
            lease.end_here()

    def deliver(self) -> None:
        self._run._executor.close()

    def cancel(self) -> None:
        self.fail(CancelledError())

    def fail(self, error: BaseException) -> None:
        self._run.finish(error)
