"""Install, in a child Python, the very asgibridge that this directory belongs to.

Imported once, as the child starts, with this directory in front of ``sys.path``. The place of the
parent's asgibridge need not be on the child's path, where another copy may be; and it may not be
put there, because other modules in that place could hide the standard library's.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec

if "asgibridge" not in sys.modules:
    _place = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    _spec = PathFinder.find_spec("asgibridge", [_place])
    if _spec is None or _spec.loader is None:
        raise ImportError(f"no asgibridge in {_place}: was it moved while the program ran?")
    _module = module_from_spec(_spec)
    sys.modules["asgibridge"] = _module
    try:
        _spec.loader.exec_module(_module)
    except BaseException:
        del sys.modules["asgibridge"]
        raise

import asgibridge.autoinstall  # noqa: F401
