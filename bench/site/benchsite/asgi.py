"""The site's entry point for ASGI servers: Django, and beside it the page of `stats`.

``BENCHSITE_BRIDGED=1`` takes asgibridge.django's handler instead of Django's own.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from . import stats

# Both before all that could start a thread, or bind what is patched.
stats.begin()
inlined = os.environ.get("BENCHSITE_INLINE") == "1"
if inlined:
    from .inlined import inline_every_hop, keep_connections

    inline_every_hop()

# isort: split

if os.environ.get("BENCHSITE_BRIDGED") == "1":
    from asgibridge.django import get_asgi_application
else:
    from django.core.asgi import get_asgi_application

django_application = get_asgi_application()
if inlined:
    keep_connections()


async def application(scope: Any, receive: Any, send: Any) -> None:
    """The stats page, and Django for everything else."""
    if scope["path"] != stats.PATH:
        await django_application(scope, receive, send)
        return
    server = "granian-asgi" if "granian" in sys.modules else "uvicorn"
    found = stats.figures(django_application, server, asyncio.get_running_loop())
    body = json.dumps(found).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
