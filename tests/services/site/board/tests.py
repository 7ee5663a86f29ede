"""Django's own test tools on the site: ``manage.py test``."""

from __future__ import annotations

import asyncio
import os
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from asgiref.sync import async_to_sync, sync_to_async
from asgiref.testing import ApplicationCommunicator
from channels.layers import get_channel_layer
from channels.testing import WebsocketCommunicator
from django.core.handlers.asgi import ASGIHandler
from django.db import transaction
from django.test import LiveServerTestCase, TestCase, TransactionTestCase
from django.utils.translation import get_language, override

from .models import Message
from .routing import websockets
from .views import backend

LAYERS = ("memory", "async", "pubsub") if "BOARD_REDIS_PORT" in os.environ else ("memory",)


class LoopTests(TestCase):
    async def test_is_the_one_that_was_asked_for(self) -> None:
        module = type(asyncio.get_running_loop()).__module__.split(".")[0]
        self.assertEqual(module, os.environ.get("BOARD_LOOP", "asyncio"))


class ClientTests(TestCase):
    """Each test is in a transaction, on the connection of the thread that it runs on."""

    @classmethod
    def setUpTestData(cls) -> None:
        Message.objects.create(room="hall", text="before")

    def test_views(self) -> None:
        for kind in ("sync", "async"):
            with self.subTest(kind):
                answer = self.client.get(f"/{kind}/hall/?text={kind}").json()
                # The view was on this thread and saw this transaction.
                self.assertEqual(answer, {"text": kind, "backend": backend()})
        self.assertEqual(Message.objects.filter(room="hall").count(), 3)

    async def test_views_from_async_code(self) -> None:
        here = await sync_to_async(backend)()
        for kind in ("sync", "async"):
            with self.subTest(kind):
                answer = await self.async_client.get(f"/{kind}/hall/?text={kind}")
                self.assertEqual(answer.json(), {"text": kind, "backend": here})
        self.assertEqual(await Message.objects.filter(room="hall").acount(), 3)

    async def test_a_stream(self) -> None:
        await Message.objects.abulk_create(Message(room="hall", text=str(n)) for n in range(50))
        response = await self.async_client.get("/rows/hall/")
        lines = b"".join([part async for part in response.streaming_content]).decode().split()
        self.assertEqual(lines, ["before", *map(str, range(50))])

    async def test_rolled_back_together(self) -> None:
        @sync_to_async
        def fails() -> None:
            with transaction.atomic():
                Message.objects.create(room="hall", text="never")
                async_to_sync(Message.objects.acreate)(room="hall", text="never")
                raise ZeroDivisionError

        with self.assertRaises(ZeroDivisionError):
            await fails()
        self.assertEqual(await Message.objects.acount(), 1)

    async def test_the_active_language_follows(self) -> None:
        with override("fr"):
            self.assertEqual(await sync_to_async(get_language)(), "fr")
            self.assertEqual(await asyncio.gather(*[sync_to_async(get_language)()] * 3), ["fr"] * 3)


def http(path: str, method: str = "GET") -> ApplicationCommunicator:
    path, _, query = path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(b"host", b"testserver")],
    }
    return ApplicationCommunicator(ASGIHandler(), scope)


