"""``WsgiToAsgi``: PEP 3333's corners, and the ends that are no happy ones."""

from __future__ import annotations

import asyncio
import io
import os
import sys
import threading
import traceback
from random import Random
from wsgiref.util import FileWrapper
from wsgiref.validate import validator

import pytest

from asgibridge._wsgi import environ as environ_module
from asgibridge.sync import sync_to_async
from asgibridge.wsgi import ClientDisconnected, WsgiToAsgi, WsgiToAsgiInstance
from wsgi_tools import (
    EMPTY_REQUEST,
    END,
    Chunks,
    ClientGone,
    answering,
    body,
    content,
    echo,
    environ_of,
    http_scope,
    parts,
    respond,
    start,
)

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
async def test_written_chunks_go_out_while_the_application_goes_on():
    sent = []
    two_is_out = threading.Event()

    async def send(message):
        sent.append(message)
        if message.get("body") == b"two":
            two_is_out.set()

    def wsgi_application(environ, start_response):
        write = start_response("200 OK", [])
        assert sent == []
        write(b"one")
        assert sent == [start(), body(b"one")]
        write(b"two")
        assert two_is_out.wait(10)
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


@pytest.mark.parametrize("buffer_body", [False, True])
@pytest.mark.asyncio
async def test_a_client_that_leaves_at_once_is_forgotten_quietly(buffer_body):
    called = []
    sent = await respond(
        lambda *arguments: called.append(arguments),
        messages=[{"type": "http.disconnect"}],
        buffer_body=buffer_body,
    )
    assert sent == []
    assert called == []


@pytest.mark.asyncio
async def test_a_client_that_leaves_midway_ends_a_buffered_request():
    called = []
    messages = [*parts(b"1", b"2")[:1], {"type": "http.disconnect"}]
    sent = await respond(
        lambda *arguments: called.append(arguments), messages=messages, buffer_body=True
    )
    assert sent == []
    assert called == []


@pytest.mark.asyncio
async def test_a_client_that_leaves_midway_ends_the_reading():
    errors = []

    def wsgi_application(environ, start_response):
        start_response("200 OK", [])
        try:
            environ["wsgi.input"].read()
        except ConnectionError as error:
            errors.append(error)
            raise

    messages = [*parts(b"1", b"2")[:1], {"type": "http.disconnect"}]
    assert await respond(wsgi_application, messages=messages) == []
    assert [type(error) for error in errors] == [ClientDisconnected]


@pytest.mark.asyncio
async def test_an_application_may_put_its_own_error_for_a_client_that_has_left():
    def wsgi_application(environ, start_response):
        start_response("200 OK", [])
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            raise LookupError("no body") from error

    messages = [*parts(b"1", b"2")[:1], {"type": "http.disconnect"}]
    assert await respond(wsgi_application, messages=messages) == []


@pytest.mark.parametrize(
    "message",
    [
        {"type": "websocket.receive"},
        {"type": "http.request", "body": "text"},
        {"type": "http.request", "body": 5},
        {"body": b""},
        None,
        17,
        "http.request",
    ],
)
@pytest.mark.parametrize("position", ["first", "second", "second-buffered"])
@pytest.mark.asyncio
async def test_other_messages_are_named(message, position):
    messages = [message] if position == "first" else [*parts(b"1", b"2")[:1], message]
    with pytest.raises(ValueError, match=r"http\.request.* got "):
        await respond(echo, messages=messages, buffer_body="buffered" in position)


@pytest.mark.parametrize("body_type", [bytearray, memoryview])
@pytest.mark.asyncio
async def test_a_body_may_be_anything_like_bytes(body_type):
    messages = parts(body_type(b"one"), body_type(b"two"))
    assert content(await respond(echo, messages=messages)) == b"onetwo"


@pytest.mark.asyncio
async def test_other_scopes_are_named():
    with pytest.raises(ValueError, match=r"HTTP only.* 'telnet'"):
        await respond(answering([]), scope={"type": "telnet"})


