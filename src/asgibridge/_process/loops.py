"""Which event loops that belong to the program use our threads.

While one is open, idle workers may soon be used again. When all are closed, the program is through
with its async part, and threads and loops that we keep would be in its way (`any_open`). The loops
that we keep ourselves do not count.
"""

from __future__ import annotations

import asyncio
import weakref

# Two threads that note a loop at the same time may lose one of both. Then idle workers end early.
_noted: list[weakref.ref[asyncio.AbstractEventLoop]] = []


def note(loop: asyncio.AbstractEventLoop) -> None:
    """A call of this loop goes to another thread for the first time. On the loop's thread."""
    try:
        reference = weakref.ref(loop)
    except TypeError:  # a loop of slots: it counts as closed
        return
    if reference not in _noted:
        _noted[:] = [*filter(_is_open, _noted), reference]


def any_open() -> bool:
    """Whether one of the program's loops may use our threads again. From any thread."""
    return any(_is_open(reference) for reference in _noted[:])


def _is_open(reference: weakref.ref[asyncio.AbstractEventLoop]) -> bool:
    loop = reference()
    try:
        return loop is not None and not loop.is_closed()
    except Exception:  # somebody's stand-in for a loop
        return False
