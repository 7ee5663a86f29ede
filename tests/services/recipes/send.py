"""Enqueue tasks: ``python send.py LIBRARY TASK:PATH:COUNT ...``; nothing runs them here."""

from __future__ import annotations

import asyncio
import os
import sys

TASKS = [
    (name, path)
    for name, path, count in (word.split(":") for word in sys.argv[2:])
    for _ in range(int(count))
]


def celery() -> None:
    import celery_tasks

    for name, path in TASKS:
        getattr(celery_tasks, name).delay(path)


def dramatiq() -> None:
    import dramatiq_tasks

    for name, path in TASKS:
        getattr(dramatiq_tasks, name).send(path)


def rq() -> None:
    import redis
    from rq import Queue

    with redis.Redis.from_url(os.environ["RECIPES_BROKER"]) as connection:
        for name, path in TASKS:
            Queue(connection=connection).enqueue(f"rq_jobs.{name}", path)


def arq() -> None:
    async def send() -> None:
        from arq import create_pool
        from arq.connections import RedisSettings

        pool = await create_pool(RedisSettings(port=int(os.environ["RECIPES_REDIS_PORT"])))
        for name, path in TASKS:
            await pool.enqueue_job(name, path)
        await pool.aclose()

    asyncio.run(send())


def procrastinate() -> None:
    import procrastinate_app

    with procrastinate_app.app.open() as app:
        for name, path in TASKS:
            app.configure_task(f"procrastinate_app.{name}").defer(path=path)


def django() -> None:
    import django

    django.setup()
    import django_site.tasks

    for name, path in TASKS:
        getattr(django_site.tasks, name).enqueue(path)


globals()[sys.argv[1]]()
