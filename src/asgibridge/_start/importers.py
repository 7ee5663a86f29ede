"""Who imported the original asgiref, told from the sources of the modules that are loaded.

Nothing notes down who imports what. But ``sys.modules`` has the modules in the order in which their
imports ended, and a module's source says where it imports asgiref. This file is loaded only for the
message of an error.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import os
import sys
from collections.abc import Iterator
from types import ModuleType


def what_to_do() -> str:
    """Who imported asgiref first, if it can be told, and what to do about that."""
    found = _first()
    name, file, line = found or ("", "", 0)
    who = f"It was imported first by {file}, line {line}. " if found else ""
    program = _program()
    if program == "pytest":  # a plugin of its environment may have imported asgiref
        return (
            f"{who}Start the tests with 'pytest -p asgibridge.autoinstall', or with "
            "'asgibridge run pytest'."
        )
    if found and name.split(".")[0] == program:
        return (
            f"{who}{program} does that before it imports the application, so no line of the "
            f"application comes early enough: start it with 'asgibridge run {program} ...'."
        )
    return (
        f"{who}Put 'import asgibridge; asgibridge.install()' (or 'import asgibridge.autoinstall') "
        "before everything that imports asgiref (Django does), as the first lines of the program, "
        "or start the program with 'asgibridge run'."
    )


def _program() -> str:
    """The package that was started, or the command: ``daphne``, for one."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is not None:
        return str(spec.name).split(".")[0]
    words: list[str] = getattr(sys, "argv", None) or [""]
    return os.path.splitext(os.path.basename(words[0]))[0]


def _first() -> tuple[str, str, int] | None:
    """The module that imported asgiref first, its file, and the line that did."""
    ended: list[tuple[str, str, int]] = []
    running: list[tuple[str, str, int, set[str]]] = []
    late: list[tuple[str, str, int]] = []
    lines_now = _lines_now()
    is_there = False
    for name, module in sys.modules.copy().items():
        is_there = is_there or name == "asgiref"
        if name.split(".")[0] in ("asgiref", "asgibridge"):
            continue
        imports = sorted(_imports(name, module), key=lambda each: each[1])
        file, space = str(getattr(module, "__file__", None)), id(getattr(module, "__dict__", None))
        lines = [line for to, line, is_late in imports if _is_asgiref(to) and not is_late]
        if not lines:
            late += [(name, file, line) for to, line, _ in imports if _is_asgiref(to)]
        elif space in lines_now:
            if is_there or lines_now[space] <= lines[0]:
                continue  # it began after asgiref was imported, or has not come so far
            earlier = itertools.takewhile(lambda each: each[2] or not _is_asgiref(each[0]), imports)
            before = {to.split(".")[0] for to, _, _ in earlier}
            running.append((name, file, lines[0], before))
        else:
            ended.append((name, file, lines[0]))
    for name, file, line, before in running:
        # It still runs: whoever else imports asgiref was imported by it, or has ended before.
        if not any(other.split(".")[0] in before for other, _, _ in ended):
            return name, file, line
    if not ended:
        return next(iter(late), None)  # inside functions: which of them ran first cannot be told
    # The first whose import has ended; or who imported that one, and asgiref before it.
    best = ended[0]
    for name, module in sys.modules.copy().items():
        lines = [line for to, line, is_late in _imports(name, module, best[0]) if to == best[0]]
        if lines:
            found = next((each for each in ended if each[0] == name), None)
            if found is None or found[2] > min(lines):
                break
            best = found
    return best


def _lines_now() -> dict[int, int]:
    """The lines that run now in bodies of modules on this thread, by the modules' namespaces."""
    found = {}
    frame = inspect.currentframe()
    while frame is not None and frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code.co_name == "<module>":
            found[id(frame.f_globals)] = frame.f_lineno
    return found


def _is_asgiref(name: str) -> bool:
    return name.split(".")[0] == "asgiref"


def _imports(
    name: str, module: ModuleType | None, wanted: str = "asgiref"
) -> Iterator[tuple[str, int, bool]]:
    """What the module's source imports, on which line, and whether inside a function.

    Nothing, unless the source mentions ``wanted``, a module.
    """
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or (not file.endswith((".py", ".pyw")) and name != "__main__"):
        return
    try:
        with open(file, "rb") as source:
            text = source.read()
        if wanted.split(".")[-1].encode() not in text:
            return
        tree = ast.parse(text)
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    package = str(getattr(module, "__package__", None) or "").split(".")
    yield from _imports_in(tree, package, False)


def _imports_in(node: ast.AST, package: list[str], late: bool) -> Iterator[tuple[str, int, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((each.name, child.lineno, late) for each in child.names)
        elif isinstance(child, ast.ImportFrom):
            above = package[: len(package) + 1 - child.level] if child.level else []
            path = ".".join([*above, *filter(None, [child.module])])
            yield path, child.lineno, late
            yield from ((f"{path}.{each.name}", child.lineno, late) for each in child.names)
        elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for other in child.orelse:
                yield from _imports_in(ast.Module([other], []), package, late)
        else:
            is_function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from _imports_in(child, package, late or is_function)
