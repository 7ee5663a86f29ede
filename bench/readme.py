"""Writes the README's tables of speeds from the benchmarks' results.

    python bench/readme.py            replace what is between the markers
    python bench/readme.py --check    exit with 1 if that would change anything

The markers are ``<!-- bench:begin -->`` and ``<!-- bench:end -->``, each on a line of its own, and
``bench-site`` for the macro-benchmark's. What there are no results of stays as it is.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import site_report
from cases import ROWS
from implementations import IMPLEMENTATIONS
from report import filled, micro
from results import Measured, Results, load_all

ROOT = Path(__file__).resolve().parents[1]

HEADINGS = {
    "floor": "floor",
    "asgiref": "asgiref",
    "pure": "pure kernel",
    "compiled": "compiled kernel",
}


def table(found: list[Results]) -> str:
    """The table, a figure for each Python in each cell, and the line that says how it was made."""
    passes = [results.passes["pinned"] for results in found]
    pythons = " / ".join(results.python for results in found)
    columns = [name for name in IMPLEMENTATIONS if any(_has(each, name) for each in passes)]
    rows = [f"| CPython {pythons} | " + " | ".join(HEADINGS[name] for name in columns) + " |"]
    rows.append("|---" * (len(columns) + 1) + "|")
    for case in ROWS:
        if any(case.key in measured.cases for measured in passes):
            cells = [_cell(passes, case.key, name) for name in columns]
            rows.append(f"| {case.title} | " + " | ".join(cells) + " |")
    return f"{_how(found, passes)}\n\n" + "\n".join(rows)


def _has(measured: Measured, name: str) -> bool:
    return any(name in by_name for by_name in measured.cases.values())


def _cell(passes: list[Measured], case: str, name: str) -> str:
    figures = [
        micro(measured.least(case, name)) if measured.has(case, name) else "-"
        for measured in passes
    ]
    return " / ".join(figures) if any(figure != "-" for figure in figures) else ""


def _how(found: list[Results], passes: list[Measured]) -> str:
    rounds = "/".join(dict.fromkeys(str(measured.rounds) for measured in passes))
    machines = "; ".join(dict.fromkeys(results.conditions["machine"] for results in found))
    asgiref = "/".join(dict.fromkeys(results.conditions["asgiref"] for results in found))
    return filled(
        f"`make bench`, µs per operation (minimum of {rounds} processes each, in turn, pinned to "
        f"one core; {machines}; asgiref {asgiref}). `floor` is the least there is: "
        "`SimpleQueue.put` there and `call_soon_threadsafe` back, `threading.local` for `Local`. "
        "Spread, all cores, latency, uvloop and how the cost grows: "
        "[docs/benchmarks.md](docs/benchmarks.md)."
    )


def replaced(text: str, name: str, between: str) -> str:
    """The text with what is between the markers of that name replaced."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        sys.exit(f"README.md must have the lines {begin} and {end}, once each, in this order")
    head, _, rest = text.partition(begin)
    return f"{head}{begin}\n{between}\n{end}{rest.partition(end)[2]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say whether it is up to date")
    parser.add_argument(
        "files", nargs="*", type=Path, help="default: those of docs/benchmarks and its site/"
    )
    options = parser.parse_args()
    folder = ROOT / "docs" / "benchmarks"
    files = options.files or sorted([*folder.glob("*.json"), *folder.glob("site/*.json")])
    found = load_all(files)
    crossings = [results for results in found if "pinned" in results.passes]
    sites = [results for results in found if site_report.is_of_the_site(results)]
    if not crossings and not sites:
        sys.exit("no results: run `make bench` or `make bench-site` first")
    readme = ROOT / "README.md"
    old = new = readme.read_text(encoding="utf-8")
    if crossings:
        new = replaced(new, "bench", table(crossings))
    if sites:
        new = replaced(new, "bench-site", site_report.readme(sites))
    if options.check:
        if old != new:
            sys.exit("README.md's speeds are not those of docs/benchmarks: run bench/readme.py")
        return
    readme.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
