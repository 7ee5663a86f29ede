"""`asgibridge.observers`: what an agent is told of a call, and that it can do no harm."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import logging
import threading
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from asgibridge import observers
from asgibridge.sync import async_to_sync, sync_to_async
from threads import until_gone

SECONDS = 10
span = contextvars.ContextVar("span", default="none")


class Recorder(observers.Observer):
    def __init__(self):
        self.seen = []

    def note(self, what, hop):
        self.seen.append((what, hop.kind, hop.name.rpartition(".")[2]))

    def before_submit(self, hop):
        self.note("before", hop)

    def start(self, hop):
        self.note("start", hop)

    def end(self, hop):
        self.note("end", hop)


@pytest.fixture
def observe():
    added = []

    def add(observer):
        observers.add(observer)
        added.append(observer)
        return observer

    yield add
    for observer in added:
        observers.remove(observer)


def double(x):
    return 2 * x


async def hop_and_double(x):
    return await sync_to_async(double)(x)


class TestOrder:
    def test_both_directions(self, observe):
        recorder = observe(Recorder())

        async def main():
            return await sync_to_async(async_to_sync(hop_and_double))(4)

        assert asyncio.run(main()) == 8
        outer, inner = ("sync_to_async", "hop_and_double"), ("async_to_sync", "hop_and_double")
        innermost = ("sync_to_async", "double")
        assert recorder.seen == [
            *[("before", *outer), ("start", *outer), ("before", *inner), ("start", *inner)],
            *[("before", *innermost), ("start", *innermost), ("end", *innermost)],
            *[("end", *inner), ("end", *outer)],
        ]

    def test_top_level(self, observe):
        recorder = observe(Recorder())
        assert async_to_sync(hop_and_double)(3) == 6
        assert [what for what, *_ in recorder.seen] == [
            *["before", "start", "before", "start", "end", "end"],
        ]

    def test_several_observers_nest(self, observe):
        order = []

        class Named(observers.Observer):
            def __init__(self, name):
                self.name = name

            def start(self, hop):
                order.append(f"start {self.name}")

            def end(self, hop):
                order.append(f"end {self.name}")

        observe(Named("a"))
        observe(Named("b"))
        asyncio.run(hop_and_double(1))
        assert order == ["start a", "start b", "end b", "end a"]


class TestWhatTheyAreTold:
    @pytest.mark.parametrize("thread_sensitive", [True, False])
    def test_of_a_sync_function(self, observe, thread_sensitive):
        told = {}

        class Look(observers.Observer):
            def before_submit(self, hop):
                hop.state[self] = "mine"
                told["before"] = (threading.get_ident(), hop.loop, hop.task, hop.thread)

            def start(self, hop):
                told["start"] = (threading.get_ident(), hop.thread.ident, hop.state[self])

            def end(self, hop):
                told["end"] = (threading.get_ident(), hop.error, hop.function)
                told["sensitive"] = hop.thread_sensitive
                told["times"] = [hop.times[name] for name in ("submitted", "started", "ended")]
                told["hop"] = hop

        observe(Look())

        async def main():
            told["mine"] = (threading.get_ident(), asyncio.get_running_loop())
            told["task"] = asyncio.current_task()
            return await sync_to_async(threading.get_ident, thread_sensitive=thread_sensitive)()

        worker = asyncio.run(main())
        ident, loop = told["mine"]
        assert told["before"] == (ident, loop, told["task"], None)
        assert told["start"] == (worker, worker, "mine")
        assert told["end"] == (worker, None, threading.get_ident)
        assert told["sensitive"] is thread_sensitive
        assert told["times"] == sorted(told["times"])
        # What would keep a loop alive is let go.
        assert (told["hop"].loop, told["hop"].task, told["hop"].error) == (None, None, None)

    def test_of_an_async_function(self, observe):
        told = {}

        class Look(observers.Observer):
            def before_submit(self, hop):
                told["before"] = (threading.get_ident(), hop.loop, hop.thread_sensitive)

            def start(self, hop):
                told["start"] = (threading.get_ident(), hop.loop, hop.task)

            def end(self, hop):
                told["end"] = (threading.get_ident(), hop.loop, hop.task)

        observe(Look())

        async def look():
            return threading.get_ident(), asyncio.get_running_loop(), asyncio.current_task()

        there = async_to_sync(look)()
        assert told["before"] == (threading.get_ident(), None, None)
        assert told["start"] == told["end"] == there

    def test_of_errors(self, observe):
        errors = []

        class Look(observers.Observer):
            def end(self, hop):
                errors.append((hop.kind, type(hop.error)))

        observe(Look())

        def fail():
            raise KeyError

        async def main():
            await sync_to_async(fail)()

        with pytest.raises(KeyError):
            async_to_sync(main)()
        assert errors == [("sync_to_async", KeyError), ("async_to_sync", KeyError)]

    def test_of_a_call_that_never_begins(self, observe):
        recorder = observe(Recorder())
        begun, end = threading.Event(), threading.Event()

        def block():
            begun.set()
            assert end.wait(SECONDS)

        async def main():
            first = asyncio.ensure_future(sync_to_async(block)())
            while not begun.is_set():
                await asyncio.sleep(0)
            second = asyncio.ensure_future(sync_to_async(double)(1))
            await asyncio.sleep(0)
            second.cancel()
            await asyncio.wait([second])
            assert [what for what, _, name in recorder.seen if name == "double"] == [
                *["before", "end"],
            ]
            end.set()
            await first

        asyncio.run(main())

    def test_of_an_async_function_that_does_not_make_a_coroutine(self, observe):
        recorder = observe(Recorder())

        async def needs_one(x):
            return x

        with pytest.raises(TypeError, match="needs_one"):
            async_to_sync(needs_one)()
        assert [what for what, *_ in recorder.seen] == ["before", "end"]

    def test_of_a_partial(self, observe):
        recorder = observe(Recorder())

        async def main():
            return await sync_to_async(functools.partial(double, 3))()

        assert asyncio.run(main()) == 6
        assert {name for _, _, name in recorder.seen} == {"double"}


class TestContext:
    def test_what_start_sets_is_seen_by_the_function_and_afterwards(self, observe):
        class Tracing(observers.Observer):
            def before_submit(self, hop):
                hop.state[self] = span.get()

            def start(self, hop):
                span.set(f"{hop.state[self]}>{hop.kind}")

            def end(self, hop):
                span.set(hop.state[self])

        observe(Tracing())

        async def main():
            span.set("root")
            inside = await sync_to_async(span.get)()
            return inside, span.get()

        assert asyncio.run(main()) == ("root>sync_to_async", "root")
        # In the other direction.
        span.set("top")

        async def look():
            return span.get()

        assert async_to_sync(look)() == "top>async_to_sync"
        assert span.get() == "top"
        span.set("none")


class TestHarm:
    def test_what_an_observer_raises_is_logged(self, observe, caplog):
        class Bad(observers.Observer):
            def before_submit(self, hop):
                raise RuntimeError("before")

            start = end = before_submit

        observe(Bad())
        recorder = observe(Recorder())
        with caplog.at_level(logging.ERROR, "asgibridge"):
            assert async_to_sync(hop_and_double)(2) == 4
        assert len(caplog.records) == 6
        assert "Bad.before_submit" in caplog.text
        assert len(recorder.seen) == 6

    def test_nothing_outlives_its_call(self, observe, no_gc):
        import weakref

        observe(Recorder())

        class Thing:
            pass

        async def main():
            thing = Thing()
            await sync_to_async(lambda x: None)(thing)
            return weakref.ref(thing)

        async def fail(thing):
            raise ValueError

        assert until_gone(asyncio.run(main()))
        thing = Thing()
        there = weakref.ref(thing)
        with pytest.raises(ValueError):
            async_to_sync(fail)(thing)
        del thing
        assert until_gone(there)
        gc.collect()

    def test_added_and_removed(self):
        recorder = Recorder()
        observers.add(recorder)
        observers.add(recorder)
        asyncio.run(hop_and_double(1))
        assert len(recorder.seen) == 3
        observers.remove(recorder)
        asyncio.run(hop_and_double(1))
        assert len(recorder.seen) == 3
        assert observers.wrap is None
        with pytest.raises(ValueError, match="was not added"):
            observers.remove(recorder)
        with pytest.raises(TypeError, match="before_submit"):
            observers.add(object())

    def test_removed_while_a_call_is_under_way(self, observe):
        recorder = Recorder()
        observers.add(recorder)
        asyncio.run(sync_to_async(observers.remove)(recorder))
        assert [what for what, *_ in recorder.seen] == ["before", "start", "end"]

    @pytest.mark.parametrize("function", [span.get, hop_and_double])
    def test_results_and_warnings_are_the_same(self, observe, function):
        observe(Recorder())

        async def main():
            with pytest.raises(RuntimeError, match="just await"):
                async_to_sync(hop_and_double)(1)

        asyncio.run(main())

    def test_cancelled_coroutine(self, observe):
        """A task that waits in a sync function for a coroutine: the cancellation goes through."""
        recorder = observe(Recorder())
        begun = asyncio.Event

        async def main():
            there = begun()

            async def inner():
                there.set()
                await asyncio.sleep(SECONDS)

            task = asyncio.ensure_future(sync_to_async(async_to_sync(inner))())
            await there.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(main())
        assert [what for what, *_ in recorder.seen].count("end") == 2


class TestWhatNeverBegan:
    """`never_began` in place of `start` and `end`, in the example of docs/debugging.md, too."""

    @pytest.fixture
    def spans(self):
        """The example as it stands there, with a tracer that lists the spans that it finishes."""
        page = Path(__file__).parents[2] / "docs" / "debugging.md"
        source = next(
            each for each in page.read_text("utf-8").split("```") if "(Tracing())" in each
        )
        finished = []

        class Span:
            def __init__(self, name, parent=None):
                self.name, self.parent = name, parent

            def finish(self, error=None):
                finished.append((self.name, getattr(self.parent, "name", None), error))

        current = contextvars.ContextVar("span", default=None)
        tracer = types.SimpleNamespace(current_span=current.get, start_span=Span)
        names = {"tracer": tracer}
        before = observers._observers
        exec(source.removeprefix("python"), names)
        yield current, Span, finished
        for each in set(observers._observers) - set(before):
            observers.remove(each)

    @pytest.mark.parametrize("has_parent", [True, False])
    def test_finishes_no_span_of_the_callers(self, spans, has_parent, caplog):
        current, new_span, finished = spans
        begun, may_end = threading.Event(), threading.Event()

        def wait():
            begun.set()
            return may_end.wait(SECONDS)

        async def main():
            current.set(new_span("request") if has_parent else None)
            first = asyncio.ensure_future(sync_to_async(wait)())
            await sync_to_async(begun.wait, thread_sensitive=False)(SECONDS)
            second = asyncio.ensure_future(sync_to_async(double)(1))
            await asyncio.sleep(0)
            second.cancel()
            await asyncio.wait([second])
            may_end.set()
            return await first

        assert asyncio.run(main())
        parent = "request" if has_parent else None
        assert [(name.rpartition(".")[2], of, error) for name, of, error in finished] == [
            ("wait", parent, None),
            ("wait", parent, None),
        ]
        assert not caplog.records

    def test_is_told_instead_of_end(self, observe):
        recorder = observe(Recorder())
        recorder.never_began = lambda hop: recorder.note("never", hop)

        async def main():
            executor = ThreadPoolExecutor(1)
            executor.shutdown()
            with pytest.raises(RuntimeError):
                await sync_to_async(double, thread_sensitive=False, executor=executor)(1)

        asyncio.run(main())
        gc.collect()
        assert [what for what, *_ in recorder.seen] == ["before", "never"]

    def test_by_default_end_is(self, observe):
        recorder = observe(Recorder())
        with pytest.raises(TypeError):
            async_to_sync(hop_and_double)()
        assert [what for what, *_ in recorder.seen] == ["before", "end"]


def test_a_class_is_refused():
    with pytest.raises(TypeError, match=r"add an instance, Recorder\(\)"):
        observers.add(Recorder)
    assert observers.wrap is None
