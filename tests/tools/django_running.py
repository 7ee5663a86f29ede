"""Runs a random program on one of Django's handlers, and tells what each part of it has seen.

A *program* is a literal of dicts, lists and tuples: `django_programs` makes them and says what they
may have. A *part* is one piece of its code that is called: one side of a middleware, a hook, a
view, a receiver of a signal, an iterator that is streamed. Each part notes who it is and what it
sees, and then performs its *actions*, tuples that begin with what to do.

`Running.run` makes middlewares, views and receivers of a program, a handler, and sends the requests
one after the other. The event loop is the same for all programs of a process.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import io
import logging
import os
import re
import sqlite3
import sys
import tempfile
import threading
import types
import warnings
from typing import Any, NamedTuple

# First: it puts asgibridge in asgiref's place.
import asgibridge.django  # isort: skip
import django
from django.conf import settings

SECONDS = 20
"""No wait in a program takes longer unless something hangs."""

FOLDER = tempfile.TemporaryDirectory(prefix="asgibridge-")
DATABASE = os.path.join(FOLDER.name, "database")

settings.configure(
    ALLOWED_HOSTS=["*"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": DATABASE}},
    DATA_UPLOAD_MAX_MEMORY_SIZE=1000,
    DEFAULT_CHARSET="utf-8",
    LOGGING_CONFIG=None,
    ROOT_URLCONF="generated_root",
    SECRET_KEY="none",
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
    USE_TZ=True,
)
django.setup()

from asgiref.local import Local  # noqa: E402 - Django has to be set up first
from asgiref.sync import (  # noqa: E402
    async_to_sync,
    iscoroutinefunction,
    markcoroutinefunction,
    sync_to_async,
)
from django.core import exceptions, signals  # noqa: E402
from django.core.handlers.asgi import ASGIHandler as DjangosHandler  # noqa: E402
from django.db import connections, transaction  # noqa: E402
from django.db.backends.signals import connection_created  # noqa: E402
from django.http import (  # noqa: E402
    FileResponse,
    Http404,
    HttpResponse,
    HttpResponseRedirect,
    JsonResponse,
    StreamingHttpResponse,
)
from django.template import engines  # noqa: E402
from django.template.response import SimpleTemplateResponse  # noqa: E402
from django.urls import clear_url_caches, get_urlconf, include, path  # noqa: E402
from django.utils.decorators import (  # noqa: E402
    async_only_middleware,
    sync_and_async_middleware,
    sync_only_middleware,
)
from django.utils.deprecation import MiddlewareMixin  # noqa: E402
from django.views import View  # noqa: E402
from django.views.decorators.csrf import csrf_exempt  # noqa: E402

OurHandler = asgibridge.django.ASGIHandler

warnings.simplefilter("ignore")


LEFT = {"type": "the client leaves"}
"""Stands among the messages that the client got."""


class Stop(BaseException):
    """No Exception: neither middlewares nor Django catch it."""


ERRORS: dict[str, Any] = {
    "Http404": Http404,
    "PermissionDenied": exceptions.PermissionDenied,
    "SuspiciousOperation": exceptions.SuspiciousOperation,
    "BadRequest": exceptions.BadRequest,
    "RequestDataTooBig": exceptions.RequestDataTooBig,
    "ValueError": ValueError,
    "StopIteration": StopIteration,
    "CancelledError": asyncio.CancelledError,
    "Stop": Stop,
}


class Seen(NamedTuple):
    """What a part has seen when it began."""

    part: str
    thread: str  # loop, worker (of the request), pool
    connection: str  # on which thread, in which request this connection was first seen
    atomic: bool
    variable: Any
    local: Any
    critical: Any  # of a Local(thread_critical=True)
    of_thread: Any  # of a threading.local
    error: str  # which is being handled
    urlconf: Any
    is_error_page: bool  # seen while an error was made a response
    more: tuple[Any, ...]  # what the part was given


class Outcome(NamedTuple):
    """What came of a request."""

    parts: list[Seen]
    messages: list[Any]  # which the client got
    end: str  # what the application raised
    left_in: str  # the thread of the part that the client left in, or nothing


class Watched:
    """Says on which thread the request's worker is, and what is overridden of a handler."""

    running: Running

    async def handle(self, scope: Any, receive: Any, send: Any) -> None:
        self.running.worker = await sync_to_async(threading.get_ident)()
        await super().handle(scope, receive, send)  # type: ignore[misc]


