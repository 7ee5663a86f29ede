"""Closes Django's database connections when a worker drops its `threading.local` values.

Django keeps a thread's connections in a thread-critical `Local`. Dropping it does not close them:
Django's wrapper of a connection is part of a reference cycle, so the database's server would have
the connection until the garbage collector comes round, which in an idle process is never (Django's
ticket 33497: requests that leave connections behind, up to "too many connections"). So the thread
that they belong to closes them, while it still knows them.

This module imports nothing of Django: a process without its database layer has nothing to close.
"""

from __future__ import annotations

import logging
import sys
import threading
from typing import Any

logger = logging.getLogger("asgibridge.workers")


def close_connections() -> None:
    """Close the database connections that Django has for this thread.

    Not those that another thread has made, nor those that threads share in Django's tests. An error
    in closing is logged.
    """
    connections: Any = getattr(sys.modules.get("django.db"), "connections", None)
    # "settings" is in there from the first use on; before, asking for it might raise.
    if connections is None or "settings" not in vars(connections):
        return
    this_thread = threading.get_ident()
    for alias in connections:
        wrapper: Any = getattr(connections._connections, alias, None)
        if getattr(wrapper, "_thread_ident", None) != this_thread or wrapper.allow_thread_sharing:
            continue
        try:
            wrapper.close()
        except Exception:
            logger.exception("closing Django's database connection %r failed", alias)
