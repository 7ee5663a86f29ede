"""Streaming responses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse

from .models import Note

# How many readers of the endless stream have gone away, counted by the stream itself.
_left = 0


def synchronous(request: HttpRequest) -> StreamingHttpResponse:
    def rows() -> Iterator[str]:
        for note in Note.objects.iterator():
            yield f"{note.pk};{note.title}\n"

    return StreamingHttpResponse(rows(), content_type="text/csv")


async def asynchronous(request: HttpRequest) -> StreamingHttpResponse:
    async def rows() -> AsyncIterator[str]:
        async for note in Note.objects.aiterator():
            yield f"{note.pk};{note.title}\n"

    return StreamingHttpResponse(rows(), content_type="text/csv")


async def endless(request: HttpRequest) -> StreamingHttpResponse:
    """Ends when its reader leaves."""

    async def ticks() -> AsyncIterator[str]:
        global _left
        try:
            while True:
                yield "tick\n"
                await asyncio.sleep(0.01)
        finally:
            _left += 1

    return StreamingHttpResponse(ticks(), content_type="text/plain")


async def left(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"{_left}\n", content_type="text/plain")
