"""The threads that run thread-sensitive code: whether they are kept, how many, and their hooks.

A *worker* is a thread of ours. It is *leased* to one `ThreadSensitiveContext` (a web framework's
request) from the context's first call to its exit, or to one top-level `async_to_sync` call, whose
event loop it runs. A `Policy` says what a worker keeps afterwards; docs/workers.md helps to choose.
A context that idles, such as a stream, may give its worker back; docs/streams.md says when.

``fresh`` (the default)
    A lease's worker looks like a new thread, as with asgiref, to all that keeps values by thread.
``keep``
    It keeps its `threading.local` values and thread-critical Locals from lease to lease, as the
    threads of a WSGI server do, so that a persistent database connection persists. Context
    variables and context-aware Locals do not cross: they belong to the request.
``new``
    It is a new thread, which ends with the lease, as with asgiref. For code that leaves on a thread
    what nobody can see or undo, such as a sandbox: docs/workers.md says what that is.

No limit and no hook applies to the process's single thread, on which thread-sensitive code outside
of contexts runs, nor to executors of a user's own. `middleware` and `context` put code that no web
framework puts there into a context: websockets, and the bodies of tasks and activities.

The environment sets the policy a process begins with: ``ASGIBRIDGE_WORKERS`` (the kind),
``ASGIBRIDGE_WORKERS_LIMIT``, ``ASGIBRIDGE_WORKERS_LIMIT_TOTAL``,
``ASGIBRIDGE_WORKERS_WAIT_TIMEOUT``, ``ASGIBRIDGE_WORKERS_IDLE_TIMEOUT`` and
``ASGIBRIDGE_WORKERS_RELEASE_IDLE`` (a number of seconds, or ``off``); a bad value is a ValueError.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from ._bridge.contexts import ContextOfSteps, ThreadSensitiveContext
from ._bridge.warned import warn
from ._workers.bindings import bind
from ._workers.policy import (
    Policy,
    checked_for_context,
    end_idle_workers,
    get_policy,
    policy_of,  # noqa: F401 - for who reads an environment of its own
    retire_thread,
    set_policy,
)
from ._workers.pool import LimitReached
from ._workers.stats import CONTENT_TYPE, Histogram, Stats, collect_timings, prometheus, stats
from .compatibility import guarantee_single_callable
from .sync import iscoroutinefunction

if TYPE_CHECKING:
    from typing import Literal, NoReturn, Union

    Kind = Literal["fresh", "keep", "new"]
    ContextPolicy = Union[Kind, Policy, Callable[..., Union[Kind, Policy, None]], None]

__all__ = [
    "CONTENT_TYPE",
    "Histogram",
    "LimitReached",
    "Policy",
    "Stats",
    "bind",
    "collect_timings",
    "context",
    "end_idle_workers",
    "get_policy",
    "middleware",
    "prometheus",
    "retire_thread",
    "set_policy",
    "stats",
]


def __dir__() -> list[str]:
    return __all__


_F = TypeVar("_F", bound=Callable[..., Any])

_SCOPES = ("http", "websocket", "lifespan", "channel")
"""The scope types of ASGI, and that of Channels' workers."""


# --- a context for each socket -------------------------------------------------------------------


def middleware(
    app: Callable[..., Any],
    scopes: Iterable[str] = ("websocket",),
    policy: ContextPolicy = None,
) -> _Middleware:
    """An ASGI application that calls ``app`` in a ThreadSensitiveContext of its own for each
    connection: then the sync code of websockets runs side by side, each on a worker of its own.

    For any server and framework, around the whole application or around the part for websockets.
    Without it all websockets of a process share its single thread. Inside another context (Django
    has one for each HTTP request) it changes nothing. The application gets what it would get
    otherwise, on the same event loop.

    :param app: an ASGI 3 application, or one of ASGI 2.
    :param scopes: the types of the scopes that get a context: strings such as ``"websocket"``,
        ``"http"``. The others are passed on. A type that ASGI does not know is a UserWarning.
    :param policy: of the contexts' workers, as ThreadSensitiveContext takes it; or a function of
        the scope that returns one, called on the event loop for each connection:
        ``lambda scope: Policy(kind="keep", sticky=scope["user"].pk)``.

    TypeError and ValueError say what is wrong with an argument.
    """
    if not callable(app):
        raise TypeError(
            f"middleware takes an ASGI application, not {app!r}: an object to call with scope, "
            "receive and send, such as ProtocolTypeRouter(...) or what get_asgi_application() "
            "returns"
        )
    if isinstance(scopes, str):
        raise TypeError(f"scopes must be a tuple of scope types: ({scopes!r},), not {scopes!r}")
    types = tuple(scopes)
    if not types:
        raise ValueError("scopes is empty: name a scope type, such as 'websocket'")
    for each in types:
        if not isinstance(each, str):
            raise TypeError(f"scopes must have scope types, such as 'websocket', not {each!r}")
        if each not in _SCOPES:
            warn(
                f"{each!r} in scopes is no scope type of ASGI or Channels (those are "
                f"{', '.join(_SCOPES)}): only scopes of exactly this type get a context",
                UserWarning,
            )
    return _Middleware(app, types, _checked(policy))


