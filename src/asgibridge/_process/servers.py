"""How many server processes there are: a limit for all of them is divided by that.

The first of these that knows it counts:

1. ``ASGIBRIDGE_PROCESSES``, then what the program has said (`told`: a Django site's setting);
2. the server. Its objects are on the stack of the main thread, below all that it runs. A process
   that multiprocessing has spawned has the server's configuration there, too; one that gunicorn has
   forked has the arbiter. Where a server runs in the worker of another (uvicorn in gunicorn's), the
   outermost counts;
3. the command line, if it is that of a known server. A process that multiprocessing has spawned
   finds its parent's in ``sys.argv``;
4. ``WEB_CONCURRENCY``, which uvicorn and gunicorn read, too, where nothing above says otherwise.

Else one process is assumed. None of this can be known when asgibridge is imported, which may be
long before the server has read its configuration: ask when the first request is there, and again in
a forked child. It is read anew each time; in a server it takes some ten microseconds.
"""

from __future__ import annotations

import inspect
import os
import shlex
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any, NamedTuple

from . import cpython, settings


class Processes(NamedTuple):
    """How many server processes there are, and who says so."""

    number: int
    source: str
    """In words: "by gunicorn"."""
    is_known: bool = True
    """False if nobody says so."""


told: Processes | None = None
"""What the program has said."""

ASSUMED = Processes(
    1,
    "assumed: there is no WEB_CONCURRENCY, no ASGIBRIDGE_PROCESSES and no "
    "ASGIBRIDGE['processes'], and no server that asgibridge knows runs here",
    is_known=False,
)


def processes(environment: Mapping[str, str] = os.environ) -> Processes:
    """How many server processes there are, as far as can be known. From any thread."""
    number = settings.read("ASGIBRIDGE_PROCESSES", environment)
    if number is not None:
        return Processes(number, "by ASGIBRIDGE_PROCESSES")
    return (
        told
        or _of_stacks(_frames())
        or _of_command(sys.argv, environment)
        or _of_web_concurrency(environment)
        or ASSUMED
    )


def _of_web_concurrency(environment: Mapping[str, str]) -> Processes | None:
    number = _number(environment.get("WEB_CONCURRENCY"))
    return None if number is None else Processes(number, "by WEB_CONCURRENCY")


def _number(value: object) -> int | None:
    # None unless it is one from 1 on.
    text = str(value)
    return int(text) if text.isdecimal() and int(text) else None


# --- the server's own objects --------------------------------------------------------------------


def _of_uvicorn(config: Any) -> Any:
    return 1 if config.reload else config.workers  # as uvicorn has it, with a warning


_OBJECTS: dict[str, Callable[[Any], Any]] = {
    "gunicorn.arbiter.Arbiter": lambda arbiter: arbiter.num_workers,
    "uvicorn.config.Config": _of_uvicorn,
    "uvicorn.server.Server": lambda server: _of_uvicorn(server.config),
    "hypercorn.config.Config": lambda config: config.workers or 1,  # 0: none but this process
    "granian.server.mp.MPServer": lambda server: server.workers,
    "granian.server.mt.MTServer": lambda server: 1,  # its workers are threads
    "daphne.server.Server": lambda server: 1,
}
"""By the names of the servers' classes: what tells the number of processes."""

_PACKAGES = {name.partition(".")[0] for name in _OBJECTS}


def _frames() -> Iterator[FrameType]:
    # The current thread's, then the main thread's, each from the inside to the outside. Without a
    # GIL no stack of another thread can be read.
    frame = inspect.currentframe()
    while frame is not None:
        yield frame
        frame = frame.f_back
    main = threading.main_thread()
    if threading.current_thread() is not main and cpython.is_gil_enabled():
        frame = cpython.current_frames().get(main.ident or 0)
        while frame is not None:
            yield frame
            frame = frame.f_back


def _of_stacks(frames: Iterator[FrameType]) -> Processes | None:
    found = None
    for frame in frames:
        package = str(frame.f_globals.get("__name__")).partition(".")[0]
        if package in _PACKAGES:
            numbers = [_of_object(thing) for thing in list(frame.f_locals.values())]
            number = next((each for each in numbers if each is not None), None)
            if number is not None:
                found = Processes(number, f"by {package}")
    return found


def _of_object(thing: Any) -> int | None:
    for cls in type(thing).__mro__:
        ask = _OBJECTS.get(f"{cls.__module__}.{cls.__qualname__}")
        if ask is not None:
            try:
                return _number(ask(thing))
            except Exception:  # a version of the server that has it elsewhere
                return None
    return None


# --- the command line ----------------------------------------------------------------------------

_VARIABLES = {"uvicorn": "UVICORN_WORKERS", "granian": "GRANIAN_WORKERS"}


def _of_command(words: list[str], environment: Mapping[str, str]) -> Processes | None:
    if not words:  # an embedded Python
        return None
    program, options = _program(words[0]), words[1:]
    if program in ("manage", "django-admin") and options[:1] == ["runserver"]:
        program = "runserver"
    if program in ("daphne", "runserver"):  # they have no other
        return Processes(1, f"by {program}")
    if program not in ("uvicorn", "gunicorn", "hypercorn", "granian"):
        return None
    number = _option(options)
    if number is None and program == "gunicorn":
        number = _option(_split(environment.get("GUNICORN_CMD_ARGS", "")))
    if number is None and program in _VARIABLES:
        number = _number(environment.get(_VARIABLES[program]))
    if number is not None:
        return Processes(number, f"by {program}'s command line")
    if program in ("uvicorn", "gunicorn") and (found := _of_web_concurrency(environment)):
        return found
    # The others' default is one process, but for what stands in a file of theirs.
    has_file = program == "gunicorn" or any(word.startswith(("-c", "--config")) for word in options)
    return None if has_file else Processes(1, f"by {program}'s command line")


def _program(path: str) -> str:
    name = os.path.basename(path)
    if name == "__main__.py":  # python -m
        name = os.path.basename(os.path.dirname(path))
    return os.path.splitext(name)[0]


def _option(words: list[str]) -> int | None:
    found = None
    for index, word in enumerate(words):
        name, _, value = word.partition("=")
        if name in ("-w", "--workers"):
            found = _number(value or next(iter(words[index + 1 :]), None))
        elif word.startswith("-w") and word[2:].isdecimal():
            found = _number(word[2:])
    return found


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:  # gunicorn itself does not start then
        return []
