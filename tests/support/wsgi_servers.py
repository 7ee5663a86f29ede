"""Real servers on loopback, in processes of their own, and a client that hides nothing."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import children

SECONDS = 10

COMMANDS = {
    "uvicorn": ["-m", "uvicorn", "--fd", "{fd}", "--no-access-log", "wsgi_sites:application"],
    "hypercorn": [
        "-m",
        "hypercorn",
        "--workers",
        "0",
        "--bind",
        "fd://{fd}",
        "wsgi_sites:application",
    ],
    "gunicorn": ["-m", "gunicorn", "--bind", "fd://{fd}", "wsgi_sites:application"],
    "gunicorn-threads": [
        *["-m", "gunicorn", "--bind", "fd://{fd}", "--worker-class", "gthread"],
        *["--threads", "4", "wsgi_sites:application"],
    ],
}


def needs(*modules: str) -> None:
    """Skip the test, and say what to install, unless all are there; fail it in CI."""
    if sys.platform == "win32":
        pytest.skip("a listening socket can't be handed to a server here")
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        told = (
            f"NOT INSTALLED: {', '.join(missing)} (asgibridge[servers] has them, but for Django: "
            "tests/matrix.py installs that without asgiref)"
        )
        if os.environ.get("CI"):
            pytest.fail(told)
        pytest.skip(told)


class Server:
    """A server that runs until the ``with`` block ends; its log is shown if that fails."""

    def __init__(self, name: str, site: str) -> None:
        needs(name.partition("-")[0])
        self._name, self._site = name, site

    def __enter__(self) -> Server:  # noqa: PYI034 - Self is 3.11's
        # Listening from the start: a client needs not wait until the server is up.
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._log = tempfile.TemporaryFile()
        fd = self._socket.fileno()
        words = [word.format(fd=fd) for word in COMMANDS[self._name]]
        here = str(Path(__file__).parent)
        env = children.environment()
        env["WSGI_SITE"] = self._site
        env["PYTHONPATH"] = os.pathsep.join([here, *children.python_path()])
        self._process = subprocess.Popen(
            [sys.executable, *words],
            cwd=here,
            env=env,
            pass_fds=[fd],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._socket.close()
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            print(self.log())
            raise AssertionError(f"{self._name} did not end on SIGTERM") from None
        if kind is not None:
            print(self.log())
        self._log.close()

    def log(self) -> str:
        """What the server has printed so far."""
        self._log.seek(0)
        return self._log.read().decode("utf-8", "replace")

    def memory(self) -> int:
        """The largest number of bytes that the server's processes had in memory."""
        pids = [self._process.pid]
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                words = status.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(words[1]) == self._process.pid:
                pids.append(int(status.parent.name))
        return max(
            int(line.split()[1]) * 1024
            for pid in pids
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            if line.startswith("VmHWM")
        )

    def connect(self) -> socket.socket:
        """A connection to it."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS)

    def get(self, path: str, **options: Any) -> Answer:
        """One request on a connection of its own."""
        with self.connect() as connection:
            connection.sendall(request(path, **options))
            return read_answer(connection, is_head=options.get("method") == "HEAD")


def request(
    path: str,
    *,
    method: str = "GET",
    headers: tuple[tuple[str, str], ...] = (),
    body: bytes | None = None,
    chunked: bool = False,
) -> bytes:
    """The bytes of a request; the connection is to be closed after it."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers]
    if body is not None and chunked:
        lines.append("Transfer-Encoding: chunked")
        parts = [body[at : at + 50_000] for at in range(0, len(body), 50_000)]
        body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    elif body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


@dataclass
class Answer:
    """What came back, down to whether it was complete."""

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    is_complete: bool = False

    def essence(self) -> tuple[int, list[tuple[str, str]], bytes, bool]:
        """Without what is the server's alone."""
        own = ("server", "date", "connection", "transfer-encoding")
        headers = sorted(pair for pair in self.headers if pair[0] not in own)
        return self.status, headers, self.body, self.is_complete


def read_answer(connection: socket.socket, *, is_head: bool = False) -> Answer:
    """Read a response and the end of the connection."""
    with connection.makefile("rb") as file:
        line = file.readline()
        if not line:
            return Answer(0)
        answer = Answer(int(line.split()[1]))
        while (line := file.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            answer.headers.append((name.lower(), value.strip()))
        headers = dict(answer.headers)
        try:
            rest = file.read()
        except ConnectionError:
            return answer
    if is_head:
        answer.body, answer.is_complete = rest, True
    elif headers.get("transfer-encoding") == "chunked":
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            if not int(size, 16):
                answer.is_complete = True
                break
            answer.body += rest[: int(size, 16)]
            rest = rest[int(size, 16) + 2 :]
    else:
        answer.body = rest
        length = headers.get("content-length")
        answer.is_complete = length is None or int(length) == len(rest)
    return answer
