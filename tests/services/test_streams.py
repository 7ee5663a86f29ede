"""Streams that wait hold no worker, and so no database connection: a thousand of them on 20.

Server-sent events of Django's under uvicorn, from PostgreSQL. Each stream asks the database when it
begins, and for each event that it is told of; pages ask it meanwhile.
"""

from __future__ import annotations

import asyncio
import itertools
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
import pytest
import sites
from sites import COMPILED, PURE, Implementation, Server

import load
from programs import Postgres

LIMIT = 20
STREAMS = 1000
EVENTS = ["first", "second"]
PAGES = 100

KERNELS = pytest.mark.parametrize("implementation", [COMPILED, PURE], ids=str)

_runs = itertools.count()


@contextmanager
def _files(count: int) -> Iterator[None]:
    """So many open files, for us and for the server that we start: one at each end of a stream."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard == resource.RLIM_INFINITY or hard >= count, f"this system allows {hard} files"
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Streams:
    """Open streams of one room, and what came through them."""

    def __init__(self, session: aiohttp.ClientSession, room: str) -> None:
        self._session = session
        self._room = room
        self._responses: list[aiohttp.ClientResponse] = []
        self.backends: set[str] = set()

    async def open(self, count: int) -> None:
        async def one() -> None:
            response = await self._session.get(f"/events/{self._room}/")
            assert response.status == 200
            self._responses.append(response)
            assert await response.content.readuntil(b"\n\n") == b": open\n\n"

        await asyncio.gather(*(one() for _ in range(count)))

    async def publish(self, text: str) -> int:
        async with self._session.get(f"/publish/{self._room}/", params={"text": text}) as response:
            listening: int = (await response.json())["listening"]
            return listening

    async def next_event(self) -> list[str]:
        """The text that each of them got."""

        async def one(response: aiohttp.ClientResponse) -> str:
            field, text, backend = (await response.content.readuntil(b"\n\n")).decode().split()
            assert field == "data:"
            self.backends.add(backend)
            return text

        return await asyncio.gather(*(one(response) for response in self._responses))

    def close(self) -> None:
        for response in self._responses:
            response.close()


async def _page_seconds(session: aiohttp.ClientSession, room: str) -> list[float]:
    seconds = []
    for number in range(PAGES):
        began = time.perf_counter()
        kind = "sync" if number % 2 else "async"
        async with session.get(f"/{kind}/{room}/", params={"text": str(number)}) as response:
            assert response.status == 200
            await response.read()
        seconds.append(time.perf_counter() - began)
    return seconds


async def _state(session: aiohttp.ClientSession) -> dict[str, int]:
    async with session.get("/-/state") as response:
        workers: dict[str, int] = (await response.json())["workers"]
        return workers


@KERNELS
def test_streams_that_wait_hold_nothing(
    postgres: Postgres, implementation: Implementation, row: Callable[..., None]
) -> None:
    application = f"streams-{next(_runs)}"
    room = f"room-{application}"
    seen: list[dict[str, int]] = []
    times: dict[str, list[float]] = {}

    async def visit(url: str) -> set[str]:
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=None, sock_read=60)
        async with aiohttp.ClientSession(url, connector=connector, timeout=timeout) as session:
            await _page_seconds(session, room)  # warm
            times["alone"] = await _page_seconds(session, room)
            streams = Streams(session, room)
            try:
                await streams.open(STREAMS)
                seen.append(await _state(session))
                times["beside"] = await _page_seconds(session, room)
                for text in EVENTS:
                    events = asyncio.ensure_future(streams.next_event())
                    assert await streams.publish(text) == STREAMS
                    assert await events == [text] * STREAMS
                    seen.append(await _state(session))
                deadline = time.monotonic() + 30
                while (await _state(session))["leased"] > 1 and time.monotonic() < deadline:
                    await asyncio.sleep(0.05)
                seen.append(await _state(session))
            finally:
                streams.close()
            return streams.backends

    server = Server(
        implementation,
        *sites.uvicorn("board.asgi:application", "--http", "httptools", "--backlog", "2048"),
        BOARD_POSTGRES_PORT=str(postgres.port),
        BOARD_APPLICATION=application,
        BOARD_CONN_MAX_AGE="60",
        ASGIBRIDGE_WORKERS="keep",
        ASGIBRIDGE_WORKERS_LIMIT=str(LIMIT),
        ASGIBRIDGE_WORKERS_WAIT_TIMEOUT="60",
    )
    activity = load.Activity(postgres, application)
    with _files(STREAMS + 200), server, activity:
        backends = asyncio.run(visit(server.url))
        total, most = postgres.connects(application)
    medians: dict[str, Any] = {
        f"page {name}, ms": round(statistics.median(each) * 1000, 1) for name, each in times.items()
    }
    row(
        f"{STREAMS} idle streams, limit {LIMIT}",
        **{"asgiref is": implementation, "connects": total, "at once": most},
        released=seen[-1]["released"],
        **medians,
    )
    assert activity.most <= LIMIT
    assert most <= LIMIT
    assert len(backends) <= LIMIT
    # One thread is the process's own.
    assert max(each["alive"] for each in seen) <= LIMIT + 1
    assert seen[-1]["leased"] <= 1
    # Those that were served last may have had the next event before they had idled.
    assert seen[-1]["released"] >= (STREAMS - LIMIT) * (1 + len(EVENTS))
    # Loose, because the machine is shared by servers and client.
    assert statistics.median(times["beside"]) < 3 * statistics.median(times["alone"]) + 0.01


def _bytes_a_stream(
    postgres: Postgres, implementation: Implementation, **settings: str
) -> tuple[float, int]:
    """What the server needs more for each stream that idles; and how many threads it has then."""
    application = f"streams-{next(_runs)}"
    room = f"room-{application}"

    async def state(session: aiohttp.ClientSession) -> dict[str, Any]:
        async with session.get("/-/state?collect") as response:
            found: dict[str, Any] = await response.json()
            return found

    async def visit(url: str) -> tuple[float, int]:
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=None, sock_read=60)
        async with aiohttp.ClientSession(url, connector=connector, timeout=timeout) as session:
            streams = Streams(session, room)
            try:
                await streams.open(STREAMS // 5)  # warm
                before = (await state(session))["resident"]
                await streams.open(STREAMS)
                deadline = time.monotonic() + 30
                while (now := await state(session))["workers"] and now["workers"]["leased"] > 1:
                    assert time.monotonic() < deadline, now
                    await asyncio.sleep(0.05)
            finally:
                streams.close()
            return (now["resident"] - before) / STREAMS, now["threads"]

    server = Server(
        implementation,
        *sites.uvicorn("board.asgi:application", "--http", "httptools", "--backlog", "2048"),
        BOARD_POSTGRES_PORT=str(postgres.port),
        BOARD_APPLICATION=application,
        BOARD_CONN_MAX_AGE="60",
        **settings,
    )
    with _files(2 * STREAMS), server:
        return asyncio.run(visit(server.url))


@pytest.fixture(scope="module")
def least(postgres: Postgres) -> float:
    """Bytes of a stream of Django's and the server's own: asgiref's, all on one thread."""
    found, threads = _bytes_a_stream(postgres, sites.ASGIREF, BOARD_WITHOUT_CONTEXTS="1")
    assert threads < 10
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@KERNELS
def test_the_memory_of_a_stream_that_waits(
    postgres: Postgres, implementation: Implementation, least: float, row: Callable[..., None]
) -> None:
    found, _threads = _bytes_a_stream(
        postgres,
        implementation,
        ASGIBRIDGE_WORKERS="keep",
        ASGIBRIDGE_WORKERS_LIMIT=str(LIMIT),
        ASGIBRIDGE_WORKERS_WAIT_TIMEOUT="60",
    )
    row(
        f"memory of each of {STREAMS} idle streams",
        **{
            "asgiref is": implementation,
            "KiB": round(found / 1024, 1),
            "KiB without contexts": round(least / 1024, 1),
        },
    )
    assert found - least <= 30 * 1024


@KERNELS
def test_a_transaction_and_a_cursor_keep_their_worker(
    postgres: Postgres, implementation: Implementation
) -> None:
    """What Django has open on the thread is there when the stream goes on."""
    printed = sites.run(
        implementation,
        "idle_streams.py",
        BOARD_POSTGRES_PORT=str(postgres.port),
        BOARD_APPLICATION=f"streams-{next(_runs)}",
        BOARD_CONN_MAX_AGE="60",
        ASGIBRIDGE_WORKERS="keep",
        ASGIBRIDGE_WORKERS_LIMIT="1",
        ASGIBRIDGE_WORKERS_RELEASE_IDLE="0.05",
    )
    assert printed.splitlines() == [
        *["a transaction on the database 'default'", "bound"],
        *["the generator", "11", "bound"],
        *["an open one", "bound"],
        "another",
    ]
