"""Websockets with workers of their own: `asgibridge.workers.middleware` around Channels."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Callable
from typing import Any

import pytest
import sites
from sites import COMPILED, PURE, Implementation, Server
from websockets.asyncio.client import ClientConnection, connect

import load
from programs import Postgres

SOCKETS = 1000
AT_ONCE = 100
"""Clients that connect, or speak, at the same time."""
LIMIT = 20
PATIENCE = 60

KERNELS = pytest.mark.parametrize("implementation", [COMPILED, PURE], ids=str)


def serve(postgres: Postgres, implementation: Implementation, **settings: str) -> Server:
    return Server(
        implementation,
        *sites.uvicorn("board.asgi:application", "--ws", "websockets-sansio"),
        BOARD_POSTGRES_PORT=str(postgres.port),
        **settings,
    )


@KERNELS
@pytest.mark.parametrize("place", ["inside", "outside"])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_sync_code_of_two_sockets_runs_side_by_side(
    postgres: Postgres, implementation: Implementation, place: str, kind: str
) -> None:
    """Each waits on its thread for the other's."""

    async def meet(server: Server) -> list[str]:
        url = f"ws://127.0.0.1:{server.port}/ws/meeting/{kind}/"
        async with connect(url) as one, connect(url) as other:
            for client in (one, other):
                await client.send(str(PATIENCE))
            return [str(await client.recv()) for client in (one, other)]

    with serve(postgres, implementation, BOARD_SOCKETS_APART=place) as server:
        names = asyncio.run(asyncio.wait_for(meet(server), PATIENCE))
    assert "alone" not in names
    assert len(set(names)) == 2


@KERNELS
def test_idle_sockets_hold_no_worker_and_no_connection(
    postgres: Postgres, implementation: Implementation, row: Callable[..., None]
) -> None:
    """A thousand of them, of which each has used the database; nothing that they say is lost."""
    _allow_open_files(2 * SOCKETS + 500)
    application = f"sockets-{implementation}"
    with serve(
        postgres,
        implementation,
        ASGIBRIDGE_WORKERS="keep",
        ASGIBRIDGE_WORKERS_LIMIT=str(LIMIT),
        ASGIBRIDGE_WORKERS_RELEASE_IDLE="0.05",
        BOARD_SOCKETS_APART="inside",
        BOARD_APPLICATION=application,
        BOARD_CONN_MAX_AGE="60",
    ) as server:
        started = time.monotonic()
        with load.Activity(postgres, application) as activity:
            most = asyncio.run(asyncio.wait_for(_speak(server), 1.5 * PATIENCE))
        assert activity.samples > 20
    row(
        "a thousand idle websockets",
        **{
            "asgiref is": implementation,
            "limit": LIMIT,
            "workers": most,
            "connections": activity.most,
            "seconds": round(time.monotonic() - started, 1),
        },
    )
    assert 1 <= activity.most <= LIMIT
    assert 1 <= most <= LIMIT


async def _speak(server: Server) -> int:
    """Each client says something in a room of its own, twice, and idles with all others in between.

    Returns how many workers the server had at most.
    """
    gate = asyncio.Semaphore(AT_ONCE)
    clients: list[ClientConnection] = []
    most, is_over = 0, asyncio.Event()

    async def watch() -> None:
        nonlocal most
        while not is_over.is_set():
            figures: dict[str, Any] = (await asyncio.to_thread(load.state, server.url))["workers"]
            most = max(most, figures["alive"])

    async def enter(number: int) -> ClientConnection:
        async with gate:
            url = f"ws://127.0.0.1:{server.port}/ws/async/idle-{number}/"
            return await connect(url, ping_interval=None, open_timeout=PATIENCE)

    async def say(number: int, client: ClientConnection, word: str) -> None:
        async with gate:
            await client.send(f"{number}:{word}")
            assert await client.recv() == f"{number}:{word}"

    watching = asyncio.create_task(watch())
    try:
        clients = list(await asyncio.gather(*map(enter, range(SOCKETS))))
        for word in ("first", "second"):
            await asyncio.gather(*(say(n, client, word) for n, client in enumerate(clients)))
        idle = await asyncio.to_thread(_until_nobody_waits, server)
        assert idle["limit"] == LIMIT
    finally:
        is_over.set()
        await asyncio.gather(watching, *(client.close() for client in clients))
    return most


def _until_nobody_waits(server: Server) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE
    while True:
        figures: dict[str, Any] = load.state(server.url)["workers"]
        if not figures["waiting"]:
            return figures
        assert time.monotonic() < deadline, figures
        time.sleep(0.05)


def _allow_open_files(number: int) -> None:
    # For this process and for the servers that it starts.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < number:
        wanted = number if hard == resource.RLIM_INFINITY else min(number, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
