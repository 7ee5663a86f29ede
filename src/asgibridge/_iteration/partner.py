"""A task on an event loop that goes hand in hand with sync code on one thread.

`async_to_sync` is one call; an async iterator or context manager is several that belong together,
and its code must run in one task on one loop, from beginning to end: time limits, task groups and
cancel scopes in it count on that. So there is a **partner**, a task that does its part when asked,
and the **thread** that asks and waits. `Partner` is both sides; a subclass writes `_body`.

**Which loop**: as in `async_to_sync`, the one that the thread works for, if `sync_to_async` brought
it here; else a new one on a thread of its own, by one `asyncio.run` from the partner's beginning to
its end, which also ends what it leaves behind. (An AsyncSingleThreadContext's thread is not taken:
other calls must be able to run in between.)

**While it waits, and only then**, the thread runs the thread-sensitive sync code that the partner
calls; that is what its ``frame`` is for, an executor that lives as long as the partner. What comes
in between is run when the thread waits again. It stops waiting because an item in that inbox raises
(`_Answer`), as a signal handler may at any time.

**Asking.** The thread puts a token into ``_asked`` and wakes the partner. Whoever pops the token
answers: the partner when it has something, or its end. The end sets ``_over`` and then looks for
the token; the thread puts down the token and then looks at ``_over``. So none waits for ever.

**Context.** The partner's task has one context for its whole life. What the thread changed is set
there when it asks, and what the partner changed is set in the thread's with the answer; each as a
pair (after, before), in a queue.

**A closed loop.** If a loop that is not the partner's own is closed while the thread waits, that
raises RuntimeError within a second, as in `async_to_sync`. Then nobody will answer any more.

**The end** is the body's own; or `close`, which lets a resting partner leave and cancels one that
awaits something; or the cancellation of the task whose sync function waits here; or the loop's. A
KeyboardInterrupt comes out where the thread waits, and then the sync code closes; a second one,
while that waits for the end, leaves the partner behind. Closed from another thread, or from a
thread with a running loop (the garbage collector may do that), nobody waits. At exit, what was left
open is closed. In a forked child there is no partner, and asking raises RuntimeError.
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import threading
import weakref
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from .. import _kernel, sync
from .._process import cpython, fork, threads
from .._process.items import Item
from .._waits import names
from ..sync import AsyncToSync, SyncToAsync

__all__ = ["Partner"]


class _Answered(Exception):
    """Ends the thread's waiting; never leaves this module."""


class _Answer(Item):
    """An inbox's item that raises out of ``serve()``."""

    __slots__ = ()

    def run(self) -> None:
        raise _Answered


_ANSWER = _Answer()


