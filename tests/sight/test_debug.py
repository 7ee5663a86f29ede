"""`asgibridge.debug`: in each of the known shapes the dump names who is waited for.

The numbers are asgiref's issues; most of the shapes no longer hang here by themselves, and are made
to by the program's own fault, which is what a dump is for.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import functools
import gc
import io
import logging
import os
import signal
import sys
import threading
import time
import weakref

import pytest

from asgibridge import debug, observers, pools, workers
from asgibridge._waits import names as words_of
from asgibridge.limiters import CapacityLimiter
from asgibridge.sync import ThreadSensitiveContext, async_to_sync, sync_to_async

SECONDS = 25  # or less: a machine may be busy
HAS_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()


@pytest.fixture(autouse=True, scope="module")
def fewer_objects():
    """What the tests' own libraries have made would take most of each look's time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def look(until):
    """A snapshot of which ``until`` is true, as of the two before: what it is about may just be
    under way."""
    deadline = time.monotonic() + SECONDS
    in_a_row = 0
    while True:
        seen = debug.snapshot()
        in_a_row = in_a_row + 1 if until(seen) else 0
        if in_a_row == 3:
            return seen
        assert time.monotonic() < deadline, str(seen)
        time.sleep(0.005)


def names(text, *parts):
    return all(part in text for part in parts)


@contextlib.contextmanager
def in_thread(function):
    """``function(end)`` runs in a thread; ``end`` is set, and the thread joined, at the end."""
    end = threading.Event()
    failed = []

    def run():
        try:
            function(end)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="the test's loop")
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join(SECONDS)
    assert failed == []


