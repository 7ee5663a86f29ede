"""The page with everything that `make bench` has measured, the history, and the peers by name."""

from __future__ import annotations

import base64
import gzip
import importlib
import json
import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from environment import ROOT

BENCH = ROOT / "bench"

pytestmark = pytest.mark.skipif(not BENCH.exists(), reason="of a checkout only")

MARKDOWN = """\
# Benchmarks

`make bench` writes this page <of figures>. **Bold.**

[benchmarks-report.html](benchmarks-report.html) is this page as one file.

## CPython 3.13.0

python 3.13.0; machine Some Processor, x86_64, 2 cores; asgiref 3.13.0; asgibridge 0.2.0.

![How the cost grows](benchmarks/rows.svg)

### Every crossing

µs: minimum (median)

| case | asgiref | met |
|---|---:|---:|
| `await f()` | 54.4 | yes |
| a < b | 1.0 | **no** |

- anyio has no `Local`
- trio, as anyio
"""
DRAWING = """\
<?xml version="1.0"?>
<svg xmlns="http://www.w3.org/2000/svg" width="1"
 height="1"><!-- % --><style>a{fill:#fff}</style></svg>
"""
VOID = {"meta", "img", "br"}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    monkeypatch.setattr(sys, "path", [str(BENCH), *sys.path])
    return importlib.import_module


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    (tmp_path / "benchmarks" / "site").mkdir(parents=True)
    (tmp_path / "benchmarks.md").write_text(MARKDOWN, encoding="utf-8")
    (tmp_path / "benchmarks" / "rows.svg").write_text(DRAWING, encoding="utf-8")
    return tmp_path


