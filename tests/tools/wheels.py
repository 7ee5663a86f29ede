"""Builds the distributions as a release does, and tests every way of installing them.

    python tests/tools/wheels.py                every CPython found (what `make wheels` does)
    python tests/tools/wheels.py --assemble     and those that a script can assemble, for musl too
    python tests/tools/wheels.py --quick        this Python, a part of the tests: in two minutes
    python tests/tools/wheels.py --only 3.13-musl --way wheel --continue
                                                one piece, added to the results of the others

The source distribution is made of this checkout, and everything else of it. The C must compile
without a warning under gcc and clang. Then, for each Python, each in a new environment:

- a wheel with the compiled kernel, repaired by auditwheel to a manylinux or musllinux tag and
  stripped, is installed where there is no compiler;
- the source distribution where there is one, and where there is none: the pure kernel, then;
- the pure wheel;

and `asgibridge info`, the quickstart and the quick tests (--part: some of them) run, from a copy of
the tests that has no sources beside it. Installing another kernel or version over the one there
must leave nothing behind, and all of them show the same names. Wheels for other machines are built
with zig, and looked at. Several Pythons are tested two at a time, and what one said is printed when
it has ended. The distributions are put into dist/, the results of a run that is not --quick into
docs/install.md. Linux only: elsewhere cibuildwheel does. Needs the extra `wheels`. Exits with 1 if
anything failed, or nothing was tested; what is not here is named, and counts as nothing.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

import pytest_run
import wheel_pythons
import wheel_results
from environment import (
    PACKAGE,
    ROOT,
    SUPPORTED,
    TOOLS,
    VENVS,
    EnvironmentFailure,
    child_environment,
    create,
    paths_of,
    probe,
    python_in,
)
from wheel_builds import (
    ALSO_COMPILED,
    DIST,
    TARGETS,
    Failure,
    Target,
    build_sdist,
    build_wheel,
    check_contents,
    check_extension,
    check_warnings,
    check_warnings_by_zig,
    cross_build,
    generate_c,
    only,
    repair,
    run,
)
from wheel_pythons import Python

STATE = VENVS / "wheels-state"
"""What --continue goes on from: what all Pythons share, and the results."""

RESULTS = wheel_results.Results(STATE)

AT_ONCE = 2
"""How many Pythons are tested at a time, as in `matrix.py`."""

LIMIT = 900
"""Seconds for one run of the tests."""

PART = ("test_compatibility", "test_hops", "test_install", "test_kernels", "test_parity")

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

NO_FIELD = "-Wno-missing-field-initializers"

FAILED = "FAILED"

KERNELS = {"off": "pure", "require": "speedups"}

WORDS = {"pure": "pure", "speedups": "compiled"}


@dataclass
class Results:
    """The closing table."""

    rows: list[tuple[str, str]] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    failed: bool = False

    def step(self, what: str, do: Callable[[], str | None]) -> bool:
        print(f"\n### {what}", flush=True)
        began = time.monotonic()
        try:
            result = do() or "passed"
        except (Failure, EnvironmentFailure) as failure:
            print(failure, flush=True)
            result = FAILED
            self.failed = True
        print(f"### {what}: {result}, {time.monotonic() - began:.0f} s", flush=True)
        self.rows.append((what, result))
        return result != FAILED

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
    """One Python, and how it is tested."""

    python: Python
    work: Path
    bare_path: str
    part: bool
    """Whether a part of the tests is enough."""
    quick: bool = False

    @property
    def name(self) -> str:
        return self.python.name

    def environment(self) -> str:
        """The Python of a new one."""
        where = VENVS / f"wheel-{self.name}"
        shutil.rmtree(where, ignore_errors=True)
        create(where, self.python.interpreter)
        return python_in(where)

    def directory(self, name: str) -> Path:
        path = self.work / self.name / name
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
        # The last line: without a compiler, the first import logs that the kernel is missing.
        found = run(python, "-I", "-m", "asgibridge", "run", script, **env).splitlines()[-1]
        if found != KERNELS[kernel] or f"kernel: {found}" not in info:
            raise Failure(f"{distribution.name} runs the {found} kernel")
        if not tests:
            return WORDS[found]
        # By the name: the distribution itself would be built a second time. From pip's cache: these
        # are nobody's claim.
        needed = (argument for argument in pip if argument != "--no-cache-dir")
        run(*needed, "--prefer-binary", *extra("test"), **env)
        env = {"PATH": self.bare_path, "ASGIBRIDGE_SPEEDUPS": kernel}
        return f"{WORDS[found]}: {run_tests(python, script.parent, part=self.part, **env)}"

    def build(self, sdist: Path) -> Path:
        # A run that was broken off may have done it; a new one begins with an empty directory.
        done = list(DIST.glob(f"*-{self.python.tag}-{self.python.platform}*.whl"))
        if done:
            return done[0]
        built = build_wheel(self.environment(), sdist, self.directory("built"), "require")
        wheel = repair(built, self.directory("repaired"), self.python.platform)
        check_contents(wheel)
        check_extension(wheel)
        return Path(shutil.copy2(wheel, DIST))

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
            shown.add(run(python, "-I", str(TOOLS / "public_api.py")))
        if len(shown) != 1:
            raise Failure("the public names differ:\n" + "\n\n".join(shown))


def run_tests(python: str, place: Path, *, part: bool, **env: str) -> str:
    """From a copy in `place`, which has no sources beside it."""
    left_out = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "tests", place / "tests", ignore=left_out)
    shutil.copy2(ROOT / "pyproject.toml", place)
    files = paths_of(*PART) if part else []
    outcome = pytest_run.run(
        [python, "-u", "-m", "pytest", "-q", "-m", "not slow", *files],
        cwd=place,
        env=child_environment(**env),
        limit=LIMIT,
    )
    if not outcome.ok:
        raise Failure(f"the {KERNELS[env['ASGIBRIDGE_SPEEDUPS']]} kernel's tests: {outcome}")
    return f"{outcome}{wheel_results.PART if part else ''}"


def extra(name: str) -> list[str]:
    """Its requirements, as pyproject.toml has them."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (body,) = re.findall(rf"^{name} = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    return re.findall(r'^ *"([^"]+)"', body, re.MULTILINE)


