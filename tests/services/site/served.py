"""A Django site and a plain ASGI application with the same paths, for ASGI and for WSGI servers.

Both ask PostgreSQL by connections that belong to the thread, as Django keeps them, and say which
process has answered, and by which of PostgreSQL's. What a client cannot see is noted in the file
``SERVED_NOTES``, a word a line.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asgiref.sync
import psycopg
from asgiref.local import Local
from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.handlers.asgi import ASGIRequest
from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.http import HttpRequest, JsonResponse, StreamingHttpResponse
from django.urls import path

LINES = 5
HELD_SECONDS = 1
"""How long a request lasts that is there when the server is told to stop: long enough for that."""


def note(word: str) -> None:
    with open(os.environ["SERVED_NOTES"], "a") as file:
        file.write(f"{word}\n")


def answer(backend: int) -> dict[str, Any]:
    return {"process": os.getpid(), "backend": backend, "asgiref": asgiref.sync.__name__}


# --- Django's ------------------------------------------------------------------------------------

settings.ROOT_URLCONF = __name__


def backend() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        row: tuple[int] = cursor.fetchone()
    return row[0]


def page(request: HttpRequest) -> JsonResponse:
    return JsonResponse(answer(backend()))


async def async_page(request: HttpRequest) -> JsonResponse:
    return JsonResponse(answer(await sync_to_async(backend)()))


def held(request: HttpRequest) -> JsonResponse:
    note("held")
    time.sleep(HELD_SECONDS)
    return page(request)


def stream(request: HttpRequest) -> StreamingHttpResponse:
    is_endless = request.path == "/endless/"
    lines = async_lines if isinstance(request, ASGIRequest) else sync_lines
    return StreamingHttpResponse(lines(is_endless), content_type="text/plain")


def numbers(is_endless: bool) -> Iterator[int]:
    return itertools.count() if is_endless else iter(range(LINES))


def sync_lines(is_endless: bool) -> Iterator[str]:
    try:
        for number in numbers(is_endless):
            yield f"{number} {backend()}\n"
            time.sleep(0.01)
    finally:
        note("left")


async def async_lines(is_endless: bool) -> AsyncIterator[str]:
    try:
        for number in numbers(is_endless):
            yield f"{number} {await sync_to_async(backend)()}\n"
            await asyncio.sleep(0.01)
    finally:
        note("left")


urlpatterns = [
    path("page/", page),
    path("async/", async_page),
    path("held/", held),
    path("stream/", stream),
    path("endless/", stream),
]
django_wsgi = get_wsgi_application()
pages = get_asgi_application()

from channels.db import database_sync_to_async  # noqa: E402 - needs Django's applications
from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402
from channels.routing import ProtocolTypeRouter  # noqa: E402


class Echo(AsyncWebsocketConsumer):
    """Says what it hears, and PostgreSQL's process."""

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.send(f"{text_data} {await database_sync_to_async(backend)()}")


django_asgi = ProtocolTypeRouter({"http": pages, "websocket": Echo.as_asgi()})


# --- without Django ------------------------------------------------------------------------------

DSN = (
    f"host=127.0.0.1 port={os.environ['BOARD_POSTGRES_PORT']} user=board dbname=board "
    f"application_name={os.environ.get('BOARD_APPLICATION', 'plain')}"
)
kept = Local(thread_critical=True)


def plain_backend() -> int:
    if not hasattr(kept, "connection"):
        kept.connection = psycopg.connect(DSN, autocommit=True)
    row: tuple[int] = kept.connection.execute("SELECT pg_backend_pid()").fetchone()
    return row[0]


def plain_held() -> int:
    note("held")
    time.sleep(HELD_SECONDS)
    return plain_backend()


async def plain_asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        message = {"type": ""}
        while message["type"] != "lifespan.shutdown":
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
        return
    async with ThreadSensitiveContext():
        if scope["type"] == "websocket":
            await plain_echo(receive, send)
        elif scope["path"] in ("/stream/", "/endless/"):
            await plain_stream(scope["path"] == "/endless/", receive, send)
        else:
            function = plain_held if scope["path"] == "/held/" else plain_backend
            said = answer(await sync_to_async(function)())
            await start(send, b"application/json")
            await send({"type": "http.response.body", "body": json.dumps(said).encode()})


async def start(send: Any, kind: bytes) -> None:
    headers = [(b"content-type", kind)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def plain_stream(is_endless: bool, receive: Any, send: Any) -> None:
    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    await start(send, b"text/plain")
    leaving = asyncio.ensure_future(gone())
    try:
        for number in numbers(is_endless):
            if leaving.done():
                break
            line = f"{number} {await sync_to_async(plain_backend)()}\n".encode()
            await send({"type": "http.response.body", "body": line, "more_body": True})
            await asyncio.sleep(0.01)
        await send({"type": "http.response.body", "body": b""})
    finally:
        leaving.cancel()
        note("left")


async def plain_echo(receive: Any, send: Any) -> None:
    while (message := await receive())["type"] != "websocket.disconnect":
        if message["type"] == "websocket.connect":
            await send({"type": "websocket.accept"})
        else:
            text = f"{message['text']} {await sync_to_async(plain_backend)()}"
            await send({"type": "websocket.send", "text": text})


if asgiref.sync.__name__ != "asgiref.sync":
    from asgibridge.wsgi import AsgiToWsgi

    plain_wsgi = AsgiToWsgi(plain_asgi)
