# Runs as every child Python of ``asgibridge run`` starts, because this directory is first in their
# PYTHONPATH. It installs asgibridge, takes its directory off ``sys.path`` (not out of the
# environment, so that grandchildren are reached), and gives way to the user's own sitecustomize, if
# there is one. The child may be any Python: this file must be understood, and do no harm, in all of
# them, Python 2 included.

import os
import sys

_here = os.path.dirname(__file__)
try:
    if sys.version_info >= (3, 9):  # noqa: UP036
        __import__("asgibridge_bootstrap")
except Exception as error:
    # The program goes on: it may have nothing to do with asgiref.
    if sys.stderr is not None:
        sys.stderr.write(
            "asgibridge: not installed as asgiref in child process %d (%s): %s: %s\n"  # noqa: UP031
            % (os.getpid(), sys.executable, type(error).__name__, error)
        )
finally:
    sys.path[:] = [_entry for _entry in sys.path if _entry != _here]

# The user's sitecustomize takes this module's name, and its errors their usual way. If there is
# none, ``site`` learns so from the ImportError it expects.
sys.modules.pop("sitecustomize", None)
__import__("sitecustomize")
