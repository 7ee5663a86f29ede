"""What frameworks answer, held to the specification: prints what was answered, and the warnings.

    python checked.py FRAMEWORK

`asgibridge.typing.check` raises in the application, or here, what is no mere warning. There is no
``from __future__ import annotations``, because FastAPI reads them, and their names are local.
"""

import asyncio
import json
import sys
import warnings
from typing import Any

from asgibridge.testing import HttpCommunicator, LifespanCommunicator, WebsocketCommunicator
from asgibridge.typing import check
from asgibridge.wsgi import WsgiToAsgi


def django_settings() -> None:
    from django.conf import settings

    settings.configure(
        ALLOWED_HOSTS=["*"],
        MIDDLEWARE=[
            "django.middleware.security.SecurityMiddleware",
            "django.middleware.common.CommonMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
        ],
        ROOT_URLCONF=__name__,
        SECRET_KEY="x",
    )


def django() -> Any:
    django_settings()
    from django.core.asgi import get_asgi_application

    return get_asgi_application()


def channels() -> Any:
    http = django()
    from channels.generic.http import AsyncHttpConsumer
    from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
    from channels.routing import ProtocolTypeRouter, URLRouter
    from django.urls import path as route
    from django.urls import re_path

    class Echo(AsyncWebsocketConsumer):  # type: ignore[misc]
        async def connect(self) -> None:
            await self.accept(subprotocol="v1", headers=[(b"x-name", b"value")])

        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            if text_data == "close":
                await self.close(code=4001, reason="asked to")
            else:
                await self.send(text_data=text_data, bytes_data=bytes_data)

    class Refusing(WebsocketConsumer):  # type: ignore[misc]
        def connect(self) -> None:
            self.close()

    class Page(AsyncHttpConsumer):  # type: ignore[misc]
        async def handle(self, body: bytes) -> None:
            await self.send_response(201, body, headers=[(b"Content-Type", b"text/plain")])

    return ProtocolTypeRouter(
        {
            "http": URLRouter([route("consumer", Page.as_asgi()), re_path("", http)]),
            "websocket": URLRouter(
                [route("echo", Echo.as_asgi()), route("refused", Refusing.as_asgi())]
            ),
        }
    )


def starlette() -> Any:
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.routing import Route, WebSocketRoute

    async def index(request: Any) -> Any:
        return JSONResponse({"body": (await request.body()).decode()})

    async def stream(request: Any) -> Any:
        return StreamingResponse(iter([b"a", memoryview(b"b"), "c"]))

    async def empty(request: Any) -> Any:
        return Response(status_code=204)

    async def echo(websocket: Any) -> None:
        await websocket.accept(subprotocol="v1", headers=[(b"x-name", b"value")])
        async for text in websocket.iter_text():
            if text == "close":
                await websocket.close(code=4001, reason="asked to")
                return
            await websocket.send_text(text)

    async def refused(websocket: Any) -> None:
        await websocket.close()

    return Starlette(
        routes=[
            Route("/", index, methods=["GET", "POST"]),
            Route("/stream", stream),
            Route("/empty", empty),
            WebSocketRoute("/echo", echo),
            WebSocketRoute("/refused", refused),
        ]
    )


def fastapi() -> Any:
    from fastapi import FastAPI, Request, WebSocket
    from fastapi.responses import StreamingResponse

    application = FastAPI()

    async def index(request: Request) -> Any:
        return {"body": (await request.body()).decode()}

    def stream() -> Any:
        return StreamingResponse(iter(["a", "b", "c"]))

    def empty() -> None:
        pass

    async def echo(websocket: WebSocket) -> None:
        await websocket.accept(subprotocol="v1")
        async for text in websocket.iter_text():
            if text == "close":
                await websocket.close(code=4001, reason="asked to")
                return
            await websocket.send_text(text)

    async def refused(websocket: WebSocket) -> None:
        await websocket.close()

    application.add_api_route("/", index, methods=["GET", "POST"])
    application.add_api_route("/stream", stream)
    application.add_api_route("/empty", empty, status_code=204)
    application.add_api_websocket_route("/echo", echo)
    application.add_api_websocket_route("/refused", refused)
    return application


def flask() -> Any:
    from flask import Flask, Response, request

    site = Flask(__name__)

    @site.route("/", methods=["GET", "POST"])
    def index() -> Any:
        return {"body": request.get_data(as_text=True)}

    @site.route("/stream")
    def stream() -> Any:
        return Response(iter(["a", "b", "c"]))

    @site.route("/empty")
    def empty() -> Any:
        return "", 204

    return WsgiToAsgi(site)


def _urls() -> list[Any]:
    # Django's, of which this module is the ROOT_URLCONF.
    from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
    from django.urls import path as route
    from django.views.decorators.csrf import csrf_exempt

    @csrf_exempt  # type: ignore[untyped-decorator, unused-ignore]
    def index(request: Any) -> Any:
        response = JsonResponse({"body": request.body.decode()})
        response.set_cookie("name", "value")
        return response

    def stream(request: Any) -> Any:
        async def parts() -> Any:
            for part in ("a", "b", "c"):
                yield part

        return StreamingHttpResponse(parts())

    def empty(request: Any) -> Any:
        return HttpResponse(status=204)

    return [route("", index), route("stream", stream), route("empty", empty)]


def __getattr__(name: str) -> Any:
    if name == "urlpatterns":
        return _urls()
    raise AttributeError(name)


async def talk(application: Any, *, has_websockets: bool, has_lifespan: bool) -> dict[str, Any]:
    answers: dict[str, Any] = {}

    async def ask(method: str, path: str, **options: Any) -> Any:
        async with HttpCommunicator(application, method, path, **options) as http:
            response = await http.get_response(10)
        answers[f"{method} {path}"] = response.status
        return response

    if has_lifespan:
        async with LifespanCommunicator(application):
            answers["lifespan"] = "complete"
    assert (await ask("POST", "/", body="hello")).json() == {"body": "hello"}
    assert (await ask("GET", "/stream")).text == "abc"
    for method, path in (("HEAD", "/"), ("GET", "/empty"), ("GET", "/nowhere"), ("PUT", "/stream")):
        await ask(method, path)
    if has_websockets:
        if "channels" in sys.modules:
            assert (await ask("POST", "/consumer", body="hello")).body == b"hello"
        async with WebsocketCommunicator(application, "/echo", subprotocols=["v1"]) as websocket:
            assert await websocket.connect(10) == (True, "v1")
            await websocket.send_to("hello")
            assert await websocket.receive_from(10) == "hello"
            await websocket.send_to("close")
            answers["closed with"] = await websocket.receive_close(10)
        async with WebsocketCommunicator(application, "/refused") as websocket:
            answers["connected"] = (await websocket.connect(10))[0]
    return answers


def main(framework: str) -> None:
    makes = {each.__name__: each for each in (django, channels, starlette, fastapi, flask)}
    application = check(makes[framework]())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        answers = asyncio.run(
            talk(
                application,
                has_websockets=framework in ("channels", "starlette", "fastapi"),
                has_lifespan=framework in ("starlette", "fastapi", "flask"),
            )
        )
    found = [str(each.message) for each in caught if "servers forgive it" in str(each.message)]
    print(json.dumps({"answers": answers, "warnings": found}))


if __name__ == "__main__":
    main(sys.argv[1])
