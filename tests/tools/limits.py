"""Random programs of contexts at a limit of workers: none hangs, and who would deadlock is told.

    python tests/tools/limits.py [--seed N] [--seconds S]

A program enters a ThreadSensitiveContext, and there it calls, idles, binds, iterates, and waits for
programs with contexts of their own: in a task, or in a thread that waits in `async_to_sync`. So
there are rings through the limit, of contexts that are bound, busy or share a worker by a key, and
idle ones beside them that may give theirs back. No wait has a time-out that would end a ring; a few
programs are cancelled. Each round of them must come to its end within `PATIENCE` seconds, with no
error but that a call would deadlock, and leave no worker in use and nobody in line.
"""

from __future__ import annotations

import argparse
import asyncio
import contextvars
import faulthandler
import gc
import os
import random
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import asgibridge
from asgibridge import debug, workers
from asgibridge._workers.pool import pool
from asgibridge.iterators import sync_to_async_iterator
from asgibridge.sync import ThreadSensitiveContext, async_to_sync, sync_to_async

PATIENCE = 60
"""Seconds for a round, which takes one or two."""

AT_ONCE = 25
"""Programs on each loop."""

call = sync_to_async(threading.current_thread)


def policies():
    """What a context may be given: nothing, for the process's, or its own."""
    return [
        None,
        None,
        workers.Policy(kind="keep", release_idle=0),
        workers.Policy(kind="fresh", release_idle=0),
        workers.Policy(kind="keep", release_idle=None),
        *(workers.Policy(kind="keep", release_idle=0, sticky=key) for key in range(2)),
    ]


def elsewhere(coroutine):
    """A task in no context."""
    return contextvars.Context().run(asyncio.ensure_future, coroutine)


def items():
    yield from range(5)


class Round:
    """Programs that run at once on one event loop, as a `random.Random` chooses."""

    def __init__(self, chance, of_contexts, depth=2):
        self.chance = chance
        self.of_contexts = of_contexts
        self.depth = depth
        self.outcomes = Counter()

    async def programs(self):
        await asyncio.gather(*(elsewhere(self.guarded()) for _ in range(AT_ONCE)))

    async def guarded(self):
        try:
            if self.chance.random() < 0.2:
                await asyncio.wait_for(self.program(0), self.chance.random() / 10)
            else:
                await self.program(0)
        except asyncio.TimeoutError:
            self.outcomes["cancelled"] += 1
        except RuntimeError as error:
            if "would deadlock" not in str(error):
                raise
            self.outcomes["told"] += 1
        else:
            self.outcomes["done"] += 1

    async def program(self, depth):
        async with ThreadSensitiveContext(policy=self.chance.choice(self.of_contexts)):
            for _ in range(self.chance.randrange(1, 4)):
                await self.step(depth)

    async def step(self, depth):
        what = self.chance.random()
        if what < 0.3:
            await call()
        elif what < 0.45:
            await self.idle()
        elif what < 0.6:
            with workers.bind():
                await call()
                await self.idle()
                await call()
        elif what < 0.7:
            async for _ in sync_to_async_iterator(items, max_size=2)():
                await asyncio.sleep(0)
        elif depth < self.depth:
            await self.inner(depth + 1)

    async def idle(self):
        await asyncio.sleep(self.chance.random() / 50)

    async def inner(self, depth):
        """Wait for a program with a context of its own."""
        how = self.chance.random()
        if how < 0.3:
            with workers.bind():
                await call()
                await elsewhere(self.program(depth))
        elif how < 0.5:
            await sync_to_async(self.inner_of_thread)(depth)
        else:
            await elsewhere(self.program(depth))

    def inner_of_thread(self, depth):
        contextvars.Context().run(async_to_sync(self.program), depth)


def play(seed, *, limit, loops=1, of_contexts=(None,)):
    """One round under a policy that releases at ``limit``, on so many loops: its outcomes.

    Raises what a program should not have raised, and AssertionError if anything is left behind. A
    round that hangs never returns.
    """
    workers.set_policy(workers.Policy(kind="keep", limit=limit, release_idle=0))
    rounds = [Round(random.Random(f"{seed}/{number}"), of_contexts) for number in range(loops)]
    with ThreadPoolExecutor(loops) as threads:
        for each in [threads.submit(asyncio.run, each.programs()) for each in rounds]:
            each.result()
    gc.collect()
    give_up_at = time.monotonic() + PATIENCE
    while pool.in_use or pool.waiting:
        assert time.monotonic() < give_up_at, f"{pool.in_use} in use, {pool.waiting} in line"
        time.sleep(0.001)
    return sum((each.outcomes for each in rounds), Counter())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=None, help="default: a new one, printed")
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    began = time.monotonic()
    outcomes = Counter()
    number = 0
    while time.monotonic() - began < options.seconds:
        number += 1
        chance = random.Random(f"{seed}/{number}")
        limit, loops = chance.randrange(1, 5), chance.randrange(1, 3)
        watch = threading.Timer(PATIENCE, hangs, [f"{seed}/{number}"])
        watch.start()
        try:
            outcomes += play(f"{seed}/{number}", limit=limit, loops=loops, of_contexts=policies())
        finally:
            watch.cancel()
    said = ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))
    kernel = asgibridge.IMPLEMENTATION
    print(f"limits ({kernel} kernel, seed {seed}): {number} rounds; {said}; PASSED", flush=True)
    return 0


def hangs(number):
    """Print who waits for whom, and end the process."""
    print(f"HANGS: round {number}", flush=True)
    debug.dump(sys.stdout)
    faulthandler.dump_traceback(all_threads=True)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
