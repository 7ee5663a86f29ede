"""The databases that the servers of the site read: a file of SQLite's, a PostgreSQL of our own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from implementations import environment

SITE = Path(__file__).with_name("site")
SERVICES = Path(__file__).resolve().parents[1] / "tests" / "services"


class DatabaseFailure(Exception):
    """A database could not be made; the message says why."""


def missing(database: str) -> str:
    """Why there is no such database here, and what to do; "" if there can be one."""
    if database == "postgresql" and _programs().find("PostgreSQL") is None:
        return "PostgreSQL is not installed (Debian: apt-get install postgresql)"
    return ""


def version_of_postgresql() -> str:
    """As its program says it; "" if there is none."""
    program = _programs().find("PostgreSQL")
    if program is None:
        return ""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    return done.stdout.split()[2]


@contextmanager
def filled(database: str) -> Iterator[str]:
    """A new one with Django's tables and the notes, as the site's settings take it, until the end
    of the ``with`` block.
    """
    if database == "sqlite":
        with tempfile.TemporaryDirectory() as directory:
            name = str(Path(directory, "site.sqlite3"))
            yield _filled({"ENGINE": "django.db.backends.sqlite3", "NAME": name})
    else:
        # A line in its log for each connection would be written for no one.
        quiet = {"log_connections": "off", "log_disconnections": "off"}
        with _programs().postgres(quiet) as server:
            yield _filled(
                {
                    "ENGINE": "django.db.backends.postgresql",
                    "NAME": server.database,
                    "USER": server.user,
                    "HOST": "127.0.0.1",
                    "PORT": str(server.port),
                }
            )


def _filled(database: dict[str, str]) -> str:
    found = json.dumps(database)
    done = subprocess.run(
        [sys.executable, "prepare.py"],
        cwd=SITE,
        env={**environment("asgiref"), "BENCHSITE_DATABASE": found},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise DatabaseFailure(f"the database could not be made:\n{done.stdout}")
    return found


def _programs() -> Any:
    # The tests' own, beside which other modules of theirs lie: their folder comes last.
    if str(SERVICES) not in sys.path:
        sys.path.append(str(SERVICES))
    import programs

    return programs
