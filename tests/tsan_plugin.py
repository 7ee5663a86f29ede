"""pytest -p tsan_plugin: leaves a crash to ThreadSanitizer, which prints its stack and ends.

Python's fault handler would run in its signal handler, and wait there for a lock of its own: the
crash of one thread became a hang of all.
"""

from __future__ import annotations

import faulthandler

import pytest


@pytest.hookimpl(trylast=True)
def pytest_configure() -> None:
    faulthandler.disable()
