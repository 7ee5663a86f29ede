"""Which thread runs a call: see the four rules in the header of `asgibridge.sync`.

`send` is ``SyncToAsync._send``. It gives the call to its thread, on the thread of the event loop
that waits for it, and returns what to await: the call itself, or, at the limit on workers, the wait
for one. It raises RuntimeError if the call can never run, or if its thread takes no further calls.

A call goes to an executor of ours as it is. Any other executor gets a function, and what comes of
that goes to the call when the executor's future is done (`_send_to_foreign`).
"""

from __future__ import annotations

import asyncio
import functools
import sys
import threading
import weakref
from collections.abc import Coroutine
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from .. import _kernel, pools
from .._process import cpython
from .._process.threads import CannotStart
from .._start import install
from .._waits import deadlocks
from .._workers import sticky
from .._workers.leases import Lease
from .._workers.pool import pool as worker_pool
from .._workers.sticky import StickyLease
from . import heard, helpers, state
from .heard import handlers
from .warned import warn

if TYPE_CHECKING:
    from .._kernel import kernel
    from ..sync import SyncToAsync


def send(
    wrapper: SyncToAsync[Any, Any], loop: asyncio.AbstractEventLoop, call: kernel.SyncCall
) -> Any:
    """Give ``call`` to its thread, on that of ``loop``, and return what to await: see above."""
    if not wrapper._thread_sensitive:
        return _send_to_pool(loop, call, wrapper._executor)
    if sys.modules.get("asgiref.sync") is not _asgiref:
        _look_at_asgiref()
    kernel = _kernel.kernel
    frame = kernel.peek(state.executors, "current", None)
    if frame is not None:
        if type(frame) is not kernel.CurrentThreadExecutor:
            return _send_to_foreign(loop, call, frame)
        if _send_to_frame(frame, call):
            return call
    context = wrapper.thread_sensitive_context.get(None)
    if context:
        executor = wrapper.context_to_thread_executor.get(context)
        if executor is None:
            executor = _begin(wrapper, context)
        return _send_to_executor(loop, call, executor)
    frame = state.loop_thread_executors.get(loop)
    if frame is not None:
        if type(frame) is not kernel.CurrentThreadExecutor:
            return _send_to_executor(loop, call, frame)
        if _send_to_frame(frame, call):
            return call
    return _send_to_executor(loop, call, wrapper.single_thread_executor)


def _send_to_pool(
    loop: asyncio.AbstractEventLoop, call: kernel.SyncCall, executor: Executor | None
) -> Any:
    if executor is None:
        pool = pools.executor_of(loop)
        if pool is not None:
            if handlers:
                handlers.pop(call, None)  # a pool of ours makes no use of `submit`
            try:
                pool.post(call)
            except CannotStart:
                return without_a_thread(loop, call)
            return call
    return _run_in_executor(loop, call, executor)


def _send_to_frame(frame: kernel.CurrentThreadExecutor, call: kernel.SyncCall) -> bool:
    # False if neither this frame nor one further out serves any more.
    while True:
        serving = frame.serving()
        if serving is None:
            return False
        if serving.owns_current_thread():
            raise _would_deadlock(
                "You cannot submit onto CurrentThreadExecutor from its own thread"
            )
        if handlers:
            heard.tell_frame(call, serving)
        if serving.post(call):
            if call.is_blocked:
                _raise_if_never_run(call, serving)
            return True


def _begin(wrapper: SyncToAsync[Any, Any], context: Any) -> Executor:
    # Of a context's first call: the executor.
    try:
        policy, left, has_exited = context._policy, context._left, context._exited
    except AttributeError:
        # A foreign object may stand in for a ThreadSensitiveContext, as asgiref lets it.
        policy, left = getattr(context, "_policy", None), getattr(context, "_left", None)
        has_exited = getattr(context, "_exited", False)
    if has_exited:
        raise RuntimeError(
            "ThreadSensitiveContext has exited. Tasks created inside a context with an executor "
            "must finish before it exits."
        )
    executor: Executor
    # `left` had the context's thread: a call that comes after the exit must not meet what is there.
    if policy is None and worker_pool.is_plain:
        executor = _kernel.kernel.ThreadSensitiveExecutor(left)
    else:
        owner = getattr(context, "_owner", None)
        executor = sticky.executor_of_context(policy, left, owner, context)
    wrapper.context_to_thread_executor[context] = executor
    return executor


