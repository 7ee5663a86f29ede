"""Settings as `startproject` makes them, less what pages do not need; DEBUG is off."""

from __future__ import annotations

import json
import os

# Nothing that the site keeps outlives the benchmark, so its key protects nothing.
SECRET_KEY = "benchmark-only-" + "x" * 50
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "benchsite.urls"

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "benchsite",
]

# Django's own, none of which is asynchronous inside: each method of each is a hop.
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]

TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]

DATABASES = {
    "default": {
        **json.loads(os.environ["BENCHSITE_DATABASE"]),
        # Connections belong to threads: more than 0 is of use where threads outlive their request.
        "CONN_MAX_AGE": int(os.environ.get("BENCHSITE_CONN_MAX_AGE", "0")),
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"stderr": {"class": "logging.StreamHandler"}},
    # Django's default would mail the errors of a site with DEBUG off.
    "loggers": {"django": {"handlers": ["stderr"], "level": "ERROR", "propagate": False}},
}
