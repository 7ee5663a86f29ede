"""``StatelessServer``: a base for servers of protocols without connections of their own.

Everything happens on the event loop that runs ``arun()``. ``application_instances`` has a task and
an input queue for each scope id, until the instance is deleted or the checker finds it ended. A
deleted instance stays in ``_ending`` until its task has ended, so that its exception is reported
too. When the checker or ``handle()`` ends, or ``arun()`` is cancelled, ``arun()`` cancels and
awaits both. Deleted instances then have a second to end; the end of the loop cancels the others.
"""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import Callable
from typing import Any

from .compatibility import guarantee_single_callable
from .queue import MessageQueue

__all__ = ["StatelessServer"]


def __dir__() -> list[str]:
    return __all__


logger = logging.getLogger(__name__)

_ENDING_SECONDS = 1.0
"""How long an ending server waits for deleted instances. Arbitrary: enough for a cancelled task's
cleaning up, and short for a server that has to end."""


class StatelessServer:
    """Keeps one running instance of ``application`` for each scope id it is asked for.

    A subclass overrides ``handle()``, which runs for as long as the server does and, for each
    message that arrives, does ::

        queue = self.get_or_create_application_instance(scope_id, scope)
        queue.put_nowait(message)

    and ``application_send()``, to which everything goes that the application sends. When there are
    ``max_applications`` instances, the one longest unused is cancelled for a new one.

    Every ``application_checker_interval`` seconds instances that have ended are removed, and
    ``application_exception()`` is called for those that raised. An override of ``run()`` or
    ``arun()`` has to run ``application_checker()`` itself.
    """

    application_checker_interval = 0.1

    def __init__(self, application: Callable[..., Any], max_applications: int = 1000) -> None:
        if max_applications < 1:
            raise ValueError(f"max_applications is {max_applications}: it must be at least 1")
        self.application = application
        self.max_applications = max_applications
        # The details by scope id: input_queue, future, scope, last_used (time.time()).
        self.application_instances: dict[Any, dict[str, Any]] = {}
        self._ending: dict[int, dict[str, Any]] = {}  # by their id()
        self._reporting: dict[str, Any] | None = None

    # Running

    def run(self) -> None:
        """Runs the server in a new event loop on the calling thread until ``handle()`` ends.

        Ctrl-C ends it quietly. Raises what ``handle()`` or ``application_exception()`` raised.
        """
        try:
            asyncio.run(self.arun())
        except KeyboardInterrupt:
            logger.info("Stopped by Ctrl-C or an interrupt signal")

    async def arun(self) -> None:
        """``run()`` for a caller that has an event loop running."""
        checker = asyncio.ensure_future(self.application_checker())
        handler = asyncio.ensure_future(self.handle())
        try:
            await asyncio.wait({checker, handler}, return_when=asyncio.FIRST_COMPLETED)
            if checker.done():
                checker.result()
            await handler
        finally:
            checker.cancel()
            handler.cancel()
            await asyncio.wait({checker, handler})
            await self._see_off()

    async def handle(self) -> None:
        """To be overridden: receives what comes in from outside, until the server is to stop."""
        raise NotImplementedError(
            f"{type(self).__name__} has to override handle(), which feeds the applications"
        )

    async def application_send(self, scope: Any, message: Any) -> None:
        """To be overridden: takes a message from the application instance that has ``scope``."""
        raise NotImplementedError(
            f"{type(self).__name__} has to override application_send(), "
            "which takes what the applications send"
        )

    # Instances

    def get_or_create_application_instance(self, scope_id: Any, scope: Any) -> MessageQueue[Any]:
        """The input queue of the instance for ``scope_id``, which is started if there is none.

        An existing instance keeps the scope it was started with. To be called on the event loop.
        """
        details = self.application_instances.get(scope_id)
        if details is not None:
            details["last_used"] = time.time()
            queue: MessageQueue[Any] = details["input_queue"]
            return queue
        while len(self.application_instances) >= max(self.max_applications, 1):
            self.delete_oldest_application_instance()

        async def send(message: Any) -> None:
            await self.application_send(scope, message)

        input_queue: MessageQueue[Any] = MessageQueue()
        application = guarantee_single_callable(self.application)
        future = asyncio.ensure_future(application(scope=scope, receive=input_queue.get, send=send))
        self.application_instances[scope_id] = {
            "input_queue": input_queue,
            "future": future,
            "scope": scope,
            "last_used": time.time(),
        }
        return input_queue

    def delete_oldest_application_instance(self) -> None:
        """Deletes the instance that was asked for longest ago (of equals, the first made)."""
        instances = self.application_instances
        # A search of all: for a thousand instances, less than a tenth of a millisecond.
        oldest = min(instances, key=lambda scope_id: instances[scope_id]["last_used"])
        self.delete_application_instance(oldest)

    def delete_application_instance(self, scope_id: Any) -> None:
        """Removes an instance, cancelling it if it is running; KeyError if there is none.

        What it raises, or has raised since the checker's last look, is reported at the next.
        """
        details = self.application_instances.pop(scope_id)
        if not details["future"].done():
            details["future"].cancel()
        if details is not self._reporting:
            self._ending[id(details)] = details

    # Checking

    async def application_checker(self) -> None:
        """Removes ended instances, and reports those that raised, until it is cancelled.

        On cancellation it looks once more, for instances that have ended since the last look.
        """
        try:
            while True:
                await asyncio.sleep(self.application_checker_interval)
                await self._check_applications()
        except asyncio.CancelledError:
            await self._check_applications()
            raise

    async def _check_applications(self) -> None:
        for key, details in list(self._ending.items()):
            if details["future"].done():
                del self._ending[key]
                await self._report(details)
        for scope_id, details in list(self.application_instances.items()):
            if not details["future"].done():
                continue
            await self._report(details)
            # The report may have deleted this instance, and handle() made another meanwhile.
            if self.application_instances.get(scope_id) is details:
                del self.application_instances[scope_id]

    async def _report(self, details: dict[str, Any]) -> None:
        future = details["future"]
        if not future.cancelled() and future.exception():
            self._reporting = details
            try:
                await self.application_exception(future.exception(), details)
            finally:
                self._reporting = None

    async def _see_off(self) -> None:
        ending = {details["future"] for details in self._ending.values()}
        if ending:
            await asyncio.wait(ending, timeout=_ENDING_SECONDS)
            await self._check_applications()

    async def application_exception(
        self, exception: BaseException, application_details: dict[str, Any]
    ) -> None:
        """Called with each exception that an application instance ended with; logs it."""
        logging.error(
            "Exception inside application: %s\n%s  %s",
            exception,
            "".join(traceback.format_tb(exception.__traceback__)),
            exception,
        )
