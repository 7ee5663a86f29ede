"""The same page twice: on a thread with the ORM used directly, and on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from asgiref.sync import async_to_sync, sync_to_async
from channels.layers import get_channel_layer
from django.db import connection, transaction
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.views.decorators.csrf import csrf_exempt

from .models import Message


def backend() -> int:
    """The server process that this thread's database connection talks to."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        row: tuple[int] = cursor.fetchone()
        return row[0]


def synchronous(request: HttpRequest, room: str) -> JsonResponse:
    with transaction.atomic():
        message = Message.objects.create(room=room, text=request.GET.get("text", ""))
    found = Message.objects.get(pk=message.pk)
    return JsonResponse({"text": found.text, "backend": backend()})


async def asynchronous(request: HttpRequest, room: str) -> JsonResponse:
    message = await Message.objects.acreate(room=room, text=request.GET.get("text", ""))
    found = await Message.objects.aget(pk=message.pk)
    backends = {await sync_to_async(backend)()}
    # Two at once, still on the request's one thread and one connection.
    backends.update(await asyncio.gather(*(sync_to_async(backend)() for _ in range(2))))
    assert len(backends) == 1, backends
    return JsonResponse({"text": found.text, "backend": backends.pop()})


async def rows(request: HttpRequest, room: str) -> StreamingHttpResponse:
    """Streams, and goes on asking the database after the view has returned."""

    async def lines() -> AsyncIterator[str]:
        async for message in Message.objects.filter(room=room).order_by("pk").aiterator():
            yield f"{message.text}\n"

    return StreamingHttpResponse(lines(), content_type="text/plain")


_listening: dict[str, set[asyncio.Queue[str]]] = {}


async def events(request: HttpRequest, room: str) -> StreamingHttpResponse:
    """Server-sent events: it asks the database when it begins, and for each event."""
    await Message.objects.filter(room=room).aexists()
    queue: asyncio.Queue[str] = asyncio.Queue()

    async def lines() -> AsyncIterator[str]:
        _listening.setdefault(room, set()).add(queue)
        try:
            yield ": open\n\n"
            while True:
                text = await queue.get()
                yield f"data: {text} {await sync_to_async(backend)()}\n\n"
        finally:
            _listening[room].discard(queue)

    return StreamingHttpResponse(lines(), content_type="text/event-stream")


async def publish(request: HttpRequest, room: str) -> JsonResponse:
    """Tell all who listen. How many these are; it asks the database nothing."""
    listening = _listening.get(room, set())
    for queue in listening:
        queue.put_nowait(request.GET["text"])
    return JsonResponse({"listening": len(listening)})


@csrf_exempt
async def upload(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(len(request.body)))


def announce(request: HttpRequest, room: str) -> HttpResponse:
    """Sync code that speaks to the consumers of a room."""
    event = {"type": "room.message", "text": request.GET.get("text", "")}
    async_to_sync(get_channel_layer().group_send)(room, event)
    return HttpResponse("said")
