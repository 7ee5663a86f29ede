"""Settings of a small site that has ``asgibridge.django``, without a server of anything.

BRIDGED_SETTINGS, in JSON, has what a test wants otherwise.
"""

from __future__ import annotations

import json
import os

# The site keeps nothing, so its key protects nothing.
SECRET_KEY = "test-only-" + "x" * 50
DEBUG = False
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "bridged.urls"
ASGI_APPLICATION = "bridged.asgi.application"
INSTALLED_APPS = ["asgibridge.django"]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
USE_TZ = True
STATIC_URL = "/static/"
LOGGING_CONFIG = None

globals().update(json.loads(os.environ.get("BRIDGED_SETTINGS", "{}")))
