"""`asgibridge.queue`: what queues do, for threads and tasks, and each of their guarantees."""

from __future__ import annotations

import asyncio
import gc
import os
import queue as stdlib_queue
import sys
import threading
import time
import weakref
from collections import deque

import pytest

import asgibridge
import queues
from asgibridge.queue import (
    AsyncQueueShutDown,
    LifoQueue,
    MessageQueue,
    PriorityQueue,
    QueueEmpty,
    QueueFull,
    QueueShutDown,
    SyncQueueShutDown,
    UnsupportedOperation,
)
from queues import (
    SECONDS,
    InterruptedLoop,
    abandoned,
    in_thread,
    on_loop,
    running_loop,
    until,
)

KINDS = [MessageQueue, LifoQueue, PriorityQueue]


class Hooked(MessageQueue):
    """Stores its items by the hooks, which are called by the kernel."""

    def _put(self, item):
        super()._put(item)


@pytest.fixture
def other_loop():
    with running_loop() as loop:
        yield loop


def waiting(start, condition):
    """What ``start`` returns, when ``condition`` has come true."""
    started = start()
    until(condition)
    return started


def getter(queue, loop=None):
    """Somebody who waits to get: a thread, or a task of ``loop``."""
    before = queue.getting
    return waiting(
        lambda: in_thread(queue.sync_get) if loop is None else on_loop(loop, queue.get()),
        lambda: queue.getting == before + 1,
    )


def putter(queue, item, loop=None):
    before = queue.putting
    return waiting(
        lambda: in_thread(queue.sync_put, item) if loop is None else on_loop(loop, queue.put(item)),
        lambda: queue.putting == before + 1,
    )


class TestItems:
    @pytest.mark.parametrize(
        ("kind", "order"),
        [
            (MessageQueue, [3, 1, 2]),
            (Hooked, [3, 1, 2]),
            (LifoQueue, [2, 1, 3]),
            (PriorityQueue, [1, 2, 3]),
        ],
    )
    def test_come_in_the_order_of_the_variant(self, kind, order):
        queue = kind()
        for item in (3, 1, 2):
            queue.put_nowait(item)
        assert queue.qsize() == 3
        assert queue.peek_nowait() == order[0]
        assert [queue.get_nowait() for _ in range(3)] == order
        assert queue.empty()

    @pytest.mark.parametrize("kind", [MessageQueue, LifoQueue])
    def test_many_come_and_go(self, kind):
        """Through all of what the storage does to keep small."""
        queue, model, n = kind(), deque(), 0
        pop = model.popleft if kind is MessageQueue else model.pop
        for size in (1, 70, 300, 5, 2000, 0, 129, 64):
            while len(model) < size:
                queue.put_nowait(n)
                model.append(n)
                n += 1
            while len(model) > size // 2:
                assert queue.get_nowait() == pop()
            assert queue.qsize() == len(model)

    def test_may_be_anything(self):
        queue = MessageQueue()
        for item in (None, False, (), StopIteration(1), (1, 2), ValueError):
            queue.put_nowait(item)
            assert queue.sync_get() is item
            queue.put_nowait(item)
            assert asyncio.run(queue.get()) is item

    def test_many_at_once(self, loop):
        queue = MessageQueue()
        with pytest.raises(QueueEmpty):
            queue.get_many_nowait()
        for item in range(10):
            queue.put_nowait(item)
        assert queue.get_many_nowait(2) == [0, 1]
        assert queue.sync_get_many(3) == [2, 3, 4]
        assert on_loop(loop, queue.get_many(2)).result(SECONDS) == [5, 6]
        assert queue.get_many_nowait() == [7, 8, 9]
        for call in (queue.get_many_nowait, queue.sync_get_many):
            with pytest.raises(ValueError, match="n=0"):
                call(0)

    def test_many_by_one_wake_up(self, loop):
        """All that came by the time the task looks, not only what woke it."""
        queue, blocked, go_on = MessageQueue(), threading.Event(), threading.Event()
        future = waiting(lambda: on_loop(loop, queue.get_many()), lambda: queue.getting)
        loop.call_soon_threadsafe(lambda: (blocked.set(), go_on.wait(SECONDS)))
        assert blocked.wait(SECONDS)
        for item in range(5):
            queue.put_nowait(item)
        go_on.set()
        assert future.result(SECONDS) == [0, 1, 2, 3, 4]

    def test_many_make_room_for_as_many(self):
        queue = MessageQueue(2)
        queue.put_nowait(1)
        queue.put_nowait(2)
        putters = [putter(queue, 3), putter(queue, 4)]
        assert queue.get_many_nowait() == [1, 2]
        for future in putters:
            future.result(SECONDS)
        assert sorted(queue.get_many_nowait()) == [3, 4]

    def test_can_be_peeked_at(self, loop):
        queue = MessageQueue()
        with pytest.raises(QueueEmpty):
            queue.peek_nowait()
        with pytest.raises(QueueEmpty):
            queue.sync_peek(block=False)
        with pytest.raises(QueueEmpty):
            queue.sync_peek(timeout=0)
        peekers = [
            waiting(lambda: on_loop(loop, queue.peek()), lambda: queue.getting == 1),
            waiting(lambda: in_thread(queue.sync_peek), lambda: queue.getting == 2),
        ]
        getting = getter(queue)
        queue.put_nowait("x")
        assert [each.result(SECONDS) for each in [*peekers, getting]] == ["x"] * 3
        assert queue.empty()

    def test_can_be_cleared(self):
        queue = MessageQueue(3)
        for item in range(3):
            queue.put_nowait(item)
        putting = [putter(queue, item) for item in (3, 4)]
        queue.clear()
        for future in putting:
            future.result(SECONDS)
        assert sorted([queue.get_nowait(), queue.get_nowait()]) == [3, 4]
        assert queue.unfinished_tasks == 2

    @pytest.mark.not_quick
    def test_take_no_more_memory_than_promised(self):
        tracemalloc = pytest.importorskip("tracemalloc")  # PyPy has none

        def of(make, put_of):
            gc.collect()
            tracemalloc.start()
            try:
                container = make()
                put = put_of(container)
                for _ in range(50_000):
                    put(None)
                return tracemalloc.get_traced_memory()[0] / 50_000
            finally:
                tracemalloc.stop()

        deque_ = of(deque, lambda container: container.append)
        assert of(MessageQueue, lambda queue: queue.put_nowait) <= deque_ + 16

        def half_emptied():
            queue = MessageQueue()
            for _ in range(150_000):
                queue.put_nowait(None)
            for _ in range(150_000 - 50_000):
                queue.get_nowait()
            return queue

        gc.collect()
        tracemalloc.start()
        try:
            queue = half_emptied()
            assert tracemalloc.get_traced_memory()[0] / 50_000 <= deque_ + 16
        finally:
            tracemalloc.stop()
        assert queue.qsize() == 50_000


