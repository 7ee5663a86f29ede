"""asgibridge: asgiref's modules, names and behaviour, with a faster and more reliable core.

Use it in place of asgiref, module for module (``from asgibridge.sync import sync_to_async``), or
put it in asgiref's place for a whole program: ``asgibridge.install()`` as its first line, or
``asgibridge run …`` with no line changed.
"""

from __future__ import annotations

from ._start.install import install, is_installed
from ._version import __version__

__all__ = ["IMPLEMENTATION", "__version__", "install", "is_installed"]


def __dir__() -> list[str]:
    return __all__


TYPE_CHECKING = False
if TYPE_CHECKING:
    IMPLEMENTATION: str
    """Which kernel runs: ``pure`` or ``speedups``."""


def __getattr__(name: str) -> str:
    # A late import: `install` has to come first in a program, before gevent's monkey-patching too,
    # and must not import asyncio.
    if name == "IMPLEMENTATION":
        from . import _kernel

        return _kernel.IMPLEMENTATION  # not kept: it may change, under monkey-patching
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
