"""The threads of ``WsgiToAsgi(workers=N)``: at most N, started as they are needed.

They are those of a `asgibridge.pools.LoopExecutor`, which is no loop's: a call goes to the thread
that became idle last, so that few stay warm; when all are busy it waits in line for the first that
is free.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..pools import LoopExecutor
from ..sync import SyncToAsync

if TYPE_CHECKING:
    from .._kernel import kernel

    _SyncToAsync = SyncToAsync[..., Any]
else:
    _SyncToAsync = SyncToAsync  # 3.9 knows no dots there

__all__ = ["RunInPool"]


class RunInPool(_SyncToAsync):
    """A `SyncToAsync` whose calls run on at most ``size`` threads of its own."""

    def __init__(self, func: Callable[..., Any], size: int) -> None:
        super().__init__(func, thread_sensitive=False)
        self._pool = LoopExecutor(size, "asgibridge-wsgi")

    def _send(self, loop: asyncio.AbstractEventLoop, call: kernel.SyncCall) -> Any:
        self._pool.post(call)
        return call
