"""A limit for all processes of a real server: how many these are, as each of them finds it."""

from __future__ import annotations

import json
import signal
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import sites
from sites import AUTO, Server

from programs import free_port

TOTAL = 12

SERVERS = {
    "uvicorn": ("uvicorn total_site:application --port {port}", TOTAL),
    "uvicorn, two": ("uvicorn total_site:application --port {port} --workers 2", 6),
    "uvicorn, from a program": ("uvicorn_of_its_own.py {port} 3", 4),
    "gunicorn": ("gunicorn total_site:application -w 3 {worker} -b 127.0.0.1:{port}", 4),
    "gunicorn, preloaded": (
        "gunicorn total_site:application -w 3 --preload {worker} -b 127.0.0.1:{port}",
        4,
    ),
    "gunicorn, by its file": (
        "gunicorn total_site:application -c gunicorn_of_six.py {worker} -b 127.0.0.1:{port}",
        2,
    ),
    "hypercorn": ("hypercorn total_site:application -w 2 --bind 127.0.0.1:{port}", 6),
    "granian": (
        "granian total_site:application --interface asginl --workers 2 --port {port}",
        6,
    ),
    "daphne": ("daphne -b 127.0.0.1 -p {port} total_site:application", TOTAL),
}
WORKER = "-k uvicorn.workers.UvicornWorker --no-control-socket"

SITE = """
import json

from asgibridge import workers
from asgibridge.sync import ThreadSensitiveContext, sync_to_async


async def application(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("no lifespan here")
    async with ThreadSensitiveContext():
        await sync_to_async(int)()
    body = json.dumps(workers.stats().limit).encode()
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""

PROGRAM = """
import sys

import uvicorn

if __name__ == "__main__":
    port, workers = map(int, sys.argv[1:])
    uvicorn.run("total_site:application", port=port, workers=workers)
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "total_site.py").write_text(SITE)
    (tmp_path / "uvicorn_of_its_own.py").write_text(PROGRAM)
    (tmp_path / "gunicorn_of_six.py").write_text("workers = 6\n")
    return tmp_path


@pytest.mark.parametrize("name", SERVERS)
def test_each_process_has_its_part(site: Path, name: str) -> None:
    line, expected = SERVERS[name]
    port = free_port()
    program, *words = line.format(port=port, worker=WORKER).split()
    if not program.endswith(".py"):
        pytest.importorskip(program)
    with Server(
        AUTO,
        program,
        *words,
        ready="",
        quiet=False,
        stop=signal.SIGTERM if program == "gunicorn" else signal.SIGINT,
        site=site,
        ASGIBRIDGE_WORKERS_LIMIT_TOTAL=str(TOTAL),
        PYTHONPATH=str(site),
        PYTHONWARNINGS="ignore::DeprecationWarning",
    ) as server:
        assert {_get(f"http://127.0.0.1:{port}/") for _ in range(10)} == {expected}
        assert "nothing tells how many server processes share it" not in server.log()
        if program == "gunicorn":
            # A worker has its arbiter's signal handlers until it sets its own, and forgets a
            # SIGTERM that comes before.
            begun = "Application startup complete."
            sites.wait_until(lambda: server.log().count(begun) == TOTAL // expected, server.log)


def _get(url: str) -> Any:
    deadline = time.monotonic() + sites.START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                return json.loads(response.read())
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
