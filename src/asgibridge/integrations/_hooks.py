"""What the integrations have in common: a worker process's shared loop, from `begin` to `end`.

The hooks of a library come in the process that they are about, but not only there, and not only
once. So the process that has begun is noted by its id:

* A library that forks may call `begin` in the parent, and again in each child (Celery). The child
  has a note of the parent's, which counts for nothing there.
* `end` does nothing in a process that has not begun: gunicorn calls its hook for the end of a
  worker in the arbiter, too, if the worker's process is gone.
* A process that ends without `end` (Celery's cold shutdown of a pool of threads) closes the shared
  loop at exit, as it would any.
"""

from __future__ import annotations

import importlib
import logging
import sys
from typing import Any

from .._process import fork, greenlets
from ..runners import shared_loop

logger = logging.getLogger("asgibridge.integrations")

_begun_in: int | None = None
_told: set[str] = set()


def begin() -> None:
    """Switch the shared loop on in this process. Harmless if it is."""
    global _begun_in
    if greenlets.are_eventlets():
        _tell(
            "eventlet has made locks that are for one real thread, also those of logging, and "
            "async code runs on another: no shared event loop in this worker. Take gevent or "
            "threads"
        )
        return
    _begun_in = fork.pid
    shared_loop()
    tell_of_the_original("async_to_sync", "an event loop for each call, and not the shared one")


def end() -> None:
    """Close the shared loop, if `begin` was called in this process; wait for its end."""
    global _begun_in
    if _begun_in == fork.pid:
        _begun_in = None
        shared_loop().close()


def tell_of_the_original(name: str, what: str) -> None:
    """Log that asgiref itself is imported beside us, once: its functions know nothing of ours.

    :param name: which of its functions matters here.
    :param what: what it gives instead.
    """
    original = sys.modules.get("asgiref.sync")
    if original is not None and original is not sys.modules.get("asgibridge.sync"):
        _tell(
            f"asgiref is imported beside asgibridge: code that has {name} from asgiref gets "
            f"{what}. Call asgibridge.install() before anything imports asgiref, or start the "
            "program by 'asgibridge run'. See "
            "docs/troubleshooting.md#asgiref-is-imported-beside-asgibridge"
        )


def _tell(what: str) -> None:
    # Once in a process: hooks come more than once.
    if what not in _told:
        _told.add(what)
        logger.warning("%s", what)


def load(module: str, user: str, package: str) -> Any:
    """``module`` of the library that ``user`` is about.

    ModuleNotFoundError that says what to install, if it is not there.
    """
    library = module.split(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != library:
            raise  # something that the library itself needs
        raise ModuleNotFoundError(
            f"{user} needs {module}, which is not installed here: pip install {package}",
            name=error.name,
        ) from None
