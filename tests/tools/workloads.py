"""Every kind of call, many times: for the leak tests, and for valgrind and its like.

    python tests/tools/workloads.py hops 10000 [off]    what each third of the calls leaves behind
    python tests/tools/workloads.py all 100             a hundred of each, and nothing measured

A process of its own, because it counts what the whole process has. With ``off`` the garbage
collector does not run, so what it would have to find counts as left behind.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
import os
import sys
import threading
import time

from asgibridge import _kernel
from asgibridge._loops import kept as kept_loops
from asgibridge.local import Local
from asgibridge.sync import (
    AsyncSingleThreadContext,
    ThreadSensitiveContext,
    async_to_sync,
    sync_to_async,
)

argument = object()
variable = contextvars.ContextVar("variable")
local = Local()


def identity(value):
    return value


def touch(value):
    variable.set(value)
    local.value = value
    return value


def fail(value):
    raise ValueError(value)


async def aidentity(value):
    return value


async def afail(value):
    raise ValueError(value)


async def there_and_back(value):
    return await sync_identity(value)


sync_identity = sync_to_async(identity)
sync_touch = sync_to_async(touch)
sync_fail = sync_to_async(fail)
in_pool = sync_to_async(identity, thread_sensitive=False)
back = async_to_sync(aidentity)
back_failing = async_to_sync(afail)
back_and_there = async_to_sync(there_and_back)


async def hops(n):
    for _ in range(n // 2):
        await sync_touch(argument)
    for _ in range(n // 200):
        await asyncio.gather(*(sync_identity(argument) for _ in range(100)))


async def pool(n):
    for _ in range(n):
        await in_pool(argument)


async def failing(n):
    for _ in range(n):
        try:
            await sync_fail(argument)
        except ValueError:
            pass


def fails_in_worker():
    try:
        back_failing(argument)
    except ValueError:
        pass


async def failing_in_workers(n):
    call = sync_to_async(fails_in_worker)
    for _ in range(n):
        await call()


async def cancelled(n):
    for _ in range(n // 10):
        tasks = [asyncio.ensure_future(sync_identity(argument)) for _ in range(10)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def contexts(n):
    for _ in range(n):
        async with ThreadSensitiveContext():
            await sync_touch(argument)


async def in_workers(n):
    def work():
        for _ in range(n):
            back(argument)

    await sync_to_async(work)()


async def there_and_back_in_workers(n):
    def work():
        for _ in range(n):
            back_and_there(argument)

    await sync_to_async(work)()


def top_level(n):
    for _ in range(n):
        back(argument)


def on_one_thread(n):
    for _ in range(n // 10):
        with AsyncSingleThreadContext():
            for _ in range(10):
                back_and_there(argument)


def loops(n):
    # More wake-ups each than it takes for a loop to get a descriptor of its own.
    for _ in range(n):
        asyncio.run(hops_of_a_loop())


async def hops_of_a_loop():
    for _ in range(10):
        await sync_identity(argument)


def executors(n):
    for i in range(n):
        executor = _kernel.kernel.ThreadSensitiveExecutor()
        executor.submit(identity, argument).result()
        if i % 2:
            executor.shutdown()


def wrappers(n):
    class Methods:
        method = sync_identity
        other = back

    methods = Methods()
    for _ in range(n):
        sync_to_async(identity), async_to_sync(aidentity), methods.method, methods.other


def locals_(n):
    # A context keeps what was set in it, so each Local gets one that ends with it.
    def use(critical):
        mine = Local(critical)
        mine.value, mine.other = argument, mine
        del mine.other
        getattr(mine, "missing", None)

    for i in range(n):
        contextvars.Context().run(use, i % 2 == 0)


WORKLOADS = {
    function.__name__: function
    for function in (
        hops,
        pool,
        failing,
        failing_in_workers,
        cancelled,
        contexts,
        in_workers,
        there_and_back_in_workers,
        top_level,
        on_one_thread,
        loops,
        executors,
        wrappers,
        locals_,
    )
}


def run(name, n):
    outcome = WORKLOADS[name](n)
    if outcome is not None:
        asyncio.run(outcome)


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def all_references():
    """On a debug build of Python; else 0."""
    if not hasattr(sys, "gettotalrefcount"):
        return 0
    # Cython 3.3 forgets to count down the type of its generators, one for each await; the number
    # is all there is of that.
    cython = [module for name, module in sys.modules.items() if name.startswith("_cython_")]
    types = [module.generator for module in cython if hasattr(module, "generator")]
    return sys.gettotalrefcount() - sum(map(sys.getrefcount, types))


PATIENCE = 10
"""Seconds for threads that end."""


def measure(collect, threads=None):
    """:param threads: how many there should be; those that are ending are given time to."""
    # Whether the last call's loop is among them is chance: who posted to it may still be doing so
    # (in a sixth of the calls, with the pure kernel on one core), and then it is not kept.
    kept_loops._close_parked()
    for _ in range(3):
        collect()
    deadline = time.monotonic() + PATIENCE
    while threads is not None and threading.active_count() > threads:
        if time.monotonic() > deadline:
            break
        time.sleep(0.001)
    has_proc = os.path.exists("/proc/self/statm")
    watched = [argument, identity, aidentity, sync_identity, back, variable, local, ValueError]
    return {
        "threads": threading.active_count(),
        "descriptors": len(os.listdir("/proc/self/fd")) if has_proc else 0,
        "references": sum(map(sys.getrefcount, watched)),
        "all references": all_references(),
        "blocks": sys.getallocatedblocks(),
        "bytes": resident() if has_proc else 0,
    }


def left_behind(name, n, collecting):
    # The least of three times: caches fill up only once.
    run(name, n // 10)
    measure(gc.collect)
    if not collecting:
        gc.disable()
    collect = gc.collect if collecting else int
    measured = [measure(collect)]
    for _ in range(3):
        run(name, n // 3)
        measured.append(measure(collect, measured[0]["threads"]))
    pairs = list(zip(measured, measured[1:]))
    return {
        key: min((after[key] - before[key] for before, after in pairs), key=abs)
        for key in measured[0]
    }


def main():
    if hasattr(os, "sched_setaffinity"):  # a hop takes a third of the time
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    name, n = sys.argv[1], int(sys.argv[2])
    if name == "all":
        for each in WORKLOADS:
            run(each, n)
    else:
        print(json.dumps(left_behind(name, n, "off" not in sys.argv)))


if __name__ == "__main__":
    main()
