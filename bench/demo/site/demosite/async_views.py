"""Asynchronous views."""

from __future__ import annotations

import asyncio
import threading

from asgiref.sync import sync_to_async
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views import View

from .middleware import visited
from .models import Note
from .views import IntendedError
from .words import count_words


async def note_list(request: HttpRequest) -> HttpResponse:
    visited("async list")
    notes = [note async for note in Note.objects.select_related("author")]
    context = {"notes": notes, "viewer": await request.auser()}
    return render(request, "note_list.html", context)


class NoteDetail(View):
    async def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        visited("async detail")
        try:
            note = await Note.objects.select_related("author").aget(pk=pk)
        except Note.DoesNotExist:
            raise Http404("no such note") from None
        return render(request, "note_detail.html", {"note": note})


@login_required
async def me(request: HttpRequest) -> HttpResponse:
    visited("async me")
    viewer = await request.auser()
    notes = [note async for note in viewer.note_set.all()]
    return render(request, "me.html", {"viewer": viewer, "notes": notes})


async def words(request: HttpRequest) -> HttpResponse:
    visited("async words")
    pks = [pk async for pk in Note.objects.values_list("pk", flat=True)]
    total = await count_words(pks)
    return HttpResponse(f"{total} words\n", content_type="text/plain")


async def threads(request: HttpRequest) -> HttpResponse:
    """Where calls run, as seen from the thread the synchronous middlewares ran on."""

    def seen_from_middleware(ident: int) -> str:
        return "same thread" if ident == request.middleware_thread else "another thread"

    first = await sync_to_async(threading.get_ident)()
    second = await sync_to_async(threading.get_ident)()
    free = await sync_to_async(threading.get_ident, thread_sensitive=False)()
    lines = [
        f"event loop: {seen_from_middleware(threading.get_ident())}",
        f"thread-sensitive call: {seen_from_middleware(first)}",
        f"and the next: {seen_from_middleware(second)}",
        f"not thread-sensitive: {seen_from_middleware(free)}",
    ]
    return HttpResponse("\n".join(lines) + "\n", content_type="text/plain")


async def impatient(request: HttpRequest) -> HttpResponse:
    """Stops waiting for a call that is running, then uses its thread again."""
    let_go = threading.Event()
    try:
        await asyncio.wait_for(sync_to_async(let_go.wait)(30), 0.05)
        outcome = "answered"
    except asyncio.TimeoutError:
        outcome = "timed out"
    let_go.set()
    notes = await Note.objects.acount()
    return HttpResponse(f"{outcome}, then {notes} notes\n", content_type="text/plain")


async def boom(request: HttpRequest) -> HttpResponse:
    raise IntendedError("an asynchronous view failed, as it should")
