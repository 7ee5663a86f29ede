"""Sync views, and async ones, one of them behind an include."""

from __future__ import annotations

from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.urls import include, path


def hello(request: HttpRequest) -> HttpResponse:
    return HttpResponse("hello")


def query(request: HttpRequest) -> HttpResponse:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        return HttpResponse(str(cursor.fetchone()[0]))


async def hello_async(request: HttpRequest) -> HttpResponse:
    return HttpResponse("hello, async")


urlpatterns = [
    path("", hello),
    path("query/", query),
    path("api/", include([path("<int:number>/", hello_async), path("hello/", hello_async)])),
]
