"""What asgiref's `sync` has besides its public names, for programs that take it from there."""

from __future__ import annotations

import contextvars
import importlib
from typing import Any

from .._kernel import kernel

_MISSING = object()

_NAMES = {
    "Dict": "typing",
    "InvalidStateError": "concurrent.futures",
    "List": "typing",
    "Local": "asgibridge.local",
    "Optional": "typing",
}
_MODULES = ("warnings", "weakref")


def find(name: str) -> Any:
    """What `sync` calls ``name`` in asgiref; AttributeError if nothing."""
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    if name in _MODULES:
        return importlib.import_module(name)
    raise AttributeError(f"module 'asgibridge.sync' has no attribute {name!r}")


def restore_context(context: contextvars.Context) -> None:
    """Set in the current context what ``context`` has, and bring its `Local`s to this thread."""
    home = kernel.current_home()
    for variable, value in context.items():
        is_of_local = type(value) is tuple and value and isinstance(value[0], kernel.Home)
        if is_of_local and value[0] is not home:
            value = (home, *value[1:])
        if variable.get(_MISSING) is not value:
            variable.set(value)
