"""The two contexts that say where code runs."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
import weakref
from concurrent.futures import Executor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from .._kernel import kernel
from .._loops.persistent import PersistentLoop
from .._process import fork, greenlets, threads
from .._process.handover import call_if_open
from .._process.threads import LoopWorker
from .._waits import deadlocks
from .._workers import policy as policies
from .._workers.leases import Lease
from .._workers.pool import pool as worker_pool
from .._workers.sticky import StickyLease
from . import state

if TYPE_CHECKING:
    from typing import Literal

    from .._workers.policy import Policy
    from ..current_thread_executor import CurrentThreadExecutor


class AsyncSingleThreadContext:
    """Run all top-level `async_to_sync` calls within a ``with`` block on one thread.

    Outside such a block each of them gets a thread of its own. Each still gets a new event loop,
    unless that is to persist. Within a running loop's sync code, where calls go to that loop, it
    changes nothing. Nested blocks join the outermost. Leaving the block waits for the thread's end.

    :param persistent_loop: have one event loop for all the calls, so that what is bound to a loop
        (HTTP clients, connection pools) can be used by one call after the other. It runs until the
        block is left, also between the calls. Leaving ends it as `asyncio.run` does: leftover tasks
        are cancelled, async generators and the default executor shut down. It is not for
        ``async_to_sync(force_new_loop=True)``. Inside a block without one, such a block does not
        join that, but has a thread of its own.
    """

    def __init__(self, *, persistent_loop: bool = False) -> None:
        self.token: contextvars.Token[AsyncSingleThreadContext] | None = None
        self._persistent_loop = persistent_loop
        self._persistent: PersistentLoop | None = None
        self._lock = threading.RLock()  # guards the one above
        fork.at_fork_of(self, AsyncSingleThreadContext._forget_parent)

    def _forget_parent(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> AsyncSingleThreadContext:  # noqa: PYI034 - Self is 3.11's
        outer = single_thread_context()
        # A foreign object may stand in for one, as asgiref lets it.
        if outer is None or (
            self._persistent_loop and not getattr(outer, "_persistent_loop", False)
        ):
            self.token = state.single_thread_context.set(self)
        return self

    def __exit__(self, *exc: object) -> None:
        if self.token is None:
            return
        token, self.token = self.token, None
        wait = False
        try:
            with self._lock:
                persistent, self._persistent = self._persistent, None
            if persistent is not None:
                persistent.leave()
            wait = True
        finally:
            executor = state.executors_of_runs.pop(self, None)
            try:
                if executor is not None:
                    executor.shutdown(wait=wait)
            finally:
                state.single_thread_context.reset(token)

    def _runs_on(self) -> Executor | PersistentLoop | None:
        # Where a top-level call runs; None: on a thread of its own, as outside of any block.
        if not self._persistent_loop:
            return executor_of_runs(self)
        with self._lock:
            persistent = self._persistent
            if persistent is not None and persistent.is_usable():
                return persistent
            if self.token is None or threads.exiting:
                return None
            if persistent is not None:
                if persistent.is_abandoned:
                    state.executors_of_runs.pop(self, None)
                self._persistent = None
                persistent.raise_failure()
            persistent = PersistentLoop(executor_of_runs(self))
            self._persistent = persistent
            weakref.finalize(self, persistent.end).atexit = False
            return persistent

    def _in_force(self) -> Any:
        # What counts where this is in a context.
        return self


def executor_of_runs(context: AsyncSingleThreadContext) -> Executor:
    """The one that runs the top-level calls within ``context``, made now if there is none."""
    executor = state.executors_of_runs.get(context)
    if executor is None:
        if worker_pool.is_plain_run or greenlets.are_here():
            executor = kernel.ThreadSensitiveExecutor()
            executor._make_worker = LoopWorker
        else:
            executor = Lease(worker_pool.family, is_counted=False)
        state.executors_of_runs[context] = executor
    return executor


def single_thread_context() -> Any:
    """The AsyncSingleThreadContext that is in force here."""
    return in_force(state.single_thread_context.get(None))


def in_force(context: Any) -> Any:
    """What counts where ``context`` is entered: mostly itself, also if it is a foreign object."""
    return context._in_force() if isinstance(context, AsyncSingleThreadContext) else context


class ThreadSensitiveContext:
    """Run all thread-sensitive calls within an ``async with`` block on one thread of its own.

    Outside any such block (and with no sync code further out) the whole process shares one thread.
    Web frameworks enter one for each request. Nested blocks join the outermost. Leaving the block
    waits for the calls already submitted, without blocking the loop; cancelled, it stops waiting.

    :param executor: run the calls there instead, even inside another context or an `async_to_sync`
        call; on leaving, what was in force before is again. It must run one call at a time on one
        thread, such as ``ThreadPoolExecutor(max_workers=1)``, and is the caller's: it is not shut
        down. Such a context can be entered once, and tasks started inside must have ended when it
        is left: the thread-sensitive calls they make later raise RuntimeError.
    :param policy: of the worker, instead of the process's (`asgibridge.workers`): a kind, with the
        hooks of the process's policy, or a Policy with a kind, ``release_idle``, hooks and a
        ``sticky`` key. It counts in the outermost context.
    """

    _owner: weakref.ref[asyncio.Task[Any]] | None = None
    """The task that is inside, if there was a limit on workers when it came."""

    _bindings: Any = None
    """What binds it to its worker: see `asgibridge._workers.bindings`."""

    def __init__(
        self,
        *,
        executor: Executor | None = None,
        policy: Literal["fresh", "keep", "new"] | Policy | None = None,
    ) -> None:
        if policy is not None:
            if executor is not None:
                raise TypeError("an executor of your own takes no policy: give one or the other")
            policy = policies.checked_for_context(policy)  # type: ignore[assignment]
        self._executor = executor
        self._policy = policy
        self.token: contextvars.Token[ThreadSensitiveContext] | None = None
        self._old_executor: CurrentThreadExecutor | None = None
        self._left: kernel.ThreadSensitiveExecutor | None = None  # of the last time
        self._exited = False

    async def __aenter__(self) -> ThreadSensitiveContext:  # noqa: PYI034
        if self._executor is not None:
            if self.token is not None:
                raise RuntimeError("ThreadSensitiveContext is already entered")
            if self._exited:
                # A task that outlived the first block would be let into the second.
                raise RuntimeError(
                    "ThreadSensitiveContext with an executor cannot be entered again: "
                    "make a new one for each block"
                )
            self.token = state.thread_sensitive_context.set(self)
            state.executors_of_contexts[self] = self._executor
            # A frame further out would come first: hide it. A frame further in hides nothing, it
            # waits on this very executor's thread.
            self._old_executor = kernel.peek(state.executors, "current", None)
            state.executors.current = None
        elif state.thread_sensitive_context.get(None) is None:
            self.token = state.thread_sensitive_context.set(self)
            if worker_pool.limit is not None:
                task = asyncio.current_task()
                self._owner = None if task is None else weakref.ref(task)
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self.token is None:
            return
        token, self.token = self.token, None
        if self._owner is not None:
            self._owner = None
        executor = state.executors_of_contexts.pop(self, None)
        try:
            state.thread_sensitive_context.reset(token)
        finally:
            if self._executor is not None:
                state.executors.current = self._old_executor
                self._old_executor = None
                self._exited = True
            elif executor is not None:
                if type(executor) is kernel.ThreadSensitiveExecutor:
                    self._left = executor
                elif type(executor) is Lease or type(executor) is StickyLease:
                    self._left = executor.former_executor()
                await _retire(executor)


class ContextOfSteps(ThreadSensitiveContext):
    """The context of an async generator: in force during each step of it, and not between them.

    A generator runs in the context variables of whoever asks for its next item, and those of a
    block in it would be theirs, too. So each step is a ``with`` block, in the task that asks;
    `leave` comes after the last one. If the first step is inside another context, this one is never
    in force.
    """

    _is_inner: bool | None = None
    _step: contextvars.Token[ThreadSensitiveContext] | None = None

    def __enter__(self) -> None:
        if self._is_inner is None:
            self._is_inner = state.thread_sensitive_context.get(None) is not None
        if not self._is_inner:
            self._step = state.thread_sensitive_context.set(self)

    def __exit__(self, *exc: object) -> None:
        step, self._step = self._step, None
        if step is not None:
            with suppress(ValueError):  # the collector ends a step, in a context of its own
                state.thread_sensitive_context.reset(step)

    async def leave(self) -> None:
        """`ThreadSensitiveContext`'s exit."""
        if not self._is_inner:
            self.token = state.thread_sensitive_context.set(self)
            await self.__aexit__()


