"""Django's handlers, with as few crossings a request as there can be.

`ASGIHandler` answers a request by one generator (`_Exchange._steps`), which runs on the request's
worker and pauses where it needs the event loop: see `_chain`. With a sync view it is one crossing:

    worker:            | request_started, the chain, the view, request_finished |
    loop:    read_body |                                                        | send_response

Where a middleware can be sync and async, and is more than Django's hooks, there are **two chains**,
both built by Django's `load_middleware`: in one such a middleware is async, in the other it is
sync, and there are two instances of each middleware. A request takes the chain with fewer crossings
for its view (`_views`), and for an async view one that holds no worker, if there is one. It gets
the right response from either.

**The end**, `response.close()`, comes on the worker and before the response is sent, if nobody can
tell: a plain response of Django's own, of which nothing is left to be read. If somebody listens for
`request_finished`, or a connection has to be closed, the response goes to the loop first, which
sends it meanwhile. Any other (a stream, a file) is closed when it has been sent, in a crossing of
its own.

**A client that leaves** ends the task that listens for that, which cancels the server's own task
where it waits for the answer (`_Exchange.answer`). What runs on the worker runs on, and its
response is dropped. `request_finished` is sent once, by who has taken it (`_take_end`): the worker,
or the loop.

**Other code's hooks**: a method of Django's handlers that a subclass overrides, or an agent has
replaced, is called as Django calls it.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import io
import sys
import time
import weakref
from typing import Any

from django.conf import settings
from django.core import cache, signals
from django.core.exceptions import RequestAborted
from django.core.handlers import asgi, base
from django.db import close_old_connections, connections, reset_queries
from django.http import FileResponse, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.template.response import SimpleTemplateResponse
from django.urls import set_script_prefix, set_urlconf

from ..iterators import sync_to_async_iterator
from ..sync import iscoroutinefunction, sync_to_async
from . import _views, configuration, queries
from ._chain import Chain, ChainBuilder, Steps, drive, is_stock
from .transactions import atomic

__all__ = ["ASGIHandler"]


class Answering(ChainBuilder):
    """The part that Django's handlers of either kind have in common: from request to response."""

    _twin: Answering | None = None  # with the sync chain, if there are two
    _chain_for: tuple[Chain, Chain]  # for sync views, for async ones

    def load_middleware(self, is_async: bool = False) -> None:
        super().load_middleware(is_async)
        if configuration.current().cancel_queries:
            queries.watch()
        chain = self._chain
        assert chain is not None
        self._chain_for = chain, chain
        if is_async and chain.can_be_sync():
            self._twin = copy.copy(self)
            self._twin.load_middleware(is_async=False)
            twins = self._twin._chain
            assert twins is not None
            self._chain_for = (
                min(twins, chain, key=lambda each: each.crossings(False)),
                min(chain, twins, key=lambda each: (each.holds_worker(), each.crossings(True))),
            )
            self._middleware_chain = self._call_chain

    def make_view_atomic(self, view: Any) -> Any:
        """The view in the transactions that ``ATOMIC_REQUESTS`` asks for. On the worker."""
        if not (configuration.current().atomic_async_views and iscoroutinefunction(view)):
            return super().make_view_atomic(view)
        without: set[str] = getattr(view, "_non_atomic_requests", set())
        for alias, options in connections.settings.items():
            if options["ATOMIC_REQUESTS"] and alias not in without:
                view = atomic(using=alias)(view)
        return view

    async def _call_chain(self, request: Any) -> Any:
        return await self._chain_of_request(request).run(request)

    def _chain_of_request(self, request: Any) -> Chain:
        if self._twin is None:
            return self._chain_for[False]
        return self._chain_for[_views.is_async(request.path_info)]

    async def get_response_async(self, request: Any) -> Any:
        """The response to ``request``. On the loop."""
        if not is_stock(base.BaseHandler.get_response_async, base):
            return await super().get_response_async(request)
        return await drive(self._respond(request))

    def _respond(self, request: Any) -> Steps:
        set_urlconf(settings.ROOT_URLCONF)
        response = yield from self._chain_of_request(request).steps(request)
        response._resource_closers.append(request.close)
        if response.status_code >= 400:
            base.log_response(
                "%s: %s",
                response.reason_phrase,
                request.path,
                response=response,
                request=request,
            )
        return response


