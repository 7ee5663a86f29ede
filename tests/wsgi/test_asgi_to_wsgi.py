"""``AsgiToWsgi``: ASGI applications on WSGI servers."""

from __future__ import annotations

import array
import asyncio
import contextvars
import gc
import io
import logging
import os
import sys
import threading
import weakref
from wsgiref.validate import validator

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from asgibridge._wsgi.conversation import Conversation
from asgibridge.sync import sync_to_async
from asgibridge.wsgi import AsgiToWsgi, ClientDisconnected, WsgiToAsgi
from wsgi_tools import content, http_scope, parts, respond

WAIT = 10


def environ_for(path="/", method="GET", body=b"", **entries):
    environ = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    if body:
        environ["CONTENT_LENGTH"] = str(len(body))
    environ.update(entries)
    return environ


class Answer:
    def __init__(self):
        self.status = self.headers = None
        self.chunks = []

    def start_response(self, status, headers, exc_info=None):
        assert self.status is None
        self.status, self.headers = status, headers
        return self.chunks.append

    @property
    def body(self):
        return b"".join(self.chunks)


def get(application, path="/", **options):
    """One request, as a WSGI server makes it."""
    answer = Answer()
    result = application(environ_for(path, **options), answer.start_response)
    try:
        for chunk in result:
            answer.chunks.append(chunk)
    finally:
        if hasattr(result, "close"):
            result.close()
    return answer


def asgi(function):
    """An ASGI application with no lifespan."""

    async def application(scope, receive, send):
        assert scope["type"] == "http"
        await function(scope, receive, send)

    return application


def started(status=200, headers=((b"content-type", b"text/plain"),)):
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def part(body, more=False):
    return {"type": "http.response.body", "body": body, "more_body": more}


@asgi
async def hello(scope, receive, send):
    await send(started())
    await send(part(b"hello"))


@asgi
async def echo(scope, receive, send):
    await send(started())
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise RuntimeError(message["type"])
        await send(part(message["body"], True))
        if not message["more_body"]:
            break
    await send(part(b""))


@pytest.fixture
def adapt():
    """Makes adapters that are closed in the end."""
    made = []

    def adapter(application, **options):
        adapted = AsgiToWsgi(application, **options)
        made.append(adapted)
        return adapted

    yield adapter
    for each in made:
        each.close()


@pytest.fixture
def reported(caplog):
    """The messages that the loop's exception handler was given."""
    caplog.set_level(logging.ERROR, "asyncio")
    return lambda: [record.getMessage().splitlines()[0] for record in caplog.records]


# The response


def test_an_answer(adapt):
    answer = get(adapt(hello))
    assert answer.status == "200 OK"
    assert answer.headers == [("content-type", "text/plain")]
    assert answer.chunks == [b"hello"]


@pytest.mark.parametrize(
    ("status", "line"),
    [(200, "200 OK"), (404, "404 Not Found"), (299, "299 Unknown"), (999, "999 Unknown")],
)
def test_a_status_has_a_reason(adapt, status, line):
    @asgi
    async def application(scope, receive, send):
        await send(started(status))
        await send(part(b"body"))

    assert get(adapt(application)).status == line


def test_headers_are_latin_1_and_not_hop_by_hop(adapt):
    @asgi
    async def application(scope, receive, send):
        headers = [
            (b"x-city", b"Z\xfcrich"),
            (b"Transfer-Encoding", b"chunked"),
            (b"connection", b"close"),
            (b"set-cookie", b"a=1"),
            (b"set-cookie", b"b=2"),
        ]
        await send(started(200, headers))
        await send(part(b"body"))

    assert get(adapt(application)).headers == [
        ("x-city", "Zürich"),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
    ]


def test_chunks_stream_out_as_they_are_made(adapt):
    go_on = [threading.Event() for _ in range(3)]

    @asgi
    async def application(scope, receive, send):
        await send(started())
        for number, event in enumerate(go_on):
            await send(part(b"%d" % number, True))
            await asyncio.get_running_loop().run_in_executor(None, event.wait, WAIT)
        await send(part(b"end"))

    answer = Answer()
    chunks = iter(adapt(application)(environ_for(), answer.start_response))
    for number, event in enumerate(go_on):
        assert next(chunks) == b"%d" % number
        assert answer.status == "200 OK"
        event.set()
    assert list(chunks) == [b"end"]


