"""To which chain of calls a thread currently belongs.

A chain starts in some thread and goes from thread to thread through our hops; everything on it
shares one *home*. A thread that no hop has brought onto a chain is its own home. `Local` shows a
value only at the home it was set at: context variables are inherited by threads that have nothing
to do with the chain (always on free-threaded 3.14, and wherever somebody runs a copied context in a
thread of their own), and values must not leak there.

asgiref tags values with the ident of the thread instead, and has to tag them anew, by setting every
such variable, on each side of each hop. Here the hop changes nothing but the home of the thread
that runs it, for as long as it runs it.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .calls import SyncCall

__all__ = ["Home", "at_home", "current_home"]


class Home:
    """An identity, compared by ``is``."""

    __slots__ = ()


class _Thread(threading.local):
    """What is kept per thread."""

    def __init__(self) -> None:
        self.home: Home | None = Home()
        self.call: SyncCall | None = None  # which it is running


this_thread = _Thread()


def current_home() -> Home:
    """The calling thread's home."""
    return this_thread.home  # type: ignore[return-value]


def at_home(home: Home, call: Any, *args: Any) -> Any:
    """Call ``call(*args)`` on this thread as a part of the chain that ``home`` stands for."""
    outer, this_thread.home = this_thread.home, home
    try:
        return call(*args)
    finally:
        this_thread.home = outer
