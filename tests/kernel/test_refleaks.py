"""Each name of the kernel, used many times: neither references nor memory are left behind.

`test_leaks.py` does so for whole calls, in processes of their own. This is about every entry point
by itself, whichever way it ends. On a debug build of Python all references are counted, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import sys
import sysconfig
import threading
from concurrent.futures import Future

import pytest

from asgibridge import _pure
from asgibridge._process.items import FutureCall

pytestmark = pytest.mark.slow

TIMES = 60
NOISE = 40
"""What is left by each use is more; caches, and freelists of 32 objects, are less."""

variable = contextvars.ContextVar("variable")


def function(*args):
    return args


async def afunction():
    pass


def raises(error, function, *args):
    with pytest.raises(error):
        function(*args)


def with_loop(use):
    """``use(kernel, loop)`` with one loop for all the times."""

    def exercise(kernel):
        loop = asyncio.new_event_loop()
        try:
            yield lambda: loop.run_until_complete(use(kernel, loop))
        finally:
            loop.close()

    return exercise


def plain(use):
    def exercise(kernel):
        yield lambda: use(kernel)

    return exercise


@plain
def async_call(kernel):
    for outcome in ("set_result", "set_exception"):
        call = kernel.AsyncCall()
        assert not call.done()
        call.add_done_callback(function)
        getattr(call, outcome)(ValueError())
        raises(Exception, call.set_result, None)
        raises(ValueError, call.result) if outcome == "set_exception" else call.result()


@with_loop
async def sync_call(kernel, loop):
    call = kernel.SyncCall(loop, function)
    call.run()
    call.deliver()
    assert await call == ()
    failing = kernel.SyncCall(loop, lambda: 1 // 0)
    failing.run()
    failing.deliver()
    with pytest.raises(ZeroDivisionError):
        await failing
    local = threading.local()
    for target in (function, lambda: 1 // 0):
        call = kernel.SyncCall(loop, target, function, contextvars.copy_context(), local)
        call.accept()
        try:
            call.finish(call(), None)
        except ZeroDivisionError as error:
            call.finish(None, error)
        with contextlib.suppress(ZeroDivisionError):
            await call
    call = kernel.SyncCall(loop, function)
    call.call_by(lambda target: target())
    call.call_instead(function)
    kernel.SyncCall(loop, function).revoke()
    given_up = kernel.SyncCall(loop, function)
    given_up.cancel()
    given_up.deliver()
    with pytest.raises(asyncio.CancelledError):
        await given_up


@with_loop
async def wake_channel(kernel, loop):
    channel = kernel.WakeChannel(loop)
    call = kernel.SyncCall(loop, function)
    call.run()
    channel.post(call)
    await call


@plain
def attach_reader(kernel):
    loop = asyncio.new_event_loop()
    kernel.attach_reader(loop)
    loop.close()


@with_loop
async def call_soon(kernel, loop):
    called = asyncio.Event()
    kernel.call_soon(loop, called.set)
    await called.wait()


@with_loop
async def drive(kernel, loop):
    call = kernel.AsyncCall()
    await kernel.drive(call, [], [contextvars.copy_context()], afunction())
    call.result()


@with_loop
async def begin_task(kernel, loop):
    call = kernel.AsyncCall()
    coroutine = kernel.drive(call, [], [contextvars.copy_context()], afunction())
    loop.call_soon(kernel.begin_task, loop, coroutine, call, "no result")
    while not call.done():
        await asyncio.sleep(0)
    call.result()


@plain
def inbox(kernel):
    box = kernel.Inbox()
    call = kernel.ThreadSensitiveExecutor  # anything: it is not run
    box.put(call)
    box.drain()
    box.close()
    assert not box.put(call)
    box.is_idle()


@plain
def pool_inbox(kernel):
    box = kernel.PoolInbox(2)
    box.put(function)
    if box.hire():
        box.dismiss()
    box.qsize()
    box.drain()
    box.close()


@plain
def thread_sensitive_executor(kernel):
    with kernel.ThreadSensitiveExecutor() as executor:
        executor.submit(function, 1).result()
        raises(ZeroDivisionError, executor.submit(lambda: 1 // 0).result)
    raises(RuntimeError, executor.submit, function)


@plain
def current_thread_executor(kernel):
    executor = kernel.CurrentThreadExecutor(None)
    submitted = []
    thread = threading.Thread(
        target=lambda: (submitted.append(executor.submit(function)), executor.close())
    )
    thread.start()
    executor.serve()
    thread.join()
    submitted.pop().result()


@plain
def locals_(kernel):
    def use():
        for storage in (kernel.ContextStorage(), kernel.ThreadStorage()):
            storage.value = storage
            assert kernel.peek(storage, "value", None) is storage
            assert kernel.peek(storage, "missing", None) is None
            del storage.value
            raises(AttributeError, getattr, storage, "value")

    contextvars.Context().run(use)


@plain
def homes(kernel):
    kernel.at_home(kernel.Home(), function, 1)
    raises(ZeroDivisionError, kernel.at_home, kernel.Home(), lambda: 1 // 0)
    kernel.current_home()
    local = kernel.ContextStorage()
    many = kernel.home_of_contexts(local)

    def use():
        local.value = kernel.current_home()
        return kernel.current_home()

    kernel.at_home(many, contextvars.Context().run, use)
    kernel.at_home(kernel.Home(), contextvars.Context().run, kernel.at_home, many, use)


@plain
def contexts(kernel):
    before = contextvars.copy_context()
    after = before.copy()
    after.run(variable.set, object())
    contextvars.copy_context().run(kernel.restore_context, after, before)
    assert kernel.are_same((before, after), [before, after])
    assert not kernel.are_same((before,), [after])


@plain
def awaiting(kernel):
    assert kernel.awaiting(threading.local()) == (None, None)


@plain
def future_call(kernel):
    for target in (function, lambda: 1 // 0):
        future = Future()
        call = FutureCall(future, target, (), {})
        call.run()
        call.deliver()
        future.exception()
    future = Future()
    FutureCall(future, function, (), {}).cancel()
    assert future.cancelled()
    future = Future()
    FutureCall(future, function, (), {}).fail(ValueError())
    raises(ValueError, future.result)


@plain
def task_context(kernel):
    tasks = kernel.TaskContext()
    tasks.append(function)
    tasks.append(variable)
    assert not tasks.is_cancelled
    tasks.is_cancelled = True
    assert tasks == [function, variable]
    tasks.clear()


@plain
def queue_core(kernel):
    queue = kernel.QueueCore(2)
    queue.put_nowait(object())
    queue.peek_nowait()
    queue.sync_put(object())
    raises(Exception, queue.put_nowait, None)
    raises(Exception, queue.sync_put, None, True, 0)
    queue.get_nowait()
    queue.get_many_nowait()
    raises(Exception, queue.get_nowait)
    queue.put_nowait(queue)
    for _ in range(3):
        queue.put_nowait(object(), overwrite=True)
    queue.sync_get_many(3, max_wait=0)
    assert queue.sync_get_many(3, max_wait=0) == []
    queue.put_nowait(queue)
    queue.clear()
    queue.shutdown(immediate=True)


@plain
def broadcast_core(kernel):
    broadcast = kernel.BroadcastCore(2, "drop_oldest", 1)
    reader, late = (kernel.ReaderCore(broadcast, 1) for _ in range(2))
    for _ in range(3):
        broadcast.put_nowait(object())
    broadcast.sync_put(broadcast)
    reader.get_nowait()
    reader._fetch_many(3)
    raises(Exception, reader.get_nowait)
    raises(Exception, reader.sync_get, True, 0)
    assert reader._getting_batch(2).wait(0) == []
    assert late.missed == 2
    reader.close()
    late.close()
    blocking = kernel.BroadcastCore(1)
    lagging = kernel.ReaderCore(blocking)
    blocking.put_nowait(lagging)
    raises(Exception, blocking.sync_put, None, True, 0)
    blocking.shutdown(immediate=True)
    lagging.close()


@with_loop
async def selection(kernel, loop):
    queue, broadcast = kernel.QueueCore(), kernel.BroadcastCore()
    reader = kernel.ReaderCore(broadcast)
    for put in (queue.put_nowait, broadcast.put_nowait):
        waiting = kernel.Selection([queue, reader])
        loop.call_soon(put, object())
        await waiting._waiting()
    waiting = kernel.Selection([queue, reader])
    waiter = waiting._waiting()
    loop.call_soon(waiter.expire)
    await waiter
    reader.close()


def wrappers(kernel):
    class Sync(kernel.SyncWrapper):
        def __call__(self, *args):
            return args

    class Async(kernel.AsyncWrapper):
        def __call__(self, *args):
            return args

    def use():
        for kind, name in ((Sync, "func"), (Async, "awaitable")):
            wrapper = kind()
            setattr(wrapper, name, function)
            kernel.adopt(wrapper, function)
            wrapper.__get__(wrapper, kind)()
        assert kernel.is_async_def(afunction)

    yield use


@plain
def start_run(kernel):
    executor = kernel.CurrentThreadExecutor(None)
    kernel.start_run(ITEM, executor, function)


@plain
def sight(kernel):
    kernel.collect_timings(kernel.__name__ == "asgibridge._speedups")  # as it is by default
    kernel.report_slow(0, None)
    kernel.details(kernel.Inbox())
    kernel.counts()
    kernel.idle_workers()
    kernel.running()
    kernel.now()


@plain
def set_idle_seconds(kernel):
    kernel.set_idle_seconds(10.0)


class Item:
    def run(self):
        pass

    def deliver(self):
        pass


ITEM = Item()

EXERCISES = {
    "AsyncCall": async_call,
    "AsyncWrapper SyncWrapper adopt is_async_def": wrappers,
    "ContextStorage ThreadStorage peek": locals_,
    "CurrentThreadExecutor": current_thread_executor,
    "FutureCall": future_call,
    "Home at_home current_home home_of_contexts": homes,
    "Inbox": inbox,
    "PoolInbox": pool_inbox,
    "BroadcastCore ReaderCore": broadcast_core,
    "QueueCore": queue_core,
    "Selection": selection,
    "SyncCall": sync_call,
    "TaskContext": task_context,
    "awaiting": awaiting,
    "ThreadSensitiveExecutor end_idle_workers": thread_sensitive_executor,
    "WakeChannel": wake_channel,
    "are_same restore_context": contexts,
    "attach_reader": attach_reader,
    "begin_task": begin_task,
    "call_soon": call_soon,
    "collect_timings counts details idle_workers now report_slow running": sight,
    "drive": drive,
    "set_idle_seconds": set_idle_seconds,
    "start_run": start_run,
}


def test_every_name_has_its_exercise():
    assert not set(_pure.__all__) - set(" ".join(EXERCISES).split())


def counts():
    gc.collect()
    references = sys.gettotalrefcount() if hasattr(sys, "gettotalrefcount") else 0
    return sys.getallocatedblocks(), len(gc.get_objects()), references


@pytest.mark.parametrize("names", EXERCISES)
def test_nothing_is_left_behind(kernel, names):
    steps = EXERCISES[names](kernel)
    use = next(steps)
    grown = []
    try:
        for _ in range(20):
            use()
        for _ in range(3):
            kernel.end_idle_workers()
            before = counts()
            for _ in range(TIMES):
                use()
            kernel.end_idle_workers()
            grown.append([after - then for after, then in zip(counts(), before)])
    finally:
        steps.close()
    # The least of three: caches fill up once, threads end a little later.
    blocks, objects, _ = map(min, zip(*grown))
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        blocks = 0  # memory is freed when every thread has passed by: the soak looks at that
    assert max(blocks, objects) < NOISE, grown
