"""One server of the site, of one process or more: started, asked what it runs, read from /proc, and
ended.

Whoever starts one must stop it on every way out. It runs in a session of its own, so that a Ctrl-C
in the terminal reaches it only through `stop`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from implementations import environment

if TYPE_CHECKING:
    from typing_extensions import Self

SITE = Path(__file__).with_name("site")
START_SECONDS = 30.0
STOP_SECONDS = 15.0
LOOPS = {"asyncio": "asyncio", "uvloop": "uvloop"}
_STARTED = "Started server process"
"""Logged by each process that serves, once it has imported the site."""
_LISTENING = re.compile(r"Uvicorn running on (http://127\.0\.0\.1:\d+)")


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

    @property
    def launcher(self) -> tuple[str, ...]:
        return () if self.implementation == "asgiref" else ("-m", "asgibridge", "run")


_UNSAFE = {
    "BENCHSITE_INLINE": "1",
    "DJANGO_ALLOW_ASYNC_UNSAFE": "1",
    "BENCHSITE_CONN_MAX_AGE": "60",
}

CONTESTANTS = (
    Contestant("asgiref", "asgiref", {}, {"sync": "asgiref", "inlined": False}),
    Contestant(
        "pure",
        "pure",
        {"ASGIBRIDGE_WORKERS": "fresh"},
        {"sync": "asgibridge", "kernel": "pure", "workers": "fresh"},
    ),
    Contestant(
        "compiled",
        "compiled",
        {"ASGIBRIDGE_WORKERS": "fresh"},
        {"sync": "asgibridge", "kernel": "speedups", "workers": "fresh"},
    ),
    Contestant(
        "compiled, keep",
        "compiled",
        {"ASGIBRIDGE_WORKERS": "keep", "BENCHSITE_CONN_MAX_AGE": "60"},
        {"sync": "asgibridge", "kernel": "speedups", "workers": "keep"},
    ),
    Contestant("ceiling", "asgiref", _UNSAFE, {"sync": "asgiref", "inlined": True}),
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


def prepare(directory: Path) -> Path:
    """The database that all servers read."""
    database = directory / "site.sqlite3"
    done = subprocess.run(
        [sys.executable, "prepare.py"],
        cwd=SITE,
        env={**environment("asgiref"), "BENCHSITE_DATABASE": str(database)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ServerFailure(f"the database could not be made:\n{done.stdout}")
    return database


class Server:
    """The site under uvicorn, on a free port of the loopback."""

    def __init__(
        self,
        contestant: Contestant,
        loop: str,
        database: Path,
        *,
        counting: bool = False,
        core: int | None = None,
        processes: int = 1,
    ) -> None:
        self.contestant = contestant
        self.loop = loop
        self.processes = processes
        self.base_url = ""
        self._command = [
            *(["taskset", "-c", str(core)] if core is not None else []),
            *(sys.executable, *contestant.launcher, "-m", "uvicorn", "benchsite.asgi:application"),
            *("--host", "127.0.0.1", "--port", "0", "--loop", LOOPS[loop], "--http", "httptools"),
            *("--lifespan", "off", "--no-access-log", "--no-use-colors"),
            *("--workers", str(processes)),
        ]
        self._environment = {
            **environment(contestant.implementation),
            "DJANGO_SETTINGS_MODULE": "benchsite.settings",
            "BENCHSITE_DATABASE": str(database),
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
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                pass
        if process.returncode is None:
            # Its session is its process group too: uvicorn's workers are in it.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._printed = self._log_text()
        self._log.close()
        return process.returncode

    @property
    def _name(self) -> str:
        return f"{self.contestant.name} under {self.loop}"

    def _log_text(self) -> str:
        # Not by this descriptor's position, at which the server writes.
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def _await_port(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        # The port is the kernel's choice. A lone process names it once it listens; before several
        # their parent does, and its socket refuses connections until the first of them listens.
        while not self._is_up():
            if self._process.poll() is not None:
                raise ServerFailure(f"{self._name} ended at once:\n{self._log_text()}")
            if time.monotonic() > deadline:
                raise ServerFailure(f"{self._name} did not listen within {START_SECONDS:.0f} s")
            time.sleep(0.02)

    def _is_up(self) -> bool:
        log = self._log_text()
        listening = _LISTENING.search(log)
        if listening is None or log.count(_STARTED) < self.processes:
            return False
        self.base_url = listening[1]
        try:
            self.stats()
        except urllib.error.URLError:
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
        wanted = {**self.contestant.answers, "loop": self.loop}
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
