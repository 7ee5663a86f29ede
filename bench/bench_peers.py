"""Jobs that others' libraries do, too."""

from __future__ import annotations

import pytest

from cases import Case
from conftest import Bench
from peers import PEER_ROWS


@pytest.mark.parametrize("case", [pytest.param(case, id=case.key) for case in PEER_ROWS])
def bench_peers(bench: Bench, case: Case) -> None:
    bench(case)