async def _retire(executor: Executor) -> None:
    # Shut it down and wait for what it has, without a thread to wait in.
    loop = asyncio.get_running_loop()
    if type(executor) is kernel.ThreadSensitiveExecutor:
        last: Any = executor.retire(loop)
        if last is not None and last.is_blocked and _waits_for_us(last.blocked_by()):
            last = None  # that thread waits for us: it goes when it can
    elif type(executor) is Lease or type(executor) is StickyLease:
        last = loop.create_future()
        is_on_its_way = executor.end(functools.partial(call_if_open, loop, _wake, last))
        if (
            not is_on_its_way
            or executor.owns_current_thread()
            or _waits_for_us(executor.blocked_by())
        ):
            return
    else:  # a user put it in
        last = None
        with suppress(RuntimeError):  # somebody may have shut it down already
            last = asyncio.wrap_future(executor.submit(lambda: None))
        executor.shutdown(wait=False)
    if last is not None:
        leaving = _LeavingWait(executor, last, loop)
        task = deadlocks.begin_wait(leaving)
        try:
            await last
        finally:
            deadlocks.end_wait(leaving, task)
            del task


def _waits_for_us(blocker: Any) -> bool:
    return deadlocks.chain(blocker, asyncio.current_task(), is_harmless=True) is not None


class _LeavingWait:
    """A task's wait for the last of the context that it leaves: see `asgibridge._waits.deadlocks`.

    If that waits for the task in its turn, it goes when it can, and the task goes on at once.
    """

    __slots__ = ("_executor", "item", "loop")

    what = "the thread of the context that it leaves"
    call = None
    is_harmless = True  # to break a ring here

    def __init__(self, executor: Executor, last: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._executor = executor
        self.item = last
        self.loop = loop

    def owners(self) -> list[list[asyncio.Task[Any]]] | None:
        blocker: Any = None
        if isinstance(self.item, kernel.SyncCall):
            blocker = self.item.blocked_by()
        elif type(self._executor) is Lease or type(self._executor) is StickyLease:
            blocker = self._executor.end_blocked_by()
        return None if blocker is None else [blocker]

    def borrowers(self) -> list[Any]:
        executor: Any = self._executor
        is_lease = type(executor) is Lease or type(executor) is StickyLease
        worker = executor._worker if is_lease else None
        return [executor if worker is None else worker.executor]

    def refusal(self, why: str) -> RuntimeError:
        return deadlocks.would_never_run("Leaving a ThreadSensitiveContext", why)

    def end(self, error: BaseException) -> None:
        if isinstance(self.item, kernel.SyncCall):
            self.item.wake()
        else:
            _wake(self.item)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
