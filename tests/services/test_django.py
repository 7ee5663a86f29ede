"""The site's own tests, by ``manage.py test``, on each implementation and event loop."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest
import sites
from sites import ASGIREF, COMPILED, PURE, Implementation

from programs import Postgres


@pytest.mark.parametrize(
    ("implementation", "loop"),
    [
        (ASGIREF, "asyncio"),
        (COMPILED, "asyncio"),
        (COMPILED, "uvloop"),
        (PURE, "asyncio"),
        (PURE, "uvloop"),
    ],
    ids=str,
)
def test_the_sites_own_tests(
    postgres: Postgres,
    redis_port: int,
    implementation: Implementation,
    loop: str,
    row: Callable[..., None],
) -> None:
    """Client, AsyncClient, ASGIHandler, live server, Channels' communicators, three layers."""
    started = time.monotonic()
    output = sites.run(
        implementation,
        *("manage.py", "test", "--verbosity", "1", "--noinput"),
        BOARD_POSTGRES_PORT=str(postgres.port),
        BOARD_REDIS_PORT=str(redis_port),
        BOARD_LOOP=loop,
    )
    found = re.search(r"^Ran (\d+) tests in", output, re.MULTILINE)
    assert found is not None, output
    assert int(found[1]) >= 15, output
    assert "\nOK" in output
    assert "skipped" not in output
    assert "Exception ignored" not in output, output
    row(
        f"manage.py test, {loop}",
        **{
            "asgiref is": implementation,
            "tests": found[1],
            "seconds": round(time.monotonic() - started, 1),
        },
    )