class TestErrors:
    def test_have_both_parents(self):
        queue = MessageQueue(1)
        for parent in (stdlib_queue.Empty, asyncio.QueueEmpty, QueueEmpty):
            with pytest.raises(parent):
                queue.get_nowait()
        queue.put_nowait(1)
        for parent in (stdlib_queue.Full, asyncio.QueueFull, QueueFull):
            with pytest.raises(parent):
                queue.put_nowait(2)
        queue.shutdown()
        for parent in (SyncQueueShutDown, AsyncQueueShutDown, QueueShutDown):
            with pytest.raises(parent):
                queue.put_nowait(2)
        if sys.version_info >= (3, 13):
            assert issubclass(QueueShutDown, (stdlib_queue.ShutDown, asyncio.QueueShutDown))

    @pytest.mark.parametrize("timeout", [-1, float("nan")])
    def test_of_a_timeout_that_is_none(self, timeout):
        queue = MessageQueue()
        for call in (queue.sync_get, queue.sync_peek, queue.sync_get_many):
            with pytest.raises(ValueError, match="timeout="):
                call(timeout=timeout)
        with pytest.raises(ValueError, match="timeout="):
            queue.sync_put(1, timeout=timeout)
        assert queue.empty()

    def test_of_a_size_that_is_none(self):
        with pytest.raises(TypeError):
            MessageQueue("3")

    def test_too_late(self):
        queue = MessageQueue(1)
        for call in (queue.sync_get, queue.sync_get_many, queue.sync_peek):
            with pytest.raises(QueueEmpty):
                call(timeout=0.001)
            with pytest.raises(QueueEmpty):
                call(block=False, timeout=-1)  # not looked at, as in queue.Queue
        queue.put_nowait(1)
        with pytest.raises(QueueFull):
            queue.sync_put(2, timeout=0.001)
        with pytest.raises(QueueFull):
            queue.sync_put(2, block=False)
        assert queue.get_many_nowait() == [1]
        assert queue.waiting == 0

    def test_no_event_loop(self):
        queue = MessageQueue()
        coroutine = queue.get()
        with pytest.raises(RuntimeError, match="no running event loop"):
            coroutine.send(None)
        assert queue.getting == 0

    def test_done_too_often(self):
        queue = MessageQueue()
        queue.put_nowait(1)
        queue.task_done()
        with pytest.raises(ValueError, match="too many times"):
            queue.task_done()


def test_what_comes_at_the_last_moment_is_got():
    """The time runs out while the item is being put: it is promised by the time this is seen."""

    class Slow(MessageQueue):
        def _put(self, item):
            while time.monotonic() < over:
                time.sleep(0.01)
            super()._put(item)

    queue = Slow()
    over = time.monotonic() + 0.5
    future = in_thread(queue.sync_get, timeout=0.4)
    until(lambda: queue.getting == 1)
    in_thread(queue.put_nowait, "x").result(SECONDS)
    assert future.result(SECONDS) == "x"
    assert queue.waiting == 0
    queue.put_nowait("y")
    assert queue.get_nowait() == "y"


class TestRoom:
    def test_waited_for_by_a_thread_and_a_task(self, loop):
        queue = MessageQueue(1)
        queue.put_nowait(0)
        assert queue.full()
        futures = [putter(queue, 1), putter(queue, 2, loop), putter(queue, 3)]
        assert [queue.sync_get(timeout=SECONDS) for _ in range(4)] == [0, 1, 2, 3]
        for future in futures:
            future.result(SECONDS)

    def test_is_none_for_newcomers_while_somebody_waits_for_it(self):
        queue = MessageQueue(1)
        queue.put_nowait(0)
        with abandoned(queue.put(1), lambda: queue.putting):
            assert queue.get_nowait() == 0
            # What became free belongs to the task, which has not looked yet.
            with pytest.raises(QueueFull):
                queue.put_nowait(2)
            assert queue.full()
            assert queue.empty()

    def test_can_be_changed(self):
        queue = MessageQueue(1)
        assert queue.maxsize == 1
        queue.put_nowait(0)
        futures = [putter(queue, item) for item in (1, 2, 3)]
        queue.maxsize = 2
        futures[0].result(SECONDS)
        assert (queue.qsize(), queue.putting) == (2, 2)
        queue.maxsize = 1
        assert queue.get_nowait() == 0
        assert (queue.qsize(), queue.putting) == (1, 2)
        queue.maxsize = 0
        for future in futures[1:]:
            future.result(SECONDS)
        assert queue.get_nowait() == 1
        assert sorted(queue.get_many_nowait()) == [2, 3]
        assert not queue.full()


