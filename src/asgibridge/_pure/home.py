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
from typing import Any

__all__ = ["Home", "at_home", "current_home"]


class Home:
    """An identity, compared by ``is``."""

    __slots__ = ()


class _Threads(threading.local):
    home: Home


_threads = _Threads()


def current_home() -> Home:
    """The calling thread's home."""
    try:
        return _threads.home
    except AttributeError:
        home = _threads.home = Home()
        return home


def at_home(home: Home, call: Any, *args: Any) -> Any:
    """Call ``call(*args)`` on this thread as a part of the chain that ``home`` stands for."""
    outer = current_home()
    if outer is home:
        return call(*args)
    _threads.home = home
    try:
        return call(*args)
    finally:
        _threads.home = outer
