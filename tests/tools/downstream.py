"""The test suites of libraries that use asgiref: on asgiref, and on asgibridge in its place.

    python tests/tools/downstream.py                  with this interpreter: [downstream] is in it
    python tests/tools/downstream.py channels daphne  those alone

A suite is run three times in the same environment, from a fresh copy of its sources: as it is, and
under ``asgibridge run`` with each kernel. Every test has to end as it ends on asgiref, by the files
that pytest writes for JUnit: passed, failed with that exception, skipped. `SUITES` says which
release it is, and names each test that is not run, with the reason. What others test wrongly fails
on both sides, and is no failure here; nor is a suite that is not to be had, which is said loudly.

The tests come from source distributions, whose hashes are checked. Where these have no tests,
``git`` fetches the release's commit; who has a mirror tells git so (``url.<base>.insteadOf``). The
rows go into docs/compatibility.md.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from django_suites import Outcomes, differences, read_lines, unpack
from environment import ROOT, TOOLS, VENVS, child_environment
from upstream import UpstreamFailure

LIMIT = 900
"""Seconds for a suite: the longest takes a quarter of it on two cores."""

DOCUMENT = ROOT / "docs" / "compatibility.md"
MARK = "<!-- downstream suites: written by make downstream -->"

KINDS = {"asgiref": None, "compiled": "require", "pure": "off"}
"""What is in asgiref's place, and the kernel by ASGIBRIDGE_SPEEDUPS."""

BROWSER = "needs a browser"
BLACK = "asks whether its sources are formatted"


@dataclass(frozen=True)
class Suite:
    """A release of a library, where its tests are, and how they are run."""

    package: str
    """Its name on the index, as its source distribution has it."""
    version: str
    sha256: str = ""
    """Of the source distribution, if that has the tests."""
    repository: str = ""
    commit: str = ""
    """Of the release, if only its repository has the tests."""
    tests: str = "tests"
    by_django: bool = False
    """Whether its tests need Django's own runner: ``manage.py test``."""
    options: tuple[str, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)
    """Variables of the environment."""
    redis: bool = False
    """Whether it looks for Redis, and for Redis Sentinel, at their ports."""
    left_out: dict[str, str] = field(default_factory=dict)
    """The beginning of the ids of pytest's that are not run, or their file or folder, and why."""
    different: dict[str, str] = field(default_factory=dict)
    """The tests that end otherwise on asgibridge, and why."""


SUITES = {
    "channels": Suite(
        "channels",
        "4.3.2",
        repository="django/channels",
        commit="15333cd7a59ba4fcafbbcb3089e41e1353624b2f",
        left_out={"tests/sample_project/tests/": BROWSER},
    ),
    "channels-redis": Suite(
        "channels_redis",
        "4.3.0",
        sha256="740ee7b54f0e28cf2264a940a24453d3f00526a96931f911fcb69228ef245dd2",
        redis=True,
    ),
    "daphne": Suite(
        "daphne",
        "4.2.3",
        sha256="1c458f81926b37301cadc8ec1b6316d9a5db53fba061fc4826610395fe5d5c81",
    ),
    "adrf": Suite(
        "adrf",
        "0.1.14",
        repository="em1208/adrf",
        commit="d63848a27ed6f942a4b63ee6a831fe2e3919d627",
    ),
    "django-ninja": Suite(
        "django_ninja",
        "1.6.3",
        repository="vitalik/django-ninja",
        commit="4086c9b36a72aa8e47ef882162a478a017841c0d",
    ),
    "strawberry-django": Suite(
        "strawberry_graphql_django",
        "0.87.0",
        repository="strawberry-graphql/strawberry-django",
        commit="1513927efbf34956503f359cd32136d5b14484ad",
        options=("-o", "addopts=--nomigrations"),  # without its measuring of coverage
    ),
    "django-debug-toolbar": Suite(
        "django_debug_toolbar",
        "8.0.0",
        sha256="cae32d3e441e608f39f3f1ca6b3f028c38d5d04d74c98d8ab96d46022dee3163",
        by_django=True,
        settings={"DJANGO_SETTINGS_MODULE": "tests.settings", "DB_NAME": ":memory:"},
    ),
    "djangochannelsrestframework": Suite(
        "djangochannelsrestframework",
        "1.3.0",
        repository="NilCoalescing/djangochannelsrestframework",
        commit="69b1e58320c0e9751076679cbb7f9ee9f829f00c",
    ),
    "django-tasks": Suite(
        "django_tasks",
        "0.12.0",
        repository="RealOrangeOne/django-tasks",
        commit="caaf8090ef08759243094b746d9f7260b8d9199b",
        settings={"DJANGO_SETTINGS_MODULE": "tests.settings", "IN_TEST": "1"},
    ),
    "servestatic": Suite(
        "servestatic",
        "4.1.0",
        repository="Archmonger/ServeStatic",
        commit="e7cf37aa4149b67c30df8bcbb2e4e3b47ad7b005",
    ),
    "procrastinate": Suite(
        "procrastinate",
        "3.9.0",
        repository="procrastinate-org/procrastinate",
        commit="28462ad6e549bd8827eb67bfbe8a6519670198e6",
        tests="tests/unit",
    ),
    "pytest-django": Suite(
        "pytest_django",
        "4.14.0",
        sha256="26787dd3f422cfbab8f55b80a776e2edea7a11092cb74e960bef1312515708ef",
    ),
    "datasette": Suite(
        "datasette",
        "0.65.2",
        repository="simonw/datasette",
        commit="6a141467f9f8b05c84bc00c10e157962e3e43960",
        left_out={"tests/test_black.py": BLACK},
    ),
}

