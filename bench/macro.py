"""The macro-benchmark: a Django site under uvicorn and load, on asgiref and on asgibridge in turn.

    python bench/macro.py [--quick] [--loops asyncio] [--rounds 3] [--add] [--json FILE] [--no-docs]
    python bench/macro.py --before COMMIT [--processes 2] [--views five,template]

A round starts a server for each of asgiref, the pure kernel, the compiled one, that with kept
workers, and the ceiling (asgiref with every hop made a plain call: see site/benchsite/inlined.py),
warms it up and puts its views under load, one server at a time; the order turns round from one
round to the next. What a server uses is read from /proc. A server says itself
what it runs, and one that runs anything else is refused. Threads and hops are counted in processes
of their own, which are not timed.

Prints the tables, and writes every figure to docs/benchmarks/site/ (or to FILE) and from there its
part of docs/benchmarks.md; `bench/paired.py --compare` compares two such files. Takes half an hour.
Exits with 2 if something cannot be measured.

``--before COMMIT`` takes each of ours now and at that commit in turn, as paired.py does, with
ASGIBRIDGE_PLACEMENT=scheduler on both sides; the exit status is 1 if requests per second, CPU time
or memory are worse by more than 3 % beyond the spread of the commit against itself. It does
not write to docs/, and nor do ``--processes``, which has uvicorn start so many (its ``--workers``),
and ``--views``.
"""

from __future__ import annotations

import argparse
import importlib.util
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import compare
import report
import site_load as load
from before import LEAST_ROUNDS, QUICK_ROUNDS, BuildFailure, Contest, before, rows
from implementations import OURS, available
from results import Measured, Results, conditions
from site_report import FOLDER, PREFIX, VIEWS
from site_report import sections as tables
from site_server import CONTESTANTS, LOOPS, Contestant, Server, ServerFailure, prepare

DOCS = Path(__file__).resolve().parents[1] / "docs"
PACKAGES = ("django", "uvicorn", "httptools")
COUNTED = 200
"""Requests over which threads and hops are counted."""


class Plan:
    """Which views, how long, how often, with how many connections and processes, on which cores."""

    def __init__(self, options: argparse.Namespace, contest: Contest | None) -> None:
        quick: bool = options.quick
        few, many = (1, 5) if contest is None else (QUICK_ROUNDS, LEAST_ROUNDS)
        self.contest = contest
        self.views = {name: VIEWS[name] for name in options.views.split(",")}
        self.processes: int = options.processes
        self.rounds: int = options.rounds or (few if quick else many)
        self.seconds: float = options.seconds or (1 if quick else 3)
        self.warm_up: float = 1
        self.connections: int = options.connections
        self.server_core: int | None = 0 if options.pin else None
        self.load_core: int | None = 1 if options.pin else None

    def __str__(self) -> str:
        where = "a core each for server and load" if self.server_core is not None else "all cores"
        parts = [load.generator(), f"{self.connections} connections", f"{self.seconds:g} s", where]
        if self.processes > 1:
            parts.append(f"{self.processes} server processes")
        return ", ".join(parts)

    def turns(self, number: int) -> list[Contestant]:
        """Who is measured in the round of that number, in this order."""
        found = [each for each in CONTESTANTS if each.implementation in available()]
        if self.contest is None:
            return found if number % 2 == 0 else found[::-1]
        return [
            replace(
                each,
                name=side.label(each.name),
                environment={**each.environment, **side.environment},
                answers={**each.answers, **side.answers},
            )
            for each in found
            if each.implementation in self.contest.implementations
            for side in self.contest.turns(number)
        ]


def measure_round(
    contestant: Contestant, loop: str, database: Path, plan: Plan, measured: Measured
) -> None:
    """One server: each view under load."""
    name = contestant.name
    with Server(
        contestant, loop, database, core=plan.server_core, processes=plan.processes
    ) as server:
        for view, path in plan.views.items():
            url = server.base_url + path
            load.for_seconds(url, plan.connections, plan.warm_up, plan.load_core)
            before = server.usage()
            with server.most_threads() as threads:
                done = load.for_seconds(url, plan.connections, plan.seconds, plan.load_core)
            after = server.usage()
            figures = {
                "rps": done["requests"] / done["seconds"],
                **{each: done[each] for each in ("p50", "p99", "p99.9")},
                "cpu": (after.cpu - before.cpu) / done["requests"],
                "threads": max(threads, default=after.threads),
                "rss": after.resident,
                "peak": after.peak,
            }
            for measure, value in figures.items():
                measured.add(view, name, measure, [value])


def count(
    contestant: Contestant, loop: str, database: Path, plan: Plan, measured: Measured
) -> None:
    """Another one, which counts the threads that it starts for so many requests, and the hops."""
    with Server(contestant, loop, database, counting=True) as server:
        for view, path in plan.views.items():
            url = server.base_url + path
            load.so_many(url, plan.connections, 5 * plan.connections)
            before = server.stats()
            load.so_many(url, plan.connections, COUNTED)
            after = server.stats()
            started = after["threads_started"] - before["threads_started"]
            measured.add(view, contestant.name, "started", [started / COUNTED])
            if after["hops"] is not None:
                hops = (after["hops"] - before["hops"]) / COUNTED
                measured.add(view, contestant.name, "hops", [hops])


