"""Cancellation at each moment of a hop, both ways: nothing is lost, and nothing runs twice.

A hop's moments, for `sync_to_async`: *queued* behind another call, *starting* (taken by the thread,
the function not yet called), *running*, *finishing* (the function has returned, the loop has not
been told), *delivering* (the loop has been told, the task has not run). For `async_to_sync`: before
the coroutine's first step, while it awaits, while the thread serves, and when it has ended. What
stops the other side at each of them is an event, never time.
"""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from asgibridge.sync import SyncToAsync, ThreadSensitiveContext, async_to_sync, sync_to_async

SECONDS = 10

thread = sync_to_async(threading.current_thread)
idle = sync_to_async(int, thread_sensitive=False)


def run(main):
    """Run ``main()`` on a thread of its own; afterwards no task is left, and the thread is free."""

    async def all_of_it():
        reported = []
        asyncio.get_running_loop().set_exception_handler(lambda _, told: reported.append(told))
        result = await asyncio.wait_for(main(), SECONDS)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert (await thread()).is_alive()
        assert reported == []
        return result

    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(asyncio.run, all_of_it()).result()
    gc.collect()  # what was never awaited is told of now
    return result


async def until(event):
    """A `threading.Event`, without a thread-sensitive call."""
    assert await asyncio.get_running_loop().run_in_executor(None, event.wait, SECONDS)


class Handled(SyncToAsync):
    """Stops before it calls the function, and when that has returned, for as long as it is told."""

    def __init__(self, function, **options):
        super().__init__(function, **options)
        self.starting, self.start = threading.Event(), threading.Event()
        self.finishing, self.finish = threading.Event(), threading.Event()

    def thread_handler(self, loop, *args, **kwargs):
        self.starting.set()
        self.start.wait(SECONDS)
        try:
            return super().thread_handler(loop, *args, **kwargs)
        finally:
            self.finishing.set()
            self.finish.wait(SECONDS)


async def cancelled(task):
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return True
    return False


class InContext:
    """Calls on a thread that nobody else uses, or in a pool."""

    def __init__(self, thread_sensitive):
        self.options = {"thread_sensitive": thread_sensitive}
        self.block = ThreadSensitiveContext()

    async def __aenter__(self):
        await self.block.__aenter__()
        return self

    async def __aexit__(self, *error):
        await self.block.__aexit__(*error)


