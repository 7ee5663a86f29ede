"""What the compiled kernel is held to, and whether it was met.

A target is a condition on measured figures; the figures are never written here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import loops
from cases import ROWS
from curves import CROWD, IN_FLIGHT, LEVELS, VARIABLES
from results import Measured, Results

TITLES = {case.key: case.title for case in ROWS}

# How many times faster than asgiref, pinned to one core: at least, and the aim. Where there are two
# numbers the second is for Python 3.12 and later, on which asgiref's Local is faster.
AT_LEAST: dict[str, tuple[float, ...]] = {
    "hop": (3.5,),
    "gathered": (5,),
    "pool": (3,),
    "variables": (6,),
    "main": (3.5,),
    "worker": (2.5,),
    "top": (9,),
    "context": (10,),
    "build": (4,),
    "bind": (3,),
    "read": (10, 6),
    "write": (4,),
}
AIM: dict[str, float] = {
    "hop": 5,
    "gathered": 6,
    "pool": 4,
    "variables": 8,
    "main": 5,
    "worker": 3.5,
    "top": 12,
    "context": 14,
    "build": 5,
    "bind": 4,
    "read": 15,
    "write": 6,
}
UNPINNED = 2.0
UVLOOP: dict[str, float] = {
    "hop": 3,
    "gathered": 2,
    "pool": 2,
    "variables": 2,
    "main": 2,
    "worker": 2,
    "top": 1.4,
}
CONTEXT_OVER_HOP = 6e-6
"""Seconds that a ThreadSensitiveContext with a call in it may take longer than the call."""
VARIABLES_ADD = 5e-6
"""Seconds that as many variables as we measure may add to a hop that changes none."""
IN_FLIGHT_GROWTH = 1.15
"""How much more the cost of a call may grow than that of a bare future does."""
MEMORY_PART = 1 / 3
"""Of asgiref's peak."""
LINEAR = 1.25
"""How much dearer the deepest level may be than the middle one, to pass for linear."""
SHARED_OVER_PERSISTENT = 1.05
"""The price of a call on the loop that all threads share, by that on a loop of a block: the same,
and what two measurements of one thing differ by."""
FEW, MANY = 100, IN_FLIGHT[-1]


@dataclass(frozen=True)
class Verdict:
    """One condition."""

    case: str
    condition: str
    measured: str
    met: bool


def at_least(case: str, results: Results) -> float | None:
    """How many times faster than asgiref the compiled kernel must be in a row of the table."""
    values = AT_LEAST.get(case)
    return None if values is None else values[-1 if results.version >= (3, 12) else 0]


def verdicts(results: Results) -> list[Verdict]:
    """All conditions that the results have figures for."""
    found: list[Verdict] = []
    judges = {
        "pinned": lambda measured: [*_pinned(measured, results), *_pure(measured)],
        "unpinned": lambda measured: _speed_ups(
            measured, dict.fromkeys(TITLES, UNPINNED), ", unpinned"
        ),
        "latency": _latency,
        "uvloop": lambda measured: _speed_ups(measured, UVLOOP, ", uvloop"),
        "loops": _loops,
        "variables": _variables,
        "in-flight": _in_flight,
        "nesting": _nesting,
        "memory": _memory,
    }
    for name, judge in judges.items():
        measured = results.passes.get(name)
        if measured is not None and any("compiled" in by for by in measured.cases.values()):
            found += judge(measured)
    return found


def _times(value: float) -> str:
    return f"{value:.2f}x" if value < 10 else f"{value:.1f}x"


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.2f} µs"


def _speed_ups(measured: Measured, wanted: dict[str, float], note: str) -> Iterator[Verdict]:
    for case, factor in wanted.items():
        if measured.has(case, "asgiref"):
            ratio = measured.ratio(case, "asgiref", "compiled")
            yield Verdict(
                TITLES[case] + note, f"at least {factor:g}x", _times(ratio), ratio >= factor
            )


