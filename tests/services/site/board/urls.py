"""The pages."""

from __future__ import annotations

from django.urls import path

from . import views

urlpatterns = [
    path("sync/<slug:room>/", views.synchronous),
    path("async/<slug:room>/", views.asynchronous),
    path("rows/<slug:room>/", views.rows),
    path("announce/<slug:room>/", views.announce),
    path("upload/", views.upload),
    path("events/<slug:room>/", views.events),
    path("publish/<slug:room>/", views.publish),
]