class TestShapes:
    def test_one_slow_query_that_all_wait_behind(self):
        """#218, #316: all thread-sensitive code is serial."""

        def slow_query(end):
            assert end.wait(SECONDS)

        def quick():
            pass

        def program(end):
            async def main():
                await asyncio.gather(
                    sync_to_async(slow_query)(end), *[sync_to_async(quick)() for _ in range(3)]
                )

            asyncio.run(main())

        with in_thread(program):
            seen = look(
                lambda s: (
                    len(s.calls) == 4
                    and s.culprits
                    and names(s.culprits[0], "slow_query", __file__, "4 calls")
                )
            )
        assert seen.cycles == ()
        running, *queued = sorted(seen.calls, key=lambda call: call.state == "queued")
        assert running.function.startswith("TestShapes.test_one_slow_query")
        assert {call.state for call in queued} == {"queued"}
        assert {call.thread for call in seen.calls} == {running.thread}
        assert all("slow_query" in call.waits_for[-1] for call in queued)
        (thread,) = [t for t in seen.threads if t.name == running.thread]
        assert any(frame.function == "slow_query" for frame in thread.stack)

    def test_a_context_whose_thread_is_blocked(self):
        """#535, #560, #563: a request's exit waits for its last call."""

        def blocked(end):
            assert end.wait(SECONDS)

        def program(end):
            async def main():
                async with ThreadSensitiveContext():
                    task = asyncio.ensure_future(sync_to_async(blocked)(end))
                    await asyncio.sleep(0)
                await task

            asyncio.run(main())

        with in_thread(program):
            seen = look(lambda s: s.culprits and "blocked" in s.culprits[0])
        assert names(seen.culprits[0], "asgibridge-worker", "blocked", __file__)

    def test_a_blocked_event_loop(self):
        """#348, #458: sync code waits for a loop whose thread a coroutine blocks."""
        ready = threading.Event()

        def waits_for_loop(inner):
            ready.set()
            async_to_sync(inner)()

        def program(end):
            async def inner():
                pass

            async def main():
                task = asyncio.ensure_future(sync_to_async(waits_for_loop)(inner))
                await asyncio.sleep(0)
                blocks_the_loop(end)
                await task

            asyncio.run(main())

        def blocks_the_loop(end):
            assert end.wait(SECONDS)

        with in_thread(program):
            assert ready.wait(SECONDS)
            seen = look(
                lambda s: (
                    s.calls and s.calls[0].waits_for[1:] and "in blocks_the_loop" in s.culprits[0]
                )
            )
        (call,) = seen.calls
        assert names(call.waits_for[0], "waits_for_loop", "waits in async_to_sync")
        assert names(call.waits_for[1], "event loop", "the test's loop")
        assert names(seen.culprits[0], "the test's loop", "blocks_the_loop", __file__)

    def test_a_loop_that_was_stopped(self):
        """#525, #528, #545, #562: nobody runs the loop any more."""
        waiting = threading.Event()

        def waits_for_loop(inner, go):
            waiting.set()
            assert go.wait(SECONDS)
            async_to_sync(inner)()

        def program(end):
            async def inner():
                pass

            loop = asyncio.new_event_loop()
            go = threading.Event()
            task = loop.create_task(sync_to_async(waits_for_loop)(inner, go))

            async def until_it_waits():
                while not waiting.is_set():
                    await asyncio.sleep(0.001)

            loop.run_until_complete(until_it_waits())
            go.set()
            assert end.wait(SECONDS)
            try:
                loop.run_until_complete(task)
            finally:
                loop.close()

        with in_thread(program):
            assert waiting.wait(SECONDS)
            seen = look(lambda s: s.culprits and "not running" in s.culprits[0])
        assert names(seen.calls[0].waits_for[0], "waits_for_loop", "async_to_sync")
        assert "nobody will run what was given to it" in seen.culprits[0]

    def test_a_task_that_waits_for_the_task_it_works_for(self):
        """#214, #491, #492, #494: nested calls and tasks that wait for each other."""

        def program(end):
            async def waits_for_outer():
                await asyncio.wait([outer[0]])

            async def main():
                outer.append(asyncio.ensure_future(sync_to_async(async_to_sync(waits_for_outer))()))
                while not end.is_set():
                    await asyncio.sleep(0.001)
                outer[0].cancel()
                await asyncio.wait(outer)

            outer = []
            asyncio.run(main())

        with in_thread(program):
            seen = look(lambda s: [len(cycle) for cycle in s.cycles] == [4])
        (cycle,) = seen.cycles
        text = "\n".join(cycle)
        assert names(text, "the call of", "waits in async_to_sync", "waits_for_outer", "task")
        assert "CYCLE" in str(seen)

    def test_a_chain_of_nested_calls(self):
        """#249: sync in async in sync; the innermost is what all wait for."""

        def program(end):
            def innermost():
                assert end.wait(SECONDS)

            async def second():
                await sync_to_async(innermost)()

            async def first():
                await sync_to_async(async_to_sync(second))()

            async_to_sync(first)()

        with in_thread(program):
            seen = look(lambda s: any("innermost" in call.function for call in s.calls))
            seen = look(lambda s: s.culprits and "innermost" in s.culprits[0])
        assert names(seen.culprits[0], "innermost", "the test's loop")
        assert seen.cycles == ()

    def test_waiting_for_something_that_never_comes(self):
        """A coroutine that a sync function waits for: shown is where it awaits."""

        def program(end):
            async def never():
                while not end.is_set():
                    await asyncio.sleep(0.05)

            async_to_sync(never)()

        with in_thread(program):
            seen = look(lambda s: any("never" in each for each in s.culprits))
        (thread,) = [t for t in seen.threads if t.name == "the test's loop"]
        assert names(thread.waits_for[0], "task", "never")
        (task,) = [t for t in seen.tasks if "never" in t.name]
        assert "never" in [frame.function for frame in task.stack]

    @pytest.mark.skipif(not HAS_GIL, reason="needs a look at another thread's variables")
    def test_a_worker_that_waits_for_its_own_queue(self):
        """run_coroutine_threadsafe(...).result() on the thread that the coroutine needs."""

        def waits_for_itself(loop, inner, end, begun):
            future = asyncio.run_coroutine_threadsafe(inner(), loop)
            begun.set()
            with contextlib.suppress(concurrent.futures.CancelledError):
                future.result(SECONDS)

        def nothing():
            pass

        def program(end):
            tasks = []

            async def inner():
                tasks.append(asyncio.current_task())
                await sync_to_async(nothing)()

            async def main():
                loop = asyncio.get_running_loop()
                begun = threading.Event()
                outer = asyncio.ensure_future(
                    sync_to_async(waits_for_itself)(loop, inner, end, begun)
                )
                while not end.is_set():
                    await asyncio.sleep(0.001)
                tasks[0].cancel()
                await outer

            asyncio.run(main())

        with in_thread(program):
            seen = look(lambda s: s.cycles)
        (cycle,) = seen.cycles
        assert names("\n".join(cycle), "waits_for_itself", "inner", "call of", "nothing")

    @pytest.mark.parametrize("how", ["gather", "wait", "wait_for", "shield", "task"])
    def test_tasks_that_wait_for_tasks(self, how):
        def program(end):
            async def held_up():
                await sync_to_async(functools.partial(end.wait, SECONDS))()

            async def main():
                task = asyncio.ensure_future(held_up())
                if how == "gather":
                    await asyncio.gather(task)
                elif how == "wait":
                    await asyncio.wait([task])
                elif how == "wait_for":
                    await asyncio.wait_for(task, SECONDS)
                elif how == "shield":
                    await asyncio.shield(task)
                else:
                    await task

            async_to_sync(main)()

        with in_thread(program):
            seen = look(
                lambda s: (
                    any("held_up" in "".join(task.waits_for) for task in s.tasks)
                    and any("runs Event.wait" in "".join(task.waits_for) for task in s.tasks)
                )
            )
        (main,) = [task for task in seen.tasks if ".main" in task.name]
        assert names(main.waits_for[0], "task", "held_up")
        assert names(main.waits_for[1], "the call of Event.wait")
        assert names(main.waits_for[2], "the test's loop", "runs Event.wait")


