"""What one thread hands to another: a thing that one of several takes, a callback for a loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

_T = TypeVar("_T")


def take(things: list[_T]) -> _T | None:
    """Pop the last, which the caller then owns; None if there is none any more. Any thread."""
    try:
        return things.pop()
    except IndexError:
        return None


def call_if_open(
    loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *args: Any
) -> bool:
    """``loop.call_soon_threadsafe(callback, *args)``; False if the loop is closed. Any thread."""
    try:
        loop.call_soon_threadsafe(callback, *args)
    except RuntimeError:
        return False
    return True
