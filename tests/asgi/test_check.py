"""`asgibridge.typing.check` lets pass what keeps the rules, and names the rule that is broken."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import sys
import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asgibridge.testing import ApplicationCommunicator
from asgibridge.typing import ProtocolViolation, check

ASGI = {"version": "3.0", "spec_version": "2.5"}
EXTENSIONS = {
    name: {}
    for name in (
        "http.response.debug",
        "http.response.early_hint",
        "http.response.pathsend",
        "http.response.push",
        "http.response.trailers",
        "http.response.zerocopysend",
        "websocket.http.response",
    )
}
TLS = {"server_cert": None, "tls_version": 0x304, "cipher_suite": 0x1301}

HTTP = {
    "type": "http",
    "asgi": ASGI,
    "http_version": "1.1",
    "method": "GET",
    "path": "/",
    "query_string": b"",
    "headers": [(b"host", b"a")],
    "extensions": EXTENSIONS,
}
WEBSOCKET = {
    "type": "websocket",
    "asgi": ASGI,
    "path": "/",
    "headers": [],
    "subprotocols": ["v1"],
    "extensions": EXTENSIONS,
}
LIFESPAN = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}

START = {"type": "http.response.start", "status": 200}
BODY = {"type": "http.response.body"}
MORE = {"type": "http.response.body", "body": b"x", "more_body": True}
REQUEST = {"type": "http.request"}
DISCONNECT = {"type": "http.disconnect"}
CONNECT = {"type": "websocket.connect"}
ACCEPT = {"type": "websocket.accept"}
TEXT = {"type": "websocket.send", "text": "x"}
CLOSE = {"type": "websocket.close"}
DENY = {"type": "websocket.http.response.start", "status": 403}
DENIAL = {"type": "websocket.http.response.body"}
STARTUP = {"type": "lifespan.startup"}
SHUTDOWN = {"type": "lifespan.shutdown"}
UP = {"type": "lifespan.startup.complete"}
DOWN = {"type": "lifespan.shutdown.complete"}
TRAILERS = {"type": "http.response.trailers", "headers": [(b"x-sum", b"1")]}
HINT = {"type": "http.response.early_hint", "links": [b"</a>"]}
PUSH = {"type": "http.response.push", "path": "/a", "headers": []}
PATH = {"type": "http.response.pathsend", "path": "/a"}
DEBUG = {"type": "http.response.debug", "info": {"a": 1}}


class File:
    def fileno(self):
        return 3


FILE = {"type": "http.response.zerocopysend", "file": File(), "offset": 0, "count": 1}
IN, OUT = "received", "sent"


async def talk(scope, *steps, application=None, strict=False):
    """Runs the checked application through steps: a dict is sent by the application, ("in", dict)
    is what it receives. Returns what got through."""
    through = []
    incoming = [step[1] for step in steps if isinstance(step, tuple)]

    async def receive():
        return incoming.pop(0)

    async def send(message):
        through.append(message)

    async def script(scope, receive, send):
        for step in steps:
            if isinstance(step, tuple):
                through.append(await receive())
            else:
                await send(step)

    await check(application or script, strict=strict)(scope, receive, send)
    return through


def got(message):
    return ("in", message)


def passes(scope, *steps):
    messages = [step[1] if isinstance(step, tuple) else step for step in steps]
    for strict in (False, True):
        assert asyncio.run(talk(scope, *steps, strict=strict)) == messages


def breaks(side, rule, scope, *steps, grades=(False, True)):
    for strict in grades:
        with pytest.raises(ProtocolViolation) as raised:
            asyncio.run(talk(scope, *steps, strict=strict))
        assert (raised.value.side, raised.value.rule) == (side, rule)
        assert str(raised.value).startswith(f"the {side} broke the ASGI specification at {rule}: ")


def is_forgiven(side, rule, scope, *steps):
    with pytest.warns(RuntimeWarning, match="servers forgive it") as caught:
        through = asyncio.run(talk(scope, *steps))
    assert through == [step[1] if isinstance(step, tuple) else step for step in steps]
    (warning,) = caught
    assert f"the {side} broke the ASGI specification at {rule}: " in str(warning.message)
    breaks(side, rule, scope, *steps, grades=[True])


@pytest.mark.parametrize(
    "steps",
    [
        [START, BODY],
        [got(REQUEST), START, MORE, MORE, BODY, got(DISCONNECT), got(DISCONNECT)],
        [got({**REQUEST, "body": b"a", "more_body": True}), got(REQUEST), START, BODY],
        [got(DISCONNECT)],
        [START, got(DISCONNECT), MORE],
        [DEBUG, START, HINT, PUSH, MORE, HINT, {**FILE, "more_body": True}, BODY],
        [START, FILE],
        [START, HINT, PATH],
        [{**START, "trailers": True}, BODY, {**TRAILERS, "more_trailers": True}, TRAILERS],
        [{**START, "headers": [[b"a", b"b"], (b"a", b"c")], "unknown": object()}, BODY],
    ],
)
def test_http_that_keeps_the_rules(steps):
    passes(HTTP, *steps)


@pytest.mark.parametrize(
    "steps",
    [
        [got(CONNECT), ACCEPT, TEXT, got({"type": "websocket.receive", "bytes": b""}), CLOSE],
        [got(CONNECT), {**ACCEPT, "subprotocol": "v1", "headers": [(b"a", b"b")]}],
        [got(CONNECT), CLOSE],
        [got(CONNECT), ACCEPT, {**CLOSE, "code": 4000, "reason": "bye"}],
        [got(CONNECT), DENY, {**DENIAL, "more_body": True}, DENIAL],
        [got(CONNECT), ACCEPT, got({"type": "websocket.disconnect", "code": 1005}), TEXT],
        [got(CONNECT), got({"type": "websocket.disconnect", "code": 1006, "reason": None})],
        [got(CONNECT), ACCEPT, {**TEXT, "bytes": None}],
    ],
)
def test_websockets_that_keep_the_rules(steps):
    passes(WEBSOCKET, *steps)


@pytest.mark.parametrize(
    "steps",
    [
        [got(STARTUP), UP, got(SHUTDOWN), DOWN],
        [got(STARTUP), {"type": "lifespan.startup.failed", "message": "no"}],
        [got(STARTUP), UP, got(SHUTDOWN), {"type": "lifespan.shutdown.failed"}],
    ],
)
def test_lifespans_that_keep_the_rules(steps):
    passes({**LIFESPAN, "extensions": True}, *steps)  # is not one of its fields
    passes(LIFESPAN, *steps)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"method": "get"}, "method"),
        ({"method": None}, "method"),
        ({"http_version": "1.2"}, "http_version"),
        ({"path": b"/"}, "path"),
        ({"raw_path": "/"}, "raw_path"),
        ({"query_string": ""}, "query_string"),
        ({"query_string": None}, "query_string"),
        ({"scheme": ""}, "scheme"),
        ({"root_path": None}, "root_path"),
        ({"headers": None}, "headers"),
        ({"headers": {b"a": b"b"}}, "headers"),
        ({"headers": [(b"a", "b")]}, "headers"),
        ({"headers": [b"ab"]}, "headers"),
        ({"headers": [(b":path", b"/")]}, "headers"),
        ({"client": "127.0.0.1"}, "client"),
        ({"client": ("127.0.0.1", None)}, "client"),
        ({"client": ("127.0.0.1", "80")}, "client"),
        ({"server": (b"127.0.0.1", 80)}, "server"),
        ({"server": ("a", 80, 1)}, "server"),
        ({"state": {1: 2}}, "state"),
        ({"state": None}, "state"),
        ({"extensions": {"a": None}}, "extensions"),
        ({"extensions": []}, "extensions"),
        ({"asgi": None}, "asgi"),
        ({"asgi": {"version": 3}}, "asgi"),
        ({"asgi": {"version": "3.0", "spec_version": "two"}}, "asgi"),
    ],
)
def test_a_wrong_http_scope(change, rule):
    breaks("server", f"http scope: {rule}", {**HTTP, **change})


@pytest.mark.parametrize("key", ["http_version", "method", "path", "query_string", "headers"])
def test_what_an_http_scope_must_have(key):
    scope = {name: value for name, value in HTTP.items() if name != key}
    breaks("server", f"http scope: {key}", scope)


@pytest.mark.parametrize("scheme", ["https", None])
def test_tls(scheme):
    def scope(**change):
        extensions = {"tls": {**TLS, **change}}
        scope = {**HTTP, "extensions": extensions, "scheme": scheme}
        return scope if scheme else {k: v for k, v in scope.items() if k != "scheme"}

    where = "http scope: extensions: tls"
    if scheme is None:
        breaks("server", where, scope())
        return
    passes(scope(client_cert_chain=["pem"], client_cert_name="CN=a"), START, BODY)
    breaks("server", f"{where}: cipher_suite", scope(cipher_suite=0x10000))
    breaks("server", f"{where}: tls_version", scope(tls_version="1.3"))
    breaks("server", f"{where}: client_cert_chain", scope(client_cert_chain="pem"))
    breaks("server", f"{where}: client_cert_error", scope(client_cert_error=""))
    breaks("server", f"{where}: server_cert", scope(server_cert=b"pem"))


@pytest.mark.parametrize(
    ("scope", "rule"),
    [
        ([], "scope"),
        ({}, "scope: type"),
        ({"type": b"http"}, "scope: type"),
        ({**WEBSOCKET, "http_version": "1.0"}, "websocket scope: http_version"),
        ({**WEBSOCKET, "subprotocols": "v1"}, "websocket scope: subprotocols"),
        ({**LIFESPAN, "state": None}, "lifespan scope: state"),
    ],
)
def test_other_wrong_scopes(scope, rule):
    breaks("server", rule, scope)


@pytest.mark.parametrize(
    ("rule", "steps"),
    [
        ("event", [got(None)]),
        ("event", [got({"type": "http.request", 1: 2})]),
        ("event: type", [got({})]),
        ("event: type", [got({"type": 3})]),
        ("event: type", [got({"type": "http.unknown"})]),
        ("event: type", [got(CONNECT)]),
        ("event: type", [got(START)]),
        ("http.request: body", [got({**REQUEST, "body": "text"})]),
        ("http.request: body", [got({**REQUEST, "body": None})]),
        ("http.request: more_body", [got({**REQUEST, "more_body": "no"})]),
        ("http.request", [got(REQUEST), got(REQUEST)]),
        ("http.request", [got(DISCONNECT), got(REQUEST)]),
    ],
)
def test_what_a_server_does_wrong_over_http(rule, steps):
    breaks("server", rule, HTTP, *steps)


@pytest.mark.parametrize(
    ("rule", "steps"),
    [
        ("message", [b"http.response.start"]),
        ("message: type", [{"status": 200}]),
        ("message: type", [{"type": []}]),
        ("message: type", [REQUEST]),
        ("message: type", [ACCEPT]),
        ("http.response.start: status", [{"type": "http.response.start"}]),
        ("http.response.start: status", [{**START, "status": "200"}]),
        ("http.response.start: status", [{**START, "status": True}]),
        ("http.response.start: status", [{**START, "status": 20}]),
        ("http.response.start: headers", [{**START, "headers": None}]),
        ("http.response.start: headers", [{**START, "headers": [("a", "b")]}]),
        ("http.response.start: headers", [{**START, "headers": [(b":status", b"b")]}]),
        ("http.response.start: headers", [{**START, "headers": [(b"A", b"b"), (b":a", b"b")]}]),
        ("http.response.start: headers", [{**START, "headers": [(b"a", b"b", b"c")]}]),
        ("http.response.start: trailers", [{**START, "trailers": []}]),
        ("http.response.start", [START, START]),
        ("http.response.body", [BODY]),
        ("http.response.body: body", [START, {**BODY, "body": "text"}]),
        ("http.response.body: more_body", [START, {**BODY, "more_body": "false"}]),
        ("http.response.body: body", [START, {**BODY, "body": None}]),
        ("http.response.body", [START, BODY, BODY]),
        ("http.response.body", [START, PATH, BODY]),
        ("http.response.pathsend", [START, MORE, PATH]),
        ("http.response.pathsend: path", [START, {**PATH, "path": b"/a"}]),
        ("http.response.zerocopysend: file", [START, {**FILE, "file": b"content"}]),
        ("http.response.zerocopysend: count", [START, {**FILE, "count": -1}]),
        ("http.response.zerocopysend", [FILE]),
        ("http.response.push", [PUSH]),
        ("http.response.push", [START, BODY, PUSH]),
        ("http.response.early_hint: links", [START, {**HINT, "links": ["</a>"]}]),
        ("http.response.early_hint", [START, BODY, HINT]),
        ("http.response.debug", [START, DEBUG]),
        ("http.response.debug", [DEBUG, DEBUG]),
        ("http.response.trailers", [START, BODY, TRAILERS]),
        ("http.response.trailers", [{**START, "trailers": True}, MORE, TRAILERS]),
        ("http.response.trailers", [{**START, "trailers": True}, BODY, TRAILERS, TRAILERS]),
        ("http", []),
        ("http", [START]),
        ("http", [START, MORE]),
        ("http", [{**START, "trailers": True}, BODY]),
    ],
)
def test_what_an_application_does_wrong_over_http(rule, steps):
    breaks("application", rule, HTTP, *steps)


@pytest.mark.parametrize("message", [DEBUG, HINT, PUSH, PATH, FILE, TRAILERS])
def test_an_extension_that_is_not_offered(message):
    breaks("application", message["type"], {**HTTP, "extensions": None}, message)


def test_trailers_that_are_not_offered():
    start = {**START, "trailers": True}
    breaks("application", "http.response.start: trailers", {**HTTP, "extensions": {}}, start)


@pytest.mark.parametrize(
    ("side", "rule", "steps"),
    [
        ("server", "websocket.receive", [got({"type": "websocket.receive", "text": ""})]),
        ("server", "websocket.connect", [got(CONNECT), got(CONNECT)]),
        (
            "server",
            "websocket.receive",
            [got(CONNECT), got({"type": "websocket.receive", "text": ""})],
        ),
        (
            "server",
            "websocket.receive: bytes, text",
            [got(CONNECT), ACCEPT, got({"type": "websocket.receive", "text": "", "bytes": b""})],
        ),
        ("server", "websocket.disconnect: code", [got({"type": "websocket.disconnect"})]),
        (
            "server",
            "websocket.connect",
            [got({"type": "websocket.disconnect", "code": 1000}), got(CONNECT)],
        ),
        ("application", "websocket.send", [got(CONNECT), TEXT]),
        ("application", "websocket.accept", [got(CONNECT), ACCEPT, ACCEPT]),
        ("application", "websocket.accept: subprotocol", [{**ACCEPT, "subprotocol": "v2"}]),
        (
            "application",
            "websocket.accept: headers",
            [{**ACCEPT, "headers": [(b"sec-websocket-protocol", b"v1")]}],
        ),
        ("application", "websocket.send: bytes, text", [ACCEPT, {"type": "websocket.send"}]),
        ("application", "websocket.send: text", [ACCEPT, {**TEXT, "text": b""}]),
        ("application", "websocket.send", [ACCEPT, CLOSE, TEXT]),
        ("application", "websocket.close", [ACCEPT, CLOSE, CLOSE]),
        ("application", "websocket.close: code", [ACCEPT, {**CLOSE, "code": 1005}]),
        ("application", "websocket.close: code", [ACCEPT, {**CLOSE, "code": 200}]),
        ("application", "websocket.close: reason", [ACCEPT, {**CLOSE, "reason": b""}]),
        ("application", "websocket.http.response.start", [ACCEPT, DENY]),
        ("application", "websocket.http.response.body", [DENIAL]),
        ("application", "websocket.accept", [DENY, ACCEPT]),
        ("application", "websocket.close", [DENY, CLOSE]),
        ("application", "websocket", [got(CONNECT)]),
        ("application", "websocket", [got(CONNECT), DENY]),
    ],
)
def test_what_is_wrong_over_websockets(side, rule, steps):
    breaks(side, rule, WEBSOCKET, *steps)


def test_a_denial_that_is_not_offered():
    scope = {**WEBSOCKET, "extensions": {}}
    breaks("application", "websocket.http.response.start", scope, got(CONNECT), DENY)


def test_what_is_younger_than_the_servers_specification():
    scope = {**WEBSOCKET, "asgi": {"version": "3.0"}}
    headers = {**ACCEPT, "headers": [(b"a", b"b")]}
    is_forgiven("application", "websocket.accept: headers", scope, headers)
    is_forgiven("application", "websocket.close: reason", scope, ACCEPT, {**CLOSE, "reason": "x"})
    passes(scope, got(CONNECT), {**ACCEPT, "headers": []}, {**CLOSE, "reason": ""})


@pytest.mark.parametrize(
    ("side", "rule", "steps"),
    [
        ("server", "lifespan.startup", [got(STARTUP), got(STARTUP)]),
        ("server", "lifespan.shutdown", [got(SHUTDOWN)]),
        ("server", "lifespan.shutdown", [got(STARTUP), got(SHUTDOWN)]),
        ("application", "lifespan.startup.complete", [UP]),
        ("application", "lifespan.startup.complete", [got(STARTUP), UP, UP]),
        ("application", "lifespan.shutdown.complete", [got(STARTUP), UP, DOWN]),
        (
            "application",
            "lifespan.startup.failed: message",
            [got(STARTUP), {"type": "lifespan.startup.failed", "message": None}],
        ),
    ],
)
def test_what_is_wrong_in_a_lifespan(side, rule, steps):
    breaks(side, rule, LIFESPAN, *steps)


@pytest.mark.parametrize(
    ("rule", "scope", "steps"),
    [
        ("http.response.start: headers", HTTP, [{**START, "headers": [(b"A", b"b")]}, BODY]),
        ("http.response.start: trailers", HTTP, [{**START, "trailers": None}, BODY]),
        ("http.response.body: more_body", HTTP, [START, {**MORE, "more_body": 1}, BODY]),
        ("http.response.body: more_body", HTTP, [START, {**BODY, "more_body": None}]),
        ("http.response.body: body", HTTP, [START, {**BODY, "body": memoryview(b"x")}]),
        ("http.response.body: body", HTTP, [START, {**BODY, "body": bytearray(b"x")}]),
        ("http.response.push: headers", HTTP, [START, {**PUSH, "headers": [(b"A", b"b")]}, BODY]),
        (
            "http.response.trailers: headers",
            HTTP,
            [{**START, "trailers": True}, BODY, {**TRAILERS, "headers": [(b"X", b"1")]}],
        ),
        ("websocket.accept: headers", WEBSOCKET, [{**ACCEPT, "headers": [(b"X", b"1")]}]),
        (
            "websocket.send: bytes",
            WEBSOCKET,
            [ACCEPT, {"type": "websocket.send", "bytes": memoryview(b"x")}],
        ),
        ("lifespan", LIFESPAN, []),
        ("lifespan", LIFESPAN, [got(STARTUP)]),
        ("lifespan", LIFESPAN, [got(STARTUP), UP, got(SHUTDOWN)]),
    ],
)
def test_what_every_server_forgives(rule, scope, steps):
    is_forgiven("application", rule, scope, *steps)


@pytest.mark.parametrize("more", [1, 0, None])
def test_what_every_application_forgives(more):
    request = {**REQUEST, "more_body": more}
    is_forgiven("server", "http.request: more_body", HTTP, got(request), START, BODY)


@pytest.mark.parametrize("scope", [HTTP, WEBSOCKET, LIFESPAN])
def test_test_clients_leave_out_the_version(scope):
    steps = {"http": [START, BODY], "websocket": [ACCEPT], "lifespan": [got(STARTUP), UP]}
    without = {key: value for key, value in scope.items() if key != "asgi"}
    is_forgiven("server", f"{scope['type']} scope: asgi", without, *steps[scope["type"]])


def test_it_warns_once_at_the_applications_line():
    async def application(scope, receive, send):
        start = {**START, "headers": [(b"Content-Type", b"text/plain")]}
        await send(start)  # this line
        await send({**BODY, "body": memoryview(b"x"), "more_body": True})
        await send({**BODY, "body": memoryview(b"x")})

    checked = check(application)

    async def talk():
        for _ in range(3):
            await checked(HTTP, None, asyncio.Queue().put)

    with pytest.warns(RuntimeWarning) as caught:
        asyncio.run(talk())
    first, second = caught
    assert "with names in lower case, not b'Content-Type'" in str(first.message)
    assert "http.response.body: body" in str(second.message)
    assert first.filename == __file__
    with open(__file__, encoding="utf-8") as source:
        assert "# this line" in source.readlines()[first.lineno - 1]


def test_what_is_forgiven_may_break_another_rule():
    start = {**START, "headers": [(b"A", b"b")]}
    with pytest.warns(RuntimeWarning, match="servers forgive it"):
        breaks("application", "http.response.start", HTTP, start, start, grades=[False])


def test_it_is_logged_too(caplog):
    breaks("application", "http.response.body", HTTP, BODY, grades=[False])
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("asgibridge.typing", logging.ERROR)
    assert "http.response.body: it comes after http.response.start" in record.getMessage()


def test_swallowed_by_the_application_it_is_raised_at_the_end():
    async def application(scope, receive, send):
        try:
            await send(BODY)
        except Exception:
            pass
        await send(START)
        await send(BODY)

    with pytest.raises(ProtocolViolation, match="which was not sent"):
        asyncio.run(talk(HTTP, application=application))


def test_what_the_application_raises_goes_through():
    async def application(scope, receive, send):
        raise LookupError("its own")

    with pytest.raises(LookupError, match="its own"):
        asyncio.run(talk(HTTP, application=application))


def test_headers_that_can_be_iterated_once_arrive():
    headers = iter([(b"a", b"b")])
    through = asyncio.run(talk(HTTP, {**START, "headers": headers}, BODY))
    assert through[0]["headers"] == [(b"a", b"b")]


def test_other_protocols_pass():
    passes({"type": "mychat"}, {"type": "mychat.message", 1: 2}, got(None))


def test_an_asgi_2_application():
    class Application:
        def __init__(self, scope):
            self.scope = scope

        async def __call__(self, receive, send):
            await send(START)
            await send({**BODY, "body": self.scope["path"].encode()})

    assert asyncio.run(talk(HTTP, application=Application))[1]["body"] == b"/"


# Fuzzing

KEYS = ["type", "status", "headers", "body", "more_body", "trailers", "path", "text", "bytes"]
KEYS += ["code", "reason", "subprotocol"]
JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=8,
)
MESSAGES = [START, BODY, MORE, DEBUG, HINT, PUSH, PATH, FILE, TRAILERS]
MESSAGES += [ACCEPT, TEXT, CLOSE, DENY, DENIAL, UP, DOWN, {**START, "trailers": True}]
EVENTS = [REQUEST, {**REQUEST, "more_body": True}, DISCONNECT, CONNECT, STARTUP, SHUTDOWN]
EVENTS += [{"type": "websocket.receive", "text": "x"}, {"type": "websocket.disconnect", "code": 1}]
FUZZED = settings(
    max_examples=60,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


def changed(messages):
    """One of them, perhaps with a value that is anything."""
    plain = st.sampled_from(messages)
    return plain | st.builds(
        lambda message, key, value: {**message, key: value}, plain, st.sampled_from(KEYS), JUNK
    )


STEPS = st.lists(
    (changed(MESSAGES) | JUNK) | (changed(EVENTS) | JUNK).map(got).filter(bool), max_size=6
)


@FUZZED
@given(st.sampled_from([HTTP, WEBSOCKET, LIFESPAN]), STEPS, st.booleans())
def test_whatever_comes_nothing_but_a_violation_is_raised(scope, steps, swallow):
    steps = [step if not isinstance(step, tuple) or step[:1] == ("in",) else None for step in steps]

    async def application(scope, receive, send):
        for step in steps:
            try:
                await (receive() if isinstance(step, tuple) else send(step))
            except ProtocolViolation:
                if not swallow:
                    raise

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*servers forgive it", RuntimeWarning)
        try:
            asyncio.run(talk(scope, *steps, application=application))
        except ProtocolViolation as violation:
            assert violation.side in ("application", "server")


@FUZZED
@given(
    st.sampled_from([HTTP, WEBSOCKET, LIFESPAN]),
    st.dictionaries(st.sampled_from(sorted({*HTTP, *WEBSOCKET, "state", "client"})), JUNK),
)
def test_whatever_scope_comes_nothing_but_a_violation_is_raised(scope, changes):
    async def application(scope, receive, send):
        raise LookupError

    changes.pop("type", None)
    with pytest.raises((ProtocolViolation, LookupError)):
        asyncio.run(talk({**scope, **changes}, application=application))


HEADERS = st.lists(
    st.tuples(st.binary(max_size=5).map(lambda name: b"x" + name.lower()), st.binary(max_size=5))
)


@FUZZED
@given(
    st.integers(100, 999),
    HEADERS,
    st.lists(st.one_of(st.binary(max_size=9), st.just("push"), st.just("hint")), max_size=5),
    st.booleans(),
    st.lists(st.binary(max_size=9), max_size=3),
)
def test_whatever_keeps_the_rules_over_http_passes(status, headers, pieces, trailers, request):
    steps = [got({**REQUEST, "body": piece, "more_body": True}) for piece in request]
    steps += [got(REQUEST), {**START, "status": status, "headers": headers, "trailers": trailers}]
    extra = {"push": PUSH, "hint": HINT}
    for piece in pieces:
        steps.append(extra[piece] if isinstance(piece, str) else {**MORE, "body": piece})
    steps.append(BODY)
    if trailers:
        steps += [{**TRAILERS, "headers": headers, "more_trailers": True}, TRAILERS]
    passes(HTTP, *steps)


# A real framework


def framework():
    applications = pytest.importorskip("starlette.applications")
    responses = pytest.importorskip("starlette.responses")
    routing = pytest.importorskip("starlette.routing")

    async def page(request):
        body = await request.body()
        return responses.PlainTextResponse(body or b"page", headers={"X-Name": "value"})

    async def stream(request):
        return responses.StreamingResponse(iter([b"a", b"b"]))

    async def view(request):
        return responses.Response(memoryview(b"view"))

    async def echo(websocket):
        await websocket.accept(subprotocol="v1")
        async for text in websocket.iter_text():
            await websocket.send_text(text)

    return applications.Starlette(
        routes=[
            routing.Route("/", page, methods=["GET", "POST"]),
            routing.Route("/stream", stream),
            routing.Route("/view", view),
            routing.WebSocketRoute("/echo", echo),
        ]
    )


@pytest.mark.asyncio
async def test_a_framework_keeps_the_rules():
    from asgibridge.testing import HttpCommunicator, LifespanCommunicator, WebsocketCommunicator

    application = check(framework())
    async with LifespanCommunicator(application):
        async with HttpCommunicator(application, "POST", "/", body=b"hello") as http:
            assert (await http.get_response()).body == b"hello"
        async with HttpCommunicator(application, path="/stream") as http:
            assert (await http.get_response()).body == b"ab"
        async with HttpCommunicator(application, path="/nowhere") as http:
            assert (await http.get_response()).status == 404
        async with WebsocketCommunicator(application, "/echo", subprotocols=["v1"]) as websocket:
            assert await websocket.connect() == (True, "v1")
            await websocket.send_to("x")
            assert await websocket.receive_from() == "x"


@pytest.mark.asyncio
async def test_a_memoryview_of_a_framework_is_forgiven(capsys, monkeypatch):
    from asgibridge.testing import HttpCommunicator

    # An application of a communicator's runs in an empty context. Where filters of warnings belong
    # to the context (3.14 without the GIL), it has those of the interpreter's start.
    is_shown = getattr(sys.flags, "context_aware_warnings", False)
    if is_shown:  # whatever -W says
        monkeypatch.setattr(warnings, "filters", [("default", None, RuntimeWarning, None, 0)])
    expected = r"http\.response\.body: body"
    warns = pytest.warns(RuntimeWarning, match=expected)
    with contextlib.nullcontext() if is_shown else warns:
        response = await HttpCommunicator(check(framework()), path="/view").get_response()
    assert response.body == b"view"
    assert not is_shown or re.search(expected, capsys.readouterr().err)
    with pytest.raises(ProtocolViolation, match=r"http\.response\.body: body"):
        await HttpCommunicator(check(framework(), strict=True), path="/view").get_response()


@pytest.mark.asyncio
async def test_under_a_communicator():
    async def application(scope, receive, send):
        await send(BODY)

    communicator = ApplicationCommunicator(check(application), HTTP)
    with pytest.raises(ProtocolViolation, match="application broke"):
        await communicator.receive_output()
