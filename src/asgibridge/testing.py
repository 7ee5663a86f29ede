"""Talks to an ASGI application as a server would, for tests.

`ApplicationCommunicator` passes any message; `HttpCommunicator`, `WebsocketCommunicator` and
`LifespanCommunicator` hold the conversations that tests would otherwise write out.

A communicator owns a task that runs the application, and a queue for each direction. It can be made
where there is no event loop: the task starts at first use, and from then on the communicator
belongs to the loop that runs then, and to that loop's thread.

A communicator cancels its application when a wait for it runs out of time (unless told not to) or
is itself cancelled, in ``stop()``, at the end of an ``async with`` block, and when the communicator
is garbage. It keeps the reason, for the error of a later call. It never cancels the caller's task.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import re
import string
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Union
from urllib.parse import quote, unquote, urlsplit

from ._process.deadline import Deadline, TimedOut
from .compatibility import guarantee_single_callable
from .queue import MessageQueue

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "ApplicationCommunicator",
    "ApplicationStopped",
    "HttpCommunicator",
    "HttpResponse",
    "LifespanCommunicator",
    "LifespanFailed",
    "UnexpectedMessage",
    "WebsocketCommunicator",
]


def __dir__() -> list[str]:
    return __all__


Text = Union[bytes, str]
Headers = Union[Mapping[str, Text], Mapping[bytes, Text], Iterable[tuple[Text, Text]], None]


class LifespanFailed(RuntimeError):
    """The application reported that its startup or shutdown failed, in its words."""


class ApplicationStopped(asyncio.CancelledError, RuntimeError):
    """There is nobody to talk to any more: the application was cancelled. Says why.

    A CancelledError, because that is what asgiref raises. It does not mean that the task which
    raises it was cancelled.
    """


class UnexpectedMessage(AssertionError):
    """The application sent something that does not belong there: ``message``."""

    def __init__(self, expected: str, message: Any) -> None:
        super().__init__(f"expected {expected} from the application, not {message!r}")
        self.message = message


class ApplicationCommunicator:
    """The server's side of one connection to ``application``, an ASGI 2 or 3 one.

    The application starts with the first use of ``future``, which all methods but ``stop`` make.
    ``scope`` and messages are not checked. Once the application has raised, sending and receiving
    raise its exception, even if messages from before it are unread; once it was cancelled, they
    raise `ApplicationStopped`.

    ``async with`` starts the application and at the end of the block cancels it if it still runs,
    waits for it, and raises what it raised, unless the block itself has raised.
    """

    cancel_on_timeout = True
    """Whether `receive_output` cancels the application when its time is up, if not told."""

    patience = 10.0
    """Seconds that a cancelled application is given to end; then RuntimeError."""

    input_queue: MessageQueue[Any]
    """What the application's ``receive()`` takes from."""

    output_queue: MessageQueue[Any]
    """What the application's ``send()`` puts into."""

    _future: asyncio.Task[Any] | None = None  # for __del__, if __init__ raises

    def __init__(self, application: Callable[..., Any], scope: Any) -> None:
        self.application = guarantee_single_callable(application)
        self.scope = scope
        self.input_queue = MessageQueue()
        self.output_queue = MessageQueue()
        self._why_stopped: str | None = None

    @property
    def future(self) -> asyncio.Task[Any]:
        """The application's task, started by the first look at it.

        It runs in an empty context, as under a server: test and application do not see each
        other's context variables.
        """
        if self._future is None:
            conversation = self.application(self.scope, self.input_queue.get, self.output_queue.put)
            self._future = contextvars.Context().run(asyncio.create_task, conversation)
        return self._future

    async def __aenter__(self) -> Self:
        self.future  # noqa: B018 - starts it
        return self

    async def __aexit__(self, exc: object, value: object, tb: object) -> None:
        future = self.future
        if not future.done():
            await self._cancel("at the end of its `async with` block")
        if value is None and not future.cancelled():
            future.result()

    async def wait(self, timeout: float | None = 1) -> None:
        """Waits up to ``timeout`` seconds (None: without limit) for the application to end.

        Cancels it after that time; that is no error. Raises what the application raised;
        RuntimeError if it does not end when it is cancelled.
        """
        future = self.future
        try:
            if not future.done():
                await asyncio.wait({future}, timeout=timeout)
        finally:
            if not future.done():
                await self._cancel(f"when wait() had waited {timeout} s for it to end")
        if not future.cancelled():
            future.result()

    def stop(self, exceptions: bool = True) -> None:
        """Cancels the application if it is running, without waiting for it.

        If it has ended, raises what it raised, unless ``exceptions`` is false; of one that was
        cancelled, CancelledError. Does nothing if it was never started.
        """
        future = self._future
        if future is None:
            return
        if not future.done():
            self._why_stopped = "by stop()"
            future.cancel()
        elif exceptions:
            future.result()

    def __del__(self) -> None:
        try:
            self.stop(exceptions=False)
        except RuntimeError:
            pass  # The loop is closed, so the application does not run on anyway.

    async def _cancel(self, why: str) -> None:
        # Waits for the end, which may be an exception.
        future = self.future
        self._why_stopped = why
        future.cancel()
        await asyncio.wait({future}, timeout=self.patience)
        if not future.done():
            raise RuntimeError(
                f"the application was cancelled {why}, and still runs {self.patience} s later: "
                "does it swallow CancelledError?"
            )

    def _raise_if_ended_badly(self) -> None:
        future = self.future
        if future.cancelled():
            why = self._why_stopped or "by itself or by something else than this communicator"
            raise ApplicationStopped(f"the application was cancelled {why}")
        if future.done():
            future.result()

    async def send_input(self, message: Any) -> None:
        """Gives the application's ``receive()`` a message.

        Raises what the application raised if it has ended so, `ApplicationStopped` if it was
        cancelled.
        """
        self._raise_if_ended_badly()
        await self.input_queue.put(message)

    async def receive_output(
        self, timeout: float | None = 1, *, cancel_on_timeout: bool | None = None
    ) -> Any:
        """Returns the next message the application sent, waiting up to ``timeout`` seconds.

        If none comes, the application is cancelled and TimeoutError raised (before Python 3.11 it
        is an ``asyncio.TimeoutError`` too). Raises the application's own exception instead as soon
        as it has raised one, `ApplicationStopped` if it was cancelled earlier. With ``timeout``
        None, an application that has ended is a time-out too.

        :param cancel_on_timeout: False leaves the application running, to be asked again; None
            does what the attribute of this name says.
        """
        self._raise_if_ended_badly()
        queue = self.output_queue
        future = self.future
        # Most answers come within a few turns of the loop (five is arbitrary), and need no time
        # limit to be set up.
        if timeout is None or timeout > 0:
            for _ in range(5):
                if not queue.empty():
                    return queue.get_nowait()
                await asyncio.sleep(0)
                if future.done():
                    self._raise_if_ended_badly()
        deadline = Deadline(timeout, asyncio.get_running_loop())

        def ended(future: asyncio.Future[Any]) -> None:
            if timeout is None or future.cancelled() or future.exception() is not None:
                deadline.expire()

        try:
            async with deadline:
                future.add_done_callback(ended)
                try:
                    return await queue.get()
                finally:
                    future.remove_done_callback(ended)
        except TimedOut:
            if future.done():
                self._raise_if_ended_badly()
                raise TimedOut("the application has ended without sending anything more") from None
            if self.cancel_on_timeout if cancel_on_timeout is None else cancel_on_timeout:
                await self._cancel(f"when receive_output() had waited {timeout} s for a message")
                if not future.cancelled():
                    future.result()
            raise TimedOut(f"the application sent nothing within {timeout} s") from None

    async def receive_nothing(self, timeout: float = 0.1, interval: float = 0.01) -> bool:
        """Whether the application sends nothing for ``timeout`` seconds.

        Looks every ``interval`` seconds, even if that is longer than ``timeout``, and takes no
        message away. Raises as ``send_input`` does.
        """
        self._raise_if_ended_badly()
        give_up_at = time.monotonic() + timeout
        while self.output_queue.empty() and time.monotonic() < give_up_at:
            await asyncio.sleep(interval)
        return self.output_queue.empty()

    async def _receive(self, timeout: float | None, *expected: str) -> Any:
        message = await self.receive_output(timeout)
        if message["type"] not in expected:
            raise UnexpectedMessage(" or ".join(expected), message)
        return message


