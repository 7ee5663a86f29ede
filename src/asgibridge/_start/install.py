"""Puts asgibridge in asgiref's place: in this process, and in multiprocessing's children.

There is no way back from installed. `install` owns three things, all of the process:

* one finder at the front of ``sys.meta_path``, which answers for ``asgiref`` and its submodules;
* the facade, the module ``asgiref`` itself. It is a module of its own because one module cannot
  carry two ``__version__``s; the submodules are asgibridge's very modules, loaded when asked for;
* two wrappers in multiprocessing, so that its spawn and forkserver children are installed before
  they import the program again. They are put there when multiprocessing first needs them.

A refusal or an error leaves the process as it was. A forked child inherits all three. Threads may
import asgiref, and call `install`, at the same time.

This file is loaded by every child Python under ``asgibridge run``: it imports as little as it can.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from importlib.machinery import ModuleSpec

from .._version import ASGIREF_VERSION

# typing's constant without importing typing, which would cost more than the rest of this file.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType
    from typing import Any

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

BOOTSTRAP = os.path.join(_PACKAGE, "_bootstrap")
"""The directory from which a child Python is installed as it starts."""

_MODULES = "compatibility current_thread_executor local server sync testing timeout typing wsgi"
_ALIASES = {f"asgiref.{name}": f"asgibridge.{name}" for name in _MODULES.split()}

# multiprocessing imports one of these when it first starts a child of that kind, and never earlier.
# install() waits for that: importing what they use would cost more than install() itself.
_STARTERS = {
    f"multiprocessing.{name}" for name in ("forkserver", "popen_spawn_posix", "popen_spawn_win32")
}


class _Finder:
    """Finds and loads ``asgiref`` and its submodules, and notices multiprocessing's start."""

    def __init__(self) -> None:
        # An asgiref deleted from sys.modules comes back as this one, with its submodules in place.
        self.facade = type(sys)("asgiref")

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        loader: Any = self  # by protocol: importlib.abc's base classes are dear to import
        if fullname == "asgiref":
            # An empty search path: no other finder finds a submodule, such as the original's.
            init = os.path.join(_PACKAGE, "__init__.py")
            spec = ModuleSpec(fullname, loader, origin=init, is_package=True)
            spec.has_location = True
            return spec
        if fullname in _ALIASES:
            return ModuleSpec(fullname, loader, origin=_ALIASES[fullname])
        if fullname in _STARTERS:
            _reach_children()
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.facade if spec.name == "asgiref" else None

    def exec_module(self, module: ModuleType) -> None:
        if module is self.facade:
            module.__doc__ = "asgibridge, in asgiref's place."
            module.__version__ = ASGIREF_VERSION  # type: ignore[attr-defined]
            return
        # The import system writes its spec into the module that it made, and then takes the module
        # that it finds in sys.modules. So the spec of asgibridge's module stays as it is, for a
        # thread that imports that module just now, and for reload().
        name = module.__name__
        sys.modules[name] = importlib.import_module(_ALIASES[name])


_finder = _Finder()
_lock = threading.Lock()


def install() -> None:
    """Make ``import asgiref`` and its submodules give asgibridge's, from now on.

    ``asgiref.sync is asgibridge.sync``, and so on: one set of modules under two names, while
    ``asgiref.__version__`` is the release this package answers for. Children that multiprocessing
    spawns, or forks from a fork server started after this call, are installed as well, before they
    import the program. Call it once, before anything imports asgiref; from any thread. Calling it
    again does nothing.

    Raises RuntimeError, and changes nothing, if the original is already imported: two copies would
    be two thread-sensitive worlds. ``import asgibridge.autoinstall`` and ``asgibridge run`` are
    this call too.
    """
    with _lock:
        _refuse_if_too_late()
        is_new = _finder not in sys.meta_path
        if is_new:
            sys.meta_path.insert(0, _finder)
        for name in ("asgiref", *_ALIASES):
            if name in sys.modules and sys.modules[name] is None:  # import switched off
                del sys.modules[name]
        importlib.import_module("asgiref")
        try:
            # A thread may have found the original just before the finder was there; importing it
            # above has waited for that thread.
            _refuse_if_too_late()
        except RuntimeError:
            if is_new:
                sys.meta_path.remove(_finder)
            raise
        if "multiprocessing.spawn" in sys.modules:
            _reach_children()


