"""The ASGI types at run time: they exist, they resolve, and they know which keys are optional."""

from __future__ import annotations

import typing

import pytest

import asgibridge.typing as asgi

MESSAGE_TYPES = {
    "HTTPScope": "http",
    "WebSocketScope": "websocket",
    "LifespanScope": "lifespan",
    "HTTPRequestEvent": "http.request",
    "HTTPDisconnectEvent": "http.disconnect",
    "HTTPResponseStartEvent": "http.response.start",
    "HTTPResponseBodyEvent": "http.response.body",
    "HTTPResponseTrailersEvent": "http.response.trailers",
    "HTTPResponsePathsendEvent": "http.response.pathsend",
    "HTTPServerPushEvent": "http.response.push",
    "HTTPResponseDebugEvent": "http.response.debug",
    "WebSocketConnectEvent": "websocket.connect",
    "WebSocketAcceptEvent": "websocket.accept",
    "WebSocketReceiveEvent": "websocket.receive",
    "WebSocketSendEvent": "websocket.send",
    "WebSocketDisconnectEvent": "websocket.disconnect",
    "WebSocketCloseEvent": "websocket.close",
    "WebSocketResponseStartEvent": "websocket.http.response.start",
    "WebSocketResponseBodyEvent": "websocket.http.response.body",
    "LifespanStartupEvent": "lifespan.startup",
    "LifespanShutdownEvent": "lifespan.shutdown",
    "LifespanStartupCompleteEvent": "lifespan.startup.complete",
    "LifespanStartupFailedEvent": "lifespan.startup.failed",
    "LifespanShutdownCompleteEvent": "lifespan.shutdown.complete",
    "LifespanShutdownFailedEvent": "lifespan.shutdown.failed",
}
OTHERS = {
    "ASGI2Application",
    "ASGI2Protocol",
    "ASGI3Application",
    "ASGIApp",
    "ASGIApplication",
    "ASGIReceiveCallable",
    "ASGIReceiveEvent",
    "ASGISendCallable",
    "ASGISendEvent",
    "ASGIVersions",
    "Scope",
    "WWWScope",
}


def test_star_import_gives_every_name():
    namespace: dict[str, object] = {}
    exec("from asgibridge.typing import *", namespace)
    assert set(namespace) - {"__builtins__"} == set(MESSAGE_TYPES) | OTHERS


@pytest.mark.parametrize(("name", "type_"), MESSAGE_TYPES.items())
def test_the_type_key_says_what_the_specification_says(name, type_):
    hints = typing.get_type_hints(getattr(asgi, name))
    assert typing.get_args(hints["type"]) == (type_,)


@pytest.mark.parametrize("name", [*MESSAGE_TYPES, "ASGIVersions"])
def test_only_state_may_be_absent(name):
    class_ = getattr(asgi, name)
    assert class_.__optional_keys__ == {"state"} & set(class_.__annotations__)
    assert class_.__required_keys__ == set(class_.__annotations__) - {"state"}


def test_every_scope_may_have_state():
    assert {s.__name__ for s in typing.get_args(asgi.Scope) if s.__optional_keys__} == {
        "HTTPScope",
        "WebSocketScope",
        "LifespanScope",
    }


def test_a_message_is_a_dict():
    event = asgi.HTTPRequestEvent(type="http.request", body=b"", more_body=False)
    assert event == {"type": "http.request", "body": b"", "more_body": False}
    assert type(event) is dict


def test_the_application_type_has_two_names():
    assert asgi.ASGIApp is asgi.ASGIApplication
    assert typing.get_args(asgi.ASGIApplication) == (asgi.ASGI2Application, asgi.ASGI3Application)
