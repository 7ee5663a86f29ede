"""Runs the tests on event loops of another kind: ``pytest -p loop_plugin --loop uvloop``.

``readerless`` is what Windows has: its Proactor takes no reader, no writer and no signal handler,
and says so with NotImplementedError; and the pure kernel waits in short turns there. `LEFT_OUT` has
the tests of asyncio's own loop. Scripts that tests run as processes of their own are on asyncio's.
"""

from __future__ import annotations

import asyncio
import importlib
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
    if config.getoption("--loop") is None:
        return
    for item in items:
        for part, reason in LEFT_OUT.items():
            if part in item.nodeid:
                item.add_marker(pytest.mark.skip(reason=reason))
