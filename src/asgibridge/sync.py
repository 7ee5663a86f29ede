"""The bridge: `sync_to_async`, `async_to_sync`, and the contexts that say where code runs.

**Which thread** runs a thread-sensitive sync function, the first of these that there is:

1. the thread of the innermost sync frame above that waits in `async_to_sync` (a
   CurrentThreadExecutor, inherited through the context: ``AsyncToSync.executors.current``);
2. the thread of the `ThreadSensitiveContext` we are in;
3. the thread that waits for this event loop, if it was started by a top-level `async_to_sync`;
4. the process's single thread, ``SyncToAsync.single_thread_executor``.

A frame that has ended is passed over, so a task may outlive the call that started it.

**Which loop** runs an async function: the one that the calling thread works for, if it was brought
here by `sync_to_async`; else a new one, on a thread of its own (`asgibridge.runners`).

**Deadlocks.** A call that would have to run on the very thread whose event loop waits for it can
never run. That is a matter of who owns which thread, so it is looked up: no flag is left behind by
a call that failed, and none is inherited by a task that is merely scheduled from a worker.

**Context.** Each side works in a copy of the other's context variables, and what it changed is set
in the caller's before the caller goes on. ``exc_info`` travels too.

The class attributes, ``SyncToAsync.thread_handler`` and ``AsyncToSync.main_wrap`` are asgiref's,
with the arguments asgiref passes: agents and adapters patch and override them.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import os
import sys
import threading
import warnings
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Generator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from . import _kernel, current_thread_executor, observers, pools, runners, workers
from ._kernel import kernel
from ._loops.persistent import PersistentLoop
from ._process import threads
from ._start import install
from ._waits import deadlocks
from ._workers import leases
from ._workers.leases import Lease
from ._workers.pool import pool as worker_pool
from .current_thread_executor import CurrentThreadExecutor
from .local import Local
from .runners import TopLevelRun

if sys.version_info >= (3, 10):
    from typing import ParamSpec
else:
    from typing_extensions import ParamSpec

if TYPE_CHECKING:
    from typing import Literal

    from _typeshed import OptExcInfo

    from .limiters import CallOptions, CapacityLimiter
    from .workers import Policy

__all__ = [
    "AsyncSingleThreadContext",
    "AsyncToSync",
    "SyncToAsync",
    "ThreadSensitiveContext",
    "async_to_sync",
    "iscoroutinefunction",
    "markcoroutinefunction",
    "sync_to_async",
]

_F = TypeVar("_F", bound=Callable[..., Any])
_P = ParamSpec("_P")
_R = TypeVar("_R")

if sys.version_info >= (3, 12):
    iscoroutinefunction = inspect.iscoroutinefunction
    markcoroutinefunction = inspect.markcoroutinefunction
else:
    iscoroutinefunction = asyncio.iscoroutinefunction

    def markcoroutinefunction(func: _F) -> _F:
        """Have `iscoroutinefunction` say True of ``func``."""
        func._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]
        return func


class _Marked:
    pass


# What markcoroutinefunction sets, at a fifth of its cost: it looks for a method's function first.
_MARK: tuple[str, Any] = vars(markcoroutinefunction(_Marked())).popitem()  # type: ignore[type-var]

_get_ident = threading.get_ident

# The exception's own, whatever its class has under that name.
_TRACEBACK: Any = BaseException.__dict__["__traceback__"]


def _go_on_under_monkey_patching() -> None:
    # gevent has patched `threading` since we were loaded. What the compiled kernel made before
    # stays usable for what runs on real threads; there is no greenlet yet that waits in it.
    global _get_ident, kernel, CurrentThreadExecutor
    if _kernel.leave_compiled_kernel():
        compiled, kernel = kernel, _kernel.kernel
        runners.kernel = pools.kernel = kernel  # type: ignore[attr-defined]
        leases.go_over_to(kernel)
        CurrentThreadExecutor = kernel.CurrentThreadExecutor
        current_thread_executor.CurrentThreadExecutor = CurrentThreadExecutor
        if type(SyncToAsync.single_thread_executor) is compiled.ThreadSensitiveExecutor:
            SyncToAsync.single_thread_executor = kernel.ThreadSensitiveExecutor()
    _get_ident = threading.get_ident


def _is_async(function: Any) -> bool:
    return iscoroutinefunction(function) or iscoroutinefunction(
        getattr(function, "__call__", function)  # noqa: B004
    )


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
        self._generation = threads.generation()

    def __enter__(self) -> AsyncSingleThreadContext:  # noqa: PYI034 - Self is 3.11's
        outer = AsyncToSync.async_single_thread_context.get(None)
        if outer is None or (self._persistent_loop and not outer._persistent_loop):
            self.token = AsyncToSync.async_single_thread_context.set(self)
        return self

    def __exit__(
        self,
        exc: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self.token is None:
            return
        token, self.token = self.token, None
        wait = False
        try:
            with self._lock:
                persistent, self._persistent = self._persistent, None
            if persistent is not None:
                persistent.close(CurrentThreadExecutor(None))
            wait = True
        finally:
            executor = AsyncToSync.context_to_thread_executor.pop(self, None)
            try:
                if executor is not None:
                    executor.shutdown(wait=wait)
            finally:
                AsyncToSync.async_single_thread_context.reset(token)

    def _runs_on(self) -> Executor | PersistentLoop | None:
        # Where a top-level call runs; None: on a thread of its own, as outside of any block.
        executors = AsyncToSync.context_to_thread_executor
        if not self._persistent_loop:
            executor = executors.get(self)
            if executor is None:
                executor = executors[self] = leases.executor_of_runs()
            return executor
        if self._generation != threads.generation():
            # In a forked child: a thread that is not there may hold the lock.
            self._generation = threads.generation()
            self._lock = threading.RLock()
        with self._lock:
            persistent = self._persistent
            if persistent is not None and persistent.is_usable():
                return persistent
            if self.token is None or threads.is_exiting():
                return None
            if persistent is not None:
                if persistent.is_abandoned:
                    executors.pop(self, None)
                self._persistent = None
                if persistent.has_failed():
                    return persistent  # which says so
            executor = executors.get(self)
            if executor is None:
                executor = executors[self] = leases.executor_of_runs()
            persistent = PersistentLoop(executor, AsyncToSync.loop_thread_executors)
            self._persistent = persistent
            weakref.finalize(self, persistent.end).atexit = False
            return persistent


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
        hooks of the process's policy, or a Policy with a kind and hooks. It counts in the outermost
        context.
    """

    _owner: weakref.ref[asyncio.Task[Any]] | None = None
    """The task that is inside, if there was a limit on workers when it came."""

    def __init__(
        self,
        *,
        executor: Executor | None = None,
        policy: Literal["fresh", "keep"] | Policy | None = None,
    ) -> None:
        if policy is not None:
            if executor is not None:
                raise TypeError("an executor of your own takes no policy: give one or the other")
            policy = workers.checked_for_context(policy)  # type: ignore[assignment]
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
            self.token = SyncToAsync.thread_sensitive_context.set(self)
            SyncToAsync.context_to_thread_executor[self] = self._executor
            # A frame further out would come first: hide it. A frame further in hides nothing, it
            # waits on this very executor's thread.
            self._old_executor = kernel.peek(AsyncToSync.executors, "current", None)
            AsyncToSync.executors.current = None
        elif SyncToAsync.thread_sensitive_context.get(None) is None:
            self.token = SyncToAsync.thread_sensitive_context.set(self)
            if worker_pool.limit is not None:
                task = asyncio.current_task()
                self._owner = None if task is None else weakref.ref(task)
        return self

    async def __aexit__(
        self,
        exc: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self.token is None:
            return
        token, self.token = self.token, None
        if self._owner is not None:
            self._owner = None
        executor = SyncToAsync.context_to_thread_executor.pop(self, None)
        try:
            SyncToAsync.thread_sensitive_context.reset(token)
        finally:
            if self._executor is not None:
                AsyncToSync.executors.current = self._old_executor
                self._old_executor = None
                self._exited = True
            elif executor is not None:
                if type(executor) is kernel.ThreadSensitiveExecutor:
                    self._left = executor
                elif type(executor) is Lease:
                    self._left = executor.former_executor()
                await _retire(executor)


async def _retire(executor: Executor) -> None:
    # Shut it down and wait for what it has, without a thread to wait in.
    if type(executor) is kernel.ThreadSensitiveExecutor:
        last: Any = executor.retire(asyncio.get_running_loop())
        if (
            last is not None
            and last.is_held
            and deadlocks.chain(last.held_by(), asyncio.current_task()) is not None
        ):
            last = None  # that thread waits for us: it goes when it can
    elif type(executor) is Lease:
        loop = asyncio.get_running_loop()
        last = loop.create_future()
        is_on_its_way = executor.end(functools.partial(_tell, loop, last))
        if (
            not is_on_its_way
            or executor.owns_current_thread()
            or deadlocks.chain(executor.held_by(), asyncio.current_task()) is not None
        ):
            return
    else:  # a user put it in
        last = None
        try:
            last = asyncio.wrap_future(executor.submit(_nothing))
        except RuntimeError:
            pass  # somebody has shut it down already
        executor.shutdown(wait=False)
    if last is not None:
        leaving = _Leaving(executor, last, asyncio.get_running_loop())
        task = deadlocks.begin_wait(leaving)
        try:
            await last
        finally:
            deadlocks.end_wait(leaving, task)
            del task


class _Leaving:
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

    def holders(self) -> list[list[asyncio.Task[Any]]] | None:
        holder = None
        if type(self.item) is kernel.SyncCall:
            holder = self.item.held_by()
        elif type(self._executor) is Lease:
            holder = self._executor.end_held_by()
        return None if holder is None else [holder]

    def borrowers(self) -> list[Any]:
        worker = self._executor._worker if type(self._executor) is Lease else None
        return [self._executor if worker is None else worker.executor]

    def refusal(self, why: str) -> RuntimeError:
        return deadlocks.would_never_run("Leaving a ThreadSensitiveContext", why)

    def end(self, error: BaseException) -> None:
        if type(self.item) is kernel.SyncCall:
            self.item.wake()
        else:
            _wake(self.item)


def _tell(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> None:
    try:
        loop.call_soon_threadsafe(_wake, future)
    except RuntimeError:
        pass  # closed: nobody waits any more


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _nothing() -> None:
    pass


class AsyncToSync(kernel.AsyncWrapper, Generic[_P, _R]):
    """A sync function that runs the async function ``awaitable`` and waits for it.

    Call it in sync code. If that runs in a thread that `sync_to_async` brought it to, the coroutine
    runs on the event loop that waits there, else on a new one in another thread (see
    `asgibridge.runners` for its end and for Ctrl-C). Meanwhile the calling thread runs the
    thread-sensitive sync code that the coroutine calls.

    Context variables and `Local` attributes are passed on, and the coroutine's changes passed back.
    Raises what the coroutine raises; RuntimeError in a thread whose event loop is running, which it
    would block: await the function there.

    :param force_new_loop: use a new loop in any case.
    """

    executors: Any = Local()
    """``current`` is the CurrentThreadExecutor of the innermost `AsyncToSync` frame, if any."""

    loop_thread_executors: dict[asyncio.AbstractEventLoop, CurrentThreadExecutor] = {}  # noqa: RUF012
    """Who serves the tasks of a loop, started by us, that have not inherited it."""

    async_single_thread_context: contextvars.ContextVar[AsyncSingleThreadContext] = (
        contextvars.ContextVar("async_single_thread_context")
    )

    context_to_thread_executor: weakref.WeakKeyDictionary[AsyncSingleThreadContext, Executor] = (
        weakref.WeakKeyDictionary()  # noqa: RUF012
    )

    def __init__(
        self,
        awaitable: Callable[_P, Coroutine[Any, Any, _R]] | Callable[_P, Awaitable[_R]],
        force_new_loop: bool = False,
    ) -> None:
        if not kernel.is_async_def(awaitable) and not (
            callable(awaitable) and _is_async(awaitable)
        ):
            # Only a warning: a plain function may well return an awaitable.
            warnings.warn("async_to_sync was passed a non-async-marked callable", stacklevel=2)
        if callable(awaitable):
            kernel.adopt(self, awaitable)
        self.awaitable = awaitable
        self.force_new_loop = force_new_loop

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        __traceback_hide__ = True
        if threading.get_ident is not _get_ident:
            _go_on_under_monkey_patching()
        loop, task_context = kernel.awaiting(SyncToAsync.threadlocal)
        if self.force_new_loop:
            loop = None
        if asyncio._get_running_loop() is not None:
            raise RuntimeError(
                "You cannot use AsyncToSync in the same thread as an async event loop - "
                "just await the async function directly."
            )
        outer = kernel.peek(self.executors, "current", None)
        executor = CurrentThreadExecutor(outer)
        interrupted = False
        is_plain = type(self).main_wrap is _MAIN_WRAP and "main_wrap" not in self.__dict__
        result: Any = kernel.AsyncCall() if is_plain else Future()
        coroutine: Any = None
        awaitable: Any = None
        context: list[contextvars.Context] | None = None
        try:
            # Not before: Ctrl-C would leave a frame behind that seems to serve.
            self.executors.current = executor
            before = contextvars.copy_context()
            context = [before]
            wrap = observers.wrap
            function = self.awaitable if wrap is None else wrap(self, self.awaitable, True)
            coroutine = function(*args, **kwargs)
            del function
            exc_info = sys.exc_info()
            executor._task_context = task_context
            if is_plain and exc_info[1] is None:
                awaitable = kernel.drive(result, task_context, context, coroutine)
            else:
                awaitable = self.main_wrap(result, exc_info, task_context, context, coroutine)
            del exc_info
            if loop is None or not (
                result.run_on(loop, awaitable, executor, _NO_RESULT)
                if is_plain
                else _run_on(loop, awaitable, result, executor)
            ):
                run = TopLevelRun(awaitable, executor, before.copy(), self.loop_thread_executors)
                try:
                    interrupted = run.run(self._runs_on(), task_context)
                finally:
                    del run
        except BaseException:
            executor.quit()
            _close_if_not_begun(coroutine)
            _close_if_not_begun(awaitable)
            raise
        finally:
            awaitable = None
            try:
                if context is not None:
                    kernel.restore_context(context[0], before)
            finally:
                try:
                    self.executors.current = outer
                except BaseException:
                    # Ctrl-C, where this is Python code; the next call would find a frame that was.
                    self.executors.current = outer
                    raise
        try:
            if not result.done():
                raise RuntimeError(_NO_RESULT)
            return result.result()  # type: ignore[no-any-return]
        except BaseException as error:
            _close_if_not_begun(coroutine)
            if interrupted and isinstance(error, asyncio.CancelledError):
                raise KeyboardInterrupt from None
            raise
        finally:
            del result, coroutine

    async def main_wrap(
        self,
        call_result: Future[_R],
        exc_info: OptExcInfo,
        task_context: list[asyncio.Task[Any]] | None,
        context: list[contextvars.Context] | None,
        awaitable: Coroutine[Any, Any, _R] | Awaitable[_R],
    ) -> None:
        """Await ``awaitable`` on the event loop and put its outcome into ``call_result``.

        :param exc_info: the exception being handled in the calling thread; it is in the coroutine.
        :param task_context: lists the task while it runs, so that a cancellation can reach it.
        :param context: a list of one: the caller's context, replaced by what became of it.
        """
        __traceback_hide__ = True
        handled = exc_info[1]
        del exc_info
        if handled is not None:
            awaitable = _awaited_while_handling(handled, awaitable)
            del handled
        await kernel.drive(call_result, task_context, context, awaitable)

    def _runs_on(self) -> Executor | PersistentLoop | None:
        context = self.async_single_thread_context.get(None)
        if context is None or (self.force_new_loop and context._persistent_loop):
            return None
        return context._runs_on()


_MAIN_WRAP = AsyncToSync.main_wrap
_CALL = AsyncToSync.__call__
_NO_RESULT = "main_wrap ended without setting call_result, so the outcome is lost"


def _run_on(
    loop: asyncio.AbstractEventLoop,
    coroutine: Coroutine[Any, Any, None],
    result: Future[Any],
    executor: CurrentThreadExecutor,
) -> bool:
    # AsyncCall.run_on, for the Future that a main_wrap of somebody else's gets.
    closing = _Closing(executor)
    result.add_done_callback(closing)
    executor.hold()
    try:
        kernel.call_soon(loop, kernel.begin_task, loop, coroutine, result, _NO_RESULT)
    except RuntimeError:
        closing.executor = None
        return False
    executor.serve(loop)
    return True


class _Closing:
    """A Future's callback, which can't be taken back, that can."""

    def __init__(self, executor: CurrentThreadExecutor) -> None:
        self.executor: CurrentThreadExecutor | None = executor

    def __call__(self, _result: object) -> None:
        if self.executor is not None:
            self.executor.close()


async def _awaited_while_handling(handled: BaseException, awaitable: Awaitable[_R]) -> _R:
    # Await within the ``except`` block of the caller's exception, and leave its traceback alone.
    traceback = _TRACEBACK.__get__(handled)
    try:
        raise handled
    except BaseException:
        _TRACEBACK.__set__(handled, traceback)
        del handled, traceback
        return await awaitable


def _close_if_not_begun(coroutine: Any) -> None:
    # Or Python warns that it was never awaited, on top of the error that says why.
    if type(coroutine) is observers.ObservedAwaitable:
        coroutine.close_if_not_begun()
    elif inspect.iscoroutine(coroutine) and inspect.getcoroutinestate(coroutine) == "CORO_CREATED":
        coroutine.close()


class SyncToAsync(kernel.SyncWrapper, Generic[_P, _R]):
    """An async function that runs the sync function ``func`` in a thread and awaits its end.

    Await it on any event loop. Thread-sensitive (the default), it runs where the other
    thread-sensitive code around it runs, one call at a time, so that what is bound to a thread,
    such as a database connection, can be used: see the module's header for which thread that is.
    Otherwise it runs in ``executor``, or in the loop's default executor.

    Context variables and `Local` attributes are passed on, and the function's changes passed back,
    unless a ``context`` is given: then it runs in that one. Raises what the function raises (a
    StopIteration as RuntimeError); RuntimeError "would deadlock" if it would have to run on the
    thread whose event loop waits for it.

    Cancelled while the function waits in `async_to_sync`, the cancellation goes on to the coroutine
    there, and what comes of that counts. Otherwise the wait ends at once: a function that has not
    begun is not run, one that runs goes on, unheard, and nothing of its context is passed back. It
    may ask `limiters.check_cancelled`.

    :param limiter: an `asgibridge.limiters.CapacityLimiter`, of which each call needs a token. It
        waits for that without a thread, and gives it back when the function has returned. Only if
        not thread-sensitive.
    :param thread_name: the thread's name during the call. Only if not thread-sensitive.
    :param abandon_on_cancel: False has a cancelled call wait until the function has returned; then
        CancelledError is raised, or what the function raised.
    """

    threadlocal = threading.local()
    """In a thread that runs our calls: ``main_event_loop``, ``main_event_loop_pid`` and
    ``task_context`` of the call."""

    single_thread_executor: Executor = kernel.ThreadSensitiveExecutor()

    thread_sensitive_context: contextvars.ContextVar[ThreadSensitiveContext] = (
        contextvars.ContextVar("thread_sensitive_context")
    )

    deadlock_context: contextvars.ContextVar[bool] = contextvars.ContextVar("deadlock_context")
    """Here for those who read it; nothing sets it (see "Deadlocks" above)."""

    context_to_thread_executor: weakref.WeakKeyDictionary[ThreadSensitiveContext, Executor] = (
        weakref.WeakKeyDictionary()  # noqa: RUF012
    )

    _options: CallOptions | None = None

    def __init__(
        self,
        func: Callable[_P, _R],
        thread_sensitive: bool = True,
        executor: ThreadPoolExecutor | None = None,
        context: contextvars.Context | None = None,
        *,
        limiter: CapacityLimiter | None = None,
        thread_name: str | None = None,
        abandon_on_cancel: bool = True,
    ) -> None:
        if kernel.is_async_def(func) is not False and (not callable(func) or _is_async(func)):
            raise TypeError("sync_to_async can only be applied to sync functions.")
        if thread_sensitive and executor is not None:
            raise TypeError("executor must not be set when thread_sensitive is True")
        kernel.adopt(self, func, _MARK)
        self.func = func
        self.context = context
        self._thread_sensitive = thread_sensitive
        self._executor = executor
        if limiter is not None or thread_name is not None or not abandon_on_cancel:
            from .limiters import CallOptions  # which imports us

            self._options = CallOptions(thread_sensitive, limiter, thread_name, abandon_on_cancel)

    async def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        __traceback_hide__ = True
        if threading.get_ident is not _get_ident:
            _go_on_under_monkey_patching()
        loop = asyncio.get_running_loop()
        if self.context is None:
            before = contextvars.copy_context()
            context = before.copy()
        else:
            before = context = self.context
        task_context: list[Any] = []
        wrap = observers.wrap
        func = self.func if wrap is None else wrap(self, self.func, False)
        child: Callable[[], _R]
        handler: Callable[[], _R]
        exc_info = sys.exc_info()
        if (
            exc_info[1] is None
            and type(self).thread_handler is _THREAD_HANDLER
            and "thread_handler" not in self.__dict__
        ):
            child = functools.partial(func, *args, **kwargs) if args or kwargs else func
            handler = kernel.ThreadHandler(self.threadlocal, loop, task_context, context, child)
        else:
            child = functools.partial(func, *args, **kwargs)
            handler = functools.partial(
                self.thread_handler,
                loop,
                exc_info,
                task_context,
                functools.partial(_run_in_context, context, kernel.current_home()),
                child,
            )
        del func, child, exc_info
        options = self._options
        call: Any
        if options is None:
            call = self._send(loop, handler, task_context)
        else:
            call = options.send(self, loop, handler, task_context)
        del handler
        try:
            return await call  # type: ignore[no-any-return]
        except asyncio.CancelledError:
            task_context.append(CANCELLED)
            if options is not None and not options.abandon_on_cancel:
                survived, result = await call.outwait(task_context)
                if survived:
                    return result  # type: ignore[no-any-return]
                raise
            if call.done() or not await _cancel_inner_task(loop, task_context):
                call.revoke()
                raise
            return await call  # type: ignore[no-any-return]
        finally:
            # A function that goes on unheard still changes its context, which cannot be read
            # meanwhile where there is no GIL.
            has_ended = call.done()
            del call
            if has_ended and before is not context:
                kernel.restore_context(context, before)

    def thread_handler(
        self,
        loop: asyncio.AbstractEventLoop,
        exc_info: OptExcInfo,
        task_context: list[asyncio.Task[Any]],
        func: Callable[..., _R],
        *args: Any,
        **kwargs: Any,
    ) -> _R:
        """Call ``func(*args)`` in the thread it was sent to; here in ``args`` is the sync call.

        :param exc_info: the exception being handled in the awaiting task; it is in the function.
        """
        __traceback_hide__ = True
        threadlocal = self.threadlocal.__dict__
        outer = threadlocal.copy()
        threadlocal["main_event_loop"] = loop
        threadlocal["main_event_loop_pid"] = threads.pid()
        threadlocal["task_context"] = task_context
        handled = exc_info[1]
        del exc_info
        try:
            if handled is None:
                return func(*args, **kwargs)
            traceback = _TRACEBACK.__get__(handled)
            try:
                raise handled
            except BaseException:
                _TRACEBACK.__set__(handled, traceback)
                del handled, traceback
                return func(*args, **kwargs)
        finally:
            for name in ("main_event_loop", "main_event_loop_pid", "task_context"):
                if name in outer:
                    threadlocal[name] = outer[name]
                else:
                    threadlocal.pop(name, None)

    def _send(
        self,
        loop: asyncio.AbstractEventLoop,
        handler: Callable[[], _R],
        task_context: list[asyncio.Task[Any]],
    ) -> Any:
        # Have the handler run in the right thread; what is returned can be awaited.
        if not self._thread_sensitive:
            if self._executor is None:
                pool = pools.executor_of(loop)
                if pool is not None:
                    call = kernel.SyncCall(loop, handler, task_context)
                    pool.post(call)
                    return call
            return _ExecutorCall(
                loop.run_in_executor(self._executor, _guarded, handler), task_context
            )
        if sys.modules.get("asgiref.sync") is not _asgiref:
            _look_at_asgiref()
        call = kernel.SyncCall(loop, handler, task_context)
        frame = kernel.peek(AsyncToSync.executors, "current", None)
        if frame is not None:
            if type(frame) is not CurrentThreadExecutor:
                return _send_to_foreign(loop, frame, handler, task_context)
            if _send_to_frame(frame, call):
                return call
        context = self.thread_sensitive_context.get(None)
        executor: Executor | None
        if context is not None:
            if context._exited:
                raise RuntimeError(
                    "ThreadSensitiveContext has exited. Tasks created inside a context with an "
                    "executor must finish before it exits."
                )
            executor = self.context_to_thread_executor.get(context)
            if executor is None:
                # A call that comes after the exit must not meet what is on the thread it had.
                executor = leases.executor_of_context(
                    context._policy, context._left, context._owner
                )
                self.context_to_thread_executor[context] = executor
        else:
            frame = AsyncToSync.loop_thread_executors.get(loop)
            if frame is not None and _send_to_frame(frame, call):
                return call
            executor = self.single_thread_executor
        if type(executor) is not kernel.ThreadSensitiveExecutor:
            if type(executor) is not Lease:
                return _send_to_foreign(loop, executor, handler, task_context)
            if executor.owns_current_thread():
                raise _would_deadlock("Single thread executor already being used")
            sent = executor.send(call, loop, handler, self.func)
            if type(sent) is kernel.SyncCall and sent.is_held:
                _raise_if_never_run(sent)
            return sent
        if executor.owns_current_thread():
            raise _would_deadlock("Single thread executor already being used")
        if not executor.post(call):
            raise RuntimeError("cannot schedule new futures after shutdown")
        if call.is_held:
            _raise_if_never_run(call)
        return call


_THREAD_HANDLER = SyncToAsync.thread_handler
deadlocks.threadlocal = SyncToAsync.threadlocal


def _run_in_context(context: contextvars.Context, home: kernel.Home, child: Callable[[], _R]) -> _R:
    __traceback_hide__ = True
    return kernel.at_home(home, context.run, child)  # type: ignore[no-any-return]


def _send_to_frame(frame: CurrentThreadExecutor, call: kernel.SyncCall) -> bool:
    while True:
        serving = frame.serving()
        if serving is None:
            return False
        if serving.owns_current_thread():
            raise _would_deadlock(
                "You cannot submit onto CurrentThreadExecutor from its own thread"
            )
        if serving.post(call):
            if call.is_held:
                _raise_if_never_run(call)
            return True


def _raise_if_never_run(call: kernel.SyncCall) -> None:
    why = deadlocks.chain(call.held_by(), asyncio.current_task())
    if why is not None and call.revoke():
        raise deadlocks.would_never_run("This call", why)


def _would_deadlock(what: str) -> RuntimeError:
    return RuntimeError(
        f"{what}, would deadlock: the call has to run in thread "
        f"{threading.current_thread().name!r}, but that thread is running this event loop, inside "
        "a sync function that waits for it. Call the coroutine by async_to_sync there instead of "
        "starting a loop, or make this call with thread_sensitive=False."
    )


CANCELLED: Any = object()
"""Listed in a call's ``task_context`` when its awaiting task has been cancelled."""


async def _cancel_inner_task(loop: asyncio.AbstractEventLoop, task_context: list[Any]) -> bool:
    # The awaiting task was cancelled. If its sync function waits for a task in turn, cancel that,
    # and say whether to wait for what the function makes of it.
    inner = next((task for task in task_context if task is not CANCELLED), None)
    if inner is None:
        return False
    inner_loop = inner.get_loop()
    if inner_loop is not loop:  # force_new_loop: not ours to touch, or to await
        try:
            inner_loop.call_soon_threadsafe(inner.cancel)
        except RuntimeError:
            pass  # closed: the task has ended, and so will the function
        return True
    inner.cancel()
    try:
        await inner
    except asyncio.CancelledError:
        return False
    return True


class _ExecutorCall:
    """A call in somebody else's executor, with the part of `SyncCall` that is used above.

    :param executor: if that runs one call at a time.
    """

    __slots__ = ("_begun", "_executor", "_future", "_is_given_up", "task_context")

    def __init__(
        self,
        future: asyncio.Future[Any],
        task_context: list[asyncio.Task[Any]],
        executor: Executor | None = None,
        begun: list[bool] | None = None,
    ) -> None:
        self._future = future
        self._is_given_up = False
        self._executor = executor
        self._begun = begun
        self.task_context = task_context

    def __await__(self) -> Generator[Any, None, Any]:
        outer = asyncio.shield(self._future)
        outer.asgibridge_call = self  # type: ignore[attr-defined]
        try:
            return (yield from outer.__await__())
        finally:
            del outer.asgibridge_call  # type: ignore[attr-defined]
            del outer, self  # an exception's traceback refers to this frame, and we to it

    def held_by(self) -> list[asyncio.Task[Any]] | None:
        # Its own come first: what is listed has not ended, and its function waits for it.
        if self.task_context or self._executor is None:
            return self.task_context
        holder = deadlocks.busy_with(self._executor)
        return None if self._begun else holder  # in this order: see SyncCall's

    def fail(self, error: BaseException) -> bool:
        return False

    def done(self) -> bool:
        return not self._is_given_up and self._future.done()

    def revoke(self) -> None:
        if not self._future.done():
            self._is_given_up = True  # the function may be running, and nothing tells when it ends
            self._future.cancel()


class _Held(threading.local):
    """The foreign executors whose thread-sensitive calls this thread is in the middle of."""

    def __init__(self) -> None:
        self.executors: list[Executor] = []


_held = _Held()


def _send_to_foreign(
    loop: asyncio.AbstractEventLoop,
    executor: Executor,
    handler: Callable[[], Any],
    task_context: list[asyncio.Task[Any]],
) -> _ExecutorCall:
    # A thread-sensitive call to an executor that a user put in: one thread, by contract.
    if executor in _held.executors:
        raise _would_deadlock("Single thread executor already being used")
    holder = deadlocks.busy_with(executor)
    if holder:
        why = deadlocks.chain(holder, asyncio.current_task())
        if why is not None:
            raise deadlocks.would_never_run("This call", why)
    begun: list[bool] = []
    future = loop.run_in_executor(executor, _guarded_in, executor, handler, task_context, begun)
    return _ExecutorCall(future, task_context, executor, begun)


def _guarded_in(
    executor: Executor,
    handler: Callable[[], _R],
    task_context: list[asyncio.Task[Any]],
    begun: list[bool],
) -> _R:
    __traceback_hide__ = True
    begun.append(True)
    _held.executors.append(executor)
    try:
        with deadlocks.occupied(executor, task_context):
            return _guarded(handler)
    finally:
        _held.executors.pop()


def _guarded(handler: Callable[[], _R]) -> _R:
    # A Future can't carry StopIteration: the awaiting task would never be woken (CPython #112182).
    __traceback_hide__ = True
    try:
        return kernel.run_counted(handler)  # type: ignore[no-any-return]
    except StopIteration as error:
        raise RuntimeError("the sync function raised StopIteration") from error


_asgiref: Any = None
"""What was the module ``asgiref.sync`` when last looked at."""
_warned = False


def _look_at_asgiref() -> None:
    global _asgiref, _warned
    _asgiref = sys.modules.get("asgiref.sync")
    if _warned or not install.real_asgiref_loaded():
        return
    _warned = True
    warnings.warn(
        "asgiref is imported beside asgibridge, and each has its own thread for thread-sensitive "
        "code: database work may happen on the wrong one. Call asgibridge.install() before "
        "anything imports asgiref, or start the program with `asgibridge run`.",
        RuntimeWarning,
        stacklevel=4,
    )


@overload
def async_to_sync(
    *, force_new_loop: bool = False
) -> Callable[
    [Callable[_P, Coroutine[Any, Any, _R]] | Callable[_P, Awaitable[_R]]],
    Callable[_P, _R],
]: ...


@overload
def async_to_sync(
    awaitable: Callable[_P, Coroutine[Any, Any, _R]] | Callable[_P, Awaitable[_R]],
    *,
    force_new_loop: bool = False,
) -> Callable[_P, _R]: ...


def async_to_sync(awaitable: Any = None, *, force_new_loop: bool = False) -> Any:
    """Make a sync function of an async one: see `AsyncToSync`. Also a decorator, with or without
    arguments."""
    if awaitable is None:
        return lambda f: AsyncToSync(f, force_new_loop=force_new_loop)
    return AsyncToSync(awaitable, force_new_loop=force_new_loop)


@overload
def sync_to_async(
    *,
    thread_sensitive: bool = True,
    executor: ThreadPoolExecutor | None = None,
    context: contextvars.Context | None = None,
    limiter: CapacityLimiter | None = None,
    thread_name: str | None = None,
    abandon_on_cancel: bool = True,
) -> Callable[[Callable[_P, _R]], Callable[_P, Coroutine[Any, Any, _R]]]: ...


@overload
def sync_to_async(
    func: Callable[_P, _R],
    *,
    thread_sensitive: bool = True,
    executor: ThreadPoolExecutor | None = None,
    context: contextvars.Context | None = None,
    limiter: CapacityLimiter | None = None,
    thread_name: str | None = None,
    abandon_on_cancel: bool = True,
) -> Callable[_P, Coroutine[Any, Any, _R]]: ...


def sync_to_async(
    func: Any = None,
    *,
    thread_sensitive: bool = True,
    executor: ThreadPoolExecutor | None = None,
    context: contextvars.Context | None = None,
    limiter: CapacityLimiter | None = None,
    thread_name: str | None = None,
    abandon_on_cancel: bool = True,
) -> Any:
    """Make an async function of a sync one: see `SyncToAsync`. Also a decorator, with or without
    arguments."""
    if func is not None and (
        thread_sensitive is True
        and executor is None
        and context is None
        and limiter is None
        and thread_name is None
        and abandon_on_cancel
    ):
        return SyncToAsync(func)  # a class called with keywords takes a third longer
    options: dict[str, Any] = {
        "thread_sensitive": thread_sensitive,
        "executor": executor,
        "context": context,
        "limiter": limiter,
        "thread_name": thread_name,
        "abandon_on_cancel": abandon_on_cancel,
    }
    if func is None:
        return lambda f: SyncToAsync(f, **options)
    return SyncToAsync(func, **options)


if os.environ.get("ASGIBRIDGE_TIMINGS") or os.environ.get("ASGIBRIDGE_WATCH"):
    from ._sight import environment

    environment.begin()
