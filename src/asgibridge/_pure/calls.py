"""A call on its way to a thread, a call on its way to an event loop, and the way back.

`SyncCall`, a task's call of a sync function, in whatever thread
    One object is the item in the thread's inbox, the awaitable of the task, and the slot for the
    result. It has the function to call in a list of one: whoever pops that owns the call, be it the
    thread that runs it or the task that gives it up. So the function runs once or not at all. ::

        accepted --(put)--> queued --run()--> running --deliver()--> delivered --await--> taken
           '----------------`----revoke(), fail(), cancel()----> given up

    A cancelled wait ends at once and leaves the call alone, as `asyncio.shield` does; the call can
    be awaited again.

    Some calls have a ``guard``, an object of the shell's with these methods: ``begins(call)`` and
    ``ends(call)``, on the thread, around the function; ``given_up(call)``, once, on any thread, if
    the function will never run; ``blocker(call)``, for `SyncCall.blocked_by`, while the call is in
    no inbox of ours.

`TaskContext`, what a call's function waits for
    To searches for deadlocks it stands for the call. To agents it is asgiref's ``task_context``.

`AsyncCall`, a thread's call of an async function
    The slot for the coroutine's outcome. The thread serves its CurrentThreadExecutor meanwhile.

References: the functions and their arguments are dropped before the result is delivered, and the
result when it is taken; an exception's traceback refers to our frames, so none of those keeps the
exception. Nothing outlives its call because a thread is idle or the garbage collector is off.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Generator
from concurrent.futures import InvalidStateError
from contextvars import Context
from typing import TYPE_CHECKING, Any

from .._process import fork
from .._process.items import generators_given
from . import tally
from .channel import call_soon, wake_channel
from .drive import begin_task
from .home import HomeOfContexts, this_thread

if TYPE_CHECKING:
    from .executors import CurrentThreadExecutor
    from .inbox import Inbox


class TaskContext(list[asyncio.Task[Any]]):
    """The tasks that a call's function waits for in `async_to_sync`, innermost last."""

    is_cancelled = False
    """Whether the task that awaits the call has been cancelled."""

    is_abandoned = False
    """Whether nobody waits for the call any more, and its function was not told so."""


