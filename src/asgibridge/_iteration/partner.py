"""A task on an event loop that goes hand in hand with sync code on one thread.

`async_to_sync` is one call. An async iterator or context manager is several that belong together,
and its code must run in one task on one loop, from beginning to end: time limits, task groups and
cancel scopes in it count on that. That task is the **partner**: it does its part when the
**thread** asks, which waits meanwhile. `Partner` is both sides; a subclass writes `_body`.

**Which loop**, the first of these that there is:

1. the one that the thread works for, if `sync_to_async` brought the thread here;
2. the persistent loop that is in force: that of an AsyncSingleThreadContext, or of what is open
   further out; or, where no AsyncSingleThreadContext is, the process's shared loop, if that is
   switched on (`asgibridge._loops.shared`);
3. a new one, on a thread of its own, which is from now on in force for what the thread calls, until
   all that was opened on it has ended (`asgibridge._iteration.blocks`). (The thread of an
   AsyncSingleThreadContext without a persistent loop is not taken: other calls must be able to run
   in between.)

``force_new_loop`` takes the third in any case. Under 2 and 3 the partner is a run of the
`asgibridge._loops.persistent.PersistentLoop`: see there what that keeps alive, and tells.

**While it waits, and only then**, the thread runs the thread-sensitive sync code that the partner
calls, from the inbox of ``_frame``. Under 1 that is an executor of the partner's own, and its items
are run when the thread waits for the partner. Under 2 and 3 it is that of the thread, served also
while the thread waits in a call, or for another partner: see `asgibridge._loops.lent`.

**Who may touch what.** The thread alone: ``_here``, ``_has_finished``, and what says where the
partner is. The loop's thread alone: ``_there``, ``_resting``, ``_has_left``, ``_listed_in``. The
rest changes hands by ``_asked``, or is written once. No lock is held in here; the count of users of
the block and that of the lent thread have theirs.

**Asking.** Whoever pops the thread's token from ``_asked`` answers, and one of them always does:

1. The thread puts the token into ``_asked``, wakes the partner, and then looks at ``_over``.
2. The partner looks for the token when it has an item. At its end it sets ``_over``, and then looks
   for the token.

**A closed loop.** If a loop that is not persistent is closed while the thread waits, the wait
raises RuntimeError within a second, as in `async_to_sync`. Then nobody answers any more. A
persistent loop cancels a partner that rests as it ends, and answers one that is waited for.

**The end** is the body's own; or `close`, which lets a resting partner leave and cancels one that
awaits something; or the cancellation of the task whose sync function waits here; or the loop's. A
KeyboardInterrupt is raised where the thread waits, and then the sync code closes the partner; a
second one, while the thread waits for the end, leaves the partner behind, and the persistent loop
with it (but not the shared loop: there the partner is cancelled). Closed from another thread, or
from a thread with a running loop (the garbage collector may do that), the partner is not waited
for. At exit, every open partner is closed. In a forked child there is no partner, and asking raises
RuntimeError.

**The end of the block** of case 3 comes with the last of its partners, in whatever order they end:

* Who finishes the last on its thread, where that can wait, waits until the loop has ended as
  `asyncio.run` ends one.
* Who leaves a partner behind keeps it among the loop's runs. So the loop takes no further runs, if
  it was the last, and ends with it; nobody waits for that.
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from .. import _kernel, sync
from .._bridge.contexts import single_thread_context
from .._loops import shared
from .._loops.lent import LentThread, lend
from .._loops.persistent import PersistentLoop, at_home
from .._process import cpython, fork
from .._process.handover import take
from .._process.items import Item
from .._waits import names
from .._workers import bindings
from ..sync import AsyncToSync, SyncToAsync
from .blocks import Block, forget_ended
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
        self._on: PersistentLoop | None = None
        self._lent: LentThread | None = None
        self._in_block: list[Block] = []
        self._binding: bindings.Binding | None = None  # the thread has to be the same to the end
        self._home: Any = None
        self._context: contextvars.Context | None = None  # until it begins
        self._is_held = False
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
                if not self._has_finished:  # the exit may have closed it
                    self._finish()
                return False
            self._ask()

    def _ask(self) -> None:
        # Have the partner go on, and wait until it answers or ends.
        self._check_use()
        self._task_context = getattr(SyncToAsync.threadlocal, "task_context", None)
        try:
            if self._frame is None:
                self._asked.append(True)
                self._begin()
            else:
                self._hold()
                self._here.tell()
                self._asked.append(True)
                self._send(self._on_question)
            if self._over:
                self._answer()
            self._wait()
        finally:
            self._rest_on_loop()
        self._here.hear(self._there)

    def _hold(self) -> None:
        # Before the loop hears of it: what ends the loop from now on, we are to raise.
        if self._on is not None and self._lent is not None:
            self._is_held = True
            self._lent.begin_wait(self)
            self._on.hold(self)

    def _rest_on_loop(self) -> None:
        if self._on is None or self._lent is None:
            return
        if self._is_held:
            self._is_held = False
            self._lent.end_wait()
        # Not if it has not begun: it never would, nor ever end.
        if self.task is not None or self._over:
            self._on.let_go(self)

    def _finish(self) -> None:
        # The partner is over: let its frame go, and raise what it raised.
        self._has_finished = True
        self._unbind()
        _unfinished.discard(self)
        error, self._error = self._error, None
        try:
            try:
                self._let_go()
            finally:
                self._here.hear(self._there)
            if error is not None and not (
                self._leaving and isinstance(error, asyncio.CancelledError)
            ):
                raise error
        finally:
            del error

    def _let_go(self) -> None:
        # Of what the thread serves, and of the block.
        lent = self._lent
        if lent is not None:
            try:
                self._leave_block(None if self._would_block_a_loop() else lent)
            finally:
                lent.let_go()
            return
        frame = self._frame
        frame.close()
        while True:
            try:
                frame.serve()  # what is in its inbox still
                break
            except _Answered:  # nobody has waited for that one
                continue

    def _leave_block(self, lent: LentThread | None) -> None:
        block = take(self._in_block)
        if block is not None and block.let_go():
            if lent is not None:
                forget_ended()
            block.close(lent)

    def close(self) -> None:
        """Have the partner leave, wait for its end, and raise what it raised in doing so."""
        frame = self._frame
        if frame is None or self._has_finished:
            return
        if self._generation != fork.generation:
            self._has_finished = True
            if self._in_block:  # which may have a loop of the child's
                lent = lend()
                try:
                    self._leave_block(lent)
                finally:
                    lent.let_go()
            return
        if self._over and frame.owns_current_thread():
            self._finish()
            return
        self._leaving = True
        loop = self._loop
        can_wait = (
            frame.owns_current_thread()
            and not self._would_block_a_loop()
            and (loop is None or self._on is not None or loop.is_running())
        )
        if not can_wait:
            if self._on is not None:
                self._on.hold(self)
            self._send(self._on_leave)
            self._leave_behind()
            return
        try:
            self._hold()
            self._send(self._on_leave)
            while not self._over:
                if not self._asked:
                    self._asked.append(True)
                if not self._over:
                    self._wait()
        except BaseException:
            self._leave_behind()
            if self._on is not None:
                self._on.abandon(self)
            raise
        self._rest_on_loop()
        self._finish()

    def _leave_behind(self) -> None:
        # It goes on to its end, and nobody waits for that. It is a run still, so its loop waits.
        self._has_finished = True
        self._unbind()
        _unfinished.discard(self)
        if self._lent is None:
            self._frame.quit()
            return
        if self._is_held:
            self._is_held = False
            self._lent.end_wait()
        self._leave_block(None)
        self._lent.let_go()

    def _unbind(self) -> None:
        binding, self._binding = self._binding, None
        if binding is not None:
            binding.__exit__()

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
        if self._on is None and not self._over:
            assert self._loop is not None
            if not self._loop.is_running():
                raise RuntimeError("the event loop on which this was begun is not running any more")

    def _begin(self) -> None:
        if threading.get_ident is not sync._get_ident:
            sync._go_on_under_monkey_patching()
        kernel = _kernel.kernel
        loop, _ = kernel.awaiting(SyncToAsync.threadlocal)
        if loop is not None and loop.is_running() and not self._force_new_loop:
            self._set_frame(kernel.CurrentThreadExecutor(self._outer_frame()))
            self._loop = loop
            try:
                kernel.call_soon(loop, self._begin_on, loop)
                self._binding = bindings.held(_OPEN)
                return
            except RuntimeError:  # it was closed this moment
                self._loop = None
        forget_ended()  # what was left behind, or by another thread
        self._home = kernel.current_home()
        self._lent = lent = lend()
        try:
            self._on = self._persistent_loop()
            self._set_frame(lent.frame)
            self._is_held = True
            lent.begin_wait(self)
            while not self._on.add(self):  # the block was left, or the loop closed, a moment ago
                self._on = self._on.successor() or self._new_block()
                self._set_frame(lent.frame)
        except BaseException:
            self._over = self._has_finished = True
            self._context = None
            try:
                self._rest_on_loop()
                self._leave_block(lent)
            finally:
                lent.let_go()
            raise
        _unfinished.add(self)
        self._binding = bindings.held(_OPEN)

    def _set_frame(self, frame: Any) -> None:
        self._frame = frame
        executors = AsyncToSync.executors
        outer = self._outer_frame()
        executors.current = frame
        try:
            self._context = contextvars.copy_context()
        finally:
            executors.current = outer
        self._here.agreed = contextvars.copy_context()

    def _outer_frame(self) -> Any:
        return _kernel.kernel.peek(AsyncToSync.executors, "current", None)

    def _persistent_loop(self) -> PersistentLoop:
        context = None if self._force_new_loop else single_thread_context()
        # A foreign object may stand in for a context, as asgiref lets it.
        if context is not None and getattr(context, "_persistent_loop", False):
            if type(context) is Block:
                if not context.join():
                    return self._new_block()
                self._in_block.append(context)
            on = context._runs_on()
            if isinstance(on, PersistentLoop):
                return on
        loop_of_all = None if self._force_new_loop else shared.in_force
        if context is None and loop_of_all is not None:
            shared_by_all = loop_of_all._runs_on()
            if shared_by_all is not None:
                return shared_by_all
        return self._new_block()

    def _new_block(self) -> PersistentLoop:
        self._leave_block(None)
        block = Block(single_thread_context())
        self._in_block.append(block)
        on = block._persistent
        assert on is not None
        return on

    def _send(self, callback: Callable[[], None]) -> None:
        if self._loop is None:
            return  # the partner sees to it when it begins
        try:
            _kernel.kernel.call_soon(self._loop, callback)
        except RuntimeError:  # closed: a persistent loop has told us, or does so now
            if self._on is None:
                self._end()

    def _wait(self) -> None:
        if self._lent is not None:
            self._lent.serve_until_answered(self)
            return
        try:
            self._frame.serve(self._loop)
        except _Answered:
            pass

    def is_answered(self) -> bool:
        """Whether the thread need not wait any longer. On any thread."""
        return not self._asked

    # The loop's side

    def _begin_on(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            self.start_on(loop, None)
        except BaseException as error:
            self._error = error
            self._end()
            raise

    def start_on(self, loop: asyncio.AbstractEventLoop, home: Any) -> asyncio.Task[None]:
        """Make the partner's task, on a thread at ``home``; None: at ours, or that of its tasks."""
        context, self._context = self._context, None
        assert context is not None
        body = self._main()
        if home is not None and home is not self._home:
            body = at_home(self._home, body)
        self._loop = loop
        self.task = context.run(loop.create_task, body)
        self.task.add_done_callback(self._on_done)
        return self.task

    def serves(self, loop: asyncio.AbstractEventLoop) -> None:
        """Note that the thread serves the thread-sensitive calls of that loop."""
        if self._on is None or not self._on.is_shared:
            AsyncToSync.loop_thread_executors[loop] = self._frame

    def finish(self, error: BaseException | None) -> None:
        """The partner's task has ended, or never will begin."""
        if not self._over:
            if self._error is None or error is not None:
                self._error = error
            self._end()

    def is_of_this_thread(self) -> bool:
        """Whether it is this thread that waits for it."""
        return bool(self._is_held and self._frame.owns_current_thread())

    def take_unheard(self) -> BaseException | None:
        """The error of a partner that has ended when nobody waited for it any more."""
        error, self._error = self._error, None
        return error

    async def _main(self) -> None:
        if self._on is not None:
            # For the tasks of this loop that have not inherited it.
            self.serves(asyncio.get_running_loop())
        self.task = asyncio.current_task()
        self._there.agreed = contextvars.copy_context()
        try:
            if not self._leaving:
                self._enlist()
                await self._body()
        except GeneratorExit:
            self._error = RuntimeError("the event loop was dropped before this had ended")
            raise
        except asyncio.CancelledError as error:
            self._error = error
            if self._on is not None and self._on.is_ending and not self._leaving:
                self._error = RuntimeError(_LOOP_HAS_ENDED)
                self._error.__cause__ = error
        except BaseException as error:
            self._error = error
        finally:
            self._there.tell()
            if self._on is None:
                self._end()

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        if self._over or (self._on is not None and self._on.is_to_tell(self)):
            return
        if self._error is None:
            # Cancelled before its first step, it has never come to its body.
            self._error = asyncio.CancelledError() if task.cancelled() else task.exception()
        self._end()

    def _end(self) -> None:
        self._over = True
        self._delist()
        if self._on is not None and self._loop is not None and not self._on.is_shared:
            AsyncToSync.loop_thread_executors.pop(self._loop, None)
        self._answer()

    def _answer(self) -> None:
        # On either side.
        if not take(self._asked):
            return
        if self._lent is None:
            self._frame.post(_ANSWER)
        else:
            self._lent.wake()

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
        if self._on is not None and self._on.is_ending:
            raise asyncio.CancelledError  # once more: the body has gone on after the first
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


_LOOP_HAS_ENDED = (
    "the event loop on which this was begun has ended: leave what is open on it before the "
    "AsyncSingleThreadContext that it belongs to, or before you close the shared loop"
)

_OPEN = "what is open on an event loop"
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
