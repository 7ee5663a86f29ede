"""gunicorn: one event loop for each worker process, from its fork to its end.

In ``gunicorn.conf.py``::

    from asgibridge.integrations.gunicorn import post_fork, worker_exit

Hooks of your own of these names call ours, which take the same two arguments::

    from asgibridge.integrations import gunicorn as bridge

    def post_fork(server, worker):
        bridge.post_fork(server, worker)
        ...

For sync workers and workers with threads. An ASGI worker has a loop already, and sync code that it
runs uses that. gunicorn lets gevent and eventlet patch `threading` after the fork, and after these
hooks were imported. That is too late for a shared loop: such a worker is left as it is, and logs
that.
"""

from __future__ import annotations

from . import _hooks

__all__ = ["post_fork", "worker_exit"]


def __dir__() -> list[str]:
    return __all__


_PATCHING = ("gunicorn.workers.ggevent", "gunicorn.workers.geventlet")

# gunicorn counts the parameters of the hooks.


def post_fork(server: object, worker: object) -> None:
    """Switch the shared loop on. gunicorn calls it in each worker before that loads the site."""
    modules = {each.__module__ for each in type(worker).__mro__}
    if modules.isdisjoint(_PATCHING):
        _hooks.begin()
    else:
        _hooks.logger.warning(
            "%s patches threading too late for a shared event loop: each async_to_sync call has a "
            "loop of its own. Take -k gthread for a shared one",
            type(worker).__name__,
        )


def worker_exit(server: object, worker: object) -> None:
    """Close the shared loop, after the worker's last request.

    gunicorn calls it in the worker; and in the arbiter for a worker whose process is gone, where it
    does nothing.
    """
    _hooks.end()
