"""The conversations of HTTP, WebSocket and the lifespan, from the server's side."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from .communicator import ApplicationCommunicator, UnexpectedMessage

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "HttpCommunicator",
    "HttpResponse",
    "LifespanCommunicator",
    "LifespanFailed",
    "WebsocketCommunicator",
]


class LifespanFailed(RuntimeError):
    """The application reported that its startup or shutdown failed, in its words."""

    __module__ = "asgibridge.testing"


Headers = Iterable[tuple[bytes, bytes]]


def _connection_scope(
    type_: str,
    path: str,
    headers: Headers,
    more: dict[str, Any],
) -> dict[str, Any]:
    path, _, query = path.partition("?")
    return {
        "type": type_,
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "path": unquote(path),
        "raw_path": path.encode("ascii"),
        "query_string": query.encode("ascii"),
        "root_path": "",
        "headers": [(bytes(name).lower(), bytes(value)) for name, value in headers],
        "client": ("127.0.0.1", 50000),
        "server": ("testserver", 80),
        **more,
    }


class HttpResponse:
    """What the application answered: ``status``, ``headers`` (pairs of bytes), ``body`` (bytes),
    and ``trailers`` (like the headers)."""

    __module__ = "asgibridge.testing"

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.status = status
        self.headers = headers
        self.body = b""
        self.trailers: list[tuple[bytes, bytes]] = []

    def header(self, name: str) -> str | None:
        """The value of the first header of that name, in whatever case; None if there is none."""
        wanted = name.lower().encode("latin-1")
        for each, value in self.headers:
            if each.lower() == wanted:
                return value.decode("latin-1")
        return None

    @property
    def text(self) -> str:
        """The body, decoded as UTF-8."""
        return self.body.decode()

    def json(self) -> Any:
        """The body, parsed as JSON."""
        return json.loads(self.body)

    def __repr__(self) -> str:
        return f"<HttpResponse {self.status}, {len(self.body)} bytes>"


class HttpCommunicator(ApplicationCommunicator):
    """One HTTP request. ::

        async with HttpCommunicator(application, "POST", "/notes?draft=1", body=b"hello") as http:
            response = await http.get_response()
        assert response.status == 201

    :param path: percent-encoded, with the query if there is one.
    :param body: sent with the first use; None leaves it to `send_body`.
    :param scope: more keys of the scope, or others in place of those made here.
    """

    __module__ = "asgibridge.testing"

    def __init__(
        self,
        application: Callable[..., Any],
        method: str = "GET",
        path: str = "/",
        *,
        body: bytes | None = b"",
        headers: Headers = (),
        **scope: Any,
    ) -> None:
        more = {"method": method.upper(), "scheme": "http", **scope}
        super().__init__(application, _connection_scope("http", path, headers, more))
        self._body = body
        self._is_complete = False

    async def send_body(self, body: bytes, more_body: bool = False) -> None:
        """Sends a piece of the request's body."""
        await self.send_input({"type": "http.request", "body": body, "more_body": more_body})

    async def disconnect(self, timeout: float | None = 1) -> None:
        """Goes away as a client may, waits up to ``timeout`` seconds for the application to end,
        and raises what it raised."""
        if not self.future.done():
            await self.send_input({"type": "http.disconnect"})
        await self.wait(timeout)

    async def start_response(self, timeout: float | None = 1) -> HttpResponse:
        """Sends the body, if it was given, and returns the response's status and headers."""
        if self._body is not None:
            body, self._body = self._body, None
            await self.send_body(body)
        message = await self._receive(timeout, "http.response.start", "http.response.debug")
        if message["type"] == "http.response.debug":
            message = await self._receive(timeout, "http.response.start")
        headers = [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]
        self._response = HttpResponse(message["status"], headers)
        self._has_trailers = message.get("trailers", False)
        return self._response

    async def body_chunks(self, timeout: float | None = 1) -> AsyncIterator[bytes]:
        """The pieces of the response's body as they come, after `start_response`; each is waited
        for up to ``timeout`` seconds. Early hints and pushes are passed over."""
        while not self._is_complete:
            message = await self.receive_output(timeout)
            type_ = message["type"]
            if type_ in ("http.response.push", "http.response.early_hint"):
                continue
            if type_ != "http.response.body":
                raise UnexpectedMessage("http.response.body", message)
            self._is_complete = not message.get("more_body", False)
            if self._is_complete and self._has_trailers:
                await self._receive_trailers(timeout)
            chunk: bytes = message.get("body", b"")
            yield chunk

    async def _receive_trailers(self, timeout: float | None) -> None:
        more = True
        while more:
            message = await self._receive(timeout, "http.response.trailers")
            self._response.trailers += [(bytes(n), bytes(v)) for n, v in message.get("headers", ())]
            more = message.get("more_trailers", False)

    async def get_response(self, timeout: float | None = 1) -> HttpResponse:
        """Sends the body, if it was given, and returns the whole response.

        Each message is waited for up to ``timeout`` seconds, and then the application's end, which
        is told that the client has gone. Raises what the application raised.
        """
        response = await self.start_response(timeout)
        response.body = b"".join([chunk async for chunk in self.body_chunks(timeout)])
        await self.disconnect(timeout)
        return response


