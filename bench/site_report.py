"""Tables of the macro-benchmark, and whether its targets were met.

Requests per second and percentiles are medians over the rounds: load has no minimum that noise can
only add to.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from report import Section, filled, micro, times
from results import Measured, Results
from targets import Verdict

FOLDER = Path("benchmarks", "site")
PREFIX = "site-"
VIEWS = {
    "sync": "/sync/",
    "async": "/async/",
    "orm": "/orm/",
    "template": "/template/",
    "five": "/five/",
}
TITLES = {
    "sync": "sync view",
    "async": "async view",
    "orm": "async view, a query",
    "template": "sync view, a template of 60 rows",
    "five": "async view, five queries",
}
JUDGED = ("sync", "async", "orm")
"""The views that targets were set for: the others spend most of a request in Django."""
_KEPT = "compiled, keep"
NAMES = ("asgiref", "pure", "compiled", _KEPT, "ceiling")

AT_LEAST = {"asyncio": 2.5, "uvloop": 2.0}
"""How many times asgiref's requests per second, by event loop."""
CPU_PART = 1 / 2
"""Of asgiref's CPU time per request, at most."""

_INTRODUCTION = """\
A Django site with five middlewares runs under uvicorn, and the load comes from the same machine.
The tables show requests per second, and what each request costs the server from the first byte to
the last. The database is a file of SQLite's. Django connects to it anew for each request
(`CONN_MAX_AGE = 0`, its default), which costs the same with every bridge. The database's calls
release the GIL, which then goes from thread to thread. `keep` is `ASGIBRIDGE_WORKERS=keep` with
`CONN_MAX_AGE = 60`, which needs threads that outlive their request. `ceiling` is no bridge: for
this benchmark alone every hop is a plain call on the event loop's thread, and all requests share
one connection, which no site may do. It shows how many requests the site would serve if crossing
cost nothing. `make bench-site` measures all of this again.
"""


def _ratio(measured: Measured, view: str, name: str) -> float:
    # Of requests per second, where more is better.
    return measured.median(view, name, "rps") / measured.median(view, "asgiref", "rps")


def _spread(measured: Measured, view: str, name: str) -> str:
    pairs = zip(measured.rounds_of(view, name, "rps"), measured.rounds_of(view, "asgiref", "rps"))
    each = [ours[0] / theirs[0] for ours, theirs in pairs]
    return f"{min(each):.1f}-{max(each):.1f}"


def _row(measured: Measured, view: str, name: str) -> list[str]:
    def median(measure: str) -> float:
        return measured.median(view, name, measure)

    rates = [value for each in measured.rounds_of(view, name, "rps") for value in each]
    percentiles = " / ".join(f"{median(each) * 1e3:.1f}" for each in ("p50", "p99", "p99.9"))
    against = f"{times(_ratio(measured, view, name))} ({_spread(measured, view, name)})"
    of_ceiling = ""
    if measured.has(view, "ceiling", "rps"):
        of_ceiling = f"{median('rps') / measured.median(view, 'ceiling', 'rps'):.0%}"
    return [
        f"{TITLES[view]}: {name}",
        f"{median('rps'):,.0f} ({min(rates):,.0f}-{max(rates):,.0f})",
        "" if name == "asgiref" else against,
        of_ceiling,
        percentiles,
        micro(median("cpu")),
        f"{median('started'):.2f}" if measured.has(view, name, "started") else "",
        f"{median('threads'):.0f}",
        f"{median('rss') / 1e6:.1f} / {median('peak') / 1e6:.1f}",
    ]


_HEADER = [
    "view: served by",
    "requests/s",
    "x asgiref's",
    "of the ceiling",
    "p50 / p99 / p99.9, ms",
    "CPU per request, µs",
    "threads started per request",
    "threads alive",
    "memory after it / at most, MB",
]


def _table(results: Results, measured: Measured) -> Section:
    rows = [
        _row(measured, view, name)
        for view in VIEWS
        for name in NAMES
        if measured.has(view, name, "rps")
    ]
    hops = ", ".join(
        f"{measured.median(view, 'ceiling', 'hops'):.0f}"
        for view in VIEWS
        if measured.has(view, "ceiling", "hops")
    )
    note = (
        f"medians (range) of {measured.rounds} server processes of each in turn; "
        f"{results.conditions['load']}"
    )
    if hops:
        note += f"; hops per request: {hops}"
    return Section(f"A Django site under {measured.loop}", note, _HEADER, rows)