class _Middleware:
    """What `middleware` returns."""

    __wrapped__: Any
    _asgi_single_callable = True  # also where the application says otherwise of itself

    def __init__(self, app: Any, scopes: tuple[str, ...], policy: Any) -> None:
        functools.update_wrapper(self, app, updated=())
        self._app = guarantee_single_callable(app)
        self._scopes = scopes
        self._policy = policy

    async def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        __traceback_hide__ = True
        if scope["type"] not in self._scopes:
            return await self._app(scope, receive, send)
        async with ThreadSensitiveContext(policy=_policy_for(self._policy, scope)):
            return await self._app(scope, receive, send)

    def __getattr__(self, name: str) -> Any:
        # Frameworks ask the application about itself: Channels' routers look at an inner router's
        # ``_path_routing``, and programs at ``app.state``.
        if name.startswith("__") or name == "_app":
            raise AttributeError(name)
        return getattr(self.__wrapped__, name)

    def __repr__(self) -> str:
        return f"<middleware({self.__wrapped__!r}, scopes={self._scopes!r})>"


def _checked(policy: Any) -> Any:
    if policy is None:
        return None
    if callable(policy) and not isinstance(policy, type):
        if iscoroutinefunction(policy) or inspect.isasyncgenfunction(policy):
            raise TypeError(
                f"policy is the async function {_name(policy)}: to decorate it, write "
                "@workers.context() with the parentheses; a function that chooses the policy has "
                "to be a sync one"
            )
        return policy
    return checked_for_context(policy)


def _policy_for(policy: Any, *args: Any, **kwargs: Any) -> Any:
    return policy(*args, **kwargs) if callable(policy) else policy


def _name(function: Any) -> str:
    name = getattr(function, "__qualname__", None)
    return name if isinstance(name, str) else repr(function)


# --- a context for each task or activity ---------------------------------------------------------


class context:
    """A ThreadSensitiveContext for async code that no web framework runs: the bodies of tasks,
    activities and jobs, on whatever event loop. Its sync code gets a worker of its own.

    As a decorator, with or without a policy, for each call; or as a block. ::

        @workers.context()
        async def activity(order): ...

        async with workers.context("keep"): ...

    What is decorated stays what it is: an async function (also one with a mark, or an object with
    an async ``__call__``), or an async generator function, of which each iteration has one context
    for all its steps. Inside another context it changes nothing. A sync function is a TypeError:
    what it calls by `async_to_sync` comes back to its own thread anyway.

    :param policy: as ThreadSensitiveContext takes it; or, to decorate, a function of the call's
        arguments that returns one, called on the event loop:
        ``lambda order: Policy(sticky=order.customer)``.
    """

    def __init__(self, policy: ContextPolicy = None) -> None:
        self._policy = _checked(policy)
        self._inside: ThreadSensitiveContext | None = None

    async def __aenter__(self) -> None:
        if self._inside is not None:
            raise RuntimeError("workers.context() is entered already: call it anew for each block")
        if callable(self._policy):
            raise TypeError(
                "policy is a function of a call's arguments, which a block has not: give "
                "workers.context the policy itself"
            )
        inside = ThreadSensitiveContext(policy=self._policy)
        self._inside = inside
        await inside.__aenter__()

    async def __aexit__(self, *exc: object) -> None:
        inside, self._inside = self._inside, None
        if inside is not None:
            await inside.__aexit__(*exc)

    def __enter__(self) -> NoReturn:
        raise TypeError(
            "workers.context() is for async code: write 'async with'. Sync code needs none, its "
            "thread-sensitive calls come back to its own thread."
        )

    def __exit__(self, *exc: object) -> None:
        """Never called: `__enter__` raises."""

    def __call__(self, function: _F) -> _F:
        """Decorate ``function``."""
        wrapped: Any = function
        if isinstance(wrapped, (staticmethod, classmethod)):
            return type(wrapped)(self(wrapped.__func__))  # type: ignore[return-value]
        if isinstance(wrapped, type):
            raise TypeError(
                "workers.context() takes async functions, not the class "
                f"{_name(wrapped)}: decorate its methods"
            )
        call = getattr(wrapped, "__call__", None)  # noqa: B004 - an object's method
        if inspect.isasyncgenfunction(wrapped) or inspect.isasyncgenfunction(call):
            return _with_steps(wrapped, self._policy)  # type: ignore[return-value]
        if not (callable(wrapped) and (iscoroutinefunction(wrapped) or iscoroutinefunction(call))):
            raise TypeError(
                f"workers.context() takes async functions, and {_name(wrapped)} is none. A sync "
                "function needs no context: what it calls by async_to_sync comes back to the "
                "thread that runs it. Leave it as it is, or decorate the async function that it "
                "calls; one that only returns an awaitable can be marked by "
                "asgibridge.sync.markcoroutinefunction."
            )
        policy = self._policy

        @functools.wraps(wrapped)
        async def in_context(*args: Any, **kwargs: Any) -> Any:
            __traceback_hide__ = True
            async with ThreadSensitiveContext(policy=_policy_for(policy, *args, **kwargs)):
                return await wrapped(*args, **kwargs)

        if not hasattr(wrapped, "__name__"):  # an object: frameworks take the name of its class
            in_context.__name__ = type(wrapped).__name__
        return in_context  # type: ignore[return-value]


def _with_steps(function: Any, policy: Any) -> Callable[..., AsyncIterator[Any]]:
    @functools.wraps(function)
    async def in_context(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        __traceback_hide__ = True
        steps = ContextOfSteps(policy=_policy_for(policy, *args, **kwargs))
        generator = function(*args, **kwargs)
        step = functools.partial(generator.asend, None)
        try:
            while True:
                with steps:
                    try:
                        value = await step()
                    except StopAsyncIteration:
                        return
                try:
                    sent = yield value
                except GeneratorExit:
                    with steps:
                        await generator.aclose()
                    raise
                except BaseException as error:
                    step = functools.partial(generator.athrow, error)
                else:
                    step = functools.partial(generator.asend, sent)
        finally:
            del step  # the traceback of an error in it refers to this frame
            await steps.leave()

    return in_context
