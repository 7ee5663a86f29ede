"""tests/tools/foreign.py: which suites it runs, and that what is left out of each is named."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

import foreign


def test_all_suites_unless_some_are_named() -> None:
    assert foreign.suites([]) == list(foreign.SUITES)
    assert foreign.suites(["janus", "anyio"]) == ["janus", "anyio"]


def test_an_unknown_suite_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        foreign.suites(["jannus"])
    assert "no such suite: jannus; there are test_queue, " in capsys.readouterr().err


@pytest.mark.parametrize("suite", foreign.SUITES)
def test_no_file_of_a_suite_is_left_out_unless_it_says_which_are_chosen(
    suite: str, tmp_path: Path
) -> None:
    chosen = foreign.CHOSEN.get(suite, ())
    files = ["tests/test_benchmarks.py", "tests/inner/test_mixed.py"]
    files += [f"tests/{name}" for name in chosen]
    with tarfile.open(tmp_path / "sdist.tar.gz", "w:gz") as tar:
        for name in [*files, f"{suite}/tests/test_in_the_package.py", "tests/data.txt"]:
            tar.addfile(tarfile.TarInfo(f"{suite}-1.0/{name}"), io.BytesIO())
    (tmp_path / "tests").mkdir()
    foreign.unpack_tests(suite, tmp_path / "sdist.tar.gz", tmp_path / "tests")
    unpacked = {path.name for path in (tmp_path / "tests").iterdir()} - {"__init__.py"}
    assert unpacked == set(chosen or ("test_benchmarks.py", "test_mixed.py"))
