"""Builds the distributions as a release does, and tests every way of installing them.

    python tests/wheels.py                   on every CPython found (what `make wheels` does)
    python tests/wheels.py --quick           this Python only, a part of the tests: in two minutes
    python tests/wheels.py --only 3.13       on that one (may be repeated)
    python tests/wheels.py --python PATH     and on that one: PyPy, or a CPython on musl

The source distribution is made of this checkout, and everything else of it. The C must compile
without a warning under gcc and clang. Then, for each Python, each in a new environment:

- a wheel with the compiled kernel, repaired by auditwheel to a manylinux or musllinux tag and
  stripped, is installed where there is no compiler;
- the source distribution where there is one, and where there is none: the pure kernel, then;
- the pure wheel, once, and on PyPy alone;

and `asgibridge info`, the quickstart and the quick tests run, from a copy of the tests that has no
sources beside it. Installing another kernel or version over the one there must leave nothing
behind, and all of them show the same names. The distributions are put into dist/. Linux only:
elsewhere cibuildwheel does. Needs the extra `wheels`. Exits with 1 if anything failed, or no Python
was tested; what is not here is named, and counts as nothing.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest_run
from environment import (
    ROOT,
    SUPPORTED,
    VENVS,
    EnvironmentFailure,
    Interpreter,
    child_environment,
    create,
    find,
    probe,
    python_in,
)
from wheel_builds import (
    DIST,
    Failure,
    build_sdist,
    build_wheel,
    check_contents,
    check_extension,
    check_warnings,
    generate_c,
    repair,
    run,
)

LIMIT = 900
"""Seconds for one run of the tests."""

QUICK_TESTS = ("test_compatibility", "test_hops", "test_install", "test_kernels", "test_parity")

OLDER = "0.0.1"
"""A version that none ever had."""

COMPILERS = re.compile(r"(.*-)?(cc|c\+\+|c[89]9|gcc|g\+\+|tcc|clang(\+\+)?)(-[\d.]+)?")

QUICKSTART = """
import asyncio, threading
from asgiref.sync import async_to_sync, sync_to_async
import asgibridge, asgibridge.sync

assert sync_to_async is asgibridge.sync.sync_to_async

async def main():
    return await sync_to_async(threading.current_thread)()

