"""The programs under test: Pythons with asgiref or asgibridge, each in a process of its own.

The same command starts them all, but for ``-m asgibridge run``; the program does not know.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

SITE = Path(__file__).parent / "site"
START_SECONDS = 30
STOP_SECONDS = 15


@dataclass(frozen=True)
class Implementation:
    """What answers when the program imports asgiref."""

    name: str
    launcher: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        return self.name

    def command(self, *program: str) -> list[str]:
        return [sys.executable, *self.launcher, *program]


_RUN = ("-m", "asgibridge", "run")
ASGIREF = Implementation("asgiref")
COMPILED = Implementation("compiled", _RUN, {"ASGIBRIDGE_SPEEDUPS": "require"})
PURE = Implementation("pure", _RUN, {"ASGIBRIDGE_SPEEDUPS": "off"})
AUTO = Implementation("auto", _RUN, {"ASGIBRIDGE_SPEEDUPS": "auto"})


def environment(implementation: Implementation, settings: dict[str, str]) -> dict[str, str]:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ASGIBRIDGE_", "PYTHON", "BOARD_", "PG"))
    }
    return {
        **inherited,
        "DJANGO_SETTINGS_MODULE": "board.settings",
        "PYTHONFAULTHANDLER": "1",
        **implementation.environment,
        **settings,
    }


def run(
    implementation: Implementation,
    *program: str,
    seconds: float = 60,
    site: Path = SITE,
    **settings: str,
) -> str:
    """What a program of the site's prints; it must succeed."""
    done = subprocess.run(
        implementation.command(*program),
        cwd=site,
        env=environment(implementation, settings),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def wait_until(
    holds: Callable[[], bool], say: Callable[[], str], seconds: float = START_SECONDS
) -> None:
    """Wait until ``holds()``; if it does not in time, ``say()`` tells what was waited for."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, say()
        time.sleep(0.02)


_LISTENING = r"(?:running on|Listening at:) http://127\.0\.0\.1:(?P<port>\d+)"

_TROUBLE = re.compile(
    r"^Traceback|\bException (in|ignored)\b|was never (awaited|retrieved)|Task was destroyed|"
    r"Fatal Python error|^CRITICAL|^ERROR|ResourceWarning",
    re.MULTILINE,
)


class Server:
    """A server of the site's, until the ``with`` block ends.

    It must end when told to, by the signal ``stop``, and must have logged no error, unless
    ``quiet=False``. It is ready when its log has what ``ready``, a pattern, says.
    """

    def __init__(
        self,
        implementation: Implementation,
        *program: str,
        quiet: bool = True,
        stop: signal.Signals = signal.SIGINT,
        ready: str = _LISTENING,
        site: Path = SITE,
        **settings: str,
    ) -> None:
        self.implementation = implementation
        self._program = program
        self._quiet = quiet
        self._signal = stop
        self._ready = ready
        self._site = site
        self._settings = settings

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def log(self) -> str:
        return Path(self._log.name).read_text(encoding="utf-8", errors="replace")

    def __enter__(self) -> Server:  # noqa: PYI034 - Self is 3.11's
        self._log = tempfile.NamedTemporaryFile(prefix="asgibridge-", suffix=".log")
        self._process = subprocess.Popen(
            self.implementation.command(*self._program),
            cwd=self._site,
            env=environment(self.implementation, self._settings),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        deadline = time.monotonic() + START_SECONDS
        while (listening := re.search(self._ready, self.log())) is None:
            if self._process.poll() is not None or time.monotonic() > deadline:
                log = self.log()
                self._end()
                raise AssertionError(f"{self._program} did not start:\n{log}")
            time.sleep(0.02)
        self.port = int(listening.groupdict().get("port") or 0)
        return self

    def __exit__(self, kind: object, error: BaseException | None, tb: object) -> None:
        ended_early = self._process.poll() is not None
        in_time = self._stop()
        log = self.log()
        self._end()
        if error is not None:
            print(f"--- log of {self.implementation} {self._program}:\n{log}")
            return
        assert not ended_early, f"the server ended by itself:\n{log}"
        assert in_time, f"the server did not end when it was told to:\n{log}"
        assert not (self._quiet and _TROUBLE.search(log)), log

    def _stop(self) -> bool:
        if self._process.poll() is None:
            self._process.send_signal(self._signal)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGABRT)  # prints every thread's stack
                self._process.wait(STOP_SECONDS)
                return False
        return True

    def _end(self) -> None:
        # The whole session: a server that had to be killed may have left its workers behind.
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()
        self._log.close()


def uvicorn(application: str, *options: str, loop: str = "asyncio") -> tuple[str, ...]:
    """The words that serve ``application`` on a free port."""
    return (
        *("-m", "uvicorn", application, "--host", "127.0.0.1", "--port", "0", "--loop", loop),
        *("--no-access-log", "--no-use-colors", *options),
    )