class TestNames:
    @pytest.mark.parametrize("wrapper", [None, "partial", "cache", "async_to_sync", "observed"])
    def test_of_what_wraps_the_users_function(self, wrapper):
        def function():
            return debug.snapshot().calls

        async def async_function():
            return function()

        wrapped = {
            "partial": functools.partial(functools.partial(function)),
            "cache": functools.lru_cache(function),
            "async_to_sync": async_to_sync(async_function),
        }.get(wrapper, function)
        observer = observers.Observer()
        if wrapper == "observed":
            observers.add(observer)
        try:
            (call,) = asyncio.run(sync_to_async(wrapped)())
        finally:
            if wrapper == "observed":
                observers.remove(observer)
        assert names(call.function, f".{function.__name__} (", f"{__file__}:") or (
            wrapper == "async_to_sync" and ".async_function (" in call.function
        )

    def test_a_task_is_named_by_the_users_coroutine(self):
        async def users(begun, go_on):
            begun.set()
            await go_on.wait()

        async def main():
            begun, go_on = asyncio.Event(), asyncio.Event()
            call = asyncio.ensure_future(sync_to_async(async_to_sync(users))(begun, go_on))
            await begun.wait()
            tasks = debug.snapshot().tasks
            go_on.set()
            await call
            return tasks

        assert any(names(task.name, ".users (", __file__) for task in asyncio.run(main()))

    def test_a_decorated_coroutine_has_its_own_place(self):
        def twice(function):
            return decorate(decorate(function))

        def decorate(function):
            @functools.wraps(function)
            async def wrapper(*args):
                return await function(*args)

            return wrapper

        @twice
        async def job():
            await asyncio.sleep(SECONDS)

        async def main():
            task = asyncio.create_task(job())
            words = [words_of.task_words(task)]
            await asyncio.sleep(0)
            words.append(words_of.task_words(task))
            task.cancel()
            return words

        line = job.__wrapped__.__wrapped__.__code__.co_firstlineno
        for words in asyncio.run(main()):
            assert words.endswith(f".job ({__file__}:{line})")

    def test_a_coroutine_renamed_otherwise_gives_no_place_rather_than_a_wrong_one(self):
        async def job():
            await asyncio.sleep(SECONDS)

        async def main():
            coroutine = job()
            coroutine.__name__ = coroutine.__qualname__ = "renamed"
            task = asyncio.create_task(coroutine)
            words = words_of.task_words(task)
            task.cancel()
            return words

        assert asyncio.run(main()).endswith(" of renamed")

    def test_of_a_lazy_object_run_no_code_of_its(self):
        ran = []

        class Lazy:
            def __getattr__(self, name):
                ran.append(name)
                raise AttributeError(name)

            @property
            def __wrapped__(self):
                ran.append("__wrapped__")

            def __call__(self):
                ran.append("called")
                return debug.snapshot().calls

        lazy = sync_to_async(Lazy())  # which asks for what a wrapper copies
        ran.clear()
        (call,) = asyncio.run(lazy())
        assert call.function.endswith("Lazy")
        assert ran == ["called"]


