"""A task on an event loop that goes hand in hand with sync code on one thread.

`async_to_sync` is one call. An async iterator or context manager is several that belong together,
and its code must run in one task on one loop, from beginning to end: time limits, task groups and
cancel scopes in it count on that. That task is the **partner**: it does its part when the
**thread** asks, which waits meanwhile. `Partner` is both sides; a subclass writes `_body`.

**Which loop**: as in `async_to_sync`, the one that the thread works for, if `sync_to_async` brought
the thread here; else a new one on a thread of its own, by one `asyncio.run` from the partner's
beginning to its end, which also ends what the partner leaves behind. (An AsyncSingleThreadContext's
thread is not taken: other calls must be able to run in between.)

**While it waits, and only then**, the thread runs the thread-sensitive sync code that the partner
calls, from the inbox of ``_frame``, an executor that lives as long as the partner. Code that is
posted in between runs when the thread waits again. An item in that inbox ends the wait by raising
(`_Answer`), as a signal handler may at any time.

**Asking.** Whoever pops the thread's token from ``_asked`` answers, and one of them always does:

1. The thread puts the token into ``_asked``, wakes the partner, and then looks at ``_over``.
2. The partner looks for the token when it has an item. At its end it sets ``_over``, and then looks
   for the token.

**A closed loop.** If a loop that is not the partner's own is closed while the thread waits, the
wait raises RuntimeError within a second, as in `async_to_sync`. Then nobody answers any more.

**The end** is the body's own; or `close`, which lets a resting partner leave and cancels one that
awaits something; or the cancellation of the task whose sync function waits here; or the loop's. A
KeyboardInterrupt is raised where the thread waits, and then the sync code closes the partner; a
second one, while the thread waits for the end, leaves the partner behind. Closed from another
thread, or from a thread with a running loop (the garbage collector may do that), the partner is not
waited for. At exit, every open partner is closed. In a forked child there is no partner, and asking
raises RuntimeError.
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import threading
import weakref
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

from .. import _kernel, sync
from .._process import cpython, fork, threads
from .._process.handover import take
from .._process.items import FutureCall, Item
from .._waits import names
from ..sync import AsyncToSync, SyncToAsync
from .variables import Side


class _Answered(Exception):
    """Ends the thread's waiting; never leaves this module."""


class _Answer(Item):
    """An inbox's item that raises out of ``serve()``."""

    __slots__ = ()

    def run(self) -> None:
        raise _Answered


_ANSWER = _Answer()


class Partner:
    """Both sides; see the module's header. It begins when it is first asked.

    :param open_: returns what the body is about; called in the partner's task.
    :param shown: the user's function, or object.
    """

    def __init__(self, open_: Callable[[], Any], shown: Any, force_new_loop: bool) -> None:
        self.ready: deque[Any] = deque()  # what the body has for the thread
        self.shown = shown
        self.task: asyncio.Task[Any] | None = None
        self._open = open_
        self._force_new_loop = force_new_loop
        self._generation = fork.generation
        self._frame: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._has_own_loop = False
        self._asked: list[bool] = []
        self._leaving = False  # told by the thread
        self._has_left = False  # done by the body, and not to be disturbed any more
        self._over = False
        self._has_finished = False  # seen by the thread
        self._error: BaseException | None = None
        self._here = Side()  # the thread's
        self._there = Side()
        # By way of the first list a cancellation reaches the partner; in the second it is listed.
        self._task_context: list[asyncio.Task[Any]] | None = None
        self._listed_in: list[asyncio.Task[Any]] | None = None
        self._resting: asyncio.Future[None] | None = None

    async def _body(self) -> None:
        """The partner's part. In its task."""
        raise NotImplementedError

    # The thread's side

    def more(self) -> bool:
        """Have the partner go on until something is in ``ready``; False at the end. On the thread.

        Raises what the partner raised.
        """
        while True:
            over = self._over
            if self.ready:
                return True
            if over:
                self._finish()
                return False
            self._ask()

    def _ask(self) -> None:
        # Have the partner go on, and wait until it answers or ends.
        self._check_use()
        self._task_context = getattr(SyncToAsync.threadlocal, "task_context", None)
        if self._frame is None:
            self._asked.append(True)
            self._begin()
        else:
            self._here.tell()
            self._asked.append(True)
            self._send(self._on_question)
        if self._over:
            self._answer()
        self._wait()
        self._here.hear(self._there)

    def _finish(self) -> None:
        # The partner is over: let its frame go, and raise what it raised.
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
        self._here.hear(self._there)
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
            self._finish()
            return
        self._leaving = True
        loop = self._loop
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
        self._finish()

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
        self._here.agreed = contextvars.copy_context()
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
        inbox.put(FutureCall(Future(), self._run, (home, context), {}))
        inbox.close()
        worker = threads.LoopWorker(inbox)
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
        if self._loop is None:
            return  # the partner sees to it when it begins
        try:
            _kernel.kernel.call_soon(self._loop, callback)
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
            _kernel.kernel.at_home(home, context.run, _asyncio_run, self._main)
        except BaseException as error:
            if self._error is None:
                self._error = error
        finally:
            if self._loop is not None:
                AsyncToSync.loop_thread_executors.pop(self._loop, None)
            self._end()

    async def _main(self) -> None:
        if self._has_own_loop:
            loop = asyncio.get_running_loop()
            self.task = asyncio.current_task()
            # For the tasks of this loop that have not inherited it.
            AsyncToSync.loop_thread_executors[loop] = self._frame
            self._loop = loop
        self._there.agreed = contextvars.copy_context()
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
            self._there.tell()
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
        if take(self._asked):
            self._frame.post(_ANSWER)

    def _on_question(self) -> None:
        if self._over:
            self._answer()
        elif self._asked:
            self._enlist()
            if self.ready:
                self._delist()
                self._answer()
            else:
                self._end_rest()

    def _on_leave(self) -> None:
        if self._resting is None and self.task is not None and not self._has_left:
            self.task.cancel()
        self._end_rest()

    def _end_rest(self) -> None:
        if self._resting is not None and not self._resting.done():
            self._resting.set_result(None)

    def _give(self, item: Any) -> None:
        # In the body: add to ``ready``, and answer if the thread has asked.
        self.ready.append(item)
        if self._asked:
            self._there.tell()
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
        self._there.hear(self._here)
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


def _asyncio_run(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    coroutine = body()
    try:
        asyncio.run(coroutine)  # looked up now: a program may have replaced it
    finally:
        coroutine.close()


_unfinished: weakref.WeakSet[Partner] = weakref.WeakSet()


names.partners.append(Partner)
names.drivers[Partner._main.__code__] = "self"


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
