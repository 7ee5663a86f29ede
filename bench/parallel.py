"""Work on two cores: what `sync_to_async` leaves of the speed-up that threads get.

    python bench/parallel.py [--rounds 7] [--seconds 0.5] [--hops 20000]

On a CPython without the GIL (3.14t). The same calls of the same function, which computes and does
nothing else, in turn: by one thread, by two bare threads, half each, and by two tasks that await
``sync_to_async(function, thread_sensitive=False)``, half each. A speed-up is the time of one thread
over the time of the others in the same round; of the two speed-ups, ours over theirs is what is
asked for: at least 0.9. Then hops that do nothing: by one event loop in a thread, by two, and by
four, each in a context of its own, so that each has a worker; beside as many bare ping-pongs
between a loop and a thread. Two loops are to make 1.8 times the hops of one, or 0.9 of what the
bare ones gain. Ends with a line that says PASSED or FAILED, by the median of the rounds; the exit
status is 1 for FAILED. Run it when nothing else runs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import queue
import statistics
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import asgibridge
from asgibridge.sync import ThreadSensitiveContext, sync_to_async

TARGET = 0.9
CALLS_OF = {"10 ms": 0.010, "1 ms": 0.001}
LOOPS = (1, 2, 4)
OF_LOOPS = 1.8
"""Hops a second of two loops by those of one."""


def compute(steps: int) -> int:
    value = 1
    for _ in range(steps):
        value = value * 48271 % 2147483647
    return value


in_pool = sync_to_async(compute, thread_sensitive=False)


def times(calls: int, steps: int) -> None:
    for _ in range(calls):
        compute(steps)


def one_thread(calls: int, steps: int) -> None:
    thread = threading.Thread(target=times, args=(calls, steps))
    thread.start()
    thread.join()


def two_threads(calls: int, steps: int) -> None:
    threads = [threading.Thread(target=times, args=(calls // 2, steps)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def two_tasks(calls: int, steps: int) -> None:
    async def task() -> None:
        for _ in range(calls // 2):
            await in_pool(steps)

    async def main() -> None:
        await asyncio.gather(task(), task())

    asyncio.run(main())


def nothing() -> None:
    pass


hop = sync_to_async(nothing)


async def hops(count: int) -> None:
    async with ThreadSensitiveContext():
        for _ in range(count):
            await hop()


async def ping_pongs(count: int) -> None:
    loop = asyncio.get_running_loop()
    inbox: queue.SimpleQueue[asyncio.Future[None] | None] = queue.SimpleQueue()

    def work() -> None:
        while (future := inbox.get()) is not None:
            loop.call_soon_threadsafe(future.set_result, None)

    worker = threading.Thread(target=work)
    worker.start()
    for _ in range(count):
        future = loop.create_future()
        inbox.put(future)
        await future
    inbox.put(None)
    worker.join()


def per_second(body: Callable[[int], Coroutine[Any, Any, None]], loops: int, count: int) -> float:
    """Of all loops together, each in a thread, that make so many each."""
    begin = threading.Barrier(loops + 1)

    def work() -> None:
        begin.wait()
        asyncio.run(body(count))

    threads = [threading.Thread(target=work) for _ in range(loops)]
    for thread in threads:
        thread.start()
    begin.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    return loops * count / (time.perf_counter() - began)


def measure_loops(rounds: int, count: int) -> bool:
    """Whether two loops hop as much faster than one as is asked for; prints all figures."""
    rates: dict[tuple[str, int], list[float]] = {}
    bodies = {"ours": hops, "bare": ping_pongs}
    for number in range(rounds + 1):
        for name, body in bodies.items():
            for loops in LOOPS:
                rate = per_second(body, loops, count)
                if number:  # the first warms up
                    rates.setdefault((name, loops), []).append(rate)
    gained: dict[tuple[str, int], float] = {}
    for loops in LOOPS[1:]:
        for name in bodies:
            pairs = zip(rates[name, 1], rates[name, loops])
            gained[name, loops] = statistics.median(more / one for one, more in pairs)
        ours, bare = gained["ours", loops], gained["bare", loops]
        print(
            f"hops of {loops} loops: {statistics.median(rates['ours', loops]):,.0f}/s, {ours:.2f}x "
            f"those of one; bare ping-pongs {statistics.median(rates['bare', loops]):,.0f}/s, "
            f"{bare:.2f}x; ours over theirs {ours / bare:.3f}",
            flush=True,
        )
    ours, bare = gained["ours", 2], gained["bare", 2]
    return ours >= OF_LOOPS or ours >= TARGET * bare


def seconds_of(run: Callable[[int, int], None], calls: int, steps: int) -> float:
    began = time.perf_counter()
    run(calls, steps)
    return time.perf_counter() - began


def steps_that_take(seconds: float) -> int:
    steps = 10_000
    one_thread(20, steps)
    return max(1, int(steps * seconds * 20 / seconds_of(one_thread, 20, steps)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=0.5, help="of each; default: %(default)s")
    parser.add_argument("--hops", type=int, default=20_000, help="of each loop; 0: none")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gil = "on" if getattr(sys, "_is_gil_enabled", lambda: True)() else "off"
    print(
        f"{asgibridge.IMPLEMENTATION} kernel, CPython {sys.version.split()[0]}, GIL {gil}, "
        f"{cores} cores, {options.rounds} rounds in turn",
        flush=True,
    )
    short = []
    for name, seconds in CALLS_OF.items():
        steps = steps_that_take(seconds)
        calls = max(2, int(options.seconds / seconds) // 2 * 2)
        rows = []
        for run in (one_thread, two_threads, two_tasks):  # warms up
            run(calls // 5 * 2, steps)
        for _ in range(options.rounds):
            one = seconds_of(one_thread, calls, steps)
            bare = one / seconds_of(two_threads, calls, steps)
            ours = one / seconds_of(two_tasks, calls, steps)
            rows.append((bare, ours, ours / bare))
        bare, ours, ratio = (statistics.median(column) for column in zip(*rows))
        ratios = [row[2] for row in rows]
        print(
            f"calls of {name}: two threads {bare:.2f}x, two tasks {ours:.2f}x; ours over theirs "
            f"{ratio:.3f} ({min(ratios):.3f} to {max(ratios):.3f})",
            flush=True,
        )
        if ratio < TARGET:
            short.append(name)
    said = f"less than {TARGET} of the speed-up with calls of {', '.join(short)}" if short else ""
    if options.hops and not measure_loops(options.rounds, options.hops):
        short.append("hops")
        said = f"{said}; " * bool(said) + "two loops do not hop as much faster as was asked for"
    print(f"parallel: {f'FAILED: {said}' if short else 'PASSED'}")
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
