"""What can be told of a site without a request: its views, its middlewares, and its chains.

For the checks and for ``manage.py bridge``. It loads the middlewares once more, as a server does
that starts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

from django.conf import settings
from django.urls import get_resolver
from django.utils import deprecation
from django.utils.deprecation import MiddlewareMixin
from django.utils.module_loading import import_string

from ..sync import iscoroutinefunction
from ._chain import Chain, is_stock
from .handlers import ASGIHandler

_HOOKS = (
    "process_request",
    "process_view",
    "process_template_response",
    "process_exception",
    "process_response",
)


@dataclasses.dataclass(frozen=True)
class View:
    """A view that a route leads to."""

    route: str
    callback: Any
    is_async: bool


def views() -> list[View]:
    """The views of the site's URLs. Imports its URLconf, and raises what that raises."""
    if not getattr(settings, "ROOT_URLCONF", None):
        return []
    return list(_views("", get_resolver()))


def _views(before: str, resolver: Any) -> Iterator[View]:
    for pattern in resolver.url_patterns:
        route = f"{before}{pattern.pattern}"
        if hasattr(pattern, "url_patterns"):
            yield from _views(route, pattern)
        else:
            yield View(f"/{route}", pattern.callback, bool(iscoroutinefunction(pattern.callback)))


@dataclasses.dataclass(frozen=True)
class Middleware:
    """A middleware as it is in a chain.

    ``mode`` is "hooks" if only those are called, each where it belongs; "sync" or "async" if the
    middleware is called itself.
    """

    path: str
    mode: str
    hooks: tuple[str, ...]
    sync_capable: bool
    async_capable: bool
    djangos: int
    """The hooks that Django brings to the worker one by one, if it calls it as an async one."""

    hops_before_view: int
    """``process_view``, if Django brings it to the worker."""


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A chain, with what is in it from the outside to the inside."""

    name: str
    chain: Chain
    middlewares: tuple[Middleware, ...]


class Survey:
    """The chains of a site. Raises what loading its middlewares raises."""

    def __init__(self) -> None:
        handler: Any = ASGIHandler()
        self.asynchronous = _loaded("async", handler, handler._chain)
        twin = handler._twin
        self.sync = None if twin is None else _loaded("sync", twin, twin._chain)
        self._taken = handler._chain_for

    def taken(self, is_view_async: bool) -> Loaded:
        """The chain that a request takes to a view of that kind."""
        is_twins = self.sync is not None and self._taken[is_view_async] is self.sync.chain
        return self.sync if is_twins and self.sync is not None else self.asynchronous

    def costs(self, path: str, is_view_async: bool, as_hooks: bool = False) -> int:
        """How many crossings fewer there were without the middleware.

        :param as_hooks: or if it were made of hooks.
        """
        chain = self.taken(is_view_async).chain
        without = chain.without(path, ("hooks",) if as_hooks else ())
        return chain.crossings(is_view_async) - without.crossings(is_view_async)

    def advice(self, kinds: Iterable[bool]) -> Iterator[str]:
        """The middlewares that have a request cross more often, a sentence each.

        :param kinds: whether there are sync views (False) and async ones (True).
        """
        costs: dict[str, list[str]] = {}
        for is_async in kinds:
            view = "with an async view" if is_async else "with a sync view"
            for each in self.taken(is_async).middlewares:
                saved = self.costs(each.path, is_async, as_hooks=True)
                found = costs.setdefault(f"{each.path} {_as_what(each)}", [])
                if saved:
                    found.append(f"costs {saved} crossing{'s' if saved > 1 else ''} {view}")
                if is_async and each.mode == "sync":
                    found.append("holds a worker while an async view awaits")
        for what, found in costs.items():
            if found:
                yield f"{what}: it {', '.join(found)}"

    def djangos(self, is_view_async: bool) -> int:
        """How often a request crosses with Django's own ASGIHandler.

        The start and the end, which are two signals, included. Without a template's rendering.
        """
        middlewares = self.asynchronous.middlewares
        modes: list[bool] = []
        is_async = True
        for each in reversed(middlewares):  # as Django chooses, from the inside to the outside
            is_async = each.async_capable and (is_async or not each.sync_capable)
            modes.insert(0, is_async)
        crossings, is_async = 2, True
        for middleware, mode in zip(middlewares, modes):
            crossings += (is_async != mode) + (middleware.djangos if mode else 0)
            is_async = mode
        crossings += not is_async  # the view is always called from the loop
        crossings += sum(each.hops_before_view for each in middlewares)
        return crossings + (not is_view_async)


def _as_what(middleware: Middleware) -> str:
    if middleware.mode == "sync":
        return "is called as a sync one" if middleware.async_capable else "is sync only"
    return "is called as an async one" if middleware.sync_capable else "is async only"


def _loaded(name: str, handler: Any, chain: Chain) -> Loaded:
    links = zip(handler.paths, chain.links())
    found = [_middleware(path, instance, is_async) for path, (instance, is_async) in links]
    return Loaded(name, chain, tuple(found))


def _middleware(path: str, instance: Any, is_async: bool | None) -> Middleware:
    factory = import_string(path)
    mode = "hooks" if is_async is None else "async" if is_async else "sync"
    hooks = tuple(name for name in _HOOKS if hasattr(instance, name))
    adapted = [name for name in hooks if not iscoroutinefunction(getattr(instance, name))]
    is_mixins = isinstance(instance, MiddlewareMixin) and is_stock(
        type(instance).__acall__, deprecation
    )
    return Middleware(
        path,
        mode,
        hooks,
        bool(getattr(factory, "sync_capable", True)),
        bool(getattr(factory, "async_capable", False)),
        len({"process_request", "process_response"}.intersection(hooks)) if is_mixins else 0,
        int("process_view" in adapted),
    )
