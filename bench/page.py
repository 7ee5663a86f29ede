"""One HTML page that has everything of docs/benchmarks.md in it: docs/benchmarks-report.html.

    python bench/page.py          make it anew from docs/benchmarks.md

The plots and the samples are inside, so that the file can be sent to somebody; it asks no network
and runs no script. It is light or dark as its reader's system is. Samples that are not here any
more (git does not keep them) stay in the page as they were.
"""

from __future__ import annotations

import base64
import gzip
import html
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

DOCS = Path(__file__).resolve().parents[1] / "docs"
SOURCE, PAGE = "benchmarks.md", "benchmarks-report.html"

_STYLE = """
:root { color-scheme: light dark; --text: #1f2328; --back: #ffffff; --soft: #59636e;
  --line: #d1d9e0; --raised: #f6f8fa; --link: #0b5c8a; --good: #1a7f37; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --text: #e6edf3; --back: #131416; --soft: #9198a1;
  --line: #3d444d; --raised: #1c1f24; --link: #6cc0ee; --good: #4ac26b; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem 1.25rem 4rem; background: var(--back);
  color: var(--text); font: 16px/1.5 system-ui, sans-serif; }
h1, h2, h3 { line-height: 1.25; }
h2 { margin-top: 3rem; padding-top: 1rem; border-top: 1px solid var(--line); }
h3 { margin-top: 2rem; }
a { color: var(--link); }
code { background: var(--raised); border-radius: 4px; padding: 0.1em 0.3em; font-size: 0.88em; }
pre { background: var(--raised); border-radius: 6px; padding: 0.8rem 1rem; overflow-x: auto; }
pre code { padding: 0; }
img { display: block; max-width: 100%; height: auto; margin: 1rem 0; }
@media (max-width: 44rem) { .wide img { max-width: none; width: 44rem; } }
nav ul { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: 0.3rem 1.2rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.1rem 1rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.88rem; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: 0.25rem 0.6rem; text-align: left;
  vertical-align: top; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
td.figure, th.figure { text-align: right; }
td.figure { white-space: nowrap; }
tbody tr:hover { background: var(--raised); }
.note { color: var(--soft); font-size: 0.9rem; }
.good { color: var(--good); }
.bad { color: var(--bad); font-weight: 600; }
"""

_REPRODUCE = """
<h2 id="reproduce">How to measure it again</h2>
<p>On a machine that does nothing else, with a checkout of the version. Each command makes the
environment it needs, installs the peers there, and writes its part of this page.</p>
<pre><code>git clone ADDRESS asgibridge && cd asgibridge
make bench PYTHON=python3.13        # every crossing, and others' libraries by name
make bench-site PYTHON=python3.13   # a Django site under load
python bench/page.py                # this page, of docs/benchmarks.md</code></pre>
<p>Each implementation runs in processes of its own, in turn, and the least of all samples is
compared, because noise only ever adds. <code>make bench BENCHFLAGS=--quick</code> takes a minute
and writes nothing; <code>python bench/paired.py --compare OLD.json NEW.json</code> compares two
files of samples, such as those below and yours.</p>
"""


def inline(text: str) -> str:
    """Markdown within a line: code, bold, links, of which only those within the page stay links."""
    parts = re.split(r"(`+)(.+?)\1", text)
    made = []
    for number, part in enumerate(parts):
        if number % 3 == 1:
            continue
        safe = html.escape(part, quote=False)
        if number % 3 == 2:
            made.append(f"<code>{safe.strip()}</code>")
            continue
        safe = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", safe)
        made.append(re.sub(r"(?<!!)\[([^\]]+)\]\([^)]+\)", r"\1", safe))
    return "".join(made)


