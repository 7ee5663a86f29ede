"""Whether the view of a path is async, told before the request goes through its middlewares.

That is a hint only: a middleware may set ``request.urlconf``, or answer by itself. A site whose
URLs lead to sync views alone is told at once. Else the path is resolved once more, and what it led
to is kept for the next request with the same path.
"""

from __future__ import annotations

import functools
from typing import Any

from django.urls import get_resolver

from ..sync import iscoroutinefunction

_MOST = 1024
"""Paths of which the answer is kept. Arbitrary."""


def is_async(path_info: str) -> bool:
    """Whether the path's view is async. False where that cannot be told. On any thread."""
    try:
        resolver = get_resolver()
        return _has_async(resolver) and _is_async(resolver, path_info)
    except Exception:  # no such path, or converters that make queries: the chain meets it again
        return False


@functools.lru_cache(_MOST)
def _is_async(resolver: Any, path_info: str) -> bool:
    return bool(iscoroutinefunction(resolver.resolve(path_info).func))


@functools.lru_cache(8)  # arbitrary: a site has one, its tests some
def _has_async(resolver: Any) -> bool:
    return any(
        _has_async(pattern) if hasattr(pattern, "url_patterns") else _leads_to_async(pattern)
        for pattern in resolver.url_patterns
    )


def _leads_to_async(pattern: Any) -> bool:
    return bool(iscoroutinefunction(pattern.callback))
