"""Time-outs in event loops: whether a timer is going to cancel one of some tasks."""

from __future__ import annotations

import asyncio
import gc
import sys
import types
from typing import Any

from .._process import cpython
from .names import stored

__all__ = ["has_time_out"]


def has_time_out(tasks: list[Any]) -> bool:
    """Whether there is a timer that is about one of ``tasks``, or there may be.

    From any thread. It runs no code of the program's.
    """
    if not cpython.HAS_TIME_OUTS_TASK:
        return True
    idents = {id(task) for task in tasks}
    loops = {id(task.get_loop()): task.get_loop() for task in tasks}
    try:
        return any(
            id(each) in idents
            for loop in loops.values()
            for handle in _handles(loop)
            for each in _about(handle)
        )
    except Exception:  # a loop that we know nothing of
        return True


def _about(handle: list[Any]) -> list[Any]:
    # What a callback is bound to, that one's task, and its arguments.
    found: list[Any] = []
    for part in handle:
        if type(part) is tuple:
            found.extend(part)
        elif type(part) in (types.MethodType, types.BuiltinMethodType):
            owner = part.__self__
            named = part.__func__ if type(part) is types.MethodType else part
            if stored(named, "__name__") == "cancel":  # and not a task's next step
                found.append(owner)
            found.extend(stored(owner, name) for name in cpython.TIMED)
    return found


def _handles(loop: Any) -> list[list[Any]]:
    # What is to be called, now or later: functions and tuples of arguments.
    uvloop = sys.modules.get("uvloop.loop")
    if uvloop is not None and issubclass(type(loop), uvloop.Loop):
        # It keeps them out of sight, but not from the collector. (A tenth of a second for a big
        # process; but all but a time-out has been found by now to keep this ring from going on.)
        classes = (uvloop.Handle, uvloop.TimerHandle)
        handles = [each for each in gc.get_objects() if type(each) in classes]
        return [gc.get_referents(each) for each in handles]
    if not issubclass(type(loop), asyncio.BaseEventLoop):
        raise TypeError(type(loop))
    return cpython.scheduled(loop)
