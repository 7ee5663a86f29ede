"""One event loop for all the top-level `async_to_sync` calls of a block.

(`asgibridge._loops.shared` builds one for all those of the process on this.)

The block is an ``AsyncSingleThreadContext(persistent_loop=True)``. The loop runs on the context's
thread from the first call to the block's end, also between the calls, so that what is bound to a
loop lives across them, and its keep-alive tasks too. ::

    made --first run--> running --left, and no run there--> cleaned up, closed
                           '--an error, or loop.stop()----> the same

The calling threads add their runs (`asgibridge.runners.TopLevelRun`), under the lock. Everything
else of a run, from its first step to its end, happens on the loop's thread. Whoever takes a run out
of ``_runs`` tells its caller. So each caller is told exactly once, and waits for nothing but its
own coroutine: tasks it has left running stay.

An iterator or context manager that is open on the loop (`asgibridge._iteration.partner`) is a run,
too, in ``_runs`` while its thread waits for it (`hold` to `let_go`), and an ordinary task of the
loop while it rests. So a block that is left before it does not wait for it, but cancels it.

**The end.** A block that is left takes no further runs (calls with a copy of its context then go
the way they do outside), waits for those in flight, and then ends the loop as `asyncio.run` does:
leftover tasks cancelled, async generators and default executor shut down, loop closed. The leaving
thread meanwhile serves the thread-sensitive calls of those tasks. Between the calls no thread
waits, and such calls go to the process's thread.

**Errors.** What asyncio lets through a loop (a SystemExit in some task, say) ends the loop and is
raised by the calls in flight, as by `asyncio.run`; if there is none, by the next call, or when the
block is left. The call after that begins with a new loop.

**Ctrl-C** cancels the call's own task. The second time the thread is abandoned, and the next call
has a new thread and a new loop.

**Exit** without leaving the block ends the loop like leaving it; so does the end of a context that
is collected. **Fork:** the child has neither thread nor loop; its next call begins anew. The
parent's loop is left alone, because the parent would feel a selector of its being closed.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import types
import weakref
from collections.abc import Coroutine, Generator
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any, Protocol

from .._bridge import state
from .._kernel import kernel
from .._process import cpython, fork, threads
from .._process.handover import call_if_open
from . import kept
from .lent import LentWait, lent_already

if TYPE_CHECKING:
    from ..current_thread_executor import CurrentThreadExecutor


class Run(Protocol):
    """What a thread waits for, and has one task of the loop for: a call, or what is open there."""

    def start_on(
        self, loop: asyncio.AbstractEventLoop, home: kernel.Home | None
    ) -> asyncio.Task[None]: ...

    def serves(self, loop: asyncio.AbstractEventLoop) -> None: ...

    def finish(self, error: BaseException | None) -> None: ...

    def is_of_this_thread(self) -> bool: ...

    def take_unheard(self) -> BaseException | None: ...


class PersistentLoop:
    """An event loop that runs on the thread of ``executor`` until it is closed."""

    is_shared = False
    """Whether its callers have nothing to do with each other: see `asgibridge._loops.shared`."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._home = kernel.current_home()
        self._generation = fork.generation
        self.is_abandoned = False
        # Guarded by the lock, which is re-entrant because a finalizer may end the loop.
        self._lock = cpython.RLock()
        self._runs: dict[Run, None] = {}
        self._has_begun = False
        self._is_refusing = False
        self._is_finished = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._leaving: list[CurrentThreadExecutor | LentWait] = []
        self._failure: BaseException | None = None
        # Of the loop's thread.
        self._untold: list[Run] = []
        self.is_ending = False
        self._tasks: dict[Run, asyncio.Task[Any]] = {}

    def is_usable(self) -> bool:
        """Whether `add` is going to take a run. False in a forked child."""
        return not self._is_refusing and self._generation == fork.generation

    def add(self, run: Run) -> bool:
        """Have ``run`` started; False if no further runs are taken. From any thread.

        Raises what keeps the thread from starting, or has ended the loop (see `raise_failure`).
        After False, `successor` may take it.
        """
        with self._lock:
            self.raise_failure()
            if self._is_refusing:
                return False
            self._runs[run] = None
            loop = self._loop
            is_first = not self._has_begun
            self._has_begun = True
        if is_first:
            _alive.add(self)
            try:
                future = self._executor.submit(kernel.at_home, self._home, self._run)
                future.add_done_callback(self._submitted)
            except BaseException as error:
                self._could_not_begin(run, error)
                raise
        elif loop is not None:
            call_if_open(loop, self._start, run)  # whoever closes it tells the run
        return True

    def successor(self) -> PersistentLoop | None:
        """The loop that takes the runs which this one does not take any more, if there is one."""
        return None

    def _could_not_begin(self, mine: Run, error: BaseException) -> None:
        # Other threads may have added runs since. And a signal handler may have raised when the
        # thread had started after all: then its loop finds no runs, and ends.
        with self._lock:
            others = [run for run in self._take_all() if run is not mine]
            loop = self._loop
            if loop is None:
                self._let_leave(None)
        if loop is not None:
            call_if_open(loop, self._stop)
        for run in others:
            failure = RuntimeError("the thread of the event loop for this call did not start")
            failure.__cause__ = error
            run.finish(failure)

    def hold(self, run: Run) -> bool:
        """Keep the loop from ending because the block is left, until `let_go`. From any thread.

        For a run that was added before, and that a thread waits for again. False if the loop is
        ending already, and its tasks with it.
        """
        with self._lock:
            if run not in self._runs:
                if self._loop is None or (self._is_refusing and not self._runs):
                    return False
                self._runs[run] = None
        return True

    def let_go(self, run: Run) -> None:
        """No thread waits for ``run`` any more, though its task may go on. From any thread."""
        self._take_out(run)

    def is_to_tell(self, run: Run) -> bool:
        """Whether the loop has failed, and is going to `finish` that run. On its thread."""
        return run in self._untold

    def end(self) -> None:
        """Take no further runs, and end when there is none any more. From any thread."""
        if self._generation != fork.generation:
            return
        with self._lock:
            self._is_refusing = True
            loop = None if self._runs else self._loop
        if loop is not None:
            call_if_open(loop, self._stop)

    def close(self, server: CurrentThreadExecutor | LentWait) -> None:
        """`end` it and wait, serving ``server`` of the calling thread meanwhile.

        Raises what has ended the loop before its time, if no call has.
        """
        if self._generation != fork.generation:
            return
        with self._lock:
            is_over = self._is_finished or self.is_abandoned or not self._has_begun
            self._is_refusing = True
            if not is_over:
                self._leaving.append(server)
        if not is_over:
            self.end()
            try:
                server.serve()
            except BaseException:
                server.quit()
                raise
        self.raise_failure()

    def leave(self) -> None:
        """`close` it. Meanwhile this thread runs what leftover tasks need the thread for."""
        lent = lent_already()  # what is open has inherited the frame of that, and is cancelled
        server: CurrentThreadExecutor | LentWait = (
            kernel.CurrentThreadExecutor(None) if lent is None else LentWait(lent)
        )
        try:
            self.close(server)
        finally:
            if isinstance(server, LentWait):
                server.end()
                server.lent.let_go()

    def end_at_exit(self) -> None:
        """`leave` it, because the program ends: no other thread may start now, to run what leftover
        tasks need one for (before CPython 3.12.3, gh-113964). Reports what has ended it.
        """
        try:
            self.leave()
        except KeyboardInterrupt:  # do not wait for it
            raise
        except BaseException as error:
            threads.report_error(error)

    def abandon(self, run: Run) -> None:
        """``run`` was interrupted twice, and perhaps hangs: do not wait for the thread at exit.

        From the run's thread.
        """
        self.is_abandoned = True
        self.end()
        abandon = getattr(self._executor, "abandon", None)
        if abandon is not None:
            abandon()

    def raise_failure(self) -> None:
        """Raise what has ended the loop before its time, if no call has raised it. Any thread."""
        failure, self._failure = self._failure, None
        if failure is not None:
            try:
                raise failure
            finally:
                del failure

    # On the loop's thread.

    def _run(self) -> None:
        error: BaseException | None = None
        untold: BaseException | None = None
        loop: asyncio.AbstractEventLoop | None = None
        try:
            loop = asyncio.new_event_loop()
            asyncio.set_event_loop(loop)
            kernel.attach_reader(loop)
            self._begin(loop)
            while True:
                loop.run_forever()
                with self._lock:
                    if self._is_refusing and not self._runs:
                        break
                    if self._runs:  # as asyncio.run says
                        raise RuntimeError("Event loop stopped before Future completed.")
        except BaseException as raised:
            error = raised
        with self._lock:
            runs = self._untold = self._take_all()
            if not runs:  # now, because the next call does not wait for this thread
                self._failure = error
        try:
            if loop is not None:
                self._clean_up(loop)
        except BaseException as raised:
            if error is None:
                untold = raised
        if error is not None:
            self._tell(runs, error)
        self._untold = []
        if not self._let_leave(untold) and untold is not None:
            threads.report_error(untold)
        error = untold = runs = None  # type: ignore[assignment]

    def _tell(self, runs: list[Run], error: BaseException) -> None:
        # That it has ended the loop.
        for run in runs:
            run.finish(error)

    def _take_all(self) -> list[Run]:
        # No run is taken any more: those there are have to be told.
        with self._lock:
            self._is_refusing = True
            runs, self._runs = self._runs, {}
        return list(runs)

    def _let_leave(self, failure: BaseException | None) -> bool:
        # End the waits in `close`, which raise ``failure``; False if there is none.
        with self._lock:
            self._is_finished = True
            self._loop = None
            leaving, self._leaving = self._leaving, []
            if leaving and failure is not None:
                self._failure = failure
        for server in leaving:
            server.close()
        return bool(leaving)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        # A run keeps its caller's context alive: none may be left in the frame below a loop's.
        with self._lock:
            self._loop = loop
            for run in self._runs:
                loop.call_soon(self._start, run)
            if self._is_refusing and not self._runs:
                loop.call_soon(self._stop)

    def _stop(self) -> None:
        # Once: a second time would stop what cleans up.
        if self._loop is not None and not self.is_ending:
            self._loop.stop()

    def _clean_up(self, loop: asyncio.AbstractEventLoop) -> None:
        self.is_ending = True
        with self._lock:
            if self._leaving:
                server = self._leaving[-1]
                frame = server.lent.frame if isinstance(server, LentWait) else server
                state.loop_thread_executors[loop] = frame
        try:
            self._close(loop)
        finally:
            state.loop_thread_executors.pop(loop, None)
            # A task that nobody waits for, and that asyncio has given up.
            left = [run for run in self._tasks if run not in self._untold]
            self._tasks.clear()
            for run in left:
                run.finish(RuntimeError("the event loop has ended before this had"))

    def _close(self, loop: asyncio.AbstractEventLoop) -> None:
        kept.close(loop)

    def _start(self, run: Run) -> None:
        loop = self._loop
        if run not in self._runs or loop is None:
            return  # the loop is being cleaned up
        try:
            home = None if self.is_shared else self._home
            task = self._tasks[run] = run.start_on(loop, home)
        except BaseException as error:
            self._take_out(run)
            run.finish(error)
            raise
        if task.done():  # in its first step
            self._ended(run, task)
        else:
            task.add_done_callback(lambda task: self._ended(run, task))

    def _ended(self, run: Run, task: asyncio.Task[None]) -> None:
        self._tasks.pop(run, None)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if self._take_out(run):
            run.finish(error)
        self._serve_by_another()

    def _serve_by_another(self) -> None:
        # The tasks of the loop that have inherited no thread.
        others = list(self._tasks)
        if others and self._loop is not None:
            others[-1].serves(self._loop)

    def _take_out(self, run: Run) -> bool:
        # False: it is being told by who has taken it.
        with self._lock:
            if run not in self._runs:
                return False
            del self._runs[run]
            loop = self._loop if self._is_refusing and not self._runs else None
        if loop is not None:
            call_if_open(loop, self._stop)
        return True

    def _submitted(self, future: Future[None]) -> None:
        # An executor that was shut down or broke may not have run us; then it says why.
        error = asyncio.CancelledError() if future.cancelled() else future.exception()
        if error is not None:
            for run in self._take_all():
                run.finish(error)
            self._let_leave(None)


