"""What Django has open on a thread while a context idles, line by line: see test_streams.py."""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import os
from collections.abc import Callable
from typing import Any

import django

django.setup()

from asgiref.sync import ThreadSensitiveContext, sync_to_async  # noqa: E402
from board.models import Message  # noqa: E402
from board.views import backend  # noqa: E402
from django.db import transaction  # noqa: E402

# By name: the site is checked without asgibridge, too.
atomic: Any = importlib.import_module("asgibridge.django").atomic
pool: Any = importlib.import_module("asgibridge._workers.pool").pool

ROOM = os.environ["BOARD_APPLICATION"]


async def come(condition: Callable[[], Any]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


async def bound() -> str:
    for slot in pool.in_use:
        slot.seen = None
    await come(lambda: [slot for slot in pool.in_use if slot.seen])
    return " ".join(slot.seen for slot in pool.in_use)


async def one() -> int:
    async with ThreadSensitiveContext():
        return await sync_to_async(backend)()


async def main() -> None:
    async with ThreadSensitiveContext():
        mine = await sync_to_async(backend)()

        async def say_whose() -> None:
            print("bound" if await sync_to_async(backend)() == mine else "lost")

        block = transaction.atomic()
        await sync_to_async(block.__enter__)()
        print(await bound())
        await Message.objects.acreate(room=ROOM, text="1")
        await say_whose()
        await sync_to_async(block.__exit__)(None, None, None)

        messages = [Message(room=ROOM, text=str(number)) for number in range(10)]
        await Message.objects.abulk_create(messages)
        rows = Message.objects.filter(room=ROOM).order_by("pk").aiterator(chunk_size=2)
        found = [await rows.__anext__()]
        print((await bound())[:13])
        found += [row async for row in rows]
        print(len(found))
        await say_whose()

        async with atomic():
            print("an open one" if "a context manager that is open" in await bound() else "?")
            await say_whose()

        released = pool.released
        await come(lambda: pool.released > released)
        other = contextvars.Context().run(asyncio.ensure_future, one())
        print("another" if await other == await sync_to_async(backend)() else "lost")


asyncio.run(main())
