"""Every way to make a call, crossed with every way to see one.

A row (`Way`) makes calls of a function; a column (a test) looks at them. The function stops at an
event where a test has to see it running. "Full" is a way that runs as many calls as it can at once:
one more has to wait, and a test sees that one waiting.

What is right, where it is not obvious:

* A call is submitted when it is accepted, wherever it waits from then on: for a token, for a worker
  at the limit, for a thread. Given up before it began, it is cancelled.
* Who takes a sync iterator makes one call for each batch of items: one for an iterator that is
  empty, two for one item with ``max_size=1``. A sync context manager is two calls, entering and
  leaving. All of them are named after the function that the user gave.
* A request of a WSGI application is one call, named after the application.
* A decorated function is named after what it decorates, in name and in place.
* A coroutine that sync code waits for is no call of a sync function: it is in no figures. A dump
  shows it as a task, and what its thread waits for; observers are told of `async_to_sync`, but not
  of an async iterator or context manager, whose task is many calls long.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import gc
import inspect
import os
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import asgibridge
from asgibridge import debug, observers, workers
from asgibridge.iterators import (
    async_to_sync_context_manager,
    async_to_sync_iterator,
    sync_to_async_context_manager,
    sync_to_async_iterator,
)
from asgibridge.limiters import CapacityLimiter
from asgibridge.sync import (
    AsyncSingleThreadContext,
    SyncToAsync,
    ThreadSensitiveContext,
    async_to_sync,
    sync_to_async,
)
from asgibridge.wsgi import WsgiToAsgi
from wsgi_tools import EMPTY_REQUEST, http_scope

SECONDS = 10  # or less: a machine may be busy

POOL_SIZE = min(32, (getattr(os, "process_cpu_count", os.cpu_count)() or 1) + 4)
"""Of an event loop's default executor, by the standard library's documentation."""


# --- the function --------------------------------------------------------------------------------


class Body:
    """What the user's functions do: stop until they are let go on, on whatever thread."""

    def __init__(self):
        self.threads = []
        self.end = threading.Event()

    def __call__(self):
        self.threads.append(threading.current_thread().name)
        assert self.end.wait(SECONDS)


def plain(body):
    def user_function():
        body()

    return user_function


def bound_method(body):
    class User:
        def user_function(self):
            body()

    return User().user_function


def partial(body):
    def user_function(argument, *, keyword):
        body()

    return functools.partial(user_function, 1, keyword=2)


def decorated(body):
    def decorate(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return function(*args, **kwargs)

        return wrapper

    @decorate
    def user_function():
        body()

    return user_function


def anonymous(body):
    return lambda: body()


def wsgi_application(body):
    def user_function(environ, start_response):
        body()
        start_response("200 OK", [])
        return [b""]

    return user_function


def empty_generator(body):
    def user_function():
        body()
        yield from ()

    return user_function


def one_item(body):
    def user_function():
        body()
        yield 1

    return user_function


def context_manager(body):
    @contextlib.contextmanager
    def user_function():
        body()
        yield

    return user_function


def words_of(function):
    """As `asgibridge.debug` is to name it."""
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    code = function.__code__
    return f"{function.__qualname__} ({code.co_filename}:{code.co_firstlineno})"


# --- the ways ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Way:
    name: str
    place: Callable[[], Any]
    """An async context manager of a function that calls the one it is given; awaited."""
    thread: str
    """A pattern for the name of the thread."""
    state: str = "queued"
    """Of a call that is made when the way is full."""
    waits_for: tuple[str, ...] = ("thread",)
    """What such a call waits for: one of these words."""
    capacity: int = 1
    """How many calls run at once."""
    is_pool: bool | None = False
    """Whether it cannot be known which thread will run it. None: that is the executor's secret."""
    make: Callable[[Body], Any] = plain
    calls: int = 1
    """How many calls it is in the figures."""
    run: Callable[[Any], Any] = lambda main: asyncio.run(main())
    around: int = 0
    """How many calls ``run`` makes."""

    def __str__(self):
        return self.name


WAYS = []


def way(**options):
    def add(generator):
        name = generator.__name__
        WAYS.append(Way(name, contextlib.asynccontextmanager(generator), **options))
        return generator

    return add


WORKER = r"asgibridge-worker-\d+"
POOL = {
    "thread": r"asyncio_\d+",
    "capacity": POOL_SIZE,
    "is_pool": True,
    "waits_for": ("pool",),
}
OF_THE_USER = {"is_pool": True, "waits_for": ("pool", "executor")}
FOREIGN = {"is_pool": None, "waits_for": ("pool", "executor", "thread")}
LIMITED = {"state": "waiting", "waits_for": ("token",), "is_pool": True}


def calling(**options):
    return lambda function: sync_to_async(function, **options)()


@way(thread=WORKER)
async def thread_sensitive():
    yield calling()


@way(thread=WORKER)
async def in_a_context():
    async with ThreadSensitiveContext():
        yield calling()


@way(**POOL)
async def pooled():
    yield calling(thread_sensitive=False)


@way(thread=r"own_\d+", capacity=2, **OF_THE_USER)
async def own_executor():
    with ThreadPoolExecutor(2, "own") as executor:
        yield calling(thread_sensitive=False, executor=executor)


@way(thread=r"default_\d+", capacity=2, **OF_THE_USER)
async def own_default_executor():
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2, "default"))
    yield calling(thread_sensitive=False)