def _send_to_executor(
    loop: asyncio.AbstractEventLoop, call: kernel.SyncCall, executor: Executor | None
) -> Any:
    sent: Any = call
    try:
        if type(executor) is _kernel.kernel.ThreadSensitiveExecutor:
            if handlers and not executor.owns_current_thread():
                heard.tell_pool(call, executor)
            accepted = executor.send(call)
            if accepted is None:
                raise _would_deadlock("Single thread executor already being used")
            if not accepted:
                raise RuntimeError("cannot schedule new futures after shutdown")
        elif type(executor) is Lease or type(executor) is StickyLease:
            if executor.owns_current_thread():
                raise _would_deadlock("Single thread executor already being used")
            if executor.release is not None:
                generators = call.generators()  # before `heard` has another function called
                if generators:
                    executor.note_generators(generators)
            if handlers:
                heard.tell_pool(call, executor)
            sent = executor.send(call, loop)
        elif executor is None:
            return _send_to_pool(loop, call, None)
        else:
            return _send_to_foreign(loop, call, executor)
    except BaseException as error:
        if type(error) is CannotStart and _runs_work_itself(loop):
            return _run_here(call)
        call.cancel()  # it may be counted already: no thread could be started
        raise
    if call.is_blocked:
        _raise_if_never_run(call, executor)
    return sent


def _runs_work_itself(loop: asyncio.AbstractEventLoop) -> bool:
    # No thread could be started. Whether none ever can, and executor work belongs on the loop's own
    # thread: in a browser, and on a loop whose run_in_executor calls the function there and then.
    if sys.platform in ("emscripten", "wasi"):
        return True
    if isinstance(loop, asyncio.BaseEventLoop) and not pools.has_own_run_in_executor(loop):
        return False
    try:
        future = loop.run_in_executor(None, threading.get_ident)
    except Exception:
        return False
    if not future.done():  # it has gone to a thread that there is
        future.cancel()
        return False
    return future.exception() is None and future.result() == threading.get_ident()


def without_a_thread(loop: asyncio.AbstractEventLoop, call: kernel.SyncCall) -> kernel.SyncCall:
    """Run the call on the loop's thread if work belongs there; else raise what is being handled.

    In an ``except CannotStart``, for a call that a pool of threads has refused.
    """
    if not _runs_work_itself(loop):
        call.cancel()
        raise
    return _run_here(call)


def _run_here(call: kernel.SyncCall) -> kernel.SyncCall:
    value: Any = None
    failure: BaseException | None = None
    call.accept()
    try:
        value = call()
    except BaseException as error:
        failure = error
    call.finish(value, failure)
    try:
        return call
    finally:
        del value, failure, call  # a traceback refers to this frame


def _raise_if_never_run(call: kernel.SyncCall, executor: Executor) -> None:
    task = asyncio.current_task()
    blocker = call.blocked_by()
    if blocker is None:
        helpers.look_later(call, task, executor)
        return
    why = deadlocks.chain(blocker, task)
    if why is not None and call.revoke():
        raise deadlocks.would_never_run("This call", why)


def _would_deadlock(what: str) -> RuntimeError:
    return RuntimeError(
        f"{what}, would deadlock: the call has to run in thread "
        f"{threading.current_thread().name!r}, but that thread is running this event loop, inside "
        "a sync function that waits for it. Call the coroutine by async_to_sync there instead of "
        "starting a loop, or make this call with thread_sensitive=False. See "
        "docs/troubleshooting.md#would-deadlock."
    )


# --- executors of somebody's own -----------------------------------------------------------------


class _Busy(threading.local):
    """The foreign executors whose thread-sensitive calls this thread is in the middle of."""

    executors: tuple[Executor, ...] = ()


_busy = _Busy()

_of_many_threads: weakref.WeakSet[Executor] = weakref.WeakSet()
"""Those without a ``_max_workers`` that have run two calls at a time."""


def _send_to_foreign(
    loop: asyncio.AbstractEventLoop, call: kernel.SyncCall, executor: Executor
) -> kernel.SyncCall:
    # A thread-sensitive call. An executor of many threads may run it on another one.
    if _has_one_thread(executor):
        if executor in _busy.executors:
            raise _would_deadlock("Single thread executor already being used")
        blocker = deadlocks.busy_with(executor)
        if blocker:
            why = deadlocks.chain(blocker, asyncio.current_task())
            if why is not None:
                raise deadlocks.would_never_run("This call", why)
        call.guard = _OneThread(executor, call.guard)
    return _run_in_executor(loop, call, executor)


