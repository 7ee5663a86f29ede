"""Tables of the results: in the terminal, and in docs/benchmarks.md with the plots.

python bench/report.py            make docs/benchmarks.md anew from docs/benchmarks/*.json
python bench/report.py FILE...    print the tables of these
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cases import ROWS, Case
from curves import CROWD, CURVES, MEMORY
from figures import micro, times
from history import Entry, quotient
from implementations import IMPLEMENTATIONS, OURS, PEERS
from loops import KINDS, THREADS, key
from peers import CANNOT, PEER_ROWS
from results import Measured, Results, load_all
from targets import AIM, MANY, at_least, growth, verdicts

DOCS = Path(__file__).resolve().parents[1] / "docs"
OVER_TIME = ("hop", "gathered", "pool", "worker", "top", "context", "read")
"""The rows that are shown release by release; history.jsonl has all."""
NAMES = {"floor": "floor", "asgiref": "asgiref", "pure": "pure", "compiled": "compiled"}


@dataclass
class Section:
    """A table, for either output."""

    title: str
    note: str
    header: list[str]
    rows: list[list[str]]
    texts: int = 1
    """How many columns, the first ones, are no figures."""
    remarks: tuple[str, ...] = ()
    """Below the table, on the page only."""

    def markdown(self) -> str:
        lines = [f"### {self.title}", "", self.note, ""]
        lines.append("| " + " | ".join(self.header) + " |")
        lines.append("|---" * self.texts + "|---:" * (len(self.header) - self.texts) + "|")
        lines += ["| " + " | ".join(row) + " |" for row in self.rows]
        if self.remarks:
            lines += ["", *(f"- {remark}" for remark in self.remarks)]
        return "\n".join(lines) + "\n"

    def terminal(self) -> Table:
        table = Table(title=self.title, title_justify="left", caption=self.note)
        for number, name in enumerate(self.header):
            table.add_column(name, justify="right" if number >= self.texts else "left")
        for row in self.rows:
            table.add_row(*(cell.replace("`", "").replace("**", "") for cell in row))
        return table


def _spread(values: list[float]) -> str:
    return f"{min(values):.1f}-{max(values):.1f}"


def _figures(measured: Measured, case: str, measure: str = "wall") -> list[str]:
    # Minimum (median) of each implementation.
    cells = []
    for name in IMPLEMENTATIONS:
        if measured.has(case, name, measure):
            least, median = (
                measured.least(case, name, measure),
                measured.median(case, name, measure),
            )
            cells.append(f"{micro(least)} ({micro(median)})")
        else:
            cells.append("")
    return cells


def _ratio(measured: Measured, case: str, name: str, measure: str = "wall") -> str:
    if not (measured.has(case, "asgiref", measure) and measured.has(case, name, measure)):
        return ""
    spread = _spread(measured.ratios(case, "asgiref", name, measure))
    return f"{times(measured.ratio(case, 'asgiref', name, measure))} ({spread})"


def _conditions_of(measured: Measured) -> str:
    where = "pinned to one core" if measured.pinned else "not pinned"
    return (
        f"{where}, {measured.loop}, {measured.rounds} processes of each in turn, "
        f"{measured.samples} samples in each"
    )


_HOW = "µs: minimum (median); x: asgiref's minimum divided by ours (range over the rounds)"


def _table(results: Results, measured: Measured) -> Section:
    rows = []
    for case in _measured_cases(ROWS, measured):
        least = at_least(case.key, results)
        ratio = (
            measured.ratio(case.key, "asgiref", "compiled")
            if "compiled" in _of(measured, case)
            else None
        )
        met = "" if least is None or ratio is None else "met" if ratio >= least else "**not met**"
        rows.append(
            [
                case.title,
                *_figures(measured, case.key),
                _ratio(measured, case.key, "pure"),
                _ratio(measured, case.key, "compiled"),
                "" if least is None else f"{least:g}x {met}",
                f"{AIM[case.key]:g}x" if case.key in AIM else "",
            ]
        )
    header = ["case", *NAMES.values(), "pure, x", "compiled, x", "at least", "aim"]
    return Section("Every crossing", f"{_HOW}; {_conditions_of(measured)}", header, rows)


def _of(measured: Measured, case: Case) -> set[str]:
    return set(measured.cases.get(case.key, {}))


def _measured_cases(cases: Iterable[Case], measured: Measured) -> list[Case]:
    return [case for case in cases if case.key in measured.cases]


def _with_cpu(title: str) -> Callable[[Results, Measured], Section]:
    def section(_results: Results, measured: Measured) -> Section:
        rows = []
        for case in _measured_cases(ROWS, measured):
            cpu = [
                micro(measured.least(case.key, name, "cpu"))
                for name in ("asgiref", "compiled")
                if measured.has(case.key, name, "cpu")
            ]
            rows.append(
                [
                    case.title,
                    *_figures(measured, case.key),
                    _ratio(measured, case.key, "pure"),
                    _ratio(measured, case.key, "compiled"),
                    " / ".join(cpu),
                ]
            )
        header = ["case", *NAMES.values(), "pure, x", "compiled, x", "CPU, asgiref / compiled"]
        return Section(title, f"{_HOW}; {_conditions_of(measured)}", header, rows)

    return section


def _latency(_results: Results, measured: Measured) -> Section:
    rows = []
    for measure in ("p50", "p99"):
        rows.append(
            [
                f"{measure} of a hop",
                *_figures(measured, "latency", measure),
                _ratio(measured, "latency", "compiled", measure),
            ]
        )
    header = ["percentile", *NAMES.values(), "compiled, x"]
    title = f"Latency, {CROWD} tasks hopping at the same time"
    return Section(title, f"{_HOW}; {_conditions_of(measured)}", header, rows)


def _loops(_results: Results, measured: Measured) -> Section:
    sides = [("floor", "bare"), ("floor", "portal"), ("asgiref", "new")]
    sides += [(name, kind) for name in OURS for kind in ("new", "persistent", "shared")]
    rows = []
    for name, kind in sides:
        cells = [
            f"{micro(measured.least(key(kind, width), name))} "
            f"({micro(measured.median(key(kind, width), name))})"
            if measured.has(key(kind, width), name)
            else ""
            for width in THREADS
        ]
        if any(cells):
            rows.append([KINDS[kind], "" if name == "floor" else NAMES[name], *cells])
    header = ["a call from a thread runs on", "by", *(f"{width} at a time" for width in THREADS)]
    note = f"µs per call: minimum (median); {_conditions_of(measured)}"
    return Section("One event loop for many calls", note, header, rows, texts=2)


def _curve(group: str, title: str, x: str) -> Callable[[Results, Measured], Section]:
    def section(_results: Results, measured: Measured) -> Section:
        rows = [
            [f"{case.x:,}", *_figures(measured, case.key), _ratio(measured, case.key, "compiled")]
            for case in _measured_cases(CURVES, measured)
            if case.group == group
        ]
        if group == "in flight":
            for case in _measured_cases(CURVES, measured):
                if case.group == "bare futures":
                    cells = _figures(measured, case.key)
                    rows.append([f"{case.x:,} bare futures, no thread", *cells, ""])
            growths = [
                times(growth(measured, "in-flight", name))
                if measured.has(f"in-flight-{MANY}", name)
                else ""
                for name in IMPLEMENTATIONS
            ]
            bare = times(growth(measured, "bare-futures", "floor"))
            rows.append([f"100 -> {MANY:,} (bare futures: {bare})", *growths, ""])
        header = [x, *NAMES.values(), "compiled, x"]
        return Section(title, f"{_HOW}; {_conditions_of(measured)}", header, rows)

    return section


def _by_name(measured: Measured, cases: list[tuple[str, str]]) -> tuple[list[str], list[list[str]]]:
    """The columns of who has any of these cases, and a row for each: by its key and its title."""
    names = [
        name
        for name in (*IMPLEMENTATIONS, *PEERS)
        if any(measured.has(case, name) for case, _ in cases)
    ]
    rows = [
        [
            title,
            *(
                f"{micro(measured.least(case, name))} ({micro(measured.median(case, name))})"
                if measured.has(case, name)
                else ""
                for name in names
            ),
        ]
        for case, title in cases
    ]
    return names, rows


def _peers(_results: Results, measured: Measured) -> Section:
    cases = [(case.key, case.title) for case in _measured_cases(PEER_ROWS, measured)]
    names, rows = _by_name(measured, cases)
    note = (
        f"µs per operation: minimum (median); {_conditions_of(measured)}. trio runs on its own "
        "loop. An empty cell: what is below the table says why"
    )
    remarks = tuple(f"**{name}** {text}" for name, text in CANNOT.items())
    return Section("Others, by name", note, ["job", *names], rows, remarks=remarks)


def _suite(_results: Results, measured: Measured) -> Section:
    # The other cases have tables for which the implementations took turns.
    cases = [
        (case, case.removeprefix("queue: "))
        for kind in ("queue: ", "WSGI on ASGI", "ASGI on WSGI")
        for case in measured.cases
        if case.startswith(kind)
    ]
    names, rows = _by_name(measured, cases)
    note = (
        "µs per item and per request: minimum (median); by pytest-benchmark, not pinned, each in "
        f"a process of its own, one after the other, {measured.samples} samples; "
        "`make bench-queue` and `make bench-wsgi` take turns, and have more cases"
    )
    return Section("Queues and WSGI adapters, by name", note, ["case", *names], rows)


def _memory(_results: Results, measured: Measured) -> Section:
    rows = []
    for case in _measured_cases(MEMORY, measured):
        cells = [
            f"{measured.least(case.key, name, 'bytes'):,.0f}"
            if measured.has(case.key, name, "bytes")
            else ""
            for name in IMPLEMENTATIONS
        ]
        rows.append([case.title, *cells, _ratio(measured, case.key, "compiled", "bytes")])
    header = ["bytes per call", *NAMES.values(), "compiled, x"]
    title = f"Memory of {MANY:,} calls in flight"
    return Section(title, _conditions_of(measured), header, rows)


_SECTIONS: dict[str, Callable[[Results, Measured], Section]] = {
    "pinned": _table,
    "unpinned": _with_cpu("On all cores"),
    "latency": _latency,
    "uvloop": _with_cpu("With uvloop"),
    "loops": _loops,
    "peers": _peers,
    "suite": _suite,
    "variables": _curve("context variables", "Context variables that no call changes", "set"),
    "in-flight": _curve("in flight", "Calls in flight, per call", "in flight"),
    "contexts": _curve("contexts at once", "`ThreadSensitiveContext`s at once, per one", "at once"),
    "messages": _curve(
        "messages", "Messages sent to a communicator, then received, per message", "messages"
    ),
    "nesting": _curve("nesting", "Nested async and sync code, per level", "levels"),
    "memory": _memory,
}


def sections(results: Results) -> list[Section]:
    """A table for each pass that was run, and one of the targets."""
    found = [
        make(results, results.passes[name])
        for name, make in _SECTIONS.items()
        if name in results.passes
    ]
    judged = verdicts(results)
    if judged:
        met = sum(verdict.met for verdict in judged)
        rows = [
            [verdict.case, verdict.condition, verdict.measured, "yes" if verdict.met else "**no**"]
            for verdict in judged
        ]
        found.append(
            Section(
                "Targets",
                f"{met} of {len(judged)} met, by the compiled kernel unless a row names another",
                ["case", "target", "measured", "met"],
                rows,
            )
        )
    return found


def _about(results: Results) -> str:
    return "; ".join(f"{name} {value}" for name, value in results.conditions.items())


def filled(text: str) -> str:
    """Broken into lines, as Markdown's files have them here."""
    return textwrap.fill(text, width=100, break_long_words=False, break_on_hyphens=False)


