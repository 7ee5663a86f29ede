"""What a request's parts see of where and when they run, each in a list of its own."""

from __future__ import annotations

import asyncio
import collections
import threading
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.core.cache import cache
from django.core.cache.backends.dummy import DummyCache
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.urls import path, register_converter
from django.urls.converters import IntConverter
from django.utils.decorators import sync_and_async_middleware

notes: dict[str, list[Any]] = collections.defaultdict(list)


class Cache(DummyCache):
    """Django closes it at the end of a request, as it closes all caches."""

    def close(self, **_kwargs: Any) -> None:
        notes["caches"].append("closed")


class Converter(IntConverter):
    def to_python(self, value: str) -> int:
        notes["converted"].append(value)
        return super().to_python(value)


@sync_and_async_middleware
def middleware(get_response: Any) -> Any:
    notes["instances"].append("async" if iscoroutinefunction(get_response) else "sync")
    if iscoroutinefunction(get_response):

        async def call(request: Any) -> Any:
            return await get_response(request)

    else:

        def call(request: Any) -> Any:
            return get_response(request)

    return call


def view(request: HttpRequest) -> HttpResponse:
    cache.get("key")  # so that there is something to close
    # Asked at the request's end, of the connections that its worker has.
    connection.close_if_unusable_or_obsolete = lambda: notes["order"].append("closed")
    notes["body"].append(type(request._stream).__name__)
    notes["view"].append(threading.get_ident())
    return HttpResponse()


def failing(request: HttpRequest) -> HttpResponse:
    notes["failing"].append(threading.get_ident())
    raise ValueError


async def asynchronous(request: HttpRequest, number: int = 0) -> HttpResponse:
    notes["task"].append(asyncio.current_task())
    return HttpResponse()


def handler500(request: HttpRequest) -> HttpResponse:
    notes["handler500"].append(threading.get_ident())
    return HttpResponse(status=500)


register_converter(Converter, "noted")
urlpatterns = [
    path("", view),
    path("failing/", failing),
    path("async/", asynchronous),
    path("<noted:number>/", asynchronous),
]