@pytest.mark.parametrize("thread_sensitive", [True, False], ids=["own thread", "pool"])
class TestSyncToAsync:
    def test_queued(self, thread_sensitive):
        """It never runs; what is behind it does."""
        release, ran = threading.Event(), []

        async def main():
            async with InContext(thread_sensitive) as block:
                if not thread_sensitive:
                    one = ThreadPoolExecutor(1)
                    block.options["executor"] = one
                begun = threading.Event()

                def busy():
                    begun.set()
                    release.wait(SECONDS)

                first = asyncio.ensure_future(sync_to_async(busy, **block.options)())
                await until(begun)
                call = sync_to_async(ran.append, **block.options)
                queued = [asyncio.ensure_future(call(i)) for i in range(3)]
                await asyncio.sleep(0)
                assert await cancelled(queued[1])
                release.set()
                await asyncio.gather(first, queued[0], queued[2])
                if not thread_sensitive:
                    one.shutdown()

        run(main)
        assert ran == [0, 2]

    def test_starting(self, thread_sensitive):
        """The thread has it: it runs, once, and nobody hears."""
        ran = []

        async def main():
            async with InContext(thread_sensitive) as block:
                call = Handled(ran.append, **block.options)
                task = asyncio.ensure_future(call(1))
                await until(call.starting)
                assert await cancelled(task)
                assert ran == []
                call.start.set()
                call.finish.set()
                await until(call.finishing)

        run(main)
        assert ran == [1]

    def test_running(self, thread_sensitive):
        begun, release, ran = threading.Event(), threading.Event(), []

        def work():
            begun.set()
            release.wait(SECONDS)
            ran.append(1)
            return "unheard"

        async def main():
            async with InContext(thread_sensitive) as block:
                task = asyncio.ensure_future(sync_to_async(work, **block.options)())
                await until(begun)
                assert await cancelled(task)
                assert ran == []
                release.set()
                while not ran:
                    await asyncio.sleep(0)

        run(main)
        assert ran == [1]

    def test_finishing(self, thread_sensitive):
        """It has run, and the task is cancelled all the same."""
        ran = []

        async def main():
            async with InContext(thread_sensitive) as block:
                call = Handled(ran.append, **block.options)
                task = asyncio.ensure_future(call(1))
                call.start.set()
                await until(call.finishing)
                assert ran == [1]
                assert await cancelled(task)
                call.finish.set()

        run(main)
        assert ran == [1]

    def test_delivering(self, thread_sensitive):
        """The loop was told, but had no turn since: it hears of the end and of the cancellation."""
        ended = threading.Event()
        ran = []

        def work():
            ran.append(1)

        async def main():
            async with InContext(thread_sensitive) as block:
                call = Handled(work, **block.options)
                task = asyncio.ensure_future(call())
                await until(call.starting)
                call.start.set()
                call.finish.set()
                # The loop is kept from its turn until the thread has certainly told it: another
                # call of the same thread has come after.
                assert call.finishing.wait(SECONDS)
                if thread_sensitive:
                    executor = SyncToAsync.context_to_thread_executor[block.block]
                    executor.submit(ended.set).result(SECONDS)
                task.cancel()
                try:
                    await task
                except asyncio.CancelledError:
                    return "cancelled"
                return "done"

        # As with any task: cancelled before it had the turn in which it would have ended.
        assert run(main) == "cancelled"
        assert ran == [1]

    def test_an_error_after_each_of_them_is_reported_once(self, thread_sensitive):
        reported = []

        def fail():
            raise ValueError("unheard")

        async def main():
            loop = asyncio.get_running_loop()
            told = asyncio.Event()

            def handler(_, context):
                reported.append(str(context["exception"]))
                told.set()

            await idle()  # or `until` makes asyncio's own executor, which drops it
            async with InContext(thread_sensitive) as block:
                call = Handled(fail, **block.options)
                task = asyncio.ensure_future(call())
                await until(call.starting)
                assert await cancelled(task)
                loop.set_exception_handler(handler)
                call.start.set()
                call.finish.set()
                await told.wait()

        run(main)
        assert reported == ["unheard"]


class TestAsyncToSync:
    """Of the task that awaits the function that waits for the coroutine: the same, further in."""

    def test_before_the_function_has_called_it(self):
        """Nothing to pass it on to: the function goes on, and so does its coroutine."""
        begun, release, ran = threading.Event(), threading.Event(), []

        async def inner():
            ran.append(asyncio.get_running_loop())

        def work():
            begun.set()
            release.wait(SECONDS)
            async_to_sync(inner)()
            ran.append("after")

        async def main():
            task = asyncio.ensure_future(sync_to_async(work)())
            await until(begun)
            assert await cancelled(task)
            release.set()
            await thread()
            return asyncio.get_running_loop()

        loop = run(main)
        assert ran == [loop, "after"]

    def test_while_it_awaits(self):
        events = []

        async def main():
            started = asyncio.Event()

            async def inner():
                started.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    events.append("inner")

            def work():
                try:
                    async_to_sync(inner)()
                finally:
                    events.append("function")

            task = asyncio.ensure_future(sync_to_async(work)())
            await started.wait()
            assert await cancelled(task)
            events.append("outer")

        run(main)
        assert events == ["inner", "function", "outer"]

    def test_while_the_thread_serves_a_call_of_it(self):
        """The call goes on; the coroutine is cancelled at once, and the function waits for both."""
        begun, release, events = threading.Event(), threading.Event(), []

        def served():
            begun.set()
            release.wait(SECONDS)
            events.append("served")

        async def inner():
            try:
                await sync_to_async(served)()
            finally:
                events.append("inner")
                release.set()

        def work():
            try:
                async_to_sync(inner)()
            finally:
                events.append("function")

        async def main():
            task = asyncio.ensure_future(sync_to_async(work)())
            await until(begun)
            assert await cancelled(task)
            events.append("outer")

        run(main)
        assert events == ["inner", "served", "function", "outer"]

    def test_when_it_has_ended_and_the_function_goes_on(self):
        begun, release, ran = threading.Event(), threading.Event(), []

        async def inner():
            return 1

        def work():
            ran.append(async_to_sync(inner)())
            begun.set()
            release.wait(SECONDS)
            ran.append(async_to_sync(inner)())

        async def main():
            task = asyncio.ensure_future(sync_to_async(work)())
            await until(begun)
            assert await cancelled(task)
            release.set()
            await thread()

        run(main)
        assert ran == [1, 1]

    def test_after_a_coroutine_has_called_back_into_the_thread(self):
        """asgiref's thread works for that call from then on, and the next coroutine is not
        reached."""

        async def main():
            started = asyncio.Event()

            async def back_and_forth():
                await sync_to_async(int)()

            async def forever():
                started.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    events.append("inner")

            def work():
                async_to_sync(back_and_forth)()
                async_to_sync(forever)()

            task = asyncio.ensure_future(sync_to_async(work)())
            await started.wait()
            assert await cancelled(task)
            events.append("outer")

        events = []
        run(main)
        assert events == ["inner", "outer"]

    def test_that_the_function_deals_with(self):
        """The second call of the function is none of the cancellation's business."""

        async def main():
            started = asyncio.Event()

            async def forever():
                started.set()
                await asyncio.Event().wait()

            async def answer():
                await asyncio.sleep(0)
                return 7

            def work():
                try:
                    async_to_sync(forever)()
                except asyncio.CancelledError:
                    return async_to_sync(answer)()

            task = asyncio.ensure_future(sync_to_async(work)())
            await started.wait()
            task.cancel()
            return await task

        assert run(main) == 7


