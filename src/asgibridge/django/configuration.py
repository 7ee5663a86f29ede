"""The setting ``ASGIBRIDGE``, a dict: what the environment's variables say, and Django's part.

::

    ASGIBRIDGE = {"workers": "keep", "limit": 20, "wait_timeout": 5}

Numbers may be text, as they are in the environment. None is as if the word were not there. A
variable of the environment wins over the setting's value, and nothing in the environment is
changed: child processes read the setting themselves.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

from .. import debug, runners, workers
from .._process import settings as environment
from .._workers import policy as policies
from .._workers import stats

VARIABLES = {
    "workers": "ASGIBRIDGE_WORKERS",
    "limit": "ASGIBRIDGE_WORKERS_LIMIT",
    "limit_total": "ASGIBRIDGE_WORKERS_LIMIT_TOTAL",
    "processes": "ASGIBRIDGE_PROCESSES",
    "wait_timeout": "ASGIBRIDGE_WORKERS_WAIT_TIMEOUT",
    "idle_timeout": "ASGIBRIDGE_WORKERS_IDLE_TIMEOUT",
    "release_idle": "ASGIBRIDGE_WORKERS_RELEASE_IDLE",
    "loop": "ASGIBRIDGE_LOOP",
    "watch": "ASGIBRIDGE_WATCH",
    "timings": "ASGIBRIDGE_TIMINGS",
}
"""The words that have a variable of the environment."""

_OF_POLICY = {
    "workers": "kind",
    "limit": "limit",
    "limit_total": "limit_total",
    "wait_timeout": "wait_timeout",
    "idle_timeout": "idle_timeout",
    "release_idle": "release_idle",
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
_applied: dict[str, Any] = {}  # what `apply` has set, by word


def current() -> Configuration:
    """Django's part of the setting as it is. ImproperlyConfigured if something is wrong with it."""
    global _current
    if _current is None:
        given = _given()
        for word in given:
            if word not in _WORDS and word not in VARIABLES:
                raise ImproperlyConfigured(_about_unknown(word))
        _current = Configuration(
            **{word: _checked(word, given[word]) for word in _WORDS if given.get(word) is not None}
        )
    return _current


def values() -> dict[str, Any]:
    """What the setting says of the words that have a variable, converted.

    ImproperlyConfigured if something is wrong with it, also with the words of Django's part.
    """
    current()
    given = _given()
    return {word: _read(word, given[word]) for word in VARIABLES if given.get(word) is not None}


def apply() -> None:
    """Set the policy of workers, the loop, the timings and the watch as the setting asks for.

    What the setting does not name stays as the environment or the program has set it, and so does
    what was set since the last call if the setting is the same. ImproperlyConfigured, and nothing
    is set, if something is wrong with it.
    """
    asked = values()
    new = {
        word: value
        for word, value in asked.items()
        if not is_overridden(word) and (word not in _applied or _applied[word] != value)
    }
    if "processes" in new:
        policies.tell_processes(new["processes"], "by ASGIBRIDGE['processes']")
    of_policy = {
        _OF_POLICY[word]: policies.as_told(value)
        for word, value in new.items()
        if word in _OF_POLICY
    }
    if of_policy:
        workers.set_policy(policies.changed(workers.get_policy(), of_policy))
    if "loop" in new:  # the one value is "shared"
        runners.shared_loop()
    if "timings" in new:
        stats.collect_timings(new["timings"] == "1")
    if "watch" in new:
        debug.watch(new["watch"])
    _applied.update(new)


def is_overridden(word: str) -> bool:
    """Whether the environment has a value for ``word``, which then holds."""
    return bool(os.environ.get(VARIABLES[word]))


_WORDS = {field.name: field.type for field in dataclasses.fields(Configuration)}


def _given() -> Mapping[Any, Any]:
    given = getattr(settings, "ASGIBRIDGE", {})
    if not isinstance(given, Mapping):
        raise ImproperlyConfigured(f"ASGIBRIDGE is {given!r}: must be a dict")
    return given


def _about_unknown(word: object) -> str:
    known = [*VARIABLES, *_WORDS]
    close = difflib.get_close_matches(str(word), known, 1)
    hint = f"{close[0]!r} may be meant" if close else f"there are {', '.join(known)}"
    return f"ASGIBRIDGE: {word!r} is unknown: {hint}"


def _checked(word: str, value: Any) -> Any:
    if not isinstance(value, bool):
        raise _bad(word, value, "True or False")
    return value


def _read(word: str, value: Any) -> Any:
    convert, takes = environment.SETTINGS[VARIABLES[word]]
    try:
        if word == "timings":
            return convert(str(int(value)) if isinstance(value, bool) else str(value))
        return convert(value) if isinstance(value, str) else _number(convert, value)
    except ValueError:
        takes = "True or False" if word == "timings" else takes
        raise _bad(word, value, takes) from None


def _number(convert: Any, value: Any) -> Any:
    # Truth values are numbers to Python, and none here. A list's text is no number either.
    if isinstance(value, bool):
        raise ValueError
    return convert(str(value))


def _bad(word: str, value: object, takes: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(f"ASGIBRIDGE: {word!r} is {value!r}: must be {takes}")


def _forget(*, setting: str, **_more: Any) -> None:
    global _current
    if setting == "ASGIBRIDGE":
        _current = None


setting_changed.connect(_forget)
