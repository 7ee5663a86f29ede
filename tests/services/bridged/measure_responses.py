"""How often a request to a sync view goes to the worker, by its response, in JSON."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from typing import Any

from asgiref import sync

from asgibridge import workers
from asgibridge.django import get_asgi_application
from asgibridge.testing import HttpCommunicator

BODY = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nhello\r\n--b--\r\n'
HEADERS = [
    (b"content-type", b"multipart/form-data; boundary=b"),
    (b"content-length", str(len(BODY)).encode()),
]


async def main() -> dict[str, int]:
    application = get_asgi_application()
    logging.disable()
    from bridged.responses import KINDS

    stays = {}
    loop = asyncio.get_running_loop()
    call_soon, has_left = loop.call_soon_threadsafe, threading.Event()

    def call_soon_threadsafe(callback: Any, *args: Any, **context: Any) -> Any:
        handle = call_soon(callback, *args, **context)
        if callback.__name__ == "_begin_to_send":
            assert has_left.wait(10)
        return handle

    loop.call_soon_threadsafe = call_soon_threadsafe
    for kind in KINDS:
        is_post = kind == "uploaded"
        has_left.clear()
        headers = HEADERS if is_post else []
        async with sync.ThreadSensitiveContext():
            before = workers.stats().submitted
            http = HttpCommunicator(
                application,
                "POST" if is_post else "GET",
                f"/{kind}/",
                headers=headers,
                body=BODY if is_post else b"",
            )
            response = await http.get_response()
            # The client leaves before the worker goes on, if that has begun to send.
            ending = asyncio.ensure_future(http.wait())
            for _ in range(10):
                await asyncio.sleep(0)
            has_left.set()
            await ending
        assert response.body == b"hello" or kind in ("JsonResponse", "forbidden", "error"), kind
        stays[kind] = workers.stats().submitted - before
    return stays


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main())))
