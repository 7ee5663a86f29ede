"""Very many calls, and very many at once: what that takes, and that nothing grows.

    python tests/tools/load.py [--only hops,contexts,tasks,loops] [--hops 10000000]
                               [--contexts 1000000]

``hops``      so many calls one after the other, in ten parts; after each part, what there is
``contexts``  so many ThreadSensitiveContexts of one call each, the same way
``tasks``     10,000 calls waiting at once, thread-sensitive, in the pool, and in threads and back
``loops``     eight threads with a loop each, all making calls

A line for each with the figures, and a last one that says PASSED or FAILED. On one core: a hop
takes a third of the time there, and nothing else changes.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
import threading
import time

import asgibridge
from asgibridge.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
from workloads import measure

PARTS = 10
IN_FLIGHT = 10_000
LOOPS = 8
HOPS_OF_A_LOOP = 5_000

GROWTH = {"threads": 0, "descriptors": 0, "blocks": 1_000, "bytes": 1_000_000}
"""By how much the last part may leave more than the first: caches, and the heap's moods."""


def identity(value):
    return value


sync_identity = sync_to_async(identity)
in_pool = sync_to_async(identity, thread_sensitive=False)


async def hops(n):
    for number in range(n):
        assert await sync_identity(number) is number


async def contexts(n):
    for number in range(n):
        async with ThreadSensitiveContext():
            assert await sync_identity(number) is number


async def in_parts(work, n):
    """What there is after each part, as rows."""
    rows = []
    await work(n // 100)
    for _ in range(PARTS):
        await work(n // PARTS)
        rows.append(measure(gc.collect))
    return rows


def many(work, n):
    began = time.perf_counter()
    rows = asyncio.run(in_parts(work, n))
    seconds = time.perf_counter() - began
    # From the second on: the first fills caches.
    grown = {name: rows[-1][name] - rows[1][name] for name in GROWTH}
    ok = all(number <= GROWTH[name] for name, number in grown.items())
    said = ", ".join(f"{number:+} {name}" for name, number in grown.items())
    return ok, (
        f"{n} in {seconds:.0f} s ({seconds / n * 1e6:.1f} µs each); from the second tenth to the "
        f"last: {said}; in the end {rows[-1]['threads']} threads, {rows[-1]['descriptors']} "
        f"descriptors, {rows[-1]['bytes'] / 1e6:.1f} MB"
    )


async def back(value):
    return await sync_identity(value)


def there(value):
    return async_to_sync(back)(value)


async def all_at_once(call, begun, go_on):
    """IN_FLIGHT calls, all of which have been made before the first may end."""

    def blocker():
        begun.set()
        go_on.wait()

    loop = asyncio.get_running_loop()
    blocked = asyncio.ensure_future(sync_to_async(blocker)())
    await loop.run_in_executor(None, begun.wait)
    tasks = [asyncio.ensure_future(call(number)) for number in range(IN_FLIGHT)]
    await asyncio.sleep(0)
    in_flight = sum(not task.done() for task in tasks)
    go_on.set()
    results = await asyncio.gather(*tasks)
    await blocked
    return in_flight, [*results] == list(range(IN_FLIGHT))


def tasks():
    said, ok = [], True
    for name, call in (
        ("thread-sensitive", sync_identity),
        ("in the pool", in_pool),
        ("there and back", sync_to_async(there)),
    ):
        began = time.perf_counter()
        in_flight, same = asyncio.run(all_at_once(call, threading.Event(), threading.Event()))
        said.append(f"{in_flight} {name}: {time.perf_counter() - began:.2f} s")
        # The pool goes on while the thread-sensitive thread is held up.
        ok = ok and same and (call is in_pool or in_flight == IN_FLIGHT)
    return ok, f"in flight at once: {'; '.join(said)}; every result its own"


def loops():
    before = measure(gc.collect)
    barrier = threading.Barrier(LOOPS)
    done = []

    async def main(number):
        barrier.wait(60)
        async with ThreadSensitiveContext():
            for hop in range(HOPS_OF_A_LOOP):
                call = (sync_identity, in_pool, back)[hop % 3]
                assert await call((number, hop)) == (number, hop)
        done.append(number)

    threads = [
        threading.Thread(target=asyncio.run, args=(main(number),)) for number in range(LOOPS)
    ]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    seconds = time.perf_counter() - began
    alive = sum(thread.is_alive() for thread in threads)
    after = measure(gc.collect)
    return sorted(done) == list(range(LOOPS)) and not alive, (
        f"{LOOPS} loops, {LOOPS * HOPS_OF_A_LOOP} calls in {seconds:.1f} s; {alive} hang; "
        f"descriptors {before['descriptors']} -> {after['descriptors']}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="hops,contexts,tasks,loops", help="default: all")
    parser.add_argument("--hops", type=int, default=10_000_000, help="default: %(default)s")
    parser.add_argument("--contexts", type=int, default=1_000_000, help="default: %(default)s")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    parts = {
        "hops": lambda: many(hops, options.hops),
        "contexts": lambda: many(contexts, options.contexts),
        "tasks": tasks,
        "loops": loops,
    }
    failed = []
    for name in options.only.split(","):
        ok, said = parts[name]()
        print(f"{'passed' if ok else 'FAILED'}  {name:<9} {said}", flush=True)
        if not ok:
            failed.append(name)
    print(
        f"load: {'FAILED: ' + ', '.join(failed) if failed else 'PASSED'} "
        f"({asgibridge.IMPLEMENTATION} kernel, CPython {sys.version.split()[0]})"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
