"""What mypy and pyright say of applications written with our types: all of the good one passes, and
each marked line of the bad one is refused, and nothing else.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from type_checkers import OPTIONS, mypy, pyright

APPLICATIONS = Path(__file__).with_name("typed_applications")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.mark.parametrize("checker", [mypy, pyright])
@pytest.mark.parametrize("name", ["good.py", "bad.py"])
def test_it_says_what_it_must(tmp_path, checker, name):
    source = (APPLICATIONS / name).read_text(encoding="utf-8")
    (tmp_path / name).write_text(source, encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text(OPTIONS)
    found = checker(tmp_path, name)
    expected = {
        number for number, line in enumerate(source.splitlines(), 1) if line.endswith("# error")
    }
    assert set(found) == expected, found
