"""A site of a few views, and tests of the handler that answers for it.

    python -m asgibridge run -m pytest handler_cases.py

`test_django_handler` runs them so, on each kernel.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import django
import pytest
from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["*"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    FILE_UPLOAD_MAX_MEMORY_SIZE=1000,
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes"],
    DATA_UPLOAD_MAX_MEMORY_SIZE=100_000,
    ROOT_URLCONF=__name__,
    SECRET_KEY="of tests",
)
django.setup()

from asgiref.sync import iscoroutinefunction  # noqa: E402
from django.contrib.auth.backends import RemoteUserBackend  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from django.contrib.auth.signals import user_logged_in  # noqa: E402
from django.core import signals  # noqa: E402
from django.core.exceptions import MiddlewareNotUsed  # noqa: E402
from django.core.handlers import asgi, base, exception  # noqa: E402
from django.core.handlers import asgi as djangos  # noqa: E402
from django.http import FileResponse, HttpResponse, StreamingHttpResponse  # noqa: E402
from django.test import override_settings  # noqa: E402
from django.urls import path  # noqa: E402
from django.utils.decorators import sync_and_async_middleware  # noqa: E402
from django.utils.deprecation import MiddlewareMixin  # noqa: E402

from asgibridge import workers  # noqa: E402
from asgibridge.django import ASGIHandler  # noqa: E402
from asgibridge.django.test import AsyncClient  # noqa: E402

user_logged_in.receivers.clear()  # it writes the time into the database

LIMIT = 10
"""Seconds for each wait: a hundred times what any needs."""

seen: list[Any] = []
"""What the site's code has noted, in order."""


@pytest.fixture(autouse=True)
def nothing_seen() -> Iterator[None]:
    seen.clear()
    yield
    assert not asgi.signals.request_finished.receivers[4:], "a test has left a receiver"


# The site.


def sync_view(request: Any) -> HttpResponse:
    seen.append(threading.current_thread())
    return HttpResponse(f"sync {request.method}")


async def async_view(request: Any) -> HttpResponse:
    seen.append(threading.current_thread())
    return HttpResponse(f"async {request.method}")


def echo(request: Any) -> HttpResponse:
    seen.append(type(request._stream.stream if hasattr(request._stream, "stream") else None))
    return HttpResponse(request.body)


def upload(request: Any) -> HttpResponse:
    file = request.FILES["file"]
    return HttpResponse(f"{type(file).__name__} {file.size} {request.POST['note']}")


def async_stream(request: Any) -> StreamingHttpResponse:
    async def chunks() -> Any:
        for chunk in (b"one ", b"two"):
            yield chunk

    return StreamingHttpResponse(chunks())


def sync_stream(request: Any) -> StreamingHttpResponse:
    return StreamingHttpResponse(iter([b"one ", b"two"]))


def file(request: Any) -> FileResponse:
    with tempfile.NamedTemporaryFile(delete=False) as made:
        made.write(b"one two")
    return FileResponse(open(made.name, "rb"))


def fails(request: Any) -> HttpResponse:
    raise ValueError("of the view's")


def user(request: Any) -> HttpResponse:
    return HttpResponse(request.user.get_username())


async def async_user(request: Any) -> HttpResponse:
    return HttpResponse(request.user.get_username())


class Backend(RemoteUserBackend):
    """Users of no database."""

    def authenticate(self, request: Any, remote_user: str) -> Any:  # type: ignore[override]
        return User(pk=1, username=remote_user)

    async def aauthenticate(self, request: Any, remote_user: str) -> Any:  # type: ignore[override]
        return User(pk=1, username=remote_user)

    def get_user(self, user_id: int) -> Any:
        return User(pk=user_id, username="ada")


class Held:
    """Views that wait until a test lets them go on."""

    def __init__(self) -> None:
        self.has_begun = threading.Event()
        self.may_end = threading.Event()

    def sync(self, request: Any) -> HttpResponse:
        self.has_begun.set()
        assert self.may_end.wait(LIMIT)
        return HttpResponse("held")

    async def on_loop(self, request: Any) -> HttpResponse:
        self.has_begun.set()
        try:
            await asyncio.sleep(LIMIT)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        return HttpResponse("held")


