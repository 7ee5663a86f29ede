"""What tests need to know of our threads."""

from __future__ import annotations

import contextlib
import gc
import sys
import time

from asgibridge import _kernel, workers
from asgibridge._workers import pool as worker_pool

SECONDS = 10


def join_idle(thread, kernel=None):
    """Wait until a worker is done with what it does, end it as one that has been idle for long."""
    kernel = kernel or _kernel.kernel
    deadline = time.monotonic() + SECONDS
    while thread.is_alive():
        assert time.monotonic() < deadline, f"{thread} is not idle"
        kernel.end_idle_workers()
        workers.end_idle_workers()
        thread.join(0.01)


def until_gone(reference):
    """Whether a weak reference's object goes, while idle workers live: they must not hold it.

    The other thread drops its last reference within microseconds of telling us; but not before.
    """
    deadline = time.monotonic() + SECONDS / 2  # an idle worker ends after twice that
    while reference() is not None and time.monotonic() < deadline:
        time.sleep(0.001)
    return reference() is None


@contextlib.contextmanager
def keeping_the_gil():
    """Nobody else runs in the block unless this thread lets it."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


@contextlib.contextmanager
def clean_pool():
    """Leave the default policy and no workers behind, and nothing leased or waiting."""
    old = workers.get_policy()
    try:
        yield
    finally:
        workers.set_policy(old)
        workers.end_idle_workers()
        pool = worker_pool.pool
        deadline = time.monotonic() + SECONDS
        while pool.in_use:  # a lease may end on its worker, or with what the collector finds
            gc.collect()
            assert time.monotonic() < deadline, pool.in_use
        assert not pool.waiting
