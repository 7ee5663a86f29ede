"""``WsgiToAsgi``: serves a WSGI application (PEP 3333) as an ASGI one.

One ``WsgiToAsgiInstance`` handles one request. On the event loop it collects the whole request
body, in memory up to 64 KiB and in a temporary file beyond; then ``run_wsgi_app`` runs the
application on ``sync_to_async``'s thread-sensitive thread, from where each message goes out by one
``AsyncToSync`` call, in order, the next chunk being asked for when the last was sent.

What the application raises goes on to the server. The application's iterable is closed whatever
happens (PEP 3333, "the close() method"). A client that leaves before its request is complete ends
the matter: the application is not called.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING, Any

from .sync import AsyncToSync, sync_to_async

if TYPE_CHECKING:
    from types import TracebackType

    ExcInfo = tuple[type[BaseException], BaseException, TracebackType]

__all__ = ["WsgiToAsgi", "WsgiToAsgiInstance"]


class WsgiToAsgi:
    """The ASGI application that answers HTTP requests with ``wsgi_application``.

    A request in which a header is repeated more than ``duplicate_header_limit`` times is answered
    with 400 (CVE-2025-14550: joining them costs time by the square); None or 0 sets no limit. Other
    scopes than HTTP raise ValueError.
    """

    def __init__(
        self, wsgi_application: Callable[..., Any], duplicate_header_limit: int | None = 100
    ) -> None:
        self.wsgi_application = wsgi_application
        self.duplicate_header_limit = duplicate_header_limit

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handles one connection, on the event loop it is awaited on."""
        instance = WsgiToAsgiInstance(self.wsgi_application, self.duplicate_header_limit)
        await instance(scope, receive, send)


