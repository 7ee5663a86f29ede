"""Imports go downwards: the plan of the package as floors, and a reader that compares them.

An arrow is an import of one module of the package by another, also inside a function; not below
``if TYPE_CHECKING:``, and not the one of the packages that a module lies in.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

# From the ground up. A name is a module, or a folder with all that is in it but is not named. A
# module may import from its own floor and from those below it.
PLAN = [
    ["_version", "_process", "_start.install", "_start.importers"],
    ["_waits"],
    ["_pure", "_speedups"],
    ["_kernel"],
    ["current_thread_executor", "queue", "_queues", "_groupers", "local", "observers", "pools"],
    ["_bridge.state"],
    ["limiters", "_loops"],
    ["_workers"],
    ["runners"],
    ["_sight"],
    ["debug"],
    ["_bridge"],
    ["sync", "compatibility", "workers"],
    ["_iteration", "_wsgi"],
    ["iterators", "wsgi", "testing", "server", "timeout", "typing", "_asgi"],
    ["_start", "_bootstrap", "__init__", "__main__", "autoinstall"],
    ["django", "integrations"],
]
IMPORTERS = ("__import__", "import_module")
MOST_FILES = 25
"""Python files in the package's top folder."""

ROOT = next(each for each in Path(__file__).parents if (each / "pyproject.toml").exists())
SOURCES = ROOT / "src" / "asgibridge", ROOT / "src" / "_speedups"


# --- the reader ----------------------------------------------------------------------------------


def module_name(file: Path, package: Path) -> str:
    """Such as ``sync``, ``_pure.calls``, ``_pure`` for its ``__init__``; the package's own is
    ``__init__``."""
    parts = file.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


def imports(node: ast.AST) -> Iterator[ast.AST]:
    """The statements and calls in ``node`` that import at run time."""
    if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        is_negated = isinstance(node.test, ast.UnaryOp)
        children = node.body if is_negated else node.orelse
    else:
        children = list(ast.iter_child_nodes(node))
    if isinstance(node, (ast.Import, ast.ImportFrom)) or (
        isinstance(node, ast.Call) and ast.unparse(node.func).endswith(IMPORTERS)
    ):
        yield node
    for child in children:
        yield from imports(child)


def targets(node: ast.AST, package: list[str]) -> Iterator[str]:
    """What ``node`` asks for, in full; ``package`` is where relative names begin."""
    if isinstance(node, ast.Import):
        yield from (each.name for each in node.names)
    elif isinstance(node, ast.ImportFrom):
        start = package[: len(package) + 1 - node.level] if node.level else []
        path = ".".join([*start, *filter(None, [node.module])])
        yield from (f"{path}.{each.name}" for each in node.names)
    elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        yield str(node.args[0].value)


def arrows(package: Path, kernel: Path) -> dict[str, set[str]]:
    """Which modules each module imports; all of ``kernel`` is the module ``_speedups``."""
    found: dict[str, set[str]] = {"_speedups": set()}
    trees = []
    for file in sorted(package.rglob("*.py")):
        found[module_name(file, package)] = set()
        inside = [package.name, *file.relative_to(package).parts[:-1]]
        trees.append((module_name(file, package), inside, ast.parse(file.read_text("utf-8"))))
    for file in sorted(kernel.glob("*.p[yx][xi]")):
        # Python's parser reads the statements, not the Cython between them.
        statement = (
            rf"^ *((?:from (?:{package.name}|\.)|import {package.name})[^(\n]*(?:\([^)]*\))?)"
        )
        for text in re.findall(statement, file.read_text("utf-8"), re.MULTILINE):
            trees.append(("_speedups", [package.name], ast.parse(text)))
    for importer, inside, tree in trees:
        for node in imports(tree):
            for path in targets(node, inside):
                top, *rest = path.split(".")
                if top != package.name or not rest:
                    continue
                while rest and ".".join(rest) not in found:
                    rest.pop()  # a name in a module
                found[importer].add(".".join(rest) or "__init__")
    for importer, imported in found.items():
        imported.discard(importer)
    return found


def circle(graph: dict[str, set[str]]) -> list[str]:
    """A shortest way from a module by imports back to it, the module at both ends; or nothing."""
    found: list[list[str]] = []
    for start in sorted(graph):
        ways, seen = [[start]], set()
        for way in ways:  # grows as it is gone through: the shortest ways come first
            if way[-1] == start and len(way) > 1:
                found.append(way)
                break
            ways += [[*way, each] for each in sorted(graph[way[-1]] - seen)]
            seen |= graph[way[-1]]
    return min(found, key=len, default=[])


def complaints(package: Path, kernel: Path, plan: list[list[str]], most_files: int) -> list[str]:
    floors = {name: number for number, names in enumerate(plan, 1) for name in names}
    graph = arrows(package, kernel)

    def planned(name: str) -> str:
        # A module of a folder may be planned by itself.
        return name if name in floors else name.split(".")[0]

    said = []
    for name in sorted(graph):
        if planned(name) not in floors:
            said.append(f"{name} is not in the plan")
    for name in sorted(floors.keys() - {planned(each) for each in graph}):
        said.append(f"{name} is in the plan only")
    for importer, imported in sorted(graph.items()):
        for name in sorted(imported):
            low, high = (floors.get(planned(each), 0) for each in (importer, name))
            if 0 < low < high:
                said.append(f"{importer} (floor {low}) imports {name} (floor {high})")
    round_trip = circle(graph)
    if round_trip:
        said.append("a circle: " + " -> ".join(round_trip))
    count = len(list(package.glob("*.py")))
    if count > most_files:
        said.append(f"{count} Python files in the top folder, more than {most_files}")
    return said