@pytest.mark.asyncio
async def test_a_websocket_is_closed_before_it_is_accepted():
    scope = {**http_scope(), "type": "websocket"}
    sent = await respond(answering([]), scope=scope, messages=[{"type": "websocket.connect"}])
    assert sent == [{"type": "websocket.close", "code": 1000}]


@pytest.mark.asyncio
async def test_a_websocket_that_has_gone_already_is_left_alone():
    scope = {**http_scope(), "type": "websocket"}
    assert (
        await respond(answering([]), scope=scope, messages=[{"type": "websocket.disconnect"}]) == []
    )


@pytest.mark.asyncio
async def test_a_lifespan_is_answered():
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent = await respond(answering([]), scope={"type": "lifespan"}, messages=messages)
    assert sent == [
        {"type": "lifespan.startup.complete"},
        {"type": "lifespan.shutdown.complete"},
    ]


@pytest.mark.asyncio
async def test_other_lifespan_messages_are_named():
    with pytest.raises(ValueError, match=r"lifespan messages and got 'http\.request'"):
        await respond(answering([]), scope={"type": "lifespan"})


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
        raw_path=b"/app/%C3%A9",
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
        "REMOTE_PORT": "40000",
        "RAW_URI": "/app/%C3%A9?q=%C3%A9&raw=é",
        "HTTP_HOST": "example.org:8443",
        "HTTP_X_LATIN": "é",
        "CONTENT_TYPE": "text/plain",
        "CONTENT_LENGTH": "3",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "https",
        "wsgi.input": request_body,
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.file_wrapper": FileWrapper,
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


@pytest.mark.parametrize("first", [b"x-remote-user", b"x_remote_user"])
@pytest.mark.parametrize("forged", [b"x_remote_user", b"x-remote_user", b"X_Remote-User"])
def test_a_header_with_an_underscore_neither_joins_nor_replaces_the_one_with_hyphens(first, forged):
    headers = [(b"x-remote-user", b"alice"), (forged, b"admin")]
    if first != b"x-remote-user":
        headers.reverse()
    assert environ_of(headers=headers)["HTTP_X_REMOTE_USER"] == "alice"
    assert "HTTP_X_REMOTE_USER" not in environ_of(headers=[(forged, b"admin")])


# Told from the real one, whichever comes first, by no more than how it is spelled.
@pytest.mark.parametrize(
    "name",
    [
        *(b"content_length", b"content_type", b"transfer_encoding", b"x_forwarded_for", b"_", b""),
        *(b" x-user", b"x-user ", b"x-user:", b"x user", b"x-user\r\n", b"x-\0user", b"x-\x7fuser"),
        *(b"x-pa\xdf", b"x-\xb5", b"x-\xff", b":authority", b"(x)", b'"x"'),
    ],
)
def test_what_is_no_name_of_a_header_is_dropped(name):
    without = environ_of(headers=[(b"host", b"a")])
    assert environ_of(headers=[(b"host", b"a"), (name, b"1")]) == without
    assert environ_of(headers=[(name, b"1"), (b"host", b"a")]) == without
    assert name not in environ_module._names


@pytest.mark.asyncio
async def test_who_needs_headers_with_underscores_can_have_them():
    seen = {}

    def wsgi_application(environ, start_response):
        seen.update(environ)
        start_response("200 OK", [])
        return []

    headers = [(b"api_key", b"1"), (b"content_length", b"5"), (b"x_ y", b"2"), (b"_", b"3")]
    await respond(wsgi_application, scope=http_scope(headers=headers), underscores_in_headers=True)
    assert (seen["HTTP_API_KEY"], seen["HTTP_CONTENT_LENGTH"]) == ("1", "5")
    assert "CONTENT_LENGTH" not in seen
    assert {key for key in seen if key.startswith("HTTP_")} == {
        *("HTTP_API_KEY", "HTTP_CONTENT_LENGTH", "HTTP__")
    }
    # What was let through there is not let through here.
    assert "HTTP_API_KEY" not in environ_of(headers=headers)


