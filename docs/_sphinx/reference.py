"""Docstrings as pages: names in single backticks, other documents, types.

The docstrings are written to be read in a terminal: `name` is a name of ours, of a parameter or of
somebody else's, and ``docs/workers.md`` a document. Here those that are found become links, and the
others are code. A name may lack its module, where no other module has a public one like it.
"""

from __future__ import annotations

import builtins
import collections
import re
import sys
from typing import Any, cast, get_origin

from docutils import nodes
from links import titles
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.domains.python import PythonDomain
from sphinx.environment import BuildEnvironment
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.nodes import make_refnode

PUBLIC_HOMES = [
    (re.compile(r"^_asyncio\."), "asyncio."),
    (re.compile(r"^asyncio\.(events|exceptions|futures|queues|tasks)\."), "asyncio."),
    (re.compile(r"^concurrent\.futures\.(_base|thread)\."), "concurrent.futures."),
    (re.compile(r"^_queue\."), "queue."),
    (re.compile(r"^_contextvars\."), "contextvars."),
]
"""Where Python defines a class, and where it documents it."""

_DOCUMENT = re.compile(r"(?<![`\w/])docs/([a-z]+)\.md\b")


def link_documents(
    app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    def linked(match: re.Match[str]) -> str:
        return f":doc:`{titles()[match[1]]} </{match[1]}>`"

    lines[:] = [_DOCUMENT.sub(linked, line) for line in lines]


def documented(path: str) -> str:
    for pattern, instead in PUBLIC_HOMES:
        path = pattern.sub(instead, path)
    return path


def is_public(base: object) -> bool:
    what = get_origin(base) or base
    path = documented(f"{getattr(what, '__module__', '')}.{getattr(what, '__qualname__', '')}")
    return "._" not in path and not path.startswith(("_", "typing."))


def public_bases(app: Sphinx, name: str, thing: type, options: object, bases: list[Any]) -> None:
    """A base that is nobody's business is left out."""
    bases[:] = [base for base in bases if is_public(base)] or [object]


def tidy(app: Sphinx, document: nodes.document) -> None:
    for paragraph in list(document.findall(nodes.paragraph)):
        text = paragraph.astext()
        if text == "Bases: object":
            paragraph.parent.remove(paragraph)
        elif text.startswith(("Bases: ", "alias of ")):
            for reference in paragraph.findall(addnodes.pending_xref):
                name = documented(reference["reftarget"])
                if name.split(".")[0] in ("asyncio", "queue"):
                    # Each has a QueueEmpty of its own, and so have we.
                    (shown,) = reference.children
                    shown.children[:] = [nodes.Text(name)]
    for reference in document.findall(addnodes.pending_xref):
        if reference.get("refdomain") == "py" and hasattr(builtins, reference["reftarget"]):
            # `bytes` is never the field of that name of some class.
            for key in ("refspecific", "py:class", "py:module"):
                reference.attributes.pop(key, None)


SHOWN_ELSEWHERE = {("asgibridge.integrations", "at_close")}
"""What two modules have, and what is shown as the source of one of them: viewcode has one way back
from a file."""


def home_of(app: Sphinx, module: str, name: str) -> str:
    """The module of ours with the source of a name; not Python's own, of what is theirs."""
    thing: object = sys.modules.get(module)
    for part in name.split("."):
        thing = getattr(thing, part, None)
    home = getattr(thing, "__module__", None)
    if (module, name) in SHOWN_ELSEWHERE or str(home).split(".")[0] != "asgibridge":
        return module
    return str(home)


def names_of(domain: PythonDomain) -> dict[str, str]:
    """The ends of dotted names that only one public name has."""
    ends: dict[str, set[str]] = collections.defaultdict(set)
    for name, entry in domain.objects.items():
        if not entry.aliased:
            parts = name.split(".")
            for start in range(1, len(parts)):
                ends[".".join(parts[start:])].add(name)
    modules = domain.modules
    found = {}
    for end, names in ends.items():
        # `put` is a method of many classes; `Queue` and `Queue.put` are one each.
        top = {name for name in names if name.rpartition(".")[0] in modules}
        chosen = top if "." not in end else names
        if len(chosen) == 1:
            found[end] = chosen.pop()
    return found


class Finder:
    """Looks for a name among those of all pages."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}

    def __call__(
        self,
        app: Sphinx,
        env: BuildEnvironment,
        node: addnodes.pending_xref,
        content: nodes.Element,
    ) -> nodes.Node | None:
        if node.get("refdomain") != "py":
            return None
        target = node["reftarget"] = documented(node["reftarget"])  # intersphinx looks that up next
        if target.split(".")[0] in sys.stdlib_module_names:
            return None  # `queue.Queue` is Python's
        domain = cast("PythonDomain", env.domains["py"])
        self.known = self.known or names_of(domain)
        end = target[len("asgibridge.") :] if target.startswith("asgibridge.") else target
        # A class of ours that is defined in a private module is documented by its last name.
        name = self.known.get(end) or (
            self.known.get(target.rpartition(".")[2]) if target.startswith("asgibridge._") else None
        )
        if name is None:
            return None
        entry = domain.objects[name]
        source = node.get("refdoc", env.docname)
        return make_refnode(app.builder, source, entry.docname, entry.node_id, content, name)


def leave(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.Element
) -> nodes.Node | None:
    """The docstrings' backticks are for parameters, too: what is not found is code."""
    return content if node.get("reftype") == "obj" and node.get("refdomain") == "py" else None


def forget_overloads(app: Sphinx) -> None:
    """They are for type checkers: the signature of the function itself names all parameters."""
    for module in ("django.transactions", "iterators", "sync"):
        analyzer = ModuleAnalyzer.for_module(f"asgibridge.{module}")
        analyzer.analyze()
        analyzer.overloads.clear()


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", forget_overloads)
    app.connect("autodoc-process-docstring", link_documents)
    app.connect("autodoc-process-bases", public_bases)
    app.connect("doctree-read", tidy)
    app.connect("viewcode-follow-imported", home_of)
    app.connect("missing-reference", Finder(), priority=400)  # before intersphinx
    app.connect("missing-reference", leave, priority=900)  # after it
    return {"parallel_read_safe": True, "parallel_write_safe": True}
