"""That nothing stays behind: references, memory, files and threads are flat over many calls.

Each workload runs in a process of its own, to warm up first and then three times in a row. What is
left of each call is left by each run; caches that fill up, and the collector's moods, are not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

SECONDS = 240
"""For a workload in its slow form; it takes a tenth of that where nothing else runs."""

pytestmark = pytest.mark.timeout(SECONDS + 20)

SCRIPT = """
import faulthandler; faulthandler.dump_traceback_later({seconds}, exit=True)
import asyncio, contextvars, gc, json, os, sys, threading
from asgibridge import _backend
from asgibridge.local import Local
from asgibridge.sync import (
    AsyncSingleThreadContext, ThreadSensitiveContext, async_to_sync, sync_to_async,
)

argument, error = object(), ValueError()
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
        executor = _backend.kernel.ThreadSensitiveExecutor()
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

def run(workload, n):
    outcome = workload(n)
    if outcome is not None:
        asyncio.run(outcome)

def rss():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def measure():
    for _ in range(3):
        gc.collect()
    has_proc = os.path.exists("/proc/self/statm")
    watched = [argument, identity, aidentity, sync_identity, back, variable, local, ValueError]
    return {{
        "threads": threading.active_count(),
        "descriptors": len(os.listdir("/proc/self/fd")) if has_proc else 0,
        "references": sum(map(sys.getrefcount, watched)),
        "all references": getattr(sys, "gettotalrefcount", int)(),
        "blocks": sys.getallocatedblocks(),
        "bytes": rss() if has_proc else 0,
    }}

if hasattr(os, "sched_setaffinity"):  # a hop takes a third of the time
    os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
name, n, collecting = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "on"
workload = globals()[name]
run(workload, n // 10)
if not collecting:
    # What the collector would find has been left behind all the same.
    measure()
    gc.disable()
    gc.collect = int
measured = [measure()]
for _ in range(3):
    run(workload, n // 3)
    measured.append(measure())
growth = {{
    key: [after[key] - before[key] for before, after in zip(measured, measured[1:])]
    for key in measured[0]
}}
print(json.dumps({{key: min(each, key=abs) for key, each in growth.items()}}))
"""

NOISE = 100
"""References and blocks that come and go with Python's own caches."""


def left_behind(tmp_path, name, n, collector="on"):
    """Run a workload n times; how much more there is of everything after a third of them."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(seconds=SECONDS))
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script), name, str(n), collector],
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=SECONDS + 10,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return json.loads(done.stdout)


def check_flat(growth, n):
    """None of it may grow with the number of calls."""
    assert growth["threads"] <= 0
    assert growth["descriptors"] <= 0
    # One in ten calls that leaves one behind is a leak.
    assert abs(growth["references"]) <= n / 30  # too few are worse than too many
    assert growth["all references"] <= max(n / 30, NOISE)
    assert growth["blocks"] <= max(n / 30, NOISE)


FAST = {
    "hops": 10_000,
    "pool": 3_000,
    "failing": 3_000,
    "failing_in_workers": 3_000,
    "cancelled": 5_000,
    "contexts": 1_500,
    "in_workers": 5_000,
    "there_and_back_in_workers": 3_000,
    "top_level": 500,
    "on_one_thread": 500,
    "loops": 500,
    "executors": 1_000,
    "wrappers": 10_000,
    "locals_": 10_000,
}


@pytest.mark.parametrize("workload", FAST)
def test_nothing_is_left_behind(tmp_path, workload):
    check_flat(left_behind(tmp_path, workload, FAST[workload]), FAST[workload])


@pytest.mark.parametrize("workload", ["hops", "failing", "in_workers", "there_and_back_in_workers"])
def test_nothing_is_left_to_the_collector(tmp_path, workload):
    """It may be off, and an object in a cycle would stay."""
    n = FAST[workload]
    check_flat(left_behind(tmp_path, workload, n, "off"), n)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workload", "n"),
    [("hops", 1_000_000), ("contexts", 100_000), ("in_workers", 100_000), ("cancelled", 200_000)],
)
def test_memory_is_flat_over_very_many_calls(tmp_path, workload, n):
    growth = left_behind(tmp_path, workload, n)
    check_flat(growth, n / 100)
    # Sixteen bytes, the smallest block there is, of each tenth call; a heap has its moods, too.
    assert growth["bytes"] <= max(n / 3 * 1.6, 300_000)
