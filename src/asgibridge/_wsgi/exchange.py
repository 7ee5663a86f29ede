"""The messages between the thread of a WSGI application and the ASGI connection on its event loop.

There is one `Exchange` per request. The **thread** puts response messages into a queue (`put`,
`flush`) and asks for more of the request body (`fetch`). The **loop** awaits ``send`` for each
message, in order: in a task of its own, the *pump*, while the application runs; in the request's
task (`finish`) when the application has ended.

**One wake-up for all messages that are ready.** ``_asleep`` holds one token.

1. The thread puts a message and takes the token. If the token was there, the thread wakes the loop.
2. The loop starts the pump in the second turn after that: often the application has ended by then.
3. The pump sends all messages, then puts the token back, then looks for messages again: one that
   came before the token was back has woken nobody.

**Back-pressure.** The thread waits in `put` while more than `LIMIT` bytes (each message counts for
`OVERHEAD` more) have not been sent, until half of that has. `flush` waits until all has.

**The frame.** ``send`` and ``receive`` may call sync code (a middleware's `sync_to_async`) that has
to run on this very thread, as it would in asgiref, which waits in an `AsyncToSync` call for each
message. So a waiting thread serves a CurrentThreadExecutor, the *frame*, which is
``AsyncToSync.executors.current`` in the pump's task. The frame is open from the first wake-up to
the end of the application (`leave`); an item that comes while the application computes runs at the
next wait. So that this is not late, the thread waits for each message after a ``send`` that had to
wait: see ``is_in_step``. The loop ends a wait by an item whose ``run`` raises `_WakeUp`, which
comes out of the frame's ``serve()``. Another thread of the application's, which may read and write,
serves a frame of its own, for one wait; it is lent to what this thread has the loop do.

**The end.** The loop sets ``error`` once: a ``send`` or ``receive`` has failed, the client has sent
``http.disconnect``, or the request was cancelled. Nothing is sent after that, and the thread's
methods raise the error. If the client has gone (``is_disconnected``), the server is told of no
error. Nothing interrupts the thread: it learns of the error when it next puts or fetches.

All attributes have one writer, but for the deque and the lists, whose operations are atomic, and
the frame to lend, of which the last counts: a helper's is closed soon, and behind it is the other.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from .. import _kernel
from .._process.cpython import running_loop
from .._process.items import Item
from ..sync import AsyncToSync

LIMIT = 131072
"""An application waits while more bytes than this are on their way. Arbitrary: twice as many as
uvicorn lets an ASGI application have on their way."""

OVERHEAD = 512
"""Bytes that a message counts for, besides its body: at most 256 messages are on their way."""

# Sync code of the application's may call async code by `async_to_sync`, which runs on this loop, as
# Flask does for async views.
_ON_THE_LOOP = (
    "would deadlock: async code of the WSGI application's reads a part of the request body that "
    "has not come yet, or writes faster than the client reads, on the very event loop that has to "
    "receive and send it. Give WsgiToAsgi buffer_body=True, or read and write in sync code"
)


class ClientDisconnected(ConnectionResetError):
    """The client has closed the connection before the request or the response was complete.

    Raised in the WSGI or ASGI application by whatever it then does with the connection. It need not
    be caught: an application that ends with it ends quietly.
    """


class _WakeUp(BaseException):
    """Ends a wait in the frame."""


class _WakeUpItem(Item):
    def run(self) -> None:
        raise _WakeUp


_WAKE_UP = _WakeUpItem()


class Exchange:
    """The thread's side and the loop's side of one request. Made on the loop's thread."""

    error: BaseException | None = None
    is_disconnected = False
    is_in_step = True
    """Whether the thread waits for each message. At first, and whenever the last ``send`` had to
    wait: then the client is slow, or the sending needs this thread."""

    def __init__(
        self,
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
        *,
        body_is_complete: bool,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._receive = receive
        self._send = send
        self._body_is_complete = body_is_complete
        self._messages: deque[tuple[Any, int]] = deque()
        self._asleep = [True]
        self._put = 0  # bytes, of the thread
        self._sent = 0  # bytes, of the loop
        self._wanted: int | None = None  # the thread waits until at most so many are on their way
        self._waiting: list[Any] = []  # the frames that threads serve just now
        self._thread: int | None = None
        self._frame: Any = None  # of the application's thread
        self._lent: Any = None  # the frame for the next task of ours on the loop
        self._part: bytes | None = None  # of the body, on its way to the thread
        self._pump_task: asyncio.Task[None] | None = None
        self._receive_task: asyncio.Task[None] | None = None
        self._bursts = 0
        self._is_watching = False
        self._has_ended = False

    # The thread's side.

    def put(self, message: Any, size: int) -> None:
        """Have ``message``, with a body of ``size`` bytes, sent. May wait for room."""
        if self.error is not None:
            self._raise()
        size += OVERHEAD
        self._put += size
        self._messages.append((message, size))
        if self._put - self._sent > LIMIT:
            self._send_and_wait(LIMIT // 2)

    def start(self) -> None:
        """Have what was put sent while the application goes on; waits for it if `is_in_step`."""
        if self.is_in_step:
            self._wanted = 0
            self._send_and_wait(0)
        else:
            self._wake_loop()

    def kick(self) -> None:
        """Have what was put sent, without waiting."""
        if self.error is None:
            self._wake_loop()

    def flush(self) -> None:
        """Wait until all that was put was sent."""
        self._send_and_wait(0)

    def fetch(self) -> bytes:
        """Wait for the next part of the body, b"" at its end."""
        if self._body_is_complete:
            return b""
        if self.error is not None:
            self._raise()
        if running_loop() is self._loop:  # else it would receive a part that nobody gets
            raise RuntimeError(_ON_THE_LOOP)
        self._part = None
        frame = self._own_frame()
        self._tell_loop(self._start_receiving, frame)
        self._wait_while(lambda: self._part is None, frame)
        part, self._part = self._part, None
        assert part is not None
        return part

    def enter(self) -> None:
        """The application begins, on this thread."""
        self._thread = threading.get_ident()

    def leave(self) -> None:
        """The application has ended: run what is still posted to this thread."""
        if self._frame is not None:
            self._close(self._frame)

    def _own_frame(self) -> Any:
        # This thread's; a helper's is for one wait, and what comes after that is the application's.
        if self._thread is None:
            self.enter()
        if self._thread != threading.get_ident():
            return _kernel.kernel.CurrentThreadExecutor(self._frame)
        if self._frame is None:
            outer = _kernel.kernel.peek(AsyncToSync.executors, "current", None)
            self._frame = _kernel.kernel.CurrentThreadExecutor(outer)
        return self._frame

    def _close(self, frame: Any) -> None:
        frame.close()
        while True:
            try:
                frame.serve()
                break
            except _WakeUp:
                pass

    def _wake_loop(self, frame: Any = None) -> None:
        try:
            self._asleep.pop()
        except IndexError:
            return
        self._tell_loop(self._woken, frame)

    def _tell_loop(self, callback: Callable[[], None], frame: Any) -> None:
        # A helper that is not going to wait has no frame to lend.
        if frame is None and self._thread in (None, threading.get_ident()):
            frame = self._own_frame()
        self._lent = frame
        try:
            _kernel.kernel.call_soon(self._loop, callback)
        except RuntimeError as error:  # the loop is closed
            raise ClientDisconnected(
                "the server has stopped, and its event loop is closed"
            ) from error

    def _send_and_wait(self, wanted: int) -> None:
        if running_loop() is self._loop:
            self._wake_loop()
            raise RuntimeError(_ON_THE_LOOP)
        frame = self._own_frame()
        self._wake_loop(frame)
        self._wanted = wanted
        self._wait_while(lambda: self._put - self._sent > wanted, frame)
        self._wanted = None

    def _wait_while(self, must_wait: Callable[[], bool], frame: Any) -> None:
        try:
            while must_wait():
                # 1. This thread appends the frame, then asks `must_wait`. 2. The loop changes the
                # answer, then posts to all frames. So this thread sees the answer, or the loop sees
                # the frame.
                self._waiting.append(frame)
                try:
                    if self.error is None and must_wait():
                        frame.serve()
                except _WakeUp:
                    pass
                finally:
                    try:
                        self._waiting.remove(frame)
                    except ValueError:
                        pass
                if self.error is not None:
                    self._raise()
        finally:
            if frame is not self._frame:
                self._close(frame)

    def _raise(self) -> None:
        error = self.error
        if isinstance(error, ClientDisconnected):
            # A new one: the application may catch each, and its traceback would grow.
            raise ClientDisconnected(*error.args) from error.__cause__
        assert error is not None
        raise error

    # The loop's side.

    def _resume(self) -> None:
        while True:
            try:
                executor = self._waiting.pop()
            except IndexError:
                return
            executor.post(_WAKE_UP)

    def _woken(self) -> None:
        if self._wanted is not None:
            self._start_pump()
        elif not self._has_ended:
            self._loop.call_soon(self._start_pump)

    def _start_pump(self) -> None:
        # `call_soon` has brought the thread's context, in which the pump's task runs. If the
        # application has ended in the meantime, `finish` sends the messages.
        if self._has_ended or self.error is not None:
            return
        self._bursts += 1
        self._pump_task = self._loop.create_task(self._pump())
        if self._bursts > 1 and self._body_is_complete and not self._is_watching:
            # The response goes on. Some servers accept messages for a client that has gone.
            self._is_watching = True
            self._receive_task = self._loop.create_task(self._watch())

    def _lend_thread(self) -> None:
        # To the current task: its context is a copy, so no other task sees this.
        if self._lent is not None:
            AsyncToSync.executors.current = self._lent

    async def _pump(self) -> None:
        self._lend_thread()
        suspended: list[bool] = []
        while True:
            mark = self._loop.call_soon(suspended.append, True)
            try:
                await self._send_all()
            finally:
                mark.cancel()
            self.is_in_step = bool(suspended)
            self._asleep.append(True)
            if self._wanted is not None:
                self._resume_if_sent()
            # After an error no pump sends the message that the thread may just have put.
            if not self._messages or self.error is not None:
                return
            try:
                self._asleep.pop()
            except IndexError:
                return  # another pump is on its way

    async def _send_all(self) -> None:
        messages = self._messages
        while messages and self.error is None:
            message, size = messages.popleft()
            try:
                await self._send(message)
            except OSError as error:
                # By this a server says that the client has gone (ASGI HTTP 2.4).
                self._disconnected(error)
                return
            except BaseException as error:
                self.fail(error)
                if isinstance(error, (KeyboardInterrupt, SystemExit)):
                    raise
                return
            self._sent += size
            if messages and self._wanted is not None:
                self._resume_if_sent()

    def _resume_if_sent(self) -> None:
        wanted = self._wanted  # read once more: the thread may have ended its wait meanwhile
        if wanted is not None and self._put - self._sent <= wanted:
            self._resume()

    def _start_receiving(self) -> None:
        if self.error is None and not self._has_ended:
            self._receive_task = self._loop.create_task(self._receive_part())

    async def _receive_part(self) -> None:
        self._lend_thread()
        try:
            message = await self._receive()
            part, more = body_of(message)
        except BaseException as error:
            self.fail(error)
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            return
        if part is None:
            self._disconnected(None)
        elif more and not part:
            self._start_receiving()
        else:
            self._body_is_complete = not more
            self._part = part
            self._resume()

    async def _watch(self) -> None:
        self._lend_thread()
        try:
            message = await self._receive()
            if message["type"] == "http.disconnect" and not self._has_ended:
                self._disconnected(None)
        except Exception:
            pass  # the application has not asked for this message

    def _disconnected(self, error: OSError | None) -> None:
        gone = ClientDisconnected("the client has closed the connection")
        gone.__cause__ = error
        self.is_disconnected = True
        self.fail(gone)

    def fail(self, error: BaseException) -> None:
        """Send nothing more; the thread's next put or fetch raises ``error``. On the loop."""
        if self.error is None:
            self.error = error
            self._messages.clear()
            if self._waiting:
                self._resume()

    async def finish(self, *, raising: bool = True) -> None:
        """The application has ended: send what is left. In the request's task.

        If ``raising``, raises what ``send`` raised, except that the client has gone.
        """
        self._has_ended = True
        try:
            pump = self._pump_task
            if pump is not None and not pump.done():
                await pump
            await self._send_all()
        except asyncio.CancelledError:
            await self.abort()
            raise
        error = self.error
        # Threads of the application's may go on and use this.
        self.fail(RuntimeError("the request is over"))
        if self._receive_task is not None:
            self._receive_task.cancel()
        if raising and error is not None and not self.is_disconnected:
            raise error

    async def abort(self) -> None:
        """The request was cancelled: stop sending. In the request's task."""
        self.drop()
        pump = self._pump_task
        if pump is not None and not pump.done():
            pump.cancel()
            await asyncio.wait([pump])

    def drop(self) -> None:
        """The server has dropped the request: tell the application's thread. On the loop."""
        self._has_ended = True
        self.is_disconnected = True
        self.fail(ClientDisconnected("the server has cancelled the request"))
        if self._receive_task is not None:
            self._receive_task.cancel()


def body_of(message: Any) -> tuple[bytes | None, bool]:
    """The part of the request body in a server's message, and whether more parts come.

    The part is None if the client has gone. ValueError if it is no message of an HTTP request.
    """
    try:
        kind = message["type"]
        if kind == "http.disconnect":
            return None, False
        if kind == "http.request":
            part = message.get("body") or b""
            if type(part) is not bytes:
                part = bytes(memoryview(part))
            return part, bool(message.get("more_body"))
    except (AttributeError, KeyError, TypeError):
        pass
    raise ValueError(
        "WsgiToAsgi expected http.request messages (a dict whose 'body' is bytes) or "
        f"http.disconnect, and got {message!r:.120}"
    )
