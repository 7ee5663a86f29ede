"""Applications that the type checkers must accept. Never run; see test_typed_applications.py."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from typing import Any

from asgibridge.iterators import (
    async_to_sync_context_manager,
    async_to_sync_iterator,
    sync_to_async_context_manager,
    sync_to_async_iterator,
)
from asgibridge.typing import (
    ASGI3Application,
    ASGIApplication,
    ASGIReceiveCallable,
    ASGIReceiveEvent,
    ASGISendCallable,
    HTTPResponseStartEvent,
    HTTPScope,
    LifespanScope,
    Scope,
    TLSExtension,
    WebSocketScope,
    check,
)


async def http(scope: HTTPScope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    body = b""
    while True:
        event = await receive()
        if event["type"] == "http.request":
            body += event.get("body", b"")
            if not event.get("more_body", False):
                break
        elif event["type"] == "http.disconnect":
            return
    name: bytes = next((value for key, value in scope["headers"] if key == b"x-name"), b"")
    client = scope.get("client")
    port: int = client[1] if client is not None else 0
    extensions = scope.get("extensions") or {}
    if "tls" in extensions:
        tls: TLSExtension = extensions["tls"]
        version: int | None = tls["tls_version"]
        chain = list(tls.get("client_cert_chain", ()))
        print(version, chain, port, scope.get("scheme", "http"), scope["method"].lower())
    if "http.response.debug" in extensions:
        await send({"type": "http.response.debug", "info": {"template": "page.html"}})
    await send({"type": "http.response.start", "status": 200})
    if "http.response.early_hint" in extensions:
        await send({"type": "http.response.early_hint", "links": [b"</style.css>; rel=preload"]})
    if "http.response.push" in extensions:
        await send({"type": "http.response.push", "path": "/style.css", "headers": []})
    await send({"type": "http.response.body", "body": name, "more_body": True})
    if "http.response.zerocopysend" in extensions:
        with open("file", "rb") as file:
            await send({"type": "http.response.zerocopysend", "file": file, "offset": 3})
    elif "http.response.pathsend" in extensions:
        await send({"type": "http.response.pathsend", "path": "/file"})
    else:
        await send({"type": "http.response.body"})


async def with_trailers(scope: HTTPScope, send: ASGISendCallable) -> None:
    start: HTTPResponseStartEvent = {
        "type": "http.response.start",
        "status": 200,
        "headers": [(b"trailer", b"x-sum")],
        "trailers": True,
    }
    await send(start)
    await send({"type": "http.response.body", "body": b"all"})
    await send({"type": "http.response.trailers", "headers": [(b"x-sum", b"1")]})


async def websocket(
    scope: WebSocketScope, receive: ASGIReceiveCallable, send: ASGISendCallable
) -> None:
    if "v1" not in scope.get("subprotocols", ()):
        await send({"type": "websocket.http.response.start", "status": 400, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"v1 only"})
        return
    await send({"type": "websocket.accept", "subprotocol": "v1"})
    while True:
        event = await receive()
        if event["type"] == "websocket.disconnect":
            print(event["code"], event.get("reason"))
            return
        if event["type"] == "websocket.receive":
            text = event.get("text")
            if text is not None:
                await send({"type": "websocket.send", "text": text.upper()})
            else:
                await send({"type": "websocket.close", "code": 1003, "reason": "text only"})


async def lifespan(
    scope: LifespanScope, receive: ASGIReceiveCallable, send: ASGISendCallable
) -> None:
    if "state" in scope:
        scope["state"]["pool"] = object()
    while True:
        event: ASGIReceiveEvent = await receive()
        if event["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif event["type"] == "lifespan.shutdown":
            await send({"type": "lifespan.shutdown.failed", "message": "too late"})
            return


async def application(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    if scope["type"] == "http":
        await http(scope, receive, send)
    elif scope["type"] == "websocket":
        await websocket(scope, receive, send)
    else:
        await lifespan(scope, receive, send)


asgi3: ASGI3Application = application
either: ASGIApplication = application
checked: ASGI3Application = check(application)


class Legacy:
    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await send({"type": "http.response.start", "status": 204})


asgi2: ASGIApplication = Legacy


# Iterators and context managers keep what they give.


@sync_to_async_iterator
def rows(n: int, *, table: str) -> Iterator[str]:
    yield table * n


@async_to_sync_iterator(max_size=3)
async def pages(n: int) -> AsyncIterator[bytes]:
    yield b"" * n


@sync_to_async_context_manager(thread_sensitive=False)
@contextlib.contextmanager
def transaction(name: str) -> Generator[int, None, None]:
    yield len(name)


@async_to_sync_context_manager
@contextlib.asynccontextmanager
async def session(name: str) -> AsyncGenerator[list[str], None]:
    yield [name]


async def use() -> list[str]:
    found: list[str] = [row async for row in rows(3, table="t")]
    async for number in sync_to_async_iterator([1, 2]):
        found.append("x" * number)
    async with transaction("name") as length:
        found.append("y" * length)
    async with sync_to_async_context_manager(open("file")) as file:
        found.append(file.read())
    return found


def use_here() -> dict[str, Any]:
    chunks: list[bytes] = list(pages(2))
    with session("name") as names:
        return dict.fromkeys(names, chunks)