@pytest.mark.parametrize("name", [b"Content-Length", b"CONTENT-LENGTH", b"content-length"])
def test_a_servers_capitals_make_no_other_header(name):
    environ = environ_of(headers=[(name, b"5")])
    assert environ["CONTENT_LENGTH"] == "5"
    assert "HTTP_CONTENT_LENGTH" not in environ


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x-test", b"one\r\nx-evil: 1")],
        [(b"x-test", b"one\nx-evil: 1")],
        [(b"x-test", b"one\0")],
        [(b"content-length", b"1"), (b"content-length", b"2")],
        [(b"content-length", b"1"), (b"Content-Length", b"2")],
        [(b"content-length", b"+1")],
        [(b"content-length", b"-1")],
        [(b"content-length", b"1_0")],
        [(b"content-length", b"1,1")],
        [(b"content-length", b"\xb2")],
        [(b"content-length", b"0x1")],
        [(b"content-type", b"text/plain"), (b"content-type", b"text/html")],
        [(b"host", b"a"), (b"host", b"b")],
    ],
)
@pytest.mark.asyncio
async def test_headers_that_two_sides_may_read_differently_are_a_bad_request(headers):
    never = answering([b"never"])
    sent = await respond(never, scope=http_scope(headers=headers))
    assert (sent[0]["status"], content(sent)) == (400, b"Bad Request: Malformed header")


def test_the_same_value_again_is_one_value():
    headers = [(b"host", b"a"), (b"content-length", b"1"), (b"content-type", b"text/plain")] * 3
    environ = environ_of(headers=headers)
    assert environ["HTTP_HOST"] == "a"
    assert environ["CONTENT_LENGTH"] == "1"
    assert environ["CONTENT_TYPE"] == "text/plain"


def test_of_a_length_and_a_transfer_encoding_the_encoding_counts():
    environ = environ_of(headers=[(b"content-length", b"1"), (b"transfer-encoding", b"chunked")])
    assert "CONTENT_LENGTH" not in environ
    assert environ["HTTP_TRANSFER_ENCODING"] == "chunked"


def test_a_proxy_header_is_in_the_environ_and_not_in_the_environment(monkeypatch):
    # "httpoxy": no server of WSGI's drops it. SECURITY.md says why.
    monkeypatch.delenv("HTTP_PROXY", raising=False)
    assert environ_of(headers=[(b"proxy", b"http://evil")])["HTTP_PROXY"] == "http://evil"
    assert "HTTP_PROXY" not in os.environ


def test_other_control_characters_are_the_applications_to_judge():
    assert environ_of(headers=[(b"x-test", b"a\tb\x01")])["HTTP_X_TEST"] == "a\tb\x01"


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


# What is a response's body, and what is not


@pytest.mark.parametrize("result", ["list", "generator", "write"])
@pytest.mark.parametrize(
    ("method", "status"), [("HEAD", "200 OK"), ("GET", "204 No Content"), ("GET", "304 Same")]
)
@pytest.mark.asyncio
async def test_a_response_without_a_body_has_none(method, status, result):
    asked = []

    def wsgi_application(environ, start_response):
        write = start_response(status, [("Content-Length", "3"), ("X-Test", "1")])
        if result == "write":
            write(b"one")
            return []
        if result == "list":
            return [b"one"]

        def chunks():
            yield b"one"
            asked.append("for more")

        return chunks()

    sent = await respond(wsgi_application, scope=http_scope(method=method))
    headers = [(b"content-length", b"3"), (b"x-test", b"1")]
    assert sent == [start(int(status[:3]), headers), END]
    assert asked == []


@pytest.mark.asyncio
async def test_empty_chunks_do_not_send_the_headers():
    sent = []

    async def send(message):
        sent.append(message)

    def wsgi_application(environ, start_response):
        start_response("200 OK", [])
        yield b""
        yield b""
        assert sent == []
        try:
            raise LookupError
        except LookupError:  # too late, if the start had gone out
            start_response("500 Server Error", [], sys.exc_info())
        yield b"one"
        yield b""

    await respond(wsgi_application, send=send)
    assert sent == [start(500), body(b""), body(b""), body(b"one"), body(b""), END]