class WsgiToAsgiInstance:
    """One request to a WSGI application; not to be used for a second one."""

    def __init__(
        self, wsgi_application: Callable[..., Any], duplicate_header_limit: int | None = 100
    ) -> None:
        self.wsgi_application = wsgi_application
        self.duplicate_header_limit = duplicate_header_limit
        # What start_response() was told, and whether that has gone out already.
        self.response_start: dict[str, Any] | None = None
        self.response_started = False
        self.response_content_length: int | None = None
        self.response_bytes_sent = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Reads the request body on the event loop, then answers from the thread."""
        if scope["type"] != "http":
            raise ValueError(
                f"WsgiToAsgi serves HTTP only, and got a scope of type {scope['type']!r}: "
                "route other protocols elsewhere"
            )
        self.scope = scope
        with SpooledTemporaryFile(max_size=65536) as body:
            more_body = True
            while more_body:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                if message["type"] != "http.request":
                    raise ValueError(
                        f"WsgiToAsgi expected http.request messages and got {message['type']!r}"
                    )
                body.write(message.get("body", b""))
                more_body = message.get("more_body", False)
            body.seek(0)
            self.sync_send = AsyncToSync(send)
            await self.run_wsgi_app(body)

    # From here on everything runs on the application's thread.

    def build_environ(self, scope: Any, body: Any) -> dict[str, Any]:
        """The WSGI environ for an HTTP scope and a file with the request body.

        Raises ValueError if a header is repeated more often than allowed.
        """
        # WSGI's strings are bytes in disguise, latin-1, where ASGI's paths are decoded UTF-8.
        script_name = scope.get("root_path", "").encode("utf8").decode("latin1")
        path_info = scope["path"].encode("utf8").decode("latin1")
        if path_info.startswith(script_name):
            path_info = path_info[len(script_name) :]
        # ASGI servers may not know their address, nor have a port; WSGI demands both.
        server_name, server_port = scope.get("server") or ("localhost", 80)
        environ: dict[str, Any] = {
            "REQUEST_METHOD": scope["method"],
            "SCRIPT_NAME": script_name,
            "PATH_INFO": path_info,
            "QUERY_STRING": scope["query_string"].decode("latin1"),
            "SERVER_NAME": server_name,
            "SERVER_PORT": str(server_port or 0),
            "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": scope.get("scheme", "http"),
            "wsgi.input": body,
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
        }
        if scope.get("client") is not None:
            environ["REMOTE_ADDR"] = scope["client"][0]
        environ.update(self._header_entries(scope.get("headers", [])))
        return environ

    def _header_entries(self, headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
        limit = self.duplicate_header_limit
        entries: dict[str, list[str]] = defaultdict(list)
        for raw_name, raw_value in headers:
            # Decided before "-" becomes "_", or a header "content_length" would pass for one.
            prefix = "" if raw_name in (b"content-length", b"content-type") else "HTTP_"
            name = prefix + raw_name.decode("latin1").upper().replace("-", "_")
            values = entries[name]
            if limit and len(values) >= limit:
                raise ValueError(f"header {name} is repeated more than {limit} times")
            values.append(raw_value.decode("latin1"))
        return {
            # HTTP/2 clients send cookies one by one, to be joined so (RFC 9113, 8.2.3).
            name: ("; " if name == "HTTP_COOKIE" else ",").join(values)
            for name, values in entries.items()
        }

    def start_response(
        self,
        status: str,
        response_headers: Iterable[tuple[str, str]],
        exc_info: ExcInfo | None = None,
    ) -> Callable[[bytes], None]:
        """PEP 3333's ``start_response()``: keeps status and headers until the first chunk.

        A second call needs ``exc_info`` and replaces what the first said; once that has gone out it
        raises the exception in ``exc_info`` instead. Returns ``write()``. Raises ValueError
        for a second call without ``exc_info`` and for a status that does not start with a number.
        """
        try:
            if exc_info is None:
                if self.response_start is not None:
                    raise ValueError(
                        "start_response() was called a second time: that is allowed only while "
                        "handling an error, with exc_info=sys.exc_info()"
                    )
            elif self.response_started:
                raise exc_info[1].with_traceback(exc_info[2])
        finally:
            # The traceback refers to this frame.
            exc_info = None
        code = status.split(" ", 1)[0]
        if not code.isdecimal():
            raise ValueError(
                f"start_response() needs a status like '200 OK' and was given {status!r}"
            )
        headers = []
        content_length = None
        for name, value in response_headers:
            headers.append((name.lower().encode("ascii"), value.encode("latin1")))
            if name.lower() == "content-length":
                content_length = int(value)
        self.response_content_length = content_length
        self.response_start = {
            "type": "http.response.start",
            "status": int(code),
            "headers": headers,
        }
        return self._send_chunk

    def _send_start(self) -> None:
        if self.response_started:
            return
        if self.response_start is None:
            raise RuntimeError(
                "the WSGI application answered without having called start_response()"
            )
        self.response_started = True
        self.sync_send(self.response_start)

    def _send_chunk(self, chunk: bytes) -> None:
        """Sends a piece of the body, cut where Content-Length ends; also PEP 3333's ``write()``."""
        self._send_start()
        if self.response_content_length is not None:
            chunk = chunk[: self.response_content_length - self.response_bytes_sent]
        self.sync_send({"type": "http.response.body", "body": chunk, "more_body": True})
        self.response_bytes_sent += len(chunk)

    @sync_to_async
    def run_wsgi_app(self, body: Any) -> None:
        """Runs the application and sends what it answers; awaited on the event loop."""
        try:
            environ = self.build_environ(self.scope, body)
        except ValueError:
            self._send_bad_request()
            return
        chunks = self.wsgi_application(environ, self.start_response)
        try:
            for chunk in chunks:
                self._send_chunk(chunk)
                if self.response_bytes_sent == self.response_content_length:
                    break
            self._send_start()
            self.sync_send({"type": "http.response.body"})
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                close()

    def _send_bad_request(self) -> None:
        self.sync_send(
            {
                "type": "http.response.start",
                "status": 400,
                "headers": [(b"content-type", b"text/plain")],
            }
        )
        self.sync_send(
            {"type": "http.response.body", "body": b"Bad Request: Too many duplicate headers"}
        )
