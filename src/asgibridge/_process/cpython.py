"""Every private name of the interpreter and its library that this package uses.

No other module names one (test_missing_names.py looks). None of them has to be there: what is
done without it stands beside each. Attributes that are read on the way of a hop, or by code that
leans on many of them, are named where they are used; a constant here says once whether this Python
has them, and that code asks the constant first.
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

__all__ = [
    "DAEMONS_ALLOWED",
    "DEBUG_VARIABLE",
    "HAS_EXECUTOR_PARTS",
    "HAS_KNOWN_LOOPS",
    "HAS_TASK_PARTS",
    "HAS_TIME_OUTS_TASK",
    "JOIN_TIMEOUT",
    "POLICY",
    "TIMED",
    "at_threading_exit",
    "callbacks_of",
    "cancel_all_tasks",
    "children_of",
    "coroutine_marker",
    "current_frames",
    "default_executor_of",
    "future_of_group",
    "is_gil_enabled",
    "is_subinterpreter",
    "loop_of_runner",
    "pool_threads",
    "run_once",
    "running_loop",
    "scheduled",
    "set_running_loop",
    "signals",
    "thread_of_loop",
    "threading_is_patched",
    "variables",
    "waiter_of",
    "worker_arguments",
]

_IS_CPYTHON = sys.implementation.name == "cpython"
# Later versions have not been looked at: there, code that builds on many names does without.
_IS_KNOWN = sys.version_info < (3, 16)

# --- threads -------------------------------------------------------------------------------------


def threading_is_patched() -> bool:
    """Whether gevent, eventlet or the like has replaced what ``threading`` is made of."""
    # Both builtins are replaced by Python functions or classes when patched. Without the first: the
    # other one tells.
    return not (
        isinstance(getattr(threading, "_allocate_lock", len), BuiltinFunctionType)
        and isinstance(threading.get_ident, BuiltinFunctionType)
    )


# 3.12. Without it: there is no interpreter that forbids daemons.
DAEMONS_ALLOWED: bool = getattr(threading, "_daemon_threads_allowed", lambda: True)()

# Without it: `atexit` has to do. It comes when `threading` has waited for all threads that are no
# daemons, so a child of multiprocessing leaves its workers behind.
_register_atexit: Any = getattr(threading, "_register_atexit", lambda callback: None)


def at_threading_exit(callback: Callable[[], object]) -> bool:
    """Have it called before `threading` waits for its threads; False if it does so already."""
    try:
        _register_atexit(callback)
    except RuntimeError:
        return False
    return True


# The threads of the stock pools. Without it (None): at exit nobody's threads are waited for before
# the loops of `AsgiToWsgi` are ended.
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


# The functions of ``signal`` take 10 µs to wrap what they return in enums. Without it: they do.
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

# 3.12: asyncio.run waits so long for the default executor's threads. Without it: for ever.
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


# os.environ.get() takes longer than all else that is asked before a loop is kept. Without it: so
# long.
variables: Any = getattr(os.environ, "_data", os.environ)
DEBUG_VARIABLE: Any = "PYTHONASYNCIODEBUG"
if variables is not os.environ:
    DEBUG_VARIABLE = getattr(os.environ, "encodekey", str)(DEBUG_VARIABLE)


def waiter_of(task: Any) -> Any:
    """The future that ``task`` is suspended on. Without it: None, and no ring is found."""
    return getattr(task, "_fut_waiter", None)


# Without it: no ring through an `asyncio.gather` is found.
_Gathering: Any = getattr(tasks, "_GatheringFuture", None)


def children_of(waiter: Any) -> list[Any] | None:
    """What a future of `asyncio.gather` waits for; None if it is none."""
    return getattr(waiter, "_children", None) if type(waiter) is _Gathering else None


def scheduled(loop: Any) -> list[list[Any]]:
    """What ``loop`` is to call, now or later: functions and tuples of arguments.

    AttributeError without it: there may be a time-out.
    """
    handles = [*list(loop._scheduled), *list(loop._ready)]
    return [[each._callback, each._args] for each in handles]


# Where time-outs of asyncio, async_timeout and anyio have the task that they are going to cancel.
TIMED = ("_task", "_host_task")


def thread_of_loop(loop: Any) -> int | None:
    """The ident of the thread that ``loop`` runs on. Without it: None, and the stacks are asked."""
    ident = getattr(loop, "_thread_id", None)
    return ident if isinstance(ident, int) and ident else None


def loop_of_runner(runner: Any) -> Any:
    """The loop of an `asyncio.Runner`. Without it: None, and its thread is not known."""
    return getattr(runner, "_loop", None)


def callbacks_of(task: Any) -> list[Any]:
    """What is to be called when ``task`` is done. Without it: nothing."""
    return [callback for callback, _context in list(getattr(task, "_callbacks", None) or ())]


def future_of_group(group: Any) -> Any:
    """What a TaskGroup waits for. Without it: None, and no task is said to wait for its tasks."""
    return getattr(group, "_on_completed_fut", None)


def default_executor_of(loop: Any) -> Any:
    """The executor that ``loop.run_in_executor(None, ...)`` uses. Without it: None, not known."""
    return getattr(loop, "_default_executor", None)


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
"""For `_pure.drive`: without these, a task begins a turn of its loop later."""

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
