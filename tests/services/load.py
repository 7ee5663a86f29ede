"""A real load client, and a look at the database's connections meanwhile."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import psycopg

from programs import Postgres

SAMPLE_SECONDS = 0.002


@dataclass
class Answers:
    """What came back."""

    statuses: dict[int, int] = field(default_factory=dict)
    backends: set[int] = field(default_factory=set)
    """The processes of PostgreSQL that the requests used."""
    seconds: float = 0

    @property
    def per_second(self) -> int:
        return round(sum(self.statuses.values()) / self.seconds)


def drive(url: str, path: Callable[[int], str], *, requests: int, concurrency: int) -> Answers:
    """Ask for ``path(0)``, ``path(1)``, ..., always ``concurrency`` of them at once."""
    return asyncio.run(_drive(url, path, requests, concurrency))


async def _drive(url: str, path: Callable[[int], str], requests: int, concurrency: int) -> Answers:
    answers = Answers()
    numbers = iter(range(requests))
    async with aiohttp.ClientSession(
        url,
        connector=aiohttp.TCPConnector(limit=concurrency),
        timeout=aiohttp.ClientTimeout(total=60),
    ) as session:

        async def user() -> None:
            for number in numbers:
                async with session.get(path(number)) as response:
                    status = response.status
                    answers.statuses[status] = answers.statuses.get(status, 0) + 1
                    if status == 200:
                        answers.backends.add((await response.json())["backend"])
                    else:
                        await response.read()

        started = time.perf_counter()
        await asyncio.gather(*(user() for _ in range(concurrency)))
        answers.seconds = time.perf_counter() - started
    return answers


def state(url: str, *, clear: bool = False) -> dict[str, Any]:
    """What the process says about itself; takes neither a thread nor a connection there."""

    async def fetch() -> Any:
        async with aiohttp.ClientSession(url) as session:
            async with session.get("/-/state?clear" if clear else "/-/state") as response:
                return await response.json()

    answer: dict[str, Any] = asyncio.run(fetch())
    return answer


class Activity:
    """Looks at ``pg_stat_activity``, over and over, until the ``with`` block ends."""

    def __init__(self, postgres: Postgres, application: str) -> None:
        self._dsn = postgres.dsn
        self._application = application
        self._ended = threading.Event()
        self.most = 0
        self.samples = 0

    def __enter__(self) -> Activity:  # noqa: PYI034 - Self is 3.11's
        self._connection = psycopg.connect(self._dsn, autocommit=True, application_name="activity")
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._connection.close()

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self.most = max(self.most, connected(self._connection, self._application))
            self.samples += 1


def connected(connection: psycopg.Connection[Any], application: str) -> int:
    """How many connections ``application`` has now."""
    found = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", [application]
    ).fetchone()
    assert found is not None
    number: int = found[0]
    return number


def connected_after(postgres: Postgres, application: str, seconds: float) -> int:
    """How many connections are left, as soon as there are none or the time is up."""
    deadline = time.monotonic() + seconds
    with psycopg.connect(postgres.dsn, autocommit=True, application_name="activity") as connection:
        while (left := connected(connection, application)) and time.monotonic() < deadline:
            time.sleep(0.05)
    return left