def _pinned(measured: Measured, results: Results) -> Iterator[Verdict]:
    wanted = {case: at_least(case, results) or 0.0 for case in AT_LEAST}
    yield from _speed_ups(measured, wanted, "")
    hop = measured.least("hop", "compiled")
    for case, what in (("hop", "the floor's"), ("read", "threading.local's")):
        mine, floor = measured.least(case, "compiled"), measured.least(case, "floor")
        digits = 2 if case == "hop" else 4
        yield Verdict(
            TITLES[case],
            f"no slower than {what} {floor * 1e6:.{digits}f} µs",
            f"{mine * 1e6:.{digits}f} µs",
            mine <= floor,
        )
    context = measured.least("context", "compiled")
    yield Verdict(
        TITLES["context"],
        f"at most a hop + {CONTEXT_OVER_HOP * 1e6:g} µs, {_us(hop + CONTEXT_OVER_HOP)}",
        _us(context),
        context <= hop + CONTEXT_OVER_HOP,
    )


def _pure(measured: Measured) -> Iterator[Verdict]:
    for case, title in TITLES.items():
        if not measured.has(case, "pure"):
            continue  # a row that is newer than what `--only` has kept
        ratio = measured.ratio(case, "asgiref", "pure")
        yield Verdict(f"{title}, pure kernel", "no slower than asgiref", _times(ratio), ratio >= 1)


def _latency(measured: Measured) -> Iterator[Verdict]:
    for name in ("compiled", "pure"):
        mine, theirs = (measured.median("latency", each, "p99") for each in (name, "asgiref"))
        yield Verdict(
            f"99th percentile of a hop, {CROWD} in flight, unpinned, {name}",
            f"no worse than asgiref's {_us(theirs)}",
            _us(mine),
            mine <= theirs,
        )


def _loops(measured: Measured) -> Iterator[Verdict]:
    crowd = loops.CROWD
    mine, theirs = (
        measured.least(loops.key(kind, crowd), "compiled") for kind in ("shared", "persistent")
    )
    yield Verdict(
        f"`async_to_sync` from {crowd} threads at once, on the shared loop",
        f"no dearer than on a persistent one: at most {_us(theirs * SHARED_OVER_PERSISTENT)}",
        _us(mine),
        mine <= theirs * SHARED_OVER_PERSISTENT,
    )


def _variables(measured: Measured) -> Iterator[Verdict]:
    most = VARIABLES[-1]
    added = measured.least(f"variables-{most}", "compiled") - measured.least(
        "variables-0", "compiled"
    )
    yield Verdict(
        f"{most} context variables, none changed",
        f"add less than {VARIABLES_ADD * 1e6:g} µs to a hop",
        _us(added),
        added < VARIABLES_ADD,
    )


def growth(measured: Measured, prefix: str, implementation: str) -> float:
    """How many times dearer a call is with many in flight than with few."""
    return measured.least(f"{prefix}-{MANY}", implementation) / measured.least(
        f"{prefix}-{FEW}", implementation
    )


def _in_flight(measured: Measured) -> Iterator[Verdict]:
    mine = growth(measured, "in-flight", "compiled")
    bare = growth(measured, "bare-futures", "floor")
    limit = bare * IN_FLIGHT_GROWTH
    yield Verdict(
        f"cost per call, {FEW} -> {MANY:,} in flight",
        f"grows at most {IN_FLIGHT_GROWTH:g} times what bare futures' does ({_times(bare)}): "
        f"{_times(limit)}",
        _times(mine),
        mine <= limit,
    )


def _nesting(measured: Measured) -> Iterator[Verdict]:
    middle, deepest = LEVELS[-3], LEVELS[-1]
    ratio = measured.least(f"nested-{deepest}", "compiled") / measured.least(
        f"nested-{middle}", "compiled"
    )
    yield Verdict(
        f"time per level, {middle} -> {deepest} levels",
        f"linear: at most {LINEAR:g}x",
        _times(ratio),
        ratio <= LINEAR,
    )


def _memory(measured: Measured) -> Iterator[Verdict]:
    for case, what in (("traced", "traced"), ("rss", "resident")):
        mine, theirs = (measured.least(case, name, "bytes") for name in ("compiled", "asgiref"))
        yield Verdict(
            f"peak {what} memory per call, {MANY:,} in flight",
            f"at most a third of asgiref's {theirs:,.0f} bytes",
            f"{mine:,.0f} bytes ({mine / theirs:.2f})",
            mine <= theirs * MEMORY_PART,
        )
