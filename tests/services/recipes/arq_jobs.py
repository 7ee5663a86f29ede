from __future__ import annotations

import os
from typing import Any

import clients
from arq.connections import RedisSettings

from asgibridge.integrations import arq as bridge


async def fetch(_ctx: dict[str, Any], path: str) -> None:
    await clients.get(path)


async def meet(_ctx: dict[str, Any], path: str) -> None:
    await clients.meet(path)


async def on_job_start(ctx: dict[str, Any]) -> None:
    await clients.get("/started")


async def on_shutdown(_ctx: dict[str, Any]) -> None:
    await clients.close()


@bridge.install
@bridge.install  # twice does no harm
class WorkerSettings:
    functions = [fetch, meet]
    on_job_start = on_job_start
    on_shutdown = on_shutdown
    redis_settings = RedisSettings(port=int(os.environ["RECIPES_REDIS_PORT"]))
