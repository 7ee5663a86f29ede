"""The limit of `asgibridge.workers`: how many contexts have a worker at once, and who waits."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections import OrderedDict
from concurrent.futures import CancelledError
from contextvars import Context

import pytest

from asgibridge._workers import leases
from asgibridge.sync import (
    SyncToAsync,
    ThreadSensitiveContext,
    async_to_sync,
    sync_to_async,
)
from asgibridge.workers import LimitReached, Policy, set_policy
from queues import until
from threads import SECONDS, clean_pool

pool = leases.pool
current_thread = sync_to_async(threading.current_thread)


@pytest.fixture(autouse=True)
def default_policy():
    with clean_pool():
        yield


def run(main):
    """On a loop of its own; a hang is an error."""

    async def limited():
        return await asyncio.wait_for(main(), SECONDS)

    return asyncio.run(limited())


async def hold(entered, leave):
    """A context with a worker, until it is told to leave."""
    async with ThreadSensitiveContext():
        thread = await current_thread()
        entered.set()
        await leave.wait()
        return thread


class Holder:
    """Who has the one worker there is."""

    async def __aenter__(self):
        entered, self.leave = asyncio.Event(), asyncio.Event()
        self.task = asyncio.ensure_future(hold(entered, self.leave))
        await entered.wait()
        return self

    async def __aexit__(self, *_):
        self.leave.set()
        await self.task


async def one(function=threading.current_thread):
    async with ThreadSensitiveContext():
        return await sync_to_async(function)()


async def until_waiting(count):
    while len(pool.waiting) != count:
        await asyncio.sleep(0)


@pytest.mark.parametrize("kind", ["fresh", "keep"])
def test_never_more_than_the_limit_and_in_order_of_arrival(kind):
    at_once, most, order, threads = set(), [], [], set()
    lock = threading.Lock()

    def enter(number):
        with lock:
            at_once.add(number)
            most.append(len(at_once))
            order.append(number)
            threads.add(threading.current_thread())

    async def request(number):
        async with ThreadSensitiveContext():
            await sync_to_async(enter)(number)
            await asyncio.sleep(0)
            await sync_to_async(at_once.discard)(number)
            return number

    async def main():
        return await asyncio.gather(*(request(number) for number in range(200)))

    set_policy(Policy(kind=kind, limit=8, release_idle=None))
    watch = watched_pool()
    try:
        assert run(main) == list(range(200))
    finally:
        watch.stop()
    assert max(most) == 8
    assert watch.most == 8
    assert watch.slots == 200
    assert len(watch.asked) == 192
    assert watch.given == watch.asked
    assert len(order) == 200
    if kind == "keep":
        assert len(threads) == 8


class watched_pool:
    """Who waits for a slot, and who gets one: noted where the pool does it, under its lock.

    What a context does with its slot comes later, on two threads at a time: not in any order.
    """

    def __init__(self):
        self.asked, self.given, self.slots, self.most = [], [], 0, 0
        watch = self

        class Waiting(OrderedDict):
            def __setitem__(self, key, lease):
                watch.asked.append(lease)
                super().__setitem__(key, lease)

            def popitem(self, last=True):
                key, lease = super().popitem(last=last)
                watch.given.append(lease)
                return key, lease

        class InUse(set):
            def add(self, slot):
                super().add(slot)
                watch.slots += 1
                watch.most = max(watch.most, len(self))

        with pool._lock:
            pool.waiting, pool.in_use = Waiting(), InUse()

    def stop(self):
        with pool._lock:
            pool.waiting, pool.in_use = OrderedDict(pool.waiting), set(pool.in_use)


def test_does_not_block_the_loop():
    async def main():
        set_policy(Policy(limit=1))
        async with Holder() as blocker:
            task = asyncio.ensure_future(one())
            await until_waiting(1)
            turned = asyncio.Event()
            asyncio.get_running_loop().call_soon(turned.set)
            await turned.wait()
            assert not task.done()
            blocker.leave.set()
            assert isinstance(await task, threading.Thread)

    run(main)


def test_who_has_a_worker_does_not_wait_for_another():
    """Nor does anybody further in, in whatever way."""

    async def innermost():
        async with ThreadSensitiveContext():
            return await current_thread()

    def nested():
        return async_to_sync(innermost)(), threading.current_thread()

    async def main():
        set_policy(Policy(limit=1))
        async with ThreadSensitiveContext():
            mine = await current_thread()
            assert await innermost() is mine
            assert await sync_to_async(nested)() == (mine, mine)
            assert await asyncio.ensure_future(innermost()) is mine

    run(main)


def test_a_loop_on_a_leased_worker_does_not_wait():
    """Sync code that starts a loop of its own, in a context of its own, holds a worker."""

    def starts_a_loop():
        return Context().run(asyncio.run, one())

    async def main():
        set_policy(Policy(limit=1))
        assert await one(starts_a_loop) is not threading.current_thread()

    run(main)


def test_a_top_level_run_does_not_wait():
    def runs():
        # On a thread of its own, for which the worker waits.
        results = []
        thread = threading.Thread(target=lambda: results.append(async_to_sync(plain)()))
        thread.start()
        thread.join(SECONDS)
        return results

    async def plain():
        return await current_thread()

    async def main():
        set_policy(Policy(kind="keep", limit=1, release_idle=None))
        assert len(await one(runs)) == 1

    run(main)


def test_outside_of_contexts_nothing_is_limited():
    async def main():
        set_policy(Policy(limit=1))
        async with Holder():
            assert await Context().run(asyncio.ensure_future, current_thread())
            assert await sync_to_async(threading.current_thread, thread_sensitive=False)()

    run(main)


class TestWaitTimeout:
    def test_says_who_has_them(self):
        async def main():
            set_policy(Policy(limit=1, wait_timeout=0.01))
            async with Holder() as blocker:
                with pytest.raises(LimitReached) as caught:
                    await one()
                assert isinstance(caught.value, TimeoutError)
                blocker.leave.set()
                await blocker.task
                await one()  # there is one again
            return str(caught.value)

        message = run(main)
        assert "within 0.01 seconds: 1 of 1 are in use (1 by current_thread;" in message
        assert "ASGIBRIDGE_WORKERS_LIMIT" in message
        assert not pool.waiting

    def test_of_one_call_is_not_that_of_the_next(self):
        """The context may wait again, at the end of the queue."""

        async def main():
            set_policy(Policy(limit=1, wait_timeout=0.01))
            async with Holder() as blocker:
                async with ThreadSensitiveContext():
                    for _ in range(2):
                        with pytest.raises(LimitReached):
                            await current_thread()
                    set_policy(Policy(limit=1))
                    task = asyncio.ensure_future(current_thread())
                    await until_waiting(1)
                    blocker.leave.set()
                    assert await task

        run(main)

    def test_is_off_when_it_has_begun(self):
        go_on = threading.Event()

        async def main():
            set_policy(Policy(limit=1, wait_timeout=0.05))
            loop = asyncio.get_running_loop()
            async with Holder() as blocker:
                task = asyncio.ensure_future(one(lambda: go_on.wait(SECONDS)))
                await until_waiting(1)
                blocker.leave.set()
                loop.call_later(0.15, go_on.set)
                assert await task

        run(main)

    def test_of_nothing(self):
        async def main():
            set_policy(Policy(limit=1, wait_timeout=0))
            async with Holder():
                with pytest.raises(LimitReached):
                    await one()

        run(main)


class TestGivingUp:
    def test_a_cancelled_call_gives_up_its_place(self):
        async def main():
            set_policy(Policy(limit=1))
            ran = []
            async with Holder() as blocker:
                tasks = [
                    asyncio.ensure_future(one(lambda number=number: ran.append(number)))
                    for number in range(3)
                ]
                await until_waiting(3)
                tasks[1].cancel()
                with pytest.raises(asyncio.CancelledError):
                    await tasks[1]
                assert len(pool.waiting) == 2
                blocker.leave.set()
                await tasks[0]
                await tasks[2]
            assert ran == [0, 2]

        run(main)

    def test_but_not_if_another_call_of_its_context_waits(self):
        async def main():
            set_policy(Policy(limit=1))
            async with Holder() as blocker, ThreadSensitiveContext():
                first = asyncio.ensure_future(current_thread())
                await until_waiting(1)
                second = asyncio.ensure_future(current_thread())
                await asyncio.sleep(0)
                first.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await first
                assert len(pool.waiting) == 1
                blocker.leave.set()
                assert await second

        run(main)

    def test_leaving_waits_for_what_waits(self):
        async def main():
            set_policy(Policy(limit=1))
            async with Holder() as blocker:
                async with ThreadSensitiveContext():
                    task = asyncio.ensure_future(current_thread())
                    await until_waiting(1)
                    asyncio.get_running_loop().call_soon(blocker.leave.set)
                assert task.done()
            assert not pool.in_use

        run(main)

    @pytest.mark.parametrize("cancels", [True, False])
    def test_a_loop_that_is_closed(self, cancels):
        """What its tasks waited for is given up, whether they are cancelled or just dropped."""

        async def wait():
            SyncToAsync.thread_sensitive_context.set(ThreadSensitiveContext())
            await current_thread()

        def wait_and_close():
            loop = asyncio.new_event_loop()
            task = loop.create_task(wait())
            while not pool.waiting:
                loop.call_soon(loop.stop)
                loop.run_forever()
            if cancels:
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    loop.run_until_complete(task)
            task._log_destroy_pending = False
            loop.close()

        async def main():
            async with Holder() as blocker:
                thread = threading.Thread(target=Context().run, args=(wait_and_close,))
                thread.start()
                await asyncio.get_running_loop().run_in_executor(None, thread.join, SECONDS)
                gc.collect()
                assert not pool.waiting
                blocker.leave.set()
                await one()

        set_policy(Policy(limit=1))
        run(main)

    def test_a_submitted_call(self):
        async def main():
            set_policy(Policy(limit=1))
            async with Holder() as blocker, ThreadSensitiveContext() as context:
                task = asyncio.ensure_future(current_thread())
                await until_waiting(1)
                executor = SyncToAsync.context_to_thread_executor[context]
                future, other = executor.submit(int, "7"), executor.submit(int)
                assert other.cancel()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert len(pool.waiting) == 1
                blocker.leave.set()
                assert await asyncio.wrap_future(future) == 7

        run(main)

    def test_an_executor_that_is_dropped(self):
        async def main():
            set_policy(Policy(limit=1))
            async with Holder():
                executor = leases.executor_of_context(None, None)
                future = executor.submit(int)
                assert len(pool.waiting) == 1
                del executor
                gc.collect()
                assert not pool.waiting
                with pytest.raises(CancelledError):
                    future.result(SECONDS)

        run(main)

    def test_shutdown_that_cancels(self):
        async def main():
            set_policy(Policy(limit=1))
            async with Holder():
                executor = leases.executor_of_context(None, None)
                future = executor.submit(int)
                executor.shutdown(cancel_futures=True)
                assert future.cancelled()
                assert not pool.waiting

        run(main)


def test_a_higher_limit_lets_those_on_who_wait():
    async def main():
        set_policy(Policy(limit=1))
        async with Holder() as blocker:
            tasks = [asyncio.ensure_future(hold(asyncio.Event(), blocker.leave)) for _ in range(3)]
            await until_waiting(3)
            set_policy(Policy(limit=3))
            await until_waiting(1)
            set_policy(Policy())
            await until_waiting(0)
            blocker.leave.set()
            await asyncio.gather(*tasks)

    run(main)


def test_a_lower_limit_holds_for_the_next():
    async def main():
        set_policy(Policy(limit=2))
        async with Holder() as one_holder, Holder() as other:
            set_policy(Policy(limit=1))
            task = asyncio.ensure_future(one())
            await until_waiting(1)
            one_holder.leave.set()
            await one_holder.task
            assert len(pool.waiting) == 1
            other.leave.set()
            await task

    run(main)


def test_contexts_on_several_loops():
    """They wait in one queue, and are woken from each other's threads."""
    set_policy(Policy(kind="keep", limit=2))
    results = []

    async def main():
        results.extend(await asyncio.gather(*(one() for _ in range(50))))

    threads = [threading.Thread(target=run, args=(main,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert len(results) == 200
    assert len(set(results)) == 2


def test_a_thread_that_can_not_be_started(monkeypatch):
    """The error is the call's; nobody else loses the place."""
    fails = []
    original = threading.Thread.start

    def start(self):
        if fails and "asgibridge" in self.name:
            fails.pop()
            raise RuntimeError("can't start new thread")
        original(self)

    monkeypatch.setattr(threading.Thread, "start", start)

    async def main():
        set_policy(Policy(kind="keep", limit=1, release_idle=None))
        fails.append(1)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            await one()
        assert not pool.in_use
        set_policy(Policy(kind="keep", limit=1, release_idle=None, after_lease=print_nothing))
        async with Holder() as blocker:
            # There is no worker for that yet.
            set_policy(Policy(kind="keep", limit=1, release_idle=None))
            tasks = [asyncio.ensure_future(one()) for _ in range(2)]
            await until_waiting(2)
            fails.append(1)
            blocker.leave.set()
            with pytest.raises(RuntimeError, match="can't start new thread"):
                await tasks[0]
            assert await tasks[1]

    run(main)


def print_nothing(_worker):
    pass


@pytest.mark.parametrize("kind", ["fresh", "keep"])
def test_a_cancelled_exit_still_gives_it_back(kind):
    go_on, local = threading.Event(), threading.local()

    def block(loop, begun):
        local.value = 1  # so that a fresh one has to be cleaned
        loop.call_soon_threadsafe(begun.set)
        go_on.wait(SECONDS)

    async def main():
        loop, begun = asyncio.get_running_loop(), asyncio.Event()
        set_policy(Policy(kind=kind, limit=1))
        task = asyncio.ensure_future(one(lambda: block(loop, begun)))
        await begun.wait()
        task.cancel()  # the call
        await asyncio.sleep(0)
        task.cancel()  # the exit
        with pytest.raises(asyncio.CancelledError):
            await task
        other = asyncio.ensure_future(one())
        await until_waiting(1)
        go_on.set()
        assert await other

    run(main)
    assert not pool.in_use


@pytest.mark.skipif(
    (3, 12) <= sys.version_info < (3, 12, 2),
    reason="3.12.0 and 3.12.1 start no thread after main has ended (CPython #113964)",
)
def test_at_exit_who_waits_is_served(script_output):
    assert (
        script_output("""
            import asyncio, threading
            from asgibridge.sync import ThreadSensitiveContext, sync_to_async
            from asgibridge.workers import Policy, set_policy
            set_policy(Policy(kind="keep", limit=1, release_idle=None))
            results = []

            async def one():
                async with ThreadSensitiveContext():
                    results.append(await sync_to_async(int)())

            async def main():
                await asyncio.gather(*(one() for _ in range(50)))
                print(len(results))

            threading.Thread(target=lambda: asyncio.run(main())).start()
        """)
        == "50"
    )


def test_a_function_is_asked_for_its_name_under_no_lock():
    """Its class's code may wait for another thread that uses the same worker."""
    used = []
    contexts = []

    class Function:
        def __call__(self):
            return "answered"

        def __getattr__(self, name):
            # Its own context's executor alone: without a GIL other tests' ended ones may be there.
            for context in contexts:
                executor = SyncToAsync.context_to_thread_executor[context]
                other = threading.Thread(target=executor.submit, args=(int,), daemon=True)
                other.start()
                other.join(SECONDS)
                used.append(not other.is_alive())
            raise AttributeError(name)

    async def main():
        async with ThreadSensitiveContext() as context:
            contexts.append(context)
            return await call()

    set_policy(Policy(limit=1))
    call = sync_to_async(Function())
    assert run(main) == "answered"
    assert used
    assert all(used)


class TestInTheMiddleOfThePoolsWork:
    """The collector may come while this thread has the pool's lock, and drop a lease: then nobody
    may wait for the lock of another one, whose thread waits for the pool's."""

    @staticmethod
    def collect(dropped, held):
        """Drop what is in the list ``dropped``, while another thread needs the lock of ``held``."""
        locked, collecting = threading.Event(), threading.Event()

        def other():
            with held._lock:
                locked.set()
                assert collecting.wait(SECONDS)
                with pool._lock:
                    pass

        def drop():
            assert locked.wait(SECONDS)
            with pool._lock:
                collecting.set()
                dropped.clear()
                gc.collect()

        threads = [threading.Thread(target=each, daemon=True) for each in (other, drop)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
            assert not thread.is_alive(), "a deadlock"

    @pytest.mark.parametrize("kind", ["keep", "fresh"])
    def test_a_lease_with_a_worker(self, kind):
        set_policy(Policy(kind=kind, limit=1, release_idle=None))
        dropped = [leases.executor_of_context(None, None)]
        assert dropped[0].submit(int, "1").result(SECONDS) == 1
        waiting = leases.executor_of_context(None, None)
        future = waiting.submit(int, "2")
        assert len(pool.waiting) == 1
        self.collect(dropped, waiting)
        assert future.result(SECONDS) == 2

    def test_a_lease_that_waits(self):
        set_policy(Policy(kind="keep", limit=1, release_idle=None))
        holder = leases.executor_of_context(None, None)
        assert holder.submit(int, "1").result(SECONDS) == 1
        dropped = [leases.executor_of_context(None, None)]
        future = dropped[0].submit(int, "2")
        other = leases.executor_of_context(None, None)
        last = other.submit(int, "3")
        self.collect(dropped, other)
        until(future.cancelled)  # without a GIL it dies when its own thread comes to it
        assert list(pool.waiting) == [id(other)]
        holder.shutdown()
        assert last.result(SECONDS) == 3

    def test_a_task_that_waits(self):
        """Its context stays, and has given up its place when that comes."""
        set_policy(Policy(kind="keep", limit=1, release_idle=None))
        holder = leases.executor_of_context(None, None)
        assert holder.submit(int, "1").result(SECONDS) == 1
        context = ThreadSensitiveContext()

        async def wait():
            SyncToAsync.thread_sensitive_context.set(context)
            await current_thread()

        loop = asyncio.new_event_loop()
        dropped = [Context().run(loop.create_task, wait())]
        while not pool.waiting:
            loop.call_soon(loop.stop)
            loop.run_forever()
        dropped[0]._log_destroy_pending = False
        loop.close()
        lease = SyncToAsync.context_to_thread_executor[context]
        self.collect(dropped, lease)
        holder.shutdown()
        assert not pool.in_use
        assert not pool.waiting
        assert lease.submit(int, "2").result(SECONDS) == 2
        lease.shutdown()
