"""What mypy and pyright say of applications written with our types: all of the good one passes, and
each marked line of the bad one is refused, and nothing else.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

APPLICATIONS = Path(__file__).with_name("typed_applications")
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

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


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


@pytest.mark.parametrize("checker", [mypy, pyright])
@pytest.mark.parametrize("name", ["good.py", "bad.py"])
def test_it_says_what_it_must(tmp_path, checker, name):
    source = (APPLICATIONS / name).read_text(encoding="utf-8")
    (tmp_path / name).write_text(source, encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text(OPTIONS)
    found = checker(tmp_path, name)
    expected = {
        number for number, line in enumerate(source.splitlines(), 1) if line.endswith("# error")
    }
    assert set(found) == expected, found
