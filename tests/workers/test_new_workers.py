"""What the system tells of a worker, new workers, retired ones, and when idle ones end.

A fresh worker is what a new thread would be that the taker starts. test_kept_workers.py has what
Python tells of a worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import struct
import sys
import threading
import time

import pytest
from test_kept_workers import keeps, on_a_lease

from asgibridge import workers
from asgibridge._loops import kept
from asgibridge._process import loops
from asgibridge._workers import policy
from asgibridge.sync import (
    AsyncSingleThreadContext,
    ThreadSensitiveContext,
    async_to_sync,
    sync_to_async,
)
from asgibridge.workers import Policy, retire_thread, set_policy
from threads import SECONDS, clean_pool

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
KINDS = ["fresh", "keep", "new"]


@pytest.fixture(autouse=True)
def default_policy():
    workers.end_idle_workers()
    with clean_pool():
        yield


def request(*functions, policy=None):
    """What the functions return in one context, and then its thread."""

    async def main():
        async with ThreadSensitiveContext(policy=policy):
            results = [await sync_to_async(function)() for function in functions]
            return [*results, await sync_to_async(threading.current_thread)()]

    return asyncio.run(main())


# --- what a thread has from the thread that starts it --------------------------------------------


def libc(name, *args):
    """Call a C function that returns -1 for an error; skip the test if this process may not."""
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*args) == -1:
        pytest.skip(f"{name}: {os.strerror(ctypes.get_errno())}")


def niceness():
    return os.getpriority(os.PRIO_PROCESS, 0)


def be_nice():
    if niceness() == 19:
        pytest.skip("is as nice as can be")
    os.nice(1)


def scheduling_policy():
    return os.sched_getscheduler(0)


def be_a_batch():
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def processors():
    return os.sched_getaffinity(0)


def leave_a_processor():
    mine = processors()
    if len(mine) == 1:
        pytest.skip("needs two processors, to move a thread from one to the other")
    os.sched_setaffinity(0, {min(mine)})


def go_elsewhere():
    libc("unshare", 0x200)  # CLONE_FS
    os.chdir("/")


def effective_capabilities():
    with open("/proc/thread-self/status") as status:
        return next(int(line.split()[1], 16) for line in status if line.startswith("CapEff"))


def drop_a_capability():
    rest = effective_capabilities()
    if not rest:
        pytest.skip("has no capability to drop")
    rest &= rest - 1  # without the lowest
    low, high = rest & 0xFFFFFFFF, rest >> 32
    header = struct.pack("=II", 0x20080522, 0)  # version 3, this thread
    libc("capset", header, struct.pack("=6I", low, low, 0, high, high, 0))


CHANGES = [
    (niceness, be_nice),
    (scheduling_policy, be_a_batch),
    (processors, leave_a_processor),
    (os.getcwd, go_elsewhere),
    (effective_capabilities, drop_a_capability),
]


@on_linux
@pytest.mark.parametrize(("look", "change"), CHANGES)
class TestWhatTheSystemTells:
    @pytest.mark.parametrize("leaves_a_value", [False, True])
    def test_is_not_seen_in_the_next_lease(self, kernel, look, change, leaves_a_value):
        local = threading.local()

        def use():
            local.value = leaves_a_value  # else its worker is handed on without a look at itself
            if not leaves_a_value:
                del local.value
            change()

        before = look()
        (*_, after, first) = on_a_lease(kernel, use, look)
        assert after != before
        assert on_a_lease(kernel, look)[0] == before
        first.join(SECONDS)
        assert not first.is_alive()  # it runs to its end, and does not lie idle as it is

    def test_is_seen_if_whoever_takes_the_worker_has_changed(self, kernel, look, change):
        found = []

        def take():  # on a thread of the test's: the change is for good
            found.extend(on_a_lease(kernel))
            change()
            found.extend(on_a_lease(kernel, look))
            found.append(look())

        thread = threading.Thread(target=self.reported, args=(take, found))
        thread.start()
        thread.join(SECONDS)
        if isinstance(found[-1], BaseException):
            raise found[-1]
        first, seen, second, mine = found
        assert seen == mine
        assert first is not second

    @staticmethod
    def reported(function, found):
        try:
            function()
        except BaseException as error:  # also a skip
            found.append(error)


@contextlib.contextmanager
def stack_size(size):
    old = threading.stack_size(size)
    try:
        yield
    finally:
        threading.stack_size(old)


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="only CPython tells")
@pytest.mark.parametrize("kind", ["fresh", "keep"])
def test_a_stack_of_another_size_is_a_new_threads(kind):
    (first,) = request(policy=kind)
    with stack_size(16 << 20):
        (second,) = request(policy=kind)
        (third,) = request(policy=kind)
    assert second is not first
    if kind == "keep":
        assert third is second
    first.join(SECONDS)
    assert not first.is_alive()


def test_a_top_level_run_has_a_stack_of_the_size_of_now():
    thread = async_to_sync(current_thread_of_the_loop)
    first = thread()
    with stack_size(16 << 20):
        assert thread() is not first


async def current_thread_of_the_loop():
    return threading.current_thread()


# --- new workers ---------------------------------------------------------------------------------


class TestNew:
    def test_is_a_thread_for_each_context(self):
        set_policy(Policy(kind="new"))
        found = [request(threading.current_thread) for _ in range(5)]
        assert all(first is second for first, second in found)
        assert len({id(first) for first, _ in found}) == 5
        assert not any(self.lives_on(first) for first, _ in found)

    def test_is_a_thread_for_each_top_level_call(self):
        set_policy(Policy(kind="new"))
        found = [async_to_sync(current_thread_of_the_loop)() for _ in range(5)]
        assert len({id(each) for each in found}) == 5
        assert not any(self.lives_on(each) for each in found)

    def test_is_a_thread_for_each_single_thread_context(self):
        set_policy(Policy(kind="new"))
        found = []
        for _ in range(3):
            with AsyncSingleThreadContext():
                found += [async_to_sync(current_thread_of_the_loop)() for _ in range(2)]
        assert len({id(each) for each in found}) == 3
        assert not any(self.lives_on(each) for each in found)

    def test_of_one_context(self):
        threads = [request(policy=kind)[0] for kind in ("keep", "fresh", "new", "new")]
        assert len({id(each) for each in threads}) == 4
        assert not any(self.lives_on(each) for each in threads[2:])

    def test_with_hooks_and_a_limit(self):
        called = []
        hooks = {
            name: lambda worker, name=name: called.append(name)
            for name in ("on_start", "before_lease", "after_lease", "on_end")
        }
        set_policy(Policy(kind="new", limit=1, **hooks))
        threads = [request()[0] for _ in range(2)]
        assert threads[0] is not threads[1]
        assert called == ["on_start", "before_lease", "after_lease", "on_end"] * 2
        assert not any(self.lives_on(each) for each in threads)

    @staticmethod
    def lives_on(thread):
        thread.join(SECONDS)
        return thread.is_alive()


# --- retired ones --------------------------------------------------------------------------------


class TestRetireThread:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("limit", [None, 1])
    def test_ends_with_its_lease(self, kind, limit):
        set_policy(Policy(kind=kind, limit=limit))
        _, first = request(retire_thread)
        _, same = request(lambda: None)
        first.join(SECONDS)
        assert not first.is_alive()
        assert same is not first

    def test_has_the_other_calls_of_its_context(self):
        first, _, second, third = request(
            threading.current_thread, retire_thread, threading.current_thread
        )
        assert first is second is third

    @pytest.mark.parametrize("kind", KINDS)
    def test_of_a_top_level_call(self, kind):
        async def main():
            retire_thread()
            return threading.current_thread()

        set_policy(Policy(kind=kind))
        first = async_to_sync(main)()
        first.join(SECONDS)
        assert not first.is_alive()
        assert async_to_sync(current_thread_of_the_loop)() is not first

    def test_of_any_other_thread_does_nothing(self):
        retire_thread()
        before = asyncio.run(sync_to_async(threading.current_thread)())
        asyncio.run(sync_to_async(retire_thread)())
        assert asyncio.run(sync_to_async(threading.current_thread)()) is before


# --- when idle ones end --------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
class TestBeforeAFork:
    def test_nobody_is_warned(self, script_output):
        """CPython 3.12 and later warn whoever forks beside threads; -W error makes it an error."""
        assert (
            script_output("""
                import os, threading
                from asgibridge import workers
                from asgibridge.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
                import asyncio

                async def request():
                    async with ThreadSensitiveContext():
                        await sync_to_async(int)()

                def fork():
                    child = os.fork()
                    if child == 0:
                        os._exit(len(threading.enumerate()))
                    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

                for kind in ("fresh", "keep", "new"):
                    workers.set_policy(workers.Policy(kind=kind))
                    async_to_sync(request)()
                    asyncio.run(request())
                    print(fork(), len(threading.enumerate()))
            """)
            == "1 1\n1 1\n1 1"
        )

    def test_a_worker_that_does_not_end_is_waited_for_no_longer_than_a_second(self, monkeypatch):
        monkeypatch.setattr(policy, "_SECONDS_BEFORE_FORK", 0.05)
        go_on = threading.Event()
        set_policy(Policy(kind="keep", on_end=lambda worker: go_on.wait(SECONDS)))
        (thread,) = request()
        try:
            policy._before_fork()
            assert thread.is_alive()
        finally:
            go_on.set()
            thread.join(SECONDS)


class TestWhenTheProgramHasNoLoopOpen:
    @pytest.fixture(autouse=True)
    def seconds(self, kernel, monkeypatch):
        if not keeps(kernel):
            pytest.skip("fresh workers end with their lease")
        monkeypatch.setattr(loops, "_noted", [])
        monkeypatch.setattr(kernel, "LINGER_SECONDS", 0.01)
        monkeypatch.setattr(kernel, "IDLE_SECONDS", 10.0)

    def test_an_idle_worker_ends(self, kernel):
        (first,) = on_a_lease(kernel)
        first.join(SECONDS / 2)
        assert not first.is_alive()

    def test_an_idle_worker_waits_while_one_is_open(self, kernel, monkeypatch):
        looks = []
        any_open = loops.any_open

        def look():
            looks.append(any_open())
            return looks[-1]

        monkeypatch.setattr(loops, "any_open", look)
        loop = asyncio.new_event_loop()
        try:
            loops.note(loop)
            (first,) = on_a_lease(kernel)
            deadline = time.monotonic() + SECONDS
            while looks.count(True) < 3:
                assert time.monotonic() < deadline
                time.sleep(0.001)
            assert first.is_alive()
        finally:
            loop.close()
        first.join(SECONDS / 2)
        assert not first.is_alive()

    def test_a_leased_worker_waits(self, kernel, monkeypatch):
        looks = threading.Semaphore(0)
        monkeypatch.setattr(loops, "any_open", lambda: looks.release() or False)
        with kernel.ThreadSensitiveExecutor() as executor:
            first = executor.submit(threading.current_thread).result(SECONDS)
            for _ in range(3):
                assert looks.acquire(timeout=SECONDS)
            assert executor.submit(threading.current_thread).result(SECONDS) is first


@pytest.mark.skipif(not kept._can_keep, reason="keeps no loops")
def test_a_parked_loop_is_closed_with_the_worker(monkeypatch):
    monkeypatch.setattr(loops, "_noted", [])
    kept._close_parked()
    async_to_sync(current_thread_of_the_loop)()
    assert len(kept._parked) == 1
    monkeypatch.setattr(kept, "_LINGER_SECONDS", 0.0)
    kept.close_idle()
    assert kept._parked == []


class TestLoops:
    def test_an_open_one_counts_until_it_is_closed(self, monkeypatch):
        monkeypatch.setattr(loops, "_noted", [])
        loop = asyncio.new_event_loop()
        assert not loops.any_open()
        loops.note(loop)
        loops.note(loop)
        assert loops.any_open()
        assert len(loops._noted) == 1
        loop.close()
        assert not loops.any_open()

    def test_one_that_cannot_be_asked_counts_as_closed(self, monkeypatch):
        monkeypatch.setattr(loops, "_noted", [])

        class OfSlots:
            __slots__ = ()

        class Raises:
            def is_closed(self):
                raise RuntimeError

        raises = Raises()
        loops.note(OfSlots())
        loops.note(raises)
        assert not loops.any_open()
