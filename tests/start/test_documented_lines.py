"""The lines that docs/install.md gives for a program survive the tools that tidy up imports."""

from __future__ import annotations

import ast
import importlib.util
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import children

PAGE = next(
    (each / "docs" / "install.md" for each in Path(__file__).parents if (each / "docs").is_dir()),
    None,
)
pytestmark = pytest.mark.skipif(PAGE is None, reason="needs the documents")

TOOLS = {
    "ruff": (
        ("check", "--fix", "--unsafe-fixes", "--isolated", "--exit-zero", "--select", "E,F,I,UP"),
        ("check", "--fix", "--isolated", "--exit-zero"),
        ("format", "--isolated"),
    ),
    "autoflake": (("--in-place", "--remove-all-unused-imports"),),
    "isort": ((), ("--profile", "black"), ("--force-sort-within-sections",)),
}


def blocks() -> dict[str, str]:
    assert PAGE is not None
    found = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    found = [each for each in found if "asgibridge.install()" in each]
    return {"manage.py" if "def main" in each else "asgi.py": each for each in found}


def run_tool(tool: str, words: tuple[str, ...], file: Path) -> None:
    path = shutil.which(tool, path=sysconfig.get_path("scripts"))
    if path is None and not importlib.util.find_spec(tool):
        pytest.skip(f"{tool} is not installed")
    command = [path] if path else [sys.executable, "-m", tool]
    done = subprocess.run(
        [*command, *words, file.name],
        cwd=file.parent,
        capture_output=True,
        text=True,
        timeout=children.SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["asgi.py", "manage.py"])
@pytest.mark.parametrize(
    ("tool", "words"),
    [(tool, words) for tool, each in TOOLS.items() for words in each],
    ids=lambda value: value if isinstance(value, str) else " ".join(value) or "plain",
)
def test_are_left_alone(tmp_path, tool, words, name):
    text = blocks()[name]
    file = tmp_path / name
    # As a file may be, and as a tool has something to do: an import that is not used.
    file.write_text(text.replace("import os\n", "import json\nimport os\n", 1))
    run_tool(tool, words, file)
    tidied = file.read_text()
    assert "asgibridge.install()" in tidied
    assert without(tidied, "json") == without(text, "json")


def test_the_one_import_needs_its_comments(tmp_path):
    """What the page says of ``import asgibridge.autoinstall``."""
    line = "import asgibridge.autoinstall"
    for text, is_left in ((line, False), (f"{line}  # noqa: F401  # isort: skip", True)):
        file = tmp_path / "asgi.py"
        file.write_text(f"{text}\n\nimport os\n\nprint(os)\n")
        for tool in ("autoflake", "isort"):
            run_tool(tool, TOOLS[tool][0], file)
        assert (file.read_text().startswith(text)) == is_left


@pytest.mark.parametrize("name", ["asgi.py", "manage.py"])
def test_install_before_django_is_imported(name, tmp_path):
    (tmp_path / name).write_text(blocks()[name])
    for path, text in {
        "django/core/asgi.py": (
            "import asgiref.sync\nget_asgi_application = lambda: asgiref.sync.__name__\n"
        ),
        "django/core/management.py": (
            "import asgiref.sync\n"
            "execute_from_command_line = lambda argv: print(asgiref.sync.__name__)\n"
        ),
        "asgiref/sync.py": "",
        # Or an installed package of that name would be found.
        **dict.fromkeys(
            (f"{each}/__init__.py" for each in ("django", "django/core", "asgiref")), ""
        ),
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    words = (name,) if name == "manage.py" else ("-c", "import asgi; print(asgi.application)")
    done = children.run(*words, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("asgibridge.sync\n", "")


def without(text: str, module: str) -> str:
    """What ``text`` says, without its import of ``module``."""
    tree = ast.parse(text)
    tree.body = [each for each in tree.body if ast.unparse(each) != f"import {module}"]
    return ast.unparse(tree)
