"""The site of the documentation has all pages, and `make docs` finds what is missing in it."""

from __future__ import annotations

import importlib.util
import re
import sys
import zlib
from pathlib import Path
from types import ModuleType

import pytest

import documents
from environment import ROOT

DOCS = ROOT / "docs"
INDEX = DOCS / "index.md"

pytestmark = pytest.mark.skipif(not INDEX.exists(), reason="of a checkout only")


@pytest.fixture(scope="module")
def links() -> ModuleType:
    """The part of the site's configuration that rewrites links; it needs no Sphinx for that."""
    spec = importlib.util.spec_from_file_location("links_of_the_site", DOCS / "_sphinx/links.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def listed(page: Path) -> set[str]:
    """What the tables of contents of a page name, relative to docs."""
    blocks = re.findall(r"^```\{toctree\}\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines() if line[:1] not in ("", ":")]
    names = [re.sub(r".*<(.+)>", r"\1", line) for line in lines]
    folder = page.parent.relative_to(DOCS)
    return {(folder / name).as_posix() for name in names}


# --- pages ---------------------------------------------------------------------------------------


def test_every_page_is_in_the_contents() -> None:
    pages = {path.stem for path in DOCS.glob("*.md")} - {"README", "index"}
    pages |= {f"project/{path.stem}" for path in (DOCS / "project").glob("*.md")}
    assert pages - listed(INDEX) == set()


def test_every_public_module_has_a_page() -> None:
    modules = {name for name in documents.stored_names() if is_module(name)}
    described = {}
    for path in (DOCS / "api").glob("*.md"):
        described.update(dict.fromkeys(re.findall(r"automodule:: (\S+)", path.read_text()), path))
    assert set(described) == modules
    contents = listed(DOCS / "api" / "index.md") | listed(DOCS / "api" / "integrations.md")
    assert contents == {f"api/{path.stem}" for path in described.values()}


def is_module(name: str) -> bool:
    """Whether there is such a module. None is imported, for one of them installs by that."""
    path = ROOT.joinpath("src", *name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def test_every_page_of_the_reference_is_in_its_table() -> None:
    index = (DOCS / "api" / "index.md").read_text(encoding="utf-8")
    in_table = set(re.findall(r"^\| \[[\w.]+\]\((\w+)\.md\)", index, re.MULTILINE))
    assert {f"api/{name}" for name in in_table} == listed(DOCS / "api" / "index.md")


def test_without_the_network_no_outer_address_passes_for_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    built: list[str] = []

    def build(builder: str, target: Path, *more: str) -> bool:
        built.append(builder)
        target.mkdir()
        (target / "index.html").write_text("<p>")
        (target / "objects.inv").write_bytes(b"#\n#\n#\n#\n" + zlib.compress(b""))
        return True

    for name, value in {
        "ROOT": tmp_path,
        "SITE": tmp_path / "site",
        "build": build,
        "is_online": lambda: False,
        "stored_names": list,
    }.items():
        monkeypatch.setattr(documents, name, value)
    monkeypatch.setattr(sys, "argv", ["documents.py"])
    assert documents.main() == 0
    monkeypatch.setattr(sys, "argv", ["documents.py", "--linkcheck"])
    assert documents.main() == 1
    assert "without the network" in capsys.readouterr().err
    assert built == ["html", "html"]


# --- links ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "link", "leads_to"),
    [
        ("docs", "workers.md#the-limit", "/workers.md#the-limit"),
        ("docs", "../CHANGELOG.md", "/project/changelog.md"),
        ("docs/api", "../workers.md", "/workers.md"),
        ("", "docs/workers.md", "/workers.md"),
        ("", "docs/README.md", "/index.md"),
        ("docs", "benchmarks/cpython-3.13-rows.svg", "/benchmarks/cpython-3.13-rows.svg"),
        ("docs", "../README.md", "/index.md"),
        ("docs", "../README.md#use", "SOURCE/blob/main/README.md#use"),
        ("docs", "../tests/matrix.py", "SOURCE/blob/main/tests/matrix.py"),
        ("docs", "../tests/services/", "SOURCE/tree/main/tests/services"),
        ("docs", "#here", "#here"),
        ("docs", "https://example.com/a.md", "https://example.com/a.md"),
        ("docs", "mailto:a@example.com", "mailto:a@example.com"),
    ],
)
def test_a_link_leads_to_a_page_or_to_the_repository(
    links: ModuleType, folder: str, link: str, leads_to: str
) -> None:
    wanted = leads_to.replace("SOURCE", links.repository())
    assert links.rewritten(f"a [b]({link}) c", folder) == f"a [b]({wanted}) c"


def test_links_in_a_code_block_are_left_alone(links: ModuleType) -> None:
    text = "```python\n[a](../b.md)\n```\n"
    assert links.rewritten(text, "docs") == text


def test_a_code_block_without_a_language_is_text(links: ModuleType) -> None:
    text = "a\n\n   ```\n   make\n   ```\n\n```\nb\n```\n"
    assert links.rewritten(text, "docs") == text.replace("```\n   m", "```text\n   m").replace(
        "```\nb", "```text\nb"
    )


def test_the_name_of_a_file_becomes_the_title_of_its_page(links: ModuleType) -> None:
    text = "[docs/workers.md](docs/workers.md), [here](docs/wsgi.md), [a.md](docs/wsgi.md)"
    wanted = "[Workers](/workers.md), [here](/wsgi.md), [a.md](/wsgi.md)"
    assert links.rewritten(text, "") == wanted
    assert links.titles()["streams"] == "Streams and sockets"


def test_a_page_that_takes_a_files_place_has_its_text(links: ModuleType) -> None:
    for path, page in links.PAGES.items():
        assert (ROOT / path).exists()
        if page != "/index.md":
            assert f"{{include}} ../../{path}\n" in (DOCS / page[1:]).read_text(encoding="utf-8")


# --- what `make docs` looks for ------------------------------------------------------------------


def test_the_names_of_an_inventory() -> None:
    lines = (
        "asgibridge.sync.Local py:class 1 api/sync.html#$ -\nstart std:doc -1 start.html Start\n"
    )
    head = b"# Sphinx inventory version 2\n# Project: a\n# Version: 1\n# zlib\n"
    assert documents.entries(head + zlib.compress(lines.encode())) == {"asgibridge.sync.Local"}


def test_a_name_that_is_not_described_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("some_module")

    class Queue:
        def put(self) -> None: ...

    module.Queue = module.SameQueue = Queue  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "some_module", module)
    there = {"some_module", "some_module.Queue", "some_module.Queue.put"}
    names = [f"some_module.{name}" for name in ("Queue.put", "SameQueue.put", "Queue.get", "f")]
    assert documents.missing(names, there) == ["some_module.Queue.get", "some_module.f"]


def test_a_dead_link_is_found_out(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<h1 id="top">a</h1><a href="#top"></a><a href="b.html#there"></a><a href="b.html"></a>'
        '<a href="https://example.com/c.html"></a><img src="d.svg">'
        '<a href="#nowhere"></a><a href="b.html#nowhere"></a><a href="c.html"></a>'
    )
    (tmp_path / "b.html").write_text('<p id="there"></p><a href="a.html#top"></a>')
    assert list(documents.dead_links(tmp_path)) == [
        *("a.html links to d.svg", "a.html links to #nowhere"),
        *("a.html links to b.html#nowhere", "a.html links to c.html"),
    ]