def make_task(
    loop: asyncio.AbstractEventLoop,
    context: contextvars.Context,
    coroutine: Coroutine[Any, Any, None],
) -> asyncio.Task[None]:
    """A task of ``loop``, which runs on this thread, in ``context`` or a copy of it."""
    if sys.version_info >= (3, 12) and cpython.makes_tasks_as_usual(loop):
        # A first step then and there saves two turns of the loop, if it is the only one.
        return asyncio.tasks.Task(coroutine, loop=loop, context=context, eager_start=True)  # type: ignore[call-arg, unused-ignore]
    return context.run(loop.create_task, coroutine)


async def at_home(home: kernel.Home, coroutine: Coroutine[Any, Any, None]) -> None:
    """Run ``coroutine`` as a part of the chain that ``home`` stands for, step by step."""
    await _steps_at(home, coroutine)


@types.coroutine
def _steps_at(home: kernel.Home, coroutine: Coroutine[Any, Any, None]) -> Generator[Any, Any, None]:
    step, argument = coroutine.send, None
    try:
        while True:
            awaited = kernel.at_home(home, step, argument)
            try:
                step, argument = coroutine.send, (yield awaited)
            except GeneratorExit:
                kernel.at_home(home, coroutine.close)
                raise
            except BaseException as error:
                step, argument = coroutine.throw, error
            del awaited
    except StopIteration:
        return
    finally:
        del step, argument, coroutine


_alive: weakref.WeakSet[PersistentLoop] = weakref.WeakSet()
_of_parent: list[PersistentLoop] = []  # not to be collected: they would close their loops


def _end_all() -> None:
    for persistent in list(_alive):
        persistent.end_at_exit()


def _after_fork_in_child() -> None:
    _of_parent.extend(_alive)
    _alive.clear()


threads.when_exiting.append(_end_all)
fork.at_fork(_after_fork_in_child)
