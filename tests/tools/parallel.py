"""Every fast test in several threads at once, round after round.

    python tests/tools/parallel.py [--threads 2,4] [--rounds 2] [TEST ...]

pytest-run-parallel runs each test in so many threads, which begin it together; `parallel_plugin`
gives those that are coroutines a loop each. A test whose subject belongs to the whole process (its
hooks, streams, pool of workers, what it forks) is marked ``thread_unsafe``, with the reason,
or recognized by its fixtures: it is not run here. On a CPython without the GIL (3.14t) the threads
do run at once; elsewhere they take turns, very often.

Ends with a line that says PASSED or FAILED; the exit status is 1 for FAILED.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

import asgibridge
import pytest_run
from environment import ROOT

LIMIT = 900
"""Seconds for one round."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", default="2,4", help="of one round, the next...; default: 2,4")
    parser.add_argument("--rounds", type=int, default=2, help="default: %(default)s")
    parser.add_argument("tests", nargs="*", metavar="TEST", default=["tests"])
    options = parser.parse_args()
    threads = [int(number) for number in options.threads.split(",")]
    began = time.monotonic()
    passed, bad = 0, []
    for number in range(options.rounds):
        count = threads[number % len(threads)]
        print(f"\n### round {number + 1} of {options.rounds}: {count} threads", flush=True)
        outcome = pytest_run.run(
            [
                *(sys.executable, "-u", "-m", "pytest", "-q", "-p", "no:cacheprovider"),
                *("-p", "no:asyncio", "-p", "parallel_plugin", "-m", "not slow", "--tb=short"),
                *(f"--parallel-threads={count}", "--skip-thread-unsafe=1", "-r", "fE"),
                *options.tests,
            ],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": "tests/tools"},
            limit=LIMIT,
        )
        passed += outcome.counts.get("passed", 0)
        if not outcome.ok:
            bad.append(f"round {number + 1}: {outcome}")
    gil = "on" if getattr(sys, "_is_gil_enabled", lambda: True)() else "off"
    print(
        f"parallel: {'FAILED: ' + '; '.join(bad) if bad else 'PASSED'}: {options.rounds} rounds in "
        f"{time.monotonic() - began:.0f} s, {options.threads} threads, {passed} tests passed; "
        f"{asgibridge.IMPLEMENTATION} kernel, CPython {sys.version.split()[0]}, GIL {gil}",
        flush=True,
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
