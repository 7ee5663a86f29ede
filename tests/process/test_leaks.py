"""That nothing stays behind: references, memory, files and threads are flat over many calls.

Each workload runs in a process of its own, to warm up first and then three times in a row. What is
left of each call is left by each run; caches that fill up, and the collector's moods, are not.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig

import pytest

from environment import TOOLS

SECONDS = 240
"""For a workload in its slow form; it takes a tenth of that where nothing else runs."""

pytestmark = pytest.mark.timeout(SECONDS + 20)

SCRIPT = TOOLS / "workloads.py"

NOISE = 250
"""References and blocks that come and go with Python's own caches."""

FREES_LATE = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
"""Up to a few hundred blocks wait for the collector there, however many calls there were."""


def left_behind(*arguments):
    """Run a workload; how much more there is of everything after a third of its calls."""
    limited = (
        f"import faulthandler, runpy; faulthandler.dump_traceback_later({SECONDS}, exit=True); "
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", limited, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=SECONDS + 10,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return json.loads(done.stdout)


def check_flat(growth, n):
    """None of it may grow with the number of calls."""
    assert growth["threads"] <= 0
    assert growth["descriptors"] <= 0
    # One in ten calls that leaves one behind is a leak.
    assert abs(growth["references"]) <= n / 30  # too few are worse than too many
    assert growth["all references"] <= max(n / 30, NOISE)
    assert growth["blocks"] <= max(n / 30, NOISE)


FAST = {
    "hops": 10_000,
    "pool": 3_000,
    "failing": 3_000,
    "failing_in_workers": 3_000,
    "cancelled": 5_000,
    "contexts": 1_500,
    "in_workers": 5_000,
    "there_and_back_in_workers": 3_000,
    "top_level": 500,
    "on_one_thread": 500,
    "loops": 500,
    "executors": 1_000,
    "wrappers": 10_000,
    "locals_": 10_000,
}


@pytest.mark.parametrize("workload", FAST)
def test_nothing_is_left_behind(workload):
    check_flat(left_behind(workload, FAST[workload]), FAST[workload])


@pytest.mark.parametrize("workload", ["hops", "failing", "in_workers", "there_and_back_in_workers"])
def test_nothing_is_left_to_the_collector(workload):
    """It may be off, and an object in a cycle would stay."""
    n = FAST[workload] * (10 if FREES_LATE else 1)
    check_flat(left_behind(workload, n, "off"), n)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workload", "n"),
    [("hops", 200_000), ("contexts", 30_000), ("in_workers", 40_000), ("cancelled", 60_000)],
)
def test_memory_is_flat_over_very_many_calls(workload, n):
    growth = left_behind(workload, n)
    check_flat(growth, n / 100)
    # The smallest block there is has sixteen bytes: one for each call is 480,000 or more. A heap
    # has its moods, too.
    assert growth["bytes"] <= 300_000