def test_a_server_that_takes_its_time_holds_up_the_application(adapt):
    size = 10_000
    made = 0
    full = threading.Event()

    @asgi
    async def application(scope, receive, send):
        nonlocal made
        await send(started())
        asyncio.get_running_loop().call_later(0.05, full.set)  # by then it is held up
        for _ in range(500):
            made += 1
            await send(part(b"x" * size, True))
        await send(part(b""))

    chunks = iter(adapt(application)(environ_for(), Answer().start_response))
    taken = next(chunks)
    assert full.wait(WAIT)
    assert made * size < 400_000
    assert len(taken + b"".join(chunks)) == 500 * size


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_a_response_without_a_body_has_none(adapt, method, status):
    @asgi
    async def application(scope, receive, send):
        await send(started(status, [(b"content-length", b"6")]))
        await send(part(b"one", True))
        await send(part(b"two"))

    answer = get(adapt(application), method=method)
    assert answer.headers == [("content-length", "6")]
    assert answer.body == b""


# The request


def scope_for(adapt, **entries):
    scopes = []

    @asgi
    async def application(scope, receive, send):
        scopes.append(scope)
        await hello(scope, receive, send)

    get(adapt(application), **entries)
    return scopes[0]


def test_the_scope_of_a_full_environ(adapt):
    scope = scope_for(
        adapt,
        method="post",
        path="/Ã©",
        SCRIPT_NAME="/app",
        RAW_URI="/app/%C3%A9?q=1",
        QUERY_STRING="q=1",
        SERVER_PROTOCOL="HTTP/1.0",
        SERVER_NAME="example.org",
        SERVER_PORT="8443",
        REMOTE_ADDR="192.0.2.1",
        REMOTE_PORT="40000",
        CONTENT_TYPE="text/plain",
        CONTENT_LENGTH="",
        HTTP_CONTENT_TYPE="twice",
        HTTP_X_LATIN="\xe9",
        **{"wsgi.url_scheme": "https"},
    )
    headers = scope.pop("headers")
    assert sorted(headers) == [(b"content-type", b"text/plain"), (b"x-latin", b"\xe9")]
    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.0",
        "method": "POST",
        "scheme": "https",
        "path": "/app/é",
        "raw_path": b"/app/%C3%A9",
        "query_string": b"q=1",
        "root_path": "/app",
        "client": ("192.0.2.1", 40000),
        "server": ("example.org", 8443),
        "extensions": {},
    }


def test_the_raw_path_of_a_server_that_does_not_say_it(adapt):
    scope = scope_for(adapt, path="/a b/Ã©~;x")
    assert scope["raw_path"] == b"/a%20b/%C3%A9~;x"
    assert scope["path"] == "/a b/é~;x"
    assert (scope["client"], scope["root_path"]) == (None, "")


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 1_000_000])
def test_a_body_arrives_whole(adapt, size):
    body = os.urandom(size)
    assert get(adapt(echo), method="POST", body=body).body == body


@pytest.mark.parametrize("size", [0, 1, 200_000])
def test_a_chunked_body_arrives_whole(adapt, size):
    body = os.urandom(size)
    entries = {"wsgi.input": io.BytesIO(body), "wsgi.input_terminated": True}
    assert get(adapt(echo), method="POST", **entries).body == body
    entries = {"wsgi.input": io.BytesIO(body), "HTTP_TRANSFER_ENCODING": "Chunked"}
    assert get(adapt(echo), method="POST", **entries).body == body


def test_nothing_is_read_that_was_not_asked_for(adapt):
    class Input(io.BytesIO):
        reads = 0

        def read(self, *args):
            self.reads += 1
            return super().read(*args)

        read1 = read

    body = Input(b"x" * 300_000)
    get(adapt(hello), method="POST", CONTENT_LENGTH="300000", **{"wsgi.input": body})
    assert body.reads == 0

    # No length and no promise of an end: PEP 3333 lets nobody read.
    get(adapt(echo), method="POST", **{"wsgi.input": body})
    assert body.reads == 0

    @asgi
    async def reads_once(scope, receive, send):
        await receive()
        await hello(scope, receive, send)

    get(adapt(reads_once), method="POST", CONTENT_LENGTH="300000", **{"wsgi.input": body})
    assert body.reads == 1


def test_a_read_does_not_wait_for_more_than_there_is(adapt):
    # A client that sends the rest only when it has got an answer to the first part.
    reading, writing = os.pipe()
    received = []

    @asgi
    async def application(scope, receive, send):
        await send(started())
        for _ in range(2):
            message = await receive()
            received.append(message["body"])
            await send(part(message["body"], True))
        await send(part(b""))

    with open(reading, "rb") as body, open(writing, "wb", buffering=0) as client:
        client.write(b"12")
        entries = {"wsgi.input": body, "CONTENT_LENGTH": "4"}
        chunks = iter(adapt(application)(environ_for(**entries), Answer().start_response))
        assert next(chunks) == b"12"
        client.write(b"34")
        assert next(chunks) == b"34"
        assert list(chunks) == []
    assert received == [b"12", b"34"]