class SyncCall:
    """A call of ``function()`` on another thread, awaited by a task of ``loop``.

    Made and awaited on the loop's thread; `run` and `deliver` are the other thread's.

    :param shown: the user's function that it is about; by default ``function``.
    :param context: the contextvars.Context to run in, at the home where this object is made.
    :param threadlocal: ``SyncToAsync.threadlocal``, in which the calls that the function makes look
        up ``loop`` and ``task_context``. Goes with ``context``.
    """

    __slots__ = (
        "__weakref__",
        "_abandoned",
        "_channel",
        "_context",
        "_done",
        "_error",
        "_failure",
        "_home",
        "_inbox",
        "_is_counted",
        "_loop",
        "_started",
        "_submitted",
        "_thread_ident",
        "_threadlocal",
        "_value",
        "_waiter",
        "_work",
        "guard",
        "has_begun",
        "is_blocked",
        "place",
        "shown",
        "task_context",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        function: Callable[[], Any],
        shown: Callable[..., Any] | None = None,
        context: Context | None = None,
        threadlocal: Any = None,
    ) -> None:
        self._loop = loop
        self._channel = wake_channel(loop)
        self._work = [function]
        # The user's function, until the call has ended or was given up.
        self.shown: Callable[..., Any] | None = function if shown is None else shown
        self._context = context
        self._threadlocal = threadlocal
        home = this_thread.home
        self._home = home.of_context() if type(home) is HomeOfContexts else home
        # None of a call that is not the user's.
        self.task_context: TaskContext | None = None if context is None else TaskContext()
        self.guard: Any = None
        self._is_counted: bool | None = False  # None: it is not to be
        self._submitted = self._started = 0.0
        self._thread_ident = 0
        self._waiter: asyncio.Future[None] | None = None
        self._value: Any = None
        self._error: BaseException | None = None
        self._done = False
        self._abandoned = False
        # Where it was put last; None if nowhere yet, or if that has many threads.
        self._inbox: Inbox | None = None
        self._failure: BaseException | None = None  # what `fail` is about to make of it
        # For dumps: the executor that is to run it, if it is in no inbox of ours yet.
        self.place: Any = None
        self.has_begun = False
        self.is_blocked = False

    def __repr__(self) -> str:
        return f"<call of {self.shown!r}>"

    def call_instead(self, function: Callable[[], Any]) -> None:
        """Have ``function()`` called as it is, in no context. Before the call is put anywhere."""
        self._work = [function]
        self._context = None

    def call_by(self, caller: Callable[[Callable[[], Any]], Any]) -> None:
        """Have ``caller(function)`` called, if the call has no context. As `call_instead`."""
        if self._context is None:
            self._work = [functools.partial(caller, self._work[0])]

    def generators(self) -> list[Any]:
        """The generators that its function will be called with. Before it is put anywhere."""
        return generators_given(self._work[0])

    def accept(self) -> None:
        """Count it as submitted, if it was not yet. By who puts it into an inbox, before that."""
        if self._is_counted is False:
            this_thread.tally.submitted += 1
            self._is_counted = True  # not sooner: the tally may not be had near the recursion limit
            if tally._timing:
                self._submitted = tally.now()

    def run(self) -> None:
        """Run the function, unless it was given up. On the thread it was sent to."""
        try:
            function = self._work.pop()
        except IndexError:
            self._has_failed()
            return
        thread = this_thread
        outer, thread.call = thread.call, self
        self.has_begun = True
        guard = self.guard
        counted = thread.tally if self._is_counted else None
        if counted is not None:
            begin = counted.begin(self._submitted)
            self._started = begin[1]
            self._thread_ident = counted.thread_ident
        try:
            if guard is not None:
                guard.begins(self)
            if self._context is None:
                self._value = function()
            else:
                self._run_in_context(self._context, function)
        except StopIteration as error:
            # It can't be thrown into a coroutine: PEP 479, and Future.set_exception refuses it.
            self._error = RuntimeError("the sync function raised StopIteration")
            self._error.__cause__ = error
        except BaseException as error:
            self._error = error
        finally:
            thread.call = outer
            if counted is not None:
                counted.end(begin, self.shown)
            self.shown = None
            if guard is not None:
                guard.ends(self)

    def _run_in_context(self, context: Context, function: Callable[[], Any]) -> None:
        # The same as the shell's ``SyncToAsync.thread_handler``, which is there to be overridden.
        __traceback_hide__ = True
        thread = this_thread
        names = self._threadlocal.__dict__
        outer = names.copy()
        names["main_event_loop"] = self._loop
        names["main_event_loop_pid"] = fork.pid
        names["task_context"] = self.task_context
        outer_home, thread.home = thread.home, self._home
        try:
            self._value = context.run(function)
        finally:
            thread.home = outer_home
            for name in ("main_event_loop", "main_event_loop_pid", "task_context"):
                if name in outer:
                    names[name] = outer[name]
                else:
                    names.pop(name, None)

    def __call__(self) -> Any:
        """Run the function, and return or raise what it does: for an executor of somebody's own."""
        __traceback_hide__ = True
        self.run()
        return self.take_outcome() if self.has_begun else None

    def finish(self, value: Any, error: BaseException | None) -> None:
        """The outcome has come from an executor of somebody's own. On the loop's thread."""
        self._value = value
        self._error = error
        self.wake()

    def deliver(self) -> None:
        """Tell the waiting task. On the thread that ran it."""
        self._channel.post(self)

    def cancel(self) -> None:
        """Give up a call that the thread will not run any more, in place of `run`. Any thread."""
        if self._take_function():
            self._error = asyncio.CancelledError()
        else:
            self._has_failed()

    def _take_function(self) -> bool:
        # False if somebody else has it.
        try:
            self._work.pop()
        except IndexError:
            return False
        self.shown = None
        if self._is_counted:
            this_thread.tally.cancelled += 1
        if self.guard is not None:
            self.guard.given_up(self)
        return True

    def blocked_by(self) -> TaskContext | None:
        """What keeps this call from going on: the ``task_context`` of a call (or of this one) whose
        function waits in `async_to_sync`, on the thread that has to run this one to its end.

        None if nothing does. From any thread.
        """
        inbox = self._inbox
        if inbox is not None:
            blocker = inbox._blocker
        else:
            blocker = None if self.guard is None else self.guard.blocker(self)
        # Asked afterwards: a call that has ended is not held by the next one.
        if self._work:
            return blocker
        if inbox is None:
            return self.task_context
        return blocker if blocker is self.task_context else None

    def fail(self, error: BaseException) -> bool:
        """Raise ``error`` in the waiting task in place of `run`; False if that has begun, or if
        this call has no ``task_context``.

        From any thread. The task is told at once.
        """
        if self.task_context is None:
            return False
        self._failure = error
        if not self._take_function():
            self._failure = None
            return False
        self._has_failed()
        self.deliver()
        return True

    def _has_failed(self) -> None:
        # Also by the thread: it may find the call taken, and deliver it, before `fail` goes on.
        failure = self._failure
        if failure is not None:
            self._error = failure

    def revoke(self) -> bool:
        """Nobody waits for this call any more: keep it from running if it has not begun.

        On the loop's thread. Returns whether that succeeded. An error it may still raise goes to
        the loop's exception handler.
        """
        self._abandoned = True
        if self._done:  # cancelled in the moment it was woken
            self._report()
        return self._take_function()

    def wake(self) -> None:
        """The call has run: wake the task. On the loop's thread."""
        self._done = True
        waiter = self._waiter
        if waiter is not None:
            if not waiter.done():
                waiter.set_result(None)
        elif self._abandoned:
            self._report()

    def done(self) -> bool:
        """Whether the result is there. On the loop's thread."""
        return self._done

    def __await__(self) -> Generator[Any, None, Any]:
        if not self._done:
            self._waiter = waiter = self._loop.create_future()
            waiter.asgibridge_call = self  # type: ignore[attr-defined]
            try:
                yield from waiter.__await__()
            finally:
                self._waiter = waiter.asgibridge_call = None  # type: ignore[attr-defined]
        return self.take_outcome()

    def take_outcome(self) -> Any:
        """Take the result, or raise the exception. Once, by who waits."""
        value, error = self._value, self._error
        self._value = self._error = self._failure = None
        if error is None:
            return value
        try:
            raise error
        finally:
            del error, self

    def _report(self) -> None:
        error = self._error
        self._value = self._error = None
        if error is not None and not isinstance(error, asyncio.CancelledError):
            message = "a sync_to_async call whose awaiting task was cancelled raised"
            self._loop.call_exception_handler({"message": message, "exception": error})
        del error


