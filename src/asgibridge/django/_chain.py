"""A chain of middlewares as a generator, which pauses where it needs the event loop.

Django adapts the hooks of each middleware to the event loop one by one, and each is a crossing.
Here the chain is a generator (`Chain.steps`) that runs on the request's worker. What is sync it
calls in place: hooks, a sync view, rendering. Where something async comes, it yields a function
without arguments. The loop calls that and awaits the result, and the generator goes on, on the
worker. So what is sync between two awaits is one crossing, and nothing holds the worker while the
loop awaits.

    worker:  process_request, process_view  | pause        |  process_response
    loop:                                   | await view() |

Django builds the chain (`BaseHandler.load_middleware`) from the inside to the outside, and asks
`ChainBuilder.adapt_method_mode` for the ``get_response`` of each middleware: that is a `Chain`.

- A MiddlewareMixin whose ``__call__`` is Django's becomes the first of the next chain's **hooks**;
  its ``get_response`` is not called.
- Any other middleware is the **end** of the next chain (`_Called`). It is called with the request,
  and calls its ``get_response``. A sync one holds its worker meanwhile, and what is async further
  in is a call back to the loop (`Chain.run_here`), as under Django.
- The end of the innermost chain is the view, with what Django does around it (`_View`).

Errors become responses where Django's `convert_exception_to_response` would make them, but on the
worker.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Awaitable, Callable, Generator, Iterator
from typing import Any, NamedTuple

from django.core.handlers import base, exception
from django.http.response import HttpResponseBase
from django.utils import deprecation
from django.utils.deprecation import MiddlewareMixin
from django.utils.module_loading import import_string

from ..sync import SyncToAsync, async_to_sync, iscoroutinefunction, sync_to_async

Call = Callable[[], Awaitable[Any]]
"""What the loop is to call and await."""

Steps = Generator[Call, Any, Any]
"""Runs on the worker, yields to the loop, and returns the response."""


class _View:
    """The view that the request's path leads to, with the hooks around it. See `_get_response`."""

    is_async = False

    def __init__(self, handler: Any, hooks_are_async: bool) -> None:
        self._handler = handler
        self._hooks_are_async = hooks_are_async

    def steps(self, request: Any) -> Steps:
        try:
            return (yield from self._respond(request))
        except Exception as error:
            return exception.response_for_exception(request, error)

    def _respond(self, request: Any) -> Steps:
        handler = self._handler
        response = None
        callback, args, kwargs = handler.resolve_request(request)
        for hook in handler._view_middleware:
            response = yield from self._call_hook(hook, request, callback, args, kwargs)
            if response:
                break
        if response is None:
            view = handler.make_view_atomic(callback)
            try:
                response = yield from _call(view, request, *args, **kwargs)
            except Exception as error:
                response = handler.process_exception_by_middleware(error, request)
                if response is None:
                    raise
        handler.check_response(response, callback)
        if callable(getattr(response, "render", None)):
            for hook in handler._template_response_middleware:
                response = yield from self._call_hook(hook, request, response)
                name = f"{type(hook.__self__).__name__}.process_template_response"
                handler.check_response(response, hook, name=name)
            if not hasattr(response, "render"):
                yield _nothing  # to be on the worker for the error
            try:
                response = yield from _call(response.render)
            except Exception as error:
                response = handler.process_exception_by_middleware(error, request)
                if response is None:
                    raise
        return response

    def _call_hook(self, hook: Any, *args: Any) -> Steps:
        # In an async chain all hooks are async, as Django's own code expects. One that has been
        # adapted for that is called as it was.
        raw = self._handler._raw_hooks.get(hook) if isinstance(hook, SyncToAsync) else None
        if raw is None and self._hooks_are_async:
            return (yield functools.partial(hook, *args))
        return (hook if raw is None else raw)(*args)


class _Called:
    """A middleware that is called with the request, and calls what is further in by itself."""

    def __init__(self, path: str, handler: Any, is_async: bool, inner: Chain | None) -> None:
        self.path = path
        self.handler = handler
        self.is_async = is_async
        self.inner = inner

    def steps(self, request: Any) -> Steps:
        if self.is_async:
            return (yield functools.partial(self.handler, request))
        return self.handler(request)


def _call(function: Any, *args: Any, **kwargs: Any) -> Steps:
    if iscoroutinefunction(function):
        return (yield functools.partial(function, *args, **kwargs))
    return function(*args, **kwargs)


