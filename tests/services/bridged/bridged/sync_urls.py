"""No async view."""

from __future__ import annotations

from django.urls import path

from .urls import hello

urlpatterns = [path("", hello)]
