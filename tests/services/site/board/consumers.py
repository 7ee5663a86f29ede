"""One room, two consumers: whoever is in it hears what everybody says, and it is stored."""

from __future__ import annotations

import threading
from typing import Any

from asgiref.sync import async_to_sync
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from django.db import connection

from .models import Message


class RoomConsumer(AsyncWebsocketConsumer):
    """On the event loop, with Channels' ``database_sync_to_async``."""

    async def connect(self) -> None:
        self.room = self.scope["url_route"]["kwargs"]["room"]
        await self.channel_layer.group_add(self.room, self.channel_name)
        await self.accept()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.store(text_data)
        await self.channel_layer.group_send(self.room, {"type": "room.message", "text": text_data})

    @database_sync_to_async
    def store(self, text: str) -> None:
        Message.objects.create(room=self.room, text=text)

    async def room_message(self, event: dict[str, Any]) -> None:
        await self.send(event["text"])

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(self.room, self.channel_name)


class ThreadedRoomConsumer(WebsocketConsumer):
    """The same on a thread."""

    def connect(self) -> None:
        self.room = self.scope["url_route"]["kwargs"]["room"]
        async_to_sync(self.channel_layer.group_add)(self.room, self.channel_name)
        self.accept()

    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        Message.objects.create(room=self.room, text=text_data)
        async_to_sync(self.channel_layer.group_send)(
            self.room, {"type": "room.message", "text": text_data}
        )

    def room_message(self, event: dict[str, Any]) -> None:
        self.send(event["text"])

    def disconnect(self, code: int) -> None:
        async_to_sync(self.channel_layer.group_discard)(self.room, self.channel_name)


class PubSubRoomConsumer(RoomConsumer):
    """On channels_redis's other layer."""

    channel_layer_alias = "pubsub"


class InMemoryRoomConsumer(RoomConsumer):
    """On Channels' own layer, of this process."""

    channel_layer_alias = "memory"


class MeetingConsumer(WebsocketConsumer):
    """Waits on its thread for another socket's thread, for as many seconds as it is told."""

    both = threading.Barrier(2)

    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        self.send(_meet(self.both, text_data))


class AsyncMeetingConsumer(AsyncWebsocketConsumer):
    """The same by Channels' ``database_sync_to_async``."""

    both = threading.Barrier(2)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.send(await database_sync_to_async(_meet)(self.both, text_data))


class SlowConsumer(AsyncWebsocketConsumer):
    """Answers with what it hears, when a database has waited for so long: for bench/sockets.py."""

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.ask(0.005)
        await self.send(text_data)

    @database_sync_to_async
    def ask(self, seconds: float) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(%s)", [seconds])


def _meet(both: threading.Barrier, seconds: str | None) -> str:
    try:
        both.wait(float(seconds or 0))
    except threading.BrokenBarrierError:
        return "alone"
    return threading.current_thread().name
