"""Both adapters under real servers on loopback, and frameworks through them: the same bytes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from wsgi_servers import SECONDS, Answer, Server, needs, read_answer, request

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

ASGI_SERVERS = ("uvicorn", "hypercorn")
WSGI_SERVERS = ("gunicorn", "gunicorn-threads")


def text(answer: Answer) -> str:
    return answer.body.decode("latin-1")


# A WSGI application on ASGI servers


@pytest.fixture(
    scope="module",
    params=[(server, site) for server in ASGI_SERVERS for site in ("wsgi_on_asgi",)]
    + [("uvicorn", "wsgi_on_asgi_workers")],
    ids="-".join,
)
def wsgi_on_asgi(request) -> Iterator[Server]:
    with Server(*request.param) as server:
        yield server


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/write", 200, "written, returned"),
        ("/empty", 200, ""),
        ("/generator", 200, "".join(f"{number}," for number in range(100))),
        ("/too-long", 200, "12345"),
        ("/no-reason", 202, "accepted"),
        ("/late-error", 503, "an error page"),
        ("/file", 200, "file" * 50_000),
        ("/not/there", 404, "not found"),
        ("/raises", 500, None),
        ("/no-start", 500, None),
        ("/text", 500, None),
        ("/none", 500, None),
    ],
)
def test_wsgi_answers(wsgi_on_asgi, path, status, body):
    answer = wsgi_on_asgi.get(path)
    assert answer.status == status
    if body is not None:  # an error page is the server's own
        assert (text(answer), answer.is_complete) == (body, True)


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("size", [0, 10, 1_000_000])
@pytest.mark.parametrize("path", ["/body", "/stream"])
def test_wsgi_bodies(wsgi_on_asgi, path, size, chunked):
    body = os.urandom(size)
    answer = wsgi_on_asgi.get(path, method="POST", body=body, chunked=chunked)
    assert (answer.status, answer.is_complete) == (200, True)
    assert answer.body == body


def test_wsgi_lines(wsgi_on_asgi):
    body = b"one\ntwo three\n\nend"
    assert text(wsgi_on_asgi.get("/lines", method="POST", body=body)) == "[4][10][1][3]"


def test_wsgi_environ(wsgi_on_asgi):
    answer = wsgi_on_asgi.get(
        "/Z%C3%BCrich/environ?q=%C3%A9",
        method="PUT",
        headers=(
            ("Content-Type", "text/x-test"),
            ("X-One", "1"),
            ("X-One", "2"),
            ("Cookie", "a=1"),
            ("Cookie", "b=2"),
        ),
        body=b"12345",
    )
    assert dict(line.split("=", 1) for line in text(answer).splitlines()) == {
        "REQUEST_METHOD": "PUT",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/Zürich/environ".encode().decode("latin-1"),
        "QUERY_STRING": "q=%C3%A9",
        "CONTENT_TYPE": "text/x-test",
        "CONTENT_LENGTH": "5",
        "HTTP_X_ONE": "1,2",
        "HTTP_COOKIE": "a=1; b=2",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.url_scheme": "http",
    }
    assert ("x-latin", "Zürich") in answer.headers
    assert [value for name, value in answer.headers if name == "set-cookie"] == ["a=1", "b=2"]


def test_wsgi_head(wsgi_on_asgi):
    answer = wsgi_on_asgi.get("/generator", method="HEAD")
    assert (answer.status, answer.body) == (200, b"")


def test_wsgi_error_in_the_middle(wsgi_on_asgi):
    answer = wsgi_on_asgi.get("/raises-late")
    assert (answer.status, answer.is_complete) == (200, False)
    assert text(wsgi_on_asgi.get("/write")) == "written, returned"


def test_wsgi_too_many_duplicate_headers(wsgi_on_asgi):
    answer = wsgi_on_asgi.get("/write", headers=tuple(("X", str(n)) for n in range(101)))
    assert (answer.status, text(answer)) == (400, "Bad Request: Too many duplicate headers")
    assert wsgi_on_asgi.get("/write", headers=(("X", "1"),) * 100).status == 200


def wait_until_closed(server: Server, number: int) -> None:
    # The only way to know is to ask; a time limit, not a measure of when.
    deadline = time.monotonic() + SECONDS
    while int(server.get("/closed").body) < number:
        assert time.monotonic() < deadline, server.log()
        time.sleep(0.02)


def test_wsgi_client_leaves_in_the_middle_of_the_response(wsgi_on_asgi):
    before = int(wsgi_on_asgi.get("/closed").body)
    for _ in range(3):
        with wsgi_on_asgi.connect() as connection:
            connection.sendall(request("/endless"))
            assert len(connection.recv(50_000)) > 0
    wait_until_closed(wsgi_on_asgi, before + 3)
    assert "ClientDisconnected" not in wsgi_on_asgi.log()


@pytest.mark.parametrize("path", ["/body", "/lines", "/stream"])
def test_wsgi_client_leaves_in_the_middle_of_its_request(wsgi_on_asgi, path):
    for _ in range(3):
        with wsgi_on_asgi.connect() as connection:
            message = request(path, method="POST", body=b"x" * 200_000)
            connection.sendall(message[:100_000])
    assert text(wsgi_on_asgi.get("/write")) == "written, returned"
    assert "ClientDisconnected" not in wsgi_on_asgi.log()


def test_wsgi_slow_reader(wsgi_on_asgi):
    with wsgi_on_asgi.connect() as connection:
        connection.sendall(request("/file"))
        # Others are answered meanwhile: what it does not take, the server keeps.
        assert text(wsgi_on_asgi.get("/write")) == "written, returned"
        assert read_answer(connection).body == b"file" * 50_000


# An ASGI application on WSGI servers


@pytest.fixture(scope="module", params=WSGI_SERVERS)
def asgi_on_wsgi(request) -> Iterator[Server]:
    with Server(request.param, "asgi_on_wsgi") as server:
        yield server


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/empty", 200, ""),
        ("/generator", 200, "".join(f"{number}," for number in range(100))),
        ("/not/there", 404, "not found"),
        ("/raises", 500, None),
        ("/no-start", 500, None),
    ],
)
def test_asgi_answers(asgi_on_wsgi, path, status, body):
    answer = asgi_on_wsgi.get(path)
    assert answer.status == status
    if body is not None:  # an error page is the server's own
        assert (text(answer), answer.is_complete) == (body, True)


@pytest.mark.parametrize("path", ["/raises-late", "/no-end"])
def test_asgi_error_in_the_middle(asgi_on_wsgi, path):
    answer = asgi_on_wsgi.get(path)
    assert (answer.status, answer.is_complete) == (200, False)
    assert asgi_on_wsgi.get("/empty").status == 200


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("size", [0, 10, 1_000_000])
def test_asgi_bodies(asgi_on_wsgi, size, chunked):
    body = os.urandom(size)
    answer = asgi_on_wsgi.get("/body", method="POST", body=body, chunked=chunked)
    assert (answer.status, answer.is_complete) == (200, True)
    assert answer.body == body


def test_asgi_scope(asgi_on_wsgi):
    answer = asgi_on_wsgi.get(
        "/Z%C3%BCrich/scope?q=%C3%A9",
        method="PUT",
        headers=(("Content-Type", "text/x-test"), ("X-One", "1"), ("Cookie", "a=1")),
        body=b"12345",
    )
    assert answer.body.decode().splitlines() == [
        "http_version='1.1'",
        "method='PUT'",
        "scheme='http'",
        "path='/Zürich/scope'",
        "raw_path=b'/Z%C3%BCrich/scope'",
        "query_string=b'q=%C3%A9'",
        "content-length: 5",
        "content-type: text/x-test",
        "cookie: a=1",
        "x-one: 1",
        "{'started': 'yes'}",
    ]
    assert ("x-latin", "Zürich") in answer.headers
    assert [value for name, value in answer.headers if name == "set-cookie"] == ["a=1", "b=2"]


def test_asgi_head(asgi_on_wsgi):
    answer = asgi_on_wsgi.get("/generator", method="HEAD")
    assert (answer.status, answer.body) == (200, b"")


def test_asgi_websocket_is_refused(asgi_on_wsgi):
    headers = (
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    )
    answer = asgi_on_wsgi.get("/scope", headers=headers)
    assert (answer.status, "no websockets" in text(answer)) == (400, True)


def test_asgi_client_leaves_in_the_middle_of_the_response(asgi_on_wsgi):
    before = int(asgi_on_wsgi.get("/closed").body)
    for _ in range(2):
        with asgi_on_wsgi.connect() as connection:
            connection.sendall(request("/endless"))
            assert len(connection.recv(50_000)) > 0
    wait_until_closed(asgi_on_wsgi, before + 2)


def test_asgi_client_leaves_in_the_middle_of_its_request(asgi_on_wsgi):
    for _ in range(2):
        with asgi_on_wsgi.connect() as connection:
            connection.sendall(request("/body", method="POST", body=b"x" * 200_000)[:100_000])
    assert text(asgi_on_wsgi.get("/empty")) == ""


# Frameworks: through an adapter as natively

FORM = b"name=Z%C3%BCrich&list=1&list=2"
MULTIPART = (
    b'--cut\r\nContent-Disposition: form-data; name="name"\r\n\r\nvalue\r\n'
    b'--cut\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n'
    + b"\0\xff\n" * 100_000
    + b"\r\n--cut--\r\n"
)
FRAMEWORK_REQUESTS = [
    ("/", {}),
    ("/", {"method": "HEAD"}),
    ("/stream", {}),
    ("/file", {}),
    ("/error", {}),
    ("/missing", {}),
    ("/echo/Z%C3%BCrich?a=1&a=2&b=%26", {"headers": (("Cookie", "a=1; b=2"),)}),
    (
        "/echo/form",
        {
            "method": "POST",
            "body": FORM,
            "headers": (("Content-Type", "application/x-www-form-urlencoded"),),
        },
    ),
    (
        "/echo/form",
        {
            "method": "POST",
            "body": MULTIPART,
            "headers": (("Content-Type", "multipart/form-data; boundary=cut"),),
        },
    ),
]


@pytest.mark.parametrize(
    ("framework", "native_server", "native", "server", "adapted"),
    [
        ("flask", "gunicorn", "flask", "uvicorn", "flask_on_asgi"),
        ("flask", "gunicorn", "flask", "hypercorn", "flask_on_asgi"),
        ("django", "gunicorn", "django_wsgi", "uvicorn", "django_wsgi_on_asgi"),
        ("django", "gunicorn", "django_wsgi", "hypercorn", "django_wsgi_on_asgi"),
        ("starlette", "uvicorn", "starlette", "gunicorn", "starlette_on_wsgi"),
        ("django", "uvicorn", "django_asgi", "gunicorn", "django_asgi_on_wsgi"),
        ("django", "uvicorn", "django_asgi", "gunicorn-threads", "django_asgi_on_wsgi"),
    ],
)
def test_a_framework_gives_the_same_bytes(framework, native_server, native, server, adapted):
    needs(framework)
    with Server(native_server, native) as one, Server(server, adapted) as other:
        for path, options in FRAMEWORK_REQUESTS:
            expected = one.get(path, **options)
            assert expected.status in (200, 404, 500)
            if options.get("method") == "HEAD":
                expected.body = b""  # older gunicorns send one
            assert other.get(path, **options).essence() == expected.essence(), (path, options)


# A gigabyte

GIGABYTE = 1 << 30
PART = bytes(1 << 20)


@pytest.mark.parametrize(
    ("server", "site"), [("uvicorn", "wsgi_on_asgi"), ("gunicorn", "asgi_on_wsgi")]
)
def test_a_gigabyte_in_and_out_in_flat_memory(server, site):
    import threading

    with Server(server, site) as running:
        assert running.get("/empty").status == 200
        before = running.memory()
        with running.connect() as connection:
            head = request("/stream", method="POST").replace(
                b"\r\n\r\n", f"\r\nContent-Length: {GIGABYTE}\r\n\r\n".encode()
            )
            connection.sendall(head)

            def upload() -> None:
                for _ in range(GIGABYTE // len(PART)):
                    connection.sendall(PART)

            uploader = threading.Thread(target=upload, daemon=True)
            uploader.start()
            received = 0
            buffer = bytearray(1 << 20)
            while size := connection.recv_into(buffer):
                received += size
            uploader.join(SECONDS)
        assert received >= GIGABYTE
        assert running.memory() - before < 30 << 20
