"""Outside of everything: numbers the requests as they arrive, and answers for the process.

``arrived`` is the number of the request we are in; ``leased`` lists those numbers in the order in
which the requests' first sync code ran. Neither path below takes a thread or a connection.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import sys
import threading
from contextvars import ContextVar
from typing import Any

import asgiref.sync
from django.core.signals import request_started

arrived: ContextVar[int] = ContextVar("arrived")
leased: list[int] = []
_numbers = itertools.count()


def _note_lease(**_: Any) -> None:
    leased.append(arrived.get())


# Sync receivers run on the request's own thread, before anything else of the request does.
request_started.connect(_note_lease)


def _state() -> dict[str, Any]:
    # asgiref has no such attribute; asgibridge's modules stand in asgiref's place.
    implementation = sys.modules.get("asgibridge")
    return {
        "sync_module": asgiref.sync.__name__,
        "kernel": getattr(implementation, "IMPLEMENTATION", None),
        "loop": type(asyncio.get_running_loop()).__module__.split(".")[0],
        "threads": threading.active_count(),
        "leased": leased,
        "workers": None if implementation is None else _workers(),
        "resident": _resident(),
    }


def _resident() -> int | None:
    # In bytes, on Linux.
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def _workers() -> dict[str, Any]:
    from asgibridge import workers

    now = workers.stats()
    names = ("alive", "leased", "released", "waiting", "limit")
    return {name: getattr(now, name) for name in names}


class Observed:
    """The ASGI application around the site's."""

    def __init__(self, application: Any) -> None:
        self._application = application

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == "/-/state":
            if scope["query_string"] == b"collect":
                gc.collect()
            body = json.dumps(_state()).encode()
            if scope["query_string"] == b"clear":
                leased.clear()
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        if scope["type"] == "http":
            arrived.set(next(_numbers))
        await self._application(scope, receive, send)
