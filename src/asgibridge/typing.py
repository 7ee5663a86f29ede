"""Types of the ASGI specification: scopes, events, and the callables that exchange them.

asgiref's names, key by key, and those that it lacks of HTTP & WebSocket 2.5, Lifespan 2.0, TLS 0.2
and the extensions of the ASGI documentation. A key is NotRequired where the specification lets a
server or an application leave it out. A scope describes one connection, a receive event comes from
the server, a send event goes to it. At run time they are plain dicts. `check` applies the rules of
the specification that types cannot express.

No ``from __future__ import annotations`` here: TypedDict must see NotRequired itself, not a string,
to know which keys may be absent. For the same reason the spellings are Python 3.9's.
"""

import sys
from collections.abc import Awaitable, Callable, Iterable
from typing import IO, Any, Literal, Optional, Protocol, Union

from ._asgi.check import ProtocolViolation, check

if sys.version_info >= (3, 11):
    from typing import NotRequired, TypedDict
else:
    # The standard library's TypedDict knows nothing of NotRequired there.
    from typing_extensions import NotRequired, TypedDict

__all__ = [
    "ASGI2Application",
    "ASGI2Protocol",
    "ASGI3Application",
    "ASGIApp",
    "ASGIApplication",
    "ASGIReceiveCallable",
    "ASGIReceiveEvent",
    "ASGISendCallable",
    "ASGISendEvent",
    "ASGIVersions",
    "HTTPDisconnectEvent",
    "HTTPRequestEvent",
    "HTTPResponseBodyEvent",
    "HTTPResponseDebugEvent",
    "HTTPResponseEarlyHintEvent",
    "HTTPResponsePathsendEvent",
    "HTTPResponseStartEvent",
    "HTTPResponseTrailersEvent",
    "HTTPResponseZeroCopySendEvent",
    "HTTPScope",
    "HTTPServerPushEvent",
    "LifespanScope",
    "LifespanShutdownCompleteEvent",
    "LifespanShutdownEvent",
    "LifespanShutdownFailedEvent",
    "LifespanStartupCompleteEvent",
    "LifespanStartupEvent",
    "LifespanStartupFailedEvent",
    "ProtocolViolation",
    "Scope",
    "TLSExtension",
    "WWWScope",
    "WebSocketAcceptEvent",
    "WebSocketCloseEvent",
    "WebSocketConnectEvent",
    "WebSocketDisconnectEvent",
    "WebSocketReceiveEvent",
    "WebSocketResponseBodyEvent",
    "WebSocketResponseStartEvent",
    "WebSocketScope",
    "WebSocketSendEvent",
    "check",
]


def __dir__() -> list[str]:
    return __all__


# Scopes


class ASGIVersions(TypedDict):
    version: Literal["2.0", "3.0"]
    spec_version: NotRequired[str]


class TLSExtension(TypedDict):
    """What ``scope["extensions"]["tls"]`` is, on connections over TLS."""

    server_cert: Optional[str]
    client_cert_chain: NotRequired[Iterable[str]]
    client_cert_name: NotRequired[Optional[str]]
    client_cert_error: NotRequired[Optional[str]]
    tls_version: Optional[int]
    cipher_suite: Optional[int]


class _ConnectionScope(TypedDict):
    asgi: ASGIVersions
    scheme: NotRequired[str]
    path: str
    raw_path: NotRequired[Optional[bytes]]
    root_path: NotRequired[str]
    headers: Iterable[tuple[bytes, bytes]]
    client: NotRequired[Optional[tuple[str, int]]]
    server: NotRequired[Optional[tuple[str, Optional[int]]]]
    state: NotRequired[dict[str, Any]]
    extensions: NotRequired[Optional[dict[str, Any]]]


class HTTPScope(_ConnectionScope):
    type: Literal["http"]
    http_version: str
    method: str
    query_string: bytes


class WebSocketScope(_ConnectionScope):
    type: Literal["websocket"]
    http_version: NotRequired[str]
    query_string: NotRequired[Optional[bytes]]
    subprotocols: NotRequired[Iterable[str]]


class LifespanScope(TypedDict):
    type: Literal["lifespan"]
    asgi: ASGIVersions
    state: NotRequired[dict[str, Any]]


WWWScope = Union[HTTPScope, WebSocketScope]
"""A request's or a websocket's."""
Scope = Union[HTTPScope, WebSocketScope, LifespanScope]
"""Of any kind."""


# HTTP


class HTTPRequestEvent(TypedDict):
    type: Literal["http.request"]
    body: NotRequired[bytes]
    more_body: NotRequired[bool]


class HTTPDisconnectEvent(TypedDict):
    type: Literal["http.disconnect"]


class HTTPResponseStartEvent(TypedDict):
    type: Literal["http.response.start"]
    status: int
    headers: NotRequired[Iterable[tuple[bytes, bytes]]]
    trailers: NotRequired[bool]


class HTTPResponseBodyEvent(TypedDict):
    type: Literal["http.response.body"]
    body: NotRequired[bytes]
    more_body: NotRequired[bool]


