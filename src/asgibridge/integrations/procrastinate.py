"""procrastinate: a thread of its own for the sync code of each async job.

Where the application is made, before its tasks::

    from asgibridge.integrations import procrastinate as bridge

    app = bridge.install(App(connector=...))

With Django, in the settings::

    PROCRASTINATE_ON_APP_READY = "asgibridge.integrations.procrastinate.install"

procrastinate's worker is one event loop. Its async jobs run on it, and so does what a sync job
calls by `async_to_sync`: a client that was made once serves all of them as it is. But the async
jobs of a worker with ``concurrency`` share one thread for their thread-sensitive sync code
(Django's ORM): one job's query waits for that of another, and their transactions are in each
other's way. With this, each has a `ThreadSensitiveContext`: its own thread and database connection,
both given back at its end. A sync job has a thread anyway.

A task function that is called directly, and not by a worker, enters such a context, too; inside of
another one (a request's) it joins that.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from ..sync import iscoroutinefunction
from . import _hooks, _jobs

__all__ = ["install"]

_A = TypeVar("_A")

_MARK = "_asgibridge_in_context"
"""An attribute of what is installed already: the application, and a task's function."""


def __dir__() -> list[str]:
    return __all__


def install(app: _A) -> _A:
    """Have the async tasks of ``app``, a ``procrastinate.App``, run in a context each.

    Those it has, and those it gets from now on by ``app.task`` or ``app.add_tasks_from``. Returns
    ``app``. Twice does no harm.
    """
    if not getattr(app, _MARK, False):
        _wrap_all(app)
        for name, wrapper in (("task", _wrap_made), ("add_tasks_from", _wrap_added)):
            setattr(app, name, functools.partial(wrapper, app, getattr(app, name)))
        setattr(app, _MARK, True)
    _hooks.tell_of_the_original("sync_to_async", "one thread for all jobs, and not one for each")
    return app


def _wrap_made(app: Any, task: Callable[..., Any], *args: Any, **options: Any) -> Any:
    # `@app.task` makes a task; `@app.task(...)` makes what makes one.
    made = task(*args, **options)
    if args and callable(args[0]):
        return _wrap(made)

    def make(function: Callable[..., Any]) -> Any:
        return _wrap(made(function))

    return make


def _wrap_added(app: Any, add: Callable[..., Any], *args: Any, **options: Any) -> Any:
    result = add(*args, **options)
    _wrap_all(app)
    return result


def _wrap_all(app: Any) -> None:
    for task in app.tasks.values():
        _wrap(task)


def _wrap(task: Any) -> Any:
    function = task.func
    if iscoroutinefunction(function) and not hasattr(function, _MARK):

        @functools.wraps(function)
        async def in_context(*args: Any, **options: Any) -> Any:
            async with _jobs.context():
                return await function(*args, **options)

        setattr(in_context, _MARK, True)
        task.func = in_context
    return task
