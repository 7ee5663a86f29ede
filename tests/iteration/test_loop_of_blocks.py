"""Which loop is in force while iterators and context managers are open: one for all that is within.

Where the tests speak of the four ways, these are a call, a context manager, one within that, and an
iterator.
"""

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

import pytest

from asgibridge._loops import lent
from asgibridge.iterators import async_to_sync_context_manager, async_to_sync_iterator
from asgibridge.sync import (
    AsyncSingleThreadContext,
    AsyncToSync,
    SyncToAsync,
    async_to_sync,
    sync_to_async,
)

SECONDS = 20

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


class Broken(Exception):
    pass


def persistent():
    return AsyncSingleThreadContext(persistent_loop=True)


@async_to_sync
async def loop_of_call():
    return asyncio.get_running_loop()


@async_to_sync(force_new_loop=True)
async def loop_of_its_own():
    return asyncio.get_running_loop()


@contextlib.asynccontextmanager
async def loop_of_manager():
    yield asyncio.get_running_loop()


async def loops_of_iterator(n=1):
    for _ in range(n):
        yield asyncio.get_running_loop()


def opened(**options):
    return async_to_sync_context_manager(loop_of_manager(), **options)


def iterated(n=1, **options):
    return async_to_sync_iterator(loops_of_iterator(n), max_size=1, **options)


def as_if_nothing_was_open():
    assert AsyncToSync.async_single_thread_context.get(None) is None
    assert getattr(AsyncToSync.executors, "current", None) is None
    assert threading.get_ident() not in lent._lent


class Bound:
    """What asyncio binds to the first loop that has to wait for it."""

    def __init__(self):
        self.event = asyncio.Event()
        self.lock = asyncio.Lock()
        self.queue = asyncio.Queue()

    async def __aenter__(self):
        # Each has to be waited for once, or it is bound to no loop.
        async def later():
            await asyncio.sleep(0)
            self.event.set()

        other = asyncio.ensure_future(later())
        await self.event.wait()
        await other
        self.event.clear()
        await self.wait_for_lock()
        putting = asyncio.ensure_future(self.put_later("entered"))
        assert await self.queue.get() == "entered"
        await putting
        return self

    async def __aexit__(self, *exc):
        await self.wait_for_lock()

    async def put_later(self, item):
        await asyncio.sleep(0)
        await self.queue.put(item)

    async def wait_for_lock(self):
        await self.lock.acquire()
        waiter = asyncio.ensure_future(self.lock.acquire())
        await asyncio.sleep(0)
        self.lock.release()
        await waiter
        self.lock.release()

    async def set_and_wait(self):
        waiter = asyncio.ensure_future(self.event.wait())
        await asyncio.sleep(0)
        self.event.set()
        await waiter
        await self.wait_for_lock()

    async def items(self, n):
        for i in range(n):
            putting = asyncio.ensure_future(self.put_later(i))
            yield await self.queue.get()
            await putting


