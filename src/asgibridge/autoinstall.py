"""``import asgibridge.autoinstall``: `asgibridge.install` as one import.

For ``pytest -p asgibridge.autoinstall``, and where only a module can be named. In a file, write
``import asgibridge`` and ``asgibridge.install()``: tools that tidy up imports delete this one, as
unused, or move it below Django's. Raises what `install` raises. (For pytest, which would warn
that it cannot rewrite a plugin imported before: PYTEST_DONT_REWRITE.)
"""

from __future__ import annotations

from ._start.install import install

install()
