"""What docs/django.md says is different from Django's own handler, in JSON, for the one named."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from typing import Any

import django
from asgiref import sync


async def ask(application: Any, path: str) -> bool:
    """Make a request, and return whether the task that made it ran the async view."""
    from bridged.seen import notes

    parts: list[Any] = [{"type": "http.request", "body": b"a=1"}]

    async def receive() -> Any:
        return parts.pop() if parts else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            notes["order"].append("sent")

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"content-length", b"3")],
    }
    async with sync.ThreadSensitiveContext():
        await application(scope, receive, send)
    return notes["task"][-1:] == [asyncio.current_task()]


async def main(whose: str) -> dict[str, Any]:
    if whose == "django":
        from django.core.handlers.asgi import ASGIHandler
    else:
        from asgibridge.django import ASGIHandler

    django.setup()
    logging.disable()
    from bridged.seen import notes

    class Handler(ASGIHandler):
        def create_request(self, scope: Any, body_file: Any) -> Any:
            notes["create_request"].append(asyncio._get_running_loop() is not None)
            return super().create_request(scope, body_file)

    handler = Handler()
    await ask(handler, "/")
    order = list(notes["order"])
    await ask(handler, "/failing/")
    is_servers_task = await ask(handler, "/async/")
    await ask(handler, "/1/")
    converted = len(notes["converted"])
    await ask(handler, "/1/")
    return {
        "instances": sorted(notes["instances"]),
        "order": order,
        "caches": notes["caches"][:1],
        "body": notes["body"][0],
        "handler500 on the request's worker": notes["handler500"] == notes["failing"],
        "create_request on the loop": notes["create_request"][0],
        "the server's own task answers": is_servers_task,
        "converted": [converted, len(notes["converted"]) - converted],
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1]))))
