"""``asgibridge run``: make ready to run a program, with asgibridge in asgiref's place.

The program runs in this process, and becomes its ``__main__`` for good: the program's threads and
its multiprocessing children must find their ``__main__``. sys.argv, sys.path[0] and the module's
attributes are those that ``python script`` or ``python -m module`` would have set. The caller runs
the code, so that a traceback shows one Python frame of ours, not five.

A program that cannot run here (a binary, a shell script, another environment's command) replaces
this process. The environment reaches child processes (`children`), unless they are Pythons that are
told to ignore it (``-E``, ``-I``, ``-S``).
"""

from __future__ import annotations

import builtins
import errno
import importlib.util
import os
import pkgutil
import shlex
import shutil
import sys
import sysconfig
from importlib.machinery import PathFinder, SourceFileLoader, SourcelessFileLoader
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

from .._process import settings
from .._version import __version__
from .children import first, reach
from .install import install

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec


verbose = False
"""Whether to say on standard error what is run."""

django = False
"""Whether ``--django`` is given, so that a Python without a Django is worth a word."""


def problems() -> list[str]:
    """What is wrong with the environment, a sentence each."""
    found = settings.problems()
    is_missing = importlib.util.find_spec("asgibridge._speedups") is None
    if os.environ.get("ASGIBRIDGE_SPEEDUPS") == "require" and is_missing:
        found.append(settings.NO_COMPILED_KERNEL)
    return found


class CannotRun(Exception):
    """There is nothing to run: why, and what to do. ``status`` is the exit status to end with."""

    def __init__(self, message: str, status: int = 2) -> None:
        super().__init__(message)
        self.status = status


def prepare_module(name: str, args: list[str]) -> CodeType:
    """The code to run in ``__main__`` now, as ``python -m name`` would with ``args``.

    Raises CannotRun, or what a package raises that is imported on the way.
    """
    _install(["-m", name, *args])
    _put_first_on_path(os.getcwd())
    sys.argv = ["-m", *args]  # for a package that is imported on the way
    spec = _find_main(name)
    code = _code_of(spec)
    sys.argv[0] = spec.origin or name
    _replace_main_by(spec, spec.parent)
    return code


def prepare_program(program: str, args: list[str]) -> CodeType:
    """The code to run in ``__main__`` now for the script or command ``program`` with ``args``.

    Python source, or a directory or zip file with a ``__main__.py``, is run as ``python program``
    does. What is no file is a command: looked up on PATH, then beside this Python. A command for
    another Python, and what is no Python source (a Python itself, a shell script), replaces the
    process, and this call does not return. Raises CannotRun, or SyntaxError for the script.
    """
    # A directory that only happens to have a command's name is not meant.
    is_runnable = os.path.isfile(program) or os.path.isfile(os.path.join(program, "__main__.py"))
    path = program if is_runnable else _find_command(program)
    if not (_is_python(path) if is_runnable else _is_for_this_python(path)):
        _keep_agent()
        reach()
        _say(f"executing {path}; asgibridge {__version__} is in asgiref's place in its Pythons")
        _hand_over(path, [program, *args])
    _install(["--", program, *args])
    sys.argv = [path, *args]
    # A directory or zip file is a place to import from, as a plain script is not.
    if pkgutil.get_importer(path) is None:
        return _prepare_script(path)
    return _prepare_container(path)


# --- before the program --------------------------------------------------------------------------


def _install(words: list[str]) -> None:
    entries = os.environ.get("PYTHONPATH", "")
    try:
        install()
    except RuntimeError as error:
        # A sitecustomize of an agent's may have imported the original. Ours comes before it where
        # it is the first, so this command begins once more.
        if entries != first(entries):
            _keep_agent()
            reach()
            _begin_again(words)
        raise CannotRun(
            f"{error} (Here that was before the program began: a .pth file or a sitecustomize of "
            "this Python imports it.)"
        ) from None
    reach()
    program = " ".join(words[words[0] == "--" :])
    if django:
        _warn_without_django()
    _say(f"asgibridge {__version__} is in asgiref's place, and runs {program}")


