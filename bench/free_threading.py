"""Django with and without the GIL: views that compute, on all cores, and memory that stays.

    python bench/free_threading.py [--rounds 5] [--seconds 3] [--requests 100000] [--json FILE]
    python bench/free_threading.py --quick --servers uvicorn --views compute

On a CPython without the GIL (3.14t), which runs with it, too (``PYTHON_GIL=1``); or, with
``--gil-python``, that of another environment. Granian needs that: a build of it for free threading
refuses the GIL, and so it has no rows with the GIL otherwise. The site of `bench-site` under
uvicorn and under granian (ASGI, with one event loop and with two in threads), on asgiref, on
asgibridge, and on asgibridge with `asgibridge.django`; a server for each, with the GIL and without,
in turn. Beside them two bare threads that compute as the view does.

What is asked for, by the medians of the rounds: without the GIL at least `GAIN` times the requests
per second that there are with it, or `OF_BARE` of what the two threads gain in the same round; and
no fewer than on asgiref. Then so many requests to one server of each: it may have at most `GROWTH`
times the memory that it had after `FEW` of them. Ends with a line that says PASSED or FAILED; the
exit status is 1 for FAILED, 2 if something could not be measured. Run it when nothing else runs:
who makes the load shares the cores with the server.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import site_databases
import site_load as load
from implementations import available, environment
from results import Measured, Results, conditions
from site_server import CONTESTANTS, Contestant, Server, ServerFailure
from site_views import Circumstances

GAIN = 1.7
OF_BARE = 0.9
GROWTH = 1.2
FEW = 256
"""Requests after which a site is warm. One was seen to have 15 times the memory after as many, with
a thread for each."""
SLOWER = 0.97
"""Of asgiref's requests per second: what two measurements of one thing differ by."""

NAMES = ("asgiref", "compiled", "django")
VIEWS = ("compute", "template")
CONNECTIONS = 20
COMPUTING_SECONDS = 0.002
"""Of a bare call: as `computing_view` of the site."""


class Way(NamedTuple):
    """How the site is served."""

    server: str
    loops: int


WAYS = {
    "uvicorn": Way("uvicorn", 1),
    "granian": Way("granian-asgi", 1),
    "granian-2": Way("granian-asgi", 2),
}
"""Two processes of uvicorn's would need no free threading; two loops of granian's are threads."""

GILS = {"with the GIL": "1", "without": "0"}
ON, OFF = GILS


class Verdict(NamedTuple):
    """Something that was asked for, and whether it was met."""

    what: str
    wanted: str
    measured: str
    met: bool


# --- bare threads --------------------------------------------------------------------------------


