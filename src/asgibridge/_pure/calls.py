"""The hops: a call on its way to a thread, a call on its way to an event loop, and the way back.

`SyncCall`, a task's call of a sync function
    One object is the item in the thread's inbox, the awaitable the task waits on, and the slot for
    the result. The function lies in a one-element list, and whoever pops it owns it: the thread
    that is about to run it, or the task that revokes it. So it runs once or not at all. ::

        queued --run()--> running --deliver()--> delivered --await--> taken
           `----revoke()----> revoked

    The waiting task is woken through its loop's `WakeChannel`. A cancelled wait ends at once and
    leaves the call alone, as `asyncio.shield` does; the call can be awaited again.

`AsyncCall`, a thread's call of an async function
    The slot that the coroutine's outcome goes to; the thread serves its CurrentThreadExecutor
    meanwhile, which the done callback stops.

References: the function and its arguments are dropped before the result is delivered, and the
result when it is taken; an exception's traceback refers to our frames, so none of those keeps the
exception. Nothing outlives its call because a thread is idle or the garbage collector is off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from concurrent.futures import InvalidStateError
from typing import TYPE_CHECKING, Any

from . import tally
from .channel import call_soon, wake_channel
from .drive import begin_task

if TYPE_CHECKING:
    from .executors import CurrentThreadExecutor
    from .inbox import Inbox

__all__ = ["AsyncCall", "SyncCall"]


class SyncCall:
    """A call of ``function()`` on another thread, awaited by a task of ``loop``.

    Made and awaited on the loop's thread; `run` and `deliver` are the other thread's.

    :param task_context: lists the task that the function waits for in `async_to_sync`, if it does.
    """

    __slots__ = (
        *("_abandoned", "_channel", "_done", "_error", "_failure", "_function", "_inbox"),
        *("_is_counted", "_loop", "_started", "_submitted", "_thread_ident", "_value", "_waiter"),
        *("_work", "is_held", "task_context"),
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        function: Callable[[], Any],
        task_context: list[asyncio.Task[Any]] | None = None,
    ) -> None:
        self._loop = loop
        self._channel = wake_channel(loop)
        self._work = [function]
        self._function: Callable[[], Any] | None = None  # while it runs, to be seen
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
        self.task_context = task_context
        self.is_held = False

    def run(self) -> None:
        """Run the function, unless it was revoked. On the thread it was sent to."""
        try:
            function = self._work.pop()
        except IndexError:
            self._has_failed()
            return
        counted = tally.mine.tally if self._is_counted else None
        if counted is not None:
            begin = counted.begin(self._submitted)
            self._started = begin[1]
            self._thread_ident = counted.thread_ident
            self._function = function
        try:
            self._value = function()
        except StopIteration as error:
            # It can't be thrown into a coroutine: PEP 479, and Future.set_exception refuses it.
            self._error = RuntimeError("the sync function raised StopIteration")
            self._error.__cause__ = error
        except BaseException as error:
            self._error = error
        finally:
            if counted is not None:
                counted.end(begin, function)
                self._function = None

    def _count(self) -> None:
        """Count it as submitted, if it was not yet. By who puts it into an inbox, before that."""
        if self._is_counted is False:
            tally.mine.tally.submitted += 1
            self._is_counted = True  # not sooner: the tally may not be had near the recursion limit
            if tally._timing:
                self._submitted = tally.now()

    def deliver(self) -> None:
        """Tell the waiting task. On the thread that ran it."""
        self._channel.post(self)

    def cancel(self) -> None:
        """Give up a call that the thread will not run any more, in place of `run`. Any thread."""
        try:
            self._work.pop()
        except IndexError:
            self._has_failed()
            return
        if self._is_counted:
            tally.mine.tally.cancelled += 1
        self._error = asyncio.CancelledError()

    def held_by(self) -> list[asyncio.Task[Any]] | None:
        """What keeps this call from going on: the ``task_context`` of a call (or of this one) whose
        function waits in `async_to_sync`, on the thread that has to run this one to its end.

        None if nothing does. From any thread.
        """
        inbox = self._inbox
        holder = self.task_context if inbox is None else inbox._holder
        # Asked afterwards: a call that has ended is not held by the next one.
        is_queued = bool(self._work)
        if inbox is None:
            return None if is_queued else holder
        return holder if is_queued or holder is self.task_context else None

    def fail(self, error: BaseException) -> bool:
        """Raise ``error`` in the waiting task in place of `run`; False if that has begun, or if
        this call has no ``task_context``.

        From any thread. The task is told at once.
        """
        if self.task_context is None:
            return False
        self._failure = error
        try:
            self._work.pop()
        except IndexError:
            self._failure = None
            return False
        if self._is_counted:
            tally.mine.tally.cancelled += 1
        self._has_failed()
        self.deliver()
        return True

    def _has_failed(self) -> None:
        # Also by the thread: it may find the call taken, and deliver it, before `fail` goes on.
        if self._failure is not None:
            self._error = self._failure

    def revoke(self) -> bool:
        """Nobody waits for this call any more: keep it from running if it has not begun.

        On the loop's thread. Returns whether that succeeded. An error it may still raise goes to
        the loop's exception handler.
        """
        self._abandoned = True
        if self._done:  # cancelled in the moment it was woken
            self._report()
        try:
            self._work.pop()
        except IndexError:
            return False
        if self._is_counted:
            tally.mine.tally.cancelled += 1
        return True

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
        return self._take()

    def _take(self) -> Any:
        value, error = self._value, self._error
        self._value = self._error = self._failure = None
        if error is None:
            return value
        try:
            raise error
        finally:
            del error, self

    def _report(self) -> None:
        value, error = self._value, self._error
        self._value = self._error = None
        del value
        if error is not None and not isinstance(error, asyncio.CancelledError):
            self._loop.call_exception_handler(
                {
                    "message": "a sync_to_async call whose awaiting task was cancelled raised",
                    "exception": error,
                }
            )
        del error


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
            executor._inbox._let_go_of_outer()
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