class TestFourWays:
    def test_inside_a_persistent_loop(self):
        with persistent():
            loop = loop_of_call()
            with opened() as outer, opened() as inner:
                found = [outer, inner, *iterated(), loop_of_call()]
            assert [each is loop for each in found] == [True] * 4
            assert loop_of_call() is loop
        assert loop.is_closed()
        as_if_nothing_was_open()

    @pytest.mark.thread_unsafe(reason="looks at all loops there are")
    def test_inside_a_context_manager(self):
        with opened() as loop:
            with opened() as inner:
                assert [inner, *iterated(2), loop_of_call()] == [loop] * 4
            assert loop_of_call() is loop
            assert not loop.is_closed()
        assert loop.is_closed()
        assert AsyncToSync.loop_thread_executors == {}
        as_if_nothing_was_open()

    def test_inside_a_loop_over_an_iterator(self):
        for loop in iterated(2):
            with opened() as inner:
                assert [inner, *iterated(2), loop_of_call()] == [loop] * 4
        assert loop.is_closed()
        as_if_nothing_was_open()

    def test_a_context_with_one_thread_and_no_persistent_loop(self):
        with AsyncSingleThreadContext():
            before = loop_of_call()
            with opened() as loop:
                assert [*iterated(), loop_of_call()] == [loop] * 2
            assert loop_of_call() not in (before, loop)
        as_if_nothing_was_open()

    def test_a_persistent_loop_inside_joins(self):
        with opened() as loop:
            with persistent():
                assert [loop_of_call(), *iterated()] == [loop] * 2
            assert loop_of_call() is loop
        as_if_nothing_was_open()

    def test_in_a_worker_all_are_on_the_loop_that_waits(self):
        def use():
            with opened() as outer, opened() as inner:
                return [outer, inner, *iterated(), loop_of_call()]

        async def main():
            assert await sync_to_async(use)() == [asyncio.get_running_loop()] * 4

        asyncio.run(main())

    @pytest.mark.parametrize("block", [persistent, contextlib.nullcontext])
    def test_what_is_bound_to_a_loop(self, block):
        with block():
            with async_to_sync_context_manager(Bound)() as bound:
                async_to_sync(bound.set_and_wait)()
                for i in async_to_sync_iterator(bound.items(3), max_size=1):
                    bound.event.clear()
                    async_to_sync(bound.set_and_wait)()
                assert i == 2
                with async_to_sync_context_manager(bound):
                    async_to_sync(bound.wait_for_lock)()
        as_if_nothing_was_open()

    def test_a_task_that_a_call_starts_goes_on_until_the_block_is_left(self):
        ended = []

        async def go_on(started):
            started.set()
            try:
                await asyncio.sleep(1000)
            finally:
                ended.append(True)

        async def start():
            started = asyncio.Event()
            task = asyncio.ensure_future(go_on(started))
            await started.wait()
            return task

        with opened():
            task = async_to_sync(start)()
            loop_of_call()
            assert not task.done()
        assert task.cancelled()
        assert ended

    def test_context_variables_still_go_both_ways(self):
        variable = contextvars.ContextVar("variable", default=0)

        async def add():
            variable.set(variable.get() + 1)

        @contextlib.asynccontextmanager
        async def manager():
            variable.set(10)
            yield
            assert variable.get() == 12
            variable.set(20)

        with async_to_sync_context_manager(manager()):
            async_to_sync(add)()
            async_to_sync(add)()
            assert variable.get() == 12
        assert variable.get() == 20


class TestForceNewLoop:
    def test_opts_out(self):
        with opened() as loop:
            assert loop_of_its_own() is not loop
            (other,) = iterated(force_new_loop=True)
            assert other is not loop
            with opened(force_new_loop=True) as another:
                assert another not in (loop, other)
            assert loop_of_call() is loop
        as_if_nothing_was_open()

    def test_what_is_within_is_on_the_new_one(self):
        with opened() as loop:
            with opened(force_new_loop=True) as new:
                assert [loop_of_call(), *iterated()] == [new] * 2
            assert loop_of_call() is loop

    def test_also_within_a_persistent_loop(self):
        with persistent():
            loop = loop_of_call()
            with opened(force_new_loop=True) as new:
                assert [loop_of_call(), *iterated()] == [new] * 2
            assert [loop_of_call(), *iterated()] == [loop] * 2

    def test_in_a_worker_what_is_within_is_on_the_loop_that_waits(self):
        def use():
            with opened(force_new_loop=True) as new:
                assert loop_of_call() is not new
                with opened() as inner:
                    assert [inner, *iterated()] == [loop_of_call()] * 2
                with opened(force_new_loop=True) as another:
                    assert another not in (new, inner)
            return loop_of_call()

        async def main():
            assert await sync_to_async(use)() is asyncio.get_running_loop()

        asyncio.run(main())


