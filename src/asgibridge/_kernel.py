"""The only switch between the two kernels; nothing else imports either.

``ASGIBRIDGE_SPEEDUPS`` decides, with the same words when building and when running:

``auto`` (or unset)
    the compiled kernel if it was built, else the pure one; and the pure one where compiled code
    must not be used: under gevent's or eventlet's monkey-patched ``threading``, whose own objects
    alone yield to other greenlets. If it is patched after we were loaded, the next call goes over.
    And in a subinterpreter (mod_wsgi's, say), because an extension of Cython's serves only one.
``require``
    the compiled kernel, or an ImportError: also under such patching (a RuntimeError if it comes
    later), and in a subinterpreter.
``off``
    the pure kernel.

Any other value is an error. ``auto`` forgives only the extension's absence: one that is there but
does not load raises, because running ten times slower without a word is no fallback.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from ._process.cpython import is_subinterpreter, threading_is_patched

__all__ = ["IMPLEMENTATION", "kernel"]

CHOICES = ("auto", "require", "off")
PLACEMENTS = ("waker", "scheduler")
_EXTENSION = "asgibridge._speedups"


def _choice(variable: str = "ASGIBRIDGE_SPEEDUPS", choices: Sequence[str] = CHOICES) -> str:
    choice = os.environ.get(variable) or choices[0]
    if choice not in choices:
        raise ImportError(
            f"{variable}={choice!r}: must be one of {', '.join(choices)} "
            f"(or unset, for {choices[0]})"
        )
    return choice


def _load() -> tuple[ModuleType, str]:
    choice = _choice()
    _choice("ASGIBRIDGE_PLACEMENT", PLACEMENTS)  # before there is a kernel that goes by it
    if choice == "auto" and is_subinterpreter():
        return importlib.import_module("asgibridge._pure"), "pure"
    if choice == "require" and is_subinterpreter():
        raise ImportError(
            "ASGIBRIDGE_SPEEDUPS=require, but this is a subinterpreter, and the compiled kernel "
            "serves only the main one: set it to auto, or unset it"
        )
    if choice == "require" and threading_is_patched():
        raise ImportError(
            "ASGIBRIDGE_SPEEDUPS=require, but threading is monkey-patched, and waiting in compiled "
            "code would block every greenlet: set it to auto, or unset it"
        )
    if choice != "off" and not (choice == "auto" and threading_is_patched()):
        try:
            return importlib.import_module(_EXTENSION), "speedups"
        except ModuleNotFoundError as error:
            if error.name != _EXTENSION:
                raise
            if choice == "require":
                raise ImportError(
                    "ASGIBRIDGE_SPEEDUPS=require, but the compiled kernel is not installed: "
                    "reinstall with a C compiler and ASGIBRIDGE_SPEEDUPS=require, or unset it"
                ) from error
    return importlib.import_module("asgibridge._pure"), "pure"


if TYPE_CHECKING:
    from . import _pure as kernel

    IMPLEMENTATION: str
else:
    kernel, IMPLEMENTATION = _load()


def leave_compiled_kernel() -> bool:
    """``threading`` was monkey-patched after we were loaded: from now on, the pure kernel.

    In each module of the package, names that are the compiled kernel or of it are the pure one's
    afterwards. What has been made by the compiled one stays as it is. Returns whether that is a
    change. Raises RuntimeError if the environment requires the compiled one, whose waiting would
    block every greenlet.
    """
    global IMPLEMENTATION
    if IMPLEMENTATION == "pure":
        return False
    if _choice() == "require":
        raise RuntimeError(
            "threading was monkey-patched after asgibridge was loaded, and the compiled kernel "
            "would block every greenlet: set ASGIBRIDGE_SPEEDUPS=auto instead of require"
        )
    compiled, pure = kernel, importlib.import_module("asgibridge._pure")
    bound = {name: (getattr(compiled, name), getattr(pure, name)) for name in pure.__all__}
    bound["kernel"] = compiled, pure
    for path, module in list(sys.modules.items()):
        if path.startswith("asgibridge.") and module is not compiled:
            for name, (old, new) in bound.items():
                if vars(module).get(name) is old:
                    setattr(module, name, new)
    IMPLEMENTATION = "pure"
    return True