class TestJoin:
    def test_waits_for_all_that_was_put(self, loop):
        queue = MessageQueue()
        queue.sync_join()
        for item in range(3):
            queue.put_nowait(item)
        futures = [in_thread(queue.sync_join), on_loop(loop, queue.join())]
        for _ in range(3):
            assert not any(future.done() for future in futures)
            queue.get_nowait()
            queue.task_done()
        for future in futures:
            future.result(SECONDS)
        assert queue.unfinished_tasks == 0

    @pytest.mark.parametrize("end", ["clear", "close"])
    def test_does_not_wait_for_what_is_dropped(self, end):
        queue = MessageQueue()
        queue.put_nowait(1)
        future = in_thread(queue.sync_join)
        getattr(queue, end)()
        future.result(SECONDS)
        assert queue.empty()


class TestShutdown:
    @pytest.mark.parametrize("kind", [*KINDS, Hooked])
    @pytest.mark.parametrize("immediate", [False, True])
    def test_wakes_all_who_wait_to_get(self, kind, immediate, loop):
        queue = kind()
        futures = [getter(queue), getter(queue, loop)]
        futures += [waiting(lambda: in_thread(queue.sync_peek), lambda: queue.getting == 3)]
        queue.shutdown(immediate)
        for future in futures:
            with pytest.raises(QueueShutDown):
                future.result(SECONDS)
        assert queue.waiting == 0

    @pytest.mark.parametrize("kind", [*KINDS, Hooked])
    @pytest.mark.parametrize("immediate", [False, True])
    def test_wakes_all_who_wait_to_put(self, kind, immediate, loop):
        queue = kind(1)
        queue.put_nowait(0)
        futures = [putter(queue, 1), putter(queue, 2, loop)]
        queue.shutdown(immediate)
        for future in futures:
            with pytest.raises(QueueShutDown):
                future.result(SECONDS)
        if not immediate:
            assert queue.get_nowait() == 0
        for get in (queue.get_nowait, queue.sync_get, queue.get_many_nowait, queue.peek_nowait):
            with pytest.raises(QueueShutDown):
                get()
        for get in (queue.get, queue.get_many, queue.peek):
            with pytest.raises(QueueShutDown):
                on_loop(loop, get()).result(SECONDS)
        with pytest.raises(QueueShutDown):
            queue.sync_put(1)
        with pytest.raises(QueueShutDown):
            on_loop(loop, queue.put(1)).result(SECONDS)
        assert queue.is_shutdown
        queue.shutdown()

    def test_of_promised_items(self):
        """An item that belongs to a task which has not looked yet."""
        for immediate in (False, True):
            queue = MessageQueue()
            loop = asyncio.new_event_loop()
            task = loop.create_task(queue.get())
            loop.call_soon(loop.call_soon, loop.stop)
            loop.run_forever()
            assert queue.getting == 1
            queue.put_nowait("x")
            queue.shutdown(immediate)
            if immediate:
                with pytest.raises(QueueShutDown):
                    loop.run_until_complete(task)
            else:
                assert loop.run_until_complete(task) == "x"
            loop.close()

    def test_of_promised_room(self):
        queue = MessageQueue(1)
        queue.put_nowait(0)
        loop = asyncio.new_event_loop()
        task = loop.create_task(queue.put(1))
        loop.call_soon(loop.call_soon, loop.stop)
        loop.run_forever()
        queue.get_nowait()
        queue.shutdown()
        with pytest.raises(QueueShutDown):
            loop.run_until_complete(task)
        loop.close()
        assert queue.empty()

    def test_clear_takes_promised_items_back(self):
        queue = MessageQueue()
        loop = asyncio.new_event_loop()
        tasks = [loop.create_task(queue.get()) for _ in range(2)]
        loop.call_soon(loop.call_soon, loop.stop)
        loop.run_forever()
        queue.put_nowait("a")
        queue.put_nowait("b")
        queue.clear()
        assert queue.getting == 2
        loop.call_soon(loop.call_soon, loop.stop)
        loop.run_forever()
        assert not any(task.done() for task in tasks)
        queue.put_nowait("c")
        queue.put_nowait("d")
        assert loop.run_until_complete(asyncio.gather(*tasks)) == ["c", "d"]
        loop.close()

    def test_ends_iteration(self, loop):
        queue = MessageQueue()

        async def collect():
            return [item async for item in queue]

        futures = [in_thread(lambda: list(queue)), on_loop(loop, collect())]
        until(lambda: queue.getting == 2)
        for item in range(100):
            queue.put_nowait(item)
        queue.shutdown()
        got = [future.result(SECONDS) for future in futures]
        assert sorted(got[0] + got[1]) == list(range(100))
        assert got[0] == sorted(got[0])
        assert got[1] == sorted(got[1])