def is_installed() -> bool:
    """Whether ``import asgiref`` gives asgibridge's modules in this process."""
    return _finder in sys.meta_path and not _originals()


def real_asgiref_loaded() -> bool:
    """Whether the original ``asgiref.sync`` is loaded, beside ours or alone."""
    module = sys.modules.get("asgiref.sync")
    return module is not None and not _is_ours("asgiref.sync", module)


def _originals() -> list[str]:
    """The names under which modules that are not asgibridge's are loaded as asgiref."""
    return [
        name
        for name, module in sys.modules.copy().items()
        if (name == "asgiref" or name.startswith("asgiref.")) and not _is_ours(name, module)
    ]


def _is_ours(name: str, module: ModuleType | None) -> bool:
    if module is None or module is _finder.facade:
        return True
    if name in _ALIASES and module is sys.modules.get(_ALIASES[name]):
        return True
    # The stand-in that is in sys.modules while another thread is importing the alias.
    return getattr(getattr(module, "__spec__", None), "loader", None) is _finder


def _refuse_if_too_late() -> None:
    originals = _originals()
    if originals:
        raise RuntimeError(
            "asgibridge.install() comes too late: the original asgiref is already imported "
            f"({', '.join(sorted(originals))}). Put 'import asgibridge.autoinstall' before "
            "everything that imports asgiref (Django does), as the first line of the program, "
            "or start the program with 'asgibridge run'."
        )


# --- multiprocessing's children ------------------------------------------------------------------


def _reach_children() -> None:
    """Let spawned children and the fork server begin with `install`; again and again is harmless.

    Both start with ``-c`` and a line of Python, which imports the program's main module. So the
    line itself has to call `install` first.
    """
    spawn: Any = importlib.import_module("multiprocessing.spawn")
    util: Any = importlib.import_module("multiprocessing.util")
    command_line, spawnv = spawn.get_command_line, util.spawnv_passfds

    def get_command_line(**kwds: Any) -> list[Any]:
        return _install_first(command_line(**kwds), "multiprocessing.spawn")

    def spawnv_passfds(path: Any, args: Sequence[Any], passfds: Sequence[int]) -> int:
        # Spawned children pass here too, and multiprocessing's resource tracker, which needs none.
        pid: int = spawnv(path, _install_first(args, "multiprocessing.forkserver"), passfds)
        return pid

    _replace(spawn, get_command_line)
    _replace(util, spawnv_passfds)


def _replace(module: Any, wrapper: Callable[..., Any]) -> None:
    original = getattr(module, wrapper.__name__)
    if not hasattr(original, "_asgibridge"):
        wrapper.__doc__ = original.__doc__
        wrapper.__module__ = original.__module__
        wrapper.__dict__.update(__wrapped__=original, _asgibridge=True)
        setattr(module, wrapper.__name__, wrapper)


def _install_first(command: Sequence[Any], module: str) -> list[Any]:
    """``command``, its ``-c`` program installing asgibridge before it imports from ``module``.

    Returns any other command unchanged. A frozen program's is one: it has no ``-c`` (or, for the
    fork server, looks at how the program begins), and calls `install` as it runs again.
    """
    words = list(command)
    # No comparison with the executable, which is bytes: under -bb that is an error.
    options = [i for i, word in enumerate(words) if isinstance(word, str) and word == "-c"]
    if options and not getattr(sys, "frozen", False):
        program = options[0] + 1
        if f"from {module} import" in words[program]:
            # The directory holds nothing that could hide another module, so it may come first. Not
            # repr(): Windows passes the program in double quotes, so there must be none inside.
            directory = BOOTSTRAP.encode("unicode_escape").decode("ascii").replace("'", "\\x27")
            words[program] = (
                f"import sys; sys.path.insert(0, '{directory}'); "
                f"import asgibridge_bootstrap; sys.path.pop(0); {words[program]}"
            )
    return words
