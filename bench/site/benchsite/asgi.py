"""The site's entry point: Django, and beside it a page on which the process says what it runs.

``BENCHSITE_COUNT=1`` also counts the threads that the process starts. That costs a little, so a
process that counts is not one that is timed.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from typing import Any

STATS_PATH = "/__stats__/"

_starts: list[None] = []


def _count_threads() -> None:
    # An entry a thread: appending is atomic. CPython 3.11 raises no event for a thread's start.
    if sys.version_info >= (3, 12):
        events = {"_thread.start_new_thread", "_thread.start_joinable_thread"}
        sys.addaudithook(lambda event, args: _starts.append(None) if event in events else None)
        return
    start = threading.Thread.start

    def counted(self: threading.Thread) -> None:
        _starts.append(None)
        start(self)

    threading.Thread.start = counted  # type: ignore[method-assign]


# Both before all that could start a thread, or bind what is patched.
if os.environ.get("BENCHSITE_COUNT"):
    _count_threads()
inlined = os.environ.get("BENCHSITE_INLINE") == "1"
if inlined:
    from .inlined import inline_every_hop, keep_connections

    inline_every_hop()

# isort: split

import asgiref.sync  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402

django_application = get_asgi_application()
if inlined:
    keep_connections()


def stats() -> dict[str, Any]:
    """What this process runs, and what it has counted."""
    hops = None
    if inlined:
        from . import inlined as module

        hops = module.hops
    # Not imported for this: if nobody has, this process does not run on it.
    bridge = sys.modules.get("asgibridge")
    workers = sys.modules.get("asgibridge.workers")
    return {
        "sync": asgiref.sync.SyncToAsync.__module__.partition(".")[0],
        "package": os.path.dirname(bridge.__file__) if bridge and bridge.__file__ else None,
        "kernel": getattr(bridge, "IMPLEMENTATION", None),
        "workers": workers.get_policy().kind if workers else None,
        "inlined": inlined,
        "loop": type(asyncio.get_running_loop()).__module__.partition(".")[0],
        "threads_started": len(_starts),
        "hops": hops,
    }


async def application(scope: Any, receive: Any, send: Any) -> None:
    """The stats page, and Django for everything else."""
    if scope["path"] != STATS_PATH:
        await django_application(scope, receive, send)
        return
    body = json.dumps(stats()).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
