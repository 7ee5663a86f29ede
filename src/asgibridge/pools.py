"""The default executor of an event loop, for calls that are not thread-sensitive.

asyncio makes a ThreadPoolExecutor the first time a loop needs one. `LoopExecutor` is one, of the
same size, and takes its place: `loop.run_in_executor`, other callers of ``submit``, and those who
patch it find the stock ``submit``, ``map`` and ``shutdown``. An inbox of the kernel replaces the
stock queue, and our calls are posted there: no Future is made, and no semaphore counts idle
threads.

The executor owns the inbox and, under ``_shutdown_lock`` as in the stock one, starts the threads,
which know the inbox only. So an executor that is dropped closes the inbox on its way, and its
threads end; ``shutdown`` closes the inbox, too. A forked child has none of the threads, and its
executor begins anew.

**Which loops.** Those of asyncio's whose ``run_in_executor`` is not overridden or patched, as long
as ``ThreadPoolExecutor.submit`` is not patched. An executor that the user has set, or asyncio has
made already, stays. In all other cases the call goes through ``loop.run_in_executor``.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread
import queue
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from types import FunctionType, ModuleType
from typing import Any

from ._kernel import kernel
from ._process import cpython, fork, threads
from ._process.handover import take
from ._process.items import Item
from ._process.threads import Worker

__all__ = ["LoopExecutor", "executor_of"]


def __dir__() -> list[str]:
    return __all__


class LoopExecutor(ThreadPoolExecutor):
    """A ThreadPoolExecutor that also takes a kernel's calls."""

    _work_queue: Any
    _threads: Any

    def __init__(self, max_workers: int | None = None, thread_name_prefix: str = "asyncio") -> None:
        super().__init__(max_workers, thread_name_prefix)
        self._begin()
        fork.at_fork_of(self, LoopExecutor._forget_parent)

    def _begin(self) -> None:
        self._inbox = kernel.PoolInbox(self._max_workers)
        self._work_queue = _Queue(self._inbox, self)

    def post(self, call: Item) -> None:
        """Run ``call`` in one of the threads. From any thread.

        Raises RuntimeError after `shutdown`; CannotStart if there is no thread for it yet: then the
        caller has to run the call, or to cancel it.
        """
        with self._shutdown_lock:
            if threads.exiting:
                raise RuntimeError("cannot schedule new futures after interpreter shutdown")
            if not self._inbox.put(call):
                raise RuntimeError("cannot schedule new futures after shutdown")
            try:
                self._adjust_thread_count()
            except threads.CannotStart:
                raise  # the caller may have another place for it
            except BaseException:
                call.cancel()
                raise

    def _adjust_thread_count(self) -> None:
        # Called by `submit`, too, when the item is in the queue; under the lock.
        inbox = self._inbox
        ticket: list[bool] = []
        worker: _PoolWorker | None = None
        try:
            if not inbox.hire(ticket):
                return
            worker = _PoolWorker(inbox, ticket)
            worker.name = f"{self._thread_name_prefix}_{len(self._threads)}"
            self._threads.add(worker)
            worker.start()
        except BaseException:
            # Unless the thread has started: a signal handler may have raised.
            if take(ticket):
                inbox.dismiss()
                self._threads.discard(worker)
            raise

    def _forget_parent(self) -> None:
        # In a forked child: a thread that is not there may hold the lock.
        self._shutdown_lock = threading.Lock()
        self._threads = set()
        self._begin()

    def __del__(self) -> None:
        inbox = getattr(self, "_inbox", None)
        if inbox is not None:
            inbox.close()


class _PoolWorker(Worker):
    """A thread of the pool. It serves if it takes the ticket, and not if its starter took that."""

    def __init__(self, inbox: kernel.PoolInbox, ticket: list[bool]) -> None:
        super().__init__(inbox)
        self._ticket = ticket

    def run(self) -> None:
        if take(self._ticket):
            super().run()
        else:
            self._end()


class _Queue:
    """The executor's inbox, as the stock ``submit`` and ``shutdown`` use their queue."""

    def __init__(self, inbox: kernel.PoolInbox, executor: ThreadPoolExecutor) -> None:
        self._inbox = inbox
        self._drained: deque[Item] = deque()
        # In place of the executor, which would be a cycle. Without an initializer they are empty.
        self._arguments = cpython.worker_arguments(executor)

    def put(self, work: Any) -> None:
        if work is None:  # shutdown's: let the threads end
            self._inbox.close()
        elif not self._inbox.put(_WorkItem(work, self._arguments)):
            raise RuntimeError("cannot schedule new futures after shutdown")

    def get_nowait(self) -> Any:
        # For shutdown, under its lock, until there is no more.
        if not self._drained:
            self._drained.extend(self._inbox.drain())
            if not self._drained:
                raise queue.Empty
        item = self._drained.popleft()
        return item.work if type(item) is _WorkItem else _KernelItem(item)

    def qsize(self) -> int:
        return self._inbox.qsize()

    def empty(self) -> bool:
        return self.qsize() == 0


class _WorkItem(Item):
    """What ``submit`` makes, as an item of the inbox."""

    __slots__ = ("arguments", "work")

    def __init__(self, work: Any, arguments: tuple[Any, ...]) -> None:
        self.work = work
        self.arguments = arguments

    def run(self) -> None:
        work, self.work = self.work, None
        work.run(*self.arguments)


class _KernelItem:
    """A kernel's call, as shutdown cancels what ``submit`` made."""

    def __init__(self, item: Item) -> None:
        self._item = item

    @property
    def future(self) -> _KernelItem:
        return self

    def cancel(self) -> None:
        self._item.cancel()
        self._item.deliver()


def _stock(owner: Any, name: str, module: ModuleType) -> Any:
    # The method, if it is the standard library's; else nothing that any class has. What is built on
    # above has been looked at in these versions only.
    method = owner.__dict__.get(name)
    if (
        cpython.HAS_EXECUTOR_PARTS
        and type(method) is FunctionType
        and method.__globals__ is module.__dict__
    ):
        return method
    return object()


_RUN_IN_EXECUTOR = _stock(asyncio.BaseEventLoop, "run_in_executor", asyncio.base_events)
_SET_DEFAULT_EXECUTOR = _stock(asyncio.BaseEventLoop, "set_default_executor", asyncio.base_events)
_SUBMIT = _stock(ThreadPoolExecutor, "submit", concurrent.futures.thread)


def has_own_run_in_executor(loop: Any) -> bool:
    """Whether ``loop.run_in_executor`` is not asyncio's."""
    return (
        getattr(type(loop), "run_in_executor", None) is not _RUN_IN_EXECUTOR
        or "run_in_executor" in loop.__dict__
    )


def executor_of(loop: Any) -> LoopExecutor | None:
    """The running loop's default executor, set now if it has none; None if it is not ours to use.

    On the loop's thread. Raises RuntimeError if it has none and the interpreter shuts down.
    """
    cls = type(loop)
    if (
        getattr(cls, "run_in_executor", None) is not _RUN_IN_EXECUTOR
        or ThreadPoolExecutor.submit is not _SUBMIT
        or "run_in_executor" in loop.__dict__
    ):
        return None
    executor = loop._default_executor
    if type(executor) is LoopExecutor:
        return executor
    if (
        executor is not None
        or loop._executor_shutdown_called
        or cls.set_default_executor is not _SET_DEFAULT_EXECUTOR
        or "set_default_executor" in loop.__dict__
    ):
        return None
    if threads.exiting:
        # Not only in `post`: below 3.12, closing a loop that has an executor starts a thread.
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")
    executor = LoopExecutor()
    loop.set_default_executor(executor)
    return executor
