"""Message queues between threads and event loops, in any mix and any number.

A `MessageQueue` has one method for each way to wait: ``await queue.get()`` in a task, and
``queue.sync_get()`` in a thread, and so for ``put``, ``peek``, ``get_many`` and ``join``; methods
that do not wait are for everybody. Code written for `janus` or `culsans` finds its names here:
``import asgibridge.queue as janus``, and the views ``sync_q`` and ``async_q``, which have the
methods of `queue.Queue` and of `asyncio.Queue`. culsans's other names are further names here: the
``green_`` methods of the ``sync_`` ones, the ``async_`` methods of those without a prefix, and the
protocols and proxies of the views.

For other shapes there are `Broadcast` (each reader gets every item), `RingQueue` and `Latest` (the
newest only), `open_channel` (ends that close) and `select` (the first of several).

**Guarantees**, for any number of threads and event loops at once:

* First in, first out (or as the variant says), and each item is got exactly once.
* Waiters are served in order, and no newcomer passes them: a new item belongs to the first waiting
  get, and a place that becomes free to the first waiting put.
* A get that is cancelled, interrupted (Ctrl-C) or out of time has taken nothing, and such a put has
  put nothing; the next waiter gets the item or the place. Both may be cancelled at any moment.
* An event loop that is closed while its tasks wait takes nothing with it: the next get or put finds
  the item or the place that was promised to one of these tasks.
* A forked child has the items, and none of the parent's waiting threads.
* An event loop is woken once, however many of its tasks have something to do; a queue on which
  nobody waits wakes nobody. A task that finds an item goes on without another turn of its loop.

Why and how is in `asgibridge._pure.promises`.
"""

from __future__ import annotations

import heapq
from asyncio import QueueEmpty as AsyncQueueEmpty
from asyncio import QueueFull as AsyncQueueFull
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from queue import Empty as SyncQueueEmpty
from queue import Full as SyncQueueFull
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, cast

from ._groupers import Grouper, RWLock
from ._kernel import kernel
from ._process.queue_errors import (
    NOTHING,
    AsyncQueueShutDown,
    BrokenResourceError,
    ClosedResourceError,
    EndOfChannel,
    QueueEmpty,
    QueueFull,
    QueueShutDown,
    ReaderLagged,
    SelectTimeout,
    SyncQueueShutDown,
    UnsupportedOperation,
    either_number,
)
from ._queues.broadcast import Broadcast, Latest, Reader
from ._queues.channel import Receiver, Sender, open_channel
from ._queues.common import Iterated, get_batch
from ._queues.select import select, sync_select

__all__ = [
    "AsyncQueue",
    "AsyncQueueEmpty",
    "AsyncQueueFull",
    "AsyncQueueProxy",
    "AsyncQueueShutDown",
    "BaseQueue",
    "BaseQueueProxy",
    "Broadcast",
    "BrokenResourceError",
    "ClosedResourceError",
    "EndOfChannel",
    "GreenQueue",
    "GreenQueueProxy",
    "Grouper",
    "Latest",
    "LifoQueue",
    "MessageQueue",
    "MixedQueue",
    "PriorityQueue",
    "Queue",
    "QueueEmpty",
    "QueueFull",
    "QueueShutDown",
    "RWLock",
    "Reader",
    "ReaderLagged",
    "Receiver",
    "RingQueue",
    "SelectTimeout",
    "Sender",
    "SyncQueue",
    "SyncQueueEmpty",
    "SyncQueueFull",
    "SyncQueueProxy",
    "SyncQueueShutDown",
    "UnsupportedOperation",
    "open_channel",
    "select",
    "sync_select",
]


def __dir__() -> list[str]:
    return __all__


T = TypeVar("T")

_HOOKS = ("_init", "_qsize", "_put", "_get", "_peekable", "_peek", "_clearable", "_clear")
_FIFO, _LIFO, _HOOKED, _SIZED = 0, 1, 2, 3


