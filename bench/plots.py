"""The plots of docs/benchmarks.md: transparent, in tones that stand out on white and on black."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

from cases import ROWS
from curves import CURVES
from history import Entry, curves, python_of
from results import Measured, Results
from site_report import passes, title
from site_views import VIEWS, Circumstances

mpl.use("Agg")

_GREY = "#7d8590"
COLOURS = {"floor": _GREY, "asgiref": "#d9730d", "pure": "#2f9e6e", "compiled": "#3b82f6"}
_SITE_COLOURS = {
    "asgiref": COLOURS["asgiref"],
    "compiled": COLOURS["compiled"],
    "django": "#8b5cf6",
    "django-keep": "#c084fc",
    "gthread": _GREY,
    "granian": "#a8b0b9",
}
_MARKERS = {"floor": "x", "asgiref": "s", "pure": "^", "compiled": "o"}
_LINES = {"floor": ":", "asgiref": "--", "pure": "-.", "compiled": "-"}
_STYLE: Any = {
    "axes.edgecolor": _GREY,
    "axes.labelcolor": _GREY,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": _GREY,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.size": 11,
    "grid.alpha": 0.3,
    "grid.color": _GREY,
    "savefig.facecolor": "none",
    "svg.hashsalt": "asgibridge",
    "text.color": _GREY,
    "xtick.color": _GREY,
    "ytick.color": _GREY,
}
_CURVES = (
    ("variables", "context variables", "context variables set", "µs per hop"),
    ("in-flight", "in flight", "calls in flight", "µs per call"),
    ("contexts", "contexts at once", "contexts at once", "µs per context"),
    ("messages", "messages", "messages to a communicator", "µs per message"),
    ("nesting", "nesting", "levels of async and sync", "µs per level"),
)


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Save the plots as PNG and SVG into ``folder``; their names, and what they show."""
    drawn = {}
    with mpl.rc_context(_STYLE):
        if "pinned" in results.passes:
            name = f"{results.name}-rows"
            _save(_rows(results, results.passes["pinned"]), folder / name)
            drawn[name] = f"Microseconds per operation, {results.python}"
        if any(each in results.passes for each, *_ in _CURVES):
            name = f"{results.name}-curves"
            _save(_curves(results), folder / name)
            drawn[name] = f"How the cost grows, {results.python}"
    return drawn


def draw_site(results: Results, folder: Path) -> dict[str, str]:
    """The same for the macro-benchmark."""
    if not results.passes:
        return {}
    name = f"{results.name}-site"
    with mpl.rc_context(_STYLE):
        _save(_site(results), folder / name)
    return {name: f"Requests per second of a Django site, {results.python}"}


def draw_history(entries: list[Entry], folder: Path) -> dict[str, str]:
    """The same for the history: a plot for each Python."""
    drawn = {}
    with mpl.rc_context(_STYLE):
        for python in sorted({python_of(entry) for entry in entries}, reverse=True):
            name = f"history-{python}"
            _save(_history([e for e in entries if python_of(e) == python], python), folder / name)
            drawn[name] = f"How many times faster than asgiref, by release, {python}"
    return drawn


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not with_suffix(): the names have a version in them, and that a dot.
    figure.savefig(f"{path}.png", dpi=150)
    figure.savefig(f"{path}.svg", metadata={"Date": None})
    plt.close(figure)


def _rows(results: Results, measured: Measured) -> Any:
    cases = [case for case in ROWS if case.key in measured.cases]
    figure, axes = plt.subplots(figsize=(10, 0.42 * len(cases) + 1.4), layout="constrained")
    for name, colour in COLOURS.items():
        places, values = [], []
        for place, case in enumerate(cases):
            if measured.has(case.key, name):
                places.append(place)
                values.append(measured.least(case.key, name) * 1e6)
        if not places:
            continue
        axes.plot(values, places, _MARKERS[name], color=colour, markersize=8, label=name, zorder=3)
    for place, case in enumerate(cases):
        values = [
            measured.least(case.key, name) * 1e6
            for name in ("asgiref", "compiled")
            if measured.has(case.key, name)
        ]
        axes.hlines(place, min(values), max(values), color=_GREY, alpha=0.5, linewidth=1)
        if measured.has(case.key, "compiled"):
            ratio = measured.ratio(case.key, "asgiref", "compiled")
            axes.annotate(
                f"{ratio:.1f}x",
                (max(values), place),
                textcoords="offset points",
                xytext=(9, -4),
                color=_GREY,
            )
    axes.set_yticks(range(len(cases)), [case.title.replace("`", "") for case in cases])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.margins(x=0.09)
    axes.grid(axis="x")
    axes.set_xlabel("µs per operation, minimum, log scale; x: asgiref / compiled")
    axes.set_title(f"Every crossing, pinned to one core, CPython {results.python}")
    figure.legend(loc="outside lower center", ncols=len(COLOURS), frameon=False)
    return figure