_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}

_is_method = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch  # RFC 9110, 9.1

# Not of a scope's: what other test clients call it.
_SAID_OTHERWISE = {
    "auth": "headers={'authorization': ...}",
    "content": "body=...",
    "content_type": "headers={'content-type': ...}",
    "cookies": "headers={'cookie': ...}",
    "data": "body=...",
    "files": "body=...",
    "params": "path='/...?name=value'",
    "query_params": "path='/...?name=value'",
    "timeout": "timeout= to the method that waits",
    "url": "path=...",
}


def _connection_scope(
    type_: str, path: str, headers: Headers, defaults: dict[str, Any], more: dict[str, Any]
) -> dict[str, Any]:
    for name in more:
        instead = "headers={...}" if name.startswith("HTTP_") else _SAID_OTHERWISE.get(name)
        if instead is not None:
            raise TypeError(f"{name}= is no key of an ASGI scope: give {instead}")
    if not isinstance(path, str):
        raise TypeError(f"path={path!r}: must be a str, percent-encoded")
    pairs = _pairs(headers)
    scheme: str = defaults["scheme"]
    server = ("testserver", 80)
    if re.match("[A-Za-z]+://", path):
        # A client connects there, and names it (RFC 9112, 3.2).
        url = urlsplit(path)
        if url.scheme not in (scheme, f"{scheme}s") or not url.hostname:
            raise ValueError(f"path={path!r}: must be a path, or a URL with {scheme}:// and a host")
        scheme = url.scheme
        server = (url.hostname, url.port or _PORTS[scheme])
        if all(name != b"host" for name, _ in pairs):
            pairs.insert(0, (b"host", url.netloc.rpartition("@")[2].encode("idna")))
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    path, _, query = path.partition("#")[0].partition("?")
    if not path.startswith("/") and path != "*":
        raise ValueError(f"path={path!r}: must begin with '/'")
    # As a browser does: what a URL cannot have is percent-encoded.
    path, query = quote(path, string.punctuation), quote(query, string.punctuation)
    return {
        "type": type_,
        # By 2.4 ``send`` would raise OSError after a disconnect, and nobody would have to listen.
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "path": unquote(path),
        "raw_path": path.encode("ascii"),
        "query_string": query.encode("ascii"),
        "root_path": "",
        "headers": pairs,
        "client": ("127.0.0.1", 50000),
        "server": server,
        **defaults,
        "scheme": scheme,
        **more,
    }