class TestCallsThatHaveNotBegun:
    """What such a call waits for, and who has that."""

    def test_one_that_waits_for_a_token(self):
        limiter = CapacityLimiter(1)

        def has_it(end):
            assert end.wait(SECONDS)

        def wants_it():
            pass

        def program(end):
            async def main():
                first, second = (
                    sync_to_async(function, thread_sensitive=False, limiter=limiter)
                    for function in (has_it, wants_it)
                )
                await asyncio.gather(first(end), second())

            asyncio.run(main())

        with in_thread(program):
            seen = look(
                lambda s: (
                    sorted(call.state for call in s.calls) == ["running", "waiting"]
                    and s.culprits
                    and "has_it" in s.culprits[0]
                )
            )
        running, waiting = sorted(seen.calls, key=lambda call: call.state)
        assert names(running.function, "has_it", __file__)
        assert names(waiting.function, "wants_it", __file__)
        assert waiting.thread is None
        token, call, thread = waiting.waits_for
        assert names(token, "a token of", f"{id(limiter):#x}", "total_tokens=1")
        assert names(call, "the call of", "has_it")
        assert names(thread, f"thread {running.thread}, which runs", "has_it", __file__)
        assert names(str(seen), f"{waiting.function} waits for a token of <CapacityLimiter")
        (task,) = [each for each in seen.tasks if each.waits_for[1:2] == (token,)]
        assert names(task.waits_for[0], "the call of", "wants_it")

    @pytest.mark.parametrize("who", ["a task", "a thread", "an object"])
    def test_a_token_that_was_borrowed_by_hand(self, who):
        limiter = CapacityLimiter(1)

        async def borrows(end):
            async with limiter:
                while not end.is_set():
                    await asyncio.sleep(0.01)

        def in_a_thread(end):
            with limiter:
                assert end.wait(SECONDS)

        def program(end):
            async def main():
                loop = asyncio.get_running_loop()
                if who == "a task":
                    has_it = asyncio.ensure_future(borrows(end))
                elif who == "a thread":
                    has_it = loop.run_in_executor(None, in_a_thread, end)
                else:
                    limiter.acquire_on_behalf_of_nowait(type("Borrower", (), {}))
                    has_it = loop.run_in_executor(None, end.wait, SECONDS)
                while not limiter.borrowed_tokens:
                    await asyncio.sleep(0.001)
                wants_it = asyncio.ensure_future(
                    sync_to_async(int, thread_sensitive=False, limiter=limiter)()
                )
                await has_it
                wants_it.cancel()

            asyncio.run(main())

        by = {"a task": "borrows", "a thread": "in_a_thread", "an object": "object of type"}[who]
        with in_thread(program):
            seen = look(lambda s: [call.state for call in s.calls] == ["waiting"])
        (call,) = seen.calls
        assert "a token of" in call.waits_for[0]
        assert by in call.waits_for[1]
        assert by in "".join(seen.culprits) or who == "a task"

    def test_a_task_that_waits_for_a_token_by_hand(self):
        limiter = CapacityLimiter(1)

        async def wants_it():
            async with limiter:
                pass

        def program(end):
            async def main():
                async with limiter:
                    task = asyncio.ensure_future(wants_it())
                    while not end.is_set():
                        await asyncio.sleep(0.001)
                await task

            asyncio.run(main())

        def has_seen(s):
            found = [task for task in s.tasks if ".wants_it" in task.name]
            return found and names("".join(found[0].waits_for[:2]), "a token of", "main")

        with in_thread(program):
            look(has_seen)

    @pytest.mark.parametrize("wait_timeout", [None, SECONDS])
    @pytest.mark.parametrize("kind", ["fresh", "keep"])
    def test_one_that_waits_at_the_limit_for_a_worker(self, kind, wait_timeout):
        def has_it(end):
            assert end.wait(SECONDS)

        def wants_it():
            pass

        async def in_context(function, *args):
            async with ThreadSensitiveContext():
                await sync_to_async(function)(*args)

        def program(end):
            async def main():
                first = asyncio.ensure_future(in_context(has_it, end))
                await asyncio.sleep(0)
                await asyncio.gather(first, in_context(wants_it))

            asyncio.run(main())

        old = workers.get_policy()
        workers.set_policy(workers.Policy(kind=kind, limit=1, wait_timeout=wait_timeout))
        try:
            with in_thread(program):
                seen = look(
                    lambda s: (
                        sorted(call.state for call in s.calls) == ["running", "waiting"]
                        and s.culprits
                        and "has_it" in s.culprits[0]
                    )
                )
        finally:
            workers.set_policy(old)
            workers.end_idle_workers()
        running, waiting = sorted(seen.calls, key=lambda call: call.state)
        assert names(running.function, "has_it", __file__)
        assert names(waiting.function, "wants_it", __file__)
        worker, task, call, thread = waiting.waits_for
        assert worker == "a worker for its context, at the limit of 1"
        assert names(task, "task", "in_context")
        assert names(call, "the call of", "has_it")
        assert names(thread, f"thread {running.thread}, which runs")
        assert f"{waiting.function} waits for a worker for its context" in str(seen)

    def test_one_that_waits_for_a_worker_of_whom_nobody_knows_who_is_inside(self):
        """The context was entered before there was a limit: then the worker's thread is named."""
        has_entered, may_go_on = threading.Event(), threading.Event()

        def has_it(end):
            assert end.wait(SECONDS)

        async def in_context():
            async with ThreadSensitiveContext():
                await sync_to_async(int)()

        def program(end):
            async def main():
                async with ThreadSensitiveContext():
                    has_entered.set()
                    assert may_go_on.wait(SECONDS)
                    call = asyncio.ensure_future(sync_to_async(has_it)(end))
                    await asyncio.sleep(0)
                    other = contextvars.Context().run(asyncio.ensure_future, in_context())
                    await call
                await other

            asyncio.run(main())

        old = workers.get_policy()
        try:
            with in_thread(program):
                assert has_entered.wait(SECONDS)
                workers.set_policy(workers.Policy(limit=1))
                may_go_on.set()
                seen = look(
                    lambda s: (
                        [call.state for call in s.calls if "has_it" not in call.function]
                        == ["waiting"]
                    )
                )
        finally:
            workers.set_policy(old)
        (waiting,) = [call for call in seen.calls if call.state == "waiting"]
        assert names(waiting.waits_for[1], "thread asgibridge-worker", "runs", "has_it")

    @pytest.mark.parametrize("width", [1, 2])
    def test_one_that_is_queued_for_a_pool_whose_threads_are_all_busy(self, width):
        def busy(n, end):
            assert end.wait(SECONDS)

        def queued():
            pass

        def program(end):
            async def main():
                asyncio.get_running_loop().set_default_executor(executor)
                calls = [sync_to_async(busy, thread_sensitive=False)(n, end) for n in range(width)]
                await asyncio.gather(*calls, sync_to_async(queued, thread_sensitive=False)())

            asyncio.run(main())

        executor = pools.LoopExecutor()
        executor._max_workers = width
        executor._begin()
        with in_thread(program):
            seen = look(lambda s: len(s.calls) == width + 1 and len(s.culprits) == width)
        (call,) = [call for call in seen.calls if call.state == "queued"]
        assert (names(call.function, "queued", __file__), call.thread) == (True, None)
        assert names(call.waits_for[0], f"a pool of threads, {width} of {width} busy")
        assert names(call.waits_for[1], "thread asyncio_", "busy")
        assert all(names(each, "thread asyncio_", "busy", "2 calls") for each in seen.culprits)
        assert f"{call.function} is queued for a pool of threads" in str(seen)

    @pytest.mark.parametrize("width", [1, 2])
    def test_a_ring_through_a_pool_whose_threads_are_all_taken(self, width):
        """Nothing raises there: see docs/deadlocks.md."""

        def program(end):
            tasks = []

            async def inner():
                tasks.append(asyncio.current_task())
                while len(tasks) < width:
                    await asyncio.sleep(0.001)
                await sync_to_async(int, thread_sensitive=False)()

            async def main():
                asyncio.get_running_loop().set_default_executor(executor)
                waits = sync_to_async(async_to_sync(inner), thread_sensitive=False)
                calls = asyncio.gather(*[waits() for _ in range(width)], return_exceptions=True)
                while not end.is_set():
                    await asyncio.sleep(0.001)
                for task in tasks:
                    task.cancel()
                await calls

            asyncio.run(main())

        executor = pools.LoopExecutor()
        executor._max_workers = width
        executor._begin()
        with in_thread(program):
            seen = look(lambda s: s.cycles)
        text = "\n".join(seen.cycles[0])
        assert names(text, "a pool of threads", "waits in async_to_sync", "inner", "the call of")
        assert not any("asyncio_" in each for each in seen.culprits)

    def test_a_ring_through_a_token_that_was_borrowed_by_hand(self):
        limiter = CapacityLimiter(1)

        def program(end):
            async def has_it():
                async with limiter:
                    await sync_to_async(int, thread_sensitive=False, limiter=limiter)()

            async def main():
                task = asyncio.ensure_future(has_it())
                while not end.is_set():
                    await asyncio.sleep(0.001)
                task.cancel()
                await asyncio.wait([task])

            asyncio.run(main())

        with in_thread(program):
            seen = look(lambda s: [len(cycle) for cycle in s.cycles] == [3])
        assert names("\n".join(seen.cycles[0]), "has_it", "the call of", "a token of")

    def test_a_ring_of_which_one_token_comes_back_is_no_cycle(self):
        """One of the two calls with a token waits for this very wait, the other goes on."""
        limiter = CapacityLimiter(2)

        def goes_on(end):
            assert end.wait(SECONDS)

        def program(end):
            async def main():
                limited = functools.partial(sync_to_async, thread_sensitive=False, limiter=limiter)

                async def inner():
                    await limited(int)()

                await asyncio.gather(limited(async_to_sync(inner))(), limited(goes_on)(end))

            asyncio.run(main())

        with in_thread(program):
            seen = look(
                lambda s: (
                    sorted(call.state for call in s.calls) == ["running", "running", "waiting"]
                    and any("goes_on" in each for each in s.culprits)
                )
            )
            assert seen.cycles == ()


