"""Threads and loops at once, with cancellations and time-outs: each item is got exactly once.

The seed decides who gives up when; the scheduler decides the rest.
"""

from __future__ import annotations

import asyncio
import random
import sys
import threading

import pytest

from asgibridge.queue import LifoQueue, MessageQueue, QueueEmpty, QueueFull, QueueShutDown
from queues import cut_short, in_thread

pytestmark = pytest.mark.not_quick

TASKS = 3
"""On each loop, of either sort."""


class Stress:
    """``threads`` threads and ``loops`` loops, half of each putting, half of each getting."""

    def __init__(self, queue, items, threads=8, loops=4, impatience=0.05):
        self.queue = queue
        self.threads, self.loops = threads, loops
        self.impatience = impatience
        self.got = []
        self.gave_up = 0
        putters = threads // 2 + loops * TASKS
        self.shares = [range(i, items, putters) for i in range(putters)]
        self.seconds = 200

    def run(self):
        barrier = threading.Barrier(self.threads + self.loops)
        putting, getting = [], []
        for i in range(self.threads):
            work = self.put_items if i % 2 else self.get_items
            futures = putting if i % 2 else getting
            futures.append(in_thread(self.begin, barrier, work, random.Random(i)))
        for i in range(self.loops):
            main = self.on_loop(putting_done := threading.Event(), random.Random(100 + i))
            getting.append(in_thread(self.begin, barrier, asyncio.run, main))
            putting.append(in_thread(putting_done.wait, self.seconds))
        for future in putting:
            future.result(self.seconds)
        self.queue.shutdown()
        for future in getting:
            future.result(self.seconds)
        return self.got

    def begin(self, barrier, work, *args):
        barrier.wait(self.seconds)
        work(*args)

    def put_items(self, chance):
        for item in self.next_share():
            while True:
                try:
                    if chance.random() < self.impatience:
                        self.queue.sync_put(item, timeout=chance.choice((0, 1e-5, 1e-4)))
                    else:
                        self.queue.sync_put(item)
                    break
                except QueueFull:
                    self.gave_up += 1

    def get_items(self, chance):
        mine = []
        self.got.append(mine)
        while True:
            try:
                if chance.random() < self.impatience:
                    mine.append(self.queue.sync_get(timeout=chance.choice((0, 1e-5, 1e-4))))
                elif chance.random() < 0.1:
                    mine += self.queue.sync_get_many(chance.choice((1, 3, None)))
                else:
                    mine.append(self.queue.sync_get())
            except QueueEmpty:
                self.gave_up += 1
            except QueueShutDown:
                return

    async def on_loop(self, putting_done, chance):
        async def put_all():
            await asyncio.gather(*(self.put_as_task(chance) for _ in range(TASKS)))
            putting_done.set()

        await asyncio.gather(put_all(), *(self.get_as_task(chance) for _ in range(TASKS)))

    async def put_as_task(self, chance):
        for item in self.next_share():
            while True:
                try:
                    if chance.random() >= self.impatience:
                        await self.queue.put(item)
                    else:
                        await cut_short(self.queue.put(item), chance)
                    break
                except asyncio.CancelledError:
                    self.gave_up += 1

    async def get_as_task(self, chance):
        mine = []
        self.got.append(mine)
        while True:
            try:
                if chance.random() >= self.impatience:
                    mine.append(await self.queue.get())
                else:
                    mine.append(await cut_short(self.queue.get(), chance))
            except asyncio.CancelledError:
                self.gave_up += 1
            except QueueShutDown:
                return

    def next_share(self):
        return self.shares.pop()


@pytest.fixture(params=[1e-5, None], ids=["restless", "calm"])
def switch_interval(request):
    """How often threads change in the middle of Python code."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(request.param or before)
    yield
    sys.setswitchinterval(before)


def check(stress, items, *, fifo=True):
    got = stress.run()
    assert sorted(item for mine in got for item in mine) == list(range(items))
    assert stress.queue.waiting == 0
    assert stress.queue.qsize() == 0
    if fifo:
        putters = stress.threads // 2 + stress.loops * TASKS
        for mine in got:
            for share in range(putters):
                of_one = [item for item in mine if item % putters == share]
                assert of_one == sorted(of_one)
    return stress.gave_up


@pytest.mark.usefixtures("switch_interval")
@pytest.mark.parametrize("maxsize", [0, 1, 10])
def test_each_item_exactly_once(maxsize):
    items = 10_000
    check(Stress(MessageQueue(maxsize), items), items)


def test_most_give_up_most_of_the_time():
    items = 2000
    assert check(Stress(MessageQueue(2), items, impatience=0.7), items)


def test_last_in_first_out():
    items = 10_000
    check(Stress(LifoQueue(5), items), items, fifo=False)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("maxsize", [0, 100])
def test_a_million_items(maxsize):
    items = 1_000_000
    check(Stress(MessageQueue(maxsize), items, impatience=0.01), items)
