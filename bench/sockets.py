"""Times Channels' websockets that use a database: on one thread, and on a worker for each.

    python bench/sockets.py [--quick] [--kernel off]

The site is that of tests/services, under uvicorn, on a PostgreSQL of our own. 200 clients each send
a message, get it back when the database has waited for 5 ms (``pg_sleep``), and send the next after
20 ms. Then so many idle sockets as ``--idle`` says are opened, each of which has used the database
once: what the server's memory grows by, for each of them. The rows: asgiref, whose sockets share a
thread; the same on asgibridge; and `asgibridge.workers.middleware` at limits of 8 and of 20
workers, which an idle socket gives back. The server's own memory for a socket is that of the row
without the middleware.

A server process a row. The clients share the machine with it, so take the speed as a hint only.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

SERVICES = Path(__file__).resolve().parents[1] / "tests" / "services"
# The tests' own. Beside them lie other modules: their folder comes last.
sys.path.append(str(SERVICES))

import sites  # noqa: E402
from websockets.asyncio.client import ClientConnection, connect  # noqa: E402

import programs  # noqa: E402

CLIENTS = 200
THINK_SECONDS = 0.02
PATIENCE = 300
AT_ONCE = 100
"""Clients that connect at the same time."""


@dataclass
class Row:
    """A server, and what was measured with it."""

    name: str
    implementation: sites.Implementation
    settings: dict[str, str]
    times: list[float] = field(default_factory=list)
    """Of each message, in seconds."""
    seconds: float = 0
    connections: int = 0
    kib: float = 0
    """Of memory, for each idle socket."""

    @property
    def per_second(self) -> float:
        return len(self.times) / self.seconds

    def percentile(self, percent: float) -> float:
        """In milliseconds."""
        ordered = sorted(self.times)
        return 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def rows(ours: sites.Implementation) -> list[Row]:
    def limited(limit: int) -> dict[str, str]:
        return {
            "ASGIBRIDGE_WORKERS": "keep",
            "ASGIBRIDGE_WORKERS_LIMIT": str(limit),
            "ASGIBRIDGE_WORKERS_RELEASE_IDLE": "0.01",
            "BOARD_SOCKETS_APART": "inside",
        }

    return [
        Row("asgiref, one thread", sites.ASGIREF, {}),
        Row("asgibridge, one thread", ours, {}),
        Row("middleware, limit 8", ours, limited(8)),
        Row("middleware, limit 20", ours, limited(20)),
    ]


async def enter(url: str, gate: asyncio.Semaphore) -> ClientConnection:
    async with gate:
        return await connect(url, ping_interval=None, open_timeout=PATIENCE)


async def talk(url: str, messages: int, row: Row) -> None:
    """All clients at once; their times go into the row."""
    gate = asyncio.Semaphore(AT_ONCE)
    clients = await asyncio.gather(*(enter(url, gate) for _ in range(CLIENTS)))

    async def speak(client: ClientConnection) -> None:
        for number in range(messages):
            started = time.perf_counter()
            await client.send(str(number))
            assert await client.recv() == str(number)
            row.times.append(time.perf_counter() - started)
            await asyncio.sleep(THINK_SECONDS)

    started = time.perf_counter()
    await asyncio.gather(*map(speak, clients))
    row.seconds = time.perf_counter() - started
    await asyncio.gather(*(client.close() for client in clients))


async def idle(url: str, count: int, pid: int) -> float:
    """The KiB by which the server has grown for each socket that is open, and has spoken once."""
    gate = asyncio.Semaphore(AT_ONCE)
    before = kib_of(pid)
    clients = await asyncio.gather(*(enter(url, gate) for _ in range(count)))

    async def speak(client: ClientConnection) -> None:
        async with gate:
            await client.send("once")
            assert await client.recv() == "once"

    await asyncio.gather(*map(speak, clients))
    await asyncio.sleep(2)  # they have given their workers back by then
    grown = kib_of(pid) - before
    await asyncio.gather(*(client.close() for client in clients))
    return grown / count


def kib_of(pid: int) -> int:
    """The memory that a process has in use, in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise RuntimeError(f"no memory of process {pid} in /proc")


def measure(row: Row, postgres: programs.Postgres, messages: int, sockets: int) -> None:
    application = row.name.replace(" ", "-").replace(",", "")
    server = sites.Server(
        row.implementation,
        *sites.uvicorn("board.asgi:application", "--ws", "websockets-sansio", loop="uvloop"),
        BOARD_POSTGRES_PORT=str(postgres.port),
        BOARD_APPLICATION=application,
        BOARD_CONN_MAX_AGE="60",
        **row.settings,
    )
    with server:
        url = f"ws://127.0.0.1:{server.port}/ws/slow/"
        asyncio.run(asyncio.wait_for(talk(url, messages, row), PATIENCE))
        pid = server._process.pid
        row.kib = asyncio.run(asyncio.wait_for(idle(url, sockets, pid), PATIENCE))
    row.connections = postgres.connects(application)[1]


def table(measured: list[Row]) -> list[str]:
    first = measured[0].per_second
    cells = [["", "messages/s", "times", "p50 ms", "p99 ms", "connections", "KiB a socket"]]
    cells += [
        [
            row.name,
            f"{row.per_second:.0f}",
            f"{row.per_second / first:.1f}",
            f"{row.percentile(50):.0f}",
            f"{row.percentile(99):.0f}",
            str(row.connections),
            f"{row.kib:.1f}",
        ]
        for row in measured
    ]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in cells
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer messages and sockets")
    parser.add_argument("--idle", type=int, default=1000, help="idle sockets (default: 1000)")
    parser.add_argument(
        "--kernel", choices=("require", "off"), default="require", help="ASGIBRIDGE_SPEEDUPS"
    )
    options = parser.parse_args()
    if programs.find("PostgreSQL") is None:
        print("bench-sockets: PostgreSQL is not installed (Debian: apt-get install postgresql)")
        return 2
    messages, sockets = (3, 200) if options.quick else (20, options.idle)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    ours = sites.COMPILED if options.kernel == "require" else sites.PURE
    measured = rows(ours)
    with programs.postgres() as postgres:
        port = str(postgres.port)
        sites.run(sites.ASGIREF, *MIGRATE, BOARD_POSTGRES_PORT=port)
        for row in measured:
            print(f"{row.name} ...", file=sys.stderr, flush=True)
            measure(row, postgres, messages, sockets)
    print(f"{CLIENTS} clients, {messages} messages each; {sockets} idle sockets;", end=" ")
    print(f"{os.cpu_count()} cores")
    print("\n".join(table(measured)))
    return 0


MIGRATE = ("manage.py", "migrate", "--verbosity", "0")

if __name__ == "__main__":
    sys.exit(main())
