"""Transactions, queries and streams of tasks: ``board``'s tests of them, on each database client.

The tests themselves are in ``site/board``: they run under ``manage.py test``, as a site's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import sites
from sites import COMPILED, PURE, Implementation

KERNELS = pytest.mark.parametrize("implementation", [COMPILED, PURE], ids=str)


@KERNELS
@pytest.mark.parametrize("client", ["psycopg", "psycopg2", "sqlite"])
@pytest.mark.parametrize(
    ("tests", "least"),
    [("transaction_tests", 30), ("query_tests", 10), ("stream_tests", 10)],
)
def test_of_the_board(
    implementation: Implementation,
    client: str,
    tests: str,
    least: int,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    row: Callable[..., None],
) -> None:
    settings = {"BOARD_CLIENT": client, "BOARD_DIRECTORY": str(tmp_path)}
    if client != "sqlite":
        pytest.importorskip(client)
        settings["BOARD_POSTGRES_PORT"] = str(request.getfixturevalue("postgres").port)
    output = sites.run(
        implementation,
        *("manage.py", "test", f"board.{tests}", "--settings", "board.tasks_settings"),
        "--noinput",
        seconds=110,
        **settings,
    )
    found = re.search(r"^Ran (\d+) tests in", output, re.MULTILINE)
    assert found is not None, output
    assert int(found[1]) >= least, output
    assert "\nOK" in output
    assert "skipped" not in output
    assert "Exception ignored" not in output, output
    row(f"{tests}, {client}", **{"asgiref is": implementation, "tests": found[1]})
