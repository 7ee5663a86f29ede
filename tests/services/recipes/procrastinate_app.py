from __future__ import annotations

import os

import clients
import procrastinate

from asgibridge.integrations import procrastinate as bridge

app = bridge.install(
    procrastinate.App(
        connector=procrastinate.PsycopgConnector(conninfo=os.environ["RECIPES_DSN"]),
    )
)
bridge.install(app)  # twice does no harm


@app.task
def fetch(path: str) -> None:
    clients.fetch_sync(path)


@app.task
async def fetch_async(path: str) -> None:
    await clients.fetch(path)


@app.task
async def meet(path: str) -> None:
    await clients.meet(path)
