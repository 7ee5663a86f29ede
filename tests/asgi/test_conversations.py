"""The communicators that hold a whole conversation: HTTP, WebSocket and lifespan."""

from __future__ import annotations

import asyncio
import json

import pytest

from asgibridge.testing import (
    ApplicationCommunicator,
    HttpCommunicator,
    LifespanCommunicator,
    LifespanFailed,
    UnexpectedMessage,
    WebsocketCommunicator,
)
from asgibridge.typing import check


class Broken(Exception):
    pass


async def site(scope, receive, send):
    """A small framework's worth of everything; held to the specification below."""
    await {"http": http, "websocket": websocket, "lifespan": lifespan}[scope["type"]](
        scope, receive, send
    )


async def http(scope, receive, send):
    body, more = b"", True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            scope["state"]["disconnected"] = True
            return
        body += event.get("body", b"")
        more = event.get("more_body", False)
    seen = {
        "method": scope["method"],
        "path": scope["path"],
        "query": scope["query_string"].decode(),
        "headers": [[name.decode(), value.decode()] for name, value in scope["headers"]],
        "body": body.decode(),
        "pool": scope.get("state", {}).get("pool"),
    }
    headers = [(b"content-type", b"application/json"), (b"set-cookie", b"a"), (b"set-cookie", b"b")]
    has_trailers = "http.response.trailers" in scope.get("extensions", {})
    if "http.response.debug" in scope.get("extensions", {}):
        await send({"type": "http.response.debug", "info": {}})
    start = {"type": "http.response.start", "status": 201, "headers": headers}
    await send({**start, "trailers": has_trailers})
    if "http.response.early_hint" in scope.get("extensions", {}):
        await send({"type": "http.response.early_hint", "links": []})
    text = json.dumps(seen).encode()
    for i in range(0, len(text), 20):
        await send({"type": "http.response.body", "body": text[i : i + 20], "more_body": True})
    await send({"type": "http.response.body"})
    if has_trailers:
        trailers = {"type": "http.response.trailers", "headers": [(b"x-sum", b"1")]}
        await send({**trailers, "more_trailers": True})
        await send(trailers)
    assert (await receive())["type"] == "http.disconnect"
    if "fail" in scope["path"]:
        raise Broken("after the response")


