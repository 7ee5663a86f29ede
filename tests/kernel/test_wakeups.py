"""Many workers woken at once: each comes, whatever happens to those before it.

The compiled kernel wakes one at a time (src/_speedups/wakeups.pxi) where there is a GIL; for the
others the same holds by itself.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from contextlib import ExitStack

import pytest

from asgibridge.sync import ThreadSensitiveContext, sync_to_async
from threads import SECONDS, keeping_the_gil

MANY = 20


@pytest.fixture
def executors(kernel):
    """Some whose workers have started, and wait for something to do."""
    with ExitStack() as stack:
        several = [stack.enter_context(kernel.ThreadSensitiveExecutor()) for _ in range(4)]
        for executor in several:
            executor.submit(int).result(SECONDS)
        yield several


@pytest.mark.asyncio
async def test_calls_that_wait_for_one_another():
    barrier = threading.Barrier(MANY)

    async def visit():
        async with ThreadSensitiveContext():
            await sync_to_async(int)()
            return await sync_to_async(barrier.wait)(SECONDS)

    for _ in range(10):
        assert sorted(await asyncio.gather(*(visit() for _ in range(MANY)))) == list(range(MANY))


@pytest.mark.thread_unsafe(reason="its workers meet at a barrier, once")
class TestWhenTheGilIsScarce:
    """The first of those woken takes longer than it takes to lose patience."""

    def wait_long(self):
        until = time.monotonic() + 0.02
        while time.monotonic() < until:
            pass

    def test_nothing_is_added(self, executors):
        with keeping_the_gil():
            barrier = threading.Barrier(len(executors))
            futures = [executor.submit(barrier.wait, SECONDS) for executor in executors]
            self.wait_long()
        assert {future.result(SECONDS) for future in futures} == {0, 1, 2, 3}

    @pytest.mark.parametrize("before", [1, 2, 3])
    def test_more_is_added(self, executors, before):
        with keeping_the_gil():
            barrier = threading.Barrier(len(executors))
            futures = [executor.submit(barrier.wait, SECONDS) for executor in executors[:before]]
            self.wait_long()
            futures += [executor.submit(barrier.wait, SECONDS) for executor in executors[before:]]
        assert {future.result(SECONDS) for future in futures} == {0, 1, 2, 3}


def test_the_loop_is_busy_meanwhile():
    """The holder of the GIL goes on for long after it has begun some calls."""
    started = []

    async def visit(number):
        async with ThreadSensitiveContext():
            await sync_to_async(int)()
            await sync_to_async(started.append)(number)

    async def main():
        visits = [asyncio.ensure_future(visit(number)) for number in range(MANY)]
        for _ in range(3):
            await asyncio.sleep(0)
            until = time.monotonic() + 0.01
            while time.monotonic() < until:
                pass
        await asyncio.gather(*visits)

    asyncio.run(main())
    assert sorted(started) == list(range(MANY))


class TestTheLoopHearsOfAResult:
    """However many are on their way to the next."""

    async def visit(self, call, *args):
        async with ThreadSensitiveContext():
            await sync_to_async(int)()
            return await sync_to_async(call)(*args)

    @pytest.mark.asyncio
    async def test_while_the_next_waits_for_that(self):
        heard = [threading.Event() for _ in range(MANY + 1)]
        heard[0].set()

        async def visit(number):
            assert await self.visit(heard[number].wait, SECONDS)
            heard[number + 1].set()

        for _ in range(10):
            await asyncio.gather(*(visit(number) for number in range(MANY)))
            for event in heard[1:]:
                event.clear()

    @pytest.mark.asyncio
    async def test_while_the_next_computes_for_as_long_as_that_takes(self):
        heard = []

        def compute(number):
            deadline = time.monotonic() + SECONDS
            while number and not heard:
                assert time.monotonic() < deadline
            return number

        async def visit(number):
            heard.append(await self.visit(compute, number))

        for _ in range(10):
            await asyncio.gather(*(visit(number) for number in range(2)))
            assert heard == [0, 1]
            heard.clear()

    @pytest.mark.asyncio
    async def test_before_all_the_others_have_begun(self):
        def compute(number):
            events.append(("begun", number))
            until = time.monotonic() + 0.003
            while time.monotonic() < until:
                pass
            return number

        async def visit(number):
            events.append(("heard", await self.visit(compute, number)))

        for _ in range(10):  # the machine may be busy, and the loop late
            events = []
            await asyncio.gather(*(visit(number) for number in range(MANY)))
            assert len(events) == 2 * MANY
            last_begun = max(i for i, (what, _) in enumerate(events) if what == "begun")
            if any(what == "heard" for what, _ in events[:last_begun]):
                return
        pytest.fail("the loop heard of nothing before the last call had begun")


SCRIPT = """
import os, signal, sys, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork in a process with threads
from concurrent.futures import wait
from asgibridge._kernel import kernel

SECONDS = 10
executors = [kernel.ThreadSensitiveExecutor() for _ in range(4)]

def all_work():
    for _ in range(3):
        done, late = wait([executor.submit(int) for executor in executors], SECONDS)
        assert not late, late

all_work()
sys.setswitchinterval(SECONDS)  # nobody else runs, unless this thread lets it
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
def test_fork_while_some_are_on_their_way(script_output):
    script = (
        SCRIPT
        + """
for _ in range(5):
    futures = [executor.submit(int) for executor in executors]
    pid = os.fork()
    if pid == 0:
        try:
            executors = [kernel.ThreadSensitiveExecutor() for _ in range(4)]
            all_work()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    assert not wait(futures, SECONDS).not_done
    all_work()
print("done")
"""
    )
    assert script_output(script) == "done"


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is looked for four times a second")
def test_ctrl_c_where_somebody_is_about_to_be_woken(script_output):
    """The main thread leaves its inbox between being queued and being woken, or just after it."""
    script = (
        SCRIPT
        + """
for before in range(len(executors)):
    for _ in range(5):
        inbox = kernel.Inbox()
        waiting = threading.Event()

        class Item:
            def run(self):
                waiting.set()
            def deliver(self):
                pass

        def interrupt():
            waiting.wait(SECONDS)
            futures = [executor.submit(int) for executor in executors[:before]]
            inbox.put(Item())
            os.kill(os.getpid(), signal.SIGINT)
            futures += [executor.submit(int) for executor in executors[before:]]
            wait(futures, SECONDS)
            inbox.close()  # without the GIL the signal may come as it is about to lie down again

        thread = threading.Thread(target=interrupt)
        thread.start()
        inbox.put(Item())
        try:
            inbox.serve()
            thread.join()
        except KeyboardInterrupt:
            pass
        thread.join()
        all_work()
print("done")
"""
    )
    assert script_output(script) == "done"
