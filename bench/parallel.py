"""CPU-bound work on two cores: what `sync_to_async` leaves of the speed-up that threads get.

    python bench/parallel.py [--rounds 7] [--seconds 0.5]

On a CPython without the GIL (3.14t). The same calls of the same function, which computes and does
nothing else, in turn: by one thread, by two bare threads, half each, and by two tasks that await
``sync_to_async(function, thread_sensitive=False)``, half each. A speed-up is the time of one thread
over the time of the others in the same round; of the two speed-ups, ours over theirs is what is
asked for: at least 0.9. Ends with a line that says PASSED or FAILED, by the median of the rounds;
the exit status is 1 for FAILED. Run it when nothing else runs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable

import asgibridge
from asgibridge.sync import sync_to_async

TARGET = 0.9
CALLS_OF = {"10 ms": 0.010, "1 ms": 0.001}


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
    print(f"parallel: {f'FAILED: {said}' if short else 'PASSED'}")
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
