"""Fills the database that BENCHSITE_DATABASE names: Django's tables and ten notes."""

from __future__ import annotations

import os

import benchsite  # noqa: F401 - says where Django is

# isort: split

import django
from django.core.management import call_command

if __name__ == "__main__":
    os.environ["DJANGO_SETTINGS_MODULE"] = "benchsite.settings"
    django.setup()
    call_command("migrate", run_syncdb=True, verbosity=0)
    from benchsite.models import Note

    Note.objects.bulk_create(Note(text=f"Note {number}") for number in range(1, 11))
