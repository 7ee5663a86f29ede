"""``asgibridge info``: versions and settings for a bug report, one ``key: value`` a line."""

from __future__ import annotations

import asyncio
import importlib
import os
import platform
import sys
import warnings
from collections.abc import Iterator, Mapping
from importlib import metadata

from .._process import servers, settings
from .._process.cpython import is_gil_enabled
from .._version import ASGIREF_VERSION, __version__
from .install import BOOTSTRAP, is_installed, real_asgiref_loaded


def lines(about: str = "", given: Mapping[str, str] | None = None) -> Iterator[str]:
    """The report on this process, line by line.

    :param about: what this process is, if the caller knows.
    :param given: what the setting ``ASGIBRIDGE`` of a site says, each with where it says so, by the
        variable of the environment which would win.
    """
    given = {} if given is None else given
    yield f"asgibridge: {__version__} (answers for asgiref {ASGIREF_VERSION})"
    yield f"kernel: {_kernel()}"
    yield f"about: {about or _about()}"
    yield f"installed as asgiref: {'yes' if is_installed() else 'no'}"
    yield f"original asgiref: {_original()}"
    yield f"python: {platform.python_implementation()} {platform.python_version()}"
    yield f"GIL: {'on' if is_gil_enabled() else 'off'}"
    yield f"platform: {platform.platform()}"
    yield f"event loop policy: {_policy()}"
    yield f"uvloop: {_uvloop()}"
    for label, variable, default in (
        ("workers", "ASGIBRIDGE_WORKERS", "fresh"),
        ("workers' limit", "ASGIBRIDGE_WORKERS_LIMIT", "none"),
        ("workers' limit of all processes", "ASGIBRIDGE_WORKERS_LIMIT_TOTAL", "none"),
        ("server processes", "ASGIBRIDGE_PROCESSES", _processes()),
        ("wait for a worker", "ASGIBRIDGE_WORKERS_WAIT_TIMEOUT", "without end"),
        ("idle workers live", "ASGIBRIDGE_WORKERS_IDLE_TIMEOUT", "10"),
        (
            "idle contexts keep a worker",
            "ASGIBRIDGE_WORKERS_RELEASE_IDLE",
            "1 under keep with a limit, else to their end",
        ),
        ("loop of async_to_sync", "ASGIBRIDGE_LOOP", "a new one for each call"),
        ("watch", "ASGIBRIDGE_WATCH", "off"),
        ("timings", "ASGIBRIDGE_TIMINGS", "1 on the compiled kernel, 0 on the pure one"),
        ("asgibridge.django in django.core.asgi", "ASGIBRIDGE_DJANGO", "0"),
    ):
        yield f"{label}: {_setting(variable, default, given.get(variable))}"
    if not about and os.environ.get("DJANGO_SETTINGS_MODULE"):
        yield "the site's setting ASGIBRIDGE: not read here; 'manage.py bridge' shows what it says"
    for text in settings.unknown():
        yield f"warning: {text}"


def _processes() -> str:
    # Here, where no server runs: as the environment and the command line say.
    try:
        found = servers.processes()
    except ValueError:  # shown as a bad value
        return ""
    return f"{found.number}, {found.source}"


def _setting(variable: str, default: str, given: str | None) -> str:
    try:
        value = settings.read(variable)
    except ValueError as error:
        return f"BAD: {error}"
    if value is None and given is not None:
        return given
    if value is None:
        return f"{default} ({variable} is not set)"
    return f"{os.environ[variable]} ({variable})"


def _about() -> str:
    if os.environ.get("PYTHONPATH", "").split(os.pathsep)[0] == BOOTSTRAP:
        return "a process under 'asgibridge run', as its other Pythons are"
    return (
        "this process only, which runs no program of yours; 'asgibridge run -m asgibridge info' "
        "shows what a program finds"
    )


def _kernel() -> str:
    settings.told = True  # of unknown variables, below
    try:
        from .._kernel import IMPLEMENTATION
    except (ImportError, RuntimeError, ValueError) as error:
        return f"none: {error}"
    speedups = os.environ.get("ASGIBRIDGE_SPEEDUPS") or "auto"
    return f"{IMPLEMENTATION} (ASGIBRIDGE_SPEEDUPS={speedups})"


def _original() -> str:
    try:
        present = metadata.version("asgiref")
    except metadata.PackageNotFoundError:
        present = ""
    if real_asgiref_loaded():
        loaded = getattr(sys.modules.get("asgiref"), "__version__", "of unknown version")
        return f"{loaded}, LOADED: thread-sensitive calls go to two threads; call install() earlier"
    return f"{present}, not loaded" if present else "not there"


def _policy() -> str:
    with warnings.catch_warnings():
        # Deprecated from 3.14 on, where it still chooses the loop.
        warnings.simplefilter("ignore", DeprecationWarning)
        get_policy = getattr(asyncio, "get_event_loop_policy", None)
        if get_policy is None:
            return "none in this Python"
        policy = type(get_policy())
    return f"{policy.__module__}.{policy.__qualname__}"


def _uvloop() -> str:
    try:
        uvloop = importlib.import_module("uvloop")
    except ImportError:
        return "not there"
    return str(getattr(uvloop, "__version__", "of unknown version"))
