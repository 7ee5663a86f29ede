"""`Broadcast`, `Latest` and `Reader`: what tasks call, types, and the ends of a ``with``.

The states, who waits for whom, and what happens on cancellation, errors, forks and at the exit is
in `asgibridge._pure.broadcast`. A `Reader` that is dropped unclosed is closed by its ``__del__``.
"""

from __future__ import annotations

import operator
import sys
from typing import TYPE_CHECKING, Generic, NoReturn, TypeVar, cast

from .._kernel import kernel
from .._process.queue_errors import NOTHING, QueueEmpty
from .common import Closing, Iterated, get_batch, sync_get_some

T = TypeVar("T")


class Broadcast(kernel.BroadcastCore, Generic[T]):
    """One producer or many, and many readers: each gets all that is put after it came.

    :param maxsize: how many items a reader may be behind; 0 or less is no limit, and memory grows
        with the slowest reader.
    :param lag: what a put does when a reader is so far behind: ``"block"`` waits for it,
        ``"drop_oldest"`` has it lose its oldest items (`Reader.missed` says how many), and
        ``"disconnect"`` ends it with ReaderLagged.
    :param replay: how many of the last items are kept for readers that come later.

    An item is stored once, whatever the number of readers, until the last of them has got it. With
    no reader and no ``replay`` it is dropped at once. Belongs to no event loop and no thread. The
    kernel's methods are its own: `put_nowait`, `sync_put` and `shutdown`.
    """

    __slots__ = ("__weakref__", "_replays")

    def __init__(self, maxsize: float = 0, lag: str = "block", replay: int = 0) -> None:
        self._replays = _number(replay)
        super().__init__(maxsize, lag, self._replays)

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} cannot be copied or pickled: subscribe to it")

    def __repr__(self) -> str:
        state = " shut down" if self.is_shutdown else ""
        return (
            f"<{type(self).__name__} at {id(self):#x} maxsize={self.maxsize} "
            f"readers={self.readers}{state}>"
        )

    def subscribe(self, replay: int | None = None) -> Reader[T]:
        """A reader of what is put from now on, and of up to ``replay`` items from before.

        :param replay: at most what the broadcast keeps; None for all of that.

        From any thread. Use it in ``with`` or ``async with``, or `close` it: as long as it is open,
        its items are kept for it.
        """
        return Reader(self, self._replays if replay is None else replay)

    async def put(self, item: T) -> None:
        """Put ``item`` for all readers, waiting for room as ``lag`` says. On any event loop.

        Raises QueueShutDown after `shutdown`, also if that comes meanwhile.
        """
        if not self._offer(item):
            await self._putting(item)

    if TYPE_CHECKING:  # the kernel's methods, with the item's type

        def put_nowait(self, item: T) -> None: ...
        def sync_put(
            self,
            item: T,
            block: bool = True,
            timeout: float | None = None,
            *,
            blocking: bool | None = None,
        ) -> None: ...

    def close(self) -> None:
        """``shutdown(immediate=True)``."""
        self.shutdown(immediate=True)


class Reader(kernel.ReaderCore, Closing, Iterated[T]):
    """A reader of a `Broadcast`, from `Broadcast.subscribe`: each gets all items, at its own pace.

    For threads and tasks. The kernel's methods are its own: `get`, `get_nowait`, `sync_get`,
    `qsize`, `missed`, `closed` and `close`. Each get raises QueueShutDown when the broadcast is
    shut down and all is got, or the reader closed; ReaderLagged if that has gone on without it.
    """

    __slots__ = ("__weakref__",)

    def __init__(self, broadcast: Broadcast[T], replay: int = 0) -> None:
        super().__init__(broadcast, _number(replay))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Reader cannot be copied or pickled: subscribe once more")

    async def get_many(
        self, max_items: int | None = None, *, max_wait: float | None = None
    ) -> list[T]:
        """Wait for an item as `get` does, and take all that are there, ``max_items`` at most.

        With ``max_wait``, take as many as come within so many seconds, which may be none; sooner if
        ``max_items`` are there, or others would wait for this reader or drop items.
        """
        if max_wait is not None:
            return cast("list[T]", await get_batch(self, max_items, max_wait))
        return self._fetch_many(max_items) or cast("list[T]", await self._getting_many(max_items))

    def get_many_nowait(self, n: int | None = None) -> list[T]:
        """Take all items, ``n`` at most, as a list; QueueEmpty if there is none."""
        many = self._fetch_many(n)
        if not many:
            raise QueueEmpty
        return many

    def sync_get_many(
        self,
        max_items: int | None = None,
        block: bool = True,
        timeout: float | None = None,
        *,
        max_wait: float | None = None,
    ) -> list[T]:
        """Wait for an item as in `sync_get`, and take all that are there, ``max_items`` at most.

        With ``max_wait``, take as many as come within so many seconds, which may be none; sooner if
        ``max_items`` are there, or others would wait for this reader or drop items.
        """
        if not block and max_wait is None:
            return self.get_many_nowait(max_items)
        many = sync_get_some(self, max_items, timeout, max_wait)
        if many is NOTHING:
            raise QueueEmpty
        return cast("list[T]", many)

    if TYPE_CHECKING:  # the kernel's methods, with the item's type

        async def get(self) -> T: ...
        def get_nowait(self) -> T: ...
        def sync_get(self, block: bool = True, timeout: float | None = None) -> T: ...

    elif sys.version_info < (3, 12):  # a compiled method can't be marked as a coroutine function

        async def get(self) -> T:
            """Take the next item, waiting for one. To be awaited, on any event loop."""
            item: T = self._fetch()
            if item is NOTHING:
                item = await self._getting()
            return item


class Latest(Broadcast[T]):
    """One value that changes: `get` is the newest, `get_newer` waits for the next.

    A `Broadcast` of one item: a put never waits, and takes the place of the value before. Nobody
    takes the value away. `subscribe` gives a reader of the newest value and then of each newer one
    that it is in time for; what changes between two of its gets it misses.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(1, "drop_oldest", 1)

    def get_nowait(self) -> T:
        """The newest value; QueueEmpty if none was put yet."""
        with self.subscribe() as reader:
            return reader.get_nowait()

    async def get(self) -> T:
        """The newest value, waiting for the first. On any event loop."""
        with self.subscribe() as reader:
            return await reader.get()

    def sync_get(self, block: bool = True, timeout: float | None = None) -> T:
        """The newest value, on a thread that can wait for the first up to ``timeout`` seconds.

        QueueEmpty if there is none by then, or at once if ``block`` is false.
        """
        with self.subscribe() as reader:
            return reader.sync_get(block, timeout)

    async def get_newer(self) -> T:
        """The next value that is put, waiting for it. On any event loop.

        What was put before the call does not count: use a reader to miss nothing between two calls.
        """
        with self.subscribe(0) as reader:
            return await reader.get()

    def sync_get_newer(self, timeout: float | None = None) -> T:
        """`get_newer`, on a thread that can wait for it up to ``timeout`` seconds."""
        with self.subscribe(0) as reader:
            return reader.sync_get(timeout=timeout)


def _number(replay: int) -> int:
    number = operator.index(replay)
    if number < 0:
        raise ValueError(f"replay={replay!r}: must be 0 or more")
    return min(number, sys.maxsize)
