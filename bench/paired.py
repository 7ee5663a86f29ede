"""Times the implementations against each other: separate processes, in turn, A B C D A B C D ….

    python bench/paired.py [--quick] [--only pinned,latency] [--json FILE] [--no-docs]
    python bench/paired.py --compare OLD.json NEW.json

Every process (`process.py`) measures the cases of one pass for one implementation, pinned to one
core or not. Prints the tables, and writes every sample to docs/benchmarks/ (or to FILE) and from
there docs/benchmarks.md with its plots. Exits with 2 if an implementation cannot be measured.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import compare
import report
from implementations import available, environment
from passes import PASSES, Pass
from results import Measured, Results, conditions

PROCESS = Path(__file__).with_name("process.py")
DOCS = Path(__file__).resolve().parents[1] / "docs"

LIMIT = 300
"""Seconds for one process."""


def core_to_use() -> int | None:
    """The one to pin to; None where a process cannot be pinned."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    return min(os.sched_getaffinity(0))


def run_process(
    each: Pass, implementation: str, samples: int, core: int | None
) -> dict[str, dict[str, list[float]]]:
    """One process's samples, by case and measure."""
    has = [case for case in each.cases if (case.floor if implementation == "floor" else case.make)]
    if not has:
        return {}
    command = [sys.executable, str(PROCESS), implementation, *(case.key for case in has)]
    command += ["--samples", str(samples)]
    if each.pinned and core is not None:
        command += ["--core", str(core)]
    if each.loop == "uvloop":
        command.append("--uvloop")
    done = subprocess.run(
        command,
        env=environment(implementation),
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    if done.returncode != 0:
        print(done.stderr, file=sys.stderr)
        print(f"{implementation} could not be measured ({each.name})", file=sys.stderr)
        sys.exit(2)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def measure(passes: list[Pass], results: Results, *, quick: bool) -> None:
    """Run all passes and put what they measured into ``results``."""
    names = available()
    core = core_to_use()
    rounds = {each.name: 1 if quick else each.rounds for each in passes}
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("", total=sum(rounds.values()) * len(names))
        for each in passes:
            progress.update(bar, description=each.name)
            samples = each.quick_samples if quick else each.samples
            pinned = each.pinned and core is not None
            measured = Measured(pinned, each.loop, rounds[each.name], samples)
            for _ in range(rounds[each.name]):
                for name in names:
                    for case, by_measure in run_process(each, name, samples, core).items():
                        for measure_name, values in by_measure.items():
                            measured.add(case, name, measure_name, values)
                    progress.advance(bar)
            results.passes[each.name] = measured


def chosen(only: str | None, parser: argparse.ArgumentParser) -> list[Pass]:
    names = [each.name for each in PASSES]
    wanted = only.split(",") if only else names
    for name in wanted:
        if name not in names:
            parser.error(f"--only: {name!r} is none of {', '.join(names)}")
    passes = [each for each in PASSES if each.name in wanted]
    if importlib.util.find_spec("uvloop") is None and any(p.loop == "uvloop" for p in passes):
        print("uvloop is not installed: its rows are left out", file=sys.stderr)
        passes = [each for each in passes if each.loop != "uvloop"]
    return passes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round: rough, in a minute")
    parser.add_argument(
        "--only",
        metavar="PASS,…",
        help=f"of {', '.join(each.name for each in PASSES)}; the others' results are kept",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument("--no-docs", action="store_true", help="leave docs/ as it is")
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("OLD", "NEW"))
    options = parser.parse_args()
    if options.compare:
        sys.exit(compare.main(*options.compare))

    results = Results(conditions())
    # A quick run is too rough to be published.
    publish = not options.quick and not options.no_docs
    target = options.json or (DOCS / "benchmarks" / f"{results.name}.json" if publish else None)
    if options.only and target is not None and target.exists():
        earlier = Results.load(target)
        if earlier.conditions != results.conditions:
            parser.error(f"--only: {target} was measured under other conditions; run it whole")
        results.passes = earlier.passes
    measure(chosen(options.only, parser), results, quick=options.quick)
    if target is not None:
        results.save(target)
    report.show(results)
    if publish and options.json is None:
        report.write(DOCS)


if __name__ == "__main__":
    main()