@pytest.mark.asyncio
async def test_a_generator_may_call_start_response_late():
    def wsgi_application(environ, start_response):
        yield b""
        start_response("200 OK", [])
        yield b"one"

    assert await respond(wsgi_application) == [start(), body(b""), body(b"one"), END]


@pytest.mark.asyncio
async def test_a_file_wrapper_sends_the_file_and_closes_it():
    file = io.BytesIO(b"x" * 20_000)

    def wsgi_application(environ, start_response):
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](file, 8192)

    sent = await respond(wsgi_application)
    assert [len(message.get("body", b"")) for message in sent] == [0, 8192, 8192, 3616, 0]
    assert file.closed


# Broken applications


@pytest.mark.parametrize(
    ("result", "error"),
    [
        (None, r"iterable of bytes.* returned None"),
        (17, r"iterable of bytes.* returned 17"),
        ("text", r"iterable of bytes.* returned 'text'"),
        (b"bytes", r"iterable of bytes.* returned b'bytes'"),
        (["text"], "with bytes, and gave 'text': encode"),
        ([17], "with bytes, and gave 17"),
        ([None], "with bytes, and gave None"),
    ],
)
@pytest.mark.asyncio
async def test_a_result_that_is_no_iterable_of_bytes_is_named(result, error):
    with pytest.raises(TypeError, match=error):
        await respond(answering(result))


@pytest.mark.asyncio
async def test_an_iterable_that_fails_to_begin_says_so_itself():
    class Broken:
        def __iter__(self):
            raise TypeError("broken by itself")

    with pytest.raises(TypeError, match="broken by itself"):
        await respond(answering(Broken()))


@pytest.mark.parametrize("chunk", [bytearray(b"one"), memoryview(b"one")])
@pytest.mark.asyncio
async def test_chunks_like_bytes_are_taken_for_bytes(chunk):
    assert await respond(answering([chunk])) == [start(), body(b"one"), END]


@pytest.mark.asyncio
async def test_an_iterable_by_index_is_one_too():
    class Indexed:
        def __getitem__(self, index):
            return [b"one", b"two"][index]

    assert content(await respond(answering(Indexed()))) == b"onetwo"


@pytest.mark.parametrize("status", [200, None, b"200 OK", ("200", "OK")])
@pytest.mark.asyncio
async def test_a_status_that_is_no_text_is_named(status):
    with pytest.raises(TypeError, match="needs a str like '200 OK' and was given"):
        await respond(answering([], status))


@pytest.mark.parametrize("status", ["20 OK", "2000 OK", "099 Low", "20x OK", "٢٠٠ OK", " 200 OK"])
@pytest.mark.asyncio
async def test_a_status_of_other_than_three_digits_is_named(status):
    with pytest.raises(ValueError, match="needs a status like '200 OK' and was given"):
        await respond(answering([], status))


@pytest.mark.parametrize(
    ("header", "kind", "error"),
    [
        (("X-Test", "one\r\nX-Evil: 1"), ValueError, "line break"),
        (("X-Test", "one\0"), ValueError, "line break or NUL"),
        (("X-Te\nst", "one"), ValueError, "its name must be of letters"),
        (("X-Test ", "one"), ValueError, "its name must be of letters"),
        (("X-Test: 1", "one"), ValueError, "its name must be of letters"),
        (("", "one"), ValueError, "its name must be of letters"),
        (("X-Test", "€"), ValueError, "its value latin-1"),
        (("X-Tést", "one"), ValueError, "its name must be ASCII"),
        (("X-Test", 17), TypeError, "pair of two str"),
        ((b"X-Test", b"one"), TypeError, "pair of two str"),
        (("X-Test",), TypeError, "pair of two str"),
        (None, TypeError, "pair of two str"),
        (("Content-Length", "five"), ValueError, "number of bytes"),
        (("Content-Length", "-5"), ValueError, "number of bytes"),
        (("Content-Length", ""), ValueError, "number of bytes"),
    ],
)
@pytest.mark.asyncio
async def test_a_header_that_cannot_be_sent_is_named(header, kind, error):
    with pytest.raises(kind, match=error):
        await respond(answering([b"body"], headers=[header]))


