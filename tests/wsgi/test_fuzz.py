"""WSGI both ways, given anything: a clear error or an answer, never a crash or a hang.

`asgibridge.typing.check` has its own in test_check.py, the queue in test_queue_model.py. `make
stress` runs all of them with other seeds, and longer.
"""

from __future__ import annotations

import asyncio

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asgibridge._wsgi.environ import build_environ, build_scope
from wsgi_tools import EMPTY_REQUEST, END, http_scope, respond

FUZZED = settings(
    max_examples=60,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
SECONDS = 20

TEXT = st.text(max_size=5)
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(TEXT, inner, max_size=3)
    ),
    max_leaves=6,
)
LATIN = st.text(st.characters(max_codepoint=255), max_size=6)
PATHS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).map(lambda text: "/" + text)
KEYS = sorted({*http_scope(), "root_path", "scheme", "server", "client", "state", "extensions"})
ENVIRON = {
    "REQUEST_METHOD": "GET",
    "SCRIPT_NAME": "",
    "PATH_INFO": "/",
    "QUERY_STRING": "",
    "SERVER_NAME": "localhost",
    "SERVER_PORT": "80",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "REMOTE_ADDR": "127.0.0.1",
    "REMOTE_PORT": "1",
    "HTTP_ACCEPT": "*/*",
    "CONTENT_TYPE": "text/plain",
    "RAW_URI": "/",
    "wsgi.url_scheme": "http",
}


def served(application, **options):
    return asyncio.run(asyncio.wait_for(respond(application, **options), SECONDS))


def page(environ, start_response):
    environ["wsgi.input"].read()
    start_response("200 OK", [("X-Name", "value")])
    return [b"page"]


@FUZZED
@given(st.dictionaries(st.sampled_from(KEYS), JUNK, max_size=3))
def test_whatever_scope_comes_it_is_answered_or_named(changes):
    changes.pop("type", None)
    try:
        sent = served(page, scope={**http_scope(), **changes})
    except ValueError:
        return
    assert sent[0]["type"] == "http.response.start"
    assert not sent[-1].get("more_body")


@FUZZED
@given(
    st.lists(
        st.builds(
            lambda body, more: {"type": "http.request", "body": body, "more_body": more},
            st.binary(max_size=9),
            st.booleans(),
        ),
        max_size=5,
    )
)
def test_a_body_arrives_whole_however_it_was_cut(pieces):
    def echo(environ, start_response):
        start_response("200 OK", [])
        return [environ["wsgi.input"].read()]

    sent = served(
        echo, messages=[{**piece, "more_body": True} for piece in pieces] + [EMPTY_REQUEST]
    )
    answer = b"".join(message.get("body", b"") for message in sent[1:])
    assert answer == b"".join(piece["body"] for piece in pieces)


@FUZZED
@given(JUNK | st.just("200 OK"), JUNK | st.just([("X-Name", "value")]), JUNK | st.just([b"page"]))
def test_whatever_the_application_answers_is_sent_or_refused(status, headers, result):
    def application(environ, start_response):
        start_response(status, headers)
        return result

    sent = []

    async def send(message):
        sent.append(message)

    try:
        served(application, send=send)
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        assert str(error), "an error that says nothing"
        return
    types = [message["type"] for message in sent]
    assert types[0] == "http.response.start"
    assert set(types[1:]) == {END["type"]}
    assert isinstance(sent[0]["status"], int)
    for name, value in sent[0]["headers"]:
        assert (type(name), type(value)) == (bytes, bytes)
        assert not set(b"\r\n\0") & {*name, *value}


@FUZZED
@given(st.dictionaries(st.sampled_from(sorted(ENVIRON)), JUNK, max_size=3))
def test_whatever_environ_comes_it_is_a_scope_or_named(changes):
    try:
        scope = build_scope({**ENVIRON, **changes}, None)
    except ValueError:
        return
    assert isinstance(scope["path"], str)
    assert isinstance(scope["query_string"], bytes)
    for name, value in scope["headers"]:
        assert name
        assert not set(b"\r\n\0") & {*name, *value}


@FUZZED
@given(st.lists(st.tuples(st.binary(max_size=5), st.binary(max_size=5)), max_size=4))
def test_whatever_headers_come_the_application_sees_headers_or_nothing(headers):
    try:
        environ = build_environ(http_scope(headers=headers), None, None)
    except ValueError:
        return
    seen = {key: value for key, value in environ.items() if key.startswith("HTTP_")}
    assert all(len(key) > 5 and key.isascii() and key == key.upper() for key in seen)
    assert not set("\r\n\0") & set("".join([*seen, *seen.values()]))
    given_names = {name.decode("latin1").lower() for name, _ in headers}
    assert {key[5:].lower().replace("_", "-") for key in seen} <= given_names


NO_BREAKS = str.maketrans("", "", "\r\n\0")


@FUZZED
@given(
    PATHS,
    st.binary(max_size=9),
    st.lists(
        st.tuples(
            st.sampled_from([b"x-a", b"x-b", b"cookie"]),
            LATIN.map(lambda text: text.translate(NO_BREAKS).encode("latin1")),
        ),
        max_size=4,
    ),
)
def test_there_and_back_a_request_is_the_same(path, query, headers):
    scope = http_scope(path=path, query_string=query, headers=headers)
    back = build_scope(build_environ(scope, None, None), None)
    assert (back["path"], back["query_string"], back["method"]) == (path, query, "GET")
    names = {name for name, _ in headers}
    assert {name for name, _ in back["headers"]} == names
    for name, value in back["headers"]:
        joint = b"; " if name == b"cookie" else b","
        assert value == joint.join(each for given, each in headers if given == name)
