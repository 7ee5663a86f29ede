"""What the compiled kernel does on other platforms than this one.

macOS has no eventfd, so a pipe wakes a loop; Windows, whose loop takes no reader, has asyncio's own
way only, and waits for a lock in short turns, because Ctrl-C does not interrupt that. Neither asks
for a thread's processors, nor Windows for its signal mask. The kernel is built once as for each,
and the tests of what goes through a `WakeChannel`, waits or is kept run on it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig

import pytest

import children
from environment import ROOT, paths_of

KERNEL = ROOT / "src" / "_speedups" / "_speedups.pyx"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform != "linux", reason="the others have only their own way"),
    pytest.mark.skipif(
        sys.implementation.name != "cpython"
        or not KERNEL.exists()
        or not sysconfig.get_config_var("CC")
        or not shutil.which("gcc"),
        reason="needs the sources, CPython and gcc",
    ),
    pytest.mark.skipif(
        os.environ.get("ASGIBRIDGE_SPEEDUPS") == "off", reason="of the compiled kernel"
    ),
]

STRICT = ("-fPIC", "-Wall", "-Wextra", "-Werror")  # the other ways' C has no warnings, either
INCLUDE = f"-I{sysconfig.get_path('include')}"

# The number that channel.pxi gives each, and what os.readlink says of its descriptor.
WAYS = {"pipe": (1, r"pipe:\[\d+\]"), "none": (0, None)}

# What else is other than on Linux: a condition, what follows it, and what it is there.
INHERITED = ("#ifdef __linux__", "#include <stdint.h>", "#if 0")
SIGNAL_MASK = ("#ifndef _WIN32", "#include <signal.h>", "#if 0")
SHORT_TURNS = ("#ifdef _WIN32", "#define ASGIBRIDGE_PATIENCE 250000", "#if 1")
DIFFERENT = {"pipe": (INHERITED,), "none": (INHERITED, SIGNAL_MASK, SHORT_TURNS)}

# What those platforms do not promise.
LEFT_OUT = "not mask and not processor and not affinity"

ON_ALL_PLATFORMS = (
    "test_ctrl_c",
    "test_errors_and_cancellation",
    "test_hops",
    "test_interrupts",
    "test_iterators",
    "test_kept_loops",
    "test_kept_workers",
    "test_persistent_loop",
    "test_pools",
    "test_queue",
    "test_timeout",
    "test_wakeups",
)

DESCRIPTORS = """
import asyncio, os
from asgibridge.sync import sync_to_async

def opened():
    names = []
    for number in os.listdir("/proc/self/fd"):
        try:
            names.append(os.readlink("/proc/self/fd/" + number))
        except OSError:  # the listing's own
            pass
    return names

async def main():
    before = opened()
    for _ in range(20):
        await sync_to_async(int)()
    after = opened()
    for name in before:
        if name in after:
            after.remove(name)
    print(*after, sep="\\n")

asyncio.run(main())
"""


def run(command: list[str], **env: str) -> str:
    done = subprocess.run(
        command,
        env={**children.environment(), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def c_file(tmp_path_factory):
    cython = pytest.importorskip("Cython.Compiler.Main")
    target = tmp_path_factory.mktemp("c") / "_speedups.c"
    options = cython.CompilationOptions(
        output_file=str(target), include_path=[str(KERNEL.parent)], language_level=3
    )
    result = cython.compile_single(str(KERNEL), options, "asgibridge._speedups")
    assert result.num_errors == 0
    return target


@pytest.fixture(scope="module", params=WAYS)
def fallback(request, c_file, tmp_path_factory):
    """The package beside a kernel that was built for one of the other ways."""
    place = tmp_path_factory.mktemp(request.param)
    shutil.copytree(
        ROOT / "src" / "asgibridge",
        place / "asgibridge",
        ignore=shutil.ignore_patterns("__pycache__", "*.so"),
    )
    text = c_file.read_text(encoding="utf-8")
    for condition, what, instead in DIFFERENT[request.param]:
        pattern = re.compile(rf"^( *){condition}(\n *{what}$)", re.MULTILINE)
        text, count = pattern.subn(rf"\1{instead}\2", text)
        assert count == 1, what
    own = place / c_file.name
    own.write_text(text, encoding="utf-8")
    target = place / "asgibridge" / f"_speedups{sysconfig.get_config_var('EXT_SUFFIX')}"
    run(
        [
            *("gcc", "-O0", "-shared", f"-DASGIBRIDGE_WAKE={WAYS[request.param][0]}"),
            "-DASGIBRIDGE_STAYS_ON_CORE=0",
            *(*STRICT, INCLUDE, str(own), "-o", str(target)),
        ]
    )
    return request.param, place


def test_the_loop_is_woken_that_way(fallback):
    way, place = fallback
    env = {"ASGIBRIDGE_SPEEDUPS": "require", "PYTHONPATH": str(place)}
    opened = run([sys.executable, "-c", DESCRIPTORS], **env).split()
    pattern = WAYS[way][1]
    if pattern is None:
        assert opened == []
    else:
        assert opened == [opened[0]] * 2  # both ends of one
        assert re.fullmatch(pattern, opened[0])


def test_everything_goes_that_way(fallback, tmp_path):
    _, place = fallback
    printed = run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider"),
            *("-c", str(ROOT / "pyproject.toml"), f"--rootdir={tmp_path}"),
            *("-k", LEFT_OUT, *(str(ROOT / path) for path in paths_of(*ON_ALL_PLATFORMS))),
        ],
        ASGIBRIDGE_SPEEDUPS="require",
        PYTHONPATH=str(place),
    )
    assert re.search(r"^\d+ passed", printed, re.MULTILINE), printed
