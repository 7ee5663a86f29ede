"""What mypy and pyright say of programs that use queues, broadcasts and channels of ints."""

from __future__ import annotations

from pathlib import Path

import pytest

from type_checkers import OPTIONS, mypy, pyright

PROGRAMS = sorted(Path(__file__).with_name("typed_queues").glob("*.py"))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
@pytest.mark.parametrize("checker", [mypy, pyright])
def test_items_are_typed_on_both_sides(tmp_path, checker, program):
    source = program.read_text(encoding="utf-8")
    (tmp_path / program.name).write_text(source, encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text(OPTIONS)
    found = checker(tmp_path, program.name)
    expected = {
        number for number, line in enumerate(source.splitlines(), 1) if line.endswith("# error")
    }
    assert set(found) == expected, found
