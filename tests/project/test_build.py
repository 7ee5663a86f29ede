"""What a build makes: of a C compiler that fails, of README.md, and of one checkout twice."""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

import children
import release
from environment import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(sys.platform == "win32", reason="its compiler is not chosen by CC"),
]

SOURCES = ("src", "LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py")
NOTICE = "building without the compiled kernel"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy, because building leaves things behind."""
    copy = tmp_path_factory.mktemp("checkout")
    copy_sources(copy)
    return copy


def copy_sources(copy):
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.so")
            shutil.copytree(source, copy / name, ignore=ignored)
        else:
            shutil.copy(source, copy / name)


def build(checkout, target, **env):
    """Build a wheel, unless told otherwise with a compiler that always fails.

    What was printed, and the kernel's files in the wheel.
    """
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
    kernel = [name for name in names if name.startswith("asgibridge/_speedups.")]
    return done.stdout, sorted(kernel)


WITHOUT = ["asgibridge/_speedups.missing", "asgibridge/_speedups.pyi"]
"""What there is of the kernel if it could not be compiled."""


def test_auto_does_without_and_says_so(checkout, tmp_path):
    printed, kernel = build(checkout, tmp_path, ASGIBRIDGE_SPEEDUPS="auto")
    assert NOTICE in printed
    assert kernel == WITHOUT


def test_the_first_import_says_so_too(checkout, tmp_path):
    """Because pip hides what a build prints."""
    build(checkout, tmp_path, ASGIBRIDGE_SPEEDUPS="auto")
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")

    def said(**env):
        command = [sys.executable, "-S", "-c", "import asgibridge.sync"]
        done = subprocess.run(
            command,
            env={
                **children.environment(),
                "PYTHONPATH": os.pathsep.join([str(tmp_path / "installed"), *sys.path]),
                "ASGIBRIDGE_SPEEDUPS": "auto",
                **env,
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stderr

    (line,) = said().splitlines()
    assert "built without its compiled kernel (CompileError: " in line
    assert "ASGIBRIDGE_SPEEDUPS=off if this is meant" in line
    assert said(ASGIBRIDGE_SPEEDUPS="off") == ""


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


def test_an_earlier_kernel_does_not_stand_in_for_the_one_that_failed(checkout, tmp_path):
    """pip builds in the tree, and what it built before is still there: of other sources."""
    quick = {"CC": "cc", "CFLAGS": "-O0 -w"}
    _, kernel = build(checkout, tmp_path / "1", ASGIBRIDGE_SPEEDUPS="require", **quick)
    assert len(kernel) == 2
    with (checkout / "src" / "_speedups" / "inbox.pxi").open("a") as source:
        source.write("\n_newer = 1\n")
    printed, kernel = build(checkout, tmp_path / "2", ASGIBRIDGE_SPEEDUPS="auto")
    assert NOTICE in printed
    assert kernel == WITHOUT


# As setuptools has it, CFLAGS replaces all flags that Python was compiled with.
@pytest.mark.parametrize(("given", "expected"), [("-g", ["-O3"]), ("-g -O1", ["-O1"])])
def test_own_flags_do_not_turn_off_the_optimizer(given, expected, checkout, tmp_path):
    compiler = tmp_path / "cc"
    compiler.write_text('#!/bin/sh\nfor word; do echo "flag: $word"; done\nexit 1\n')
    compiler.chmod(0o755)
    printed, _ = build(
        checkout, tmp_path, ASGIBRIDGE_SPEEDUPS="require", CC=str(compiler), CFLAGS=given
    )
    flags = [line.split()[-1] for line in printed.splitlines() if "flag: -O" in line]
    assert flags == expected


def test_every_module_is_in_the_wheel(checkout, tmp_path):
    """Also those of packages that nothing imports, such as Django's commands."""
    build(checkout, tmp_path, ASGIBRIDGE_SPEEDUPS="off")
    (wheel,) = tmp_path.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}
    sources = {file.relative_to(ROOT / "src").as_posix() for file in ROOT.glob("src/**/*.py")}
    assert "asgibridge/django/management/commands/bridge.py" in sources
    assert names == sources


def test_links_of_the_package_page_lead_somewhere(checkout, tmp_path):
    """Beside the page there are no files: a relative link is a dead one."""
    build(checkout, tmp_path, ASGIBRIDGE_SPEEDUPS="off")
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(archive.read(name))
    assert metadata["Description-Content-Type"] == "text/markdown"
    urls = dict(each.split(", ") for each in metadata.get_all("Project-URL"))
    assert all(url.startswith(urls["Source"]) for url in urls.values())
    page = metadata.get_payload(decode=True).decode("utf-8")
    there = f"{urls['Source']}/blob/v{release.version_of(ROOT)}/"
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", page, flags=re.DOTALL))
    ours = [link[len(there) :] for link in links if link.startswith(there)]
    assert len(ours) >= 15
    assert [link for link in links if not link.startswith("https://")] == []
    assert [link for link in ours if not (ROOT / link.partition("#")[0]).exists()] == []


def test_a_source_distribution_is_the_same_bytes_twice(tmp_path):
    """Whenever and by whomever it is made: SOURCE_DATE_EPOCH says what time it is."""
    asked = subprocess.run(
        [sys.executable, "-m", "build", "--version"], capture_output=True, check=False
    )
    if asked.returncode:
        pytest.skip("needs build")
    made = []
    for name, umask, mode, seconds in (("one", 0o022, 0o644, 1e9), ("two", 0o077, 0o600, 1.1e9)):
        copy = tmp_path / name / "checkout"
        copy.mkdir(parents=True)
        copy_sources(copy)
        for path in copy.rglob("*"):
            if path.is_file():
                path.chmod(mode)
            os.utime(path, (seconds, seconds))
        out = tmp_path / name / "out"
        done = subprocess.run(
            [sys.executable, "-m", "build", "--sdist", "--outdir", out, copy],
            env={**children.environment(), "SOURCE_DATE_EPOCH": "1700000000"},
            cwd=tmp_path,
            umask=umask,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        made += out.glob("*.tar.gz")
    assert made[0].read_bytes() == made[1].read_bytes()
    with tarfile.open(made[0]) as archive:
        assert {member.mtime for member in archive} == {1_700_000_000}
        assert any(name.endswith("/src/_speedups/inbox.pxi") for name in archive.getnames())
