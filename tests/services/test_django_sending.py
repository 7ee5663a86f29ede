"""asgibridge.django: a response is sent once, whichever of its two beginnings comes first."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import sites

PROGRAM = """
import asyncio
from asgibridge.django import get_asgi_application
from django.conf import settings
settings.configure(ROOT_URLCONF="__main__", SECRET_KEY="x", ALLOWED_HOSTS=["*"])
application = get_asgi_application()
from django.core.signals import request_finished
from django.http import HttpResponse
from django.urls import path

urlpatterns = [path("", lambda request: HttpResponse("hello"))]
# Somebody listens: the response is handed to the loop before that.
request_finished.connect(lambda **kwargs: None, weak=False)
held, messages = [], []


class Loop(asyncio.SelectorEventLoop):
    # What a worker asks for comes after its outcome: as where one wake-up brings the outcomes of
    # several calls, and has begun before.
    def call_soon_threadsafe(self, callback, *args, **kwargs):
        if getattr(callback, "__module__", "") == "asgibridge.django.handlers":
            held.append((callback, *args))
        else:
            return super().call_soon_threadsafe(callback, *args, **kwargs)


async def send(message):
    messages.append(message["type"])
    while held:
        asyncio.get_running_loop().call_soon(*held.pop())
        held_once.append(True)
    await asyncio.sleep(0)  # as a server that waits for its client
    await asyncio.sleep(0)


async def main():
    received = asyncio.Queue()
    received.put_nowait({"type": "http.request", "body": b"", "more_body": False})
    scope = {
        "type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": [],
        "asgi": {"version": "3.0"},
    }
    await asyncio.wait_for(application(scope, received.get, send), 30)


held_once = []
loop = Loop()
loop.run_until_complete(main())
loop.close()
print(bool(held_once), *messages)
"""


@pytest.mark.parametrize("kernel", [sites.COMPILED, sites.PURE], ids=str)
def test_an_outcome_that_overtakes_the_beginning_is_not_sent_twice(
    kernel: sites.Implementation,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, **kernel.environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "http.response.start", "http.response.body"]
