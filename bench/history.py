"""What each release took: a line of docs/benchmarks/history.jsonl for each, and each Python.

    python bench/history.py                   put in the last results of `make bench`
    python bench/history.py RESULTS.json ...  put in these

A line is a JSON object: ``version`` (of asgibridge), ``date`` (of the measurement), ``conditions``
(those of the results) and ``microseconds``, the least of all samples of each row of "Every
crossing" by row and implementation. A line replaces an earlier one of the same release, Python and
machine. Both asgiref and ours are in it, because only what was measured in one run may be compared:
the plot has the quotient. docs/benchmarks.md and its page are made anew. The workflow bench.yml
runs this.
"""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from results import Results, load_all

DOCS = Path(__file__).resolve().parents[1] / "docs"
FILE = Path("benchmarks", "history.jsonl")

Entry = dict[str, Any]


class Curve(NamedTuple):
    """How many times faster than asgiref one kernel was, release by release, on one machine."""

    case: str
    kernel: str
    machine: str
    points: list[tuple[str, float]]


def load(docs: Path) -> list[Entry]:
    """The lines, oldest release first; none if there is no such file."""
    path = docs / FILE
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def entry_of(results: Results, date: str) -> Entry:
    """The line of one Python's results; KeyError if the pinned rows were not measured."""
    pinned = results.passes["pinned"]
    figures = {
        case: {name: round(pinned.least(case, name) * 1e6, 4) for name in by_name}
        for case, by_name in pinned.cases.items()
    }
    return {
        "version": results.conditions["asgibridge"],
        "date": date,
        "conditions": results.conditions,
        "microseconds": figures,
    }


def python_of(entry: Entry) -> str:
    """Such as cpython-3.13, as the files of its results are called."""
    return Results(entry["conditions"]).name


def _same(entry: Entry) -> tuple[str, str, str]:
    return entry["version"], python_of(entry), entry["conditions"]["machine"]


def _order(entry: Entry) -> tuple[list[tuple[int, str]], str]:
    # Numbers by their value: 0.10.0 comes after 0.9.0.
    parts = entry["version"].replace("+", ".").split(".")
    return [(int(part) if part.isdigit() else -1, part) for part in parts], python_of(entry)


def added(entries: Iterable[Entry], more: Iterable[Entry]) -> list[Entry]:
    """The entries with those put in, in order."""
    found = {_same(entry): entry for entry in (*entries, *more)}
    return sorted(found.values(), key=_order)


def save(docs: Path, entries: Iterable[Entry]) -> None:
    path = docs / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries]
    path.write_text("".join(lines), encoding="utf-8")


def quotient(entry: Entry, case: str, kernel: str) -> float | None:
    """How many times faster than asgiref; None if either was not measured."""
    figures = entry["microseconds"].get(case, {})
    if "asgiref" not in figures or kernel not in figures:
        return None
    return float(figures["asgiref"] / figures[kernel])


def curves(entries: Iterable[Entry], case: str, kernels: Iterable[str]) -> list[Curve]:
    """Those of one row, for each kernel and machine that has figures of it."""
    found: dict[tuple[str, str], Curve] = {}
    for entry in entries:
        machine = entry["conditions"]["machine"]
        for kernel in kernels:
            value = quotient(entry, case, kernel)
            if value is not None:
                empty = Curve(case, kernel, machine, [])
                curve = found.setdefault((kernel, machine), empty)
                curve.points.append((entry["version"], value))
    return list(found.values())


def main() -> None:
    if any(argument.startswith("-") for argument in sys.argv[1:]):
        sys.exit(__doc__)
    paths = [Path(argument) for argument in sys.argv[1:]]
    results = load_all(paths or sorted((DOCS / "benchmarks").glob("*.json")))
    if not results:
        sys.exit("no results: run `make bench` first")
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    try:
        more = [entry_of(each, today) for each in results]
    except KeyError as error:
        sys.exit(f"the results lack {error}: run `make bench` without --only")
    save(DOCS, added(load(DOCS), more))
    import report  # makes tables and plots, which the rest of this module does without

    report.write(DOCS)


if __name__ == "__main__":
    main()