class TestDump:
    def test_to_a_file(self):
        file = io.StringIO()

        async def main():
            debug.dump(file)

        asyncio.run(main())
        text = file.getvalue()
        assert text.startswith(f"asgibridge: process {os.getpid()}, ")
        assert names(text, "Threads:", "MainThread", "Event loops:", "main", "debug.dump(file)")
        # Its own frames are left out.
        assert "_sight" not in text

    def test_to_standard_error(self, capsys):
        debug.dump()
        assert "Threads:" in capsys.readouterr().err

    def test_keeps_nothing_alive(self, no_gc):
        class Thing:
            def method(self):
                return debug.snapshot()

        async def main():
            thing = Thing()
            seen = await sync_to_async(thing.method)()
            return weakref.ref(thing), seen

        there, seen = asyncio.run(main())
        assert "Thing.method" in seen.calls[0].function
        assert there() is None

    def test_a_loop_of_nobodys(self):
        """One that was made and never run has nothing to show."""
        loop = asyncio.new_event_loop()
        try:
            assert not any(f"{id(loop):#x}" in each for each in debug.snapshot().loops)
        finally:
            loop.close()


class Output:
    """A file that tells when something has been written."""

    def __init__(self):
        self.text = ""
        self.written = threading.Event()

    def write(self, text):
        self.text += text
        self.written.set()


