"""Streams over sync iterators, sent as they come: the setting ``stream_sync_iterators``."""

from __future__ import annotations

import asyncio
import gzip
import tempfile
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from django.core.signals import request_finished
from django.db import connection
from django.http import FileResponse, HttpRequest, StreamingHttpResponse
from django.test import TransactionTestCase, override_settings
from django.urls import path

from asgibridge.django import ASGIHandler, handlers

from .models import Message

SECONDS = 10


class Wrong(Exception):
    pass


class Views:
    """What the views are to do, and what they have seen."""

    answer: Callable[[], StreamingHttpResponse]
    threads: set[int] = set()
    connections: set[int] = set()

    @classmethod
    def look(cls) -> None:
        cls.threads.add(threading.get_ident())
        cls.connections.add(id(connection.connection))


def sync_view(request: HttpRequest) -> StreamingHttpResponse:
    connection.ensure_connection()
    Views.look()
    return Views.answer()


async def async_view(request: HttpRequest) -> StreamingHttpResponse:
    return Views.answer()


def mapping(get_response: Any) -> Any:
    """A middleware that changes what is streamed."""

    def middleware(request: HttpRequest) -> Any:
        response = get_response(request)
        response.streaming_content = (part.upper() for part in response.streaming_content)
        return response

    return middleware


urlpatterns = [path("sync/", sync_view), path("async/", async_view)]


