"""The pytest-benchmark suite: one implementation per run, and it has to be named.

    ASGIBRIDGE_SPEEDUPS=require pytest -c bench/pytest.ini bench --implementation=compiled

`suite.py` does that for each of them, in processes of their own, and puts the results side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from cases import Case
from implementations import IMPLEMENTATIONS, PEERS, Library, load
from process import warm_up

Bench = Callable[[Case], None]
Timed = Callable[[str, int, Callable[[], Any]], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--implementation",
        choices=(*IMPLEMENTATIONS, *PEERS),
        help="what to measure; asgibridge's kernels need ASGIBRIDGE_SPEEDUPS set to match",
    )
    parser.addoption("--samples", type=int, default=10, help="of each case (default: %(default)s)")


def pytest_configure(config: pytest.Config) -> None:
    name = config.getoption("--implementation")
    if name is None and not config.getoption("--help"):
        raise pytest.UsageError(
            f"--implementation must say what to measure: {(*IMPLEMENTATIONS, *PEERS)}"
        )


def pytest_report_header(config: pytest.Config) -> str:
    return f"measuring {config.getoption('--implementation')}"


@pytest.fixture(scope="session")
def implementation(pytestconfig: pytest.Config) -> str:
    """The name that was given, of an implementation or of a peer."""
    name: str = pytestconfig.getoption("--implementation")
    return name


@pytest.fixture(scope="session")
def library(implementation: str) -> Library | None:
    """The implementation that was named; None is the floor, or a peer."""
    return None if implementation in PEERS else load(implementation)


@pytest.fixture
def timed(benchmark: Any, pytestconfig: pytest.Config) -> Timed:
    """Time a function of no arguments that does so many operations; a round is all of them."""

    def measure(title: str, operations: int, run: Callable[[], Any]) -> None:
        benchmark.extra_info["operations"] = operations
        benchmark.group = title
        benchmark.pedantic(run, rounds=pytestconfig.getoption("--samples"))

    return measure


@pytest.fixture
def bench(timed: Timed, implementation: str, library: Library | None) -> Bench:
    """Measure a case, if the implementation has it."""

    def measure(case: Case) -> None:
        run = case.build(implementation, library)
        if run is None:
            pytest.skip(f"nothing of {case.title} to measure")
        warm_up(case, run)
        timed(case.title, case.operations, partial(run, case.operations))

    return measure
