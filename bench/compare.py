"""Two result files side by side, for reviewing a change: what got slower, what faster.

A difference counts if even the rounds' minima do not overlap, and it is 5 % or more; else it is
noise. Both must have been measured on the same machine and Python. The macro-benchmark's files
compare too; of requests per second more is better, and the rounds' maxima count.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from results import Measured, load_all

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
