"""``WsgiToAsgi``: PEP 3333's corners, and the ends that are no happy ones."""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from wsgiref.validate import validator

import pytest

from asgibridge.sync import sync_to_async
from asgibridge.wsgi import WsgiToAsgi, WsgiToAsgiInstance

END = {"type": "http.response.body"}
EMPTY_REQUEST = {"type": "http.request"}


class ClientGone(Exception):
    pass


class Chunks:
    """A WSGI result that counts how often it is closed; an exception among the chunks is raised."""

    def __init__(self, *chunks):
        self.chunks = iter(chunks)
        self.closed = 0

    def __iter__(self):
        return self

    def __next__(self):
        chunk = next(self.chunks)
        if isinstance(chunk, Exception):
            raise chunk
        return chunk

    def close(self):
        self.closed += 1


def http_scope(**entries):
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": "/",
        "query_string": b"",
        "headers": [],
    }
    scope.update(entries)
    return scope


def start(status=200, headers=()):
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(chunk):
    return {"type": "http.response.body", "body": chunk, "more_body": True}


async def respond(wsgi_application, *, scope=None, messages=(EMPTY_REQUEST,), send=None, **options):
    """Serves one request and returns the messages sent."""
    waiting = list(messages)
    sent = []

    async def receive():
        return waiting.pop(0)

    async def keep(message):
        sent.append(message)

    application = WsgiToAsgi(wsgi_application, **options)
    await application(http_scope() if scope is None else scope, receive, send or keep)
    return sent


def answering(result, status="200 OK", headers=()):
    def wsgi_application(environ, start_response):
        start_response(status, list(headers))
        return result

    return wsgi_application


def environ_of(**entries):
    scope = http_scope(**entries)
    return WsgiToAsgiInstance(None).build_environ(scope, None)


# The result is closed


@pytest.mark.asyncio
async def test_the_result_is_closed_after_the_last_chunk():
    chunks = Chunks(b"one", b"two")
    assert await respond(answering(chunks)) == [start(), body(b"one"), body(b"two"), END]
    assert chunks.closed == 1


@pytest.mark.asyncio
async def test_the_result_is_closed_when_it_raises():
    chunks = Chunks(b"one", LookupError("broken"))
    with pytest.raises(LookupError, match="broken"):
        await respond(answering(chunks))
    assert chunks.closed == 1


@pytest.mark.asyncio
async def test_the_result_is_closed_when_the_client_has_gone():
    async def send(message):
        raise ClientGone

    chunks = Chunks(b"one")
    with pytest.raises(ClientGone):
        await respond(answering(chunks), send=send)
    assert chunks.closed == 1


@pytest.mark.asyncio
async def test_the_result_is_closed_when_content_length_is_reached():
    chunks = Chunks(b"1234", b"never asked for")
    sent = await respond(answering(chunks, headers=[("Content-Length", "4")]))
    assert sent == [start(headers=[(b"content-length", b"4")]), body(b"1234"), END]
    assert chunks.closed == 1


@pytest.mark.asyncio
async def test_a_generator_is_closed_on_the_thread_it_ran_on():
    threads = []

    def wsgi_application(environ, start_response):
        start_response("200 OK", [("Content-Length", "1")])
        threads.append(threading.get_ident())
        try:
            yield b"1"
            yield b"never asked for"
        finally:
            threads.append(threading.get_ident())

    await respond(wsgi_application)
    thread_sensitive_thread = await sync_to_async(threading.get_ident)()
    assert threads == [thread_sensitive_thread] * 2
    assert thread_sensitive_thread != threading.get_ident()


# start_response


@pytest.mark.parametrize("status", ["204", "204 ", "204 No Content"])
@pytest.mark.asyncio
async def test_a_status_needs_no_reason(status):
    assert await respond(answering([], status)) == [start(204), END]


@pytest.mark.parametrize("status", ["", "OK", "OK 200"])
@pytest.mark.asyncio
async def test_a_status_without_a_number_is_named(status):
    with pytest.raises(ValueError, match=f"status like '200 OK' and was given '{status}'"):
        await respond(answering([], status))


