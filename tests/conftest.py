"""What every test has: the kernels, scripts run in an interpreter of their own, and a time limit.

The time limit (pytest-timeout) and ``error`` for warnings are set in pyproject.toml.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import signal
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

import asgibridge

HERE = Path(__file__).parent
# What the tests of several folders share is imported by its plain name.
sys.path.insert(0, str(HERE / "support"))
# The tools that have tests, too. Last, because one has the name of a module of Python's: trace.
sys.path.append(str(HERE / "tools"))

KERNELS = {"pure": "asgibridge._pure"}
try:
    importlib.import_module("asgibridge._speedups")
except ModuleNotFoundError as error:
    if error.name != "asgibridge._speedups":
        raise
else:
    KERNELS["speedups"] = "asgibridge._speedups"

# Folders and modules whose tests choose the kernel for each child themselves, or have nothing to do
# with it.
EITHER_KERNEL = ("project", "test_missing_names", "test_queue_types", "test_typed_applications")

# Longer than any script takes, shorter than the limit of the test that runs it.
SCRIPT_SECONDS = 40


def pytest_sessionstart() -> None:
    # A background job of a shell's ignores Ctrl-C, and so would all our children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # On 3.9 pytest-asyncio asks for the current event loop, and nobody closes the one it gets.
    asyncio.set_event_loop(None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--own-kernel",
        action="store_true",
        help="leave out what the tests on the other kernel have, too; for who runs them on both",
    )


def is_left_to_the_other_kernel(item: pytest.Item) -> bool:
    """Whether a test names the other kernel, or needs neither and this is not the pure one."""
    named = item.callspec.params.get("kernel") if hasattr(item, "callspec") else None
    if isinstance(named, str) and named in KERNELS:
        return named != asgibridge.IMPLEMENTATION
    places = {item.path.parent.name, item.path.stem}
    return asgibridge.IMPLEMENTATION != "pure" and not places.isdisjoint(EITHER_KERNEL)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("own_kernel"):
        own, left = [], []
        for item in items:
            (left if is_left_to_the_other_kernel(item) else own).append(item)
        config.hook.pytest_deselected(items=left)
        items[:] = own
    dies_later = pytest.mark.skip(reason="objects die here when the collector runs")
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if "no_gc" in fixtures and sys.implementation.name != "cpython":
            item.add_marker(dies_later)
        if "run_script" in fixtures or hasattr(getattr(item, "module", None), "children"):
            item.add_marker(pytest.mark.scripts)
        if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            item.add_marker(pytest.mark.not_quick)


@pytest.fixture(autouse=True, scope="module")
def little_to_look_through() -> None:
    """Hundreds of tests collect garbage: what there is by now is not looked through again."""
    if hasattr(gc, "freeze"):
        gc.collect()
        gc.freeze()


def pytest_report_header() -> str:
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    return (
        f"asgibridge {asgibridge.__version__}: {asgibridge.IMPLEMENTATION} kernel on "
        f"{sys.implementation.name} {sys.version.split()[0]}, GIL {'on' if gil else 'off'}"
    )


@pytest.fixture(params=list(KERNELS))
def kernel(request: pytest.FixtureRequest) -> ModuleType:
    """Each kernel there is, for the tests of what kernels have in common."""
    return importlib.import_module(KERNELS[request.param])


@pytest.fixture
def no_gc() -> Iterator[None]:
    """Run with the garbage collector off, and nothing for it to do at the start."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs on a thread of its own."""
    with importlib.import_module("queues").running_loop() as loop:
        yield loop


@pytest.fixture
def run_script(tmp_path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run source text as a script of its own; if it hangs, fail with the stacks of its threads."""

    def run(source: str, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        script = tmp_path / "script.py"
        script.write_text(
            # In a fork server, which imports it by another name, its thread would be in the way.
            "import faulthandler; __name__ == '__main__' and "
            f"faulthandler.dump_traceback_later({SCRIPT_SECONDS}, exit=True)\n"
            + textwrap.dedent(source)
        )
        return subprocess.run(
            [sys.executable, "-W", "error", str(script), *args],
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=SCRIPT_SECONDS + 10,
            check=False,
        )

    return run


@pytest.fixture
def script_output(run_script) -> Callable[..., str]:
    """The standard output of a script that must succeed, and be silent on standard error."""

    def output(source: str, *args: str, **env: str) -> str:
        done = run_script(source, *args, **env)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        return done.stdout.strip()

    return output


@pytest.fixture
def uvloop_by_policy() -> Iterator[type[asyncio.AbstractEventLoop]]:
    """While asyncio's policy makes uvloop's loops: their class."""
    uvloop = pytest.importorskip("uvloop")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*_event_loop_policy", DeprecationWarning)  # 3.14
        warnings.filterwarnings("ignore", ".*EventLoopPolicy", DeprecationWarning)

        class Policy(asyncio.DefaultEventLoopPolicy):
            _loop_factory = uvloop.Loop

        asyncio.set_event_loop_policy(Policy())
    yield uvloop.Loop
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*_event_loop_policy", DeprecationWarning)
        asyncio.set_event_loop_policy(None)
