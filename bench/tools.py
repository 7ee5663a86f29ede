"""Times the tools around the bridge: communicators, and iterators across threads.

    python bench/tools.py [--rounds 5] [--json FILE]

Each process measures one implementation, pinned to one core where that can be done; they run in
turn, A B C A B C …, and minima are compared. The rivals: asgiref's communicator; for iterators a
`sync_to_async` hop for each item (what asgiref's users write), Starlette's `iterate_in_threadpool`,
and the list that Django makes of a sync streaming response, which is as fast as it gets and keeps
all items in memory. Memory is what tracemalloc sees at its peak, iterating over items of 10 kB.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import platform
import subprocess
import sys
import time
import tracemalloc
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

from implementations import has_compiled_kernel

ITEMS = 10_000
ROUND_TRIPS = 2_000
SAMPLES = 5

Iterate = Callable[[Iterator[Any]], AsyncIterator[Any]]


def numbers(n: int) -> Iterator[int]:
    yield from range(n)


def chunks(n: int) -> Iterator[bytes]:
    for _ in range(n):
        yield bytes(10_000)


async def anumbers(n: int) -> AsyncIterator[int]:
    for i in range(n):
        yield i


def best(function: Callable[[], None], operations: int) -> float:
    """The least seconds per operation."""
    function()
    times = []
    for _ in range(SAMPLES):
        started = time.perf_counter()
        function()
        times.append((time.perf_counter() - started) / operations)
    return min(times)


def communicator(library: str) -> dict[str, float]:
    testing = importlib.import_module(f"{library}.testing")

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        while True:
            await send(await receive())

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        while True:
            message = await receive()
            for _ in range(3):
                await asyncio.sleep(0)
            await send(message)

    async def talk(application: Any) -> None:
        communicator = testing.ApplicationCommunicator(application, {})
        message = {"type": "websocket.receive", "text": "x"}
        for _ in range(ROUND_TRIPS):
            await communicator.send_input(message)
            await communicator.receive_output()
        await communicator.wait(0)

    return {
        "communicator: a round trip": best(lambda: asyncio.run(talk(echo)), ROUND_TRIPS),
        "the same, three turns later": best(lambda: asyncio.run(talk(slow)), ROUND_TRIPS),
    }


def iteration(iterate: Iterate) -> dict[str, float]:
    async def consume(items: Iterator[Any]) -> None:
        async for _ in iterate(items):
            pass

    seconds = best(lambda: asyncio.run(consume(numbers(ITEMS))), ITEMS)
    tracemalloc.start()
    asyncio.run(consume(chunks(2_000)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {"async for, an item": seconds, "peak of 2,000 items of 10 kB": peak}


def per_item_hop(library: str) -> Iterate:
    sync = importlib.import_module(f"{library}.sync")

    async def iterate(items: Iterator[Any]) -> AsyncIterator[Any]:
        step = sync.sync_to_async(next)
        end = object()
        while True:
            item = await step(items, end)
            if item is end:
                return
            yield item

    return iterate


def as_list(library: str) -> Iterate:
    sync = importlib.import_module(f"{library}.sync")

    async def iterate(items: Iterator[Any]) -> AsyncIterator[Any]:
        for item in await sync.sync_to_async(list)(items):
            yield item

    return iterate


def starlette() -> Iterate:
    from starlette.concurrency import iterate_in_threadpool

    return iterate_in_threadpool


def ours() -> dict[str, float]:
    from asgibridge.iterators import async_to_sync_iterator, sync_to_async_iterator

    def the_other_way() -> None:
        for _ in async_to_sync_iterator(anumbers(ITEMS)):
            pass

    return {
        **communicator("asgibridge"),
        **iteration(sync_to_async_iterator),
        "for over an async generator, an item": best(the_other_way, ITEMS),
    }


CASES: dict[str, tuple[Callable[[], dict[str, float]], str]] = {
    "asgiref": (lambda: {**communicator("asgiref"), **iteration(per_item_hop("asgiref"))}, "auto"),
    "starlette": (lambda: iteration(starlette()), "auto"),
    "asgiref, list": (lambda: iteration(as_list("asgiref")), "auto"),
    "hop an item, pure": (lambda: iteration(per_item_hop("asgibridge")), "off"),
    "hop an item, compiled": (lambda: iteration(per_item_hop("asgibridge")), "require"),
    "asgibridge, pure": (ours, "off"),
    "asgibridge, compiled": (ours, "require"),
}


def measure(name: str) -> dict[str, float]:
    """One implementation, in a process of its own."""
    core = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    done = subprocess.run(
        [sys.executable, __file__, "--only", name],
        env={**os.environ, "ASGIBRIDGE_SPEEDUPS": CASES[name][1]},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        preexec_fn=None if core is None else lambda: os.sched_setaffinity(0, {core}),
    )
    answer: dict[str, float] = json.loads(done.stdout)
    return answer


def show(case: str, value: float) -> str:
    return f"{value / 1e6:.2f} MB" if case.startswith("peak") else f"{value * 1e6:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="processes of each (default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument("--only", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(CASES[options.only][0]()))
        return
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    names = list(CASES)
    if not has_compiled_kernel():
        names = [name for name in names if CASES[name][1] != "require"]
    figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    turns = [name for _ in range(options.rounds) for name in names]
    for name in track(turns, "measuring", console=Console(stderr=True)):
        for case, value in measure(name).items():
            figures[case][name].append(value)
    title = (
        f"CPython {platform.python_version()}, {platform.machine()}, pinned to one core, µs: "
        f"minimum of {options.rounds} processes"
    )
    table = Table("", *names, title=title)
    for case, by_name in figures.items():
        cells = [show(case, min(by_name[name])) if name in by_name else "" for name in names]
        table.add_row(case, *cells)
    Console(width=160).print(table)
    if options.json:
        options.json.write_text(json.dumps({"title": title, "figures": figures}, indent=1))


if __name__ == "__main__":
    main()
