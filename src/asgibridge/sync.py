"""The bridge: `sync_to_async`, `async_to_sync`, and the contexts that say where code runs.

**Which thread** runs a thread-sensitive sync function, the first of these that there is:

1. the thread of the innermost sync frame above that waits in `async_to_sync` (a
   CurrentThreadExecutor, inherited through the context: ``AsyncToSync.executors.current``);
2. the thread of the `ThreadSensitiveContext` we are in;
3. the thread that waits for this event loop, if it was started by a top-level `async_to_sync`, and
   is not shared by all threads;
4. the process's single thread, ``SyncToAsync.single_thread_executor``.

A frame that has ended is passed over, so a task may outlive the call that started it.

**Which loop** runs an async function: the one that the calling thread works for, if it was brought
here by `sync_to_async`; else that of the AsyncSingleThreadContext we are in; else the process's
shared loop, if that is switched on (`asgibridge.runners.shared_loop`); else a new one, on a thread
of its own (`asgibridge.runners`).

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
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar, overload

from . import _kernel, observers
from ._bridge import asgirefs, routes, state
from ._bridge.asgirefs import restore_context as _restore_context  # noqa: F401 - asgiref has it
from ._bridge.contexts import AsyncSingleThreadContext, ThreadSensitiveContext, executor_of_runs
from ._bridge.heard import POOL_SUBMIT, handlers
from ._bridge.options import CallOptions, abandon, cancel_inner_task, outwait
from ._bridge.warned import warn
from ._kernel import kernel
from ._loops import kept, shared
from ._loops.persistent import PersistentLoop
from ._process import cpython, fork, greenlets, threads
from ._waits import names
from ._workers.pool import pool
from .current_thread_executor import CurrentThreadExecutor, _submit
from .runners import TopLevelRun

if sys.version_info >= (3, 10):
    from typing import ParamSpec
else:
    from typing_extensions import ParamSpec

if TYPE_CHECKING:
    from _typeshed import OptExcInfo
    from typing_extensions import Unpack

    from .limiters import CapacityLimiter

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


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    return asgirefs.find(name)


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
        func._is_coroutine = cpython.coroutine_marker  # type: ignore[attr-defined]
        return func


# What markcoroutinefunction sets, at a fifth of its cost: it looks for a method's function first.
_MARK: tuple[str, Any] = vars(markcoroutinefunction(SimpleNamespace())).popitem()  # type: ignore[type-var]

# What it was when the kernel was loaded. That may be before this module was, and gevent in between.
_get_ident = threads._get_ident
_frame_submit: Any = _submit

# The exception's own, whatever its class has under that name.
_TRACEBACK: Any = BaseException.__dict__["__traceback__"]


def _go_on_under_monkey_patching() -> None:
    # gevent has patched `threading` since we were loaded. What the compiled kernel made before
    # stays usable for what runs on real threads; there is no greenlet yet that waits in it.
    global _get_ident, _frame_submit
    greenlets.follow_patching(
        module for name, module in list(sys.modules.items()) if name.startswith("asgibridge.")
    )
    state.threadlocal = SyncToAsync.threadlocal = threading.local()
    compiled = kernel
    if _kernel.leave_compiled_kernel():
        if compiled.CurrentThreadExecutor.submit is _frame_submit:
            _frame_submit = CurrentThreadExecutor.submit
        pool.end_idle()
        kernel.set_idle_seconds(kept.IDLE_SECONDS)
        if type(SyncToAsync.single_thread_executor) is compiled.ThreadSensitiveExecutor:
            SyncToAsync.single_thread_executor = kernel.ThreadSensitiveExecutor()
    _get_ident = threading.get_ident


def _is_async(function: Any) -> bool:
    return iscoroutinefunction(function) or iscoroutinefunction(
        getattr(function, "__call__", function)  # noqa: B004
    )


class AsyncToSync(kernel.AsyncWrapper, Generic[_P, _R]):
    """A sync function that runs the async function ``awaitable`` and waits for it.

    Call it in sync code. If that runs in a thread that `sync_to_async` brought it to, the coroutine
    runs on the event loop that waits there, else on a new one in another thread (see
    `asgibridge.runners` for its end and for Ctrl-C, and `asgibridge.runners.shared_loop` for one
    that all threads share). Meanwhile the calling thread runs the thread-sensitive sync code that
    the coroutine calls.

    Context variables and `Local` attributes are passed on, and the coroutine's changes passed back.
    Raises what the coroutine raises; RuntimeError in a thread whose event loop is running, which it
    would block: await the function there.

    :param force_new_loop: use a new loop in any case.
    """

    executors = state.executors
    """``current`` is the CurrentThreadExecutor of the innermost `AsyncToSync` frame, if any."""

    loop_thread_executors = state.loop_thread_executors
    """Who serves the tasks of a loop, started by us, that have not inherited it."""

    async_single_thread_context = state.single_thread_context
    context_to_thread_executor = state.executors_of_runs

    def __init__(
        self,
        awaitable: Callable[_P, Awaitable[_R]],
        force_new_loop: bool = False,
    ) -> None:
        if not kernel.is_async_def(awaitable) and not (
            callable(awaitable) and _is_async(awaitable)
        ):
            # Only a warning: a plain function may well return an awaitable.
            warn("async_to_sync was passed a non-async-marked callable", UserWarning)
        if callable(awaitable):
            if type(self) is AsyncToSync:
                kernel.adopt(self, awaitable)
            else:
                _adopt_as_subclass(self, awaitable, AsyncToSync)
        self.awaitable = awaitable
        self.force_new_loop = force_new_loop

    def __repr__(self) -> str:
        return _shown(self, "awaitable")

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        __traceback_hide__ = True
        if threading.get_ident is not _get_ident:
            _go_on_under_monkey_patching()
        loop, task_context = kernel.awaiting(SyncToAsync.threadlocal)
        if self.force_new_loop:
            loop = None
        if cpython.running_loop() is not None and not greenlets.runs_no_loop():
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
            function = (
                self.awaitable if wrap is None else wrap(None, self.awaitable, self.awaitable)
            )
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
                else routes.run_on(loop, awaitable, result, executor, _NO_RESULT)
            ):
                run = TopLevelRun(awaitable, executor, before.copy(), self.loop_thread_executors)
                try:
                    interrupted = run.run(self._runs_on(), task_context, result)
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
        awaitable: Awaitable[_R],
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
        on: Executor | PersistentLoop | None = None
        if context:
            if not isinstance(context, AsyncSingleThreadContext):
                return executor_of_runs(context)  # a foreign object that stands in for one
            if self.force_new_loop and context._persistent_loop:
                return None
            on = context._runs_on()
        loop_of_all = shared.in_force
        if loop_of_all is None or on is not None or self.force_new_loop:
            return on
        return loop_of_all._runs_on()


_MAIN_WRAP = AsyncToSync.main_wrap
names.waiting.append(AsyncToSync.__call__.__code__)
_NO_RESULT = "main_wrap ended without setting call_result, so the outcome is lost"


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
        try:
            coroutine.close()
        except ValueError:  # the loop's thread has begun it this moment: it is left to that
            pass


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

    threadlocal = state.threadlocal
    """In a thread that runs our calls: ``main_event_loop``, ``main_event_loop_pid`` and
    ``task_context`` of the call."""

    single_thread_executor: Executor | None = kernel.ThreadSensitiveExecutor()

    thread_sensitive_context = state.thread_sensitive_context

    deadlock_context: contextvars.ContextVar[bool] = contextvars.ContextVar("deadlock_context")
    """Here for those who read it; nothing sets it: who owns which thread is looked up."""

    context_to_thread_executor = state.executors_of_contexts

    _options: CallOptions | None = None
    _shown: Callable[[tuple[Any, ...]], Any] | None = None
    """Of a wrapper of our own: the user's function that a call with these arguments is about."""
    _send = routes.send

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
        if type(self) is SyncToAsync:
            kernel.adopt(self, func, _MARK)
        else:
            _adopt_as_subclass(self, func, SyncToAsync, _MARK)
        self.func = func
        self.context = context
        self._thread_sensitive = thread_sensitive
        self._executor = executor
        if limiter is not None or thread_name is not None or not abandon_on_cancel:
            self._options = CallOptions(thread_sensitive, limiter, thread_name, abandon_on_cancel)

    def __repr__(self) -> str:
        return _shown(self, "func")

    def __getstate__(self) -> dict[str, Any]:
        # Without the mark, which is one by identity: a copy of it is none.
        state = self.__dict__.copy()
        state.pop(_MARK[0], None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__dict__[_MARK[0]] = _MARK[1]

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
        wrap = observers.wrap
        func = self.func
        shown = func if self._shown is None else self._shown(args)
        if wrap is not None:
            func = wrap(self, func, shown)
        child: Any = functools.partial(func, *args, **kwargs) if args or kwargs else func
        call: Any = kernel.SyncCall(loop, child, shown, context, self.threadlocal)
        exc_info = sys.exc_info()
        if (
            exc_info[1] is not None
            or type(self).thread_handler is not _THREAD_HANDLER
            or "thread_handler" in self.__dict__
            or ThreadPoolExecutor.submit is not POOL_SUBMIT
            or CurrentThreadExecutor.submit is not _frame_submit
        ):
            self._handle_in_thread(call, loop, exc_info, context, child)
        del func, shown, child, exc_info
        own = self._options
        has_ended: bool | None = True
        try:
            if own is not None:
                return await own.run(self, loop, call)  # type: ignore[no-any-return]
            return await self._send(loop, call)  # type: ignore[no-any-return]
        except asyncio.CancelledError:
            has_ended = None
            task_context = call.task_context
            task_context.is_cancelled = True
            if own is not None and not own.abandon_on_cancel:
                survived, result = await outwait(loop, call)
                if survived:
                    return result  # type: ignore[no-any-return]
                raise
            if call.done() or not await cancel_inner_task(loop, task_context):
                abandon(call)
                raise
            try:
                return await call  # type: ignore[no-any-return]
            except asyncio.CancelledError:
                abandon(call)
                raise
        except BaseException:
            has_ended = None
            raise
        finally:
            # A function that goes on unheard still changes its context, which cannot be read
            # meanwhile where there is no GIL.
            if has_ended is None:
                has_ended = call.done()
                handlers.pop(call, None)  # nobody may have been told
            del call
            if has_ended and before is not context:
                kernel.restore_context(context, before)

    def _handle_in_thread(
        self,
        call: Any,
        loop: asyncio.AbstractEventLoop,
        exc_info: OptExcInfo,
        context: contextvars.Context,
        child: Any,
    ) -> None:
        # Have `thread_handler` called, with what asgiref passes.
        if type(child) is not functools.partial:
            child = functools.partial(child)
        func = _runner_of_child(kernel.current_home(), context)
        handler: Any = functools.partial(
            self.thread_handler, loop, exc_info, call.task_context, func, child
        )
        call.call_instead(handler)
        if (
            ThreadPoolExecutor.submit is not POOL_SUBMIT
            or CurrentThreadExecutor.submit is not _frame_submit
        ):
            handlers[call] = handler

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
        threadlocal["main_event_loop_pid"] = fork.pid
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


_THREAD_HANDLER = SyncToAsync.thread_handler


def _runner_of_child(home: kernel.Home, context: contextvars.Context) -> Callable[[Any], Any]:
    def func(child: Callable[[], Any]) -> Any:
        __traceback_hide__ = True
        return kernel.at_home(home, context.run, child)

    func.__module__ = "asgiref.sync"  # by that, agents tell that it is asgiref's
    return func


def _adopt_as_subclass(
    wrapper: Any, function: Any, base: type, mark: tuple[str, Any] | None = None
) -> None:
    # `kernel.adopt`, but for what a class of somebody's says of itself. asgiref's AsyncToSync shows
    # that; its SyncToAsync shows the function's names, so there a class has to give itself a
    # __name__ to be heard: a docstring (Channels' subclass has one) is about the class.
    cls = type(wrapper)
    own = {
        name
        for each in cls.__mro__[: cls.__mro__.index(base)]
        for name in ("__module__", "__name__", "__qualname__", "__doc__")
        if vars(each).get(name) is not None
    }
    if base is SyncToAsync and "__name__" not in own:
        kernel.adopt(wrapper, function, mark)
        return
    own.update(vars(wrapper))  # by its own __init__, before ours
    stand_in = SimpleNamespace()
    kernel.adopt(stand_in, function, mark)
    for name, value in vars(stand_in).items():
        if name not in own and (name in functools.WRAPPER_ASSIGNMENTS or name not in vars(cls)):
            setattr(wrapper, name, value)


def _shown(wrapper: Any, attribute: str) -> str:
    function = wrapper.__dict__.get(attribute)
    return f"<{type(wrapper).__name__} of {names.function_words(function)}>"


@overload
def async_to_sync(
    *, force_new_loop: bool = False
) -> Callable[[Callable[_P, Awaitable[_R]]], Callable[_P, _R]]: ...


@overload
def async_to_sync(
    awaitable: Callable[_P, Awaitable[_R]], *, force_new_loop: bool = False
) -> Callable[_P, _R]: ...


def async_to_sync(awaitable: Any = None, *, force_new_loop: bool = False) -> Any:
    """Make a sync function of the async function ``awaitable``.

    Also a decorator, with or without arguments. Returns an `AsyncToSync`, whose documentation says
    on which event loop and thread the coroutine runs, and what a call raises.

    :param awaitable: a function that returns an awaitable.
    :param force_new_loop: use a new event loop in any case.
    """
    if awaitable is None:
        return lambda f: AsyncToSync(f, force_new_loop=force_new_loop)
    return AsyncToSync(awaitable, force_new_loop=force_new_loop)


class _Options(TypedDict, total=False):
    thread_sensitive: bool
    executor: ThreadPoolExecutor | None
    context: contextvars.Context | None
    limiter: CapacityLimiter | None
    thread_name: str | None
    abandon_on_cancel: bool


@overload
def sync_to_async(
    **options: Unpack[_Options],
) -> Callable[[Callable[_P, _R]], Callable[_P, Coroutine[Any, Any, _R]]]: ...


@overload
def sync_to_async(
    func: Callable[_P, _R], **options: Unpack[_Options]
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
    """Make an async function of the sync function ``func``.

    Also a decorator, with or without arguments. Returns a `SyncToAsync`, whose documentation says
    what a call raises, and what becomes of it if it is cancelled.

    :param func: a sync function. TypeError for an async one.
    :param thread_sensitive: run it on the one thread that the thread-sensitive code around it runs
        on, one call at a time. False: on any thread of a pool.
    :param executor: the pool, a ThreadPoolExecutor; by default the event loop's. Only if not
        thread-sensitive.
    :param context: the contextvars.Context to run it in; by default a copy of the caller's, whose
        changes are set in the caller's afterwards.
    :param limiter: an `asgibridge.limiters.CapacityLimiter`, of which each call needs a token. It
        waits for that without a thread. Only if not thread-sensitive.
    :param thread_name: the thread's name during the call. Only if not thread-sensitive.
    :param abandon_on_cancel: False has a cancelled call wait until the function has returned.
    """
    if func is not None and (
        thread_sensitive is True
        and executor is None
        and context is None
        and limiter is None
        and thread_name is None
        and abandon_on_cancel
    ):
        return SyncToAsync(func)  # a class called with keywords takes a third longer
    make: Any = functools.partial(
        SyncToAsync,
        thread_sensitive=thread_sensitive,
        executor=executor,
        context=context,
        limiter=limiter,
        thread_name=thread_name,
        abandon_on_cancel=abandon_on_cancel,
    )
    return make if func is None else make(func)


if os.environ.get("ASGIBRIDGE_TIMINGS") or os.environ.get("ASGIBRIDGE_WATCH"):
    from . import debug

    debug.read_environment()
