"""What queues, readers and the ends of channels have in common: their ends, batches, time-outs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from .._process.cpython import running_loop
from .._process.queue_errors import NOTHING, QueueShutDown, check_timeout, no_event_loop

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")


class Closing:
    """Closed by `close`, at the end of a ``with`` or ``async with``, or when it is dropped."""

    __slots__ = ()

    if TYPE_CHECKING:

        def close(self) -> None: ...

    def __del__(self) -> None:
        try:
            self.close()
        except AttributeError:
            pass  # its constructor has raised, or the interpreter is about to be gone

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self.close()


class Iterated(Generic[T]):
    """Gives its items in ``for`` and ``async for``."""

    __slots__ = ()

    if TYPE_CHECKING:

        async def get(self) -> T: ...
        def sync_get(self) -> T: ...

    def __iter__(self) -> Iterator[T]:
        """``for``: the items as they come, until it is shut down and all are got. Blocks."""
        while True:
            try:
                item = self.sync_get()
            except QueueShutDown:
                return
            yield item
            del item

    def __aiter__(self) -> AsyncIterator[T]:
        """``async for``: the items as they come, until it is shut down and all are got."""
        return self

    async def __anext__(self) -> T:
        try:
            return await self.get()
        except QueueShutDown:
            raise StopAsyncIteration from None


Wait = Callable[[Any], Awaitable[Any]]
"""Awaits a waiter, and returns what that does."""


async def in_time(waiter: Any, seconds: float, wait: Wait | None = None) -> Any:
    """What awaiting ``waiter`` returns, which is told when the time is over."""
    loop = running_loop()
    if loop is None:
        raise no_event_loop()
    timer = loop.call_later(seconds, waiter.expire)
    try:
        return await (waiter if wait is None else wait(waiter))
    finally:
        timer.cancel()


async def get_batch(
    source: Any, most: int | None, max_wait: float, wait: Wait | None = None
) -> list[Any]:
    """What comes to ``source``, a queue or a reader, within ``max_wait`` seconds."""
    check_timeout(max_wait)
    many = await in_time(source._getting_batch(most), max_wait, wait)
    return [] if many is NOTHING else cast("list[Any]", many)


def _wait(waiter: Any, timeout: float | None) -> Any:
    return waiter.wait(timeout)


def sync_get_some(
    source: Any,
    most: int | None,
    timeout: float | None,
    max_wait: float | None,
    wait: Callable[[Any, float | None], Any] = _wait,
) -> Any:
    """What ``source`` has, waiting for an item up to ``timeout`` seconds; NOTHING: out of time.

    With ``max_wait``, what comes within so many seconds, which may be an empty list.

    :param wait: waits on this thread for a waiter, as its method does.
    """
    if max_wait is not None:
        check_timeout(max_wait)
        many = wait(source._getting_batch(most), max_wait)
        return [] if many is NOTHING else many
    if timeout is not None:
        check_timeout(timeout)
    return source._fetch_many(most) or wait(source._getting_many(most), timeout)