class MessageQueue(kernel.QueueCore, Iterated[T]):
    """A first-in-first-out queue for threads and tasks, with room for ``maxsize`` items.

    :param maxsize: 0 or less is no limit, as `math.inf` is; any number will do, and 1.3 is room for
        two. `maxsize` can be changed later.
    :param sizer: tells how many places an item takes, an int of 0 or more. It is called, as a hook
        is, more than once for an item, and should tell the same each time.

    Belongs to no event loop and no thread: make it anywhere, use it everywhere. The kernel's
    methods are its own: `put_nowait`, `get_nowait`, `peek_nowait`, `get_many_nowait`, `sync_put`,
    `sync_get`, `sync_peek`, `sync_get_many`, `sync_join`, `task_done`, `qsize`, `empty`, `full`,
    `clear` and `shutdown`.

    **Subclasses** that override any of the hooks ``_init(maxsize)``, ``_qsize()``, ``_put(item)``,
    ``_get()``, ``_peekable()``, ``_peek()``, ``_clearable()`` and ``_clear()`` store the items
    themselves; ``_isize(item)`` is their sizer. Hooks are called one at a time, and must not use
    the queue: that is a RuntimeError. The defaults keep the items in ``_queue``.

    A queue can be neither copied nor pickled: its waiters cannot.
    """

    __slots__ = ("__weakref__", "_queue", "_sizer")

    _order = _FIFO

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        users = [vars(base) for base in cls.__mro__ if base.__module__ != __name__]
        if any("_isize" in names for names in users):
            cls._order = _SIZED
        elif any(name in names for names in users for name in _HOOKS):
            cls._order = _HOOKED

    def __init__(self, maxsize: float = 0, *, sizer: Callable[[T], int] | None = None) -> None:
        self._sizer = sizer
        super().__init__(maxsize, self._order if sizer is None else _SIZED)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} cannot be copied or pickled: make a new one, and put the "
            "items into it that get_many_nowait() takes out of this one"
        )

    def __len__(self) -> int:
        return self.qsize()

    def __bool__(self) -> bool:
        return self.qsize() > 0

    def __repr__(self) -> str:
        state = " shut down" if self.is_shutdown else ""
        return (
            f"<{type(self).__name__} at {id(self):#x} maxsize={self.maxsize} "
            f"qsize={self.qsize()}{state}>"
        )

    # Tasks

    async def put(self, item: T) -> None:
        """Put ``item``, waiting for room. On any event loop.

        Raises QueueShutDown after `shutdown`, also if that comes meanwhile.
        """
        if not self._offer(item):
            await self._putting(item)

    async def get(self) -> T:
        """Take the first item, waiting for one. On any event loop.

        Raises QueueShutDown if the queue is empty and was shut down, or is so meanwhile.
        """
        item: T = self._fetch()  # a `cast` would be a call
        if item is NOTHING:
            item = await self._getting()
        return item

    async def peek(self) -> T:
        """The first item, which stays where it is, waiting for one as `get` does."""
        return cast("T", await self._peeking())

    async def get_many(
        self,
        n: int | None = None,
        *,
        max_items: int | None = None,
        max_wait: float | None = None,
    ) -> list[T]:
        """Wait for an item as `get` does, and take all that are there, ``n`` at most.

        With ``max_wait``, take as many as come within so many seconds, which may be none; sooner if
        ``n`` are there, or there is no room for more. ``max_items`` is another name of ``n``.
        """
        if max_items is not None:
            n = either_number(n, max_items)
        if max_wait is not None:
            return await get_batch(self, n, max_wait)
        return self._fetch_many(n) or cast("list[T]", await self._getting_many(n))

    async def join(self) -> None:
        """Wait until as many items are done (`task_done`) as were put."""
        await self._joining()

    # Threads

    if TYPE_CHECKING:  # the kernel's methods, with the item's type

        def put_nowait(self, item: T, overwrite: bool = False) -> None: ...
        def get_nowait(self) -> T: ...
        def peek_nowait(self) -> T: ...
        def get_many_nowait(self, n: int | None = None) -> list[T]: ...
        def sync_put(
            self,
            item: T,
            block: bool = True,
            timeout: float | None = None,
            *,
            blocking: bool | None = None,
        ) -> None: ...
        def sync_get(
            self,
            block: bool = True,
            timeout: float | None = None,
            *,
            blocking: bool | None = None,
        ) -> T: ...
        def sync_peek(
            self,
            block: bool = True,
            timeout: float | None = None,
            *,
            blocking: bool | None = None,
        ) -> T: ...
        def sync_get_many(
            self,
            n: int | None = None,
            block: bool = True,
            timeout: float | None = None,
            *,
            blocking: bool | None = None,
            max_items: int | None = None,
            max_wait: float | None = None,
        ) -> list[T]: ...

    # What janus and culsans have

    async_put = put
    async_get = get
    async_peek = peek
    async_join = join

    def green_put(
        self,
        item: T,
        block: bool = True,
        timeout: float | None = None,
        *,
        blocking: bool | None = None,
    ) -> None:
        """`sync_put`."""
        self.sync_put(item, block, timeout, blocking=blocking)

    def green_get(
        self, block: bool = True, timeout: float | None = None, *, blocking: bool | None = None
    ) -> T:
        """`sync_get`."""
        return self.sync_get(block, timeout, blocking=blocking)

    def green_peek(
        self, block: bool = True, timeout: float | None = None, *, blocking: bool | None = None
    ) -> T:
        """`sync_peek`."""
        return self.sync_peek(block, timeout, blocking=blocking)

    def green_join(self) -> None:
        """`sync_join`."""
        self.sync_join()

    @property
    def sync_q(self) -> SyncQueue[T]:
        """The queue as a `queue.Queue`."""
        return SyncQueue(self)

    green_proxy = sync_q

    @property
    def async_q(self) -> AsyncQueue[T]:
        """The queue as an `asyncio.Queue`."""
        return AsyncQueue(self)

    async_proxy = async_q

    @property
    def size(self) -> int:
        """The sum of the items' sizes; how many there are, if there is no ``sizer``."""
        return self._size()

    def isize(self, item: T) -> int:
        """How many places ``item`` takes, or would take."""
        with self._mutex():
            return self._isize(item)

    def peekable(self) -> bool:
        """Whether the queue has a first item to peek at, when it is not empty."""
        return self._peekable()

    def clearable(self) -> bool:
        """Whether the queue can be cleared at once."""
        return self._clearable()

    @property
    def mutex(self) -> Any:
        """A re-entrant lock; while a thread holds it, the queue does nothing for any other."""
        return self._mutex()

    @property
    def not_empty(self) -> _Condition:
        """As `queue.Queue` has it, to wait until there is an item."""
        return _Condition(self, self.sync_peek)

    @property
    def not_full(self) -> _Condition:
        """As `queue.Queue` has it, but to wait for room is `sync_put`'s alone."""
        return _Condition(self, None)

    @property
    def all_tasks_done(self) -> _Condition:
        """As `queue.Queue` has it, to wait as `sync_join` does."""
        return _Condition(self, self.sync_join)

    @property
    def waiting(self) -> int:
        """How many wait, to get, to peek or to put."""
        return self.getting + self.putting

    @property
    def closed(self) -> bool:
        """Whether the queue was shut down."""
        return self.is_shutdown

    def close(self) -> None:
        """``shutdown(immediate=True)``."""
        self.shutdown(immediate=True)

    async def wait_closed(self) -> None:
        """Nothing to wait for; RuntimeError if the queue is not closed."""
        if not self.is_shutdown:
            raise RuntimeError("Waiting for non-closed queue: call close() or shutdown() first")

    async def aclose(self) -> None:
        """`close`."""
        self.close()

    # Hooks

    def _isize(self, item: T) -> int:
        return 1 if self._sizer is None else self._sizer(item)

    def _init(self, maxsize: float) -> None:
        self._queue: Any = deque()

    def _qsize(self) -> int:
        return len(self._queue)

    def _put(self, item: T) -> None:
        self._queue.append(item)

    def _get(self) -> T:
        return cast("T", self._queue.popleft())

    def _peekable(self) -> bool:
        return True

    def _peek(self) -> T:
        return cast("T", self._queue[0])

    def _clearable(self) -> bool:
        return True

    def _clear(self) -> None:
        self._queue.clear()


