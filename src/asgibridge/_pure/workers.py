"""The threads of top-level runs.

A thread that has served its executor, or one top-level run, ends. (The compiled kernel can make it
as good as new, and keeps it for the next.)
"""

from __future__ import annotations

from collections.abc import Callable

from .._process.items import Item
from .._process.threads import LoopWorker, Worker
from .executors import CurrentThreadExecutor
from .inbox import Inbox


def end_idle_workers() -> list[Worker]:
    """Have the threads that wait for a next lease end now, and return them. From any thread; waits
    for none.
    """
    return []


def start_run(
    item: Item, executor: CurrentThreadExecutor, announce: Callable[[Worker | None], object]
) -> None:
    """Run ``item`` on a worker of its own, which then closes ``executor``; serve that meanwhile.

    On the thread the executor was made in. ``announce(worker)`` is called first, so that the caller
    knows whether that has started if this raises: what keeps a thread from starting, or whatever a
    signal handler raises. In the second case the executor can be served again. ``announce`` must
    let no signal handler run; it is called with None if nothing will come of what it was told.
    """
    inbox = Inbox()
    inbox.put(_Run(item, executor._inbox))
    inbox.close()
    worker = LoopWorker(inbox)
    announce(worker)
    worker.start()
    executor.serve()


class _Run(Item):
    """The one item of a run's worker."""

    __slots__ = ("_item", "_served")

    def __init__(self, item: Item, served: Inbox) -> None:
        self._item: Item | None = item
        self._served = served

    def run(self) -> None:
        item, self._item = self._item, None
        assert item is not None
        item.run()

    def deliver(self) -> None:
        self._served.close()
