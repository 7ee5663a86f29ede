"""Views whose clients leave, and streams over sync iterators."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connection, transaction
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

from asgibridge.django import atomic

from .models import Message


def backend() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])


def sleep() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(30)")


def sleep_in_sync_view(request: HttpRequest) -> HttpResponse:
    sleep()
    return HttpResponse()


def sleep_in_transaction(request: HttpRequest) -> HttpResponse:
    with transaction.atomic():
        Message.objects.create(room="left", text="never")
        sleep()
    return HttpResponse()


async def sleep_in_async_view(request: HttpRequest) -> HttpResponse:
    await sync_to_async(sleep)()
    return HttpResponse()


async def sleep_in_gather(request: HttpRequest) -> HttpResponse:
    async with atomic():
        await Message.objects.acreate(room="left", text="never")
        await asyncio.gather(sync_to_async(sleep)(), sync_to_async(sleep)())
    return HttpResponse()


def sleep_in_stream(request: HttpRequest) -> StreamingHttpResponse:
    def lines() -> Iterator[str]:
        yield "first\n"
        sleep()
        yield "never\n"

    return StreamingHttpResponse(lines())


def state(request: HttpRequest) -> JsonResponse:
    return JsonResponse(
        {"backend": backend(), "stored": Message.objects.filter(room="left").count()}
    )


class Endless:
    """A stream of which the server tells how far it has come, and how it has ended."""

    seen: dict[str, Any] = {"made": 0, "closed": None, "threads": 0}

    @classmethod
    def lines(cls) -> Iterator[bytes]:
        threads = set()
        cls.seen.update(made=0, closed=None)
        try:
            while True:
                cls.seen["made"] += 1
                threads.add(threading.get_ident())
                yield b"x" * 65536
        finally:
            threads.add(threading.get_ident())
            cls.seen.update(closed=time.monotonic(), threads=len(threads))


def endless(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(Endless.lines())


async def seen(request: HttpRequest) -> JsonResponse:
    return JsonResponse(Endless.seen)


urlpatterns = [
    path("sync-view/", sleep_in_sync_view),
    path("transaction/", sleep_in_transaction),
    path("async-view/", sleep_in_async_view),
    path("gather/", sleep_in_gather),
    path("stream/", sleep_in_stream),
    path("state/", state),
    path("endless/", endless),
    path("seen/", seen),
]
