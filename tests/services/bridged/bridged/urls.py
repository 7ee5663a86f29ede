"""A sync view, and async ones, one of them behind an include."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.urls import include, path


def hello(request: HttpRequest) -> HttpResponse:
    return HttpResponse("hello")


async def hello_async(request: HttpRequest) -> HttpResponse:
    return HttpResponse("hello, async")


urlpatterns = [
    path("", hello),
    path("api/", include([path("<int:number>/", hello_async), path("hello/", hello_async)])),
]