class _Exchange:
    """One request and its response. Made on the loop, in the task that answers."""

    response: Any = None
    error: BaseException | None = None  # which close() has raised before the response was sent
    _sending: asyncio.Task[None] | None = None  # begun before the generator is over
    _is_sent_here = False
    _is_over = False
    _has_left = False

    def __init__(
        self,
        handler: ASGIHandler,
        scope: Any,
        body_file: Any,
        send: Any,
        listening: asyncio.Task[None],
    ) -> None:
        self._handler = handler
        self._scope = scope
        self._body_file = body_file
        self._send = send
        self._listening = listening  # ends when the client leaves
        self._task: Any = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        self._end = [True]

    def _take_end(self) -> bool:
        # Whether the caller is who has to close the response. True once. From any thread.
        try:
            return self._end.pop()
        except IndexError:
            return False

    def _steps(self) -> Steps:
        # Everything from the request's body to the response, and its end if that may come first.
        handler = self._handler
        signals.request_started.send(sender=handler.__class__, scope=self._scope)
        request, response = handler.create_request(self._scope, self._body_file)
        if request is None:
            return response
        if handler._is_customized:
            return (yield functools.partial(handler.run_get_response, request))
        response = yield from handler._respond(request)
        response._handler_class = handler.__class__
        if isinstance(response, FileResponse):
            response.block_size = handler.chunk_size
        if handler._sends_itself and _may_close_first(request, response) and self._take_end():
            # Taken before it is sent: a client that has its response leaves, and the loop would
            # take the end then, in a crossing of its own.
            if _takes_time_to_close():
                self._loop.call_soon_threadsafe(self._begin_to_send, response)
            try:
                response.close()
            except BaseException as error:
                self.error = error
        return response

    def _begin_to_send(self, response: Any) -> None:
        if not (self._is_over or self._is_sent_here or self._listening.done()):
            sending = self._handler.send_response(response, self._send)
            self._sending = self._loop.create_task(sending)

    async def answer(self) -> None:
        """Set `response` and send it, unless the client leaves meanwhile."""
        self._listening.add_done_callback(self._leave)
        try:
            self.response = await drive(self._steps())
            if self._listening.done():
                # 1. The client left.
                # 2. The worker was done before the loop came to call `_leave`.
                return
            if self._sending is None:
                # The outcome may have overtaken `_begin_to_send`: a wake-up that has begun for
                # another call's outcome brings this one, too.
                self._is_sent_here = True
                await self._handler.send_response(self.response, self._send)
            else:
                await self._sending
        except asyncio.CancelledError:
            if not self._has_left or _cancellations(self._task) > 1:
                raise
        finally:
            self._is_over = True
            if self._has_left and sys.version_info >= (3, 11):
                self._task.uncancel()
            if self._sending is not None and not self._sending.done():
                self._sending.cancel()
                await asyncio.wait((self._sending,))

    def _leave(self, listening: asyncio.Task[None]) -> None:
        # A callback: the task waits somewhere in `answer`, and that is where it is cancelled.
        if not self._is_over and not listening.cancelled():
            self._has_left = True
            self._task.cancel()

    async def end(self) -> None:
        """Close the response, or without one say that the request is finished, unless it has been
        done."""
        if self._take_end():
            if self.response is None:
                await sync_to_async(signals.request_finished.send)(sender=self._handler.__class__)
            elif not (_SENDING_CLOSES and self.response.closed):
                await sync_to_async(self.response.close)()

    async def end_quietly(self) -> None:
        """The same after an error, which is the one to be raised: another is told to the loop."""
        try:
            await self.end()
        except Exception as error:
            message = "closing a response failed, which could not be sent"
            self._loop.call_exception_handler({"message": message, "exception": error})


def _cancellations(task: Any) -> int:
    # How many there are that have not been taken back; before Python 3.11 nobody counts them.
    return int(task.cancelling()) if sys.version_info >= (3, 11) else 0


_DJANGOS: Any = asgi.ASGIHandler  # somebody may put ours, or another, in its place later

_SENDING_CLOSES = not hasattr(_DJANGOS, "listen_for_disconnect")
"""Whether Django's ``send_response`` closes the response: before Django 5.0."""


