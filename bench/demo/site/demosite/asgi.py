"""The site's entry point: Django for HTTP and Channels for websockets, as in its tutorial."""

from __future__ import annotations

import os

# Before all that could start a thread.
from .instrumentation import StatsPage

# isort: split

from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "demosite.settings")
# Loads the apps; the consumers import models and must come after it.
django_application = get_asgi_application()

from .routing import websocket_urlpatterns  # noqa: E402

application = ProtocolTypeRouter(
    {
        "http": StatsPage(ASGIStaticFilesHandler(django_application), django_application),
        "websocket": AllowedHostsOriginValidator(
            AuthMiddlewareStack(URLRouter(websocket_urlpatterns))
        ),
    }
)
