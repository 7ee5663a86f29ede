"""Counts the threads this process starts, and tells which asgiref and which handler it runs on.

The count comes from CPython's audit events where it has them: nothing is patched, and every thread
counts that Python code starts, by whatever means. The answer is given by a plain application, of
ASGI or of WSGI, before Django is asked, because a page of Django's would itself start threads.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterable
from typing import Any

STATS_PATH = "/__stats__/"

# One entry a thread. Appending is atomic, so starts from several threads at once all count, and the
# counting needs no lock, which it might meet again inside itself.
_starts: list[None] = []

if sys.version_info >= (3, 12):
    # Since 3.13 the second one is threading.Thread's, and the first is for raw threads.
    _EVENTS = frozenset({"_thread.start_new_thread", "_thread.start_joinable_thread"})

    def _count_thread_starts(event: str, args: tuple[object, ...]) -> None:
        if event in _EVENTS:
            _starts.append(None)

    sys.addaudithook(_count_thread_starts)
else:
    # 3.11 raises no event. Threads that are no threading.Thread go uncounted.
    _start = threading.Thread.start

    def _counted_start(self: threading.Thread) -> None:
        _starts.append(None)
        _start(self)

    threading.Thread.start = _counted_start  # type: ignore[method-assign]


def stats(handler: Any) -> dict[str, Any]:
    import asgiref
    import asgiref.sync

    return {
        "threads_started": len(_starts),
        "asgiref_version": asgiref.__version__,
        "asgiref_sync_name": asgiref.sync.__name__,
        "asgiref_sync_file": asgiref.sync.__file__,
        "handler": type(handler).__module__,
    }


class StatsPage:
    """ASGI middleware that answers ``/__stats__/`` itself and passes on everything else.

    ``handler`` is Django's part of the application.
    """

    def __init__(self, application: Any, handler: Any) -> None:
        self.application = application
        self.handler = handler

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != STATS_PATH:
            await self.application(scope, receive, send)
            return
        body = json.dumps(stats(self.handler)).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class WsgiStatsPage:
    """The same for WSGI."""

    def __init__(self, handler: Any) -> None:
        self.handler = handler

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] != STATS_PATH:
            answer: Iterable[bytes] = self.handler(environ, start_response)
            return answer
        body = json.dumps(stats(self.handler)).encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        start_response("200 OK", headers)
        return [body]