@pytest.mark.asyncio
async def test_one_answer_has_one_content_length():
    twice = [("Content-Length", "4"), ("content-length", "4")]
    assert (await respond(answering([b"body"], headers=twice)))[0]["status"] == 200
    with pytest.raises(ValueError, match="two values of Content-Length, 4 and 5"):
        await respond(answering([b"body"], headers=[*twice, ("Content-Length", "5")]))


@pytest.mark.asyncio
async def test_a_name_with_an_underscore_may_be_sent():
    sent = await respond(answering([], headers=[("X_Test", "1"), ("X-Test", "2")]))
    assert sent[0]["headers"] == [(b"x_test", b"1"), (b"x-test", b"2")]


@pytest.mark.asyncio
async def test_an_error_in_the_application_reaches_the_server_before_anything_is_sent():
    sent = []

    async def send(message):
        sent.append(message)

    def wsgi_application(environ, start_response):
        start_response("200 OK", [])
        raise LookupError("broken")

    with pytest.raises(LookupError, match="broken"):
        await respond(wsgi_application, send=send)
    assert sent == []


@pytest.mark.asyncio
async def test_what_was_sent_before_an_error_goes_out_before_it():
    sent = []

    async def send(message):
        sent.append(message)

    chunks = Chunks(b"one", b"two", LookupError("broken"))
    with pytest.raises(LookupError, match="broken"):
        await respond(answering(chunks), send=send)
    assert sent == [start(), body(b"one"), body(b"two")]


@pytest.mark.asyncio
async def test_an_error_in_close_comes_when_all_was_sent():
    sent = []

    async def send(message):
        sent.append(message)

    class Result(Chunks):
        def close(self):
            raise LookupError("close")

    with pytest.raises(LookupError, match="close"):
        await respond(answering(Result(b"one")), send=send)
    assert sent == [start(), body(b"one"), END]


# Where the application is mounted


@pytest.mark.parametrize(
    ("root_path", "path", "script_name", "path_info"),
    [
        ("", "/foo", "", "/foo"),
        ("/app", "/app/foo", "/app", "/foo"),
        ("/app", "/app/", "/app", "/"),
        ("/app", "/app", "/app", ""),
        ("/app", "/apples/foo", "/app", "/apples/foo"),
        ("/app", "/foo/app", "/app", "/foo/app"),
        ("/app/", "/app/foo", "/app", "/foo"),
        ("/", "/foo", "", "/foo"),
        ("/a/b", "/a/b/c", "/a/b", "/c"),
        ("/中", "/中/文", "/中".encode().decode("latin-1"), "/文".encode().decode("latin-1")),
    ],
)
def test_the_mount_point_is_cut_off_at_a_slash(root_path, path, script_name, path_info):
    environ = environ_of(root_path=root_path, path=path)
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == (script_name, path_info)


@pytest.mark.parametrize(
    ("raw_path", "query_string", "raw_uri"),
    [
        (b"/a%20b", b"", "/a%20b"),
        (b"/a%20b", b"q=1", "/a%20b?q=1"),
        (b"/a%20b?q=1", b"q=1", "/a%20b?q=1"),
        (None, b"q=1", None),
    ],
)
def test_the_raw_uri_is_the_one_that_was_asked_for(raw_path, query_string, raw_uri):
    environ = environ_of(raw_path=raw_path, query_string=query_string)
    assert environ.get("RAW_URI") == raw_uri


@pytest.mark.parametrize(
    ("client", "address", "port"),
    [(("192.0.2.1", 1), "192.0.2.1", "1"), (["::1", 0], "::1", None), (None, None, None)],
)
def test_the_clients_address_and_port(client, address, port):
    environ = environ_of(client=client)
    assert (environ.get("REMOTE_ADDR"), environ.get("REMOTE_PORT")) == (address, port)


