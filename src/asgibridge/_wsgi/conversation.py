"""One request of ``AsgiToWsgi``: an ASGI application's HTTP conversation with a WSGI thread.

* The **loop** runs the application in a task. Its ``send`` puts messages into the thread's inbox (a
  `SimpleQueue`) and waits while more than `LIMIT` bytes are in it; its ``receive`` gets the request
  body, part by part, from the thread. If the body's length is known to be 0, ``receive`` needs no
  thread.
* The **thread** is the WSGI server's. It takes from the inbox: a message, which becomes a chunk for
  the server; `_READ`, because only this thread may read the body; the application's end. The thread
  waits at the inbox and where it reads: a chunk sent during a read goes out after the read.

**The end.** The last message completes the response: the server gets the end. The task may go on
with background work, for which `Response.close` can wait; an exception of that work goes to the
loop's exception handler. If the server closes or drops an incomplete response, or the request body
breaks off, the client has gone: ``receive`` gives ``http.disconnect`` and ``send`` raises
ClientDisconnected, an OSError, as the specification says. If the service ends before the
application, the task is cancelled and the thread gets RuntimeError.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import sys
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from .._process import greenlets
from .exchange import LIMIT, OVERHEAD, ClientDisconnected
from .service import Service, report

READ_SIZE = 65536
"""Bytes of the request body asked of the WSGI server at a time. Arbitrary: as many as
`input.KEPT` keeps in memory."""

_PATIENCE: float | None = 0.25 if sys.platform == "win32" else None  # see _pure/inbox.py

# The application may not send these headers over WSGI (PEP 3333), and over ASGI it need not.
_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer "
    b"trailers transfer-encoding upgrade".split()
)

_READ = object()

# The last message of the application's.
_NOTHING, _START, _BODY, _COMPLETE = range(4)


class _End:
    """The application has ended."""

    __slots__ = ("error", "was_taken")

    def __init__(self, error: BaseException | None) -> None:
        self.error = error
        self.was_taken = False


class Conversation:
    """The state that both sides share. Made on the thread."""

    def __init__(
        self, service: Service, scope: dict[str, Any], body: Any, length: int | None
    ) -> None:
        self._service = service
        self._scope = scope
        # The thread's.
        self.inbox: queue.SimpleQueue[Any] = greenlets.make_queue()
        self._body = body
        self._body_left = length  # None: until it ends
        self._taken = 0  # bytes out of the inbox
        # The loop's.
        self._phase = _NOTHING
        self._put = 0  # bytes into the inbox
        self._room: asyncio.Future[None] | None = None
        self._body_is_there = length != 0
        self._body_was_given = False
        self._asked = False  # the thread to read
        self._received: list[Any] = []
        self._arrival: asyncio.Future[None] | None = None
        self._client_has_gone = False
        self._is_over = False  # for receive(): http.disconnect from now on
        self._task: asyncio.Task[None] | None = None
        self._ending: _End | None = None
        self.ended = greenlets.make_event()

    # The thread's side.

    def begin(self) -> None:
        """Start the application, in a copy of this thread's context."""
        context = contextvars.copy_context()
        self._service.conversations.add(self)
        # This thread adds the conversation, then asks whether the service has ended. An ending
        # service sets `has_ended`, then goes through the conversations. So one of them sees it.
        if not self._service.call_soon(context.run, self._start) or self._service.has_ended:
            self.give_up()

    def take(self) -> Any:
        """The next message, or the application's end; waits for it, and reads the body if asked."""
        while True:
            try:
                item = self.inbox.get(timeout=_PATIENCE)
            except queue.Empty:
                continue
            if item is _READ:
                self._read()
                continue
            if type(item) is _End:
                item.was_taken = True
            else:
                self._taken += len(item.get("body") or b"") + OVERHEAD
                if self._room is not None and self._put - self._taken <= LIMIT // 2:
                    self._service.call_soon(self._make_room)
            return item

    def give_up(self) -> None:
        """The service has ended, perhaps before the application began. From any thread."""
        self._service.conversations.discard(self)
        self._end(asyncio.CancelledError())

    def hang_up(self, *, client_has_gone: bool) -> None:
        """The server wants no more. From any thread."""
        self._service.call_soon(self._hang_up, client_has_gone)

    def _read(self) -> None:
        left = self._body_left
        size = READ_SIZE if left is None else min(left, READ_SIZE)
        # `read` waits for all of `size`; `read1` returns the bytes that are there.
        read = getattr(self._body, "read1", None) or self._body.read
        try:
            data = read(size)
        except OSError:
            self._service.call_soon(self._lost_client)
            return
        if left is not None:
            left -= len(data)
            self._body_left = left
        more = bool(data) if left is None else left > 0
        if more and not data:
            self._service.call_soon(self._lost_client)  # less than its Content-Length
        else:
            self._service.call_soon(self._arrived, data, more)

    # The loop's side.

    def _start(self) -> None:
        if self._service.is_ending:  # its tasks may have been cancelled already
            self.give_up()
            return
        # A strong reference: the loop has only a weak one.
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        error: BaseException | None = None
        try:
            await self._service.application(self._scope, self._receive, self._send)
        except BaseException as raised:
            error = raised
        self._service.conversations.discard(self)
        try:
            if self._phase == _COMPLETE or self._client_has_gone:
                self._report(error)
            self._end(error)
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise error
        finally:
            del error

    def _end(self, error: BaseException | None) -> None:
        self._ending = _End(error)
        self.inbox.put(self._ending)
        self.ended.set()

    def _report(self, error: BaseException | None) -> None:
        # No thread takes it any more.
        if error is None or isinstance(error, asyncio.CancelledError):
            return
        if not (self._client_has_gone and isinstance(error, OSError)):
            when = "its response" if self._phase == _COMPLETE else "the client had disconnected"
            report(f"the ASGI application raised after {when}", error)

    async def _receive(self) -> dict[str, Any]:
        while True:
            if self._received:
                data, more = self._received.pop(0)
                self._body_was_given = not more
                return {"type": "http.request", "body": data, "more_body": more}
            if self._is_over:
                return {"type": "http.disconnect"}
            if not self._body_is_there and not self._body_was_given:
                self._body_was_given = True
                return {"type": "http.request", "body": b"", "more_body": False}
            if not self._body_was_given and not self._asked:
                self._asked = True
                self.inbox.put(_READ)
            if self._arrival is None or self._arrival.done():
                self._arrival = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._arrival)

    async def _send(self, message: Any) -> None:
        if self._client_has_gone:
            raise ClientDisconnected("the client has closed the connection")
        self._phase = _checked(message, self._phase)
        body = message.get("body")
        if body is not None and type(body) is not bytes:
            # Now: the application may change it. WSGI servers take bytes only (PEP 3333).
            message = {**message, "body": bytes(body)}
        self._put += len(message.get("body") or b"") + OVERHEAD
        self.inbox.put(message)
        if self._phase == _COMPLETE:
            self._over()
            return
        while self._put - self._taken > LIMIT and not self._is_over:
            if self._room is None:
                self._room = asyncio.get_running_loop().create_future()
            # Compared again: the thread may have made room before it could see `_room`.
            if self._put - self._taken > LIMIT // 2:
                await asyncio.shield(self._room)
        if self._client_has_gone:
            raise ClientDisconnected("the client has closed the connection")

    def _make_room(self) -> None:
        room, self._room = self._room, None
        if room is not None:
            room.set_result(None)

    def _arrived(self, data: bytes, more: bool) -> None:
        self._asked = False
        self._received.append((data, more))
        self._wake_receiver()

    def _lost_client(self) -> None:
        self._client_has_gone = True
        self._over()

    def _hang_up(self, client_has_gone: bool) -> None:
        if self._phase != _COMPLETE:
            self._client_has_gone = self._client_has_gone or client_has_gone
            ending, self._ending = self._ending, None
            if ending is not None and not ending.was_taken:
                self._report(ending.error)  # no thread takes it any more
        self._over()

    def _over(self) -> None:
        self._is_over = True
        self._wake_receiver()
        self._make_room()

    def _wake_receiver(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)


