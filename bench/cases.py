"""The benchmark's cases: what is timed, for one implementation, in one process.

    python bench/cases.py asgibridge        print the seconds per operation of each case, as JSON

A case is a function of the number of operations, built for the implementation's `sync` and `local`
modules; everything it calls does nothing, so what is left is the bridge. ``floor`` is no
implementation but the least there is: `SimpleQueue.put` there, `call_soon_threadsafe` of a
future's `set_result` back. `bench/paired.py` runs this file, over and over, and makes the table.
"""

from __future__ import annotations

import argparse
import asyncio
import contextvars
import importlib
import json
import queue
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

Case = Callable[[int], None]


def nothing() -> None:
    pass


async def async_nothing() -> None:
    pass


def _awaited(body: Callable[[int], Awaitable[None]]) -> Case:
    def run(n: int) -> None:
        asyncio.run(body(n))  # type: ignore[arg-type]

    return run


def hops(library: str) -> dict[str, tuple[Case, int]]:
    """The cases of a bridge, each with how many operations make a sample."""
    sync: Any = importlib.import_module(f"{library}.sync")
    local: Any = importlib.import_module(f"{library}.local")
    call = sync.sync_to_async(nothing)
    pool_call = sync.sync_to_async(nothing, thread_sensitive=False)
    top = sync.async_to_sync(async_nothing)
    variables = [contextvars.ContextVar[int](f"v{i}") for i in range(100)]

    async def sequential(n: int) -> None:
        for _ in range(n):
            await call()

    async def gathered(n: int) -> None:
        for _ in range(n // 100):
            await asyncio.gather(*(call() for _ in range(100)))

    async def pool(n: int) -> None:
        for _ in range(n):
            await pool_call()

    async def with_variables(n: int) -> None:
        for variable in variables:
            variable.set(0)
        await sequential(n)

    async def in_worker(n: int) -> None:
        def work() -> None:
            for _ in range(n):
                top()

        await sync.sync_to_async(work)()

    async def contexts(n: int) -> None:
        for _ in range(n):
            async with sync.ThreadSensitiveContext():
                await call()

    def top_level(n: int) -> None:
        for _ in range(n):
            top()

    def build(n: int) -> None:
        for _ in range(n):
            sync.sync_to_async(nothing)

    class Methods:
        method = call

    methods = Methods()

    def bind(n: int) -> None:
        for _ in range(n):
            methods.method  # noqa: B018

    attributes = local.Local()
    attributes.value = 0

    def read(n: int) -> None:
        for _ in range(n):
            attributes.value  # noqa: B018

    def write(n: int) -> None:
        for i in range(n):
            attributes.value = i

    return {
        "await sync_to_async(f)()": (_awaited(sequential), 500),
        "100 gathered, per call": (_awaited(gathered), 1000),
        "thread_sensitive=False": (_awaited(pool), 500),
        "with 100 context variables": (_awaited(with_variables), 300),
        "back on the waiting main thread": (sync.async_to_sync(sequential), 500),
        "async_to_sync in a worker": (_awaited(in_worker), 500),
        "async_to_sync at the top level": (top_level, 60),
        "ThreadSensitiveContext, one call": (_awaited(contexts), 60),
        "building a wrapper": (build, 3000),
        "binding it to an instance": (bind, 3000),
        "Local read": (read, 20000),
        "Local write": (write, 20000),
    }


def floor() -> dict[str, tuple[Case, int]]:
    """The bare thread wake-ups, there and back, with none of a bridge's duties."""

    async def sequential(n: int) -> None:
        loop = asyncio.get_running_loop()
        inbox: queue.SimpleQueue[asyncio.Future[None] | None] = queue.SimpleQueue()

        def work() -> None:
            while True:
                future = inbox.get()
                if future is None:
                    return
                loop.call_soon_threadsafe(future.set_result, None)

        worker = threading.Thread(target=work)
        worker.start()
        for _ in range(n):
            future = loop.create_future()
            inbox.put(future)
            await future
        inbox.put(None)
        worker.join()

    return {"await sync_to_async(f)()": (_awaited(sequential), 500)}


def sample(case: Case, operations: int, samples: int) -> list[float]:
    """Seconds per operation of each sample, after one that does not count."""
    case(max(operations // 10, 100 if operations >= 1000 else 1))
    times = []
    for _ in range(samples):
        start = time.perf_counter()
        case(operations)
        times.append((time.perf_counter() - start) / operations)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("implementation", choices=["asgiref", "asgibridge", "floor"])
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--uvloop", action="store_true", help="run all loops on uvloop")
    options = parser.parse_args()
    if options.uvloop:
        import uvloop

        uvloop.install()
    kernel = options.implementation
    if kernel == "asgibridge":
        kernel = f"asgibridge {importlib.import_module('asgibridge').IMPLEMENTATION}"
    cases = floor() if kernel == "floor" else hops(options.implementation)
    times = {name: sample(case, n, options.samples) for name, (case, n) in cases.items()}
    json.dump({"implementation": kernel, "times": times}, sys.stdout)


if __name__ == "__main__":
    main()