class HTTPResponseTrailersEvent(TypedDict):
    type: Literal["http.response.trailers"]
    headers: Iterable[tuple[bytes, bytes]]
    more_trailers: NotRequired[bool]


class HTTPResponsePathsendEvent(TypedDict):
    type: Literal["http.response.pathsend"]
    path: str


class HTTPResponseZeroCopySendEvent(TypedDict):
    type: Literal["http.response.zerocopysend"]
    file: IO[Any]
    offset: NotRequired[int]
    count: NotRequired[int]
    more_body: NotRequired[bool]


class HTTPResponseEarlyHintEvent(TypedDict):
    type: Literal["http.response.early_hint"]
    links: Iterable[bytes]


class HTTPServerPushEvent(TypedDict):
    type: Literal["http.response.push"]
    path: str
    headers: Iterable[tuple[bytes, bytes]]


class HTTPResponseDebugEvent(TypedDict):
    type: Literal["http.response.debug"]
    info: dict[str, Any]


# WebSocket


class WebSocketConnectEvent(TypedDict):
    type: Literal["websocket.connect"]


class WebSocketAcceptEvent(TypedDict):
    type: Literal["websocket.accept"]
    subprotocol: NotRequired[Optional[str]]
    headers: NotRequired[Iterable[tuple[bytes, bytes]]]


class WebSocketReceiveEvent(TypedDict):
    type: Literal["websocket.receive"]
    bytes: NotRequired[Optional[bytes]]
    text: NotRequired[Optional[str]]


class WebSocketSendEvent(TypedDict):
    type: Literal["websocket.send"]
    bytes: NotRequired[Optional[bytes]]
    text: NotRequired[Optional[str]]


class WebSocketDisconnectEvent(TypedDict):
    type: Literal["websocket.disconnect"]
    code: int
    reason: NotRequired[Optional[str]]


class WebSocketCloseEvent(TypedDict):
    type: Literal["websocket.close"]
    code: NotRequired[int]
    reason: NotRequired[Optional[str]]


class WebSocketResponseStartEvent(TypedDict):
    type: Literal["websocket.http.response.start"]
    status: int
    headers: NotRequired[Iterable[tuple[bytes, bytes]]]


class WebSocketResponseBodyEvent(TypedDict):
    type: Literal["websocket.http.response.body"]
    body: NotRequired[bytes]
    more_body: NotRequired[bool]


# Lifespan


class LifespanStartupEvent(TypedDict):
    type: Literal["lifespan.startup"]


class LifespanShutdownEvent(TypedDict):
    type: Literal["lifespan.shutdown"]


class LifespanStartupCompleteEvent(TypedDict):
    type: Literal["lifespan.startup.complete"]


class LifespanStartupFailedEvent(TypedDict):
    type: Literal["lifespan.startup.failed"]
    message: NotRequired[str]


class LifespanShutdownCompleteEvent(TypedDict):
    type: Literal["lifespan.shutdown.complete"]


class LifespanShutdownFailedEvent(TypedDict):
    type: Literal["lifespan.shutdown.failed"]
    message: NotRequired[str]


# Callables


ASGIReceiveEvent = Union[
    HTTPRequestEvent,
    HTTPDisconnectEvent,
    WebSocketConnectEvent,
    WebSocketReceiveEvent,
    WebSocketDisconnectEvent,
    LifespanStartupEvent,
    LifespanShutdownEvent,
]
"""What a server gives an application by ``receive``."""

ASGISendEvent = Union[
    HTTPResponseStartEvent,
    HTTPResponseBodyEvent,
    HTTPResponseTrailersEvent,
    HTTPResponseZeroCopySendEvent,
    HTTPResponsePathsendEvent,
    HTTPResponseEarlyHintEvent,
    HTTPResponseDebugEvent,
    HTTPServerPushEvent,
    WebSocketAcceptEvent,
    WebSocketSendEvent,
    WebSocketResponseStartEvent,
    WebSocketResponseBodyEvent,
    WebSocketCloseEvent,
    LifespanStartupCompleteEvent,
    LifespanStartupFailedEvent,
    LifespanShutdownCompleteEvent,
    LifespanShutdownFailedEvent,
]
"""What an application gives its server by ``send``."""

ASGIReceiveCallable = Callable[[], Awaitable[ASGIReceiveEvent]]
"""``await receive()`` waits for the next event."""
ASGISendCallable = Callable[[ASGISendEvent], Awaitable[None]]
"""``await send(event)`` waits until the server has taken the event."""


class ASGI2Protocol(Protocol):
    """What an ASGI 2 application's class looks like: one instance for each connection."""

    def __init__(self, scope: Scope) -> None: ...

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None: ...


ASGI2Application = type[ASGI2Protocol]
"""Called twice: ``await application(scope)(receive, send)``."""
ASGI3Application = Callable[
    [Scope, ASGIReceiveCallable, ASGISendCallable],
    Awaitable[None],
]
"""Called once: ``await application(scope, receive, send)``."""
ASGIApplication = Union[ASGI2Application, ASGI3Application]
"""Of either kind."""
ASGIApp = ASGIApplication
"""A shorter name of `ASGIApplication`."""
