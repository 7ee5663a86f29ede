"""Lines that end in ``# error`` are refused by type checkers, and no others."""

from __future__ import annotations

import asyncio

from asgibridge.queue import (
    Broadcast,
    Latest,
    MessageQueue,
    Reader,
    Receiver,
    RingQueue,
    Sender,
    open_channel,
    select,
    sync_select,
)

broadcast: Broadcast[int] = Broadcast(10, lag="drop_oldest", replay=2)
broadcast.put_nowait(1)
broadcast.sync_put(2, timeout=1)
broadcast.put_nowait("x")  # error
broadcast.sync_put("x")  # error
reader: Reader[int] = broadcast.subscribe()
numbers: list[int] = [
    reader.get_nowait(),
    reader.sync_get(),
    reader.sync_get(timeout=1.5),
    *reader.get_many_nowait(3),
    *reader.sync_get_many(3, max_wait=0.1),
    *reader,
    reader.missed,
    reader.qsize(),
]
texts: list[str] = []
texts.append(reader.get_nowait())  # error
texts.append(reader.sync_get())  # error
texts.extend(reader.sync_get_many())  # error
texts.extend(reader)  # error
Broadcast(lag=3)  # error

latest: Latest[int] = Latest()
numbers.append(latest.get_nowait())
numbers.append(latest.sync_get(timeout=1))
numbers.append(latest.sync_get_newer())
texts.append(latest.get_nowait())  # error
with latest.subscribe() as changes:
    numbers.append(changes.get_nowait())

ring: RingQueue[int] = RingQueue(3)
ring.put_nowait(1)
ring.sync_put("x")  # error
queue: MessageQueue[int] = MessageQueue(3)
queue.put_nowait(1, overwrite=True)
numbers.extend(queue.sync_get_many(max_items=3, max_wait=0.5))

sender: Sender[int]
receiver: Receiver[int]
sender, receiver = open_channel(10)
sender.send_nowait(1)
sender.sync_send(1, timeout=1)
sender.send_nowait("x")  # error
sender.clone().sync_send("x")  # error
numbers.append(receiver.receive_nowait())
numbers.append(receiver.clone().sync_receive(timeout=1))
numbers.extend(receiver.sync_receive_many(3, max_wait=1))
numbers.extend(receiver)
texts.append(receiver.receive_nowait())  # error

found, item = sync_select(queue, reader, receiver, timeout=1)


async def main() -> None:
    await broadcast.put(1)
    await broadcast.put("x")  # error
    number: int = await reader.get()
    number = (await reader.get_many(3, max_wait=1))[0]
    number = await latest.get()
    number = await latest.get_newer()
    number = (await queue.get_many(max_items=3, max_wait=0.5))[0]
    text: str = await reader.get()  # error
    await ring.put(number)
    async with sender:
        await sender.send(number)
        await sender.send(text)  # error
    number = await receiver.receive()
    number = (await receiver.receive_many(3, max_wait=1))[0]
    text = await receiver.receive()  # error
    async with broadcast.subscribe() as mine:
        async for each in mine:
            number = each
    async for every in receiver:
        text = every  # error
    which, thing = await select(queue, reader, timeout=1)
    print(which, thing)


asyncio.run(main())
