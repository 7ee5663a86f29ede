"""The servers, once for all tests, and the table at the end of the run."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# So that the files import each other by name, as those of tests/ do.
sys.path.insert(0, str(HERE))

import sites  # noqa: E402

import programs  # noqa: E402
from programs import Postgres  # noqa: E402

_ROWS = pytest.StashKey[list[dict[str, object]]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_ROWS] = []
    # A background job of a shell's ignores Ctrl-C, and so would the servers, which are ended by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def row(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Add a row to the table at the end of the run: what was done, and figures by name."""
    rows = request.config.stash[_ROWS]

    def add(what: str, **figures: object) -> None:
        rows.append({"": what, **figures})

    return add


def _needs(service: str) -> None:
    if programs.find(service) is None:
        pytest.skip(f"NOT TESTED: no {service} here (Debian: {programs.PACKAGES[service]})")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server with the site's tables."""
    _needs("PostgreSQL")
    with programs.postgres() as server:
        sites.run(
            sites.ASGIREF,
            *("manage.py", "migrate", "--verbosity", "0"),
            BOARD_POSTGRES_PORT=str(server.port),
        )
        yield server


@pytest.fixture(scope="session")
def redis_port() -> Iterator[int]:
    """The port of a Redis server."""
    _needs("Redis")
    with programs.redis() as port:
        yield port


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    rows = terminalreporter.config.stash[_ROWS]
    # One table for each set of columns.
    for columns in dict.fromkeys(tuple(row) for row in rows):
        table = [columns, *(tuple(row.values()) for row in rows if tuple(row) == columns)]
        texts = [[str(value) for value in line] for line in table]
        widths = [max(map(len, column)) for column in zip(*texts)]
        terminalreporter.write_line("")
        for first, *others in texts:
            cells = [text.rjust(width) for text, width in zip(others, widths[1:])]
            terminalreporter.write_line("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    skipped = {report.longrepr[2] for report in terminalreporter.stats.get("skipped", [])}
    for reason in sorted(skipped):
        terminalreporter.write_line(reason.removeprefix("Skipped: "), red=True, bold=True)
