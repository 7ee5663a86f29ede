"""The site's entry point for WSGI servers, which have no websockets."""

from __future__ import annotations

import os

# Before all that could start a thread.
from .instrumentation import WsgiStatsPage

# isort: split

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "demosite.settings")
application = WsgiStatsPage(get_wsgi_application())
