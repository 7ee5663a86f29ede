"""Warnings that point at the program's line."""

from __future__ import annotations

import inspect
import warnings


def warn(message: str, category: type[Warning]) -> None:
    """`warnings.warn`, as of the innermost line that is not asgibridge's."""
    level = 1
    frame = inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith("asgibridge."):
        frame = frame.f_back
        level += 1
    warnings.warn(message, category, stacklevel=level)
