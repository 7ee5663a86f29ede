"""What a build makes of a missing or failing C compiler, by ``ASGIBRIDGE_SPEEDUPS``."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import children

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(sys.platform == "win32", reason="its compiler is not chosen by CC"),
]

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("src", "LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py")
NOTICE = "building without the compiled kernel"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy, because building leaves things behind."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.so")
            shutil.copytree(source, copy / name, ignore=ignored)
        else:
            shutil.copy(source, copy / name)
    return copy


def build(checkout, target, **env):
    """Build a wheel with a compiler that always fails; what was printed, and what is in it."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-v", "--no-deps", "--wheel-dir", target, checkout],
        env={**children.environment(), "CC": "false", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
        check=False,
    )
    wheels = list(target.glob("*.whl"))
    assert len(wheels) == (done.returncode == 0), done.stdout
    names = zipfile.ZipFile(wheels[0]).namelist() if wheels else []
    return done.stdout, [name for name in names if name.startswith("asgibridge/_speedups.")]


def test_auto_does_without_and_says_so(checkout, tmp_path):
    printed, kernel = build(checkout, tmp_path, ASGIBRIDGE_SPEEDUPS="auto")
    assert NOTICE in printed
    assert kernel == ["asgibridge/_speedups.pyi"]


def test_require_fails(checkout, tmp_path):
    printed, kernel = build(checkout, tmp_path, ASGIBRIDGE_SPEEDUPS="require")
    assert NOTICE not in printed
    assert "command" in printed
    assert "false" in printed
    assert kernel == []


def test_off_does_not_try(checkout, tmp_path):
    printed, kernel = build(checkout, tmp_path, ASGIBRIDGE_SPEEDUPS="off")
    assert NOTICE not in printed
    assert kernel == ["asgibridge/_speedups.pyi"]


def test_any_other_word_is_an_error(checkout, tmp_path):
    printed, _ = build(checkout, tmp_path, ASGIBRIDGE_SPEEDUPS="yes")
    assert "must be one of auto, require, off" in printed
