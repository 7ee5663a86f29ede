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
    "HTTPResponseZeroCopySendEvent": "http.response.zerocopysend",
    "HTTPResponseEarlyHintEvent": "http.response.early_hint",
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
    "ProtocolViolation",
    "Scope",
    "TLSExtension",
    "WWWScope",
    "check",
}
# What the specification lets a server or an application leave out.
MAY_BE_ABSENT = {
    "ASGIVersions": "spec_version",
    "TLSExtension": "client_cert_chain client_cert_name client_cert_error",
    "HTTPScope": "scheme raw_path root_path client server state extensions",
    "WebSocketScope": "http_version scheme raw_path query_string root_path client server "
    "subprotocols state extensions",
    "LifespanScope": "state",
    "HTTPRequestEvent": "body more_body",
    "HTTPResponseStartEvent": "headers trailers",
    "HTTPResponseBodyEvent": "body more_body",
    "HTTPResponseTrailersEvent": "more_trailers",
    "HTTPResponseZeroCopySendEvent": "offset count more_body",
    "WebSocketAcceptEvent": "subprotocol headers",
    "WebSocketReceiveEvent": "bytes text",
    "WebSocketSendEvent": "bytes text",
    "WebSocketDisconnectEvent": "reason",
    "WebSocketCloseEvent": "code reason",
    "WebSocketResponseStartEvent": "headers",
    "WebSocketResponseBodyEvent": "body more_body",
    "LifespanStartupFailedEvent": "message",
    "LifespanShutdownFailedEvent": "message",
}


def test_star_import_gives_every_name():
    namespace: dict[str, object] = {}
    exec("from asgibridge.typing import *", namespace)
    assert set(namespace) - {"__builtins__"} == set(MESSAGE_TYPES) | OTHERS


@pytest.mark.parametrize(("name", "type_"), MESSAGE_TYPES.items())
def test_the_type_key_says_what_the_specification_says(name, type_):
    hints = typing.get_type_hints(getattr(asgi, name))
    assert typing.get_args(hints["type"]) == (type_,)


@pytest.mark.parametrize("name", [*MESSAGE_TYPES, "ASGIVersions", "TLSExtension"])
def test_which_keys_may_be_absent(name):
    class_ = getattr(asgi, name)
    absent = set(MAY_BE_ABSENT.get(name, "").split())
    assert class_.__optional_keys__ == absent
    assert class_.__required_keys__ == set(class_.__annotations__) - absent


UPSTREAM = {
    "ASGI2Application": "",
    "ASGI2Protocol": "",
    "ASGI3Application": "",
    "ASGIApplication": "",
    "ASGIReceiveCallable": "",
    "ASGIReceiveEvent": "",
    "ASGISendCallable": "",
    "ASGISendEvent": "",
    "ASGIVersions": "spec_version version",
    "HTTPDisconnectEvent": "type",
    "HTTPRequestEvent": "type body more_body",
    "HTTPResponseBodyEvent": "type body more_body",
    "HTTPResponsePathsendEvent": "type path",
    "HTTPResponseStartEvent": "type status headers trailers",
    "HTTPResponseTrailersEvent": "type headers more_trailers",
    "HTTPScope": (
        "type asgi http_version method scheme path raw_path query_string root_path "
        "headers client server state extensions"
    ),
    "HTTPServerPushEvent": "type path headers",
    "LifespanScope": "type asgi state",
    "LifespanShutdownCompleteEvent": "type",
    "LifespanShutdownEvent": "type",
    "LifespanShutdownFailedEvent": "type message",
    "LifespanStartupCompleteEvent": "type",
    "LifespanStartupEvent": "type",
    "LifespanStartupFailedEvent": "type message",
    "Scope": "",
    "WWWScope": "",
    "WebSocketAcceptEvent": "type subprotocol headers",
    "WebSocketCloseEvent": "type code reason",
    "WebSocketConnectEvent": "type",
    "WebSocketDisconnectEvent": "type code reason",
    "WebSocketReceiveEvent": "type bytes text",
    "WebSocketResponseBodyEvent": "type body more_body",
    "WebSocketResponseStartEvent": "type status headers",
    "WebSocketScope": (
        "type asgi http_version scheme path raw_path query_string root_path headers "
        "client server subprotocols state extensions"
    ),
    "WebSocketSendEvent": "type bytes text",
}
"""asgiref 3.13.0's names, and the keys of those that are messages or scopes."""


@pytest.mark.parametrize("name", UPSTREAM)
def test_all_of_asgirefs_keys_are_there(name):
    ours = getattr(asgi, name)
    assert set(UPSTREAM[name].split()) <= set(getattr(ours, "__annotations__", ()))


def test_each_event_goes_one_way():
    def names(union):
        return {each.__name__ for each in typing.get_args(union)}

    events = {name for name in MESSAGE_TYPES if name.endswith("Event")}
    assert names(asgi.ASGIReceiveEvent) | names(asgi.ASGISendEvent) == events
    assert not names(asgi.ASGIReceiveEvent) & names(asgi.ASGISendEvent)


def test_a_message_is_a_dict():
    event = asgi.HTTPRequestEvent(type="http.request", body=b"", more_body=False)
    assert event == {"type": "http.request", "body": b"", "more_body": False}
    assert type(event) is dict


def test_the_application_type_has_two_names():
    assert asgi.ASGIApp is asgi.ASGIApplication
    assert typing.get_args(asgi.ASGIApplication) == (asgi.ASGI2Application, asgi.ASGI3Application)
