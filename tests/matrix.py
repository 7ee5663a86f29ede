"""Runs the tests, and asgiref's own suite, on one interpreter or on every one there is.

    python tests/matrix.py                  this interpreter, in .venv/test (what `make test` does)
    python tests/matrix.py --all            every CPython found of those supported, in .venv/py3.X
    python tests/matrix.py --only 3.12      that one of them
    python tests/matrix.py --all --brief    every CPython, one kernel on those in the middle

Per interpreter and kernel: an environment with an install of this checkout as it is, ``pytest``,
then ``tests/tools/upstream.py``. With ``--all``, two interpreters at a time, each in a process of
its own, and what one said is printed when it has ended. Ends with a line per run and one for all;
the exit status is 1 if anything failed. An interpreter that is not there is named and counts as
nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "tools"))
import pytest_run
from environment import (
    HAS_COMPILED_KERNEL,
    ROOT,
    SUPPORTED,
    VENVS,
    EnvironmentFailure,
    Interpreter,
    child_environment,
    create,
    find,
    install,
    probe,
    python_in,
)
from upstream import UpstreamFailure, run_suite

KERNELS = ("off", "require") if HAS_COMPILED_KERNEL else ("off",)
"""The values of ASGIBRIDGE_SPEEDUPS to test with."""

OWN_KERNEL = ("--own-kernel",) if len(KERNELS) == 2 else ()
"""For pytest: a test of one kernel, or of none, is not run on both."""

LIMIT = 900
"""Seconds for one run of the tests."""

AT_ONCE = 2
"""How many interpreters are tested at a time. A run keeps three quarters of a processor busy; with
three at a time, on two processors, tests that look at the clock are starved."""

_printing = threading.Lock()


@dataclass
class Run:
    """One interpreter with one kernel: a line of the closing table."""

    python: str
    release: str
    kernel: str
    tests: str
    upstream: str = "not run"
    seconds: float = 0
    ok: bool = False

    def __str__(self) -> str:
        return (
            f"{'passed' if self.ok else 'FAILED'}  {self.python:<6} {self.release:<8} "
            f"{self.kernel:<9} {self.seconds:>5.0f} s  tests: {self.tests}  "
            f"asgiref's suite: {self.upstream}"
        )


def prepare(environment: Path, interpreter: Interpreter) -> Interpreter:
    """The environment's own interpreter, everything installed."""
    create(environment, interpreter)
    extras = "test,upstream,servers,packaging,eventlet"
    if not interpreter.name.endswith("t"):  # neither has a free-threaded build
        extras += ",gevent,typecheck"
    # Django needs asgiref, and asgiref's own suite its absence: asgibridge stands in for it.
    install(environment, extras, alone="django>=4.2")
    inside = probe(python_in(environment))
    assert inside is not None
    return inside


