"""How often a request to a sync view goes to the worker, by its response, in JSON."""

from __future__ import annotations

import asyncio
import json
import logging

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
    for kind in KINDS:
        is_post = kind == "uploaded"
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
            await http.wait()
        assert response.body == b"hello" or kind in ("JsonResponse", "forbidden", "error"), kind
        stays[kind] = workers.stats().submitted - before
    return stays


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main())))