class _OwnRun(Item):
    """The whole of a partner on a loop of its own, as the one item in the inbox of a worker."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self._call: Callable[[], None] | None = call

    def run(self) -> None:
        call, self._call = self._call, None
        assert call is not None
        call()


class Partner:
    """Both sides; see the module's header. It begins when it is first asked."""

    def __init__(self, force_new_loop: bool, shown: Any) -> None:
        self.shown = shown  # the user's function, or object
        self._force_new_loop = force_new_loop
        self._generation = fork.generation
        self._frame: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._has_own_loop = False
        self.task: asyncio.Task[Any] | None = None
        self._asked: list[bool] = []
        self._leaving = False  # told by the thread
        self._has_left = False  # done by the body, and not to be disturbed any more
        self._over = False
        self._has_finished = False  # seen by the thread
        self._error: BaseException | None = None
        # The thread's context when the two last agreed, and the partner's; and the news.
        self._mine = self._its = contextvars.Context()
        self._from_thread: deque[tuple[contextvars.Context, contextvars.Context]] = deque()
        self._from_partner: deque[tuple[contextvars.Context, contextvars.Context]] = deque()
        # By way of the first list a cancellation reaches the partner; in the second it is listed.
        self._task_context: list[asyncio.Task[Any]] | None = None
        self._listed_in: list[asyncio.Task[Any]] | None = None
        self._resting: asyncio.Future[None] | None = None

    async def _body(self) -> None:
        """The partner's part. In its task."""
        raise NotImplementedError

    def _has_answer(self) -> bool:
        """Whether a question can be answered without the body. On the loop."""
        return False

    # The thread's side

    def is_over(self) -> bool:
        """Whether the partner has ended; then `finish`. On any thread."""
        return self._over

    def ask(self) -> None:
        """Have the partner go on, and wait until it answers or ends. On the thread."""
        self._check_use()
        self._task_context = getattr(SyncToAsync.threadlocal, "task_context", None)
        now = contextvars.copy_context()
        if self._frame is None:
            self._asked.append(True)
            self._begin()
        else:
            self._from_thread.append((now, self._mine))
            self._mine = now
            self._asked.append(True)
            self._send(self._on_question)
        if self._over:
            self._answer()
        self._wait()
        self._take_news(self._from_partner)
        self._mine = contextvars.copy_context()

    def finish(self) -> None:
        """The partner is over: let its frame go, and raise what it raised. On the thread."""
        self._has_finished = True
        _unfinished.discard(self)
        frame = self._frame
        frame.close()
        while True:
            try:
                frame.serve()  # what is in its inbox still
                break
            except _Answered:  # nobody has waited for that one
                continue
        self._take_news(self._from_partner)
        error, self._error = self._error, None
        try:
            if error is not None and not (
                self._leaving and isinstance(error, asyncio.CancelledError)
            ):
                raise error
        finally:
            del error

    def close(self) -> None:
        """Have the partner leave, wait for its end, and raise what it raised in doing so."""
        frame = self._frame
        if frame is None or self._has_finished or self._generation != fork.generation:
            return
        if self._over and frame.owns_current_thread():
            self.finish()
            return
        self._leaving = True
        loop = self._loop
        if loop is not None:
            self._send(self._on_leave)
        if (
            not frame.owns_current_thread()
            or self._would_block_a_loop()
            or (loop is not None and not self._has_own_loop and not loop.is_running())
        ):
            frame.quit()
            return
        try:
            while not self._over:
                if not self._asked:
                    self._asked.append(True)
                if not self._over:
                    self._wait()
        except BaseException:
            frame.quit()
            raise
        self.finish()

    def _would_block_a_loop(self) -> bool:
        running = cpython.running_loop()
        if running is None:
            return False
        # Under gevent the partner's own loop seems to run here, in the one thread there is.
        return not (running is self._loop and self._frame.owns_current_thread())

    def _check_use(self) -> None:
        if self._would_block_a_loop():
            raise RuntimeError(
                "this would block the event loop that runs in this thread: use the async iterator "
                "or context manager itself, with `async for` or `async with`"
            )
        if self._generation != fork.generation:
            raise RuntimeError("this was begun before a fork, and its event loop is the parent's")
        if self._frame is None:
            return
        if not self._frame.owns_current_thread():
            raise RuntimeError("this has to be used on the thread on which it was begun")
        if not self._has_own_loop and not self._over:
            assert self._loop is not None
            if not self._loop.is_running():
                raise RuntimeError("the event loop on which this was begun is not running any more")

    def _begin(self) -> None:
        if threading.get_ident is not sync._get_ident:
            sync._go_on_under_monkey_patching()
        kernel = _kernel.kernel
        executors = AsyncToSync.executors
        outer = kernel.peek(executors, "current", None)
        self._frame = frame = kernel.CurrentThreadExecutor(outer)
        executors.current = frame
        try:
            context = contextvars.copy_context()
        finally:
            executors.current = outer
        self._mine = contextvars.copy_context()
        loop, _ = kernel.awaiting(SyncToAsync.threadlocal)
        if self._force_new_loop:
            loop = None
        if loop is not None and loop.is_running():
            self._loop = loop
            try:
                kernel.call_soon(loop, self._begin_on, loop, context)
                return
            except RuntimeError:  # it was closed this moment
                self._loop = None
        self._has_own_loop = True
        home = kernel.current_home()
        inbox = kernel.Inbox()
        inbox.put(_OwnRun(lambda: self._run(home, context)))
        inbox.close()
        worker = threads.Worker(inbox)
        try:
            worker.start()
        finally:
            # A signal handler may raise while we wait for the thread to report that it is up.
            if worker.ident is None:
                self._over = True
            else:
                # It may rest when the program ends, and is not waited for: see _close_at_exit.
                worker.abandon()
                _unfinished.add(self)

    def _send(self, callback: Callable[[], None]) -> None:
        assert self._loop is not None or self._has_own_loop
        loop = self._loop
        if loop is None:
            return  # it sees to it when it begins
        try:
            _kernel.kernel.call_soon(loop, callback)
        except RuntimeError:  # closed: a loop of its own just ends
            if not self._has_own_loop:
                self._end()

    def _wait(self) -> None:
        # A loop of its own is closed in its course; then comes the end, and that answers.
        try:
            self._frame.serve(None if self._has_own_loop else self._loop)
        except _Answered:
            pass

    # The loop's side

    def _begin_on(self, loop: asyncio.AbstractEventLoop, context: contextvars.Context) -> None:
        try:
            self.task = context.run(loop.create_task, self._main())
        except BaseException as error:
            self._error = error
            self._end()
            raise
        self.task.add_done_callback(self._on_done)

    def _run(self, home: Any, context: contextvars.Context) -> None:
        # On the thread of its own, from beginning to end.
        try:
            _kernel.kernel.at_home(home, context.run, _asyncio_run, self._own_main)
        except BaseException as error:
            if self._error is None:
                self._error = error
        finally:
            if self._loop is not None:
                AsyncToSync.loop_thread_executors.pop(self._loop, None)
            self._end()

    async def _own_main(self) -> None:
        loop = asyncio.get_running_loop()
        self.task = asyncio.current_task()
        # For the tasks of this loop that have not inherited it.
        AsyncToSync.loop_thread_executors[loop] = self._frame
        self._loop = loop
        await self._main()

    async def _main(self) -> None:
        self._its = contextvars.copy_context()
        try:
            if not self._leaving:
                self._enlist()
                await self._body()
        except GeneratorExit:
            self._error = RuntimeError("the event loop was dropped before this had ended")
            raise
        except BaseException as error:
            self._error = error
        finally:
            self._from_partner.append((contextvars.copy_context(), self._its))
            if not self._has_own_loop:
                self._end()

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        # Cancelled before its first step, it has never come to its body.
        if not self._over:
            self._error = asyncio.CancelledError() if task.cancelled() else task.exception()
            self._end()

    def _end(self) -> None:
        self._over = True
        self._delist()
        self._answer()

    def _answer(self) -> None:
        # On either side.
        try:
            self._asked.pop()
        except IndexError:
            return
        self._frame.post(_ANSWER)

    def _on_question(self) -> None:
        if self._over:
            self._answer()
        elif self._asked:
            self._enlist()
            if self._has_answer():
                self._delist()
                self._answer()
            elif self._resting is not None and not self._resting.done():
                self._resting.set_result(None)

    def _on_leave(self) -> None:
        if self._resting is not None:
            if not self._resting.done():
                self._resting.set_result(None)
        elif self.task is not None and not self._has_left:
            self.task.cancel()

    def _tell(self) -> None:
        # In the body: answer, if the thread has asked.
        if not self._asked:
            return
        now = contextvars.copy_context()
        self._from_partner.append((now, self._its))
        self._its = now
        self._delist()
        self._answer()

    async def _rest(self) -> bool:
        # In the body: wait until the thread asks. False if it is to leave.
        if self._leaving:
            pass
        elif self._asked:
            await asyncio.sleep(0)  # others on this loop have a right to go on
        else:
            self._resting = asyncio.get_running_loop().create_future()
            try:
                await self._resting
            finally:
                self._resting = None
        if self._leaving:
            self._has_left = True
            return False
        self._enlist()
        self._from_partner.append((contextvars.copy_context(), self._its))
        self._take_news(self._from_thread)
        self._its = contextvars.copy_context()
        return True

    def _enlist(self) -> None:
        task_context, task = self._task_context, self.task
        if self._listed_in is None and task_context is not None and task is not None:
            task_context.append(task)
            self._listed_in = task_context

    def _delist(self) -> None:
        listed_in, self._listed_in = self._listed_in, None
        if listed_in is not None and self.task is not None:
            listed_in.remove(self.task)

    @staticmethod
    def _take_news(news: deque[tuple[contextvars.Context, contextvars.Context]]) -> None:
        kernel, executors = _kernel.kernel, AsyncToSync.executors
        while news:
            after, before = news.popleft()
            frame = kernel.peek(executors, "current", None)
            kernel.restore_context(after, before)
            # Every nested call sets it and sets it back, and each side has one of its own.
            if kernel.peek(executors, "current", None) is not frame:
                executors.current = frame


def _asyncio_run(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    coroutine = body()
    try:
        asyncio.run(coroutine)  # looked up now: a program may have replaced it
    finally:
        coroutine.close()


_unfinished: weakref.WeakSet[Partner] = weakref.WeakSet()


names.partners.append(Partner.ask.__code__)
names.drivers[Partner._own_main.__code__] = names.drivers[Partner._main.__code__] = "self"


def _close_at_exit() -> None:
    for partner in list(_unfinished):
        partner.close()


def _close_before_threads_are_joined() -> None:
    # Where `threading` itself waits for our threads, though they are abandoned: see
    # `_process.threads`.
    if cpython.threading_is_patched() or not cpython.DAEMONS_ALLOWED:
        _close_at_exit()


# Both run before those of `_process.threads`, which came first: what the partners call still has
# threads.
atexit.register(_close_at_exit)
cpython.at_threading_exit(_close_before_threads_are_joined)
