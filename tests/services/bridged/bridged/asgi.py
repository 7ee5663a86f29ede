"""The site as an ASGI application, as `startproject` writes it; and a word on which that is."""

import os
import sys

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "bridged.settings")

application = get_asgi_application()

print(f"handler: {type(application).__module__}", file=sys.stderr, flush=True)
