"""The macro-benchmark: a Django site under uvicorn and load, on asgiref and on asgibridge in turn.

    python bench/macro.py [--quick] [--loops asyncio] [--rounds 3] [--add] [--json FILE] [--no-docs]

A round starts a server for each of asgiref, the pure kernel, the compiled one, that with kept
workers, and the ceiling (asgiref with every hop made a plain call: see site/benchsite/inlined.py),
warms it up and puts its views under load, one server at a time; the order turns round from one
round to the next. What a server uses is read from /proc. A server says itself
what it runs, and one that runs anything else is refused. Threads and hops are counted in processes
of their own, which are not timed.

Prints the tables, and writes every figure to docs/benchmarks/site/ (or to FILE) and from there its
part of docs/benchmarks.md; `bench/paired.py --compare` compares two such files. Takes a quarter of
an hour. Exits with 2 if something cannot be measured.
"""

from __future__ import annotations

import argparse
import importlib.util
import signal
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import report
import site_load as load
from implementations import available
from results import Measured, Results, conditions
from site_report import FOLDER, PREFIX, VIEWS
from site_report import sections as tables
from site_server import CONTESTANTS, LOOPS, Contestant, Server, ServerFailure, prepare

DOCS = Path(__file__).resolve().parents[1] / "docs"
PACKAGES = ("django", "uvicorn", "httptools")
COUNTED = 200
"""Requests over which threads and hops are counted."""


class Plan:
    """How long, how often, with how many connections, and on which cores."""

    def __init__(self, options: argparse.Namespace) -> None:
        quick: bool = options.quick
        self.rounds: int = options.rounds or (1 if quick else 5)
        self.seconds: float = options.seconds or (1 if quick else 3)
        self.warm_up: float = 1
        self.connections: int = options.connections
        self.server_core: int | None = 0 if options.pin else None
        self.load_core: int | None = 1 if options.pin else None

    def __str__(self) -> str:
        where = "a core each for server and load" if self.server_core is not None else "all cores"
        return f"{load.generator()}, {self.connections} connections, {self.seconds:g} s, {where}"


def measure_round(
    contestant: Contestant, loop: str, database: Path, plan: Plan, measured: Measured
) -> None:
    """One server process: each view under load."""
    name = contestant.name
    with Server(contestant, loop, database, core=plan.server_core) as server:
        for view, path in VIEWS.items():
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
        for view, path in VIEWS.items():
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
    contestants = [each for each in CONTESTANTS if each.implementation in available()]
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
        total = len(loops) * len(contestants) * (plan.rounds + 1)
        bar = progress.add_task("", total=total)
        for loop in loops:
            measured = results.passes.setdefault(
                PREFIX + loop, Measured(plan.server_core is not None, loop, 0, 1)
            )
            measured.rounds += plan.rounds
            for number in range(plan.rounds):
                for contestant in contestants if number % 2 == 0 else contestants[::-1]:
                    progress.update(bar, description=f"{loop}: {contestant.name}")
                    measure_round(contestant, loop, database, plan, measured)
                    progress.advance(bar)
            for contestant in contestants:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="one short round: rough, in two minutes"
    )
    parser.add_argument("--loops", metavar="LOOP,…", help="the others' results are kept")
    parser.add_argument("--rounds", type=int, help="processes of each (default: 5)")
    parser.add_argument("--add", action="store_true", help="rounds to those that the file has")
    parser.add_argument("--seconds", type=float, help="of load on each view (default: 3)")
    parser.add_argument("--connections", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--pin", action="store_true", help="server on core 0, load on core 1")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument("--no-docs", action="store_true", help="leave docs/ as it is")
    options = parser.parse_args()
    if trouble := what_is_missing():
        print(f"the site cannot be measured here: {trouble}", file=sys.stderr)
        sys.exit(2)
    if trouble := load.install_wrk():
        print(f"{trouble}\nthe load comes from {load.generator()} instead", file=sys.stderr)
    plan = Plan(options)
    results = Results({**conditions(PACKAGES), "load": str(plan)})
    # A quick run is too rough to be published.
    publish = not options.quick and not options.no_docs
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
    report.show(results, tables(results))
    if publish and options.json is None:
        report.write(DOCS)


if __name__ == "__main__":
    main()
