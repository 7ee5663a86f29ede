"""What the environment asks to be seen: loaded by `asgibridge.sync` if it asks for anything.

``ASGIBRIDGE_TIMINGS`` is `asgibridge.workers.collect_timings`, 1 or 0; ``ASGIBRIDGE_WATCH`` is
`asgibridge.debug.watch`, in seconds, as set by ``asgibridge run --watch``. Both reach child
processes.
"""

from __future__ import annotations

import os

from .. import debug
from .._workers import stats

__all__ = ["begin"]


def begin() -> None:
    """Do so. ImportError for a value that says nothing."""
    stats.read_environment()
    value = os.environ.get("ASGIBRIDGE_WATCH")
    if value:
        debug.watch(debug.parse_seconds(value, "ASGIBRIDGE_WATCH", ImportError))
