"""Times the implementations against each other: separate processes, in turn, A B C D A B C D ….

    python bench/paired.py [--quick] [--only pinned,latency] [--json FILE] [--no-docs]
    python bench/paired.py --compare OLD.json NEW.json
    python bench/paired.py --before COMMIT [--quick] [--rounds N] [--only PASS,…] [--json FILE]

Every process (`process.py`) measures the cases of one pass for one implementation, pinned to one
core or not. Prints the tables, and writes every sample to docs/benchmarks/ (or to FILE) and from
there docs/benchmarks.md with its plots. Exits with 2 if an implementation cannot be measured.

With ``--before`` it builds that commit once and takes each kernel's two versions in turn: the
working tree's as it is installed, the commit's, and the commit's again, all under this script's
cases; a commit that knows ASGIBRIDGE_PLACEMENT runs with ``scheduler``. The table has what a row
takes now as a multiple of what it took before, and how far the commit was apart from itself.
Nothing is written to docs/. The exit status is 1 if a row is slower by more than 3 % beyond that
spread: measure its pass again, ``--only`` that with more ``--rounds``, since of two hundred rows a
few may be so by chance.
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
from before import LEAST_ROUNDS, QUICK_ROUNDS, BuildFailure, Contest, before, rows
from implementations import available, available_peers, environment
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
    each: Pass, implementation: str, samples: int, core: int | None, more: dict[str, str]
) -> dict[str, dict[str, list[float]]]:
    """One process's samples, by case and measure; ``more`` is added to its environment."""
    has = [case for case in each.cases if case.has(implementation)]
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
        env={**environment(implementation), **more},
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


def turns(contest: Contest | None, number: int) -> list[tuple[str, str, dict[str, str]]]:
    """The processes of the round of that number: what their samples are filed under, which
    implementation they are to measure, and what is added to their environment.
    """
    if contest is None:
        return [(name, name, {}) for name in (*available(), *available_peers())]
    return [
        (side.label(name), name, side.environment)
        for name in available()
        if name in contest.implementations
        for side in contest.turns(number)
    ]


def measure(
    passes: list[Pass],
    results: Results,
    contest: Contest | None,
    *,
    quick: bool,
    rounds_of_each: int | None,
) -> None:
    """Run all passes and put what they measured into ``results``."""
    core = core_to_use()
    least, quick_rounds = (1, 1) if contest is None else (LEAST_ROUNDS, QUICK_ROUNDS)
    rounds = {
        each.name: rounds_of_each or (quick_rounds if quick else max(each.rounds, least))
        for each in passes
    }
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("", total=sum(rounds.values()) * len(turns(contest, 0)))
        for each in passes:
            progress.update(bar, description=each.name)
            samples = each.quick_samples if quick else each.samples
            pinned = each.pinned and core is not None
            measured = Measured(pinned, each.loop, rounds[each.name], samples)
            for number in range(rounds[each.name]):
                for label, name, more in turns(contest, number):
                    for case, by_measure in run_process(each, name, samples, core, more).items():
                        for measure_name, values in by_measure.items():
                            measured.add(case, label, measure_name, values)
                    progress.advance(bar)
            results.passes[each.name] = measured


def chosen(only: str | None, parser: argparse.ArgumentParser, *, before: bool) -> list[Pass]:
    names = [each.name for each in PASSES]
    wanted = only.split(",") if only else names
    for name in wanted:
        if name not in names:
            parser.error(f"--only: {name!r} is none of {', '.join(names)}")
    passes = [each for each in PASSES if each.name in wanted]
    if before and not only:
        # Others' libraries have no earlier commit, and what ours do there, other passes have.
        passes = [each for each in passes if each.name != "peers"]
    if importlib.util.find_spec("uvloop") is None and any(p.loop == "uvloop" for p in passes):
        print("uvloop is not installed: its rows are left out", file=sys.stderr)
        passes = [each for each in passes if each.loop != "uvloop"]
    return passes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="rough, in a minute: one round, or three"
    )
    parser.add_argument(
        "--only",
        metavar="PASS,…",
        help=f"of {', '.join(each.name for each in PASSES)}; the others' results are kept",
    )
    parser.add_argument("--rounds", type=int, help="processes of each (default: the pass's own)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument("--no-docs", action="store_true", help="leave docs/ as it is")
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("OLD", "NEW"))
    parser.add_argument(
        "--before", metavar="COMMIT", help="our kernels now and at that commit, in turn"
    )
    options = parser.parse_args()
    if options.compare:
        sys.exit(compare.main(*options.compare))

    results = Results(conditions())
    contest: Contest | None = None
    if options.before:
        try:
            contest = before(options.before)
        except BuildFailure as failure:
            print(failure, file=sys.stderr)
            sys.exit(2)
        results.conditions["sides"] = contest.about
    # A quick run is too rough to be published.
    publish = not options.quick and not options.no_docs and contest is None
    target = options.json or (DOCS / "benchmarks" / f"{results.name}.json" if publish else None)
    if options.only and target is not None and target.exists():
        earlier = Results.load(target)
        if earlier.conditions != results.conditions:
            parser.error(f"--only: {target} was measured under other conditions; run it whole")
        results.passes = earlier.passes
    measure(
        chosen(options.only, parser, before=contest is not None),
        results,
        contest,
        quick=options.quick,
        rounds_of_each=options.rounds,
    )
    if target is not None:
        results.save(target)
    if contest is not None:
        sys.exit(compare.sides(contest, rows(results, contest, contest.implementations)))
    report.show(results)
    if publish and options.json is None:
        report.write(DOCS)


if __name__ == "__main__":
    main()
