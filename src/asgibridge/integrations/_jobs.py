"""The context of a job in an async worker.

A request begins and ends by signals of Django's, at which it closes the connections of its thread
that are too old, or that the database has ended. A job has no such signals. Under ``fresh`` and
``new`` its worker has no connection yet, and closes what it has made at the end. A kept worker has
the last job's; so what the signals would do is done there before and after each lease.
"""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..sync import ThreadSensitiveContext
from ..workers import Policy, get_policy

if TYPE_CHECKING:
    from .._workers.pool import Hook

_OF_PROCESS = ("limit", "limit_total", "wait_timeout", "idle_timeout")
"""What a context's policy cannot have."""


def context() -> ThreadSensitiveContext:
    """A new one, for one job."""
    policy = get_policy()
    return ThreadSensitiveContext(policy=_renewing(policy) if policy.kind == "keep" else None)


@functools.lru_cache(maxsize=1)  # there is one policy of the process at a time
def _renewing(policy: Policy) -> Policy:
    values: dict[str, Any] = {
        name: getattr(policy, name)
        for name in Policy.__slots__
        if name not in _OF_PROCESS and not name.startswith("_")
    }
    for name in ("before_lease", "after_lease"):
        values[name] = _Renewing(values[name])
    return Policy(**values)


@dataclass(frozen=True)
class _Renewing:
    hook: Hook | None
    """Of the process's policy."""

    def __call__(self, worker: Any) -> None:
        database: Any = sys.modules.get("django.db")
        connections = getattr(database, "connections", None)
        # "settings" is in there from the first use on; before, asking for it might raise.
        if connections is not None and "settings" in vars(connections):
            database.close_old_connections()
        if self.hook is not None:
            self.hook(worker)
