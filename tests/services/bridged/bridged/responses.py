"""URLs of sync views, one for each kind of response that docs/django.md names."""

from __future__ import annotations

import io
from typing import Any

from django.core.exceptions import PermissionDenied
from django.core.signals import request_finished
from django.http import (
    FileResponse,
    HttpRequest,
    HttpResponse,
    JsonResponse,
    StreamingHttpResponse,
)
from django.template import engines
from django.template.response import TemplateResponse
from django.urls import path

KINDS = {
    "HttpResponse": lambda request: HttpResponse("hello"),
    "JsonResponse": lambda request: JsonResponse({}),
    "rendered": lambda request: HttpResponse(TEMPLATE.render()),
    "TemplateResponse": lambda request: TemplateResponse(request, TEMPLATE),
    "forbidden": lambda request: _forbid(),
    "error": lambda request: 1 / 0,
    "uploaded": lambda request: HttpResponse(request.FILES["file"].read()),
    "FileResponse": lambda request: FileResponse(io.BytesIO(b"hello")),
    "streamed": lambda request: StreamingHttpResponse(iter(["hello"])),
    "streamed, async": lambda request: StreamingHttpResponse(_chunks()),
    "closed by itself": lambda request: Closed("hello"),
    "heard": lambda request: _hear(),
}
TEMPLATE = engines["django"].from_string("hello")


class Closed(HttpResponse):
    def close(self) -> None:
        super().close()


async def _chunks() -> Any:
    yield "hello"


def _forbid() -> HttpResponse:
    raise PermissionDenied


def _hear() -> HttpResponse:
    request_finished.connect(_listener)
    return HttpResponse("hello")


def _listener(**_more: Any) -> None:
    request_finished.disconnect(_listener)


def respond(request: HttpRequest, kind: str) -> Any:
    return KINDS[kind](request)


urlpatterns = [path("<str:kind>/", respond), path("", respond, {"kind": "HttpResponse"})]