class ASGIHandler(Answering, asgi.ASGIHandler):
    """Django's ASGIHandler, with as few crossings a request as there can be.

    What a subclass overrides is called as Django calls it, but for ``create_request``, which is
    called on the request's worker.
    """

    # Not in a constructor: ASGIStaticFilesHandler, a subclass where this is put in Django's place,
    # has one of its own.
    @functools.cached_property
    def _is_customized(self) -> bool:
        cls = type(self)
        return not (
            _is_known(cls.run_get_response)
            and cls.get_response_async is ASGIHandler.get_response_async
            and is_stock(base.BaseHandler.get_response_async, base)
        )

    @functools.cached_property
    def _sends_itself(self) -> bool:
        is_ours = type(self).send_response is ASGIHandler.send_response
        return is_ours and "send_response" not in self._replaced

    @functools.cached_property
    def _has_djangos_chunks(self) -> bool:
        is_stocks = is_stock(getattr(self.chunk_bytes, "__func__", None), asgi)
        return is_stocks and "chunk_size" not in vars(self) and self.chunk_size == 2**16

    @functools.cached_property
    def _replaced(self) -> set[str]:
        # The methods here that an agent has replaced in Django's class: its own are called.
        names = ("handle", "read_body", "send_response")
        return {name for name in names if not is_stock(getattr(_DJANGOS, name), asgi)}

    async def handle(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if "handle" in self._replaced:
            await super().handle(scope, receive, send)
            return
        try:
            body_file = await self.read_body(receive)
        except RequestAborted:
            return
        set_script_prefix(self.get_script_prefix(scope))
        listening = asyncio.create_task(self.listen_for_disconnect(receive))
        exchange = _Exchange(self, scope, body_file, send, listening)
        try:
            try:
                await exchange.answer()
            except (Exception, asyncio.CancelledError):
                if exchange.response is not None:
                    await exchange.end_quietly()  # closes a generator, on its thread
                raise
            finally:
                listening.cancel()
            await exchange.end()
        finally:
            body_file.close()
        try:
            await listening
        except RequestAborted:
            pass
        except asyncio.CancelledError:
            if _cancellations(exchange._task):
                raise
        if exchange.error is not None:
            raise exchange.error

    if not hasattr(_DJANGOS, "get_script_prefix"):  # a method of Django 4.2's alone

        def get_script_prefix(self, scope: Any) -> str:
            """What comes before the paths of the site's URLs."""
            return str(asgi.get_script_prefix(scope))

    if not hasattr(_DJANGOS, "listen_for_disconnect"):  # since Django 5.0

        async def listen_for_disconnect(self, receive: Any) -> None:
            """Wait until the client leaves, and raise RequestAborted."""
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RequestAborted
            raise AssertionError(f"Invalid ASGI message after request body: {message['type']}")

        async def run_get_response(self, request: Any) -> Any:
            """The response to ``request``, ready to be sent."""
            response = await self.get_response_async(request)
            response._handler_class = self.__class__
            if isinstance(response, FileResponse):
                response.block_size = self.chunk_size
            return response

    async def read_body(self, receive: Any) -> Any:
        """The request's body as a file: in memory, if it came at once and is small enough."""
        if "read_body" in self._replaced:
            return await super().read_body(receive)
        message = await receive()
        body = message.get("body", b"")
        is_whole = message["type"] != "http.disconnect" and not message.get("more_body", False)
        if is_whole and len(body) <= settings.FILE_UPLOAD_MAX_MEMORY_SIZE:
            return io.BytesIO(body)
        messages = [message]

        async def receive_again() -> Any:
            return messages.pop() if messages else await receive()

        return await super().read_body(receive_again)

    async def send_response(self, response: Any, send: Any) -> None:
        """Send a response."""
        if response.streaming or "send_response" in self._replaced:
            if configuration.current().stream_sync_iterators and not response.is_async:
                response = _Streamed(response)
            await super().send_response(response, send)
            return
        headers = [
            (name.encode("ascii"), value.encode("latin1")) for name, value in response.items()
        ]
        for cookie in response.cookies.values():
            headers.append((b"Set-Cookie", cookie.output(header="").encode("ascii").strip()))
        status = response.status_code
        await send({"type": "http.response.start", "status": status, "headers": headers})
        content = response.content
        if len(content) <= _AT_ONCE and self._has_djangos_chunks:
            await send({"type": "http.response.body", "body": content, "more_body": False})
            return
        for chunk, is_last in self.chunk_bytes(content):
            await send({"type": "http.response.body", "body": chunk, "more_body": not is_last})


def _is_known(method: Any) -> bool:
    # Whether nobody but Django or this module has made it.
    return is_stock(method, asgi) or is_stock(method, sys.modules[__name__])


_AT_ONCE = 2**20
"""Bytes of a response that are one message, where Django sends one for each 64 KiB. Arbitrary: it
is in memory already, and a server waits for its client between messages."""

_BATCH = 16
"""Items of a sync stream that are read ahead of the client: of a file, a megabyte."""


class _Streamed:
    """A StreamingHttpResponse over a sync iterator, as one over an async one."""

    def __init__(self, response: StreamingHttpResponse) -> None:
        self._response = response

    def __getattr__(self, name: str) -> Any:
        return getattr(self._response, name)

    def __aiter__(self) -> Any:
        return sync_to_async_iterator(iter(self._response), max_size=_BATCH)


_STOCK_CONTENTS = (HttpResponse.content, SimpleTemplateResponse.content)
_STOCK_RECEIVERS = {close_old_connections, reset_queries, cache.close_caches, base.reset_urlconf}


def _may_close_first(request: Any, response: Any) -> bool:
    # Whether close() changes nothing of what is sent.
    cls = type(response)
    return (
        not response.streaming
        and getattr(cls, "content", None) in _STOCK_CONTENTS
        and cls.close is HttpResponseBase.close
        and "close" not in vars(response)
        and response._resource_closers == [request.close]
    )


def _takes_time_to_close() -> bool:
    # On the worker.
    for _, receiver, *_ in signals.request_finished.receivers:
        alive = receiver() if isinstance(receiver, weakref.ReferenceType) else receiver
        if alive is not None and alive not in _STOCK_RECEIVERS:
            return True
    now = time.monotonic()
    return any(
        each.connection is not None
        and (each.errors_occurred or (each.close_at is not None and now >= each.close_at))
        for each in connections.all(initialized_only=True)
    )
