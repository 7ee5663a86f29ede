"""How ``asgibridge run`` reaches child processes: their PYTHONPATH begins with a directory of ours.

From there a child Python imports ``sitecustomize``, which installs asgibridge and calls `reach` in
its turn. Agents start programs in the same way, with a directory and a ``sitecustomize`` of theirs,
and most never look whether there is another one. So whatever the program has made of PYTHONPATH
(a launcher that then replaces itself, a process manager that reads a file of variables), ours comes
first again as a process is started; what was there follows it, and is run by our ``sitecustomize``.
An environment without PYTHONPATH is left alone: whoever starts a child so wants nothing in it.

This file is loaded by every child Python: it imports as little as it can.
"""

from __future__ import annotations

import importlib.util
import os
import sys

from .install import BOOTSTRAP, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any


def first(entries: str) -> str:
    """``entries``, a PYTHONPATH, with our directory as its first."""
    if not entries:  # an empty entry would be the current directory
        return BOOTSTRAP
    words = entries.split(os.pathsep)
    if words[0] == BOOTSTRAP:
        return entries
    return os.pathsep.join([BOOTSTRAP, *(word for word in words if word != BOOTSTRAP)])


def reach() -> None:
    """Let every process that this one starts from now on begin with our ``sitecustomize``."""
    os.environ["PYTHONPATH"] = first(os.environ.get("PYTHONPATH", ""))
    _change_execv()
    for name in ("execve", "posix_spawn"):
        if hasattr(os, name):  # not on Windows
            _change(name)
    if "subprocess" in sys.modules:
        _change_popen(sys.modules["subprocess"])
    elif not any(isinstance(finder, _PopenFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _PopenFinder())


def _is_lost(env: Any) -> bool:
    entries = env.get("PYTHONPATH")
    return isinstance(entries, str) and entries != first(entries)


def _reaching(env: Any) -> Any:
    """The environment ``env``, or a copy of it with our directory in front."""
    try:
        return {**env, "PYTHONPATH": first(env["PYTHONPATH"])} if _is_lost(env) else env
    except (AttributeError, TypeError):
        return env  # no mapping: whoever is given it says so


def _change_execv() -> None:
    original: Any = os.execv

    def execv(path: Any, args: Any, /) -> Any:
        # The others that take no environment, such as execl, end here.
        if _is_lost(os.environ):
            os.environ["PYTHONPATH"] = first(os.environ["PYTHONPATH"])
        return original(path, args)

    replace(os, execv)


def _change(name: str) -> None:
    original: Any = getattr(os, name)

    def call(path: Any, args: Any, env: Any, **rest: Any) -> Any:
        return original(path, args, _reaching(env), **rest)

    call.__name__ = call.__qualname__ = name
    replace(os, call)
    if original in os.supports_fd:
        os.supports_fd.add(getattr(os, name))


class _PopenFinder:
    """Waits for the import of ``subprocess``, which would cost more than all of this file."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "subprocess":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        loader: Any = getattr(spec, "loader", None)
        if loader is not None and not isinstance(loader, type):  # a class would load others, too
            exec_module = loader.exec_module

            def exec_and_change(module: ModuleType) -> None:
                exec_module(module)
                _change_popen(module)

            loader.exec_module = exec_and_change
        return spec


def _change_popen(module: Any) -> None:
    original = module.Popen.__init__

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        env = kwargs.get("env")
        if env is not None:
            kwargs["env"] = _reaching(env)
        elif len(args) < 11 and _is_lost(os.environ):  # the eleventh is the environment
            kwargs["env"] = _reaching(os.environ)
        original(self, *args, **kwargs)

    replace(module.Popen, __init__)
