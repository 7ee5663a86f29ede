"""Where a woken worker begins (src/_speedups/cores.pxi), and that no call can tell.

The compiled kernel brings it to its waker's core where there is a GIL. For the pure kernel, and
without a GIL, what is said of calls holds by itself.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import platform
import subprocess
import sys
import threading
import time

import pytest

from asgibridge.sync import ThreadSensitiveContext, sync_to_async
from threads import SECONDS, join_idle, keeping_the_gil

# Of the system calls sched_getscheduler and sched_setscheduler: musl's functions refuse.
NUMBERS = {"x86_64": (145, 144), "aarch64": (120, 119)}.get(platform.machine())

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or NUMBERS is None,
    reason="this is done on Linux only, and asked on some",
)

MANY = 20


def policy_of(thread=0):
    return ctypes.PyDLL(None).syscall(NUMBERS[0], thread)  # as os.sched_getaffinity: with the GIL


def set_policy(thread, policy):
    assert ctypes.PyDLL(None).syscall(NUMBERS[1], thread, policy, ctypes.byref(ctypes.c_int())) == 0


def placed(thread=0):
    """On what processors a thread may run, and by which policy."""
    return os.sched_getaffinity(thread), policy_of(thread)


PLACED = """
import os
with open("/proc/self/stat") as file:
    fields = file.read().rpartition(")")[2].split()  # from the third on
print(sorted(os.sched_getaffinity(0)), fields[41 - 3])
"""


@pytest.fixture
def worker(kernel):
    """An executor, and the number that the system gives its worker."""
    with kernel.ThreadSensitiveExecutor() as executor:
        thread = executor.submit(threading.current_thread).result(SECONDS)
        yield executor, thread.native_id
    join_idle(thread, kernel)  # nobody shall inherit what a test sets


@pytest.fixture
def brought(worker, kernel):
    """Begins a call on a worker that has lain down; returns with it waiting for our GIL."""
    if kernel.placement() != "waker":
        pytest.skip("only the compiled kernel brings workers to a core, and if there is a GIL")
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("with one processor there is nowhere else")
    executor, thread = worker

    def begin(call):
        deadline = time.monotonic() + SECONDS
        own = placed(thread)
        while True:  # until it has lain down before that
            future = executor.submit(call)
            if placed(thread) != own:
                return future
            future.result(SECONDS)
            assert time.monotonic() < deadline, "it never was"

    return begin


def test_it_begins_with_its_waker_and_goes_where_it_wants(worker, brought):
    own = placed()
    with keeping_the_gil():
        future = brought(placed)
        processors, policy = placed(worker[1])
    assert len(processors) == 1
    assert processors < own[0]
    assert policy == os.SCHED_BATCH
    assert future.result(SECONDS) == own
    assert placed(worker[1]) == own


def test_what_others_change_meanwhile_stays(worker, brought):
    with keeping_the_gil():
        future = brought(placed)
        (there,) = placed(worker[1])[0]
        other = max(os.sched_getaffinity(0) - {there})
        os.sched_setaffinity(worker[1], {other})
        set_policy(worker[1], os.SCHED_IDLE)
    try:
        # On a busy machine an idle one's turn may be long in coming.
        assert future.result(4 * SECONDS) == ({other}, os.SCHED_IDLE)
    finally:
        set_policy(worker[1], os.SCHED_OTHER)


def test_what_a_call_sets_stays(worker):
    executor, _ = worker
    mine = {min(os.sched_getaffinity(0))}
    executor.submit(set_policy, 0, os.SCHED_BATCH).result(SECONDS)
    for _ in range(5):
        assert executor.submit(placed).result(SECONDS)[1] == os.SCHED_BATCH
    executor.submit(os.sched_setaffinity, 0, mine).result(SECONDS)
    for _ in range(5):
        assert executor.submit(placed).result(SECONDS) == (mine, os.SCHED_BATCH)


@pytest.mark.asyncio
async def test_no_call_is_confined():
    own = placed()

    async def visit():
        async with ThreadSensitiveContext():
            return [await sync_to_async(placed)() for _ in range(10)]

    for seen in await asyncio.gather(*(visit() for _ in range(MANY))):
        assert seen == [own] * 10


@pytest.mark.asyncio
async def test_nor_is_what_a_call_starts():
    own = placed()

    def start():
        seen = []
        thread = threading.Thread(target=lambda: seen.append(placed()))
        thread.start()
        thread.join()
        printed = subprocess.check_output([sys.executable, "-c", PLACED], encoding="ascii")
        return seen, printed.strip()

    async def visit():
        async with ThreadSensitiveContext():
            await sync_to_async(int)()
            return await sync_to_async(start)()

    for seen in await asyncio.gather(*(visit() for _ in range(4))):
        assert seen == ([own], f"{sorted(own[0])} {own[1]}")


def test_with_one_processor(script_output):
    script = """
    import asyncio, os
    from asgibridge.sync import ThreadSensitiveContext, sync_to_async

    one = {max(os.sched_getaffinity(0))}
    os.sched_setaffinity(0, one)

    async def visit():
        async with ThreadSensitiveContext():
            return [await sync_to_async(os.sched_getaffinity)(0) for _ in range(5)]

    async def main():
        return await asyncio.gather(*(visit() for _ in range(20)))

    assert all(seen == [one] * 5 for seen in asyncio.run(main()))
    print("done")
    """
    assert script_output(script) == "done"


class TestPlacement:
    @pytest.mark.skipif(
        os.environ.get("ASGIBRIDGE_SPEEDUPS") == "off", reason="of the compiled kernel"
    )
    def test_is_by_the_waker_where_there_is_a_gil(self):
        speedups = pytest.importorskip("asgibridge._speedups")
        has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
        if os.environ.get("ASGIBRIDGE_PLACEMENT"):
            pytest.skip("somebody wants it otherwise")
        assert speedups.placement() == ("waker" if has_gil else "scheduler")

    def test_can_be_left_to_the_scheduler(self, script_output):
        printed = script_output(CROSSING, ASGIBRIDGE_PLACEMENT="scheduler")
        assert printed == "scheduler"

    def test_must_be_one_of_these(self, run_script):
        done = run_script("import asgibridge.sync", ASGIBRIDGE_PLACEMENT="maybe")
        assert done.returncode == 1
        assert done.stderr.endswith(
            "ImportError: ASGIBRIDGE_PLACEMENT='maybe': must be one of waker, scheduler "
            "(or unset, for waker)\n"
        )


CROSSING = """
import asyncio
from asgibridge._kernel import kernel
from asgibridge.sync import ThreadSensitiveContext, sync_to_async

