"""The Pythons that distributions are tested on, by name: for `wheels.py`.

``3.12`` is CPython on this system's C library, ``3.12-musl`` one on musl, ``pypy3`` the PyPy on
PATH. What is not here can be assembled, if that is asked for, by the script that
ASGIBRIDGE_ASSEMBLE_PYTHON names: ``script PREFIX 3.12 t|- gnu|musl``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from environment import ROOT, SUPPORTED, VENVS, Interpreter, find, probe

CPYTHONS = (*dict.fromkeys((*SUPPORTED, "3.15", "3.15t")),)
MUSL = tuple(f"{name}-musl" for name in CPYTHONS)
NAMES = (*CPYTHONS, *MUSL, "pypy3")

SCRIPT = "../shared/tools/assemble_python.sh"
"""Where such a script lies beside a checkout, if there is one."""


@dataclass(frozen=True)
class Python:
    """An interpreter, and what it is called here."""

    name: str
    interpreter: Interpreter

    @property
    def libc(self) -> str:
        return "musl" if self.name in MUSL else "glibc"

    @property
    def platform(self) -> str:
        """auditwheel's word for the C library."""
        return "musllinux" if self.name in MUSL else "manylinux"

    @property
    def tag(self) -> str:
        """Of its own wheels: such as cp314-cp314t."""
        number = self.interpreter.name.replace(".", "")
        return f"cp{number.rstrip('t')}-cp{number}"

    @property
    def compiles(self) -> bool:
        """The compiled kernel is CPython's alone."""
        return self.interpreter.implementation == "CPython"


def get(name: str, *, assemble: bool) -> Python | str:
    """That Python, or why there is none."""
    found = look_for(name)
    if found is None and assemble and name != "pypy3":
        problem = run_script(name)
        found = look_for(name)
        if found is None:
            return problem or "the assembled interpreter does not run"
    return Python(name, found) if found else "no such interpreter found"


def look_for(name: str) -> Interpreter | None:
    if name == "pypy3":
        path = shutil.which(name)
        return probe(path) if path else None
    if name in MUSL:
        version = name.partition("-")[0]
        # Nowhere else: an executable's name does not say which C library it is for.
        return probe(str(VENVS / "pythons" / name / "bin" / f"python{version}"))
    return find(name)


def run_script(name: str) -> str:
    """What went wrong, if anything."""
    script = ROOT / os.environ.get("ASGIBRIDGE_ASSEMBLE_PYTHON", SCRIPT)
    if not script.exists():
        return "not here, nor a script to assemble it"
    version, _, musl = name.partition("-")
    prefix = VENVS / "pythons" / name
    prefix.parent.mkdir(parents=True, exist_ok=True)
    print(f"assembling CPython {name}", flush=True)
    done = subprocess.run(
        [
            *("bash", str(script), str(prefix), version.rstrip("t")),
            *("t" if version.endswith("t") else "-", musl or "gnu"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    Path(f"{prefix}.log").write_text(done.stdout, encoding="utf-8")
    if not done.returncode:
        return ""
    said = [line for line in done.stdout.splitlines() if line.strip()] or ["nothing was printed"]
    return f"could not be assembled: {said[-1]}"
