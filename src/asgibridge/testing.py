"""Talks to an ASGI application as a server would, for tests.

`ApplicationCommunicator` passes any message; `HttpCommunicator`, `WebsocketCommunicator` and
`LifespanCommunicator` hold the conversations that tests would otherwise write out.

A communicator owns one task that runs the application and two queues, one for each direction. All
three are made at first use, on the event loop running then, so that a communicator can be built
where there is no loop; from then on it belongs to that loop and its thread.

The application is cancelled when a wait for it runs out of time (unless told not to) or is itself
cancelled, by ``stop()``, on leaving an ``async with`` block, and when the communicator is
forgotten. Why it was cancelled is kept, and is what later calls say. Waiting itself never cancels
the caller's task.
"""

from __future__ import annotations

from ._asgi.communicator import ApplicationCommunicator, ApplicationStopped, UnexpectedMessage
from ._asgi.protocols import (
    HttpCommunicator,
    HttpResponse,
    LifespanCommunicator,
    LifespanFailed,
    WebsocketCommunicator,
)

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