def test_a_body_that_breaks_off_is_a_client_that_left(adapt):
    messages = []

    @asgi
    async def application(scope, receive, send):
        while True:
            messages.append(await receive())
            if messages[-1]["type"] == "http.disconnect":
                return

    with pytest.raises(RuntimeError, match="ended without having sent a response"):
        get(adapt(application), body=b"12", CONTENT_LENGTH="5")
    assert [message["type"] for message in messages] == ["http.request", "http.disconnect"]


def test_an_input_that_fails_is_a_client_that_left(adapt):
    class Input:
        def read(self, size):
            raise ConnectionResetError

    with pytest.raises(RuntimeError, match=r"http\.disconnect"):
        get(adapt(echo), CONTENT_LENGTH="5", **{"wsgi.input": Input()})


@pytest.mark.parametrize(
    "entries",
    [
        {"CONTENT_LENGTH": "five"},
        {"CONTENT_LENGTH": "-5"},
        {"CONTENT_LENGTH": "\xb2"},
        {"PATH_INFO": "/€"},
        {"SERVER_PORT": "http"},
        {"HTTP_X": 5},
        {"REQUEST_METHOD": None},
    ],
)
def test_a_wrong_environ_is_named(adapt, entries):
    with pytest.raises(ValueError, match=r"CONTENT_LENGTH must be|environ is not what PEP 3333"):
        get(adapt(hello), **entries)


@pytest.mark.parametrize("value", ["one\r\nx-evil: 1", "one\nx-evil: 1", "one\0"])
@pytest.mark.parametrize("key", ["HTTP_X_TEST", "CONTENT_TYPE"])
def test_a_header_with_a_line_break_is_refused(adapt, key, value):
    answer = get(adapt(hello), **{key: value})
    assert (answer.status, answer.body) == (
        "400 Bad Request",
        b"This request has a malformed header.\n",
    )


def test_what_is_no_header_of_the_environ_is_left_out(adapt):
    seen = []

    @asgi
    async def application(scope, receive, send):
        seen.extend(scope["headers"])
        await hello(scope, receive, send)

    wrong = dict.fromkeys(
        ["HTTP_", "HTTP_X-USER", "HTTP_x_user", "HTTP_X USER", "HTTP_X:", "HTTP_X\r\n"], "forged"
    )
    for _ in range(2):  # the second time the names are known
        seen.clear()
        answer = get(adapt(application), HTTP_X_USER="alice", HTTP_X="2", **wrong)
        assert answer.body == b"hello"
        assert seen == [(b"x-user", b"alice"), (b"x", b"2")]


def test_a_websocket_is_refused_and_never_offered(adapt):
    answer = get(adapt(hello), HTTP_UPGRADE="WebSocket", HTTP_CONNECTION="Upgrade")
    assert answer.status == "400 Bad Request"
    assert b"no websockets" in answer.body


@pytest.mark.parametrize("body", [b"", b"x" * 100_000])
def test_the_standard_librarys_validator_finds_nothing(adapt, body):
    answer = Answer()
    environ = environ_for(body=body, method="POST", CONTENT_LENGTH=str(len(body)))
    result = validator(adapt(echo))(environ, answer.start_response)
    chunks = list(result)
    result.close()
    assert b"".join(chunks) == body


# Errors and ends


async def nothing(scope, receive, send):
    pass


async def only_start(scope, receive, send):
    await send(started())


async def half(scope, receive, send):
    await send(started())
    await send(part(b"half", True))


async def raises(scope, receive, send):
    raise LookupError("broken")


async def raises_after_start(scope, receive, send):
    await send(started())
    raise LookupError("broken")


async def raises_after_half(scope, receive, send):
    await half(scope, receive, send)
    raise LookupError("broken")


