"""The examples of README.md and of docs/*.md run, and their imports are of public names.

tests/support/examples.py has what is around those that are a part of more, and says which are not
run, and why. Those that need a library run in tests/services.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import children
from conftest import KERNELS
from environment import TOOLS
from examples import AROUND, RUNNER, Example, all_examples, examples

EXAMPLES = all_examples()
PUBLIC = {
    line.split(": ")[0]
    for line in (TOOLS / "public_names.txt").read_text(encoding="utf-8").splitlines()
}

pytestmark = pytest.mark.skipif(not EXAMPLES, reason="needs the documents")


def named(some: list[Example]) -> list[object]:
    return [pytest.param(each, id=f"{each.page}, line {each.line}") for each in some]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("example", named([e for e in EXAMPLES if e.is_run and not e.needs]))
def test_an_example_runs(example: Example, kernel: str, tmp_path: Path) -> None:
    choice = {"pure": "off", "speedups": "require"}[kernel]
    (tmp_path / "example.py").write_text(example.program(), encoding="utf-8")
    done = children.run(
        *("-W", "error", "-c", RUNNER, "example.py"), cwd=tmp_path, ASGIBRIDGE_SPEEDUPS=choice
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("example", named(EXAMPLES))
def test_an_example_imports_public_names(example: Example) -> None:
    if example.code.startswith(">>> "):
        return  # a session
    compile(example.code, example.page, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    assert [name for name in example.imports() if name not in PUBLIC] == []


def test_most_examples_run() -> None:
    left = [each for each in EXAMPLES if not each.is_run]
    assert len(EXAMPLES) >= 50
    assert len(left) <= 5


def test_what_is_around_an_example_is_around_one() -> None:
    """No entry is left of a block that is gone, and none is for two."""
    found = {
        key: sum(each.page == key[0] and key[1] in each.code for each in EXAMPLES) for key in AROUND
    }
    assert {key: number for key, number in found.items() if number != 1} == {}


# --- the reader of them --------------------------------------------------------------------------


def test_examples_are_found() -> None:
    text = "a\n```python\nx = 1\n```\n\n1. a\n\n   ```python\n   if x:\n       y\n   ```\n"
    assert examples("a.md", text) == [
        Example("a.md", 3, "x = 1\n"),
        Example("a.md", 9, "if x:\n    y\n"),
    ]


def test_a_name_that_is_not_public_is_found_out() -> None:
    code = "import asgibridge\nfrom asgibridge.sync import a, b\nimport asyncio\n"
    assert Example("a.md", 1, code).imports() == [
        *("asgibridge", "asgibridge.sync.a", "asgibridge.sync.b"),
    ]
