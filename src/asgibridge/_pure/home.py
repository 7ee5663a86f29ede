"""To which chain of calls a thread currently belongs.

A chain starts in some thread and goes from thread to thread through our hops; everything on it
shares one *home*. A thread that no hop has brought onto a chain is its own home. `Local` shows a
value only at the home it was set at: context variables are inherited by threads that have nothing
to do with the chain (always on free-threaded 3.14, and wherever somebody runs a copied context in a
thread of their own), and values must not leak there.

asgiref tags values with the ident of the thread instead, and has to tag them anew, by setting every
such variable, on each side of each hop. Here the hop changes nothing but the home of the thread
that runs it, for as long as it runs it.

**A thread of many chains** runs the tasks of all of them, step by step: that of the event loop
which the whole process shares. Nobody is told whose step begins, but each step runs in its task's
context. So that thread has a home that stands for others (`home_of_contexts`): whoever needs the
thread's home takes the one at which a certain `Local` was set in the current context.
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


class HomeOfContexts(Home):
    """One that stands for others."""

    __slots__ = ("variable",)

    def __init__(self, variable: Any) -> None:
        self.variable = variable

    def of_context(self) -> Home:
        """The one that it stands for in the current context."""
        home: Home | None = self.variable.get()[0]
        return self if home is None else home


def home_of_contexts(local: Any) -> Home:
    """A home that stands, at each moment, for the one at which ``local`` was set in the current
    context; for itself where that was not set.

    :param local: a ContextStorage.
    """
    return HomeOfContexts(local._ContextStorage__variable)


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
    home = this_thread.home
    return home.of_context() if type(home) is HomeOfContexts else home


def at_home(home: Home, call: Any, *args: Any) -> Any:
    """Call ``call(*args)`` on this thread as a part of the chain that ``home`` stands for."""
    outer, this_thread.home = this_thread.home, home
    try:
        return call(*args)
    finally:
        this_thread.home = outer
