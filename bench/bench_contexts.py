"""What starts threads and loops: top-level calls, and ThreadSensitiveContext."""

from __future__ import annotations

import pytest

from cases import ROWS, Case
from conftest import Bench


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.key) for case in ROWS if case.group == "contexts"]
)
def bench_contexts(bench: Bench, case: Case) -> None:
    bench(case)
