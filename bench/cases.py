"""The cases: what is timed, defined once, for both runners (`paired.py` and the pytest suite).

A case is made for a `Library`, or for the floor, and is then a function of the number of
operations. Everything it calls does nothing, so what is left is the bridge. The curves are in
`curves.py`.
"""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import queue
import threading
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from implementations import PEERS, Library

Run = Callable[[int], Any]


@dataclass(frozen=True)
class Case:
    """One thing to measure."""

    key: str
    title: str
    group: str
    operations: int
    """How many make a sample."""
    make: Callable[[Library], Run | None] | None
    """Builds it for a bridge, or returns None where that cannot do it; None: it is the floor's
    alone."""
    floor: Callable[[], Run] | None = None
    """Builds the least that could do it, if there is such a thing."""
    peers: dict[str, Callable[[], Run]] = field(default_factory=dict)
    """Build the same with a peer."""
    x: int | None = None
    """Its place on a curve."""
    measure: str = "time"
    """``time``: the run is timed; ``latency``: it returns seconds of each operation; ``memory``: it
    returns bytes per operation."""

    def has(self, name: str) -> bool:
        """Whether there may be something of this case to measure for an implementation or peer."""
        if name in PEERS:
            return name in self.peers
        return (self.floor if name == "floor" else self.make) is not None

    def build(self, name: str, library: Library | None) -> Run | None:
        """The function to measure, or None if there is nothing of this case to measure.

        :param library: None of the floor, and of a peer.
        """
        if name in PEERS:
            return self.peers[name]() if name in self.peers else None
        if library is None:
            return None if self.floor is None else self.floor()
        return None if self.make is None else self.make(library)


def nothing() -> None:
    pass


async def async_nothing() -> None:
    pass


def in_loop(body: Callable[[int], Coroutine[Any, Any, Any]]) -> Run:
    """Run the body on an event loop of its own."""
    return lambda n: asyncio.run(body(n))


def one_by_one(call: Callable[[], Awaitable[Any]]) -> Callable[[int], Coroutine[Any, Any, None]]:
    async def body(n: int) -> None:
        for _ in range(n):
            await call()

    return body


