"""Who waits for the sync function that a thread runs."""

from __future__ import annotations

from typing import Any

from .._process import fork


def awaiting(threadlocal: Any) -> tuple[Any, Any]:
    """The event loop that waits for the sync function which this thread runs, None if none does;
    and the ``task_context`` of the call.

    :param threadlocal: ``SyncToAsync.threadlocal``.
    """
    names = threadlocal.__dict__
    if not names:
        return None, None
    # In a forked child the loop is the parent's (asgiref #194).
    is_mine = names.get("main_event_loop_pid") == fork.pid
    return names.get("main_event_loop") if is_mine else None, names.get("task_context")
