"""Every private name of the interpreter and its library that this package uses.

No other module uses one (tests/process/test_missing_names.py looks). Python may lack any of them:
beside each stands what the package does without it. Some attributes are read on the way of a hop,
or by code that builds on many of them. Those are named where they are used, and that code asks a
constant of this module first whether this Python has them.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread
import importlib
import os
import sys
import threading
from asyncio import base_events, constants, coroutines, events, runners, selector_events, tasks
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import BuiltinFunctionType, FrameType
from typing import Any

_IS_CPYTHON = sys.implementation.name == "cpython"
# Nobody has looked at later versions yet: there, code that builds on many names does without.
_IS_KNOWN = sys.version_info < (3, 16)


def interpreter_flags() -> list[str]:
    """The options that this Python was started with, such as -O.

    Without it: none, and a program that begins anew does so without them.
    """
    subprocess = importlib.import_module("subprocess")
    flags = getattr(subprocess, "_args_from_interpreter_flags", list)
    return list(flags())


# --- threads -------------------------------------------------------------------------------------


def threading_is_patched() -> bool:
    """Whether gevent, eventlet or the like has replaced what ``threading`` is made of."""
    # Patching replaces both builtins by Python functions or classes. Without the first: the second
    # tells.
    return not (
        isinstance(getattr(threading, "_allocate_lock", len), BuiltinFunctionType)
        and isinstance(threading.get_ident, BuiltinFunctionType)
    )


# Without it, or of its own make: `threading`'s, which a greenlet library replaces.
RLock: Any = getattr(importlib.import_module("_thread"), "RLock", threading.RLock)

# Without it: a thread that was there before the patching ends with a KeyError on standard error.
_active_threads: dict[int, threading.Thread] = getattr(threading, "_active", {})


def follow_patching(thread: threading.Thread) -> None:
    """At the end of ``thread``, on it: `threading` looks for it by its ident, which is another one
    if gevent has patched that since it began."""
    ident = threading.get_ident()
    if ident != thread.ident and _active_threads.get(thread.ident or 0) is thread:
        _active_threads[ident] = _active_threads.pop(thread.ident or 0)


def share_register_of_threads() -> None:
    """Let several real threads use `threading`'s register, whose lock eventlet has replaced.

    eventlet's is for the greenlets of one thread: one thread that lets it go would switch to a
    greenlet of another, which then never goes on. Nobody switches while it holds it.

    Without it: as it is with eventlet alone.
    """
    lock = getattr(threading, "_active_limbo_lock", None)
    if lock is not None and type(lock) is not type(RLock()):
        threading._active_limbo_lock = RLock()  # type: ignore[attr-defined]


# 3.12. Without it: there is no interpreter that forbids daemons.
DAEMONS_ALLOWED: bool = getattr(threading, "_daemon_threads_allowed", lambda: True)()

_get_stack_size: Any = None


def stack_size() -> int:
    """The bytes that a new thread's stack gets, 0 for the system's choice. From any thread.

    `threading.stack_size` cannot be asked: it sets the size to 0. Without ctypes or the C function:
    always 0, and a kept worker goes on with the stack that it has.
    """
    global _get_stack_size
    if _get_stack_size is None:
        try:
            ctypes = importlib.import_module("ctypes")
            function = ctypes.PYFUNCTYPE(ctypes.c_size_t)
            _get_stack_size = function(("PyThread_get_stacksize", ctypes.pythonapi))
        except (ImportError, AttributeError):
            _get_stack_size = int
    return _get_stack_size()  # type: ignore[no-any-return]


# Without it: `atexit` has to do. It runs when `threading` has waited for all threads that are no
# daemons, and a child of multiprocessing does not run it: that leaves its workers behind.
_register_atexit: Any = getattr(threading, "_register_atexit", lambda callback: None)


def at_threading_exit(callback: Callable[[], object]) -> bool:
    """Have it called before `threading` waits for its threads; False if that has begun."""
    try:
        _register_atexit(callback)
    except RuntimeError:
        return False
    return True


# The threads of the stock pools. Without it (None): the exit ends the loops of `AsgiToWsgi` without
# waiting for the program's threads.
pool_threads: Any = getattr(concurrent.futures.thread, "_threads_queues", None)

# Without it: dumps have no stacks of threads.
current_frames: Callable[[], dict[int, FrameType]] = getattr(sys, "_current_frames", dict)

# 3.13. Without it: there is a GIL.
is_gil_enabled: Callable[[], bool] = getattr(sys, "_is_gil_enabled", lambda: True)


def is_subinterpreter() -> bool:
    """Whether this is another interpreter than the main one. Without the modules: it is not."""
    for name in ("_interpreters", "_xxsubinterpreters"):  # 3.13, before
        try:
            interpreters: Any = importlib.import_module(name)
        except ImportError:
            continue
        return bool(interpreters.get_current() != interpreters.get_main())
    return False


# The functions of ``signal`` take 10 µs to wrap their results in enums. Without it: they do.
try:
    signals: Any = importlib.import_module("_signal")
except ImportError:
    signals = importlib.import_module("signal")

# --- asyncio -------------------------------------------------------------------------------------


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


# Without it: the public one, which raises where this returns None.
running_loop: Callable[[], asyncio.AbstractEventLoop | None] = getattr(
    asyncio, "_get_running_loop", _running_loop
)

# Without it (None): no loop is kept, see `HAS_KNOWN_LOOPS`.
set_running_loop: Any = getattr(asyncio, "_set_running_loop", None)
run_once: Any = getattr(asyncio.SelectorEventLoop, "_run_once", None)

# 3.12: how long asyncio.run waits for the default executor's threads. Without it: for ever.
_join_timeout = getattr(constants, "THREAD_JOIN_TIMEOUT", None)
JOIN_TIMEOUT: tuple[float, ...] = () if _join_timeout is None else (_join_timeout,)

# Below 3.12. Without it: `markcoroutinefunction` marks, and asyncio does not see it.
coroutine_marker: Any = getattr(coroutines, "_is_coroutine", None)


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    left = tasks.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.wait(left))
    for task in left:
        if not task.cancelled() and task.exception() is not None:
            loop.call_exception_handler(
                {
                    "message": "unhandled exception during asyncio.run() shutdown",
                    "exception": task.exception(),
                    "task": task,
                }
            )


# Without it: the same by public names.
cancel_all_tasks: Callable[[asyncio.AbstractEventLoop], None] = getattr(
    runners, "_cancel_all_tasks", _cancel_all
)


# Where `asyncio.events` has the policy that is set. Without it: None, and no loop is kept.
POLICY = "_event_loop_policy"


# os.environ.get() takes longer than all other questions before a loop is kept together. Without it:
# that long.
variables: Any = getattr(os.environ, "_data", os.environ)
DEBUG_VARIABLE: Any = "PYTHONASYNCIODEBUG"
if variables is not os.environ:
    DEBUG_VARIABLE = getattr(os.environ, "encodekey", str)(DEBUG_VARIABLE)


def _reader(name: str) -> Callable[[Any], Any]:
    # Of an attribute; None where it is missing.
    return lambda owner: getattr(owner, name, None)


# The future that a task is suspended on. Without it: no ring is found.
waiter_of = _reader("_fut_waiter")
# The loop of an `asyncio.Runner`. Without it: a dump does not know the loop's thread.
loop_of_runner = _reader("_loop")
# What a TaskGroup waits for. Without it: no task is said to wait for the tasks of its group.
future_of_group = _reader("_on_completed_fut")
# The executor of ``loop.run_in_executor(None, ...)``. Without it: a dump does not know the pool.
default_executor_of = _reader("_default_executor")
# What a future of `asyncio.gather` waits for, in a list. Without either: no ring through one is
# found.
_children_of = _reader("_children")
_Gathering: Any = getattr(tasks, "_GatheringFuture", None)


def children_of(waiter: Any) -> list[Any] | None:
    """What a future of `asyncio.gather` waits for; None if ``waiter`` is none."""
    return _children_of(waiter) if type(waiter) is _Gathering else None


def scheduled(loop: Any) -> list[list[Any]]:
    """What ``loop`` is going to call, now or later: functions and tuples of arguments.

    Without it: AttributeError, and the proof of deadlocks assumes that there is a time-out.
    """
    handles = [*list(loop._scheduled), *list(loop._ready)]
    return [[each._callback, each._args] for each in handles]


# Where time-outs of asyncio, async_timeout and anyio have the task that they are going to cancel.
TIMED = ("_task", "_host_task")


def thread_of_loop(loop: Any) -> int | None:
    """The ident of ``loop``'s thread. Without it: None, and a dump looks for it in the stacks."""
    ident = getattr(loop, "_thread_id", None)
    return ident if isinstance(ident, int) and ident else None


