"""Where a woken worker begins: this kernel leaves that to the system's scheduler."""

from __future__ import annotations


def placement() -> str:
    """Who says on which core a worker begins: "waker", on its own, or "scheduler"."""
    return "scheduler"
