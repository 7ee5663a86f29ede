"""Two sync-only middlewares, an async-only one and one that can be either.

Each leaves a header that would change if a call ran on another thread, lost a context variable or
saw another request's.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from datetime import timedelta
from datetime import timezone as fixed_timezone
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.decorators import sync_and_async_middleware

# Where a request has been: begun on the event loop here, written to by views on their threads.
trail: ContextVar[str] = ContextVar("trail", default="")


def visited(place: str) -> None:
    trail.set(f"{trail.get()} > {place}")


class TrailMiddleware:
    """Async-only: starts the request's trail, and reports it after the view has added to it."""

    sync_capable = False
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Awaitable[HttpResponse]]) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    async def __call__(self, request: HttpRequest) -> HttpResponse:
        trail.set(request.headers.get("X-Label", "request"))
        response = await self.get_response(request)
        response["X-Trail"] = trail.get()
        return response


def count_queries(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """Sync-only: counts the request's queries on this thread's connection.

    Django's connections belong to threads: a query that ran on any other than this one is not in
    the count.
    """

    def middleware(request: HttpRequest) -> HttpResponse:
        queries = 0

        def count(execute: Callable[..., Any], *args: Any) -> Any:
            nonlocal queries
            queries += 1
            return execute(*args)

        request.middleware_thread = threading.get_ident()
        with connection.execute_wrapper(count):
            response = get_response(request)
        response["X-Queries"] = str(queries)
        return response

    return middleware


class LocalTimeMiddleware:
    """Sync-only: shows times at the UTC offset named in the query string.

    Django keeps the active time zone, like the active language, in an asgiref ``Local``.
    """

    sync_capable = True
    async_capable = False

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        hours = int(request.GET.get("hours", 0))
        with timezone.override(fixed_timezone(timedelta(hours=hours))):
            return self.get_response(request)


@sync_and_async_middleware
def report_mode(get_response: Any) -> Any:
    """Either kind: says in which of its two forms it ran."""
    if not iscoroutinefunction(get_response):

        def sync_middleware(request: HttpRequest) -> HttpResponse:
            response = get_response(request)
            response["X-Mode"] = "sync"
            return response

        return sync_middleware

    async def async_middleware(request: HttpRequest) -> HttpResponse:
        response = await get_response(request)
        response["X-Mode"] = "async"
        return response

    return async_middleware
