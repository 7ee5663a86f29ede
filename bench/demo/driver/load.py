"""Measures the two servers under load, in turn.

The client is aiohttp, in this process: it costs a fraction of what the server spends on a page, and
the same for both. Only one server is driven at a time, and which of them goes first changes from
round to round, so that neither gets the quieter machine.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from .pages import browser, log_in
from .servers import DemoFailure, Server

PAGES = {"sync view": "/notes/", "async view": "/async/notes/"}
STATS = "/__stats__/"


@dataclass(frozen=True)
class Plan:
    rounds: int
    requests: int
    concurrency: int
    # One phase ends here even if its requests are not all done.
    phase_seconds: float = 4.0


FULL = Plan(rounds=5, requests=300, concurrency=20)
QUICK = Plan(rounds=2, requests=60, concurrency=20)


@dataclass(frozen=True)
class Round:
    """One page under load on one server, once."""

    requests_per_second: float
    p50_ms: float
    p99_ms: float
    threads_per_request: float


# Per page, per server's name, a Round for each round.
Results = dict[str, dict[str, list[Round]]]


class Client:
    """A logged-in user with as many connections as the plan allows, kept alive."""

    def __init__(self, server: Server, session: aiohttp.ClientSession, plan: Plan) -> None:
        self.server = server
        self._session = session
        self._plan = plan

    async def stats(self) -> dict[str, Any]:
        async with self._session.get(self.server.base_url + STATS) as response:
            answer: dict[str, Any] = await response.json()
            return answer

    async def threads_started(self) -> int:
        """The server's count, once it stands still: a request may end after its answer."""
        count = -1
        while count != (count := int((await self.stats())["threads_started"])):
            await asyncio.sleep(0.05)
        return count

    async def round(self, path: str) -> Round:
        threads = await self.threads_started()
        latencies: list[float] = []
        url = self.server.base_url + path
        waiting = iter(range(self._plan.requests))
        started = time.perf_counter()
        deadline = started + self._plan.phase_seconds

        async def worker() -> None:
            for _ in waiting:
                before = time.perf_counter()
                if before > deadline:
                    return
                async with self._session.get(url) as response:
                    await response.read()
                latencies.append(time.perf_counter() - before)
                if response.status != 200:
                    raise DemoFailure(
                        f"{self.server.name}: {path} gave {response.status} under load"
                    )

        await asyncio.gather(*(worker() for _ in range(self._plan.concurrency)))
        seconds = time.perf_counter() - started
        percentiles = statistics.quantiles(latencies, n=100, method="inclusive")
        return Round(
            requests_per_second=len(latencies) / seconds,
            p50_ms=percentiles[49] * 1000,
            p99_ms=percentiles[98] * 1000,
            threads_per_request=(await self.threads_started() - threads) / len(latencies),
        )


async def fetch_stats(base_url: str) -> dict[str, Any]:
    """What the server says about itself."""
    async with aiohttp.ClientSession() as session, session.get(base_url + STATS) as response:
        answer: dict[str, Any] = await response.json()
        return answer


async def measure(
    servers: Sequence[Server], plan: Plan, progress: Callable[[str], None]
) -> Results:
    """Drive every page on every server, in turn; ``progress`` is told what comes next."""
    results: Results = {page: {server.name: [] for server in servers} for page in PAGES}
    async with _clients(servers, plan) as clients:
        for page, path in PAGES.items():
            for client in clients:
                progress(f"warming up: {page}, {client.server.name}")
                await client.round(path)
        for number in range(plan.rounds):
            order = clients if number % 2 == 0 else clients[::-1]
            for page, path in PAGES.items():
                for client in order:
                    progress(f"round {number + 1}/{plan.rounds}: {page}, {client.server.name}")
                    results[page][client.server.name].append(await client.round(path))
    return results


@asynccontextmanager
async def _clients(servers: Sequence[Server], plan: Plan) -> AsyncIterator[list[Client]]:
    clients = []
    async with AsyncExitStack() as stack:
        for server in servers:
            async with browser(server.base_url) as user:
                await log_in(user)
                cookie = f"sessionid={user.cookies['sessionid']}"
            session = aiohttp.ClientSession(
                headers={"Cookie": cookie},
                connector=aiohttp.TCPConnector(limit=plan.concurrency),
            )
            clients.append(Client(server, await stack.enter_async_context(session), plan))
        yield clients
