"""For the benchmark only: every hop becomes a plain call on the event loop's own thread.

This is no bridge. A function that blocks stops the whole server, and Django's guard against that
has to be switched off (DJANGO_ALLOW_ASYNC_UNSAFE). It shows what the site would serve if crossing
cost nothing: the ceiling that no implementation can pass.
"""

from __future__ import annotations

import threading
from typing import Any

from asgiref import sync

hops = 0


async def _sync_to_async(self: Any, *args: Any, **kwargs: Any) -> Any:
    global hops
    hops += 1
    return self.func(*args, **kwargs)


def _async_to_sync(self: Any, *args: Any, **kwargs: Any) -> Any:
    # The loop is running below us, so nothing in here may wait for it.
    global hops
    hops += 1
    coroutine = self.awaitable(*args, **kwargs)
    try:
        coroutine.send(None)
    except StopIteration as result:
        return result.value
    coroutine.close()
    raise RuntimeError(f"{self.awaitable!r} waits for the event loop: it cannot be inlined")


def inline_every_hop() -> None:
    """Must come before Django is imported: it binds the two at import."""
    sync.SyncToAsync.__call__ = _sync_to_async
    sync.AsyncToSync.__call__ = _async_to_sync


def keep_connections() -> None:
    """Must come after Django is set up: one connection for all, since one thread runs it all.

    Django finds a thread's connections by a Local that belongs to the task instead where a loop
    runs, which is where everything runs here: every request would leave one behind.
    """
    from django.db import connections

    connections._connections = threading.local()