class TestThread:
    """Thread-sensitive code comes back to the thread that has opened, whatever that waits in."""

    @pytest.mark.parametrize("block", [persistent, contextlib.nullcontext])
    def test_of_calls_inside(self, block):
        async def ident():
            return await sync_to_async(threading.get_ident)()

        async def idents():
            yield await ident()
            yield await asyncio.ensure_future(ident())

        with block(), opened():
            me = threading.get_ident()
            assert async_to_sync(ident)() == me
            assert list(async_to_sync_iterator(idents())) == [me, me]
            assert async_to_sync(ident)() == me

    @pytest.mark.parametrize("block", [persistent, contextlib.nullcontext])
    def test_of_a_task_of_the_manager_that_a_call_waits_for(self, block):
        @contextlib.asynccontextmanager
        async def server():
            requests = asyncio.Queue()

            async def serve():
                while True:
                    answer = await requests.get()
                    answer.set_result(await sync_to_async(threading.get_ident)())

            task = asyncio.ensure_future(serve())
            yield requests
            task.cancel()

        async def ask(requests):
            answer = asyncio.get_running_loop().create_future()
            await requests.put(answer)
            return await asyncio.wait_for(answer, SECONDS)

        async def answers(requests):
            for _ in range(3):
                yield await ask(requests)

        with block(), async_to_sync_context_manager(server()) as requests:
            me = threading.get_ident()
            assert async_to_sync(ask)(requests) == me
            for ident in async_to_sync_iterator(answers(requests), max_size=1):
                assert ident == async_to_sync(ask)(requests) == me

    def test_of_a_task_that_a_call_has_left_running(self):
        async def make_event():
            return asyncio.Event()

        async def later(go):
            await go.wait()
            return await sync_to_async(threading.get_ident)()

        async def start(go):
            return asyncio.ensure_future(later(go))

        async def finish(go, task):
            go.set()
            return await asyncio.wait_for(task, SECONDS)

        with opened():
            go = async_to_sync(make_event)()
            task = async_to_sync(start)(go)
            loop_of_call()
            assert async_to_sync(finish)(go, task) == threading.get_ident()

    def test_of_what_is_cancelled_as_the_block_ends(self):
        found = []

        async def clean_up():
            try:
                await asyncio.sleep(1000)
            finally:
                found.append(await sync_to_async(threading.get_ident)())

        async def start():
            asyncio.ensure_future(clean_up())
            await asyncio.sleep(0)

        with opened():
            async_to_sync(start)()
        assert found == [threading.get_ident()]

    def test_a_function_that_it_runs_may_open_and_call(self):
        def nested():
            with opened() as loop:
                return [loop, loop_of_call(), *iterated()]

        async def call():
            return await sync_to_async(nested)(), asyncio.get_running_loop()

        with opened() as loop:
            found, running = async_to_sync(call)()
            assert found == [loop] * 3
            assert running is loop

    def test_a_wait_within_a_wait(self):
        # The inner one, of a new loop's, serves the same thread and may take the outer's answer.
        def nested():
            with opened(force_new_loop=True) as new:
                assert new not in iterated(3, force_new_loop=True)
            return new

        async def call():
            return await sync_to_async(nested)()

        with opened() as loop:
            assert loop not in [async_to_sync(call)() for _ in range(5)]
            assert loop_of_call() is loop
        as_if_nothing_was_open()

    def test_a_wait_within_a_wait_whose_answer_has_come(self):
        entered = threading.Event()

        async def answer():
            await asyncio.get_running_loop().run_in_executor(None, entered.wait, SECONDS)
            return True

        def nested():
            with opened(force_new_loop=True):
                entered.set()
                time.sleep(0.2)  # far longer than the answer takes; sooner is right, too
                list(iterated(3, force_new_loop=True))

        async def call():
            asyncio.ensure_future(sync_to_async(nested)())
            return await answer()

        with opened():
            assert async_to_sync(call)() is True
        as_if_nothing_was_open()

    def test_a_loop_of_ones_own_in_the_block_is_not_concerned(self):
        async def main():
            return await sync_to_async(threading.get_ident)()

        with opened():
            assert asyncio.run(main()) != threading.get_ident()


