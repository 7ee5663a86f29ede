"""Django's own test suite on Django's handlers and on those of `asgibridge.django`.

    python tests/tools/django_suites.py                   every Django that runs on this Python
    python tests/tools/django_suites.py --django 5.2 asgi handlers    that one, these labels
    python tests/tools/django_suites.py --with-asgiref                and what plain asgiref does

The tests come from Django's source distributions, whose hashes are checked, and are not changed.
Each label is run in a child process with Django's handlers on asgibridge, and with ours in their
place (`django_shim`); SQLite, one process. Every test must go as it goes with Django's handlers:
`DIFFERENT` names each that does not, and why, and what is named there must differ somewhere. With
``--with-asgiref`` a third run, on asgiref itself, tells what differs on asgibridge whatever the
handlers are; that is printed, and no failure.

The interpreter has asgibridge[django-suites] and no asgiref.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from pathlib import Path

from environment import TOOLS, VENVS, child_environment
from upstream import UpstreamFailure, archive

RELEASES = {
    "4.2": ("django-4.2.30", "4ebc7a434e3819db6cf4b399fb5b3f536310a30e8486f08b66886840be84b37c"),
    "5.2": ("django-5.2.19", "ad03d8abc51dbff95ebf34b27123cf0c26a3b62db7ba0cd520783686362533d1"),
    "6.1": ("django-6.1.3", "b5d2d9e35295065d13b1927b3f19a59bd119f737aa6299def14ccca1ae3c8c0d"),
}
"""By version: the source distribution, and its SHA-256."""

NEEDS = {"4.2": (3, 9), "5.2": (3, 10), "6.1": (3, 12)}
"""The first CPython for each."""

LABELS = (
    # What has to do with requests comes first: it is what fails first.
    *("asgi", "handlers", "middleware", "middleware_exceptions", "signals", "async"),
    *("test_client", "test_client_regress", "view_tests", "responses", "httpwrappers"),
    *("file_uploads", "csrf_tests", "sessions_tests", "auth_tests", "requests_tests"),
    *("builtin_server", "servers", "staticfiles_tests", "logging_tests", "i18n"),
    *("urlpatterns", "urlpatterns_reverse", "resolve_url", "generic_views"),
    *("conditional_processing", "messages_tests", "test_utils", "decorators"),
    *("cache", "context_processors", "shortcuts", "template_tests", "transaction_hooks"),
    *("transactions", "dispatch", "deprecation", "wsgi", "flatpages_tests", "redirects_tests"),
    *("sites_tests", "syndication_tests", "sitemaps_tests", "check_framework"),
)
"""Folders below ``tests``; one that a version has not is left out there."""

LIMIT = 900
"""Seconds for a run of all labels: the longest takes a third of it on two cores."""

DIFFERENT = {
    "asgi.tests.ASGITest.test_read_body_thread": (
        "looks for the writes into the SpooledTemporaryFile that Django makes for each body; ours "
        "makes none for one that came at once"
    ),
}
"""Tests that go otherwise with our handlers, by name, and why."""

ASGIREF = ("asgiref-3.13.0", "034cc8cbf72d00553b4be256703ac545120b4e50af13b49dec99da899aeeecb4")

Outcomes = dict[str, str]
"""By test, as its id, or by subtest."""


def unpack(release: tuple[str, str]) -> Path:
    """The folder of the release's sources, from an earlier run if it is still there."""
    name, sha256 = release
    target = VENVS / "upstream" / name
    if not target.exists():
        source = archive(sys.executable, name, sha256)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            with tarfile.open(source) as tar:
                if hasattr(tarfile, "data_filter"):
                    tar.extractall(scratch, filter="data")
                else:
                    tar.extractall(scratch)
            os.replace(Path(scratch, name), target)
    return target


