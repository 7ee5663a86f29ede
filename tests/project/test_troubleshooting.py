"""docs/troubleshooting.md has an entry for each error, warning and log line that a user can meet.

An entry is a heading, or an item of a list, with words of the message in double quotes; ``…`` there
stands for what differs. Messages that only say which argument was wrong (TypeErrors) share one.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from test_readme import anchors

import asgibridge

ROOT = next(
    (each for each in Path(__file__).parents if (each / "docs").exists()), Path(__file__).parent
)
PAGE = ROOT / "docs" / "troubleshooting.md"
PACKAGE = ROOT / "src" / "asgibridge"
KERNEL = ROOT / "src" / "_speedups"

DIFFERS = "…"
SHORTEST = 8  # letters; a shorter text is a part of another's message

REPORTERS = re.compile(
    r"(^|\.)(_?warn|report|_tell|(_?logger|getLogger\(.*\))\.(warning|error|exception))$"
)
ERRORS = re.compile(r"(Error|Configured|Disconnected|Lagged|Reached|Stopped)$")
WRITERS = {  # functions that return a message
    ("_process/settings.py", "_about"),
    ("_workers/pool.py", "explain"),
    ("django/configuration.py", "_about_unknown"),
}
GROUPED = {  # kinds of errors whose messages share an entry, by a word of that
    "AttributeError": "AttributeError",
    "BadRequest": "malformed header",
    "Broken": "ProtocolViolation",
    "LifespanFailed": "LifespanFailed",
    "MemoryError": "no more memory",
    "TypeError": "TypeError",
    "UnexpectedMessage": "UnexpectedMessage",
}
INTERNAL = {  # caught where they are raised
    "the loop is closed",
}

pytestmark = pytest.mark.skipif(
    not (PAGE.exists() and PACKAGE.is_dir()), reason="needs the documents and the sources"
)


class Message(NamedTuple):
    place: str
    kind: str
    text: str


# --- the reader of sources -----------------------------------------------------------------------


def texts(node: ast.AST, names: dict[str, list[str]]) -> list[str]:
    """What an expression may be, as far as it is written there; nothing for what is not."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        return [
            "".join(
                each.value if isinstance(each, ast.Constant) else DIFFERS for each in node.values
            )
        ]
    if isinstance(node, ast.IfExp):
        return texts(node.body, names) + texts(node.orelse, names)
    if isinstance(node, ast.BoolOp):
        return [text for each in node.values for text in texts(each, names)]
    if isinstance(node, ast.Name):
        return names.get(node.id, [])
    return []


