"""One thread, 2,000 clients and one that is slow: server-sent events and websockets on uvicorn.

Every client has a reader of one `Broadcast`: those that keep up get everything in order, the slow
one loses its oldest, and what is kept stays below the limit.
"""

from __future__ import annotations

import asyncio
import json
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
import sites
from sites import COMPILED, PURE, Implementation, Server

CLIENTS = 2000
MESSAGES = 60
ROOM = 20
"""Of the broadcast: site/fan_out.py."""
PAUSE = 0.5
"""Of the slow client, in seconds; five messages come meanwhile."""
AT_ONCE = 50
"""Connections that are opened at a time."""
SECONDS = 100


class Heard:
    """What a client has heard, and how late."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.delays: list[float] = []

    def add(self, text: str) -> None:
        number, told_at = json.loads(text)
        self.numbers.append(number)
        self.delays.append(time.time() - told_at)


async def listen_to_events(session: aiohttp.ClientSession, query: str, opening: Any) -> Heard:
    heard = Heard()
    await opening.acquire()
    async with session.get(f"/events{query}") as response:
        opening.release()
        async for line in response.content:
            if line.startswith(b"data: "):
                heard.add(line.removeprefix(b"data: ").decode())
    return heard


async def listen_at_socket(session: aiohttp.ClientSession, query: str, opening: Any) -> Heard:
    heard = Heard()
    await opening.acquire()
    async with session.ws_connect(f"/socket{query}") as socket:
        opening.release()
        async for message in socket:
            heard.add(message.data)
    return heard


async def figures(session: aiohttp.ClientSession) -> dict[str, Any]:
    async with session.get("/figures") as response:
        answer: dict[str, Any] = await response.json()
    return answer


async def listen(server: Server, client: Any) -> tuple[list[Heard], dict[str, Any]]:
    """What all clients have heard, the slow one first, and the figures afterwards."""
    async with aiohttp.ClientSession(
        server.url,
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=SECONDS),
    ) as session:
        opening = asyncio.Semaphore(AT_ONCE)
        tasks = [
            asyncio.ensure_future(client(session, "" if number else f"?pause={PAUSE}", opening))
            for number in range(CLIENTS)
        ]
        while (await figures(session))["readers"] < CLIENTS:
            await asyncio.sleep(0.1)
        async with session.get(f"/start?messages={MESSAGES}") as response:
            await response.read()
        return await asyncio.gather(*tasks), await figures(session)


@pytest.mark.slow
@pytest.mark.parametrize("client", [listen_to_events, listen_at_socket])
@pytest.mark.parametrize("implementation", [COMPILED, PURE], ids=str)
def test_one_thread_to_all_clients(
    implementation: Implementation, client: Any, row: Callable[..., None]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < 2 * CLIENTS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (2 * CLIENTS, max(hard, 2 * CLIENTS)))
    with Server(
        implementation, *sites.uvicorn("fan_out:application", "--ws", "websockets-sansio")
    ) as server:
        everybody, after = asyncio.run(listen(server, client))
    slow, *others = everybody
    assert after["readers"] == 0
    assert 0 < after["most"] <= ROOM
    assert slow.numbers == sorted(set(slow.numbers))
    assert slow.numbers[-1] == MESSAGES - 1
    missed = MESSAGES - len(slow.numbers)
    assert missed > 0
    # A machine that is too slow for all of them may have others miss some, too: each says so.
    for each in others:
        assert each.numbers == sorted(set(each.numbers))
    lost = sorted(MESSAGES - len(each.numbers) for each in everybody)
    assert sorted(after["missed"]) == [number for number in lost if number]
    delays = [delay for each in others for delay in each.delays]
    row(
        f"one thread to {CLIENTS} clients, {client.__name__.rpartition('_')[2]}",
        **{
            "kernel": implementation,
            "the slow one missed": missed,
            "others missed": sum(lost) - missed,
            "kept at most": after["most"],
            "median delay, ms": round(statistics.median(delays) * 1000),
            "longest, ms": round(max(delays) * 1000),
        },
    )
