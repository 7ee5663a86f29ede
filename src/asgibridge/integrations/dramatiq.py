"""dramatiq: one event loop for each worker process, from its start to its end.

Where the broker is made::

    from asgibridge.integrations import dramatiq as bridge

    broker = RedisBroker(url=...)
    bridge.install(broker)
    dramatiq.set_broker(broker)

It is for actors that are sync functions, and call async code by `async_to_sync`. The loop of
``async def`` actors is that of dramatiq's own middleware, ``AsyncIO``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import _hooks

__all__ = ["SharedLoop", "install"]

if TYPE_CHECKING:
    SharedLoop: type[Any]
    """The middleware, for ``RedisBroker(middleware=[SharedLoop(), ...])``: the first one."""


def __dir__() -> list[str]:
    return __all__


def install(broker: Any) -> None:
    """Make `SharedLoop` the first middleware of ``broker``, a ``dramatiq.Broker``, unless it has
    one.

    The first is told first that a worker begins, and last that it has ended: other middlewares may
    use the loop in their hooks. ModuleNotFoundError if dramatiq is not installed.
    """
    middleware = _middleware()
    if not any(isinstance(each, middleware) for each in broker.middleware):
        first = type(broker.middleware[0]) if broker.middleware else None
        broker.add_middleware(middleware(), before=first)


def _middleware() -> type[Any]:
    if "SharedLoop" not in globals():
        dramatiq: Any = _hooks.load("dramatiq", __name__, "dramatiq")

        class SharedLoop(dramatiq.Middleware):
            """Switches the shared loop on in each worker process, and closes it at its end."""

            __module__ = __name__

            def before_worker_boot(self, broker: Any, worker: Any) -> None:
                _hooks.begin()

            def after_worker_shutdown(self, broker: Any, worker: Any) -> None:
                _hooks.end()

        SharedLoop.__qualname__ = "SharedLoop"
        globals()["SharedLoop"] = SharedLoop
    made: type[Any] = globals()["SharedLoop"]
    return made


def __getattr__(name: str) -> Any:
    if name == "SharedLoop":
        return _middleware()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
