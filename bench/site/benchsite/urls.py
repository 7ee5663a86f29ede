"""The views that are put under load."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path

from .models import Note

ROWS = [
    {"number": number, "name": f"Row {number} & <its> name", "price": number * 1.25}
    for number in range(1, 61)
]


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


def template_view(request: HttpRequest) -> HttpResponse:
    """A template of 60 rows, and no database: the view itself computes."""
    return render(request, "rows.html", {"rows": ROWS})


async def five_queries_view(request: HttpRequest) -> HttpResponse:
    """Five calls of the ORM, one after the other, each of which is a hop of its own."""
    note = await Note.objects.aget(pk=1)
    last = await Note.objects.alast()
    count = await Note.objects.acount()
    exists = await Note.objects.filter(text="Note 5").aexists()
    texts = [each.text async for each in Note.objects.order_by("-pk")[:5]]
    body = f"{note.text} {last} {count} {exists} {texts}"
    return HttpResponse(body, content_type="text/plain")


urlpatterns = [
    path("sync/", sync_view),
    path("async/", async_view),
    path("orm/", orm_view),
    path("template/", template_view),
    path("five/", five_queries_view),
]
