"""The working tree against an older commit, or one setting against another: what is taken in turn,
and how it is judged.

A contest has two sides, and runs the older one twice in each round: new, old, old again. How far
the older side's two runs are apart is what the machine adds by itself, and no difference below it
is held against anybody. `paired.py` and `macro.py` measure; `compare.py` prints the table.
"""

from __future__ import annotations

import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Container, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from implementations import OURS
from results import COUNTS, Results, Rounds, conditions

ROOT = Path(__file__).resolve().parents[1]
TOLERANCE = 0.03
"""How much more than before a row may take, beyond what the machine adds. Arbitrary: a review can
still find the cause of so much."""

LEAST_ROUNDS = 7
"""Of a contest. The spread is itself measured: with four rounds one unchanged row in thirty would
be found slower where one process in ten is disturbed, with seven one in three hundred.
"""
QUICK_ROUNDS = 3
"""Rough; a single round would say nothing of its spread."""


class BuildFailure(Exception):
    """The older commit could not be built; the message says which step failed, and its output."""


@dataclass(frozen=True)
class Side:
    """One side of a contest."""

    name: str
    environment: dict[str, str] = field(default_factory=dict)
    """What its processes have in theirs, besides what names the kernel."""
    answers: dict[str, Any] = field(default_factory=dict)
    """What a server of the site must say that it runs."""

    def label(self, implementation: str) -> str:
        """What the samples of one implementation are filed under."""
        return f"{implementation}, {self.name}"

    def has(self, file: str) -> bool:
        """Whether its package, if it is another than the installed one, has that file."""
        return "package" not in self.answers or Path(self.answers["package"], file).exists()


@dataclass(frozen=True)
class Contest:
    """Two sides, of which the older one is run twice."""

    new: Side
    old: Side
    about: str
    """What the sides are, and what is the same for both."""
    implementations: tuple[str, ...] = OURS
    """That have both sides."""

    @property
    def again(self) -> Side:
        return replace(self.old, name=f"{self.old.name} again")

    def turns(self, number: int) -> tuple[Side, ...]:
        """The order in the round of that number: each side is first, second and last in turn."""
        sides = (self.new, self.old, self.again)
        first = number % len(sides)
        return sides[first:] + sides[:first]


def before(commit: str) -> Contest:
    """The working tree against that commit, which is built; both leave threads to the scheduler.

    Raises BuildFailure.
    """
    sha = _run("finding the commit", ["git", "rev-parse", "--verify", f"{commit}^{{commit}}"])
    package = _build(sha)
    old = package / "asgibridge"
    about = f"before: {sha[:12]}"
    more: dict[str, str] = {}
    if _knows_placement(old):
        more = {_PLACEMENT: "scheduler"}
        about += f", with {_PLACEMENT}=scheduler"
    return Contest(
        Side("now"),
        Side("before", {**more, "PYTHONPATH": str(package)}, {"package": str(old)}),
        about,
    )


_PLACEMENT = "ASGIBRIDGE_PLACEMENT"


def _knows_placement(package: Path) -> bool:
    # Older commits put a woken worker on its waker's core by default, which moves the unpinned rows
    # more than any code does. Newer ones warn of a variable that means nothing to them.
    code = (file for file in package.rglob("*") if file.suffix in (".py", ".so"))
    return any(_PLACEMENT.encode() in file.read_bytes() for file in code)


