"""Iterators, generators and context managers across the bridge.

=================================  =========================================
`sync_to_async_iterator`           ``async for`` over a sync iterable
`async_to_sync_iterator`           ``for`` over an async iterable
`sync_to_async_context_manager`    ``async with`` a sync context manager
`async_to_sync_context_manager`    ``with`` an async context manager
=================================  =========================================

Each takes the object itself; or a function that returns one, also as a decorator, and then is a
function that returns the other kind. The code runs where `sync_to_async` and `async_to_sync` would
run it; context variables and `Local` attributes go both ways, and a context variable that a
generator sets can be reset after its ``yield``.

**Batches.** Items cross in batches, so that the price of a hop is paid once for all that are ready:
up to ``max_size`` items, for as long as the iterator gives them without a pause (about a
millisecond). The first item of a batch is passed on at once, and the iterator is asked for more
when the loop has used up what there is. So a slow one gets a hop for each item and never runs
ahead; a fast one runs ahead by at most ``max_size`` items, and no more than that is kept in memory.
Where producing an item has an effect that must wait for the loop's body, take ``max_size=1``.

An exception of the iterator arrives after the items before it. One that was met while reading ahead
of a loop that is left goes to the event loop's exception handler.

How the two sides meet is in `asgibridge._iteration.pulls` and `asgibridge._iteration.partner`.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Callable,
    Generator,
    Iterable,
)
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, overload

from ._iteration.partner import Partner
from ._iteration.pulls import SLICE, HopContext, Pulls, clock
from ._process.handover import take
from .sync import iscoroutinefunction

if sys.version_info >= (3, 10):
    from typing import ParamSpec
else:
    from typing_extensions import ParamSpec

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "async_to_sync_context_manager",
    "async_to_sync_iterator",
    "sync_to_async_context_manager",
    "sync_to_async_iterator",
]


def __dir__() -> list[str]:
    return __all__


_P = ParamSpec("_P")
_T = TypeVar("_T")


class _Hops(TypedDict, total=False):
    thread_sensitive: bool
    executor: ThreadPoolExecutor | None


class _Batches(_Hops, total=False):
    max_size: int


# --- iterators -----------------------------------------------------------------------------------


@overload
def sync_to_async_iterator(
    **options: Unpack[_Batches],
) -> Callable[[Callable[_P, Iterable[_T]]], Callable[_P, AsyncGenerator[_T, None]]]: ...


@overload
def sync_to_async_iterator(
    iterable: Iterable[_T], **options: Unpack[_Batches]
) -> AsyncGenerator[_T, None]: ...


@overload
def sync_to_async_iterator(
    iterable: Callable[_P, Iterable[_T]], **options: Unpack[_Batches]
) -> Callable[_P, AsyncGenerator[_T, None]]: ...


def sync_to_async_iterator(
    iterable: Any = None,
    *,
    thread_sensitive: bool = True,
    executor: ThreadPoolExecutor | None = None,
    max_size: int = 128,
) -> Any:
    """An async generator over a sync iterable, whose code runs in a thread.

    ::

        async for row in sync_to_async_iterator(queryset.iterator()): ...

        @sync_to_async_iterator
        def rows(): ...

    It is iterated in batches, as told above, in hops that go where `sync_to_async` calls with the
    same ``thread_sensitive`` and ``executor`` go. Between two batches other calls may run in that
    thread; the loop's body may make them. With ``thread_sensitive=False``, each batch may run in
    another thread.

    Leave the loop early and close it (``contextlib.aclosing``; or the event loop does, some time
    later), and a generator is closed, in its thread; closing is waited for. Cancelled while it
    waits for an item, the loop ends at once, and the generator is closed when the item is there.
    Other iterators are not closed: as after a plain ``for``, that is for whoever opened them.

    Raises what the iterator raises, and as `sync_to_async` does; TypeError for what is no sync
    iterable or function, ValueError if ``max_size`` is less than 1.

    :param max_size: how many items may be read ahead.
    """
    _check_max_size(max_size)
    hops = functools.partial(HopContext, thread_sensitive, executor)
    hops()  # says now what is wrong with them

    def iterate(open_: Callable[[], Iterable[_T]], shown: Any) -> AsyncGenerator[_T, None]:
        return _iterate_in_thread(open_, hops(shown), max_size)

    return _adapt(iterable, iterate, "__iter__", "__aiter__", "sync_to_async_iterator")


async def _iterate_in_thread(
    open_: Callable[[], Iterable[_T]], hops: HopContext, max_size: int
) -> AsyncGenerator[_T, None]:
    pulls = Pulls(open_, hops, max_size)
    ready = pulls.ready
    hops.bind("an iterator that is open")
    try:
        while await pulls.more():
            while ready:
                yield ready.popleft()
    finally:
        try:
            await pulls.close()
        finally:
            hops.unbind()


@overload
def async_to_sync_iterator(
    *, force_new_loop: bool = False, max_size: int = 128
) -> Callable[[Callable[_P, AsyncIterable[_T]]], Callable[_P, Generator[_T, None, None]]]: ...


@overload
def async_to_sync_iterator(
    aiterable: AsyncIterable[_T], *, force_new_loop: bool = False, max_size: int = 128
) -> Generator[_T, None, None]: ...


@overload
def async_to_sync_iterator(
    aiterable: Callable[_P, AsyncIterable[_T]], *, force_new_loop: bool = False, max_size: int = 128
) -> Callable[_P, Generator[_T, None, None]]: ...


def async_to_sync_iterator(
    aiterable: Any = None, *, force_new_loop: bool = False, max_size: int = 128
) -> Any:
    """A generator over an async iterable, whose code runs on an event loop.

    ::

        for chunk in async_to_sync_iterator(response.aiter_bytes()): ...

    All of its code runs in one task, from the first item to the last: on the loop that waits for
    this thread; else on that of what is open further out (a persistent loop, a context manager,
    another iterator); else on a new one in another thread. On that, the thread's `async_to_sync`
    calls run too, as long as the iterator is open. While the thread waits for an item, or in such a
    call, it runs the thread-sensitive sync code that the iterator calls; in between such code
    waits.

    Leave the loop early, and an async generator is closed: at once as CPython drops the generator,
    or with ``contextlib.closing``. The thread waits for that. What is left open is closed when the
    program ends.

    Raises what the iterator raises (CancelledError if it was cancelled); RuntimeError in a thread
    whose event loop is running, or on another thread than it was begun on; TypeError for what is
    no async iterable or function, ValueError if ``max_size`` is less than 1.

    :param force_new_loop: use a new loop in any case.
    :param max_size: how many items may be read ahead.
    """
    _check_max_size(max_size)

    def iterate(open_: Callable[[], AsyncIterable[_T]], shown: Any) -> Generator[_T, None, None]:
        return _iterate_on_loop(open_, shown, force_new_loop, max_size)

    return _adapt(aiterable, iterate, "__aiter__", "__iter__", "async_to_sync_iterator")


def _iterate_on_loop(
    open_: Callable[[], AsyncIterable[_T]], shown: Any, force_new_loop: bool, max_size: int
) -> Generator[_T, None, None]:
    pump = _Pump(open_, shown, force_new_loop)
    pump.max_size = max_size
    ready = pump.ready
    try:
        while pump.more():
            while ready:
                yield ready.popleft()
    finally:
        pump.close()


class _Pump(Partner):
    """The partner that iterates."""

    max_size: int

    async def _body(self) -> None:
        room = self.max_size
        iterator = self._open().__aiter__()
        until = clock() + SLICE
        try:
            async for item in iterator:
                self._give(item)
                del item
                # Counted, not measured: the thread takes items away meanwhile.
                room -= 1
                if not room or self._leaving or clock() >= until:
                    room = 0
                    while not room and await self._rest():
                        # Asked already, it has not rested: what was read is there still.
                        room = self.max_size - len(self.ready)
                    if not room:
                        break
                    until = clock() + SLICE
        finally:
            if isinstance(iterator, AsyncGenerator):
                await iterator.aclose()


# --- context managers ----------------------------------------------------------------------------


@overload
def sync_to_async_context_manager(
    **options: Unpack[_Hops],
) -> Callable[
    [Callable[_P, AbstractContextManager[_T]]], Callable[_P, AbstractAsyncContextManager[_T]]
]: ...


@overload
def sync_to_async_context_manager(
    manager: AbstractContextManager[_T], **options: Unpack[_Hops]
) -> AbstractAsyncContextManager[_T]: ...


@overload
def sync_to_async_context_manager(
    manager: Callable[_P, AbstractContextManager[_T]], **options: Unpack[_Hops]
) -> Callable[_P, AbstractAsyncContextManager[_T]]: ...


def sync_to_async_context_manager(
    manager: Any = None,
    *,
    thread_sensitive: bool = True,
    executor: ThreadPoolExecutor | None = None,
) -> Any:
    """An async context manager that enters and leaves a sync one in a thread.

    ::

        async with sync_to_async_context_manager(transaction.atomic()): ...

    Entering and leaving are a hop each, where `sync_to_async` calls with the same
    ``thread_sensitive`` and ``executor`` go: the same thread for both if that is so for calls.

    Cancelled while it enters, the wait ends at once; the thread then leaves what it has entered,
    with the CancelledError. Leaving is always waited for, and a cancellation raised afterwards.
    """
    hops = functools.partial(HopContext, thread_sensitive, executor)
    hops()  # says now what is wrong with them

    def enter(open_: Callable[[], Any], shown: Any) -> AbstractAsyncContextManager[Any]:
        return _EnteredInThread(open_, functools.partial(hops, shown))

    name = "sync_to_async_context_manager"
    return _adapt(manager, enter, "__enter__", "__aenter__", name)


class _EnteredInThread(AbstractAsyncContextManager[Any]):
    """The async form of a sync context manager. May be entered again if that may."""

    def __init__(self, open_: Callable[[], Any], hops: Callable[[], HopContext]) -> None:
        self._open = open_
        self._hops = hops
        self._entered: list[tuple[Any, HopContext]] = []

    async def __aenter__(self) -> Any:
        hops = self._hops()
        # Whoever takes it has the manager: the task, or the thread if the task has given up.
        entered: list[tuple[Any, Any]] = []
        given_up: list[BaseException] = []

        def enter() -> None:
            manager = hops.in_context(self._open)
            value = hops.in_context(_method(manager, "__enter__", "contextmanager"), manager)
            entered.append((manager, value))
            if given_up and take(entered) is not None:
                hops.in_context(_exit, manager, given_up[0])

        hops.give_context()
        hops.bind("a context manager that is open")
        try:
            await hops.call(enter)
        except asyncio.CancelledError as error:
            given_up.append(error)
            mine = take(entered)
            try:
                if mine is not None:
                    await hops.to_the_end(functools.partial(_exit, mine[0], error))
            finally:
                hops.unbind()
            raise
        except BaseException:
            hops.unbind()
            raise
        manager, value = entered.pop()
        hops.take_context()
        self._entered.append((manager, hops))
        return value

    async def __aexit__(self, exc: object, value: BaseException | None, tb: object) -> bool | None:
        manager, hops = self._entered.pop()
        try:
            leave = _method(manager, "__exit__", "contextmanager")
            left = await hops.to_the_end(functools.partial(leave, manager, exc, value, tb))
            return bool(left)
        finally:
            hops.unbind()
            del value, tb


def _exit(manager: Any, error: BaseException) -> None:
    type(manager).__exit__(manager, type(error), error, error.__traceback__)


@overload
def async_to_sync_context_manager(
    *, force_new_loop: bool = False
) -> Callable[
    [Callable[_P, AbstractAsyncContextManager[_T]]], Callable[_P, AbstractContextManager[_T]]
]: ...


@overload
def async_to_sync_context_manager(
    manager: AbstractAsyncContextManager[_T], *, force_new_loop: bool = False
) -> AbstractContextManager[_T]: ...


@overload
def async_to_sync_context_manager(
    manager: Callable[_P, AbstractAsyncContextManager[_T]], *, force_new_loop: bool = False
) -> Callable[_P, AbstractContextManager[_T]]: ...


def async_to_sync_context_manager(manager: Any = None, *, force_new_loop: bool = False) -> Any:
    """A context manager that enters and leaves an async one on an event loop.

    ::

        with async_to_sync_context_manager(client.session()) as session:
            async_to_sync(session.get)(url)

    Both run in one task: on the loop that waits for this thread; else on that of what is open
    further out (a persistent loop, another context manager, an iterator); else on a new one in
    another thread, which goes on until the block is left. The `async_to_sync` calls, the context
    managers and the iterators of the block are on the same loop. So what is bound to a loop, as
    many clients are, can be used throughout. What they leave running is cancelled when the loop
    ends.

    Thread-sensitive sync code that a task of that loop calls runs in this thread, whenever the
    thread waits for the loop; in between it waits. (Where a loop waits for this thread: while the
    thread enters and leaves.)

    Raises what the manager raises; RuntimeError in a thread whose event loop is running, or when
    left on another thread than it was entered on, or after the persistent loop that it is on.

    :param force_new_loop: use a new loop in any case. Unless a loop waits for this thread, the
        block's calls are on it.
    """

    def enter(open_: Callable[[], Any], shown: Any) -> AbstractContextManager[Any]:
        return _EnteredOnLoop(functools.partial(_Visit, open_, shown, force_new_loop))

    name = "async_to_sync_context_manager"
    return _adapt(manager, enter, "__aenter__", "__enter__", name)


class _EnteredOnLoop(AbstractContextManager[Any]):
    """The sync form of an async context manager. May be entered again if that may."""

    def __init__(self, visit: Callable[[], _Visit]) -> None:
        self._visit = visit
        self._entered: list[_Visit] = []

    def __enter__(self) -> Any:
        visit = self._visit()
        try:
            visit.more()
        except BaseException:
            visit.close()
            raise
        self._entered.append(visit)
        return visit.ready.pop()

    def __exit__(self, exc: object, value: BaseException | None, tb: object) -> bool | None:
        visit = self._entered.pop()
        visit.leave_with = (exc, value, tb)
        try:
            visit.more()
        except BaseException as error:
            visit.close()
            if error is value:
                return False
            raise
        finally:
            del value, tb
        return visit.suppressed


class _Visit(Partner):
    """The partner that enters and leaves."""

    leave_with: tuple[Any, Any, Any] = (None, None, None)
    suppressed = False

    async def _body(self) -> None:
        manager = self._open()
        enter = _method(manager, "__aenter__", "asynccontextmanager")
        leave = _method(manager, "__aexit__", "asynccontextmanager")
        self._give(await enter(manager))
        try:
            await self._rest()
        except BaseException:
            await leave(manager, *sys.exc_info())
            raise
        leave_with, self.leave_with = self.leave_with, (None, None, None)
        try:
            self.suppressed = bool(await leave(manager, *leave_with))
        finally:
            del leave_with


# --- what they share -----------------------------------------------------------------------------


def _adapt(
    subject: Any, make: Callable[[Callable[[], Any], Any], Any], wanted: str, other: str, name: str
) -> Any:
    # The object itself; or a function that returns it, also as a decorator with arguments.
    if subject is None:
        return lambda function: _adapt(function, make, wanted, other, name)
    if hasattr(type(subject), wanted):
        return make(lambda: subject, subject)
    if hasattr(type(subject), other):
        raise TypeError(
            f"{name}() is the wrong way round for {subject!r}, which has {other}, not {wanted}"
        )
    if not callable(subject) or iscoroutinefunction(subject):
        raise TypeError(
            f"{name}() takes an object that has {wanted}, or a function that returns one, not "
            f"{subject!r}"
        )

    @functools.wraps(subject)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return make(functools.partial(subject, *args, **kwargs), subject)

    return wrapper


def _method(manager: Any, name: str, decorator: str) -> Callable[..., Any]:
    try:
        return getattr(type(manager), name)  # type: ignore[no-any-return]
    except AttributeError:
        raise TypeError(
            f"{manager!r} is no context manager, it has no {name}; a generator function needs "
            f"@contextlib.{decorator}"
        ) from None


def _check_max_size(max_size: int) -> None:
    if max_size < 1:
        raise ValueError(f"max_size is {max_size}: it must be at least 1")
