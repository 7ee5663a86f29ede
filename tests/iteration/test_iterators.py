"""Iterators across the bridge: order, batches, threads, contexts, and every way out."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import os
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest

from asgibridge import iterators
from asgibridge._iteration import pulls
from asgibridge.iterators import async_to_sync_iterator, sync_to_async_iterator
from asgibridge.local import Local
from asgibridge.sync import ThreadSensitiveContext, async_to_sync, sync_to_async

LIMIT = 10
"""Seconds that nothing here takes unless it hangs."""

variable: contextvars.ContextVar[object] = contextvars.ContextVar("variable", default="unset")


class Broken(Exception):
    pass


class Item:
    """Something that can be weakly referred to."""


def numbers(n, seen=None):
    for i in range(n):
        if seen is not None:
            seen.append(i)
        yield i


async def anumbers(n, seen=None):
    for i in range(n):
        if seen is not None:
            seen.append(i)
        yield i


class Recorder:
    """A generator that tells where it ran and how it ended."""

    def __init__(self):
        self.threads = []
        self.closed = threading.Event()
        self.go_on = threading.Event()
        self.waiting = threading.Event()

    def generate(self, n, wait_at=None):
        try:
            for i in range(n):
                self.threads.append(threading.get_ident())
                if i == wait_at:
                    self.waiting.set()
                    assert self.go_on.wait(LIMIT)
                yield i
        finally:
            self.closed_in = threading.get_ident()
            self.closed.set()


async def reached(event):
    """Wait for an event of threads without blocking the loop."""
    assert await asyncio.get_running_loop().run_in_executor(None, event.wait, LIMIT)


@pytest.fixture
def every_item_is_slow(monkeypatch):
    """Each look at the clock is a second later than the one before."""
    times = iter(range(10**9))
    monkeypatch.setattr(pulls, "clock", lambda: next(times))
    monkeypatch.setattr(iterators, "clock", lambda: next(times))


def handled(loop):
    """The contexts given to the loop's exception handler from now on."""
    contexts = []
    loop.set_exception_handler(lambda loop, context: contexts.append(context))
    return contexts


