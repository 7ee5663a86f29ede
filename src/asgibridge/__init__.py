"""asgibridge: asgiref's modules, names and behaviour, with a faster and more reliable core.

Use it in place of asgiref, module for module (``from asgibridge.sync import sync_to_async``), or
put it in asgiref's place for a whole program: ``import asgibridge.autoinstall`` as its first line,
or ``asgibridge run …`` with no line changed.
"""

from __future__ import annotations

from ._backend import IMPLEMENTATION
from ._install import install
from ._version import __version__

__all__ = ["IMPLEMENTATION", "__version__", "install"]