class Client:
    """Asks for a page, and reads it as slowly as it likes."""

    def __init__(self, url: str = "/sync/", *headers: tuple[bytes, bytes]) -> None:
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.has_left = asyncio.Event()
        self.parts: list[bytes] = []
        self.has_read = asyncio.Condition()
        self.start: dict[str, Any] = {}
        scope = {"type": "http", "method": "GET", "path": url, "headers": headers}
        self._request = [{"type": "http.request", "body": b"", "more_body": False}]
        self.task = asyncio.ensure_future(ASGIHandler()(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if self._request:
            return self._request.pop()
        await self.has_left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        await self.may_read.wait()
        if message["type"] == "http.response.start":
            self.start = message
            return
        async with self.has_read:
            self.parts += filter(None, [message.get("body")])
            self.has_read.notify_all()

    async def read(self, parts: int) -> None:
        async with asyncio.timeout(SECONDS), self.has_read:
            await self.has_read.wait_for(lambda: len(self.parts) >= parts)

    async def body(self) -> bytes:
        await asyncio.wait_for(self.task, SECONDS)
        return b"".join(self.parts)


@override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=[], ASGIBRIDGE={"stream_sync_iterators": True})
class StreamTests(TransactionTestCase):
    def setUp(self) -> None:
        Views.threads, Views.connections = set(), set()
        self.finished: list[int] = []
        request_finished.connect(self.note_finished)
        self.addCleanup(request_finished.disconnect, self.note_finished)

    def note_finished(self, **_signal: Any) -> None:
        self.finished.append(threading.get_ident())

    def stream(self, parts: Callable[[], Iterator[Any]]) -> None:
        Views.answer = lambda: StreamingHttpResponse(parts())

    async def test_as_it_comes(self) -> None:
        may_go_on = threading.Event()

        def parts() -> Iterator[str]:
            yield "first "
            if not may_go_on.wait(SECONDS):
                raise Wrong
            yield "second"

        self.stream(parts)
        for url in ("/sync/", "/async/"):
            may_go_on.clear()
            client = Client(url)
            await client.read(1)
            self.assertEqual(client.parts, [b"first "])
            may_go_on.set()
            self.assertEqual(await client.body(), b"first second")

    async def test_no_more_than_a_batch_is_read_ahead(self) -> None:
        made: list[int] = []
        furthest = 0

        def parts() -> Iterator[str]:
            nonlocal furthest
            for n in range(500):
                made.append(n)
                furthest = max(furthest, len(made) - len(client.parts))
                yield "x"

        self.stream(parts)
        client = Client()
        self.assertEqual(await client.body(), b"x" * 500)
        self.assertLessEqual(furthest, handlers._BATCH + 2)  # those in the hands of the two sides

    async def test_on_the_requests_thread_and_connection(self) -> None:
        await Message.objects.abulk_create(Message(room="r", text=str(n)) for n in range(5000))

        def parts() -> Iterator[str]:
            for message in Message.objects.order_by("pk").iterator(chunk_size=100):
                Views.look()
                yield f"{message.text}\n"

        self.stream(parts)
        body = await Client().body()
        self.assertEqual(body.split(), [str(n).encode() for n in range(5000)])
        self.assertEqual((len(Views.threads), len(Views.connections)), (1, 1))
        self.assertEqual(self.finished, list(Views.threads))

    async def test_a_file(self) -> None:
        with tempfile.NamedTemporaryFile() as file:
            content = b"0123456789abcdef" * 300_000
            file.write(content)
            file.flush()
            files: list[Any] = []

            def answer() -> FileResponse:
                files.append(open(file.name, "rb"))  # noqa: SIM115 - the response closes it
                return FileResponse(files[-1])

            Views.answer = answer
            client = Client()
            self.assertEqual(await client.body(), content)
            self.assertLessEqual(max(map(len, client.parts)), ASGIHandler.chunk_size)
            self.assertTrue(files[-1].closed)
            # Of one whose client leaves, the rest is not read.
            client = Client()
            await client.read(1)
            client.may_read.clear()
            client.has_left.set()
            await client.body()
            self.assertTrue(files[-1].closed)
            self.assertLess(len(client.parts), 70)

    def endless(self) -> list[Any]:
        ended: list[Any] = []

        def parts() -> Iterator[str]:
            try:
                while True:
                    Views.look()
                    yield "x"
            finally:
                Views.look()
                ended.append(connection.connection is not None)

        self.stream(parts)
        return ended

    async def test_a_client_that_leaves(self) -> None:
        ended = self.endless()
        client = Client()
        await client.read(100)
        client.has_left.set()
        await client.body()
        self.assertEqual(ended, [True])
        self.assertEqual(len(Views.threads), 1)
        self.assertEqual(self.finished, list(Views.threads))

    async def test_a_client_that_does_not_read_and_leaves(self) -> None:
        ended = self.endless()
        client = Client()
        await client.read(10)
        client.may_read.clear()
        await asyncio.sleep(0.05)  # it waits in send(), most likely
        client.has_left.set()
        await client.body()
        self.assertEqual((ended, len(self.finished)), ([True], 1))

    async def test_a_server_that_cancels(self) -> None:
        ended = self.endless()
        client = Client()
        await client.read(10)
        client.task.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await client.body()
        self.assertEqual((ended, len(self.finished)), ([True], 1))
        self.assertEqual(len(Views.threads), 1)

    async def test_an_error_in_the_middle(self) -> None:
        def parts() -> Iterator[str]:
            yield "first"
            raise Wrong

        self.stream(parts)
        client = Client()
        with self.assertRaises(Wrong):
            await client.body()
        self.assertEqual(client.start["status"], 200)
        self.assertEqual(client.parts, [b"first"])
        self.assertEqual(len(self.finished), 1)

    async def test_an_error_of_the_server(self) -> None:
        ended = self.endless()
        client = Client()
        await client.read(1)
        client.parts = None  # type: ignore[assignment]
        with self.assertRaises(TypeError):
            await asyncio.wait_for(client.task, SECONDS)
        self.assertEqual((ended, len(self.finished)), ([True], 1))

    async def test_middlewares_that_change_it(self) -> None:
        self.stream(lambda: (f"line {n}\n" for n in range(1000)))
        text = "".join(f"line {n}\n" for n in range(1000)).encode()
        accepts = (b"accept-encoding", b"gzip")
        for middlewares in (
            ["django.middleware.gzip.GZipMiddleware"],
            ["django.middleware.gzip.GZipMiddleware", f"{__name__}.mapping"],
        ):
            with self.settings(MIDDLEWARE=middlewares):
                client = Client("/sync/", accepts)
                body = gzip.decompress(await client.body())
                self.assertEqual(body, text.upper() if len(middlewares) == 2 else text)
                self.assertIn((b"Content-Encoding", b"gzip"), client.start["headers"])

    async def test_closed_through_middlewares(self) -> None:
        ended = self.endless()
        with self.settings(MIDDLEWARE=[f"{__name__}.mapping"]):
            client = Client()
            await client.read(10)
            client.has_left.set()
            self.assertEqual(set(await client.body()), {ord("X")})
        self.assertEqual(ended, [True])

    async def test_an_iterable_with_a_close_of_its_own(self) -> None:
        closed: list[bool] = []

        class Parts:
            def __iter__(self) -> Iterator[bytes]:
                return iter([b"1", b"2"])

            def close(self) -> None:
                closed.append(True)

        Views.answer = lambda: StreamingHttpResponse(Parts())
        self.assertEqual(await Client().body(), b"12")
        self.assertEqual(closed, [True])

    async def test_async_iterators_as_ever(self) -> None:
        async def parts() -> AsyncIterator[str]:
            for n in range(3):
                await asyncio.sleep(0)
                yield str(n)

        Views.answer = lambda: StreamingHttpResponse(parts())
        self.assertEqual(await Client().body(), b"012")

    async def test_without_the_setting_as_django(self) -> None:
        self.stream(lambda: iter(["1", "2"]))
        with self.settings(ASGIBRIDGE={}), warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            self.assertEqual(await Client().body(), b"12")
        self.assertIn("must consume synchronous iterators", str(warned[0].message))
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            self.assertEqual(await Client().body(), b"12")
        self.assertEqual(warned, [])
