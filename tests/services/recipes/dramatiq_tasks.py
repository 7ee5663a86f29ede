from __future__ import annotations

import os

import clients
import dramatiq
from dramatiq.brokers.redis import RedisBroker

from asgibridge.integrations import dramatiq as bridge

broker = RedisBroker(url=os.environ["RECIPES_BROKER"])
bridge.install(broker)
bridge.install(broker)  # twice does no harm
dramatiq.set_broker(broker)


@dramatiq.actor(max_retries=0)
def fetch(path: str) -> None:
    clients.fetch_sync(path)


@dramatiq.actor(max_retries=0, time_limit=1000)
def limited(path: str) -> None:
    clients.fetch_sync(path)
