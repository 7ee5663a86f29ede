"""What a forked child has to renew: the one register.

Of the parent's threads only the one that forked lives on in the child. So whatever belongs to
another thread is gone (a worker, a frame, a loop), and a lock that another thread held stays locked
for ever. A module registers a callback that puts its globals right, an object one (`at_fork_of`)
for as long as it lives. An object whose kind is made too often for that keeps the `generation` that
it is made in, and compares.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

__all__ = ["at_fork", "at_fork_of", "forkers", "generation", "pid"]

_T = TypeVar("_T")

generation = 0
"""How many forks this process is away from the one that imported us."""
pid = os.getpid()
"""``os.getpid()``, without asking the operating system."""
forkers: list[int] = []
"""The idents of the threads that forked, by generation: each is the only one its child has."""

_callbacks: list[Callable[[], object]] = []
_objects: weakref.WeakKeyDictionary[Any, Callable[[Any], object]] = weakref.WeakKeyDictionary()


def at_fork(callback: Callable[[], object]) -> None:
    """Have it called in a forked child, on its only thread, before anything else of ours runs.

    The callbacks are called in the order of registration. What one raises is reported as that of a
    hook of `os.register_at_fork` is; the others are called all the same.
    """
    _callbacks.append(callback)


def at_fork_of(thing: _T, renew: Callable[[_T], object]) -> None:
    """Have ``renew(thing)`` called there, if it is alive then: after the callbacks. Any thread."""
    _objects[thing] = renew


def _after_fork_in_child() -> None:
    global generation, pid
    generation += 1
    pid = os.getpid()
    forkers.append(threading.get_ident())
    # Held from here on: a finalizer that ran before could wait for a lock of the parent's.
    objects = list(_objects.items())
    _call_each(iter([*_callbacks, *(partial(renew, thing) for thing, renew in objects)]))


def _call_each(callbacks: Iterator[Callable[[], object]]) -> None:
    for callback in callbacks:
        try:
            callback()
        except BaseException:
            _call_each(callbacks)
            raise  # is reported; if there was a second one, that is, with this as its context


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
