"""docs/testing.md: tests made by `async_to_sync`, as pytest collects and runs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from children import run
from conftest import KERNELS

TESTS = """
import sqlite3

import pytest

from asgibridge.sync import async_to_sync, sync_to_async

NAMES = "select name from note"


@pytest.fixture(scope="session")
def database(tmp_path_factory):
    path = tmp_path_factory.mktemp("database") / "notes"
    with sqlite3.connect(path) as connection:
        connection.execute("create table note (name)")
    connection.close()
    return path


@pytest.fixture
def transaction(database):
    # Refuses other threads than this one, and is seen by nobody else.
    connection = sqlite3.connect(database)
    connection.execute("insert into note values ('fixture')")
    yield connection
    connection.rollback()
    assert connection.execute(NAMES).fetchall() == []
    connection.close()


@sync_to_async
def names(connection):
    return [name for (name,) in connection.execute(NAMES)]


@async_to_sync
async def test_it_sees_the_transaction(transaction):
    assert await names(transaction) == ["fixture"]


@pytest.mark.parametrize("name", ["one", "two"])
@async_to_sync
async def test_what_it_writes_is_rolled_back(transaction, name):
    await sync_to_async(transaction.execute)("insert into note values (?)", [name])
    assert await names(transaction) == ["fixture", name]


class TestMethods:
    @async_to_sync
    async def test_method(self, transaction):
        assert await names(transaction) == ["fixture"]


@async_to_sync
async def test_that_fails(transaction):
    assert await names(transaction) == ["something else"]
"""


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("options", [["-p", "no:asyncio"], ["-o", "asyncio_mode=auto"]], ids=str)
def test_what_the_document_says(tmp_path: Path, kernel: str, options: list[str]) -> None:
    (tmp_path / "test_notes.py").write_text(TESTS)
    choice = {"pure": "off", "speedups": "require"}[kernel]
    common = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore"]
    done = run(*common, *options, cwd=tmp_path, ASGIBRIDGE_SPEEDUPS=choice)
    assert "4 passed" in done.stdout, done.stdout + done.stderr
    assert "1 failed" in done.stdout
    assert "FAILED test_notes.py::test_that_fails - AssertionError" in done.stdout
