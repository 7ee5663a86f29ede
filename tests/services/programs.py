"""PostgreSQL and Redis: where their programs are, and a server of each for the run of the tests.

A server belongs to the test run: data in a temporary directory, a free port on loopback, nothing
written to disk that need not be. PostgreSQL refuses to run as root; for root it runs as its own
user, or as nobody. Both are in the run's process group, so that what ends that ends them.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

PACKAGES = {"PostgreSQL": "postgresql", "Redis": "redis-server"}
"""What Debian calls them."""

START_SECONDS = 30
TRIES = 3


def find(service: str) -> str | None:
    """The server's program; for PostgreSQL that of the newest version."""
    if service == "Redis":
        return shutil.which("redis-server")
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/postgres"),
        key=lambda path: int(path.parts[-3]) if path.parts[-3].isdigit() else 0,
    )
    program = str(found[-1]) if found else shutil.which("postgres")
    # Homebrew and others link into PATH; initdb is beside the real one.
    return os.path.realpath(program) if program else None


class Postgres:
    """A running PostgreSQL. Whoever connects is trusted; its log has every connection."""

    user = database = "board"

    def __init__(self, port: int, log: Path) -> None:
        self.port = port
        self.log = log

    @property
    def dsn(self) -> str:
        return f"host=127.0.0.1 port={self.port} user={self.user} dbname={self.database}"

    def connects(self, application: str) -> tuple[int, int]:
        """How many connections ``application`` has made, and how many it had at once, at most."""
        alive: set[str] = set()
        total = most = 0
        for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines():
            connect = _CONNECT.search(line)
            if connect and connect["application"] == application:
                alive.add(connect["process"])
                total += 1
                most = max(most, len(alive))
            elif disconnect := _DISCONNECT.search(line):
                alive.discard(disconnect["process"])
        return total, most


_PREFIX = "pid=%p "
_CONNECT = re.compile(
    r"pid=(?P<process>\d+) LOG:  connection authorized: .*application_name=(?P<application>\S+)"
)
_DISCONNECT = re.compile(r"pid=(?P<process>\d+) LOG:  disconnection: ")

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "400",
    "log_connections": "on",
    "log_disconnections": "on",
    "log_line_prefix": _PREFIX,
    "log_min_messages": "warning",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "shared_buffers": "32MB",
    "dynamic_shared_memory_type": "mmap",
}


@contextmanager
def postgres(more: Mapping[str, str] = MappingProxyType({})) -> Iterator[Postgres]:
    """A new PostgreSQL with an empty database, until the ``with`` block ends.

    :param more: settings of its own, and others than we have by default.
    """
    program = find("PostgreSQL")
    assert program is not None
    owner = _unprivileged()
    # Not pytest's directory, which nobody but its owner may enter.
    with tempfile.TemporaryDirectory(prefix="asgibridge-postgres-") as directory:
        data, log = Path(directory, "data"), Path(directory, "log")
        if owner:
            os.chown(directory, owner["user"], owner["group"])
        locale = {"LC_ALL": "C.UTF-8", "PATH": os.environ.get("PATH", "")}
        subprocess.run(
            [
                *[str(Path(program).parent / "initdb"), "--pgdata", str(data), "--no-sync"],
                *["--auth", "trust", "--username", Postgres.user, "--encoding", "UTF8"],
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=directory,
            env=locale,
            **owner,
        )

        def command(port: int) -> list[str]:
            here = {"port": str(port), "unix_socket_directories": directory}
            options = [f"--{name}={value}" for name, value in {**_SETTINGS, **more, **here}.items()]
            return [program, "-D", str(data), *options]

        with _server(command, log, _postgres_answers, cwd=directory, env=locale, **owner) as port:
            yield Postgres(port, log)


@contextmanager
def redis() -> Iterator[int]:
    """The port of a new Redis that forgets everything, until the ``with`` block ends."""
    program = find("Redis")
    assert program is not None
    with tempfile.TemporaryDirectory(prefix="asgibridge-redis-") as directory:

        def command(port: int) -> list[str]:
            return [
                *[program, "--bind", "127.0.0.1", "--port", str(port), "--dir", directory],
                *["--save", "", "--appendonly", "no", "--daemonize", "no"],
            ]

        with _server(command, Path(directory, "log"), _redis_answers, cwd=directory) as port:
            yield port


def _unprivileged() -> dict[str, int]:
    # subprocess's arguments for a server that must not be root's; none if we are not.
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid}
    raise RuntimeError("PostgreSQL does not run as root, and there is no user postgres or nobody")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _server(
    command: Callable[[int], list[str]],
    log: Path,
    answers: Callable[[int], bool],
    **options: Any,
) -> Iterator[int]:
    # The port is free when we look, and may be somebody's when the server takes it: try again.
    for left in reversed(range(TRIES)):
        port = free_port()
        with log.open("ab") as output:
            process = subprocess.Popen(
                command(port),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                **options,
            )
        try:
            if not _comes_up(process, lambda port=port: answers(port)):
                if left and process.poll() is not None:
                    continue
                raise RuntimeError(f"{command(port)[0]} did not start:\n{log.read_text()}")
            yield port
            return
        finally:
            # For PostgreSQL the fast shutdown, which ends sessions; Redis has one way.
            process.send_signal(signal.SIGINT)
            try:
                process.wait(START_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _comes_up(process: subprocess.Popen[bytes], answers: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            return False
        if answers():
            return True
        time.sleep(0.02)
    return False


def _postgres_answers(port: int) -> bool:
    import psycopg

    try:
        with psycopg.connect(
            f"host=127.0.0.1 port={port} user={Postgres.user} dbname=postgres", autocommit=True
        ) as connection:
            connection.execute(f"CREATE DATABASE {Postgres.database}")
    except psycopg.OperationalError:
        return False
    return True


def _redis_answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