def awaiting(threadlocal: Any) -> tuple[Any, Any]:
    """The event loop that waits for the sync function which this thread runs, None if none does;
    and the ``task_context`` of the call.

    :param threadlocal: ``SyncToAsync.threadlocal``.
    """
    names = threadlocal.__dict__
    if not names:
        return None, None
    # In a forked child the loop is the parent's (asgiref #194).
    is_mine = names.get("main_event_loop_pid") == fork.pid
    return names.get("main_event_loop") if is_mine else None, names.get("task_context")


class AsyncCall:
    """The outcome of an async function that a thread waits for.

    It has the part of `concurrent.futures.Future` that a ``main_wrap`` needs.
    """

    __slots__ = ("_callback", "_done", "_error", "_executor", "_value")

    def __init__(self) -> None:
        self._executor: CurrentThreadExecutor | None = None
        self._callback: Callable[[AsyncCall], Any] | None = None
        self._value: Any = None
        self._error: BaseException | None = None
        self._done = False

    def done(self) -> bool:
        """Whether there is an outcome."""
        return self._done

    def add_done_callback(self, callback: Callable[[AsyncCall], Any]) -> None:
        """Have ``callback(self)`` called when the outcome is set, on that thread. One at most."""
        self._callback = callback

    def set_result(self, result: Any) -> None:
        """Set the result and wake the thread. On the loop's thread."""
        self._finish(result, None)

    def set_exception(self, exception: BaseException) -> None:
        """Set the exception and wake the thread. On the loop's thread."""
        self._finish(None, exception)

    def result(self) -> Any:
        """Take the result, or raise the exception. On the waiting thread, once."""
        if not self._done:
            raise InvalidStateError("the async function has not finished")
        value, error = self._value, self._error
        self._value = self._error = None
        if error is None:
            return value
        try:
            raise error
        finally:
            del error, self

    def run_on(
        self,
        loop: asyncio.AbstractEventLoop,
        coroutine: Any,
        executor: CurrentThreadExecutor,
        no_result: str,
    ) -> bool:
        """Run ``coroutine`` on another thread's loop, and serve ``executor`` until we are done.

        On the thread the executor was made in. False if the loop is closed: nothing has happened.

        :param no_result: the error if the coroutine ends without setting the outcome.
        """
        self._executor = executor
        executor.hold()  # before the coroutine can run, and a call of its be posted
        try:
            call_soon(loop, begin_task, loop, coroutine, self, no_result)
        except RuntimeError:
            self._executor = None
            executor._inbox._end_wait()
            return False
        executor.serve(loop)
        return True

    def _finish(self, value: Any, error: BaseException | None) -> None:
        if self._done:
            raise InvalidStateError("the outcome of this call is already set")
        self._value = value
        self._error = error
        self._done = True
        del value, error
        callback, self._callback = self._callback, None
        executor, self._executor = self._executor, None
        if callback is not None:
            callback(self)
        if executor is not None:
            executor.close()
