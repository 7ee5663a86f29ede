"""changes/ has what towncrier can gather into CHANGELOG.md; each file there says one thing."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path

import pytest

import children
import release
from environment import ROOT

CHANGES = ROOT / "changes"

pytestmark = pytest.mark.skipif(not CHANGES.is_dir(), reason="of a checkout only")


def settings() -> str:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return text.split("[tool.towncrier]")[1]


KINDS = re.findall(r'^directory = "(\w+)"\nname', settings(), re.MULTILINE)


def complaints(folder: Path) -> list[str]:
    said = []
    name = re.compile(rf"(\d+|\+[a-z0-9][a-z0-9-]*)\.({'|'.join(KINDS)})(\.\d+)?\.md")
    for path in release.fragments(folder.parent):
        text = path.read_text(encoding="utf-8")
        if not name.fullmatch(path.name):
            said.append(f"{path.name}: the name is no NUMBER.KIND.md or +WORD.KIND.md")
        if not text.strip():
            said.append(f"{path.name} says nothing")
        if re.search(r"^(#|[-*] )", text, re.MULTILINE):
            said.append(f"{path.name} has a heading or a dash, which towncrier puts itself")
    return said


def test_what_is_there_can_be_gathered() -> None:
    assert complaints(CHANGES) == []


def test_the_page_tells_of_every_kind() -> None:
    assert KINDS == ["added", "changed", "deprecated", "removed", "fixed", "security"]
    page = (CHANGES / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == KINDS


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("12.fixed.md", "A hop is quicker.\n", 0),
        ("+a-word.added.md", "A thing,\nin two lines.\n", 0),
        ("12.fixed.1.md", "Another of the same number.\n", 0),
        ("12.mended.md", "There is no such kind.\n", 1),
        ("a-word.added.md", "A plus sign is missing.\n", 1),
        ("12.fixed.rst", "Not Markdown.\n", 1),
        ("12.fixed.md", "\n", 1),
        ("12.fixed.md", "- A dash.\n", 1),
        ("12.fixed.md", "### Fixed\n\nA heading.\n", 1),
    ],
)
def test_complaints(tmp_path: Path, name: str, text: str, said: int) -> None:
    folder = tmp_path / "changes"
    folder.mkdir()
    (folder / name).write_text(text, encoding="utf-8")
    assert len(complaints(folder)) == said


@pytest.mark.skipif(not importlib.util.find_spec("towncrier"), reason="needs towncrier")
def test_towncrier_writes_a_section_that_a_release_finds(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path)
    before = (tmp_path / "CHANGELOG.md").read_text(encoding="utf-8")
    folder = tmp_path / "changes"
    folder.mkdir()
    (folder / "7.fixed.md").write_text("A hop is quicker.\n", encoding="utf-8")
    (folder / "+a-word.added.md").write_text("A thing,\nin two lines.\n", encoding="utf-8")
    done = children.run(
        *("-m", "towncrier", "build", "--yes", "--version", "9.8.7", "--date", "2030-01-02"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert release.fragments(tmp_path) == []
    assert release.notes(tmp_path, "9.8.7") == (
        "### Added\n\n- A thing,\n  in two lines.\n\n### Fixed\n\n- A hop is quicker. (#7)"
    )
    after = (tmp_path / "CHANGELOG.md").read_text(encoding="utf-8")
    start, end = before.split("<!-- towncrier", 1)
    assert after.startswith(f"{start}<!-- towncrier")
    assert after.endswith(end.split("\n", 1)[1].lstrip())
