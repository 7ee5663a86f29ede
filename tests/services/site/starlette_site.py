"""A Starlette site whose clients live as long as its event loop, for WSGI servers.

The clients of Redis and PostgreSQL are opened in the lifespan and are bound to the loop that runs
it, so that every request has to be on that loop. ``adapted`` is the WSGI application.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg_pool
from redis import asyncio as aioredis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route

from asgibridge.sync import sync_to_async
from asgibridge.wsgi import AsgiToWsgi

if os.environ.get("BOARD_LOOP") == "uvloop":
    import warnings

    import uvloop

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # policies go, in 3.16
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())

DSN = (
    f"host=127.0.0.1 port={os.environ['BOARD_POSTGRES_PORT']} user=board dbname=board "
    "application_name=starlette"
)


@asynccontextmanager
async def lifespan(application: Starlette) -> AsyncIterator[dict[str, Any]]:
    async with (
        aioredis.Redis(port=int(os.environ["BOARD_REDIS_PORT"])) as redis,
        psycopg_pool.AsyncConnectionPool(DSN, min_size=1, max_size=4, open=False) as pool,
    ):
        yield {"redis": redis, "pool": pool}


async def count(request: Request) -> JSONResponse:
    key = request.path_params["key"]
    number = await request.state.redis.incr(key)
    async with request.state.pool.connection() as connection:
        await connection.execute(
            "INSERT INTO board_message (room, text) VALUES (%s, %s)", [key, str(number)]
        )
    return JSONResponse(
        {
            "number": number,
            "loop": type(asyncio.get_running_loop()).__module__.split(".")[0],
            "on_a_thread": await sync_to_async(threading.get_ident)() != threading.get_ident(),
        }
    )


def synchronous(request: Request) -> PlainTextResponse:
    return PlainTextResponse("on a thread of anyio's")


async def upload(request: Request) -> PlainTextResponse:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
    return PlainTextResponse(str(size))


async def stream(request: Request) -> StreamingResponse:
    async def lines() -> AsyncIterator[str]:
        for number in range(1000):
            if number % 100 == 0:
                await request.state.redis.ping()
            yield f"{number}\n"

    return StreamingResponse(lines(), media_type="text/plain")


application = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/count/{key}", count),
        Route("/sync", synchronous),
        Route("/upload", upload, methods=["POST"]),
        Route("/stream", stream),
    ],
)
adapted = AsgiToWsgi(application)
