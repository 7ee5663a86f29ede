"""The threads that run thread-sensitive code: whether they are kept, how many, and their hooks.

A *worker* is a thread of ours. It is *leased* to one `ThreadSensitiveContext` (a web framework's
request) from the context's first call to its exit, or to one top-level `async_to_sync` call, whose
event loop it runs. A `Policy` says what a worker keeps afterwards; docs/workers.md helps to choose.
A context that idles, such as a stream, may give its worker back; docs/streams.md says when.

``fresh`` (the default)
    A lease's worker looks like a new thread, as with asgiref, to all that keeps values by thread.
``keep``
    It keeps its `threading.local` values and thread-critical Locals from lease to lease, as the
    threads of a WSGI server do, so that a persistent database connection persists. Context
    variables and context-aware Locals do not cross: they belong to the request.
``new``
    It is a new thread, which ends with the lease, as with asgiref. For code that leaves on a thread
    what nobody can see or undo, such as a sandbox: docs/workers.md says what that is.

No limit and no hook applies to the process's single thread, on which thread-sensitive code outside
of contexts runs, nor to executors of a user's own.

The environment sets the policy a process begins with: ``ASGIBRIDGE_WORKERS`` (the kind),
``ASGIBRIDGE_WORKERS_LIMIT``, ``ASGIBRIDGE_WORKERS_WAIT_TIMEOUT``,
``ASGIBRIDGE_WORKERS_IDLE_TIMEOUT`` and ``ASGIBRIDGE_WORKERS_RELEASE_IDLE`` (a number of seconds, or
``off``); a bad value is a ValueError.
"""

from __future__ import annotations

from ._workers.bindings import bind
from ._workers.policy import (
    Policy,
    end_idle_workers,
    get_policy,
    policy_of,  # noqa: F401 - for who reads an environment of its own
    retire_thread,
    set_policy,
)
from ._workers.pool import LimitReached
from ._workers.stats import CONTENT_TYPE, Histogram, Stats, collect_timings, prometheus, stats

__all__ = [
    "CONTENT_TYPE",
    "Histogram",
    "LimitReached",
    "Policy",
    "Stats",
    "bind",
    "collect_timings",
    "end_idle_workers",
    "get_policy",
    "prometheus",
    "retire_thread",
    "set_policy",
    "stats",
]


def __dir__() -> list[str]:
    return __all__
