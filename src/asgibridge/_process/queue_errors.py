"""What both kernels' message queues and the shell have in common: the errors, and no item.

Each error is one of `queue` and one of `asyncio` at once, so either ``except`` works, whichever
side of a queue the code was written for. Python has the two shut-down errors since 3.13 only;
below, they are ours.
"""

from __future__ import annotations

import asyncio
import queue
import sys
from enum import Enum


class Nothing(Enum):
    """The type of `NOTHING`, so that type checkers can tell it from an item."""

    NOTHING = "nothing"


NOTHING = Nothing.NOTHING
"""In place of an item: there is none. Any object at all may be an item."""

if sys.version_info >= (3, 13):
    SyncQueueShutDown = queue.ShutDown
    AsyncQueueShutDown = asyncio.QueueShutDown
else:

    class SyncQueueShutDown(Exception):
        """`queue.ShutDown`, which Python has since 3.13."""

        __module__ = "asgibridge.queue"

    class AsyncQueueShutDown(Exception):
        """`asyncio.QueueShutDown`, which Python has since 3.13."""

        __module__ = "asgibridge.queue"


class QueueEmpty(queue.Empty, asyncio.QueueEmpty):
    """There is no item to be had now, or none came in time."""

    __module__ = "asgibridge.queue"


class QueueFull(queue.Full, asyncio.QueueFull):
    """There is no room now, or none came in time."""

    __module__ = "asgibridge.queue"


class QueueShutDown(SyncQueueShutDown, AsyncQueueShutDown):
    """The queue was shut down: nothing is put any more, and there is nothing left to get."""

    __module__ = "asgibridge.queue"


class UnsupportedOperation(ValueError):
    """The queue's own way of storing items cannot do this."""

    __module__ = "asgibridge.queue"


def check_timeout(timeout: float) -> None:
    """Raise ValueError for what is no number of seconds to wait."""
    if not timeout >= 0:  # a NaN, too
        raise ValueError(f"timeout={timeout!r}: must be a non-negative number of seconds, or None")
