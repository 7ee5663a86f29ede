"""`open_channel`: a queue with two ends that close, each of which may have several owners.

**States.** An end (a `Sender` or `Receiver`) is *open* while its ``_token`` is among the open
tokens of its side, and *closed* for ever after. A clone is an end of its own, of the same side.
When the last token of a side goes, the queue is shut down: by the last sender so that what is in it
is still received, by the last receiver at once, items and all.

**Who owns what.** The two sets of tokens and the queue are the channel's; all ends hold them. An
end has its token, ``_waits``, the waits that go on at it, and the queue's method it calls most,
which `close` replaces by one that raises. There is no lock: the sets' own methods are single steps,
so an end may be closed by any thread, a signal handler or a finalizer. To close the last end twice
at once shuts the queue down twice, which does no harm. A clone enters its
token first and then looks whether the end it was made of is still open, so that one of two, the
clone or the close, sees the other.

**A close while somebody waits at this end** ends that wait with ClosedResourceError: 1. the wait is
noted; 2. it looks whether the end is still open. The close: 1. takes the token; 2. dismisses the
waits that are noted. A wait to which an item or room is promised by then goes on and takes it.

**Cancellation, time-outs, closed loops, exit** are the queue's: `asgibridge._pure.promises`.

**Collection.** An end that is dropped unclosed is closed by its ``__del__``. One that waits is held
by who waits.

**Fork.** The child has copies of all ends. Those that only threads of the parent knew are never
dropped there, so a child that is to see an end close closes its own copies itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, cast

from .._kernel import kernel
from .._process.queue_errors import (
    NOTHING,
    BrokenResourceError,
    ClosedResourceError,
    EndOfChannel,
    QueueEmpty,
    QueueFull,
    QueueShutDown,
    check_timeout,
    of_channel,
)
from .common import Closing, get_batch, sync_get_some

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")

_Queue = kernel.QueueCore
"""As `select` knows it: it does not change with the kernel."""


class _End(Closing):
    # What both ends have in common.
    __slots__ = ("__weakref__", "_queue", "_side", "_token", "_waits")

    def __init__(self, queue: Any, side: set[object]) -> None:
        self._queue = queue
        self._side = side
        self._token = object()
        self._waits: set[Any] = set()
        side.add(self._token)

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} cannot be copied or pickled: clone() it")

    def __repr__(self) -> str:
        state = " closed" if self.closed else ""
        return f"<{type(self).__name__} at {id(self):#x} qsize={self._queue.qsize()}{state}>"

    @property
    def closed(self) -> bool:
        """Whether this end is closed; its clones may be open."""
        return self._token not in self._side

    def qsize(self) -> int:
        """How many items were sent and not received yet."""
        return cast("int", self._queue.qsize())

    def clone(self) -> Self:
        """One more end of this side: the side is closed when all its ends are. From any thread."""
        clone = type(self)(self._queue, self._side)
        if self.closed:
            clone.close()
            raise of_channel(ClosedResourceError)
        return clone

    def close(self) -> None:
        """Close this end; a wait that goes on at it raises ClosedResourceError.

        From any thread, and from a signal handler or a finalizer, too. May be called again.
        """
        self._side.discard(self._token)
        self._refuse()
        for waiter in list(self._waits):
            waiter.dismiss()
        if not self._side:
            self._shut()

    async def aclose(self) -> None:
        """`close`, which waits for nothing."""
        self.close()

    def _shut(self) -> None:
        raise NotImplementedError

    def _refuse(self) -> None:
        raise NotImplementedError

    def _check(self) -> None:
        if self._token not in self._side:
            raise of_channel(ClosedResourceError)

    async def _wait(self, waiter: Any) -> Any:
        # NOTHING: this end was closed meanwhile.
        self._waits.add(waiter)
        try:
            if self._token not in self._side:
                waiter.dismiss()
            outcome = await waiter
        finally:
            self._waits.discard(waiter)
        if outcome is NOTHING:
            self._check()
        return outcome

    def _sync_wait(self, waiter: Any, timeout: float | None) -> Any:
        # NOTHING: out of time.
        self._waits.add(waiter)
        try:
            if self._token not in self._side:
                waiter.dismiss()
            outcome = waiter.wait(timeout)
        finally:
            self._waits.discard(waiter)
        if outcome is NOTHING:
            self._check()
        return outcome


class Sender(_End, Generic[T]):
    """The end of a channel that sends, from `open_channel`. For threads and tasks.

    The channel ends for receivers when all senders are closed, or dropped. To send raises
    BrokenResourceError when no receiver is left, ClosedResourceError if this sender is closed.
    """

    __slots__ = ("_offer",)

    def __init__(self, queue: Any, side: set[object]) -> None:
        # Until `close`, which is cheaper than to ask each time.
        self._offer: Callable[[T], bool] = queue._offer
        super().__init__(queue, side)

    async def send(self, item: T) -> None:
        """Send ``item``, waiting for room. On any event loop."""
        try:
            if not self._offer(item):
                await self._wait(self._queue._putting(item))
        except QueueShutDown:
            raise self._why() from None

    def sync_send(self, item: T, timeout: float | None = None) -> None:
        """Send ``item``, on a thread that can wait for room up to ``timeout`` seconds.

        QueueFull if there is none by then; RuntimeError where it would have to wait and the thread
        runs an event loop.
        """
        self._check()
        if timeout is not None:
            check_timeout(timeout)
        try:
            done = self._queue._offer(item)
            if not done and self._sync_wait(self._queue._putting(item), timeout) is NOTHING:
                raise of_channel(QueueFull)
        except QueueShutDown:
            raise self._why() from None

    def send_nowait(self, item: T) -> None:
        """Send ``item``; QueueFull if there is no room. From any thread."""
        self._check()
        try:
            done = self._queue._offer(item)
        except QueueShutDown:
            raise self._why() from None
        if not done:
            raise of_channel(QueueFull)

    def _why(self) -> Exception:
        return of_channel(ClosedResourceError if self.closed else BrokenResourceError)

    def _refuse(self) -> None:
        self._offer = _closed

    def _shut(self) -> None:
        self._queue.shutdown()


class Receiver(_End, Generic[T]):
    """The end of a channel that receives, from `open_channel`. For threads and tasks.

    Each item goes to one receiver. To receive raises EndOfChannel after the last item when all
    senders are closed, or dropped; ClosedResourceError if this receiver is closed.
    """

    __slots__ = ("_fetch",)

    def __init__(self, queue: Any, side: set[object]) -> None:
        self._fetch: Callable[[], Any] = queue._fetch  # until `close`, as `Sender._offer`
        super().__init__(queue, side)

    async def receive(self) -> T:
        """Receive the first item, waiting for one. On any event loop."""
        try:
            item: T = self._fetch()
            if item is NOTHING:
                item = await self._wait(self._queue._getting())
        except QueueShutDown:
            raise self._why() from None
        return item

    def sync_receive(self, timeout: float | None = None) -> T:
        """Receive the first item, on a thread that can wait for it up to ``timeout`` seconds.

        QueueEmpty if there is none by then; RuntimeError where it would have to wait and the thread
        runs an event loop.
        """
        self._check()
        if timeout is not None:
            check_timeout(timeout)
        try:
            item = self._queue._fetch()
            if item is NOTHING:
                item = self._sync_wait(self._queue._getting(), timeout)
        except QueueShutDown:
            raise self._why() from None
        if item is NOTHING:
            raise of_channel(QueueEmpty)
        return cast("T", item)

    def receive_nowait(self) -> T:
        """Receive the first item; QueueEmpty if there is none. From any thread."""
        self._check()
        try:
            item = self._queue._fetch()
        except QueueShutDown:
            raise self._why() from None
        if item is NOTHING:
            raise of_channel(QueueEmpty)
        return cast("T", item)

    async def receive_many(
        self, max_items: int | None = None, *, max_wait: float | None = None
    ) -> list[T]:
        """Receive what is there, ``max_items`` at most, waiting for the first item.

        With ``max_wait``, receive as many as come within so many seconds, which may be none; sooner
        if ``max_items`` are there, or there is no room for more.
        """
        self._check()
        try:
            if max_wait is not None:
                return await get_batch(self._queue, max_items, max_wait, self._wait)
            many = self._queue._fetch_many(max_items)
            return cast("list[T]", many or await self._wait(self._queue._getting_many(max_items)))
        except QueueShutDown:
            raise self._why() from None

    def sync_receive_many(
        self,
        max_items: int | None = None,
        timeout: float | None = None,
        *,
        max_wait: float | None = None,
    ) -> list[T]:
        """`receive_many`, on a thread that can wait for the first item up to ``timeout`` seconds.

        QueueEmpty if there is none by then, but with ``max_wait``.
        """
        self._check()
        try:
            many = sync_get_some(self._queue, max_items, timeout, max_wait, self._sync_wait)
        except QueueShutDown:
            raise self._why() from None
        if many is NOTHING:
            raise of_channel(QueueEmpty)
        return cast("list[T]", many)

    def __iter__(self) -> Iterator[T]:
        """``for``: the items as they come, until the channel ends. Blocks."""
        while True:
            try:
                item = self.sync_receive()
            except EndOfChannel:
                return
            yield item
            del item

    def __aiter__(self) -> AsyncIterator[T]:
        """``async for``: the items as they come, until the channel ends."""
        return self

    async def __anext__(self) -> T:
        try:
            return await self.receive()
        except EndOfChannel:
            raise StopAsyncIteration from None

    @property
    def _selected(self) -> Any:
        self._check()
        return self._queue

    def _why(self) -> Exception:
        return of_channel(ClosedResourceError if self.closed else EndOfChannel)

    def _refuse(self) -> None:
        self._fetch = _closed

    def _shut(self) -> None:
        self._queue.shutdown(immediate=True)


def _closed(*_item: object) -> NoReturn:
    raise of_channel(ClosedResourceError)


def open_channel(maxsize: float = 0) -> tuple[Sender[Any], Receiver[Any]]:
    """A channel's two ends, for threads and tasks: what the one sends the other receives.

    :param maxsize: how many items there is room for; 0 or less is no limit.

    Both can be cloned, and used in ``with`` and ``async with``. Where the program has imported trio
    or anyio, what the ends raise are errors of these, too: EndOfChannel (anyio's ``EndOfStream``),
    BrokenResourceError, ClosedResourceError, and ``WouldBlock`` for QueueFull and QueueEmpty.
    """
    queue = _Queue(maxsize)
    return Sender(queue, set()), Receiver(queue, set())