@dataclass(frozen=True)
class Distributions:
    """What the Pythons share."""

    sdist: Path
    pure: Path
    older: Path
    """A pure wheel, as if of another version."""


def test_leg(leg: Leg, common: Distributions, ways: list[str], results: Results) -> None:
    def install(way: str, distribution: Path, kernel: str, *, tests: bool = True) -> None:
        if way not in ways:
            return
        what = f"{leg.name}: {wheel_results.WAYS[way]}"
        compiler = way == "source"
        ok = results.step(
            what,
            lambda: leg.install_and_test(distribution, kernel, compiler=compiler, tests=tests),
        )
        if not leg.quick:
            known = leg.python.interpreter
            row = wheel_results.Row(
                *(leg.name, known.release, leg.python.libc, known.implementation),
                *(way, results.rows[-1][1], ok),
            )
            RESULTS.add(row)

    if leg.python.compiles:
        wheels: list[Path] = []
        if "wheel" in ways:
            results.step(f"{leg.name}: a wheel", lambda: wheels.append(leg.build(common.sdist)))
        if wheels:
            (wheel,) = wheels
            install("wheel", wheel, "require")
            results.step(
                f"{leg.name}: upgrade and downgrade in place",
                lambda: leg.check_in_place(wheel, common.pure, common.older),
            )
        install("source", common.sdist, "require", tests=not leg.quick)
    install("bare", common.sdist, "off", tests=not leg.quick)
    install("pure", common.pure, "off")


def test_each(names: list[str], options: argparse.Namespace, results: Results) -> None:
    """Each Python in a process of its own, which adds its rows to the results."""
    words = [word for way in options.way or () for word in ("--way", way)]
    words += ["--part"] * options.part

    def test(name: str) -> tuple[str, subprocess.CompletedProcess[str], float]:
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, __file__, "--piece", "--only", name, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        return name, done, time.monotonic() - began

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for future in as_completed([pool.submit(test, name) for name in names]):
            name, done, seconds = future.result()
            print(done.stdout, flush=True)
            passed = done.returncode == 0
            results.rows.append((name, f"{'passed' if passed else FAILED}, {seconds:.0f} s"))
            results.failed |= not passed