class TestSyncToAsync:
    @pytest.mark.parametrize("max_size", [1, 2, 128, 10**6])
    @pytest.mark.parametrize("n", [0, 1, 127, 128, 129, 1000])
    @pytest.mark.asyncio
    async def test_all_items_come_in_order(self, n, max_size):
        items = sync_to_async_iterator(numbers(n), max_size=max_size)
        assert [item async for item in items] == list(range(n))

    @pytest.mark.thread_unsafe(reason="one of them can be iterated over once")
    @pytest.mark.parametrize("iterable", [[1, 2], range(1, 3), {1: 0, 2: 0}, iter([1, 2])])
    @pytest.mark.asyncio
    async def test_any_iterable_will_do(self, iterable):
        assert [item async for item in sync_to_async_iterator(iterable)] == [1, 2]

    @pytest.mark.asyncio
    async def test_no_more_than_max_size_is_read_ahead(self):
        seen = []
        furthest = 0
        async for item in sync_to_async_iterator(numbers(1000, seen), max_size=10):
            # Less those in the hands of the loop's body: the present one.
            furthest = max(furthest, len(seen) - item - 1)
        assert 0 < furthest <= 10

    @pytest.mark.asyncio
    async def test_a_batch_takes_one_hop(self, monkeypatch):
        hops = []
        original = pulls.HopContext.call

        def call(self, function):
            hops.append(function)
            return original(self, function)

        monkeypatch.setattr(pulls.HopContext, "call", call)
        monkeypatch.setattr(pulls, "clock", lambda: 0)
        async for _ in sync_to_async_iterator(numbers(1000), max_size=100):
            pass
        # The consumer may take some while the pull goes on; then there are fewer.
        assert len(hops) <= 11

    @pytest.mark.asyncio
    async def test_a_slow_one_never_runs_ahead(self, every_item_is_slow):
        seen = []
        async for item in sync_to_async_iterator(numbers(20, seen)):
            assert seen[-1] == item

    @pytest.mark.asyncio
    async def test_with_max_size_1_it_never_runs_ahead(self):
        seen = []
        async for item in sync_to_async_iterator(numbers(20, seen), max_size=1):
            assert seen[-1] == item

    @pytest.mark.asyncio
    async def test_an_item_does_not_wait_for_the_next(self, monkeypatch):
        monkeypatch.setattr(pulls, "clock", lambda: 0)
        recorder = Recorder()
        got = []
        async for item in sync_to_async_iterator(recorder.generate(3, wait_at=2)):
            got.append(item)
            if item == 1:
                recorder.go_on.set()
        assert got == [0, 1, 2]

    @pytest.mark.asyncio
    async def test_an_exception_arrives_after_the_items_before_it(self):
        def generate():
            yield from range(5)
            raise Broken("after five")

        got = []
        with pytest.raises(Broken, match="after five"):
            async for item in sync_to_async_iterator(generate()):
                got.append(item)
        assert got == list(range(5))

    @pytest.mark.parametrize("error", [StopIteration(1), StopAsyncIteration(1), GeneratorExit()])
    @pytest.mark.asyncio
    async def test_an_exception_of_the_iteration_protocols_ends_nothing_quietly(self, error):
        class Iterator:
            def __iter__(self):
                return self

            def __next__(self):
                raise error

        iterator = sync_to_async_iterator(Iterator())
        if isinstance(error, StopIteration):  # which is how an iterator ends
            assert [item async for item in iterator] == []
        else:
            with pytest.raises((RuntimeError, GeneratorExit)):
                [item async for item in iterator]

    @pytest.mark.asyncio
    async def test_the_end_stays_the_end(self):
        items = sync_to_async_iterator(numbers(1))
        assert [item async for item in items] == [0]
        assert [item async for item in items] == []

    # Where it runs

    @pytest.mark.asyncio
    async def test_it_runs_where_thread_sensitive_calls_run(self):
        async with ThreadSensitiveContext():
            thread = await sync_to_async(threading.get_ident)()
            recorder = Recorder()
            async for _ in sync_to_async_iterator(recorder.generate(300), max_size=7):
                pass
        assert set(recorder.threads) == {thread}
        assert recorder.closed_in == thread

    def test_it_runs_on_the_waiting_main_thread(self):
        recorder = Recorder()

        @async_to_sync
        async def main():
            async for _ in sync_to_async_iterator(recorder.generate(3)):
                pass

        main()
        assert set(recorder.threads) == {threading.get_ident()}

    @pytest.mark.asyncio
    async def test_it_runs_in_a_given_executor(self):
        recorder = Recorder()
        with ThreadPoolExecutor(1) as executor:
            thread = executor.submit(threading.get_ident).result()
            items = sync_to_async_iterator(
                recorder.generate(3), thread_sensitive=False, executor=executor
            )
            assert [item async for item in items] == [0, 1, 2]
        assert set(recorder.threads) == {thread}

    @pytest.mark.asyncio
    async def test_the_loops_body_may_use_the_same_thread(self):
        seen = []
        async for item in sync_to_async_iterator(numbers(20), max_size=4):
            seen.append(await sync_to_async(lambda: item)())
        assert seen == list(range(20))

    @pytest.mark.asyncio
    async def test_a_call_gets_in_between_two_batches(self):
        order = []
        items = sync_to_async_iterator(numbers(100, order), max_size=2)
        assert await items.__anext__() == 0
        await sync_to_async(order.append)("call")
        assert [item async for item in items] == list(range(1, 100))
        assert order.index("call") <= 3

    @pytest.mark.asyncio
    async def test_a_function_is_called_in_the_thread_at_the_first_item(self):
        threads = []

        @sync_to_async_iterator
        def rows(n, *, step=1):
            threads.append(threading.get_ident())
            return range(0, n, step)

        assert rows.__name__ == "rows"
        items = rows(6, step=2)
        assert threads == []
        assert [item async for item in items] == [0, 2, 4]
        assert threads == [await sync_to_async(threading.get_ident)()]

    @pytest.mark.asyncio
    async def test_a_method(self):
        class Table:
            rows = 3

            @sync_to_async_iterator(max_size=2)
            def __call__(self):
                yield from range(self.rows)

        assert [row async for row in Table()()] == [0, 1, 2]

    # Contexts

    @pytest.mark.asyncio
    async def test_context_variables_go_both_ways(self):
        seen = []

        def generate():
            for i in range(3):
                seen.append(variable.get())
                variable.set(f"generator's {i}")
                yield i

        variable.set("loop's")
        async for item in sync_to_async_iterator(generate(), max_size=1):
            assert variable.get() == f"generator's {item}"
            variable.set(f"loop's {item}")
        assert seen == ["loop's", "loop's 0", "loop's 1"]
        assert variable.get() == "loop's 2"

    @pytest.mark.asyncio
    async def test_a_variable_can_be_reset_after_the_yield(self):
        def generate():
            token = variable.set("inside")
            try:
                yield 1
                yield 2
            finally:
                variable.reset(token)

        variable.set("outside")
        async with aclosing(sync_to_async_iterator(generate(), max_size=1)) as items:
            async for _ in items:
                assert variable.get() == "inside"
                break
        assert variable.get() == "outside"

    @pytest.mark.asyncio
    async def test_what_the_loop_sets_while_the_iterator_runs_is_not_lost(self, monkeypatch):
        monkeypatch.setattr(pulls, "clock", lambda: 0)
        recorder = Recorder()
        other = contextvars.ContextVar("other", default="unset")
        seen = []

        def generate():
            for item in recorder.generate(4, wait_at=1):
                seen.append(variable.get())
                other.set(item)
                yield item

        variable.set("before")
        async for item in sync_to_async_iterator(generate(), max_size=2):
            if item == 0:
                await reached(recorder.waiting)
                variable.set("meanwhile")
                recorder.go_on.set()
        assert seen == ["before", "before", "meanwhile", "meanwhile"]
        assert (variable.get(), other.get()) == ("meanwhile", 3)

    @pytest.mark.asyncio
    async def test_locals_go_both_ways(self):
        local = Local()
        local.value = "loop's"

        def generate():
            yield local.value
            local.value = "generator's"
            yield local.value

        items = [item async for item in sync_to_async_iterator(generate())]
        assert items == ["loop's", "generator's"]
        assert local.value == "generator's"

    # Ways out

    @pytest.mark.parametrize("n", [1000, 10])
    @pytest.mark.asyncio
    async def test_left_early_it_is_closed_in_its_thread(self, n):
        recorder = Recorder()
        async with aclosing(sync_to_async_iterator(recorder.generate(n), max_size=3)) as items:
            async for item in items:
                if item == 4:
                    break
        assert recorder.closed.is_set()
        assert set(recorder.threads) == {recorder.closed_in}

    def test_left_early_and_forgotten_the_loop_closes_it_in_its_thread(self):
        recorder = Recorder()

        async def main():
            async for item in sync_to_async_iterator(recorder.generate(1000)):
                if item == 4:
                    break

        asyncio.run(main())
        assert recorder.closed.wait(LIMIT)
        assert set(recorder.threads) == {recorder.closed_in}

    def test_the_loops_end_closes_one_that_is_still_open(self):
        recorder = Recorder()
        kept = []

        async def main():
            kept.append(sync_to_async_iterator(recorder.generate(1000)))
            await kept[0].__anext__()

        asyncio.run(main())
        assert recorder.closed.wait(LIMIT)
        assert set(recorder.threads) == {recorder.closed_in}

    @pytest.mark.asyncio
    async def test_an_exception_in_closing_arrives(self):
        def generate():
            try:
                yield 1
                yield 2
            finally:
                raise Broken("while closing")

        items = sync_to_async_iterator(generate(), max_size=1)
        await items.__anext__()
        with pytest.raises(Broken, match="while closing"):
            await items.aclose()

    @pytest.mark.asyncio
    async def test_one_never_begun_is_not_touched(self):
        recorder = Recorder()
        items = sync_to_async_iterator(recorder.generate(3))
        await items.aclose()
        assert recorder.threads == []
        assert not recorder.closed.is_set()

    @pytest.mark.asyncio
    async def test_only_generators_are_closed(self):
        class Cursor:
            closed = False

            def __iter__(self):
                return self

            def __next__(self):
                return 1

            def close(self):
                self.closed = True

        cursor = Cursor()
        items = sync_to_async_iterator(cursor)
        await items.__anext__()
        await items.aclose()
        assert not cursor.closed

    @pytest.mark.parametrize("thread_sensitive", [True, False])
    @pytest.mark.asyncio
    async def test_cancelled_in_its_wait_the_loop_ends_at_once(self, thread_sensitive):
        recorder = Recorder()
        got = []

        async def consume():
            async for item in sync_to_async_iterator(
                recorder.generate(1000, wait_at=2), thread_sensitive=thread_sensitive
            ):
                got.append(item)

        task = asyncio.ensure_future(consume())
        await reached(recorder.waiting)
        while got != [0, 1]:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task}, timeout=LIMIT)
        assert task.cancelled()
        # The thread is still in the generator, which is closed when it comes out.
        assert not recorder.closed.is_set()
        recorder.go_on.set()
        await reached(recorder.closed)
        assert len(recorder.threads) == 3
        assert recorder.closed_in == recorder.threads[-1]

    @pytest.mark.asyncio
    async def test_cancelled_before_its_turn_it_does_not_run(self):
        recorder, blocked = Recorder(), Recorder()
        holder = asyncio.ensure_future(sync_to_async(blocked.go_on.wait)(LIMIT))

        async def consume():
            async for _ in sync_to_async_iterator(recorder.generate(3)):
                pass

        task = asyncio.ensure_future(consume())
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task}, timeout=LIMIT)
        assert task.cancelled()
        blocked.go_on.set()
        assert await holder
        await sync_to_async(int)()
        assert recorder.threads == []

    @pytest.mark.asyncio
    async def test_cancelled_before_its_next_turn_it_is_closed_in_its_thread(self):
        recorder, blocked = Recorder(), Recorder()
        items = sync_to_async_iterator(recorder.generate(3), max_size=1)
        await items.__anext__()
        await sync_to_async(int)()  # the first pull is over
        holder = asyncio.ensure_future(sync_to_async(blocked.go_on.wait)(LIMIT))
        task = asyncio.ensure_future(items.__anext__())
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not task.done()  # closing waits for its turn
        blocked.go_on.set()
        await asyncio.wait({task}, timeout=LIMIT)
        assert task.cancelled()
        assert recorder.closed.is_set()
        assert recorder.threads == [recorder.closed_in]
        await holder

    @pytest.mark.asyncio
    async def test_cancelled_in_the_moment_in_which_it_ends_the_loop_is_cancelled(self):
        before = asyncio.all_tasks()
        task = asyncio.ensure_future(sync_to_async_iterator([]).__anext__())
        await asyncio.sleep(0)
        (pull,) = asyncio.all_tasks() - before - {task}
        pull.add_done_callback(lambda _: task.cancel())
        await asyncio.wait({task}, timeout=LIMIT)
        assert task.cancelled()

    @pytest.mark.asyncio
    async def test_a_cancellation_goes_on_to_async_code_that_the_iterator_waits_for(self):
        begun = asyncio.Event()

        async def inner():
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return "cancelled inside"

        def generate():
            yield async_to_sync(inner)()

        items = sync_to_async_iterator(generate())
        task = asyncio.ensure_future(items.__anext__())
        await begun.wait()
        task.cancel()
        # As for a sync_to_async call: what came of it counts.
        assert await task == "cancelled inside"
        await items.aclose()

    @pytest.mark.asyncio
    async def test_an_error_that_nobody_hears_any_more_is_reported(self, monkeypatch):
        monkeypatch.setattr(pulls, "clock", lambda: 0)  # it is read ahead, however long it takes
        reported = handled(asyncio.get_running_loop())
        recorder = Recorder()

        def generate():
            yield from recorder.generate(2, wait_at=1)
            raise Broken("unheard")

        items = sync_to_async_iterator(generate(), max_size=1)
        assert await items.__anext__() == 0
        task = asyncio.ensure_future(items.__anext__())
        await reached(recorder.waiting)
        task.cancel()
        await asyncio.wait({task})

        class Falls:
            def __iter__(self):
                yield 1
                raise Broken("read ahead")

        recorder.go_on.set()
        await reached(recorder.closed)
        items = sync_to_async_iterator(Falls())
        assert await items.__anext__() == 1
        await sync_to_async(int)()  # the pull is over then
        await items.aclose()
        assert [str(context["exception"]) for context in reported] == ["read ahead"]

    @pytest.mark.asyncio
    async def test_an_error_after_a_cancellation_is_reported(self):
        reported = handled(asyncio.get_running_loop())
        recorder = Recorder()

        def generate():
            recorder.waiting.set()
            assert recorder.go_on.wait(LIMIT)
            raise Broken("unheard")
            yield

        task = asyncio.ensure_future(sync_to_async_iterator(generate()).__anext__())
        await reached(recorder.waiting)
        task.cancel()
        await asyncio.wait({task})
        recorder.go_on.set()
        await sync_to_async(int)()
        assert [str(context["exception"]) for context in reported] == ["unheard"]

    @pytest.mark.asyncio
    async def test_a_cancellation_that_nobody_hears_any_more_is_not_reported(self, monkeypatch):
        """As the iterator's answer to `check_cancelled`, which may come before the loop is left."""
        monkeypatch.setattr(pulls, "clock", lambda: 0)
        reported = handled(asyncio.get_running_loop())

        class Ends:
            def __iter__(self):
                yield 1
                raise asyncio.CancelledError

        items = sync_to_async_iterator(Ends())
        assert await items.__anext__() == 1
        await sync_to_async(int)()  # the pull is over then
        await items.aclose()
        assert reported == []

    @pytest.mark.asyncio
    async def test_an_executor_that_is_shut_down_says_so(self):
        executor = ThreadPoolExecutor(1)
        executor.shutdown()
        items = sync_to_async_iterator(numbers(3), thread_sensitive=False, executor=executor)
        with pytest.raises(RuntimeError, match="shutdown"):
            await items.__anext__()

    def test_begun_on_another_loop_it_says_so(self):
        items = sync_to_async_iterator(numbers(3), max_size=1)

        async def one():
            return await items.__anext__()

        loops = [asyncio.new_event_loop(), asyncio.new_event_loop()]
        try:
            assert loops[0].run_until_complete(one()) == 0
            with pytest.raises(RuntimeError, match="another event loop"):
                loops[1].run_until_complete(one())
            loops[0].run_until_complete(items.aclose())
        finally:
            for loop in loops:
                loop.run_until_complete(loop.shutdown_asyncgens())
                loop.close()

    def test_nothing_outlives_it(self, no_gc):
        def generate():
            for _ in range(10):
                item = Item()
                references.append(weakref.ref(item))
                yield item
                del item

        async def main():
            async for item in sync_to_async_iterator(generate(), max_size=3):
                assert sum(reference() is not None for reference in references) <= 5
                del item
            # The generator's frame and the worker have let go of the last one.
            await sync_to_async(int)()
            assert [reference() for reference in references] == [None] * 10

        references = []
        asyncio.run(main())

    @pytest.mark.asyncio
    async def test_an_item_does_not_live_until_the_next(self, no_gc, monkeypatch):
        monkeypatch.setattr(pulls, "clock", lambda: 0)
        recorder = Recorder()

        def generate():
            for i in recorder.generate(2, wait_at=1):
                if i == 0:
                    yield Item()

        items = sync_to_async_iterator(generate())
        reference = weakref.ref(await items.__anext__())
        await reached(recorder.waiting)
        if not getattr(sys, "_is_gil_enabled", lambda: True)():
            gc.collect()
        assert reference() is None
        recorder.go_on.set()
        await items.aclose()

    def test_nothing_outlives_an_error(self, no_gc):
        def generate():
            item = Item()
            references.append(weakref.ref(item))
            yield 1
            raise Broken(item)

        async def main():
            try:
                async for _ in sync_to_async_iterator(generate()):
                    pass
            except Broken:
                pass
            await sync_to_async(int)()

        references = []
        asyncio.run(main())
        assert [reference() for reference in references] == [None]