async def visit():
    async with ThreadSensitiveContext():
        return [await sync_to_async(int)() for _ in range(5)]

async def main():
    return await asyncio.gather(*(visit() for _ in range(20)))

assert asyncio.run(main()) == [[0] * 5] * 20
print(kernel.placement())
"""

# A filter: what to answer to a system call of this number. Others pass.
FILTERED = (
    """
import ctypes, struct

number, answer = {number}, {answer}
code = struct.pack("<HBBI", 0x20, 0, 0, 0)  # load the number
code += struct.pack("<HBBI", 0x15, 0, 1, number)  # if it is not that, leave out the next
code += struct.pack("<HBBI", 0x06, 0, 0, answer)
code += struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF0000)  # allowed
code = ctypes.create_string_buffer(code)
program = ctypes.create_string_buffer(struct.pack("@HP", 4, ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # no new privileges
assert libc.prctl(22, 2, program, 0, 0) == 0, ctypes.get_errno()  # such a filter
"""
    + CROSSING
)

KILL_PROCESS = 0x80000000
KILL_THREAD = 0
EPERM = 0x00050001
ALLOW = 0x7FFF0000


@pytest.mark.skipif(
    platform.machine() != "x86_64", reason="has the numbers of x86-64's system calls"
)
class TestInASandbox:
    @pytest.mark.parametrize("answer", [KILL_PROCESS, KILL_THREAD, EPERM])
    @pytest.mark.parametrize("number", [203, 144], ids=["sched_setaffinity", "sched_setscheduler"])
    def test_that_refuses_it_goes_without(self, script_output, number, answer):
        printed = script_output(FILTERED.format(number=number, answer=answer))
        assert printed == "scheduler"

    def test_that_has_nothing_against_it(self, script_output):
        printed = script_output(FILTERED.format(number=203, answer=ALLOW))
        assert printed == script_output(CROSSING)

    def test_that_comes_later(self, script_output):
        script = CROSSING + FILTERED.format(number=203, answer=EPERM)
        assert script_output(script).split()[-1] == "scheduler"


def test_a_forked_child_lets_its_parents_threads_alone(script_output):
    script = """
    import os, threading, warnings
    warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork in a process with threads
    from asgibridge._kernel import kernel

    class Item:
        def __init__(self):
            self.is_over = threading.Event()
        def run(self):
            pass
        def deliver(self):
            self.is_over.set()

    inbox = kernel.Inbox()
    worker = threading.Thread(target=inbox.serve, daemon=True)
    worker.start()
    own = os.sched_getaffinity(0)
    for _ in range(20):
        item = Item()
        inbox.put(item)
        assert item.is_over.wait(10)
        pid = os.fork()
        if pid == 0:
            inbox.put(Item())  # which nobody here is going to run
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        thread = worker.native_id
        assert os.sched_getaffinity(thread) == own
    inbox.close()
    worker.join()
    print("done")
    """
    assert script_output(script) == "done"
