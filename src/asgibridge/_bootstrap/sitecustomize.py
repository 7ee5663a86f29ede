# Runs as every child Python of ``asgibridge run`` starts, because this directory is first in their
# PYTHONPATH. It installs asgibridge, takes its directory off ``sys.path`` (not out of the
# environment, so that grandchildren are reached), and gives way to the user's own sitecustomize, if
# there is one. The child may be any Python: this file must be understood, and do no harm, in all of
# them, Python 2 included.

import os
import sys

_here = os.path.dirname(__file__)
_place = sys.path.index(_here) if _here in sys.path else 0
try:
    raise ImportError
except ImportError:
    _frame = sys.exc_info()[2].tb_frame  # type: ignore[union-attr]
_files = []
while _frame.f_back is not None:
    _frame = _frame.f_back
    _files.append(_frame.f_code.co_filename)
# An agent's sitecustomize came first (a launcher that is no Python put it there), and runs the one
# after it, this one, in a module of any name.
_is_called = any(os.path.basename(_file).startswith("sitecustomize.") for _file in _files)
try:
    if sys.version_info >= (3, 9):  # noqa: UP036
        sys.path.insert(0, _here)
        __import__("asgibridge_bootstrap")
        __import__("asgibridge._start.children", fromlist=["reach"]).reach()
except Exception as error:
    # The program goes on: it may have nothing to do with asgiref.
    if sys.stderr is not None:
        sys.stderr.write(
            "asgibridge: not installed as asgiref in child process %d (%s): %s: %s\n"  # noqa: UP031
            % (os.getpid(), sys.executable, type(error).__name__, error)
        )
finally:
    sys.path[:] = [_entry for _entry in sys.path if _entry != _here]

if not _is_called:
    # The user's sitecustomize takes this module's name, and its errors their usual way. If there is
    # none, ``site`` learns so from the ImportError it expects.
    sys.modules.pop("sitecustomize", None)
    __import__("sitecustomize")
elif sys.version_info >= (3, 9):  # noqa: UP036
    # The agent's module keeps its name; what comes after us is run beside it.
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    _spec = PathFinder.find_spec("sitecustomize", sys.path[_place:])
    if _spec is not None and _spec.loader is not None:
        _spec.loader.exec_module(module_from_spec(_spec))