def show(results: Results, tables: list[Section] | None = None) -> None:
    """Print all tables, or these."""
    console = Console(width=None if sys.stdout.isatty() else 170)
    console.print(_about(results), highlight=False)
    for section in sections(results) if tables is None else tables:
        console.print(section.terminal())


_HEAD = """\
# Benchmarks

`make bench` writes this page; do not edit it. Each implementation runs in processes of its own, in
turn. All called functions do nothing, so the time is that of the bridge. `floor` is the least that
the standard library does the job with, without any bridge: `SimpleQueue.put` there and
`call_soon_threadsafe(future.set_result)` back, `threading.local` for `Local`, and two of asyncio's
queues for a communicator. (The compiled kernel can be below it: it wakes threads and loops in
another way.) `make bench` writes every sample beside the plots, as JSON;
`python bench/paired.py --compare` compares two such files. `make bench PYTHON=python3.13` measures
another Python.

[benchmarks-report.html](benchmarks-report.html) is this page as one file, with the plots and every
sample in it.
"""


def write(docs: Path) -> None:
    """Make docs/benchmarks.md and its plots of the results beside it.

    A part whose results are not here stays as it is: who has run one benchmark may lack the
    samples of the other, or of another Python.
    """
    import history
    import page as html_page
    import plots
    import site_report

    folder, page = docs / "benchmarks", docs / "benchmarks.md"
    parts = _parts(page.read_text(encoding="utf-8")) if page.exists() else {}
    for results in load_all(folder.glob("*.json")):
        drawn = plots.draw(results, folder)
        text = [f"## {results.conditions['implementation']} {results.python}\n"]
        text.append(_about(results) + ".\n")
        text += [_image(name, title) for name, title in drawn.items()]
        text += [section.markdown() for section in sections(results)]
        parts[_key(text[0])] = "\n".join(text)
    for results in load_all((docs / site_report.FOLDER).glob("*.json")):
        drawn = plots.draw_site(results, folder)
        text = site_report.markdown(results, [_image(*each) for each in drawn.items()])
        parts[_key(text[0])] = "\n".join(text)
    # The crossings come first, and the newest Python.
    order = sorted(parts, key=lambda key: key[1:], reverse=True)
    order.sort(key=lambda key: key[0])
    entries = history.load(docs)
    over_time = [_history(entries, plots.draw_history(entries, folder))] if entries else []
    whole = "\n".join([_HEAD, *map(parts.__getitem__, order), *over_time])
    page.write_text(whole, encoding="utf-8")
    html_page.write(docs)