assert async_to_sync(main)() is threading.current_thread()
assert asyncio.run(main()) is not threading.current_thread()
print(asgibridge.IMPLEMENTATION)
"""

KERNELS = {"off": "pure", "require": "speedups"}


@dataclass
class Results:
    """The closing table."""

    rows: list[tuple[str, str]] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    failed: bool = False

    def step(self, what: str, do: Callable[[], str | None]) -> bool:
        print(f"\n### {what}", flush=True)
        try:
            self.rows.append((what, do() or "passed"))
            return True
        except (Failure, EnvironmentFailure) as failure:
            print(failure, flush=True)
            self.rows.append((what, "FAILED"))
            self.failed = True
            return False

    def close(self) -> int:
        print("\nThe distributions:")
        for what, result in self.rows:
            print(f"  {what}: {result}")
        for what in self.absent:
            print(f"  NOT TESTED: {what}")
        return 1 if self.failed or not self.rows else 0


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


@dataclass
class Leg:
    """One Python: what it is called in the table, and where things are."""

    interpreter: Interpreter
    libc: str
    work: Path
    bare_path: str
    quick: bool

    @property
    def name(self) -> str:
        other = "" if self.interpreter.implementation == "CPython" else "PyPy "
        return f"{other}{self.interpreter.name}{' musl' if self.libc == 'musllinux' else ''}"

    def environment(self) -> str:
        """The Python of a new one."""
        where = VENVS / f"wheel-{self.name.replace(' ', '-')}"
        shutil.rmtree(where, ignore_errors=True)
        create(where, self.interpreter)
        return python_in(where)

    def directory(self, name: str) -> Path:
        path = self.work / self.name.replace(" ", "-") / name
        path.mkdir(parents=True)
        return path

    def install_and_test(
        self, distribution: Path, kernel: str, *, compiler: bool, tests: bool = True
    ) -> str:
        """Into a new environment, from nothing; what the tests came to."""
        # What a user has: nothing is set. CC is for a Python that names its compiler by a path.
        env = {} if compiler else {"PATH": self.bare_path, "CC": "false"}
        python = self.environment()
        pip = (python, "-m", "pip", "install", "--quiet", "--no-cache-dir")
        run(*pip, distribution, **env)
        info = run(python, "-I", "-m", "asgibridge", "info", **env)
        print(info, end="")
        script = self.directory(f"{distribution.name}-{kernel}") / "quickstart.py"
        script.write_text(QUICKSTART)
        found = run(python, "-I", "-m", "asgibridge", "run", script, **env).strip()
        if found != KERNELS[kernel] or f"kernel: {found}" not in info:
            raise Failure(f"{distribution.name} runs the {found} kernel")
        # By the name: the distribution itself would be built a second time.
        requirements = [line for line in extra("test") if line]
        run(*pip, "--prefer-binary", *requirements, **env)
        if not tests:
            return f"the {found} kernel, the quickstart"
        return f"the {found} kernel, {self.test(python, kernel, script.parent)}"

    def test(self, python: str, kernel: str, place: Path) -> str:
        left_out = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "tests", place / "tests", ignore=left_out)
        shutil.copy2(ROOT / "pyproject.toml", place)
        files = [f"tests/{name}.py" for name in QUICK_TESTS] if self.quick else []
        outcome = pytest_run.run(
            [python, "-u", "-m", "pytest", "-q", "-m", "not slow", *files],
            cwd=place,
            env=child_environment(PATH=self.bare_path, ASGIBRIDGE_SPEEDUPS=kernel),
            limit=LIMIT,
        )
        if not outcome.ok:
            raise Failure(f"the {KERNELS[kernel]} kernel's tests: {outcome}")
        return str(outcome)

    def build(self, sdist: Path) -> Path:
        built = build_wheel(self.environment(), sdist, self.directory("built"), "require")
        wheel = repair(built, self.directory("repaired"), self.libc)
        check_contents(wheel)
        check_extension(wheel)
        return wheel

    def check_in_place(self, compiled: Path, pure: Path, older: Path) -> None:
        """Each over the other leaves none of it behind, and shows the same names."""
        python = self.environment()
        lister = (
            "import asgibridge as a, glob\n"
            "print(a.__version__, *glob.glob(a.__path__[0] + '/*.so'))"
        )
        shown = set()
        pip = (python, "-m", "pip", "install", "--quiet", "--no-cache-dir")
        for wheel, flags, extensions in (
            (older, (), 0),
            (compiled, ("--upgrade",), 1),
            (older, (), 0),
            (pure, ("--upgrade",), 0),
            (compiled, ("--force-reinstall",), 1),
            (pure, ("--force-reinstall",), 0),
            (compiled, ("--force-reinstall",), 1),
        ):
            run(*pip, *flags, wheel)
            version, *found = run(python, "-I", "-c", lister).split()
            if len(found) != extensions or version != wheel.name.split("-")[1]:
                raise Failure(f"after {wheel.name}: {version}, {found}")
            shown.add(run(python, "-I", str(ROOT / "tests" / "public_api.py")))
        if len(shown) != 1:
            raise Failure("the public names differ:\n" + "\n\n".join(shown))


def extra(name: str) -> list[str]:
    """Its requirements, as pyproject.toml has them."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (body,) = re.findall(rf"^{name} = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    return re.findall(r'^ *"([^"]+)"', body, re.MULTILINE)


def is_musl(interpreter: Interpreter) -> bool:
    code = "import sysconfig; print(sysconfig.get_config_var('SOABI'))"
    return "musl" in run(interpreter.path, "-I", "-c", code)


