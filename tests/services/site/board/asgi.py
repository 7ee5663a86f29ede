"""The ASGI application: Django's pages and Channels' websockets.

``BOARD_SOCKETS_APART`` says where to put the middleware that gives each websocket a worker of its
own: ``inside`` of Channels' router or ``outside`` of it; nowhere if it is not set.
"""

from __future__ import annotations

import os
from typing import Any

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "board.settings")
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
