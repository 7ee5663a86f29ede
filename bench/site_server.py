"""One server of the site, of one process or more: started, asked what it runs, read from /proc, and
ended.

uvicorn serves the site on ASGI, gunicorn (with threads) and granian serve it on WSGI, and granian
on ASGI, too, for free_threading.py. gunicorn and granian have a process beside that which serves;
both count.

Whoever starts one must stop it on every way out. It runs in a session of its own, so that a Ctrl-C
in the terminal reaches it only through `stop`.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from implementations import environment
from site_views import VIEWS, Circumstances

if TYPE_CHECKING:
    from typing_extensions import Self

SITE = Path(__file__).with_name("site")
START_SECONDS = 30.0
STOP_SECONDS = 15.0
THREADS = 20
"""Of a WSGI server."""
_STARTED = "Started server process"
"""Logged by each process of uvicorn's that serves, once it has imported the site."""


OTHER_DJANGO = "BENCHSITE_DJANGO"
"""The variable that names the folder of another Django than the installed one."""


class ServerFailure(Exception):
    """The server did not do what it should; the message says what, and what it printed."""


@dataclass(frozen=True)
class Contestant:
    """What serves the site: how it is started, and how it must answer when asked what it runs."""

    name: str
    implementation: str
    """Of those that implementations.py names."""
    environment: dict[str, str] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)
    server: str = "uvicorn"
    views: tuple[str, ...] = tuple(VIEWS)
    """Those that it is measured with."""
    everywhere: bool = True
    """Or at `site_views.HOME` only."""
    python: str = sys.executable
    """Of which environment."""

    @property
    def is_wsgi(self) -> bool:
        return self.server not in ("uvicorn", "granian-asgi")

    @property
    def is_bridged(self) -> bool:
        """Whether it runs asgibridge.django."""
        return "BENCHSITE_BRIDGED" in self.environment

    def command(self, loop: str, processes: int) -> list[str]:
        """To be run in the site's folder. The port is the kernel's choice."""
        if self.server == "gunicorn":
            return [
                *("-m", "gunicorn", "benchsite.wsgi:application", "--bind", "127.0.0.1:0"),
                *("--worker-class", "gthread", "--threads", str(THREADS)),
                *("--workers", str(processes), "--no-control-socket"),
                # Its threads may be in the middle of what a client no longer waits for.
                *("--graceful-timeout", "3"),
            ]
        if self.server == "granian":
            return [
                *("-m", "granian", "benchsite.wsgi:application", "--interface", "wsgi"),
                *("--host", "127.0.0.1", "--port", "0", "--no-ws"),
                *("--blocking-threads", str(THREADS), "--workers", str(processes)),
            ]
        launcher = () if self.implementation == "asgiref" else ("-m", "asgibridge", "run")
        if self.server == "granian-asgi":
            # Where Python has no GIL, its workers are threads, each with an event loop.
            return [
                *(*launcher, "-m", "granian", "benchsite.asgi:application", "--interface", "asgi"),
                *("--host", "127.0.0.1", "--port", "0", "--no-ws", "--loop", loop),
                *("--workers", str(processes)),
            ]
        return [
            *(*launcher, "-m", "uvicorn", "benchsite.asgi:application"),
            *("--host", "127.0.0.1", "--port", "0", "--loop", loop, "--http", "httptools"),
            *("--lifespan", "off", "--no-access-log", "--no-use-colors"),
            *("--workers", str(processes)),
        ]


_PERSISTENT = {"BENCHSITE_CONN_MAX_AGE": "60"}
_FRESH = {"ASGIBRIDGE_WORKERS": "fresh"}
_KEEP = {"ASGIBRIDGE_WORKERS": "keep", **_PERSISTENT}
_BRIDGED = {"BENCHSITE_BRIDGED": "1"}
_UNSAFE = {"BENCHSITE_INLINE": "1", "DJANGO_ALLOW_ASYNC_UNSAFE": "1", **_PERSISTENT}


def _ours(kernel: str, workers: str, handler: str = "django.core.handlers.asgi") -> dict[str, Any]:
    return {"sync": "asgibridge", "kernel": kernel, "workers": workers, "handler": handler}


