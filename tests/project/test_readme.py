"""README.md stays short; what the documents name exists. test_examples.py runs their examples."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = next(
    (each for each in Path(__file__).parents if (each / "README.md").exists()),
    Path(__file__).parent,
)
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
TESTS = next(each for each in Path(__file__).parents if each.name == "tests")

MOST_WORDS = 1500

_LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)")
_FENCED = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
_PLACED = re.compile(r"`([\w/]+\.(?:py|pxi))`\s+`([\w.]+)`")  # a file, and what is in it
_TEST = re.compile(r"`((?:test_|Test)\w+)(?:\.py)?(?:\.(\w+))?`")

pytestmark = pytest.mark.skipif(not DOCUMENTS, reason="needs the documents")


def anchors(text: str) -> set[str]:
    """Of the headings of a Markdown text, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.*)$", _FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def places(name: str) -> list[Path]:
    """The files that a name in the table of entry points stands for: a room has one or two."""
    package = ROOT / "src" / "asgibridge"
    if name.startswith("test_"):
        return list(TESTS.rglob(name))
    if name.endswith("/"):
        return sorted((package / name).glob("*.py"))
    if "." in name:
        return [ROOT / name if (ROOT / name).exists() else package / name]
    rooms = package / "_pure" / f"{name}.py", ROOT / "src" / "_speedups" / f"{name}.pxi"
    return [room for room in rooms if room.exists()]


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def is_defined(file: str, name: str) -> bool:
    """Whether a file of the package or of the compiled kernel defines all parts of ``name``."""
    folder = "_speedups" if file.endswith(".pxi") else "asgibridge"
    path = ROOT / "src" / folder / file
    if not path.exists():
        return False
    text = read(path)
    return all(
        re.search(
            rf"^ *(?:(?:async )?def|(?:cdef )?class|cp?def\b[\w *]*|static void) {part}\b",
            text,
            re.MULTILINE,
        )
        for part in name.split(".")
    )


ENTRIES = [  # the rows of four cells of which the last names a test
    row
    for row in (read(ROOT / "CONTRIBUTING.md").splitlines() if DOCUMENTS else ())
    if row.count("|") == 5 and row.endswith(".py` |")
]


# --- the documents -------------------------------------------------------------------------------


def test_the_map_of_contributors_has_entry_points() -> None:
    assert len(ENTRIES) >= 25


def test_the_readme_is_short() -> None:
    assert len(read(ROOT / "README.md").split()) < MOST_WORDS


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for path, anchor in _LINK.findall(_FENCED.sub("", read(document))):
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), path
        if anchor:
            assert anchor in anchors(read(target)), f"{path}#{anchor}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_tests_that_a_document_names_exist(document: Path) -> None:
    files = {path.stem: read(path) for path in TESTS.rglob("*.py")}
    defined = set(files)
    for text in files.values():
        defined.update(re.findall(r"^ *(?:async def|def|class) (\w+)", text, re.MULTILINE))
    named = {name for match in _TEST.findall(read(document)) for name in match if name}
    assert sorted(named - defined) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_files_that_a_document_names_exist(document: Path) -> None:
    named = set(
        re.findall(r"\b(?:tests|bench|src)/[\w/.-]*\.(?:py|pyx|pxi|supp)\b", read(document))
    )
    assert [each for each in sorted(named) if not (ROOT / each).exists()] == []


@pytest.mark.parametrize("row", ENTRIES, ids=lambda row: row.split("|")[1].strip())
def test_an_entry_point_is_where_the_table_says(row: str) -> None:
    """CONTRIBUTING.md's: each file exists, and each name is defined in one of them."""
    where, names = row.split("|")[2:4]
    files = [path for name in re.findall(r"`([^`]+)`", where) for path in places(name)]
    assert files
    text = "\n".join(map(read, files))
    for name in re.findall(r"`(?:\w+\.)?(\w+)`", names):
        definition = rf"^ *(?:(?:async )?def|(?:cdef )?class) {name}\b|^{name}\b.* = "
        assert re.search(definition, text, re.MULTILINE), name


def test_the_functions_that_the_map_names_are_where_it_says() -> None:
    """docs/architecture.md's: each file exists, and each class and function is defined in it."""
    named = set(_PLACED.findall(read(ROOT / "docs" / "architecture.md")))
    assert len(named) >= 50
    assert [each for each in sorted(named) if not is_defined(*each)] == []


def test_the_files_of_a_floor_are_in_its_folder() -> None:
    """docs/architecture.md's plan: what stands beside `_folder/` is in that."""
    rows = re.findall(
        r"^\|[^|]*\| `(\w+)/` \|(.*)\|$", read(ROOT / "docs" / "architecture.md"), re.MULTILINE
    )
    named = [(folder, name) for folder, text in rows for name in re.findall(r"`(\w+\.py)`", text)]
    assert len(named) >= 15
    package = ROOT / "src" / "asgibridge"
    assert [each for each in named if not package.joinpath(*each).exists()] == []


def test_every_page_is_in_the_index() -> None:
    index = read(ROOT / "docs" / "README.md")
    linked = {path for path, _ in _LINK.findall(index)}
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - {
        "README.md",
        "index.md",
    } <= linked


# --- the reader of them --------------------------------------------------------------------------


def test_a_function_that_is_missing_is_found_out() -> None:
    text = "by `sync.py`\n`SyncToAsync.__call__`, `inbox.pxi` `Inbox.no_such`, `sync.py` alone"
    assert _PLACED.findall(text) == [
        ("sync.py", "SyncToAsync.__call__"),
        ("inbox.pxi", "Inbox.no_such"),
    ]
    assert is_defined("sync.py", "SyncToAsync.__call__")
    assert is_defined("inbox.pxi", "Inbox.add")
    assert not is_defined("inbox.pxi", "Inbox.no_such")
    assert not is_defined("sync.py", "NoSuchClass.__call__")
    assert not is_defined("no_such.py", "f")


def test_anchors_are_githubs() -> None:
    text = "# A `b.c`, d\n```\n# no heading\n```\n## `fresh` and `keep`\n"
    assert anchors(text) == {"a-bc-d", "fresh-and-keep"}
