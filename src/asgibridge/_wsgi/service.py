"""The event loop that an ``AsgiToWsgi`` runs its application on, and the application's lifespan.

One thread per adapter. It starts at the first request and runs one `asyncio.run` until the adapter
is closed or garbage, or the interpreter exits. ::

    (none) --first request--> starting --lifespan.startup--> serving --close()--> ended
                                  `------startup failed----> failed

**No answer to** ``lifespan.startup``. An application that looks at no scope's type may read until
its request is over: it waits in ``receive`` again. One whose startup takes long does not. So when
the time is up, the former is cancelled and served without lifespan, the latter is waited for.

The adapter has a `LoopThread`, whose lock guards which `Service` is at work. A Service is one such
thread, from its start to its end; a forked child has none, and the next request there starts one.
The Service refers to the application, not to the adapter.

**The end.** A closed service sends ``lifespan.shutdown``, waits at most `SHUTDOWN_SECONDS` for the
answer, cancels its tasks, and gives up every open conversation, also one whose task has not begun.
At exit this comes before `threading` waits for threads, while the application may still use thread
pools. If threads of the program's own may still make requests, it comes after their end, as with
all our threads (`asgibridge._process.threads`).
"""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections.abc import Callable
from typing import Any

from .._process import cpython, fork, greenlets, threads
from .._process.handover import call_if_open
from .._process.items import Item
from ..compatibility import guarantee_single_callable

SHUTDOWN_SECONDS = 10.0
"""How long an application may take to answer ``lifespan.shutdown``. Arbitrary: what
``docker stop`` grants a process before it kills it."""

_logger = logging.getLogger("asgibridge.wsgi")

_services: weakref.WeakSet[Service] = weakref.WeakSet()

_LIFESPAN_ANSWERS = frozenset(
    f"lifespan.{what}.{how}" for what in ("startup", "shutdown") for how in ("complete", "failed")
)

MODES = ("auto", "on", "off")


class LoopThread:
    """Whichever service of ``application`` is at work in this process."""

    def __init__(
        self, application: Callable[..., Any], lifespan: str, timeout: float | None
    ) -> None:
        if lifespan not in MODES:
            raise ValueError(f"lifespan={lifespan!r}: must be one of {', '.join(MODES)}")
        if timeout is not None and not (isinstance(timeout, (int, float)) and timeout > 0):
            raise ValueError(
                f"lifespan_timeout={timeout!r}: must be a number of seconds above 0, or None"
            )
        self._application = guarantee_single_callable(application)
        self._lifespan = lifespan
        self._timeout = timeout
        self._service: Service | None = None
        self._lock = threading.RLock()
        fork.at_fork_of(self, LoopThread._forget_parent)

    def service(self) -> Service:
        """The service, ready to take requests; starts it and waits for its lifespan.

        From any thread. Raises RuntimeError if the application's startup failed.
        """
        service = self._service
        if service is None or service.has_ended:
            service = self._start()
        elif service.worker is threading.current_thread():
            raise RuntimeError(
                "AsgiToWsgi was called on the thread of its own event loop, would deadlock: it "
                "would wait there for itself. Await the ASGI application instead"
            )
        service.wait_until_ready()
        return service

    def _start(self) -> Service:
        with self._lock:
            service = self._service
            if service is None or service.has_ended:
                service = Service(self._application, self._lifespan, self._timeout)
                _services.add(service)
                service.worker.start()
                self._service = service
            return service

    def close(self) -> None:
        """End the service and wait for that: see the module's header. From any thread."""
        with self._lock:
            service, self._service = self._service, None
        if service is not None:
            service.close()
            if service.worker is not threading.current_thread():
                service.worker.join()

    def _forget_parent(self) -> None:
        self._lock = threading.RLock()
        self._service = None

    def __del__(self) -> None:
        service = getattr(self, "_service", None)
        if service is not None:
            service.close()


class Service:
    """One thread's loop; what a `threads.Worker` serves."""

    is_ending = False
    has_ended = False
    state: dict[str, Any] | None = None
    """What the application put into the lifespan's ``state``; None without lifespan."""

    def __init__(
        self, application: Callable[..., Any], lifespan: str, timeout: float | None
    ) -> None:
        self.application = application
        self._mode = lifespan
        self._timeout = timeout
        self._ready = greenlets.make_event()
        self._error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self.conversations: set[Any] = set()  # that may wait for an answer
        self.worker = threads.LoopWorker(self)

    def wait_until_ready(self) -> None:
        """Wait for the lifespan's startup; raises RuntimeError if it failed."""
        while not self._ready.wait(0.25):  # in slices: on Windows Ctrl-C waits for their end
            pass
        if self._error is not None:
            raise RuntimeError(
                f"the ASGI application could not be started: {self._error}"
            ) from self._error

    def call_soon(self, callback: Callable[..., object], *args: Any) -> bool:
        """Have the callback called on the loop; False if that has ended. From any thread."""
        loop = self._loop
        return loop is not None and call_if_open(loop, callback, *args)

    def close(self) -> None:
        """Begin to end. From any thread."""
        # 1. This sets `is_ending`, then looks for `_stop`. 2. `_main` sets `_stop` and `_loop`,
        # then looks for `is_ending`. So one of the two stops the loop.
        self.is_ending = True
        if self._stop is not None:
            self.call_soon(self._stop.set)

    # On the thread.

    def serve(self) -> None:
        """Run the loop until `close`."""
        try:
            asyncio.run(self._main())
        except BaseException as error:
            if self._ready.is_set():
                raise
            self._error = error
        finally:
            self.has_ended = True
            self._loop = None
            self._ready.set()
            for conversation in list(self.conversations):
                conversation.give_up()

    def drain(self) -> list[Item]:
        """Nothing: `serve` has given up all conversations."""
        return []

    async def _main(self) -> None:
        self._stop = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        if self.is_ending:
            self._stop.set()
        lifespan = None
        if self._mode != "off":
            lifespan = _Lifespan(self.application)
            try:
                await lifespan.start(self._timeout, must_have=self._mode == "on")
            except Exception as error:
                self._error = error
            self.state = lifespan.state if lifespan.is_supported else None
        self._ready.set()
        await self._stop.wait()
        if lifespan is not None and self._error is None:
            await lifespan.stop()


