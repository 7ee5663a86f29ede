"""The documents' examples that need a library: tests/support/examples.py says which."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "support"))

from examples import RUNNER, Example, all_examples

NEED_A_LIBRARY = [each for each in all_examples() if each.is_run and each.needs]


@pytest.mark.parametrize(
    "example", [pytest.param(each, id=f"{each.page}, line {each.line}") for each in NEED_A_LIBRARY]
)
def test_an_example_runs(example: Example, tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text(example.program(), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, "example.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_there_are_some() -> None:
    assert len(NEED_A_LIBRARY) >= 8
