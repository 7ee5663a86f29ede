"""Django's AsyncClient, with the chains of `asgibridge.django.ASGIHandler`."""

from __future__ import annotations

from typing import Any

from django.test import client

from .handlers import Answering

__all__ = ["AsyncClient"]


class AsyncClientHandler(Answering, client.AsyncClientHandler):
    """Django's AsyncClientHandler, whose requests go through the chains of `ASGIHandler`."""


class AsyncClient(client.AsyncClient):
    """Django's AsyncClient, whose requests go through the chains of `ASGIHandler`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        enforces_csrf = vars(self)["handler"].enforce_csrf_checks
        self.handler = AsyncClientHandler(enforces_csrf)
