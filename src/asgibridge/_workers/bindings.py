"""What binds a context to its worker while it has no call: `asgibridge.workers.bind`.

A context whose worker may be released (`asgibridge._workers.leases`) is bound as long as a
`Binding` of it is entered: by the program, or by what stays open on one thread (`held`). The
bindings lie in the context object, because they may come before its first call. Each step is one of
a dict, so there is no lock: a look that comes after the binding finds it, and a release that was a
moment sooner is as if it had come before the block.
"""

from __future__ import annotations

import asyncio
import weakref
from typing import Any

from .._bridge import state
from .._process import cpython
from .pool import pool

_Bindings = dict["Binding", "weakref.ref[asyncio.Task[Any]] | None"]
"""With the task in which each was entered; None if that was in sync code."""


class Binding:
    """A block for which a context keeps its worker. To be entered once.

    :param what: what binds it, in words.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._bindings: _Bindings | None = None
        self._is_entered = False

    def __enter__(self) -> None:
        if self._is_entered:
            raise RuntimeError("workers.bind() is for one block: call it for each")
        self._is_entered = True
        context = state.thread_sensitive_context.get(None)
        bindings = _of(context, make=True)
        if bindings is None:
            return
        task = None if cpython.running_loop() is None else asyncio.current_task()
        bindings[self] = None if task is None else weakref.ref(task)
        self._bindings = bindings

    def __exit__(self, *_error: object) -> None:
        bindings, self._bindings = self._bindings, None
        if bindings is not None:
            bindings.pop(self, None)


def bind() -> Binding:
    """Keep the worker of the context that we are in: ``with workers.bind(): ...``.

    For code that leaves something on its thread between two `sync_to_async` calls: a lock of the
    database's, a temporary table, a value in a `threading.local`. As long as a block is open, the
    context keeps the worker that it has, or that its next call gets, however long it idles; see
    ``release_idle`` in `asgibridge.workers.Policy`. Blocks may nest, and overlap in several tasks;
    the context is bound until the last one is left.

    In a task inside a ThreadSensitiveContext, or in sync code that was called there. Outside of
    contexts, and where no worker is released, it changes nothing. Raises RuntimeError if one that
    it has returned is entered again.
    """
    return Binding("workers.bind()")


def held(what: str) -> Binding | None:
    """An entered Binding; None if it would change nothing.

    In a task, or in sync code. Whoever gets it leaves it.
    """
    if not pool.any_releases:
        return None
    binding = Binding(what)
    binding.__enter__()
    return binding


def _of(context: Any, make: bool = False) -> _Bindings | None:
    # Those of a context. A foreign object that stands in for one may take no attribute.
    if context is None:
        return None
    bindings: _Bindings | None = getattr(context, "_bindings", None)
    if bindings is None and make:
        try:
            bindings = vars(context).setdefault("_bindings", {})
        except TypeError:
            return None
    return bindings


def words_of(context: weakref.ref[Any] | None) -> str | None:
    """What binds a context, in words; None if nothing does. From any thread."""
    bindings = None if context is None else _of(context())
    return ", ".join(sorted({each.what for each in list(bindings)})) if bindings else None


def tasks_of(context: weakref.ref[Any] | None) -> list[asyncio.Task[Any]] | None:
    """The tasks that bind a context, as far as they are known; None if nothing binds it."""
    bindings = None if context is None else _of(context())
    if not bindings:
        return None
    tasks = [None if each is None else each() for each in list(bindings.values())]
    return [task for task in tasks if task is not None]