def messages_of_python(source: str, place: str) -> Iterator[Message]:
    """What a module raises, warns of, logs, or tells an event loop's exception handler."""
    tree = ast.parse(source)
    names: dict[str, list[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            names.setdefault(node.targets[0].id, []).extend(texts(node.value, {}))
    raised = {id(node.exc) for node in ast.walk(tree) if isinstance(node, ast.Raise)}
    for node in ast.walk(tree):
        said: list[ast.expr] = []
        kind = ""
        if isinstance(node, ast.Call):
            kind = ast.unparse(node.func)
            is_error = id(node) in raised or ERRORS.search(kind)
            said = node.args[:1] if is_error or REPORTERS.search(kind) else []
        elif isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values)
            said = [
                value
                for key, value in pairs
                if isinstance(key, ast.Constant) and key.value == "message"
            ]
        elif isinstance(node, ast.FunctionDef) and (place, node.name) in WRITERS:
            said = [
                each.value
                for each in ast.walk(node)
                if isinstance(each, ast.Return) and each.value is not None
            ]
        for expression in said:
            for text in texts(expression, names):
                line = f"{place}:{getattr(node, 'lineno', 0)}"
                yield Message(line, kind, re.sub(r"%[\w.]*[a-z]", DIFFERS, text))


def messages_of_cython(source: str, place: str) -> Iterator[Message]:
    """What a file of the compiled kernel raises with a text."""
    for found in re.finditer(r"raise (\w+)\(\s*((?:f?\"[^\"]*\"\s*)+)", source):
        parts = re.findall(r"f?\"([^\"]*)\"", found[2])
        text = re.sub(r"\{[^}]*\}", DIFFERS, "".join(parts))
        line = source.count("\n", 0, found.start()) + 1
        yield Message(f"{place}:{line}", found[1], text)


def messages() -> list[Message]:
    found: list[Message] = []
    for file in sorted(PACKAGE.rglob("*.py")):
        found += messages_of_python(file.read_text("utf-8"), file.relative_to(PACKAGE).as_posix())
    for file in sorted(KERNEL.glob("*.pxi")):
        found += messages_of_cython(file.read_text("utf-8"), file.name)
    return [
        each
        for each in found
        if len(re.findall(r"[a-z]", each.text)) >= SHORTEST and each.text not in INTERNAL
    ]


# --- the reader of the page ----------------------------------------------------------------------


def entries(page: str) -> list[str]:
    """The quoted texts in headings and in lists."""
    places = re.findall(r"^#+ .*$|^- .*(?:\n  .*)*", page, re.MULTILINE)
    quoted = (
        re.sub(r"\s+", " ", each).replace("`", "")
        for place in places
        for each in re.findall(r'"([^"]+)"', place)
    )
    return [each for each in quoted if " " in each and len(each.strip(DIFFERS)) >= SHORTEST]


def is_in(entry: str, text: str) -> bool:
    parts = [re.escape(part) for part in entry.split(DIFFERS)]
    return re.search(".*".join(parts), text, re.DOTALL) is not None


def without_entry(found: list[Message], page: str) -> list[Message]:
    known = entries(page)
    return [
        each
        for each in found
        if not (
            any(is_in(entry, each.text) for entry in known)
            or (each.kind in GROUPED and GROUPED[each.kind] in page)
        )
    ]


def public_errors() -> set[str]:
    found = set()
    for module in pkgutil.iter_modules(asgibridge.__path__, "asgibridge."):
        if "._" in module.name or module.name.endswith((".django", ".autoinstall")):
            continue
        names = vars(importlib.import_module(module.name))
        for name in names.get("__all__", ()):
            each = names.get(name)
            is_error = isinstance(each, type) and issubclass(each, BaseException)
            if is_error and each.__module__.startswith("asgibridge"):
                found.add(name)
    return found


# --- the page ------------------------------------------------------------------------------------


def test_each_message_has_an_entry() -> None:
    assert without_entry(messages(), PAGE.read_text("utf-8")) == []


def test_each_entry_is_of_a_message() -> None:
    # What is printed, sent to a client, made by a function of several messages, or other's.
    elsewhere = {
        "--django: there is no Django here",
        "Exception in callback …",
        "This request has a malformed header.",
        "cannot run …: Permission denied",
        "closing Django's database connection … failed",
        "the … broke the ASGI specification at …",
    }
    known = [each.text for each in messages()]
    page = PAGE.read_text("utf-8")
    dead = [
        each
        for each in entries(page)
        if each not in elsewhere and not any(is_in(each, text) for text in known)
    ]
    assert dead == []


def test_each_public_error_is_named() -> None:
    errors = public_errors()
    assert len(errors) >= 10
    page = PAGE.read_text("utf-8")
    assert [each for each in sorted(errors) if f"{each}`" not in page] == []


def test_the_places_that_messages_name_exist() -> None:
    files = [*PACKAGE.rglob("*.py"), *KERNEL.glob("*.pxi")]
    sources = "".join(each.read_text("utf-8") for each in files)
    named = set(re.findall(r"docs/(\w+\.md)#([\w-]+)", sources))
    assert len(named) >= 4
    for name, anchor in named:
        assert anchor in anchors((ROOT / "docs" / name).read_text("utf-8")), (name, anchor)


# --- the readers of them -------------------------------------------------------------------------


def test_messages_of_python_are_found() -> None:
    source = """
_WHY = "a constant"
def f(x):
    if x:
        raise RuntimeError(f"a {x!r} b" "c")
    logger.warning("%s took %.3f s", x, 1)
    error = ValueError(_WHY)
    call({"message": "told", "exception": error})
    message = "one" if x else "two"
    warnings.warn(message, RuntimeWarning)
"""
    found = {each.text for each in messages_of_python(source, "x.py")}
    assert found == {"a … bc", "… took … s", "a constant", "told", "one", "two"}


def test_messages_of_cython_are_found() -> None:
    source = (
        'raise ValueError(f"lag={lag!r}: must be")\n    raise X(\n        "a "\n        "b"\n)\n'
    )
    assert [each.text for each in messages_of_cython(source, "x.pxi")] == [
        "lag=…: must be",
        "a b",
    ]


def test_a_message_without_an_entry_is_found_out() -> None:
    page = '### "a known … of it"\n\n- "an item of a\n  list": x\n'
    said = ["this is a known kind of it", "an item of a list, too", "an unknown message"]
    found = [Message("x", "RuntimeError", text) for text in said]
    assert [each.text for each in without_entry(found, page)] == ["an unknown message"]
