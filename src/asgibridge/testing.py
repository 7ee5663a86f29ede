"""``ApplicationCommunicator``: runs an ASGI application and talks to it, for tests.

A communicator owns one task that runs the application and two queues, one for each direction. All
three are made at first use, on the event loop running then, so that a communicator can be built
where there is no loop; from then on it belongs to that loop and its thread.

The application is cancelled when a wait for it runs out of time or is itself cancelled, by
``stop()``, and when the communicator is forgotten. Waiting itself never cancels the caller's task.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable
from typing import Any

from ._compat import Deadline, TimedOut
from .compatibility import guarantee_single_callable
from .queue import MessageQueue

__all__ = ["ApplicationCommunicator"]


class ApplicationCommunicator:
    """The server's side of one connection to ``application``, an ASGI 2 or 3 one.

    The application starts with the first use of ``future``, which all methods but ``stop`` make.
    ``scope`` and messages go through unchecked. Once the application has raised, sending and
    receiving raise its exception, even if messages from before it are still unread.
    """

    # __del__ finds it here if __init__ did not get that far.
    _future: asyncio.Task[Any] | None = None

    def __init__(self, application: Callable[..., Any], scope: Any) -> None:
        self.application = guarantee_single_callable(application)
        self.scope = scope
        self._future = None
        self._input_queue: MessageQueue[Any] | None = None
        self._output_queue: MessageQueue[Any] | None = None

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

    async def wait(self, timeout: float | None = 1) -> None:
        """Waits up to ``timeout`` seconds (None: without limit) for the application to end.

        One that has not ended is cancelled then, and waited for without a limit; that is no error.
        Raises what the application raised.
        """
        future = self.future
        try:
            if not future.done():
                await asyncio.wait({future}, timeout=timeout)
        finally:
            if not future.done():
                future.cancel()
                await asyncio.wait({future})
        if not future.cancelled():
            future.result()

    def stop(self, exceptions: bool = True) -> None:
        """Cancels the application if it is running, without waiting for it.

        If it has ended, raises what it raised (CancelledError if it was cancelled), unless
        ``exceptions`` is false. Does nothing if it was never started.
        """
        future = self._future
        if future is None:
            return
        if not future.done():
            future.cancel()
        elif exceptions:
            future.result()

    def __del__(self) -> None:
        try:
            self.stop(exceptions=False)
        except RuntimeError:
            # The loop is closed, so the application will not run on anyhow.
            pass

    def _raise_if_ended_badly(self) -> None:
        future = self.future
        if future.done():
            future.result()

    async def send_input(self, message: Any) -> None:
        """Gives the application's ``receive()`` a message.

        Raises what the application raised if it has ended so, CancelledError if it was cancelled.
        """
        self._raise_if_ended_badly()
        await self.input_queue.put(message)

    async def receive_output(self, timeout: float | None = 1) -> Any:
        """Returns the next message the application sent, waiting up to ``timeout`` seconds.

        If none comes, the application is cancelled and TimeoutError raised (before Python 3.11 it
        is an ``asyncio.TimeoutError`` too). Raises the application's own exception instead if it
        has raised one, CancelledError if it was cancelled earlier.
        """
        self._raise_if_ended_badly()
        try:
            async with Deadline(timeout, asyncio.get_running_loop()):
                return await self.output_queue.get()
        except TimedOut:
            future = self.future
            if not future.done():
                future.cancel()
                await asyncio.wait({future})
                if future.cancelled():
                    raise
            future.result()
            raise

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