def measure(loops: list[str], plan: Plan, results: Results) -> None:
    """All servers under all loops, into ``results``."""
    # A contest compares what takes time or memory; nobody is slower for the hops that it counts.
    counted = plan.turns(0) if plan.contest is None else []
    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with (
        tempfile.TemporaryDirectory() as scratch,
        Progress(*columns, console=Console(stderr=True)) as progress,
    ):
        database = prepare(Path(scratch))
        total = len(loops) * (len(plan.turns(0)) * plan.rounds + len(counted))
        bar = progress.add_task("", total=total)
        for loop in loops:
            measured = results.passes.setdefault(
                PREFIX + loop, Measured(plan.server_core is not None, loop, 0, 1)
            )
            measured.rounds += plan.rounds
            for number in range(plan.rounds):
                for contestant in plan.turns(number):
                    progress.update(bar, description=f"{loop}: {contestant.name}")
                    measure_round(contestant, loop, database, plan, measured)
                    progress.advance(bar)
            for contestant in counted:
                progress.update(bar, description=f"{loop}: {contestant.name}, counting")
                count(contestant, loop, database, plan, measured)
                progress.advance(bar)


def what_is_missing() -> str:
    """Why this cannot run here, and what to do; "" if it can."""
    if not Path("/proc/self/stat").exists():
        return "it reads what the servers use from /proc, as Linux has it"
    if sys.version_info < (3, 11):
        return f"asgiref 3.13.0 needs Python 3.11 or newer; this is {sys.version.split()[0]}"
    missing = [name for name in (*PACKAGES, "aiohttp") if importlib.util.find_spec(name) is None]
    if missing:
        return (
            f"{', '.join(missing)} not installed: `make bench-site`, or pip install .[bench-site]"
        )
    return ""


def chosen_loops(only: str | None, parser: argparse.ArgumentParser) -> list[str]:
    wanted = only.split(",") if only else list(LOOPS)
    for name in wanted:
        if name not in LOOPS:
            parser.error(f"--loops: {name!r} is none of {', '.join(LOOPS)}")
    if "uvloop" in wanted and importlib.util.find_spec("uvloop") is None:
        print("uvloop is not installed: its rows are left out", file=sys.stderr)
        wanted.remove("uvloop")
    return wanted


def chosen_contest(options: argparse.Namespace) -> Contest | None:
    if options.before:
        try:
            return before(options.before)
        except BuildFailure as failure:
            print(failure, file=sys.stderr)
            sys.exit(2)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="short rounds, one or three: rough, in minutes"
    )
    parser.add_argument("--loops", metavar="LOOP,…", help="the others' results are kept")
    parser.add_argument("--rounds", type=int, help="servers of each (default: 5; of a contest 7)")
    parser.add_argument("--add", action="store_true", help="rounds to those that the file has")
    parser.add_argument("--seconds", type=float, help="of load on each view (default: 3)")
    parser.add_argument("--connections", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--views", default=",".join(VIEWS), help="default: %(default)s")
    parser.add_argument("--processes", type=int, default=1, help="of a server (default: 1)")
    parser.add_argument("--pin", action="store_true", help="server on core 0, load on core 1")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument("--no-docs", action="store_true", help="leave docs/ as it is")
    parser.add_argument("--before", metavar="COMMIT", help="ours now and at that commit")
    options = parser.parse_args()
    for name in options.views.split(","):
        if name not in VIEWS:
            parser.error(f"--views: {name!r} is none of {', '.join(VIEWS)}")
    if trouble := what_is_missing():
        print(f"the site cannot be measured here: {trouble}", file=sys.stderr)
        sys.exit(2)
    if trouble := load.install_wrk():
        print(f"{trouble}\nthe load comes from {load.generator()} instead", file=sys.stderr)
    contest = chosen_contest(options)
    plan = Plan(options, contest)
    results = Results({**conditions(PACKAGES), "load": str(plan)})
    if contest is not None:
        results.conditions["sides"] = contest.about
    # A quick run is too rough to be published, and docs/ has one process and every view.
    whole = contest is None and plan.views == VIEWS and plan.processes == 1
    publish = whole and not options.quick and not options.no_docs
    target = options.json or (DOCS / FOLDER / f"{results.name}.json" if publish else None)
    loops = chosen_loops(options.loops, parser)
    if (options.loops or options.add) and target is not None and target.exists():
        earlier = Results.load(target)
        if earlier.conditions != results.conditions:
            parser.error(f"{target} was measured under other conditions; run it whole")
        results.passes = {
            name: measured
            for name, measured in earlier.passes.items()
            if options.add or name.removeprefix(PREFIX) not in loops
        }
    # A polite kill must stop the server too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        measure(loops, plan, results)
    except (ServerFailure, load.LoadFailure) as failure:
        print(failure, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the server is stopped", file=sys.stderr)
        sys.exit(130)
    if target is not None:
        results.save(target)
    if contest is not None:
        names = [each.name for each in CONTESTANTS if each.implementation in OURS]
        status = compare.sides(contest, rows(results, contest, names, ("rps", "cpu", "peak")))
        sys.exit(status if options.before else 0)
    report.show(results, tables(results))
    if publish and options.json is None:
        report.write(DOCS)


if __name__ == "__main__":
    main()