@way(thread=POOL["thread"], **LIMITED)
async def limited():
    yield calling(thread_sensitive=False, limiter=CapacityLimiter(1))


@way(thread=r"own_\d+", **LIMITED)
async def limited_in_own_executor():
    with ThreadPoolExecutor(2, "own") as executor:
        yield calling(thread_sensitive=False, executor=executor, limiter=CapacityLimiter(1))


@way(**{**POOL, "thread": "the name"})
async def named():
    yield calling(thread_sensitive=False, thread_name="the name")


@way(thread=WORKER)
async def not_abandoned():
    yield calling(abandon_on_cancel=False)


@way(**POOL)
async def not_abandoned_pooled():
    yield calling(thread_sensitive=False, abandon_on_cancel=False)


@way(thread="the name", **LIMITED)
async def limited_named_and_not_abandoned():
    yield calling(
        thread_sensitive=False,
        limiter=CapacityLimiter(1),
        thread_name="the name",
        abandon_on_cancel=False,
    )


@contextlib.contextmanager
def under(policy):
    workers.set_policy(policy)
    try:
        yield
    finally:
        workers.set_policy(workers.Policy())


def hook(worker):
    pass


HOOKS = dict.fromkeys(("on_start", "before_lease", "after_lease", "on_end"), hook)


@way(thread=WORKER)
async def leased_keep():
    with under(workers.Policy(kind="keep")):
        async with ThreadSensitiveContext():
            yield calling()


@way(thread=WORKER)
async def leased_keep_with_hooks():
    with under(workers.Policy(kind="keep", **HOOKS)):
        async with ThreadSensitiveContext():
            yield calling()


@way(thread=WORKER)
async def leased_fresh_with_hooks():
    with under(workers.Policy(**HOOKS)):
        async with ThreadSensitiveContext():
            yield calling()


@way(thread=WORKER)
async def leased_and_not_abandoned():
    async with ThreadSensitiveContext(policy="keep"):
        yield calling(abandon_on_cancel=False)


async def in_its_own_context(function):
    async with ThreadSensitiveContext():
        await sync_to_async(function)()


@way(thread=WORKER, state="waiting", waits_for=("worker",))
async def at_the_limit():
    with under(workers.Policy(limit=1)):
        yield in_its_own_context


@way(thread=WORKER, state="waiting", waits_for=("worker",))
async def at_the_limit_with_a_time_out():
    with under(workers.Policy(kind="keep", limit=1, wait_timeout=SECONDS)):
        yield in_its_own_context


@way(thread=r"foreign_\d+", **FOREIGN)
async def foreign_single_thread():
    ours = SyncToAsync.single_thread_executor
    with ThreadPoolExecutor(1, "foreign") as executor:
        SyncToAsync.single_thread_executor = executor
        try:
            yield calling()
        finally:
            SyncToAsync.single_thread_executor = ours


@way(thread=r"foreign_\d+", **FOREIGN)
async def foreign_executor_of_a_context():
    with ThreadPoolExecutor(1, "foreign") as executor:
        async with ThreadSensitiveContext(executor=executor):
            yield calling()


@way(thread=WORKER)
async def overridden_thread_handler():
    class Overridden(SyncToAsync):
        def thread_handler(self, loop, exc_info, task_context, func, *args, **kwargs):
            return super().thread_handler(loop, exc_info, task_context, func, *args, **kwargs)

    yield lambda function: Overridden(function)()