def run(handlers: str, sources: Path, labels: list[str]) -> Outcomes:
    """How each test went. What the child prints is kept in .venv/upstream."""
    log = VENVS / "upstream" / f"{sources.name}-{handlers}.log"
    paths = [str(sources), *([str(unpack(ASGIREF))] if handlers == "asgiref" else [])]
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as outcomes, log.open("wb") as printed:
        child = subprocess.Popen(
            [
                *(sys.executable, str(TOOLS / "django_shim.py"), handlers, outcomes.name),
                *("--settings=test_sqlite", "--parallel=1", *labels),
            ],
            cwd=sources / "tests",
            env=child_environment(
                PYTHONPATH=os.pathsep.join(paths),
                ASGIBRIDGE_SPEEDUPS=os.environ.get("ASGIBRIDGE_SPEEDUPS", ""),
            ),
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
        )
        try:
            child.wait(LIMIT)
        except subprocess.TimeoutExpired:
            raise UpstreamFailure(f"{sources.name}, {handlers}: more than {LIMIT} s") from None
        finally:
            child.kill()
            child.wait()
        found = read_lines(Path(outcomes.name))
    if not found or child.returncode not in (0, 1):
        raise UpstreamFailure(f"{sources.name}, {handlers}: not all tests were run: see {log}")
    return found


def read_lines(file: Path) -> Outcomes:
    """What `django_shim.recorder` has written."""
    found: Outcomes = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        test, outcome = json.loads(line)
        found[test] = outcome or found.get(test) or "no outcome of its own"
    return found


def differences(expected: Outcomes, found: Outcomes) -> dict[str, tuple[str, str]]:
    """The tests that went otherwise: what was expected and what came."""
    return {
        test: (expected.get(test, "not run"), found.get(test, "not run"))
        for test in sorted({*expected, *found})
        if expected.get(test) != found.get(test)
    }


def summary(outcomes: Outcomes) -> str:
    counts = Counter(outcome.split(":")[0] for outcome in outcomes.values())
    return ", ".join(f"{number} {what}" for what, number in sorted(counts.items()))


def compare(version: str, wanted: list[str], with_asgiref: bool) -> tuple[bool, set[str]]:
    """Whether one version goes as it must, and the tests of DIFFERENT that went otherwise."""
    sources = unpack(RELEASES[version])
    labels = [label for label in wanted if (sources / "tests" / label.split(".")[0]).is_dir()]
    went: dict[str, Outcomes] = {}
    for handlers in (*(["asgiref"] if with_asgiref else []), "django", "asgibridge"):
        began = time.monotonic()
        went[handlers] = run(handlers, sources, labels)
        spent = time.monotonic() - began
        print(f"{sources.name}, {handlers}: {summary(went[handlers])} in {spent:.0f} s", flush=True)
    on_asgiref = went.get("asgiref", went["django"])
    for test, (one, other) in differences(on_asgiref, went["django"]).items():
        print(f"  Django's handlers, {test}: on asgiref {one}, on asgibridge {other}")
    found = differences(went["django"], went["asgibridge"])
    for test, (one, other) in found.items():
        known = DIFFERENT.get(test)
        print(f"  {'different' if known else 'FAILED'}: {test}: {other}, with Django's: {one}")
        if known:
            print(f"    {known}")
    return not found.keys() - DIFFERENT.keys(), found.keys() & DIFFERENT.keys()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("labels", nargs="*", help="as runtests.py takes them; default: all of ours")
    parser.add_argument("--django", action="append", choices=RELEASES, help="default: each")
    parser.add_argument("--with-asgiref", action="store_true", help="a third run, on asgiref")
    options = parser.parse_args()
    is_all = not options.labels and not options.django
    went, different = True, set()
    try:
        for version in options.django or RELEASES:
            if sys.version_info < NEEDS[version]:
                first = ".".join(map(str, NEEDS[version]))
                print(f"NOT RUN: Django {version} needs Python {first}")
                is_all = False
                continue
            ok, known = compare(version, options.labels or list(LABELS), options.with_asgiref)
            went = went and ok
            different |= known
    except UpstreamFailure as failure:
        print(f"FAILED: {failure}")
        return 1
    needless = sorted(DIFFERENT.keys() - different) if is_all else []
    for test in needless:
        print(f"FAILED: {test} is in DIFFERENT, and goes as with Django's handlers")
    return 0 if went and not needless else 1


if __name__ == "__main__":
    sys.exit(main())