class WebsocketCommunicator(ApplicationCommunicator):
    """One WebSocket. ::

        async with WebsocketCommunicator(application, "/chat", subprotocols=["v1"]) as websocket:
            connected, subprotocol = await websocket.connect()
            await websocket.send_json_to({"hello": "world"})
            assert await websocket.receive_json_from() == {"hello": "you"}

    On leaving the block the client disconnects, if it is still connected.

    :param path: percent-encoded, with the query if there is one.
    :param scope: more keys of the scope, or others in place of those made here.
    """

    __module__ = "asgibridge.testing"

    def __init__(
        self,
        application: Callable[..., Any],
        path: str = "/",
        *,
        headers: Headers = (),
        subprotocols: Iterable[str] = (),
        **scope: Any,
    ) -> None:
        more = {"scheme": "ws", "subprotocols": list(subprotocols), **scope}
        super().__init__(application, _connection_scope("websocket", path, headers, more))
        self._is_connected = False
        self.denial: HttpResponse | None = None
        """What the application answered instead, by the extension for that."""

    async def __aexit__(
        self,
        exc: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if value is None and self._is_connected and not self.future.done():
            await self.disconnect()
        await super().__aexit__(exc, value, tb)

    async def connect(self, timeout: float | None = 1) -> tuple[bool, Any]:
        """Opens the connection: True and the subprotocol (or None) if the application accepts it,
        False and the close code if not; then ``denial`` may have a response."""
        await self.send_input({"type": "websocket.connect"})
        message = await self._receive(
            timeout, "websocket.accept", "websocket.close", "websocket.http.response.start"
        )
        if message["type"] == "websocket.accept":
            self._is_connected = True
            return True, message.get("subprotocol")
        if message["type"] == "websocket.http.response.start":
            headers = [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]
            self.denial = HttpResponse(message["status"], headers)
            more = True
            while more:
                body = await self._receive(timeout, "websocket.http.response.body")
                self.denial.body += body.get("body", b"")
                more = body.get("more_body", False)
            message = {}
        return False, message.get("code", 1000)

    async def send_to(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Sends one frame, of text or of bytes."""
        if (text_data is None) == (bytes_data is None):
            raise ValueError("a frame has either text_data or bytes_data")
        if text_data is None:
            await self.send_input({"type": "websocket.receive", "bytes": bytes_data})
        else:
            await self.send_input({"type": "websocket.receive", "text": text_data})

    async def send_json_to(self, data: Any) -> None:
        """Sends ``data`` as JSON, in a frame of text."""
        await self.send_to(text_data=json.dumps(data))

    async def receive_from(self, timeout: float | None = 1) -> str | bytes:
        """Returns what is in the next frame. Raises `UnexpectedMessage` if the application closes
        the connection instead."""
        message = await self._receive(timeout, "websocket.send")
        text: str | None = message.get("text")
        data: bytes | None = message.get("bytes")
        if text is not None:
            return text
        if data is None:
            raise UnexpectedMessage("text or bytes in a websocket.send", message)
        return data

    async def receive_json_from(self, timeout: float | None = 1) -> Any:
        """Returns what is in the next frame, parsed as JSON."""
        return json.loads(await self.receive_from(timeout))

    async def receive_close(self, timeout: float | None = 1) -> int:
        """Waits for the application to close the connection, and returns its code."""
        message = await self._receive(timeout, "websocket.close")
        self._is_connected = False
        code: int = message.get("code", 1000)
        return code

    async def disconnect(
        self, code: int = 1000, timeout: float | None = 1, *, reason: str = ""
    ) -> None:
        """Closes the connection, waits up to ``timeout`` seconds for the application to end, and
        raises what it raised."""
        self._is_connected = False
        if not self.future.done():
            await self.send_input({"type": "websocket.disconnect", "code": code, "reason": reason})
        await self.wait(timeout)


class LifespanCommunicator(ApplicationCommunicator):
    """The application's lifespan: started up on entering the block, shut down on leaving it. ::

        async with LifespanCommunicator(application) as lifespan:
            http = HttpCommunicator(application, state=dict(lifespan.state))

    Raises what the application raises, if it does not support lifespans or fails; `LifespanFailed`
    if it reports a failure.

    :param state: the namespace that the application may fill, a new one by default.
    """

    __module__ = "asgibridge.testing"

    def __init__(
        self, application: Callable[..., Any], state: dict[str, Any] | None = None
    ) -> None:
        self.state: dict[str, Any] = {} if state is None else state
        asgi = {"version": "3.0", "spec_version": "2.0"}
        super().__init__(application, {"type": "lifespan", "asgi": asgi, "state": self.state})

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        try:
            await self.startup()
        except BaseException as error:
            await super().__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    async def __aexit__(
        self,
        exc: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        try:
            self._raise_if_ended_badly()
            await self.shutdown()
        except BaseException as error:
            await super().__aexit__(type(error), error, error.__traceback__)
            if value is None or isinstance(error, asyncio.CancelledError):
                raise
        else:
            await super().__aexit__(exc, value, tb)

    async def startup(self, timeout: float | None = 1) -> None:
        """Has the application start up."""
        await self._phase("startup", timeout)

    async def shutdown(self, timeout: float | None = 1) -> None:
        """Has the application shut down, and waits for its end."""
        await self._phase("shutdown", timeout)
        await self.wait(timeout)

    async def _phase(self, phase: str, timeout: float | None) -> None:
        await self.send_input({"type": f"lifespan.{phase}"})
        complete, failed = f"lifespan.{phase}.complete", f"lifespan.{phase}.failed"
        message = await self._receive(timeout, complete, failed)
        if message["type"] == failed:
            raise LifespanFailed(f"{phase} failed: {message.get('message', '')}")