class aclosing:
    """contextlib's, which is new in Python 3.10."""

    def __init__(self, thing):
        self.thing = thing

    async def __aenter__(self):
        return self.thing

    async def __aexit__(self, *exc):
        await self.thing.aclose()


def run_at_top_level(function):
    return function()


def run_in_worker(function):
    async def main():
        return await sync_to_async(function)()

    return asyncio.run(main())


@pytest.fixture(params=[run_at_top_level, run_in_worker])
def run(request):
    """Call a sync function where there is no event loop, and where one waits for it."""
    return request.param


class TestAsyncToSync:
    @pytest.mark.parametrize("max_size", [1, 2, 128])
    @pytest.mark.parametrize("n", [0, 1, 128, 1000])
    def test_all_items_come_in_order(self, run, n, max_size):
        items = run(lambda: list(async_to_sync_iterator(anumbers(n), max_size=max_size)))
        assert items == list(range(n))

    def test_no_more_than_max_size_is_read_ahead(self, run):
        def iterate():
            seen = []
            furthest = 0
            for item in async_to_sync_iterator(anumbers(1000, seen), max_size=10):
                furthest = max(furthest, len(seen) - item - 1)
            return furthest

        assert 0 < run(iterate) <= 10

    def test_nor_if_it_is_asked_for_more_as_its_time_is_over(self, run, monkeypatch):
        """By a thread that has found nothing there, a moment before there were three."""
        pumps, seen = [], []
        asks, three, at_rest = threading.Event(), threading.Event(), threading.Event()
        original = iterators._Pump._ask

        def ask(pump):
            if seen:
                asks.set()
                assert three.wait(LIMIT)
            pumps.append(pump)
            original(pump)

        def clock():
            if len(seen) == 4 and not three.is_set():
                three.set()
                while len(pumps) < 2 or not pumps[1]._asked:
                    time.sleep(0)
                return 1000
            return 1000 if three.is_set() else 0

        monkeypatch.setattr(iterators._Pump, "_ask", ask)
        monkeypatch.setattr(iterators, "clock", clock)

        async def generate():
            for item in range(40):
                if item == 1:
                    assert asks.wait(LIMIT)
                if item == 4:
                    loop = asyncio.get_running_loop()
                    loop.call_soon(loop.call_soon, at_rest.set)
                seen.append(item)
                yield item

        def iterate():
            furthest = 0
            for item in async_to_sync_iterator(generate(), max_size=10):
                if item == 1:
                    assert at_rest.wait(LIMIT)
                furthest = max(furthest, seen[-1] - item)
            return furthest

        assert 0 < run(iterate) <= 10

    def test_a_slow_one_never_runs_ahead(self, run, every_item_is_slow):
        def iterate():
            seen = []
            for item in async_to_sync_iterator(anumbers(20, seen)):
                assert seen[-1] == item

        run(iterate)

    def test_an_item_does_not_wait_for_the_next(self, run):
        go_on = threading.Event()

        async def generate():
            yield 1
            await reached(go_on)
            yield 2

        def iterate():
            items = async_to_sync_iterator(generate())
            assert next(items) == 1
            go_on.set()
            assert list(items) == [2]

        run(iterate)

    def test_an_exception_arrives_after_the_items_before_it(self, run):
        async def generate():
            for i in range(5):
                yield i
            raise Broken("after five")

        def iterate():
            got = []
            with pytest.raises(Broken, match="after five"):
                for item in async_to_sync_iterator(generate()):
                    got.append(item)
            return got

        assert run(iterate) == list(range(5))

    def test_all_of_it_runs_in_one_task(self, run):
        async def generate():
            async with one_task():
                for _ in range(5):
                    await asyncio.sleep(0)
                    yield asyncio.current_task()

        class one_task:
            async def __aenter__(self):
                self.task = asyncio.current_task()

            async def __aexit__(self, *exc):
                assert asyncio.current_task() is self.task

        assert len(set(run(lambda: list(async_to_sync_iterator(generate(), max_size=1))))) == 1

    def test_in_a_worker_it_runs_on_the_waiting_loop(self):
        async def generate():
            yield asyncio.get_running_loop()

        async def main():
            loops = await sync_to_async(lambda: list(async_to_sync_iterator(generate())))()
            assert loops == [asyncio.get_running_loop()]
            loops = await sync_to_async(
                lambda: list(async_to_sync_iterator(generate(), force_new_loop=True))
            )()
            assert loops != [asyncio.get_running_loop()]

        asyncio.run(main())

    def test_sync_code_that_it_calls_runs_on_the_waiting_thread(self, run):
        async def generate():
            for _ in range(3):
                yield await sync_to_async(threading.get_ident)()
            task = asyncio.ensure_future(sync_to_async(threading.get_ident)())
            yield await task

        def iterate():
            threads = set(async_to_sync_iterator(generate()))
            assert threads == {threading.get_ident()}

        run(iterate)

    def test_the_loops_body_may_make_calls_of_its_own(self, run):
        async def double(item):
            return 2 * await sync_to_async(int)(item)

        def iterate():
            return [async_to_sync(double)(i) for i in async_to_sync_iterator(anumbers(5))]

        assert run(iterate) == [0, 2, 4, 6, 8]

    def test_sync_code_is_still_served_after_calls_of_the_loops_body(self, run):
        async def generate():
            for _ in range(3):
                yield await sync_to_async(threading.get_ident)()

        def iterate():
            for item in async_to_sync_iterator(generate(), max_size=1):
                assert item == threading.get_ident()
                async_to_sync(asyncio.sleep)(0)

        run(iterate)

    def test_one_within_another(self, run):
        def iterate():
            return [
                (a, b)
                for a in async_to_sync_iterator(anumbers(3))
                for b in async_to_sync_iterator(anumbers(2))
            ]

        assert run(iterate) == [(a, b) for a in range(3) for b in range(2)]

    def test_there_and_back(self, run):
        def iterate():
            back = sync_to_async_iterator(async_to_sync_iterator(sync_to_async_iterator(range(9))))

            async def main():
                return [item async for item in back]

            return async_to_sync(main)()

        assert run(iterate) == list(range(9))

    def test_context_variables_go_both_ways(self, run):
        seen = []

        async def generate():
            for i in range(3):
                seen.append(variable.get())
                variable.set(f"generator's {i}")
                yield i

        def iterate():
            variable.set("loop's")
            for item in async_to_sync_iterator(generate(), max_size=1):
                assert variable.get() == f"generator's {item}"
                variable.set(f"loop's {item}")
            assert seen == ["loop's", "loop's 0", "loop's 1"]
            assert variable.get() == "loop's 2"

        contextvars.copy_context().run(run, iterate)

    def test_what_it_set_ahead_of_the_loop_is_not_lost(self, run, monkeypatch):
        monkeypatch.setattr(iterators, "clock", lambda: 0)  # however long an item takes
        ahead = threading.Event()

        async def generate():
            yield 0
            variable.set("ahead")
            ahead.set()
            yield 1
            yield 2

        def iterate():
            for item in async_to_sync_iterator(generate(), max_size=2):
                if item == 0:
                    assert ahead.wait(LIMIT)
            assert variable.get() == "ahead"

        contextvars.copy_context().run(run, iterate)

    def test_what_it_left_alone_is_not_set_back(self, run):
        async def generate():
            for i in range(3):
                yield i

        def iterate():
            for i in async_to_sync_iterator(generate(), max_size=1):
                assert variable.get() == (i - 1 if i else "unset")
                variable.set("meanwhile")
                variable.set(i)

        contextvars.copy_context().run(run, iterate)

    def test_a_variable_can_be_reset_after_the_yield(self, run):
        async def generate():
            token = variable.set("inside")
            try:
                yield 1
                yield 2
            finally:
                variable.reset(token)

        def iterate():
            variable.set("outside")
            for _ in async_to_sync_iterator(generate(), max_size=1):
                assert variable.get() == "inside"
            assert variable.get() == "outside"

        contextvars.copy_context().run(run, iterate)

    def test_locals_go_both_ways(self, run):
        local = Local()

        async def generate():
            yield local.value
            local.value = "generator's"
            yield local.value

        def iterate():
            local.value = "loop's"
            assert list(async_to_sync_iterator(generate())) == ["loop's", "generator's"]
            assert local.value == "generator's"

        run(iterate)

    @pytest.mark.parametrize("waits", [True, False])
    def test_left_early_it_is_closed_before_the_next_line(self, run, waits):
        ended = []

        async def generate():
            try:
                for i in range(1000):
                    yield i
                    if waits:
                        await asyncio.sleep(0)
            finally:
                await asyncio.sleep(0)
                ended.append(await sync_to_async(threading.get_ident)())

        def iterate():
            with contextlib.closing(async_to_sync_iterator(generate(), max_size=5)) as items:
                for item in items:
                    if item == 7:
                        break
            assert ended == [threading.get_ident()]

        run(iterate)

    def test_left_while_it_waits_it_is_cancelled(self, run):
        ended = []

        async def generate():
            try:
                yield 1
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise

        def iterate():
            items = async_to_sync_iterator(generate())
            assert next(items) == 1
            items.close()
            assert ended in (["cancelled"], [])  # it may have come to rest before

        run(iterate)

    def test_an_exception_in_closing_arrives(self, run):
        async def generate():
            try:
                yield 1
                yield 2
            finally:
                raise Broken("while closing")

        def iterate():
            items = async_to_sync_iterator(generate(), max_size=1)
            next(items)
            with pytest.raises(Broken, match="while closing"):
                items.close()

        run(iterate)

    def test_tasks_left_behind_at_the_top_level_are_ended(self):
        left = []

        async def generate():
            left.append(asyncio.ensure_future(asyncio.Event().wait()))
            yield 1

        assert list(async_to_sync_iterator(generate())) == [1]
        assert left[0].cancelled()
        assert left[0].get_loop().is_closed()

    def test_cancelling_the_waiting_task_reaches_it(self):
        begun = threading.Event()
        ended = []

        async def generate():
            try:
                yield 1
                begun.set()
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                ended.append("cleaned up")

        async def main():
            def consume():
                # So that what follows the first item begins when the second is asked for.
                for item in async_to_sync_iterator(generate(), max_size=1):
                    ended.append(item)

            task = asyncio.ensure_future(sync_to_async(consume)())
            await reached(begun)
            task.cancel()
            await asyncio.wait({task}, timeout=LIMIT)
            assert task.cancelled()
            assert ended == [1, "cleaned up"]

        asyncio.run(main())

    def test_the_end_of_its_loop_is_an_error(self):
        items = []

        async def main():
            def begin():
                items.append(async_to_sync_iterator(anumbers(3), max_size=1))
                assert next(items[0]) == 0

            await sync_to_async(begin)()

        asyncio.run(main())

        def go_on():
            with pytest.raises((asyncio.CancelledError, RuntimeError)):
                next(items[0])

        run_in_worker(go_on)

    def test_in_a_thread_with_a_running_loop_it_says_so(self):
        async def main():
            with pytest.raises(RuntimeError, match="would block the event loop"):
                next(async_to_sync_iterator(anumbers(3)))

        asyncio.run(main())

    def test_on_another_thread_it_says_so(self):
        items = async_to_sync_iterator(anumbers(3), max_size=1)
        assert next(items) == 0
        with ThreadPoolExecutor(1) as executor:
            with pytest.raises(RuntimeError, match="on the thread on which it was begun"):
                executor.submit(next, items).result(LIMIT)

    def test_on_a_loop_that_has_stopped_it_says_so(self):
        loop = asyncio.new_event_loop()
        items = async_to_sync_iterator(anumbers(3), max_size=1)
        try:
            loop.run_until_complete(sync_to_async(next)(items))

            def go_on():
                with pytest.raises(RuntimeError, match="is not running any more"):
                    next(items)

            run_in_worker(go_on)
            loop.run_until_complete(asyncio.sleep(0))
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            for task in asyncio.all_tasks(loop):
                loop.run_until_complete(asyncio.wait({task}))
            loop.close()

    def test_closed_on_another_thread_it_does_not_wait(self):
        dropped, closed = threading.Event(), threading.Event()

        async def generate():
            try:
                yield 1
                yield 2
            finally:
                await reached(dropped)
                closed.set()

        items = [async_to_sync_iterator(generate(), max_size=1)]
        next(items[0])
        with ThreadPoolExecutor(1) as executor:
            executor.submit(items[0].close).result(LIMIT / 2)
        dropped.set()
        assert closed.wait(LIMIT)

    def test_closed_on_a_loops_thread_it_does_not_wait(self):
        dropped, closed = threading.Event(), threading.Event()

        async def generate():
            try:
                yield 1
                yield 2
            finally:
                await reached(dropped)
                closed.set()

        items = [async_to_sync_iterator(generate(), max_size=1)]
        next(items[0])

        async def main():
            items[0].close()
            dropped.set()
            await reached(closed)

        asyncio.run(main())

    def test_at_the_top_level_all_its_tasks_use_the_waiting_thread(self):
        async def generate():
            call = contextvars.Context().run(
                asyncio.ensure_future, sync_to_async(threading.get_ident)()
            )
            yield await call

        assert list(async_to_sync_iterator(generate())) == [threading.get_ident()]

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
    def test_in_a_forked_child_it_says_so(self, script_output):
        assert (
            script_output("""
            import os, sys, warnings
            warnings.simplefilter("ignore")
            from asgibridge.iterators import async_to_sync_iterator

            async def generate():
                yield 1
                yield 2

            items = async_to_sync_iterator(generate(), max_size=1)
            next(items)
            pid = os.fork()
            if pid == 0:
                try:
                    next(items)
                except RuntimeError as error:
                    print(error, flush=True)
                os._exit(0)
            os.waitpid(pid, 0)
            assert next(items) == 2
            items.close()
        """)
            == "this was begun before a fork, and its event loop is the parent's"
        )

    def test_what_is_left_open_is_closed_at_exit(self, script_output):
        assert (
            script_output("""
            import asyncio
            from asgibridge.iterators import async_to_sync_iterator
            from asgibridge.sync import sync_to_async

            async def generate():
                try:
                    while True:
                        yield 1
                finally:
                    await asyncio.sleep(0)
                    print(await sync_to_async(lambda: "closed")(), flush=True)

            items = async_to_sync_iterator(generate())
            next(items)
        """)
            == "closed"
        )

    @pytest.mark.thread_unsafe(reason="signals go to the main thread")
    @pytest.mark.skipif(os.name == "nt", reason="needs SIGINT")
    def test_ctrl_c_cancels_it_and_comes_out(self, script_output):
        assert script_output("""
            import asyncio, os, signal, threading
            from asgibridge.iterators import async_to_sync_iterator

            async def generate():
                try:
                    yield 1
                    while not waiting.is_set():
                        await asyncio.sleep(0.001)
                    os.kill(os.getpid(), signal.SIGINT)
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    print("cancelled", flush=True)
                    raise

            waiting = threading.Event()
            try:
                for item in async_to_sync_iterator(generate()):
                    waiting.set()
            except KeyboardInterrupt:
                print("interrupted")
        """).split() == ["cancelled", "interrupted"]

    def test_nothing_outlives_it(self, no_gc):
        references = []

        async def generate():
            for _ in range(10):
                item = Item()
                references.append(weakref.ref(item))
                yield item
                del item

        for item in async_to_sync_iterator(generate(), max_size=3):
            assert sum(reference() is not None for reference in references) <= 5
        del item
        if not getattr(sys, "_is_gil_enabled", lambda: True)():
            gc.collect()  # there, what another thread made dies only at that thread's next look
        assert [reference() for reference in references] == [None] * 10


