"""arq: a thread of its own for the sync code of each job.

Around the settings of the worker::

    from asgibridge.integrations import arq as bridge

    @bridge.install
    class WorkerSettings:
        functions = [...]

arq runs its jobs on one event loop, so a client that ``on_startup`` makes serves all of them as it
is. But they share one thread for their thread-sensitive sync code (Django's ORM): one job's query
waits for that of another, and their transactions are in each other's way. With this, each job has a
`ThreadSensitiveContext`: its own thread and database connection, both given back at its end.

arq awaits its hooks and starts the job in one task, and so the job inherits the context that
``on_job_start`` has entered. ``after_job_end``, which leaves it, comes when the job's result has
been stored. A job that ends without it was cancelled in between by a worker that stops; its context
is collected with the task.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from . import _hooks, _jobs

__all__ = ["install"]

_S = TypeVar("_S")
_Hook = Callable[[dict[Any, Any]], Awaitable[object]]

_KEY = "asgibridge.context"
"""Where a job's context lies in the dict that arq has for the job."""


def __dir__() -> list[str]:
    return __all__


def install(settings: _S) -> _S:
    """Give each job of the worker a `ThreadSensitiveContext`; returns ``settings``.

    :param settings: the class or the dict of settings, or an ``arq.Worker``. Hooks that it has,
        ``on_job_start`` and ``after_job_end``, run inside of the context.
    """
    start: Any = _get(settings, "on_job_start")
    if not (isinstance(start, functools.partial) and start.func is _enter):
        _set(settings, "on_job_start", functools.partial(_enter, start))
        _set(settings, "after_job_end", functools.partial(_leave, _get(settings, "after_job_end")))
    _hooks.tell_of_the_original("sync_to_async", "one thread for all jobs, and not one for each")
    return settings


async def _enter(hook: _Hook | None, job: dict[Any, Any]) -> None:
    context = _jobs.context()
    await context.__aenter__()
    job[_KEY] = context
    if hook is not None:
        try:
            await hook(job)
        except BaseException:  # then the job does not begin, and `_leave` is not called
            await context.__aexit__()
            raise


async def _leave(hook: _Hook | None, job: dict[Any, Any]) -> None:
    try:
        if hook is not None:
            await hook(job)
    finally:
        context = job.pop(_KEY, None)
        if context is not None:  # None: it was installed in the middle of the job
            await context.__aexit__()


def _get(settings: Any, name: str) -> Any:
    # Of a class what it has itself: arq does not look at its bases either.
    return (settings if isinstance(settings, dict) else vars(settings)).get(name)


def _set(settings: Any, name: str, value: object) -> None:
    if isinstance(settings, dict):
        settings[name] = value
    else:
        setattr(settings, name, value)
