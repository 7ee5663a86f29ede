"""What puts our classes in the place of others' before pytest imports a suite of theirs.

``FOREIGN_SUITE`` names the suite, as `foreign.SUITES` does. Where a suite reads private names
of what it tests, a subclass of ours has them here.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import importlib
import inspect
import os
import sys
import threading
import types
from typing import Any

import pytest

import asgibridge.queue as ours
from asgibridge._process.queue_errors import places
from asgibridge.limiters import CapacityLimiter
from asgibridge.pools import LoopExecutor
from asgibridge.sync import sync_to_async
from asgibridge.wsgi import AsgiToWsgi, WsgiToAsgi
from foreign import LEFT_OUT

SUITE = os.environ.get("FOREIGN_SUITE", "")
QUEUES = {
    "Queue": ours.MessageQueue,
    "LifoQueue": ours.LifoQueue,
    "PriorityQueue": ours.PriorityQueue,
}
"""Ours, by the name that the standard library has for them."""


def module_of(name: str, members: dict[str, Any]) -> types.ModuleType:
    module = types.ModuleType(name)
    vars(module).update(members)
    return module


def as_thread_queue(cls: type) -> type:
    """The queue itself, with the methods' names of `queue.Queue`."""
    names = {"put": cls.sync_put, "get": cls.sync_get, "join": cls.sync_join}
    return type(cls)(cls.__name__, (cls,), names)


def as_view(name: str, cls: type, view: type) -> type:
    """A view that makes its queue, under the name that the suite expects."""

    def __init__(self: Any, maxsize: float = 0) -> None:
        view.__init__(self, cls(maxsize))

    return type(name, (view,), {"__init__": __init__})


def put_into_test_queue() -> None:
    # It has the tests of each class twice, for a queue in C and for one in Python: the one is the
    # queue here, and the other its view.
    errors = {"Empty": ours.QueueEmpty, "Full": ours.QueueFull, "ShutDown": ours.QueueShutDown}
    suite = importlib.import_module("test.test_queue")
    threads = {name: as_thread_queue(cls) for name, cls in QUEUES.items()}
    for name, cls in threads.items():
        cls.__name__ = name
    views = {name: as_view(name, cls, ours.SyncQueue) for name, cls in QUEUES.items()}
    for name, cls in vars(suite).items():
        if inspect.isclass(cls) and name.startswith(("C", "Py")) and "SimpleQueue" not in name:
            chosen = threads if name.startswith("C") else views
            cls.queue = module_of("queue", {**errors, **chosen})


def put_into_test_queues() -> None:
    suite = importlib.import_module("test.test_asyncio.test_queues")
    chosen: dict[str, type] = QUEUES
    if SUITE.endswith("views"):
        chosen = {name: as_view(name, cls, ours.AsyncQueue) for name, cls in QUEUES.items()}
    for cls in vars(suite).values():
        if inspect.isclass(cls) and getattr(cls, "q_class", None) is not None:
            cls.q_class = chosen[cls.q_class.__name__]
    suite.asyncio = module_of("asyncio", {**vars(asyncio), **chosen})


def put_into_test_concurrent_futures() -> None:
    # Some tests ask for the class as they run, others have it in a class they derive from.
    concurrent.futures.ThreadPoolExecutor = LoopExecutor
    try:
        util = importlib.import_module("test.test_concurrent_futures.util")
    except ModuleNotFoundError:
        util = importlib.import_module("test.test_concurrent_futures")
    util.ThreadPoolMixin.executor_type = LoopExecutor
    if util.__name__.endswith("util"):
        util = importlib.import_module("test.test_concurrent_futures.test_shutdown")
    run_child = util.assert_python_ok

    def run_child_on_ours(*words: str, **options: Any) -> Any:
        stock = "from concurrent.futures import LoopExecutor"
        here = "from asgibridge.pools import LoopExecutor"
        return run_child(*(word.replace(stock, here) for word in words), **options)

    util.assert_python_ok = run_child_on_ours


def put_for_janus() -> None:
    class SyncView(ours.SyncQueue[Any]):
        @property
        def _parent(self) -> Any:
            return self.wrapped

    def sync_q(self: Any) -> Any:
        return SyncView(self)

    def _maxsize(self: Any) -> Any:
        return self.maxsize

    def set_maxsize(self: Any, value: int) -> None:
        self.maxsize = value

    # The pure kernel has an attribute of this name, but who sets it does not change the limit.
    slot = getattr(ours.MessageQueue, "_maxsize", None)

    def set_slot(self: Any, value: float) -> None:
        slot.__set__(self, value)
        self._limit = places(value)

    mine = {
        "sync_q": property(sync_q),
        "_maxsize": property(slot.__get__, set_slot) if slot else property(_maxsize, set_maxsize),
        "_sync_mutex": threading.Lock(),
    }
    for side in ("sync", "async"):
        mine[f"_{side}_not_empty_waiting"] = ours.MessageQueue.getting
        mine[f"_{side}_not_full_waiting"] = ours.MessageQueue.putting
    queues = {name: type(name, (cls,), mine) for name, cls in QUEUES.items()}
    sys.modules["janus"] = module_of("janus", {**vars(ours), **queues})


def put_for_culsans() -> None:
    queues = {name: type(name, (cls,), {"__slots__": ()}) for name, cls in QUEUES.items()}
    sys.modules["culsans"] = module_of("culsans", {**vars(ours), **queues})


def put_for_a2wsgi() -> None:
    def from_asgi(application: Any, wait_time: float | None = None) -> Any:
        return AsgiToWsgi(application, lifespan="off", wait=wait_time)  # a2wsgi has no lifespan

    def absent(*_arguments: Any) -> Any:
        raise AssertionError("a2wsgi's own, which has no counterpart here")

    sys.modules["a2wsgi"] = module_of("a2wsgi", {})
    sys.modules["a2wsgi.asgi"] = module_of(
        "a2wsgi.asgi", {"ASGIMiddleware": from_asgi, "build_scope": absent}
    )
    sys.modules["a2wsgi.wsgi"] = module_of(
        "a2wsgi.wsgi", {"WSGIMiddleware": WsgiToAsgi, "build_environ": absent, "Body": absent}
    )


def put_for_anyio() -> None:
    sys.modules["trustme"] = module_of("trustme", {"CA": None})  # for its tests of TLS
    import anyio
    import anyio.abc

    async def run_sync(
        func: Any, *args: Any, abandon_on_cancel: bool = False, limiter: Any = None
    ) -> Any:
        call = sync_to_async(
            func, thread_sensitive=False, abandon_on_cancel=abandon_on_cancel, limiter=limiter
        )
        return await call(*args)

    anyio.CapacityLimiter = anyio.abc.CapacityLimiter = CapacityLimiter
    anyio.to_thread.run_sync = run_sync


@pytest.fixture
def benchmark() -> Any:
    """That of pytest-benchmark, which janus's suite asks for: here it calls once."""
    return lambda function: function()


def pytest_load_initial_conftests() -> None:  # the first hook: anyio's conftest.py is next
    {
        "test_queue": put_into_test_queue,
        "test_asyncio_queues": put_into_test_queues,
        "test_asyncio_queues_views": put_into_test_queues,
        "test_concurrent_futures": put_into_test_concurrent_futures,
        "janus": put_for_janus,
        "culsans": put_for_culsans,
        "a2wsgi": put_for_a2wsgi,
        "anyio": put_for_anyio,
    }[SUITE]()


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    left_out = [
        item for item in items if any(name in f"{item.nodeid}$" for name in LEFT_OUT.get(SUITE, {}))
    ]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