class HandlerTests(TransactionTestCase):
    """The ASGI handler, message by message; nothing hides its threads and connections."""

    async def read(self, communicator: ApplicationCommunicator) -> tuple[int, bytes]:
        start = await communicator.receive_output(10)
        body = b""
        while True:
            message = await communicator.receive_output(10)
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        await communicator.wait(10)
        return start["status"], body

    async def test_pages(self) -> None:
        for kind in ("sync", "async"):
            communicator = http(f"/{kind}/hall/?text=there")
            await communicator.send_input({"type": "http.request", "body": b""})
            status, body = await self.read(communicator)
            self.assertEqual(status, 200, body)
        self.assertEqual(await Message.objects.acount(), 2)

    async def test_a_body_in_parts(self) -> None:
        communicator = http("/upload/", "POST")
        for number in range(3):
            await communicator.send_input(
                {"type": "http.request", "body": b"x" * 1000, "more_body": number < 2}
            )
        self.assertEqual(await self.read(communicator), (200, b"3000"))

    async def test_a_stream(self) -> None:
        await Message.objects.abulk_create(Message(room="hall", text=str(n)) for n in range(50))
        communicator = http("/rows/hall/")
        await communicator.send_input({"type": "http.request", "body": b""})
        status, body = await self.read(communicator)
        self.assertEqual((status, body.decode().split()), (200, [str(n) for n in range(50)]))

    async def test_a_client_that_leaves(self) -> None:
        communicator = http("/upload/", "POST")
        await communicator.send_input({"type": "http.request", "body": b"x", "more_body": True})
        await communicator.send_input({"type": "http.disconnect"})
        await communicator.wait(10)
        self.assertTrue(await communicator.receive_nothing())

    async def test_many_at_once(self) -> None:
        communicators = [http(f"/{['sync', 'async'][n % 2]}/hall/?text={n}") for n in range(30)]
        for communicator in communicators:
            await communicator.send_input({"type": "http.request", "body": b""})
        answers = await asyncio.gather(*map(self.read, communicators))
        self.assertEqual([status for status, _ in answers], [200] * 30)
        texts = Message.objects.order_by("pk").values_list("text", flat=True)
        found = sorted([int(text) async for text in texts])
        self.assertEqual(found, list(range(30)))


class LiveServerTests(LiveServerTestCase):
    """Django's threaded WSGI server: every async view is a top-level call of its thread's."""

    def test_many_at_once(self) -> None:
        def ask(number: int) -> bytes:
            kind = "sync" if number % 2 else "async"
            url = f"{self.live_server_url}/{kind}/live/?text={number}"
            with urllib.request.urlopen(url, timeout=30) as response:
                body: bytes = response.read()
                return body

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(ask, range(40)))
        self.assertEqual(Message.objects.filter(room="live").count(), 40)


class ConsumerTests(TransactionTestCase):
    """Channels' communicators, on each layer."""

    async def join(self, path: str) -> WebsocketCommunicator:
        communicator = WebsocketCommunicator(websockets, path)
        connected, _ = await communicator.connect(timeout=10)
        self.assertTrue(connected)
        return communicator

    async def test_rooms(self) -> None:
        for layer in LAYERS:
            with self.subTest(layer):
                room = f"room-{layer}"
                everybody = [await self.join(f"ws/{layer}/{room}/") for _ in range(3)]
                for number in range(5):
                    await everybody[number % 3].send_to(f"{number}")
                    heard = [await one.receive_from(timeout=10) for one in everybody]
                    self.assertEqual(heard, [f"{number}"] * 3)
                for one in everybody:
                    await one.disconnect(timeout=10)
                self.assertEqual(await Message.objects.filter(room=room).acount(), 5)

    async def test_a_threaded_consumer_and_an_async_one(self) -> None:
        threaded = await self.join("ws/sync/mixed/")
        one = await self.join("ws/async/mixed/")
        for sender in (threaded, one):
            await sender.send_to("hello")
            self.assertEqual(await threaded.receive_from(timeout=10), "hello")
            self.assertEqual(await one.receive_from(timeout=10), "hello")
        for communicator in (threaded, one):
            await communicator.disconnect(timeout=10)
        self.assertEqual(await Message.objects.filter(room="mixed").acount(), 2)


class SendingFromSyncCodeTests(TransactionTestCase):
    """As in a management command: each call has an event loop of its own, which the layer knows."""

    def test_group_send(self) -> None:
        layer = get_channel_layer()

        async def receive(channel: str, number: int) -> list[str]:
            return [(await layer.receive(channel))["text"] for _ in range(number)]

        channel = async_to_sync(layer.new_channel)()
        async_to_sync(layer.group_add)("all", channel)
        for number in range(20):
            async_to_sync(layer.group_send)("all", {"type": "said", "text": str(number)})
        self.assertEqual(async_to_sync(receive)(channel, 20), [str(n) for n in range(20)])
        # Threads beside each other, each with loops of its own.
        channels = [async_to_sync(layer.new_channel)() for _ in range(4)]

        def talk(name: str) -> None:
            for number in range(10):
                async_to_sync(layer.send)(name, {"type": "said", "text": str(number)})

        threads = [threading.Thread(target=talk, args=(name,)) for name in channels]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        for name in channels:
            self.assertEqual(async_to_sync(receive)(name, 10), [str(n) for n in range(10)])
