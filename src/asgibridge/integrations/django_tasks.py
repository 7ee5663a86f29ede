"""django.tasks: one event loop for all tasks of a process.

In a module of tasks (``tasks.py``), or in an ``AppConfig.ready``::

    from asgibridge.integrations import django_tasks as bridge

    bridge.install()

Django's tasks call an ``async def`` by `async_to_sync`, each time on an event loop of its own. From
a process's first task on that is the shared loop; processes that only enqueue tasks are left as
they are. For Django's own framework (6.0) and the package ``django-tasks``, with whatever backend
runs the tasks: ``manage.py db_worker``, or in the process itself (``ImmediateBackend``).

There is no signal for the end of such a worker. So the loop ends at exit, and `at_close` functions
are called then. A worker that forks for each task (``django-tasks-rq``) leaves without that: take
the workers of `asgibridge.integrations.rq`.
"""

from __future__ import annotations

from typing import Any

from .._start.install import install as _take_asgirefs_place
from . import _hooks

__all__ = ["install"]


def __dir__() -> list[str]:
    return __all__


def install() -> None:
    """Have the shared loop switched on by the first task that this process runs. Once is enough.

    Puts asgibridge in asgiref's place. RuntimeError if the original is imported already: Django
    would run tasks by that. ModuleNotFoundError if there is neither Django 6.0 nor django-tasks.
    """
    _take_asgirefs_place()
    connected = False
    for module in ("django.tasks.signals", "django_tasks.signals"):
        try:
            signals: Any = _hooks.load(module, __name__, "'Django>=6.0' or django-tasks")
        except ModuleNotFoundError as error:
            if error.name is None or not module.startswith(error.name):
                raise
            missing = error
            continue
        signals.task_started.connect(_begin, weak=False, dispatch_uid="asgibridge.task_started")
        connected = True
    if not connected:
        raise missing


def _begin(**_more: object) -> None:
    _hooks.begin()