def test_more_made_up_header_names_than_are_kept_do_no_harm():
    headers = [(f"x-made-up-{number}".encode(), b"1") for number in range(2000)]
    for _ in range(2):
        environ = environ_of(headers=headers)
        assert environ["HTTP_X_MADE_UP_1999"] == "1"
    # Each of several threads may keep one that is the last.
    assert len(environ_module._names) < environ_module._NAMES_KEPT + 10


# The limit on duplicate headers


@pytest.mark.parametrize("limit", [None, 0])
@pytest.mark.asyncio
async def test_no_limit_on_duplicates(limit):
    sent = await respond(
        answering([b"ok"]),
        scope=http_scope(headers=[(b"x-test", b"1")] * 1000),
        duplicate_header_limit=limit,
    )
    assert sent[0]["status"] == 200


@pytest.mark.asyncio
async def test_an_error_of_build_environs_own_is_not_taken_for_duplicates():
    class Instance(WsgiToAsgiInstance):
        def build_environ(self, scope, body):
            raise ValueError("of its own")

    async def receive():
        return EMPTY_REQUEST

    with pytest.raises(ValueError, match="of its own"):
        await Instance(answering([]))(http_scope(), receive, None)


# Malformed scopes


WRONG_VALUES = [
    17, -1, 2.5, True, "text", "\ud800", b"bytes", b"\xff", [], {}, (), object(), [1], [None],
    ["a", "b", "c"], [("a", 1)], [(b"a",)], [(b"a", "b")], [(b"a", b"b", b"c")], [[]], ("a", "b"),
    (None, 1), (b"host", 1), ("host", -5), ("host", 1.5),
]  # fmt: skip


@pytest.mark.parametrize("seed", range(10))
def test_a_malformed_scope_is_an_error_that_names_the_key(seed):
    random = Random(seed)
    keys = (
        "http_version", "method", "path", "scheme", "root_path", "query_string", "raw_path",
        "server", "client", "headers",
    )  # fmt: skip
    right = http_scope(
        scheme="http", root_path="", raw_path=b"/", server=("a", 1), client=("b", 2),
    )  # fmt: skip
    reported, environs = 0, 0

    async def run():
        nonlocal reported, environs

        async def receive():
            return EMPTY_REQUEST

        async def send(message):
            pass

        async def one(scope, changed):
            nonlocal reported, environs
            seen = []

            def wsgi_application(environ, start_response):
                seen.append(environ)
                start_response("200 OK", [])
                return []

            try:
                await asyncio.wait_for(WsgiToAsgi(wsgi_application)(scope, receive, send), 10)
            except ValueError as error:
                assert seen == []
                assert any(f"{key!r}" in str(error) for key in changed), (changed, error)
                reported += 1
            else:
                # What is let through must at least be an environ.
                (environ,) = seen
                environ["wsgi.input"] = InputStream()
                check_environ_types(environ)
                environs += 1

        for _ in range(100):
            scope = dict(right)
            changed = random.sample(keys, random.choice([1, 1, 1, 2, 3]))
            for key in changed:
                if random.random() < 0.1:
                    del scope[key]
                else:
                    scope[key] = random.choice(WRONG_VALUES)
            await one(scope, changed)

    asyncio.run(run())
    assert reported >= 60
    assert reported + environs == 100


class InputStream:
    pass


def check_environ_types(environ):
    for key, value in environ.items():
        if not key.startswith("wsgi."):
            assert type(value) is str, (key, value)
            value.encode("latin-1")


@pytest.mark.parametrize("scope", [None, 17, "http", b"http", [], {}, {"TYPE": "http"}])
@pytest.mark.asyncio
async def test_a_scope_that_is_none_is_named(scope):
    with pytest.raises(ValueError, match=r"malformed ASGI scope.*'type'"):
        await WsgiToAsgi(answering([]))(scope, None, None)