held = Held()


def held_sync(request: Any) -> HttpResponse:
    return held.sync(request)


async def held_async(request: Any) -> HttpResponse:
    return await held.on_loop(request)


urlpatterns = [
    path("sync", sync_view),
    path("async", async_view),
    path("echo", echo),
    path("upload", upload),
    path("async-stream", async_stream),
    path("sync-stream", sync_stream),
    path("file", file),
    path("fails", fails),
    path("user", user),
    path("async-user", async_user),
    path("held-sync", held_sync),
    path("held-async", held_async),
]


class Swapped:
    """An urlconf where the path of the sync view leads to the async one, and vice versa."""

    urlpatterns = [path("sync", async_view), path("async", sync_view)]


def both_hooks(get_response: Any) -> Any:
    return Hooked(get_response)


class Hooked(MiddlewareMixin):
    def process_request(self, request: Any) -> None:
        seen.append("request")

    def process_response(self, request: Any, response: Any) -> Any:
        seen.append("response")
        return response


class HookedToo(Hooked):
    pass


class UrlconfOf(MiddlewareMixin):
    def process_request(self, request: Any) -> None:
        request.urlconf = Swapped


@sync_and_async_middleware
def either(get_response: Any) -> Any:
    """A middleware of which there are two instances, one in either chain."""
    if iscoroutinefunction(get_response):

        async def middleware(request: Any) -> Any:
            seen.append("async instance")
            return await get_response(request)

    else:

        def middleware(request: Any) -> Any:
            seen.append("sync instance")
            return get_response(request)

    return middleware


@sync_and_async_middleware
def not_used(get_response: Any) -> Any:
    raise MiddlewareNotUsed


@sync_and_async_middleware
def not_used_when_sync(get_response: Any) -> Any:
    if not iscoroutinefunction(get_response):
        raise MiddlewareNotUsed
    return either(get_response)


@sync_and_async_middleware
def not_used_when_async(get_response: Any) -> Any:
    if iscoroutinefunction(get_response):
        raise MiddlewareNotUsed
    return either(get_response)


DJANGOS = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]


def named(*middlewares: Any) -> list[str]:
    return [f"{__name__}.{each.__name__}" for each in middlewares]


# A client.


class Client:
    """One request of one client, message by message. On the loop."""

    def __init__(self, application: Any, path: str, *body: bytes, **headers: str) -> None:
        self.scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST" if body else "GET",
            "path": f"/{path}",
            "query_string": b"",
            "headers": [
                (name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()
            ],
        }
        self._application = application
        self._messages: asyncio.Queue[Any] = asyncio.Queue()
        for chunk in body:
            message = {"type": "http.request", "body": chunk, "more_body": True}
            self._messages.put_nowait(message)
        self._messages.put_nowait({"type": "http.request"})
        self.status = 0
        self.body = b""
        self.is_answered = asyncio.Event()

    def leave(self) -> None:
        self._messages.put_nowait({"type": "http.disconnect"})

    async def _send(self, message: Any) -> None:
        self.status = message.get("status", self.status)
        self.body += message.get("body", b"")
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self.is_answered.set()

    async def answered(self) -> bytes:
        """What came, when the application has ended."""
        await asyncio.wait_for(self._application(self.scope, self._messages.get, self._send), LIMIT)
        return self.body

    def start(self) -> asyncio.Task[bytes]:
        return asyncio.create_task(self.answered())


def ask(path: str, *body: bytes, by: type = ASGIHandler, **headers: str) -> bytes:
    """The body of the answer to one request."""

    async def main() -> bytes:
        return await Client(by(), path, *body, **headers).answered()

    return asyncio.run(main())


@contextmanager
def told(signal: Any, receiver: Callable[..., Any]) -> Iterator[None]:
    signal.connect(receiver)
    try:
        yield
    finally:
        signal.disconnect(receiver)


def submitted(application: Any, path: str) -> int:
    """How many calls a request submits, when the site is warm."""

    async def main() -> int:
        await Client(application, path).answered()
        before = workers.stats().submitted
        await Client(application, path).answered()
        return workers.stats().submitted - before

    return asyncio.run(main())