@pytest.mark.parametrize(
    ("function", "kind", "error", "begun"),
    [
        (nothing, RuntimeError, "ended without having sent a response", False),
        (only_start, RuntimeError, r"ended after http\.response\.start", False),
        (half, RuntimeError, "ended in the middle of its response", True),
        (raises, LookupError, "broken", False),
        (raises_after_start, LookupError, "broken", False),
        (raises_after_half, LookupError, "broken", True),
    ],
)
def test_an_application_that_gives_up(adapt, function, kind, error, begun, reported):
    answer = Answer()
    adapter = adapt(asgi(function))
    with pytest.raises(kind, match=error):
        for chunk in adapter(environ_for(), answer.start_response):
            answer.chunks.append(chunk)
    assert (answer.status is not None, bool(answer.chunks)) == (begun, begun)
    adapter.close()
    assert reported() == []


@pytest.mark.parametrize(
    ("message", "kind", "error"),
    [
        ({"type": "http.response.body"}, RuntimeError, "before 'http.response.start'"),
        ({"type": "websocket.accept"}, ValueError, "'websocket.accept': on a WSGI server"),
        ({"type": "http.response.start"}, ValueError, "int as 'status', not None"),
        ({"type": "http.response.start", "status": "200"}, ValueError, "int as 'status'"),
        (started(200, [("a", "b")]), ValueError, r"pairs of bytes .*\('a', 'b'\)"),
        (started(200, [(b"a", b"b\r\nc: d")]), ValueError, "without line breaks"),
        (started(200, [b"a"]), ValueError, "pairs of bytes"),
        ({}, TypeError, "a dict with a 'type'"),
        (None, TypeError, "a dict with a 'type'"),
    ],
)
def test_a_wrong_message_is_an_error_in_the_application(adapt, message, kind, error):
    @asgi
    async def application(scope, receive, send):
        await send(message)

    with pytest.raises(kind, match=error):
        get(adapt(application))


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([started(), started()], r"second 'http\.response\.start'"),
        ([started(), part("text")], "'body' must be bytes, not 'text'"),
    ],
)
def test_a_wrong_second_message_too(adapt, messages, error):
    @asgi
    async def application(scope, receive, send):
        for message in messages:
            await send(message)

    with pytest.raises((RuntimeError, TypeError), match=error):
        get(adapt(application))


def test_the_traceback_shows_where_the_application_failed(adapt):
    with pytest.raises(LookupError) as caught:
        get(adapt(asgi(raises)))
    assert caught.traceback[-1].name == "raises"


@pytest.mark.parametrize("wait", [0, None, WAIT])
def test_work_after_the_response_goes_on(adapt, wait):
    finish = threading.Event()
    finished = threading.Event()

    @asgi
    async def application(scope, receive, send):
        await hello(scope, receive, send)
        assert (await receive())["type"] == "http.disconnect"
        await asyncio.get_running_loop().run_in_executor(None, finish.wait, WAIT)
        finished.set()

    adapter = adapt(application, wait=wait)
    if wait != 0:
        finish.set()
    assert get(adapter).body == b"hello"
    if wait != 0:
        assert finished.is_set()
    finish.set()
    assert finished.wait(WAIT)


def test_an_error_after_the_response_is_reported(adapt, reported):
    @asgi
    async def application(scope, receive, send):
        await hello(scope, receive, send)
        raise LookupError("late")

    adapter = adapt(application, wait=WAIT)
    assert get(adapter).body == b"hello"
    adapter.close()
    assert reported() == ["the ASGI application raised after its response"]


def test_a_message_after_the_response_is_an_error(adapt, reported):
    errors = []

    @asgi
    async def application(scope, receive, send):
        await hello(scope, receive, send)
        try:
            await send(part(b"more"))
        except RuntimeError as error:
            errors.append(str(error))

    get(adapt(application, wait=WAIT))
    assert errors == ["send() got 'http.response.body' after the response was complete"]


@pytest.mark.parametrize("how", ["close", "dropped"])
@pytest.mark.parametrize("doing", ["sending", "receiving", "held up"])
def test_a_response_that_the_server_breaks_off(adapt, how, doing, reported):
    seen = []
    over = threading.Event()
    waiting = threading.Event()

    @asgi
    async def application(scope, receive, send):
        await send(started())
        await send(part(b"first", True))
        try:
            if doing == "receiving":
                seen.append((await receive())["type"])
                asyncio.get_running_loop().call_soon(waiting.set)
                seen.append((await receive())["type"])
            else:
                if doing == "sending":
                    await receive()
                    await receive()
                asyncio.get_running_loop().call_later(0.02, waiting.set)
                while True:
                    await send(part(b"x" * 50_000, True))
        except ClientDisconnected as error:
            seen.append(error)
            raise
        finally:
            over.set()

    adapter = adapt(application)
    response = adapter(environ_for(), Answer().start_response)
    assert next(iter(response)) == b"first"
    if doing != "sending":
        assert waiting.wait(WAIT)
    if how == "close":
        response.close()
        response.close()
        assert list(response) == []
    else:
        reference = weakref.ref(response)
        del response
        gc.collect()
        assert reference() is None
    assert over.wait(WAIT)
    if doing == "receiving":
        assert seen == ["http.request", "http.disconnect"]
    else:
        assert [type(each) for each in seen] == [ClientDisconnected]
    adapter.close()
    assert reported() == []


