"""A list as the one place from which one of several threads takes a thing, and then owns it."""

from __future__ import annotations

from typing import TypeVar

_T = TypeVar("_T")


def take(things: list[_T]) -> _T | None:
    """Pop the last; None if there is none, or no longer. On any thread."""
    try:
        return things.pop()
    except IndexError:
        return None
