"""The websocket routes."""

from __future__ import annotations

from django.urls import path

from .consumers import LobbyConsumer, MembersConsumer, RoomConsumer

websocket_urlpatterns = [
    path("ws/lobby/", LobbyConsumer.as_asgi()),
    path("ws/room/<slug:room>/", RoomConsumer.as_asgi()),
    path("ws/members/", MembersConsumer.as_asgi()),
]
