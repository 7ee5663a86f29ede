"""``manage.py seed``: create the database, a user and some notes, the same every time."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandParser

from ...models import Note

FIRST = datetime(2024, 1, 31, 20, 30, tzinfo=timezone.utc)
TEXTS = (
    ("Lost: one umbrella", "Black, with a wooden handle."),
    ("Choir practice", "Mondays at seven, in the <old> school & bring a friend."),
    ("Bicycle for sale", ""),
    ("Café Ünal is open again", "Breakfast from six."),
    ("Cat found", "Grey, friendly, hungry."),
)


class Command(BaseCommand):
    help = "Create the tables, a user and a few notes."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username")
        parser.add_argument("password")

    def handle(self, *args: Any, **options: Any) -> None:
        call_command("migrate", verbosity=0)
        user = get_user_model().objects.create_user(
            options["username"], password=options["password"]
        )
        Note.objects.bulk_create(
            Note(author=user, title=title, text=text, created=FIRST + timedelta(days=45 * number))
            for number, (title, text) in enumerate(TEXTS)
        )
        self.stdout.write(f"{len(TEXTS)} notes by {user}")