# Crossings.


@pytest.mark.parametrize("middlewares", [[], DJANGOS, [*DJANGOS, *named(either, Hooked)]], ids=len)
def test_a_sync_view_is_one_call(middlewares: list[str]) -> None:
    with override_settings(MIDDLEWARE=middlewares):
        assert submitted(ASGIHandler(), "sync") == 1


@pytest.mark.parametrize("path", ["sync", "fails", "no-such-path"])
def test_an_error_is_one_call(path: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "django.request")
    with override_settings(MIDDLEWARE=DJANGOS):
        assert submitted(ASGIHandler(), path) == 1


def test_what_is_closed_when_it_has_been_sent_is_one_call_more() -> None:
    with override_settings(MIDDLEWARE=DJANGOS):
        application = ASGIHandler()
        assert submitted(application, "async-stream") == 2
        # And one in which Django collects what a sync iterator yields.
        with pytest.warns(Warning, match="must consume synchronous iterators"):
            assert submitted(application, "sync-stream") == 3
        with pytest.warns(Warning, match="must consume synchronous iterators"):
            assert submitted(application, "file") == 3


@pytest.mark.parametrize("middlewares", [DJANGOS, [*DJANGOS, *named(Hooked, HookedToo)]], ids=len)
def test_an_async_view_with_sync_hooks_is_two_calls(middlewares: list[str]) -> None:
    with override_settings(MIDDLEWARE=middlewares):
        assert submitted(ASGIHandler(), "async") == 2


# The end of a request.


def test_a_slow_receiver_does_not_delay_the_response() -> None:
    may_end = threading.Event()

    def finished(**_: Any) -> None:
        assert may_end.wait(LIMIT)
        seen.append("finished")

    async def main() -> None:
        client = Client(ASGIHandler(), "sync")
        answering = client.start()
        await asyncio.wait_for(client.is_answered.wait(), LIMIT)
        assert "finished" not in seen
        may_end.set()
        assert await answering == b"sync GET"
        assert seen[-1] == "finished"

    with told(signals.request_finished, finished):
        asyncio.run(main())


def test_a_receiver_that_raises_loses_no_response() -> None:
    def finished(**_: Any) -> None:
        raise RuntimeError("of the receiver's")

    async def main() -> None:
        client = Client(ASGIHandler(), "sync")
        answering = client.start()
        with pytest.raises(RuntimeError, match="of the receiver's"):
            await answering
        assert client.is_answered.is_set()
        assert client.body == b"sync GET"

    with told(signals.request_finished, finished):
        asyncio.run(main())


class Finished:
    """Counts request_finished."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, **_: Any) -> None:
        self.times += 1


@pytest.mark.parametrize("path", ["sync", "async", "async-stream", "fails"])
def test_a_request_is_finished_once(path: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "django.request")
    finished = Finished()
    with told(signals.request_finished, finished):
        ask(path)
    assert finished.times == 1


@pytest.mark.parametrize("path", ["sync", "async", "async-stream", "fails"])
@pytest.mark.parametrize("is_worker_first", [True, False])
def test_a_client_that_left_before_the_view_gets_nothing(
    path: str, is_worker_first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Even where the worker has its result ready before the loop can tell who waits for it."""
    caplog.set_level(logging.CRITICAL, "django.request")
    finished = Finished()

    async def main() -> None:
        client = Client(ASGIHandler(), path)
        receive = client._messages.get
        before = workers.stats().finished

        async def receive_late() -> Any:
            message = await receive()
            deadline = time.monotonic() + LIMIT
            while is_worker_first and message["type"] == "http.disconnect":
                if workers.stats().finished > before:
                    break
                assert time.monotonic() < deadline
            return message

        client._messages.get = receive_late  # type: ignore[method-assign]
        client.leave()
        assert await client.answered() == b""
        assert client.status == 0

    with told(signals.request_finished, finished):
        asyncio.run(main())
    assert finished.times == 1


