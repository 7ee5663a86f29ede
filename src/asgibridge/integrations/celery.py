"""Celery: one event loop for each worker process, from its start to its end.

In the module that makes the Celery application::

    from asgibridge.integrations import celery as bridge

    bridge.install()

Pools: prefork (each child has a loop), threads, solo and gevent (the worker's process has one).
Processes that only send tasks are left as they are.

Celery's children of a prefork pool leave by ``os._exit``, where nothing of ours would be closed at
exit. So each is told of its end by Celery's own signal, as the last task has ended. The parent is
told before it forks: whatever the children's handlers of ``worker_process_init`` make, they make on
the shared loop, in whichever order the handlers were connected.
"""

from __future__ import annotations

from . import _hooks

__all__ = ["install"]


def __dir__() -> list[str]:
    return __all__


def install() -> None:
    """Connect to Celery's signals of workers, of whatever application. Once is enough.

    ModuleNotFoundError if Celery is not installed.
    """
    signals = _hooks.load("celery.signals", __name__, "celery")
    for name, receiver in _RECEIVERS.items():
        # The identity is for who imports this module twice, under two names.
        getattr(signals, name).connect(receiver, weak=False, dispatch_uid=f"asgibridge.{name}")


def _begin(**_more: object) -> None:
    _hooks.begin()


def _end(**_more: object) -> None:
    _hooks.end()


_RECEIVERS = {
    "worker_init": _begin,
    "worker_process_init": _begin,  # a child that is spawned, too, has had no `worker_init`
    "worker_process_shutdown": _end,
    "worker_shutdown": _end,
}
