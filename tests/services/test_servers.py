"""Every server with a Django site and with a plain ASGI application: a row of a table for each.

One run of a server has it all: pages, a stream, a websocket, a client that leaves, a reload by
signal, the database connections that it keeps, and a stop while requests are there.
"""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sites
from sites import AUTO, PURE, Implementation, Server
from websockets.asyncio.client import connect

import load
from programs import Postgres, free_port

REQUESTS = 200
AT_ONCE = 8
LIMIT = 4
"""Workers of asgibridge's for each process; threads of a WSGI server."""
HELD = 4
LINES = 5
PATIENCE = 30

# On the pure kernel Django's alone: for a server the kernels differ in what a stop finds waiting.
APPLICATIONS = pytest.mark.parametrize(
    ("application", "implementation"),
    [("django", AUTO), ("plain", AUTO), ("django", PURE)],
    ids=str,
)


@dataclass(frozen=True)
class Kind:
    """A server, and what it promises."""

    line: str
    interface: str = "asgi"
    processes: int = 2
    reload: signal.Signals | None = None
    """What has it replace its processes."""
    finishes: bool = True
    """Whether it ends the requests that are there when it is told to stop."""
    greenlets: bool = False
    """Whether a request has a thread of its own, and so a connection."""


GUNICORN = "gunicorn {application} -b 127.0.0.1:{port} -w 2 --no-control-socket"
GRANIAN = "granian {application} --port {port} --workers 2"
SERVERS = {
    "uvicorn": Kind("uvicorn {application} --port {port} --workers 2", reload=signal.SIGHUP),
    "gunicorn, gthread": Kind(
        f"{GUNICORN} -k gthread --threads {LIMIT}", "wsgi", reload=signal.SIGHUP
    ),
    "gunicorn, gevent": Kind(f"{GUNICORN} -k gevent", "wsgi", reload=signal.SIGHUP, greenlets=True),
    "gunicorn, uvicorn's": Kind(
        f"{GUNICORN} -k uvicorn.workers.UvicornWorker", reload=signal.SIGHUP
    ),
    # It cuts the requests of an application that has a lifespan, whoever's asgiref that has.
    "hypercorn": Kind(
        "hypercorn {application} -b 127.0.0.1:{port} -w 2 --graceful-timeout 10", finishes=False
    ),
    "daphne": Kind("daphne -b 127.0.0.1 -p {port} {application}", processes=1, finishes=False),
    "granian, asgi": Kind(f"{GRANIAN} --interface asgi", reload=signal.SIGHUP),
    "granian, wsgi": Kind(
        f"{GRANIAN} --interface wsgi --blocking-threads {LIMIT}", "wsgi", reload=signal.SIGHUP
    ),
}

_runs = itertools.count()