def test_a_client_that_leaves_cancels_an_async_view() -> None:
    finished = Finished()

    async def main() -> None:
        client = Client(ASGIHandler(), "held-async")
        answering = client.start()
        await asyncio.to_thread(held.has_begun.wait, LIMIT)
        client.leave()
        assert await answering == b""

    held.__init__()  # type: ignore[misc]
    with told(signals.request_finished, finished):
        asyncio.run(main())
    assert seen == ["cancelled"]
    assert finished.times == 1


def test_a_client_that_leaves_does_not_hold_a_sync_view_up() -> None:
    finished = Finished()

    async def main() -> None:
        client = Client(ASGIHandler(), "held-sync")
        answering = client.start()
        await asyncio.to_thread(held.has_begun.wait, LIMIT)
        client.leave()
        await asyncio.sleep(0)
        held.may_end.set()
        assert await answering == b""

    held.__init__()  # type: ignore[misc]
    with told(signals.request_finished, finished):
        asyncio.run(main())
    assert finished.times == 1


def test_a_client_that_leaves_while_a_receiver_runs_is_no_error() -> None:
    has_begun, may_end = threading.Event(), threading.Event()

    def slow(**_: Any) -> None:
        has_begun.set()
        assert may_end.wait(LIMIT)

    finished = Finished()

    async def main() -> None:
        client = Client(ASGIHandler(), "sync")
        answering = client.start()
        await asyncio.to_thread(has_begun.wait, LIMIT)
        client.leave()
        await asyncio.sleep(0)
        may_end.set()
        await answering

    with told(signals.request_finished, finished), told(signals.request_finished, slow):
        asyncio.run(main())
    assert finished.times == 1


def test_a_client_that_leaves_in_a_stream_ends_it() -> None:
    finished = Finished()

    async def main() -> None:
        client = Client(ASGIHandler(), "async-stream")
        send = client._send

        async def leave_after_first(message: Any) -> None:
            await send(message)
            if message.get("body"):
                client.leave()
                await asyncio.sleep(LIMIT)  # cancelled

        client._send = leave_after_first  # type: ignore[method-assign]
        assert await client.answered() == b"one "

    with told(signals.request_finished, finished):
        asyncio.run(main())
    assert finished.times == 1


def test_a_client_that_leaves_within_its_body_is_no_request() -> None:
    started = Finished()

    async def main() -> None:
        client = Client(ASGIHandler(), "echo")
        client._messages = asyncio.Queue()
        client._messages.put_nowait({"type": "http.request", "body": b"a", "more_body": True})
        client.leave()
        assert await client.answered() == b""

    with told(signals.request_started, started):
        asyncio.run(main())
    assert started.times == 0


# Which chain.


@pytest.mark.parametrize("middlewares", [(UrlconfOf,), (either, UrlconfOf), (UrlconfOf, either)])
def test_a_middleware_may_lead_to_another_view(middlewares: Any) -> None:
    with override_settings(MIDDLEWARE=named(*middlewares)):
        assert ask("sync") == b"async GET"
        assert ask("async") == b"sync GET"


def test_a_view_runs_where_it_would_under_django() -> None:
    with override_settings(MIDDLEWARE=named(either, UrlconfOf)):
        ask("sync")
        ask("async")
    threads = [each for each in seen if isinstance(each, threading.Thread)]
    assert threads[0] is threading.main_thread()
    assert threads[1] is not threading.main_thread()


@pytest.mark.parametrize("path", ["sync", "async"])
@pytest.mark.parametrize(
    "middlewares",
    [
        (not_used,),
        (not_used, Hooked),
        (Hooked, not_used),
        (Hooked, not_used, HookedToo),
        (not_used_when_sync, Hooked),
        (not_used_when_async, Hooked),
        (Hooked, not_used_when_sync),
        (Hooked, not_used_when_async, HookedToo),
        (either, not_used, Hooked),
        (not_used_when_sync, either, not_used_when_async),
    ],
    ids=lambda each: "-".join(middleware.__name__ for middleware in each),
)
def test_a_middleware_that_is_not_used_is_left_out(path: str, middlewares: Any) -> None:
    with override_settings(MIDDLEWARE=named(*middlewares)):
        assert ask(path) == f"{path} GET".encode()
    hooked = sum(each in (Hooked, HookedToo) for each in middlewares)
    assert seen.count("request") == seen.count("response") == hooked


