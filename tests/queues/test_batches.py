"""``get_many(max_items, max_wait=seconds)``: as many as come within the time."""

from __future__ import annotations

import asyncio
import os
import textwrap
import time

import pytest

import queues
from asgibridge.queue import Broadcast, LifoQueue, MessageQueue, QueueEmpty, QueueShutDown
from queues import SECONDS, abandoned, in_thread, on_loop, until

SHORT = 0.05
"""Seconds. Whatever is to come within it is there before."""


class Ways:
    """To get a batch, in a thread or a task; the source is a queue or a reader."""

    def __init__(self, source, waits, loop):
        self.source, self.waits, self.loop = source, waits, loop

    def start(self, *args, **kwargs):
        before = self.waits()
        if self.loop is None:
            future = in_thread(self.source.sync_get_many, *args, **kwargs)
        else:
            future = on_loop(self.loop, self.source.get_many(*args, **kwargs))
        until(lambda: self.waits() > before)
        return future

    def get(self, *args, **kwargs):
        if self.loop is None:
            return in_thread(self.source.sync_get_many, *args, **kwargs).result(SECONDS)
        return on_loop(self.loop, self.source.get_many(*args, **kwargs)).result(SECONDS)


@pytest.fixture(params=["thread", "task"])
def where(request, loop):
    return None if request.param == "thread" else loop


def queue_and_ways(where, maxsize=0, kind=MessageQueue):
    queue = kind(maxsize)
    return queue, Ways(queue, lambda: queue.getting, where)


