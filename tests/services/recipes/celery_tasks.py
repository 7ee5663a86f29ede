from __future__ import annotations

import os

import clients
from asgiref.sync import async_to_sync
from celery import Celery

from asgibridge.integrations import celery as bridge

bridge.install()
bridge.install()  # twice does no harm

app = Celery("celery_tasks", broker=os.environ["RECIPES_BROKER"])
app.conf.worker_prefetch_multiplier = 1


@app.task
def fetch(path: str) -> None:
    clients.fetch_sync(path)


@app.task
def query(path: str) -> None:
    async_to_sync(clients.query)(path)


@app.task(soft_time_limit=1)
def limited(path: str) -> None:
    clients.fetch_sync(path)
