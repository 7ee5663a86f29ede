"""One thread tells all clients the same: as server-sent events, and through websockets.

/events, /socket    what is told from now on, until the end; ?pause=SECONDS after each message
/start?messages=N   have the thread tell so many, one every INTERVAL seconds
/figures            how many clients there are, the most items that were kept, who missed some
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from typing import Any
from urllib.parse import parse_qs

from asgibridge.queue import Broadcast

ROOM = 20
INTERVAL = 0.1

broadcast: Broadcast[str] = Broadcast(ROOM, lag="drop_oldest")
figures: dict[str, Any] = {"most": 0, "missed": []}


def tell(messages: int) -> None:
    for number in range(messages):
        broadcast.sync_put(json.dumps([number, time.time()]))
        figures["most"] = max(figures["most"], broadcast.qsize())
        time.sleep(INTERVAL)
    broadcast.shutdown()


def parameter(scope: dict[str, Any], name: str, default: float) -> float:
    found = parse_qs(scope["query_string"].decode()).get(name)
    return float(found[0]) if found else default


async def follow(scope: dict[str, Any], send_message: Any) -> None:
    pause = parameter(scope, "pause", 0)
    async with broadcast.subscribe() as reader:
        async for message in reader:
            await send_message(message)
            if pause:
                await asyncio.sleep(pause)
    if reader.missed:
        figures["missed"].append(reader.missed)


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while True:
            what = (await receive())["type"]
            await send({"type": f"{what}.complete"})
            if what == "lifespan.shutdown":
                return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await follow(scope, lambda text: send({"type": "websocket.send", "text": text}))
        await send({"type": "websocket.close"})
        return
    kind = b"text/event-stream" if scope["path"] == "/events" else b"application/json"
    headers = [(b"content-type", kind)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    body = b""
    if scope["path"] == "/events":
        await follow(
            scope,
            lambda text: send(
                {
                    "type": "http.response.body",
                    "body": f"data: {text}\n\n".encode(),
                    "more_body": True,
                }
            ),
        )
    elif scope["path"] == "/start":
        messages = int(parameter(scope, "messages", 1))
        threading.Thread(target=tell, args=(messages,)).start()
    else:
        body = json.dumps({**figures, "readers": broadcast.readers}).encode()
    await send({"type": "http.response.body", "body": body})