class Counted:
    """Generators of either kind that count how often they were closed, and on which thread."""

    def __init__(self):
        self.begun = 0
        self.closed = 0
        self.strays = []

    def generate(self, random):
        self.begun += 1
        thread = threading.get_ident()
        try:
            for i in range(random.randrange(300)):
                yield i
                if threading.get_ident() != thread:
                    self.strays.append("ran")
        finally:
            self.closed += 1
            if threading.get_ident() != thread:
                self.strays.append("closed")

    async def agenerate(self, random):
        self.begun += 1
        task = asyncio.current_task()
        try:
            for i in range(random.randrange(300)):
                yield i
                if random.random() < 0.1:
                    await asyncio.sleep(0)
                if asyncio.current_task() is not task:
                    self.strays.append("ran")
        finally:
            self.closed += 1
            if asyncio.current_task() is not task:
                self.strays.append("closed")


@pytest.mark.parametrize("seed", range(5))
def test_many_loops_left_and_cancelled_at_random(seed):
    random = Random(seed)
    counted = Counted()

    async def consume(leave_at, max_size):
        items = sync_to_async_iterator(counted.generate(random), max_size=max_size)
        async with aclosing(items):
            expected = 0
            async for item in items:
                assert item == expected
                expected += 1
                if item == leave_at:
                    break
                if item % 50 == 0:
                    await asyncio.sleep(0)

    def consume_here(leave_at, max_size):
        items = async_to_sync_iterator(counted.agenerate(random), max_size=max_size)
        with contextlib.closing(items):
            for expected, item in enumerate(items):
                assert item == expected
                if item == leave_at:
                    break

    async def main():
        tasks = []
        for _ in range(40):
            leave_at, max_size = random.randrange(400), random.choice([1, 2, 7, 128])
            if random.random() < 0.5:
                tasks.append(asyncio.ensure_future(consume(leave_at, max_size)))
            else:
                call = sync_to_async(consume_here)(leave_at, max_size)
                tasks.append(asyncio.ensure_future(call))
            for _ in range(random.randrange(20)):
                await asyncio.sleep(0)
            if random.random() < 0.4:
                random.choice(tasks).cancel()
        done, pending = await asyncio.wait(tasks, timeout=30)
        assert not pending
        for task in done:
            if not task.cancelled():
                task.result()
        await sync_to_async(int)()  # what was cancelled on its thread has come to its end

    asyncio.run(main())
    assert counted.begun == counted.closed > 0
    assert counted.strays == []


