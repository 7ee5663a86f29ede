"""Celery tasks that call async code, as one that sends to a channel layer does."""

from __future__ import annotations

import asyncio
import os
import threading

from asgiref.sync import async_to_sync, sync_to_async
from celery import Celery

_FOLDER = os.environ["BOARD_BROKER"]

app = Celery(
    "tasks",
    broker="filesystem://",
    backend=f"file://{_FOLDER}/results",
    broker_transport_options={
        "data_folder_in": f"{_FOLDER}/messages",
        "data_folder_out": f"{_FOLDER}/messages",
        "control_folder": f"{_FOLDER}/control",
    },
)


def _sees_a_loop() -> bool:
    # What Django asks before each query.
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _send(number: int, here: int) -> list[bool]:
    await asyncio.sleep(0.2)
    return [
        await sync_to_async(_sees_a_loop)(),
        await sync_to_async(_sees_a_loop, thread_sensitive=False)(),
        await sync_to_async(threading.get_ident)() != here,
    ]


@app.task
def send(number: int) -> tuple[int, list[bool]]:
    """Its number, and what must not be: sync code that sees a loop, or has left the greenlet."""
    return number, [_sees_a_loop(), *async_to_sync(_send)(number, threading.get_ident())]


if __name__ == "__main__":
    import sys

    from celery import group

    results = group(send.s(number) for number in range(int(sys.argv[1]))).apply_async()
    print(*sorted(f"{number} {sum(seen)}" for number, seen in results.get(timeout=60)), sep=",")
