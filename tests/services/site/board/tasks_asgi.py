"""The site of ``tasks_urls``, by `asgibridge.django`."""

from __future__ import annotations

from asgibridge.django import get_asgi_application

application = get_asgi_application()
