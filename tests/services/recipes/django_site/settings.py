"""A site whose tasks are run by ``manage.py db_worker``."""

import os

SECRET_KEY = "not secret"
INSTALLED_APPS = ["django_tasks", "django_tasks_db"]
USE_TZ = True
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": "127.0.0.1",
        "PORT": os.environ["BOARD_POSTGRES_PORT"],
        "USER": "board",
        "NAME": "recipes",
        "CONN_MAX_AGE": 60,
        "CONN_HEALTH_CHECKS": True,
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
