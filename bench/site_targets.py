"""What the site is held to, and whether it was met.

A target is a condition on measured figures; the figures are never written here. Requests per second
and percentiles are medians over the rounds: load has no minimum that noise can only add to.
"""

from __future__ import annotations

from collections.abc import Iterator

from figures import micro, times
from results import Measured, Results
from site_views import HOME, PREFIX, VIEWS, Circumstances
from targets import Verdict

JUDGED = ("sync", "async", "query", "orm")
"""The views whose requests per second are compared with asgiref's: the others spend most of a
request in Django."""
AT_LEAST = {"asyncio": 2.5, "uvloop": 2.0}
"""How many times asgiref's requests per second the compiled kernel serves, by event loop."""
CPU_PART = 1 / 2
"""Of asgiref's CPU time per request, at most."""

BRIDGED_AT_LEAST, BRIDGED_AIM = 4.5, 6.0
"""The same of asgibridge.django, in the sync view that does nothing."""
WSGI = "gthread"
"""Whom asgibridge.django is compared with: Django's WSGI handler under gunicorn, twenty threads."""
WSGI_AIM = {"sync": 1.3}
"""How many times its requests per second asgibridge.django is to serve; elsewhere `WSGI_AIM_ELSE`.
At least it is as many."""
WSGI_AIM_ELSE = 1.1
P99_AT_MOST = 1.25
"""Times its 99th percentile, with twenty connections."""
STAYS = 1
"""Calls that are submitted to workers for a request to a sync view."""


def ratio(measured: Measured, view: str, one: str, other: str) -> float:
    """How many requests ``one`` serves for one of ``other``'s."""
    return measured.median(view, one, "rps") / measured.median(view, other, "rps")


def of_wsgi(measured: Measured, view: str, name: str) -> str:
    """Whom of the WSGI servers a contestant is compared with: who keeps connections as it does."""
    kept = f"{WSGI}-keep"
    if name.endswith("keep") and measured.has(view, kept, "rps"):
        return kept
    return WSGI if measured.has(view, WSGI, "rps") else ""


def verdicts(results: Results) -> Iterator[Verdict]:
    """The conditions that the results have figures for."""
    for name, measured in results.passes.items():
        if not name.startswith(PREFIX):
            continue
        circumstances = Circumstances.of(name)
        at_home = circumstances.connections == HOME.connections
        for view in measured.cases:
            title = f"{VIEWS[view].title}; {circumstances}"
            if at_home and view in JUDGED:
                yield from _against_asgiref(measured, title, view, circumstances.loop)
            yield from _against_wsgi(measured, title, view, at_home)
            if VIEWS[view].is_async:
                yield from _against_djangos_handler(measured, title, view)
            else:
                yield from _stays(measured, title, view)


def _has(measured: Measured, view: str, *names: str, measure: str = "rps") -> bool:
    return all(measured.has(view, name, measure) for name in names)


def _against_asgiref(measured: Measured, title: str, view: str, loop: str) -> Iterator[Verdict]:
    # Of the compiled kernel as it comes, and of kept workers where there is a connection to keep.
    names = ["compiled", *(["keep"] if VIEWS[view].queries else [])]
    for name in names:
        if not _has(measured, view, name, "asgiref"):
            continue
        whose = title if name == "compiled" else f"{title}, `keep`"
        factor, found = AT_LEAST[loop], ratio(measured, view, name, "asgiref")
        yield Verdict(
            f"{whose}: requests per second",
            f"at least {factor:g}x asgiref's",
            times(found),
            found >= factor,
        )
        mine, theirs = (measured.median(view, each, "cpu") for each in (name, "asgiref"))
        yield Verdict(
            f"{whose}: CPU per request",
            f"at most half of asgiref's {micro(theirs)} µs",
            f"{micro(mine)} µs ({mine / theirs:.2f})",
            mine <= theirs * CPU_PART,
        )
    if view == "sync" and _has(measured, view, "django", "asgiref"):
        found = ratio(measured, view, "django", "asgiref")
        yield Verdict(
            f"{title}, `asgibridge.django`: requests per second",
            f"at least {BRIDGED_AT_LEAST:g}x asgiref's (aim {BRIDGED_AIM:g}x)",
            times(found),
            found >= BRIDGED_AT_LEAST,
        )


def _against_wsgi(measured: Measured, title: str, view: str, at_home: bool) -> Iterator[Verdict]:
    if not _has(measured, view, "django", WSGI):
        return
    title = f"{title}, `asgibridge.django`"
    found = ratio(measured, view, "django", WSGI)
    theirs = measured.median(view, WSGI, "rps")
    aim = WSGI_AIM.get(view, WSGI_AIM_ELSE)
    yield Verdict(
        f"{title}: requests per second",
        f"at least WSGI's {theirs:,.0f} (aim {aim:g}x)",
        f"{measured.median(view, 'django', 'rps'):,.0f} ({times(found)})",
        found >= 1,
    )
    mine, theirs = (measured.median(view, each, "cpu") for each in ("django", WSGI))
    yield Verdict(
        f"{title}: CPU per request",
        f"at most WSGI's {micro(theirs)} µs",
        f"{micro(mine)} µs ({mine / theirs:.2f})",
        mine <= theirs,
    )
    if at_home:
        mine, theirs = (measured.median(view, each, "p99") for each in ("django", WSGI))
        yield Verdict(
            f"{title}: p99",
            f"at most {P99_AT_MOST:g}x WSGI's {theirs * 1e3:.1f} ms (aim 1x)",
            f"{mine * 1e3:.1f} ms ({mine / theirs:.2f}x)",
            mine <= theirs * P99_AT_MOST,
        )


def _against_djangos_handler(measured: Measured, title: str, view: str) -> Iterator[Verdict]:
    if not _has(measured, view, "django", "compiled"):
        return
    found = ratio(measured, view, "django", "compiled")
    yield Verdict(
        f"{title}, `asgibridge.django`: requests per second",
        "at least those of ours with Django's own handler, "
        f"{measured.median(view, 'compiled', 'rps'):,.0f}",
        f"{measured.median(view, 'django', 'rps'):,.0f} ({times(found)})",
        found >= 1,
    )


def _stays(measured: Measured, title: str, view: str) -> Iterator[Verdict]:
    if not measured.has(view, "django", "submitted"):
        return
    found = measured.most(view, "django", "submitted")
    yield Verdict(
        f"{title}, `asgibridge.django`: stays on a worker per request",
        f"{STAYS}",
        f"{found:g}",
        found == STAYS,
    )
