"""Writes the README's tables of speeds from the benchmarks' results.

    python bench/readme.py            replace what is between the markers
    python bench/readme.py --check    exit with 1 if that would change anything

The markers are ``<!-- bench:begin -->`` and ``<!-- bench:end -->``, each on a line of its own, and
``bench-site`` for the macro-benchmark's. The figures are those of the last results, which is to say
of the newest Python that was measured. Without results, a table stays as it is.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import site_report
from cases import ROWS
from figures import micro
from implementations import IMPLEMENTATIONS
from report import filled
from results import Measured, Results, load_all

ROOT = Path(__file__).resolve().parents[1]

KEY_ROWS = ("hop", "gathered", "pool", "worker", "top", "context", "read")
"""The rows that the README shows; docs/benchmarks.md has all."""

HEADINGS = {
    "floor": "floor",
    "asgiref": "asgiref",
    "pure": "pure kernel",
    "compiled": "compiled kernel",
}


def table(results: Results) -> str:
    """The table of the key rows, below the line that says how it was made."""
    measured = results.passes["pinned"]
    columns = [name for name in IMPLEMENTATIONS if _has(measured, name)]
    rows = [
        f"| CPython {results.python} | " + " | ".join(HEADINGS[name] for name in columns) + " |"
    ]
    rows.append("|---" * (len(columns) + 1) + "|")
    for case in ROWS:
        if case.key in KEY_ROWS and case.key in measured.cases:
            cells = [_cell(measured, case.key, name) for name in columns]
            rows.append(f"| {case.title} | " + " | ".join(cells) + " |")
    return f"{_how(results, measured)}\n\n" + "\n".join(rows)


def _has(measured: Measured, name: str) -> bool:
    return any(name in by_name for by_name in measured.cases.values())


def _cell(measured: Measured, case: str, name: str) -> str:
    return micro(measured.least(case, name)) if measured.has(case, name) else ""


def _how(results: Results, measured: Measured) -> str:
    return filled(
        f"`make bench`, µs per operation (minimum of {measured.rounds} processes each, in turn, "
        f"pinned to one core; {results.conditions['machine']}). `floor` is the least that the "
        "standard library does it with, and no bridge: ours wakes threads in another way. "
        "More rows, Pythons and conditions: [docs/benchmarks.md](docs/benchmarks.md)."
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
        new = replaced(new, "bench", table(crossings[-1]))
    if sites:
        new = replaced(new, "bench-site", site_report.readme(sites[-1]))
    if options.check:
        if old != new:
            sys.exit("README.md's speeds are not those of docs/benchmarks: run bench/readme.py")
        return
    readme.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