class _Lifespan:
    """The lifespan conversation with an application, which may not know of such a thing."""

    def __init__(self, application: Callable[..., Any]) -> None:
        self._application = application
        self._incoming: asyncio.Queue[Any] = asyncio.Queue()
        self._answers: asyncio.Queue[Any] = asyncio.Queue()
        self.state: dict[str, Any] = {}
        self.is_supported = False
        self._receives = 0
        self._is_stopping = False
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        try:
            await self._application(scope, self._receive, self._send)
            self._answers.put_nowait({"type": "ended"})
        except BaseException as error:
            if self.is_supported and not self._is_stopping and isinstance(error, Exception):
                report("the ASGI application's lifespan has died", error)
            self._answers.put_nowait({"type": "ended", "error": error})
            if not isinstance(error, Exception):
                raise

    async def _receive(self) -> Any:
        self._receives += 1
        return await self._incoming.get()

    async def _send(self, message: Any) -> None:
        if message["type"] not in _LIFESPAN_ANSWERS:
            # An application that takes every scope for a request ends here: it has no lifespan.
            raise RuntimeError(f"send() got {message['type']!r} in a lifespan")
        if message["type"] == "lifespan.startup.complete":
            self.is_supported = True
        self._answers.put_nowait(message)

    async def start(self, timeout: float | None, *, must_have: bool) -> None:
        """Send ``lifespan.startup``; raises if the application says that it failed.

        An application that ends or raises instead of answering has no lifespan, nor has one that
        still receives after ``timeout`` seconds (None: it may do so for ever). By the specification
        that is no error; if it ``must_have`` one, it is.
        """
        self._incoming.put_nowait({"type": "lifespan.startup"})
        answer = await self._first_answer(timeout)
        kind = answer.get("type")
        if kind == "lifespan.startup.complete":
            return
        if kind == "lifespan.startup.failed":
            raise RuntimeError(answer.get("message") or "its lifespan startup failed")
        if kind != "ended":
            raise RuntimeError(f"it answered lifespan.startup with {kind!r}")
        if must_have:
            raise answer.get("error") or RuntimeError(
                "it has no lifespan (it gave no answer to lifespan.startup), and "
                "lifespan='on' asks for one"
            )

    async def _first_answer(self, timeout: float | None) -> Any:
        while True:
            try:
                return await asyncio.wait_for(self._answers.get(), timeout)
            except asyncio.TimeoutError:
                if self._receives > 1:
                    break
                _logger.warning(
                    "the ASGI application has not answered lifespan.startup for %g seconds; "
                    "requests wait for it. If it has no lifespan, give AsgiToWsgi lifespan='off'",
                    timeout,
                )
        _logger.warning(
            "the ASGI application has not answered lifespan.startup within %g seconds and goes on "
            "receiving: it seems to have no lifespan, and runs without. Give AsgiToWsgi "
            "lifespan='off', and nothing waits for it",
            timeout,
        )
        self._task.cancel()
        return {"type": "ended"}

    async def stop(self) -> None:
        """Send ``lifespan.shutdown`` and wait for the answer, not for ever."""
        if not self.is_supported or self._task.done():
            return
        self._is_stopping = True
        self._incoming.put_nowait({"type": "lifespan.shutdown"})
        try:
            answer = await asyncio.wait_for(self._answers.get(), SHUTDOWN_SECONDS)
            if answer["type"] == "lifespan.shutdown.failed":
                report(f"the ASGI application's shutdown failed: {answer.get('message')}")
            elif answer.get("error") is not None:
                report("the ASGI application's shutdown failed", answer["error"])
            else:
                await asyncio.wait([self._task], timeout=SHUTDOWN_SECONDS)
        except asyncio.TimeoutError:
            report(
                "the ASGI application did not answer lifespan.shutdown within "
                f"{SHUTDOWN_SECONDS:g} seconds"
            )


def report(what: str, error: BaseException | None = None) -> None:
    """Tell the running loop's exception handler."""
    context: dict[str, Any] = {"message": what}
    if error is not None:
        context["exception"] = error
    asyncio.get_running_loop().call_exception_handler(context)


def _end_services() -> None:
    running = threads.users_threads()
    # anyio's threads, on which Starlette runs sync code, end with the loop that they work for. They
    # are no daemons: if `threading` waits for them before the loop ends, it waits for ever. So this
    # waits for the other threads, except those of thread pools, which end later, and ends the loop.
    loops = [loop for service in list(_services) if (loop := service._loop) is not None]
    others = [thread for thread in running if getattr(thread, "loop", None) not in loops]
    if others and len(others) == len(running):
        return
    if cpython.pool_threads is not None:
        for thread in others:
            if thread not in cpython.pool_threads and thread.is_alive():
                thread.join()
    services = list(_services)
    for service in services:
        service.close()
    for service in services:
        if service.worker.is_alive():
            service.worker.join()


cpython.at_threading_exit(_end_services)
fork.at_fork(_services.clear)
