"""Tables of the macro-benchmark.

Requests per second and percentiles are medians over the rounds: load has no minimum that noise can
only add to.
"""

from __future__ import annotations

from pathlib import Path

from figures import micro, times
from report import Section, filled
from results import Measured, Results
from site_targets import of_wsgi, ratio, verdicts
from site_views import HOME, PREFIX, VIEWS, Circumstances

FOLDER = Path("benchmarks", "site")
TITLES = {
    "asgiref": "asgiref",
    "pure": "pure kernel",
    "compiled": "compiled kernel",
    "keep": "the same, `keep`",
    "django": "`asgibridge.django`",
    "django-keep": "the same, `keep`",
    "gthread": "WSGI: gunicorn gthread",
    "gthread-keep": "the same, persistent connections",
    "granian": "WSGI: granian",
    "ceiling": "ceiling",
}

_INTRODUCTION = """\
A Django site with five middlewares, under load from the same machine: under uvicorn on asgiref, on
asgibridge with Django's own handler, and on asgibridge with `asgibridge.django`; and on WSGI, with
nothing of ours, under gunicorn (one worker process with 20 threads) and under granian (one worker
process with 20 blocking threads). Where no kernel is named, it is the compiled one. The tables show
requests per second, and what each request costs the server from the first byte to the last. CPU
time and memory are those of all its processes: gunicorn and granian have two, one of which serves.
Calls to workers are counted by `workers.stats()`; one call is one stay on a worker's thread.

Django connects to the database anew for each request (`CONN_MAX_AGE = 0`, its default), which costs
the same with every server. The database's calls release the GIL, which then goes from thread to
thread. `keep` is `ASGIBRIDGE_WORKERS=keep` with `CONN_MAX_AGE = 60`, which needs threads that
outlive their request; gunicorn has such threads, and has a row with `CONN_MAX_AGE = 60`, too.
`ceiling` is no bridge: for this benchmark alone every hop is a plain call on the event loop's
thread, and all requests share one connection, which no site may do. It shows how many requests the
site would serve if crossing cost nothing. `make bench-site` measures all of this again: every view
under uvloop, with SQLite and 20 connections, on 3.13; two views elsewhere.
"""


def _spread(measured: Measured, view: str, name: str) -> str:
    pairs = zip(measured.rounds_of(view, name, "rps"), measured.rounds_of(view, "asgiref", "rps"))
    each = [ours[0] / theirs[0] for ours, theirs in pairs]
    return f"{min(each):.1f}-{max(each):.1f}"


def _row(measured: Measured, view: str, name: str) -> list[str]:
    def median(measure: str) -> float:
        return measured.median(view, name, measure)

    rates = [value for each in measured.rounds_of(view, name, "rps") for value in each]
    of_asgiref = of_wsgis = ""
    if name != "asgiref" and measured.has(view, "asgiref", "rps"):
        found = times(ratio(measured, view, name, "asgiref"))
        of_asgiref = f"{found} ({_spread(measured, view, name)})"
    wsgi = of_wsgi(measured, view, name)
    if wsgi and name != wsgi:
        of_wsgis = f"{times(ratio(measured, view, name, wsgi))}"
    return [
        "",
        title(name),
        f"{median('rps'):,.0f} ({min(rates):,.0f}-{max(rates):,.0f})",
        of_asgiref,
        of_wsgis,
        " / ".join(f"{median(each) * 1e3:.1f}" for each in ("p50", "p99", "p99.9")),
        micro(median("cpu")),
        f"{median('submitted'):g}" if measured.has(view, name, "submitted") else "",
        f"{median('started'):.2f}" if measured.has(view, name, "started") else "",
        f"{median('threads'):.0f}",
        f"{median('rss') / 1e6:.1f} / {median('peak') / 1e6:.1f}",
    ]


def title(name: str) -> str:
    """A contestant's, which can be read by itself."""
    before = {"keep": "compiled", "django-keep": "django", "gthread-keep": "gthread"}
    if name in before:
        return f"{TITLES[before[name]]}, {TITLES[name].partition(', ')[2]}"
    return TITLES[name]


_HEADER = [
    "view",
    "served by",
    "requests/s",
    "x asgiref's",
    "x gthread's",
    "p50 / p99 / p99.9, ms",
    "CPU per request, µs",
    "calls to workers per request",
    "threads started per request",
    "threads alive",
    "memory after it / at most, MB",
]


def _table(results: Results, name: str) -> Section:
    measured, circumstances = results.passes[name], Circumstances.of(name)
    rows = []
    for view in VIEWS:
        found = [_row(measured, view, each) for each in TITLES if measured.has(view, each, "rps")]
        if found:
            found[0][0] = VIEWS[view].title
            rows += found
    hops = ", ".join(
        f"{VIEWS[view].title}: {measured.median(view, 'ceiling', 'hops'):.0f}"
        for view in VIEWS
        if measured.has(view, "ceiling", "hops")
    )
    note = (
        f"medians (range) of {measured.rounds} server processes of each in turn; "
        f"{results.conditions['load']}"
    )
    if hops:
        note += f"; hops per request on asgiref: {hops}"
    return Section(f"A Django site: {circumstances}", note, _HEADER, rows, texts=2)


def passes(results: Results) -> list[str]:
    """Those of the site: that with the most views first."""
    found = [name for name in results.passes if name.startswith(PREFIX)]
    return sorted(found, key=lambda name: (name != HOME.name, name))


def sections(results: Results) -> list[Section]:
    """A table for all that was the same for all servers, and one of the targets."""
    found = [_table(results, name) for name in passes(results)]
    judged = list(verdicts(results))
    if judged:
        met = sum(verdict.met for verdict in judged)
        rows = [
            [verdict.case, verdict.condition, verdict.measured, "yes" if verdict.met else "**no**"]
            for verdict in judged
        ]
        note = (
            f"{met} of {len(judged)} met, by the compiled kernel, with nothing set but where "
            "`keep` is named; WSGI is gunicorn's gthread with 20 threads"
        )
        header = ["site", "target", "measured", "met"]
        found.append(Section("The site's targets", note, header, rows))
    return found


def is_of_the_site(results: Results) -> bool:
    """Or of the other benchmark."""
    return any(name.startswith(PREFIX) for name in results.passes)


_IN_README = {
    "asgiref": "asgiref",
    "compiled": "asgibridge",
    "django": "`asgibridge.django`",
    "gthread": "WSGI gthread",
    "granian": "WSGI granian",
}
_VIEWS_IN_README = ("sync", "async", "query", "five", "template", "form", "large")


def readme(results: Results) -> str:
    """The README's short table, and the lines that say how it was made."""
    name = passes(results)[0]
    measured, circumstances = results.passes[name], Circumstances.of(name)
    machine, django, load = (results.conditions[each] for each in ("machine", "django", "load"))
    how = filled(
        f"`make bench-site`: Django {django} with five middlewares, {circumstances}; {load}; "
        f"requests per second (CPU µs per request), medians of {measured.rounds} processes each, "
        f"in turn; {machine}. More: [docs/benchmarks.md](docs/benchmarks.md)."
    )
    lines = ["| " + " | ".join([f"CPython {results.python}", *_IN_README.values()]) + " |"]
    lines.append("|---" * (len(_IN_README) + 1) + "|")
    for view in _VIEWS_IN_README:
        if view in measured.cases:
            cells = [_short(measured, view, each) for each in _IN_README]
            lines.append("| " + " | ".join([VIEWS[view].title, *cells]) + " |")
    return f"{how}\n\n" + "\n".join(lines)


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
