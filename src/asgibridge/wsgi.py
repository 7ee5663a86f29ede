"""WSGI applications (PEP 3333) on ASGI servers, and ASGI applications on WSGI servers.

`WsgiToAsgi`. A `WsgiToAsgiInstance` handles one request. On the event loop it takes the first part
of the request body; then ``run_wsgi_app`` runs the application on a thread: the thread-sensitive
one, or one of ``workers``. `_wsgi.exchange` says how thread and loop exchange messages, and what
happens when the request is cancelled or the client leaves.

An exception of the application's goes to the server after the messages that the application sent
before. The application's iterable is always closed (PEP 3333, "the close() method").

`AsgiToWsgi`. `_wsgi.conversation` handles one request; `_wsgi.service` has the event loop's thread
and the application's lifespan.
"""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING, Any

from ._bridge.routes import without_a_thread
from ._process.threads import CannotStart
from ._wsgi.conversation import Conversation, Response
from ._wsgi.environ import BadRequest, build_environ, build_scope
from ._wsgi.exchange import ClientDisconnected, Exchange, body_of
from ._wsgi.input import KEPT, StreamingInput
from ._wsgi.service import LoopThread
from .pools import LoopExecutor
from .sync import SyncToAsync, sync_to_async

if TYPE_CHECKING:
    from types import TracebackType

    from ._kernel import kernel

    ExcInfo = tuple[type[BaseException], BaseException, TracebackType]
    _SyncToAsync = SyncToAsync[..., Any]
else:
    _SyncToAsync = SyncToAsync  # 3.9 knows no dots there

__all__ = ["AsgiToWsgi", "ClientDisconnected", "WsgiToAsgi", "WsgiToAsgiInstance"]


def __dir__() -> list[str]:
    return __all__


class _RunInPool(_SyncToAsync):
    """A `SyncToAsync` whose calls run on at most ``size`` threads of its own.

    A call goes to the thread that became idle last, so that few threads stay warm. When all are
    busy, it waits for the first that is idle.
    """

    def __init__(self, func: Callable[..., Any], size: int) -> None:
        super().__init__(func, thread_sensitive=False)
        self._pool = LoopExecutor(size, "asgibridge-wsgi")

    def _send(self, loop: asyncio.AbstractEventLoop, call: kernel.SyncCall) -> Any:
        try:
            self._pool.post(call)
        except CannotStart:
            return without_a_thread(loop, call)
        return call


