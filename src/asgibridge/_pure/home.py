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

from .._process import fork
from . import tally
from .tally import Tally

if TYPE_CHECKING:
    from .calls import SyncCall
    from .channel import WakeChannel


class Home:
    """An identity, compared by ``is``."""

    __slots__ = ()


class _Owner:
    """Dies with its thread's locals, and then gives the thread's tally back."""

    tally: Tally
    generation: int

    def __del__(self) -> None:
        # There is no `fork` any more if the interpreter is taking its modules down.
        if fork is not None and self.generation == fork.generation:
            self.tally.since = 0.0
            self.tally.thread_ident = 0
            tally.free.append(self.tally)


class _Thread(threading.local):
    """What is kept per thread."""

    def __init__(self) -> None:
        self.home = Home()
        self.call: SyncCall | None = None  # which it is running
        self.channel: WakeChannel | None = None  # of the loop that last ran here
        try:
            self.tally = tally.free.pop()
        except IndexError:
            self.tally = Tally()
            tally.all_tallies.append(self.tally)
        self.tally.thread_ident = threading.get_ident()
        self.owner = _Owner()
        self.owner.tally = self.tally
        self.owner.generation = fork.generation


this_thread = _Thread()


def _after_fork_in_child() -> None:
    # Only this thread is there.
    this_thread.tally.clear()
    this_thread.owner.generation = fork.generation
    tally.all_tallies[:] = [this_thread.tally]
    tally.free.clear()


fork.at_fork(_after_fork_in_child)


def current_home() -> Home:
    """The calling thread's home."""
    return this_thread.home


def at_home(home: Home, call: Any, *args: Any) -> Any:
    """Call ``call(*args)`` on this thread as a part of the chain that ``home`` stands for."""
    outer, this_thread.home = this_thread.home, home
    try:
        return call(*args)
    finally:
        this_thread.home = outer
