"""What the site stores."""

from __future__ import annotations

from django.db import models


class Message(models.Model):
    """One line on the board."""

    room = models.CharField(max_length=40, db_index=True)
    text = models.CharField(max_length=200)