class Response:
    """The iterable that the WSGI server gets; the thread's side of a conversation.

    :param wait: how many seconds `close` waits for the application's end after its response; None:
        as long as it takes.
    """

    def __init__(self, conversation: Conversation, wait: float | None) -> None:
        self._conversation: Conversation | None = conversation
        self._wait = wait
        self._is_complete = False
        self._is_bodyless = False
        self._first: bytes | None = None

    def begin(self, start_response: Callable[..., Any], *, is_head: bool) -> None:
        """Wait for the response's beginning and hand on status and headers.

        Raises what the application raised before that.
        """
        try:
            start = self._message("without having sent a response")
            body = self._message("after http.response.start, without a body")
            self._is_complete = not body.get("more_body")
            status = start["status"]
            # These have no body, whatever the application sends (RFC 9110, 6.4.1).
            self._is_bodyless = is_head or status < 200 or status in (204, 304)
            self._first = None if self._is_bodyless else body.get("body")
            headers = [
                (bytes(name).decode("latin1"), bytes(value).decode("latin1"))
                for name, value in start.get("headers") or ()
                if name.lower() not in _HOP_BY_HOP
            ]
            start_response(_status_line(status), headers)
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Response:
        return self

    def __next__(self) -> bytes:
        chunk, self._first = self._first, None
        while not chunk and not self._is_complete and self._conversation is not None:
            try:
                message = self._message("in the middle of its response (more_body was True)")
            except BaseException:
                self.close()
                raise
            self._is_complete = not message.get("more_body")
            chunk = None if self._is_bodyless else message.get("body")
        if not chunk:
            raise StopIteration
        return chunk

    def close(self) -> None:
        """The server is done with the response: tell the application, if it is not."""
        conversation, self._conversation = self._conversation, None
        if conversation is None:
            return
        conversation.hang_up(client_has_gone=not self._is_complete)
        if self._is_complete and self._wait != 0:
            conversation.ended.wait(self._wait)

    def __del__(self) -> None:
        # A server that breaks off without close(). No waiting in a finalizer.
        self._wait = 0
        self.close()

    def _message(self, when: str) -> Any:
        assert self._conversation is not None
        item = self._conversation.take()
        if type(item) is not _End:
            return item
        error = item.error
        if error is None:
            raise RuntimeError(f"the ASGI application ended {when}")
        if isinstance(error, asyncio.CancelledError):
            raise RuntimeError(
                f"the ASGI application was cancelled {when}: is the process ending?"
            ) from None
        try:
            raise error
        finally:
            del error, item


