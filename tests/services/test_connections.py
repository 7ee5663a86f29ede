"""Database connections of a Django site under ASGI, counted by PostgreSQL itself.

Django keeps a connection in a thread-critical `Local` of the thread that made it, for CONN_MAX_AGE
seconds. That is of use only if the thread serves the next request too, which is what the policy
*keep* is for. Every run is a server process of its own with an ``application_name`` of its own.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
import sites
from sites import ASGIREF, COMPILED, PURE, Implementation, Server

import load
from programs import Postgres

REQUESTS = 1000
CONCURRENCY = 20
LIMIT = 20
IDLE_SECONDS = 1

KERNELS = pytest.mark.parametrize("implementation", [COMPILED, PURE], ids=str)

_runs = itertools.count()


class Run:
    """A server under load, and what the database saw of it."""

    def __init__(self, postgres: Postgres, server: Server, application: str) -> None:
        self._postgres = postgres
        self.server = server
        self.application = application
        self.most_seen = 0

    def drive(self, *, requests: int = REQUESTS, concurrency: int = CONCURRENCY) -> load.Answers:
        """Sync and async views in turn; nothing may be lost."""
        with load.Activity(self._postgres, self.application) as activity:
            answers = load.drive(
                self.server.url, self._path, requests=requests, concurrency=concurrency
            )
        assert activity.samples > 20
        self.most_seen = activity.most
        return answers

    def _path(self, number: int) -> str:
        kind = "sync" if number % 2 else "async"
        return f"/{kind}/{self.application}/?text={number}"

    def stored(self) -> list[int]:
        with psycopg.connect(self._postgres.dsn) as connection:
            found = connection.execute(
                "SELECT text::int FROM board_message WHERE room = %s ORDER BY 1",
                [self.application],
            ).fetchall()
        return [number for (number,) in found]

    def connects(self) -> tuple[int, int]:
        return self._postgres.connects(self.application)

    def left(self, seconds: float = 0) -> int:
        return load.connected_after(self._postgres, self.application, seconds)


@contextmanager
def serve(postgres: Postgres, implementation: Implementation, **settings: str) -> Iterator[Run]:
    application = f"run-{next(_runs)}"
    with Server(
        implementation,
        *sites.uvicorn("board.asgi:application", "--http", "httptools"),
        BOARD_POSTGRES_PORT=str(postgres.port),
        BOARD_APPLICATION=application,
        BOARD_CONN_MAX_AGE="60",
        **settings,
    ) as server:
        state = load.state(server.url)
        if implementation is ASGIREF:
            assert state["sync_module"] == "asgiref.sync"
        else:
            assert state["sync_module"] == "asgibridge.sync"
            assert state["kernel"] == {"compiled": "speedups", "pure": "pure"}[implementation.name]
        yield Run(postgres, server, application)


def test_as_it_was(postgres: Postgres, row: Callable[..., None]) -> None:
    """On asgiref: a connection for each request, and closed when the garbage collector comes."""
    with serve(postgres, ASGIREF) as run:
        answers = run.drive()
        total, most = run.connects()
        left = run.left()
    _report(row, "as it was", ASGIREF, answers, run, left)
    assert answers.statuses == {200: REQUESTS}
    assert total > REQUESTS * 0.9
    # What the others must have less of.
    assert most > 40


@KERNELS
@pytest.mark.parametrize(("limit", "at_most"), [(LIMIT, LIMIT), (None, 2 * CONCURRENCY)])
def test_keep(
    postgres: Postgres,
    implementation: Implementation,
    limit: int | None,
    at_most: int,
    row: Callable[..., None],
) -> None:
    """No more connections than workers, for all requests together; none when they have retired.

    Without a limit the next request may start before the context of the last one has exited.
    """
    settings = {
        "ASGIBRIDGE_WORKERS": "keep",
        "ASGIBRIDGE_WORKERS_IDLE_TIMEOUT": str(IDLE_SECONDS),
    }
    if limit:
        settings["ASGIBRIDGE_WORKERS_LIMIT"] = str(limit)
    with serve(postgres, implementation, **settings) as run:
        answers = run.drive()
        total, most = run.connects()
        kept = run.left()
        left = run.left(seconds=IDLE_SECONDS + 15)
    _report(row, f"keep, limit {limit or 'none'}", implementation, answers, run, left)
    assert answers.statuses == {200: REQUESTS}
    assert run.stored() == list(range(REQUESTS))
    assert 1 <= kept <= most <= at_most
    assert run.most_seen <= at_most
    assert len(answers.backends) <= total <= at_most
    assert left == 0


@KERNELS
def test_by_default_no_connection_outlives_its_request(
    postgres: Postgres, implementation: Implementation, row: Callable[..., None]
) -> None:
    """Not even with CONN_MAX_AGE: the thread looks like a new one to the next request."""
    with serve(postgres, implementation) as run:
        answers = run.drive()
        total, most = run.connects()
        left = run.left(seconds=1)
    _report(row, "default", implementation, answers, run, left)
    assert answers.statuses == {200: REQUESTS}
    assert run.stored() == list(range(REQUESTS))
    assert total == len(answers.backends) == REQUESTS
    # A next request may start before the last one's context has exited.
    assert most <= 2 * CONCURRENCY
    assert run.most_seen <= 2 * CONCURRENCY
    assert left == 0


@KERNELS
def test_a_limit_below_the_concurrency(
    postgres: Postgres, implementation: Implementation, row: Callable[..., None]
) -> None:
    """Whoever does not get a worker waits for one, in the order of arrival."""
    limit, concurrency = 8, 200
    with serve(
        postgres,
        implementation,
        ASGIBRIDGE_WORKERS="keep",
        ASGIBRIDGE_WORKERS_LIMIT=str(limit),
        ASGIBRIDGE_WORKERS_IDLE_TIMEOUT=str(IDLE_SECONDS),
    ) as run:
        answers = run.drive(concurrency=concurrency)
        leased = load.state(run.server.url)["leased"]
        total, most = run.connects()
        left = run.left(seconds=IDLE_SECONDS + 15)
    _report(row, f"keep, limit {limit}, {concurrency} at once", implementation, answers, run, left)
    assert answers.statuses == {200: REQUESTS}
    assert run.stored() == list(range(REQUESTS))
    assert total <= limit
    assert most <= limit
    assert run.most_seen <= limit
    assert left == 0
    assert sorted(leased) == list(range(REQUESTS))
    assert passed_over(leased) < limit


def passed_over(order: list[int]) -> int:
    """The most who came before anyone, and were served after him.

    Workers that are taken in order may begin in another, so it may be one for each other worker.
    """
    served: list[int] = []
    most = 0
    for number in order:
        # Those before him are 0 to number - 1.
        most = max(most, number - bisect.bisect(served, number))
        bisect.insort(served, number)
    return most


def _report(
    row: Callable[..., None],
    what: str,
    implementation: Implementation,
    answers: load.Answers,
    run: Run,
    left: int,
) -> None:
    total, most = run.connects()
    figures: dict[str, Any] = {
        "asgiref is": implementation,
        "answered": answers.statuses.get(200, 0),
        "failed": sum(answers.statuses.values()) - answers.statuses.get(200, 0),
        "connects": total,
        "at once": most,
        "sampled": run.most_seen,
        "left": left,
        "per second": answers.per_second,
    }
    row(what, **figures)