class Chain(NamedTuple):
    """What a ``get_response`` does. See the module's header."""

    hooks: tuple[Any, ...]
    end: _View | _Called

    def steps(self, request: Any) -> Steps:
        """Go from the first hook to the end, and back."""
        return self._steps_from(0, request)

    def _steps_from(self, depth: int, request: Any) -> Steps:
        if depth == len(self.hooks):
            return (yield from self.end.steps(request))
        middleware = self.hooks[depth]
        try:
            response = None
            if hasattr(middleware, "process_request"):
                response = middleware.process_request(request)
            response = response or (yield from self._steps_from(depth + 1, request))
            if hasattr(middleware, "process_response"):
                response = middleware.process_response(request, response)
        except Exception as error:
            response = exception.response_for_exception(request, error)
        return response

    async def run(self, request: Any) -> Any:
        """The response. On the loop."""
        if not self.hooks and isinstance(self.end, _Called) and self.end.is_async:
            return await self.end.handler(request)
        return await drive(self.steps(request), ends_here=not self.hooks)

    def run_here(self, request: Any) -> Any:
        """The response. On a worker, which is held while the loop awaits."""
        steps = self.steps(request)
        value = error = None
        while True:
            is_over, value = advance(steps, value, error)
            if is_over:
                return value
            try:
                value, error = _on_loop(value), None
            except Exception as raised:
                value, error = None, raised

    def entry(self, is_async: bool, handler: Any) -> Any:
        """What a middleware gets as its ``get_response``, in place of ``handler``."""

        async def get_response_async(request: Any) -> Any:
            return await self.run(request)

        def get_response(request: Any) -> Any:
            return self.run_here(request)

        entry = get_response_async if is_async else get_response
        # Not its attributes: a middleware's own mark it as async.
        return functools.update_wrapper(entry, handler, updated=())

    def crossings(self, is_view_async: bool) -> int:
        """How often a whole request goes to the worker, or calls the loop from there.

        Without what comes apart (`handlers`), and without a template's rendering.
        """
        return 1 + self._crossings(is_view_async, on_worker=True)

    def _crossings(self, is_view_async: bool, on_worker: bool) -> int:
        end = self.end
        if isinstance(end, _View):
            is_async, inner = is_view_async, 0
        else:
            is_async = end.is_async
            inner = end.inner._crossings(is_view_async, not is_async) if end.inner else 0
        if on_worker:
            return inner + is_async  # a call back, or it goes to the worker once more
        if not is_async:
            return inner + 1
        if self.hooks:
            return inner + 2
        return inner + isinstance(end, _View)  # its hooks: see `drive`'s ``ends_here``

    def links(self) -> Iterator[tuple[Any, bool | None]]:
        """Each middleware from the outside to the inside, and whether it is called as an async one:
        None if its hooks are called."""
        yield from ((middleware, None) for middleware in self.hooks)
        if isinstance(self.end, _Called):
            yield self.end.handler.__wrapped__, self.end.is_async
            if self.end.inner is not None:
                yield from self.end.inner.links()

    def without(self, path: str, instead: tuple[Any, ...] = ()) -> Chain:
        """This chain without the middleware ``path``, to count its crossings.

        :param instead: hooks in its place. They are not called: anything will do.
        """
        end = self.end
        if isinstance(end, _View) or end.inner is None:
            return self
        inner = end.inner.without(path, instead)
        if end.path == path:
            return Chain((*self.hooks, *instead, *inner.hooks), inner.end)
        return Chain(self.hooks, _Called(end.path, end.handler, end.is_async, inner))

    def can_be_sync(self) -> bool:
        """Whether a middleware is async in it that could be sync, and none that is another then."""
        could = [each for each in self._middlewares() if getattr(each, "sync_capable", True)]
        return bool(could) and not any(map(_differs_when_sync, could))

    def _middlewares(self) -> Iterator[Any]:
        # Those that are async, as the setting names them.
        end = self.end
        if isinstance(end, _Called):
            if end.is_async and end.path:
                yield import_string(end.path)
            if end.inner is not None:
                yield from end.inner._middlewares()

    def holds_worker(self) -> bool:
        """Whether a worker is held while an async view awaits."""
        end = self.end
        if isinstance(end, _View):
            return False
        return not end.is_async or (end.inner is not None and end.inner.holds_worker())


def _differs_when_sync(middleware: Any) -> bool:
    if not isinstance(middleware, type):
        return False
    if _is_remote_users(middleware):  # since Django 5.2 no MiddlewareMixin
        return True
    return issubclass(middleware, MiddlewareMixin) and (
        _has_async_hooks(middleware) or _has_only_acall(middleware)
    )


