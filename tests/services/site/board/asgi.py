"""The ASGI application: Django's pages and Channels' websockets."""

from __future__ import annotations

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "board.settings")
pages = get_asgi_application()

from channels.routing import ProtocolTypeRouter  # noqa: E402 - needs Django's applications

from .observed import Observed  # noqa: E402
from .routing import websockets  # noqa: E402

application = Observed(ProtocolTypeRouter({"http": pages, "websocket": websockets}))