class TestOrder:
    def test_iterators_that_end_before_those_begun_later(self):
        first, second = iterated(1), iterated(3)
        loop = next(first)
        assert next(second) is loop
        assert list(first) == []
        assert list(second) == [loop] * 2
        assert loop.is_closed()
        as_if_nothing_was_open()

    def test_context_managers_left_in_the_order_in_which_they_were_entered(self):
        first, second = contextlib.ExitStack(), contextlib.ExitStack()
        loop = first.enter_context(opened())
        assert second.enter_context(opened()) is loop
        first.close()
        assert loop_of_call() is loop
        second.close()
        assert loop.is_closed()
        assert loop_of_call() is not loop
        as_if_nothing_was_open()

    def test_of_two_loops_the_first_is_left_first(self):
        first, second = contextlib.ExitStack(), contextlib.ExitStack()
        old = first.enter_context(opened())
        new = second.enter_context(opened(force_new_loop=True))
        first.close()
        assert old.is_closed()
        assert loop_of_call() is new
        second.close()
        assert new.is_closed()
        as_if_nothing_was_open()

    def test_entered_in_a_copy_of_the_context(self):
        context = contextvars.copy_context()
        stack = contextlib.ExitStack()
        loop = context.run(stack.enter_context, opened())
        assert loop_of_call() is not loop
        assert context.run(loop_of_call) is loop
        stack.close()
        assert context.run(loop_of_call) is not loop
        as_if_nothing_was_open()

    def test_a_persistent_loop_that_ends_with_one_open(self):
        errors = []

        @contextlib.asynccontextmanager
        async def manager():
            try:
                yield
            except BaseException as error:
                errors.append(type(error))
                raise

        stack, numbers = contextlib.ExitStack(), iterated(5)
        with persistent():
            stack.enter_context(async_to_sync_context_manager(manager()))
            next(numbers)
        assert errors == [asyncio.CancelledError]
        with pytest.raises(RuntimeError, match="leave what is open on it before"):
            stack.close()
        with pytest.raises(RuntimeError, match="leave what is open on it before"):
            next(numbers)
        as_if_nothing_was_open()

    def test_one_that_goes_on_after_its_cancellation_does_not_keep_the_loop(self):
        async def stubborn():
            while True:
                with contextlib.suppress(asyncio.CancelledError):
                    yield 1

        numbers = async_to_sync_iterator(stubborn(), max_size=1)
        with persistent():
            assert next(numbers) == 1
        with pytest.raises(RuntimeError, match="has ended"):
            next(numbers)

    def test_dropped(self):
        numbers = iterated(5)
        loop = next(numbers)
        del numbers
        gc.collect()
        assert loop.is_closed()
        as_if_nothing_was_open()

    def test_a_finalizer_in_the_middle_of_a_wait(self):
        kept = [iterated(5)]

        async def call():
            # Runs on the waiting thread, in the middle of its wait for this call.
            await sync_to_async(kept.clear)()
            await asyncio.sleep(0)
            return asyncio.get_running_loop()

        with opened() as loop:
            assert next(kept[0]) is loop
            assert async_to_sync(call)() is loop
            assert loop_of_call() is loop
        as_if_nothing_was_open()

    def test_the_last_one_closed_on_another_thread(self):
        numbers = iterated(5)
        loop = next(numbers)
        thread = threading.Thread(target=numbers.close)
        thread.start()
        thread.join(SECONDS)
        for _ in range(SECONDS * 100):  # nobody waits for the end of the loop
            if loop.is_closed():
                break
            time.sleep(0.01)
        assert loop_of_call() is not loop
        assert loop.is_closed()
        assert loop not in iterated(2)
        as_if_nothing_was_open()

    @pytest.mark.parametrize("options", [{}, {"persistent_loop": True}])
    def test_a_context_entered_where_one_has_ended_that_was_left_behind(self, options):
        def leave_behind(stack):
            thread = threading.Thread(target=stack.close)
            thread.start()
            thread.join(SECONDS)

        @async_to_sync
        async def thread_of_call():
            return threading.get_ident()

        def use():
            stack = contextlib.ExitStack()
            stack.callback(iterator.close)
            next(iterator)
            leave_behind(stack)
            with AsyncSingleThreadContext(**options):
                assert thread_of_call() == thread_of_call()
                assert (loop_of_call() is loop_of_call()) == bool(options)
            with opened() as loop:
                assert loop_of_call() is loop

        iterator = iterated(5)
        contextvars.copy_context().run(use)

    def test_an_error_in_entering_ends_it(self):
        @contextlib.asynccontextmanager
        async def broken():
            raise Broken
            yield

        with pytest.raises(Broken):
            with async_to_sync_context_manager(broken()):
                pass
        as_if_nothing_was_open()

    def test_a_thread_that_cannot_be_started(self, monkeypatch):
        def refuse(_self):
            raise Broken

        context = persistent()
        with context:
            monkeypatch.setattr(AsyncSingleThreadContext, "_runs_on", refuse)
            with pytest.raises(Broken):
                with opened():
                    pass
            monkeypatch.undo()
            assert loop_of_call() is next(iterated())
        as_if_nothing_was_open()