# In the process that runs a suite, at its end: whose asgiref it was. A plugin of pytest's, and
# Django's ``manage.py test``.
PLUGIN = """
import os, sys

def pytest_unconfigure():
    names = [getattr(sys.modules.get("asgiref.sync"), "__name__", "not imported")]
    if "asgibridge" in sys.modules:
        names.append(sys.modules["asgibridge"].IMPLEMENTATION)
    with open(os.environ["DOWNSTREAM_ASGIREF"], "w") as file:
        print(*names, file=file)

if __name__ == "__main__":
    import unittest
    import django_shim
    from django.core.management import execute_from_command_line

    sys.path[0] = os.getcwd()
    with open(sys.argv[1], "w") as into:
        unittest.TextTestRunner.resultclass = django_shim.recorder(into)
        try:
            execute_from_command_line(["manage.py", "test", *sys.argv[2:]])
        finally:
            pytest_unconfigure()
"""
WHOSE = {
    "asgiref": "asgiref.sync",
    "compiled": "asgibridge.sync speedups",
    "pure": "asgibridge.sync pure",
}


class NotToBeHad(Exception):
    """The sources, or a service that the tests need; the message says what to do."""


def sources(suite: Suite) -> Path:
    """The folder of its sources, from an earlier run if it is still there."""
    if suite.sha256:
        return unpack((f"{suite.package}-{suite.version}", suite.sha256))
    target = VENVS / "upstream" / f"{suite.package}-{suite.version}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        address = f"https://github.com/{suite.repository}"
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            for words in (
                ("init", "--quiet"),
                ("fetch", "--quiet", "--depth", "1", address, suite.commit),
                ("checkout", "--quiet", "FETCH_HEAD"),
            ):
                try:
                    done = subprocess.run(
                        ["git", *words],
                        cwd=scratch,
                        env=child_environment(GIT_TERMINAL_PROMPT="0"),
                        stdin=subprocess.DEVNULL,
                        capture_output=True,
                        text=True,
                        timeout=LIMIT,
                        check=False,
                    )
                except FileNotFoundError:
                    raise NotToBeHad("its tests are in its repository, and git is not here")
                if done.returncode:
                    said = done.stderr.strip().splitlines()[-1:]
                    raise NotToBeHad(
                        f"its tests are in its repository alone, and git does not reach {address} "
                        f"({' '.join(said)}); who has a mirror tells git: git config --global "
                        "url.MIRROR.insteadOf https://github.com/"
                    )
            shutil.rmtree(Path(scratch, ".git"))
            os.replace(scratch, target)
            os.mkdir(scratch)  # for who cleans up
    return target