_HANDLER = "asgibridge.django.handlers"
_WSGI = {"sync": "asgiref", "handler": "django.core.handlers.wsgi"}
_GTHREAD = {**_WSGI, "server": "gunicorn"}
_QUERIES = tuple(name for name, view in VIEWS.items() if view.queries)
_BRIDGING = ("sync", "async", "orm", "template", "five")
"""Views of which the ceiling is of interest."""

CONTESTANTS = (
    Contestant("asgiref", "asgiref", {}, {"sync": "asgiref", "inlined": False}),
    Contestant("pure", "pure", _FRESH, _ours("pure", "fresh"), everywhere=False),
    Contestant("compiled", "compiled", _FRESH, _ours("speedups", "fresh")),
    Contestant("keep", "compiled", _KEEP, _ours("speedups", "keep")),
    Contestant("django", "compiled", {**_FRESH, **_BRIDGED}, _ours("speedups", "fresh", _HANDLER)),
    Contestant(
        "django-keep", "compiled", {**_KEEP, **_BRIDGED}, _ours("speedups", "keep", _HANDLER)
    ),
    Contestant("gthread", "asgiref", {}, _GTHREAD, "gunicorn"),
    Contestant("gthread-keep", "asgiref", _PERSISTENT, _GTHREAD, "gunicorn", views=_QUERIES),
    Contestant("granian", "asgiref", {}, {**_WSGI, "server": "granian"}, "granian"),
    Contestant(
        "ceiling",
        "asgiref",
        _UNSAFE,
        {"sync": "asgiref", "inlined": True},
        views=_BRIDGING,
        everywhere=False,
    ),
)


@dataclass(frozen=True)
class Usage:
    """What a server has used so far."""

    cpu: float
    """Seconds, of all its threads, ended ones too."""
    resident: int
    """Bytes."""
    peak: int
    """Bytes, the most there ever were."""
    threads: int
    """Alive."""


