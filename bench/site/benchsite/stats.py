"""What a process says of itself, at `PATH`: what it runs, and what it has counted.

``BENCHSITE_COUNT=1`` also counts the threads that the process starts. That costs a little, so a
process that counts is not one that is timed.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from typing import Any

PATH = "/__stats__/"

_starts: list[None] = []


def begin() -> None:
    """Count threads, if that is asked for. Must come before all that could start one."""
    if not os.environ.get("BENCHSITE_COUNT"):
        return
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


def figures(handler: Any, server: str, loop: Any = None) -> dict[str, Any]:
    """All of it. ``handler`` is Django's part of the application."""
    import asgiref.sync
    import django
    from django.conf import settings

    # Not imported for this: if nobody has, this process does not run on it.
    bridge = sys.modules.get("asgibridge")
    workers = importlib.import_module("asgibridge.workers") if bridge else None
    inlined = sys.modules.get("benchsite.inlined")
    return {
        "sync": asgiref.sync.SyncToAsync.__module__.partition(".")[0],
        "package": os.path.dirname(bridge.__file__) if bridge and bridge.__file__ else None,
        "kernel": getattr(bridge, "IMPLEMENTATION", None),
        "workers": workers.get_policy().kind if workers else None,
        "django": os.path.dirname(os.path.dirname(django.__file__)),
        "handler": type(handler).__module__,
        "server": server,
        "gil": getattr(sys, "_is_gil_enabled", lambda: True)(),
        "loop": type(loop).__module__.partition(".")[0] if loop else None,
        "database": settings.DATABASES["default"]["ENGINE"].rpartition(".")[2],
        "inlined": inlined is not None,
        "threads_started": len(_starts),
        "hops": inlined.hops if inlined else None,
        "submitted": workers.stats().submitted if workers else None,
    }
