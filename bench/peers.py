"""The cases that others' libraries can do, too, and what each of these has nothing for.

A row is a job, and not a function of ours: each library does it as its documents say, on its own
event loop. `CANNOT` says in a sentence what a library has nothing for; an empty cell of the tables
is explained there.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from cases import Case, Run, async_nothing, at_once, in_loop, nothing, one_by_one
from implementations import Library

WIDTH = 100
"""Calls at once."""
TOKENS = 10
"""Calls that a limiter lets run at the same time."""
ITEMS = 100
"""Of one generator."""

CANNOT = {
    "asgiref": "has no limiter, no loop that stays and no iterators across threads",
    "asyncio": "has no threads that one may choose (`to_thread` takes any), hence no row for "
    "thread-sensitive calls; no limiter of its own, and its queues are one loop's",
    "anyio": "keeps no call on the thread of the one before, has no `Local`, no contexts with a "
    "thread of their own, and its memory object streams are not for threads",
    "trio": "is as anyio; its loop is not asyncio's, so that no library of asyncio's runs on it",
    "synchronicity": "runs async code for sync code only: nothing goes to a thread of sync code",
    "aiologic": "has queues and limiters that threads and tasks share, and no crossing of its own: "
    "its limiter is used with `asyncio.to_thread`",
    "janus": "is a queue of one event loop's, and nothing else",
    "culsans": "is a queue, and nothing else",
    "a2wsgi": "is two adapters between WSGI and ASGI, and nothing else",
}
"""By name: what has no row, and why."""

# --- to a thread, and back -----------------------------------------------------------------------

_Shape = Callable[[Callable[[], Awaitable[Any]]], Callable[[int], Any]]

_SEQUENTIAL: _Shape = one_by_one
_AT_ONCE: _Shape = functools.partial(at_once, width=WIDTH)


def _ours_to_thread(shape: _Shape) -> Callable[[Library], Run]:
    return lambda library: in_loop(
        shape(library.sync.sync_to_async(nothing, thread_sensitive=False))
    )


def _asyncio_to_thread(shape: _Shape) -> Run:
    return in_loop(shape(lambda: asyncio.to_thread(nothing)))


def _anyio_to_thread(shape: _Shape) -> Run:
    from anyio.to_thread import run_sync

    return in_loop(shape(lambda: run_sync(nothing)))


def _in_trio(body: Callable[[int], Any]) -> Run:
    import trio

    return lambda n: trio.run(body, n)


def _trio_to_thread_in_turn() -> Run:
    from trio.to_thread import run_sync

    return _in_trio(one_by_one(lambda: run_sync(nothing)))


def _in_a_nursery(call: Callable[[], Awaitable[Any]]) -> Run:
    import trio

    async def body(n: int) -> None:
        for _ in range(n // WIDTH):
            async with trio.open_nursery() as nursery:
                for _ in range(WIDTH):
                    nursery.start_soon(call)

    return _in_trio(body)


def _trio_to_thread_at_once() -> Run:
    from trio.to_thread import run_sync

    return _in_a_nursery(lambda: run_sync(nothing))


# --- with a limiter ------------------------------------------------------------------------------


def _ours_limited(library: Library) -> Run | None:
    if library.name == "asgiref":
        return None
    limiters = importlib.import_module("asgibridge.limiters")
    limiter = limiters.CapacityLimiter(TOKENS)
    return in_loop(
        _AT_ONCE(library.sync.sync_to_async(nothing, thread_sensitive=False, limiter=limiter))
    )


def _anyio_limited() -> Run:
    import anyio

    async def body(n: int) -> None:
        limiter = anyio.CapacityLimiter(TOKENS)  # is to be made on the loop
        await _AT_ONCE(lambda: anyio.to_thread.run_sync(nothing, limiter=limiter))(n)

    return in_loop(body)


def _trio_limited() -> Run:
    import trio

    limiter = trio.CapacityLimiter(TOKENS)
    return _in_a_nursery(lambda: trio.to_thread.run_sync(nothing, limiter=limiter))


def _aiologic_limited() -> Run:
    limiter: Any = importlib.import_module("aiologic").CapacityLimiter(TOKENS)

    async def call() -> None:
        async with limiter:
            await asyncio.to_thread(nothing)

    return in_loop(_AT_ONCE(call))


# --- from a worker back to its loop --------------------------------------------------------------


def _times(call: Callable[[], Any]) -> Callable[[int], None]:
    def work(n: int) -> None:
        for _ in range(n):
            call()

    return work


def _ours_back(library: Library) -> Run:
    work = _times(library.sync.async_to_sync(async_nothing))
    return in_loop(library.sync.sync_to_async(work, thread_sensitive=False))


def _asyncio_back() -> Run:
    async def body(n: int) -> None:
        loop = asyncio.get_running_loop()
        call = lambda: asyncio.run_coroutine_threadsafe(async_nothing(), loop).result()  # noqa: E731
        await asyncio.to_thread(_times(call), n)

    return in_loop(body)


def _anyio_back() -> Run:
    import anyio

    work = _times(lambda: anyio.from_thread.run(async_nothing))
    return in_loop(lambda n: anyio.to_thread.run_sync(work, n))


def _trio_back() -> Run:
    import trio

    work = _times(lambda: trio.from_thread.run(async_nothing))
    return _in_trio(lambda n: trio.to_thread.run_sync(work, n))


# --- sync code that has no loop ------------------------------------------------------------------


def _ours_top(library: Library) -> Run:
    return _times(library.sync.async_to_sync(async_nothing))


def _asyncio_top() -> Run:
    return _times(lambda: asyncio.run(async_nothing()))


def _anyio_top() -> Run:
    import anyio

    return _times(lambda: anyio.run(async_nothing))


def _trio_top() -> Run:
    import trio

    return _times(lambda: trio.run(async_nothing))


# --- sync code, with a loop that stays for all threads --------------------------------------------


def _within(block: Callable[[], contextlib.AbstractContextManager[Callable[[], Any]]]) -> Run:
    def run(n: int) -> None:
        with block() as call:
            for _ in range(n):
                call()

    return run


def _ours_kept(library: Library) -> Run | None:
    if library.name == "asgiref":
        return None
    runners = importlib.import_module("asgibridge.runners")
    call = library.sync.async_to_sync(async_nothing)

    @contextlib.contextmanager
    def block() -> Any:
        with runners.shared_loop():
            yield call

    return _within(block)


def _asyncio_kept() -> Run:
    @contextlib.contextmanager
    def block() -> Any:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            yield lambda: asyncio.run_coroutine_threadsafe(async_nothing(), loop).result()
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    return _within(block)


def _anyio_kept() -> Run:
    from anyio.from_thread import start_blocking_portal

    @contextlib.contextmanager
    def block() -> Any:
        with start_blocking_portal() as portal:
            yield lambda: portal.call(async_nothing)

    return _within(block)


def _synchronicity_kept() -> Run:
    synchronicity: Any = importlib.import_module("synchronicity")
    blocking = synchronicity.Synchronizer().create_blocking(async_nothing, "call", __name__)
    return _times(blocking)


# --- iteration -----------------------------------------------------------------------------------


async def _numbers(n: int) -> AsyncIterator[int]:
    for number in range(n):
        yield number


def _over(iterate: Callable[[int], Any]) -> Run:
    def run(n: int) -> None:
        for _ in range(n // ITEMS):
            for _ in iterate(ITEMS):
                pass

    return run


def _ours_iterated(library: Library) -> Run | None:
    if library.name == "asgiref":
        return None
    iterators = importlib.import_module("asgibridge.iterators")
    return _over(lambda n: iterators.async_to_sync_iterator(_numbers(n)))


def _synchronicity_iterated() -> Run:
    synchronicity: Any = importlib.import_module("synchronicity")
    return _over(synchronicity.Synchronizer().create_blocking(_numbers, "numbers", __name__))


PEER_ROWS = (
    Case(
        "peers-to-thread",
        "a task calls a function on any thread",
        "peers",
        1000,
        _ours_to_thread(_SEQUENTIAL),
        peers={
            "asyncio": lambda: _asyncio_to_thread(_SEQUENTIAL),
            "anyio": lambda: _anyio_to_thread(_SEQUENTIAL),
            "trio": _trio_to_thread_in_turn,
        },
    ),
    Case(
        "peers-to-threads",
        f"{WIDTH} tasks do, at once, per call",
        "peers",
        1000,
        _ours_to_thread(_AT_ONCE),
        peers={
            "asyncio": lambda: _asyncio_to_thread(_AT_ONCE),
            "anyio": lambda: _anyio_to_thread(_AT_ONCE),
            "trio": _trio_to_thread_at_once,
        },
    ),
    Case(
        "peers-limited",
        f"the same, {TOKENS} of them at a time by a limiter",
        "peers",
        1000,
        _ours_limited,
        peers={"anyio": _anyio_limited, "trio": _trio_limited, "aiologic": _aiologic_limited},
    ),
    Case(
        "peers-back",
        "that thread calls a coroutine function on the task's loop",
        "peers",
        1000,
        _ours_back,
        peers={"asyncio": _asyncio_back, "anyio": _anyio_back, "trio": _trio_back},
    ),
    Case(
        "peers-top",
        "sync code calls one, and has no loop",
        "peers",
        60,
        _ours_top,
        peers={"asyncio": _asyncio_top, "anyio": _anyio_top, "trio": _trio_top},
    ),
    Case(
        "peers-kept",
        "the same, on a loop that stays, which all threads may share",
        "peers",
        1000,
        _ours_kept,
        peers={
            "asyncio": _asyncio_kept,
            "anyio": _anyio_kept,
            "synchronicity": _synchronicity_kept,
        },
    ),
    Case(
        "peers-iterated",
        "sync code iterates over an async generator, per item",
        "peers",
        1000,
        _ours_iterated,
        peers={"synchronicity": _synchronicity_iterated},
    ),
)
