"""ASGI 2 applications (``app(scope)(receive, send)``) made callable as ASGI 3 ones.

The types are loose: each framework has its own scope and message types.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import Any

from .sync import iscoroutinefunction

__all__ = ["double_to_single_callable", "guarantee_single_callable", "is_double_callable"]


def __dir__() -> list[str]:
    return __all__


def is_double_callable(application: Callable[..., Any]) -> bool:
    """Whether ``application`` is of the ASGI 2 form, called once with the scope and then again.

    An attribute ``_asgi_single_callable`` or ``_asgi_double_callable`` that is true settles it.
    Else a class is (its instance is what takes ``receive`` and ``send``), and so is anything that
    is neither a coroutine function nor an object whose ``__call__`` is one.
    """
    if getattr(application, "_asgi_single_callable", False):
        return False
    if getattr(application, "_asgi_double_callable", False):
        return True
    if inspect.isclass(application):
        return True
    # A function has a __call__ too, a plain slot wrapper, so both have to be asked.
    return not (
        iscoroutinefunction(getattr(application, "__call__", None))  # noqa: B004
        or iscoroutinefunction(application)
    )


def double_to_single_callable(
    application: Callable[..., Any],
) -> Callable[..., Coroutine[Any, Any, Any]]:
    """The ASGI 3 form of an ASGI 2 application: a coroutine function that makes both calls."""

    async def new_application(scope: Any, receive: Any, send: Any) -> Any:
        return await application(scope)(receive, send)

    return new_application


def guarantee_single_callable(
    application: Callable[..., Any],
) -> Callable[..., Coroutine[Any, Any, Any]]:
    """``application`` in its ASGI 3 form: as it is if it has that form, else wrapped."""
    if is_double_callable(application):
        return double_to_single_callable(application)
    return application