class Visit:
    """A running server as its clients see it."""

    def __init__(self, server: Server, port: int, notes: Path) -> None:
        self._server, self.port, self._notes = server, port, notes

    def get(self, path: str) -> bytes:
        """The body of a page, by a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
            assert response.status == 200, (response.status, body)
            return body
        finally:
            connection.close()

    def process(self) -> int:
        """The process that answers a page."""
        said = json.loads(self.get("/page/"))
        assert said["asgiref"] == "asgibridge.sync"
        number: int = said["process"]
        return number

    def answers(self) -> bool:
        try:
            self.process()
        except (OSError, http.client.HTTPException):
            return False
        return True

    def noted(self, word: str) -> int:
        return self._notes.read_text().split().count(word)

    def wait_for_note(self, word: str, times: int) -> None:
        sites.wait_until(
            lambda: self.noted(word) >= times,
            lambda: f"{word}: {self.noted(word)} of {times}\n{self._server.log()}",
            PATIENCE,
        )

    def leave(self) -> float:
        """Leave a stream in its middle; how many seconds it takes until its code knows."""
        before = self.noted("left")
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as client:
            client.sendall(b"GET /endless/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            received = b""
            while received.count(b"\n") < 12:  # its head, and some lines
                received += client.recv(4096)
                assert received
        began = time.monotonic()
        self.wait_for_note("left", before + 1)
        return time.monotonic() - began

    async def speak(self) -> None:
        url = f"ws://127.0.0.1:{self.port}/"
        async with connect(url, open_timeout=PATIENCE) as client:
            for word in ("one", "two", "three"):
                await client.send(word)
                said, backend = str(await asyncio.wait_for(client.recv(), PATIENCE)).split()
                assert said == word
                assert int(backend)

    def reload(self, number: signal.Signals, processes: int) -> int:
        """Have all processes replaced while clients go on asking; how many got no answer."""
        old = {self.process() for _ in range(10 * processes)}
        lost, is_over = 0, threading.Event()

        def ask() -> int:
            nonlocal lost
            asked = 0
            while not is_over.is_set():
                asked += 1
                lost += not self.answers()
            return asked

        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(ask)
            try:
                self._server.signal(number)
                in_turn = 0
                deadline = time.monotonic() + PATIENCE
                while in_turn < 10 * processes:
                    assert time.monotonic() < deadline, self._server.log()
                    try:
                        in_turn = 0 if self.process() in old else in_turn + 1
                    except (OSError, http.client.HTTPException):
                        in_turn = 0
            finally:
                is_over.set()
            assert asked.result(PATIENCE)
        return lost


@APPLICATIONS
@pytest.mark.parametrize("name", SERVERS)
def test_servers(
    postgres: Postgres,
    tmp_path: Path,
    row: Callable[..., None],
    name: str,
    application: str,
    implementation: Implementation,
) -> None:
    kind = SERVERS[name]
    program = kind.line.split()[0]
    pytest.importorskip(program)
    port, notes = free_port(), tmp_path / "notes"
    notes.touch()
    told = f"servers-{next(_runs)}"
    words = kind.line.format(application=f"served:{application}_{kind.interface}", port=port)
    server = Server(
        implementation,
        *words.split(),
        ready="",
        # Each says in words of its own that a client has left, or that it was told to stop.
        quiet=False,
        stop=signal.SIGTERM,
        BOARD_POSTGRES_PORT=str(postgres.port),
        BOARD_APPLICATION=told,
        BOARD_CONN_MAX_AGE="60",
        SERVED_NOTES=str(notes),
        ASGIBRIDGE_WORKERS="keep",
        ASGIBRIDGE_WORKERS_LIMIT=str(LIMIT),
        PYTHONPATH=str(sites.SITE),
        PYTHONWARNINGS="ignore::DeprecationWarning",
    )
    visit = Visit(server, port, notes)
    figures: dict[str, Any] = {"application": application, "asgiref is": implementation}
    with ThreadPoolExecutor(HELD) as pool:
        with server:
            sites.wait_until(visit.answers, server.log)
            answers = load.drive(
                f"http://127.0.0.1:{port}",
                lambda number: "/async/" if number % 2 else "/page/",
                requests=REQUESTS,
                concurrency=AT_ONCE,
            )
            assert answers.statuses == {200: REQUESTS}
            figures["pages/s"] = answers.per_second
            total, most = postgres.connects(told)
            figures["connections"] = f"{total}, {most} at once"
            if not kind.greenlets:
                assert len(answers.backends) <= total <= LIMIT * kind.processes + 1
            lines = [line.split() for line in visit.get("/stream/").decode().splitlines()]
            assert [line[0] for line in lines] == [str(number) for number in range(LINES)]
            figures["stream"] = "whole"
            figures["websocket"] = "-"
            if kind.interface == "asgi":
                asyncio.run(asyncio.wait_for(visit.speak(), PATIENCE))
                figures["websocket"] = "heard"
            figures["left after"] = f"{visit.leave():.2f} s"
            figures["lost in a reload"] = "-"
            if kind.reload:
                figures["lost in a reload"] = visit.reload(kind.reload, kind.processes)
            held: list[Future[bytes]] = [pool.submit(visit.get, "/held/") for _ in range(HELD)]
            visit.wait_for_note("held", HELD)
            stopped = time.monotonic()
        figures["stopped after"] = f"{time.monotonic() - stopped:.1f} s"
        ended = [each for each in held if each.exception(PATIENCE) is None]
        figures["ended"] = f"{len(ended)} of {HELD}"
    row(name, **figures)
    assert len(ended) == HELD or not kind.finishes
    assert load.connected_after(postgres, told, PATIENCE) == 0


RELOADERS = {
    "uvicorn": "uvicorn reloaded:application --port {port} --reload",
    "gunicorn": "gunicorn reloaded:wsgi -b 127.0.0.1:{port} --reload --no-control-socket",
    "hypercorn": "hypercorn reloaded:application -b 127.0.0.1:{port} --reload",
    "granian": "granian reloaded:application --port {port} --interface asgi --reload",
}
RELOADED = """
import asgiref.sync

async def application(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("no lifespan here")
    said = await asgiref.sync.sync_to_async(lambda: "WORD")()
    headers = [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    body = f"{said} {asgiref.sync.__name__}".encode()
    await send({"type": "http.response.body", "body": body})

async def word():
    return "WORD"

def wsgi(environ, start_response):
    start_response("200 OK", [("content-type", "text/plain")])
    said = asgiref.sync.async_to_sync(word)()
    return [f"{said} {asgiref.sync.__name__}".encode()]
"""


@pytest.mark.parametrize("name", RELOADERS)
def test_a_changed_file(tmp_path: Path, name: str) -> None:
    """Which the server itself looks for."""
    pytest.importorskip(name)
    source = tmp_path / "reloaded.py"
    source.write_text(RELOADED.replace("WORD", "one"))
    port = free_port()
    with Server(
        AUTO,
        *RELOADERS[name].format(port=port).split(),
        ready="",
        quiet=False,
        stop=signal.SIGTERM,
        site=tmp_path,
        PYTHONPATH=str(tmp_path),
        PYTHONWARNINGS="ignore::DeprecationWarning",
    ) as server:
        visit = Visit(server, port, tmp_path)

        def says(word: str) -> bool:
            try:
                return visit.get("/").decode() == f"{word} asgibridge.sync"
            except (OSError, http.client.HTTPException):
                return False

        sites.wait_until(lambda: says("one"), server.log)
        changes: list[float] = []

        def is_another() -> bool:
            # Again after a while: a server may answer before its watcher begins, which then misses
            # a change. Of another length each time: within a second that is what tells Python that
            # its .pyc is old.
            if not changes or time.monotonic() - changes[-1] > 5:
                changes.append(time.monotonic())
                source.write_text(RELOADED.replace("WORD", "another") + "\n" * len(changes))
            return says("another")

        sites.wait_until(is_another, server.log)