# One a line: type checkers take a chain of these for variables.
Queue = MessageQueue
MixedQueue = MessageQueue


class LifoQueue(MessageQueue[T]):
    """A `MessageQueue` that gives out what was put last."""

    __slots__ = ()

    _order = _LIFO

    def _get(self) -> T:
        return cast("T", self._queue.pop())

    def _peek(self) -> T:
        return cast("T", self._queue[-1])


class PriorityQueue(MessageQueue[T]):
    """A `MessageQueue` that gives out the least item first, such as ``(priority, data)``.

    Items are compared with ``<`` while the queue is held: their ``__lt__`` must not use it. A put
    or a get whose comparison raises has put or taken nothing.
    """

    __slots__ = ()

    _order = _HOOKED

    def _init(self, maxsize: float) -> None:
        self._queue = []

    def _put(self, item: T) -> None:
        heap = self._queue
        # heapq leaves the item in, somewhere, if a comparison raises: find its place first.
        at = len(heap)
        path = [at]
        while at and item < heap[(at - 1) >> 1]:
            at = (at - 1) >> 1
            path.append(at)
        heap.append(item)
        for lower, upper in zip(path, path[1:]):
            heap[lower] = heap[upper]
        heap[at] = item

    def _get(self) -> T:
        heap = self._queue
        first = heap[0]
        size = len(heap)
        try:
            heapq.heappop(heap)
        except BaseException:
            if len(heap) < size:
                heap.append(first)
            raise
        return cast("T", first)


