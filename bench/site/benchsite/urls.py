"""The two views that are put under load."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

from .models import Note


def sync_view(request: HttpRequest) -> HttpResponse:
    """No database: the request's hops are the middlewares' and this one."""
    return HttpResponse("hello", content_type="text/plain")


async def async_view(request: HttpRequest) -> HttpResponse:
    """Two queries, as an async view awaits them."""
    first = await Note.objects.aget(pk=1)
    return JsonResponse(
        {"first": first.text, "all": [note.text async for note in Note.objects.order_by("pk")[:10]]}
    )


urlpatterns = [path("sync/", sync_view), path("async/", async_view)]