class WsgiToAsgi:
    """The ASGI application that answers HTTP requests with ``wsgi_application``.

    Lifespan is answered, websockets are refused with 403; any other scope raises ValueError.

    :param duplicate_header_limit: a request that repeats a header more often is answered with 400
        (CVE-2025-14550: the time to join them grows by the square); None or 0: no limit.
    :param workers: how many requests may run at once, each on one of so many threads. By default
        they run on the thread that thread-sensitive code runs on, one at a time if there is no
        `ThreadSensitiveContext`.
    :param buffer_body: collect the whole request body (in memory up to 64 KiB, then in a temporary
        file) before the application is called, as asgiref does: a slow client then holds up no
        thread. By default the application is called at once, and ``wsgi.input`` waits.
    :param underscores_in_headers: let the application see headers whose name has an underscore. By
        default it does not, because in the environ ``x_user`` is the same as ``x-user``, and so
        passes a proxy that guards ``x-user`` only.
    """

    def __init__(
        self,
        wsgi_application: Callable[..., Any],
        duplicate_header_limit: int | None = 100,
        *,
        workers: int | None = None,
        buffer_body: bool = False,
        underscores_in_headers: bool = False,
    ) -> None:
        if workers is not None and (
            isinstance(workers, bool) or not isinstance(workers, int) or workers < 1
        ):
            raise ValueError(
                f"workers={workers!r}: must be how many requests may run at once, at least 1, or "
                "None for the thread-sensitive thread"
            )
        self.wsgi_application = wsgi_application
        self.duplicate_header_limit = duplicate_header_limit
        self.workers = workers
        self.buffer_body = buffer_body
        self.underscores_in_headers = underscores_in_headers
        self._run: _RunInPool | None = None
        if workers is not None:
            run = WsgiToAsgiInstance.__dict__["run_wsgi_app"]
            self._run = _RunInPool(run.func, workers)
            self._run._shown = run._shown

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handles one connection, on the event loop it is awaited on."""
        instance = WsgiToAsgiInstance(self.wsgi_application, self.duplicate_header_limit)
        instance.buffer_body = self.buffer_body
        instance.underscores_in_headers = self.underscores_in_headers
        if self._run is not None:
            instance.run_wsgi_app = partial(self._run, instance)  # type: ignore[method-assign]
        await instance(scope, receive, send)


class WsgiToAsgiInstance:
    """One request to a WSGI application; not to be used for a second one.

    A subclass may override all methods, and may wrap
    ``WsgiToAsgiInstance.__dict__["run_wsgi_app"].func`` with `sync_to_async` again, so that it runs
    on another thread.
    """

    buffer_body = False
    underscores_in_headers = False
    sync_send: Callable[[Any], None]
    _exchange: Exchange | None = None
    _is_bodyless = False
    _early_empty_chunks = 0

    def __init__(
        self, wsgi_application: Callable[..., Any], duplicate_header_limit: int | None = 100
    ) -> None:
        self.wsgi_application = wsgi_application
        self.duplicate_header_limit = duplicate_header_limit
        # The arguments of start_response(), and whether they have been sent.
        self.response_start: dict[str, Any] | None = None
        self.response_started = False
        self.response_content_length: int | None = None
        self.response_bytes_sent = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handles the connection on the event loop; the application runs on its thread."""
        try:
            kind = scope["type"]
        except (KeyError, TypeError, IndexError):
            raise ValueError(
                f"malformed ASGI scope: a dict with a 'type' was expected, not {scope!r:.80}"
            ) from None
        if kind == "http":
            await self._answer_http(scope, receive, send)
        elif kind == "lifespan":
            await _answer_lifespan(receive, send)
        elif kind == "websocket":
            await _refuse_websocket(receive, send)
        else:
            raise ValueError(
                f"WsgiToAsgi serves HTTP only, and got a scope of type {kind!r}: "
                "route other protocols elsewhere"
            )

    async def _answer_http(self, scope: Any, receive: Any, send: Any) -> None:
        part, more = body_of(await receive())
        spool: Any = None
        if more and self.buffer_body:
            spool = SpooledTemporaryFile(max_size=KEPT)  # noqa: SIM115 - closed below
        try:
            while spool is not None and part is not None:
                spool.write(part)
                if not more:
                    spool.seek(0)
                    break
                part, more = body_of(await receive())
            if part is None:
                return  # the client has left
            exchange = Exchange(receive, send, body_is_complete=not more)
            body: Any = spool
            if spool is None:
                body = StreamingInput(exchange.fetch, part) if more else io.BytesIO(part)
            self.scope = scope
            self._exchange = exchange
            self.sync_send = self._send_and_wait
            await self._run_and_send(exchange, body)
        finally:
            if spool is not None:
                spool.close()

    async def _run_and_send(self, exchange: Exchange, body: Any) -> None:
        try:
            await self.run_wsgi_app(body)
        except Exception:
            # The client gets the messages that the application had sent by then.
            await exchange.finish(raising=False)
            raise
        except GeneratorExit:
            exchange.drop()
            raise
        except BaseException:  # cancelled, mostly; the thread goes on, until it notices
            await exchange.abort()
            raise
        await exchange.finish()

    # From here on everything runs on the application's thread.

    def build_environ(self, scope: Any, body: Any) -> dict[str, Any]:
        """The WSGI environ for an HTTP scope and a file with the request body.

        Raises ValueError for headers that break the rules of HTTP or are repeated more often than
        allowed (answered with 400), or if the scope breaks the specification.
        """
        return build_environ(scope, body, self.duplicate_header_limit, self.underscores_in_headers)

    def start_response(
        self,
        status: str,
        response_headers: Iterable[tuple[str, str]],
        exc_info: ExcInfo | None = None,
    ) -> Callable[[bytes], None]:
        """PEP 3333's ``start_response()``: keeps status and headers until the first chunk.

        A second call needs ``exc_info`` and replaces status and headers; if they have been sent, it
        raises the exception in ``exc_info`` instead. Returns ``write()``. Raises ValueError or
        TypeError for a second call without ``exc_info``, a status without three digits, a header
        whose name is none, whose value is not latin-1 or has a line break, and a Content-Length
        that is no number, or one of two.
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
        code = _status_code(status)
        headers = []
        content_length = None
        for header in response_headers:
            name, value = _response_header(header)
            headers.append((name, value))
            if name == b"content-length":
                if not value.isdigit():
                    raise ValueError(
                        f"start_response() was given the Content-Length {header[1]!r}: "
                        "it must be a number of bytes"
                    )
                if content_length not in (None, int(value)):
                    raise ValueError(
                        "start_response() was given two values of Content-Length, "
                        f"{content_length} and {header[1]}: which is it?"
                    )
                content_length = int(value)
        self.response_content_length = content_length
        is_head = getattr(self, "scope", {}).get("method") == "HEAD"
        # These have no body, whatever the application gives (RFC 9110, 6.4.1).
        self._is_bodyless = code < 200 or code in (204, 304) or is_head
        self.response_start = {"type": "http.response.start", "status": code, "headers": headers}
        return self._write

    @sync_to_async
    def run_wsgi_app(self, body: Any) -> None:
        """Runs the application and sends what it answers; awaited on the event loop."""
        exchange = self._exchange
        if exchange is None:
            self._respond(body)
            return
        exchange.enter()
        try:
            self._respond(body)
        except BaseException as error:
            if not (exchange.is_disconnected and _is_for_lack_of_client(error)):
                raise
        finally:
            exchange.leave()

    run_wsgi_app._shown = lambda args: args[0].wsgi_application  # type: ignore[attr-defined]

    def _respond(self, body: Any) -> None:
        try:
            environ = self.build_environ(self.scope, body)
        except BadRequest as error:
            self._send_bad_request(error.answer)
            return
        chunks = self.wsgi_application(environ, self.start_response)
        close = getattr(chunks, "close", None)
        try:
            # The chunks of a list are all ready: to send the first one early gains nothing.
            is_ready = type(chunks) is list or type(chunks) is tuple
            for chunk in _iterate(chunks):
                if self._send_chunk(chunk):
                    break
                if not is_ready and chunk:
                    self._send_on()
            if not self.response_started:
                self._send_start()
            self._emit({"type": "http.response.body"}, 0)
            if close is not None and self._exchange is not None:
                self._exchange.kick()
        finally:
            if close is not None:
                close()

    def _write(self, data: bytes) -> None:
        self._send_chunk(data)
        self._send_on()

    def _send_on(self) -> None:
        if self._exchange is not None:
            self._exchange.start()

    def _send_chunk(self, chunk: bytes) -> bool:
        # Cut where Content-Length ends; whether the response is complete with it.
        if not isinstance(chunk, (bytes, bytearray, memoryview)):
            raise TypeError(
                f"the WSGI application must answer with bytes, and gave {chunk!r:.80}: encode text "
                "first"
            )
        chunk = bytes(chunk)
        if not chunk and not self.response_started:
            self._early_empty_chunks += 1  # an empty chunk must not send the headers
            return False
        self._send_start()
        if self._is_bodyless:
            return bool(chunk)
        length = self.response_content_length
        if length is not None:
            chunk = chunk[: length - self.response_bytes_sent]
        size = len(chunk)
        self.response_bytes_sent += size
        self._emit({"type": "http.response.body", "body": chunk, "more_body": True}, size)
        return self.response_bytes_sent == length

    def _send_start(self) -> None:
        if self.response_started:
            return
        if self.response_start is None:
            raise RuntimeError(
                "the WSGI application answered without having called start_response()"
            )
        self.response_started = True
        self._emit(self.response_start, 0)
        if not self._is_bodyless:
            for _ in range(self._early_empty_chunks):
                self._emit({"type": "http.response.body", "body": b"", "more_body": True}, 0)

    def _emit(self, message: dict[str, Any], size: int) -> None:
        if self._exchange is None:
            self.sync_send(message)  # of a subclass with a __call__ of its own
        else:
            self._exchange.put(message, size)

    def _send_and_wait(self, message: Any) -> None:
        # `sync_send`, which subclasses call.
        assert self._exchange is not None
        self._exchange.put(message, len(message.get("body", b"")))
        self._exchange.flush()

    def _send_bad_request(self, answer: str) -> None:
        headers = [(b"content-type", b"text/plain")]
        body = f"Bad Request: {answer}".encode("ascii")
        self._emit({"type": "http.response.start", "status": 400, "headers": headers}, 0)
        self._emit({"type": "http.response.body", "body": body}, 0)


async def _answer_lifespan(receive: Any, send: Any) -> None:
    # WSGI has nothing to start or stop. The answer spares the server a warning.
    while True:
        kind = (await receive())["type"]
        if kind == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif kind == "lifespan.shutdown":
            await send({"type": "lifespan.shutdown.complete"})
            return
        else:
            raise ValueError(f"WsgiToAsgi expected lifespan messages and got {kind!r}")


async def _refuse_websocket(receive: Any, send: Any) -> None:
    # Closed before it was accepted: the server answers the handshake with 403.
    kind = (await receive())["type"]
    if kind == "websocket.connect":
        await send({"type": "websocket.close", "code": 1000})


def _status_code(status: Any) -> int:
    if type(status) is not str:
        raise TypeError(f"start_response() needs a str like '200 OK' and was given {status!r}")
    digits = status[:3]
    if not (digits.isascii() and digits.isdigit() and digits >= "100" and status[3:4] in ("", " ")):
        raise ValueError(f"start_response() needs a status like '200 OK' and was given {status!r}")
    return int(digits)


_is_header_name = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch  # RFC 9110, 5.6.2


@lru_cache(maxsize=512)  # arbitrary, far more than an application has
def _response_name(name: str) -> bytes:
    lowered = name.lower().encode("ascii")
    if not _is_header_name(name):
        raise LookupError
    return lowered


def _response_header(header: Any) -> tuple[bytes, bytes]:
    try:
        name, value = header
        pair = _response_name(name), value.encode("latin1")
    except LookupError:
        raise ValueError(
            f"start_response() was given the header {header!r}: its name must be of letters, "
            "digits and some signs such as '-', without spaces, line breaks and colons"
        ) from None
    except UnicodeEncodeError:
        raise ValueError(
            f"start_response() was given the header {header!r}: its name must be ASCII, its value "
            "latin-1"
        ) from None
    except (AttributeError, TypeError, ValueError):
        raise TypeError(
            f"start_response() was given the header {header!r}: it must be a pair of two str"
        ) from None
    if "\n" in value or "\r" in value or "\0" in value:
        raise ValueError(
            f"start_response() was given the header {header!r}: with a line break or NUL in it, "
            "whoever wrote it could add headers of their own"
        )
    return pair


def _iterate(chunks: Any) -> Iterator[Any]:
    if not isinstance(chunks, (str, bytes, bytearray)):
        try:
            iterator: Iterator[Any] = iter(chunks)
            return iterator
        except TypeError:
            if hasattr(chunks, "__iter__"):
                raise  # of its own making
    raise TypeError(
        "the WSGI application must return an iterable of bytes, such as [b'...'], and returned "
        f"{chunks!r:.80}"
    )


def _is_for_lack_of_client(error: BaseException) -> bool:
    # Whether a ClientDisconnected that the application got led to ``error``.
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        if isinstance(cause, ClientDisconnected):
            return True
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__
    return False


class AsgiToWsgi:
    """The WSGI application that answers requests with ``asgi_application``, an ASGI 3 one.

    The application runs on an event loop in a thread of the adapter's own, started at the first
    request (after a fork: in each child), and ended at exit or by `close`. Requests of several WSGI
    threads share it. Bodies stream both ways, with back-pressure. A request is never offered as a
    websocket: one that asks to become one is answered with 400.

    :param lifespan: ``"auto"``: run the application's lifespan, if it has one; ``"on"``: it must
        have one; ``"off"``: do not ask.
    :param lifespan_timeout: an application that after so many seconds has not answered its
        lifespan's startup and waits for more messages has no lifespan; a warning is logged. For one
        that is still starting, requests wait on, and a warning is logged each time. None: no limit.
    :param wait: how many seconds the WSGI thread waits, after the response, for the application's
        background tasks to end; None: without limit. For hosts that stop the process between
        requests.
    """

    def __init__(
        self,
        asgi_application: Callable[..., Any],
        *,
        lifespan: str = "auto",
        lifespan_timeout: float | None = 10,
        wait: float | None = 0,
    ) -> None:
        self.asgi_application = asgi_application
        self.wait = wait
        self._loop_thread = LoopThread(asgi_application, lifespan, lifespan_timeout)

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Answers one request, on the WSGI server's thread, which waits for the application.

        Raises what the application raises before its response has begun; the iterable raises later
        exceptions. RuntimeError if the application could not be started, or ended without a
        response; ValueError for an environ that breaks PEP 3333.
        """
        if environ.get("HTTP_UPGRADE", "").lower() == "websocket":
            return _refuse(
                start_response,
                b"This application is served through WSGI, which knows no websockets.\n",
            )
        service = self._loop_thread.service()
        try:
            scope = build_scope(environ, service.state)
        except BadRequest:
            return _refuse(start_response, b"This request has a malformed header.\n")
        length = _body_length(environ)
        conversation = Conversation(service, scope, environ.get("wsgi.input"), length)
        response = Response(conversation, self.wait)
        conversation.begin()
        response.begin(start_response, is_head=scope["method"] == "HEAD")
        return response

    def close(self) -> None:
        """End the application's lifespan and the loop's thread, and wait for that (at most some
        ten seconds for the application). The next request starts anew."""
        self._loop_thread.close()


def _body_length(environ: dict[str, Any]) -> int | None:
    # None: until the input ends. By PEP 3333 an application may not read without a length, unless
    # the server says that its input ends.
    text = environ.get("CONTENT_LENGTH") or ""
    if text.isascii() and text.isdigit():
        return int(text)
    if text:
        raise ValueError(f"CONTENT_LENGTH must be a number of bytes, not {text!r}")
    ends = environ.get("wsgi.input_terminated") or (
        "chunked" in environ.get("HTTP_TRANSFER_ENCODING", "").lower()
    )
    return None if ends else 0


def _refuse(start_response: Callable[..., Any], body: bytes) -> Iterable[bytes]:
    kind = "text/plain; charset=utf-8"
    start_response("400 Bad Request", [("Content-Type", kind), ("Content-Length", str(len(body)))])
    return [body]