def _pairs(headers: Headers) -> list[tuple[bytes, bytes]]:
    pairs = []
    try:
        items: Any = headers.items() if isinstance(headers, Mapping) else headers or ()
        for name, value in items:
            pairs.append((_latin(name).lower(), _latin(value)))
    except (TypeError, ValueError) as error:
        raise TypeError(
            "headers must be a dict, or pairs, of names and values, which are bytes or str of "
            f"latin-1, not {headers!r:.200}"
        ) from error
    return pairs


def _latin(text: Any) -> bytes:
    if isinstance(text, str):
        return text.encode("latin-1")
    return bytes(memoryview(text))  # TypeError for an int, of which bytes() makes so many zeros


def _body(body: Any) -> bytes:
    if isinstance(body, str):
        return body.encode()
    try:
        return bytes(memoryview(body))
    except TypeError:
        raise TypeError(
            f"body={body!r:.80}: must be bytes or a str; json= takes what is to be sent as JSON"
        ) from None


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _headers_of(message: Any) -> list[tuple[bytes, bytes]]:
    return [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]


class HttpResponse:
    """A response: ``status``, ``headers`` and ``trailers`` (pairs of bytes), ``body`` (bytes)."""

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

    On leaving the block the client disconnects.

    :param path: percent-encoded, with the query if there is one. Or a whole URL: then scheme,
        ``server`` and the header ``host`` are those of the URL.
    :param body: bytes, or a str, sent as UTF-8, with the first use; None leaves it to `send_body`.
    :param json: sent as JSON in place of ``body``, with its content-type, if it is not None.
    :param headers: a dict, or pairs; names and values are bytes, or str of latin-1.
    :param scope: more keys of the scope, or others in place of those made here.
    """

    def __init__(
        self,
        application: Callable[..., Any],
        method: str = "GET",
        path: str = "/",
        *,
        body: Text | None = b"",
        json: Any = None,
        headers: Headers = (),
        **scope: Any,
    ) -> None:
        if not isinstance(method, str) or not _is_method(method):
            raise ValueError(
                f"method={method!r}: must be a method such as 'GET'; the path comes after it"
            )
        defaults = {"method": method.upper(), "scheme": "http"}
        made = _connection_scope("http", path, headers, defaults, scope)
        if json is not None:
            if body:
                raise TypeError("a request has a body= or json=, not both")
            body = _json(json)
            if all(name != b"content-type" for name, _ in made["headers"]):
                made["headers"].append((b"content-type", b"application/json"))
        self._body = None if body is None else _body(body)
        super().__init__(application, made)
        self._is_complete = False

    async def __aexit__(self, exc: object, value: object, tb: object) -> None:
        if value is None and not self.future.done():
            await self.disconnect()
        await super().__aexit__(exc, value, tb)

    async def send_body(self, body: Text, more_body: bool = False) -> None:
        """Sends a piece of the request's body, of bytes or a str, sent as UTF-8."""
        message = {"type": "http.request", "body": _body(body), "more_body": more_body}
        await self.send_input(message)

    async def disconnect(self, timeout: float | None = 1) -> None:
        """Closes the connection, waits up to ``timeout`` seconds for the application to end, and
        raises what it raised."""
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
        self._response = HttpResponse(message["status"], _headers_of(message))
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
            more = self._is_complete and self._has_trailers
            while more:
                trailers = await self._receive(timeout, "http.response.trailers")
                self._response.trailers += _headers_of(trailers)
                more = trailers.get("more_trailers", False)
            yield message.get("body", b"")

    async def get_response(self, timeout: float | None = 1) -> HttpResponse:
        """Sends the body, if it was given, and returns the whole response.

        Waits up to ``timeout`` seconds for each message, then tells the application that the client
        has gone, and waits for its end. Raises what the application raised.
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

    On leaving the block the client disconnects. RuntimeError if it has never connected, as of all
    that comes after `connect`.

    :param path: percent-encoded, with the query if there is one. Or a whole URL: then scheme,
        ``server`` and the header ``host`` are those of the URL.
    :param headers: a dict, or pairs; names and values are bytes, or str of latin-1.
    :param scope: more keys of the scope, or others in place of those made here.
    """

    def __init__(
        self,
        application: Callable[..., Any],
        path: str = "/",
        *,
        headers: Headers = (),
        subprotocols: Iterable[str] = (),
        **scope: Any,
    ) -> None:
        if isinstance(subprotocols, str):
            raise TypeError(f"subprotocols={subprotocols!r}: must be a list of str")
        defaults = {"scheme": "ws", "subprotocols": list(subprotocols)}
        super().__init__(
            application, _connection_scope("websocket", path, headers, defaults, scope)
        )
        self._has_asked = False  # the application, to connect
        self._is_over = False
        self.denial: HttpResponse | None = None
        """The response with which the application refused the connection, if any."""

    async def __aexit__(self, exc: object, value: object, tb: object) -> None:
        if value is None and self._has_asked and not self.future.done():
            await self.disconnect()
        await super().__aexit__(exc, value, tb)
        if value is None:
            self._must_have_asked()

    def _must_have_asked(self) -> None:
        if not self._has_asked:
            raise RuntimeError(
                "connect() has not been called: the application knows of no connection"
            )

    async def send_input(self, message: Any) -> None:
        """Gives the application's ``receive()`` a message; as `ApplicationCommunicator` does."""
        await super().send_input(message)
        if isinstance(message, dict) and message.get("type") == "websocket.connect":
            self._has_asked = True

    async def connect(self, timeout: float | None = 1) -> tuple[bool, Any]:
        """Opens the connection: True and the subprotocol (or None) if the application accepts it,
        False and the close code if not; then ``denial`` may have a response."""
        await self.send_input({"type": "websocket.connect"})
        message = await self._receive(
            timeout, "websocket.accept", "websocket.close", "websocket.http.response.start"
        )
        if message["type"] == "websocket.accept":
            return True, message.get("subprotocol")
        if message["type"] == "websocket.http.response.start":
            self.denial = HttpResponse(message["status"], _headers_of(message))
            more = True
            while more:
                body = await self._receive(timeout, "websocket.http.response.body")
                self.denial.body += body.get("body", b"")
                more = body.get("more_body", False)
            message = {}
        self._is_over = True
        return False, message.get("code", 1000)

    async def send_to(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Sends one frame, of text or of bytes."""
        if (text_data is None) == (bytes_data is None):
            raise ValueError("a frame has either text_data or bytes_data")
        self._must_have_asked()
        if self._is_over:
            raise RuntimeError("the connection is closed, or was refused: nothing can be sent")
        data = {"bytes": bytes_data} if text_data is None else {"text": text_data}
        await self.send_input({"type": "websocket.receive", **data})

    async def send_json_to(self, data: Any) -> None:
        """Sends ``data`` as JSON, in a frame of text."""
        await self.send_to(text_data=json.dumps(data))

    async def receive_from(self, timeout: float | None = 1) -> str | bytes:
        """Returns what is in the next frame. Raises `UnexpectedMessage` if the application closes
        the connection instead."""
        self._must_have_asked()
        message = await self._receive(timeout, "websocket.send")
        text: str | None = message.get("text")
        data: str | bytes | None = message.get("bytes") if text is None else text
        if data is None:
            raise UnexpectedMessage("text or bytes in a websocket.send", message)
        return data

    async def receive_json_from(self, timeout: float | None = 1) -> Any:
        """Returns what is in the next frame, parsed as JSON."""
        return json.loads(await self.receive_from(timeout))

    async def receive_close(self, timeout: float | None = 1) -> int:
        """Waits for the application to close the connection, and returns its code."""
        self._must_have_asked()
        message = await self._receive(timeout, "websocket.close")
        self._is_over = True
        code: int = message.get("code", 1000)
        return code

    async def disconnect(
        self, code: int = 1000, timeout: float | None = 1, *, reason: str = ""
    ) -> None:
        """Closes the connection, waits up to ``timeout`` seconds for the application to end, and
        raises what it raised."""
        self._must_have_asked()
        self._is_over = True
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

    async def __aexit__(self, exc: object, value: object, tb: object) -> None:
        try:
            self._raise_if_ended_badly()
            await self.shutdown()
        except BaseException as error:
            await super().__aexit__(type(error), error, error.__traceback__)
            is_own = isinstance(error, asyncio.CancelledError) and not isinstance(
                error, ApplicationStopped
            )
            if value is None or is_own:
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
