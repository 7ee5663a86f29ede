"""Times message queues between threads and event loops: ours, and everybody's who has any.

    python bench/queues.py [--rounds 5] [--items 100000] [--unpinned] [--json FILE]
    python bench/queues.py --only NAME          one of them, in this process: its times, as JSON

A case is so many items through one queue, from the first put to the last get, nothing done with
them; in a ping-pong, a tenth as many round trips through two. Every implementation has a process
of its own, in turn, A B C A B C …, pinned to one core unless told otherwise. Minima are compared,
since noise only ever adds. ``floor`` is no queue but the least a round trip can be:
`SimpleQueue.put` there, ``call_soon_threadsafe(future.set_result)`` back.

Broadcasts, rings, channels and waits for several queues are in queue_shapes.py.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import platform
import queue
import statistics
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import queue_shapes
from implementations import has_compiled_kernel

ROOM = 100
"""In a bounded queue."""


class Ends(NamedTuple):
    """The four ways into and out of one queue; None where there is none."""

    sync_put: Callable[[Any], Any] | None = None
    sync_get: Callable[[], Any] | None = None
    put: Callable[[Any], Any] | None = None
    get: Callable[[], Any] | None = None


Make = Callable[[int], Ends]


def ours(room: int) -> Ends:
    from asgibridge.queue import MessageQueue

    made: Any = MessageQueue(room)
    return Ends(made.sync_put, made.sync_get, made.put, made.get)


def two_views(library: str, room: int) -> Ends:
    made: Any = importlib.import_module(library).Queue(room)
    threads, tasks = made.sync_q, made.async_q
    return Ends(threads.put, threads.get, tasks.put, tasks.get)


def aiologic(name: str, room: int) -> Ends:
    kind: Any = getattr(importlib.import_module("aiologic"), name)
    if name == "SimpleQueue":
        if room:
            return Ends()
        made = kind()
    else:
        made = kind(room or None)
    return Ends(made.green_put, made.green_get, made.async_put, made.async_get)


def of_threads(kind: Any, room: int) -> Ends:
    """Tasks can put into these, as long as there is always room."""
    if room and kind is queue.SimpleQueue:
        return Ends()
    made = kind(room) if room else kind()
    if room:
        return Ends(made.put, made.get)

    async def put(item: Any) -> None:
        made.put(item)

    return Ends(made.put, made.get, put)


def of_asyncio(room: int) -> Ends:
    """Threads can put into this by way of its loop, as long as there is always room."""
    made: asyncio.Queue[Any] = asyncio.Queue(room)
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return Ends()
    through_loop = None if room else partial(loop.call_soon_threadsafe, made.put_nowait)
    return Ends(through_loop, None, made.put, made.get)


IMPLEMENTATIONS: dict[str, Make | None] = {
    "asgibridge": ours,
    "asgibridge, queues": ours,  # by hand what the other shapes are for
    "janus": partial(two_views, "janus"),
    "culsans": partial(two_views, "culsans"),
    "aiologic.SimpleQueue": partial(aiologic, "SimpleQueue"),
    "aiologic.Queue": partial(aiologic, "Queue"),
    "asyncio.Queue": of_asyncio,
    "queue.SimpleQueue": partial(of_threads, queue.SimpleQueue),
    "queue.Queue": partial(of_threads, queue.Queue),
    "anyio": None,
    "trio": None,
    "floor": None,
}

ONE_LOOP = {"janus", "asyncio.Queue"}
ONLY_SHAPES = {"asgibridge, queues", "anyio", "trio"}


class Missing(Exception):
    """The implementation has no such end."""


def need(*ends: Any) -> None:
    if None in ends:
        raise Missing


def started(*targets: Callable[[], object]) -> list[threading.Thread]:
    threads = [threading.Thread(target=target) for target in targets]
    for thread in threads:
        thread.start()
    return threads


def joined(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join()


def put_all(put: Any, n: int) -> None:
    for i in range(n):
        put(i)


def get_all(get: Any, n: int) -> None:
    for _ in range(n):
        get()


async def put_all_async(put: Any, n: int) -> None:
    for i in range(n):
        await put(i)


async def get_all_async(get: Any, n: int) -> None:
    for _ in range(n):
        await get()


async def threads_to_task(make: Make, room: int, n: int, threads: int = 1) -> float:
    ends = make(room)
    need(ends.sync_put, ends.get)
    start = time.perf_counter()
    producers = started(*[partial(put_all, ends.sync_put, n // threads)] * threads)
    await get_all_async(ends.get, n // threads * threads)
    taken = time.perf_counter() - start
    joined(producers)
    return taken


async def task_to_thread(make: Make, room: int, n: int) -> float:
    ends = make(room)
    need(ends.put, ends.sync_get)
    start = time.perf_counter()
    consumers = started(partial(get_all, ends.sync_get, n))
    await put_all_async(ends.put, n)
    joined(consumers)
    return time.perf_counter() - start


async def task_to_task(make: Make, room: int, n: int) -> float:
    ends = make(room)
    need(ends.put, ends.get)
    start = time.perf_counter()
    producer = asyncio.ensure_future(put_all_async(ends.put, n))
    await get_all_async(ends.get, n)
    await producer
    return time.perf_counter() - start


async def thread_to_thread(make: Make, room: int, n: int) -> float:
    ends = make(room)
    need(ends.sync_put, ends.sync_get)
    start = time.perf_counter()
    threads = started(partial(put_all, ends.sync_put, n), partial(get_all, ends.sync_get, n))
    joined(threads)
    return time.perf_counter() - start


async def thread_to_loops(make: Make, room: int, n: int, loops: int = 4) -> float:
    ends = make(room)
    need(ends.sync_put, ends.get)
    ready = threading.Barrier(loops + 1)

    async def consume() -> None:
        ready.wait()
        await get_all_async(ends.get, n // loops)

    consumers = started(*[lambda: asyncio.run(consume())] * loops)
    ready.wait()
    start = time.perf_counter()
    put_all(ends.sync_put, n // loops * loops)
    joined(consumers)
    return time.perf_counter() - start


async def ping_pong(make: Make, room: int, n: int) -> float:
    there, back = make(room), make(room)
    need(there.put, there.sync_get, back.sync_put, back.get)

    def answer() -> None:
        for _ in range(n):
            back.sync_put(there.sync_get())  # type: ignore[misc]

    start = time.perf_counter()
    thread = started(answer)
    for i in range(n):
        await there.put(i)  # type: ignore[misc]
        await back.get()  # type: ignore[misc]
    joined(thread)
    return time.perf_counter() - start


async def least_ping_pong(n: int) -> float:
    loop = asyncio.get_running_loop()
    inbox: queue.SimpleQueue[asyncio.Future[None]] = queue.SimpleQueue()

    def answer() -> None:
        for _ in range(n):
            loop.call_soon_threadsafe(inbox.get().set_result, None)

    start = time.perf_counter()
    thread = started(answer)
    for _ in range(n):
        future = loop.create_future()
        inbox.put(future)
        await future
    joined(thread)
    return time.perf_counter() - start


Case = Callable[[Make, int, int], Any]

CASES: dict[str, tuple[Case, int]] = {
    "thread -> task": (threads_to_task, 0),
    "thread -> task, room for 100": (threads_to_task, ROOM),
    "task -> thread": (task_to_thread, 0),
    "task -> thread, room for 100": (task_to_thread, ROOM),
    "task -> task": (task_to_task, 0),
    "task -> task, room for 100": (task_to_task, ROOM),
    "thread -> thread": (thread_to_thread, 0),
    "thread -> thread, room for 100": (thread_to_thread, ROOM),
    "4 threads -> 1 loop": (partial(threads_to_task, threads=4), 0),
    "1 thread -> 4 loops": (thread_to_loops, 0),
    "ping-pong, task and thread": (ping_pong, 0),
}


def times_of(name: str, items: int, samples: int) -> dict[str, list[float]]:
    """Seconds per item (per round trip) of each case that the implementation can do."""
    make = IMPLEMENTATIONS[name]
    times: dict[str, list[float]] = {}
    for case, (body, part) in queue_shapes.cases_of(name, IMPLEMENTATIONS).items():
        n = max(10, items // part)
        body(n // 10)  # to warm up
        times[case] = [body(n) / n for _ in range(samples)]
    if name in ONLY_SHAPES:
        return times
    for case, (run, room) in CASES.items():
        n = items // 10 if run is ping_pong else items
        if make is None:
            if run is not ping_pong:
                continue
            bodies = [partial(least_ping_pong, each) for each in (n // 10, *[n] * samples)]
        elif run is thread_to_loops and name in ONE_LOOP:
            continue
        else:
            bodies = [partial(run, make, room, each) for each in (n // 10, *[n] * samples)]
        try:
            taken = [asyncio.run(body()) for body in bodies]  # the first is to warm up
        except Missing:
            continue
        times[case] = [each / n for each in taken[1:]]
    return times


Times = dict[str, dict[str, list[float]]]


def turns() -> list[tuple[str, dict[str, str]]]:
    """The arguments and environments of one round's processes."""
    found: list[tuple[str, dict[str, str]]] = []
    for name in IMPLEMENTATIONS:
        if name.startswith("asgibridge"):
            found += [(name, {"ASGIBRIDGE_SPEEDUPS": choice}) for choice in ("require", "off")]
        else:
            found.append((name, {}))
    if has_compiled_kernel():
        return found
    return [turn for turn in found if turn[1].get("ASGIBRIDGE_SPEEDUPS") != "require"]


