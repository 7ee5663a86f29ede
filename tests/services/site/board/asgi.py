"""The ASGI application: Django's pages and Channels' websockets.

``BOARD_SOCKETS_APART`` says where to put the middleware that gives each websocket a worker of its
own: ``inside`` of Channels' router or ``outside`` of it; nowhere if it is not set. With
``BOARD_WITHOUT_CONTEXTS`` Django gives its requests no thread of their own.
"""

from __future__ import annotations

import os
from typing import Any

from django.core.asgi import get_asgi_application
from django.core.handlers import asgi as handler


class NoContext:
    """In the place of a ThreadSensitiveContext: its calls run on the thread that all share."""

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *_: object) -> None: ...


os.environ.setdefault("DJANGO_SETTINGS_MODULE", "board.settings")
if os.environ.get("BOARD_WITHOUT_CONTEXTS"):
    handler.ThreadSensitiveContext = NoContext
pages = get_asgi_application()

from channels.routing import ProtocolTypeRouter  # noqa: E402 - needs Django's applications

from .observed import Observed  # noqa: E402
from .routing import websockets  # noqa: E402


def apart(application: Any, place: str) -> Any:
    if os.environ.get("BOARD_SOCKETS_APART") != place:
        return application
    from asgibridge import workers

    return workers.middleware(application)


router = ProtocolTypeRouter({"http": pages, "websocket": apart(websockets, "inside")})
application = Observed(apart(router, "outside"))