class TestQueues:
    def test_as_many_as_are_wanted_end_the_wait(self, where):
        queue, ways = queue_and_ways(where)
        future = ways.start(3, max_wait=SECONDS)
        for item in (0, 1):
            queue.put_nowait(item)
            assert not future.done()
        queue.put_nowait(2)
        queue.put_nowait(3)
        assert future.result(SECONDS) == [0, 1, 2]
        assert queue.get_nowait() == 3

    def test_as_many_as_came_when_the_time_is_over(self, where):
        queue, ways = queue_and_ways(where)
        future = ways.start(3, max_wait=SHORT)
        queue.put_nowait(0)
        queue.put_nowait(1)
        assert future.result(SECONDS) == [0, 1]
        future = ways.start(max_wait=SHORT)  # as many as there are
        for item in range(100):
            queue.put_nowait(item)
        assert future.result(SECONDS) == list(range(100))

    @pytest.mark.parametrize("most", [1, 2, None])
    def test_nothing_may_come(self, where, most):
        queue, ways = queue_and_ways(where)
        before = time.monotonic()
        assert ways.get(most, max_wait=SHORT) == []
        assert time.monotonic() - before >= SHORT * 0.9
        assert ways.get(most, max_wait=0) == []
        assert queue.getting == 0
        queue.put_nowait(1)
        assert ways.get(most, max_wait=0) == [1]

    def test_what_is_there_is_enough(self, where):
        queue, ways = queue_and_ways(where)
        for item in range(3):
            queue.put_nowait(item)
        assert ways.get(2, max_wait=SECONDS) == [0, 1]
        assert ways.get(1, max_wait=SECONDS) == [2]

    def test_names_and_numbers(self, where):
        queue, ways = queue_and_ways(where)
        queue.put_nowait(1)
        assert ways.get(max_items=1, max_wait=SECONDS) == [1]
        queue.put_nowait(2)
        assert ways.get(max_items=3) == [2]
        with pytest.raises(ValueError, match="give one of them"):
            ways.get(1, max_items=1)
        for wait in (-1, float("nan")):
            with pytest.raises(ValueError, match="timeout="):
                ways.get(1, max_wait=wait)
        with pytest.raises(ValueError, match="n=0"):
            ways.get(0, max_wait=1)

    def test_a_full_queue_is_enough(self, where):
        """Nothing more could come."""
        queue, ways = queue_and_ways(where, 2)
        future = ways.start(5, max_wait=SECONDS)
        queue.put_nowait(0)
        queue.put_nowait(1)
        assert future.result(SECONDS) == [0, 1]

    def test_a_limit_that_is_lowered_is_enough(self, where):
        queue, ways = queue_and_ways(where)
        future = ways.start(5, max_wait=SECONDS)
        queue.put_nowait(0)
        queue.maxsize = 1
        assert future.result(SECONDS) == [0]

    def test_the_end_is_enough(self, where):
        queue, ways = queue_and_ways(where)
        future = ways.start(5, max_wait=SECONDS)
        queue.put_nowait(0)
        queue.shutdown()
        assert future.result(SECONDS) == [0]
        with pytest.raises(QueueShutDown):
            ways.get(5, max_wait=SECONDS)
        queue, ways = queue_and_ways(where)
        future = ways.start(5, max_wait=SECONDS)
        queue.shutdown()
        with pytest.raises(QueueShutDown):
            future.result(SECONDS)

    def test_last_in_first_out(self, where):
        queue, ways = queue_and_ways(where, kind=LifoQueue)
        future = ways.start(3, max_wait=SECONDS)
        for item in range(3):
            queue.put_nowait(item)
        assert future.result(SECONDS) == [2, 1, 0]

    def test_items_belong_to_the_first_in_line(self, where, loop):
        queue, ways = queue_and_ways(where)
        first = ways.start(2, max_wait=SECONDS)
        second = on_loop(loop, queue.get())
        until(lambda: queue.getting == 2)
        third = ways.start(2, max_wait=SECONDS)
        queue.put_nowait(0)
        assert (queue.qsize(), queue.empty()) == (0, True)
        with pytest.raises(QueueEmpty):
            queue.get_nowait()
        with pytest.raises(QueueEmpty):
            queue.peek_nowait()
        queue.put_nowait(1)
        assert first.result(SECONDS) == [0, 1]
        queue.put_nowait(2)
        assert second.result(SECONDS) == 2
        queue.put_nowait(3)
        queue.put_nowait(4)
        assert third.result(SECONDS) == [3, 4]

    def test_one_whose_time_is_over_leaves_the_rest_to_the_next(self, where, loop):
        queue, ways = queue_and_ways(where)
        first = ways.start(2, max_wait=SECONDS)
        second = ways.start(3, max_wait=SHORT)
        queue.put_nowait(0)
        assert second.result(SECONDS) == []
        assert not first.done()
        queue.put_nowait(1)
        assert first.result(SECONDS) == [0, 1]
        first = ways.start(3, max_wait=SHORT)
        second = on_loop(loop, queue.get())
        until(lambda: queue.getting == 2)
        assert first.result(SECONDS) == []
        queue.put_nowait(2)
        assert second.result(SECONDS) == 2

    def test_clear_takes_it_back(self, where):
        queue, ways = queue_and_ways(where)
        future = ways.start(2, max_wait=SECONDS)
        queue.put_nowait(0)
        queue.clear()
        queue.put_nowait(1)
        assert not future.done()
        queue.put_nowait(2)
        assert future.result(SECONDS) == [1, 2]

    def test_a_time_that_is_over_before_a_promise_is_taken_back(self):
        """1. All that it wants comes. 2. The time is over. 3. All is dropped. 4. It looks."""

        async def main():
            queue = MessageQueue()
            task = asyncio.create_task(queue.get_many(2, max_wait=SHORT))
            while not queue.getting:
                await asyncio.sleep(0)
            queue.put_nowait(0)
            queue.put_nowait(1)
            time.sleep(2 * SHORT)
            queue.clear()
            assert await asyncio.wait_for(task, SECONDS) == []
            assert queue.getting == 0

        asyncio.run(main())

    def test_overwriting_takes_promises_back(self):
        async def main():
            queue = MessageQueue(4)
            task = asyncio.create_task(queue.get_many(4, max_wait=SECONDS))
            while not queue.getting:
                await asyncio.sleep(0)
            for item in range(4):
                queue.put_nowait(item)  # which promises all four
            queue.maxsize = 2
            queue.put_nowait("new", overwrite=True)
            assert await task == [3, "new"]

        asyncio.run(main())


