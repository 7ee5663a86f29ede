"""Requests that each take a connection from Django's pool. Prints what the pool says, in JSON."""

from __future__ import annotations

import asyncio
import json

from asgiref import sync

from asgibridge import workers
from asgibridge.django import get_asgi_application
from asgibridge.testing import HttpCommunicator

AT_ONCE, ROUNDS = 8, 5


async def ask(application: object) -> None:
    async with sync.ThreadSensitiveContext():
        response = await HttpCommunicator(application, "GET", "/query/").get_response()
        assert response.body == b"1", response


async def main() -> dict[str, object]:
    application = get_asgi_application()
    from django.db import connection

    for _ in range(ROUNDS):
        await asyncio.gather(*(ask(application) for _ in range(AT_ONCE)))
    pool = connection.pool
    # A response is there before its request has ended.
    for _ in range(500):
        stats = pool.get_stats()
        idle = stats["pool_available"]
        if idle == stats["connections_num"]:
            break
        await asyncio.sleep(0.01)
    pool.close()
    return {"policy": workers.get_policy().kind, "made": stats["connections_num"], "idle": idle}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main())))
