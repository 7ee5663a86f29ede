"""Links of the Markdown files: as GitHub reads them, and on the site.

A page links to ``../README.md``, ``../tests/kernel/test_parity.py`` and other files of the
repository. On the site such a link leads to the page that has the file's text, if there is one,
and to the repository otherwise. A link to a heading uses the anchor that GitHub gives it; here each
heading has that one, too. A link that shows the name of a file shows the title of the page here.
"""

from __future__ import annotations

import functools
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]

PAGES = {
    "README.md": "/index.md",
    "docs/README.md": "/index.md",
    "CHANGELOG.md": "/project/changelog.md",
    "CODE_OF_CONDUCT.md": "/project/conduct.md",
    "CONTRIBUTING.md": "/project/contributing.md",
    "RELEASING.md": "/project/releasing.md",
    "SECURITY.md": "/project/security.md",
}
"""Which page of the site has the text of a file outside of docs, or of its index there."""

_FENCED = re.compile(r"(^ *```.*?^ *```$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?![a-z]+:|#|/)([^)#\s]+)(#[^)\s]*)?\)")
_NAMED = re.compile(r"\[(?:docs/)?([a-z]+)\.md\]\(")
_PLAIN = re.compile(r"^( *```)\n")
_ENTRY = re.compile(r"^(\w.*) <(\w+)>$", re.MULTILINE)


def repository() -> str:
    """The address of the sources, as the package's page has it."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (address,) = re.findall(r'^Source = "(.*)"$', project, re.MULTILINE)
    return str(address)


def on_the_site(path: str, anchor: str) -> str:
    """Where a link to that file of the repository leads, from whichever page."""
    if path in PAGES and not (anchor and PAGES[path] == "/index.md"):
        return PAGES[path] + anchor
    if path.startswith("docs/") and path not in PAGES:
        return path[len("docs") :] + anchor
    kind = "tree" if (ROOT / path).is_dir() else "blob"
    return f"{repository()}/{kind}/main/{path}{anchor}"


@functools.cache
def titles() -> dict[str, str]:
    """The title of each page as the contents show it."""
    found = {}
    for path in (ROOT / "docs").glob("*.md"):
        heading = re.search(r"^# (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        found[path.stem] = heading[1].replace("`", "") if heading else path.stem
    contents = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    found.update({name: title for title, name in _ENTRY.findall(contents)})
    return found


def rewritten(text: str, folder: str) -> str:
    """The Markdown ``text`` of a file in that folder of the repository, for the site."""

    def replace(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, match[1]))
        return f"]({on_the_site(path, match[2] or '')})"

    def named(match: re.Match[str]) -> str:
        return f"[{titles().get(match[1], match[1] + '.md')}]("

    parts = _FENCED.split(text)
    parts[::2] = [_LINK.sub(replace, _NAMED.sub(named, part)) for part in parts[::2]]
    # A block without a language is no Python.
    parts[1::2] = [_PLAIN.sub(r"\1text\n", block) for block in parts[1::2]]
    return "".join(parts)


def read_page(app: Sphinx, name: str, content: list[str]) -> None:
    if app.env.doc2path(name).suffix == ".md":
        content[0] = rewritten(content[0], posixpath.join("docs", posixpath.dirname(name)))


def read_included(app: Sphinx, path: Path, parent: str, content: list[str]) -> None:
    file = (Path(app.srcdir) / path).resolve().relative_to(ROOT)
    if file.suffix == ".md":
        content[0] = rewritten(content[0], file.parent.as_posix())


def add_anchors(app: Sphinx, document: nodes.document) -> None:
    """Docutils changes some: ``a--b`` to ``a-b``, and ``1-a`` to ``a``."""
    from docutils import nodes

    taken = set(document.ids)
    for section in document.findall(nodes.section):
        slug = section.get("slug")
        if slug and slug not in taken:
            section["ids"].append(slug)
            taken.add(slug)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", read_page)
    app.connect("include-read", read_included)
    app.connect("doctree-read", add_anchors)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
