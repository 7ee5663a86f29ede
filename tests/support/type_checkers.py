"""What mypy and pyright say of a program."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

OPTIONS = """
[tool.mypy]
strict = true
python_version = "3.11"
[tool.pyright]
typeCheckingMode = "strict"
pythonVersion = "3.11"
reportUnusedCoroutine = false
reportUnknownMemberType = false
"""


def run(*words: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=cwd,
        capture_output=True,
        encoding="utf-8",
        timeout=230,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def mypy(cwd: Path, name: str) -> dict[int, str]:
    pytest.importorskip("mypy")
    output = run("mypy", "--no-error-summary", "--hide-error-context", name, cwd=cwd)
    found = re.findall(rf"^{name}:(\d+): error: (.*)$", output, re.MULTILINE)
    assert found or not output.strip(), output
    return {int(line): text for line, text in found}


def pyright(cwd: Path, name: str) -> dict[int, str]:
    pytest.importorskip("pyright")
    output = run("pyright", "--outputjson", "--pythonpath", sys.executable, name, cwd=cwd)
    report = json.loads(output[output.index("{") :])
    assert report["summary"]["filesAnalyzed"] == 1
    return {
        each["range"]["start"]["line"] + 1: each["message"]
        for each in report["generalDiagnostics"]
        if each["severity"] == "error"
    }
