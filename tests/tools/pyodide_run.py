"""The pure wheel in Pyodide: CPython in WebAssembly, without threads, as in a browser.

    python tests/tools/pyodide_run.py        needs node (20 or later) and npm

npm puts Pyodide into .venv/pyodide; pip builds the pure wheel of this checkout, and fetches
micropip, which installs it there from its file. Then the cases of pyodide_cases.py are run on
Pyodide's event loop. The tests of tests/ are not: pytest needs a loop that it can run itself, most
of them need threads, and so does their time limit.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from environment import PACKAGE, ROOT, TOOLS, VENVS, child_environment

PYODIDE = "314.0.7"
"""Of CPython 3.14."""

MICROPIP = "0.11.1"
LIMIT = 300
"""Seconds for a step: several times what a download takes."""


def step(what: str, command: list[str], **environment: str) -> None:
    print(f"{what} ...", flush=True)
    done = subprocess.run(command, env=child_environment(**environment), timeout=LIMIT, check=False)
    if done.returncode:
        raise SystemExit(f"FAILED: {what}: {' '.join(command)}")


def main() -> int:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise SystemExit(f"{program} is not installed (Debian: apt-get install nodejs npm)")
    home = VENVS / "pyodide"
    npm = ["npm", "install", "--prefix", str(home), "--no-audit", "--no-fund", "--silent"]
    step(f"Pyodide {PYODIDE}", [*npm, f"pyodide@{PYODIDE}"])
    pip = [sys.executable, "-m", "pip", "--quiet"]
    with tempfile.TemporaryDirectory() as directory:
        sources, wheels = Path(directory, "sources"), Path(directory, "wheels")
        sources.mkdir()
        for name in PACKAGE:  # a build leaves things among the sources
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
            copy(ROOT / name, sources / name)
        step(
            "the pure wheel",
            [*pip, "wheel", "--no-deps", "--wheel-dir", str(wheels), str(sources)],
            ASGIBRIDGE_SPEEDUPS="off",
        )
        step(
            f"micropip {MICROPIP}",
            [*pip, "download", "--no-deps", "--dest", str(wheels), f"micropip=={MICROPIP}"],
        )
        step(
            "the cases",
            [
                "node",
                str(TOOLS / "pyodide_run.mjs"),
                str(home / "node_modules/pyodide"),
                str(wheels),
            ],
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
