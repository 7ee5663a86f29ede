"""tests/tools/downstream.py: each suite is pinned, and what a run came to is told as it was."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import downstream

JUNIT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite>
<testcase classname="tests.test_a" name="test_passes" />
<testcase classname="tests.test_a" name="test_skipped"><skipped type="pytest.skip" message="x" />
</testcase>
<testcase classname="tests.test_a" name="test_known"><skipped type="pytest.xfail" message="" />
</testcase>
<testcase classname="tests.test_a" name="test_fails">
<failure message="AssertionError: 12 is not 13">Traceback</failure></testcase>
<testcase classname="tests.test_a" name="test_fails"><error message="a.b.Error: at 0x12">
Traceback</error></testcase>
</testsuite></testsuites>
"""


@pytest.mark.parametrize("name", downstream.SUITES)
def test_each_suite_is_one_state_of_its_sources(name: str) -> None:
    suite = downstream.SUITES[name]
    pins = (suite.sha256, "") if suite.sha256 else (suite.commit, suite.repository)
    assert re.fullmatch(r"[0-9a-f]{64}" if suite.sha256 else r"[0-9a-f]{40}", pins[0])
    assert bool(suite.repository) == bool(suite.commit) != bool(suite.sha256)
    assert re.fullmatch(r"\d+(\.\d+)+", suite.version)


def test_an_outcome_is_compared_without_what_differs_from_run_to_run(tmp_path: Path) -> None:
    (tmp_path / "junit.xml").write_text(JUNIT)
    found = downstream.read(tmp_path / "junit.xml")
    assert found == {
        "tests.test_a::test_passes": "passed",
        "tests.test_a::test_skipped": "skipped",
        "tests.test_a::test_known": "xfailed",
        "tests.test_a::test_fails": "failure: AssertionError, error: a.b.Error",
    }
    assert downstream.summary(found) == "1 passed, 1 failure, 1 skipped, 1 xfailed"


def test_a_row_takes_the_place_of_the_one_before() -> None:
    text = f"above\n{downstream.MARK}\n{downstream.MARK}\nbelow\n"
    for rows in ({"daphne": "| daphne | 1 |"}, {"channels": "| channels | 1 |"}):
        text = downstream.with_rows(text, rows, "Somewhere.")
    text = downstream.with_rows(text, {"daphne": "| daphne | 2 |"}, "Elsewhere.")
    assert text == (
        f"above\n{downstream.MARK}\n{downstream.HEAD}| channels | 1 |\n| daphne | 2 |\n"
        f"\nElsewhere.\n{downstream.MARK}\nbelow\n"
    )


def test_the_page_has_no_row_of_another_release() -> None:
    if not downstream.DOCUMENT.exists():
        pytest.skip("of a checkout only")
    table = downstream.DOCUMENT.read_text(encoding="utf-8").split(downstream.MARK)[1]
    rows = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in rows_of(table)}
    assert rows
    assert rows == {name: downstream.SUITES[name].version for name in rows}


def rows_of(table: str) -> list[str]:
    return [line for line in table.splitlines() if line.startswith("|")][2:]


def test_an_unknown_suite_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["downstream.py", "chanels"])
    with pytest.raises(SystemExit):
        downstream.main()
    assert "no such suite: chanels; there are channels, " in capsys.readouterr().err