@way(thread=WORKER)
async def patched_thread_handler():
    original = SyncToAsync.thread_handler

    def traced(self, loop, exc_info, task_context, func, *args, **kwargs):
        return original(self, loop, exc_info, task_context, func, *args, **kwargs)

    SyncToAsync.thread_handler = traced
    try:
        yield calling()
    finally:
        SyncToAsync.thread_handler = original


@way(thread=WORKER)
async def while_an_exception_is_handled():
    try:
        raise LookupError
    except LookupError:
        yield calling()


def requests_to(**options):
    async def receive():
        return EMPTY_REQUEST

    async def send(message):
        pass

    applications = {}  # the workers are the application's

    async def request(function):
        application = applications.setdefault(function, WsgiToAsgi(function, **options))
        await application(http_scope(), receive, send)

    return request


@way(thread=WORKER, make=wsgi_application)
async def wsgi():
    yield requests_to()


@way(
    thread=r"asgibridge-wsgi_\d+",
    make=wsgi_application,
    capacity=2,
    is_pool=True,
    waits_for=("pool", "worker"),
)
async def wsgi_with_workers():
    yield requests_to(workers=2)


async def iterate(iterator):
    async for _ in iterator:
        pass


@way(thread=WORKER, make=empty_generator)
async def iterator_without_items():
    yield lambda function: iterate(sync_to_async_iterator(function)())


@way(thread=WORKER, make=one_item, calls=2)
async def iterator_of_two_batches():
    yield lambda function: iterate(sync_to_async_iterator(function, max_size=1)())


@way(**POOL, make=empty_generator)
async def pooled_iterator():
    yield lambda function: iterate(sync_to_async_iterator(function, thread_sensitive=False)())


@way(thread=WORKER, make=context_manager, calls=2)
async def entered_and_left():
    async def use(function):
        async with sync_to_async_context_manager(function)():
            pass

    yield use


@way(thread="MainThread", run=lambda main: async_to_sync(main)())
async def on_the_thread_that_waits():
    """Within a top-level `async_to_sync`."""
    yield calling()


@way(thread=WORKER, run=lambda main: asyncio.run(sync_to_async(async_to_sync(main))()), around=1)
async def in_a_frame():
    """Within an `async_to_sync` within a `sync_to_async`."""
    yield calling()


# And with other functions than plain ones.
WAYS += [
    dataclasses.replace(each, name=f"{each.name}-{make.__name__}", make=make)
    for each in WAYS
    if each.name in ("thread_sensitive", "limited", "leased_keep", "overridden_thread_handler")
    for make in (bound_method, partial, decorated, anonymous)
]

each_way = pytest.mark.parametrize("way", WAYS, ids=str)


# --- making the calls ----------------------------------------------------------------------------


async def until(condition, what):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {SECONDS} s: {what}"
        await asyncio.sleep(0.001)


class Calls:
    """Calls of one function, made one way."""

    def __init__(self, way):
        self.way = way
        self.body = Body()
        self.function = way.make(self.body)
        self.words = words_of(self.function)
        self.tasks = []

    def run(self, look=None):
        """Make one call, or have ``look``, an async function, make some and look at them."""

        async def main():
            async with self.way.place() as self._call:
                try:
                    if look is None:
                        self.body.end.set()
                        self.send()
                    else:
                        await look()
                finally:
                    self.body.end.set()
                    await asyncio.wait(self.tasks)
                for task in self.tasks:
                    if not task.cancelled():
                        task.result()

        self.way.run(main)
        assert all(re.fullmatch(self.way.thread, name) for name in self.body.threads)

    def send(self):
        self.tasks.append(asyncio.ensure_future(self._call(self.function)))
        return self.tasks[-1]

    async def fill(self, count=None):
        """Make as many calls as can run at once (or ``count``); they run."""
        count = self.way.capacity if count is None else count
        for _ in range(count):
            self.send()
        await until(lambda: len(self.body.threads) == count, f"{count} calls run")

    async def add(self):
        """Make one more, and let it come as far as it can by itself."""
        task = self.send()
        for _ in range(20):
            await asyncio.sleep(0)
        assert not task.done()
        return task

    def named(self, seen):
        return [call for call in seen.calls if call.function == self.words]


@pytest.fixture(autouse=True)
def timings():
    workers.collect_timings(True)
    yield
    workers.collect_timings(asgibridge.IMPLEMENTATION == "speedups")  # as without a word