def _warn_without_django() -> None:
    """Say it where there is no Django, or one that is too old. Without importing it."""
    from importlib import metadata

    try:
        version = metadata.version("django")
        if [int(part) for part in version.split(".")[:2] if part.isdigit()] >= [4, 2]:
            return
        what = f"Django 4.2 or newer is needed, and this is {version}: upgrade it"
    except metadata.PackageNotFoundError:
        if importlib.util.find_spec("django") is not None:  # a source tree: it says so itself
            return
        what = "there is no Django here: install it, or leave that out"
    print(f"asgibridge: --django: {what} (of {sys.executable})", file=sys.stderr)


def _say(what: str) -> None:
    if verbose and sys.stderr is not None:
        print(f"asgibridge: {what} (process {os.getpid()}, {sys.executable})", file=sys.stderr)


def _begin_again(words: list[str]) -> None:
    flags = sys.flags
    if flags.ignore_environment or flags.isolated or flags.no_site:
        return  # it would come to the same
    from .._process import cpython  # it imports asyncio, which a program may do without

    _say("something has imported asgiref before the program began: beginning again, before that")
    options = [*(["-v"] if verbose else []), *(["--django"] if django else [])]
    command = [
        sys.executable,
        *cpython.interpreter_flags(),
        "-m",
        "asgibridge",
        "run",
        *options,
        *words,
    ]
    _hand_over(sys.executable, command)


def _keep_agent() -> None:
    """Let a Python that takes this one's place begin with the same ``sitecustomize``.

    An agent that was started before us may have taken its directory out of PYTHONPATH, so that
    it does not come into child processes. The program is none.
    """
    file = getattr(sys.modules.get("sitecustomize"), "__file__", None)
    if isinstance(file, str):
        directory = os.path.dirname(os.path.abspath(file))
        entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        if directory not in entries and directory not in _default_path():
            os.environ["PYTHONPATH"] = os.pathsep.join([directory, *filter(None, entries)])


def _default_path() -> list[str]:
    import site

    return [*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages()]


def _put_first_on_path(entry: str) -> None:
    # Replaces the entry of the asgibridge command itself, unless Python was told to add none.
    if not _is_path_safe():
        sys.path[0] = entry


def _is_path_safe() -> bool:
    return bool(getattr(sys.flags, "safe_path", sys.flags.isolated))


def _absolute(path: str) -> str:
    return os.path.join(os.getcwd(), path)  # Python does not resolve dots here either


def _replace_main(**attributes: object) -> None:
    main = ModuleType("__main__")
    if sys.version_info < (3, 14):
        attributes["__annotations__"] = {}
    if sys.version_info >= (3, 15):
        del attributes["__cached__"]
    main.__dict__.update(attributes, __builtins__=builtins)
    sys.modules["__main__"] = main


def _replace_main_by(spec: ModuleSpec, package: str | None) -> None:
    file, cached, loader = spec.origin, spec.cached, spec.loader
    _replace_main(
        __file__=file, __cached__=cached, __loader__=loader, __package__=package, __spec__=spec
    )


# --- python -m -----------------------------------------------------------------------------------


def _find_main(name: str) -> ModuleSpec:
    if name.startswith("."):
        raise CannotRun(f"{name!r} is a relative module name: give the full one", 1)
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{name}.__main__")
            if spec is None:
                raise CannotRun(f"No module named {name}.__main__: {name} is a package", 1)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # it is there, and lacks something itself
        spec = None
    except ValueError:  # loaded, and without a spec: no module of a file
        spec = None
    if spec is None:
        is_script = name.endswith(".py") and os.path.isfile(name)
        hint = f": for the file, leave out -m (asgibridge run {name})" if is_script else ""
        raise CannotRun(f"No module named {name}{hint}", 1)
    return spec


def _code_of(spec: ModuleSpec) -> CodeType:
    get_code = getattr(spec.loader, "get_code", None)
    code: CodeType | None = get_code(spec.name) if get_code is not None else None
    if code is None:
        raise CannotRun(f"{spec.name} cannot be run: it has no Python code", 1)
    return code


# --- python script -------------------------------------------------------------------------------