class TestOrderOfWaiters:
    def test_to_get(self, loop, other_loop):
        queue = MessageQueue()
        futures = [getter(queue, each) for each in (None, loop, other_loop, None, loop)]
        for item, future in enumerate(futures):
            queue.put_nowait(item)
            assert future.result(SECONDS) == item

    def test_to_put(self, loop, other_loop):
        queue = MessageQueue(1)
        queue.put_nowait(0)
        places = (None, loop, other_loop, None, loop)
        futures = [putter(queue, item, each) for item, each in enumerate(places, 1)]
        for item, future in enumerate(futures, 1):
            assert queue.get_nowait() == item - 1
            future.result(SECONDS)
        assert queue.get_nowait() == len(places)

    def test_newcomers_pass_nobody(self):
        queue = MessageQueue()
        with abandoned(queue.get(), lambda: queue.getting):
            queue.put_nowait("the task's")
            assert queue.empty()
            with pytest.raises(QueueEmpty):
                queue.get_nowait()
            with pytest.raises(QueueEmpty):
                queue.sync_get(timeout=0.001)
            queue.put_nowait("for all")
            assert queue.qsize() == 1

    def test_who_goes_away_leaves_the_others_in_order(self, loop):
        queue = MessageQueue()
        futures = [getter(queue, loop) for _ in range(5)]
        for gone in (0, 2, 4):
            futures[gone].cancel()
        until(lambda: queue.getting == 2)
        queue.put_nowait("b")
        assert futures[1].result(SECONDS) == "b"
        queue.put_nowait("d")
        assert futures[3].result(SECONDS) == "d"


def run_in_steps(main):
    """Run ``main(step)``, which awaits ``step()`` for others to go on until they wait."""

    async def step():
        for _ in range(5):
            await asyncio.sleep(0)

    return asyncio.run(main(step))


class TestCancellation:
    @pytest.mark.parametrize("kind", [*KINDS, Hooked])
    def test_of_a_get_takes_nothing(self, kind):
        async def main(step):
            queue = kind()
            task = asyncio.create_task(queue.get())
            await step()
            task.cancel()
            await step()
            assert task.cancelled()
            assert queue.getting == 0
            queue.put_nowait("x")
            assert queue.get_nowait() == "x"

        run_in_steps(main)

    @pytest.mark.parametrize("kind", [*KINDS, Hooked])
    @pytest.mark.parametrize("first", ["put", "cancel"])
    def test_of_a_get_that_was_just_woken(self, kind, first):
        """The item is the next one's, or anybody's."""

        async def main(step):
            queue = kind()
            task, other = asyncio.create_task(queue.get()), asyncio.create_task(queue.get())
            await step()
            if first == "put":
                queue.put_nowait("x")
                task.cancel()
            else:
                task.cancel()
                queue.put_nowait("x")
            assert await other == "x"
            assert task.cancelled()
            task = asyncio.create_task(queue.get())
            await step()
            queue.put_nowait("y")
            queue.put_nowait("z")
            task.cancel()
            await step()
            assert task.cancelled()
            assert queue.qsize() == 2
            assert sorted(queue.get_many_nowait()) == ["y", "z"]

        run_in_steps(main)

    @pytest.mark.parametrize("kind", [*KINDS, Hooked])
    @pytest.mark.parametrize("first", ["get", "cancel"])
    def test_of_a_put_puts_nothing(self, kind, first):
        async def main(step):
            queue = kind(1)
            queue.put_nowait("a")
            task, other = [asyncio.create_task(queue.put(each)) for each in "bc"]
            await step()
            if first == "get":
                assert queue.get_nowait() == "a"
                task.cancel()
            else:
                task.cancel()
                assert queue.get_nowait() == "a"
            await other
            assert task.cancelled()
            assert queue.get_many_nowait() == ["c"]
            assert queue.unfinished_tasks == 2

        run_in_steps(main)

    def test_of_get_many_peek_and_join(self):
        async def main(step):
            queue = MessageQueue()
            tasks = [asyncio.create_task(queue.get_many()), asyncio.create_task(queue.peek())]
            await step()
            queue.put_nowait(1)
            tasks.append(asyncio.create_task(queue.join()))
            tasks[0].cancel()
            tasks[1].cancel()
            await step()
            tasks[2].cancel()
            await step()
            assert all(task.cancelled() for task in tasks)
            assert queue.get_many_nowait() == [1]

        run_in_steps(main)

    def test_from_another_loop_and_thread(self):
        # A loop of its own: one that is busy may look at the queue before it hears of the cancel.
        with running_loop() as loop:
            queue = MessageQueue()
            cancelled, other = getter(queue, loop), getter(queue)
            cancelled.cancel()
            queue.put_nowait("x")
            assert other.result(SECONDS) == "x"

    def test_wait_for(self):
        async def main(step):
            queue = MessageQueue(1)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(queue.get(), 0.001)
            await asyncio.wait_for(queue.put(1), SECONDS)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(queue.put(2), 0.001)
            assert await asyncio.wait_for(queue.get(), SECONDS) == 1
            assert queue.empty()
            assert queue.waiting == 0

        run_in_steps(main)

    def test_a_coroutine_that_is_dropped(self):
        async def main(step):
            queue = MessageQueue()
            task = asyncio.create_task(queue.get())
            dropped = queue.get()
            assert dropped.send(None) is not None  # what a task would wait on
            await step()
            assert queue.getting == 2
            dropped.close()
            assert queue.getting == 1
            queue.put_nowait(1)
            assert await task == 1

        run_in_steps(main)

    def test_a_message(self):
        async def main(step):
            queue = MessageQueue()
            task = asyncio.create_task(queue.get())
            await step()
            task.cancel("why")
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
            if sys.version_info >= (3, 11):
                assert caught.value.args == ("why",)

        run_in_steps(main)

    def test_many_time_outs_leave_nothing(self):
        queue = MessageQueue()
        for _ in range(100):
            with pytest.raises(QueueEmpty):
                queue.sync_get(timeout=0)
        assert queue.getting == 0


