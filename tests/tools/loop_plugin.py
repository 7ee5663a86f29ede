"""Runs the tests on event loops of another kind: ``pytest -p loop_plugin --loop uvloop``.

``readerless`` is what Windows has: its Proactor takes no reader, no writer and no signal handler,
and says so with NotImplementedError; and the pure kernel waits in short turns there. `LEFT_OUT` has
the tests of asyncio's own loop. Scripts that tests run as processes of their own are on asyncio's.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
import warnings
from typing import Any

import pytest


class ReaderlessLoop(asyncio.SelectorEventLoop):
    """asyncio's own parts go by the private names of these."""

    def add_reader(self, *args: Any) -> None:
        raise NotImplementedError

    remove_reader = add_writer = remove_writer = add_reader
    add_signal_handler = remove_signal_handler = add_reader


LOOPS = ("uvloop", "readerless")

WAITS = ("_pure.inbox", "_pure.waiters", "_wsgi.conversation")
"""The modules that have a _PATIENCE."""

LEFT_OUT = {
    "test_kept_loops.py": "of asyncio's own loop, which alone is kept",
    "TestFirstStepOfAWorkersCoroutine": "counts the turns of asyncio's own loop",
}
"""By a part of the test's name."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--loop", choices=LOOPS, help="the event loop that asyncio makes")


def loop_class(name: str) -> Any:
    return importlib.import_module("uvloop").Loop if name == "uvloop" else ReaderlessLoop


def makes_eager_tasks(make_loop: Any) -> bool:
    """uvloop 0.23 gives the factory an argument that CPython's does not take before 3.13.3."""
    if sys.version_info < (3, 12):
        return False

    async def nothing() -> None:
        pass

    loop = make_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    coroutine = nothing()
    try:
        loop.create_task(coroutine)
    except TypeError:
        return False
    finally:
        coroutine.close()
        loop.close()
    return True


def pytest_configure(config: pytest.Config) -> None:
    name = config.getoption("--loop")
    if name is None:
        return
    if name == "readerless":
        for module in WAITS:
            importlib.import_module(f"asgibridge.{module}")._PATIENCE = 0.25
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # there is no other way for all loops

        class Policy(asyncio.DefaultEventLoopPolicy):
            _loop_factory = loop_class(name)

        asyncio.set_event_loop_policy(Policy())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    name = config.getoption("--loop")
    if name is None:
        return
    left_out = dict(LEFT_OUT)
    if not makes_eager_tasks(loop_class(name)):
        left_out["eager"] = "this loop and this CPython make no eager tasks together"
    for item in items:
        for part, reason in left_out.items():
            if part in item.nodeid:
                item.add_marker(pytest.mark.skip(reason=reason))