def test_leg(leg: Leg, sdist: Path, pure: Path, older: Path, results: Results) -> None:
    compiles = leg.interpreter.implementation == "CPython"
    if compiles:
        wheels: list[Path] = []
        built = results.step(f"{leg.name}: a wheel", lambda: wheels.append(leg.build(sdist)))
        if built:
            (wheel,) = wheels
            shutil.copy2(wheel, DIST)
            results.step(
                f"{leg.name}: the wheel, no compiler",
                lambda: leg.install_and_test(wheel, "require", compiler=False),
            )
            results.step(
                f"{leg.name}: upgrade and downgrade in place",
                lambda: leg.check_in_place(wheel, pure, older),
            )
        results.step(
            f"{leg.name}: from source, with a compiler",
            lambda: leg.install_and_test(sdist, "require", compiler=True, tests=not leg.quick),
        )
    results.step(
        f"{leg.name}: from source, no compiler",
        lambda: leg.install_and_test(sdist, "off", compiler=False, tests=not leg.quick),
    )
    if not compiles or leg.quick:
        results.step(
            f"{leg.name}: the pure wheel, no compiler",
            lambda: leg.install_and_test(pure, "off", compiler=False),
        )


def build_common(work: Path, results: Results) -> tuple[Path, Path, Path]:
    """The sdist, the pure wheel, and the pure wheel of an older version."""
    shutil.rmtree(DIST, ignore_errors=True)
    sdist = build_sdist(work, DIST)
    for name in ("pure", "old-sdist", "old"):
        (work / name).mkdir()
    pure = build_wheel(sys.executable, sdist, work / "pure", "off")
    if not pure.name.endswith("-py3-none-any.whl"):
        raise Failure(f"{pure.name} is not pure")
    check_contents(pure)
    old_sdist = build_sdist(work, work / "old-sdist", OLDER)
    older = build_wheel(sys.executable, old_sdist, work / "old", "off")
    return sdist, Path(shutil.copy2(pure, DIST)), older


def check_c(sdist: Path, work: Path, interpreters: list[Interpreter], results: Results) -> None:
    c_file = generate_c(sdist, work)
    for each in interpreters:
        if each.implementation != "CPython" or is_musl(each):
            continue  # the headers of a musl one are the same

        def check(each: Interpreter = each) -> str | None:
            code = "import sysconfig; print(sysconfig.get_path('include'))"
            missing = check_warnings(c_file, run(each.path, "-I", "-c", code).strip())
            for compiler in missing:
                results.absent.append(f"{each.name}: warnings of {compiler}, which is not here")
            return "NOT RUN" if len(missing) == 2 else None

        results.step(f"{each.name}: the C without warnings", check)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=SUPPORTED, action="append", metavar="VERSION")
    parser.add_argument("--python", action="append", metavar="PATH", default=[])
    parser.add_argument("--quick", action="store_true", help="this Python, a part of the tests")
    options = parser.parse_args()
    if sys.platform != "linux":
        parser.error("auditwheel is for Linux; elsewhere use cibuildwheel")
    results = Results()
    interpreters: list[Interpreter] = []
    for path in [sys.executable] if options.quick else options.python:
        interpreter = probe(path)
        if interpreter is None:
            parser.error(f"{path} is no Python")
        interpreters.append(interpreter)
    for name in () if options.quick else options.only or SUPPORTED:
        interpreter = find(name)
        if interpreter is None:
            results.absent.append(f"{name}: no such interpreter found")
        else:
            interpreters.append(interpreter)

    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        path = without_compilers(work)
        try:
            distributions = build_common(work, results)
            check_c(distributions[0], work, interpreters, results)
        except Failure as failure:
            print(failure)
            return 1
        for interpreter in interpreters:
            libc = "musllinux" if is_musl(interpreter) else "manylinux"
            leg = Leg(interpreter, libc, work, path, options.quick)
            test_leg(leg, *distributions, results)
        results.step(
            "twine check",
            lambda: print(run(sys.executable, "-m", "twine", "check", "--strict", *DIST.iterdir())),
        )
    return results.close()


if __name__ == "__main__":
    sys.exit(main())
