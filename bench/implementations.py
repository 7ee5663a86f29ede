"""What is measured: each implementation by name, and never another one silently in its place.

``floor`` is no bridge but the least there is: bare thread wake-ups, bare futures, threading.local.
asgibridge's kernel is chosen once per process, so each implementation needs a process of its own,
started with `environment(name)`. A peer is somebody else's library that can do some of it: what it
cannot do is not measured.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

IMPLEMENTATIONS = ("floor", "asgiref", "pure", "compiled")

PEERS = {
    "asyncio": "asyncio",
    "anyio": "anyio",
    "trio": "trio",
    "synchronicity": "synchronicity",
    "janus": "janus",
    "culsans": "culsans",
    "aiologic": "aiologic",
    "a2wsgi": "a2wsgi",
}
"""The module of each. peers.py has what they do, and says what they cannot."""

OURS = ("pure", "compiled")

_CHOICES = {"pure": "off", "compiled": "require"}
_KERNELS = {"pure": "pure", "compiled": "speedups"}


@dataclass(frozen=True)
class Library:
    """The modules of a bridge that cases are made of."""

    name: str
    sync: Any
    local: Any


@functools.cache
def has_compiled_kernel() -> bool:
    """Whether it is installed; CalledProcessError if it is, but does not load."""
    # By the package's public names, which every commit has; and in another process, since this one
    # keeps the kernel that it loads.
    answer = subprocess.run(
        [sys.executable, "-c", "import asgibridge; print(asgibridge.IMPLEMENTATION)"],
        env=environment("auto"),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    return answer.strip() == _KERNELS["compiled"]


def available() -> tuple[str, ...]:
    """All of them, without the compiled kernel if it is not installed."""
    if has_compiled_kernel():
        return IMPLEMENTATIONS
    return tuple(name for name in IMPLEMENTATIONS if name != "compiled")


def available_peers() -> tuple[str, ...]:
    """Those that are installed."""
    return tuple(name for name, module in PEERS.items() if importlib.util.find_spec(module))


def environment(name: str) -> dict[str, str]:
    """The environment of a process that is to measure ``name``."""
    hidden = ("ASGIBRIDGE_SPEEDUPS", "PYTHONPATH", "PYTHONDEVMODE", "PYTHONASYNCIODEBUG")
    kept = {key: value for key, value in os.environ.items() if key not in hidden}
    return {**kept, "ASGIBRIDGE_SPEEDUPS": _CHOICES.get(name, "auto")}


def load(name: str) -> Library | None:
    """Import ``name``; None for the floor. RuntimeError if this process has another kernel."""
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"{name!r}: must be one of {', '.join(IMPLEMENTATIONS)}")
    if name == "floor":
        return None
    package = "asgiref" if name == "asgiref" else "asgibridge"
    if package == "asgibridge":
        found = importlib.import_module("asgibridge").IMPLEMENTATION
        if found != _KERNELS[name]:
            raise RuntimeError(
                f"asked to measure {name}, but asgibridge runs its {found!r} kernel: start the "
                f"process with ASGIBRIDGE_SPEEDUPS={_CHOICES[name]}"
            )
    modules = [importlib.import_module(f"{package}.{module}") for module in ("sync", "local")]
    return Library(name, *modules)
