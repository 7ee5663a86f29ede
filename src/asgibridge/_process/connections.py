"""Django's database connections of a worker: closed when it drops its `threading.local` values, and
looked at when it goes from one context to another.

Django keeps a thread's connections in a thread-critical `Local`. Dropping it does not close them:
Django's wrapper of a connection is part of a reference cycle, so the database's server would have
the connection until the garbage collector comes round, which in an idle process is never (Django's
ticket 33497: requests that leave connections behind, up to "too many connections"). So the thread
that they belong to closes them, while it still knows them.

A worker that is released in the middle of a request has no signal of Django's that the request is
over, nor one that the next begins. So what Django does at these is done here (`renew_connections`).

This module imports nothing of Django: a process without its database layer has nothing to close.
All of it is about the current thread's connections; not those that another thread has made, nor
those that threads share in Django's tests.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from typing import Any

logger = logging.getLogger("asgibridge.workers")


def are_possible() -> bool:
    """Whether any thread of the process may have a connection. From any thread."""
    return "django.db" in sys.modules


def _own() -> list[tuple[str, Any]]:
    connections: Any = getattr(sys.modules.get("django.db"), "connections", None)
    # "settings" is in there from the first use on; before, asking for it might raise.
    if connections is None or "settings" not in vars(connections):
        return []
    this_thread = threading.get_ident()
    found: list[tuple[str, Any]] = [
        (alias, getattr(connections._connections, alias, None)) for alias in connections
    ]
    return [
        (alias, wrapper)
        for alias, wrapper in found
        if getattr(wrapper, "_thread_ident", None) == this_thread
        and not wrapper.allow_thread_sharing
    ]


def close_connections() -> None:
    """Close them. An error in closing is logged."""
    if "django.db" in sys.modules:  # asked here: each thread that ends comes by
        _each(lambda wrapper: wrapper.close(), "closing Django's database connection %r failed")


def renew_connections() -> None:
    """Close those that are too old or broken, and have the others checked before their next use.

    As Django does at the beginning and at the end of a request. An error is logged.
    """
    _each(
        lambda wrapper: wrapper.close_if_unusable_or_obsolete(),
        "looking at Django's database connection %r failed",
    )


def _each(function: Callable[[Any], object], what_failed: str) -> None:
    try:
        own = _own()
    except Exception:  # the thread goes on, whose inbox may hold other calls
        logger.exception("looking for Django's database connections failed")
        return
    for alias, wrapper in own:
        try:
            function(wrapper)
        except Exception:
            logger.exception(what_failed, alias)


def transaction() -> str | None:
    """What one of them is in the middle of, in words; None if that is nothing."""
    for alias, wrapper in _own():
        if wrapper.in_atomic_block or wrapper.savepoint_ids:
            return f"a transaction on the database {alias!r}"
        if wrapper.connection is not None and not wrapper.autocommit:
            return f"the connection to the database {alias!r}, which does not commit by itself"
    return None
