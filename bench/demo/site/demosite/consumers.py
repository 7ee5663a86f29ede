"""Websocket consumers: one synchronous, one asynchronous, one that refuses strangers."""

from __future__ import annotations

import json
from typing import Any

from asgiref.sync import async_to_sync
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer

from .models import Note


def name_of(user: Any) -> str:
    return user.username if user.is_authenticated else "stranger"


class LobbyConsumer(WebsocketConsumer):
    """Greets on a thread, with the ORM used directly; says to all what one of them says."""

    group = "lobby"

    def connect(self) -> None:
        self.name = name_of(self.scope["user"])
        async_to_sync(self.channel_layer.group_add)(self.group, self.channel_name)
        self.accept()
        notes = Note.objects.filter(author__username=self.name).count()
        self.send(json.dumps({"hello": self.name, "notes": notes}))

    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        async_to_sync(self.channel_layer.group_send)(
            self.group, {"type": "lobby.message", "from": self.name, "text": text_data}
        )

    def lobby_message(self, event: dict[str, Any]) -> None:
        self.send(json.dumps({"from": event["from"], "text": event["text"]}))

    def disconnect(self, code: int) -> None:
        async_to_sync(self.channel_layer.group_discard)(self.group, self.channel_name)


class RoomConsumer(AsyncWebsocketConsumer):
    """The same on the event loop, with Channels' ``database_sync_to_async`` for the ORM."""

    async def connect(self) -> None:
        self.name = name_of(self.scope["user"])
        self.group = "room-" + self.scope["url_route"]["kwargs"]["room"]
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()
        notes = await self.count_notes()
        await self.send(json.dumps({"hello": self.name, "notes": notes, "room": self.group}))

    @database_sync_to_async
    def count_notes(self) -> Any:
        return Note.objects.filter(author__username=self.name).count()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.channel_layer.group_send(
            self.group, {"type": "room.message", "from": self.name, "text": text_data}
        )

    async def room_message(self, event: dict[str, Any]) -> None:
        await self.send(json.dumps({"from": event["from"], "text": event["text"]}))

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(self.group, self.channel_name)


class MembersConsumer(WebsocketConsumer):
    """Refuses the handshake of whoever is not logged in."""

    def connect(self) -> None:
        if self.scope["user"].is_authenticated:
            self.accept()
            self.close(code=4000)
        else:
            self.close()
