"""The one table that the async view reads."""

from __future__ import annotations

from django.db import models


class Note(models.Model):
    """A line of text."""

    text = models.CharField(max_length=100)
