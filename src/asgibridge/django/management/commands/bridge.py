"""``manage.py bridge``: what runs, the chains of middlewares, and what a request crosses."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import django
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand

from .... import workers
from ...._start import info
from ... import configuration
from ..._survey import Loaded, Survey, View, views

_KINDS = (("sync", False), ("async", True))


class Command(BaseCommand):
    """Shows a report on the site. The checks are not run: what they find may be why it is read."""

    help = "Shows what runs, the chain of middlewares, and how often a request crosses."
    requires_system_checks = ()

    def add_arguments(self, parser: Any) -> None:
        """Add ``--json``."""
        parser.add_argument("--json", action="store_true", help="for programs")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Write the report to the standard output."""
        survey, found = Survey(), views()
        if options["json"]:
            self.stdout.write(json.dumps(_data(survey, found), indent=2))
        else:
            self.stdout.write("\n".join(_text(survey, found)))


# --- what runs -----------------------------------------------------------------------------------


def _info() -> Iterator[str]:
    try:
        asked, bad = configuration.values(), ""
    except ImproperlyConfigured as error:
        asked, bad = {}, str(error)
    given = {
        configuration.VARIABLES[word]: f"{value} (settings.ASGIBRIDGE[{word!r}])"
        for word, value in asked.items()
    }
    about = f"the site of {settings.SETTINGS_MODULE}, in manage.py's process"
    yield from info.lines(about, given)
    if bad:
        yield f"settings.ASGIBRIDGE: BAD, and not in force: {bad}"
    else:
        for field in dataclasses.fields(configuration.Configuration):
            value = getattr(configuration.current(), field.name)
            is_given = value != field.default
            source = f"settings.ASGIBRIDGE[{field.name!r}]" if is_given else "the default"
            yield f"{field.name}: {value} ({source})"
    yield f"policy in force: {workers.get_policy()!r}"
    yield f"django: {django.get_version()}"


# --- as data -------------------------------------------------------------------------------------


def _data(survey: Survey, found: Sequence[View]) -> dict[str, Any]:
    return {
        "info": dict(line.split(": ", 1) for line in _info()),
        "chains": {each.name: _chain(each) for each in _chains(survey)},
        "not_used": _not_used(survey),
        "views": {name: _of_kind(survey, found, kind) for name, kind in _KINDS},
        "advice": _advice(survey, found),
    }


def _chain(loaded: Loaded) -> dict[str, Any]:
    return {
        "middlewares": [
            {
                "path": each.path,
                "mode": each.mode,
                "sync_capable": each.sync_capable,
                "async_capable": each.async_capable,
                "hooks": list(each.hooks),
            }
            for each in loaded.middlewares
        ],
        "crossings": {name: loaded.chain.crossings(kind) for name, kind in _KINDS},
        "holds_worker": loaded.chain.holds_worker(),
    }


def _of_kind(survey: Survey, found: Sequence[View], is_async: bool) -> dict[str, Any]:
    taken = survey.taken(is_async)
    return {
        "chain": taken.name,
        "crossings": taken.chain.crossings(is_async),
        "crossings_with_django": survey.djangos(is_async),
        "routes": [view.route for view in found if view.is_async == is_async],
    }


def _chains(survey: Survey) -> list[Loaded]:
    return [survey.asynchronous] if survey.sync is None else [survey.asynchronous, survey.sync]


def _not_used(survey: Survey) -> list[str]:
    used = {each.path for each in survey.asynchronous.middlewares}
    return [path for path in settings.MIDDLEWARE if path not in used]


def _advice(survey: Survey, found: Sequence[View]) -> list[str]:
    return list(survey.advice(sorted({view.is_async for view in found})))


# --- as text -------------------------------------------------------------------------------------


def _text(survey: Survey, found: Sequence[View]) -> Iterator[str]:
    yield from _info()
    yield ""
    yield from _table(_middlewares(survey))
    for path in _not_used(survey):
        yield f"not used: {path}"
    yield ""
    yield from _table(_crossings(survey, found))
    yield ""
    if survey.sync is not None:
        yield "A request takes the chain that is marked *, by what its path leads to."
    yield "A crossing is a stay on the worker, or a call from there to the event loop. Rendering"
    yield "after an async view, and an end that comes apart, are one more: docs/django.md."
    asynchronous = [view.route for view in found if view.is_async]
    if asynchronous:
        yield ""
        yield "The async views:"
        yield from (f"  {route}" for route in asynchronous)
    advice = _advice(survey, found)
    yield ""
    yield "What crosses more often than it need:" if advice else "No middleware costs a crossing."
    yield from (f"  {text}" for text in advice)
    if advice:
        yield "As a MiddlewareMixin with process_request and process_response, and without a"
        yield "__call__ of its own, it does not."


def _middlewares(survey: Survey) -> Iterator[list[str]]:
    chains = _chains(survey)
    yield ["middleware", *(f"{chain.name} chain" for chain in chains), "hooks"]
    for rows in zip(*(chain.middlewares for chain in chains)):
        hooks = ", ".join(name.replace("process_", "") for name in rows[0].hooks)
        yield [rows[0].path, *(each.mode for each in rows), hooks]


def _crossings(survey: Survey, found: Sequence[View]) -> Iterator[list[str]]:
    yield ["crossings a request", *(f"{name} view" for name, _ in _KINDS)]
    for loaded in _chains(survey):
        cells = []
        for _, is_async in _KINDS:
            holds = is_async and loaded.chain.holds_worker()
            mark = "*" if survey.sync is not None and survey.taken(is_async) is loaded else ""
            crossings = f"{loaded.chain.crossings(is_async)}{mark}"
            cells.append(f"{crossings}, holds its worker" if holds else crossings)
        yield [f"{loaded.name} chain", *cells]
    yield ["Django's own handler", *(str(survey.djangos(is_async)) for _, is_async in _KINDS)]
    counts = [sum(view.is_async == is_async for view in found) for _, is_async in _KINDS]
    yield ["views of this site", *map(str, counts)]


def _table(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    lines = list(rows)
    widths = [max(map(len, column)) for column in zip(*lines)]
    for line in lines:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip()
