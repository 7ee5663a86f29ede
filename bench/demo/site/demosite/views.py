"""Synchronous views."""

from __future__ import annotations

from asgiref.sync import async_to_sync
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.generic import DetailView

from .forms import NoteForm
from .middleware import visited
from .models import Note
from .words import count_words


class IntendedError(Exception):
    """What the error pages raise, so that the log tells them from real trouble."""


def note_list(request: HttpRequest) -> HttpResponse:
    visited("sync list")
    context = {"notes": Note.objects.select_related("author"), "viewer": request.user}
    return render(request, "note_list.html", context)


class NoteDetail(DetailView):
    model = Note
    template_name = "note_detail.html"

    def get(self, request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
        visited("sync detail")
        return super().get(request, *args, **kwargs)


@login_required
def new_note(request: HttpRequest) -> HttpResponse | HttpResponseRedirect:
    form = NoteForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        form.instance.author = request.user
        form.instance.created = timezone.now()
        note = form.save()
        messages.success(request, f"Saved “{note}”.")
        return redirect("me")
    return render(request, "note_form.html", {"form": form})


@login_required
def me(request: HttpRequest) -> HttpResponse:
    visited("sync me")
    context = {"viewer": request.user, "notes": request.user.note_set.all()}
    return render(request, "me.html", context)


def words(request: HttpRequest) -> HttpResponse:
    """Synchronous code that needs asynchronous code, which needs the ORM again."""
    visited("sync words")
    total = async_to_sync(count_words)(list(Note.objects.values_list("pk", flat=True)))
    return HttpResponse(f"{total} words\n", content_type="text/plain")


def boom(request: HttpRequest) -> HttpResponse:
    raise IntendedError("a synchronous view failed, as it should")