@pytest.mark.parametrize("through", ["nothing", "middleware"])
@pytest.mark.parametrize("how", ["close", "dropped"])
def test_a_stream_of_starlettes_that_has_nothing_to_send_ends_with_its_client(
    adapt, how, through, reported
):
    over = threading.Event()

    async def stream():
        try:
            yield b"first"
            await asyncio.get_running_loop().create_future()
        finally:
            over.set()

    async def route(request):
        return StreamingResponse(stream())

    async def pass_on(request, call_next):
        return await call_next(request)

    middleware = [Middleware(BaseHTTPMiddleware, dispatch=pass_on)]
    adapter = adapt(
        Starlette(
            routes=[Route("/", route)], middleware=middleware if through == "middleware" else []
        )
    )
    response = adapter(environ_for(), Answer().start_response)
    assert next(iter(response)) == b"first"
    if how == "close":
        response.close()
    else:
        del response
        gc.collect()
    assert over.wait(WAIT)
    adapter.close()
    assert reported() == []


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_body_may_be_anything_like_bytes(adapt, kind):
    @asgi
    async def application(scope, receive, send):
        buffer = bytearray(b"hello")
        await send(started())
        await send(part(kind(buffer), True))
        buffer[:] = b"later"  # what was sent is what it was
        await send(part(memoryview(array.array("H", [1, 2])), True))  # more bytes than items
        await send(part(kind(b"")))

    answer = get(adapt(application))
    assert answer.body == b"hello" + array.array("H", [1, 2]).tobytes()
    assert {type(chunk) for chunk in answer.chunks} == {bytes}


@pytest.mark.parametrize("kind", [bytes, memoryview])
def test_a_body_of_starlettes_may_be_anything_like_bytes(adapt, kind):
    answer = get(adapt(Response(kind(b"hello"))))
    assert (answer.status, answer.body) == ("200 OK", b"hello")


def test_an_error_that_nobody_took_is_reported(adapt, reported):
    failed = threading.Event()

    @asgi
    async def application(scope, receive, send):
        await send(started())
        await send(part(b"first", True))
        try:
            raise LookupError("unheard")
        finally:
            asyncio.get_running_loop().call_soon(failed.set)

    adapter = adapt(application)
    response = adapter(environ_for(), Answer().start_response)
    assert next(iter(response)) == b"first"
    assert failed.wait(WAIT)
    response.close()
    adapter.close()
    assert reported() == ["the ASGI application raised after the client had disconnected"]


def test_start_response_that_fails_ends_the_application(adapt):
    over = threading.Event()

    @asgi
    async def application(scope, receive, send):
        try:
            await send(started())
            await send(part(b"1", True))
            assert (await receive())["type"] == "http.request"
            assert (await receive())["type"] == "http.disconnect"
        finally:
            over.set()

    def start_response(status, headers, exc_info=None):
        raise LookupError("start_response")

    with pytest.raises(LookupError, match="start_response"):
        adapt(application)(environ_for(), start_response)
    assert over.wait(WAIT)


# Lifespan, loop, threads


def with_lifespan(events, *, startup="complete", shutdown="complete"):
    async def application(scope, receive, send):
        if scope["type"] == "http":
            scope["state"]["mine"] = True
            events.append(sorted(scope["state"]))
            await hello(scope, receive, send)
            return
        assert scope["type"] == "lifespan"
        events.append((await receive())["type"])
        scope["state"]["shared"] = 1
        await send({"type": f"lifespan.startup.{startup}", "message": "no database"})
        events.append((await receive())["type"])
        await send({"type": f"lifespan.shutdown.{shutdown}", "message": "no end"})

    return application


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_a_lifespan_begins_with_the_first_request_and_ends_with_close(adapt, mode):
    events = []
    adapter = adapt(with_lifespan(events), lifespan=mode)
    assert events == []
    get(adapter)
    get(adapter)
    adapter.close()
    assert events == [
        "lifespan.startup",
        ["mine", "shared"],
        ["mine", "shared"],
        "lifespan.shutdown",
    ]
    get(adapter)
    assert events[4:] == ["lifespan.startup", ["mine", "shared"]]


