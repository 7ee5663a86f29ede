"""Where no thread can be started: on a loop that runs executor work itself, functions run there.

Such loops are Pyodide's, and some of test suites. On any other loop the error is raised.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading

import pytest

from asgibridge import workers
from asgibridge.iterators import sync_to_async_iterator
from asgibridge.limiters import CapacityLimiter
from asgibridge.sync import SyncToAsync, ThreadSensitiveContext, sync_to_async
from asgibridge.testing import HttpCommunicator
from asgibridge.wsgi import WsgiToAsgi

pytestmark = [
    pytest.mark.timeout(20),
    pytest.mark.thread_unsafe(reason="no thread can be started"),
]


class InlineLoop(asyncio.SelectorEventLoop):
    """Runs executor work in the call that asks for it."""

    def run_in_executor(self, executor, func, *args):
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except BaseException as error:
            future.set_exception(error)
        return future


@pytest.fixture(autouse=True)
def no_threads(monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    workers.end_idle_workers()
    monkeypatch.setattr(SyncToAsync, "single_thread_executor", _executor())
    monkeypatch.setattr(threading.Thread, "start", start)


def _executor():
    return type(SyncToAsync.single_thread_executor)()


@pytest.fixture(params=["fresh", "keep"])
def policy(request):
    old = workers.get_policy()
    workers.set_policy(workers.Policy(kind=request.param))
    yield
    workers.set_policy(old)


def run(loop, coroutine):
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.close()


async def hop(**options):
    return await sync_to_async(threading.get_ident, **options)()


async def in_context():
    async with ThreadSensitiveContext():
        return await hop()


async def limited():
    return await hop(thread_sensitive=False, limiter=CapacityLimiter(1))


async def named():
    return await hop(thread_sensitive=False, thread_name="here")


async def not_sensitive():
    return await hop(thread_sensitive=False)


async def iterated():
    idents = (threading.get_ident() for _ in range(1))
    (ident,) = [each async for each in sync_to_async_iterator(idents)]
    return ident


async def request(**options):
    def application(environ, start_response):
        start_response("200 OK", [])
        return [str(threading.get_ident()).encode()]

    async with HttpCommunicator(WsgiToAsgi(application, **options)) as http:
        return int((await http.get_response()).text)


async def request_with_threads():
    return await request(workers=2)


WAYS = [hop, in_context, not_sensitive, limited, named, iterated, request, request_with_threads]


@pytest.mark.parametrize("way", WAYS)
def test_on_a_loop_that_runs_the_work_itself(way, policy):
    assert run(InlineLoop(), way()) == threading.get_ident()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("make", [asyncio.SelectorEventLoop, InlineLoop])
def test_in_a_browser(monkeypatch, way, make):
    monkeypatch.setattr(sys, "platform", "emscripten")
    assert run(make(), way()) == threading.get_ident()


@pytest.mark.parametrize("way", WAYS)
def test_on_any_other_loop(way):
    with pytest.raises(RuntimeError, match="can't start new thread"):
        run(asyncio.SelectorEventLoop(), way())


def test_what_the_function_raises():
    async def main():
        with pytest.raises(LookupError, match="mine"):
            await sync_to_async(raise_it)()
        return "gone on"

    def raise_it():
        raise LookupError("mine")

    assert run(InlineLoop(), main()) == "gone on"


def test_the_variables_that_it_sets():
    variable = contextvars.ContextVar("variable")

    async def main():
        await sync_to_async(variable.set)("set")
        return variable.get()

    assert run(InlineLoop(), main()) == "set"


def test_a_loop_whose_executor_has_threads(monkeypatch):
    """The work does not go to one of them, where other work may run."""
    going = threading.Event()

    class OtherLoop(asyncio.SelectorEventLoop):
        def run_in_executor(self, executor, func, *args):
            going.set()
            return self.create_future()

    with pytest.raises(RuntimeError, match="can't start new thread"):
        run(OtherLoop(), hop())
    assert going.is_set()