@pytest.mark.asyncio
async def test_header_values_are_latin_1():
    sent = await respond(answering([], headers=[("X-City", "Zürich")]))
    assert sent == [start(headers=[(b"x-city", b"Z\xfcrich")]), END]


@pytest.mark.parametrize("after_start", [False, True])
@pytest.mark.asyncio
async def test_a_second_start_response_needs_exc_info(after_start):
    def wsgi_application(environ, start_response):
        start_response("200 OK", [])
        if after_start:
            yield b"sent"
        start_response("201 Created", [])

    with pytest.raises(ValueError, match=r"second time.*exc_info=sys\.exc_info\(\)"):
        await respond(wsgi_application)


@pytest.mark.asyncio
async def test_an_error_after_the_start_is_raised_again_as_it_was():
    def fail():
        raise LookupError("the real reason")

    def wsgi_application(environ, start_response):
        start_response("200 OK", [])
        yield b"sent"
        try:
            fail()
        except LookupError:
            start_response("500 Server Error", [], sys.exc_info())

    with pytest.raises(LookupError, match="the real reason") as raised:
        await respond(wsgi_application)
    assert traceback.extract_tb(raised.value.__traceback__)[-1].name == "fail"


@pytest.mark.asyncio
async def test_an_error_before_the_start_replaces_the_answer():
    def wsgi_application(environ, start_response):
        start_response("200 OK", [("Content-Length", "5")])
        try:
            raise LookupError
        except LookupError:
            start_response("500 Server Error", [("X-Failed", "yes")], sys.exc_info())
        return [b"longer than five"]

    sent = await respond(wsgi_application)
    assert sent == [start(500, [(b"x-failed", b"yes")]), body(b"longer than five"), END]


@pytest.mark.parametrize("result", [[], [b"chunk"]])
@pytest.mark.asyncio
async def test_an_answer_without_start_response_is_named(result):
    with pytest.raises(RuntimeError, match=r"without having called start_response\(\)"):
        await respond(lambda environ, start_response: result)


# write()


@pytest.mark.asyncio
async def test_written_chunks_go_out_before_the_returned_ones():
    sent = []

    async def send(message):
        sent.append(message)

    def wsgi_application(environ, start_response):
        write = start_response("200 OK", [])
        assert sent == []
        write(b"one")
        assert sent == [start(), body(b"one")]
        write(b"two")
        return [b"three"]

    await respond(wsgi_application, send=send)
    assert sent == [start(), body(b"one"), body(b"two"), body(b"three"), END]


@pytest.mark.asyncio
async def test_written_and_returned_chunks_share_one_content_length():
    def wsgi_application(environ, start_response):
        write = start_response("200 OK", [("Content-Length", "5")])
        write(b"123")
        return [b"4567", b"never asked for"]

    sent = await respond(wsgi_application)
    assert sent == [start(headers=[(b"content-length", b"5")]), body(b"123"), body(b"45"), END]


# The request


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param([], id="at-once"),
        pytest.param([{"type": "http.request", "body": b"1", "more_body": True}], id="midway"),
    ],
)
@pytest.mark.asyncio
async def test_a_client_that_leaves_early_is_forgotten_quietly(messages):
    called = []
    sent = await respond(
        lambda *arguments: called.append(arguments),
        messages=[*messages, {"type": "http.disconnect"}],
    )
    assert sent == []
    assert called == []


@pytest.mark.asyncio
async def test_other_messages_are_named():
    with pytest.raises(ValueError, match=r"http\.request .* got 'websocket\.receive'"):
        await respond(answering([]), messages=[{"type": "websocket.receive"}])


@pytest.mark.asyncio
async def test_other_scopes_are_named():
    with pytest.raises(ValueError, match=r"HTTP only.* 'websocket'"):
        await respond(answering([]), scope={"type": "websocket"})


@pytest.mark.asyncio
async def test_a_large_body_arrives_whole():
    def wsgi_application(environ, start_response):
        start_response("200 OK", [])
        return [environ["wsgi.input"].read()]

    parts = [b"a" * 50_000, b"b" * 50_000, b""]
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    sent = await respond(wsgi_application, messages=[*messages, EMPTY_REQUEST])
    assert sent == [start(), body(b"".join(parts)), END]


