"""What wakes loops and runs on them, on loops that are not asyncio's own: see `loop_plugin`.

Windows's Proactor takes no reader, and nor does the one that is made here for that; uvloop's is
another class.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import children
from environment import ROOT, TOOLS, paths_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]

WAKE_OR_RUN_A_LOOP = (
    "test_context_managers",
    "test_errors_and_cancellation",
    "test_hops",
    "test_iterators",
    "test_persistent_loop",
    "test_pools",
    "test_queue",
)


LOOPS = pytest.mark.parametrize(
    "loop",
    [
        "readerless",
        pytest.param(
            "uvloop",
            marks=pytest.mark.skipif(
                not importlib.util.find_spec("uvloop"), reason="uvloop is not installed"
            ),
        ),
    ],
)


def run_pytest(loop: str, place: Path, *words: str) -> str:
    path = os.pathsep.join(filter(None, [str(TOOLS), children.environment().get("PYTHONPATH")]))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("-p", "loop_plugin", "--loop", loop, *words),
        ],
        cwd=place,
        env={**children.environment(), "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@LOOPS
def test_everything_runs_on(loop, tmp_path):
    options = ("-m", "not slow", "-c", str(ROOT / "pyproject.toml"))
    files = [str(ROOT / path) for path in paths_of(*WAKE_OR_RUN_A_LOOP)]
    printed = run_pytest(loop, tmp_path, *options, f"--rootdir={tmp_path}", *files)
    assert re.search(r"^\d+ passed", printed, re.MULTILINE), printed


@LOOPS
def test_those_loops_are_what_asyncio_makes(loop, tmp_path):
    (tmp_path / "test_it.py").write_text(
        "import asyncio, loop_plugin\n"
        "from asgibridge.sync import async_to_sync\n"
        "async def look():\n"
        "    return asyncio.get_running_loop()\n"
        "def test_it():\n"
        "    for running in (asyncio.run(look()), async_to_sync(look)()):\n"
        f"        assert type(running) is loop_plugin.loop_class({loop!r})\n"
    )
    assert re.search("^1 passed", run_pytest(loop, tmp_path), re.MULTILINE)
