"""What starts threads and loops: top-level calls, and ThreadSensitiveContext."""

from __future__ import annotations

import pytest

from cases import ROWS, Case
from conftest import Bench
from loops import LOOPS


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.key)
        for case in (*ROWS, *LOOPS)
        if case.group in ("contexts", "loops")
    ],
)
def bench_contexts(bench: Bench, case: Case) -> None:
    bench(case)