class TestTasksOfOneLoop:
    def test_are_real_coroutines(self):
        queue = MessageQueue()
        for make in (queue.get, queue.peek, queue.join, queue.get_many, lambda: queue.put(1)):
            coroutine = make()
            assert asyncio.iscoroutine(coroutine)
            coroutine.close()

    def test_go_on_without_the_loop_if_there_is_something(self):
        async def main(step):
            queue, turns = MessageQueue(), []
            asyncio.get_running_loop().call_soon(turns.append, 1)
            for item in range(100):
                await queue.put(item)
            assert [await queue.get() for _ in range(50)] == list(range(50))
            assert await queue.get_many() == list(range(50, 100))
            assert turns == []

        run_in_steps(main)

    def test_are_not_woken_in_the_middle_of_another(self):
        async def main(step):
            queue, log = MessageQueue(), []

            async def get():
                log.append(await queue.get())

            task = asyncio.create_task(get())
            await step()
            queue.put_nowait("item")
            log.append("put")
            await task
            return log

        assert run_in_steps(main) == ["put", "item"]

    def test_debug_mode_and_python_tasks(self, monkeypatch):
        """Both implementations of Task see the same protocol."""

        async def main():
            queue = MessageQueue(1)

            async def get():
                return [await queue.get() for _ in range(10)]

            loop = asyncio.get_running_loop()
            task = asyncio.tasks._PyTask(get(), loop=loop)
            for item in range(10):
                await queue.put(item)
            return await task

        assert asyncio.run(main(), debug=True) == list(range(10))

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="no eager tasks")
    def test_eager_tasks(self):
        async def main(step):
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
            queue = MessageQueue()
            task = asyncio.create_task(queue.get())
            assert queue.getting == 1
            queue.put_nowait(1)
            assert await task == 1

        run_in_steps(main)

    def test_context_variables_stay_the_tasks(self):
        import contextvars

        variable = contextvars.ContextVar("variable")

        async def main(step):
            queue = MessageQueue()

            async def get():
                variable.set("getter's")
                await queue.get()
                return variable.get()

            task = asyncio.create_task(get())
            await step()
            variable.set("putter's")
            thread = in_thread(queue.put_nowait, 1)
            assert await task == "getter's"
            thread.result(SECONDS)

        run_in_steps(main)


class TestWakeUps:
    def test_one_for_all_tasks_of_a_loop(self):
        async def main(step):
            queue, calls = MessageQueue(), []
            loop = asyncio.get_running_loop()
            call_soon_threadsafe = loop.call_soon_threadsafe

            def counted(*args, **kwargs):
                calls.append(args)
                return call_soon_threadsafe(*args, **kwargs)

            loop.call_soon_threadsafe = counted
            tasks = [asyncio.create_task(queue.get()) for _ in range(50)]
            await step()
            assert queue.getting == 50
            thread = threading.Thread(target=lambda: [queue.put_nowait(i) for i in range(60)])
            thread.start()
            thread.join(SECONDS)  # the loop does not turn meanwhile
            assert len(calls) == 1
            assert await asyncio.gather(*tasks) == list(range(50))
            thread = threading.Thread(target=lambda: [queue.put_nowait(i) for i in range(60)])
            thread.start()
            thread.join(SECONDS)
            assert len(calls) == 1

        run_in_steps(main)


class TestClosedLoop:
    def test_while_its_task_waits_to_get(self):
        queue = MessageQueue()
        with abandoned(queue.get(), lambda: queue.getting) as loop:
            future = getter(queue)
            loop.close()
            queue.put_nowait("x")
            assert future.result(SECONDS) == "x"
            assert queue.getting == 0

    def test_while_its_task_waits_to_put(self):
        queue = MessageQueue(1)
        queue.put_nowait(0)
        with abandoned(queue.put(1), lambda: queue.putting) as loop:
            loop.close()
            assert queue.get_nowait() == 0
            assert queue.empty()
            queue.put_nowait(2)
            assert queue.get_nowait() == 2

    @pytest.mark.parametrize(
        "get", ["get_nowait", "get_many_nowait", "sync_get", "peek_nowait", "sync_get_many"]
    )
    def test_between_the_wake_up_and_the_tasks_next_step(self, get):
        queue = MessageQueue()
        with abandoned(queue.get(), lambda: queue.getting) as loop:
            queue.put_nowait("x")
            with pytest.raises(QueueEmpty):
                queue.get_nowait()
            loop.close()
            assert getattr(queue, get)() in ("x", ["x"])

    def test_the_same_with_room(self):
        queue = MessageQueue(1)
        queue.put_nowait(0)
        with abandoned(queue.put(1), lambda: queue.putting) as loop:
            queue.get_nowait()
            loop.close()
            queue.put_nowait(2)
            assert queue.get_nowait() == 2

    def test_with_others_waiting(self, loop):
        """The next one who looks finds what was promised, in order."""
        queue = MessageQueue()
        with abandoned(queue.get(), lambda: queue.getting) as closed:
            queue.put_nowait(1)
            closed.close()
            assert on_loop(loop, queue.get()).result(SECONDS) == 1


