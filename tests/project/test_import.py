"""What ``import asgibridge.sync`` loads: little that ``import asgiref.sync`` would not.

asgiref's part is a list of its imports, those of asgiref 3.13.0: it is not importable here.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

OF_ASGIREF = (
    "asyncio, collections, concurrent.futures, concurrent.futures.thread, contextlib, contextvars, "
    "functools, inspect, os, queue, sys, threading, typing, warnings, weakref"
)
MORE = {
    "__future__",
    "_interpreters",  # whether this is the main one
    "_xxsubinterpreters",
    "_bisect",  # the pure kernel's
    "bisect",
    "copy",
    "dataclasses",  # a Policy is one
    "gc",
    "importlib._abc",
    "importlib.abc",  # before 3.10
    "importlib.util",
    "logging",  # asyncio's, but for 3.9 on Windows
    "typing_extensions",  # before 3.11
}
OURS = 49
"""Modules of asgibridge's, with the compiled kernel; asgiref has 4. Lower it when one goes."""

SCRIPT = f"""
import sys
import {OF_ASGIREF}
before = set(sys.modules)
import asgibridge.sync
print(*sorted(set(sys.modules) - before))
"""


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="others load other modules")
def test_little_is_loaded_that_asgiref_would_not_load() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "PYTHONWARNINGS": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    loaded = set(done.stdout.split())
    ours = {name for name in loaded if name.partition(".")[0] == "asgibridge"}
    pure = {name for name in ours if name.startswith("asgibridge._pure")}
    assert len(ours - pure) <= OURS
    others = {name for name in loaded - ours if "cython" not in name}
    assert others <= MORE


@pytest.mark.parametrize(
    "module", ["asgibridge.limiters", "asgibridge.debug", "asgibridge.queue", "shlex", "traceback"]
)
def test_what_most_programs_do_not_use_is_loaded_when_it_is_used(module: str) -> None:
    # By a program of its own: traceback, for one, is asyncio's on some Pythons.
    script = f"import sys, asyncio; had = {module!r} in sys.modules; import asgibridge.sync; "
    script += f"sys.exit(not had and {module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == 0