@pytest.mark.parametrize("depth", range(1, 11))
def test_nested(depth):
    """From the outermost task to the innermost coroutine, and back out through each frame once."""
    unwound = []

    async def main():
        started = asyncio.Event()

        async def level(n):
            try:
                if n == depth:
                    started.set()
                    await asyncio.Event().wait()
                await sync_to_async(bridge)(n + 1)
            finally:
                unwound.append(("async", n))

        def bridge(n):
            try:
                async_to_sync(level)(n)
            finally:
                unwound.append(("sync", n))

        task = asyncio.ensure_future(level(0))
        await started.wait()
        assert await cancelled(task)

    run(main)
    expected = [("async", depth)]
    for n in range(depth, 0, -1):
        expected += [("sync", n), ("async", n - 1)]
    assert unwound == expected


class Race:
    """Calls that are cancelled about when they end."""

    def __init__(self, seed):
        self.chance = random.Random(seed)
        self.ran, self.inner_ran = [], []

    def work(self, number, spins):
        for _ in range(spins):
            pass
        self.ran.append(number)
        return number

    async def inner(self, number, turns):
        for _ in range(turns):
            await asyncio.sleep(0)
        self.inner_ran.append(number)
        return number

    def bridge(self, number, turns):
        try:
            return async_to_sync(self.inner)(number, turns)
        finally:
            self.ran.append(number)

    async def main(self, count):
        for number in range(count):
            size = self.chance.randrange(0, 40)
            way = self.chance.randrange(3)
            if way == 0:
                call = sync_to_async(self.work)(number, size * 20)
            elif way == 1:
                call = sync_to_async(self.work, thread_sensitive=False)(number, size * 20)
            else:
                call = sync_to_async(self.bridge)(number, size // 4)
            await self.cut_short(number, call)
        await thread()
        await idle()

    async def cut_short(self, number, call):
        after = self.chance.uniform(0, 2e-4)
        if self.chance.random() < 0.5:
            try:
                assert await asyncio.wait_for(call, after) == number
            except asyncio.TimeoutError:
                pass
            return
        task = asyncio.ensure_future(call)
        asyncio.get_running_loop().call_later(after, task.cancel)
        await asyncio.wait([task])
        assert task.cancelled() or task.result() == number


def race(seed, count):
    race = Race(seed)
    run(lambda: race.main(count))
    assert len(set(race.ran)) == len(race.ran)
    assert len(set(race.inner_ran)) == len(race.inner_ran)
    assert set(race.inner_ran) <= set(race.ran)


def test_time_outs_that_race_completion():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        race(0, 150)
    finally:
        sys.setswitchinterval(before)


@pytest.mark.slow
def test_many_time_outs_that_race_completion():
    for seed in range(1, 6):
        race(seed, 500)