def _is_remote_users(cls: type) -> bool:
    # Django's for REMOTE_USER, since 5.2: it reads the header HTTP_REMOTE_USER if it is async, and
    # if it is sync what a WSGI server sets, which is never there under ASGI.
    module: Any = sys.modules.get("django.contrib.auth.middleware")  # no import without the app
    return (
        module is not None
        and hasattr(cls, "aprocess_request")
        and issubclass(cls, module.RemoteUserMiddleware)
    )


def _has_only_acall(cls: Any) -> bool:
    # Django's ``__call__`` knows nothing of another's ``__acall__``.
    return is_stock(cls.__call__, deprecation) and not is_stock(cls.__acall__, deprecation)


def _has_async_hooks(middleware: Any) -> bool:
    names = ("process_request", "process_response")
    return any(iscoroutinefunction(getattr(middleware, name, None)) for name in names)


def advance(steps: Steps, value: Any, error: BaseException | None) -> tuple[bool, Any]:
    """Go on with ``value``, or ``error``, to the next pause. On the worker.

    Returns whether it is over, and what it returned or what the loop is to call.
    """
    try:
        return False, steps.send(value) if error is None else steps.throw(error)
    except StopIteration as over:
        return True, over.value


_on_worker = sync_to_async(advance, thread_sensitive=True)


async def _await(call: Call) -> Any:
    return await call()


async def _nothing() -> None:
    """Brings the generator to the worker, if it was on the loop."""


_on_loop = async_to_sync(_await)


async def drive(steps: Steps, ends_here: bool = False) -> Any:
    """Run ``steps`` on the worker, and what they yield here, on the loop.

    :param ends_here: whether nothing but rendering and errors is left for the worker after a view.
    """
    value = error = None
    while True:
        if ends_here and isinstance(value, HttpResponseBase) and not hasattr(value, "render"):
            is_over, value = advance(steps, value, error)
        else:
            is_over, value = await _on_worker(steps, value, error)
        if is_over:
            return value
        try:
            value, error = await value(), None
        except Exception as raised:
            value, error = None, raised
        except BaseException:
            steps.close()
            raise


def is_stock(function: Any, module: types.ModuleType) -> bool:
    """Whether it is a function that ``module`` defines: agents put theirs in place of Django's."""
    return isinstance(function, types.FunctionType) and function.__globals__ is module.__dict__


class ChainBuilder(base.BaseHandler):
    """A handler of Django's whose middlewares are chains."""

    _chain: Chain | None = None

    def load_middleware(self, is_async: bool = False) -> None:
        """Build the chains of this handler."""
        self._raw_hooks: dict[Any, Any] = {}
        self._chain = None
        self._handler: Any = None  # which has the next chain around it
        self._path = self._next_path = ""
        self._entry: Any = None
        self.paths: list[str] = []
        """The middlewares that are used, from the outside to the inside."""
        super().load_middleware(is_async)

    def adapt_method_mode(
        self,
        is_async: bool,
        method: Any,
        method_is_async: bool | None = None,
        debug: bool = False,
        name: str | None = None,
    ) -> Any:
        """Django's, for hooks; for what is to be a middleware's ``get_response``: its chain."""
        adapted = super().adapt_method_mode(is_async, method, method_is_async, debug, name)
        if method_is_async is None:
            if adapted is not method:
                self._raw_hooks[adapted] = method
            return adapted
        if method is not self._handler:  # else the middleware that was to be around is not used
            self._handler, self._path = method, self._next_path
            if self._path:
                self.paths.insert(0, self._path)
            self._chain = self._chain_of(method, method_is_async)
        self._next_path = (name or "").split(" ")[-1]
        assert self._chain is not None
        self._entry = self._chain.entry(is_async, method)
        return self._entry

    def _chain_of(self, handler: Any, is_async: bool) -> Chain:
        inner = self._chain
        # By Django's `convert_exception_to_response`.
        made_of = handler.__wrapped__ if is_stock(handler, exception) else None
        if inner is None:
            function = getattr(made_of, "__func__", None)
            djangos = (base.BaseHandler._get_response, base.BaseHandler._get_response_async)
            if function in djangos and is_stock(function, base):
                return Chain((), _View(self, is_async))
        elif _is_made_of_hooks(made_of, self._entry):
            return Chain((made_of, *inner.hooks), inner.end)
        return Chain((), _Called(self._path, handler, is_async, inner))


def _is_made_of_hooks(middleware: Any, get_response: Any) -> bool:
    cls = type(middleware)
    return (
        isinstance(middleware, MiddlewareMixin)
        and middleware.get_response is get_response
        and is_stock(cls.__call__, deprecation)
        and is_stock(cls.__acall__, deprecation)
        and not _has_async_hooks(middleware)
    )