class TestArguments:
    @pytest.mark.parametrize("function", [sync_to_async_iterator, async_to_sync_iterator])
    def test_a_bound_that_bounds_nothing(self, function):
        with pytest.raises(ValueError, match="max_size is 0: it must be at least 1"):
            function(max_size=0)

    @pytest.mark.parametrize("subject", [3, asyncio.sleep])
    @pytest.mark.parametrize("function", [sync_to_async_iterator, async_to_sync_iterator])
    def test_what_is_no_iterable(self, function, subject):
        with pytest.raises(TypeError, match=r"takes an object that has __a?iter__, or a function"):
            function(subject)

    def test_the_wrong_way_round(self):
        with pytest.raises(TypeError, match="wrong way round"):
            sync_to_async_iterator(anumbers(3))
        with pytest.raises(TypeError, match="wrong way round"):
            async_to_sync_iterator(numbers(3))

    def test_an_executor_for_thread_sensitive_code(self):
        with ThreadPoolExecutor(1) as executor:
            with pytest.raises(TypeError, match="executor must not be set"):
                sync_to_async_iterator([], executor=executor)

    @pytest.mark.asyncio
    async def test_a_function_that_returns_no_iterable(self):
        with pytest.raises(TypeError, match="not iterable"):
            async for _ in sync_to_async_iterator(lambda: 3)():
                pass
