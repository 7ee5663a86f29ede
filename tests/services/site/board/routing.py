"""The websocket routes."""

from __future__ import annotations

from channels.routing import URLRouter
from django.urls import path

from . import consumers

websockets = URLRouter(
    [
        path("ws/async/<slug:room>/", consumers.RoomConsumer.as_asgi()),
        path("ws/sync/<slug:room>/", consumers.ThreadedRoomConsumer.as_asgi()),
        path("ws/pubsub/<slug:room>/", consumers.PubSubRoomConsumer.as_asgi()),
        path("ws/meeting/sync/", consumers.MeetingConsumer.as_asgi()),
        path("ws/meeting/async/", consumers.AsyncMeetingConsumer.as_asgi()),
        path("ws/slow/", consumers.SlowConsumer.as_asgi()),
        path("ws/memory/<slug:room>/", consumers.InMemoryRoomConsumer.as_asgi()),
    ]
)
