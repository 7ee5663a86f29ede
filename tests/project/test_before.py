"""What `make bench BENCHFLAGS='--before COMMIT'` calls slower, and what it puts down to noise."""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"

pytestmark = pytest.mark.skipif(not BENCH.exists(), reason="of a checkout only")

# Seven rounds of three processes, each within 1 % of what it takes without noise.
QUIET = [1.0, 1.01, 0.99, 1.0, 0.995, 1.005, 1.0]
QUIET_AGAIN = [1.0, 1.0, 1.01, 0.99, 1.0, 0.99, 1.01]
# Two processes of the same commit are 20 % apart in most rounds.
NOISY = [1.0, 1.2, 1.0, 1.2, 1.0, 1.2, 1.1]
NOISY_AGAIN = [1.2, 1.0, 1.2, 1.0, 1.2, 1.0, 1.1]


@pytest.fixture
def before(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "path", [str(BENCH), *sys.path])
    return importlib.import_module("before")


def processes(values: list[float], factor: float = 1.0) -> list[list[float]]:
    # Two samples of each; the second is disturbed and must not count.
    return [[value * factor, value * factor * 3] for value in values]


@pytest.mark.parametrize(
    ("factor", "verdict"),
    [(1.0, ""), (1.02, ""), (0.98, ""), (1.1, "slower"), (1.06, "slower"), (0.9, "faster")],
)
def test_a_quiet_row_is_judged_by_the_tolerance(before: Any, factor: float, verdict: str) -> None:
    found = before.judge(processes(QUIET, factor), processes(QUIET), processes(QUIET_AGAIN))
    assert found.ratio == pytest.approx(factor, rel=0.01)
    assert found.spread <= 0.015
    assert found.verdict == verdict


@pytest.mark.parametrize(("factor", "verdict"), [(1.1, ""), (1.4, "slower")])
def test_the_spread_of_the_commit_against_itself_is_allowed_too(
    before: Any, factor: float, verdict: str
) -> None:
    found = before.judge(processes(NOISY, factor), processes(NOISY), processes(NOISY_AGAIN))
    assert found.spread == pytest.approx(0.2)
    assert found.verdict == verdict


def test_of_rates_more_is_better(before: Any) -> None:
    def judge(factor: float) -> str:
        new, old, again = (
            [[value, value / 3] for value in values]
            for values in ([value * factor for value in QUIET], QUIET, QUIET_AGAIN)
        )
        return before.judge(new, old, again, more_is_better=True).verdict  # type: ignore[no-any-return]

    assert [judge(0.9), judge(1.0), judge(1.1)] == ["slower", "", "faster"]


def test_a_disturbed_round_is_outvoted(before: Any) -> None:
    disturbed = [*QUIET[:-1], 5.0]
    old, again = processes(QUIET), processes(QUIET_AGAIN)
    assert before.judge(processes(disturbed), old, again).verdict == ""
    assert before.judge(processes(QUIET, 1.1), processes(disturbed), again).verdict == "slower"


def test_only_processes_of_the_same_round_are_compared(before: Any) -> None:
    # The machine gets slower and slower: so do all three alike.
    drift = [value * 1.3**number for number, value in enumerate(QUIET)]
    found = before.judge(processes(drift, 1.1), processes(drift), processes(drift))
    assert found.ratio == pytest.approx(1.1)
    assert found.spread == 0
    assert found.verdict == "slower"


def contest_of(before: Any) -> Any:
    """Of two sides that differ by a variable."""
    new, old = (before.Side(name, {"MODE": name}) for name in ("new", "old"))
    return before.Contest(new, old, "new against old", ("compiled",))


def test_memory_that_does_not_grow_can_be_compared(before: Any) -> None:
    nothing, something = [[0.0]] * 3, [[8.0]] * 3
    assert before.judge(nothing, nothing, nothing).verdict == ""
    assert before.judge(something, nothing, nothing).verdict == "slower"


def test_each_side_has_each_place_in_a_round_equally_often(before: Any) -> None:
    contest = contest_of(before)
    places = Counter(
        (place, side.name)
        for number in range(6)
        for place, side in enumerate(contest.turns(number))
    )
    names = ("new", "old", "old again")
    assert places == {(place, name): 2 for place in range(3) for name in names}
    assert contest.again.environment == contest.old.environment != contest.new.environment


def test_the_rows_are_those_that_say_how_well_something_was_done(before: Any) -> None:
    results = importlib.import_module("results")
    contest = contest_of(before)
    found = results.Results({})
    for name, pinned in (("pinned", True), ("unpinned", False)):
        measured = found.passes[name] = results.Measured(pinned, "asyncio", 7, 2)
        for side, values, factor in (
            (contest.new, QUIET, 1.1),
            (contest.old, QUIET, 1.0),
            (contest.again, QUIET_AGAIN, 1.0),
        ):
            for measure in ("wall", "cpu", "threads"):
                for samples in processes(values, factor):
                    measured.add("hop", side.label("compiled"), measure, samples)
                    if side is contest.new:  # a case that the older side has not got
                        measured.add("newer", side.label("compiled"), measure, samples)
    rows = before.rows(found, contest, ("pure", "compiled"))
    assert [(row.name, row.implementation, row.measure) for row in rows] == [
        ("pinned", "compiled", "wall"),
        ("unpinned", "compiled", "wall"),
        ("unpinned", "compiled", "cpu"),
    ]
    assert {row.comparison.verdict for row in rows} == {"slower"}
    assert (rows[0].old, rows[0].new) == (1.0, 1.1)
    assert before.rows(found, contest, ("compiled",), ("rps",)) == []


def test_a_commit_that_does_not_exist_is_said_so(before: Any) -> None:
    with pytest.raises(before.BuildFailure, match="finding the commit failed"):
        before.before("no-such-commit")