def verdicts(results: Results) -> Iterator[Verdict]:
    """The conditions that the results have figures for; of the compiled kernel as it comes, and of
    kept workers where there is a connection to keep.
    """
    for loop in AT_LEAST:
        measured = results.passes.get(PREFIX + loop)
        if measured is None:
            continue
        for view in JUDGED:
            title = TITLES[view]
            yield from _verdicts_of(measured, f"{title}, {loop}", view, "compiled")
            if view == "orm":
                yield from _verdicts_of(measured, f"{title}, {loop}, `keep`", view, _KEPT)


def _verdicts_of(measured: Measured, title: str, view: str, name: str) -> Iterator[Verdict]:
    if not measured.has(view, name, "rps"):
        return
    factor = AT_LEAST[measured.loop]
    ratio = _ratio(measured, view, name)
    yield Verdict(
        f"{title}: requests per second",
        f"at least {factor:g}x asgiref's",
        times(ratio),
        ratio >= factor,
    )
    mine, theirs = (measured.median(view, each, "cpu") for each in (name, "asgiref"))
    yield Verdict(
        f"{title}: CPU per request",
        f"at most half of asgiref's {micro(theirs)} µs",
        f"{micro(mine)} µs ({mine / theirs:.2f})",
        mine <= theirs * CPU_PART,
    )


def sections(results: Results) -> list[Section]:
    """A table for each event loop, and one of the targets."""
    found = [
        _table(results, results.passes[PREFIX + loop])
        for loop in AT_LEAST
        if PREFIX + loop in results.passes
    ]
    judged = list(verdicts(results))
    if judged:
        met = sum(verdict.met for verdict in judged)
        rows = [
            [verdict.case, verdict.condition, verdict.measured, "yes" if verdict.met else "**no**"]
            for verdict in judged
        ]
        note = (
            f"{met} of {len(judged)} met, by the compiled kernel, with nothing set but where "
            "`keep` is named"
        )
        header = ["site", "target", "measured", "met"]
        found.append(Section("The site's targets", note, header, rows))
    return found


def is_of_the_site(results: Results) -> bool:
    """Or of the other benchmark."""
    return any(name.startswith(PREFIX) for name in results.passes)


def readme(results: Results) -> str:
    """The README's short table, and the lines that say how it was made."""
    rounds = "/".join(dict.fromkeys(str(each.rounds) for each in results.passes.values()))
    machine, django, load = (results.conditions[name] for name in ("machine", "django", "load"))
    how = filled(
        f"`make bench-site`: Django {django} with five middlewares under uvicorn; {load}; requests "
        f"per second, and in parentheses the server's CPU time per request in µs (medians of "
        f"{rounds} processes each, in turn; {machine}). `keep` is `ASGIBRIDGE_WORKERS=keep` with "
        "`CONN_MAX_AGE = 60`; the ceiling makes no hop at all, which no site may do. Percentiles, "
        "threads, memory and the spread: [docs/benchmarks.md](docs/benchmarks.md)."
    )
    titles = [_HEADINGS.get(name, name) for name in NAMES]
    lines = ["| " + " | ".join([f"CPython {results.python}", *titles]) + " |"]
    lines.append("|---" * (len(NAMES) + 1) + "|")
    for loop in AT_LEAST:
        measured = results.passes.get(PREFIX + loop)
        if measured is None:
            continue
        for view in measured.cases:
            cells = [_short(measured, view, name) for name in NAMES]
            lines.append("| " + " | ".join([f"{loop}, {TITLES[view]}", *cells]) + " |")
    return f"{how}\n\n" + "\n".join(lines)


_HEADINGS = {
    "pure": "pure kernel",
    "compiled": "compiled kernel",
    _KEPT: "compiled, `keep`",
}


def _short(measured: Measured, view: str, name: str) -> str:
    if not measured.has(view, name, "rps"):
        return ""
    rps, cpu = (measured.median(view, name, each) for each in ("rps", "cpu"))
    return f"{rps:,.0f} ({cpu * 1e6:,.0f})"


def markdown(results: Results, images: list[str]) -> list[str]:
    """Its part of docs/benchmarks.md."""
    title = f"## A Django site, {results.conditions['implementation']} {results.python}\n"
    about = "; ".join(f"{name} {value}" for name, value in results.conditions.items()) + ".\n"
    return [
        title,
        _INTRODUCTION,
        about,
        *images,
        *(section.markdown() for section in sections(results)),
    ]
