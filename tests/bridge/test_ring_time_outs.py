"""A call in a ring, with a time-out around it: that ends the ring, and its fall-back runs."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from asgibridge._process.deadline import Deadline
from asgibridge.sync import async_to_sync, sync_to_async

pytestmark = pytest.mark.timeout(30)

thread = sync_to_async(threading.current_thread)
SHORT = 0.3


def run(coroutine):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def elsewhere(coroutine):
    """A task that inherits nothing: neither a frame that serves it nor a context."""
    return contextvars.Context().run(asyncio.ensure_future, coroutine)


async def wait_for(awaitable):
    return await asyncio.wait_for(awaitable, SHORT)


async def own_timeout(awaitable):
    async with Deadline(SHORT, asyncio.get_running_loop()):
        return await awaitable


async def stdlib_timeout(awaitable):
    async with asyncio.timeout(SHORT):
        return await awaitable


async def around_a_gather(awaitable):
    return await asyncio.wait_for(asyncio.gather(awaitable, asyncio.sleep(0)), SHORT)


async def around_a_task_of_a_task(awaitable):
    async def outer():
        return await asyncio.ensure_future(awaitable)

    return await asyncio.wait_for(asyncio.ensure_future(outer()), SHORT)


async def in_a_group(awaitable):
    async def call():
        return await awaitable

    async with asyncio.timeout(SHORT):
        async with asyncio.TaskGroup() as group:
            group.create_task(call())


async def by_hand(awaitable, cancelling=lambda task: task.cancel):
    task = asyncio.current_task()
    asyncio.get_running_loop().call_later(SHORT, cancelling(task))
    try:
        return await awaitable
    except asyncio.CancelledError:
        if sys.version_info >= (3, 11):
            task.uncancel()
        raise asyncio.TimeoutError from None


async def by_a_function_around_the_task(awaitable):
    return await by_hand(awaitable, lambda task: lambda: task.cancel())


async def by_a_partial(awaitable):
    return await by_hand(awaitable, lambda task: functools.partial(task.cancel))


async def by_the_class(awaitable):
    return await by_hand(awaitable, lambda task: functools.partial(asyncio.Task.cancel, task))


WAYS = [wait_for, own_timeout, around_a_gather, around_a_task_of_a_task, by_hand]
WAYS += [by_a_function_around_the_task, by_a_partial, by_the_class]
if sys.version_info >= (3, 11):
    WAYS += [stdlib_timeout, in_a_group]


@pytest.mark.parametrize("way", WAYS)
def test_around_the_call(way):
    """The process's thread waits for the task, and that for the thread."""

    async def patient():
        try:
            return await way(thread())
        except (asyncio.TimeoutError, TimeoutError):
            return "fallback"

    async def inner():
        await asyncio.sleep(0)
        return await elsewhere(patient())

    assert run(sync_to_async(async_to_sync(inner))()) == "fallback"
    assert run(thread()) is run(thread())


@pytest.mark.parametrize("way", WAYS)
def test_around_another_link(way):
    async def inner():
        await asyncio.sleep(0)
        try:
            return await way(elsewhere(thread()))
        except (asyncio.TimeoutError, TimeoutError):
            return "fallback"

    assert run(sync_to_async(async_to_sync(inner))()) == "fallback"


def test_around_a_call_that_was_queued_before():
    """The waiting thread finds the ring, and leaves it to the time-out."""

    async def main():
        loop = asyncio.get_running_loop()
        begun, go, tasks = asyncio.Event(), threading.Event(), []

        async def inner():
            return await tasks[0]

        def work():
            loop.call_soon_threadsafe(begun.set)
            go.wait(10)
            return async_to_sync(inner)()

        async def patient():
            try:
                return await asyncio.wait_for(thread(), 1.2)
            except asyncio.TimeoutError:
                return "fallback"

        working = asyncio.ensure_future(sync_to_async(work)())
        await begun.wait()
        tasks.append(asyncio.ensure_future(patient()))
        await asyncio.sleep(0)
        go.set()
        return await working

    assert run(main()) == "fallback"


def test_a_timer_that_only_looks_is_none():
    async def watched():
        task = asyncio.current_task()
        timer = asyncio.get_running_loop().call_later(60, lambda: print(task))
        try:
            return await thread()
        finally:
            timer.cancel()

    async def inner():
        await asyncio.sleep(0)
        return await elsewhere(watched())

    with pytest.raises(RuntimeError, match="would deadlock"):
        run(sync_to_async(async_to_sync(inner))())


def test_that_has_ended_before():
    """Only a time-out that is still to come counts."""

    async def late():
        await wait_for(asyncio.sleep(0))
        return await thread()

    async def inner():
        await asyncio.sleep(0)
        return await elsewhere(late())

    with pytest.raises(RuntimeError, match="would deadlock"):
        run(sync_to_async(async_to_sync(inner))())
