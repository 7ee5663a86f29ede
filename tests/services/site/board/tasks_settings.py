"""Settings of the tests of transactions, queries and streams: any of three database clients."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("BOARD_POSTGRES_PORT", "0")
from .settings import *  # noqa: F403
from .settings import DATABASES

CLIENT = os.environ["BOARD_CLIENT"]
if CLIENT == "psycopg2":
    sys.modules["psycopg"] = None  # type: ignore[assignment] # Django prefers it
if CLIENT == "sqlite":
    DIRECTORY = Path(os.environ["BOARD_DIRECTORY"])
    DATABASES["default"] = {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(DIRECTORY / "db.sqlite3"),
        # Not in memory: tests have connections of several threads.
        "TEST": {"NAME": str(DIRECTORY / "test.sqlite3")},
    }
if "BOARD_OF_TASKS" in os.environ:  # a server
    ROOT_URLCONF = "board.tasks_urls"
    ASGIBRIDGE = {
        "workers": "keep",
        # By 1, the next request has the same connection.
        "limit": int(os.environ["BOARD_OF_TASKS"]),
        "cancel_queries": True,
        "stream_sync_iterators": True,
    }