class TestWatch:
    @pytest.fixture(autouse=True)
    def stop(self):
        yield
        debug.unwatch()

    def test_reports_a_stuck_call_once(self):
        output = Output()
        debug.watch(0.02, output)

        def stuck():
            assert output.written.wait(SECONDS)
            output.written.clear()
            # Longer than it takes to look again, several times.
            assert not output.written.wait(0.1)

        asyncio.run(sync_to_async(stuck)())
        assert names(output.text, "a call has been running for more than 0.02 s", "stuck", __file__)
        assert output.text.count("asgibridge: process") == 1

    def test_says_since_when(self):
        output = Output()
        debug.watch(0.05, output)

        def stuck():
            assert output.written.wait(SECONDS)

        asyncio.run(sync_to_async(stuck)())
        assert "stuck" in output.text
        assert " since 0." in output.text

    def test_a_view_that_waits_for_a_helper_thread_by_an_event(self):
        """The helper's own loop calls back to the view's thread. docs/deadlocks.md says this."""
        output = Output()
        helpers = []

        async def agent():
            return await sync_to_async(threading.current_thread)()

        def view():
            run = functools.partial(contextvars.copy_context().run, asyncio.run, agent())
            helpers.append(threading.Thread(target=run))
            helpers[0].start()
            assert output.written.wait(SECONDS)

        debug.watch(0.5, output)
        asyncio.run(sync_to_async(view)())
        helpers[0].join(SECONDS)
        culprit = output.text.partition("CULPRIT: ")[2].partition("\n")[0]
        assert names(culprit, "which runs", ".view (", f"{__file__}:", "in view: ")
        assert names(output.text, "current_thread (", " is queued for thread asgibridge-worker-")

    def test_says_nothing_of_what_is_in_time(self):
        output = Output()
        debug.watch(SECONDS, output)
        asyncio.run(sync_to_async(len)(""))
        debug._watcher.look()
        assert output.text == ""

    @pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
    def test_bad_seconds(self, seconds):
        with pytest.raises(ValueError, match="above 0"):
            debug.watch(seconds)
        with pytest.raises(ValueError, match="above 0"):
            debug.log_slow_calls(seconds)

    def test_by_environment(self, run_script):
        source = """
            import asyncio, threading, sys
            from asgibridge.sync import sync_to_async

            written = threading.Event()

            class Output:
                def write(self, text):
                    sys.__stderr__.write(text)
                    written.set()

                def flush(self):
                    pass

            sys.stderr = Output()

            def stuck_here():
                assert written.wait(30)

            asyncio.run(sync_to_async(stuck_here)())
        """
        done = run_script(source, ASGIBRIDGE_WATCH="0.05")
        assert done.returncode == 0, done.stderr
        assert "stuck_here" in done.stderr
        refused = run_script(source, ASGIBRIDGE_WATCH="soon")
        assert refused.returncode == 1
        assert "ASGIBRIDGE_WATCH='soon': must be a number of seconds" in refused.stderr


