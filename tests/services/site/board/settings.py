"""Settings of the site: as in production, with what differs between tests from the environment."""

from __future__ import annotations

import os

# Everything the site keeps is thrown away after the tests, so its key protects nothing.
SECRET_KEY = "test-only-" + "x" * 50
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1", "testserver", "localhost"]
ROOT_URLCONF = "board.urls"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "channels",
    "board",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": "127.0.0.1",
        "PORT": os.environ["BOARD_POSTGRES_PORT"],
        "NAME": "board",
        "USER": "board",
        "CONN_MAX_AGE": int(os.environ.get("BOARD_CONN_MAX_AGE", "0")),
        "OPTIONS": {"application_name": os.environ.get("BOARD_APPLICATION", "board")},
        "TEST": {"NAME": os.environ.get("BOARD_TEST_DATABASE", "test_board")},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# A full channel drops what is sent to it; nothing may be lost here but by us.
_CAPACITY = {"capacity": 2000}
_IN_MEMORY = {"BACKEND": "channels.layers.InMemoryChannelLayer", "CONFIG": _CAPACITY}
CHANNEL_LAYERS = {"default": _IN_MEMORY, "memory": _IN_MEMORY}
if redis_port := os.environ.get("BOARD_REDIS_PORT"):
    _ON_REDIS = {
        # redis-py's own limit for a reply, from version 8 on, is that of channels_redis's waits.
        "hosts": [{"address": f"redis://127.0.0.1:{redis_port}/0", "socket_timeout": None}],
        **_CAPACITY,
    }
    CHANNEL_LAYERS["default"] = {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": _ON_REDIS,
    }
    CHANNEL_LAYERS["pubsub"] = {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": _ON_REDIS,
    }

# The live server of the tests looks at both.
STATIC_URL = "/static/"
MEDIA_URL = "/media/"
USE_TZ = True
TIME_ZONE = "UTC"
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"stderr": {"class": "logging.StreamHandler"}},
    # Django's own default would mail the errors of a site with DEBUG off.
    "loggers": {"django": {"handlers": ["stderr"], "level": "ERROR", "propagate": False}},
}