def _curves(results: Results) -> Any:
    panels = [each for each in _CURVES if each[0] in results.passes]
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(4.6 * columns, 3.8 * rows + 0.4),
        layout="constrained",
        squeeze=False,
    )
    for unused in grid.flat[len(panels) :]:
        unused.set_visible(False)
    labelled: dict[str, Any] = {}
    for axes, (pass_name, group, x_label, y_label) in zip(grid.flat, panels):
        measured = results.passes[pass_name]
        for name, colour in COLOURS.items():
            cases = [c for c in CURVES if c.group == group and measured.has(c.key, name)]
            if not cases:
                continue
            (labelled[name],) = axes.plot(
                [case.x for case in cases],
                [measured.least(case.key, name) * 1e6 for case in cases],
                _LINES[name],
                marker=_MARKERS[name],
                color=colour,
            )
        axes.set_xscale("symlog" if group == "context variables" else "log")
        axes.set_ylim(bottom=0)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid()
    labels = [name for name in COLOURS if name in labelled]
    figure.legend(
        [labelled[name] for name in labels],
        labels,
        loc="outside lower center",
        ncols=len(labels),
        frameon=False,
    )
    figure.suptitle(f"How the cost grows, pinned to one core, CPython {results.python}")
    return figure


def _history(entries: list[Entry], python: str) -> Any:
    cases = [case for case in ROWS if any(case.key in e["microseconds"] for e in entries)]
    releases = list(dict.fromkeys(entry["version"] for entry in entries))
    columns = min(len(cases), 4)
    rows = -(-len(cases) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(3.4 * columns, 2.2 * rows + 1), layout="constrained", squeeze=False
    )
    for unused in grid.flat[len(cases) :]:
        unused.set_visible(False)
    labelled: dict[str, Any] = {}
    for axes, case in zip(grid.flat, cases):
        for curve in curves(entries, case.key, ("compiled", "pure")):
            (labelled[curve.kernel],) = axes.plot(
                [releases.index(release) for release, _ in curve.points],
                [value for _, value in curve.points],
                _LINES[curve.kernel],
                marker=_MARKERS[curve.kernel],
                color=COLOURS[curve.kernel],
            )
        axes.axhline(1, color=COLOURS["asgiref"], linewidth=1, linestyle=_LINES["asgiref"])
        axes.set_ylim(bottom=0)
        axes.margins(x=0.2)
        axes.set_xticks(range(len(releases)), releases)
        axes.tick_params(labelsize=8)
        axes.grid(axis="y")
        axes.set_title(textwrap.fill(case.title.replace("`", ""), 28), fontsize=10)
    figure.legend(
        list(labelled.values()), list(labelled), loc="outside lower center", ncols=2, frameon=False
    )
    figure.suptitle(f"How many times faster than asgiref, by release, {python}")
    return figure


def _site(results: Results) -> Any:
    # Views differ too much for a common scale: each has a panel of its own.
    name = passes(results)[0]
    measured = results.passes[name]
    panels = [view for view in VIEWS if view in measured.cases]
    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(3.4 * columns, 1.9 * rows + 1), layout="constrained", squeeze=False
    )
    for unused in grid.flat[len(panels) :]:
        unused.set_visible(False)
    bars: dict[str, Any] = {}
    for axes, view in zip(grid.flat, panels):
        present = [each for each in _SITE_COLOURS if measured.has(view, each, "rps")]
        for place, each in enumerate(present):
            rates = [rate for found in measured.rounds_of(view, each, "rps") for rate in found]
            middle = measured.median(view, each, "rps")
            bars[each] = axes.barh(
                place,
                middle,
                0.8,
                xerr=[[middle - min(rates)], [max(rates) - middle]],
                ecolor=_GREY,
                color=_SITE_COLOURS[each],
            )
            axes.annotate(
                f"{middle:,.0f}",
                (max(rates), place),
                textcoords="offset points",
                xytext=(4, 0),
                va="center",
                fontsize=9,
            )
        axes.invert_yaxis()
        axes.set_yticks([])
        axes.margins(x=0.25)  # for the figures
        axes.set_xlim(left=0)
        axes.tick_params(labelsize=8)
        axes.set_title(textwrap.fill(VIEWS[view].title, 24), fontsize=10)
    figure.legend(
        list(bars.values()),
        [title(each).replace("`", "") for each in bars],
        loc="outside lower center",
        ncols=min(len(bars), 3),
        frameon=False,
    )
    figure.suptitle(
        f"A Django site with five middlewares, requests per second (medians)\n"
        f"CPython {results.python}, {Circumstances.of(name)}",
        fontsize=12,
    )
    return figure
