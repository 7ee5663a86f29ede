"""The site's one form of its own."""

from __future__ import annotations

from django import forms

from .models import Note


class NoteForm(forms.ModelForm):
    class Meta:
        model = Note
        fields = ("title", "text")