def _prepare_script(path: str) -> CodeType:
    file = _absolute(path)
    is_compiled = file.endswith(".pyc")
    loader: Any = (SourcelessFileLoader if is_compiled else SourceFileLoader)("__main__", file)
    try:
        if is_compiled:
            code: CodeType = loader.get_code("__main__")
        else:  # get_code would leave a .pyc, which Python does not for a script
            code = loader.source_to_code(loader.get_data(file), file)
    except OSError as error:
        raise CannotRun(f"cannot read {path}: {error.strerror}") from None
    # Python resolves a link to a script, so that it finds the modules beside the file itself.
    _put_first_on_path(os.path.dirname(os.path.realpath(path)))
    # No __package__, no __spec__: by these, reloaders tell a script from a module.
    _replace_main(__file__=file, __cached__=None, __loader__=loader)
    return code


def _prepare_container(path: str) -> CodeType:
    place = _absolute(path)
    spec = PathFinder.find_spec("__main__", [place])
    if spec is None:
        raise CannotRun(f"there is no __main__ module in {path}", 1)
    if _is_path_safe():
        sys.path.insert(0, place)  # Python adds it even so: the program is in it
    else:
        sys.path[0] = place
    code = _code_of(spec)
    _replace_main_by(spec, "")
    return code


# --- commands ------------------------------------------------------------------------------------


def _find_command(word: str) -> str:
    if os.path.dirname(word):
        problem = "no __main__.py in" if os.path.isdir(word) else "no such file:"
        raise CannotRun(f"cannot run {word!r}: {problem} {os.path.abspath(word)}")
    # In an environment that is used without being activated, its commands are not on PATH.
    path = shutil.which(word) or shutil.which(word, path=sysconfig.get_path("scripts"))
    if path is None:
        hint = "" if word.endswith(".py") else f" For a module: asgibridge run -m {word}"
        raise CannotRun(
            f"cannot run {word!r}: no such file in {os.getcwd()}, no such command on PATH.{hint}"
        )
    return path


def _is_python(path: str) -> bool:
    """Whether the file ``path``, which the user has named, is for this Python to run."""
    if pkgutil.get_importer(path) is not None or path.lower().endswith((".py", ".pyw", ".pyc")):
        return True
    try:
        with open(path, "rb") as file:
            source = file.read()
    except OSError:
        return True  # running it says why
    interpreter = _interpreter(path)
    if interpreter is not None:
        # The command of another environment lies beside its Python.
        beside = os.path.dirname(os.path.abspath(path)) == os.path.dirname(interpreter)
        return not beside or _is_for_this_python(path)
    if source.startswith(b"#!") or b"\0" in source:
        return False
    try:
        compile(source, path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        # A shell runs what is executable and names no interpreter. What is not: say what is wrong.
        return not os.access(path, os.X_OK)
    return True


def _is_for_this_python(path: str) -> bool:
    interpreter = _interpreter(path)
    try:
        # Through links an environment's Python is its base's: the directory tells them apart.
        return interpreter is not None and (
            os.path.samefile(os.path.dirname(interpreter), os.path.dirname(sys.executable))
            and os.path.samefile(interpreter, sys.executable)
        )
    except OSError:
        return False


def _interpreter(path: str) -> str | None:
    """The Python named in the first line of the script ``path``; None if there is none."""
    try:
        with open(path, "rb") as file:
            first, second = file.readline(4096), os.fsdecode(file.readline(4096))
    except OSError:
        return None
    if not first.startswith(b"#!"):
        return None
    words = os.fsdecode(first[2:]).split()
    kind = os.path.basename(words[0]) if words else ""
    if kind == "env":
        names = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
        found = shutil.which(names[0]) if names else None
    elif kind == "sh" and second.startswith("'''exec'"):
        # Where the path is too long for a first line, or has blanks, installers write a script that
        # is shell and Python at once.
        try:
            found = shlex.split(second)[1]
        except (ValueError, IndexError):
            return None
    else:
        found = words[0] if words else None
    is_python = found is not None and os.path.basename(found).startswith(("python", "pypy"))
    return found if is_python else None


def _hand_over(path: str, words: list[str]) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    try:
        if os.name == "nt":  # where exec would return to the shell at once
            import subprocess

            sys.exit(subprocess.call([path, *words[1:]]))
        os.execv(path, words)
    except OSError as error:
        if error.errno == errno.ENOEXEC:  # no first line that names an interpreter: as shells do
            os.execv("/bin/sh", ["sh", path, *words[1:]])
        hint = " (chmod +x makes it a program)" if isinstance(error, PermissionError) else ""
        raise CannotRun(f"cannot run {path}: {error.strerror}{hint}") from None
