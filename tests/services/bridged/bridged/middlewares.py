"""Middlewares of each kind. They do nothing but call what is further in."""

from __future__ import annotations

from typing import Any

from asgiref.sync import iscoroutinefunction
from django.core.exceptions import MiddlewareNotUsed
from django.utils.decorators import async_only_middleware, sync_and_async_middleware
from django.utils.deprecation import MiddlewareMixin


def sync_only(get_response: Any) -> Any:
    def middleware(request: Any) -> Any:
        return get_response(request)

    return middleware


@async_only_middleware
def async_only(get_response: Any) -> Any:
    async def middleware(request: Any) -> Any:
        return await get_response(request)

    return middleware


@sync_and_async_middleware
def both(get_response: Any) -> Any:
    if iscoroutinefunction(get_response):

        async def middleware(request: Any) -> Any:
            return await get_response(request)

    else:

        def middleware(request: Any) -> Any:
            return get_response(request)

    return middleware


class Hooks(MiddlewareMixin):
    def process_request(self, request: Any) -> None:
        pass

    def process_view(self, request: Any, *_view: Any) -> None:
        pass

    def process_response(self, request: Any, response: Any) -> Any:
        return response


class Called(MiddlewareMixin):
    """With a ``__call__`` of its own."""

    def __call__(self, request: Any) -> Any:
        if iscoroutinefunction(self):
            return self.__acall__(request)
        return self.get_response(request)


def not_used(get_response: Any) -> Any:
    raise MiddlewareNotUsed