class Page(HTMLParser):
    """What a page asks for, its text, and whether each element ends."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.places: list[str] = []
        self.words: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name in ("href", "src", "srcset", "data", "action"):
                self.asked.append(value or "")
            if name == "id":
                self.places.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def page_of(bench: Any, docs: Path) -> tuple[Page, str]:
    bench("page").write(docs)
    text = (docs / "benchmarks-report.html").read_text(encoding="utf-8")
    return Page(text), text


def samples_of(page: Page) -> list[Any]:
    packed = [each.partition(";base64,")[2] for each in page.asked if "/gzip;" in each]
    return [json.loads(gzip.decompress(base64.b64decode(each))) for each in packed]


# --- the page ------------------------------------------------------------------------------------


def test_the_page_needs_nothing_but_itself(bench: Any, docs: Path) -> None:
    page, text = page_of(bench, docs)
    assert page.open == []
    assert [each for each in page.asked if not each.startswith(("data:", "#"))] == []
    assert {each[1:] for each in page.asked if each.startswith("#")} <= set(page.places)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert "@import" not in text
    assert "url(" not in text
    assert "prefers-color-scheme: dark" in text


def test_the_page_says_what_the_markdown_says(bench: Any, docs: Path) -> None:
    page, text = page_of(bench, docs)
    said = "".join(page.words)
    for words in (
        "writes this page <of figures>. Bold.",
        "Some Processor, x86_64, 2 cores",
        "54.4",
    ):
        assert words in said
    assert "is this page as one file" not in said
    assert "<dt>asgiref</dt><dd>3.13.0</dd>" in text
    assert '<td class="figure bad"><strong>no</strong></td>' in text
    assert '<td class="figure good">yes</td>' in text
    assert "<li>anyio has no <code>Local</code></li><li>trio, as anyio</li>" in text.replace(
        "\n", ""
    )
    assert page.tags.count("tr") == 3
    assert "make bench PYTHON=" in said


def test_a_plot_is_in_the_page_as_it_is(bench: Any, docs: Path) -> None:
    page, _ = page_of(bench, docs)
    (drawn,) = (each for each in page.asked if each.startswith("data:image/svg+xml"))
    assert drawn.partition(",")[2] == (
        "<svg xmlns='http://www.w3.org/2000/svg' width='1' height='1'>"
        "<style>a{fill:%23fff}</style></svg>"
    )


def test_the_samples_are_in_the_page_and_stay_there(bench: Any, docs: Path) -> None:
    one, other = {"passes": {"pinned": [1.5]}}, {"passes": {}}
    files = docs / "benchmarks" / "cpython-3.13.json", docs / "benchmarks" / "site" / "a.json"
    for path, content in zip(files, (one, other)):
        path.write_text(json.dumps(content), encoding="utf-8")
    page, first = page_of(bench, docs)
    assert samples_of(page) == [one, other]
    files[0].unlink()  # as in another checkout: git does not keep them
    page, second = page_of(bench, docs)
    assert samples_of(page) == [one, other]
    assert first == second


def test_the_committed_page_is_of_the_committed_markdown(bench: Any, tmp_path: Path) -> None:
    source = ROOT / "docs" / "benchmarks.md"
    html = (ROOT / "docs" / "benchmarks-report.html").read_text(encoding="utf-8")
    markdown = source.read_text(encoding="utf-8")
    made = list(bench("page").blocks(markdown, ROOT / "docs"))
    assert [block for block in made if block not in html] == []
    names = set(re.findall(r"^## .*?(\d\.\d+)", markdown, re.MULTILINE))
    for name in names:
        assert f'download="cpython-{name}.json.gz"' in html


# --- the history ---------------------------------------------------------------------------------


def results(bench: Any, version: str, asgiref: float, ours: float, python: str = "3.13.0") -> Any:
    module = bench("results")
    measured = module.Measured(True, "asyncio", 1, 2)
    measured.add("hop", "asgiref", "wall", [asgiref, asgiref * 2])
    measured.add("hop", "compiled", "wall", [ours * 3, ours])
    about = {"python": python, "implementation": "CPython", "machine": "a machine"}
    return module.Results({**about, "asgibridge": version}, {"pinned": measured})


def test_a_release_is_a_line_of_the_history(bench: Any, docs: Path) -> None:
    history = bench("history")
    for version, ours in (("0.10.0", 5e-6), ("0.9.0", 20e-6), ("0.9.0", 10e-6)):
        entry = history.entry_of(results(bench, version, 40e-6, ours), "2026-01-02")
        history.save(docs, history.added(history.load(docs), [entry]))
    lines = (docs / "benchmarks" / "history.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["version"] for line in lines] == ["0.9.0", "0.10.0"]
    first = json.loads(lines[0])
    assert first["date"] == "2026-01-02"
    assert first["conditions"]["machine"] == "a machine"
    assert first["microseconds"] == {"hop": {"asgiref": 40.0, "compiled": 10.0}}


def test_other_pythons_and_machines_have_lines_of_their_own(bench: Any) -> None:
    history = bench("history")
    one, other = (
        history.entry_of(results(bench, "0.1.0", 4, 1, python), "2026-01-02")
        for python in ("3.13.0", "3.11.7")
    )
    elsewhere = {**one, "conditions": {**one["conditions"], "machine": "another"}}
    assert len(history.added([one], [other, elsewhere])) == 3


def test_a_curve_has_the_quotient_of_one_run(bench: Any) -> None:
    history = bench("history")
    entries = [
        history.entry_of(results(bench, "0.1.0", 40e-6, 10e-6), "2026-01-02"),
        history.entry_of(results(bench, "0.2.0", 80e-6, 10e-6), "2026-02-02"),
    ]
    (curve,) = history.curves(entries, "hop", ("compiled", "pure"))
    assert (curve.kernel, curve.points) == ("compiled", [("0.1.0", 4.0), ("0.2.0", 8.0)])


def test_the_committed_history_can_be_read(bench: Any) -> None:
    history = bench("history")
    entries = history.load(ROOT / "docs")
    assert entries == history.added([], entries)
    for entry in entries:
        assert history.quotient(entry, "hop", "compiled") > 0


# --- peers ---------------------------------------------------------------------------------------


def test_each_peer_is_measured_or_it_is_said_why_not(bench: Any) -> None:
    implementations, peers = bench("implementations"), bench("peers")
    assert set(implementations.PEERS) | {"asgiref"} == set(peers.CANNOT)
    for case in peers.PEER_ROWS:
        assert set(case.peers) <= set(implementations.PEERS)
        assert case.make is not None
    measured = {name for case in peers.PEER_ROWS for name in case.peers}
    assert set(implementations.PEERS) - measured == {"janus", "culsans", "a2wsgi"}


def test_the_environment_of_the_benchmarks_has_each_peer(bench: Any) -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (listed,) = re.findall(r"^bench = \[\n(.*?)^\]$", project, re.MULTILINE | re.DOTALL)
    needed = set(re.findall(r'^  "([\w-]+)', listed, re.MULTILINE))
    assert set(bench("implementations").PEERS) - {"asyncio"} <= needed


def test_a_case_is_for_those_that_have_it(bench: Any) -> None:
    case = bench("cases").Case
    one = case("k", "t", "g", 1, None, lambda: abs, {"anyio": lambda: round})
    assert [
        each for each in ("floor", "asgiref", "compiled", "anyio", "trio") if one.has(each)
    ] == [
        "floor",
        "anyio",
    ]
    assert (one.build("floor", None), one.build("anyio", None)) == (abs, round)
    assert one.build("trio", None) is None
