"""The contestants and their server processes.

Whoever calls ``start`` must see to it that ``stop`` is called on every way out, Ctrl-C included. A
server runs in a session of its own, so that a Ctrl-C in the terminal reaches it only through
``stop``, and nothing it started outlives it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SITE = Path(__file__).resolve().parents[1] / "site"
USERNAME = "ada"
PASSWORD = "analytical engine"

START_SECONDS = 60.0
STOP_SECONDS = 15.0
LOG_TAIL_LINES = 40


class DemoFailure(Exception):
    """The demo cannot go on; the message says why and what to do."""


@dataclass(frozen=True)
class Contestant:
    """What serves the site: the words that put a library under a program, and how to recognise it.

    ``sync_module`` is the name of the module that the program gets for ``import asgiref.sync``,
    ``handler_module`` that of Django's part of the application.
    """

    name: str
    launcher: tuple[str, ...]
    sync_module: str
    handler_module: str
    server: tuple[str, ...]

    def command(self, *program: str) -> list[str]:
        return [sys.executable, *self.launcher, *program]


UVICORN = (
    *("-m", "uvicorn", "demosite.asgi:application"),
    *("--host", "127.0.0.1", "--port", "0"),
    *("--loop", "asyncio", "--http", "httptools", "--lifespan", "off"),
    *("--no-access-log", "--no-use-colors"),
)
THREADS = 20
GUNICORN = (
    *("-m", "gunicorn", "demosite.wsgi:application", "--bind", "127.0.0.1:0"),
    *("--worker-class", "gthread", "--threads", str(THREADS), "--no-control-socket"),
)
_LISTENING = re.compile(r"(?:Uvicorn running on|Listening at:) (http://127\.0\.0\.1:\d+)")

_ASGI, _WSGI = "django.core.handlers.asgi", "django.core.handlers.wsgi"
_RUN = ("-m", "asgibridge", "run")
ASGIREF = Contestant("asgiref", (), "asgiref.sync", _ASGI, UVICORN)
ASGIBRIDGE = Contestant("asgibridge", _RUN, "asgibridge.sync", _ASGI, UVICORN)
BRIDGED = Contestant(
    "asgibridge.django",
    (*_RUN, "--django"),
    "asgibridge.sync",
    "asgibridge.django.handlers",
    UVICORN,
)
WSGI = Contestant("WSGI gthread", (), "asgiref.sync", _WSGI, GUNICORN)
VISITED = (ASGIREF, ASGIBRIDGE, BRIDGED)
"""All of their answers are compared."""
FREE_OF_MODE = {BRIDGED.name}
"""Who may run a middleware that can be sync and async in the other of its forms: asgibridge.django
takes the one in which a request crosses less."""
# gunicorn does not run on Windows.
UNDER_LOAD = VISITED if sys.platform == "win32" else (*VISITED, WSGI)


class Server:
    """The site served on a free loopback port, with a new database, by one contestant.

    ``exit_status`` is None until ``stop`` and if the server then had to be killed; ``ended_early``
    says that it had ended by itself before.
    """

    def __init__(self, contestant: Contestant, directory: Path) -> None:
        self.contestant = contestant
        self.name = contestant.name
        self.base_url = ""
        self.exit_status: int | None = None
        self.ended_early = False
        file_name = re.sub(r"\W+", "-", self.name)
        self._log_path = directory / f"{file_name}.log"
        self._environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "demosite.settings",
            "DEMOSITE_DATABASE": str(directory / f"{file_name}.sqlite3"),
            # As an activated environment has it.
            "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")]),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Make the database, start serving and wait until the port is open.

        Raises DemoFailure if that does not succeed.
        """
        self._seed()
        self._serve()

    @property
    def log(self) -> str:
        if not self._log_path.exists():
            return ""
        return self._log_path.read_text(encoding="utf-8", errors="replace")

    @property
    def log_tail(self) -> str:
        return "\n".join(self.log.splitlines()[-LOG_TAIL_LINES:])

    def _seed(self) -> None:
        seeding = self._launch(["manage.py", "seed", USERNAME, PASSWORD])
        if _wait(seeding, START_SECONDS) != 0:
            raise DemoFailure(f"{self.name}: `manage.py seed` failed, see its output above")
        self._process = None

    def _serve(self) -> None:
        process = self._launch(self.contestant.server)
        deadline = time.monotonic() + START_SECONDS
        # The port is the kernel's choice; a server names it once it listens.
        while (listening := _LISTENING.search(self.log)) is None:
            if process.poll() is not None:
                raise DemoFailure(f"{self.name}: the server ended at once, see its log above")
            if time.monotonic() > deadline:
                raise DemoFailure(f"{self.name}: no answer within {START_SECONDS:.0f} s")
            time.sleep(0.05)
        self.base_url = listening[1]

    def run(self, *program: str) -> str:
        """What another program of the site's prints, run by this contestant.

        Raises DemoFailure if it does not succeed.
        """
        done = subprocess.run(
            self.contestant.command(*program),
            cwd=SITE,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=START_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise DemoFailure(f"{self.name}: `{' '.join(program)}` failed:\n{done.stdout}")
        return done.stdout

    def _launch(self, program: Sequence[str]) -> subprocess.Popen[bytes]:
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.contestant.command(*program),
                cwd=SITE,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self._process

    def stop(self) -> None:
        """End the server as Ctrl-C in its terminal would; kill it if that does not work."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is not None:
            self.exit_status = process.returncode
            self.ended_early = True
            return
        try:
            _interrupt(process)
            self.exit_status = _wait(process, STOP_SECONDS)
        finally:
            # Not after the process was waited for: its number may be another's then.
            if process.returncode is None:
                _kill(process)
                process.wait()


def _wait(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


if sys.platform == "win32":

    def _interrupt(process: subprocess.Popen[bytes]) -> None:
        # A Ctrl-C cannot be sent to one process alone.
        process.terminate()

    def _kill(process: subprocess.Popen[bytes]) -> None:
        process.kill()

else:

    def _interrupt(process: subprocess.Popen[bytes]) -> None:
        os.killpg(process.pid, signal.SIGINT)

    def _kill(process: subprocess.Popen[bytes]) -> None:
        os.killpg(process.pid, signal.SIGKILL)