class AsyncTemplateResponse(SimpleTemplateResponse):
    async def render(self) -> Any:
        await asyncio.sleep(0)
        return SimpleTemplateResponse.render(self)


class ClosedResponse(HttpResponse):
    """Sees when it is closed."""

    see: Any = None

    def close(self) -> None:
        self.see("its close()")
        super().close()


class WatchedFile:
    """Sees when it is read and closed. Not when the garbage collector closes it."""

    def __init__(self, content: bytes, see: Any) -> None:
        self._file = io.BytesIO(content)
        self._see = see

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, size: int | None = -1) -> bytes:
        self._see("its file is read", size)
        return self._file.read(size)

    def close(self) -> None:
        if not self._file.closed:
            self._see("its file is closed")
        self._file.close()


def name_of(error: BaseException | None) -> str:
    if isinstance(error, StopIteration) or "raised StopIteration" in str(error):
        return "StopIteration"  # a RuntimeError in its place has other words behind a generator
    return "" if error is None else f"{type(error).__name__}({error})"


def look_at(what: Any) -> Any:
    """A response, or a request, or an error, as it is noted."""
    if isinstance(what, BaseException):
        return name_of(what)
    if hasattr(what, "status_code"):
        return f"{type(what).__name__} {what.status_code}"
    if hasattr(what, "path_info"):
        return f"{what.method} {what.path_info}"
    return "coroutine" if asyncio.iscoroutine(what) else what