class TestCancellation:
    def test_takes_nothing(self):
        async def main():
            queue = MessageQueue()
            task = asyncio.create_task(queue.get_many(3, max_wait=SECONDS))
            while not queue.getting:
                await asyncio.sleep(0)
            other = asyncio.create_task(queue.get())
            while queue.getting < 2:
                await asyncio.sleep(0)
            queue.put_nowait(0)
            queue.put_nowait(1)
            task.cancel()
            assert await other == 0
            assert task.cancelled()
            assert queue.get_many_nowait() == [1]

        asyncio.run(main())

    def test_who_waits_behind_it_gets_one_each(self):
        """And what nobody waits for is the first one's who comes."""

        async def main():
            queue = MessageQueue()
            waits = queue.get_many(4, max_wait=SECONDS), queue.get_many(3), queue.get()
            tasks = []
            for number, wait in enumerate(waits):
                tasks.append(asyncio.create_task(wait))
                while queue.getting <= number:
                    await asyncio.sleep(0)
            for item in range(3):
                queue.put_nowait(item)
            tasks[0].cancel()
            assert await asyncio.gather(*tasks[1:]) == [[0, 1], 2]

        asyncio.run(main())

    def test_when_it_has_been_promised_all(self):
        async def main():
            queue = MessageQueue()
            task = asyncio.create_task(queue.get_many(2, max_wait=SECONDS))
            while not queue.getting:
                await asyncio.sleep(0)
            for item in range(3):
                queue.put_nowait(item)
            assert queue.qsize() == 1
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            assert queue.get_many_nowait() == [0, 1, 2]

        asyncio.run(main())

    @pytest.mark.parametrize("items", [1, 2])
    @pytest.mark.parametrize("get", ["get_nowait", "sync_get"])
    def test_of_a_loop_that_was_closed(self, items, get):
        queue = MessageQueue()
        with abandoned(queue.get_many(2, max_wait=SECONDS), lambda: queue.getting) as closed:
            for item in range(items):
                queue.put_nowait(item)
            with pytest.raises(QueueEmpty):
                queue.get_nowait()
            closed.close()
            assert getattr(queue, get)() == 0
            assert queue.qsize() == items - 1

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
    def test_a_forked_child_has_the_items(self, script_output):
        source = """
            import os, sys, warnings
            sys.path.insert(0, sys.argv[1])
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads
            from asgibridge.queue import *
            from queues import *
            queue = MessageQueue()
            future = in_thread(queue.sync_get_many, 2, max_wait=SECONDS)
            until(lambda: queue.getting)
            queue.put_nowait(0)
            child = os.fork()
            if not child:
                os._exit(7 if queue.get_nowait() == 0 and queue.empty() else 1)
            assert os.WEXITSTATUS(os.waitpid(child, 0)[1]) == 7
            queue.put_nowait(1)
            assert future.result(SECONDS) == [0, 1]
        """
        path = os.path.dirname(queues.__file__)
        assert script_output(textwrap.dedent(source), path) == ""


class TestReaders:
    def ways(self, where, *args, **kwargs):
        broadcast = Broadcast(*args, **kwargs)
        reader = broadcast.subscribe()
        return broadcast, Ways(reader, lambda: broadcast.getting, where)

    def test_as_many_as_are_wanted_or_came(self, where):
        broadcast, ways = self.ways(where)
        assert ways.get(2, max_wait=SHORT) == []
        assert ways.get(1, max_wait=0) == []
        future = ways.start(2, max_wait=SECONDS)
        broadcast.put_nowait(0)
        until(lambda: broadcast.getting)
        assert not future.done()
        broadcast.put_nowait(1)
        assert future.result(SECONDS) == [0, 1]
        future = ways.start(2, max_wait=4 * SHORT)
        broadcast.put_nowait(2)
        assert future.result(SECONDS) == [2]
        broadcast.put_nowait(3)
        broadcast.put_nowait(4)
        assert ways.get(1, max_wait=SECONDS) == [3]
        assert ways.get(max_wait=0) == [4]

    @pytest.mark.parametrize("lag", ["block", "drop_oldest", "disconnect"])
    def test_as_many_as_there_is_room_for(self, where, lag):
        broadcast, ways = self.ways(where, 2, lag)
        future = ways.start(5, max_wait=SECONDS)
        broadcast.put_nowait(0)
        broadcast.put_nowait(1)
        assert future.result(SECONDS) == [0, 1]

    def test_the_end(self, where):
        broadcast, ways = self.ways(where)
        future = ways.start(5, max_wait=SECONDS)
        broadcast.put_nowait(0)
        broadcast.shutdown()
        assert future.result(SECONDS) == [0]
        with pytest.raises(QueueShutDown):
            ways.get(5, max_wait=SECONDS)