class TestFork:
    pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

    PRELUDE = """
        import asyncio, os, sys, threading, warnings
        sys.path.insert(0, sys.argv[1])
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads
        from asgibridge.queue import *
        from queues import *
    """

    def run(self, script_output, body):
        import textwrap

        source = textwrap.dedent(self.PRELUDE) + textwrap.dedent(body)
        return script_output(source, os.path.dirname(queues.__file__))

    def test_the_numbers_of_waiters_are_right_at_once(self, script_output):
        body = """
            empty, full = MessageQueue(), MessageQueue(1)
            full.put_nowait(0)
            in_thread(empty.sync_get)
            in_thread(full.sync_put, 1)
            until(lambda: empty.getting and full.putting)

            def check():
                assert (empty.getting, empty.waiting, empty.sync_q.getting) == (0, 0, 0)

            def check_puts():
                assert (full.putting, full.waiting, full.async_q.putting) == (0, 0, 0)

            def check_sums():
                assert (empty.waiting, full.waiting) == (0, 0)

            for each in (check, check_puts, check_sums):
                in_child(each)
            print("ok", flush=True)
            os._exit(0)
        """
        assert self.run(script_output, body) == "ok"

    def test_another_thread_of_the_parent_is_in_a_hook(self, script_output):
        body = """
            inside, go_on = threading.Event(), threading.Event()

            class Slow:
                def __lt__(self, other):
                    inside.set()
                    assert go_on.wait(SECONDS)
                    return True

            queue = PriorityQueue()
            queue.put_nowait(1)
            future = in_thread(queue.put_nowait, Slow())
            assert inside.wait(SECONDS)

            def check():
                assert (queue.qsize(), queue.get_nowait()) == (1, 1)
                queue.put_nowait(2)
                assert in_thread(queue.sync_get).result(SECONDS) == 2

            in_child(check)
            go_on.set()
            future.result(SECONDS)
            assert queue.qsize() == 2
            print("ok")
        """
        assert self.run(script_output, body) == "ok"

    def test_the_child_has_the_items_and_none_of_the_waiting_threads(self, script_output):
        body = """
            queue = MessageQueue()
            future = in_thread(queue.sync_get)
            until(lambda: queue.getting)

            def check():
                queue.put_nowait(1)
                queue.put_nowait(2)
                assert queue.getting == 0
                assert queue.get_nowait() == 1
                assert in_thread(queue.sync_get).result(SECONDS) == 2
                other = in_thread(queue.sync_get)
                until(lambda: queue.getting)
                queue.put_nowait(3)
                assert other.result(SECONDS) == 3

            in_child(check)
            queue.put_nowait("parent's")
            assert future.result(SECONDS) == "parent's"
        """
        assert self.run(script_output, body) == ""

    @pytest.mark.parametrize("kind", ["MessageQueue", "PriorityQueue"])
    def test_what_was_promised_to_the_parents_threads(self, script_output, kind):
        body = f"""
            queue = {kind}(1)
            with abandoned(queue.get(), lambda: queue.getting):
                queue.put_nowait(1)
                assert queue.empty()

                def check():
                    assert queue.qsize() == 1
                    assert queue.get_nowait() == 1
                    queue.put_nowait(2)
                    assert queue.full()

                in_child(check)
                assert queue.empty()
        """
        assert self.run(script_output, body) == ""

    @pytest.mark.skipif(
        asgibridge.IMPLEMENTATION != "speedups"  # Python code can't reach that lock
        or not (3, 13) <= sys.version_info < (3, 15)
        or getattr(sys, "_is_gil_enabled", lambda: True)(),
        reason="knows where in an object its lock is, without the GIL",
    )
    def test_of_a_lock_that_was_handed_to_a_thread_of_the_parent(self, script_output):
        """Which had not woken up to it: CPython leaves it locked for ever."""
        body = """
            import ctypes
            queue = MessageQueue()
            queue.put_nowait(1)

            def check():
                ctypes.c_uint8.from_address(id(queue) + 10).value = 1
                assert queue.qsize() == 1
                queue.put_nowait(2)
                assert queue.get_many_nowait() == [1, 2]

            in_child(check)
        """
        assert self.run(script_output, body) == ""

    @pytest.mark.skipif(
        sys.version_info >= (3, 12), reason="asyncio itself stops a loop in a forked child"
    )
    def test_the_forking_threads_own_tasks_live_on(self, script_output):
        body = """
            async def main():
                queue = MessageQueue()
                task = asyncio.create_task(queue.get())
                while not queue.getting:
                    await asyncio.sleep(0)
                child = os.fork()
                queue.put_nowait("child's" if not child else "parent's")
                got = await task
                if not child:
                    os._exit(7 if got == "child's" else 1)
                assert os.WEXITSTATUS(os.waitpid(child, 0)[1]) == 7
                assert got == "parent's"

            asyncio.run(main())
        """
        assert self.run(script_output, body) == ""


