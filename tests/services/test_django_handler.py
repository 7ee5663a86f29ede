"""What `asgibridge.django.ASGIHandler` promises beyond what Django's own suites cover."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import sites
from sites import COMPILED, PURE, Implementation

CASES = Path(__file__).with_name("handler_cases.py")


@pytest.mark.parametrize("implementation", [COMPILED, PURE], ids=str)
def test_the_handler(implementation: Implementation) -> None:
    """Every test of handler_cases.py, in a process where asgibridge is in asgiref's place."""
    done = subprocess.run(
        implementation.command("-m", "pytest", "-q", "-p", "no:cacheprovider", CASES.name),
        cwd=CASES.parent,
        env=sites.environment(implementation, {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=100,
        check=False,
    )
    found = re.search(r"^(\d+) passed in", done.stdout, re.MULTILINE)
    assert done.returncode == 0, done.stdout
    assert found is not None, done.stdout
    assert int(found[1]) >= CASES.read_text(encoding="utf-8").count("\ndef test_"), done.stdout
