"""The one register of what a forked child has to renew.

Only the parent's thread that forked lives on in the child. So whatever belongs to another thread (a
worker, a frame, a loop) is gone, and a lock that another thread held stays locked for ever. A
module registers a callback that renews its globals (`at_fork`), an object one for as long as it
lives (`at_fork_of`). Objects of which there are too many for that note their `generation` and
compare.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

_T = TypeVar("_T")

generation = 0
"""How many forks this process is away from the one that imported us."""
pid = os.getpid()
"""``os.getpid()``, without asking the operating system."""
forkers: list[int] = []
"""The idents of the threads that forked, by generation: each is the only one its child has."""

_before: list[Callable[[], object]] = []
_callbacks: list[Callable[[], object]] = []
_objects: weakref.WeakKeyDictionary[Any, Callable[[Any], object]] = weakref.WeakKeyDictionary()


def at_fork(callback: Callable[[], object]) -> None:
    """Have it called in a forked child, on its only thread, before anything else of ours runs.

    The callbacks run in the order of registration, also if one raises. Python reports the error as
    that of any hook of `os.register_at_fork`.
    """
    _callbacks.append(callback)


def before_fork(callback: Callable[[], object]) -> None:
    """Have it called in the parent before each fork, on the thread that forks."""
    _before.append(callback)


def at_fork_of(thing: _T, renew: Callable[[_T], object]) -> None:
    """Have ``renew(thing)`` called after the callbacks, if ``thing`` still lives. Any thread."""
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
            raise  # a second error is reported instead, with this one as its context


def _before_fork() -> None:
    _call_each(iter(_before))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
