"""How the cost grows: with context variables, calls in flight, levels of nesting."""

from __future__ import annotations

import pytest

from cases import Case
from conftest import Bench
from curves import CURVES


# Nesting comes last: it sets the stack size of threads, which would tell on those started later.
@pytest.mark.parametrize("case", [pytest.param(case, id=case.key) for case in CURVES])
def bench_curve(bench: Bench, case: Case) -> None:
    bench(case)
