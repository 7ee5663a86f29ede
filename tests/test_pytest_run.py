"""tests/pytest_run.py decides what `make test` calls a pass, so it is tested like the rest."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import pytest_run
from environment import child_environment


@pytest.mark.parametrize(
    ("line", "counts"),
    [
        ("===== 133 passed, 1 xfailed in 16.90s =====", {"passed": 133, "xfailed": 1}),
        ("= 1 failed, 2 passed, 3 warnings in 75.20s (0:01:15) =", {"failed": 1, "passed": 2}),
        ("2 passed, 1 deselected in 0.02s", {"passed": 2}),
        ("===== no tests ran in 0.01s =====", {}),
        ("it took 3 passed in 1s, or so", {}),
    ],
)
def test_counts_are_read_from_the_closing_line(line: str, counts: dict[str, int]) -> None:
    assert pytest_run.counts_in(line) == counts


def run(code: str, *, limit: float = 30) -> pytest_run.Outcome:
    return pytest_run.run(
        [sys.executable, "-u", "-c", code], cwd=Path.cwd(), env=child_environment(), limit=limit
    )


def test_a_failing_status_is_no_pass_whatever_was_printed() -> None:
    outcome = run("print('=== 3 passed in 1.00s ==='); raise SystemExit(4)")
    assert not outcome.ok
    assert str(outcome) == "3 passed (exit status 4)"


def test_no_passed_test_is_no_pass() -> None:
    assert not run("print('=== 3 skipped in 1.00s ===')").ok
    assert not run("").ok


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGABRT to ask for stacks with")
def test_the_time_limit_prints_stacks_and_ends_what_keeps_the_output_open(
    capfd: pytest.CaptureFixture[str],
) -> None:
    outcome = run(
        "import subprocess, sys, threading\n"
        "print('=== 3 passed in 1.00s ===')\n"
        "subprocess.Popen(['sleep', '60'])\n"  # no Python: its dump would mix with the other's
        "def never_ends(): threading.Event().wait()\n"
        "never_ends()\n",
        limit=3,  # long enough for Python to have started, on a busy machine
    )
    assert not outcome.ok
    assert str(outcome) == "stopped at the time limit"
    assert "in never_ends" in capfd.readouterr().out
