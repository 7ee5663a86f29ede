"""Hops: between a loop and a thread, and back."""

from __future__ import annotations

import pytest

from cases import ROWS, Case
from conftest import Bench


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.key) for case in ROWS if case.group == "hops"]
)
def bench_hops(bench: Bench, case: Case) -> None:
    bench(case)
