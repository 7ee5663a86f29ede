"""pytest -p tsan_plugin: leaves a crash to the kernel, so `tsan.py` sees it, and finds its stack.

Python's fault handler runs instrumented code. A crash in an atomic operation, as of a lock that is
not there, is in the middle of ThreadSanitizer, which then waits for a lock of its own: the crash of
one thread became a hang of all. (ThreadSanitizer's own handler does the same.)
"""

from __future__ import annotations

import faulthandler

import pytest


@pytest.hookimpl(trylast=True)
def pytest_configure() -> None:
    faulthandler.disable()
