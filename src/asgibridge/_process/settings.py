"""The environment's variables: what each takes, and what is said about one that is wrong.

Each module reads its own when it is imported; ``asgibridge run`` looks at all of them before the
program starts. A bad value is a ValueError: an ImportError would be taken for a missing package
(Django's ``manage.py`` says so of itself then).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

PREFIX = "ASGIBRIDGE_"
KINDS = ("fresh", "keep", "new")
SPEEDUPS = ("auto", "require", "off")
OFF = "off"

# What runs this project's tests and benchmarks reads these.
_OF_TOOLS = {
    f"{PREFIX}{name}" for name in ("ASSEMBLE_PYTHON", "PYTHONS", "REQUIRE_SERVICES", "TSAN_PYTHON")
}

NO_COMPILED_KERNEL = (
    "ASGIBRIDGE_SPEEDUPS=require, but the compiled kernel is not installed: reinstall with a C "
    "compiler and ASGIBRIDGE_SPEEDUPS=require, or unset it"
)

told = False
"""Whether the user has been told of unknown variables in this process."""


def read(variable: str, environment: Mapping[str, str] = os.environ) -> Any:
    """The value of ``variable``, None if it is unset or empty. ValueError if it is a bad one."""
    text = environment.get(variable)
    if not text:
        return None
    convert, takes = SETTINGS[variable]
    try:
        return convert(text)
    except ValueError:
        raise ValueError(f"{variable}={text!r}: must be {takes} (or unset)") from None


def problems(environment: Mapping[str, str] = os.environ) -> list[str]:
    """What is wrong with the values in ``environment``, a sentence each."""
    found = []
    for variable in SETTINGS:
        try:
            read(variable, environment)
        except ValueError as error:
            found.append(str(error))
    return found


def unknown(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The variables in ``environment`` that look like ours and are none, a sentence each."""
    names = [name for name in environment if name.startswith(PREFIX)]
    return [_about(name) for name in names if name not in SETTINGS and name not in _OF_TOOLS]


def _about(name: str) -> str:
    import difflib  # only now: nobody else needs it

    names = [each[len(PREFIX) :] for each in SETTINGS]
    close = difflib.get_close_matches(name[len(PREFIX) :], names, 1)
    hint = f": {PREFIX}{close[0]} may be meant" if close else f" (there are {', '.join(SETTINGS)})"
    return f"the environment variable {name} is unknown to asgibridge{hint}"


# --- what they take ------------------------------------------------------------------------------


def _one_of(*words: str) -> Callable[[str], str]:
    def convert(text: str) -> str:
        if text not in words:
            raise ValueError
        return text

    return convert


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= threading.TIMEOUT_MAX:
        raise ValueError
    return seconds


def _seconds_or_off(text: str) -> float | str:
    return text if text == OFF else _seconds(text)


def _seconds_above_0(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise ValueError
    return seconds


SETTINGS: dict[str, tuple[Callable[[str], Any], str]] = {
    "ASGIBRIDGE_SPEEDUPS": (_one_of(*SPEEDUPS), f"one of {', '.join(SPEEDUPS)}"),
    "ASGIBRIDGE_WORKERS": (_one_of(*KINDS), "fresh, keep or new"),
    "ASGIBRIDGE_WORKERS_LIMIT": (_count, "a whole number from 1 on"),
    "ASGIBRIDGE_WORKERS_LIMIT_TOTAL": (_count, "a whole number from 1 on"),
    "ASGIBRIDGE_PROCESSES": (_count, "a whole number from 1 on"),
    "ASGIBRIDGE_WORKERS_WAIT_TIMEOUT": (_seconds, "seconds, from 0 on"),
    "ASGIBRIDGE_WORKERS_IDLE_TIMEOUT": (_seconds, "seconds, from 0 on"),
    "ASGIBRIDGE_WORKERS_RELEASE_IDLE": (_seconds_or_off, f"seconds, from 0 on, or {OFF}"),
    "ASGIBRIDGE_LOOP": (_one_of("shared"), "shared"),
    "ASGIBRIDGE_WATCH": (_seconds_above_0, "a number of seconds above 0"),
    "ASGIBRIDGE_TIMINGS": (_one_of("0", "1"), "0 or 1"),
    "ASGIBRIDGE_DJANGO": (_one_of("0", "1"), "0 or 1"),
}
"""What converts the text of each variable, with a ValueError for a bad one, and what it takes."""
