"""What `asgibridge.debug` sees of the kernel's objects."""

from __future__ import annotations

import gc
from typing import Any

from . import executors
from .calls import AsyncCall, SyncCall
from .inbox import Inbox
from .pool import PoolInbox


def details(thing: Any) -> dict[str, Any] | None:
    """What a kernel's object is about, as a dict of its ``kind`` and more; None for any other.

    From any thread: a look at what may be changing, without waiting for anybody.
    """
    if type(thing) is SyncCall:
        return {
            "kind": "call",
            "loop": thing._loop,
            "waiter": thing._waiter,
            "function": thing.shown,
            "tasks": thing.task_context,
            "inbox": thing._inbox or thing.place,
            "is_taken": thing.has_begun,
            "is_done": thing._done,
            "is_counted": bool(thing._is_counted),
            "thread_ident": thing._thread_ident,
            "submitted": thing._submitted,
            "started": thing._started,
        }
    if isinstance(thing, executors.CurrentThreadExecutor):
        return {
            "kind": "frame",
            "thread_ident": thing._thread_ident,
            "inbox": thing._inbox,
            "is_serving": thing.serving() is thing,
        }
    if isinstance(thing, executors.ThreadSensitiveExecutor):
        return {"kind": "executor", "worker": thing._worker, "inbox": thing._inbox}
    if type(thing) is Inbox:
        # A queue that has no other way to be looked into: it holds the items, or a list of them.
        held = gc.get_referents(thing._queue)
        items = [item for each in held for item in (each if type(each) is list else [each])]
        return {"kind": "inbox", "items": [item for item in items if type(item) is SyncCall]}
    if type(thing) is PoolInbox:
        return {"kind": "inbox", "items": list(thing._items)}
    if type(thing) is AsyncCall:
        return {"kind": "outcome", "executor": thing._executor}
    return None


def idle_workers() -> int:
    """How many threads wait for a next lease."""
    return 0  # they end instead
