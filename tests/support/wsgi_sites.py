"""What the server tests serve: conforming and broken applications, WSGI and ASGI, and frameworks.

Imported by the servers, as ``wsgi_sites:application``: which site that is, WSGI_SITE says.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

import asgibridge
from asgibridge.wsgi import AsgiToWsgi, WsgiToAsgi

TEXT = [("Content-Type", "text/plain; charset=utf-8")]


# --- WSGI: one path for each thing that can be right or wrong ------------------------------------


def _body(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", TEXT)
    return [environ["wsgi.input"].read()]


def _lines(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", TEXT)
    return [b"[%d]" % len(line) for line in environ["wsgi.input"]]


def _stream(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", TEXT)
    return iter(lambda: environ["wsgi.input"].read(10_000), b"")


def _write(environ: Any, start_response: Any) -> Any:
    write = start_response("200 OK", TEXT)
    write(b"written, ")
    return [b"returned"]


def _empty(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [*TEXT, ("Content-Length", "0")])
    return []


def _generator(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", TEXT)
    yield b""
    for number in range(100):
        yield b"%d," % number


def _too_long(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [*TEXT, ("Content-Length", "5")])
    return [b"1234", b"5678", b"9"]


def _no_reason(environ: Any, start_response: Any) -> Any:
    start_response("202", TEXT)
    return [b"accepted"]


def _late_error(environ: Any, start_response: Any) -> Any:
    import sys

    start_response("200 OK", TEXT)
    try:
        raise LookupError
    except LookupError:
        start_response("503 Not Now", TEXT, sys.exc_info())
    return [b"an error page"]


def _file(environ: Any, start_response: Any) -> Any:
    import io

    start_response("200 OK", TEXT)
    return environ["wsgi.file_wrapper"](io.BytesIO(b"file" * 50_000), 8192)


def _environ(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [*TEXT, ("X-Latin", "Z\xfcrich"), ("Set-Cookie", "a=1"),
                              ("Set-Cookie", "b=2")])  # fmt: skip
    keys = (
        "REQUEST_METHOD", "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "CONTENT_TYPE",
        "CONTENT_LENGTH", "HTTP_X_ONE", "HTTP_COOKIE", "SERVER_PROTOCOL", "wsgi.url_scheme",
    )  # fmt: skip
    return [f"{key}={environ.get(key)}\n".encode("latin-1") for key in keys]


def _no_start(environ: Any, start_response: Any) -> Any:
    return [b"no start"]


def _raises(environ: Any, start_response: Any) -> Any:
    raise LookupError("this one is meant")


def _raises_late(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", TEXT)
    yield b"so far, so good"
    raise LookupError("this one is meant")


def _text(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", TEXT)
    return ["no bytes"]


def _none(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", TEXT)


closed: list[str] = []


def _endless(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", TEXT)
    try:
        while True:
            yield b"x" * 10_000
    finally:
        closed.append("endless")


def _closed(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", TEXT)
    return [b"%d" % len(closed)]


def wsgi_site(environ: Any, start_response: Any) -> Any:
    """Every case above by its name as the path."""
    name = "_" + environ["PATH_INFO"].rpartition("/")[2].replace("-", "_")
    case: Callable[..., Any] | None = globals().get(name)
    if case is None or name.startswith("__"):
        start_response("404 Not Found", TEXT)
        return [b"not found"]
    return case(environ, start_response)


# --- ASGI ----------------------------------------------------------------------------------------


async def asgi_site(scope: Any, receive: Any, send: Any) -> None:
    """Much the same for ASGI."""
    if scope["type"] == "lifespan":
        await receive()
        scope["state"]["started"] = "yes"
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    name = scope["path"].rpartition("/")[2]
    headers = [(b"content-type", b"text/plain; charset=utf-8")]

    async def start(status: int = 200) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers})

    async def body(data: bytes, more: bool = False) -> None:
        await send({"type": "http.response.body", "body": data, "more_body": more})

    if name in ("body", "stream"):
        await start()
        more = True
        while more:
            message = await receive()
            more = message.get("more_body", False)
            await body(message.get("body", b""), True)
        await body(b"")
    elif name == "generator":
        await start()
        for number in range(100):
            await body(b"%d," % number, True)
        await body(b"")
    elif name == "empty":
        headers.append((b"content-length", b"0"))
        await start()
        await body(b"")
    elif name == "scope":
        headers += [(b"x-latin", b"Z\xfcrich"), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
        await start()
        keys = ("http_version", "method", "scheme", "path", "raw_path", "query_string")
        for key in keys:
            await body(f"{key}={scope[key]!r}\n".encode(), True)
        for header, value in sorted(scope["headers"]):
            if header.startswith((b"x-", b"content-", b"cookie")):
                await body(b"%s: %s\n" % (header, value), True)
        await body(repr(scope["state"]).encode())
    elif name == "raises":
        raise LookupError("this one is meant")
    elif name == "raises-late":
        await start()
        await body(b"so far, so good", True)
        raise LookupError("this one is meant")
    elif name == "no-start":
        await body(b"no start")
    elif name == "no-end":
        await start()
        await body(b"half", True)
    elif name == "endless":
        await start()
        try:
            while True:
                await body(b"x" * 10_000, True)
        finally:
            closed.append("endless")
    elif name == "closed":
        await start()
        await body(b"%d" % len(closed))
    else:
        await start(404)
        await body(b"not found")


# --- frameworks ----------------------------------------------------------------------------------


def _flask() -> Any:
    flask = importlib.import_module("flask")
    site = flask.Flask("site")

    @site.route("/")
    def home() -> str:
        return "<h1>Zürich</h1>"

    @site.route("/echo/<name>", methods=["GET", "POST"])
    def echo(name: str) -> Any:
        return {
            "name": name,
            "url": flask.request.url.split("/", 3)[3],
            "args": flask.request.args.to_dict(flat=False),
            "form": flask.request.form.to_dict(flat=False),
            "files": {key: len(file.read()) for key, file in flask.request.files.items()},
            "cookies": dict(flask.request.cookies),
            "size": len(flask.request.get_data()),
        }

    @site.route("/stream")
    def stream() -> Any:
        return flask.Response((f"{number}\n" for number in range(1000)), mimetype="text/plain")

    @site.route("/file")
    def file() -> Any:
        return flask.send_file(__file__, conditional=True)

    @site.route("/error")
    def error() -> None:
        raise LookupError("this one is meant")

    return site


def _django(kind: str) -> Any:
    asgibridge.install()  # asgiref need not be there
    django = importlib.import_module("django")
    conf = importlib.import_module("django.conf")
    http = importlib.import_module("django.http")
    urls = importlib.import_module("django.urls")

    def home(request: Any) -> Any:
        return http.HttpResponse("<h1>Zürich</h1>")

    def echo(request: Any, name: str) -> Any:
        return http.JsonResponse(
            {
                "name": name,
                "url": request.get_full_path(),
                "args": dict(request.GET.lists()),
                "form": dict(request.POST.lists()),
                "files": {key: file.size for key, file in request.FILES.items()},
                "cookies": request.COOKIES,
            }
        )

    def stream(request: Any) -> Any:
        lines = [f"{number}\n" for number in range(1000)]
        if kind == "asgi":

            async def chunks() -> Any:
                for line in lines:
                    yield line

            return http.StreamingHttpResponse(chunks(), content_type="text/plain")
        return http.StreamingHttpResponse(iter(lines), content_type="text/plain")

    def file(request: Any) -> Any:
        from pathlib import Path

        data = Path(__file__).read_bytes()
        return http.HttpResponse(data, content_type="text/x-python")

    def error(request: Any) -> None:
        raise LookupError("this one is meant")

    conf.settings.configure(
        ALLOWED_HOSTS=["*"],
        SECRET_KEY="secret",
        ROOT_URLCONF=(
            urls.path("", home),
            urls.path("echo/<name>", echo),
            urls.path("stream", stream),
            urls.path("file", file),
            urls.path("error", error),
        ),
        MIDDLEWARE=[
            "django.middleware.common.CommonMiddleware",
            "django.middleware.http.ConditionalGetMiddleware",
        ],
        LOGGING_CONFIG=None,
    )
    django.setup()
    return getattr(
        importlib.import_module(f"django.core.handlers.{kind}"), f"{kind.upper()}Handler"
    )()


def _starlette() -> Any:
    from pathlib import Path

    applications = importlib.import_module("starlette.applications")
    responses = importlib.import_module("starlette.responses")
    routing = importlib.import_module("starlette.routing")

    async def home(request: Any) -> Any:
        return responses.HTMLResponse("<h1>Zürich</h1>")

    async def echo(request: Any) -> Any:
        return responses.JSONResponse(
            {
                "name": request.path_params["name"],
                "url": str(request.url).split("/", 3)[3],
                "args": request.query_params.multi_items(),
                "cookies": request.cookies,
                "size": len(await request.body()),
            }
        )

    async def stream(request: Any) -> Any:
        async def lines() -> Any:
            for number in range(1000):
                yield f"{number}\n"

        return responses.StreamingResponse(lines(), media_type="text/plain")

    async def file(request: Any) -> Any:
        data = Path(__file__).read_bytes()
        return responses.Response(data, media_type="text/x-python")

    async def error(request: Any) -> None:
        raise LookupError("this one is meant")

    routes = [
        routing.Route("/", home),
        routing.Route("/echo/{name}", echo, methods=["GET", "POST"]),
        routing.Route("/stream", stream),
        routing.Route("/file", file),
        routing.Route("/error", error),
    ]
    return applications.Starlette(routes=routes)


_SITES: dict[str, Callable[[], Any]] = {
    "wsgi_on_asgi": lambda: WsgiToAsgi(wsgi_site),
    "wsgi_on_asgi_workers": lambda: WsgiToAsgi(wsgi_site, workers=4),
    "asgi_on_wsgi": lambda: AsgiToWsgi(asgi_site),
    "flask": _flask,
    "flask_on_asgi": lambda: WsgiToAsgi(_flask()),
    "django_wsgi": lambda: _django("wsgi"),
    "django_wsgi_on_asgi": lambda: WsgiToAsgi(_django("wsgi")),
    "django_asgi": lambda: _django("asgi"),
    "django_asgi_on_wsgi": lambda: AsgiToWsgi(_django("asgi")),
    "starlette": _starlette,
    "starlette_on_wsgi": lambda: AsgiToWsgi(_starlette()),
}


if "WSGI_SITE" in os.environ:
    application = _SITES[os.environ["WSGI_SITE"]]()