_OVER_TIME = "## Over the releases"


def _history(entries: list[Entry], drawn: dict[str, str]) -> str:
    """The part about all releases: a plot for each Python, and a row for each measurement."""
    rows = []
    for entry in reversed(entries):
        about = entry["conditions"]
        cells = []
        for case in OVER_TIME:
            found = [quotient(entry, case, kernel) for kernel in ("compiled", "pure")]
            cells.append(" / ".join("-" if value is None else times(value) for value in found))
        row = [entry["version"], entry["date"], about["python"], about["machine"]]
        rows.append([*row, about["asgiref"], *cells])
    titles = {case.key: case.title for case in ROWS}
    header = ["release", "measured", "Python", "machine", "asgiref"]
    header += [titles[case] for case in OVER_TIME]
    section = Section(
        "Each measurement",
        "how many times faster than asgiref in the same run, compiled / pure, pinned to one core",
        header,
        rows,
        texts=5,
    )
    about = filled(
        "A workflow measures each release on a machine of GitHub's, and adds a line to "
        "docs/benchmarks/history.jsonl. Machines differ, and so do releases of asgiref: each "
        "figure is asgiref's time by ours in one run."
    )
    images = [_image(*each) for each in drawn.items()]
    return "\n".join([f"{_OVER_TIME}\n", f"{about}\n", *images, section.markdown()])


def _image(name: str, title: str) -> str:
    return f"![{title}](benchmarks/{name}.svg)\n"


_Key = tuple[bool, tuple[int, ...], str]
"""Whether it is of the site; the Python's minor version, and its whole name."""


def _key(heading: str) -> _Key:
    # Such as "## A Django site, CPython 3.13.0".
    name = heading.strip().rpartition(" ")[2]
    free_threaded = name.endswith("t")
    version = tuple(map(int, name.rstrip("t").split(".")))[:2]
    words = heading.removeprefix("## ").rpartition(" ")[0]
    return words.startswith("A Django site"), version, words + "t" * free_threaded


def _parts(text: str) -> dict[_Key, str]:
    # What there is in the page below its head.
    found = re.split(r"^(?=## )", text, flags=re.MULTILINE)[1:]
    found = [part for part in found if not part.startswith(_OVER_TIME)]
    return {_key(part.partition("\n")[0]): part.rstrip("\n") + "\n" for part in found}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        for found in load_all(map(Path, sys.argv[1:])):
            show(found)
    else:
        write(DOCS)
