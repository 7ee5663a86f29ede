from __future__ import annotations

import clients
import rq


def fetch(path: str) -> None:
    clients.fetch_sync(path)


async def fetch_async(path: str) -> None:
    assert rq.get_current_job() is not None
    await clients.fetch(path)


def fetch_twice(path: str) -> None:
    fetch(path)
    fetch(path)
