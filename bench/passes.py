"""What a full run measures: which cases, pinned or not, on which loop, how often."""

from __future__ import annotations

from dataclasses import dataclass

from cases import ROWS, Case
from curves import CURVES, LATENCY, MEMORY
from loops import LOOPS
from peers import PEER_ROWS


@dataclass(frozen=True)
class Pass:
    """Cases measured under the same conditions: each round is a process of each implementation."""

    name: str
    cases: tuple[Case, ...]
    rounds: int
    samples: int
    pinned: bool = True
    loop: str = "asyncio"
    quick_samples: int = 2


def _curve(*groups: str) -> tuple[Case, ...]:
    return tuple(case for case in CURVES if case.group in groups)


def _rows(*groups: str) -> tuple[Case, ...]:
    return tuple(case for case in ROWS if case.group in groups)


PASSES = (
    Pass("pinned", ROWS, rounds=10, samples=6),
    Pass("unpinned", ROWS, rounds=7, samples=5, pinned=False),
    Pass("latency", LATENCY, rounds=7, samples=3, pinned=False),
    Pass("uvloop", _rows("hops", "contexts"), rounds=7, samples=5, loop="uvloop"),
    Pass("loops", LOOPS, rounds=6, samples=4, quick_samples=1),
    Pass("peers", PEER_ROWS, rounds=6, samples=4, quick_samples=1),
    Pass("variables", _curve("context variables"), rounds=4, samples=5),
    Pass("in-flight", _curve("in flight", "bare futures"), rounds=4, samples=4, quick_samples=1),
    Pass("contexts", _curve("contexts at once"), rounds=4, samples=4),
    Pass("messages", _curve("messages"), rounds=4, samples=5),
    Pass("nesting", _curve("nesting"), rounds=4, samples=5),
    Pass("memory", MEMORY, rounds=3, samples=1, quick_samples=1),
)
