"""The part of `storm.py` that puts and gets: queues, channels, selects, batches, broadcasts, rings.

Tasks give up at any moment, threads have little time, readers and ends of channels die, and threads
fork. What must agree:

* each item put into the queue or sent into the channel is got once, by whatever way;
* a reader gets what is put after it came, in order, each once, or has it counted as missed;
* what a ring has dropped it counts as done, and the rest is got once;
* a forked child has the items, and waits of its own alone.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections import Counter

import asgibridge
from asgibridge.queue import (
    Broadcast,
    ClosedResourceError,
    Latest,
    MessageQueue,
    QueueEmpty,
    QueueFull,
    RingQueue,
    open_channel,
    select,
    sync_select,
)

CHILD_SECONDS = 30
"""After which a forked child is ended that has not come to its end."""


class Wrong(AssertionError):
    """A guarantee was broken."""


def ensure(condition, what, *seen):
    if not condition:
        raise Wrong(f"{what}: {seen}" if seen else what)


class Queues:
    """What a storm's actors share of queues, and the operations on them."""

    def __init__(self):
        self.lock = threading.Lock()
        self.items = iter(range(sys.maxsize))
        self.put, self.got = Counter(), Counter()
        self.queue = MessageQueue(8)
        self.sender, self.receiver = open_channel(8)
        self.ring, self.overwritten = RingQueue(4), Counter()
        # What is put into these has consecutive numbers: nobody puts without the lock.
        self.news_lock = threading.Lock()
        self.news, self.latest, self.number = Broadcast(16, "drop_oldest"), Latest(), 0
        # Of forks with other threads, whose end this process is here to see.
        warnings.filterwarnings("ignore", ".*multi-threaded", DeprecationWarning)

    def next_item(self):
        with self.lock:
            return next(self.items)

    def count(self, counter, items):
        with self.lock:
            counter.update(items)

    def agreements(self):
        """When all have ended: what must be so, and whether it is."""
        for source in (self.queue.sync_get_many, self.receiver.sync_receive_many):
            self.got.update(source(max_wait=0))
        left = self.ring.qsize()
        channel = self.sender._queue
        waiting = [self.queue.waiting, channel.getting + channel.putting, self.ring.waiting]
        waiting += [each.getting + each.putting for each in (self.news, self.latest)]
        got = sum(self.overwritten.values())
        return (
            ("an item was lost or doubled", self.put == self.got),
            ("somebody waits in a queue", not any(waiting)),
            ("a ring lost an item, or doubled it", self.ring.unfinished_tasks == got + left),
            ("a ring doubled an item", all(times == 1 for times in self.overwritten.values())),
            ("a reader is left over", self.news.readers == self.latest.readers == 0),
        )

    # What tasks do.

    async def put_or_get(self, chance):
        for _ in range(chance.randrange(1, 8)):
            how = chance.randrange(6)
            if chance.random() < 0.5:
                item = self.next_item()
                task = asyncio.ensure_future(self.put_one(item, how))
                if await self.cut_short(task, chance) and task.result():
                    self.count(self.put, [item])
            else:
                task = asyncio.ensure_future(self.get_some(how))
                if await self.cut_short(task, chance):
                    self.count(self.got, task.result())

    async def put_one(self, item, how):
        """Whether it was put: a sender may be closed meanwhile."""
        if how < 3:
            await self.queue.put(item)
        elif how < 5:
            await self.sender.send(item)
        else:
            sender = self.sender.clone()
            asyncio.get_running_loop().call_later(1e-4, sender.close)
            try:
                await sender.send(item)
            except ClosedResourceError:
                return False
        return True

    async def get_some(self, how):
        if how == 0:
            return [await self.queue.get()]
        if how == 1:
            with self.receiver.clone() as receiver:
                return [await receiver.receive()]
        if how == 2:
            return await self.queue.get_many(3, max_wait=1e-4)
        if how == 3:
            return await self.receiver.receive_many(3, max_wait=1e-4)
        return [(await select(self.queue, self.receiver))[1]]

    async def cut_short(self, task, chance):
        """Whether it came to its end; it gets a moment for that."""
        handle = asyncio.get_running_loop().call_later(chance.choice((0, 1e-5, 1e-3)), task.cancel)
        self.fault("cancellation")
        try:
            await task
        except asyncio.CancelledError:
            return False
        finally:
            handle.cancel()
        return True

    async def overwrite(self, chance):
        for _ in range(chance.randrange(1, 8)):
            if chance.random() < 0.5:
                await self.ring.put(self.next_item())
                continue
            task = asyncio.ensure_future(self.ring.get())
            if await self.cut_short(task, chance):
                self.count(self.overwritten, [task.result()])

    def tell(self, times):
        for _ in range(times):
            with self.news_lock:
                self.news.put_nowait(self.number)
                self.latest.put_nowait(self.number)
                self.number += 1

    def begin_to_read(self):
        with self.news_lock:
            return self.news.subscribe(), self.number

    def end_of_reading(self, reader, first, seen):
        """It dies: has it got all that came, each once?"""
        with self.news_lock:
            left, missed, end = reader.qsize(), reader.missed, self.number
            reader.close()
        ensure(seen == sorted(set(seen)), "a reader's items in order", seen)
        ensure(len(seen) + missed + left == end - first, "a reader's items", seen, missed, left)
        if not missed:
            ensure(seen == list(range(first, first + len(seen))), "a reader's items", first, seen)

    async def read(self, chance):
        reader, first = self.begin_to_read()
        seen = []
        for _ in range(chance.randrange(1, 8)):
            self.tell(chance.randrange(4))
            if chance.random() < 0.7:
                task = asyncio.ensure_future(reader.get_many(5, max_wait=1e-4))
            else:
                task = asyncio.ensure_future(select(reader, self.receiver))
            if not await self.cut_short(task, chance):
                continue
            if isinstance(task.result(), list):
                seen += task.result()
            elif task.result()[0] is reader:
                seen.append(task.result()[1])
            else:
                self.count(self.got, [task.result()[1]])
        self.end_of_reading(reader, first, seen)
        before = self.number
        task = asyncio.ensure_future(self.latest.get_newer())
        if await self.cut_short(task, chance):
            ensure(task.result() >= before, "a newer value", task.result(), before)

    # What threads do.

    def put_or_get_in_thread(self, chance):
        for _ in range(chance.randrange(1, 8)):
            timeout, how = chance.choice((0, 1e-5, 1e-3)), chance.randrange(5)
            try:
                if chance.random() < 0.5:
                    item = self.next_item()
                    put = self.queue.sync_put if how < 3 else self.sender.sync_send
                    put(item, timeout=timeout)
                    self.count(self.put, [item])
                else:
                    self.count(self.got, self.get_some_in_thread(how, timeout))
            except (QueueEmpty, QueueFull):
                self.fault("time-out")

    def get_some_in_thread(self, how, timeout):
        if how == 0:
            return [self.queue.sync_get(timeout=timeout)]
        if how == 1:
            return [self.receiver.sync_receive(timeout=timeout)]
        if how == 2:
            return self.queue.sync_get_many(3, max_wait=timeout)
        if how == 3:
            return self.receiver.sync_receive_many(3, max_wait=timeout)
        return [sync_select(self.queue, self.receiver, timeout=timeout)[1]]

    def overwrite_in_thread(self, chance):
        for _ in range(chance.randrange(1, 8)):
            if chance.random() < 0.5:
                self.ring.sync_put(self.next_item())
                continue
            try:
                item = self.ring.sync_get(timeout=chance.choice((0, 1e-5, 1e-3)))
                self.count(self.overwritten, [item])
            except QueueEmpty:
                self.fault("time-out")

    def read_in_thread(self, chance):
        reader, first = self.begin_to_read()
        seen = []
        for _ in range(chance.randrange(1, 8)):
            self.tell(chance.randrange(4))
            try:
                if chance.random() < 0.5:
                    seen += reader.sync_get_many(5, max_wait=chance.choice((0, 1e-4)))
                else:
                    seen.append(reader.sync_get(timeout=chance.choice((0, 1e-4))))
            except QueueEmpty:
                self.fault("time-out")
        self.end_of_reading(reader, first, seen)

    def fork(self, chance):
        """With the others in the middle of whatever they do."""
        # ThreadSanitizer has no threads in a child that was forked beside others.
        if not hasattr(os, "fork") or "TSAN_OPTIONS" in os.environ or chance.random() < 0.8:
            return
        self.fault("fork")
        child = os.fork()
        if not child:
            status = 1
            try:
                signal.alarm(CHILD_SECONDS)
                self.in_child()
                status = 0
            except BaseException:
                os.write(2, traceback.format_exc().encode())
            finally:
                os._exit(status)
        ensure(os.waitpid(child, 0)[1] == 0, "a forked child failed")

    def in_child(self):
        for queue in (self.queue, self.ring):
            ensure(queue.waiting == 0, "a wait of the parent's", queue.getting, queue.putting)
            items = queue.sync_get_many(max_wait=0)
            ensure(len(set(items)) == len(items), "a doubled item", items)
            self.wakes_a_thread(queue, queue.put_nowait, queue.sync_get)
        channel = self.sender._queue
        self.receiver.sync_receive_many(max_wait=0)
        self.wakes_a_thread(channel, self.sender.send_nowait, self.receiver.sync_receive)
        # In the pure kernel, a step of a broadcast's is several of Python's: a thread of the parent
        # may have been in the middle of one, which no end comes to here.
        if asgibridge.IMPLEMENTATION != "pure":
            with self.news.subscribe() as reader:
                self.wakes_a_thread(self.news, self.news.put_nowait, reader.sync_get)
            self.wakes_a_thread(self.latest, self.latest.put_nowait, self.latest.sync_get_newer)

    def wakes_a_thread(self, queue, put, get):
        got = []
        thread = threading.Thread(target=lambda: got.append(get()), daemon=True)
        thread.start()
        while not queue.getting:
            time.sleep(0)
        put("child's")
        thread.join(CHILD_SECONDS)
        ensure(got == ["child's"], "what a child's thread got", got)

    IN_TASKS = put_or_get, overwrite, read
    IN_THREADS = put_or_get_in_thread, overwrite_in_thread, read_in_thread, fork