class Running:
    """A process's event loop, and the program that it runs."""

    def __init__(self) -> None:
        gc.collect()
        gc.freeze()
        gc.disable()
        self.version = django.get_version()
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(self._note_error)
        self.unheard = 0  # errors that nobody waits for
        self.loop_thread = threading.get_ident()
        for name in ("generated", "generated_root", "generated_other"):
            sys.modules[name] = types.ModuleType(name)
        self.database = sqlite3.connect(DATABASE, isolation_level=None)
        self.database.execute("PRAGMA synchronous = OFF")
        self.database.execute("CREATE TABLE item (part text)")
        connection_created.connect(_hurry)
        logger = logging.getLogger("django")
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.handlers = [_Log(self)]
        self.parts: list[Seen] = []

    def run(self, program: Any, is_ours: bool) -> Any:
        """What comes of ``program``: of each request, then what is in the database."""
        self.program = program
        gc.collect()  # not in the middle of it: generators see their end
        self.worker = 0
        self.number = -1
        self.known: dict[int, tuple[str, Any]] = {}
        self.variable: Any = contextvars.ContextVar("variable", default=None)
        self.local = Local()
        self._renew()
        self.parts = []
        settings.DEBUG = program["debug"]
        settings.DEBUG_PROPAGATE_EXCEPTIONS = program["propagate"]
        connections.settings["default"]["ATOMIC_REQUESTS"] = program["atomic"]
        self.database.execute("DELETE FROM item")
        self._make_urls()
        settings.MIDDLEWARE = []
        made: Any = sys.modules["generated"]
        for i, given in enumerate(program["middlewares"]):
            setattr(made, f"m{i}", self._middleware(f"m{i}", given))
            settings.MIDDLEWARE.append(f"generated.m{i}")
        receivers = [
            (getattr(signals, given["signal"]), self._receiver(f"r{i}", given))
            for i, given in enumerate(program["receivers"])
        ]
        for signal, receiver in receivers:
            signal.connect(receiver, weak=False)
        try:
            return self._run(self._handler_class(is_ours))
        finally:
            for signal, receiver in receivers:
                signal.disconnect(receiver)

    def _run(self, handler_class: Any) -> Any:
        try:
            handler = handler_class()
        except Exception as error:
            return [name_of(error)]
        # There may be two instances of each middleware.
        outcomes: list[Any] = [list(dict.fromkeys(seen.part for seen in self.parts))]
        for self.number, (*given, leaves) in enumerate(self.program["requests"]):
            given.append(leaves and django.VERSION >= (5,))  # before, Django does not listen
            outcome = self.loop.run_until_complete(self._request(handler, *given))
            outcomes.append(outcome)
            if outcome.left_in == "worker" or outcome.end:
                self._renew()  # what is not compared may have set something on the loop
        rows = self.database.execute("SELECT part FROM item ORDER BY rowid").fetchall()
        return [*outcomes, [row[0] for row in rows]]

    def _renew(self) -> None:
        self.critical, self.of_thread = Local(thread_critical=True), threading.local()

    async def _request(self, handler: Any, method: str, url: str, body: int, leaves: bool) -> Any:
        self.parts = []
        self.leaves = leaves
        self.reached, self.release = asyncio.Event(), threading.Event()
        self.left_in = ""
        left = asyncio.Event()
        messages: list[Any] = []
        half = b"x" * (body // 2)
        requests = [
            {"type": "http.request", "body": half, "more_body": True},
            {"type": "http.request", "body": half},
        ]
        if body % 2:
            requests = [{"type": "http.request", "body": b"x" * body}]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": url,
            "raw_path": url.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"testserver"), (b"content-type", b"text/plain")],
            "server": ("testserver", 80),
            "client": ("127.0.0.1", 1),
        }

        async def receive() -> Any:
            if requests:
                return requests.pop(0)
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            messages.append(message)
            if body % 3:
                await asyncio.sleep(0)

        conversation = handler(scope, receive, send)
        task = contextvars.Context().run(self.loop.create_task, conversation)
        if leaves:
            reached = self.loop.create_task(self.reached.wait())
            await asyncio.wait([task, reached], return_when=asyncio.FIRST_COMPLETED)
            reached.cancel()
            if not task.done():
                self.see("the client leaves")
                messages.append(LEFT)
                left.set()
                # More turns than it takes to tell whoever waits. A worker is held meanwhile.
                for _ in range(50):
                    await asyncio.sleep(0)
        self.release.set()
        try:
            await task
        except BaseException as error:
            return Outcome(self.parts, messages, name_of(error), self.left_in)
        return Outcome(self.parts, messages, "", self.left_in)

    def _note_error(self, _loop: Any, _context: Any) -> None:
        self.unheard += 1

    # --- what parts do ---------------------------------------------------------------------------

    def see(self, part: str, *more: Any) -> None:
        """Note that ``part`` has begun, and what it sees. On any thread."""
        ident = threading.get_ident()
        thread = "worker" if ident == self.worker else "pool"
        if ident == self.loop_thread:
            thread = "loop"
        is_error_page = _makes_error_page()
        where, is_atomic = "", False
        if thread == "loop" or not is_error_page:  # else it is on another thread, and may be kept
            connection = connections["default"]
            where = f"{thread} {self.number}" if thread == "worker" else thread
            where, _ = self.known.setdefault(id(connection), (where, connection))
            is_atomic = connection.in_atomic_block
        self.parts.append(
            Seen(
                part,
                thread,
                where,
                is_atomic,
                self.variable.get(),
                getattr(self.local, "value", None),
                getattr(self.critical, "value", None),
                getattr(self.of_thread, "value", None),
                name_of(sys.exc_info()[1]),
                get_urlconf(),
                is_error_page,
                tuple(look_at(each) for each in more),
            )
        )

    def part(self, name: str, actions: Any, *given: Any, default: Any = None) -> Any:
        """A part that is sync: what it returns."""
        self.see(name, *given)
        for action in actions:
            if action[0] == "return":
                return action[1]
            if action[0] == "coroutine":
                return asyncio.sleep(0)
            answer = self._do(name, action, given)
            if answer is not None:
                return answer
        return default

    async def apart(self, name: str, actions: Any, *given: Any, default: Any = None) -> Any:
        """A part that is async: what it returns."""
        self.see(name, *given)
        for action in actions:
            what = action[0]
            answer = None
            if what == "return":
                return action[1]
            if what == "coroutine":
                return asyncio.sleep(0)
            if what == "pause":
                await asyncio.sleep(0)
            elif what == "query":
                await sync_to_async(self._query)(name)
            elif what == "bridge":
                bridged = sync_to_async(self.see, thread_sensitive=action[1])
                await bridged(f"{name}, bridged" if action[1] else f"{name}, in the pool")
                self.see(f"{name}, back")
            elif what == "wait":
                answer = await self._wait(name, *action[1:])
            else:
                answer = self._do(name, action, given)
            if answer is not None:
                return answer
        return default

    def _do(self, name: str, action: Any, given: Any) -> Any:
        what, *more = action
        if what == "set":
            if more[0] == "variable":
                self.variable.set(more[1])
            else:
                getattr(self, more[0]).value = more[1]
        elif what == "raise":
            raise ERRORS[more[0]](f"of {name}")
        elif what == "answer":
            return self._response(name, *more)
        elif what == "query":
            self._query(name)
        elif what == "urlconf":
            given[0].urlconf = "generated_other"
        elif what == "path":
            given[0].path_info = more[0]
        elif what == "attribute":
            given[0].note = (*getattr(given[0], "note", ()), name)
        elif what == "body":
            self.see(f"{name}, body", len(given[0].body), getattr(given[0], "note", None))
        elif what == "header":
            given[-1][f"X-{name.split()[0]}"] = str(self.variable.get())
        elif what == "bridge" and threading.get_ident() != self.loop_thread:
            async_to_sync(self.apart)(f"{name}, bridged", [("pause",)])
            self.see(f"{name}, back")
        elif what == "wait" and self.leaves and threading.get_ident() != self.loop_thread:
            self.left_in = "worker"
            self.loop.call_soon_threadsafe(self.reached.set)
            self.release.wait(SECONDS)
            self.see(f"{name}, released")
        return None

    async def _wait(self, name: str, swallows: bool) -> Any:
        if not self.leaves or self.reached.is_set():
            return None
        self.left_in = "loop"
        self.reached.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.see(f"{name}, cancelled")
            if not swallows:
                raise
        return self._response(name, "plain", 200)

    def _query(self, name: str) -> None:
        if threading.get_ident() != self.loop_thread:
            with connections["default"].cursor() as cursor:
                cursor.execute("INSERT INTO item VALUES (%s)", [name])

    def _response(self, name: str, kind: str, status: int) -> Any:
        see = functools.partial(self._see_of, name)
        if kind == "json":
            return JsonResponse({"of": name}, status=status)
        if kind == "redirect":
            return HttpResponseRedirect(f"/{name}")
        if kind == "big":
            return HttpResponse(name * 30_000, status=status)
        if kind == "iterator":
            return HttpResponse(self._stream(name, False), status=status)
        if kind == "cookies":
            response = HttpResponse(name, status=status)
            response.set_cookie("a", "1")
            response.set_cookie("b", "2")
            return response
        if kind == "closed":
            response = ClosedResponse(name, status=status)
            response.see = see
            return response
        if kind == "closer":
            response = HttpResponse(name, status=status)
            response._resource_closers.append(lambda: see("its closer"))
            return response
        if kind in ("template", "async template", "failing template"):
            cls = AsyncTemplateResponse if kind == "async template" else SimpleTemplateResponse
            template = engines["django"].from_string("{{ part }}")
            fails = kind == "failing template"
            render = functools.partial(self._render, name, fails)
            response = cls(template, {"part": render}, status=status)
            response.add_post_render_callback(lambda response: see("rendered", response))
            return response
        if kind in ("stream", "failing stream"):
            return StreamingHttpResponse(self._stream(name, kind != "stream"), status=status)
        if kind in ("async stream", "failing async stream"):
            parts = self._async_stream(name, kind != "async stream")
            return StreamingHttpResponse(parts, status=status)
        if kind == "file":
            return FileResponse(WatchedFile(name.encode() * 30_000, see), status=status)
        return HttpResponse(name, status=status)

    def _see_of(self, name: str, what: str, *more: Any) -> None:
        self.see(f"{name}, {what}", *more)

    def _render(self, name: str, fails: bool) -> str:
        self.see(f"{name}, renders")
        if fails:
            raise ValueError(f"of {name}, as it renders")
        return name

    def _stream(self, name: str, fails: bool) -> Any:
        try:
            for i in range(2):
                self.see(f"{name}, stream {i}")
                yield f"{name} {i}".encode()
            if fails:
                raise ValueError(f"of {name}, as it streams")
        finally:
            self.see(f"{name}, stream ends")

    async def _async_stream(self, name: str, fails: bool) -> Any:
        try:
            for i in range(2):
                self.see(f"{name}, stream {i}")
                await asyncio.sleep(0)
                yield f"{name} {i}".encode()
                if i == 0:
                    await self._wait_in_stream(name)
            if fails:
                raise ValueError(f"of {name}, as it streams")
        finally:
            self.see(f"{name}, stream ends")

    async def _wait_in_stream(self, name: str) -> None:
        if self.leaves and not self.reached.is_set():
            self.left_in = "loop"
            self.reached.set()
            await asyncio.Event().wait()

    # --- what is made of a program ---------------------------------------------------------------

    def _handler_class(self, is_ours: bool) -> Any:
        running = self
        members: dict[str, Any] = {"running": self}
        base: Any = OurHandler if is_ours else DjangosHandler
        overrides = self.program["overrides"]
        if "create_request" in overrides:

            def create_request(self: Any, scope: Any, body_file: Any) -> Any:
                running.see("create_request")
                return base.create_request(self, scope, body_file)

            members["create_request"] = create_request
        for name in ("send_response", "run_get_response", "get_response_async"):
            if name in overrides and hasattr(DjangosHandler, name):  # not all in Django 4.2
                members[name] = self._overriding(name, base)
        return type("Handler", (Watched, base), members)

    def _overriding(self, name: str, base: Any) -> Any:
        running = self

        async def method(self: Any, first: Any, *more: Any) -> Any:
            running.see(name, first)
            return await getattr(base, name)(self, first, *more)

        return method

    def _make_urls(self) -> None:
        root: Any = sys.modules["generated_root"]
        other: Any = sys.modules["generated_other"]
        a, b = (self._view(name, self.program["views"][name]) for name in "ab")
        root.urlpatterns = [path("a/", a), path("in/", include([path("b/<int:n>/", b)]))]
        other.urlpatterns = [path("a/", b), path("in/b/<int:n>/", a)]
        for code in (400, 403, 404, 500):
            for module in (root, other):
                vars(module).pop(f"handler{code}", None)
            if code in self.program["pages"]:
                actions = self.program["pages"][code]
                root.__dict__[f"handler{code}"] = self._page(f"handler{code}", actions)
        clear_url_caches()

    def _page(self, name: str, actions: Any) -> Any:
        def page(request: Any, exception: Any = None) -> Any:
            default = HttpResponse(name, status=int(name[-3:]))
            return self.part(name, actions, request, exception, default=default)

        return page

    def _view(self, name: str, given: Any) -> Any:
        actions = given["actions"]

        def view(request: Any, n: int = 0) -> Any:
            return self.part(name, actions, request, n)

        async def aview(request: Any, n: int = 0) -> Any:
            return await self.apart(name, actions, request, n)

        kind = given["kind"]
        if kind in ("class", "async class"):
            function = view if kind == "class" else aview
            methods = dict.fromkeys(("get", "post"), _method(function))
            made: Any = type("Made", (View,), methods).as_view()
        elif kind == "partial":
            made = functools.partial(view)
        elif kind == "marked":  # a sync function that returns a coroutine, and says so
            made = markcoroutinefunction(lambda request, n=0: aview(request, n))
        elif kind == "unmarked":  # one that does not
            made = lambda request, n=0: aview(request, n)  # noqa: E731
        else:
            made = aview if kind == "async" else view
        if given["exempt"]:
            made = csrf_exempt(made)
        if given["non atomic"]:
            made = transaction.non_atomic_requests(made)
        return made

    def _receiver(self, name: str, given: Any) -> Any:
        name = f"{name} {given['signal']}"
        actions = given["actions"]

        def receiver(sender: Any, **_named: Any) -> Any:
            self.part(name, actions, _is_handler(sender))

        async def areceiver(sender: Any, **_named: Any) -> Any:
            await self.apart(name, actions, _is_handler(sender))

        return areceiver if given["async"] else receiver

    def _middleware(self, name: str, given: Any) -> Any:
        kind = given["kind"]
        if "function" in kind:
            return self._function(name, given)
        running = self
        members: dict[str, Any] = {
            hook: self._hook(f"{name} {hook}", *how) for hook, how in given["hooks"].items()
        }
        if kind.startswith("mixin"):
            members.update(self._calls_of_mixin(name, given))
            bases: tuple[Any, ...] = (MiddlewareMixin,)
        else:
            bases = ()
            members["__call__"] = _method(lambda: None)
        if given["capable"] is not None:
            members["sync_capable"], members["async_capable"] = given["capable"]

        def init(self: Any, get_response: Any) -> None:
            running.see(f"{name} is made")
            if kind == "unused":
                raise exceptions.MiddlewareNotUsed(name)
            if bases:
                MiddlewareMixin.__init__(self, get_response)
                return
            self.get_response = get_response
            is_async = kind != "class" and iscoroutinefunction(get_response)
            if is_async and kind != "unmarked class":
                markcoroutinefunction(self)
            call = running.acall if is_async else running.call
            self.call = functools.partial(call, name, given, get_response)

        members["__init__"] = init
        if not bases:
            members["__call__"] = lambda self, request: self.call(request)
        return type(name, bases, members)

    def _hook(self, name: str, is_async: bool, actions: Any) -> Any:
        default_is_last = name.endswith("response")  # process_response, ..._template_response

        def hook(_self: Any, *given: Any) -> Any:
            shown = given[:1] if name.endswith("view") else given
            default = given[-1] if default_is_last else None
            return self.part(name, actions, *shown, default=default)

        async def ahook(_self: Any, *given: Any) -> Any:
            shown = given[:1] if name.endswith("view") else given
            default = given[-1] if default_is_last else None
            return await self.apart(name, actions, *shown, default=default)

        return ahook if is_async else hook

    def _calls_of_mixin(self, name: str, given: Any) -> dict[str, Any]:
        running = self

        def call(self: Any, request: Any) -> Any:
            if iscoroutinefunction(self.get_response):
                return acall(self, request)
            further = functools.partial(MiddlewareMixin.__call__, self)
            return running.call(name, given, further, request)

        async def acall(self: Any, request: Any) -> Any:
            further = functools.partial(MiddlewareMixin.__acall__, self)
            return await running.acall(name, given, further, request)

        if given["kind"] == "mixin with call":
            return {"__call__": call}
        if given["kind"] == "mixin with acall":
            return {"__acall__": acall}
        return {}

    def _function(self, name: str, given: Any) -> Any:
        kind = given["kind"]

        def factory(get_response: Any) -> Any:
            self.see(f"{name} is made")
            if kind == "no function":
                return None
            is_async = kind == "async function" or (
                kind == "both function" and iscoroutinefunction(get_response)
            )
            if is_async:

                async def amiddleware(request: Any) -> Any:
                    return await self.acall(name, given, get_response, request)

                return amiddleware

            def middleware(request: Any) -> Any:
                return self.call(name, given, get_response, request)

            return middleware

        if kind == "function":
            return sync_only_middleware(factory)
        if kind == "async function":
            return async_only_middleware(factory)
        if kind == "both function":
            return sync_and_async_middleware(factory)
        return factory

    def call(self, name: str, given: Any, get_response: Any, request: Any) -> Any:
        """A sync middleware that is called."""
        response = self.part(f"{name} before", given["before"], request)
        if response is not None:
            return response
        way = given["way"]
        try:
            if way == "context":
                response = contextvars.copy_context().run(get_response, request)
            elif way == "bridge":
                response = async_to_sync(sync_to_async(get_response))(request)
            else:
                response = get_response(request)
                if way == "twice":
                    response = get_response(request)
        except (Exception, asyncio.CancelledError) as error:
            self.see(f"{name} catches", error)
            if way != "catch all" and (way != "catch" or not isinstance(error, Exception)):
                raise
            return HttpResponse(name)
        actions = given["after"]
        return self.part(f"{name} after", actions, request, response, default=response)

    async def acall(self, name: str, given: Any, get_response: Any, request: Any) -> Any:
        """An async middleware that is called."""
        response = await self.apart(f"{name} before", given["before"], request)
        if response is not None:
            return response
        way = given["way"]
        try:
            if way == "context":
                response = await asyncio.create_task(get_response(request))
            elif way == "bridge":
                response = await sync_to_async(async_to_sync(get_response))(request)
            elif way in ("catch", "catch all") and sys.version_info >= (3, 12):
                # Before, in a task: what the view sets is not seen then, as it is if this is sync.
                response = await asyncio.wait_for(get_response(request), SECONDS)
            else:
                response = await get_response(request)
                if way == "twice":
                    response = await get_response(request)
        except (Exception, asyncio.CancelledError) as error:
            self.see(f"{name} catches", error)
            if way != "catch all" and (way != "catch" or not isinstance(error, Exception)):
                raise
            return HttpResponse(name)
        actions = given["after"]
        return await self.apart(f"{name} after", actions, request, response, default=response)


class _Log(logging.Handler):
    """Sees what Django logs."""

    def __init__(self, running: Running) -> None:
        super().__init__()
        self.running = running

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        what = f"log of {record.name}: {record.levelname} {record.getMessage()}"
        self.running.see(what, error)


def _hurry(connection: Any, **_named: Any) -> None:
    # What a crash of the machine would leave of the database is nothing to us.
    connection.cursor().execute("PRAGMA synchronous = OFF")


def _is_handler(sender: Any) -> str:
    return "handler" if isinstance(sender, type) else repr(sender)


def _method(function: Any) -> Any:
    if iscoroutinefunction(function):

        async def amethod(_self: Any, *args: Any, **kwargs: Any) -> Any:
            return await function(*args, **kwargs)

        return amethod
    return lambda _self, *args, **kwargs: function(*args, **kwargs)


def _makes_error_page() -> bool:
    frame: Any = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name in ("response_for_exception", "log_response"):
            return True
        frame = frame.f_back
    return False


def title_of(content: bytes) -> str:
    """The title of an error page for developers, which shows the stack below it."""
    found = re.search(rb"<title>(.*?)</title>", content, re.DOTALL)
    return "" if found is None else " ".join(found[1].decode().split())