@pytest.mark.parametrize("path", ["user", "async-user"])
def test_the_server_s_user_is_the_one_that_its_header_names(path: str) -> None:
    """RemoteUserMiddleware reads another header where it is sync."""
    middlewares = [
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.auth.middleware.RemoteUserMiddleware",
        *named(either),
    ]
    with override_settings(
        MIDDLEWARE=middlewares,
        AUTHENTICATION_BACKENDS=[f"{__name__}.Backend"],
        SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    ):
        assert ask(path, remote_user="ada") == b"ada"
        assert ask(path) == b""


# Other code's hooks.


class Noting(ASGIHandler):
    def create_request(self, scope: Any, body_file: Any) -> Any:
        seen.append("create_request")
        return super().create_request(scope, body_file)

    async def read_body(self, receive: Any) -> Any:
        seen.append("read_body")
        return await super().read_body(receive)

    async def send_response(self, response: Any, send: Any) -> None:
        seen.append("send_response")
        await super().send_response(response, send)


class RunGetResponse(ASGIHandler):
    async def run_get_response(self, request: Any) -> Any:
        seen.append("run_get_response")
        return await super().run_get_response(request)


class GetResponseAsync(ASGIHandler):
    async def get_response_async(self, request: Any) -> Any:
        seen.append("get_response_async")
        response = await super().get_response_async(request)
        response["X-Mine"] = "1"
        return response


class Handle(ASGIHandler):
    async def handle(self, scope: Any, receive: Any, send: Any) -> None:
        seen.append("handle")
        await super().handle(scope, receive, send)


class ListenForDisconnect(ASGIHandler):
    async def listen_for_disconnect(self, receive: Any) -> None:
        seen.append("listen_for_disconnect")
        await super().listen_for_disconnect(receive)


HANDLERS = {
    Noting: ["read_body", "create_request", "send_response"],
    RunGetResponse: ["run_get_response"],
    GetResponseAsync: ["get_response_async"],
    Handle: ["handle"],
    ListenForDisconnect: ["listen_for_disconnect"],
}


@pytest.mark.parametrize("path", ["sync", "async"])
@pytest.mark.parametrize("handler", HANDLERS)
def test_what_a_subclass_overrides_is_called(handler: Any, path: str) -> None:
    finished = Finished()
    with override_settings(MIDDLEWARE=DJANGOS), told(signals.request_finished, finished):
        assert ask(path, by=handler) == f"{path} GET".encode()
    assert [each for each in seen if isinstance(each, str)] == HANDLERS[handler]
    assert finished.times == 1