class RingQueue(MessageQueue[T]):
    """A `MessageQueue` of the newest ``maxsize`` items: a put never waits, and drops the oldest.

    An item that is dropped so counts as done with (`MessageQueue.task_done`).
    """

    __slots__ = ()

    def __init__(self, maxsize: float) -> None:
        if not maxsize > 0:
            raise ValueError(f"maxsize={maxsize!r}: a ring has room for at least 1 item")
        super().__init__(maxsize)

    async def put(self, item: T) -> None:
        """Put ``item``, in place of the oldest if there is no room."""
        self._overwrite(item)

    async_put = put

    def put_nowait(self, item: T, overwrite: bool = True) -> None:
        """Put ``item``, in place of the oldest if there is no room. From any thread."""
        super().put_nowait(item, overwrite)

    def sync_put(
        self,
        item: T,
        block: bool = True,
        timeout: float | None = None,
        *,
        blocking: bool | None = None,
    ) -> None:
        """`put_nowait`: there is nothing to wait for."""
        self._overwrite(item)


class BaseQueue(Generic[T]):
    """What the two views of a queue have in common; the queue itself does the work."""

    __slots__ = ("wrapped",)

    def __init__(self, wrapped: MessageQueue[T]) -> None:
        self.wrapped = wrapped

    @property
    def _selected(self) -> MessageQueue[T]:
        return self.wrapped

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.wrapped!r}>"

    def __len__(self) -> int:
        return self.wrapped.qsize()

    def __bool__(self) -> bool:
        return self.wrapped.qsize() > 0

    def put_nowait(self, item: T) -> None:
        """Put ``item``, or raise QueueFull or QueueShutDown."""
        self.wrapped.put_nowait(item)

    def get_nowait(self) -> T:
        """Take the first item, or raise QueueEmpty or QueueShutDown."""
        return self.wrapped.get_nowait()

    def peek_nowait(self) -> T:
        """The first item, which stays, or raise QueueEmpty or QueueShutDown."""
        return self.wrapped.peek_nowait()

    def peekable(self) -> bool:
        """Whether the queue has a first item to peek at, when it is not empty."""
        return self.wrapped._peekable()

    def clearable(self) -> bool:
        """Whether the queue can be cleared at once."""
        return self.wrapped._clearable()

    def isize(self, item: T) -> int:
        """`MessageQueue.isize`."""
        return self.wrapped.isize(item)

    @property
    def size(self) -> int:
        """`MessageQueue.size`."""
        return self.wrapped.size

    def qsize(self) -> int:
        """How many items `get_nowait` could take now."""
        return self.wrapped.qsize()

    def empty(self) -> bool:
        """Whether `get_nowait` would find nothing now."""
        return self.wrapped.empty()

    def full(self) -> bool:
        """Whether `put_nowait` would find no room now."""
        return self.wrapped.full()

    def task_done(self) -> None:
        """One item that was taken is done with; ValueError if none is left."""
        self.wrapped.task_done()

    def clear(self) -> None:
        """Drop all items, as if they were taken and done with."""
        self.wrapped.clear()

    def shutdown(self, immediate: bool = False) -> None:
        """`MessageQueue.shutdown`."""
        self.wrapped.shutdown(immediate)

    @property
    def getting(self) -> int:
        """How many wait to get or to peek."""
        return self.wrapped.getting

    @property
    def putting(self) -> int:
        """How many wait to put."""
        return self.wrapped.putting

    @property
    def waiting(self) -> int:
        """How many wait, to get, to peek or to put."""
        return self.wrapped.waiting

    @property
    def unfinished_tasks(self) -> int:
        """How many items were put for which `task_done` has not been called."""
        return self.wrapped.unfinished_tasks

    @property
    def is_shutdown(self) -> bool:
        """Whether `shutdown` has been called."""
        return self.wrapped.is_shutdown

    closed = is_shutdown

    @property
    def maxsize(self) -> int:
        """How many items there is room for; 0 or less is no limit. May be set."""
        return cast("int", self.wrapped.maxsize)

    @maxsize.setter
    def maxsize(self, value: float) -> None:
        self.wrapped.maxsize = value


