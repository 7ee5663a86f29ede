"""Other shapes than one queue, for `queues.py`: broadcasts, rings, channels, and waits for several.

Beside each stands what people build by hand of queues, and the libraries that have one of the kind.
Seconds for each item that is put, whatever the number of its readers.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

ROOM = 100
"""In what is bounded."""
SELECTED = 10
"""Queues of a select."""

Make = Callable[[int], Any]
Body = Callable[[int], float]


class Fan(NamedTuple):
    """The ways into and out of what every reader gets."""

    put: Callable[[Any], Any]
    sync_put: Callable[[Any], Any]
    gets: list[Callable[[], Any]]
    sync_gets: list[Callable[[], Any]]


def broadcast(readers: int) -> Fan:
    from asgibridge.queue import Broadcast

    made: Any = Broadcast(ROOM)
    ends = [made.subscribe() for _ in range(readers)]
    gets, sync_gets = [each.get for each in ends], [each.sync_get for each in ends]
    return Fan(made.put, made.sync_put, gets, sync_gets)


def one_each(make: Make, readers: int) -> Fan:
    """By hand: a queue for each reader."""
    ends = [make(ROOM) for _ in range(readers)]

    async def put(item: Any) -> None:
        for each in ends:
            await each.put(item)

    def sync_put(item: Any) -> None:
        for each in ends:
            each.sync_put(item)

    gets, sync_gets = [each.get for each in ends], [each.sync_get for each in ends]
    return Fan(put, sync_put, gets, sync_gets)


def to_tasks(fan: Callable[[int], Fan], readers: int, n: int) -> float:
    async def read(get: Any) -> None:
        for _ in range(n):
            await get()

    async def main() -> float:
        made = fan(readers)
        tasks = [asyncio.ensure_future(read(get)) for get in made.gets]
        await asyncio.sleep(0)
        start = time.perf_counter()
        for i in range(n):
            await made.put(i)
        await asyncio.gather(*tasks)
        return time.perf_counter() - start

    return asyncio.run(main())


def to_threads(fan: Callable[[int], Fan], readers: int, n: int) -> float:
    made = fan(readers)

    def read(get: Any) -> None:
        for _ in range(n):
            get()

    threads = [threading.Thread(target=read, args=(get,)) for get in made.sync_gets]
    for thread in threads:
        thread.start()
    start = time.perf_counter()
    for i in range(n):
        made.sync_put(i)
    for thread in threads:
        thread.join()
    return time.perf_counter() - start


async def through(send: Any, receive: Any, n: int) -> float:
    async def send_all() -> None:
        for i in range(n):
            await send(i)

    start = time.perf_counter()
    sending = asyncio.ensure_future(send_all())
    for _ in range(n):
        await receive()
    await sending
    return time.perf_counter() - start


def our_channel(room: int, n: int) -> float:
    from asgibridge.queue import open_channel

    sender, receiver = open_channel(room)
    return asyncio.run(through(sender.send, receiver.receive, n))


def our_queue(room: int, n: int) -> float:
    from asgibridge.queue import MessageQueue

    queue: Any = MessageQueue(room)
    return asyncio.run(through(queue.put, queue.get, n))


def anyios_channel(room: int, n: int) -> float:
    import anyio

    async def main() -> float:
        sender, receiver = anyio.create_memory_object_stream[int](room or math.inf)
        with sender, receiver:
            return await through(sender.send, receiver.receive, n)

    return asyncio.run(main())


def trios_channel(room: int, n: int) -> float:
    import trio

    async def main() -> float:
        sender, receiver = trio.open_memory_channel[int](room or math.inf)

        async def send_all() -> None:
            for i in range(n):
                await sender.send(i)

        start = time.perf_counter()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_all)
            for _ in range(n):
                await receiver.receive()
        return time.perf_counter() - start

    return trio.run(main)


def our_select(is_there: bool, n: int) -> float:
    from asgibridge.queue import MessageQueue, select

    async def main() -> float:
        queues = [MessageQueue[int]() for _ in range(SELECTED)]
        call_soon = asyncio.get_running_loop().call_soon
        start = time.perf_counter()
        for i in range(n):
            put = queues[i % SELECTED].put_nowait
            put(i) if is_there else call_soon(put, i)
            await select(*queues)
        return time.perf_counter() - start

    return asyncio.run(main())


def select_by_hand(make: Make, is_there: bool, n: int) -> float:
    """A task for each queue, and the others cancelled."""

    async def main() -> float:
        ends = [make(0) for _ in range(SELECTED)]
        loop = asyncio.get_running_loop()
        start = time.perf_counter()
        for i in range(n):
            put = ends[i % SELECTED].put
            if is_there:
                await put(i)
            else:
                loop.call_soon(lambda put=put, i=i: loop.create_task(put(i)))
            tasks = [loop.create_task(each.get()) for each in ends]
            _done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
        return time.perf_counter() - start

    return asyncio.run(main())


def our_ring(n: int) -> float:
    from asgibridge.queue import RingQueue

    put = RingQueue[int](ROOM).put_nowait
    start = time.perf_counter()
    for i in range(n):
        put(i)
    return time.perf_counter() - start


def cases_of(name: str, makes: dict[str, Make | None]) -> dict[str, tuple[Body, int]]:
    """What this implementation can do, and a part of how many items is enough for it."""
    make = makes.get(name)
    cases: dict[str, tuple[Body, int]] = {}
    fan: Any = None
    if name == "asgibridge":
        fan = broadcast
        cases["ring of 100, full"] = our_ring, 1
        cases["channel, task -> task"] = partial(our_channel, 0), 1
        cases["channel, task -> task, room for 100"] = partial(our_channel, ROOM), 1
        for text, is_there in (("an item is there", True), ("waited for", False)):
            cases[f"select of {SELECTED}, {text}"] = partial(our_select, is_there), 10
    elif name == "asgibridge, queues":
        fan = partial(one_each, make)
        cases["channel, task -> task"] = partial(our_queue, 0), 1
        cases["channel, task -> task, room for 100"] = partial(our_queue, ROOM), 1
    elif name in ("anyio", "trio"):
        run = anyios_channel if name == "anyio" else trios_channel
        cases["channel, task -> task"] = partial(run, 0), 10
        cases["channel, task -> task, room for 100"] = partial(run, ROOM), 10
    elif name in ("culsans", "aiologic.Queue", "asyncio.Queue"):
        fan = partial(one_each, make)
        for text, is_there in (("an item is there", True), ("waited for", False)):
            body = partial(select_by_hand, make, is_there)
            cases[f"select of {SELECTED}, {text}"] = body, 100
    if fan is not None:
        for readers in (1, 10, 1000):
            text = f"every item to {readers} tasks" if readers > 1 else "every item to 1 task"
            cases[text] = partial(to_tasks, fan, readers), max(1, readers)
        if name != "asyncio.Queue":
            cases["every item to 10 threads"] = partial(to_threads, fan, 10), 10
    return cases
