"""`select`: the first item of several queues. How it waits is in `asgibridge._pure.selection`."""

from __future__ import annotations

from random import random
from typing import Any

from .._kernel import kernel
from .._process.queue_errors import NOTHING, QueueShutDown, SelectTimeout, check_timeout
from .common import in_time

# As they were when the queues' classes were made of them: they do not change with the kernel.
_Selection = kernel.Selection
_SOURCES = kernel.QueueCore, kernel.ReaderCore


def _source(queue: Any) -> Any:
    while not isinstance(queue, _SOURCES):
        queue = getattr(queue, "_selected", None)
        if queue is None:
            raise TypeError(
                "select() takes message queues and their views, readers of broadcasts, and "
                "receivers of channels"
            )
    return queue


def _sources_of(queues: tuple[Any, ...], timeout: float | None) -> list[Any]:
    if not queues:
        raise TypeError("select() takes at least one queue")
    if timeout is not None:
        check_timeout(timeout)
    return [queue if isinstance(queue, _SOURCES) else _source(queue) for queue in queues]


def _look(queues: tuple[Any, ...], sources: list[Any]) -> tuple[Any, Any] | None:
    # What is there now: of those that have an item, any one as often as any other.
    full = [place for place, source in enumerate(sources) if source.qsize()]
    drawn = [full[int(random() * len(full))]] if full else []
    is_over = True
    for place in (*drawn, *range(len(sources))):
        try:
            item = sources[place]._fetch()
        except QueueShutDown:
            continue
        if item is not NOTHING:
            return queues[place], item
        is_over = False
    if is_over:
        raise QueueShutDown
    return None


def _in_turn(
    queues: tuple[Any, ...], sources: list[Any]
) -> tuple[tuple[Any, ...], kernel.Selection]:
    # The queues as the kernel asks them: any may be the first.
    first = int(random() * len(queues))
    turns = (*queues[first:], *queues[:first])
    return turns, _Selection([*sources[first:], *sources[:first]])


async def select(*queues: Any, timeout: float | None = None) -> tuple[Any, Any]:
    """The first of these queues that has an item, and the item. On any event loop.

    :param queues: message queues, their views, readers of broadcasts and receivers of channels, any
        mix.
    :param timeout: in seconds; None waits for ever.

    Nothing is taken from the others. Of several that have an item, one is drawn at random. One that
    is shut down and empty takes no part. Raises SelectTimeout (a QueueEmpty and a TimeoutError)
    when the time is over, QueueShutDown when all queues are shut down and empty. Cancelled, it has
    taken nothing.
    """
    sources = _sources_of(queues, timeout)
    found = _look(queues, sources)
    if found is not None:
        return found
    turns, selection = _in_turn(queues, sources)
    waiter = selection._waiting()
    if timeout is None:
        place, item = await waiter
        return turns[place], item
    return _outcome(turns, await in_time(waiter, timeout), timeout)


def sync_select(*queues: Any, timeout: float | None = None) -> tuple[Any, Any]:
    """`select`, on a thread that can wait; RuntimeError where that runs an event loop."""
    sources = _sources_of(queues, timeout)
    found = _look(queues, sources)
    if found is not None:
        return found
    turns, selection = _in_turn(queues, sources)
    return _outcome(turns, selection._waiting().wait(timeout), timeout)


def _outcome(turns: tuple[Any, ...], outcome: Any, timeout: float | None) -> tuple[Any, Any]:
    if outcome is NOTHING:
        raise SelectTimeout(f"no queue has had an item within {timeout} seconds")
    place, item = outcome
    return turns[place], item
