"""The private names of `concurrent.futures.ThreadPoolExecutor` that published code reads.

Test plugins look for their own thread in asgiref's ``single_thread_executor._threads``, fixtures
look at its ``_shutdown``, gauges at its ``_work_queue``. asgiref's executors are
ThreadPoolExecutors; ours are not, and answer these.
"""

from __future__ import annotations

import threading
from concurrent.futures import Executor
from typing import Optional

Look = tuple[Optional[threading.Thread], int, bool]
"""The thread that serves an executor, None if none does; how many calls wait for it; and whether
the executor was shut down."""


class StockNames(Executor):
    """An executor of one thread, as the stock one shows itself. From any thread."""

    __slots__ = ()

    _max_workers = 1
    _thread_name_prefix = "asgibridge-worker"

    def _look(self) -> Look:
        raise NotImplementedError

    @property
    def _threads(self) -> set[threading.Thread]:
        thread = self._look()[0]
        return set() if thread is None else {thread}

    @property
    def _shutdown(self) -> bool:
        return self._look()[2]

    @property
    def _work_queue(self) -> StockQueue:
        return StockQueue(self)


class StockQueue:
    """The calls that wait in an executor, for who wants to know how many."""

    __slots__ = ("_executor",)

    def __init__(self, executor: StockNames) -> None:
        self._executor = executor

    def qsize(self) -> int:
        return self._executor._look()[1]

    def empty(self) -> bool:
        return self.qsize() == 0
