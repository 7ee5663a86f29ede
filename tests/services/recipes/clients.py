"""What is made once, when it is imported: an HTTP client and a pool of database connections."""

from __future__ import annotations

import asyncio
import os
import threading

import httpx
import psycopg_pool
from asgiref.sync import async_to_sync, sync_to_async

from asgibridge.integrations import at_close

# One connection, so that a second one is a client's that has lost its first.
client = httpx.AsyncClient(
    base_url=os.environ.get("RECIPES_URL", "http://127.0.0.1"),
    limits=httpx.Limits(max_connections=1, keepalive_expiry=None),
    trust_env=False,
    timeout=60,
)
pool = psycopg_pool.AsyncConnectionPool(
    os.environ.get("RECIPES_DSN", ""),
    min_size=1,
    max_size=2,
    open=False,
    check=psycopg_pool.AsyncConnectionPool.check_connection,
)
_both = threading.Barrier(2)


async def get(path: str) -> str:
    """Ask the test's server for ``path``, in this process's name."""
    response = await client.get(path, headers={"X-Process": str(os.getpid())})
    return response.raise_for_status().text


@at_close
async def close() -> None:
    await pool.close()
    await get("/closed")
    await client.aclose()


async def fetch(path: str, caller: int | None = None) -> None:
    """Ask for it; say so when the answer has come, or when it has not because of a cancellation.

    :param caller: the thread that waits, to which sync code has to come back.
    """
    try:
        await get(path)
    except asyncio.CancelledError:
        await get(f"/cancelled{path}")
        raise
    assert caller in (None, await sync_to_async(threading.get_ident)())
    await get(f"/answered{path}")


def fetch_sync(path: str) -> None:
    """The same, for sync tasks."""
    async_to_sync(fetch)(path, threading.get_ident())


async def query(path: str) -> None:
    """Ask the database for a number, and then the server for ``path`` with that."""
    await pool.open()  # no more than once
    async with pool.connection() as connection:
        found = await (await connection.execute("SELECT 40 + 2")).fetchone()
    await get(f"{path}{found[0]}")


async def meet(path: str) -> None:
    """Sync code that goes on when another job's sync code runs at the same time."""
    await sync_to_async(_both.wait)(20)
    await get(path)
