"""Calls from a helper thread's own loop to a thread that waits for the helper.

A sync function starts a thread, which runs a loop of its own in a copy of the context variables
(``copy_context().run(asyncio.run, ...)``), and waits for it: by `Thread.join`, a future's
``result``, or `concurrent.futures.wait`. A thread-sensitive call on that loop has to run where the
function runs, and never does. The wait is none of our bridges'. But it is on the waiting thread's
stack, so a loop on a thread of the program's own looks there, as long as such a call of its waits:

1. The thread that has to run the call waits, without a time-out, for this thread, for the future of
   what this thread runs, or for that of a task of this loop (`asyncio.run_coroutine_threadsafe`,
   `anyio.from_thread.start_blocking_portal`).
2. This thread or task goes on for as long as the task does that the loop runs until the end of.
3. That task waits, in the end, for the one that makes the call: `_waits.deadlocks.chain`.

The look is on the helper's thread, so the helper cannot end meanwhile, nor the wait for it. Where
there is no GIL, other threads' stacks cannot be read, and nothing is found.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import threading
import weakref
from concurrent import futures
from concurrent.futures import Executor, Future
from threading import Thread
from types import FrameType
from typing import TYPE_CHECKING, Any

from .. import _kernel
from .._process import cpython
from .._waits import deadlocks, edges
from .._workers.leases import Lease
from .._workers.sticky import StickyLease

if TYPE_CHECKING:
    from .._kernel import kernel

_SOON = 0.05
"""Seconds to the first look: the other thread has to come to its wait first. Arbitrary."""

_MOST = 100
"""Threads that wait for each other. Arbitrary."""

_WAITING = {Thread.join.__code__, Future.result.__code__, Future.exception.__code__}
_FILES = {code.co_filename for code in _WAITING}
_WAITING_FOR_SOME = {futures.wait.__code__: "not_done", futures.as_completed.__code__: "pending"}
"""Each with its variable for the futures that it waits for."""


class _Waiting:
    """The calls of one loop that have not begun when last looked at."""

    def __init__(self) -> None:
        self.calls: weakref.WeakKeyDictionary[Any, tuple[Any, Executor]] = (
            weakref.WeakKeyDictionary()
        )
        self.has_timer = False


_waiting: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Waiting] = (
    weakref.WeakKeyDictionary()
)


def look_later(call: kernel.SyncCall, task: asyncio.Task[Any] | None, executor: Executor) -> None:
    """Have the loop of ``task``, the current one, look whether ``executor`` can run ``call``.

    On the loop's thread.
    """
    if task is None or not cpython.is_gil_enabled():
        return
    loop = task.get_loop()
    waiting = _waiting.get(loop)
    if waiting is None:
        waiting = _waiting[loop] = _Waiting()
    waiting.calls[call] = (weakref.ref(task), executor)
    if not waiting.has_timer:
        waiting.has_timer = True
        # In a context of nobody's: a timer, and those that it sets, would hold the caller's.
        contextvars.Context().run(loop.call_later, _SOON, _look, weakref.ref(loop), waiting)


def _look(reference: weakref.ref[asyncio.AbstractEventLoop], waiting: _Waiting) -> None:
    # On the loop's thread.
    waiting.has_timer = False
    for call, (task, executor) in list(waiting.calls.items()):
        why = None if call.has_begun or call.done() else _why_never(call, task(), executor)
        if why is not None:
            call.fail(deadlocks.would_never_run("This call", why))
        if why is not None or call.has_begun or call.done() or task() is None:
            waiting.calls.pop(call, None)
    loop = reference()
    if waiting.calls and loop is not None:
        waiting.has_timer = True
        loop.call_later(deadlocks.LOOK_EVERY, _look, reference, waiting)


def _why_never(call: Any, task: Any, executor: Executor) -> str | None:
    edge = None if task is None else edges.of_task(task)
    ident = _thread_of(executor)
    if edge is None or edge.kind != "call" or edge.to is not call or ident is None:
        return None
    here = threading.current_thread()
    frames = cpython.current_frames()
    awaited = _awaited_in_the_end(frames.get(ident), here, frames)
    mine = frames.get(here.ident or 0)
    root: Any = None
    if awaited is here or cpython.runs_work_of(mine, awaited):
        root = cpython.root_of_loop(mine)
    elif isinstance(awaited, Future):
        root = _task_of(awaited, asyncio.all_tasks())
    if not isinstance(root, asyncio.Task) or root.get_loop() is not task.get_loop():
        return None
    why = deadlocks.chain([root], task)
    what = "Thread.join" if awaited is here else "its future"
    return None if why is None else f"thread {here.name!r} ({what}), whose event loop runs {why}"


def _thread_of(executor: Any) -> int | None:
    if type(executor) is Lease or type(executor) is StickyLease:
        executor = None if executor._worker is None else executor._worker.executor
    details = _kernel.kernel.details(executor) or {}
    worker = details.get("worker")
    return details.get("thread_ident") if worker is None else worker.ident


def _awaited_by(frame: FrameType | None, mine: FrameType) -> Any:
    # The Thread or Future that a thread waits for without a time-out, with nothing else further in.
    # Of several futures the only one that is not done, or, if it waits for all, ours.
    while frame is not None and frame.f_code.co_filename in _FILES:
        name = _WAITING_FOR_SOME.get(frame.f_code)
        if name is not None or frame.f_code in _WAITING:
            names = frame.f_locals
            if names.get("timeout", 0) is not None:
                return None
            if name is None:
                return names.get("self")
            pending = list(names.get(name, ()))
            if names.get("return_when") == futures.ALL_COMPLETED:
                pending = [f for f in pending if cpython.runs_work_of(mine, f)] or pending
            return pending[0] if len(pending) == 1 else None
        frame = frame.f_back
    return None


def _awaited_in_the_end(frame: FrameType | None, here: Thread, frames: dict[int, FrameType]) -> Any:
    # The same, from thread to thread: the last Thread or Future that is known to wait for no other.
    awaited = None
    mine = frames[here.ident or 0]
    for _ in range(_MOST):
        further = _awaited_by(frame, mine)
        if further is None or further is here or cpython.runs_work_of(mine, further):
            return further
        awaited = further
        ident = awaited.ident if isinstance(awaited, Thread) else None
        for each, stack in frames.items():
            if ident is None and cpython.runs_work_of(stack, awaited):
                ident = each
        if ident is None:
            break
        frame = frames.get(ident)
    return awaited


def _task_of(future: Any, tasks: set[asyncio.Task[Any]]) -> Any:
    # The task whose outcome `run_coroutine_threadsafe`, or anyio's portal, puts into that future.
    portal = getattr(sys.modules.get("anyio.from_thread"), "BlockingPortal", None)
    portals_code = getattr(getattr(portal, "_call_func", None), "__code__", None)
    for task in tasks:
        coroutine: Any = task.get_coro()
        while coroutine is not None:
            frame = getattr(coroutine, "cr_frame", None)
            if frame is not None and frame.f_code is portals_code:
                if frame.f_locals.get("future") is future:
                    return task
                break
            coroutine = getattr(coroutine, "cr_await", None)
        for callback in cpython.callbacks_of(task):
            closure = getattr(callback, "__closure__", None) or ()
            if any(each is future for each in gc.get_referents(*closure)):
                return task
    return None
