"""asgiref's own test suite, unmodified, against asgibridge.

    python tests/tools/upstream.py    with this interpreter, which has asgibridge[test,upstream]

Fetches asgiref's source distribution through pip, checks its hash, unpacks its tests and its pytest
settings (nothing else) into a temporary directory, and runs them with ``python -m asgibridge run -m
pytest`` where asgiref itself is not importable. Every test must do what it does with asgiref: any
other number of passes, skips or failures is a failure of this script.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest_run
from environment import VENVS, Interpreter, child_environment, probe

RELEASE = "asgiref-3.13.0"
SHA256 = "034cc8cbf72d00553b4be256703ac545120b4e50af13b49dec99da899aeeecb4"

EXPECTED = {"passed": 133, "xfailed": 1}
EXPECTED_WITHOUT_GIL = {"passed": 132, "skipped": 1, "xfailed": 1}
"""One of its garbage collection tests skips itself where the GIL is off."""

NEEDS = ("packaging", "pytest", "pytest_asyncio", "pytest_benchmark", "pytest_timeout")
LIMIT = 300

OPTIONS = (
    *("-p", "no:cacheprovider"),
    "-rfEsx",
    *("--timeout", "60", "--timeout-method", "thread"),
    # pytest-benchmark would calibrate each of its 11 tests for a second, and print a table.
    *("--benchmark-max-time", "0.05", "--benchmark-quiet"),
)


class UpstreamFailure(Exception):
    """The suite could not be run, or did not behave as with asgiref."""


def archive(python: str, release: str = RELEASE, sha256: str = SHA256) -> Path:
    """A source distribution, from the last download if it is still there and whole."""
    kept = VENVS / "upstream" / f"{release}.tar.gz"
    if not (kept.exists() and _sha256(kept) == sha256):
        kept.parent.mkdir(parents=True, exist_ok=True)
        name, version = release.rsplit("-", 1)
        with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
            wanted = Path(scratch, "requirements.txt")
            # With the hash given, pip checks it before it runs anything of the archive's.
            wanted.write_text(f"{name}=={version} --hash=sha256:{sha256}\n")
            command = [python, "-m", "pip", "download", "--quiet", "--no-deps"]
            command += ["--no-binary", name, "--require-hashes"]
            command += ["--requirement", str(wanted), "--dest", scratch]
            if subprocess.run(command, env=child_environment(), check=False).returncode:
                raise UpstreamFailure(f"{release} could not be downloaded: {' '.join(command)}")
            os.replace(Path(scratch, kept.name), kept)
    if _sha256(kept) != sha256:
        raise UpstreamFailure(f"{kept} has not the SHA-256 {sha256}")
    return kept


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _unpack_tests(release: Path, target: Path) -> None:
    """Its ``tests/*.py`` and the setup.cfg with its pytest settings; never its package."""
    (target / "tests").mkdir()
    with tarfile.open(release) as tar:
        for member in tar.getmembers():
            parts = Path(member.name).parts[1:]
            is_test = len(parts) == 2 and parts[0] == "tests" and parts[1].endswith(".py")
            if member.isfile() and (is_test or parts == ("setup.cfg",)):
                source = tar.extractfile(member)
                assert source is not None
                target.joinpath(*parts).write_bytes(source.read())


def _check_modules(python: str, cwd: Path) -> None:
    """asgiref must not be importable, what its suite imports must be."""
    code = (
        "from importlib.util import find_spec\n"
        "spec = find_spec('asgiref')\n"
        f"print(spec.origin if spec else '', *[n for n in {NEEDS} if not find_spec(n)], sep='|')"
    )
    answer = subprocess.run(
        [python, "-c", code],
        cwd=cwd,
        env=child_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    asgiref, *missing = answer.stdout.strip().split("|")
    if asgiref:
        raise UpstreamFailure(
            f"asgiref is importable ({asgiref}), so a pass would not show that asgibridge took its "
            "place: use an environment without it"
        )
    if missing:
        raise UpstreamFailure(
            f"not installed: {', '.join(missing)}; install asgibridge[test,upstream]"
        )


def run_suite(interpreter: Interpreter, speedups: str) -> str:
    """Run the suite with `interpreter` and say how it went; anything unexpected raises.

    `speedups` is the value of ASGIBRIDGE_SPEEDUPS for the run.
    """
    if interpreter.number < (3, 11):
        return f"NOT RUN on {interpreter.name}: {RELEASE}'s suite needs Python 3.11"
    release = archive(interpreter.path)
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory)
        _unpack_tests(release, target)
        _check_modules(interpreter.path, target)
        outcome = pytest_run.run(
            [interpreter.path, "-u", "-m", "asgibridge", "run", "-m", "pytest", *OPTIONS],
            cwd=target,
            env=child_environment(ASGIBRIDGE_SPEEDUPS=speedups),
            limit=LIMIT,
        )
    expected = EXPECTED if interpreter.gil else EXPECTED_WITHOUT_GIL
    if not outcome.ok or outcome.counts != expected:
        wanted = ", ".join(f"{number} {what}" for what, number in expected.items())
        raise UpstreamFailure(f"{outcome}; with asgiref: {wanted}")
    return str(outcome)


def main() -> int:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    this = probe(sys.executable)
    assert this is not None
    try:
        said = run_suite(this, os.environ.get("ASGIBRIDGE_SPEEDUPS") or "auto")
    except UpstreamFailure as failure:
        print(f"FAILED: {RELEASE}'s suite on asgibridge, Python {this.name}: {failure}")
        return 1
    print(f"{RELEASE}'s suite on asgibridge, Python {this.name}: {said}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
