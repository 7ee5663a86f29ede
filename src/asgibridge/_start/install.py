"""Puts asgibridge in asgiref's place: in this process, and in multiprocessing's children.

There is no way back from installed. `install` owns four things, all of the process:

* one finder on ``sys.meta_path``, which answers for ``asgiref`` and its submodules. It is before
  Python's own, and behind those that others have put in front of them: they are post-import hooks,
  which ask the finders after them what there is;
* the facade, the module ``asgiref`` itself. It is a module of its own because one module cannot
  carry two ``__version__``s; the submodules are asgibridge's very modules, loaded when asked for;
* two wrappers in multiprocessing, so that its spawn and forkserver children are installed before
  they import the program again. They are put there when multiprocessing first needs them;
* with ``ASGIBRIDGE_DJANGO=1``, the function ``get_asgi_application`` in ``django.core.asgi``, which
  is put there when Django's module has been imported.

A refusal or an error leaves the process as it was. A forked child inherits all four. Threads may
import asgiref, and call `install`, at the same time.

This file is loaded by every child Python under ``asgibridge run``: it imports as little as it can.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import threading
from importlib.machinery import ModuleSpec, SourceFileLoader

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
_FACADE_FILE = os.path.join(_PACKAGE, "__init__.py")
_ALIASES = {f"asgiref.{name}": f"asgibridge.{name}" for name in _MODULES.split()}

# multiprocessing imports one of these when it first starts a child of that kind, and never earlier.
# install() waits for that: importing what they use would cost more than install() itself.
_STARTERS = {
    f"multiprocessing.{name}" for name in ("forkserver", "popen_spawn_posix", "popen_spawn_win32")
}

_DJANGO = "django.core.asgi"


class _Spec(ModuleSpec):
    """What an alias is imported by.

    The import system writes it into asgibridge's own module. The module has this spec, and the
    alias's name, only while it is imported under the alias: post-import hooks, which run then, look
    for the name that they were registered for (wrapt's read it from the module). Python says when
    that time begins and ends by the attribute ``_initializing``; threads that import the same alias
    wait for it.
    """

    at_end: Callable[[], None] | None = None

    @property
    def _initializing(self) -> bool:
        return bool(self.__dict__.get("is_initializing"))

    @_initializing.setter
    def _initializing(self, value: bool) -> None:
        self.__dict__["is_initializing"] = value
        if not value and self.at_end is not None:
            self.at_end()


class _Loader(SourceFileLoader):
    """Loads one alias: it is asgibridge's module. Sources and resources are those of its file."""

    own: tuple[ModuleType, ModuleSpec | None, str] | None = None  # the module, its spec and name

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        if spec.name == "asgiref":
            return _finder.facade
        module = importlib.import_module(_ALIASES[spec.name])
        if not isinstance(module.__spec__, _Spec):
            self.own = module, module.__spec__, module.__name__
            if isinstance(spec, _Spec):
                spec.at_end = self._give_back
        return module

    def exec_module(self, module: ModuleType) -> None:
        if module is _finder.facade:
            module.__doc__ = "asgibridge, in asgiref's place."
            module.__version__ = ASGIREF_VERSION  # type: ignore[attr-defined]
            return
        spec = module.__spec__
        if isinstance(spec, _Spec) and spec._initializing:
            module.__name__ = spec.name
        else:  # by hand, or by a spec of an agent's: nobody would say when the hooks are done
            self._give_back()

    def _give_back(self) -> None:
        if self.own is not None:
            module, spec, name = self.own
            module.__spec__, module.__name__ = spec, name
            self.own = None


class _Finder:
    """Finds ``asgiref`` and its submodules, and notices multiprocessing's start and Django's."""

    changes_django = False

    def __init__(self) -> None:
        # An asgiref deleted from sys.modules comes back as this one, with its submodules in place.
        self.facade = type(sys)("asgiref")
        self.facade.__file__ = _FACADE_FILE  # whatever an agent's own spec says

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "asgiref":
            # An empty search path: no other finder finds a submodule, such as the original's.
            return _spec(ModuleSpec, fullname, _FACADE_FILE, is_package=True)
        if fullname in _ALIASES:
            own = importlib.util.find_spec(_ALIASES[fullname])
            return None if own is None else _spec(_Spec, fullname, str(own.origin))
        if fullname in _STARTERS:
            _reach_children()
        if fullname == _DJANGO and self.changes_django:
            return _change_when_imported(self._ask_others(fullname, path, target))
        return None

    def _ask_others(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None
    ) -> ModuleSpec | None:
        """What the finders after this one find."""
        finders = sys.meta_path.copy()
        for finder in finders[finders.index(self) + 1 :] if self in finders else ():
            find_spec: Any = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = find_spec and find_spec(fullname, path, target)
            if spec is not None:
                return spec
        return None


def _spec(
    kind: type[ModuleSpec], name: str, file: str, *, is_package: bool | None = None
) -> ModuleSpec:
    spec = kind(name, _Loader(name, file), origin=file, is_package=is_package)
    spec.has_location = True
    return spec


_finder = _Finder()
_lock = threading.Lock()


def install() -> None:
    """Make ``import asgiref`` and its submodules give asgibridge's, from now on.

    ``asgiref.sync is asgibridge.sync``, and so on: one set of modules under two names, while
    ``asgiref.__version__`` is the release this package answers for. Children that multiprocessing
    spawns, or forks from a fork server started after this call, are installed as well, before they
    import the program. Call it once, before anything imports asgiref; from any thread. Calling it
    again does nothing. With ``ASGIBRIDGE_DJANGO=1`` in the environment, Django's
    ``get_asgi_application`` is `asgibridge.django`'s.

    Raises RuntimeError, and changes nothing, if the original is already imported: two copies would
    be two thread-sensitive worlds; the error says who imported it. ValueError for another
    ``ASGIBRIDGE_DJANGO``. ``import asgibridge.autoinstall`` and ``asgibridge run`` are this call
    too.
    """
    changes_django = False
    if os.environ.get("ASGIBRIDGE_DJANGO"):
        from .._process import settings  # only now: most programs do not need it so early

        changes_django = settings.read("ASGIBRIDGE_DJANGO") == "1"
    with _lock:
        _refuse_if_too_late()
        is_new = _finder not in sys.meta_path
        for name in ("asgiref", *_ALIASES):
            if name in sys.modules and sys.modules[name] is None:  # import switched off
                del sys.modules[name]
        try:
            if is_new:
                sys.meta_path.insert(_place(), _finder)
                found = importlib.util.find_spec("asgiref")
                if found is None or found.origin != _FACADE_FILE:
                    # A finder before ours asks none: it has found the original.
                    sys.meta_path.remove(_finder)
                    sys.meta_path.insert(0, _finder)
            importlib.import_module("asgiref")
            # A thread may have found the original just before the finder was there; importing it
            # above has waited for that thread.
            _refuse_if_too_late()
        except BaseException:
            if is_new and _finder in sys.meta_path:
                sys.meta_path.remove(_finder)
            raise
        if "multiprocessing.spawn" in sys.modules:
            _reach_children()
        if changes_django:
            _finder.changes_django = True
            if _DJANGO in sys.modules:
                _change_django(sys.modules[_DJANGO])


def _place() -> int:
    """The index of Python's first finder in ``sys.meta_path``."""
    for i, finder in enumerate(sys.meta_path):
        if str(getattr(finder, "__module__", "")).startswith(("_frozen_importlib", "importlib.")):
            return i
    return 0


def is_installed() -> bool:
    """Whether ``import asgiref`` gives asgibridge's modules in this process. From any thread."""
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
    # By its name where it was imported anew since.
    alias = _ALIASES.get(name)
    return alias is not None and (
        module is sys.modules.get(alias) or getattr(module, "__name__", None) == alias
    )


def _refuse_if_too_late() -> None:
    originals = _originals()
    if originals:
        from . import importers  # only now: it reads sources

        raise RuntimeError(
            "asgibridge.install() comes too late: the original asgiref is already imported "
            f"({', '.join(sorted(originals))}). {importers.what_to_do()} "
            "See docs/troubleshooting.md#comes-too-late."
        )


# --- Django's application ------------------------------------------------------------------------


def _change_when_imported(spec: ModuleSpec | None) -> ModuleSpec | None:
    loader: Any = getattr(spec, "loader", None)
    if loader is None or isinstance(loader, type):  # a class would load others, too
        return spec
    name = "exec_module" if hasattr(loader, "exec_module") else "load_module"  # zip files of 3.9
    load: Any = getattr(loader, name)

    def load_and_change(module: Any) -> Any:
        # Given the module, or its name. A zip file's loader loads others, too.
        loaded = load(module)
        if getattr(module, "__name__", module) == _DJANGO:
            _change_django(sys.modules[_DJANGO])
        return loaded

    setattr(loader, name, load_and_change)
    return spec


def _change_django(module: Any) -> None:
    # By a name put together here: the package lies above this module, and is there when asked for.
    ours: Any = importlib.import_module(f"{__name__.split('.')[0]}.django")
    module.get_asgi_application = ours.get_asgi_application


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

    replace(spawn, get_command_line)
    replace(util, spawnv_passfds)


def replace(module: Any, wrapper: Callable[..., Any]) -> None:
    """Put ``wrapper`` in the place of what it is named after in ``module``, once."""
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