@pytest.fixture(autouse=True, scope="module")
def fewer_objects():
    """What the tests' own libraries have made would take most of each dump's time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Figures:
    """What has been added to `workers.stats` since this was made."""

    def __init__(self):
        self._before = workers.stats()

    def counts(self):
        """submitted, started, finished, cancelled"""
        return self._added(workers.stats(), "submitted", "started", "finished", "cancelled")

    def gauges(self):
        """queued, running"""
        return self._added(workers.stats(), "queued", "running")

    def timed(self):
        """queue times, run times"""
        after, before = workers.stats(), self._before
        return (
            after.queue_time.count - before.queue_time.count,
            after.run_time.count - before.run_time.count,
        )

    def _added(self, after, *names):
        return tuple(getattr(after, name) - getattr(self._before, name) for name in names)


class Recorder(observers.Observer):
    def __init__(self):
        self.told = []

    def before_submit(self, hop):
        self.told.append(("before", hop.kind, hop.function, None, None))

    def start(self, hop):
        self.told.append(("start", hop.kind, hop.function, hop.thread.name, None))

    def end(self, hop):
        self.told.append(("end", hop.kind, hop.function, None, type(hop.error)))


@pytest.fixture
def recorder():
    recorder = Recorder()
    observers.add(recorder)
    yield recorder
    observers.remove(recorder)


@pytest.fixture
def slow_calls(caplog):
    """The messages of the slow log, which takes each call for a slow one."""
    debug.log_slow_calls(1e-9)
    yield lambda: [r.getMessage() for r in caplog.records if r.name == "asgibridge"]
    debug.log_slow_calls(None)


class Reports:
    """The file that `debug.watch` writes to."""

    def __init__(self):
        self.texts = []

    def write(self, text):
        self.texts.append(text)


@pytest.fixture
def reports():
    yield Reports()
    debug.unwatch()


def only(found, among):
    """The one that was found; ``among`` is for the message."""
    assert len(found) == 1, (found, among)
    return found[0]


def calls_section(text):
    """The lines of a dump about calls."""
    _, _, rest = text.partition("\nCalls:\n")
    return rest.partition("\n\nThreads:\n")[0].splitlines()


# --- the columns ---------------------------------------------------------------------------------


@each_way
class TestStatistics:
    def test_counts(self, way):
        figures = Figures()
        Calls(way).run()
        count = way.calls + way.around
        assert figures.counts() == (count, count, count, 0)

    def test_gauges(self, way):
        calls = Calls(way)

        async def look():
            figures = Figures()
            await calls.fill()
            assert figures.gauges() == (0, way.capacity)
            await calls.add()
            assert figures.gauges() == (1, way.capacity)

        figures = Figures()
        calls.run(look)
        assert figures.gauges() == (0, 0)

    def test_given_up_before_it_began(self, way):
        calls = Calls(way)

        async def look():
            await calls.fill()
            figures = Figures()
            task = await calls.add()
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            assert figures.counts() == (1, 0, 0, 1)
            assert figures.gauges() == (0, 0)

        figures = Figures()
        calls.run(look)
        count = way.capacity * way.calls + way.around
        assert figures.counts() == (count + 1, count, count, 1)

    def test_timings(self, way):
        figures = Figures()
        Calls(way).run()
        assert figures.timed() == (way.calls + way.around,) * 2


@each_way
def test_slow_log(way, slow_calls):
    calls = Calls(way)
    calls.run()
    messages = slow_calls()
    pattern = re.escape(calls.words) + r" took \d+\.\d+ seconds on thread " + way.thread
    assert sum(re.fullmatch(pattern, each) is not None for each in messages) == way.calls, messages
    assert len(messages) == way.calls + way.around


@each_way
def test_watch(way, reports):
    calls = Calls(way)
    second_hangs = threading.Event()

    def second():
        second_hangs.set()
        calls.body.end.wait(SECONDS)

    async def look():
        await calls.fill(1)
        debug.watch(0.05, reports)
        await until(lambda: reports.texts, "the call is reported")
        # Until this one is reported, too, the first has been looked at again, and often.
        with ThreadPoolExecutor(1) as executor:
            task = asyncio.ensure_future(
                sync_to_async(second, thread_sensitive=False, executor=executor)()
            )
            try:
                await until(second_hangs.is_set, "the second call runs")
                await until(lambda: len(reports.texts) > 1, "the second call is reported")
                told[:] = reports.texts  # what is slow later is another matter
            finally:
                calls.body.end.set()
                await task

    told = []
    calls.run(look)
    begins = "asgibridge: a call has been running for more than 0.05 seconds\n"
    assert [text.startswith(begins) for text in told] == [True, True]
    lines = calls_section(reports.texts[0])
    line = only([line for line in lines if calls.words in line], lines)
    assert re.match(f"  {re.escape(calls.words)} runs on thread {way.thread} since ", line)


@each_way
class TestDump:
    def test_running(self, way):
        calls = Calls(way)
        seen = []

        async def look():
            await calls.fill(1)
            seen.append(debug.snapshot())

        calls.run(look)
        call = only(calls.named(seen[0]), seen[0].calls)
        assert call.state == "running"
        assert re.fullmatch(way.thread, call.thread)
        assert call.thread == calls.body.threads[0]
        assert call.seconds is not None
        assert call.waits_for[0].startswith(f"thread {call.thread}, which runs {calls.words}")
        assert len(seen[0].calls) == 1 + way.around
        lines = calls_section(str(seen[0]))
        text = f"  {call.function} runs on thread {call.thread} since "
        assert sum(line.startswith(text) for line in lines) == 1, lines

    def test_waiting(self, way):
        calls = Calls(way)
        seen = []

        async def look():
            await calls.fill()
            await calls.add()
            seen.append(debug.snapshot())

        calls.run(look)
        found = calls.named(seen[0])
        states = sorted(call.state for call in found)
        assert states == sorted([way.state, *["running"] * way.capacity]), seen[0].calls
        call = only([call for call in found if call.state == way.state], found)
        if way.state == "waiting" or way.is_pool:
            assert call.thread is None
        elif way.is_pool is False or call.thread is not None:
            assert call.thread == calls.body.threads[0]
        assert any(word in call.waits_for[0] for word in way.waits_for), call.waits_for
        assert call.seconds is not None
        lines = calls_section(str(seen[0]))
        mine = [line for line in lines if line.startswith(f"  {calls.words} ")]
        line = only([line for line in mine if " runs on " not in line], lines)
        assert {"waiting": "wait", "queued": "queued"}[way.state] in line
        if call.thread is None:
            assert not any(name in line for name in calls.body.threads)


def told_of(function, way, error=type(None)):
    """What an observer is told of one call: (what, kind, function, thread, error) each."""
    kind = "sync_to_async"
    return [
        ("before", kind, function, None, None),
        ("start", kind, function, way.thread, None),
        ("end", kind, function, None, error),
    ]


def matches(told, expected):
    return len(told) == len(expected) and all(
        mine[:3] == other[:3]
        and mine[4] == other[4]
        and (other[3] is None or re.fullmatch(other[3], mine[3]))
        for mine, other in zip(told, expected)
    )


@each_way
class TestObservers:
    def test_of_a_call(self, way, recorder):
        calls = Calls(way)
        calls.run()
        told = [each for each in recorder.told if each[2] == calls.function]
        assert matches(told, told_of(calls.function, way) * way.calls), recorder.told
        others = [each[0] for each in recorder.told if each[1] == "sync_to_async"]
        assert len(others) == 3 * (way.calls + way.around)

    def test_of_a_call_that_was_given_up_before_it_began(self, way, recorder):
        calls = Calls(way)
        given_up = []

        async def look():
            await calls.fill()
            before = len(recorder.told)
            task = await calls.add()
            task.cancel()
            await asyncio.wait([task])
            del task, calls.tasks[-1]
            given_up.extend(recorder.told[before:])

        calls.run(look)
        begun, _, ended = told_of(calls.function, way, asyncio.CancelledError)
        assert matches(given_up, [begun, ended]), given_up


@pytest.mark.parametrize("kind", ["keep", "fresh"])
def test_dump_of_a_call_whose_workers_hook_runs(kind):
    """It is queued for that worker, and has its own name."""
    hook = Body()
    body = Body()
    body.end.set()
    function = plain(body)
    seen = []

    async def main():
        async with ThreadSensitiveContext():
            task = asyncio.ensure_future(sync_to_async(function)())
            try:
                await until(lambda: hook.threads, "the hook runs")
                seen.append(debug.snapshot())
            finally:
                hook.end.set()
                await task

    with under(workers.Policy(kind=kind, before_lease=lambda worker: hook())):
        asyncio.run(main())
    call = only(seen[0].calls, seen[0].calls)
    assert (call.function, call.state) == (words_of(function), "queued")
    assert call.thread == hook.threads[0]
    assert call.thread in call.waits_for[0]


# --- sync code that waits for async code ---------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class AsyncWay:
    name: str
    call: Callable[[Any], Any]
    make: Callable[[Any], Any]
    calls: int = 0
    """Of sync functions that are made on the way."""
    hops: int = 1
    """Of `async_to_sync`."""
    thread: str = "MainThread"
    """That waits."""

    def __str__(self):
        return self.name


def coroutine(body):
    async def user_function():
        await body()

    return user_function


def async_generator(body):
    async def user_function():
        await body()
        yield 1

    return user_function


def async_manager(body):
    @contextlib.asynccontextmanager
    async def user_function():
        await body()
        yield

    return user_function


def enter(function):
    with async_to_sync_context_manager(function)():
        pass


@contextlib.asynccontextmanager
async def around():
    yield


def in_blocks(call, *blocks):
    """``call``, within what rests on the same loop, with the same thread."""

    def call_inside(function):
        with contextlib.ExitStack() as stack:
            for block in blocks:
                stack.enter_context(block())
            call(function)

    return call_inside


def in_each_block(way):
    around_way = async_to_sync_context_manager(around)
    persistent = functools.partial(AsyncSingleThreadContext, persistent_loop=True)
    for name, blocks in {
        "in_a_block": [around_way],
        "in_two_blocks": [around_way, around_way],
        "in_a_persistent_loop": [persistent],
        "in_a_block_in_a_persistent_loop": [persistent, around_way],
    }.items():
        inside = in_blocks(way.call, *blocks)
        yield dataclasses.replace(way, name=f"{way.name}_{name}", call=inside)


OTHER_LOOPS = "new_loop", "in_a_thread_of_ours"
ASYNC_WAYS = [
    AsyncWay("top_level", lambda function: async_to_sync(function)(), coroutine),
    AsyncWay(
        "new_loop", lambda function: async_to_sync(function, force_new_loop=True)(), coroutine
    ),
    AsyncWay(
        "in_a_thread_of_ours",
        lambda function: asyncio.run(sync_to_async(async_to_sync(function))()),
        coroutine,
        calls=1,
        thread=WORKER,
    ),
    AsyncWay(
        "iterator",
        lambda function: list(async_to_sync_iterator(function)()),
        async_generator,
        hops=0,
    ),
    AsyncWay("context_manager", enter, async_manager, hops=0),
]
TOP_LEVEL_WAYS = [each for each in ASYNC_WAYS if each.name not in OTHER_LOOPS]
ASYNC_WAYS += [inside for way in TOP_LEVEL_WAYS for inside in in_each_block(way)]

each_async_way = pytest.mark.parametrize("way", ASYNC_WAYS, ids=str)


async def nothing():
    pass


@each_async_way
class TestCoroutines:
    def test_statistics(self, way):
        gauges = []

        async def look():
            gauges.append(figures.gauges())

        figures = Figures()
        way.call(way.make(look))
        assert figures.counts() == (way.calls, way.calls, way.calls, 0)
        assert figures.timed() == (way.calls, way.calls)
        assert gauges == [(0, way.calls)]

    def test_slow_log(self, way, slow_calls):
        function = way.make(nothing)
        way.call(function)
        assert len(slow_calls()) == way.calls
        assert all(each.startswith(f"{words_of(function)} took ") for each in slow_calls())

    def test_dump(self, way):
        def look_at_it():
            assert awaits.wait(SECONDS)
            seen.append(debug.snapshot())

        async def look():
            loop = asyncio.get_running_loop()
            loop.call_soon(awaits.set)
            await loop.run_in_executor(None, look_at_it)

        awaits = threading.Event()
        seen = []
        self.check_dump(way, look, seen)

    def test_dump_while_it_blocks_its_loop(self, way):
        async def look():
            seen.append(debug.snapshot())

        seen = []
        self.check_dump(way, look, seen)

    def check_dump(self, way, look, seen):
        function = way.make(look)
        way.call(function)
        snapshot = seen[0]
        name = function.__qualname__
        assert [call.function for call in snapshot.calls] == [words_of(function)] * way.calls
        only([task for task in snapshot.tasks if name in task.name], snapshot.tasks)
        chains = [(thread.name, thread.waits_for) for thread in snapshot.threads]
        thread, waits_for = only([each for each in chains if name in "".join(each[1])], chains)
        assert re.fullmatch(way.thread, thread)
        assert waits_for[0].startswith("task ")
        assert name in waits_for[0]

    def test_observers(self, way, recorder):
        way.call(way.make(nothing))
        told = [
            (what, getattr(function, "__qualname__", ""))
            for what, kind, function, *_ in recorder.told
            if kind == "async_to_sync"
        ]
        name = way.make(nothing).__qualname__
        assert told == [("before", name), ("start", name), ("end", name)] * way.hops
