"""Compares what the report says of crossings with what requests really cross, in all short chains.

Prints how many requests were made, and each that was not as said.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import django
from asgiref import sync
from django.core.handlers.asgi import ASGIHandler as Djangos
from django.test import override_settings

from asgibridge import workers
from asgibridge.django._survey import Survey
from asgibridge.django.handlers import ASGIHandler
from asgibridge.testing import HttpCommunicator

KINDS = ["both", "sync_only", "async_only", "Hooks", "Called"]
PATHS = {False: "/", True: "/api/hello/"}

calls_of_the_loop = 0
call = sync.AsyncToSync.__call__


def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
    global calls_of_the_loop
    calls_of_the_loop += 1
    return call(self, *args, **kwargs)


async def crossings(application: Any, path: str) -> int:
    async with sync.ThreadSensitiveContext():
        before = workers.stats().submitted + calls_of_the_loop
        response = await HttpCommunicator(application, "GET", path).get_response()
        assert response.status == 200, response
    return workers.stats().submitted + calls_of_the_loop - before


def main() -> None:
    sync.AsyncToSync.__call__ = counting
    django.setup()
    requests, wrong = 0, []
    for size in range(4):
        for names in itertools.product(KINDS, repeat=size):
            with override_settings(MIDDLEWARE=[f"bridged.middlewares.{name}" for name in names]):
                survey, ours, theirs = Survey(), ASGIHandler(), Djangos()
                for is_async, path in PATHS.items():
                    requests += 1
                    said = (
                        survey.taken(is_async).chain.crossings(is_async),
                        survey.djangos(is_async),
                    )
                    seen = tuple(asyncio.run(crossings(each, path)) for each in (ours, theirs))
                    if said != seen:
                        wrong.append({"chain": names, "path": path, "said": said, "seen": seen})
    print(json.dumps({"requests": requests, "wrong": wrong}))


if __name__ == "__main__":
    main()
