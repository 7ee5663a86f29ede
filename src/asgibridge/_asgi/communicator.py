"""`ApplicationCommunicator`, the server's side of one connection, whatever its protocol."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from .._process.deadline import Deadline, TimedOut
from ..compatibility import guarantee_single_callable
from ..queue import MessageQueue

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ApplicationCommunicator", "ApplicationStopped", "UnexpectedMessage"]


class ApplicationStopped(RuntimeError):
    """There is nobody to talk to any more: the application was cancelled. Says why."""

    __module__ = "asgibridge.testing"


class UnexpectedMessage(AssertionError):
    """The application sent something that does not belong there: ``message``."""

    __module__ = "asgibridge.testing"

    def __init__(self, expected: str, message: Any) -> None:
        super().__init__(f"expected {expected} from the application, not {message!r}")
        self.message = message


class ApplicationCommunicator:
    """The server's side of one connection to ``application``, an ASGI 2 or 3 one.

    The application starts with the first use of ``future``, which all methods but ``stop`` make.
    ``scope`` and messages go through unchecked. Once the application has raised, sending and
    receiving raise its exception, even if messages from before it are still unread; once it was
    cancelled, they raise `ApplicationStopped`.

    ``async with`` starts the application and at the end of the block cancels it if it still runs,
    waits for it, and raises what it raised, unless the block itself has raised.
    """

    __module__ = "asgibridge.testing"

    cancel_on_timeout = True
    """Whether `receive_output` cancels the application when its time is up, if not told."""

    patience = 10.0
    """Seconds that a cancelled application is given to end; then RuntimeError."""

    # __del__ finds it here if __init__ did not get that far. Without an annotation, which would be
    # looked up in the module that the class names as its own.
    _future = cast("asyncio.Task[Any] | None", None)

    def __init__(self, application: Callable[..., Any], scope: Any) -> None:
        self.application = guarantee_single_callable(application)
        self.scope = scope
        self._future = None
        self._input_queue: MessageQueue[Any] | None = None
        self._output_queue: MessageQueue[Any] | None = None
        self._why_stopped: str | None = None

    @property
    def input_queue(self) -> MessageQueue[Any]:
        """What the application's ``receive()`` takes from."""
        if self._input_queue is None:
            self._input_queue = MessageQueue()
        return self._input_queue

    @property
    def output_queue(self) -> MessageQueue[Any]:
        """What the application's ``send()`` puts into."""
        if self._output_queue is None:
            self._output_queue = MessageQueue()
        return self._output_queue

    @property
    def future(self) -> asyncio.Task[Any]:
        """The application's task, started by the first look at it.

        It runs in an empty context, as under a server: the test's context variables are not seen
        by the application, nor the other way round.
        """
        if self._future is None:
            conversation = self.application(self.scope, self.input_queue.get, self.output_queue.put)
            self._future = contextvars.Context().run(asyncio.create_task, conversation)
        return self._future

    async def __aenter__(self) -> Self:
        self.future  # noqa: B018 - starts it
        return self

    async def __aexit__(
        self,
        exc: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        future = self.future
        if not future.done():
            await self._cancel("at the end of its `async with` block")
        if value is None and not future.cancelled():
            future.result()

    async def wait(self, timeout: float | None = 1) -> None:
        """Waits up to ``timeout`` seconds (None: without limit) for the application to end.

        One that has not ended is cancelled then; that is no error. Raises what the application
        raised; RuntimeError if it does not end when it is cancelled.
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
            # The loop is closed, so the application will not run on anyhow.
            pass

    async def _cancel(self, why: str) -> None:
        # And wait for the end, whatever that is.
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
        if not future.done():
            return
        if future.cancelled():
            raise ApplicationStopped(
                "the application was cancelled "
                + (self._why_stopped or "by itself or by something else than this communicator")
            )
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
