"""The views that are put under load."""

from __future__ import annotations

import time

from django import forms
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path

from .models import Note

ROWS = [
    {"number": number, "name": f"Row {number} & <its> name", "price": number * 1.25}
    for number in range(1, 61)
]
COMPUTING_SECONDS = 0.002
BLOCKING_SECONDS = 0.01
LARGE = b"x" * 1_000_000


def sync_view(request: HttpRequest) -> HttpResponse:
    """No database: the request's hops are the middlewares' and this one."""
    return HttpResponse("hello", content_type="text/plain")


async def async_view(request: HttpRequest) -> HttpResponse:
    """No database either: all hops are the middlewares'."""
    return HttpResponse("hello", content_type="text/plain")


def query_view(request: HttpRequest) -> HttpResponse:
    """One query; and with it a connection to the database."""
    return HttpResponse(Note.objects.get(pk=1).text, content_type="text/plain")


async def orm_view(request: HttpRequest) -> HttpResponse:
    """The same, as an async view awaits it."""
    note = await Note.objects.aget(pk=1)
    return HttpResponse(note.text, content_type="text/plain")


def five_queries_sync_view(request: HttpRequest) -> HttpResponse:
    """Five queries, one after the other."""
    note = Note.objects.get(pk=1)
    last = Note.objects.last()
    count = Note.objects.count()
    exists = Note.objects.filter(text="Note 5").exists()
    texts = [each.text for each in Note.objects.order_by("-pk")[:5]]
    body = f"{note.text} {last} {count} {exists} {texts}"
    return HttpResponse(body, content_type="text/plain")


async def five_queries_view(request: HttpRequest) -> HttpResponse:
    """The same five, each of which is a hop of its own."""
    note = await Note.objects.aget(pk=1)
    last = await Note.objects.alast()
    count = await Note.objects.acount()
    exists = await Note.objects.filter(text="Note 5").aexists()
    texts = [each.text async for each in Note.objects.order_by("-pk")[:5]]
    body = f"{note.text} {last} {count} {exists} {texts}"
    return HttpResponse(body, content_type="text/plain")


def template_view(request: HttpRequest) -> HttpResponse:
    """A template of 60 rows, and no database: the view itself computes."""
    return render(request, "rows.html", {"rows": ROWS})


def computing_view(request: HttpRequest) -> HttpResponse:
    """So much of its thread's time on a processor; waiting for the GIL is not counted."""
    end = time.thread_time() + COMPUTING_SECONDS
    while time.thread_time() < end:
        sum(number * number for number in range(200))
    return HttpResponse("computed", content_type="text/plain")


def sleeping_view(request: HttpRequest) -> HttpResponse:
    """As a view that waits for another service."""
    time.sleep(BLOCKING_SECONDS)
    return HttpResponse("slept", content_type="text/plain")


class OrderForm(forms.Form):
    """What is posted."""

    name = forms.CharField(max_length=40)
    email = forms.EmailField()
    number = forms.IntegerField(min_value=1, max_value=99)
    size = forms.ChoiceField(choices=[(each, each) for each in ("small", "medium", "large")])
    text = forms.CharField(max_length=500)


def form_view(request: HttpRequest) -> HttpResponse:
    """A form that is valid; its CSRF token is looked at, too."""
    form = OrderForm(request.POST)
    if not form.is_valid():
        return HttpResponse(form.errors.as_text(), status=400, content_type="text/plain")
    return HttpResponse(form.cleaned_data["name"], content_type="text/plain")


def large_view(request: HttpRequest) -> HttpResponse:
    """A megabyte."""
    return HttpResponse(LARGE, content_type="application/octet-stream")


urlpatterns = [
    path("sync/", sync_view),
    path("async/", async_view),
    path("query/", query_view),
    path("orm/", orm_view),
    path("five-sync/", five_queries_sync_view),
    path("five/", five_queries_view),
    path("template/", template_view),
    path("compute/", computing_view),
    path("sleep/", sleeping_view),
    path("form/", form_view),
    path("large/", large_view),
]