def bare(seconds: float) -> float:
    """Calls a second that two threads of this process compute."""
    counts = [0, 0]
    begin = threading.Barrier(3)

    def work(place: int) -> None:
        begin.wait()
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            end = time.thread_time() + COMPUTING_SECONDS
            while time.thread_time() < end:
                sum(number * number for number in range(200))
            counts[place] += 1

    threads = [threading.Thread(target=work, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    begin.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - began)


def bare_elsewhere(python: str, gil: str, seconds: float) -> float:
    """The same in a process of its own, which has the GIL or has it not."""
    done = subprocess.run(
        [python, __file__, "--bare", str(seconds)],
        env={**environment("asgiref"), "PYTHON_GIL": gil},
        capture_output=True,
        text=True,
        timeout=seconds + 60,
        check=True,
    )
    return float(done.stdout)


# --- servers -------------------------------------------------------------------------------------


def contestants(way: Way, gil: str, names: list[str], gil_python: str) -> list[Contestant]:
    """Those that are installed, served so; none if that server can't run so."""
    python = gil_python if gil == "1" else sys.executable
    if way.server != "uvicorn" and gil == "1" and python == sys.executable:
        return []
    return [
        replace(
            each,
            server=way.server,
            python=python,
            environment={**each.environment, "PYTHON_GIL": gil},
            answers={**each.answers, "gil": gil == "1"},
        )
        for each in CONTESTANTS
        if each.name in names and each.implementation in available()
    ]


def turns(
    number: int, ways: list[str], names: list[str], gil_python: str
) -> Iterator[tuple[str, str, Contestant]]:
    """Which way, with the GIL or without, and who: the order turns round with each round."""
    found = [
        (way, gil, each)
        for way in ways
        for name in names
        for gil, variable in GILS.items()
        for each in contestants(WAYS[way], variable, [name], gil_python)
    ]
    yield from found if number % 2 == 0 else found[::-1]


def measure_round(results: Results, number: int, options: argparse.Namespace) -> None:
    """Put one round of all servers into the results, a pass for each way and GIL."""
    for gil, variable in GILS.items():
        python = options.gil_python if gil == ON else sys.executable
        rate = bare_elsewhere(python, variable, options.seconds)
        results.passes[pass_name("bare", gil)].add("bare", "bare", "rps", [rate])
    circumstances = Circumstances("asyncio", "sqlite", CONNECTIONS)
    for way, gil, each in turns(number, options.ways, options.names, options.gil_python):
        measured = results.passes[pass_name(way, gil)]
        loops = WAYS[way].loops
        with Server(each, circumstances, options.database, processes=loops) as server:
            for view in options.views:
                url = f"{server.base_url}/{view}/"
                load.once(url)
                load.for_seconds(url, CONNECTIONS, min(1, options.seconds))  # warms up
                before = server.usage().cpu
                found = load.for_seconds(url, CONNECTIONS, options.seconds)
                cpu = (server.usage().cpu - before) / found["requests"]
                measured.add(view, each.name, "rps", [found["requests"] / found["seconds"]])
                measured.add(view, each.name, "cpu", [cpu])


def measure_memory(results: Results, options: argparse.Namespace) -> None:
    """What a server has after few requests and after many, without the GIL."""
    circumstances = Circumstances("asyncio", "sqlite", CONNECTIONS)
    for way, gil, each in turns(0, options.ways, options.names, options.gil_python):
        if gil == ON:
            continue
        measured = results.passes[pass_name(way, gil)]
        loops = WAYS[way].loops
        with Server(each, circumstances, options.database, processes=loops) as server:
            url = f"{server.base_url}/sync/"
            load.once(url)
            load.so_many(url, CONNECTIONS, FEW)
            measured.add("memory", each.name, "few", [server.usage().resident])
            load.so_many(url, CONNECTIONS, options.requests - FEW)
            measured.add("memory", each.name, "many", [server.usage().resident])
            measured.add("memory", each.name, "peak", [server.usage().peak])


def pass_name(way: str, gil: str) -> str:
    return f"{way}, {gil}"


# --- what is asked for ---------------------------------------------------------------------------


def gains(results: Results, way: str, view: str, name: str) -> list[float]:
    """Of each round: requests per second without the GIL by those with it; none if not measured."""
    passes = [results.passes[pass_name(way, gil)] for gil in GILS]
    if not all(each.has(view, name, "rps") for each in passes):
        return []
    sides = [each.rounds_of(view, name, "rps") for each in passes]
    return [without[0] / with_it[0] for with_it, without in zip(*sides)]


def verdicts(results: Results, ways: list[str], views: list[str]) -> Iterator[Verdict]:
    """All that the results have figures for."""
    threads = gains(results, "bare", "bare", "bare")
    for way in ways:
        without = results.passes[pass_name(way, OFF)]
        for view in views:
            for name in NAMES:
                if not without.has(view, name, "rps"):
                    continue
                if name == "asgiref":
                    continue
                found = gains(results, way, view, name)
                if found:
                    gain = statistics.median(found)
                    of_bare = statistics.median(a / b for a, b in zip(found, threads))
                    yield Verdict(
                        f"{way}, {view}, {name}: without the GIL",
                        f"{GAIN:g}x, or {OF_BARE:g} of two threads' gain",
                        f"{gain:.2f}x, {of_bare:.2f}",
                        gain >= GAIN or of_bare >= OF_BARE,
                    )
                if without.has(view, "asgiref", "rps"):
                    mine, theirs = (without.median(view, each, "rps") for each in (name, "asgiref"))
                    yield Verdict(
                        f"{way}, {view}, {name}: beside asgiref, without the GIL",
                        "no slower",
                        f"{mine / theirs:.2f}x",
                        mine >= theirs * SLOWER,
                    )
        for name in NAMES:
            if name != "asgiref" and without.has("memory", name, "many"):
                few, many = (without.median("memory", name, each) for each in ("few", "many"))
                yield Verdict(
                    f"{way}, {name}: memory",
                    f"at most {GROWTH:g}x of after {FEW}",
                    f"{many / few:.2f}x, {many / 1e6:.0f} MB",
                    many <= few * GROWTH,
                )


def show(results: Results, ways: list[str], views: list[str]) -> None:
    threads = gains(results, "bare", "bare", "bare")
    print(f"two bare threads: {statistics.median(threads):.2f}x without the GIL")
    for way in ways:
        sides = [results.passes[pass_name(way, gil)] for gil in GILS]
        for view in views:
            for name in NAMES:
                found = gains(results, way, view, name)
                if not found and sides[1].has(view, name, "rps"):
                    rate = sides[1].median(view, name, "rps")
                    print(f"{way}, {view}, {name}: {rate:,.0f} requests/s without the GIL")
                if found:
                    rates = [side.median(view, name, "rps") for side in sides]
                    print(
                        f"{way}, {view}, {name}: {rates[0]:,.0f} requests/s with the GIL, "
                        f"{rates[1]:,.0f} without: {statistics.median(found):.2f}x "
                        f"({min(found):.2f} to {max(found):.2f})"
                    )
        for name in NAMES:
            if sides[1].has("memory", name, "many"):
                few, many, peak = (
                    sides[1].median("memory", name, each) / 1e6 for each in ("few", "many", "peak")
                )
                print(f"{way}, {name}: {few:.0f} MB, later {many:.0f} MB, at most {peak:.0f} MB")


def _of(names: tuple[str, ...]) -> Callable[[str], list[str]]:
    def chosen(text: str) -> list[str]:
        found = text.split(",")
        for each in found:
            if each not in names:
                raise argparse.ArgumentTypeError(f"{each!r} is none of {', '.join(names)}")
        return found

    return chosen


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=3, help="of each load")
    parser.add_argument("--requests", type=int, default=100_000, help="for the memory; 0: none")
    parser.add_argument("--servers", type=_of(tuple(WAYS)), default=list(WAYS), dest="ways")
    parser.add_argument("--views", type=_of(VIEWS), default=list(VIEWS))
    parser.add_argument("--contestants", type=_of(NAMES), default=list(NAMES), dest="names")
    parser.add_argument(
        "--gil-python",
        type=lambda path: str(Path(path).absolute()),
        metavar="PATH",
        default=sys.executable,
        help="of an environment with the same packages, whose Python has the GIL",
    )
    parser.add_argument("--quick", action="store_true", help="one round of a second: too rough")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument("--bare", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        print(bare(options.bare))
        return 0
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        print("free threading: needs a CPython built without the GIL, such as 3.14t")
        return 2
    if options.quick:
        options.rounds, options.seconds = 1, 1
        options.requests = min(options.requests, 1000)
    if options.requests and options.requests <= FEW:
        parser.error(f"--requests: more than {FEW}, or 0")
    results = Results(conditions(("django", "uvicorn", "granian", "httptools")))
    results.conditions["load"] = f"{load.generator()}, {options.seconds:g} s, all cores"
    for way in ("bare", *options.ways):
        for gil in GILS:
            measured = Measured(False, "asyncio", options.rounds, 1)
            results.passes[pass_name(way, gil)] = measured
    print("; ".join(f"{name} {value}" for name, value in results.conditions.items()), flush=True)
    try:
        with site_databases.filled("sqlite") as options.database:
            for number in range(options.rounds):
                print(f"round {number + 1} of {options.rounds}", flush=True)
                measure_round(results, number, options)
            if options.requests:
                print(f"memory: {options.requests:,} requests to each", flush=True)
                measure_memory(results, options)
    except (ServerFailure, load.LoadFailure, site_databases.DatabaseFailure) as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        if options.json and any(each.cases for each in results.passes.values()):
            results.save(options.json)
    show(results, options.ways, options.views)
    judged = list(verdicts(results, options.ways, options.views))
    for each in judged:
        print(f"{'met' if each.met else 'NOT MET'}: {each.what}: {each.wanted}: {each.measured}")
    failed = sum(not each.met for each in judged)
    print(f"free threading: {f'FAILED: {failed} of {len(judged)}' if failed else 'PASSED'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