def digest() -> str:
    """Of what goes into a wheel."""
    total = hashlib.sha256()
    for name in PACKAGE:
        for path in sorted((ROOT / name).rglob("*")) if (ROOT / name).is_dir() else [ROOT / name]:
            made = path.suffix in {".pyc", ".so", ".c"} or path.parent.suffix == ".egg-info"
            if path.is_file() and not made:
                total.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return total.hexdigest()


def build_common(work: Path) -> Distributions:
    """The sdist, the pure wheel, and the pure wheel of an older version."""
    shutil.rmtree(DIST, ignore_errors=True)
    shutil.rmtree(STATE, ignore_errors=True)
    sdist = build_sdist(work, DIST)
    for name in ("pure", "old-sdist"):
        (work / name).mkdir()
    pure = build_wheel(sys.executable, sdist, work / "pure", "off")
    if not pure.name.endswith("-py3-none-any.whl"):
        raise Failure(f"{pure.name} is not pure")
    check_contents(pure)
    shutil.copy2(pure, DIST)
    old_sdist = build_sdist(work, work / "old-sdist", OLDER)
    (STATE / "old").mkdir(parents=True)
    build_wheel(sys.executable, old_sdist, STATE / "old", "off")
    (STATE / "digest").write_text(digest())
    return built_before()


def built_before() -> Distributions:
    return Distributions(
        only(DIST, "*.tar.gz"), only(DIST, "*-py3-none-any.whl"), only(STATE / "old", "*.whl")
    )


def can_continue() -> bool:
    stamp = STATE / "digest"
    return stamp.exists() and stamp.read_text() == digest()


def check_c(sdist: Path, work: Path, pythons: list[Python], results: Results) -> None:
    c_file = None
    for python in pythons:
        if not python.compiles or python.libc == "musl":
            continue  # the headers of a musl one are the same
        c_file = c_file or generate_c(sdist, work)
        results.step(
            f"{python.name}: the C without warnings",
            functools.partial(check_c_on, python, c_file, results.absent),
        )


def check_c_on(python: Python, c_file: Path, absent: list[str]) -> str | None:
    code = "import sysconfig; print(sysconfig.get_path('include'))"
    include = run(python.interpreter.path, "-I", "-c", code).strip()
    # 3.15 has a field in PyTypeObject that Cython 3.3 does not know.
    is_known = python.interpreter.number < (3, 15)
    missing = check_warnings(c_file, include, *([] if is_known else [NO_FIELD]))
    absent += [f"{python.name}: warnings of {each}, which is not here" for each in missing]
    return "NOT RUN" if len(missing) == 2 else None


def check_cross(
    targets: list[Target], there: str, sdist: Path, work: Path, results: Results
) -> None:
    """Wheels for other machines. They are not put into dist/."""
    this = probe(sys.executable)
    assert this is not None
    where = VENVS / "wheel-zig"
    try:
        create(where, this)
        run(python_in(where), "-m", "pip", "install", "--quiet", "ziglang")
    except (Failure, EnvironmentFailure) as failure:
        print(failure)
        results.absent.append("wheels for other machines: ziglang cannot be installed")
        return
    for target in targets:

        def build(target: Target = target) -> str:
            wheel, extension = cross_build(target, python_in(where), sdist, work)
            ran = run_there(wheel, target, there, work) if target.triple == RUNS else ""
            RESULTS.add_cross(
                wheel_results.CrossRow(
                    *(target.triple, wheel.name, extension.bytes),
                    *(extension.needs, extension.versions, ran),
                )
            )
            return f"{wheel.name} {ran}"

        results.step(f"{target.triple}: a wheel by zig", build)
    if len(targets) == len(TARGETS):
        c_file = generate_c(sdist, work)
        for zig_target in ALSO_COMPILED:
            results.step(
                f"{zig_target}: the C without warnings",
                functools.partial(check_warnings_by_zig, zig_target, python_in(where), c_file),
            )


