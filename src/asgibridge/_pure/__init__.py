"""The reference kernel, in Python: what runs on every hop. Read it beside ``src/_speedups``.

The shell (`asgibridge.sync` and its neighbours) takes these names, and nothing else, from whichever
kernel `asgibridge._kernel` chose.
"""

from __future__ import annotations

from .broadcast import BroadcastCore, ReaderCore
from .calls import AsyncCall, SyncCall, TaskContext, awaiting
from .channel import WakeChannel, attach_reader, call_soon
from .context import are_same, restore_context
from .details import details, idle_workers
from .drive import begin_task, drive
from .executors import CurrentThreadExecutor, ThreadSensitiveExecutor
from .home import Home, at_home, current_home, home_of_contexts
from .inbox import Inbox, set_idle_seconds
from .local import ContextStorage, ThreadStorage, peek
from .pool import PoolInbox
from .queue import QueueCore
from .selection import Selection
from .tally import collect_timings, counts, now, report_slow, running
from .workers import end_idle_workers, start_run
from .wrappers import AsyncWrapper, SyncWrapper, adopt, is_async_def

__all__ = [
    "AsyncCall",
    "AsyncWrapper",
    "BroadcastCore",
    "ContextStorage",
    "CurrentThreadExecutor",
    "Home",
    "Inbox",
    "PoolInbox",
    "QueueCore",
    "ReaderCore",
    "Selection",
    "SyncCall",
    "SyncWrapper",
    "TaskContext",
    "ThreadSensitiveExecutor",
    "ThreadStorage",
    "WakeChannel",
    "adopt",
    "are_same",
    "at_home",
    "attach_reader",
    "awaiting",
    "begin_task",
    "call_soon",
    "collect_timings",
    "counts",
    "current_home",
    "details",
    "drive",
    "end_idle_workers",
    "home_of_contexts",
    "idle_workers",
    "is_async_def",
    "now",
    "peek",
    "report_slow",
    "restore_context",
    "running",
    "set_idle_seconds",
    "start_run",
]