def run_kernel(python: Interpreter, speedups: str, *, slow: bool) -> Run:
    env = child_environment(ASGIBRIDGE_SPEEDUPS=speedups)
    started = time.monotonic()
    kernel = subprocess.run(
        [python.path, "-I", "-c", "import asgibridge; print(asgibridge.IMPLEMENTATION)"],
        env=env,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout.strip()
    which = "all tests" if slow else "the fast tests"
    print(
        f"\n### {python.implementation} {python.name} ({python.release}), {kernel} kernel: {which}",
        flush=True,
    )
    outcome = pytest_run.run(
        [python.path, "-u", "-m", "pytest", *OWN_KERNEL, *([] if slow else ["-m", "not slow"])],
        cwd=ROOT,
        env=env,
        limit=LIMIT,
    )
    tests = str(outcome) if slow else f"{outcome}, without the slow ones"
    run = Run(python.name, python.release, kernel, tests)
    print(
        f"\n### {python.implementation} {python.name}, {kernel} kernel: asgiref's own suite",
        flush=True,
    )
    try:
        run.upstream = run_suite(python, speedups)
        run.ok = outcome.ok
    except UpstreamFailure as failure:
        run.upstream = f"FAILED: {failure}"
    print(run.upstream, flush=True)
    run.seconds = time.monotonic() - started
    return run


def run_leg(
    name: str, environment: Path, interpreter: Interpreter, *, slow: bool, kernels: tuple[str, ...]
) -> list[Run]:
    try:
        python = prepare(environment, interpreter)
    except EnvironmentFailure as failure:
        print(f"\n### {name}\n{failure}", flush=True)
        return [Run(name, "", "", "no environment: see above")]
    return [run_kernel(python, speedups, slow=slow) for speedups in kernels]


def run_elsewhere(name: str, *, slow: bool, kernels: tuple[str, ...]) -> list[Run]:
    """`run_leg` in a process of its own, which says all that it has to say at its end."""
    with tempfile.TemporaryDirectory() as directory:
        results = Path(directory, "results.jsonl")
        command = [sys.executable, __file__, "--only", name, "--results", str(results)]
        done = subprocess.run(
            [*command, "--slow", "all" if slow else "none", "--kernels", *kernels],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        runs = read_results(results)
    with _printing:
        print(f"\n### {name}: {done.args}", flush=True)
        sys.stdout.buffer.write(done.stdout)
        sys.stdout.buffer.flush()
    return runs or [Run(name, "", "", f"no result (exit status {done.returncode}): see above")]


def run_all(
    legs: dict[str, tuple[Path, Interpreter]], slow: list[str], kernels: dict[str, tuple[str, ...]]
) -> Iterator[list[Run]]:
    """The runs of each of the interpreters, as these come to their ends."""
    if len(legs) == 1:
        for name, leg in legs.items():
            yield run_leg(name, *leg, slow=name in slow, kernels=kernels[name])
        return
    with ThreadPoolExecutor(AT_ONCE) as pool:
        longest_first = sorted(legs, key=lambda name: (name not in slow, not name.endswith("t")))
        futures = [
            pool.submit(run_elsewhere, name, slow=name in slow, kernels=kernels[name])
            for name in longest_first
        ]
        for future in as_completed(futures):
            yield future.result()


def kernels_for(legs: Iterable[str], chosen: Sequence[str], *, brief: bool) -> dict[str, Any]:
    """Which kernels to test on each Python."""
    with_gil = [name for name in SUPPORTED if name in legs and not name.endswith("t")]
    middle = with_gil[1:-1] if brief else []
    return {name: KERNELS[-1:] if name in middle else tuple(chosen) for name in legs}


def read_results(path: Path | None) -> list[Run]:
    if path is None or not path.exists():
        return []
    return [Run(**json.loads(line)) for line in path.read_text().splitlines()]


def report(runs: list[Run], missing: list[str]) -> bool:
    """Print the table and the closing line; whether every run passed."""
    runs = sorted(runs, key=lambda run: (len(run.python.rstrip("t")), run.python))
    failed = [f"{run.python} {run.kernel}" for run in runs if not run.ok]
    passed = dict.fromkeys(run.python for run in runs if run.ok)
    without = dict.fromkeys(run.python for run in runs if run.upstream.startswith("NOT RUN"))
    print("\nPython, its release, kernel, time, results:")
    for run in runs:
        print(f"  {run}")
    for name in missing:
        print(f"  NOT TESTED: {name}: no such interpreter found")
    if not HAS_COMPILED_KERNEL:
        print("  (this version has no compiled kernel)")
    closing = [
        f"{len(runs) - len(failed)} of {len(runs)} runs passed ({', '.join(passed) or 'none'})"
    ]
    if failed:
        closing.append(f"FAILED: {', '.join(failed)}")
    if without:
        closing.append(f"asgiref's suite NOT RUN on {', '.join(without)}")
    if missing:
        closing.append(f"NOT TESTED: {', '.join(missing)}")
    print(f"asgibridge's tests and asgiref's suite: {'; '.join(closing)}", flush=True)
    return bool(runs) and not failed


def introduction(kernels: dict[str, tuple[str, ...]], slow: str) -> str:
    """What is going to be done, and how long that takes; on a machine with two cores."""
    runs = sum(map(len, kernels.values()))
    minutes = (8 if slow == "all" else 5) * runs // (1 if len(kernels) == 1 else AT_ONCE)
    what = ", ".join(f"{name} ({' and '.join(kernels[name])})" for name in kernels)
    return (
        "The tests, then asgiref's own suite, with these values of ASGIBRIDGE_SPEEDUPS, on Python "
        f"{what or '(none found)'}: about {minutes} minutes, and the first time one or two more "
        "for each environment."
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--all",
        action="store_true",
        help=f"every CPython found of {', '.join(SUPPORTED)}: on PATH, in pyenv, or in the "
        "directories that ASGIBRIDGE_PYTHONS lists",
    )
    parser.add_argument("--only", metavar="NAME", choices=SUPPORTED, help="of these, this one")
    parser.add_argument(
        "--brief",
        action="store_true",
        help="with --all: the compiled kernel alone on all but the oldest, the newest and the "
        "free-threaded Python",
    )
    parser.add_argument(
        "--kernels", nargs="+", choices=KERNELS, default=KERNELS, help="which kernels to test"
    )
    parser.add_argument(
        "--slow",
        choices=("all", "newest", "none"),
        default="all",
        help="where to run the tests marked slow; newest: on the newest CPython with a GIL",
    )
    parser.add_argument(
        "--results",
        type=Path,
        metavar="FILE",
        help="add the results to FILE, leave out the Pythons already in it, report on all of them",
    )
    options = parser.parse_args()

    earlier = read_results(options.results)
    missing: list[str] = []
    legs: dict[str, tuple[Path, Interpreter]] = {}
    if options.all or options.only:
        for name in (options.only,) if options.only else SUPPORTED:
            interpreter = find(name)
            if interpreter:
                legs[name] = (VENVS / f"py{name}", interpreter)
            elif name not in {run.python for run in earlier}:
                missing.append(name)
        for run in earlier:
            legs.pop(run.python, None)
    else:
        this = probe(sys.executable)
        assert this is not None
        legs[this.name] = (VENVS / "test", this)

    kernels = kernels_for(legs, options.kernels, brief=options.brief)
    print(introduction(kernels, options.slow), flush=True)
    newest = [name for name in legs if not name.endswith("t")][-1:]
    slow = {"all": list(legs), "newest": newest, "none": []}[options.slow]
    runs = list(earlier)
    for new in run_all(legs, slow, kernels):
        runs += new
        if options.results:
            options.results.parent.mkdir(parents=True, exist_ok=True)
            options.results.write_text("".join(json.dumps(asdict(run)) + "\n" for run in runs))
    return 0 if report(runs, missing) else 1


if __name__ == "__main__":
    sys.exit(main())
