"""Two result files side by side, for reviewing a change: what got slower, what faster.

A difference counts if even the rounds' minima do not overlap, and it is 5 % or more; else it is
noise. Both must have been measured on the same machine and Python. The macro-benchmark's files
compare too; of requests per second more is better, and the rounds' maxima count.

`sides` is the stricter judge: of two sides that one run has taken in turn (before.py).
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Container, Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from before import TOLERANCE, Contest, judge
from results import Measured, Results, load_all

THRESHOLD = 1.05
PLAIN = {"bytes", "rss", "peak", "rps", "threads", "started", "hops"}
"""Measures that are no seconds."""
COUNTS = {"threads", "started", "hops"}
"""Measures that say what happened, not how well."""
OURS = ("pure", "compiled", "compiled, keep")


def _verdict(measure: str, old: list[list[float]], new: list[list[float]]) -> str:
    if measure in COUNTS:
        return ""
    if measure == "rps":
        # Of the time a request takes, less is better, as of all others.
        old, new = ([[1 / value for value in each] for each in rounds] for rounds in (old, new))
    before, after = [min(each) for each in old], [min(each) for each in new]
    if min(after) > max(before) and min(after) >= THRESHOLD * min(before):
        return "slower"
    if max(after) < min(before) and min(before) >= THRESHOLD * min(after):
        return "faster"
    return ""


def _add_rows(table: Table, name: str, old: Measured, new: Measured) -> int:
    slower = 0
    for case, implementations in new.cases.items():
        for implementation, measures in implementations.items():
            for measure in measures:
                # On one core, with nothing else on it, the CPU time is the wall time once more.
                if (measure == "cpu" and new.pinned) or not old.has(case, implementation, measure):
                    continue
                before = old.rounds_of(case, implementation, measure)
                after = new.rounds_of(case, implementation, measure)
                verdict = _verdict(measure, before, after)
                # Somebody else's code has not been changed: it shows how much the machine has.
                slower += verdict == "slower" and implementation in OURS
                scale = 1 if measure in PLAIN else 1e6
                best = Measured.most if measure == "rps" else Measured.least
                mine = [best(each, case, implementation, measure) for each in (old, new)]
                medians = [each.median(case, implementation, measure) for each in (old, new)]
                table.add_row(
                    name,
                    case,
                    implementation,
                    measure,
                    *(
                        f"{value * scale:,.2f} ({median * scale:,.2f})"
                        for value, median in zip(mine, medians)
                    ),
                    f"{mine[1] / mine[0]:.2f}x" if mine[0] else "",
                    verdict,
                )
    return slower


def sides(
    results: Results,
    contest: Contest,
    names: Iterable[str],
    measures: Container[str] | None = None,
) -> int:
    """Print a contest's rows, of these measures or of all; 1 if the new side is slower in any."""
    table = Table(
        *("pass", "case", "implementation", "measure"),
        title=contest.about,
        title_justify="left",
        caption=(
            "µs, bytes, requests per second: median of the processes' best; the ratio is of what "
            "it takes, so that more is always worse; ± what half of the rounds of "
            f"{contest.old.name} and {contest.again.name} were apart. Slower, faster: by more than "
            f"{TOLERANCE:.0%} beyond that"
        ),
    )
    ratio = f"{contest.new.name} / {contest.old.name}"
    for heading in (contest.old.name, contest.new.name, ratio, "± itself", ""):
        table.add_column(heading, justify="right")
    verdicts: list[str] = []
    for name, measured in results.passes.items():
        for case, by_label in measured.cases.items():
            for implementation in names:
                labels = [
                    side.label(implementation) for side in (contest.new, contest.old, contest.again)
                ]
                if not all(label in by_label for label in labels):
                    continue
                for measure in by_label[labels[0]]:
                    if (
                        measure in COUNTS
                        or (measures is not None and measure not in measures)
                        # On one core, with nothing else on it, that is the wall time once more.
                        or (measure == "cpu" and measured.pinned)
                    ):
                        continue
                    rate = measure == "rps"
                    new, old, again = (by_label[label][measure] for label in labels)
                    found = judge(new, old, again, more_is_better=rate)
                    verdicts.append(found.verdict)
                    best = max if rate else min
                    scale = 1 if measure in PLAIN else 1e6
                    figures = (
                        statistics.median(map(best, rounds)) * scale for rounds in (old, new)
                    )
                    table.add_row(
                        *(name, case, implementation, measure),
                        *(f"{figure:,.2f}" for figure in figures),
                        f"{found.ratio:.3f}",
                        f"{found.spread:.1%}",
                        found.verdict,
                    )
    Console(width=None if sys.stdout.isatty() else 150).print(table)
    slower = verdicts.count("slower")
    faster = verdicts.count("faster")
    print(f"{len(verdicts)} rows: {slower} slower, {faster} faster ({contest.about})")
    return 1 if slower else 0


def main(old: Path, new: Path) -> int:
    """Print the comparison; 1 if anything of ours got slower."""
    before, after = (load_all([path])[0] for path in (old, new))
    for name in ("python", "machine"):
        if before.conditions[name] != after.conditions[name]:
            print(
                f"measured on different {name}s: {before.conditions[name]}, "
                f"{after.conditions[name]}",
                file=sys.stderr,
            )
            return 2
    table = Table("pass", "case", "implementation", "measure", "old", "new", "change", "")
    slower = 0
    for name in after.passes:
        if name in before.passes:
            slower += _add_rows(table, name, before.passes[name], after.passes[name])
    Console(width=None if sys.stdout.isatty() else 150).print(table)
    print(f"{slower} of asgibridge's figures got slower (µs, bytes: best (median))")
    return 1 if slower else 0