@pytest.mark.asyncio
async def test_a_header_may_be_repeated_up_to_the_limit():
    headers = [(b"x-one", b"1"), (b"x-two", b"2")] * 3

    assert await respond(
        answering([]), scope=http_scope(headers=headers), duplicate_header_limit=3
    ) == [start(), END]
    refused = await respond(
        answering([]), scope=http_scope(headers=headers), duplicate_header_limit=2
    )
    assert refused[0]["status"] == 400


def test_too_many_of_a_header_are_named():
    instance = WsgiToAsgiInstance(None, duplicate_header_limit=1)
    scope = http_scope(headers=[(b"x-test", b"1"), (b"x-test", b"2")])
    with pytest.raises(ValueError, match="HTTP_X_TEST is repeated more than 1 times"):
        instance.build_environ(scope, None)


def test_the_environ_of_a_full_scope():
    request_body = object()
    scope = http_scope(
        method="POST",
        scheme="https",
        root_path="/app",
        path="/app/é",
        query_string=b"q=%C3%A9&raw=\xe9",
        server=("example.org", 8443),
        client=("192.0.2.1", 40000),
        headers=[
            (b"host", b"example.org:8443"),
            (b"content-type", b"text/plain"),
            (b"content-length", b"3"),
            (b"x-latin", b"\xe9"),
        ],
    )
    environ = WsgiToAsgiInstance(None).build_environ(scope, request_body)
    assert environ == {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "/app",
        "PATH_INFO": "/Ã©",
        "QUERY_STRING": "q=%C3%A9&raw=é",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": "example.org",
        "SERVER_PORT": "8443",
        "REMOTE_ADDR": "192.0.2.1",
        "HTTP_HOST": "example.org:8443",
        "HTTP_X_LATIN": "é",
        "CONTENT_TYPE": "text/plain",
        "CONTENT_LENGTH": "3",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "https",
        "wsgi.input": request_body,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }


def test_cookies_are_joined_as_cookies_and_the_rest_with_commas():
    environ = environ_of(
        headers=[
            (b"cookie", b"a=1"),
            (b"accept", b"text/html"),
            (b"cookie", b"b=2"),
            (b"accept", b"text/plain"),
        ]
    )
    assert environ["HTTP_COOKIE"] == "a=1; b=2"
    assert environ["HTTP_ACCEPT"] == "text/html,text/plain"


def test_a_header_with_underscores_does_not_pass_for_content_length():
    environ = environ_of(headers=[(b"content_length", b"1000"), (b"content_type", b"evil")])
    assert "CONTENT_LENGTH" not in environ
    assert "CONTENT_TYPE" not in environ


def test_a_client_without_an_address_is_left_out():
    assert "REMOTE_ADDR" not in environ_of(client=None)


@pytest.mark.asyncio
async def test_the_standard_librarys_validator_finds_nothing():
    def wsgi_application(environ, start_response):
        content = environ["wsgi.input"].read(5)
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        write(b"written ")
        return [content]

    scope = http_scope(method="POST", headers=[(b"content-length", b"5"), (b"cookie", b"a=1")])
    sent = await respond(
        validator(wsgi_application),
        scope=scope,
        messages=[{"type": "http.request", "body": b"12345"}],
    )
    assert [message.get("body") for message in sent] == [None, b"written ", b"12345", None]


# Concurrency


@pytest.mark.asyncio
async def test_requests_at_once_do_not_mix():
    def wsgi_application(environ, start_response):
        start_response("200 OK", [("X-Path", environ["PATH_INFO"])])
        for number in range(3):
            yield f"{environ['PATH_INFO']} {number}".encode()

    paths = [f"/{number}" for number in range(5)]
    answers = await asyncio.gather(
        *(respond(wsgi_application, scope=http_scope(path=path)) for path in paths)
    )
    for path, sent in zip(paths, answers):
        chunks = [body(f"{path} {number}".encode()) for number in range(3)]
        assert sent == [start(headers=[(b"x-path", path.encode())]), *chunks, END]