def test_no_lifespan_where_it_is_off(adapt):
    kinds = []

    async def application(scope, receive, send):
        kinds.append(scope["type"])
        assert "state" not in scope
        await hello(scope, receive, send)

    get(adapt(application, lifespan="off"))
    assert kinds == ["http"]


async def asserts(scope, receive, send):
    assert scope["type"] == "http"
    await hello(scope, receive, send)


async def returns(scope, receive, send):
    if scope["type"] == "http":
        await hello(scope, receive, send)


async def answers_anything(scope, receive, send):
    await send(started())
    await send(part(b"hello"))


@pytest.mark.parametrize("application", [asserts, returns, answers_anything])
def test_an_application_without_lifespan(adapt, application, reported):
    assert get(adapt(application)).body == b"hello"
    adapter = adapt(application, lifespan="on")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="could not be started"):
            get(adapter)
    adapter.close()
    assert reported() == []


def test_a_startup_that_fails_fails_every_request(adapt):
    events = []
    adapter = adapt(with_lifespan(events, startup="failed"))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="could not be started: no database"):
            get(adapter)
    assert events == ["lifespan.startup"]


def test_a_shutdown_that_fails_is_reported(adapt, reported):
    adapter = adapt(with_lifespan([], shutdown="failed"))
    get(adapter)
    adapter.close()
    assert reported() == ["the ASGI application's shutdown failed: no end"]


def test_a_lifespan_that_dies_is_reported(adapt, reported):
    died = threading.Event()

    async def application(scope, receive, send):
        if scope["type"] == "http":
            await hello(scope, receive, send)
            return
        await receive()
        await send({"type": "lifespan.startup.complete"})
        asyncio.get_running_loop().call_soon(died.set)
        raise LookupError("dead")

    adapter = adapt(application)
    get(adapter)
    assert died.wait(WAIT)
    adapter.close()
    assert reported() == ["the ASGI application's lifespan has died"]


def test_a_shutdown_that_does_not_end_is_not_waited_for(adapt, reported, monkeypatch):
    monkeypatch.setattr("asgibridge._wsgi.service.SHUTDOWN_SECONDS", 0.01)

    async def application(scope, receive, send):
        if scope["type"] == "http":
            await hello(scope, receive, send)
            return
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await asyncio.get_running_loop().create_future()

    adapter = adapt(application)
    get(adapter)
    adapter.close()
    assert reported() == [
        "the ASGI application did not answer lifespan.shutdown within 0.01 seconds"
    ]


async def reads_any_scope(scope, receive, send):
    while True:
        message = await receive()
        if message["type"] == "http.request" and not message["more_body"]:
            break
    assert "state" not in scope
    await hello(scope, receive, send)


async def polls_for_more(scope, receive, send):
    if scope["type"] == "http":
        await hello(scope, receive, send)
        return
    await receive()
    while True:
        try:
            await asyncio.wait_for(receive(), 0.001)
        except asyncio.TimeoutError:
            pass


@pytest.mark.timeout(30)
@pytest.mark.parametrize("application", [reads_any_scope, polls_for_more])
def test_an_application_that_never_answers_its_lifespan_is_served_without(
    adapt, application, caplog
):
    adapter = adapt(application, lifespan_timeout=0.05)
    for _ in range(2):
        assert get(adapter).body == b"hello"
    adapter.close()
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("asgibridge.wsgi", "WARNING")
    assert "not answered lifespan.startup within 0.05 seconds" in record.getMessage()
    assert "lifespan='off'" in record.getMessage()


@pytest.mark.timeout(30)
def test_an_application_that_never_answers_the_lifespan_it_must_have_fails(adapt):
    adapter = adapt(reads_any_scope, lifespan="on", lifespan_timeout=0.05)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="it has no lifespan"):
            get(adapter)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("mode", ["auto", "on"])
def test_an_application_that_is_still_starting_is_waited_for(adapt, mode, caplog):
    warned = threading.Event()

    class Handler(logging.Handler):
        def emit(self, record):
            warned.set()

    async def application(scope, receive, send):
        if scope["type"] == "http":
            await send(started())
            await send(part(scope["state"]["model"]))
            return
        await receive()
        while not warned.is_set():
            await asyncio.sleep(0)
        scope["state"]["model"] = b"loaded"
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    handler = Handler()
    logging.getLogger("asgibridge.wsgi").addHandler(handler)
    try:
        assert get(adapt(application, lifespan=mode, lifespan_timeout=0.05)).body == b"loaded"
    finally:
        logging.getLogger("asgibridge.wsgi").removeHandler(handler)
    assert "requests wait for it" in caplog.text
    assert "runs without" not in caplog.text


