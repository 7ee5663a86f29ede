"""The site's one table."""

from __future__ import annotations

from django.conf import settings
from django.db import models


class Note(models.Model):
    """A note on the board."""

    author = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    title = models.CharField(max_length=80)
    text = models.TextField(blank=True)
    created = models.DateTimeField()

    class Meta:
        ordering = ("pk",)

    def __str__(self) -> str:
        return str(self.title)
