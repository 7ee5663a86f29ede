"""A sync function waits for a helper thread whose own loop calls back to the function's thread.

The call can never run: it raises. Where the function does not wait, or does so with a time-out, the
call runs, however late.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from anyio.from_thread import start_blocking_portal

from asgibridge import workers
from asgibridge._process import cpython
from asgibridge.sync import ThreadSensitiveContext, async_to_sync, sync_to_async

pytestmark = [
    pytest.mark.timeout(30),
    pytest.mark.skipif(not cpython.is_gil_enabled(), reason="no thread can read another's stack"),
]

thread = sync_to_async(threading.current_thread)


async def at_once():
    return await thread()


async def in_a_task():
    return await asyncio.ensure_future(thread())


async def in_tasks():
    return (await asyncio.gather(thread(), asyncio.sleep(0)))[0]


def start(function, *args):
    """A thread in a copy of the context variables, and the future of what it does."""
    future = Future()

    def run():
        try:
            future.set_result(function(*args))
        except BaseException as error:
            future.set_exception(error)

    helper = threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True)
    helper.start()
    return helper, future


def join(coroutine_function):
    helper, future = start(asyncio.run, coroutine_function())
    helper.join()
    return future.result(0)


def result_of_a_pool(coroutine_function):
    with ThreadPoolExecutor(1) as pool:
        copy = contextvars.copy_context()
        return pool.submit(copy.run, asyncio.run, coroutine_function()).result()


def end_of_a_pool(coroutine_function):
    copy = contextvars.copy_context()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(copy.run, asyncio.run, coroutine_function())
    return future.result(0)


def wait_for_one(coroutine_function):
    copy = contextvars.copy_context()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(copy.run, asyncio.run, coroutine_function())
        futures.wait([future])
        return future.result(0)


def wait_for_all(coroutine_function):
    other, copy = Future(), contextvars.copy_context()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(copy.run, asyncio.run, coroutine_function())
        future.add_done_callback(lambda _: other.set_result(None))
        futures.wait([future, other])
        return future.result(0)


def as_completed(coroutine_function):
    copy = contextvars.copy_context()
    with ThreadPoolExecutor(1) as pool:
        (future,) = futures.as_completed([pool.submit(copy.run, asyncio.run, coroutine_function())])
        return future.result(0)


def run_until_complete(coroutine_function):
    loop = asyncio.new_event_loop()
    try:
        helper, future = start(loop.run_until_complete, coroutine_function())
        helper.join()
        return future.result(0)
    finally:
        loop.close()


def threadsafe(coroutine_function):
    loop = asyncio.new_event_loop()
    helper, _ = start(loop.run_forever)
    try:
        return asyncio.run_coroutine_threadsafe(coroutine_function(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        helper.join(10)
        loop.close()


def of_a_helper_of_a_helper(coroutine_function):
    helper, future = start(result_of_a_pool, coroutine_function)
    helper.join()
    return future.result(0)


def portal(coroutine_function):
    with start_blocking_portal() as each:
        return each.call(coroutine_function)


WAYS = [
    portal,
    join,
    result_of_a_pool,
    end_of_a_pool,
    wait_for_one,
    wait_for_all,
    as_completed,
    run_until_complete,
    threadsafe,
    of_a_helper_of_a_helper,
]
COROUTINES = [at_once, in_a_task, in_tasks]


@pytest.fixture(params=["fresh", "keep"])
def policy(request):
    old = workers.get_policy()
    workers.set_policy(workers.Policy(kind=request.param))
    yield
    workers.set_policy(old)
    workers.end_idle_workers()


@pytest.mark.parametrize("is_in_context", [False, True])
@pytest.mark.parametrize("coroutine_function", COROUTINES)
@pytest.mark.parametrize("wait", WAYS)
def test_that_is_waited_for(wait, coroutine_function, is_in_context):
    async def main():
        context = ThreadSensitiveContext() if is_in_context else None
        if context is not None:
            await context.__aenter__()
        try:
            with pytest.raises(RuntimeError, match=r"would deadlock: .*thread '.*makes this call"):
                await sync_to_async(wait)(coroutine_function)
            return await thread()  # nothing is left of it
        finally:
            if context is not None:
                await context.__aexit__()

    assert isinstance(asyncio.run(main()), threading.Thread)


def test_under_each_policy(policy):
    async def main():
        async with ThreadSensitiveContext():
            with pytest.raises(RuntimeError, match="would deadlock"):
                await sync_to_async(join)(in_a_task)

    asyncio.run(main())


@pytest.mark.parametrize("wait", WAYS)
def test_of_a_function_whose_frame_serves_others(wait):
    """In a top-level call the helper inherits no frame: its call has the process's thread."""

    async def main():
        return await sync_to_async(wait)(in_a_task)

    assert isinstance(async_to_sync(main)(), threading.Thread)


def test_whose_loop_waits_in_a_frame_of_its_own():
    """That frame's thread serves the call."""

    async def main():
        function = sync_to_async(async_to_sync(in_a_task), thread_sensitive=False)
        return await function()

    assert isinstance(asyncio.run(sync_to_async(join)(main)), threading.Thread)


def test_that_is_not_waited_for():
    going = threading.Event()

    async def call():
        going.set()
        return await thread()

    def function():
        helper, future = start(asyncio.run, call())
        assert going.wait(10)
        helper.join(0.3)  # for longer than the first look takes
        assert helper.is_alive()
        return threading.current_thread(), future

    mine, future = asyncio.run(sync_to_async(function)())
    assert future.result(10) is mine


@pytest.mark.parametrize("return_when", [futures.FIRST_COMPLETED, futures.ALL_COMPLETED])
def test_of_several_one_may_end(return_when):
    """The wait ends with the other, or by its time-out; then the call runs."""

    def function():
        other, pool = Future(), ThreadPoolExecutor(1)
        future = pool.submit(contextvars.copy_context().run, asyncio.run, at_once())
        if return_when == futures.FIRST_COMPLETED:
            threading.Timer(0.3, other.set_result, [None]).start()
            futures.wait([future, other], return_when=return_when)
        else:
            futures.wait([future, other], 0.3)
        assert not future.done()
        pool.shutdown(wait=False)
        return threading.current_thread(), future

    mine, future = asyncio.run(sync_to_async(function)())
    assert future.result(10) is mine


def test_with_a_time_out_in_the_helper():
    async def impatient():
        try:
            return await asyncio.wait_for(thread(), 0.3)
        except asyncio.TimeoutError:
            return "fallback"

    assert asyncio.run(sync_to_async(join)(impatient)) == "fallback"


def test_whose_call_nobody_awaits():
    """The loop's own task ends, so the helper does."""

    async def main():
        task = asyncio.ensure_future(thread())
        await asyncio.sleep(0.3)
        return task.done()

    assert asyncio.run(sync_to_async(join)(main)) is False
