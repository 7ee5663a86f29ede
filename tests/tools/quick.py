"""The fast half of the tests on one Python, both kernels at once: an answer in a minute.

    python tests/tools/quick.py [PYTEST ARGUMENTS]     such as: tests/queues, or -k limiter

Left out are the tests marked `slow` or `not_quick` (all of hypothesis's are), those that start
processes (marked `scripts` by tests/conftest.py), and the folders that are about processes, the
command line and the checkout; `make test` runs all. The environment is .venv/test, that of `make
test`; it is installed again only when the sources have changed.

Prints how each kernel's tests ended, and of a kernel that failed all that pytest said.
"""

from __future__ import annotations

import subprocess
import sys
import time

from environment import (
    HAS_COMPILED_KERNEL,
    ROOT,
    VENVS,
    EnvironmentFailure,
    child_environment,
    create,
    install,
    probe,
    python_in,
)
from pytest_run import counts_in

KERNELS = {"off": "pure", "require": "compiled"} if HAS_COMPILED_KERNEL else {"off": "pure"}
"""The values of ASGIBRIDGE_SPEEDUPS to test with, and what each chooses."""

LIMIT = 300
"""Seconds for the tests: several times what they take on two cores."""

CHOSEN = "not slow and not scripts and not not_quick"

LEFT_OUT = ("process", "project", "start")
"""Folders of tests/."""


def main() -> int:
    this = probe(sys.executable)
    assert this is not None
    began = time.monotonic()
    print(
        f"make quick: the fast tests without processes, on Python {this.release}, "
        f"{' and '.join(KERNELS.values())} kernel at once: under a minute on two idle cores.\n"
        "When the sources have changed, they are built first: half a minute more.",
        flush=True,
    )
    environment = VENVS / "test"
    try:
        create(environment, this)
        install(environment, "test")
    except EnvironmentFailure as failure:
        print(failure, file=sys.stderr)
        return 1
    built = time.monotonic()
    command = [python_in(environment), "-m", "pytest", "-q", "-m", CHOSEN, "-p", "no:cacheprovider"]
    command += [f"--ignore=tests/{name}" for name in LEFT_OUT]
    runs = {
        name: subprocess.Popen(
            [*command, "--own-kernel", *sys.argv[1:]],
            cwd=ROOT,
            env=child_environment(ASGIBRIDGE_SPEEDUPS=speedups),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        for speedups, name in KERNELS.items()
    }
    failed = False
    for name, process in runs.items():
        try:
            said, _ = process.communicate(timeout=max(1, LIMIT - (time.monotonic() - built)))
        except subprocess.TimeoutExpired:
            process.kill()
            said = f"{process.communicate()[0]}\nstopped after {LIMIT} s"
        lines = said.strip().splitlines() or [""]
        # A run that was broken off has no closing line.
        passed = process.returncode == 0 and counts_in(lines[-1]).get("passed", 0) > 0
        failed = failed or not passed
        if not passed:
            print(said)
        print(f"{'passed' if passed else 'FAILED'}  {name} kernel: {lines[-1]}", flush=True)
    print(f"make quick: {'FAILED' if failed else 'PASSED'} in {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
