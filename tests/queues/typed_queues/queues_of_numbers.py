"""Lines that end in ``# error`` are refused by type checkers, and no others."""

from __future__ import annotations

import asyncio

import asgibridge.queue as culsans
from asgibridge.queue import AsyncQueue, LifoQueue, MessageQueue, PriorityQueue, Queue, SyncQueue

queue: MessageQueue[int] = MessageQueue(1000.0, sizer=lambda item: item + 1)
numbers: list[int] = [
    queue.sync_get(),
    queue.sync_get(timeout=1.5),
    queue.sync_get(blocking=False),
    queue.sync_peek(),
    queue.green_get(),
    queue.green_peek(),
    queue.get_nowait(),
    queue.peek_nowait(),
    queue.sync_q.get(),
    queue.sync_q.peek(),
    queue.async_q.get_nowait(),
    queue.green_proxy.get(),
    *queue.sync_get_many(10),
    *queue.get_many_nowait(),
    *queue,
    *queue.sync_q,
    queue.maxsize,
    queue.size,
    len(queue),
]
queue.maxsize = 10
queue.sync_put(1, timeout=2)
queue.put_nowait(1)
queue.green_put(1)
queue.sync_q.put(1)

texts: list[str] = []
texts.append(queue.sync_get())  # error
texts.append(queue.sync_peek())  # error
texts.extend(queue.sync_get_many())  # error
texts.extend(queue.get_many_nowait())  # error
texts.append(queue.get_nowait())  # error
texts.append(queue.peek_nowait())  # error
texts.append(queue.green_get())  # error
texts.append(queue.sync_q.get())  # error
texts.extend(queue)  # error
queue.sync_put("x")  # error
queue.put_nowait("x")  # error
queue.green_put("x")  # error
queue.sync_q.put("x")  # error
queue.async_q.put_nowait("x")  # error

thread_side: SyncQueue[int] = Queue[int]().sync_q
task_side: AsyncQueue[int] = LifoQueue[int]().async_q
greens: culsans.GreenQueueProxy[int] = Queue[int]().green_proxy
either: culsans.MixedQueue[int] = PriorityQueue[int]()


async def main() -> None:
    number: int = await queue.get()
    number = await queue.async_get()
    number = await task_side.get()
    number = (await queue.get_many())[0]
    text: str = await queue.peek()  # error
    text = await task_side.peek()  # error
    await queue.put(number)
    await queue.put(text)  # error
    await task_side.put(text)  # error
    async for each in queue:
        number = each
    async for every in task_side:
        text = every  # error


asyncio.run(main())
