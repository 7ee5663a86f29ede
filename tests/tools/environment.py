"""Interpreters and virtual environments, for the test, lint and demo commands.

    python tests/tools/environment.py .venv/lint lint    make or refresh one with that extra
    python tests/tools/environment.py --find 3.14t       where that CPython is; status 1: nowhere

An environment gets a non-editable install of a clean copy of the sources: neither an editable
install nor a left-over ``build/`` can be what is tested, and environments can be made in parallel.
The install is made once for each state of the sources: a file in the environment has their hash.
Runs on any Python that asgibridge supports, with nothing installed.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tests" / "tools"
VENVS = ROOT / ".venv"

SUPPORTED = ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14", "3.14t")

PACKAGE = ("src", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
"""What a build of the package needs of the checkout."""

MAKES_A_DIFFERENCE = ("src", "pyproject.toml", "setup.py")
"""The part of PACKAGE that decides which code is installed; the rest is text."""

COMPILED_WITH = ("CC", "CFLAGS", "CPPFLAGS", "LDFLAGS", "LDSHARED")
"""The variables that change how the kernel is compiled."""

RECORD = "asgibridge-install.json"
"""The file of an environment that says what is installed in it."""

BUILT = ("*.egg-info", "__pycache__", "*.so", "*.c")
"""What a build leaves among the sources."""

HAS_COMPILED_KERNEL = any((ROOT / "src" / "_speedups").glob("*.pyx"))

_PROBE = """
import importlib.util, json, platform, sys, sysconfig
free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
print(json.dumps({
    "implementation": platform.python_implementation(),
    "release": platform.python_version(),
    "name": "%d.%d" % sys.version_info[:2] + "t" * free_threaded,
    "gil": getattr(sys, "_is_gil_enabled", lambda: True)(),
    "base": sys.base_prefix,
    "ensurepip": importlib.util.find_spec("ensurepip") is not None,
    "pip": importlib.util.find_spec("pip") is not None,
}))
"""


class EnvironmentFailure(Exception):
    """An environment could not be made; the message says which step failed and what it printed."""


@dataclass(frozen=True)
class Interpreter:
    """A Python that answered: where it is and what it is."""

    path: str
    implementation: str
    release: str
    """Such as 3.14.2."""
    name: str
    """Such as 3.14, or 3.14t for a free-threaded build."""
    gil: bool
    """Whether the GIL is on in a fresh process."""
    base: str
    """Its installation; an environment has that of the interpreter it was made of."""
    ensurepip: bool
    pip: bool

    @property
    def number(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.name.rstrip("t").split("."))


def child_environment(**more: str) -> dict[str, str]:
    """This process's environment without what would change which code runs or which tests."""
    hidden = {
        "ASGIBRIDGE_SPEEDUPS",
        "PYTEST_ADDOPTS",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD",
        "PYTEST_PLUGINS",
        "PYTHONHOME",
        "PYTHONPATH",
        "PYTHONWARNINGS",
    }
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return {**kept, **more}


def probe(python: str) -> Interpreter | None:
    """What `python` is, or None if it does not run, as a pyenv shim of an inactive version."""
    try:
        answer = subprocess.run(
            [python, "-I", "-c", _PROBE], capture_output=True, text=True, timeout=60, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return Interpreter(path=python, **json.loads(answer))


def _candidates(name: str) -> Iterator[str]:
    executable = f"python{name}"
    for directory in os.environ.get("ASGIBRIDGE_PYTHONS", "").split(os.pathsep):
        if directory:
            yield str(Path(directory, executable))
            yield str(Path(directory, "bin", executable))
    on_path = shutil.which(executable)
    if on_path:
        yield on_path
    if shutil.which("pyenv"):
        answer = subprocess.run(["pyenv", "root"], capture_output=True, text=True, check=False)
        versions = Path(answer.stdout.strip() or os.devnull, "versions")
        # Newest patch release first.
        found = versions.glob(f"{name.rstrip('t')}.*/bin/{executable}")
        yield from sorted(map(str, found), key=lambda path: (len(path), path), reverse=True)
    yield str(VENVS / "pythons" / name / "bin" / executable)


def find(name: str) -> Interpreter | None:
    """The first working CPython of that version among ASGIBRIDGE_PYTHONS, PATH and pyenv's."""
    for python in _candidates(name):
        interpreter = probe(python)
        if interpreter and (interpreter.implementation, interpreter.name) == ("CPython", name):
            return interpreter
    return None


def python_in(environment: Path) -> str:
    if os.name == "nt":
        return str(environment / "Scripts" / "python.exe")
    return str(environment / "bin" / "python")


SAYS_SO_EVERY = 5.0
"""Seconds between two lines about a command that takes a while. Arbitrary: who sees nothing for
longer looks for what hangs."""


def _run(step: str, command: list[str], **more: str) -> str:
    began = time.monotonic()
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=child_environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    ) as process:
        try:
            while True:
                try:
                    printed = process.communicate(timeout=SAYS_SO_EVERY)[0]
                    break
                except subprocess.TimeoutExpired:
                    spent = time.monotonic() - began
                    print(f"  still {step}: {spent:.0f} s", flush=True)
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise EnvironmentFailure(f"{step} failed:\n  {' '.join(command)}\n{printed}")
    return printed


