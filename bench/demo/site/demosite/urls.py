"""The site's pages."""

from __future__ import annotations

from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path
from django.views.generic import TemplateView

from . import async_views, streams, views

urlpatterns = [
    path("", TemplateView.as_view(template_name="home.html"), name="home"),
    path("notes/", views.note_list, name="notes"),
    path("notes/<int:pk>/", views.NoteDetail.as_view(), name="note"),
    path("notes/new/", views.new_note, name="new-note"),
    path("words/", views.words),
    path("me/", views.me, name="me"),
    path("boom/", views.boom),
    path("login/", LoginView.as_view(), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("async/notes/", async_views.note_list),
    path("async/notes/<int:pk>/", async_views.NoteDetail.as_view()),
    path("async/words/", async_views.words),
    path("async/me/", async_views.me),
    path("async/boom/", async_views.boom),
    path("async/threads/", async_views.threads),
    path("async/impatient/", async_views.impatient),
    path("stream/", streams.synchronous),
    path("async/stream/", streams.asynchronous),
    path("async/stream/endless/", streams.endless),
    path("async/stream/left/", streams.left),
]