def slug(heading: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _table(lines: list[str]) -> str:
    names, rule, *rows = map(_cells, lines)
    figures = [each.endswith(":") for each in rule]

    def cell(tag: str, text: str, is_figure: bool) -> str:
        classes = ["figure"] * is_figure
        if text == "yes" or text.endswith(" met"):
            classes.append("good")
        if text.endswith(("**no**", "**not met**")):
            classes.append("bad")
        attribute = f' class="{" ".join(classes)}"' if classes else ""
        return f"<{tag}{attribute}>{inline(text)}</{tag}>"

    def row(tag: str, texts: list[str]) -> str:
        return "<tr>" + "".join(map(cell, [tag] * len(texts), texts, figures)) + "</tr>"

    body = "\n".join(row("td", each) for each in rows)
    return (
        f'<div class="wide"><table><thead>{row("th", names)}</thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _image(line: str, folder: Path) -> str:
    match = re.fullmatch(r"!\[(.*)\]\((.+)\)", line)
    assert match is not None, line
    drawn = (folder / unquote(match[2])).read_text(encoding="utf-8")
    # Only the element itself; and as text, which is a quarter shorter than base64.
    drawn = re.sub(
        r"<!--.*?-->|<metadata>.*?</metadata>", "", drawn[drawn.index("<svg") :], flags=re.S
    )
    drawn = " ".join(drawn.replace('"', "'").split())
    drawn = drawn.replace("%", "%25").replace("#", "%23")
    return f'<img alt="{html.escape(match[1])}" src="data:image/svg+xml;charset=utf-8,{drawn}">'


def _about(text: str) -> str:
    # What report.py says of the conditions: "python 3.13.0; machine …; asgiref 3.13.0."
    pairs = [each.partition(" ") for each in text.rstrip(".").split("; ")]
    return (
        "<dl>" + "".join(f"<dt>{inline(a)}</dt><dd>{inline(b)}</dd>" for a, _, b in pairs) + "</dl>"
    )


def blocks(markdown: str, folder: Path) -> Iterator[str]:
    """The HTML of each block: of what report.py writes, and no more of Markdown."""
    after_heading = False
    for block in re.split(r"\n{2,}", markdown.strip()):
        lines = block.splitlines()
        heading = re.match(r"(#{1,3}) (.*)", lines[0])
        if heading:
            level = len(heading[1])
            # Headings of the third level come again with each Python.
            place = f' id="{slug(heading[2])}"' if level < 3 else ""
            yield f"<h{level}{place}>{inline(heading[2])}</h{level}>"
        elif f"]({PAGE})" in block:
            pass  # a link to what is being written
        elif lines[0].startswith("|"):
            yield _table(lines)
        elif lines[0].startswith("!["):
            yield from (f'<div class="wide">{_image(line, folder)}</div>' for line in lines)
        elif lines[0].startswith("- "):
            items = "".join(
                f"<li>{inline(each)}</li>" for each in re.split(r"^- ", block, flags=re.M)[1:]
            )
            yield f"<ul>{items}</ul>"
        elif re.match(r"python \d", block):
            yield _about(block.replace("\n", " "))
        else:
            note = ' class="note"' if after_heading else ""
            yield f"<p{note}>{inline(block)}</p>"
        after_heading = heading is not None and len(heading[1]) == 3


def samples(docs: Path) -> dict[str, bytes]:
    """The files of samples that are here, by the name they are to be saved under."""
    folder = docs / "benchmarks"
    found = {path.name: path.read_bytes() for path in sorted(folder.glob("*.json*"))}
    site = {f"site-{path.name}": path.read_bytes() for path in sorted(folder.glob("site/*.json"))}
    return {**found, **site}


_SAMPLES = re.compile(r'^<li><a download="(.+?)\.gz" href="data:.*$', re.MULTILINE)


def _raw(name: str, content: bytes) -> str:
    # Without the time, which gzip would write into it: the same samples make the same page.
    packed = base64.b64encode(gzip.compress(content, mtime=0)).decode()
    shown = f"{name}, {len(content) / 1000:,.0f} kB"
    return (
        f'<li><a download="{name}.gz" href="data:application/gzip;base64,{packed}">{shown}</a></li>'
    )


def write(docs: Path) -> None:
    """Make the page of docs/benchmarks.md and of the samples beside it."""
    target = docs / PAGE
    markdown = (docs / SOURCE).read_text(encoding="utf-8")
    before = target.read_text(encoding="utf-8") if target.exists() else ""
    raw = {match[1]: match[0] for match in _SAMPLES.finditer(before)}
    raw.update({name: _raw(name, content) for name, content in samples(docs).items()})
    headings = [*re.findall(r"^## (.*)$", markdown, re.MULTILINE), "How to measure it again"]
    places = [*map(slug, headings[:-1]), "reproduce"]
    links = [
        f'<li><a href="#{place}">{inline(each)}</a></li>' for place, each in zip(places, headings)
    ]
    links.append('<li><a href="#samples">Samples</a></li>')
    title, *rest = blocks(markdown, docs)
    text = "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            "<title>Benchmarks of asgibridge</title>",
            f"<style>{_STYLE}</style>",
            title,
            f"<nav><ul>{''.join(links)}</ul></nav>",
            *rest,
            _REPRODUCE.strip(),
            '<h2 id="samples">Samples</h2>',
            "<p>Every sample of every process, as JSON: the tables are made of them. They are in",
            "this file, and a click saves one.</p>",
            "<ul>",
            *(raw[name] for name in sorted(raw)),
            "</ul>",
            "</html>",
            "",
        ]
    )
    target.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(DOCS)