@pytest.mark.parametrize("timeout", [0, -1, "10", float("nan")])
def test_a_wrong_time_for_the_lifespan_is_refused(timeout):
    with pytest.raises(ValueError, match="must be a number of seconds above 0, or None"):
        AsgiToWsgi(hello, lifespan_timeout=timeout)


def test_without_a_time_limit_a_lifespan_is_a_lifespan(adapt):
    events = []
    get(adapt(with_lifespan(events), lifespan_timeout=None))
    assert events[:2] == ["lifespan.startup", ["mine", "shared"]]


def test_a_wrong_mode_is_refused():
    with pytest.raises(ValueError, match="must be one of auto, on, off"):
        AsgiToWsgi(hello, lifespan="sometimes")


def test_one_loop_on_one_thread_for_all(adapt):
    seen = []
    barrier = asyncio.Barrier(4) if hasattr(asyncio, "Barrier") else None

    @asgi
    async def application(scope, receive, send):
        seen.append((threading.current_thread(), asyncio.get_running_loop()))
        if barrier is not None:
            await barrier.wait()
        await hello(scope, receive, send)

    adapter = adapt(application)
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(get(adapter).body)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert answers == [b"hello"] * 4
    assert len(set(seen)) == 1
    worker = seen[0][0]
    assert not worker.daemon
    adapter.close()
    assert not worker.is_alive()
    assert seen[0][1].is_closed()


def test_a_dropped_adapter_ends_its_thread():
    threads = []

    @asgi
    async def application(scope, receive, send):
        threads.append(threading.current_thread())
        await hello(scope, receive, send)

    adapter = AsgiToWsgi(application)
    get(adapter)
    del adapter
    gc.collect()
    threads[0].join(WAIT)
    assert not threads[0].is_alive()


def test_closing_while_requests_wait_for_an_answer(adapt):
    entered = threading.Event()
    errors = []

    @asgi
    async def application(scope, receive, send):
        entered.set()
        await asyncio.get_running_loop().create_future()

    adapter = adapt(application)

    def request():
        try:
            get(adapter)
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=request)
    thread.start()
    assert entered.wait(WAIT)
    adapter.close()
    thread.join(WAIT)
    assert errors == [
        "the ASGI application was cancelled without having sent a response: is the process ending?"
    ]


@pytest.mark.parametrize("is_noticed", [True, False])
def test_a_request_that_comes_while_the_service_ends(adapt, reported, monkeypatch, is_noticed):
    stopping, begun, errors = threading.Event(), threading.Event(), []

    async def application(scope, receive, send):
        if scope["type"] == "http":
            await hello(scope, receive, send)
            return
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        stopping.set()
        assert begun.wait(WAIT)
        await send({"type": "lifespan.shutdown.complete"})

    adapter = adapt(application)
    get(adapter)
    service = adapter._loop_thread.service()
    take = Conversation.take

    def noted(self):
        begun.set()
        return take(self)

    monkeypatch.setattr(Conversation, "take", noted)
    if not is_noticed:  # as if its callback had come too late to be called at all
        monkeypatch.setattr(Conversation, "_start", lambda self: None)

    def request():
        try:
            get(adapter)
        except RuntimeError as error:
            errors.append(str(error))

    service.close()
    assert stopping.wait(WAIT)
    thread = threading.Thread(target=request)
    thread.start()
    thread.join(WAIT)
    assert not thread.is_alive()
    assert [error.partition(":")[0] for error in errors] == [
        "the ASGI application was cancelled without having sent a response"
    ]
    service.worker.join(WAIT)
    assert service.conversations == set()
    assert reported() == []


def test_context_variables_of_the_servers_thread_are_seen(adapt):
    variable = contextvars.ContextVar("variable", default="unset")
    seen = []

    @asgi
    async def application(scope, receive, send):
        seen.append(variable.get())
        variable.set("application")
        seen.append(await sync_to_async(variable.get)())
        await hello(scope, receive, send)

    variable.set("server")
    get(adapt(application))
    assert (seen, variable.get()) == (["server", "application"], "server")


def test_called_on_its_own_loop_it_says_that_it_would_deadlock(adapt):
    @asgi
    async def application(scope, receive, send):
        get(adapter)

    adapter = adapt(application)
    with pytest.raises(RuntimeError, match="would deadlock"):
        get(adapter)