async def websocket(scope, receive, send):
    assert (await receive())["type"] == "websocket.connect"
    if scope["path"] == "/denied":
        await send({"type": "websocket.http.response.start", "status": 401, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"no", "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b"body"})
        return
    if not scope["subprotocols"]:
        await send({"type": "websocket.close", "code": 4001})
        return
    await send({"type": "websocket.accept", "subprotocol": scope["subprotocols"][0]})
    while True:
        event = await receive()
        if event["type"] == "websocket.disconnect":
            scope["state"]["code"] = event["code"], event["reason"]
            return
        if event.get("text") == "close":
            await send({"type": "websocket.close", "code": 4002})
            return
        if event.get("text") == "fail":
            raise Broken("asked to")
        await send({**event, "type": "websocket.send"})


async def lifespan(scope, receive, send):
    assert await receive() == {"type": "lifespan.startup"}
    scope["state"]["pool"] = "filled"
    await send({"type": "lifespan.startup.complete"})
    assert await receive() == {"type": "lifespan.shutdown"}
    del scope["state"]["pool"]
    await send({"type": "lifespan.shutdown.complete"})


application = check(site)


# HTTP


@pytest.mark.asyncio
async def test_a_request_and_its_response():
    headers = [(b"X-Name", b"value")]
    path = "/caf%C3%A9?a=1&b=%20"
    async with HttpCommunicator(application, "post", path, body=b"hi", headers=headers) as http:
        response = await http.get_response()
    assert repr(response).startswith("<HttpResponse 201, ")
    assert response.header("Content-Type") == "application/json"
    assert response.header("missing") is None
    assert response.headers[1:] == [(b"set-cookie", b"a"), (b"set-cookie", b"b")]
    assert (
        json.loads(response.text)
        == response.json()
        == {
            "method": "POST",
            "path": "/café",
            "query": "a=1&b=%20",
            "headers": [["x-name", "value"]],
            "body": "hi",
            "pool": None,
        }
    )


@pytest.mark.asyncio
async def test_a_streamed_request_and_response():
    http = HttpCommunicator(application, "PUT", body=None)
    await http.send_body(b"a", more_body=True)
    await http.send_body(b"b")
    response = await http.start_response()
    assert response.status == 201
    chunks = [chunk async for chunk in http.body_chunks()]
    assert len(chunks) > 2
    assert json.loads(b"".join(chunks))["body"] == "ab"
    await http.disconnect()


@pytest.mark.asyncio
async def test_extensions():
    names = ("http.response.trailers", "http.response.early_hint", "http.response.debug")
    http = HttpCommunicator(application, extensions={name: {} for name in names})
    response = await http.get_response()
    assert response.json()["method"] == "GET"
    assert response.trailers == [(b"x-sum", b"1")] * 2


@pytest.mark.asyncio
async def test_a_client_that_goes_away():
    state = {}
    http = HttpCommunicator(application, state=state)
    await http.disconnect()
    assert state == {"disconnected": True}


@pytest.mark.asyncio
async def test_what_is_raised_after_the_response_is_not_lost():
    with pytest.raises(Broken, match="after the response"):
        await HttpCommunicator(application, path="/fail").get_response()


@pytest.mark.asyncio
async def test_an_application_that_answers_something_else():
    async def application(scope, receive, send):
        await send({"type": "http.response.body"})

    with pytest.raises(
        UnexpectedMessage, match=r"expected http\.response\.start or .* not \{'type'"
    ):
        await HttpCommunicator(application).get_response()


async def asked(*args, **options):
    """The scope and the body of the request that a communicator makes."""
    seen = []

    async def application(scope, receive, send):
        seen.extend((scope, (await receive())["body"]))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    async with HttpCommunicator(check(application), *args, **options) as http:
        await http.get_response()
    return seen


@pytest.mark.thread_unsafe(reason="one of them can be iterated over once")
@pytest.mark.parametrize(
    "headers",
    [
        {"X-Name": "v\xe4lue", "x-b": b"2"},
        {b"X-Name": b"v\xe4lue", b"x-b": "2"},
        [("X-Name", "v\xe4lue"), (b"x-b", "2")],
        (pair for pair in [(bytearray(b"x-name"), memoryview(b"v\xe4lue")), ["x-b", "2"]]),
    ],
)
@pytest.mark.asyncio
async def test_headers_are_a_dict_or_pairs_of_bytes_or_str(headers):
    scope, _ = await asked(headers=headers)
    assert scope["headers"] == [(b"x-name", b"v\xe4lue"), (b"x-b", b"2")]
    assert (await asked(headers=None))[0]["headers"] == []


@pytest.mark.parametrize(
    "headers",
    ["host: a", b"host", ["host"], [("host",)], [("length", 5)], {"length": 5}, [("a", "€")], 5],
)
def test_other_headers_are_refused_by_a_word_of_what_is_right(headers):
    for make in (HttpCommunicator, WebsocketCommunicator):
        with pytest.raises(TypeError, match="headers must be a dict, or pairs, of names"):
            make(application, headers=headers)


@pytest.mark.parametrize(
    ("body", "sent"),
    [(b"a", b"a"), ("\xe4", b"\xc3\xa4"), (bytearray(b"a"), b"a"), (memoryview(b"a"), b"a")],
)
@pytest.mark.asyncio
async def test_a_body_is_bytes_or_text(body, sent):
    assert (await asked("POST", body=body))[1] == sent
    http = HttpCommunicator(application, "POST", body=None)
    await http.send_body(body)
    assert (await http.get_response()).json()["body"].encode() == sent


@pytest.mark.parametrize("body", [5, {"a": 1}, [b"a"], object()])
@pytest.mark.asyncio
async def test_another_body_is_refused_by_a_word_of_json(body):
    with pytest.raises(TypeError, match="must be bytes or a str; json= takes"):
        HttpCommunicator(application, "POST", body=body)
    with pytest.raises(TypeError, match="must be bytes or a str; json= takes"):
        await HttpCommunicator(application, "POST", body=None).send_body(body)


@pytest.mark.asyncio
async def test_json_has_its_content_type():
    scope, sent = await asked("POST", "/notes", json={"a": [1, None]})
    assert json.loads(sent) == {"a": [1, None]}
    assert scope["headers"] == [(b"content-type", b"application/json")]
    assert "json" not in scope
    other = {"Content-Type": "application/problem+json"}
    scope, sent = await asked("POST", json=[], headers=other)
    assert (scope["headers"], sent) == ([(b"content-type", b"application/problem+json")], b"[]")
    assert (await asked("POST", json=None))[1] == b""
    with pytest.raises(TypeError, match="not both"):
        HttpCommunicator(application, "POST", body="a", json=1)


@pytest.mark.parametrize("method", ["/notes", "GET /notes", "", "http://a/", None, b"GET"])
def test_a_forgotten_method_is_noticed(method):
    with pytest.raises(ValueError, match="must be a method such as 'GET'; the path comes after it"):
        HttpCommunicator(application, method)


@pytest.mark.parametrize(
    ("path", "decoded", "raw", "query"),
    [
        ("/caf\xe9 ?q=\xe9 b&c=%20", "/caf\xe9 ", b"/caf%C3%A9%20", b"q=%C3%A9%20b&c=%20"),
        ("/a%2Fb?c?d", "/a/b", b"/a%2Fb", b"c?d"),
        ("/a?b#c", "/a", b"/a", b"b"),
        ("*", "*", b"*", b""),
    ],
)
@pytest.mark.asyncio
async def test_a_path_is_encoded_where_it_is_not(path, decoded, raw, query):
    scope, _ = await asked("OPTIONS", path)
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == (decoded, raw, query)


@pytest.mark.parametrize("path", ["notes", "", "?a=1", "./a", "localhost/notes", "mailto:a"])
def test_a_path_without_a_slash_is_refused(path):
    for make in (lambda: HttpCommunicator(application, path=path), lambda: websocket_to(path)):
        with pytest.raises(ValueError, match="must begin with '/'"):
            make()


def websocket_to(path, **options):
    return WebsocketCommunicator(application, path, **options)


@pytest.mark.parametrize(
    ("url", "scheme", "server", "host", "path"),
    [
        ("http://localhost/notes?a=1", "http", ("localhost", 80), b"localhost", "/notes"),
        ("https://user:word@Example.ORG", "https", ("example.org", 443), b"Example.ORG", "/"),
        ("http://[::1]:8000/a", "http", ("::1", 8000), b"[::1]:8000", "/a"),
    ],
)
@pytest.mark.asyncio
async def test_a_whole_url(url, scheme, server, host, path):
    scope, _ = await asked("GET", url)
    assert (scope["scheme"], scope["server"], scope["path"]) == (scheme, server, path)
    assert scope["headers"] == [(b"host", host)]
    assert scope["query_string"] == (b"a=1" if "?" in url else b"")
    assert (await asked("GET", url, headers={"Host": "b"}))[0]["headers"] == [(b"host", b"b")]
    scope = websocket_to(url.replace("http", "ws")).scope
    assert (scope["scheme"], scope["server"]) == (scheme.replace("http", "ws"), server)


def test_a_url_of_something_else():
    for url in ("ws://localhost/", "ftp://localhost/", "http:///a"):
        with pytest.raises(ValueError, match="a URL with http:// and a host"):
            HttpCommunicator(application, path=url)
    with pytest.raises(ValueError, match="a URL with ws:// and a host"):
        websocket_to("http://localhost/")
    with pytest.raises(TypeError, match="must be a str"):
        websocket_to(b"/")


@pytest.mark.parametrize(
    ("name", "instead"),
    [("data", "body="), ("params", "path="), ("HTTP_ACCEPT", "headers="), ("cookies", "headers=")],
)
def test_what_other_test_clients_call_it(name, instead):
    for make in (HttpCommunicator, WebsocketCommunicator):
        with pytest.raises(TypeError, match=f"{name}= is no key of an ASGI scope: give {instead}"):
            make(application, **{name: {}})


@pytest.mark.asyncio
async def test_what_is_raised_after_the_last_of_the_body_is_not_lost_at_the_end_of_a_block():
    with pytest.raises(Broken, match="after the response"):
        async with HttpCommunicator(application, path="/fail") as http:
            await http.start_response()
            async for _ in http.body_chunks():
                pass


@pytest.mark.asyncio
async def test_a_block_may_end_before_the_response():
    state = {}
    async with HttpCommunicator(application, state=state):
        pass
    assert state == {"disconnected": True}
    with pytest.raises(LookupError):
        async with HttpCommunicator(application, state=state) as http:
            raise LookupError
    assert http.future.cancelled()


# WebSocket


@pytest.mark.parametrize(
    "step",
    [
        lambda websocket: websocket.send_to("a"),
        lambda websocket: websocket.send_json_to("a"),
        lambda websocket: websocket.receive_from(),
        lambda websocket: websocket.receive_json_from(),
        lambda websocket: websocket.receive_close(),
        lambda websocket: websocket.disconnect(),
        lambda websocket: asyncio.sleep(0),
    ],
)
@pytest.mark.asyncio
async def test_a_forgotten_connect_is_noticed(step):
    websocket = WebsocketCommunicator(application, subprotocols=["v1"])
    with pytest.raises(RuntimeError, match=r"connect\(\) has not been called"):
        async with websocket:
            await step(websocket)


@pytest.mark.asyncio
async def test_the_messages_may_be_a_tests_own():
    state = {}
    async with WebsocketCommunicator(application, subprotocols=["v1"], state=state) as websocket:
        await websocket.send_input({"type": "websocket.connect"})
        assert (await websocket.receive_output())["type"] == "websocket.accept"
        await websocket.send_to("text")
        assert await websocket.receive_from() == "text"
    assert state == {"code": (1000, "")}


@pytest.mark.parametrize("how", ["refused", "closed", "left"])
@pytest.mark.asyncio
async def test_nothing_is_sent_where_nobody_is(how):
    names = [] if how == "refused" else ["v1"]
    websocket = WebsocketCommunicator(application, subprotocols=names, state={})
    await websocket.connect()
    if how == "closed":
        await websocket.send_to("close")
        await websocket.receive_close()
    elif how == "left":
        await websocket.disconnect()
    with pytest.raises(RuntimeError, match="the connection is closed, or was refused"):
        await websocket.send_to("a")


@pytest.mark.parametrize("how", ["left", "closed", "refused", "denied"])
@pytest.mark.asyncio
async def test_an_application_that_fails_at_the_end_fails_the_test(how):
    async def application(scope, receive, send):
        await receive()
        if how == "refused":
            await send({"type": "websocket.close"})
        elif how == "denied":
            await send({"type": "websocket.http.response.start", "status": 401, "headers": []})
            await send({"type": "websocket.http.response.body"})
        else:
            await send({"type": "websocket.accept"})
        if how == "closed":
            await send({"type": "websocket.close"})
        if how == "left":
            assert (await receive())["type"] == "websocket.disconnect"
        await asyncio.sleep(0.01)
        raise Broken(how)

    with pytest.raises(Broken, match=how):
        async with WebsocketCommunicator(application) as websocket:
            await websocket.connect()
            if how == "closed":
                await websocket.receive_close()


def test_subprotocols_are_a_list():
    with pytest.raises(TypeError, match="subprotocols='v1': must be a list of str"):
        WebsocketCommunicator(application, subprotocols="v1")


@pytest.mark.asyncio
async def test_an_echo():
    state = {}
    websocket = WebsocketCommunicator(application, subprotocols=["v2", "v1"], state=state)
    async with websocket:
        assert await websocket.connect() == (True, "v2")
        await websocket.send_to("text")
        assert await websocket.receive_from() == "text"
        await websocket.send_to(bytes_data=b"bytes")
        assert await websocket.receive_from() == b"bytes"
        await websocket.send_json_to([1, {"a": None}])
        assert await websocket.receive_json_from() == [1, {"a": None}]
        assert await websocket.receive_nothing(timeout=0)
    assert state == {"code": (1000, "")}


@pytest.mark.asyncio
async def test_a_client_that_says_why_it_goes():
    state = {}
    websocket = WebsocketCommunicator(application, subprotocols=["v1"], state=state)
    await websocket.connect()
    await websocket.disconnect(4000, reason="bored")
    assert state == {"code": (4000, "bored")}


@pytest.mark.asyncio
async def test_a_connection_that_is_refused():
    websocket = WebsocketCommunicator(application)
    assert await websocket.connect() == (False, 4001)
    assert websocket.denial is None
    await websocket.wait()


@pytest.mark.asyncio
async def test_a_connection_that_is_denied_by_a_response():
    extensions = {"websocket.http.response": {}}
    websocket = WebsocketCommunicator(application, "/denied", extensions=extensions)
    assert await websocket.connect() == (False, 1000)
    assert (websocket.denial.status, websocket.denial.body) == (401, b"nobody")


@pytest.mark.asyncio
async def test_a_connection_that_is_closed_by_the_application():
    async with WebsocketCommunicator(application, subprotocols=["v1"]) as websocket:
        await websocket.connect()
        await websocket.send_to("close")
        assert await websocket.receive_close() == 4002
    async with WebsocketCommunicator(application, subprotocols=["v1"]) as websocket:
        await websocket.connect()
        await websocket.send_to("close")
        with pytest.raises(UnexpectedMessage) as raised:
            await websocket.receive_from()
        assert raised.value.message == {"type": "websocket.close", "code": 4002}


@pytest.mark.asyncio
async def test_what_a_connection_raises_comes_out():
    with pytest.raises(Broken, match="asked to"):
        async with WebsocketCommunicator(application, subprotocols=["v1"]) as websocket:
            await websocket.connect()
            await websocket.send_to("fail")


@pytest.mark.asyncio
async def test_a_frame_is_text_or_bytes():
    websocket = WebsocketCommunicator(application)
    with pytest.raises(ValueError, match="either text_data or bytes_data"):
        await websocket.send_to()
    with pytest.raises(ValueError, match="either text_data or bytes_data"):
        await websocket.send_to("a", b"a")


# Lifespan


@pytest.mark.asyncio
async def test_a_lifespan_and_a_request_in_it():
    async with LifespanCommunicator(application) as lifespan:
        http = HttpCommunicator(application, state=dict(lifespan.state))
        assert (await http.get_response()).json()["pool"] == "filled"
    assert lifespan.state == {}
    assert lifespan.future.done()


@pytest.mark.parametrize("phase", ["startup", "shutdown"])
@pytest.mark.asyncio
async def test_a_failure_is_reported_in_its_words(phase):
    async def application(scope, receive, send):
        await receive()
        if phase == "shutdown":
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": f"lifespan.{phase}.failed", "message": "no database"})

    with pytest.raises(LifespanFailed, match=f"{phase} failed: no database"):
        async with LifespanCommunicator(check(application)):
            pass


@pytest.mark.asyncio
async def test_an_application_without_lifespans_says_so_itself():
    async def application(scope, receive, send):
        raise Broken("no lifespans")

    with pytest.raises(Broken, match="no lifespans"):
        async with LifespanCommunicator(application):
            pass


@pytest.mark.asyncio
async def test_the_bodys_own_exception_comes_first_and_the_shutdown_all_the_same():
    lifespan = LifespanCommunicator(application)
    with pytest.raises(LookupError):
        async with lifespan:
            raise LookupError
    assert lifespan.state == {}


@pytest.mark.asyncio
async def test_the_bodys_own_exception_comes_before_that_of_the_shutdown():
    async def application(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        raise Broken("in the shutdown")

    with pytest.raises(LookupError):
        async with LifespanCommunicator(application):
            raise LookupError


@pytest.mark.asyncio
async def test_the_bodys_own_exception_comes_before_the_word_of_a_stop():
    with pytest.raises(LookupError):
        async with LifespanCommunicator(application) as lifespan:
            lifespan.stop()
            await asyncio.wait({lifespan.future})
            raise LookupError


@pytest.mark.asyncio
async def test_an_application_that_dies_in_between():
    died = asyncio.Event()

    async def application(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await died.wait()
        raise Broken("in between")

    with pytest.raises(Broken, match="in between"):
        async with LifespanCommunicator(application) as lifespan:
            died.set()
            await asyncio.wait({lifespan.future})


# A real framework


@pytest.mark.asyncio
async def test_with_a_framework():
    applications = pytest.importorskip("starlette.applications")
    from starlette.responses import JSONResponse, StreamingResponse
    from starlette.routing import Route, WebSocketRoute

    from asgibridge.iterators import sync_to_async_iterator

    async def page(request):
        return JSONResponse({"name": request.query_params["name"]}, status_code=202)

    async def stream(request):
        return StreamingResponse(sync_to_async_iterator(f"{i}\n" for i in range(500)))

    async def echo(websocket):
        await websocket.accept()
        async for data in websocket.iter_json():
            await websocket.send_json(data)

    routes = [Route("/", page), Route("/stream", stream), WebSocketRoute("/echo", echo)]
    application = check(applications.Starlette(routes=routes))
    async with LifespanCommunicator(application):
        response = await HttpCommunicator(application, path="/?name=x").get_response()
        assert (response.status, response.json()) == (202, {"name": "x"})
        response = await HttpCommunicator(application, path="/stream").get_response()
        assert response.text == "".join(f"{i}\n" for i in range(500))
        async with WebsocketCommunicator(application, "/echo") as websocket:
            assert await websocket.connect() == (True, None)
            await websocket.send_json_to({"a": 1})
            assert await websocket.receive_json_from() == {"a": 1}


def test_they_are_communicators():
    for class_ in (HttpCommunicator, WebsocketCommunicator, LifespanCommunicator):
        assert issubclass(class_, ApplicationCommunicator)
