"""What docs/install.md says of Pyodide, case by case: run in it, by pyodide_run.mjs.

There a program is a task of the browser's (or node's) event loop, and no thread can be started. The
cases are coroutines that this loop runs one after the other; each asserts, and `main` returns how
many failed.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import traceback
from typing import Any

import asgiref.sync

import asgibridge
import asgibridge.autoinstall
from asgibridge import workers
from asgibridge.iterators import sync_to_async_iterator
from asgibridge.limiters import CapacityLimiter
from asgibridge.local import Local
from asgibridge.queue import MessageQueue
from asgibridge.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
from asgibridge.testing import ApplicationCommunicator
from asgibridge.wsgi import WsgiToAsgi

SECONDS = 10
"""For a case: what waits for a thread here would wait for ever."""

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


async def the_pure_wheel_is_in_asgirefs_place() -> None:
    assert asgibridge.IMPLEMENTATION == "pure"
    assert asgiref.sync.sync_to_async is sync_to_async


async def a_sync_function_runs_on_the_loops_thread() -> None:
    for thread_sensitive in (True, False):
        here = sync_to_async(threading.get_ident, thread_sensitive=thread_sensitive)
        assert await here() == threading.get_ident()


async def many_at_once() -> None:
    numbers = await asyncio.gather(*(sync_to_async(int)(str(n)) for n in range(100)))
    assert numbers == list(range(100))


async def in_a_context_of_each_policy() -> None:
    for kind in ("fresh", "keep", "new"):
        async with ThreadSensitiveContext(policy=kind):
            assert await sync_to_async(int)("7") == 7


async def an_error_comes_back() -> None:
    try:
        await sync_to_async(int)("x")
    except ValueError:
        return
    raise AssertionError("no error")


async def context_variables_go_both_ways() -> None:
    def change() -> str:
        before = variable.get()
        variable.set("inside")
        return before

    variable.set("outside")
    assert await sync_to_async(change)() == "outside"
    assert variable.get() == "inside"


async def a_local_is_seen_on_both_sides() -> None:
    local: Any = Local()
    local.value = 1
    await sync_to_async(lambda: setattr(local, "value", local.value + 1))()
    assert local.value == 2


async def a_top_level_call_says_that_it_needs_a_thread() -> None:
    async def seven() -> int:
        return 7

    try:
        async_to_sync(seven)()
    except RuntimeError:
        return
    raise AssertionError("no error")


async def a_limiter_gives_its_tokens_back() -> None:
    limiter = CapacityLimiter(1)
    call = sync_to_async(int, thread_sensitive=False, limiter=limiter)
    assert await asyncio.gather(*(call(str(n)) for n in range(5))) == list(range(5))
    assert limiter.available_tokens == 1


async def a_queue_between_tasks() -> None:
    queue: MessageQueue[int] = MessageQueue(2)

    async def put() -> None:
        for number in range(10):
            await queue.async_put(number)

    putting = asyncio.ensure_future(put())
    assert [await queue.async_get() for _ in range(10)] == list(range(10))
    await putting


async def a_sync_iterator() -> None:
    assert [number async for number in sync_to_async_iterator(range(20))] == list(range(20))


async def an_asgi_application_in_a_test() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        await send({"type": "answer", "text": await sync_to_async(str.upper)(message["text"])})

    communicator = ApplicationCommunicator(application, {"type": "test"})
    await communicator.send_input({"type": "question", "text": "so"})
    assert (await communicator.receive_output())["text"] == "SO"
    await communicator.wait()


async def a_wsgi_application() -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ["PATH_INFO"].encode()]

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/here",
        "query_string": b"",
        "headers": [],
        "http_version": "1.1",
        "server": ("localhost", 80),
    }
    communicator = ApplicationCommunicator(WsgiToAsgi(application), scope)
    await communicator.send_input({"type": "http.request"})
    assert (await communicator.receive_output())["status"] == 200
    assert (await communicator.receive_output())["body"] == b"/here"
    await communicator.wait()


async def the_figures_can_be_asked_for() -> None:
    assert workers.stats().limit is None


CASES = [
    the_pure_wheel_is_in_asgirefs_place,
    a_sync_function_runs_on_the_loops_thread,
    many_at_once,
    in_a_context_of_each_policy,
    an_error_comes_back,
    context_variables_go_both_ways,
    a_local_is_seen_on_both_sides,
    a_top_level_call_says_that_it_needs_a_thread,
    a_limiter_gives_its_tokens_back,
    a_queue_between_tasks,
    a_sync_iterator,
    an_asgi_application_in_a_test,
    a_wsgi_application,
    the_figures_can_be_asked_for,
]


async def main() -> int:
    """How many cases failed."""
    failed = 0
    for case in CASES:
        try:
            await asyncio.wait_for(case(), SECONDS)
        except BaseException:
            failed += 1
            print(f"FAILED: {case.__name__}\n{traceback.format_exc()}")
        else:
            print(f"passed: {case.__name__}")
    print(f"{len(CASES) - failed} passed, {failed} failed")
    return failed