class TestErrors:
    async def exit_in_a_task(self):
        async def leave():
            raise SystemExit(3)

        task = asyncio.ensure_future(leave())
        await asyncio.sleep(1000)
        await task

    def test_what_ends_the_loop_reaches_who_waits(self):
        async def leave():
            yield 1
            await self.exit_in_a_task()

        with persistent():
            with pytest.raises(SystemExit):
                list(async_to_sync_iterator(leave(), max_size=1))
            assert loop_of_call().is_running()
        as_if_nothing_was_open()

    def test_what_ends_the_loop_in_a_call(self):
        with pytest.raises(RuntimeError, match="has ended"):
            with opened() as loop:
                with pytest.raises(SystemExit):
                    async_to_sync(self.exit_in_a_task)()
                assert loop_of_call() is not loop
                loop = loop_of_call()
        assert loop.is_closed()
        as_if_nothing_was_open()

    def test_nothing_outlives_a_block(self, no_gc):
        class Thing:
            pass

        @contextlib.asynccontextmanager
        async def manager(thing):
            yield thing

        async def take(thing):
            return thing

        thing = Thing()
        reference = weakref.ref(thing)
        with async_to_sync_context_manager(manager(thing)) as same:
            assert async_to_sync(take)(same) is thing
        del thing, same
        loop_of_call()
        assert reference() is None


class TestOtherThreads:
    def test_a_copy_of_the_context_is_on_the_loop_too(self):
        found = []

        async def call():
            ident = await sync_to_async(threading.get_ident)()
            return asyncio.get_running_loop(), ident

        def use():
            with opened() as inner:
                found.extend([inner, *iterated(), async_to_sync(call)(), threading.get_ident()])

        with opened() as loop:
            thread = threading.Thread(target=contextvars.copy_context().run, args=(use,))
            thread.start()
            thread.join(SECONDS)
            assert found[:2] == [loop] * 2
            assert found[2] == (loop, found[3])
            assert loop_of_call() is loop
        assert loop.is_closed()

    def test_who_leaves_last_ends_it(self):
        entered, go_on = threading.Event(), threading.Event()
        found = []

        def use():
            with opened() as inner:
                found.append(inner)
                entered.set()
                assert go_on.wait(SECONDS)
                found.append(loop_of_call())

        with opened() as loop:
            thread = threading.Thread(target=contextvars.copy_context().run, args=(use,))
            thread.start()
            assert entered.wait(SECONDS)
        assert not loop.is_closed()
        go_on.set()
        thread.join(SECONDS)
        assert found == [loop] * 2
        assert loop.is_closed()

    def test_without_the_context_it_has_its_own(self):
        found = []
        with opened() as loop:
            # A thread of a free-threaded Python starts with a copy of its starter's context.
            target = contextvars.Context().run
            thread = threading.Thread(target=target, args=(lambda: found.append(loop_of_call()),))
            thread.start()
            thread.join(SECONDS)
        assert found[0] is not loop


