"""Transactions, queries and streams of tasks: ``board``'s tests of them, on each database client.

The tests themselves are in ``site/board``: they run under ``manage.py test``, as a site's own.
"""

from __future__ import annotations

import json
import re
import socket
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sites
from sites import COMPILED, PURE, Implementation, Server

from programs import Postgres

KERNELS = pytest.mark.parametrize("implementation", [COMPILED, PURE], ids=str)


@KERNELS
@pytest.mark.parametrize(
    "client", ["psycopg", pytest.param("psycopg2", marks=pytest.mark.slow), "sqlite"]
)
@pytest.mark.parametrize(
    ("tests", "least"),
    [("transaction_tests", 30), ("query_tests", 20), ("stream_tests", 12)],
)
def test_of_the_board(
    implementation: Implementation,
    client: str,
    tests: str,
    least: int,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    row: Callable[..., None],
) -> None:
    settings = {"BOARD_CLIENT": client, "BOARD_DIRECTORY": str(tmp_path)}
    if client != "sqlite":
        pytest.importorskip(client)
        settings["BOARD_POSTGRES_PORT"] = str(request.getfixturevalue("postgres").port)
    output = sites.run(
        implementation,
        *("manage.py", "test", f"board.{tests}", "--settings", "board.tasks_settings"),
        "--noinput",
        seconds=110,
        **settings,
    )
    found = re.search(r"^Ran (\d+) tests in", output, re.MULTILINE)
    assert found is not None, output
    assert int(found[1]) >= least, output
    assert "\nOK" in output
    assert "skipped" not in output
    assert "Exception ignored" not in output, output
    row(f"{tests}, {client}", **{"asgiref is": implementation, "tests": found[1]})


def get(server: Server, path: str) -> Any:
    with urllib.request.urlopen(f"{server.url}{path}", timeout=30) as response:
        return json.loads(response.read())


def open_request(server: Server, path: str) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", server.port), 30)
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    return client


def serve(
    implementation: Implementation, client: str, port: int, application: str, workers: int
) -> Server:
    return Server(
        implementation,
        *sites.uvicorn("board.tasks_asgi:application"),
        DJANGO_SETTINGS_MODULE="board.tasks_settings",
        BOARD_OF_TASKS=str(workers),
        BOARD_CLIENT=client,
        BOARD_POSTGRES_PORT=str(port),
        BOARD_APPLICATION=application,
        BOARD_CONN_MAX_AGE="60",
    )


class Activity:
    """Which queries the database is in the middle of for a server."""

    def __init__(self, connection: psycopg.Connection[Any], application: str) -> None:
        self._connection = connection
        self._application = application

    def sleeps(self) -> int:
        found = self._connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
            " AND state = 'active' AND query LIKE '%%pg_sleep%%'",
            [self._application],
        ).fetchone()
        assert found is not None
        return int(found[0])

    def wait_for(self, sleeps: int, seconds: float) -> float:
        started = time.monotonic()
        while self.sleeps() != sleeps:
            assert time.monotonic() - started < seconds
            time.sleep(0.01)
        return time.monotonic() - started


@KERNELS
@pytest.mark.parametrize("client", ["psycopg", "psycopg2"])
def test_a_query_is_gone_within_a_second_of_its_client(
    postgres: Postgres, implementation: Implementation, client: str, row: Callable[..., None]
) -> None:
    pytest.importorskip(client)
    application = f"leaves-{implementation}-{client}"
    with (
        psycopg.connect(postgres.dsn, autocommit=True) as connection,
        serve(implementation, client, postgres.port, application, workers=1) as server,
    ):
        activity = Activity(connection, application)
        before = get(server, "/state/")
        took = {}
        for view in ("sync-view", "transaction", "async-view", "gather", "stream"):
            request = open_request(server, f"/{view}/")
            activity.wait_for(1, seconds=30)
            request.close()
            took[view] = activity.wait_for(0, seconds=1)
            # On the same connection, and nothing is left of a transaction.
            assert get(server, "/state/") == before, view
    row(
        f"a query's end after its client's, {client}",
        **{"asgiref is": implementation, "most ms": round(max(took.values()) * 1000)},
    )


@KERNELS
def test_a_client_that_leaves_a_stream(postgres: Postgres, implementation: Implementation) -> None:
    """What the client does not read is not made, and the generator is closed on its thread."""
    with serve(implementation, "psycopg", postgres.port, "streams", workers=2) as server:
        request = open_request(server, "/endless/")
        received = 0
        while received < 10_000_000:
            received += len(request.recv(65536))
        # The sockets' buffers are full.
        made, last = get(server, "/seen/")["made"], -1
        while made != last:
            time.sleep(0.2)
            made, last = get(server, "/seen/")["made"], made
        assert received < made * 65536 < 200_000_000
        request.close()
        until = time.monotonic() + 10
        while (seen := get(server, "/seen/"))["closed"] is None:
            assert time.monotonic() < until
            time.sleep(0.02)
        assert seen["threads"] == 1
