"""What a worker does about Django's database connections when it forgets what it has kept.

Django keeps a thread's connections in a thread-critical `Local`. Dropping it does not close them:
Django's wrapper of a connection is part of a reference cycle, so the database's server would have
the connection until the garbage collector comes round, which in an idle process is never (Django's
ticket 33497: requests that leave connections behind, up to "too many connections"). So they are
closed, on the thread that they belong to, while that still knows them.

Nothing is imported: a process that has not loaded Django's database layer has nothing to close.
"""

from __future__ import annotations

import logging
import sys
import threading
from typing import Any

__all__ = ["close_connections"]

logger = logging.getLogger("asgibridge.workers")


def close_connections() -> None:
    """Close this thread's database connections, those of Django that there are.

    Left alone are connections made by another thread, and those that Django's tests have threads
    share. What closing raises is logged.
    """
    connections: Any = getattr(sys.modules.get("django.db"), "connections", None)
    # "settings" is in there from the first use on; before, asking for it might raise.
    if connections is None or "settings" not in vars(connections):
        return
    this_thread = threading.get_ident()
    for alias in connections:
        wrapper = getattr(connections._connections, alias, None)
        if (
            wrapper is None
            or getattr(wrapper, "_thread_ident", None) != this_thread
            or wrapper.allow_thread_sharing
        ):
            continue
        try:
            wrapper.close()
        except Exception:
            logger.exception("closing Django's database connection %r failed", alias)