def callbacks_of(task: Any) -> list[Any]:
    """What ``task`` calls when it is done. Without it: nothing."""
    return [callback for callback, _context in list(getattr(task, "_callbacks", None) or ())]


def runs_work_of(frame: FrameType | None, future: Any) -> bool:
    """Whether a thread of the stock pool runs what ``future`` is for. Without its names: no.

    :param frame: the innermost one of that thread.
    """
    while frame is not None:
        code = frame.f_code
        if (code.co_filename, code.co_name) == (concurrent.futures.thread.__file__, "run"):
            work: Any = frame.f_locals.get("self")
            if hasattr(work, "future"):  # further in is one of a context (3.14) that has none
                return work.future is future
        frame = frame.f_back
    return False


def root_of_loop(frame: FrameType | None) -> Any:
    """The task that the outermost loop on a thread's stack runs until the end of; None if unknown.

    :param frame: of that thread.
    """
    root: Any = None
    while frame is not None:
        if frame.f_code in _RUNS_UNTIL:
            root = frame.f_locals.get(_RUNS_UNTIL[frame.f_code])
        frame = frame.f_back
    return root


_RUNS_UNTIL = {asyncio.BaseEventLoop.run_until_complete.__code__: "future"}
if sys.version_info >= (3, 11):
    _RUNS_UNTIL[asyncio.Runner.run.__code__] = "task"


