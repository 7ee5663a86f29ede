"""Shows what was found: the pages' table, the figures' table and the plot."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from rich.markup import escape
from rich.table import Table

from .load import Plan, Results, Round
from .pages import Answer
from .servers import FREE_OF_MODE

mpl.use("Agg")

from matplotlib import pyplot as plt

# Below it no winner is named.
FEWEST_ROUNDS = 5
COLOURS = ("#8c8c8c", "#1f77b4", "#8b5cf6", "#d9a441")


@dataclass(frozen=True)
class Measure:
    """One column of the figures."""

    title: str
    value: Callable[[Round], float]
    digits: int
    more_is_better: bool = False


MEASURES = (
    Measure("requests/s", lambda one: one.requests_per_second, 0, more_is_better=True),
    Measure("p50, ms", lambda one: one.p50_ms, 1),
    Measure("p99, ms", lambda one: one.p99_ms, 1),
    Measure("threads/request", lambda one: one.threads_per_request, 2),
)


@dataclass(frozen=True)
class Spread:
    """A measure over the rounds."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, measure: Measure, rounds: Sequence[Round]) -> Spread:
        values = [measure.value(one) for one in rounds]
        return cls(statistics.median(values), min(values), max(values))

    def text(self, digits: int) -> str:
        return f"{self.median:.{digits}f} ({self.lowest:.{digits}f}-{self.highest:.{digits}f})"

    def overlaps(self, other: Spread) -> bool:
        return self.lowest <= other.highest and other.lowest <= self.highest


def pages_table(visits: dict[str, list[Answer]]) -> Table:
    """Page by page, whether all answers are the same; by the name of who gave them."""
    table = Table(title="Every page: status, headers and body", title_justify="left")
    table.add_column("page")
    for name in visits:
        table.add_column(name, justify="right")
    table.add_column("verdict")
    # Pages asked for several times in a row share a line.
    for page, group in itertools.groupby(zip(*visits.values()), key=lambda row: row[0].page):
        rows = list(group)
        wrong = " / ".join({answer.wrong for row in rows for answer in row if answer.wrong})
        same = all(
            answer == row[0]
            or (name in FREE_OF_MODE and answer.in_either_mode() == row[0].in_either_mode())
            for row in rows
            for name, answer in zip(visits, row)
        )
        word = "same" if same else "DIFFERENT"
        table.add_row(
            escape(page),
            *(in_short(answers) for answers in zip(*rows)),
            f"{word}, but WRONG: {escape(wrong)}" if wrong else word,
            style="bold red" if wrong or not same else "",
        )
    return table


def in_short(answers: Sequence[Answer]) -> str:
    statuses = "/".join(str(status) for status in sorted({answer.status for answer in answers}))
    count = f"{len(answers)} x " if len(answers) > 1 else ""
    return f"{count}{statuses}, {sum(len(answer.body) for answer in answers)} chars"


def verdict(measure: Measure, names: Sequence[str], spreads: Sequence[Spread], rounds: int) -> str:
    """Who is best, and how many times better than the first; nobody if the rounds' ranges overlap.

    Two servers that are equally good keep apart by chance in 1 of 3 comparisons over two rounds, in
    1 of 126 over five.
    """
    if all(one == spreads[0] for one in spreads):
        return "equal"
    if rounds < FEWEST_ROUNDS:
        return "too few rounds to say"
    best = (max if measure.more_is_better else min)(spreads, key=lambda one: one.median)
    near = [name for name, one in zip(names, spreads) if one.overlaps(best)]
    if len(near) > 1:
        return f"too close: {', '.join(near)}"
    low, high = sorted((spreads[0].median, best.median))
    if best is spreads[0] or low <= 0:
        return near[0]
    return f"{near[0]}, {high / low:.2f}x {names[0]}"


def figures_table(results: Results, names: Sequence[str], plan: Plan) -> Table:
    """The measures of all servers, and who wins each."""
    table = Table(
        title=f"Load: {plan.concurrency} connections, {plan.requests} requests a round, "
        f"{plan.rounds} rounds in turn; median (lowest-highest)",
        title_justify="left",
    )
    table.add_column("page")
    table.add_column("measure")
    for name in names:
        table.add_column(name, justify="right")
    table.add_column("best")
    for page, by_name in results.items():
        for measure in MEASURES:
            spreads = [Spread.of(measure, by_name[name]) for name in names]
            table.add_row(
                page if measure is MEASURES[0] else "",
                measure.title,
                *(spread.text(measure.digits) for spread in spreads),
                verdict(measure, names, spreads, plan.rounds),
            )
        table.add_section()
    return table


def plot(results: Results, names: Sequence[str], subtitle: str, path: Path) -> None:
    """Save the figures as a PNG: a panel a measure, bars at medians, whiskers over the range."""
    figure, grid = plt.subplots(2, len(MEASURES) // 2, figsize=(13, 7.6), layout="constrained")
    panels = list(grid.flat)
    pages = list(results)
    width = 0.8 / len(names)
    for panel, measure in zip(panels, MEASURES):
        for index, (name, colour) in enumerate(zip(names, COLOURS)):
            spreads = [Spread.of(measure, results[page][name]) for page in pages]
            middle = index - (len(names) - 1) / 2
            places = [number + middle * width for number in range(len(pages))]
            whiskers = (
                [spread.median - spread.lowest for spread in spreads],
                [spread.highest - spread.median for spread in spreads],
            )
            medians = [spread.median for spread in spreads]
            bars = panel.bar(
                places, medians, width * 0.94, yerr=whiskers, label=name, color=colour, capsize=4
            )
            # Above the whiskers: a low bar has no room for it, and dark on white it can be read.
            panel.bar_label(bars, fmt=f"{{:.{measure.digits}f}}", padding=2, fontsize=9)
        panel.margins(y=0.1)
        better = "more is better" if measure.more_is_better else "less is better"
        panel.set_title(f"{measure.title}\n({better})", fontsize=11)
        panel.set_xticks(range(len(pages)), pages)
        panel.set_ylim(bottom=0)
        panel.spines[["top", "right"]].set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(f"A Django site under load\n{subtitle}", fontsize=12)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
