"""Puts that overwrite the oldest items: `put_nowait(item, overwrite=True)` and `RingQueue`."""

from __future__ import annotations

import asyncio
import gc
import math
import weakref

import pytest

from asgibridge.queue import (
    LifoQueue,
    MessageQueue,
    PriorityQueue,
    QueueEmpty,
    QueueFull,
    QueueShutDown,
    RingQueue,
    UnsupportedOperation,
)
from queues import SECONDS, abandoned, in_thread, on_loop, until


class Item:
    pass


class TestOverwrite:
    def test_drops_the_oldest(self):
        queue = MessageQueue(3)
        for item in range(10):
            queue.put_nowait(item, overwrite=True)
        assert queue.qsize() == 3
        assert queue.unfinished_tasks == 3
        with pytest.raises(QueueFull):
            queue.put_nowait(10)
        with pytest.raises(QueueFull):
            queue.put_nowait(10, overwrite=False)
        assert queue.get_many_nowait() == [7, 8, 9]

    def test_puts_as_ever_where_there_is_room(self):
        for queue in (MessageQueue(), MessageQueue(math.inf), MessageQueue(4)):
            for item in range(4):
                queue.put_nowait(item, True)
            assert queue.get_many_nowait() == [0, 1, 2, 3]

    def test_wakes_who_waits(self, loop):
        queue = MessageQueue(1)
        futures = [in_thread(queue.sync_get)]
        until(lambda: queue.getting == 1)
        futures.append(on_loop(loop, queue.get()))
        until(lambda: queue.getting == 2)
        for item, future in enumerate(futures):
            queue.put_nowait(item, overwrite=True)
            assert future.result(SECONDS) == item

    def test_who_was_promised_an_item_gets_the_newer_one(self):
        async def main():
            queue = MessageQueue(1)
            task = asyncio.create_task(queue.get())
            while not queue.getting:
                await asyncio.sleep(0)
            queue.put_nowait("old", overwrite=True)
            queue.put_nowait("new", overwrite=True)
            assert queue.empty()
            assert await task == "new"
            assert queue.unfinished_tasks == 1

        asyncio.run(main())

    def test_room_that_was_promised_to_a_put_is_taken_back(self):
        """The put waits on, as the first in line."""

        async def main():
            queue = MessageQueue(1)
            queue.put_nowait("a")
            tasks = []
            for item in ("b", "c"):
                tasks.append(asyncio.create_task(queue.put(item)))
                while queue.putting < len(tasks):
                    await asyncio.sleep(0)
            assert queue.get_nowait() == "a"
            assert queue.full()  # the room is promised to the first
            queue.put_nowait("newest", overwrite=True)
            assert (queue.qsize(), queue.putting) == (1, 2)
            for item in ("newest", "b", "c"):
                assert await queue.get() == item
            await asyncio.gather(*tasks)

        asyncio.run(main())

    def test_puts_that_wait_are_passed(self, loop):
        queue = MessageQueue(1)
        queue.put_nowait("a")
        future = on_loop(loop, queue.put("b"))
        until(lambda: queue.putting)
        queue.put_nowait("c", overwrite=True)
        assert queue.putting == 1
        assert queue.sync_get() == "c"
        assert queue.sync_get(timeout=SECONDS) == "b"
        future.result(SECONDS)

    def test_promises_are_taken_back_when_the_limit_was_lowered(self):
        async def main():
            queue = MessageQueue(3)
            tasks = []
            for _ in range(3):
                tasks.append(asyncio.create_task(queue.get()))
                while queue.getting < len(tasks):
                    await asyncio.sleep(0)
            for item in range(3):
                queue.put_nowait(item)
            queue.maxsize = 1
            queue.put_nowait("newest", overwrite=True)
            assert queue.getting == 2
            assert await tasks[0] == "newest"
            queue.put_nowait("x")
            assert await tasks[1] == "x"
            queue.put_nowait("y")
            assert await tasks[2] == "y"
            assert (queue.qsize(), queue.getting) == (0, 0)

        asyncio.run(main())

    def test_what_is_dropped_is_done(self):
        queue = MessageQueue(1)
        queue.put_nowait(1)
        future = in_thread(queue.sync_join)
        queue.put_nowait(2, overwrite=True)
        assert queue.unfinished_tasks == 1
        queue.get_nowait()
        queue.task_done()
        future.result(SECONDS)

    def test_what_is_dropped_is_let_go_of(self, no_gc):
        queue, item = MessageQueue(1), Item()
        alive = weakref.ref(item)
        queue.put_nowait(item)
        del item
        queue.put_nowait(None, overwrite=True)
        assert alive() is None

    def test_finalizers_that_overwrite(self):
        queue = MessageQueue(2)

        class Putter:
            def __del__(self):
                queue.put_nowait("from a finalizer", overwrite=True)

        for _ in range(3):
            queue.put_nowait(Putter(), overwrite=True)
        assert queue.get_many_nowait() == ["from a finalizer"] * 2
        gc.collect()

    def test_after_shutdown(self):
        queue = MessageQueue(1)
        queue.put_nowait(1)
        queue.shutdown()
        with pytest.raises(QueueShutDown):
            queue.put_nowait(2, overwrite=True)
        assert queue.get_many_nowait() == [1]

    @pytest.mark.parametrize("cls", [LifoQueue, PriorityQueue])
    def test_of_queues_that_have_no_oldest_item(self, cls):
        for queue in (cls(1), MessageQueue(1, sizer=lambda item: 1)):
            with pytest.raises(UnsupportedOperation, match="cannot overwrite"):
                queue.put_nowait(1, overwrite=True)
            assert queue.empty()


class TestRingQueue:
    def test_every_put_overwrites(self, loop):
        queue = RingQueue(2)
        puts = [
            queue.put_nowait,
            queue.sync_put,
            queue.green_put,
            queue.sync_q.put,
            queue.sync_q.put_nowait,
            queue.async_q.put_nowait,
            lambda item: on_loop(loop, queue.put(item)).result(SECONDS),
            lambda item: on_loop(loop, queue.async_put(item)).result(SECONDS),
            lambda item: on_loop(loop, queue.async_q.put(item)).result(SECONDS),
        ]
        for item, put in enumerate(puts):
            put(item)
            put(-item)
            assert queue.get_many_nowait() == [item, -item]
            for each in (1, 2, 3):
                put(each)
            assert queue.get_many_nowait() == [2, 3]
        queue.put_nowait(1)
        queue.put_nowait(2)
        with pytest.raises(QueueFull):
            queue.put_nowait(3, overwrite=False)

    def test_is_a_queue(self):
        queue = RingQueue(2)
        with pytest.raises(QueueEmpty):
            queue.get_nowait()
        with abandoned(queue.get(), lambda: queue.getting) as loop:
            queue.put_nowait(1)
            loop.close()
            assert queue.sync_get() == 1
        assert isinstance(queue, MessageQueue)

    @pytest.mark.parametrize("maxsize", [0, -1])
    def test_has_room_for_something(self, maxsize):
        with pytest.raises(ValueError, match="at least 1"):
            RingQueue(maxsize)
