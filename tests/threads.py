"""What tests need to know of our threads."""

from __future__ import annotations

import time

from asgibridge import _backend

SECONDS = 10


def join_idle(thread, kernel=None):
    """Wait until a worker is done with what it does, end it as one that has been idle for long."""
    kernel = kernel or _backend.kernel
    deadline = time.monotonic() + SECONDS
    while thread.is_alive():
        assert time.monotonic() < deadline, f"{thread} is not idle"
        kernel.end_idle_workers()
        thread.join(0.01)
