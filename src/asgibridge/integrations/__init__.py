"""Task queues and servers: each worker process gets what async code in it needs, by one line.

Two kinds of workers need two different things:

* A worker that runs sync tasks (`celery`, `dramatiq`, `rq`, `django_tasks`) or sync views
  (`gunicorn`) has no event loop. Each top-level `async_to_sync` call makes one, and what is bound
  to it (an HTTP client, a Redis pool, a rate limiter) is of no use to the next call. These
  integrations switch the shared loop on in each worker process
  (`asgibridge.runners.shared_loop`), and close it when the process ends.
* A worker that is async itself (`arq`, `procrastinate`) has one loop already, and all of its jobs
  share one thread for their thread-sensitive sync code. These integrations give each job a
  `ThreadSensitiveContext` of its own.

Each module imports its library when it is used. docs/integrations.md has a section for each.
"""

from __future__ import annotations

from .._loops.shared import at_close

__all__ = ["at_close"]


def __dir__() -> list[str]:
    return __all__