class TestInterrupts:
    @pytest.mark.thread_unsafe(reason="signals go to the main thread")
    @pytest.mark.skipif(sys.platform == "win32", reason="no signals from thread to thread")
    @pytest.mark.parametrize("call", ["sync_get()", "sync_put(2)", "sync_get(timeout=30)"])
    @pytest.mark.parametrize("at", ["threading.main_thread().ident", "threading.get_ident()"])
    def test_ctrl_c_in_a_blocking_call(self, script_output, call, at):
        """In the second case nothing interrupts the wait itself, as if it came a moment before."""
        source = f"""
            import signal, sys, threading
            sys.path.insert(0, sys.argv[1])
            from asgibridge.queue import *
            from queues import *
            queue = MessageQueue(1)
            if "put" in {call!r}:
                queue.put_nowait(0)

            def interrupt():
                until(lambda: queue.waiting)
                signal.pthread_kill({at}, signal.SIGINT)

            future = in_thread(interrupt)
            try:
                queue.{call}
            except KeyboardInterrupt:
                future.result(SECONDS)
                assert queue.waiting == 0
                if queue.empty():
                    queue.put_nowait(0)
                assert queue.get_many_nowait() == [0]
                print("interrupted")
        """
        assert script_output(source, os.path.dirname(queues.__file__)) == "interrupted"

    @pytest.mark.thread_unsafe(reason="signals go to the main thread")
    @pytest.mark.skipif(sys.platform == "win32", reason="no such signal")
    def test_a_signal_that_raises_nothing(self, script_output):
        """A blocking get goes on, and keeps to its time; the handler may use the queue."""
        source = """
            import signal, sys, threading, time
            sys.path.insert(0, sys.argv[1])
            from asgibridge.queue import *
            from queues import *
            queue = MessageQueue()
            signal.signal(signal.SIGUSR1, lambda *_: queue.put_nowait("handler's"))

            def interrupt():
                until(lambda: queue.waiting)
                signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

            future = in_thread(interrupt)
            print(queue.sync_get(timeout=30))
            future.result(SECONDS)
        """
        assert script_output(source, os.path.dirname(queues.__file__)) == "handler's"

    @pytest.mark.thread_unsafe(reason="whoever notes a loop asks this one, too")
    @pytest.mark.parametrize("room", [0, 1])
    def test_in_the_loops_code_that_is_called_to_wake(self, room):
        """A get that is interrupted then has taken nothing; and who waits is woken all the same."""

        queue, loop = MessageQueue(room), InterruptedLoop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            if room:
                queue.put_nowait("a")
                future = putter(queue, "b", loop)
                loop.interrupted = True
                with pytest.raises(KeyboardInterrupt):
                    queue.get_nowait()
                future.result(SECONDS)
                assert queue.get_many_nowait() == ["a", "b"]
            else:
                future = getter(queue, loop)
                loop.interrupted = True
                with pytest.raises(KeyboardInterrupt):
                    queue.put_nowait("a")
                assert future.result(SECONDS) == "a"
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(SECONDS)
            loop.close()


class TestExit:
    def test_with_a_daemon_in_a_blocking_get(self, script_output):
        source = """
            import threading, sys
            sys.path.insert(0, sys.argv[1])
            from asgibridge.queue import MessageQueue
            from queues import until
            queue, full = MessageQueue(), MessageQueue(1)
            full.put_nowait(1)
            threading.Thread(target=queue.sync_get, daemon=True).start()
            threading.Thread(target=full.sync_put, args=(2,), daemon=True).start()
            until(lambda: queue.waiting and full.waiting)
        """
        assert script_output(source, os.path.dirname(queues.__file__)) == ""

    def test_with_a_consumer_that_is_shut_down_at_exit(self, script_output):
        source = """
            import asyncio, threading
            from asgibridge.queue import MessageQueue
            queue = MessageQueue()
            thread = threading.Thread(target=lambda: print(sum(queue)))
            thread.start()

            async def main():
                for item in range(10):
                    await queue.put(item)

            asyncio.run(main())
            queue.shutdown()
        """
        assert script_output(source) == "45"


class Item:
    pass


class TestReferences:
    def test_nothing_stays_when_it_is_got(self, no_gc):
        for kind in (MessageQueue, LifoQueue, Hooked):
            queue, item = kind(), Item()
            alive = weakref.ref(item)
            queue.put_nowait(item)
            del item
            assert alive() is not None
            queue.get_nowait()
            assert alive() is None
            queue.put_nowait(Item())
            alive = weakref.ref(queue.peek_nowait())
            queue.clear()
            assert alive() is None
            alive = weakref.ref(queue)
            del queue
            assert alive() is None

    def test_nothing_stays_of_a_wait(self, no_gc):
        async def main(step):
            queue = MessageQueue(1)
            task = asyncio.create_task(queue.get())
            await step()
            await queue.put(Item())
            alive = weakref.ref(await task)
            del task
            await step()
            assert alive() is None
            await queue.put(1)
            item = Item()
            task = asyncio.create_task(queue.put(item))
            alive = weakref.ref(item)
            del item
            await step()
            task.cancel()
            await step()
            del task
            assert alive() is None
            alive = weakref.ref(queue)
            del queue
            await step()
            assert alive() is None

        run_in_steps(main)

    def test_a_cycle_through_the_items_is_found(self):
        queue = MessageQueue()
        alive = weakref.ref(queue)
        queue.put_nowait(queue)
        del queue
        gc.collect()
        assert alive() is None


