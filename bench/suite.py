"""Runs the pytest-benchmark suite for each implementation and peer, the results side by side.

    python bench/suite.py [--samples 10] [--docs] [--json DIRECTORY] [PYTEST OPTION ...]

Each in a process of its own, all cases one after the other, not pinned to a core, with
pytest-benchmark's own statistics; kept as JSON, `pytest-benchmark compare` reads them. To compare
implementations the paired runner is the better judge: it takes turns.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

import report
from implementations import available, available_peers, environment
from results import Measured, Results, conditions

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"


def run(name: str, samples: int, target: Path, more: list[str]) -> list[dict[str, Any]]:
    """pytest-benchmark's results for one implementation."""
    command = [sys.executable, "-m", "pytest", "-c", str(HERE / "pytest.ini"), str(HERE), "-q"]
    command += ["--implementation", name, "--samples", str(samples), "--benchmark-quiet"]
    command += ["--benchmark-json", str(target), "-p", "no:cacheprovider", *more]
    done = subprocess.run(
        command, env=environment(name), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
        print(f"the suite failed for {name}", file=sys.stderr)
        sys.exit(2)
    return json.loads(target.read_text())["benchmarks"]  # type: ignore[no-any-return]


def table(results: dict[str, list[dict[str, Any]]]) -> Table:
    """A line for each case: minimum, median and interquartile range in µs per operation."""
    cases: dict[str, dict[str, str]] = {}
    for name, benchmarks in results.items():
        for each in benchmarks:
            scale = 1e6 / each["extra_info"]["operations"]
            stats = each["stats"]
            least, median, spread = (stats[key] * scale for key in ("min", "median", "iqr"))
            cell = f"{least:.3g} ({median:.3g} ± {spread:.2g})"
            cases.setdefault(each["group"], {})[name] = cell
    shown = Table(
        "case",
        title="The pytest-benchmark suite",
        title_justify="left",
        caption="µs per operation: minimum (median ± interquartile range)",
    )
    for name in results:
        shown.add_column(name, justify="right")
    for case, cells in cases.items():
        shown.add_row(case.replace("`", ""), *(cells.get(name, "") for name in results))
    return shown


def measured_of(results: dict[str, list[dict[str, Any]]], samples: int) -> Measured:
    """The same as a pass of the paired runner's, with every sample, in seconds per operation."""
    measured = Measured(pinned=False, loop="asyncio", rounds=1, samples=samples)
    for name, benchmarks in results.items():
        for each in benchmarks:
            scale = 1 / each["extra_info"]["operations"]
            data = [value * scale for value in each["stats"]["data"]]
            measured.add(each["group"], name, "wall", data)
    return measured


def publish(measured: Measured) -> None:
    """Put it into what the paired runner has just written, and make the pages anew."""
    about = Results(conditions())
    target = DOCS / "benchmarks" / f"{about.name}.json"
    if not target.exists() or Results.load(target).conditions != about.conditions:
        print("docs/ stays: bench/paired.py has no results of these conditions", file=sys.stderr)
        return
    results = Results.load(target)
    results.passes["suite"] = measured
    results.save(target)
    report.write(DOCS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=10, help="of each case")
    parser.add_argument("--quick", action="store_true", help="2 samples of each")
    parser.add_argument("--docs", action="store_true", help="put the results into docs/")
    parser.add_argument("--json", type=Path, metavar="DIRECTORY", help="keep the results there")
    options, more = parser.parse_known_args()
    results = {}
    samples = 2 if options.quick else options.samples
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.json or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        names = (*available(), *available_peers())
        for name in track(names, "the suite", console=Console(stderr=True)):
            results[name] = run(name, samples, folder / f"{name}.json", more)
    if options.docs and not options.quick:
        publish(measured_of(results, samples))
    Console(width=None if sys.stdout.isatty() else 220).print(table(results))


if __name__ == "__main__":
    main()
