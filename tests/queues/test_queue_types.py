"""What mypy and pyright say of a program that uses a queue of ints."""

from __future__ import annotations

from pathlib import Path

import pytest

from type_checkers import OPTIONS, mypy, pyright

PROGRAM = Path(__file__).with_name("typed_queues") / "queues_of_numbers.py"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_items_are_typed_on_both_sides(tmp_path, checker):
    source = PROGRAM.read_text(encoding="utf-8")
    (tmp_path / PROGRAM.name).write_text(source, encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text(OPTIONS)
    found = checker(tmp_path, PROGRAM.name)
    expected = {
        number for number, line in enumerate(source.splitlines(), 1) if line.endswith("# error")
    }
    assert set(found) == expected, found
