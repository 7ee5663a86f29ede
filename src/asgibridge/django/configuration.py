"""The setting ``ASGIBRIDGE``, a dict: what the environment's variables say, and Django's part.

::

    ASGIBRIDGE = {"workers": "keep", "limit": 20, "wait_timeout": 5}

A variable of the environment wins over the setting's value.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

from .. import debug, workers
from .._process import settings as environment
from .._workers import stats

_VARIABLES = {
    "workers": "ASGIBRIDGE_WORKERS",
    "limit": "ASGIBRIDGE_WORKERS_LIMIT",
    "wait_timeout": "ASGIBRIDGE_WORKERS_WAIT_TIMEOUT",
    "idle_timeout": "ASGIBRIDGE_WORKERS_IDLE_TIMEOUT",
    "watch": "ASGIBRIDGE_WATCH",
    "timings": "ASGIBRIDGE_TIMINGS",
}


@dataclasses.dataclass(frozen=True)
class Configuration:
    """What the setting ``ASGIBRIDGE`` says of Django's part."""

    stream_sync_iterators: bool = False
    """Whether a StreamingHttpResponse over a sync iterator is sent as it comes."""

    atomic_async_views: bool = False
    """Whether ``ATOMIC_REQUESTS`` holds for async views, too."""

    cancel_queries: bool = False
    """Whether a query stops when the task is cancelled that waits for it."""


_current: Configuration | None = None


def current() -> Configuration:
    """Django's part of the setting as it is. ImproperlyConfigured if something is wrong with it."""
    global _current
    if _current is None:
        given = _given()
        words = [field.name for field in dataclasses.fields(Configuration)]
        for word in given:
            if word not in words and word not in _VARIABLES:
                known = ", ".join([*_VARIABLES, *words])
                raise ImproperlyConfigured(f"ASGIBRIDGE: {word!r} is unknown; there are {known}")
        for word in words:
            if word in given and not isinstance(given[word], bool):
                raise ImproperlyConfigured(
                    f"ASGIBRIDGE: {word!r} is {given[word]!r}: must be True or False"
                )
        _current = Configuration(**{word: given[word] for word in words if word in given})
    return _current


def apply() -> None:
    """Set the policy of workers, the timings and the watch as the setting asks for.

    ImproperlyConfigured if something is wrong with it.
    """
    current()
    given = {word: value for word, value in _given().items() if word in _VARIABLES}
    values = {_VARIABLES[word]: _as_text(value) for word, value in given.items()}
    wins = {variable for variable in values if os.environ.get(variable)}
    values.update((variable, os.environ[variable]) for variable in wins)
    try:
        policy = workers.policy_of(values)
        timings = environment.read("ASGIBRIDGE_TIMINGS", values)
        seconds = environment.read("ASGIBRIDGE_WATCH", values)
    except ValueError as error:
        raise ImproperlyConfigured(f"the setting ASGIBRIDGE: {error}") from None
    if any(_VARIABLES[word].startswith("ASGIBRIDGE_WORKERS") for word in given):
        workers.set_policy(policy)
    if "ASGIBRIDGE_TIMINGS" not in wins and timings is not None:
        stats.collect_timings(timings == "1")
    if "ASGIBRIDGE_WATCH" not in wins and seconds is not None:
        debug.watch(seconds)


def _given() -> Mapping[str, Any]:
    given = getattr(settings, "ASGIBRIDGE", {})
    if not isinstance(given, Mapping):
        raise ImproperlyConfigured(f"ASGIBRIDGE is {given!r}: must be a dict")
    return given


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, bool) else str(value)


def _forget(*, setting: str, **_more: Any) -> None:
    global _current
    if setting == "ASGIBRIDGE":
        _current = None


setting_changed.connect(_forget)
