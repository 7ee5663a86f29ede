"""What goes between the thread of a WSGI application and the ASGI connection on its event loop.

One `Exchange` per request, with two sides:

* the **thread** puts response messages into a queue (`put`, `flush`) and asks for more of the
  request body (`fetch`);
* the **loop** takes the messages out and awaits ``send`` for each, in order: in a task of its own,
  the *pump*, while the application runs; in the request's own task (`finish`) for what is left when
  it has ended.

**One wake-up for all that is ready.** Who puts a message wakes the loop only if nobody has since
the queue was last empty: ``_asleep`` holds one token; who gets it wakes the loop; the pump puts it
back *before* it looks for the last time. And the pump is started in the loop's second turn after
the wake-up: an application that has ended by then needs none.

**Back-pressure.** The thread waits in `put` while more than `LIMIT` bytes (each message counts for
`OVERHEAD` more) have not been sent, until half of that has. `flush` waits until all has.

**Waiting, and who may use the thread meanwhile.** ``send`` and ``receive`` may come by sync code
(a middleware's `sync_to_async`) that has to run on this very thread, as it would in asgiref, which
waits in an `AsyncToSync` call for each message. So the thread, where it waits, serves a
CurrentThreadExecutor, the *frame*, which the pump's task has as ``AsyncToSync.executors.current``.
The frame stays open from the first wake-up to the end of the application (`leave`), and what is
posted to it while the application computes is run at the next wait. Lest that be late, the
application does not get ahead of a ``send`` that had to wait: see ``is_in_step``. A wait ends by an
item in the frame's inbox whose ``run`` raises `_WakeUp`: it comes out of ``serve()``, and the inbox
goes on. Another thread of the application's, which may read the body, waits for a lock of its own.

**The end.** ``error`` is set once, on the loop: by a ``send`` or ``receive`` that failed, by an
``http.disconnect``, by the cancellation of the request. From then on nothing is sent, and whatever
the thread does here raises it. A client that has gone (``is_disconnected``) is no error to report.
The thread itself can't be interrupted; it finds out when it next puts or fetches.

All attributes have one writer, but for the deque and the lists, whose operations are atomic.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from .. import _kernel
from .._process.cpython import running_loop
from .._process.threads import Step
from ..sync import AsyncToSync

__all__ = ["LIMIT", "OVERHEAD", "ClientDisconnected", "Exchange", "body_of"]

LIMIT = 131072
"""Bytes on their way at which the application has to wait. Arbitrary: enough for several chunks, so
that one is made while another is sent."""

OVERHEAD = 512
"""What a message counts for, besides its body: so no more than 256 are on their way."""


# Sync code of the application's may call async code by `async_to_sync`, which runs on this loop:
# Flask's async views do.
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
    """Ends a wait in the frame; seen by nobody."""


class _WakeUpItem(Step):
    __slots__ = ()

    def run(self) -> None:
        raise _WakeUp


_WAKE_UP = _WakeUpItem()


class _OtherThread:
    """Where a thread waits that is not the application's own; like a frame, as far as needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def post(self, _item: Any) -> None:
        self._lock.release()

    def serve(self) -> None:
        self._lock.acquire()


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
        self._waiting: list[Any] = []  # where threads wait: the frame, an _OtherThread
        self._thread: int | None = None
        self._frame: Any = None
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
            self._wake_loop()
            self._wait(LIMIT // 2)

    def start(self) -> None:
        """Have what was put sent while the application goes on; waits for it if `is_in_step`."""
        if self.is_in_step:
            self._wanted = 0
            self._wake_loop()
            self._wait(0)
        else:
            self._wake_loop()

    def kick(self) -> None:
        """Have what was put sent, without waiting."""
        if self.error is None:
            self._wake_loop()

    def flush(self) -> None:
        """Wait until all that was put was sent."""
        self._wake_loop()
        self._wait(0)

    def fetch(self) -> bytes:
        """Wait for the next part of the body, b"" at its end."""
        if self._body_is_complete:
            return b""
        if self.error is not None:
            self._raise()
        self._refuse_loop()  # now: a part that is asked for is lost if nobody waits for it
        self._part = None
        self._tell_loop(self._start_receiving)
        while self._part is None:
            self._sleep(lambda: self._part is None)
        part, self._part = self._part, None
        return part

    def enter(self) -> None:
        """The application begins, on this thread."""
        self._thread = threading.get_ident()

    def leave(self) -> None:
        """The application has ended: run what is still posted to this thread."""
        frame = self._frame
        if frame is not None:
            frame.close()
            while True:
                try:
                    frame.serve()
                    break
                except _WakeUp:
                    pass

    def _wake_loop(self) -> None:
        try:
            self._asleep.pop()
        except IndexError:
            return
        self._tell_loop(self._woken)

    def _tell_loop(self, callback: Callable[[], None]) -> None:
        if self._thread is None:
            self.enter()
        if self._frame is None and self._thread == threading.get_ident():
            outer = _kernel.kernel.peek(AsyncToSync.executors, "current", None)
            self._frame = _kernel.kernel.CurrentThreadExecutor(outer)
        try:
            _kernel.kernel.call_soon(self._loop, callback)
        except RuntimeError as error:  # the loop is closed
            raise ClientDisconnected(
                "the server has stopped, and its event loop is closed"
            ) from error

    def _refuse_loop(self) -> None:
        if running_loop() is self._loop:
            raise RuntimeError(_ON_THE_LOOP)

    def _wait(self, wanted: int) -> None:
        self._refuse_loop()
        self._wanted = wanted
        while self._put - self._sent > wanted:
            self._sleep(lambda: self._put - self._sent > wanted)
        self._wanted = None

    def _sleep(self, must_wait: Callable[[], bool]) -> None:
        place = self._frame if self._thread == threading.get_ident() else _OtherThread()
        # First this, then the question: who answers it on the loop looks here next.
        self._waiting.append(place)
        try:
            if self.error is None and must_wait():
                place.serve()
        except _WakeUp:
            pass
        finally:
            try:
                self._waiting.remove(place)
            except ValueError:
                pass
        if self.error is not None:
            self._raise()

    def _raise(self) -> None:
        error = self.error
        if isinstance(error, ClientDisconnected):
            # A new one each time: the application may catch it, and its traceback grows.
            raise ClientDisconnected(*error.args) from error.__cause__
        assert error is not None
        raise error

    # The loop's side.

    def _resume(self) -> None:
        while True:
            try:
                place = self._waiting.pop()
            except IndexError:
                return
            place.post(_WAKE_UP)

    def _woken(self) -> None:
        if self._wanted is not None:
            self._start_pump()
        elif not self._has_ended:
            self._loop.call_soon(self._start_pump)

    def _start_pump(self) -> None:
        # Not if the application has ended in the meantime: then `finish` sends what there is. The
        # context is the thread's.
        if self._has_ended or self.error is not None:
            return
        self._bursts += 1
        self._pump_task = self._loop.create_task(self._pump())
        if self._bursts > 1 and self._body_is_complete and not self._is_watching:
            # A response that goes on: a server may accept messages without saying that there is
            # nobody to read them.
            self._is_watching = True
            self._receive_task = self._loop.create_task(self._watch())

    def _lend_thread(self) -> None:
        # To the current task, whose context is its own.
        if self._frame is not None:
            AsyncToSync.executors.current = self._frame

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
            self._resume_if_sent()
            # With an error, there may be a message that was put in that very moment.
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
                # What a server raises when there is no client any more (ASGI HTTP 2.4).
                self._disconnected(error)
                return
            except BaseException as error:
                self.fail(error)
                if isinstance(error, (KeyboardInterrupt, SystemExit)):
                    raise
                return
            self._sent += size
            if messages:
                self._resume_if_sent()

    def _resume_if_sent(self) -> None:
        wanted = self._wanted
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
            pass  # nothing that the application would have asked for

    def _disconnected(self, error: OSError | None) -> None:
        gone = ClientDisconnected("the client has closed the connection")
        gone.__cause__ = error
        self.is_disconnected = True
        self.fail(gone)

    def fail(self, error: BaseException) -> None:
        """Nothing more is sent; the thread gets ``error`` when it next turns up. On the loop."""
        if self.error is None:
            self.error = error
            self._messages.clear()
            self._resume()

    async def finish(self, *, raising: bool = True) -> None:
        """The application has ended: send what is left. In the request's task.

        Raises what ``send`` raised, but for a client that has gone, if it is to be ``raising``.
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
        # For threads of the application's that go on.
        self.fail(RuntimeError("the request is over"))
        self._tidy()
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
        """Nobody waits for the application any more: tell its thread. On the loop."""
        self._has_ended = True
        self.is_disconnected = True
        self.fail(ClientDisconnected("the server has cancelled the request"))
        self._tidy()

    def _tidy(self) -> None:
        if self._receive_task is not None:
            self._receive_task.cancel()


def body_of(message: Any) -> tuple[bytes | None, bool]:
    """What a message from the server brings of the request body, and whether there is more.

    None if the client has gone. Raises ValueError for what is no message of an HTTP request.
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