def worker_arguments(executor: ThreadPoolExecutor) -> tuple[Any, ...]:
    """What a work item of the stock pool is run with: from 3.14 on, a context of its thread."""
    make_context = getattr(executor, "_create_worker_context", None)
    return () if make_context is None else (make_context(),)


# --- what code elsewhere leans on ----------------------------------------------------------------


def _sets(owner: Any, method: str, names: Iterable[str]) -> bool:
    # Whether the method knows these attributes: nothing has to be made for that.
    code = getattr(getattr(owner, method, None), "__code__", None)
    return code is not None and set(names) <= set(code.co_names)


def _have(owner: Any, *names: str) -> bool:
    return all(hasattr(owner, name) for name in names)


_LOOP = asyncio.SelectorEventLoop
_LOOPS_ATTRIBUTES = ("_asyncgens", "_closed", "_ready", "_scheduled", "_stopping", "_thread_id")
HAS_KNOWN_LOOPS = (
    _IS_KNOWN
    and _IS_CPYTHON
    and _sets(base_events.BaseEventLoop, "__init__", _LOOPS_ATTRIBUTES)
    and _sets(selector_events.BaseSelectorEventLoop, "__init__", ["_selector"])
    and _sets(selector_events.BaseSelectorEventLoop, "_make_self_pipe", ["_csock", "_ssock"])
    and _sets(_LOOP, "__init__", ["_signal_handlers"])
    and _have(_LOOP, "_run_once", "_asyncgen_firstiter_hook", "_asyncgen_finalizer_hook")
    and _have(events.Handle, "_run")
    and set_running_loop is not None
)
"""For `_loops.kept`: without these, every loop is closed after its one run."""

HAS_TASK_PARTS = (
    _sets(base_events.BaseEventLoop, "__init__", ["_ready", "_task_factory"])
    and _sets(base_events.BaseEventLoop, "get_debug", ["_debug"])
    and _have(events.Handle, "_callback", "_run")
)
"""For `makes_tasks_as_usual`: without these, a task begins a turn of its loop later."""

_CREATE_TASK = base_events.BaseEventLoop.create_task if HAS_TASK_PARTS else object()


def makes_tasks_as_usual(loop: Any) -> bool:
    """Whether ``loop`` has asyncio's own way of making a task, so that somebody else may do it."""
    return (
        type(loop).create_task is _CREATE_TASK
        and "create_task" not in loop.__dict__
        and loop._task_factory is None
        and not loop._debug
    )


HAS_EXECUTOR_PARTS = (
    _IS_KNOWN
    and _sets(
        ThreadPoolExecutor,
        "__init__",
        ["_max_workers", "_shutdown_lock", "_thread_name_prefix", "_threads", "_work_queue"],
    )
    and _have(ThreadPoolExecutor, "_adjust_thread_count")
    and _sets(
        base_events.BaseEventLoop, "__init__", ["_default_executor", "_executor_shutdown_called"]
    )
)
"""For `pools`: without these, calls that are not thread-sensitive go by `loop.run_in_executor`."""

HAS_TIME_OUTS_TASK = sys.version_info < (3, 11) or _sets(
    getattr(asyncio, "Timeout", None), "__init__", ["_task"]
)
"""For `_waits.deadlocks`: without it, a ring that goes through a wait with a time-out may break."""