class Server:
    """The site under a server, on a free port of the loopback."""

    def __init__(
        self,
        contestant: Contestant,
        circumstances: Circumstances,
        database: str,
        *,
        counting: bool = False,
        core: int | None = None,
        processes: int = 1,
    ) -> None:
        self.contestant = contestant
        self.circumstances = circumstances
        self.processes = processes
        self.base_url = ""
        self._command = [
            *(["taskset", "-c", str(core)] if core is not None else []),
            *(contestant.python, *contestant.command(circumstances.loop, processes)),
        ]
        self._environment = {
            **environment(contestant.implementation),
            "DJANGO_SETTINGS_MODULE": "benchsite.settings",
            "BENCHSITE_DATABASE": database,
            **contestant.environment,
        }
        if counting:
            self._environment["BENCHSITE_COUNT"] = "1"

    def __enter__(self) -> Self:
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            self._command,
            cwd=SITE,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            self._await_port()
            self._pids = self._session()
            self._verify()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        status = self.stop()
        # 130 and -2: uvicorn repeats the signal to itself once it has shut down.
        if error[0] is None and status not in (0, 130, -signal.SIGINT):
            raise ServerFailure(f"{self._name} ended with {status}:\n{self._printed}")

    def stop(self) -> int | None:
        """End it as Ctrl-C would, and kill it if that does not work; its exit status."""
        process = self._process
        try:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    pass
        finally:
            # On every way out: a second Ctrl-C interrupts the waiting. And its workers, too, which
            # are in its session: one that was killed has left them behind.
            for pid in self._session():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:  # it has just ended
                    pass
            process.wait()
            self._printed = self._log_text()
            self._log.close()
        return process.returncode

    @property
    def _name(self) -> str:
        return f"{self.contestant.name} ({self.circumstances})"

    def _log_text(self) -> str:
        # Not by this descriptor's position, at which the server writes.
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def _await_port(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._is_up():
            if self._process.poll() is not None:
                raise ServerFailure(f"{self._name} ended at once:\n{self._log_text()}")
            if time.monotonic() > deadline:
                raise ServerFailure(
                    f"{self._name} did not listen within {START_SECONDS:.0f} s:\n{self._log_text()}"
                )
            time.sleep(0.02)

    def _is_up(self) -> bool:
        # Of several processes of uvicorn's one may listen before another has imported the site.
        is_uvicorn = self.contestant.server == "uvicorn"
        if is_uvicorn and self._log_text().count(_STARTED) < self.processes:
            return False
        port = _port_of(self._session())
        if port is None:
            return False
        self.base_url = f"http://127.0.0.1:{port}"
        try:
            self.stats()
        except (OSError, http.client.HTTPException):  # of gunicorn the parent listens, at first
            return False
        return True

    def _session(self) -> list[int]:
        # The server's processes: it leads a session of its own.
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if os.getsid(int(folder.name)) == self._process.pid:
                    found.append(int(folder.name))
            except ProcessLookupError:  # it has just ended
                pass
        return found

    def _verify(self) -> None:
        circumstances = self.circumstances
        wanted = {
            "loop": None if self.contestant.is_wsgi else circumstances.loop,
            "database": {"sqlite": "sqlite3"}.get(circumstances.database, circumstances.database),
            "server": self.contestant.server,
            **self.contestant.answers,
        }
        if other := os.environ.get(OTHER_DJANGO):
            wanted["django"] = other
        stats = self.stats()
        for name, value in wanted.items():
            if stats[name] != value:
                raise ServerFailure(
                    f"asked for {self._name}, but the server's {name} is {stats[name]!r}, not "
                    f"{value!r}"
                )

    def stats(self) -> dict[str, Any]:
        """What it says it runs, and what it has counted."""
        # No proxy from the environment comes between.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self.base_url}/__stats__/", timeout=30) as answer:
            stats: dict[str, Any] = json.load(answer)
            return stats

    def settled_stats(self) -> dict[str, Any]:
        """The same once its figures stand still: a request may end after its answer."""
        stats = None
        while stats != (stats := self.stats()):
            time.sleep(0.05)
        return stats

    def usage(self) -> Usage:
        """Of all its processes; read from /proc, so that the server does nothing for it."""
        each = [self._usage_of(pid) for pid in self._pids]
        return Usage(
            sum(usage.cpu for usage in each),
            sum(usage.resident for usage in each),
            sum(usage.peak for usage in each),
            sum(usage.threads for usage in each),
        )

    @staticmethod
    def _usage_of(pid: int) -> Usage:
        folder = Path("/proc", str(pid))
        # The name, in parentheses, may have spaces in it; utime and stime are fields 14 and 15.
        fields = folder.joinpath("stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        status = dict(
            line.split(":", 1) for line in folder.joinpath("status").read_text().splitlines()
        )
        return Usage(
            ticks / os.sysconf("SC_CLK_TCK"),
            int(status["VmRSS"].split()[0]) * 1024,
            int(status["VmHWM"].split()[0]) * 1024,
            int(status["Threads"]),
        )

    @contextmanager
    def most_threads(self, every: float = 0.05) -> Iterator[list[int]]:
        """A list that is added to while the block runs: how many threads are alive."""
        ended = threading.Event()
        seen: list[int] = []

        def watch() -> None:
            while not ended.wait(every):
                try:
                    seen.append(self.usage().threads)
                except (OSError, KeyError):  # it has ended; whoever uses it will say so
                    return

        watcher = threading.Thread(target=watch, name="threads")
        watcher.start()
        try:
            yield seen
        finally:
            ended.set()
            watcher.join()


def _port_of(pids: list[int]) -> int | None:
    # On which these processes listen.
    sockets = set()
    for pid in pids:
        try:
            for each in Path("/proc", str(pid), "fd").iterdir():
                sockets.add(os.readlink(each))
        except OSError:  # it, or what it had open, has just gone
            pass
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        # The number of the line, both addresses in hexadecimal, the state ...; tenth the inode.
        fields = line.split()
        if fields[3] == _LISTENS and f"socket:[{fields[9]}]" in sockets:
            return int(fields[1].partition(":")[2], 16)
    return None


_LISTENS = "0A"