def _step(step: str, command: list[str], **more: str) -> None:
    """Run a command that takes a while, and say how long it took."""
    began = time.monotonic()
    print(f"{step} ...", flush=True)
    _run(step, command, **more)
    print(f"{step}: {time.monotonic() - began:.0f} s", flush=True)


def _virtualenv(environment: Path) -> str:
    """virtualenv's Python, in an environment of its own: for an interpreter without ensurepip.

    One for each environment that is made: two may be made at a time, by two processes.
    """
    home = VENVS / f"virtualenv-{environment.name}"
    able: str | None = sys.executable
    if importlib.util.find_spec("ensurepip") is None:
        able = next((each.path for each in map(find, SUPPORTED) if each and each.ensurepip), able)
    _step(
        "creating an environment for virtualenv (on Debian: apt-get install python3-venv)",
        [able or sys.executable, "-m", "venv", "--clear", str(home)],
    )
    _step(
        "installing virtualenv",
        [python_in(home), "-m", "pip", "install", "--quiet", "virtualenv"],
    )
    return python_in(home)


def create(environment: Path, interpreter: Interpreter) -> None:
    """Make `environment` one of `interpreter`, anew unless it already is."""
    wanted = (interpreter.name, interpreter.release, interpreter.base)
    existing = probe(python_in(environment))
    # Without pip: its making was interrupted.
    if existing and existing.pip and (existing.name, existing.release, existing.base) == wanted:
        return
    if interpreter.ensurepip:
        command = [interpreter.path, "-m", "venv", "--clear"]
    else:
        command = [
            _virtualenv(environment),
            "-m",
            "virtualenv",
            "--clear",
            "--python",
            interpreter.path,
        ]
    _step(f"creating {environment.name}", [*command, str(environment)])


def paths_of(*names: str) -> list[str]:
    """Where the test files of these names are, such as test_hops; relative to the checkout."""
    found = {path.stem: path for path in (ROOT / "tests").glob("*/test_*.py")}
    return [found[name].relative_to(ROOT).as_posix() for name in names]


def _files(names: tuple[str, ...]) -> Iterator[Path]:
    """The files below each, without what a build has left there, in the same order each time."""
    for name in names:
        top = ROOT / name
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            parts = path.relative_to(ROOT).parts
            made = any(fnmatch(part, pattern) for part in parts for pattern in BUILT)
            if path.is_file() and not made:
                yield path


def _fingerprint() -> str:
    """A hash of what the install is made of."""
    total = hashlib.sha256()
    for path in _files(MAKES_A_DIFFERENCE):
        content = path.read_bytes()
        total.update(f"{path.relative_to(ROOT).as_posix()} {len(content)}\n".encode() + content)
    for name in COMPILED_WITH:
        total.update(f"{name}={os.environ.get(name)}\n".encode())
    return total.hexdigest()


def install(environment: Path, extras: str, alone: str = "") -> None:
    """Install this checkout, as it is now, into `environment`; and `alone` without what it needs.

    Where the sources have a compiled kernel it must build: a test run that quietly lost it would
    prove nothing.
    """
    record = environment / RECORD
    try:
        known = json.loads(record.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        known = {"fingerprint": "", "extras": [], "alone": []}
    # Extras are added to those that another command has installed.
    all_extras = sorted({*known["extras"], *extras.split(",")})
    all_alone = sorted({*known["alone"], *filter(None, [alone])})
    wanted = {"fingerprint": _fingerprint(), "extras": all_extras, "alone": all_alone}
    if wanted == known:
        print(f"{environment.name}: nothing has changed since it was installed", flush=True)
    else:
        record.unlink(missing_ok=True)
        _install(environment, ",".join(all_extras), all_alone)
    where = _run(
        "importing asgibridge",
        [python_in(environment), "-I", "-c", "import asgibridge; print(asgibridge.__file__)"],
    )
    if environment.resolve() not in Path(where.strip()).resolve().parents:
        raise EnvironmentFailure(f"{environment} imports asgibridge from {where.strip()}")
    record.write_text(json.dumps(wanted), encoding="utf-8")


def _install(environment: Path, extras: str, alone: list[str]) -> None:
    pip = [python_in(environment), "-m", "pip", "install", "--quiet", "--prefer-binary"]
    python = probe(python_in(environment))
    compiles = python is None or python.implementation == "CPython"  # PyPy has the pure kernel
    with tempfile.TemporaryDirectory() as copy:
        for source in _files(PACKAGE):
            target = Path(copy, source.relative_to(ROOT))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
        _step(
            f"installing asgibridge[{extras}] into {environment.name}",
            [*pip, f"{copy}[{extras}]"],
            ASGIBRIDGE_SPEEDUPS="require" if HAS_COMPILED_KERNEL and compiles else "auto",
        )
    for requirement in alone:
        _step(
            f"installing {requirement} into {environment.name}",
            [*pip, "--no-deps", requirement],
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("environment", nargs="?", type=Path, help="directory to make or refresh")
    parser.add_argument("extras", nargs="?", default="test,upstream", help="default: %(default)s")
    parser.add_argument("--find", metavar="VERSION", choices=SUPPORTED)
    options = parser.parse_args()
    if options.find:
        found = find(options.find)
        if found:
            print(found.path)
        return 0 if found else 1
    if not options.environment:
        parser.error("name a directory for the environment, or use --find")
    this = probe(sys.executable)
    assert this is not None
    try:
        create(options.environment.absolute(), this)
        install(options.environment.absolute(), options.extras)
    except EnvironmentFailure as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
