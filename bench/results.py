"""The results of a run: every sample, under which conditions, and what is read off them.

Samples are kept round by round: each round is one process of each implementation, in turn. The
least of all is what is compared, because noise only ever adds; the range of the rounds' ratios says
how far to trust it.
"""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

Rounds = list[list[float]]

COUNTS = {"threads", "started", "hops", "submitted"}
"""Measures that say what happened, not how well."""


def conditions(more: Iterable[str] = ()) -> dict[str, str]:
    """What a figure depends on, besides the code; ``more`` names packages that count too."""
    versions = {}
    for package in ("asgibridge", "asgiref", "uvloop", *more):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            pass
    free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    return {
        "python": platform.python_version() + "t" * free_threaded,
        "implementation": platform.python_implementation(),
        "compiler": platform.python_compiler(),
        "machine": f"{_processor()}, {platform.machine()}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.release()}",
        **versions,
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    except OSError:
        pass
    return platform.processor() or "unknown processor"


@dataclass
class Measured:
    """One pass over some cases."""

    pinned: bool
    loop: str
    rounds: int
    samples: int
    cases: dict[str, dict[str, dict[str, Rounds]]] = field(default_factory=dict)
    """Samples by case, implementation and measure, a list for each round."""

    def add(self, case: str, implementation: str, measure: str, samples: list[float]) -> None:
        by_measure = self.cases.setdefault(case, {}).setdefault(implementation, {})
        by_measure.setdefault(measure, []).append([float(f"{value:.4g}") for value in samples])

    def has(self, case: str, implementation: str, measure: str = "wall") -> bool:
        return measure in self.cases.get(case, {}).get(implementation, {})

    def rounds_of(self, case: str, implementation: str, measure: str = "wall") -> Rounds:
        return self.cases[case][implementation][measure]

    def least(self, case: str, implementation: str, measure: str = "wall") -> float:
        return min(min(each) for each in self.rounds_of(case, implementation, measure))

    def most(self, case: str, implementation: str, measure: str = "wall") -> float:
        return max(max(each) for each in self.rounds_of(case, implementation, measure))

    def median(self, case: str, implementation: str, measure: str = "wall") -> float:
        samples = [
            value for each in self.rounds_of(case, implementation, measure) for value in each
        ]
        return statistics.median(samples)

    def ratio(self, case: str, one: str, other: str, measure: str = "wall") -> float:
        """How many times less ``other`` takes than ``one``, by their minima."""
        return self.least(case, one, measure) / self.least(case, other, measure)

    def ratios(self, case: str, one: str, other: str, measure: str = "wall") -> list[float]:
        """The same of each round by itself."""
        pairs = zip(self.rounds_of(case, one, measure), self.rounds_of(case, other, measure))
        return [min(a) / min(b) for a, b in pairs]


@dataclass
class Results:
    """All passes on one Python."""

    conditions: dict[str, str]
    passes: dict[str, Measured] = field(default_factory=dict)

    @property
    def python(self) -> str:
        return self.conditions["python"]

    @property
    def version(self) -> tuple[int, int]:
        major, minor = self.python.split(".")[:2]
        return int(major), int(minor)

    @property
    def name(self) -> str:
        """Of its files: such as cpython-3.13, or cpython-3.14t."""
        major, minor = self.version
        suffix = "t" * self.python.endswith("t")
        return f"{self.conditions['implementation'].lower()}-{major}.{minor}{suffix}"

    def save(self, path: Path) -> None:
        whole: dict[str, Any] = {
            "conditions": self.conditions,
            "passes": {name: vars(measured) for name, measured in self.passes.items()},
        }
        text = json.dumps(whole, indent=1)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_lists_on_one_line(text) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Results:
        whole = json.loads(path.read_text(encoding="utf-8"))
        passes = {name: Measured(**measured) for name, measured in whole["passes"].items()}
        return cls(whole["conditions"], passes)


def load_all(paths: Iterable[Path]) -> list[Results]:
    """Those of several Pythons, oldest first; ends the program if a file holds none."""
    found = []
    for path in paths:
        try:
            found.append(Results.load(path))
        except (OSError, ValueError, KeyError, TypeError) as error:
            sys.exit(f"{path} holds no benchmark results ({type(error).__name__}: {error})")
    return sorted(found, key=lambda results: (results.version, results.python))


def _lists_on_one_line(text: str) -> str:
    return re.sub(r"\[\s+([^\[\]]*?)\s+\]", lambda m: f"[{' '.join(m[1].split())}]", text)