def free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@contextmanager
def redis() -> Iterator[None]:
    """A Redis and a Sentinel of it at the ports at which channels_redis's tests look for them."""
    program = shutil.which("redis-server")
    if program is None:
        raise NotToBeHad("redis-server is not installed (Debian: apt-get install redis-server)")
    for port in (6379, 26379):
        if not free(port):
            # The tests would delete all that it has.
            raise NotToBeHad(f"port {port} is somebody else's: stop the Redis that listens there")
    started: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory() as directory:
        sentinel = Path(directory, "sentinel.conf")
        sentinel.write_text(
            "bind 127.0.0.1\nport 26379\nrequirepass channels_redis\n"
            "sentinel monitor sentinel 127.0.0.1 6379 1\n"
        )
        try:
            for words in (
                ("--bind", "127.0.0.1", "--port", "6379", "--save", "", "--dir", directory),
                (str(sentinel), "--sentinel"),
            ):
                started.append(
                    subprocess.Popen(
                        [program, *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
                    )
                )
            deadline = time.monotonic() + 30
            while free(6379) or free(26379):
                if time.monotonic() > deadline:
                    raise UpstreamFailure("Redis does not start")
                time.sleep(0.05)
            yield
        finally:
            for process in started:
                process.terminate()
                process.wait()


def run(name: str, kind: str) -> Outcomes:
    """How each test of a suite went. What it prints is kept in .venv/upstream."""
    suite = SUITES[name]
    tree_of = sources(suite)
    log = VENVS / "upstream" / f"{name}-{kind}.log"
    left_out = [
        word
        for test in suite.left_out
        for word in ("--ignore" if test.endswith((".py", "/")) else "--deselect", test)
    ]
    with tempfile.TemporaryDirectory() as directory, log.open("wb") as printed:
        tree, here = Path(directory, "sources"), Path(directory, "ours")
        shutil.copytree(tree_of, tree, symlinks=True)
        here.mkdir()
        plugin, outcomes, whose = here / "downstream_plugin.py", here / "outcomes", here / "asgiref"
        plugin.write_text(PLUGIN)
        if suite.by_django:
            # Not by its folder: names of other tools are those of modules of Python's.
            shutil.copy(TOOLS / "django_shim.py", here)
            program = (str(plugin), str(outcomes), *suite.options, suite.tests)
        else:
            program = (
                *("-m", "pytest", "-p", "downstream_plugin", "-p", "no:cacheprovider", "-q"),
                *("--timeout", "120", f"--junitxml={outcomes}", *suite.options, *left_out),
                suite.tests,
            )
        child = subprocess.Popen(
            [
                *(sys.executable, *(() if kind == "asgiref" else ("-m", "asgibridge", "run"))),
                *program,
            ],
            cwd=tree,
            env=child_environment(
                PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
                PYTHONPATH=str(here),
                DOWNSTREAM_ASGIREF=str(whose),
                ASGIBRIDGE_SPEEDUPS=KINDS[kind] or "auto",
                **suite.settings,
            ),
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            child.wait(LIMIT)
        except subprocess.TimeoutExpired:
            raise UpstreamFailure(f"{name}, {kind}: more than {LIMIT} s: see {log}") from None
        finally:
            try:  # and the servers that its tests have left
                os.killpg(child.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            child.wait()
        if child.returncode not in (0, 1) or not outcomes.exists():
            raise UpstreamFailure(f"{name}, {kind}: not all tests were run: see {log}")
        if whose.read_text().strip() != WHOSE[kind]:
            raise UpstreamFailure(f"{name}, {kind}: asgiref was {whose.read_text().strip()}")
        return read_lines(outcomes) if suite.by_django else read(outcomes)


def read(junit: Path) -> Outcomes:
    """The outcomes in a file of JUnit's: a test that fails and then cannot be left has two."""
    found: Outcomes = {}
    for case in ElementTree.parse(junit).getroot().iter("testcase"):
        test = f"{case.get('classname')}::{case.get('name')}"
        outcome = "passed"
        for what in case:
            message = what.get("message", "")
            if what.tag == "skipped":
                outcome = "xfailed" if what.get("type") == "pytest.xfail" else "skipped"
            elif what.tag in ("failure", "error"):
                error = re.match(r"[\w.]*", message)
                outcome = f"{what.tag}: {error.group() if error else ''}"
        found[test] = f"{found[test]}, {outcome}" if test in found else outcome
    return found


def summary(outcomes: Outcomes) -> str:
    counts = Counter(outcome.split(":")[0] for outcome in outcomes.values())
    order = sorted(counts, key=lambda what: (what != "passed", what))
    return ", ".join(f"{counts[what]} {what}" for what in order)


def compare(name: str) -> tuple[bool, str]:
    """Whether a suite goes on asgibridge as it goes on asgiref, and its row."""
    suite = SUITES[name]
    cells = []
    went = True
    with redis() if suite.redis else nullcontext():
        expected: Outcomes = {}
        for kind in KINDS:
            began = time.monotonic()
            found = run(name, kind)
            spent = time.monotonic() - began
            print(f"{name} {suite.version}, {kind}: {summary(found)} in {spent:.0f} s", flush=True)
            if kind == "asgiref":
                expected = found
                cells.append(summary(found))
                continue
            others = differences(expected, found)
            for test, (one, other) in others.items():
                reason = suite.different.get(test)
                print(f"  {'different' if reason else 'FAILED'}: {test}: {other}, not {one}")
                went = went and reason is not None
            for test in suite.different.keys() - others.keys():
                print(f"  FAILED: {test} goes as on asgiref: say so no more")
                went = False
            cells.append(f"{len(others)} different" if others else "the same")
    for test, reason in {**suite.left_out, **suite.different}.items():
        print(f"  {test}: {reason}")
    left_out = "; ".join(f"`{test}`: {reason}" for test, reason in suite.left_out.items())
    return went, f"| {name} | {suite.version} | {' | '.join(cells)} | {left_out} |"


HEAD = (
    "| suite | release | on asgiref | compiled kernel | pure kernel | left out |\n"
    "|---|---|---|---|---|---|\n"
)


def with_rows(text: str, rows: dict[str, str], where: str) -> str:
    """The document with these rows in place of those of the same suites."""
    before, table, after = text.split(MARK)
    known = {line.split("|")[1].strip(): line for line in table.splitlines() if "|" in line}
    known.update(rows)
    body = "".join(f"{known[name]}\n" for name in SUITES if name in known)
    return f"{before}{MARK}\n{HEAD}{body}\n{where}\n{MARK}{after}"


def where() -> str:
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("asgiref", "Django")]
    return f"The last run: {platform.python_implementation()} {platform.python_version()}, " + (
        ", ".join(versions) + "."
    )


def install(names: list[str]) -> None:
    """Have the very releases whose tests are run."""
    wanted = [f"{SUITES[name].package}=={SUITES[name].version}" for name in names]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", *wanted]
    if subprocess.run(pip, env=child_environment(), check=False).returncode:
        raise SystemExit(f"could not be installed: {' '.join(wanted)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suites", nargs="*", help=f"of {', '.join(SUITES)}; default: all")
    names = parser.parse_args().suites or list(SUITES)
    unknown = [name for name in names if name not in SUITES]
    if unknown:
        parser.error(f"no such suite: {', '.join(unknown)}; there are {', '.join(SUITES)}")
    rows: dict[str, str] = {}
    failed: list[str] = []
    missing: list[str] = []
    install(names)
    for name in names:
        try:
            went, rows[name] = compare(name)
        except NotToBeHad as error:
            missing.append(f"NOT RUN: {name}: {error}")
            continue
        except UpstreamFailure as failure:
            print(f"  FAILED: {failure}")
            went = False
        if not went:
            failed.append(name)
        if name in rows:
            text = DOCUMENT.read_text(encoding="utf-8")
            DOCUMENT.write_text(with_rows(text, rows, where()), encoding="utf-8")
    print(HEAD + "\n".join(rows.values()), *missing, sep="\n")
    print(f"FAILED: {', '.join(failed)}" if failed else f"{len(rows)} suites as on asgiref")
    return 1 if failed or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
