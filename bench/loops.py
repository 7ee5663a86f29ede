"""Top-level calls of async code from threads: which loop they run on, and what that costs.

A loop for each call, as `async_to_sync` has it without more; one for a block
(`AsyncSingleThreadContext(persistent_loop=True)`); one for all threads of the process
(`runners.shared_loop`). Beside them anyio's `BlockingPortal`, and the least that there is, a bare
`asyncio.run_coroutine_threadsafe(...).result()` on a loop in a thread. One thread makes the calls,
or `CROWD` threads make them at the same time, as those of a WSGI server do.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import importlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

from cases import Case, Run, async_nothing
from implementations import Library

CROWD = 50
"""Threads that call at the same time."""

KINDS = {
    "new": "a loop for each call",
    "persistent": "a persistent loop",
    "shared": "the shared loop",
    "portal": "anyio's `BlockingPortal.call`",
    "bare": "bare `run_coroutine_threadsafe`",
}
THREADS = (1, CROWD)

Call = Callable[[], Any]


def _repeat(call: Call, count: int) -> None:
    for _ in range(count):
        call()


def _run(
    width: int, prepare: Callable[[], AbstractContextManager[Call]], *, copies: bool = False
) -> Run:
    """The function of a case: ``width`` threads that make the calls, within what is prepared.

    :param copies: whether the threads are to call in copies of this context.
    """
    if width == 1:

        def alone(n: int) -> None:
            with prepare() as call:
                _repeat(call, n)

        return alone
    threads = ThreadPoolExecutor(width)

    def together(n: int) -> None:
        begin = threading.Barrier(width)

        def work(call: Call) -> None:
            begin.wait()  # so that each thread has its share
            _repeat(call, n // width)

        with prepare() as call:
            futures = [
                threads.submit(contextvars.copy_context().run, work, call)
                if copies
                else threads.submit(work, call)
                for _ in range(width)
            ]
            for future in futures:
                future.result()

    return together


def _new(width: int) -> Callable[[Library], Run]:
    def make(library: Library) -> Run:
        call = library.sync.async_to_sync(async_nothing)
        return _run(width, lambda: contextlib.nullcontext(call))

    return make


def _persistent(width: int) -> Callable[[Library], Run | None]:
    def make(library: Library) -> Run | None:
        call = library.sync.async_to_sync(async_nothing)
        try:
            library.sync.AsyncSingleThreadContext(persistent_loop=True)
        except TypeError:  # asgiref
            return None

        @contextlib.contextmanager
        def prepare() -> Any:
            with library.sync.AsyncSingleThreadContext(persistent_loop=True):
                yield call

        return _run(width, prepare, copies=True)

    return make


def _shared(width: int) -> Callable[[Library], Run | None]:
    def make(library: Library) -> Run | None:
        call = library.sync.async_to_sync(async_nothing)
        try:
            runners = importlib.import_module(f"{library.sync.__name__.partition('.')[0]}.runners")
            shared_loop = runners.shared_loop
        except (ImportError, AttributeError):  # asgiref, and asgibridge before it had one
            return None

        @contextlib.contextmanager
        def prepare() -> Any:
            with shared_loop():
                yield call

        return _run(width, prepare)

    return make


def _portal(width: int) -> Callable[[], Run]:
    @contextlib.contextmanager
    def prepare() -> Any:
        from anyio.from_thread import start_blocking_portal

        with start_blocking_portal() as portal:
            yield lambda: portal.call(async_nothing)

    return lambda: _run(width, prepare)


def _bare(width: int) -> Callable[[], Run]:
    @contextlib.contextmanager
    def prepare() -> Any:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            yield lambda: asyncio.run_coroutine_threadsafe(async_nothing(), loop).result()
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    return lambda: _run(width, prepare)


def key(kind: str, width: int) -> str:
    """Of the case."""
    return f"loop-{kind}-{width}"


def _case(kind: str, width: int) -> Case:
    title = f"{KINDS[kind]}, {width} thread{'s' if width > 1 else ''}"
    # Enough that beginning and ending the one loop does not count. A loop each time is slow.
    operations = 1000 if kind == "new" else 5000
    if kind == "portal":
        portal = _portal(width)
        # A column of its own has no peer in the pages: it is in that of the floor.
        return Case(key(kind, width), title, "loops", operations, None, portal, {"anyio": portal})
    if kind == "bare":
        return Case(key(kind, width), title, "loops", operations, None, _bare(width))
    make = {"new": _new, "persistent": _persistent, "shared": _shared}[kind](width)
    return Case(key(kind, width), title, "loops", operations, make)


LOOPS = tuple(_case(kind, width) for kind in KINDS for width in THREADS)