def _has_one_thread(executor: Executor) -> bool:
    # What does not say how many threads it has is taken at its word, which is one by contract,
    # until it shows otherwise.
    limit = getattr(executor, "_max_workers", None)
    if isinstance(limit, int):
        return limit == 1
    try:
        return executor not in _of_many_threads
    except TypeError:  # no weak references to it
        return True


def _run_in_executor(
    loop: asyncio.AbstractEventLoop, call: kernel.SyncCall, executor: Executor | None
) -> kernel.SyncCall:
    call.place = cpython.default_executor_of(loop) if executor is None else executor
    call.accept()
    try:
        future = loop.run_in_executor(executor, heard.shown_as(call) if handlers else call)
    except BaseException:
        call.cancel()
        raise
    future.add_done_callback(functools.partial(_take_outcome, call))
    return call


def _take_outcome(call: kernel.SyncCall, future: asyncio.Future[Any]) -> None:
    # On the loop's thread. A call that was given up has its outcome already; one that has not begun
    # was dropped by its executor, which may say why.
    error = asyncio.CancelledError() if future.cancelled() else future.exception()
    if call.has_begun:
        call.finish(None if error is not None else future.result(), error)
    elif error is not None:
        call.fail(error)


class _OneThread:
    """The guard of a call in a foreign executor of one thread, in front of the call's own."""

    __slots__ = ("_executor", "_inner", "_is_alone", "_outer_tasks")

    def __init__(self, executor: Executor, inner: Any) -> None:
        self._executor = executor
        self._inner = inner
        self._outer_tasks: Any = None
        self._is_alone = True  # or another thread of the executor's is in a call

    def begins(self, call: kernel.SyncCall) -> None:
        executor = self._executor
        assert call.task_context is not None
        self._is_alone = executor in _busy.executors or deadlocks.busy_with(executor) is None
        _busy.executors += (executor,)
        if self._is_alone:
            self._outer_tasks = deadlocks.occupy(executor, call.task_context)
        else:
            with suppress(TypeError):
                _of_many_threads.add(executor)
        if self._inner is not None:
            self._inner.begins(call)

    def ends(self, call: kernel.SyncCall) -> None:
        if self._inner is not None:
            self._inner.ends(call)
        if self._is_alone:
            deadlocks.occupy(self._executor, self._outer_tasks)
        _busy.executors = _busy.executors[:-1]

    def given_up(self, call: kernel.SyncCall) -> None:
        if self._inner is not None:
            self._inner.given_up(call)

    def blocker(self, call: kernel.SyncCall) -> Any:
        return deadlocks.busy_with(self._executor)


# --- coroutines of a main_wrap that somebody has patched -----------------------------------------


def run_on(
    loop: asyncio.AbstractEventLoop,
    coroutine: Coroutine[Any, Any, None],
    result: Future[Any],
    executor: kernel.CurrentThreadExecutor,
    no_result: str,
) -> bool:
    """`kernel.AsyncCall.run_on`, for the Future that a ``main_wrap`` of somebody else's gets."""
    kernel = _kernel.kernel
    serving = [executor]

    def close(_result: object) -> None:
        for each in serving:
            each.close()

    result.add_done_callback(close)  # a Future takes no callback back
    executor.hold()
    try:
        kernel.call_soon(loop, kernel.begin_task, loop, coroutine, result, no_result)
    except RuntimeError:
        serving.clear()
        return False
    executor.serve(loop)
    return True


# --- the other asgiref ---------------------------------------------------------------------------

_asgiref: Any = None
"""What was the module ``asgiref.sync`` when last looked at."""
_warned = False


def _look_at_asgiref() -> None:
    global _asgiref, _warned
    _asgiref = sys.modules.get("asgiref.sync")
    if _warned or not install.real_asgiref_loaded():
        return
    _warned = True
    warn(
        "asgiref is imported beside asgibridge, and each has its own thread for thread-sensitive "
        "code: database work may happen on the wrong one. Call asgibridge.install() before "
        "anything imports asgiref, or start the program with `asgibridge run`. See "
        "docs/troubleshooting.md#asgiref-is-imported-beside-asgibridge.",
        RuntimeWarning,
    )
