"""Counts the instructions of a hop and of a queue's item, and compares them with those stored.

    python bench/callgrind.py                    status 1: some case has got dearer; 2: none stored
    python bench/callgrind.py --update           store what is counted, to compare with later
    python bench/callgrind.py --only 'hop;read'  these alone
    python bench/callgrind.py --quick --lenient  a hop and an item; no failure if none are stored,
                                                 or for what the machine's own libraries do

Under valgrind's callgrind, which runs one thread at a time on a processor of its own making: unlike
time, the counts hardly change from run to run, and a few percent more are seen at once. Each case
is run with few operations and with many, and the difference is divided by how many more there were,
so that starting and ending cost nothing. ``all`` counts every instruction, of CPython's too;
``kernel`` only those in the compiled kernel's own code, which another build of CPython does not
change. They are stored in callgrind.json by Python release, machine and compiler, since those of
another build say nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import queues
from cases import ROWS, hops_of_one_context
from implementations import available, environment, load

FEW, MANY = 100, 600
TOLERANCE = {"all": 0.03, "kernel": 0.02}
"""How much more, of what was stored, is still no regression."""

Counts = dict[str, float]


def _queue(body: Callable[..., object], n: int) -> None:
    asyncio.run(body(queues.ours, 0, n))  # type: ignore[arg-type]


QUEUES: dict[str, Callable[[int], object]] = {
    "queue, task to task": partial(_queue, queues.task_to_task),
    "queue, thread to task": partial(_queue, queues.threads_to_task),
    "queue, there and back": partial(_queue, queues.ping_pong),
}
# What `release_idle` costs a context that never idles.
CONTEXTS: dict[str, dict[str, float | None]] = {
    "hop, kept context": {"release_idle": None},
    "hop, release_idle": {"release_idle": 60},
}
HOPS = ("hop", "gathered", "variables", "main", "worker", "context", "read", "write")
NAMES = (*HOPS, *CONTEXTS, *QUEUES)
QUICK = ("hop", "queue, task to task")


def run_case(name: str, operations: int) -> None:
    """In this process, which callgrind watches."""
    library = load("compiled")
    assert library is not None
    run: Callable[[int], object] | None = QUEUES.get(name)
    if name in CONTEXTS:
        run = hops_of_one_context(library, kind="keep", **CONTEXTS[name])
    elif run is None:
        (case,) = (case for case in ROWS if case.key == name)
        run = case.build("compiled", library)
        assert run is not None
    run(operations)


def instructions(report: str) -> Counts:
    """Those of a callgrind.out, altogether and in the compiled kernel's code."""
    names: dict[str, str] = {}
    counts = {"all": 0.0, "kernel": 0.0}
    where = ""
    of_a_call = False
    for line in report.splitlines():
        if line.startswith("ob="):
            # The name comes with its number the first time, and never again.
            number, _, name = line[3:].partition(" ")
            where = names.setdefault(number, name)
        elif line.startswith("cob="):
            number, _, name = line[4:].partition(" ")
            names.setdefault(number, name)
        elif line.startswith("calls="):
            of_a_call = True
        elif re.match(r"[\d+*-]", line):
            if not of_a_call:  # else it is what the callee counts itself
                cost = int(line.split()[-1])
                counts["all"] += cost
                counts["kernel"] += cost * ("_speedups" in where)
            of_a_call = False
    return counts


def count(name: str, operations: int) -> Counts:
    """A whole process's."""
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch, "out")
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={target}"]
        # Turn by turn, or one thread may have all turns for a while.
        command += ["--fair-sched=try", sys.executable, __file__, "--run", name, str(operations)]
        done = subprocess.run(
            command,
            env={**environment("compiled"), "PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if done.returncode != 0:
            print(done.stderr, file=sys.stderr)
            print(f"{name} could not be counted", file=sys.stderr)
            sys.exit(2)
        return instructions(target.read_text(encoding="utf-8", errors="replace"))


def per_operation(name: str) -> Counts:
    few, many = count(name, FEW), count(name, MANY)
    return {each: round((many[each] - few[each]) / (MANY - FEW), 1) for each in few}


def build() -> str:
    """What the counts belong to."""
    release = platform.python_version() + "t" * ("t" in getattr(sys, "abiflags", ""))
    return f"{release}, {platform.machine()}, {platform.python_compiler()}"


def verdict(counted: Counts, expected: Counts | None, judged: tuple[str, ...]) -> str:
    """Whether a case has got dearer, or so much cheaper that what is stored should be changed."""
    if expected is None:
        return "new"
    changes = {each: counted[each] / expected[each] - 1 for each in judged if expected[each]}
    if any(change > TOLERANCE[each] for each, change in changes.items()):
        return "DEARER"
    if any(change < -TOLERANCE[each] for each, change in changes.items()):
        return "cheaper: --update"
    return "as stored"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="CASE;…", help="; ".join(NAMES))
    parser.add_argument(
        "--stored",
        type=Path,
        metavar="FILE",
        default=Path(__file__).with_suffix(".json"),
        help="other counts than callgrind.json's: of the change before this one, for instance",
    )
    parser.add_argument("--quick", action="store_true", help=f"only {' and '.join(QUICK)}")
    parser.add_argument(
        "--lenient",
        action="store_true",
        help="judge only what is counted in the kernel; status 0 where nothing can be counted or "
        "is stored: for who runs it anywhere",
    )
    parser.add_argument("--update", action="store_true", help="store what is counted")
    parser.add_argument("--run", nargs=2, metavar=("CASE", "N"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run_case(options.run[0], int(options.run[1]))
        return
    wanted = options.only.split(";") if options.only else list(QUICK if options.quick else NAMES)
    for name in wanted:
        if name not in NAMES:
            parser.error(f"--only: {name!r} is none of {'; '.join(NAMES)}")
    if shutil.which("valgrind") is None or "compiled" not in available():
        print("NOT COUNTED: it needs valgrind and the compiled kernel", file=sys.stderr)
        sys.exit(0 if options.lenient else 2)
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    file: Path = options.stored
    stored: dict[str, dict[str, Counts]] = (
        json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    )
    expected = stored.get(build(), {})
    if not expected and not options.update:
        print(f"nothing stored for CPython {build()}: --update stores it", file=sys.stderr)
        if options.lenient:
            return
    counted = {
        name: per_operation(name)
        for name in track(wanted, "counting", console=Console(stderr=True))
    }
    title = f"Instructions per operation, CPython {build()}"
    table = Table("case", "all", "stored", "kernel", "stored", "", title=title)
    judged = ("kernel",) if options.lenient else tuple(TOLERANCE)
    verdicts = []
    for name, counts in counted.items():
        before = expected.get(name)
        verdicts.append(verdict(counts, before, judged))
        cells = [
            f"{value[each]:,.0f}" if value else ""
            for each in ("all", "kernel")
            for value in (counts, before)
        ]
        table.add_row(name, *cells, verdicts[-1])
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    if options.update:
        stored[build()] = {**expected, **counted}
        file.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        return
    if "DEARER" in verdicts:
        sys.exit(1)
    if not expected:
        sys.exit(2)


if __name__ == "__main__":
    main()