def test_an_asgi_2_application(adapt):
    def application(scope):
        async def instance(receive, send):
            await hello(scope, receive, send)

        return instance

    assert get(adapt(application)).body == b"hello"


@pytest.mark.asyncio
async def test_there_and_back_again():
    body = os.urandom(300_000)
    both = WsgiToAsgi(AsgiToWsgi(echo))
    waiting = parts(*(body[at : at + 70_000] for at in range(0, len(body), 70_000)))
    sent = []

    async def receive():
        return waiting.pop(0)

    async def send(message):
        sent.append(message)

    headers = [(b"content-length", b"300000")]
    await both(http_scope(method="POST", headers=headers), receive, send)
    assert content(sent) == body
    both.wsgi_application.close()


@pytest.mark.asyncio
async def test_validated_on_both_sides():
    adapter = AsgiToWsgi(echo)
    scope = http_scope(method="POST", headers=[(b"content-length", b"5")])
    application = validator(adapter)
    sent = await respond(application, scope=scope, messages=parts(b"12", b"345"))
    assert content(sent) == b"12345"
    adapter.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_has_a_loop_of_its_own(script_output):
    source = """
        import os, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # of 3.12: fork with threads
        from asgibridge.wsgi import AsgiToWsgi

        async def application(scope, receive, send):
            if scope["type"] == "lifespan":
                await receive()
                print("startup", os.getpid() == parent, flush=True)
                await send({"type": "lifespan.startup.complete"})
                await receive()
                print("shutdown", os.getpid() == parent, flush=True)
                await send({"type": "lifespan.shutdown.complete"})
                return
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"hello"})

        parent = os.getpid()
        adapter = AsgiToWsgi(application)

        def get():
            environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/"}
            assert b"".join(adapter(environ, lambda status, headers: None)) == b"hello"

        get()
        # A forked child that ends in the usual way would wait for the watchdog's thread.
        faulthandler.cancel_dump_traceback_later()
        child = os.fork()
        get()
        if not child:
            raise SystemExit
        assert os.waitpid(child, 0)[1] == 0
    """
    assert script_output(source).splitlines() == [
        "startup True",
        "startup False",
        "shutdown False",
        "shutdown True",
    ]


@pytest.mark.skipif(
    (3, 12) <= sys.version_info < (3, 12, 2),
    reason="3.12.0 and 3.12.1 start no thread after main has ended (CPython #113964)",
)
def test_at_exit_the_lifespan_ends_and_may_still_use_threads(script_output):
    source = """
        import asyncio
        from asgibridge.sync import sync_to_async
        from asgibridge.wsgi import AsgiToWsgi

        async def application(scope, receive, send):
            if scope["type"] == "lifespan":
                await receive()
                await send({"type": "lifespan.startup.complete"})
                await receive()
                await asyncio.get_running_loop().run_in_executor(None, print, "executor")
                await sync_to_async(print)("thread-sensitive")
                await sync_to_async(print, thread_sensitive=False)("not")
                await send({"type": "lifespan.shutdown.complete"})
                return
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"hello"})
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                print("cancelled")

        adapter = AsgiToWsgi(application)
        adapter({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, lambda status, headers: None)
    """
    assert script_output(source).splitlines() == [
        "executor",
        "thread-sensitive",
        "not",
        "cancelled",
    ]


@pytest.mark.skipif(
    (3, 12) <= sys.version_info < (3, 12, 2),
    reason="3.12.0 and 3.12.1 start no thread after main has ended (CPython #113964)",
)
def test_at_exit_a_thread_of_anyios_is_not_waited_for(script_output):
    """It waits for the end of the loop, which used to wait for it: sync code of Starlette's."""
    source = """
        import asyncio, threading
        import anyio.to_thread
        from asgibridge.wsgi import AsgiToWsgi

        async def application(scope, receive, send):
            if scope["type"] == "lifespan":
                await receive()
                await send({"type": "lifespan.startup.complete"})
                await receive()
                print("ended")
                await send({"type": "lifespan.shutdown.complete"})
                return
            thread = await anyio.to_thread.run_sync(threading.current_thread)
            assert not thread.daemon
            # Nor for one of a pool's, which ends only after this.
            await asyncio.get_running_loop().run_in_executor(None, print, "executor")
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"hello"})

        adapter = AsgiToWsgi(application)
        print(*adapter({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, lambda status, headers: None))
    """
    assert script_output(source).splitlines() == ["executor", "b'hello'", "ended"]
