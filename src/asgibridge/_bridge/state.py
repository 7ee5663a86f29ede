"""What the two bridges keep for the process, a context and a thread.

The classes show it as asgiref's class attributes: ``AsyncToSync.executors`` and so on.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

from ..local import Local

if TYPE_CHECKING:
    from ..current_thread_executor import CurrentThreadExecutor
    from .contexts import AsyncSingleThreadContext, ThreadSensitiveContext

# Of `AsyncToSync`.

executors: Any = Local()
loop_thread_executors: dict[asyncio.AbstractEventLoop, CurrentThreadExecutor] = {}
single_thread_context: contextvars.ContextVar[AsyncSingleThreadContext] = contextvars.ContextVar(
    "async_single_thread_context"
)
executors_of_runs: weakref.WeakKeyDictionary[AsyncSingleThreadContext, Executor] = (
    weakref.WeakKeyDictionary()
)

# Of `SyncToAsync`.

threadlocal = threading.local()
thread_sensitive_context: contextvars.ContextVar[ThreadSensitiveContext] = contextvars.ContextVar(
    "thread_sensitive_context"
)
executors_of_contexts: weakref.WeakKeyDictionary[ThreadSensitiveContext, Executor] = (
    weakref.WeakKeyDictionary()
)

abandoned: Callable[[Any], None] | None = None
"""Told of each call that nobody waits for any more though its function has begun: called with its
``task_context``, which is marked, on the loop's thread."""
