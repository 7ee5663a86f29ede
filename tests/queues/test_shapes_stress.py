"""Broadcasts, selects, batches, channels: threads and loops at once, cancellations, time-outs, and
readers that die. Nothing is lost, and nothing is got twice.

As in test_queue_stress.py, the seed decides who gives up when; the scheduler decides the rest.
"""

from __future__ import annotations

import asyncio
import random
import sys
import threading

import pytest

from asgibridge.queue import (
    Broadcast,
    EndOfChannel,
    MessageQueue,
    QueueEmpty,
    QueueFull,
    QueueShutDown,
    SelectTimeout,
    open_channel,
    select,
    sync_select,
)
from queues import cut_short, in_thread

pytestmark = pytest.mark.not_quick

LIMIT = 50
"""Seconds; the test's own limit is a little more."""
TASKS = 3
"""On each loop, of each sort."""


@pytest.fixture(params=[1e-5, None], ids=["restless", "calm"], autouse=True)
def switch_interval(request):
    """How often threads change in the middle of Python code."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(request.param or before)
    yield
    sys.setswitchinterval(before)


def together(*calls):
    """The results of these calls, each on a thread of its own, begun at once."""
    barrier = threading.Barrier(len(calls))

    def begin(call):
        barrier.wait(LIMIT)
        return call()

    futures = [in_thread(begin, call) for call in calls]
    return [future.result(LIMIT) for future in futures]


async def until_done(make, chance, impatience=0.1):
    """What the coroutine returns that was not cancelled before."""
    while True:
        try:
            if chance.random() < impatience:
                return await cut_short(make(), chance)
            return await make()
        except asyncio.CancelledError:
            pass


class Countdown:
    """Calls a function when as many as this have ended."""

    def __init__(self, count, function):
        self.left, self.function, self.lock = count, function, threading.Lock()

    def one(self):
        with self.lock:
            self.left -= 1
            is_last = not self.left
        if is_last:
            self.function()


def put_in_thread(put, items, over, chance):
    for item in items:
        while True:
            try:
                if chance.random() < 0.1:
                    put(item, timeout=chance.choice((0, 1e-5, 1e-4)))
                else:
                    put(item)
                break
            except QueueFull:
                pass
    over.one()


async def put_in_task(put, items, over, chance):
    for item in items:
        await until_done(lambda item=item: put(item), chance)
    over.one()


class TestBroadcast:
    ITEMS = 400
    """Of each producer."""

    def read_in_thread(self, reader, chance, most):
        got = []
        with reader:
            while len(got) < most:
                try:
                    if chance.random() < 0.1:
                        got.append(reader.sync_get(timeout=chance.choice((0, 1e-5, 1e-4))))
                    elif chance.random() < 0.2:
                        got += reader.sync_get_many(3, max_wait=chance.choice((0, 1e-4)))
                    else:
                        got.append(reader.sync_get())
                except QueueEmpty:
                    pass
                except QueueShutDown:
                    break
        return got, reader.missed

    async def read_in_task(self, reader, chance, most):
        got = []
        async with reader:
            while len(got) < most:
                try:
                    if chance.random() < 0.2:
                        got += await until_done(lambda: reader.get_many(3, max_wait=1e-4), chance)
                    else:
                        got.append(await until_done(reader.get, chance))
                except QueueShutDown:
                    break
        return got, reader.missed

    @pytest.mark.parametrize(
        ("maxsize", "lag"), [(0, "block"), (1, "block"), (10, "block"), (5, "drop_oldest")]
    )
    def test_each_reader_gets_each_item_once(self, maxsize, lag):
        broadcast = Broadcast(maxsize, lag)
        shares = [[(p, n) for n in range(self.ITEMS)] for p in range(4)]
        over = Countdown(len(shares), broadcast.shutdown)
        # Half of the readers die before the end.
        readers = [
            (broadcast.subscribe(), random.Random(i), 10**9 if i % 2 else 50 * i) for i in range(12)
        ]
        abandoned = [broadcast.subscribe() for _ in range(3)]
        for reader in abandoned:
            in_thread(reader.close)

        async def on_loop(number, mine):
            chance = random.Random(100 + number)
            putting = asyncio.ensure_future(
                put_in_task(broadcast.put, shares[number], over, chance)
            )
            results = await asyncio.gather(*(self.read_in_task(*each) for each in mine))
            await putting
            return results

        results = together(
            *(lambda n=n: asyncio.run(on_loop(n, readers[3 * n : 3 * n + 3])) for n in range(2)),
            *(
                lambda n=n: put_in_thread(broadcast.sync_put, shares[n], over, random.Random(n))
                for n in (2, 3)
            ),
            *(lambda each=each: [self.read_in_thread(*each)] for each in readers[6:]),
        )
        found = [result for each in results if each is not None for result in each]
        assert len(found) == len(readers)
        for (got, missed), (_, _, most) in zip(found, readers):
            assert len(set(got)) == len(got)
            for producer in range(4):
                numbers = [n for p, n in got if p == producer]
                assert numbers == sorted(numbers)
            if most == 10**9:
                assert len(got) + missed == 4 * self.ITEMS
            if lag == "block":
                assert missed == 0
        assert (broadcast.getting, broadcast.putting, broadcast.readers) == (0, 0, 0)
        assert broadcast.qsize() == 0


class TestSelectAndBatches:
    ITEMS = 500
    """Of each producer."""

    def take_in_thread(self, many, chance):
        got = []
        while True:
            try:
                if chance.random() < 0.3:
                    queue = chance.choice(many)
                    got += queue.sync_get_many(3, max_wait=chance.choice((0, 1e-5, 1e-4)))
                elif chance.random() < 0.2:
                    got.append(sync_select(*many, timeout=chance.choice((0, 1e-5, 1e-4)))[1])
                else:
                    got.append(sync_select(*many)[1])
            except SelectTimeout:
                pass
            except QueueShutDown:
                if all(queue.is_shutdown and queue.empty() for queue in many):
                    return got

    async def take_in_task(self, many, chance):
        got = []
        while True:
            try:
                if chance.random() < 0.3:
                    queue = chance.choice(many)
                    got += await until_done(lambda q=queue: q.get_many(3, max_wait=1e-4), chance)
                elif chance.random() < 0.2:
                    got.append((await until_done(lambda: select(*many, timeout=1e-4), chance))[1])
                else:
                    got.append((await until_done(lambda: select(*many), chance))[1])
            except SelectTimeout:
                pass
            except QueueShutDown:
                if all(queue.is_shutdown and queue.empty() for queue in many):
                    return got

    @pytest.mark.parametrize("maxsize", [0, 1, 7])
    def test_each_item_exactly_once(self, maxsize):
        many = [MessageQueue(maxsize) for _ in range(3)]
        shares = [[(p, n) for n in range(self.ITEMS)] for p in range(6)]

        def shut_down():
            for queue in many:
                queue.shutdown()

        over = Countdown(len(shares), shut_down)

        async def on_loop(number):
            chance = random.Random(number)
            puts = [
                put_in_task(many[i].put, shares[3 * number + i], over, chance) for i in range(2)
            ]
            putting = asyncio.gather(*puts)
            results = await asyncio.gather(*(self.take_in_task(many, chance) for _ in range(TASKS)))
            await putting
            return results

        results = together(
            *(lambda n=n: asyncio.run(on_loop(n)) for n in range(2)),
            *(
                lambda n=n: put_in_thread(many[2].sync_put, shares[n], over, random.Random(n))
                for n in (2, 5)
            ),
            *(lambda n=n: [self.take_in_thread(many, random.Random(n))] for n in range(3)),
        )
        got = [item for each in results if each for taken in each for item in taken]
        assert sorted(got) == sorted(item for share in shares for item in share)
        assert [queue.waiting for queue in many] == [0, 0, 0]


def test_a_channel_with_ends_that_come_and_go():
    sender, receiver = open_channel(5)
    items, senders = 400, 6

    def send(mine, number):
        chance = random.Random(number)
        with mine:
            for item in range(items):
                with mine.clone() as clone:
                    while True:
                        try:
                            clone.sync_send((number, item), chance.choice((None, None, 0, 1e-4)))
                            break
                        except QueueFull:
                            pass
        return []

    async def send_all(mine, number):
        chance = random.Random(number)
        async with mine:
            for item in range(items):
                await until_done(lambda item=item: mine.send((number, item)), chance)
        return []

    def receive(mine, number):
        chance, got = random.Random(number), []
        with mine:
            while True:
                try:
                    got.append(mine.sync_receive(chance.choice((None, 0, 1e-5, 1e-4))))
                except QueueEmpty:
                    pass
                except EndOfChannel:
                    return got

    async def receive_all(mine, number):
        chance, got = random.Random(number), []
        async with mine:
            while True:
                try:
                    got.append(await until_done(mine.receive, chance))
                except EndOfChannel:
                    return got

    calls = []
    for number in range(senders):
        mine, theirs = sender.clone(), receiver.clone()
        if number % 2:
            calls.append(lambda m=mine, n=number: send(m, n))
            calls.append(lambda t=theirs, n=number: receive(t, n))
        else:
            calls.append(lambda m=mine, n=number: asyncio.run(send_all(m, n)))
            calls.append(lambda t=theirs, n=number: asyncio.run(receive_all(t, n)))
    del mine, theirs
    sender.close()
    receiver.close()
    got = [item for each in together(*calls) for item in each]
    assert sorted(got) == [(p, n) for p in range(senders) for n in range(items)]
