"""Two result files side by side, for reviewing a change: what got slower, what faster.

A difference counts if even the rounds' minima do not overlap, and it is 5 % or more; else it is
noise. Both must have been measured on the same machine and Python. The macro-benchmark's files
compare too; of requests per second more is better, and the rounds' maxima count.

`sides` is the stricter judge: of two sides that one run has taken in turn (before.py).
"""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from before import TOLERANCE, Contest, Row
from results import COUNTS, Measured, load_all

THRESHOLD = 1.05
PLAIN = {"bytes", "rss", "peak", "rps", *COUNTS}
"""Measures that are no seconds."""
OURS = ("pure", "compiled", "keep", "django", "django-keep")


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


def sides(contest: Contest, found: list[Row]) -> int:
    """Print a contest's rows; 1 if the new side is slower in any."""
    new, old, again = (side.name for side in (contest.new, contest.old, contest.again))
    table = Table(
        *("pass", "case", "implementation", "measure"),
        title=contest.about,
        title_justify="left",
        caption=(
            "µs, bytes, requests per second: median of the processes' best; the ratio is of what "
            "it takes, so that more is always worse; ± what half of the rounds of "
            f"{old} and {again} were apart. Slower, faster: by more than {TOLERANCE:.0%} beyond it"
        ),
    )
    for heading in (old, new, f"{new} / {old}", "± itself", ""):
        table.add_column(heading, justify="right")
    for row in found:
        scale = 1 if row.measure in PLAIN else 1e6
        figures = (figure * scale for figure in (row.old, row.new))
        table.add_row(
            *(row.name, row.case, row.implementation, row.measure),
            *(f"{figure:,.0f}" if figure >= 1000 else f"{figure:.3g}" for figure in figures),
            f"{row.comparison.ratio:.3f}",
            f"{row.comparison.spread:.1%}",
            row.comparison.verdict,
        )
    Console(width=None if sys.stdout.isatty() else 150).print(table)
    verdicts = [row.comparison.verdict for row in found]
    slower, faster = (verdicts.count(each) for each in ("slower", "faster"))
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
