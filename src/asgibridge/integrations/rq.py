"""RQ: workers whose jobs share one event loop, as far as RQ lets jobs share a process.

On the command line::

    rq worker -w asgibridge.integrations.rq.SimpleWorker

`SimpleWorker` runs all jobs in one process, and so a client lives as long as the worker. `Worker`
forks a process for each job, as RQ's own does. There one loop serves all the calls of one job, and
is closed with it: the process leaves by ``os._exit``, and would close nothing at exit.

Jobs that are ``async def`` run on the shared loop, too; RQ itself makes a new loop for each. RQ's
``SpawnWorker`` starts another Python, which knows nothing of the worker's class; ``AsyncWorker``
has a loop of its own.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from ..sync import async_to_sync, iscoroutinefunction
from . import _hooks

__all__ = ["SharedLoop", "SimpleWorker", "Worker"]


def __dir__() -> list[str]:
    return __all__


if TYPE_CHECKING:
    Worker: type[Any]
    SimpleWorker: type[Any]
    _Base = Any
else:
    _Base = object


class SharedLoop(_Base):
    """For worker classes of your own: ``class Worker(SharedLoop, rq.SimpleWorker)``."""

    if TYPE_CHECKING:
        job_class: Any

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.job_class = _of_shared_loop(self.job_class)

    def work(self, *args: Any, **options: Any) -> Any:
        """As RQ's; the shared loop is closed when the worker stops."""
        _hooks.begin()
        try:
            return super().work(*args, **options)
        finally:
            _hooks.end()

    def perform_job(self, *args: Any) -> Any:
        """As RQ's; in a process that was forked for the job, the shared loop is closed with it."""
        if not self.is_horse:
            return super().perform_job(*args)
        _hooks.begin()
        try:
            return super().perform_job(*args)
        finally:
            _hooks.end()


def _of_shared_loop(job_class: Any) -> Any:
    """A class of jobs that differs in this: an ``async def`` job runs on the shared loop."""

    # RQ keeps the current job by thread, for `get_current_job`, and the loop runs on another one.
    stack: Any = getattr(_hooks.load("rq.job", __name__, "rq"), "_job_stack", None)

    class Job(job_class):
        @property
        def func(self) -> Any:
            function = super().func
            if not iscoroutinefunction(function):
                return function

            @functools.wraps(function)
            async def run(*args: Any, **options: Any) -> Any:
                if stack is None:
                    return await function(*args, **options)
                stack.push(self)
                try:
                    return await function(*args, **options)
                finally:
                    stack.pop()

            return async_to_sync(run)

    Job.__name__, Job.__qualname__ = job_class.__name__, job_class.__qualname__
    Job.__module__ = job_class.__module__
    return Job


def __getattr__(name: str) -> Any:
    if name not in ("Worker", "SimpleWorker"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    base = getattr(_hooks.load("rq", __name__, "rq"), name)
    made = type(name, (SharedLoop, base), {"__module__": __name__, "__doc__": base.__doc__})
    globals()[name] = made
    return made
