"""The threads of ``WsgiToAsgi(workers=N)``: at most N, started as they are needed.

A call goes to the thread that became idle last, so that few stay warm; when all are busy it waits
in line for the first that is free. Each thread is that of a ThreadSensitiveExecutor, which starts
it anew after a fork and ends it at exit or when the pool is dropped
(`asgibridge._process.threads`).

The lock guards the two lists and the count; nothing runs under it but their own methods. In a
forked child the parent's busy threads are not there, and the lock may be held: all is made new.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .. import _kernel
from .._process import fork, threads
from ..sync import SyncToAsync

if TYPE_CHECKING:
    _SyncToAsync = SyncToAsync[..., Any]
else:
    _SyncToAsync = SyncToAsync  # 3.9 knows no dots there

__all__ = ["Pool", "PooledCall"]


class Pool:
    """At most ``size`` threads."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._renew()
        fork.at_fork_of(self, Pool._renew)

    def _renew(self) -> None:
        self._lock = threading.RLock()
        self._idle: list[Any] = []
        self._waiting: deque[_Job] = deque()
        self._count = 0

    def post(self, call: threads.Item) -> None:
        """Have ``call`` run on one of the threads. From any thread."""
        job = _Job(self, call)
        with self._lock:
            if self._idle:
                executor = self._idle.pop()
            elif self._count < self.size:
                executor = _kernel.kernel.ThreadSensitiveExecutor()
                self._count += 1
            else:
                self._waiting.append(job)
                return
        job.executor = executor
        try:
            executor.post(job)
        except BaseException:  # no thread can be started
            with self._lock:
                self._idle.append(executor)
            raise

    def done(self, executor: Any) -> None:
        """``executor``'s thread has run its job. On that thread."""
        with self._lock:
            if not self._waiting:
                self._idle.append(executor)
                return
            job = self._waiting.popleft()
        job.executor = executor
        executor.post(job)


class _Job:
    """A call, and the thread that is its own for as long as it takes."""

    __slots__ = ("_call", "_pool", "executor")

    def __init__(self, pool: Pool, call: threads.Item) -> None:
        self._pool = pool
        self._call: Any = call
        self.executor: Any = None

    def run(self) -> None:
        self._call.run()

    def deliver(self) -> None:
        call, self._call = self._call, None
        # Before the outcome: who gets that may ask for a thread at once.
        executor, self.executor = self.executor, None
        self._pool.done(executor)
        call.deliver()

    def cancel(self) -> None:
        self._call.cancel()


class PooledCall(_SyncToAsync):
    """A `SyncToAsync` that runs on a pool's threads."""

    def __init__(self, func: Callable[..., Any], pool: Pool) -> None:
        super().__init__(func, thread_sensitive=False)
        self._pool = pool

    def _send(
        self,
        loop: asyncio.AbstractEventLoop,
        handler: Callable[[], Any],
        task_context: list[asyncio.Task[Any]],
    ) -> Any:
        call = _kernel.kernel.SyncCall(loop, handler, task_context)
        self._pool.post(call)
        return call