@pytest.mark.parametrize("path", ["sync", "async"])
@pytest.mark.parametrize(
    "name",
    [
        *("handle", "read_body", "send_response", "run_get_response", "listen_for_disconnect"),
        *("create_request", "get_response_async", "make_view_atomic", "resolve_request"),
        *("_get_response_async", "process_exception_by_middleware", "check_response"),
    ],
)
def test_what_an_agent_has_replaced_is_called(
    monkeypatch: pytest.MonkeyPatch, name: str, path: str
) -> None:
    owner = next(each for each in (djangos.ASGIHandler, base.BaseHandler) if name in vars(each))
    original = getattr(owner, name)

    if iscoroutinefunction(original):

        async def replaced(self: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append(name)
            return await original(self, *args, **kwargs)

    else:

        def replaced(self: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append(name)
            return original(self, *args, **kwargs)

    monkeypatch.setattr(owner, name, replaced)
    finished = Finished()
    with override_settings(MIDDLEWARE=DJANGOS), told(signals.request_finished, finished):
        assert ask(path) == f"{path} GET".encode()
    assert seen.count(name) == (0 if name.startswith("process_exception") else 1)
    assert finished.times == 1


@pytest.mark.parametrize("path", ["sync", "async"])
def test_an_agent_may_wrap_each_middleware(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """As Sentry does: it has its own import_string while a handler loads its middlewares."""
    load, import_string = base.BaseHandler.load_middleware, base.import_string

    def imported(name: str) -> Any:
        cls = import_string(name)

        class Wrapping(cls):  # type: ignore[misc, valid-type]
            def __call__(self, request: Any) -> Any:
                seen.append(name.split(".")[-1])
                return super().__call__(request)

        return Wrapping

    def load_middleware(self: Any, is_async: bool = False) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(base, "import_string", imported)
            load(self, is_async)

    monkeypatch.setattr(base.BaseHandler, "load_middleware", load_middleware)
    with override_settings(MIDDLEWARE=DJANGOS):
        assert ask(path) == f"{path} GET".encode()
    names = [name.split(".")[-1] for name in DJANGOS]
    assert [each for each in seen if each in names] == names


@pytest.mark.parametrize("path", ["sync", "async"])
def test_ours_in_the_place_of_djangos_is_no_agents(
    monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    with override_settings(MIDDLEWARE=DJANGOS):
        expected = submitted(ASGIHandler(), path)
        monkeypatch.setattr(djangos, "ASGIHandler", ASGIHandler)
        assert submitted(ASGIHandler(), path) == expected


def test_an_agent_may_replace_what_makes_an_error_a_response(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = exception.response_for_exception

    def replaced(request: Any, error: Exception) -> Any:
        seen.append(error)
        return original(request, error)

    monkeypatch.setattr(exception, "response_for_exception", replaced)
    with override_settings(MIDDLEWARE=DJANGOS):
        assert b"Not Found" in ask("no-such-path")
    assert len(seen) == 1


# Bodies.


class InSmallPieces(ASGIHandler):
    chunk_size = 1000


@pytest.mark.parametrize(
    ("by", "size", "messages"),
    [(ASGIHandler, 99_000, 1), (InSmallPieces, 2500, 3), (InSmallPieces, 0, 1)],
)
def test_in_how_many_messages_a_response_is_sent(by: type, size: int, messages: int) -> None:
    sizes: list[int] = []

    class Counting(Client):
        async def _send(self, message: Any) -> None:
            if message["type"] == "http.response.body":
                sizes.append(len(message["body"]))
            await super()._send(message)

    body = b"x" * size

    async def main() -> bytes:
        return await Counting(by(), "echo", body, content_length=str(size)).answered()

    assert asyncio.run(main()) == body
    assert (len(sizes), sum(sizes)) == (messages, size)


@pytest.mark.parametrize("size", [0, 1, 1000, 1001, 50_000])
@pytest.mark.parametrize("pieces", [1, 5])
def test_a_body_comes_whole(size: int, pieces: int) -> None:
    body = bytes(index % 256 for index in range(size))
    step = max(size // pieces, 1)
    chunks = [body[start : start + step] for start in range(0, size, step)] or [b""]
    assert ask("echo", *chunks, content_length=str(size)) == body


@pytest.mark.parametrize("size", [999, 1001, 50_000])
def test_an_upload_is_kept_where_django_keeps_it(size: int) -> None:
    body = (
        b'--end\r\nContent-Disposition: form-data; name="note"\r\n\r\na note\r\n'
        b'--end\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        + b"x" * size
        + b"\r\n--end--\r\n"
    )
    kind = "InMemoryUploadedFile" if len(body) <= 1000 else "TemporaryUploadedFile"
    answer = ask(
        "upload",
        body,
        content_type="multipart/form-data; boundary=end",
        content_length=str(len(body)),
    )
    assert answer == f"{kind} {size} a note".encode()


def test_a_body_that_is_too_big_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> int:
        client = Client(ASGIHandler(), "echo", b"x" * 100_001, content_length="100001")
        await client.answered()
        return client.status

    caplog.set_level(logging.CRITICAL, "django.security")
    assert asyncio.run(main()) in (400, 413)


# The client of tests.


def test_the_async_client_goes_through_the_same_chains() -> None:
    async def main() -> tuple[bytes, bytes]:
        client: Any = AsyncClient()
        return (await client.get("/sync")).content, (await client.get("/async")).content

    with override_settings(MIDDLEWARE=[*DJANGOS, *named(either)]):
        assert asyncio.run(main()) == (b"sync GET", b"async GET")
    assert [each for each in seen if isinstance(each, str)] == ["sync instance", "async instance"]