def _status_line(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"{status} Unknown"  # PEP 3333 wants some reason


def _checked(message: Any, phase: int) -> int:
    # The phase after the message; raises in the application if the message may not come now.
    try:
        kind = message["type"]
    except (KeyError, TypeError):
        raise TypeError(f"send() needs a dict with a 'type', and got {message!r:.80}") from None
    if phase == _COMPLETE:
        raise RuntimeError(f"send() got {kind!r} after the response was complete")
    if kind == "http.response.start":
        if phase != _NOTHING:
            raise RuntimeError("send() got a second 'http.response.start'")
        status = message.get("status")
        if not isinstance(status, int) or not 100 <= status <= 999:
            raise ValueError(f"'http.response.start' needs an int as 'status', not {status!r}")
        for header in message.get("headers") or ():
            try:
                name, value = header
                is_right = b"\n" not in name + value and b"\r" not in name + value
            except (TypeError, ValueError):
                is_right = False
            if not is_right:
                raise ValueError(
                    "'headers' must be pairs of bytes (name, value) without line breaks; one is "
                    f"{header!r:.80}"
                )
        return _START
    if kind == "http.response.body":
        if phase == _NOTHING:
            raise RuntimeError("send() got 'http.response.body' before 'http.response.start'")
        if not isinstance(message.get("body", b""), (bytes, bytearray, memoryview, type(None))):
            raise TypeError(f"'body' must be bytes, not {message['body']!r:.80}")
        return _BODY if message.get("more_body") else _COMPLETE
    raise ValueError(
        f"send() got {kind!r}: on a WSGI server there are only 'http.response.start' and "
        "'http.response.body'"
    )