def at_once(
    call: Callable[[], Awaitable[Any]], width: int
) -> Callable[[int], Coroutine[Any, Any, None]]:
    async def body(n: int) -> None:
        for _ in range(n // width):
            await asyncio.gather(*(call() for _ in range(width)))

    return body


# Hops from a loop to a thread and back.


def _sequential(library: Library) -> Run:
    return in_loop(one_by_one(library.sync.sync_to_async(nothing)))


def _gathered(library: Library) -> Run:
    return in_loop(at_once(library.sync.sync_to_async(nothing), 100))


def _pool(library: Library) -> Run:
    return in_loop(one_by_one(library.sync.sync_to_async(nothing, thread_sensitive=False)))


def with_variables(count: int) -> Callable[[Library], Run]:
    """A hop with so many context variables set, none of which the function changes."""

    def make(library: Library) -> Run:
        variables = [contextvars.ContextVar[int](f"v{i}") for i in range(count)]
        sequential = one_by_one(library.sync.sync_to_async(nothing))

        async def body(n: int) -> None:
            for variable in variables:
                variable.set(0)
            await sequential(n)

        return in_loop(body)

    return make


def bare_hop(make_body: Callable[[Callable[[], Awaitable[None]]], Any]) -> Callable[[], Run]:
    """`SimpleQueue.put` there, `call_soon_threadsafe(future.set_result)` back."""

    def make() -> Run:
        async def body(n: int) -> None:
            loop = asyncio.get_running_loop()
            inbox: queue.SimpleQueue[asyncio.Future[None] | None] = queue.SimpleQueue()

            def work() -> None:
                while True:
                    future = inbox.get()
                    if future is None:
                        return
                    loop.call_soon_threadsafe(future.set_result, None)

            async def call() -> None:
                future = loop.create_future()
                inbox.put(future)
                await future

            worker = threading.Thread(target=work)
            worker.start()
            try:
                await make_body(call)(n)
            finally:
                inbox.put(None)
                worker.join()

        return in_loop(body)

    return make


# From sync code to a loop.


def _back_on_the_main_thread(library: Library) -> Run:
    sequential = one_by_one(library.sync.sync_to_async(nothing))
    return library.sync.async_to_sync(sequential)  # type: ignore[no-any-return]


def _in_worker(library: Library) -> Run:
    call = library.sync.async_to_sync(async_nothing)

    def work(n: int) -> None:
        for _ in range(n):
            call()

    return in_loop(library.sync.sync_to_async(work))


def _top_level(library: Library) -> Run:
    call = library.sync.async_to_sync(async_nothing)

    def run(n: int) -> None:
        for _ in range(n):
            call()

    return run


def _contexts(library: Library, **options: Any) -> Run:
    call = library.sync.sync_to_async(nothing)

    async def body(n: int) -> None:
        for _ in range(n):
            async with library.sync.ThreadSensitiveContext(**options):
                await call()

    return in_loop(body)


def _new_contexts(library: Library) -> Run:
    try:
        library.sync.ThreadSensitiveContext(policy="new")
    except (TypeError, ValueError):  # asgiref, and asgibridge before it had more kinds than two
        return _contexts(library)
    return _contexts(library, policy="new")


def _policy(library: Library, **values: Any) -> Any:
    # None of asgiref, and of asgibridge before it had these values.
    try:
        workers = importlib.import_module(f"{library.sync.__name__.partition('.')[0]}.workers")
        return workers.Policy(**values)
    except (ImportError, TypeError):
        return None


def _kept_contexts(**values: Any) -> Callable[[Library], Run | None]:
    def make(library: Library) -> Run | None:
        policy = _policy(library, kind="keep", **values)
        return None if policy is None else _contexts(library, policy=policy)

    return make


def hops_of_one_context(library: Library, **values: Any) -> Run:
    """Hops in a context that has a policy of these values."""
    policy = _policy(library, **values)
    sequential = one_by_one(library.sync.sync_to_async(nothing))

    async def body(n: int) -> None:
        async with library.sync.ThreadSensitiveContext(policy=policy):
            await sequential(n)

    return in_loop(body)


def _released(library: Library) -> Run | None:
    policy = _policy(library, kind="keep", release_idle=60)
    if policy is None:
        return None
    call = library.sync.sync_to_async(nothing)

    async def body(n: int) -> None:
        context = library.sync.ThreadSensitiveContext(policy=policy)
        async with context:
            await call()
            lease = library.sync.SyncToAsync.context_to_thread_executor[context]
            for _ in range(n):
                # At once, and not in a minute: what its worker does when it has idled.
                worker = lease._worker
                worker.executor.post(lease.release_item(worker))
                while lease._worker is not None or not lease._giving_back.is_over:
                    await asyncio.sleep(0)
                await call()

    return in_loop(body)


# Wrappers.


def _build_sync_to_async(library: Library) -> Run:
    sync_to_async = library.sync.sync_to_async

    def run(n: int) -> None:
        for _ in range(n):
            sync_to_async(nothing)

    return run


def _build_async_to_sync(library: Library) -> Run:
    async_to_sync = library.sync.async_to_sync

    def run(n: int) -> None:
        for _ in range(n):
            async_to_sync(async_nothing)

    return run


def _bind(library: Library) -> Run:
    class Methods:
        method = library.sync.sync_to_async(nothing)

    methods = Methods()

    def run(n: int) -> None:
        for _ in range(n):
            methods.method  # noqa: B018

    return run


# Local; its floor is threading.local.


def _read_of(attributes: Any) -> Run:
    attributes.value = 0

    def run(n: int) -> None:
        for _ in range(n):
            attributes.value  # noqa: B018

    return run


def _write_of(attributes: Any) -> Run:
    def run(n: int) -> None:
        for i in range(n):
            attributes.value = i

    return run


ROWS = (
    Case(
        "hop",
        "`await sync_to_async(f)()`",
        "hops",
        1000,
        _sequential,
        bare_hop(one_by_one),
    ),
    Case(
        "gathered",
        "100 of them gathered, per call",
        "hops",
        1000,
        _gathered,
        bare_hop(lambda call: at_once(call, 100)),
    ),
    Case(
        "pool",
        "`thread_sensitive=False`",
        "hops",
        1000,
        _pool,
    ),
    Case("variables", "with 100 context variables set", "hops", 1000, with_variables(100)),
    Case("main", "back on the waiting main thread", "hops", 1000, _back_on_the_main_thread),
    Case(
        "worker",
        "`async_to_sync` in a worker",
        "hops",
        1000,
        _in_worker,
    ),
    Case("top", "`async_to_sync` at the top level", "contexts", 60, _top_level),
    Case("context", "`ThreadSensitiveContext`, one call", "contexts", 60, _contexts),
    Case("context-new", "the same, on a new thread each", "contexts", 60, _new_contexts),
    Case(
        "context-keep",
        "the same, on a kept one",
        "contexts",
        60,
        _kept_contexts(release_idle=None),
    ),
    Case(
        "context-idle",
        "the same, with `release_idle`",
        "contexts",
        60,
        _kept_contexts(release_idle=1),
    ),
    Case(
        "released",
        "a call in a context that was released, and its release",
        "contexts",
        60,
        _released,
    ),
    Case("build", "building a `sync_to_async` wrapper", "wrappers", 3000, _build_sync_to_async),
    Case("bind", "its `__get__`", "wrappers", 3000, _bind),
    Case("build-a2s", "building an `async_to_sync` one", "wrappers", 3000, _build_async_to_sync),
    Case(
        "read",
        "`Local` read",
        "local",
        20000,
        lambda library: _read_of(library.local.Local()),
        lambda: _read_of(threading.local()),
    ),
    Case(
        "write",
        "`Local` write, a new value each time",
        "local",
        20000,
        lambda library: _write_of(library.local.Local()),
        lambda: _write_of(threading.local()),
    ),
    Case(
        "read-critical",
        "thread-critical `Local` read",
        "local",
        20000,
        lambda library: _read_of(library.local.Local(thread_critical=True)),
        lambda: _read_of(threading.local()),
    ),
)