class TestSlowCalls:
    @pytest.fixture(autouse=True)
    def stop(self):
        yield
        debug.log_slow_calls(None)

    def test_are_logged(self, caplog):
        debug.log_slow_calls(0.02)

        def slow():
            threading.Event().wait(0.03)

        async def main():
            await sync_to_async(slow)()
            await sync_to_async(len)("")

        with caplog.at_level(logging.WARNING, "asgibridge"):
            asyncio.run(main())
        (record,) = [r for r in caplog.records if "slow" in r.getMessage()]
        assert names(record.getMessage(), "slow", __file__, "took 0.0", "asgibridge-worker")

    def test_a_failing_logger_costs_nobody_anything(self, monkeypatch):
        reported = []
        monkeypatch.setattr(threading, "excepthook", lambda args: reported.append(args.exc_type))

        def fail(*_args):
            raise LookupError

        monkeypatch.setattr(debug._logger, "warning", fail)
        debug.log_slow_calls(1e-9)
        assert asyncio.run(sync_to_async(len)("abc")) == 3
        assert reported == [LookupError]


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signals here")
class TestOnSignal:
    def test_while_the_main_thread_waits(self, script_output):
        """In async_to_sync, where nobody wakes it but what it waits for."""
        source = """
            import asyncio, io, os, signal, threading
            from asgibridge import debug
            from asgibridge.sync import async_to_sync

            class Output(io.StringIO):
                def flush(self):
                    written.set()

            written, output = threading.Event(), Output()

            async def main():
                wait = asyncio.get_running_loop().run_in_executor
                for _ in range(100):  # the threads may just be going to where they wait
                    os.kill(os.getpid(), signal.SIGUSR1)
                    await wait(None, written.wait, 0.3)
                    written.clear()
                    if "waits for task" in output.getvalue():
                        break

            debug.dump_on_signal(signal.SIGUSR1, output)
            async_to_sync(main)()
            debug.no_dump_on_signal(signal.SIGUSR1)
            assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
            print(output.getvalue())
        """
        assert names(script_output(source), "MainThread", "waits for task", "main", "async_to_sync")

    def test_while_the_main_thread_runs_no_python(self, script_output):
        """A C function that does not look at signals: no handler of Python's would run."""
        source = """
            import ctypes, os, signal, threading
            from asgibridge import debug

            class Output:
                def write(self, text):
                    os.write(1, text.splitlines()[0][:19].encode())
                    os._exit(0)

            debug.dump_on_signal(signal.SIGUSR1, Output())
            def kill():
                os.kill(os.getpid(), signal.SIGUSR1)
            threading.Timer(0.05, kill).start()
            libc = ctypes.CDLL(None)
            while True:
                libc.usleep(200000)  # with its own loop, it never comes back for long
        """
        assert script_output(source) == "asgibridge: process"

    def test_a_child_answers_for_itself(self, script_output):
        source = """
            import os, signal, sys, warnings
            from asgibridge import debug

            read, write = os.pipe()

            class Output:
                def write(self, text):
                    os.write(write, (text.split(",")[0] + "|").encode())

            debug.dump_on_signal(signal.SIGUSR1, Output())
            warnings.simplefilter("ignore")
            child = os.fork()
            if child == 0:
                os.kill(os.getpid(), signal.SIGUSR1)
                import time
                time.sleep(30)
            text = os.read(read, 1000).decode()
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            print(text == f"asgibridge: process {child}|")
        """
        assert script_output(source) == "True"

    def test_what_cannot_be_caught(self):
        with pytest.raises(ValueError, match="cannot be caught"):
            debug.dump_on_signal(signal.SIGKILL)
        with pytest.raises(ValueError, match="cannot be caught"):
            debug.dump_on_signal(signal.SIGSEGV)

    def test_leaves_nothing_open(self, monkeypatch):
        """What is refused, whoever refuses it."""
        opened, pipe = [], os.pipe

        def noting():
            opened.extend(pipe())
            return tuple(opened[-2:])

        def start(self):
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(os, "pipe", noting)
        for signum in (signal.SIGKILL, signal.SIGSEGV):
            with pytest.raises(ValueError, match="cannot be caught"):
                debug.dump_on_signal(signum)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                debug.dump_on_signal(signal.SIGUSR1)
        for descriptor in opened:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(descriptor)
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
