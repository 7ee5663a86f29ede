"""The macro-benchmark: a Django site under load, on asgiref, on asgibridge and on WSGI in turn.

    python bench/macro.py [--quick] [--loops asyncio] [--rounds 3] [--add] [--json FILE] [--no-docs]
    python bench/macro.py --views five,large --connections 1,20,100 --database postgresql
    python bench/macro.py --contestants asgiref,django,gthread
    python bench/macro.py --before COMMIT [--processes 2] [--views five,template]

A round starts a server for each contestant, warms it up and puts its views under load, one server
at a time; the order turns round from one round to the next. The contestants: asgiref; the ``pure``
kernel, the ``compiled`` one, that with kept workers (``keep``); the compiled kernel with
asgibridge.django (``django``, ``django-keep``); Django's WSGI handler under gunicorn's threads
(``gthread``; ``gthread-keep`` keeps its database connections) and under ``granian``; and the
``ceiling`` (asgiref with every hop made a plain call: see site/benchsite/inlined.py). What a server
uses is read from /proc, of all its processes. A server says itself what it runs, and one that runs
anything else is refused. Threads, hops and calls are counted in processes of their own, which are
not timed.

Every view is measured on CPython 3.13 or newer, under uvloop, with SQLite and 20 connections.
``sync`` and ``query`` are measured on each Python, under each loop, with each database, with 20
connections and with one, in three rounds instead of five. It says first how long that will take:
seventy minutes on 3.13, forty on 3.11, less where PostgreSQL or uvloop is missing. Of
``--loops``, ``--database`` and ``--connections`` each combination is measured; what is not given is
as above.

Prints the tables, and writes every figure to docs/benchmarks/site/ (or to FILE) and from there its
part of docs/benchmarks.md; `bench/paired.py --compare` compares two such files. Exits with 2 if
something cannot be measured.

``--before COMMIT`` takes each of ours now and at that commit in turn, as paired.py does; those with
asgibridge.django are left out if the commit has none. The exit status is 1 if requests per second,
CPU time or memory are worse by more than 3 % beyond the spread of the commit against itself. By
default it measures five views under uvloop, with SQLite and 20 connections: forty minutes.

It does not write to docs/, and nor do ``--processes``, which has each server start so many,
``--views``, ``--contestants`` and ``--django``, which names a folder with another Django (such as a
checkout of Django's main branch) for all contestants.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import compare
import report
import site_databases
import site_load as load
from before import LEAST_ROUNDS, QUICK_ROUNDS, BuildFailure, Contest, before, rows
from implementations import OURS, available
from results import Measured, Results, conditions
from site_report import FOLDER
from site_report import sections as tables
from site_server import CONTESTANTS, OTHER_DJANGO, Contestant, Server, ServerFailure
from site_views import (
    CONNECTIONS,
    COOKIE,
    DATABASES,
    HOME,
    IN_CONTESTS,
    LOOPS,
    POSTED,
    VIEWS,
    Circumstances,
    views_of,
)

DOCS = Path(__file__).resolve().parents[1] / "docs"
PACKAGES = ("django", "uvicorn", "httptools", "gunicorn", "granian", "psycopg")
MODULES = (*PACKAGES, "aiohttp")
COUNTED = 200
"""Requests over which threads, hops and calls are counted."""
ROUNDS, ROUNDS_ELSEWHERE = 5, 3
START_AND_STOP = 2.0
"""Seconds that a server takes for it, about; for the estimate alone."""


class Plan:
    """What is measured how long and how often, with how many processes, on which cores."""

    def __init__(
        self,
        options: argparse.Namespace,
        contest: Contest | None,
        circumstances: list[Circumstances],
    ) -> None:
        self.contest = contest
        self.circumstances = circumstances
        self.processes: int = options.processes
        self.seconds: float = options.seconds or (1 if options.quick else 3)
        self.warm_up: float = min(1, self.seconds)
        self.server_core: int | None = 0 if options.pin else None
        self.load_core: int | None = 1 if options.pin else None
        self._rounds: int | None = options.rounds
        self._quick: bool = options.quick
        self._views: str | None = options.views
        self._contestants: str | None = options.contestants

    def __str__(self) -> str:
        where = "a core each for server and load" if self.server_core is not None else "all cores"
        parts = [load.generator(), f"{self.seconds:g} s", where]
        if self.processes > 1:
            parts.append(f"{self.processes} server processes")
        return ", ".join(parts)

    def rounds(self, circumstances: Circumstances) -> int:
        if self._rounds:
            return self._rounds
        if self.contest is not None:
            return QUICK_ROUNDS if self._quick else LEAST_ROUNDS
        if self._quick:
            return 1
        return ROUNDS if circumstances == HOME else ROUNDS_ELSEWHERE

    def views(self, circumstances: Circumstances, contestant: Contestant) -> list[str]:
        """Those of one server."""
        if self._views:
            wanted: tuple[str, ...] = tuple(self._views.split(","))
        elif self.contest is not None:
            wanted = IN_CONTESTS
        else:
            wanted = views_of(circumstances, sys.version_info[:2])
        return [name for name in VIEWS if name in wanted and name in contestant.views]

    def turns(self, circumstances: Circumstances, number: int) -> list[Contestant]:
        """Who is measured in the round of that number, in this order."""
        found = [
            each
            for each in CONTESTANTS
            if each.implementation in available()
            and self._is_chosen(each, circumstances)
            and self.views(circumstances, each)
        ]
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
            for side in self.contest.turns(number)
        ]

    def _is_chosen(self, each: Contestant, circumstances: Circumstances) -> bool:
        if self.contest is not None and (
            each.implementation not in self.contest.implementations
            or (each.is_bridged and not self.contest.old.has("django/handlers.py"))
        ):
            return False
        if self._contestants:
            return each.name in self._contestants.split(",")
        return each.everywhere or circumstances == HOME

    def counts(self, circumstances: Circumstances) -> bool:
        """Whether threads, hops and calls are counted."""
        # A contest compares what takes time or memory: nobody is slower for the hops he counts.
        return self.contest is None and circumstances == HOME

    def servers(self, circumstances: Circumstances) -> int:
        """How many are started."""
        turns = len(self.turns(circumstances, 0))
        return turns * (self.rounds(circumstances) + self.counts(circumstances))

    def minutes(self) -> float:
        """That all of it takes, about."""
        seconds = 0.0
        for each in self.circumstances:
            views = [len(self.views(each, one)) for one in self.turns(each, 0)]
            seconds += self.servers(each) * START_AND_STOP
            # A load takes some time to begin and to end, and with wrk a second at least. So does
            # counting, which is two of them.
            loaded = max(1, self.warm_up) + max(1, self.seconds) + 0.3
            seconds += self.rounds(each) * sum(views) * loaded
            seconds += self.counts(each) * sum(views) * 1.5
        return seconds / 60


def posted(view: str) -> load.Posted | None:
    return (POSTED, COOKIE) if VIEWS[view].is_form else None


def measure_round(
    contestant: Contestant,
    circumstances: Circumstances,
    database: str,
    plan: Plan,
    measured: Measured,
) -> None:
    """One server: each view under load."""
    name = contestant.name
    with Server(
        contestant, circumstances, database, core=plan.server_core, processes=plan.processes
    ) as server:
        for view in plan.views(circumstances, contestant):
            url = f"{server.base_url}/{view}/"
            more = (plan.load_core, posted(view))
            load.once(url, posted(view))
            load.for_seconds(url, circumstances.connections, plan.warm_up, *more)
            before = server.usage()
            with server.most_threads() as threads:
                done = load.for_seconds(url, circumstances.connections, plan.seconds, *more)
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
    contestant: Contestant,
    circumstances: Circumstances,
    database: str,
    plan: Plan,
    measured: Measured,
) -> None:
    """Another one, which counts the threads that it starts for so many requests, the hops and the
    calls that are submitted to workers.
    """
    connections = circumstances.connections
    with Server(contestant, circumstances, database, counting=True) as server:
        for view in plan.views(circumstances, contestant):
            url = f"{server.base_url}/{view}/"
            load.once(url, posted(view))
            load.so_many(url, connections, 5 * connections, posted(view))
            before = server.settled_stats()
            load.so_many(url, connections, COUNTED, posted(view))
            after = server.settled_stats()
            for measure, figure in (
                ("started", "threads_started"),
                ("hops", "hops"),
                ("submitted", "submitted"),
            ):
                if after[figure] is not None:
                    each = (after[figure] - before[figure]) / COUNTED
                    measured.add(view, contestant.name, measure, [each])


def measure(plan: Plan, results: Results) -> None:
    """All servers in all circumstances, into ``results``."""
    columns = (
        TextColumn("{task.description:<44}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("", total=sum(map(plan.servers, plan.circumstances)))

        @contextmanager
        def told(name: str, each: Circumstances) -> Iterator[None]:
            progress.update(bar, description=f"{each}: {name}")
            yield
            progress.advance(bar)

        for each in plan.circumstances:
            measured = results.passes.setdefault(
                each.name, Measured(plan.server_core is not None, each.loop, 0, 1)
            )
            measured.rounds += plan.rounds(each)
            with site_databases.filled(each.database) as database:
                for number in range(plan.rounds(each)):
                    for contestant in plan.turns(each, number):
                        with told(contestant.name, each):
                            measure_round(contestant, each, database, plan, measured)
                for contestant in plan.turns(each, 0) if plan.counts(each) else ():
                    with told(f"{contestant.name}, counting", each):
                        count(contestant, each, database, plan, measured)


def what_is_missing() -> str:
    """Why this cannot run here, and what to do; "" if it can."""
    if not Path("/proc/self/stat").exists():
        return "it reads what the servers use from /proc, as Linux has it"
    if sys.version_info < (3, 11):
        return f"asgiref 3.13.0 needs Python 3.11 or newer; this is {sys.version.split()[0]}"
    missing = [name for name in MODULES if importlib.util.find_spec(name) is None]
    if missing:
        return (
            f"{', '.join(missing)} not installed: `make bench-site`, or pip install .[bench-site]"
        )
    return ""


def chosen(
    name: str, given: str | None, known: tuple[str, ...], parser: argparse.ArgumentParser
) -> list[str]:
    """The words of an option, all of which must be known; all that are known if it is not given."""
    words = given.split(",") if given else list(known)
    for word in words:
        if word not in known:
            parser.error(f"--{name}: {word!r} is none of {', '.join(known)}")
    return words


def chosen_circumstances(
    options: argparse.Namespace, parser: argparse.ArgumentParser
) -> list[Circumstances]:
    """What the options ask for, without what cannot be had here."""
    in_contest = bool(options.before)
    loops = chosen("loops", options.loops, (HOME.loop,) if in_contest else LOOPS, parser)
    databases = chosen(
        "database", options.database, (HOME.database,) if in_contest else tuple(DATABASES), parser
    )
    connections = options.connections or ((HOME.connections,) if in_contest else CONNECTIONS)
    if "uvloop" in loops and importlib.util.find_spec("uvloop") is None:
        print("uvloop is not installed: its rows are left out", file=sys.stderr)
        loops.remove("uvloop")
    for name in list(databases):
        if trouble := site_databases.missing(name):
            print(f"{trouble}: its rows are left out", file=sys.stderr)
            databases.remove(name)
    # That with every view comes first.
    found = itertools.product(loops, databases, connections)
    return [Circumstances(*each) for each in found]


def chosen_contest(options: argparse.Namespace) -> Contest | None:
    if options.before:
        try:
            contest = before(options.before)
        except BuildFailure as failure:
            print(failure, file=sys.stderr)
            sys.exit(2)
        if not contest.old.has("django/handlers.py"):
            print("that commit has no asgibridge.django: it is left out", file=sys.stderr)
        return contest
    return None


def take_django_from(folder: Path) -> str:
    """Have all servers find Django there; its version."""
    os.environ[OTHER_DJANGO] = str(folder.resolve())
    done = subprocess.run(
        [sys.executable, "-c", "import benchsite, django; print(django.__version__)"],
        cwd=site_databases.SITE,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def counts(text: str) -> tuple[int, ...]:
    """Of connections, as an option has them."""
    return tuple(int(word) for word in text.split(","))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="short rounds, one or three: rough, in minutes"
    )
    names = ",".join(each.name for each in CONTESTANTS)
    parser.add_argument("--loops", metavar="LOOP,…", help="the others' results are kept")
    parser.add_argument("--database", metavar="NAME,…", help="of sqlite, postgresql; likewise")
    parser.add_argument("--connections", metavar="N,…", type=counts, help="default: 20,1")
    parser.add_argument("--views", metavar="VIEW,…", help=f"of {','.join(VIEWS)}")
    parser.add_argument("--contestants", metavar="NAME,…", help=f"of {names}")
    parser.add_argument("--rounds", type=int, help="servers of each (default: 5, 3; in contests 7)")
    parser.add_argument("--add", action="store_true", help="rounds to those that the file has")
    parser.add_argument("--seconds", type=float, help="of load on each view (default: 3)")
    parser.add_argument("--processes", type=int, default=1, help="of a server (default: 1)")
    parser.add_argument("--django", type=Path, metavar="FOLDER", help="where another Django is")
    parser.add_argument("--pin", action="store_true", help="server on core 0, load on core 1")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument("--no-docs", action="store_true", help="leave docs/ as it is")
    parser.add_argument("--before", metavar="COMMIT", help="ours now and at that commit")
    options = parser.parse_args()
    chosen("views", options.views, tuple(VIEWS), parser)
    chosen("contestants", options.contestants, tuple(names.split(",")), parser)
    if trouble := what_is_missing():
        print(f"the site cannot be measured here: {trouble}", file=sys.stderr)
        sys.exit(2)
    circumstances = chosen_circumstances(options, parser)
    if trouble := load.install_wrk():
        print(f"{trouble}\nthe load comes from {load.generator()} instead", file=sys.stderr)
    contest = chosen_contest(options)
    plan = Plan(options, contest, circumstances)
    results = Results({**conditions(PACKAGES), "load": str(plan)})
    if options.django:
        results.conditions["django"] = take_django_from(options.django)
    if version := site_databases.version_of_postgresql():
        results.conditions["postgresql"] = version
    if contest is not None:
        results.conditions["sides"] = contest.about
    # A quick run is too rough to be published, and docs/ has one process and everything else.
    is_whole = not (contest or options.views or options.contestants or options.django)
    is_whole = is_whole and plan.processes == 1
    publish = is_whole and not options.quick and not options.no_docs
    target = options.json or (DOCS / FOLDER / f"{results.name}.json" if publish else None)
    is_part = options.loops or options.database or options.connections
    if (is_part or options.add) and target is not None and target.exists():
        earlier = Results.load(target)
        if earlier.conditions != results.conditions:
            parser.error(f"{target} was measured under other conditions; run it whole")
        now = {each.name for each in circumstances}
        results.passes = {
            name: measured
            for name, measured in earlier.passes.items()
            if options.add or name not in now
        }
    print(f"this takes about {plan.minutes():.0f} min", file=sys.stderr)
    # A polite kill must stop the servers too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        measure(plan, results)
    except (ServerFailure, load.LoadFailure, site_databases.DatabaseFailure) as failure:
        print(failure, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the servers are stopped", file=sys.stderr)
        sys.exit(130)
    if target is not None:
        results.save(target)
    if contest is not None:
        ours = [each.name for each in CONTESTANTS if each.implementation in OURS]
        status = compare.sides(contest, rows(results, contest, ours, ("rps", "cpu", "peak")))
        sys.exit(status if options.before else 0)
    report.show(results, tables(results))
    if publish and options.json is None:
        report.write(DOCS)


if __name__ == "__main__":
    main()
