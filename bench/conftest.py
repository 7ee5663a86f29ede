"""The pytest-benchmark suite: one implementation per run, and it has to be named.

    ASGIBRIDGE_SPEEDUPS=require pytest -c bench/pytest.ini bench --implementation=compiled

`suite.py` does that for each of them, in processes of their own, and puts the results side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cases import Case
from implementations import IMPLEMENTATIONS, Library, load
from process import warm_up

Bench = Callable[[Case], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--implementation",
        choices=IMPLEMENTATIONS,
        help="what to measure; asgibridge's kernels need ASGIBRIDGE_SPEEDUPS set to match",
    )
    parser.addoption("--samples", type=int, default=10, help="of each case (default: %(default)s)")


def pytest_configure(config: pytest.Config) -> None:
    name = config.getoption("--implementation")
    if name is None and not config.getoption("--help"):
        raise pytest.UsageError(f"--implementation must say what to measure: {IMPLEMENTATIONS}")


def pytest_report_header(config: pytest.Config) -> str:
    return f"measuring {config.getoption('--implementation')}"


@pytest.fixture(scope="session")
def library(pytestconfig: pytest.Config) -> Library | None:
    """The implementation that was named; None is the floor."""
    return load(pytestconfig.getoption("--implementation"))


@pytest.fixture
def bench(benchmark: Any, library: Library | None, pytestconfig: pytest.Config) -> Bench:
    """Measure a case, if the implementation has it. A round is all its operations."""

    def measure(case: Case) -> None:
        run = case.build(library)
        if run is None:
            pytest.skip(f"nothing of {case.title} to measure")
        benchmark.extra_info["operations"] = case.operations
        benchmark.group = case.title
        warm_up(case, run)
        rounds = pytestconfig.getoption("--samples")
        benchmark.pedantic(run, args=(case.operations,), rounds=rounds)

    return measure