def run_there(wheel: Path, target: Target, python: str, work: Path) -> str:
    """Install and test it on a CPython for that machine, which an emulator runs here, if any."""
    if not python:
        return ""
    site = work / f"site-{target.triple}"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    # pip itself says whether that machine would take the wheel.
    run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--target", site),
        *("--platform", f"{target.tag}_{target.machine}", "--python-version", version),
        *("--platform", f"manylinux2014_{target.machine}", "--only-binary", ":all:"),
        *(wheel, *extra("test")),
    )
    # The tests start children, which need the emulator, too.
    (site / "sitecustomize.py").write_text(f"import sys\nsys.executable = {python!r}\n")
    env = {"PYTHONPATH": str(site), "ASGIBRIDGE_SPEEDUPS": "require"}
    print(run(python, "-m", "asgibridge", "info", **env), end="")
    place = site / "place"
    place.mkdir()
    script = place / "quickstart.py"
    script.write_text(QUICKSTART)
    if run(python, "-m", "asgibridge", "run", script, **env).strip() != "speedups":
        raise Failure(f"{wheel.name} does not run its kernel")
    return f"compiled: {run_tests(python, place, part=True, **env)}"


def choose(options: argparse.Namespace, results: Results) -> list[Python]:
    if options.quick:
        this = probe(sys.executable)
        assert this is not None
        return [Python(this.name, this)]
    if options.only:
        names = [name for name in options.only if name in wheel_pythons.NAMES]
    elif options.assemble:
        names = list(wheel_pythons.NAMES)
    else:
        names = [*SUPPORTED, "pypy3"]
    pythons = []
    for name in names:
        python = wheel_pythons.get(name, assemble=options.assemble)
        if isinstance(python, Python):
            pythons.append(python)
        else:
            results.absent.append(f"{name}: {python}")
    return pythons


CROSS, C = "cross", "c"

RUNS = "aarch64-linux-gnu"
"""The target that --aarch64 is for."""

PURE_WAYS = ("bare", "pure")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only",
        choices=(*wheel_pythons.NAMES, CROSS, *(target.triple for target in TARGETS)),
        action="append",
        metavar="NAME",
        help="a Python, such as 3.13, 3.13-musl or pypy3; cross: wheels for other machines, or one "
        "of them, as aarch64-linux-musl",
    )
    parser.add_argument(
        "--way",
        choices=(*wheel_results.WAYS, C),
        action="append",
        help="of installing (may be repeated); c: see whether the C compiles without a warning",
    )
    parser.add_argument("--part", action="store_true", help="a part of the tests")
    parser.add_argument("--quick", action="store_true", help="this Python, a part of the tests")
    parser.add_argument(
        "--assemble", action="store_true", help="what is not here, by ASGIBRIDGE_ASSEMBLE_PYTHON"
    )
    parser.add_argument(
        "--continue",
        action="store_true",
        dest="resume",
        help="use the distributions of an earlier run of the same sources, and add to its results",
    )
    parser.add_argument(
        "--aarch64",
        default="",
        metavar="COMMAND",
        help="one word that runs an aarch64 CPython of this version, as a script with qemu-aarch64 "
        f"in it: the wheel for {RUNS} is installed and tested on it",
    )
    parser.add_argument("--piece", action="store_true", help=argparse.SUPPRESS)  # of test_each()
    options = parser.parse_args()
    if sys.platform != "linux":
        parser.error("auditwheel is for Linux; elsewhere use cibuildwheel")
    results = Results()
    pythons = choose(options, results)
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        path = without_compilers(work)
        try:
            resumes = options.piece or (options.resume and can_continue())
            common = built_before() if resumes else build_common(work)
        except Failure as failure:
            print(failure)
            return 1
        if not options.piece and (not options.way or C in options.way):
            check_c(common.sdist, work, pythons, results)
        if len(pythons) > 1 and options.way != [C]:
            test_each([python.name for python in pythons], options, results)
        else:
            for python in pythons:
                leg = Leg(python, work, path, options.part or options.quick, options.quick)
                ways = options.way or list(wheel_results.WAYS if python.compiles else PURE_WAYS)
                test_leg(leg, common, ways, results)
        if options.piece:
            return results.close()
        wanted = [] if options.quick else options.only or [CROSS]
        targets = [each for each in TARGETS if CROSS in wanted or each.triple in wanted]
        if targets:
            check_cross(targets, options.aarch64, common.sdist, work, results)
        results.step(
            "twine check",
            lambda: print(run(sys.executable, "-m", "twine", "check", "--strict", *DIST.iterdir())),
        )
    if not options.quick:
        RESULTS.publish()
    return results.close()


if __name__ == "__main__":
    sys.exit(main())
