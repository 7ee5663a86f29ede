"""Runs the compiled kernel under what finds a bad memory access, and counts what was found.

    python tests/tools/memcheck.py [--only valgrind,sanitizers,debug] [--whole | --tests NAME,...]
                                   [--debug-python PATH]

``valgrind``
    every workload of `workloads.py`, then the tests with hostile objects, with every allocation
    made by malloc. The pure kernel runs the same first: what it has, too, is Python's own.
``sanitizers``
    the kernel built with gcc's address and undefined-behaviour sanitizers; the tests below, or all
    that are not slow (``--whole``), and the storm (`storm.py`).
``debug``
    on a debug build of CPython, which asserts that every object it touches is one, counts all
    references and fences every allocation; the tests below and those for leaks.

Each in an environment of its own under .venv. What is not here (valgrind, libasan, a debug build:
Debian's python3-dbg, or ``./configure --with-pydebug``) is named and counts as nothing.
Exits with 1 if anything was found that is ours.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest_run
from environment import (
    ROOT,
    VENVS,
    EnvironmentFailure,
    Interpreter,
    child_environment,
    create,
    install,
    paths_of,
    probe,
    python_in,
)

TOOLS = ("valgrind", "sanitizers", "debug")
OURS = "_speedups"

TESTS = (
    "test_batches",
    "test_broadcast",
    "test_channel",
    "test_context_and_references",
    "test_errors_and_cancellation",
    "test_hops",
    "test_hostile",
    "test_kernels",
    "test_local",
    "test_parity",
    "test_queue",
    "test_release",
    "test_ring_queues",
    "test_select",
    "test_shared_loop",
    "test_sticky",
    "test_threads_and_loops",
)

# Under valgrind a thread waits for its turn; these take minutes, and measure nothing but that.
HOSTILE = "TestValues or TestNames or TestCallbacks or TestErrors"

LIMIT = 900
"""Seconds for one run."""

BAD = ("Invalid", "Mismatched", "Overlap", "Uninit", "SyscallParam", "Leak_DefinitelyLost")


@dataclass
class Found:
    """What a tool says."""

    tool: str
    python: str
    ran: str
    found: str
    ok: bool

    def __str__(self) -> str:
        return f"{'passed' if self.ok else 'FAILED'}  {self.tool:<11}{self.python:<7} {self.found}"


def prepare(tool: str, interpreter: Interpreter, flags: str) -> str:
    """An environment whose kernel was compiled with ``flags``; its Python."""
    environment = VENVS / f"memcheck-{tool}"
    os.environ["CFLAGS"] = flags
    create(environment, interpreter)
    install(environment, "test")
    return python_in(environment)


# valgrind


def valgrind_errors(report: Path) -> Iterator[tuple[str, bool, tuple[str, ...]]]:
    """Kind, whether a frame is ours, and the innermost functions, of each error of a report."""
    for _, element in ElementTree.iterparse(report):
        if element.tag != "error":
            continue
        kind = element.findtext("kind") or ""
        stack = element.find("stack")
        frames = [] if stack is None else stack.findall("frame")
        ours = any(OURS in (frame.findtext("obj") or "") for frame in frames)
        yield kind, ours, tuple(frame.findtext("fn") or "?" for frame in frames[:6])
        element.clear()


def under_valgrind(python: str, speedups: str, report: Path, *command: str) -> int:
    """The exit status of ``python command...``; the errors go to ``report``."""
    done = subprocess.run(
        [
            "valgrind",
            "--fair-sched=yes",
            "--num-callers=40",
            "--leak-check=full",
            "--show-leak-kinds=definite",
            "--xml=yes",
            f"--xml-file={report}",
            python,
            *command,
        ],
        cwd=ROOT,
        env=child_environment(
            ASGIBRIDGE_SPEEDUPS=speedups, PYTHONMALLOC="malloc", PYTHONHASHSEED="0"
        ),
        timeout=LIMIT,
        check=False,
    )
    return done.returncode


def valgrind(interpreter: Interpreter) -> list[Found]:
    python = prepare("valgrind", interpreter, "-g -O1")
    pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "0"]
    runs = {
        "every workload": ["tests/tools/workloads.py", "all", "100"],
        "hostile objects": [*pytest, *paths_of("test_hostile"), "-k", HOSTILE],
    }
    results = []
    for what, command in runs.items():
        errors: dict[str, list[tuple[str, bool, tuple[str, ...]]]] = {}
        statuses = []
        for speedups in ("off", "require"):
            report = VENVS / f"memcheck-{speedups}.xml"
            print(f"\n### valgrind, {what}, ASGIBRIDGE_SPEEDUPS={speedups}", flush=True)
            statuses.append(under_valgrind(python, speedups, report, *command))
            errors[speedups] = [e for e in valgrind_errors(report) if e[0].startswith(BAD)]
        # An object of ours that died too early shows where it is used next, maybe deep in Python.
        known = {(kind, stack) for kind, _, stack in errors["off"]}
        # But for Uninit: CPython looks at the first digit of an int that is 0, which it never wrote
        # (_PyLong_New, by --track-origins), and that goes wherever such an int goes.
        ours = [
            (kind, has_frame, stack)
            for kind, has_frame, stack in errors["require"]
            if has_frame or not (kind.startswith("Uninit") or (kind, stack) in known)
        ]
        counts = ", ".join(
            f"{number} {kind}" for kind, number in Counter(e[0] for e in errors["require"]).items()
        )
        for kind, has_frame, stack in ours:
            print(f"{kind}, {'a frame of ours' if has_frame else 'no frame of ours'}: {stack}")
        results.append(
            Found(
                "valgrind",
                interpreter.release,
                what,
                f"{what}: {len(ours)} that the pure kernel does not have, "
                f"{sum(e[1] for e in errors['require'])} with a frame of ours; "
                f"Python's own: {counts or 'none'}; exit statuses {statuses}",
                not ours and not any(statuses),
            )
        )
    return results


# gcc's sanitizers


def library(name: str) -> str | None:
    """Where gcc has one of its libraries."""
    if not shutil.which("gcc"):
        return None
    done = subprocess.run(
        ["gcc", f"-print-file-name={name}"], stdout=subprocess.PIPE, text=True, check=False
    )
    path = done.stdout.strip()
    return path if os.path.isabs(path) else None


STORM_SECONDS = 30


def sanitizers(interpreter: Interpreter, preload: str, paths: list[str]) -> list[Found]:
    flags = "-g -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fsanitize-recover=all"
    logs = VENVS / "memcheck-logs"
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    os.environ["LD_PRELOAD"] = preload  # installing imports the kernel
    os.environ["ASAN_OPTIONS"] = f"detect_leaks=0:halt_on_error=0:log_path={logs}/address"
    os.environ["UBSAN_OPTIONS"] = f"print_stacktrace=1:log_path={logs}/undefined"
    try:
        python = prepare("sanitizers", interpreter, flags)
        print("\n### sanitizers: tests", flush=True)
        outcome = pytest_run.run(
            [
                *(python, "-u", "-m", "pytest", "-q", "-m", "not slow"),
                *paths,
            ],
            cwd=ROOT,
            env=child_environment(ASGIBRIDGE_SPEEDUPS="require", PYTHONMALLOC="malloc"),
            limit=LIMIT,
        )
        storm = subprocess.run(
            [python, "tests/tools/storm.py", "--seconds", str(STORM_SECONDS), "--seed", "1"],
            cwd=ROOT,
            env=child_environment(ASGIBRIDGE_SPEEDUPS="require", PYTHONMALLOC="malloc"),
            timeout=LIMIT,
            check=False,
        )
    finally:
        for name in ("LD_PRELOAD", "ASAN_OPTIONS", "UBSAN_OPTIONS"):
            del os.environ[name]
    reports = [
        line
        for log in logs.iterdir()
        for line in log.read_text(errors="replace").splitlines()
        if "ERROR: AddressSanitizer" in line or "runtime error:" in line
    ]
    for line in sorted(set(reports)):
        print(line)
    ok = not reports and outcome.ok and storm.returncode == 0
    told = (
        f"{len(reports)} reports; tests: {outcome}; storm of {STORM_SECONDS} s: "
        f"{'FAILED' if storm.returncode else 'passed'}"
    )
    return [Found("sanitizers", interpreter.release, "tests", told, ok)]


# A debug build of CPython


def debug_python(path: str | None) -> Interpreter | None:
    """The debug build named, or one on PATH."""
    versions = [f"python3.{number}" for number in range(14, 8, -1)]
    on_path = [version + end for version in versions for end in ("-dbg", "d")]
    for name in [path] if path else [*on_path, "python3-dbg"]:
        where = name if os.path.isabs(name) else shutil.which(name)
        if not where:
            continue
        code = "import sys; sys.exit(not hasattr(sys, 'gettotalrefcount'))"
        if subprocess.run([where, "-c", code], check=False).returncode == 0:
            return probe(where)
    return None


def debug(interpreter: Interpreter) -> list[Found]:
    python = prepare("debug", interpreter, "-g -O1 -UNDEBUG")
    results = []
    for speedups in ("off", "require"):
        print(f"\n### debug build, ASGIBRIDGE_SPEEDUPS={speedups}: tests", flush=True)
        outcome = pytest_run.run(
            [python, "-u", "-m", "pytest", "-q", "-m", "not slow", *paths_of(*TESTS, "test_leaks")],
            cwd=ROOT,
            env=child_environment(ASGIBRIDGE_SPEEDUPS=speedups),
            limit=LIMIT,
        )
        what = f"ASGIBRIDGE_SPEEDUPS={speedups}: {outcome}"
        results.append(Found("debug", interpreter.release, "tests", what, outcome.ok))
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(TOOLS), help="default: %(default)s")
    parser.add_argument("--whole", action="store_true", help="sanitizers: every fast test")
    parser.add_argument("--tests", metavar="NAME,...", help="sanitizers: such as test_queue")
    parser.add_argument("--debug-python", metavar="PATH", help="default: python3.X-dbg on PATH")
    options = parser.parse_args()
    wanted = options.only.split(",")
    for name in wanted:
        if name not in TOOLS:
            parser.error(f"--only: {name!r} is none of {', '.join(TOOLS)}")

    this = probe(sys.executable)
    assert this is not None
    results: list[Found] = []
    missing: list[str] = []
    try:
        if "valgrind" in wanted:
            if shutil.which("valgrind"):
                results += valgrind(this)
            else:
                missing.append("valgrind: not installed")
        if "sanitizers" in wanted:
            preload = library("libasan.so")
            if preload:
                names = options.tests.split(",") if options.tests else list(TESTS)
                everything = options.whole and not options.tests
                paths = ["tests"] if everything else paths_of(*names)
                results += sanitizers(this, preload, paths)
            else:
                missing.append("sanitizers: gcc has no libasan")
        if "debug" in wanted:
            interpreter = debug_python(options.debug_python)
            if interpreter:
                results += debug(interpreter)
            else:
                missing.append("debug: no debug build of CPython found")
    except EnvironmentFailure as failure:
        print(failure, file=sys.stderr)
        return 1
    print("\nMemory checks of the compiled kernel:")
    for result in results:
        print(f"  {result}")
    for name in missing:
        print(f"  NOT RUN: {name}")
    failed = [result.tool for result in results if not result.ok]
    ok = bool(results) and not failed
    print(
        f"memcheck ({options.only}): {'PASSED' if ok else 'FAILED'}: {len(results)} runs, "
        f"{len(failed)} failed, {len(missing)} not run"
    )
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