def measure(rounds: int, core: int | None, options: list[str]) -> Times:
    """Seconds per item, by case and implementation."""
    from rich.console import Console
    from rich.progress import track

    times: Times = defaultdict(lambda: defaultdict(list))
    plan = [each for _ in range(rounds) for each in turns()]
    for name, env in track(plan, "measuring", console=Console(stderr=True)):
        done = subprocess.run(
            [sys.executable, __file__, "--only", name, *options],
            env={**os.environ, **env},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            preexec_fn=None if core is None else lambda: os.sched_setaffinity(0, {core}),
        )
        answer = json.loads(done.stdout)
        for case, samples in answer["times"].items():
            times[case][answer["implementation"]].extend(samples)
    return times


def table(times: Times, title: str) -> Any:
    """Minimum (and median) in microseconds, and ours against the fastest of the others."""
    from rich.table import Table

    names = list(dict.fromkeys(name for each in times.values() for name in each))
    result = Table(
        "case",
        title=title,
        caption="µs an item, or a round trip: minimum (median); "
        "x: the minimum of the fastest other that tasks can wait on, where there are tasks, "
        "divided by ours",
    )
    for name in names:
        result.add_column(name, justify="right")
    for case, by_name in times.items():
        others = {
            name: min(each)
            for name, each in by_name.items()
            if not name.startswith("asgibridge")
            # A task that puts into one of these does not wait for room but stops its loop.
            and not (name.startswith("queue.") and "task" in case)
        }
        cells = [case]
        for name in names:
            samples = by_name.get(name)
            if not samples:
                cells.append("")
                continue
            cell = f"{min(samples) * 1e6:.2f} ({statistics.median(samples) * 1e6:.2f})"
            if name.startswith("asgibridge") and others:
                cell += f"  {min(others.values()) / min(samples):.1f}x"
            cells.append(cell)
        result.add_row(*cells)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=list(IMPLEMENTATIONS), help="time this one, here")
    parser.add_argument("--items", type=int, default=100_000, help="per sample (default: 100000)")
    parser.add_argument("--samples", type=int, default=2, help="in each process (default: 2)")
    parser.add_argument("--rounds", type=int, default=5, help="processes of each (default: 5)")
    parser.add_argument("--unpinned", action="store_true", help="use all cores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    options = parser.parse_args()
    if options.only:
        name = options.only
        times = times_of(name, options.items, options.samples)
        if name.startswith("asgibridge"):
            name += f" {importlib.import_module('asgibridge').IMPLEMENTATION}"
        json.dump({"implementation": name, "times": times}, sys.stdout)
        return
    from rich.console import Console

    core = None
    if not options.unpinned and hasattr(os, "sched_setaffinity"):
        core = min(os.sched_getaffinity(0))
    passed_on = ["--items", str(options.items), "--samples", str(options.samples)]
    all_times = measure(options.rounds, core, passed_on)
    conditions: dict[str, Any] = {
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "pinned": core is not None,
        "items": options.items,
        "rounds": options.rounds,
    }
    title = ", ".join(f"{name} {value}" for name, value in conditions.items())
    Console(width=220).print(table(all_times, title))
    if options.json:
        options.json.write_text(json.dumps({**conditions, "times": all_times}, indent=1))


if __name__ == "__main__":
    main()
