"""What `make test` calls a pass: tests/tools/pytest_run.py decides it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

import asgibridge
import pytest_run
from conftest import is_left_to_the_other_kernel
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


def test_the_time_limit_ends_a_run_whatever_was_printed() -> None:
    outcome = run(
        "import threading; print('=== 3 passed in 1.00s ==='); threading.Event().wait()", limit=1
    )
    assert not outcome.ok
    assert str(outcome) == "stopped at the time limit"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals that end a process")
def test_a_crash_is_told_as_one() -> None:
    die = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert str(run(die)) == "crashed (SIGKILL)"
    outcome = run(f"print('=== 3 passed in 1.00s ==='); {die}")
    assert not outcome.ok
    assert str(outcome) == "3 passed, then crashed (SIGKILL)"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGABRT to ask for stacks with")
def test_stopping_prints_stacks_and_ends_what_keeps_the_output_open(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import subprocess, sys, threading\n"
        "def never_ends():\n"
        "    print('ready', flush=True)\n"
        "    threading.Event().wait()\n"
        "def left_behind():\n"
        "    never_ends()\n"
        "if sys.argv[1:]:\n"
        "    left_behind()\n"
        "subprocess.Popen([sys.executable, '-X', 'faulthandler', __file__, 'child'])\n"
        "never_ends()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-X", "faulthandler", str(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == [b"ready\n"] * 2
        ended = threading.Event()
        stopper = threading.Thread(target=pytest_run.stop, args=(process, ended))
        stopper.start()
        # To the end of the output: nobody holds it open any more.
        said = process.stdout.read().decode()
        ended.set()
        stopper.join(30)
    parents, children = said.split("Fatal Python error")[1:]
    assert "in never_ends" in parents
    assert "in left_behind" not in parents
    assert "in left_behind" in children


@pytest.mark.parametrize(
    ("path", "params", "runs_on"),
    [
        ("bridge/test_hops.py", None, {"pure", "speedups"}),
        ("bridge/test_hops.py", {"count": 3}, {"pure", "speedups"}),
        ("bridge/test_hops.py", {"kernel": "pure"}, {"pure"}),
        ("project/test_readme.py", {"kernel": "speedups"}, {"speedups"}),
        ("project/test_layout.py", None, {"pure"}),
        ("process/test_missing_names.py", None, {"pure"}),
    ],
)
def test_which_kernel_a_test_runs_on_where_both_are_tested(
    path: str, params: dict[str, object] | None, runs_on: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `--own-kernel`, as `make test` and `make quick` have it: nothing is left out on both."""
    item = SimpleNamespace(path=Path("tests", path))
    if params is not None:
        item.callspec = SimpleNamespace(params=params)
    ran = set()
    for name in ("pure", "speedups"):
        monkeypatch.setattr(asgibridge, "IMPLEMENTATION", name)
        monkeypatch.setattr("conftest.KERNELS", {"pure": "", "speedups": ""})
        if not is_left_to_the_other_kernel(item):
            ran.add(name)
    assert ran == runs_on