def _run(step: str, command: list[str], **more: str) -> str:
    hidden = ("ASGIBRIDGE_SPEEDUPS", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**kept, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    except OSError as error:
        raise BuildFailure(f"{step} failed: {error}") from error
    if done.returncode != 0:
        raise BuildFailure(f"{step} failed:\n  {' '.join(command)}\n{done.stdout}")
    return done.stdout.strip()


def _build(sha: str) -> Path:
    """The folder that holds the commit's package, with its compiled kernel; made once.

    To stand first on PYTHONPATH: all that the benchmarks need besides comes from this process's
    own environment, so that both sides have the same event loop and the same Django.
    """
    target = ROOT / ".venv" / f"before-{Results(conditions()).name}"
    finished = target / "COMMIT"
    if finished.exists() and finished.read_text() == sha:
        return target
    shutil.rmtree(target, ignore_errors=True)
    print(f"building {sha[:12]}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as scratch:
        archive, sources = Path(scratch, "sources.zip"), Path(scratch, "sources")
        command = ["git", "archive", "--format=zip", f"--output={archive}", sha]
        _run("reading the commit", command)
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(sources)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        command += ["--target", str(target), str(sources)]
        _run("building the commit", command, ASGIBRIDGE_SPEEDUPS="require")
    probe = "import asgibridge; print(asgibridge.IMPLEMENTATION, asgibridge.__file__)"
    command = [sys.executable, "-c", probe]
    found = _run(
        "importing what was built",
        command,
        ASGIBRIDGE_SPEEDUPS="require",
        PYTHONPATH=str(target),
    )
    wanted = f"speedups {target / 'asgibridge' / '__init__.py'}"
    if found != wanted:
        raise BuildFailure(f"importing what was built found {found}, not {wanted}")
    finished.write_text(sha)
    return target


@dataclass(frozen=True)
class Comparison:
    """One row: what the new side takes, as a multiple of what the old side takes."""

    ratio: float
    """The median of the rounds."""
    spread: float
    """Of the old side against itself: in half of the rounds its two runs were further apart."""

    @property
    def verdict(self) -> str:
        """``slower`` or ``faster`` if it is so beyond the spread and the tolerance, or ``""``."""
        allowed = self.spread + TOLERANCE
        if self.ratio > 1 + allowed:
            return "slower"
        return "faster" if self.ratio < 1 / (1 + allowed) else ""


def judge(new: Rounds, old: Rounds, again: Rounds, *, more_is_better: bool = False) -> Comparison:
    """Compare samples, of which each inner list is one process's and each round has one of each.

    Only processes of the same round are compared with each other. A process counts with its best
    sample, since noise only adds, and the old side of a round with the mean of its two.
    """

    def costs(rounds: Rounds) -> list[float]:
        return [1 / max(each) if more_is_better else min(each) for each in rounds]

    rounds = list(zip(costs(new), costs(old), costs(again)))
    return Comparison(
        statistics.median(_over(a, math.sqrt(b * c)) for a, b, c in rounds),
        statistics.median(_over(max(b, c), min(b, c)) - 1 for _, b, c in rounds),
    )


def _over(one: float, other: float) -> float:
    # Memory may not have grown at all.
    if other == 0:
        return 1.0 if one == 0 else math.inf
    return one / other


@dataclass(frozen=True)
class Row:
    """What a contest measured of one case, and the comparison."""

    name: str
    """The pass's."""
    case: str
    implementation: str
    measure: str
    old: float
    """The median of the processes' best."""
    new: float
    comparison: Comparison


def rows(
    results: Results,
    contest: Contest,
    implementations: Iterable[str],
    measures: Container[str] | None = None,
) -> list[Row]:
    """A contest's rows, of these measures or of all that say how well something was done; without
    what the older side has not got."""
    return [
        Row(name, case, implementation, measure, *_compared(by_label, labels, measure))
        for name, measured in results.passes.items()
        for case, by_label in measured.cases.items()
        for implementation in implementations
        for labels in [[side.label(implementation) for side in contest.turns(0)]]
        if all(label in by_label for label in labels)
        for measure in by_label[labels[0]]
        # On one core, with nothing else on it, the CPU time is the wall time once more.
        if not (measure == "cpu" and measured.pinned)
        and measure not in COUNTS
        and (measures is None or measure in measures)
    ]


def _compared(
    by_label: dict[str, dict[str, Rounds]], labels: list[str], measure: str
) -> tuple[float, float, Comparison]:
    rate = measure == "rps"
    new, old, again = (by_label[label][measure] for label in labels)
    best = max if rate else min
    medians = [statistics.median(best(each) for each in rounds) for rounds in (old, new)]
    return medians[0], medians[1], judge(new, old, again, more_is_better=rate)
