"""The only switch between the two kernels; nothing else imports either.

``ASGIBRIDGE_SPEEDUPS`` decides, with the same words when building and when running:

``auto`` (or unset)
    the compiled kernel if it was built. The pure one if it was not; in a subinterpreter (such as
    mod_wsgi's), because an extension of Cython's serves only one interpreter; and under gevent's or
    eventlet's monkey-patched ``threading``, because a wait in compiled code does not yield to other
    greenlets. If ``threading`` is patched after this import, the next call changes the kernel.
``require``
    the compiled kernel, or a RuntimeError.
``off``
    the pure kernel.

A build that was to compile the kernel and could not leaves a file, ``_speedups.missing``, and the
first import of a process logs it, because pip shows nothing of it: `off` says that this is meant.

Any other value is a ValueError. Under ``auto`` too, an extension that is there but does not load
raises, because running ten times slower without a word is no fallback.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from types import ModuleType
from typing import TYPE_CHECKING

from ._process import settings
from ._process.cpython import is_subinterpreter, threading_is_patched

__all__ = ["IMPLEMENTATION", "kernel"]

_EXTENSION = "asgibridge._speedups"


def _choice() -> str:
    return settings.read("ASGIBRIDGE_SPEEDUPS") or "auto"


def _say_why_not() -> None:
    try:
        name = os.path.join(os.path.dirname(__file__), "_speedups.missing")
        with open(name, encoding="utf-8") as file:
            why = file.read()
    except OSError:
        return  # nobody has tried: the pure wheel
    logging.getLogger("asgibridge").warning(
        "asgibridge was built without its compiled kernel (%s), and is slower: reinstall it with a "
        "C compiler, or set ASGIBRIDGE_SPEEDUPS=off if this is meant",
        why,
    )


def _load() -> tuple[ModuleType, str]:
    choice = _choice()
    obstacle = ""
    if is_subinterpreter():
        obstacle = "this is a subinterpreter, and the compiled kernel serves only the main one"
    elif threading_is_patched():
        obstacle = (
            "threading is monkey-patched, and waiting in compiled code would block every greenlet"
        )
    if choice == "require" and obstacle:
        raise RuntimeError(
            f"ASGIBRIDGE_SPEEDUPS=require, but {obstacle}: set it to auto, or unset it"
        )
    if choice != "off" and not obstacle:
        try:
            return importlib.import_module(_EXTENSION), "speedups"
        except ModuleNotFoundError as error:
            if error.name != _EXTENSION:
                raise
            if choice == "require":
                raise RuntimeError(settings.NO_COMPILED_KERNEL) from error
            _say_why_not()
    return importlib.import_module("asgibridge._pure"), "pure"


if not settings.told:
    for _text in settings.unknown():
        warnings.warn(_text, RuntimeWarning, stacklevel=2)

if TYPE_CHECKING:
    from . import _pure as kernel

    IMPLEMENTATION: str
else:
    kernel, IMPLEMENTATION = _load()


def leave_compiled_kernel() -> bool:
    """Change to the pure kernel, because ``threading`` was monkey-patched after our import.

    In each module of the package, the compiled kernel and its names become the pure kernel and its
    names. Objects of the compiled kernel stay as they are. Returns whether the kernel changed.
    Raises RuntimeError if the environment requires the compiled one.
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