class TestHostileItems:
    def test_finalizers_that_use_the_queue(self):
        queue = MessageQueue()

        class Putter:
            def __del__(self):
                queue.put_nowait("from a finalizer")

        for _ in range(3):
            queue.put_nowait(Putter())
        queue.clear()
        assert queue.get_many_nowait() == ["from a finalizer"] * 3
        queue.put_nowait(Putter())
        queue.get_nowait()
        assert queue.get_many_nowait() == ["from a finalizer"]

    def test_the_collector_at_any_moment(self):
        queue, got, rounds = MessageQueue(), [], 300

        class Cycle:
            def __init__(self):
                self.me = self

            def __del__(self):
                queue.put_nowait("finalizer's")

        before = gc.get_threshold()
        gc.set_threshold(1)
        try:
            for item in range(rounds):
                Cycle()
                queue.put_nowait(item)
                got += queue.get_many_nowait(2)
        finally:
            gc.set_threshold(*before)
        gc.collect()
        while not queue.empty():
            got.append(queue.get_nowait())
        assert [item for item in got if item != "finalizer's"] == list(range(rounds))
        assert got.count("finalizer's") == rounds

    @pytest.mark.parametrize("items", [(1, "a"), ({}, {}), ((1, {1: 1}), (1, {2: 2}))])
    def test_that_cannot_be_compared_are_not_put(self, items):
        queue = PriorityQueue()
        queue.put_nowait(items[0])
        with pytest.raises(TypeError):
            queue.put_nowait(items[1])
        assert queue.unfinished_tasks == 1
        assert queue.get_many_nowait() == [items[0]]

    def test_whose_comparison_fails_later_are_not_lost(self):
        class Fickle:
            fails = False

            def __init__(self, number):
                self.number = number

            def __lt__(self, other):
                if Fickle.fails:
                    raise ValueError("fickle")
                return self.number < other.number

        queue = PriorityQueue()
        for number in range(10):
            queue.put_nowait(Fickle(number))
        Fickle.fails = True
        for _ in range(3):
            with pytest.raises(ValueError, match="fickle"):
                queue.get_nowait()
        with pytest.raises(ValueError, match="fickle"):
            queue.put_nowait(Fickle(10))
        Fickle.fails = False
        assert sorted(item.number for item in queue.get_many_nowait()) == list(range(10))

    def test_whose_comparison_uses_the_queue(self):
        queue = PriorityQueue()

        class Selfish:
            def __lt__(self, other):
                queue.put_nowait(Selfish())
                return True

        queue.put_nowait(Selfish())
        with pytest.raises(RuntimeError, match="has used the queue"):
            queue.put_nowait(Selfish())
        assert queue.qsize() == 1

    def test_priorities(self):
        import random

        numbers = random.Random(5)
        queue, model = PriorityQueue(), []
        for _ in range(2000):
            if model and numbers.random() < 0.4:
                model.sort()
                assert queue.get_nowait() == model.pop(0)
            else:
                item = (numbers.randrange(50), numbers.random())
                queue.put_nowait(item)
                model.append(item)
        assert queue.get_many_nowait() == sorted(model)


class TestSubclasses:
    def test_are_like_any_class(self):
        class Mine(MessageQueue):
            def __init__(self, name):
                super().__init__(3)
                self.name = name

        queue = Mine("x")
        assert (queue.name, queue.maxsize) == ("x", 3)
        assert weakref.ref(queue)() is queue
        assert "maxsize=3" in repr(queue)
        assert MessageQueue[int] is not None
        queue.put_nowait(1)
        assert queue.get_nowait() == 1

    def test_hooks_of_a_mixin(self):
        class Doubling:
            def _put(self, item):
                super()._put(item * 2)

        class Mine(Doubling, LifoQueue):
            pass

        queue = Mine()
        queue.put_nowait(1)
        queue.put_nowait(2)
        assert queue.get_many_nowait() == [4, 2]

    def test_that_cannot_peek(self):
        class Mine(MessageQueue):
            def _peekable(self):
                return False

        queue = Mine()
        queue.put_nowait(1)
        for peek in (queue.peek_nowait, queue.sync_peek, lambda: asyncio.run(queue.peek())):
            with pytest.raises(UnsupportedOperation, match="Mine cannot peek"):
                peek()

    def test_threads_use_the_hooks_one_at_a_time(self):
        class Mine(MessageQueue):
            inside = 0

            def _put(self, item):
                self.inside += 1
                assert self.inside == 1
                super()._put(item)
                self.inside -= 1

        queue = Mine()
        barrier = threading.Barrier(4)

        def put():
            barrier.wait(SECONDS)
            for item in range(500):
                queue.put_nowait(item)

        for future in [in_thread(put) for _ in range(4)]:
            future.result(SECONDS)
        assert queue.qsize() == 2000


def test_patched_threading_is_noticed(monkeypatch):
    """Waiting in compiled code would block every greenlet: others run in `time.sleep`."""
    import asgibridge

    queue = MessageQueue()
    if asgibridge.IMPLEMENTATION == "speedups":
        with monkeypatch.context() as patched:
            patched.setattr(threading, "_allocate_lock", lambda: None)
            patched.setattr(time, "sleep", lambda seconds: queue.sync_put(2))
            assert queue.sync_get() == 2
    queue.sync_put(1)
    assert queue.sync_get() == 1
    assert queue.getting == 0
