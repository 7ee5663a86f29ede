"""The views that are put under load."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.urls import path

from .models import Note


def sync_view(request: HttpRequest) -> HttpResponse:
    """No database: the request's hops are the middlewares' and this one."""
    return HttpResponse("hello", content_type="text/plain")


async def async_view(request: HttpRequest) -> HttpResponse:
    """No database either: all hops are the middlewares'."""
    return HttpResponse("hello", content_type="text/plain")


async def orm_view(request: HttpRequest) -> HttpResponse:
    """One query, as an async view awaits it; and with it a connection to the database."""
    note = await Note.objects.aget(pk=1)
    return HttpResponse(note.text, content_type="text/plain")


urlpatterns = [
    path("sync/", sync_view),
    path("async/", async_view),
    path("orm/", orm_view),
]
