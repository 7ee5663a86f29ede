"""Child Pythons of the tests, started in a directory of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# Longer than any of them takes, shorter than the limit of the test that runs it.
SECONDS = 40


def run(
    *words: str, cwd: Path, program: str = sys.executable, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run this Python, or ``program``, with ``words`` in ``cwd``, where asgibridge can be imported
    by whatever means it can be here; ``env`` is added to the environment."""
    return subprocess.run(
        [program, *words],
        cwd=cwd,
        env={**environment(), **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=False,
    )


def environment() -> dict[str, str]:
    """The environment of this process, for use from another directory."""
    # What a child prints is the same on every platform and in every locale.
    env = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    if env.get("PYTHONPATH"):
        env["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, python_path()))
    return env


def python_path() -> list[str]:
    """The entries of PYTHONPATH here."""
    entries = os.environ.get("PYTHONPATH")
    return entries.split(os.pathsep) if entries else []