class TestProcess:
    def test_exit_while_open(self, script_output):
        script = """
        import asyncio, contextlib
        from asgibridge.iterators import *
        from asgibridge.sync import *

        @contextlib.asynccontextmanager
        async def manager(name):
            yield asyncio.get_running_loop()
            print("left", name, await sync_to_async(lambda: "thread")())

        async def numbers():
            try:
                yield asyncio.get_running_loop()
                yield 2
            finally:
                print("closed")

        async def call():
            return asyncio.get_running_loop()

        if {persistent}:
            AsyncSingleThreadContext(persistent_loop=True).__enter__()
        outer = async_to_sync_context_manager(manager("outer"))
        inner = async_to_sync_context_manager(manager("inner"))
        iterator = async_to_sync_iterator(numbers(), max_size=1)
        assert outer.__enter__() is inner.__enter__() is next(iterator) is async_to_sync(call)()
        """
        for persistent in "False", "True":
            lines = script_output(script.replace("{persistent}", persistent)).splitlines()
            assert sorted(lines) == ["closed", "left inner thread", "left outer thread"]

    @needs_fork
    def test_fork_while_open(self, script_output):
        script = """
        import asyncio, contextlib, os, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        from asgibridge.iterators import *
        from asgibridge.sync import *

        @contextlib.asynccontextmanager
        async def manager():
            yield asyncio.get_running_loop()
            print("left", flush=True)

        async def call():
            return asyncio.get_running_loop(), await sync_to_async(lambda: 42)()

        try:
            with async_to_sync_context_manager(manager()) as loop:
                assert async_to_sync(call)() == (loop, 42)
                pid = os.fork()
                if pid:
                    assert os.waitpid(pid, 0)[1] == 0
                    assert async_to_sync(call)() == (loop, 42)
                else:
                    new, answer = async_to_sync(call)()
                    assert new is not loop
                    assert answer == 42
                    with async_to_sync_context_manager(manager()) as inner:
                        assert inner is async_to_sync(call)()[0]
                    assert async_to_sync(call)()[0] is new
        except RuntimeError as error:
            assert not pid and "before a fork" in str(error), error
            assert async_to_sync(call)()[0] is not new
            assert new.is_closed()
            print("child", flush=True)
            os._exit(0)  # a fork has left the watchdog of this script behind
        else:
            print("parent", flush=True)
        """
        assert script_output(script).split() == ["left", "child", "left", "parent"]

    @needs_signals
    def test_ctrl_c_in_a_call_cancels_that_alone(self, script_output):
        script = """
        import asyncio, contextlib, os, signal
        from asgibridge.iterators import *
        from asgibridge.sync import *

        @contextlib.asynccontextmanager
        async def manager():
            try:
                yield asyncio.get_running_loop()
            except BaseException as error:
                print("left with", type(error).__name__)
                raise

        async def interrupted():
            os.kill(os.getpid(), signal.SIGINT)
            try:
                await asyncio.sleep(100)
            finally:
                print("cancelled")

        async def call():
            return asyncio.get_running_loop()

        try:
            with async_to_sync_context_manager(manager()) as loop:
                try:
                    async_to_sync(interrupted)()
                finally:
                    assert async_to_sync(call)() is loop
        except KeyboardInterrupt:
            print("interrupted", loop.is_closed())
        """
        lines = ["cancelled", "left with KeyboardInterrupt", "interrupted True"]
        assert script_output(script).splitlines() == lines

    @needs_signals
    def test_ctrl_c_while_it_waits_for_an_item(self, script_output):
        script = """
        import asyncio, contextlib, os, signal
        from asgibridge.iterators import *
        from asgibridge.sync import *

        @contextlib.asynccontextmanager
        async def manager():
            yield asyncio.get_running_loop()
            raise AssertionError

        async def numbers():
            yield 1
            os.kill(os.getpid(), signal.SIGINT)
            try:
                await asyncio.sleep(100)
            finally:
                print("cancelled")

        try:
            with async_to_sync_context_manager(manager()) as loop:
                for number in async_to_sync_iterator(numbers(), max_size=1):
                    print(number)
        except KeyboardInterrupt:
            print("interrupted", loop.is_closed())
        """
        assert script_output(script).splitlines() == ["1", "cancelled", "interrupted True"]

    @needs_signals
    def test_ctrl_c_twice_leaves_it_behind(self, script_output):
        script = """
        import asyncio, contextlib, os, signal, sys, threading
        from asgibridge.iterators import *
        from asgibridge.sync import *

        async def call():
            return asyncio.get_running_loop()

        def is_waiting():
            # For the end, in the main thread: Ctrl-C anywhere else leaves no wait to be left.
            frame, names = sys._current_frames()[threading.main_thread().ident], []
            while frame is not None:
                names.append(frame.f_code.co_name)
                frame = frame.f_back
            return "close" in names and "serve_until_answered" in names

        async def stubborn():
            yield asyncio.get_running_loop()
            while True:
                os.kill(os.getpid(), signal.SIGINT)
                try:
                    await asyncio.sleep(100)
                except asyncio.CancelledError:
                    while not is_waiting():
                        await asyncio.sleep(0)
                    print("again", flush=True)
                    os.kill(os.getpid(), signal.SIGINT)
                    await asyncio.sleep(0.01)
                    return

        try:
            for loop in async_to_sync_iterator(stubborn(), max_size=1):
                pass
        except KeyboardInterrupt:
            print("interrupted")
        assert async_to_sync(call)() is not loop
        """
        # How far the loop's thread comes, which nobody waits for, is its own business.
        assert script_output(script).splitlines()[-1] == "interrupted"


def test_the_block_is_no_loop_that_waits():
    # Others ask this to find out whether they are in a thread of ours.
    with opened():
        assert not hasattr(SyncToAsync.threadlocal, "main_event_loop")
