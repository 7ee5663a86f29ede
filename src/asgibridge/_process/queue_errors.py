"""What both kernels' message queues and the shell have in common: errors, no item, arguments.

Each error is one of `queue` and one of `asyncio` at once, so either ``except`` works, whichever
side of a queue the code was written for. Those of a channel are trio's and anyio's, too, in a
program that uses these. Python has the two shut-down errors since 3.13 only;
below, they are ours.
"""

from __future__ import annotations

import asyncio
import operator
import queue
import sys
from enum import Enum
from math import ceil


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


class SelectTimeout(QueueEmpty, TimeoutError):
    """No queue of a `select` has had an item in time."""

    __module__ = "asgibridge.queue"


class ReaderLagged(Exception):
    """A `Broadcast` went on without this reader, which was too far behind: it has ended."""

    __module__ = "asgibridge.queue"


class EndOfChannel(QueueShutDown):
    """All senders of the channel are closed, and nothing is left to receive."""

    __module__ = "asgibridge.queue"


class BrokenResourceError(QueueShutDown):
    """All receivers of the channel are closed: nobody would get what is sent."""

    __module__ = "asgibridge.queue"


class ClosedResourceError(QueueShutDown):
    """This end of the channel is closed; others may be open."""

    __module__ = "asgibridge.queue"


# What trio and anyio raise in the same place.
_THEIRS: dict[type[Exception], tuple[str, str]] = {
    EndOfChannel: ("EndOfChannel", "EndOfStream"),
    BrokenResourceError: ("BrokenResourceError", "BrokenResourceError"),
    ClosedResourceError: ("ClosedResourceError", "ClosedResourceError"),
    QueueFull: ("WouldBlock", "WouldBlock"),
    QueueEmpty: ("WouldBlock", "WouldBlock"),
}
_combined: dict[tuple[type[Exception], ...], type[Exception]] = {}


def of_channel(error: type[Exception]) -> Exception:
    """An error of a channel: as well trio's and anyio's, where the program has imported these."""
    parents = [error]
    for library, name in zip(("trio", "anyio"), _THEIRS[error]):
        theirs = getattr(sys.modules.get(library), name, None)
        if isinstance(theirs, type) and issubclass(theirs, Exception):
            parents.append(theirs)
    if len(parents) == 1:
        return error()
    key = tuple(parents)
    if key not in _combined:
        names = {"__module__": error.__module__, "__doc__": error.__doc__}
        _combined[key] = type(error.__name__, key, names)
    return _combined[key]()


class UnsupportedOperation(ValueError):
    """The queue's own way of storing items cannot do this."""

    __module__ = "asgibridge.queue"


def places(maxsize: float) -> int:
    """How many items a queue of this ``maxsize`` has room for; 0 is no limit.

    `queue.Queue` compares the number with its size, so any real number will do: 1.3 is room for
    two, infinity and NaN are no limit. A number that no size reaches is the largest size.
    """
    if not maxsize > 0 or maxsize >= sys.maxsize:
        return sys.maxsize if maxsize > 0 and maxsize != float("inf") else 0
    return ceil(maxsize)


def most_items(n: int) -> int:
    """How many items ``n`` allows to be taken; ValueError below 1, TypeError for no integer."""
    most = operator.index(n)
    if most < 1:
        raise ValueError(f"n={n!r}: must be at least 1, or None for all items")
    return min(most, sys.maxsize)


def either_number(n: int | None, max_items: int) -> int:
    """What ``max_items=`` says, another name of ``n=``; ValueError if both are given."""
    if n is not None:
        raise ValueError("n= and max_items= are the same: give one of them")
    return max_items


def may_block(block: bool, blocking: bool | None) -> bool:
    """What ``blocking=`` says, culsans's name of ``block=``; ValueError if both are given."""
    if blocking is None:
        return block
    if not block:
        raise ValueError("block= and blocking= are the same: give one of them")
    return blocking


_SYNC_NAMES = "get", "peek", "put", "join", "select"  # by what a waiter is for


def runs_trio() -> bool:
    """Whether this thread runs trio's event loop, on which only trio's own waits can be awaited."""
    lowlevel = getattr(sys.modules.get("trio"), "lowlevel", None)
    try:
        return lowlevel is not None and lowlevel.current_trio_token() is not None
    except (AttributeError, RuntimeError):  # half imported; not here
        return False


def no_event_loop() -> RuntimeError:
    """The error of a wait in a coroutine that no event loop of asyncio's runs."""
    if runs_trio():
        return RuntimeError(
            "a task of trio's cannot wait for a queue, as tasks of asyncio's and threads do: call "
            "the sync_ method in a thread, as in 'await trio.to_thread.run_sync(queue.sync_get)'"
        )
    return RuntimeError("no running event loop: use the sync_ methods in a plain thread")


def would_block_loop(kind: int) -> RuntimeError:
    """The error of a wait on a thread whose event loop would stand still meanwhile."""
    name = _SYNC_NAMES[kind]
    method, sync_method = f"queue.{name}()", f"queue.sync_{name}"
    if name == "select":
        method, sync_method = "select(...)", "sync_select"
    advice = f"use 'await {method}', or call it in another thread, with sync_to_async"
    if runs_trio():
        advice = (
            f"call it in another thread, by 'await trio.to_thread.run_sync({sync_method}, ...)'"
        )
    return RuntimeError(
        f"sync_{name}() would have to wait here, and block the event loop that runs on this "
        f"thread: {advice}"
    )


def check_timeout(timeout: float) -> None:
    """Raise ValueError for what is no number of seconds to wait."""
    if not timeout >= 0:  # a NaN, too
        raise ValueError(f"timeout={timeout!r}: 'timeout' must be a non-negative number of seconds")
