"""How the cost of a call grows, the latency of one among many, and the memory of many in flight."""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import sys
import threading
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

from cases import Case, Run, at_once, bare_hop, in_loop, nothing, one_by_one, with_variables
from implementations import Library

VARIABLES = (0, 10, 100, 1000)
IN_FLIGHT = (1, 10, 100, 1000, 10_000)
LEVELS = (1, 10, 50, 100, 200)
CONTEXTS = (1, 10, 100, 1000)
MESSAGES = (1, 10, 100, 1000, 10_000)
CROWD = 50
"""Tasks that hop at the same time where the latency of one hop is measured."""


def _in_flight(width: int) -> Callable[[Library], Run]:
    return lambda library: in_loop(at_once(library.sync.sync_to_async(nothing), width))


def _bare_with_variables(count: int) -> Callable[[], Run]:
    variables = [contextvars.ContextVar[int](f"v{i}") for i in range(count)]

    def make_body(call: Callable[[], Awaitable[None]]) -> Callable[[int], Any]:
        async def body(n: int) -> None:
            for variable in variables:
                variable.set(0)
            await one_by_one(call)(n)

        return body

    return bare_hop(make_body)


def _bare_futures(width: int) -> Callable[[], Run]:
    # No thread at all: what so many tasks and futures cost by themselves.
    async def wait(future: asyncio.Future[None]) -> None:
        await future

    async def body(n: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(n // width):
            futures = [loop.create_future() for _ in range(width)]
            tasks = [loop.create_task(wait(future)) for future in futures]
            await asyncio.sleep(0)
            for future in futures:
                future.set_result(None)
            await asyncio.gather(*tasks)

    return lambda: in_loop(body)


def _nested(levels: int) -> Callable[[Library], Run]:
    def make(library: Library) -> Run:
        # The sync halves lie on one thread's stack, one upon the other.
        sys.setrecursionlimit(100_000)
        threading.stack_size(256 * 2**20)

        def sync_level(left: int) -> None:
            if left:
                down(left - 1)

        async def async_level(left: int) -> None:
            await across(left)

        across = library.sync.sync_to_async(sync_level)
        down = library.sync.async_to_sync(async_level)

        async def body(n: int) -> None:
            for _ in range(n // levels):
                await async_level(levels)

        return in_loop(body)

    return make


def _contexts(width: int) -> Callable[[Library], Run]:
    def make(library: Library) -> Run:
        call = library.sync.sync_to_async(nothing)

        async def one() -> None:
            async with library.sync.ThreadSensitiveContext():
                await call()

        return in_loop(at_once(one, width))

    return make


Messages = Callable[[int], tuple[Callable[[Any], Any], Callable[[], Any], Callable[[], Any]]]


def _messages(count: int, start: Messages) -> Run:
    # All are on their way in before the first is read on its way out.
    async def body(n: int) -> None:
        for _ in range(n // count):
            send, receive, end = start(count)
            for _ in range(count):
                await send({"type": "websocket.receive", "text": "x"})
            for _ in range(count):
                await receive()
            await end()

    return in_loop(body)


def _communicator(count: int) -> Callable[[Library], Run]:
    def make(library: Library) -> Run:
        package = library.sync.__name__.partition(".")[0]
        testing: Any = importlib.import_module(f"{package}.testing")

        async def echo(scope: Any, receive: Any, send: Any) -> None:
            for _ in range(scope["count"]):
                await send(await receive())

        def start(count: int) -> Any:
            communicator = testing.ApplicationCommunicator(echo, {"count": count})
            return communicator.send_input, communicator.receive_output, communicator.wait

        return _messages(count, start)

    return make


def _two_queues(count: int) -> Callable[[], Run]:
    async def echo(there: asyncio.Queue[Any], back: asyncio.Queue[Any], count: int) -> None:
        for _ in range(count):
            await back.put(await there.get())

    def start(count: int) -> Any:
        there: asyncio.Queue[Any] = asyncio.Queue()
        back: asyncio.Queue[Any] = asyncio.Queue()
        task = asyncio.ensure_future(echo(there, back, count))
        return there.put, back.get, lambda: task

    return lambda: _messages(count, start)


def _whole(x: int, least: int) -> int:
    # A multiple of x that is no smaller than `least`.
    return x * -(-least // x)


def _latency(make_call: Callable[[], Awaitable[Any]], n: int) -> Any:
    async def body() -> list[float]:
        seconds: list[float] = []

        async def one() -> None:
            for _ in range(n // CROWD):
                start = time.perf_counter()
                await make_call()
                seconds.append(time.perf_counter() - start)

        await asyncio.gather(*(one() for _ in range(CROWD)))
        return seconds

    return asyncio.run(body())


def _crowd(library: Library) -> Run:
    call = library.sync.sync_to_async(nothing)
    return lambda n: _latency(call, n)


def _peak(probe: Callable[[Callable[[], None]], int]) -> Callable[[Library], Run]:
    # The first call waits until all others have been made, so that they are all there at once.
    def make(library: Library) -> Run:
        def run(n: int) -> float:
            gate = threading.Event()
            wait = library.sync.sync_to_async(gate.wait)
            call = library.sync.sync_to_async(nothing)

            async def body() -> None:
                tasks = [asyncio.ensure_future(wait())]
                tasks += [asyncio.ensure_future(call()) for _ in range(n - 1)]
                for _ in range(3):
                    await asyncio.sleep(0)
                gate.set()
                await asyncio.gather(*tasks)

            one_by_one_first = one_by_one(call)
            asyncio.run(one_by_one_first(10))  # what is made once is not the calls' memory
            return probe(lambda: asyncio.run(body())) / n

        return run

    return make


def _traced(run: Callable[[], None]) -> int:
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _resident(run: Callable[[], None]) -> int:
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit


CURVES = (
    *(
        Case(
            f"variables-{x}",
            f"a hop with {x} context variables set",
            "context variables",
            1000,
            with_variables(x),
            _bare_with_variables(x),
            x=x,
        )
        for x in VARIABLES
    ),
    *(
        Case(
            f"in-flight-{x}",
            f"{x} in flight, per call",
            "in flight",
            _whole(x, 4000),
            _in_flight(x),
            bare_hop(lambda call, x=x: at_once(call, x)),  # type: ignore[misc]
            x=x,
        )
        for x in IN_FLIGHT
    ),
    *(
        Case(
            f"bare-futures-{x}",
            f"{x} tasks awaiting bare futures, per task",
            "bare futures",
            _whole(x, 10_000),
            None,
            _bare_futures(x),
            x=x,
        )
        for x in IN_FLIGHT
    ),
    *(
        Case(
            f"contexts-{x}",
            f"{x} contexts at once, per context",
            "contexts at once",
            _whole(x, 400),
            _contexts(x),
            bare_hop(lambda call, x=x: at_once(call, x)),  # type: ignore[misc]
            x=x,
        )
        for x in CONTEXTS
    ),
    *(
        Case(
            f"messages-{x}",
            f"{x} messages through a communicator, per message",
            "messages",
            _whole(x, 2000),
            _communicator(x),
            _two_queues(x),
            x=x,
        )
        for x in MESSAGES
    ),
    *(
        Case(
            f"nested-{x}",
            f"{x} levels of async and sync, per level",
            "nesting",
            _whole(x, 400),
            _nested(x),
            x=x,
        )
        for x in LEVELS
    ),
)

LATENCY = (
    Case("latency", f"one hop of {CROWD} at a time", "latency", 5000, _crowd, measure="latency"),
)

# In this order: the largest resident size there ever was says nothing after a larger one.
MEMORY = (
    Case("rss", "peak resident memory", "memory", 10_000, _peak(_resident), measure="memory"),
    Case("traced", "peak traced memory", "memory", 10_000, _peak(_traced), measure="memory"),
)