# --- the package ---------------------------------------------------------------------------------


@pytest.mark.skipif(not SOURCES[0].is_dir(), reason="needs the sources")
def test_imports_go_downwards_and_in_no_circle():
    assert complaints(*SOURCES, PLAN, MOST_FILES) == []


@pytest.mark.skipif(not SOURCES[0].is_dir(), reason="needs the sources")
def test_arrows_of_both_kernels_are_seen():
    graph = arrows(*SOURCES)
    assert "_process.threads" in graph["_speedups"]
    assert "_process.threads" in graph["_pure.executors"]
    assert "_pure" in graph["_kernel"]


@pytest.mark.skipif(not SOURCES[0].is_dir(), reason="needs the sources")
def test_a_global_name_has_its_annotation_before_the_functions_that_change_it():
    # Afterwards, PyPy calls it a SyntaxError: "annotated name can't be global".
    late = []
    for file in sorted(SOURCES[0].rglob("*.py")):
        tree = ast.parse(file.read_text("utf-8"))
        changed = {
            name: node.lineno
            for node in ast.walk(tree)
            if isinstance(node, ast.Global)
            for name in node.names
        }
        late += [
            f"{file.name}: {ast.unparse(node.target)}"
            for node in tree.body
            if isinstance(node, ast.AnnAssign)
            and changed.get(ast.unparse(node.target), node.lineno) < node.lineno
        ]
    assert late == []


# --- the reader, on small packages ---------------------------------------------------------------

HOUSE = [["ground"], ["_folder", "_speedups"], ["roof", "__init__"]]
FILES = {
    "__init__.py": "",
    "ground.py": "import os",
    "_folder/__init__.py": "",
    "_folder/room.py": "from ..ground import thing",
    "roof.py": "from . import ground\nfrom ._folder import room",
}


def look(tmp_path, kernel="", most_files=3, **files):
    package, speedups = tmp_path / "house", tmp_path / "_speedups"
    (package / "_folder").mkdir(parents=True)
    speedups.mkdir()
    changed = {name.replace("__", "/") + ".py": text for name, text in files.items()}
    for name, text in {**FILES, **changed}.items():
        (package / name).write_text(text)
    (speedups / "part.pxi").write_text(kernel)
    return complaints(package, speedups, HOUSE, most_files)


def test_what_is_as_planned_gives_no_complaint(tmp_path):
    assert look(tmp_path) == []


@pytest.mark.parametrize(
    "statement",
    [
        "from . import roof",
        "from .roof import thing",
        "from house import roof",
        "from house.roof import thing",
        "import house.roof",
        "import importlib\nimportlib.import_module('house.roof')",
        "def late():\n    from . import roof",
        "try:\n    from . import roof\nexcept ImportError:\n    pass",
        "if TYPE_CHECKING:\n    pass\nelse:\n    from . import roof",
        "if not TYPE_CHECKING:\n    from . import roof",
    ],
)
def test_uphill(tmp_path, statement):
    uphill, round_trip = look(tmp_path, ground=statement)
    assert uphill == "ground (floor 1) imports roof (floor 3)"
    assert round_trip == "a circle: ground -> roof -> ground"


@pytest.mark.parametrize("test", ["TYPE_CHECKING", "typing.TYPE_CHECKING"])
def test_imports_for_type_checkers_do_not_count(tmp_path, test):
    assert look(tmp_path, ground=f"if {test}:\n    from . import roof") == []


def test_a_name_of_the_package_is_of_its_own_module(tmp_path):
    assert look(tmp_path, ground="from . import name") == [
        "ground (floor 1) imports __init__ (floor 3)"
    ]


def test_the_package_as_a_parent_is_no_arrow(tmp_path):
    assert look(tmp_path, ground="import house") == []


def test_a_circle_in_a_folder(tmp_path):
    said = look(
        tmp_path,
        _folder__room="from . import other",
        _folder__other="from .third import thing",
        _folder__third="def late():\n    from .room import thing",
    )
    path = "_folder.other -> _folder.third -> _folder.room -> _folder.other"
    assert said == [f"a circle: {path}"]


@pytest.mark.parametrize(
    "statement",
    [
        "from house.roof import thing as _thing",
        "from house import roof as _roof",
        "from house import (\n    roof,\n)",
        "cdef f():\n    from house import roof",
        "from . import roof",
    ],
)
def test_the_compiled_kernel_uphill(tmp_path, statement):
    said = look(tmp_path, kernel=f"cdef int x = 1\n{statement}\ncdef int y = 2\n")
    assert said == ["_speedups (floor 2) imports roof (floor 3)"]


def test_modules_that_the_plan_does_not_name(tmp_path):
    assert look(tmp_path, most_files=4, loft="") == ["loft is not in the plan"]


def test_names_that_are_in_the_plan_only(tmp_path):
    assert complaints(tmp_path, tmp_path, [["cellar"], ["_speedups"]], 3) == [
        "cellar is in the plan only"
    ]


def test_too_many_files(tmp_path):
    assert look(tmp_path, most_files=2) == ["3 Python files in the top folder, more than 2"]
