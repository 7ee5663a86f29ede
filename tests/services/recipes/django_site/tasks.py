from __future__ import annotations

import clients
from django.db import connection
from django_tasks import task

from asgibridge.integrations import django_tasks as bridge
from asgibridge.sync import sync_to_async

bridge.install()
bridge.install()  # twice does no harm


@task()
async def fetch(path: str) -> None:
    await clients.fetch(path)


@task()
async def query(path: str) -> None:
    await clients.get(f"{path}{await sync_to_async(_ask)()}")


def _ask() -> int:
    # On the thread that runs the worker, and so on the connection that it looks after.
    with connection.cursor() as cursor:
        cursor.execute("SELECT 40 + 2")
        return cursor.fetchone()[0]
