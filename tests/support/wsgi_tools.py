"""WSGI applications, ASGI scopes, and a server that is none: what the tests of `wsgi` share."""

from __future__ import annotations

import asyncio

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
        if not waiting:  # a client that has said all and stays
            await asyncio.get_running_loop().create_future()
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


def parts(*bodies):
    """The messages of a request body that comes in these parts."""
    last = len(bodies) - 1
    return [
        {"type": "http.request", "body": part, "more_body": number < last}
        for number, part in enumerate(bodies)
    ]


def content(sent):
    """The body in the messages of a response."""
    return b"".join(message.get("body", b"") for message in sent)


def echo(environ, start_response):
    """Answers with the request body."""
    start_response("200 OK", [])
    return [environ["wsgi.input"].read()]
