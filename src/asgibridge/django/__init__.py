"""Django under ASGI with one crossing a request.

In ``asgi.py``, in place of Django's function of the same name::

    from asgibridge.django import get_asgi_application

    application = get_asgi_application()

or ``asgibridge run --django …`` with no line changed. Importing this package puts asgibridge in
asgiref's place, if nothing has imported asgiref yet. Django is imported when something here is
used.

Django 4.2 and later.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from .._start.install import install

if TYPE_CHECKING:
    from .handlers import ASGIHandler
    from .queries import cancel_queries
    from .transactions import atomic

__all__ = ["ASGIHandler", "atomic", "cancel_queries", "get_asgi_application"]

_HOMES = {"ASGIHandler": "handlers", "atomic": "transactions", "cancel_queries": "queries"}

if "asgiref" not in sys.modules:
    install()


def __dir__() -> list[str]:
    return __all__


def get_asgi_application() -> ASGIHandler:
    """The site as an ASGI application, as Django's function of the same name returns it.

    Sets Django up, and the workers as the setting ``ASGIBRIDGE`` says. RuntimeError if the original
    asgiref has been imported: asgibridge cannot take its place then; or if Django is too old.
    ImproperlyConfigured if the setting is wrong.
    """
    install()
    import django

    if django.VERSION < (4, 2):
        raise RuntimeError(
            f"asgibridge.django needs Django 4.2 or newer, and this is {django.get_version()}: "
            "upgrade Django, or take get_asgi_application from django.core.asgi (and leave out "
            "'asgibridge run --django' and ASGIBRIDGE_DJANGO)"
        )

    from . import configuration

    django.setup(set_prefix=False)
    configuration.apply()
    from .handlers import ASGIHandler

    return ASGIHandler()


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
