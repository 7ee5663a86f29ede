"""``import asgibridge.autoinstall``: `asgibridge.install` as one line.

It belongs before everything that imports asgiref: first in ``manage.py`` and ``asgi.py``, or
``pytest -p asgibridge.autoinstall``. Raises what `install` raises. (For pytest, which would warn
that it cannot rewrite a plugin imported before: PYTEST_DONT_REWRITE.)
"""

from __future__ import annotations

from ._start.install import install

install()
