"""Websockets on real servers: two processes, one Redis, rooms that reach over both.

One server is on asyncio and one on uvloop; the servers may have different kernels, since what they
say to each other is Channels' business.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack

import psycopg
import pytest
import sites
from sites import ASGIREF, COMPILED, PURE, Implementation, Server
from websockets.asyncio.client import ClientConnection, connect

import load
from programs import Postgres

CLIENTS = 6
MESSAGES = 10
PATIENCE = 30


def serve(
    postgres: Postgres, redis_port: int | None, implementation: Implementation, loop: str
) -> Server:
    redis = {} if redis_port is None else {"BOARD_REDIS_PORT": str(redis_port)}
    return Server(
        implementation,
        *sites.uvicorn("board.asgi:application", "--ws", "websockets-sansio", loop=loop),
        BOARD_POSTGRES_PORT=str(postgres.port),
        **redis,
    )


async def _talk(servers: list[Server], kinds: list[str], room: str) -> list[list[str]]:
    """What each client heard, when each of them has said its ``MESSAGES`` to the room."""
    expected = CLIENTS * MESSAGES

    async def listen(client: ClientConnection) -> list[str]:
        return [str(await client.recv()) for _ in range(expected)]

    async def say(number: int, client: ClientConnection) -> None:
        for message in range(MESSAGES):
            await client.send(f"{number}:{message}")

    clients: list[ClientConnection] = []
    try:
        for number in range(CLIENTS):
            server = servers[number % len(servers)]
            kind = kinds[number // len(servers) % len(kinds)]
            url = f"ws://127.0.0.1:{server.port}/ws/{kind}/{room}/"
            # Accepted means in the room.
            clients.append(await connect(url))
        heard = asyncio.gather(*map(listen, clients))
        await asyncio.gather(*(say(number, client) for number, client in enumerate(clients)))
        return await asyncio.wait_for(heard, PATIENCE)
    finally:
        for client in clients:
            await client.close()


def _check(heard: list[list[str]], stored: list[str]) -> None:
    everything = {f"{n}:{m}" for n in range(CLIENTS) for m in range(MESSAGES)}
    for one in heard:
        assert set(one) == everything
        assert len(one) == len(everything)
        for number in range(CLIENTS):
            # One client's messages go through one consumer, one after the other.
            own = [said for said in one if said.startswith(f"{number}:")]
            assert own == [f"{number}:{m}" for m in range(MESSAGES)]
    assert sorted(stored) == sorted(everything)


def _stored(postgres: Postgres, room: str) -> list[str]:
    with psycopg.connect(postgres.dsn) as connection:
        rows = connection.execute("SELECT text FROM board_message WHERE room = %s", [room])
        return [text for (text,) in rows]


@pytest.mark.parametrize(
    ("first", "second", "kinds"),
    [
        (ASGIREF, ASGIREF, ["async", "sync"]),
        (COMPILED, COMPILED, ["async", "sync"]),
        (PURE, PURE, ["async", "sync"]),
        (COMPILED, PURE, ["pubsub"]),
    ],
)
def test_two_servers_and_redis(
    postgres: Postgres,
    redis_port: int,
    first: Implementation,
    second: Implementation,
    kinds: list[str],
    row: Callable[..., None],
) -> None:
    room = f"{first}-{second}-{kinds[0]}"
    started = time.monotonic()
    with ExitStack() as stack:
        servers = [
            stack.enter_context(serve(postgres, redis_port, first, "asyncio")),
            stack.enter_context(serve(postgres, redis_port, second, "uvloop")),
        ]
        assert [load.state(server.url)["loop"] for server in servers] == ["asyncio", "uvloop"]
        heard = asyncio.run(_talk(servers, kinds, room))
    _check(heard, _stored(postgres, room))
    row(
        f"websockets on redis, {' and '.join(kinds)}",
        **{
            "asgiref is": f"{first}, {second}",
            "messages": CLIENTS * MESSAGES,
            "heard": sum(map(len, heard)),
            "seconds": round(time.monotonic() - started, 1),
        },
    )


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("implementation", [COMPILED, PURE], ids=str)
def test_one_server_in_memory(
    postgres: Postgres, implementation: Implementation, loop: str, row: Callable[..., None]
) -> None:
    room = f"memory-{implementation}-{loop}"
    started = time.monotonic()
    with serve(postgres, None, implementation, loop) as server:
        heard = asyncio.run(_talk([server], ["async", "sync"], room))
    _check(heard, _stored(postgres, room))
    row(
        f"websockets in memory, {loop}",
        **{
            "asgiref is": implementation,
            "messages": CLIENTS * MESSAGES,
            "heard": sum(map(len, heard)),
            "seconds": round(time.monotonic() - started, 1),
        },
    )