class SyncQueue(BaseQueue[T]):
    """The view for threads: `queue.Queue`'s methods."""

    __slots__ = ()

    def put(
        self,
        item: T,
        block: bool = True,
        timeout: float | None = None,
        *,
        blocking: bool | None = None,
    ) -> None:
        """`MessageQueue.sync_put`."""
        self.wrapped.sync_put(item, block, timeout, blocking=blocking)

    def get(
        self, block: bool = True, timeout: float | None = None, *, blocking: bool | None = None
    ) -> T:
        """`MessageQueue.sync_get`."""
        return self.wrapped.sync_get(block, timeout, blocking=blocking)

    def peek(
        self, block: bool = True, timeout: float | None = None, *, blocking: bool | None = None
    ) -> T:
        """`MessageQueue.sync_peek`."""
        return self.wrapped.sync_peek(block, timeout, blocking=blocking)

    def join(self) -> None:
        """`MessageQueue.sync_join`."""
        self.wrapped.sync_join()

    def __iter__(self) -> Iterator[T]:
        return iter(self.wrapped)


class AsyncQueue(BaseQueue[T]):
    """The view for tasks: `asyncio.Queue`'s methods, on any event loop, on several at once."""

    __slots__ = ()

    def put(self, item: T) -> Coroutine[Any, Any, None]:
        """`MessageQueue.put`."""
        return self.wrapped.put(item)

    def get(self) -> Coroutine[Any, Any, T]:
        """`MessageQueue.get`."""
        return self.wrapped.get()

    def peek(self) -> Coroutine[Any, Any, T]:
        """`MessageQueue.peek`."""
        return self.wrapped.peek()

    def join(self) -> Coroutine[Any, Any, None]:
        """`MessageQueue.join`."""
        return self.wrapped.join()

    def __aiter__(self) -> AsyncIterator[T]:
        return self.wrapped


# culsans has a class for each protocol, and another for each view.
BaseQueueProxy = BaseQueue
SyncQueueProxy = SyncQueue
GreenQueue = SyncQueue
GreenQueueProxy = SyncQueue
AsyncQueueProxy = AsyncQueue


class _Condition:
    """A condition of a queue, for code that uses those of `queue.Queue`.

    The queue wakes its waiters by itself. `notify` is for who has changed the items by hand.
    """

    __slots__ = ("_queue", "_wait")

    def __init__(self, queue: MessageQueue[Any], wait: Callable[..., Any] | None) -> None:
        self._queue = queue
        self._wait = wait

    def __enter__(self) -> bool:
        return bool(self._queue.mutex.__enter__())

    def __exit__(self, *exc: object) -> None:
        self._queue.mutex.__exit__(*exc)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait, on a thread that holds `mutex`, which others get meanwhile. False: out of time."""
        if self._wait is None:
            raise UnsupportedOperation("to wait for room is to put: use sync_put(timeout=)")
        mutex = self._queue.mutex
        held = mutex._release_save()
        try:
            self._wait(timeout=timeout)
        except QueueShutDown:
            pass
        except (QueueEmpty, TimeoutError):
            return False
        finally:
            mutex._acquire_restore(held)
        return True

    def notify(self, n: int = 1) -> None:
        """Have the queue look whether any waiter can go on."""
        self._queue._look_for_waiters()

    def notify_all(self) -> None:
        """The same."""
        self._queue._look_for_waiters()
