"""Applications that the type checkers must refuse at each line marked ``# error``. Never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from asgibridge.iterators import async_to_sync_iterator, sync_to_async_iterator
from asgibridge.typing import (
    ASGI3Application,
    ASGIReceiveCallable,
    ASGISendCallable,
    HTTPRequestEvent,
    HTTPResponseStartEvent,
    HTTPScope,
    Scope,
    TLSExtension,
    WebSocketCloseEvent,
    check,
)

no_status: HTTPResponseStartEvent = {"type": "http.response.start"}  # error
wrong_type: HTTPRequestEvent = {"type": "http.response.body"}  # error
text_body: HTTPRequestEvent = {"type": "http.request", "body": "text"}  # error
text_status: HTTPResponseStartEvent = {"type": "http.response.start", "status": "200"}  # error
unknown_key: WebSocketCloseEvent = {"type": "websocket.close", "why": "bored"}  # error
no_cipher: TLSExtension = {"server_cert": None, "tls_version": 0x304}  # error


async def sends(scope: HTTPScope, send: ASGISendCallable) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": {"a": "b"}})  # error
    await send({"type": "http.response.body", "body": None})  # error
    await send({"type": "http.disconnect"})  # error
    await send({"type": "http.response.trailers"})  # error
    await send({"type": "http.response.early_hint", "links": ["text"]})  # error
    await send({"type": "websocket.accept", "subprotocol": b"bytes"})  # error
    await send({"type": "lifespan.startup.failed", "message": 3})  # error
    await send("http.response.body")  # error
    method: bytes = scope["method"]  # error
    host: str = dict(scope["headers"])[b"host"]  # error
    print(method, host)
    print(scope["subprotocols"])  # error


async def receives(receive: ASGIReceiveCallable) -> int:
    event = await receive()
    if event["type"] == "http.request":
        more: bytes = event.get("more_body", False)  # error
        print(more)
        return event.get("body", b"")  # error
    if event["type"] == "websocket.disconnect":
        return event["code"]
    return len(event["text"])  # error


async def two_arguments(scope: Scope, receive: ASGIReceiveCallable) -> None: ...


def not_async(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None: ...


asgi3: ASGI3Application = two_arguments  # error
sync: ASGI3Application = not_async  # error
checked: int = check(two_arguments)  # error


@sync_to_async_iterator
def rows(n: int) -> Iterator[str]:
    yield "row" * n


async def anumbers() -> AsyncIterator[int]:
    yield 1


async def use() -> None:
    numbers: list[int] = [row async for row in rows(3)]  # error
    rows("three")  # error
    for row in rows(3):  # error
        print(numbers)
    sync_to_async_iterator(anumbers())  # error
    async_to_sync_iterator([1, 2])  # error
