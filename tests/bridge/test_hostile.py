"""Objects that run code where nobody expects any, and hooks that the interpreter calls everywhere.

What is asked for is always the same: no crash, no hang, no lost call, nobody else's values; and an
error in somebody's own code goes to that somebody.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import random
import sys
import sysconfig
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

from asgibridge.local import Local
from asgibridge.sync import (
    AsyncToSync,
    SyncToAsync,
    ThreadSensitiveContext,
    async_to_sync,
    sync_to_async,
)
from queues import until

LIMIT = 20
"""Seconds after which a wait is a hang."""

HAS_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

BOTH = pytest.mark.parametrize("thread_critical", [False, True], ids=["default", "critical"])

variable = contextvars.ContextVar("variable")


def run(coroutine):
    """Run in a thread of its own, and fail rather than hang."""
    outcome = []

    def target():
        try:
            outcome.append((asyncio.run(asyncio.wait_for(coroutine, LIMIT)), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    thread.join(LIMIT + 10)
    assert not thread.is_alive(), "hangs"
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


def identity(value):
    return value


async def aidentity(value):
    return value


async def there_and_back(value):
    return await sync_to_async(identity)(value)


class Refuses:
    """Raises whatever it is asked."""

    def __eq__(self, other):
        raise ZeroDivisionError("compared")

    def __bool__(self):
        raise ZeroDivisionError("asked for its truth")

    def __len__(self):
        raise ZeroDivisionError("measured")

    def __repr__(self):
        raise ZeroDivisionError("shown")

    __hash__ = None


class AtTheEnd:
    """Calls ``action`` when it is deleted."""

    def __init__(self, action):
        self.action = action

    def __del__(self):
        self.action()


class TestValues:
    def test_as_arguments_results_and_context_variables(self):
        """Nothing is compared, tested for truth, or shown."""

        async def main():
            value, other = Refuses(), Refuses()
            variable.set(value)
            assert await sync_to_async(identity)(other) is other
            assert await sync_to_async(async_to_sync(there_and_back))(other) is other
            await sync_to_async(variable.set)(other)
            assert variable.get() is other

        run(main())
        value = Refuses()
        assert async_to_sync(there_and_back)(value) is value

    @BOTH
    def test_as_attributes(self, thread_critical):
        local, value = Local(thread_critical), Refuses()

        def use():
            local.value = value
            assert local.value is value
            local.value = value
            assert getattr(local, "value", None) is value
            del local.value
            assert not hasattr(local, "value")

        use()
        run(sync_to_async(use)())

        async def ause():
            use()

        run(ause())

    @pytest.mark.not_quick
    @BOTH
    def test_whose_end_uses_the_same_local(self, thread_critical):
        local = Local(thread_critical)
        seen = []

        def at_end():
            seen.append(type(getattr(local, "value", None)))
            local.late = len(seen)
            if hasattr(local, "other"):
                del local.other

        def use():
            seen.clear()
            for i in range(20):
                local.other = i
                local.value = AtTheEnd(at_end)
                gc.collect()
            del local.value
            gc.collect()
            assert seen == [AtTheEnd] * 19 + [type(None)]
            assert local.late == 20

        async def ause():
            use()

        use()
        run(sync_to_async(use)())
        run(ause())

    def test_whose_end_bridges(self):
        """As a variable that the call replaced, an argument, and a result."""
        ended = []

        def at_end():
            ended.append(async_to_sync(aidentity)(1) if not in_loop() else 1)

        def in_loop():
            return asyncio._get_running_loop() is not None

        def replace(argument):
            variable.set(AtTheEnd(at_end))
            return AtTheEnd(at_end)

        async def main():
            for _ in range(10):
                variable.set(AtTheEnd(at_end))
                await sync_to_async(replace)(AtTheEnd(at_end))
            variable.set(None)

        run(main())
        gc.collect()
        until(lambda: len(ended) == 40)  # a worker may be about to drop its last
        assert ended == [1] * 40

    def test_whose_end_submits_to_the_executor_that_drops_them(self, kernel):
        with kernel.ThreadSensitiveExecutor() as executor:
            done = threading.Semaphore(0)

            def at_end():
                executor.submit(done.release)

            for _ in range(50):
                executor.submit(identity, AtTheEnd(at_end))
            gc.collect()
            for _ in range(50):
                # Awake: without the GIL, what this thread has made may end only while it runs.
                until(lambda: done.acquire(timeout=0.01))

    def test_whose_end_raises(self, monkeypatch):
        heard = []
        monkeypatch.setattr(sys, "unraisablehook", lambda told: heard.append(type(told.exc_value)))

        def fail():
            raise ZeroDivisionError

        async def main():
            for _ in range(10):
                await sync_to_async(identity)(AtTheEnd(fail))
                variable.set(AtTheEnd(fail))
                await sync_to_async(variable.set)(None)

        run(main())
        gc.collect()
        assert heard == [ZeroDivisionError] * 20

    @pytest.mark.skipif(not HAS_GIL, reason="without the GIL, whoever counts last runs it")
    def test_end_on_the_callers_side(self):
        """A worker that has told of a call has nothing of it any more."""
        where = []

        def note():
            where.append(threading.get_ident())

        def make(argument):
            return AtTheEnd(note)

        async def main():
            here = threading.get_ident()
            for _ in range(50):
                await sync_to_async(make)(AtTheEnd(note))
            return where == [here] * 100

        assert run(main())
        where.clear()

        async def amake(argument):
            return AtTheEnd(note)

        for _ in range(5):
            async_to_sync(amake)(AtTheEnd(note))
        assert where == [threading.get_ident()] * 10


class Name(str):
    """A name whose hash and comparison are code."""

    action = staticmethod(lambda: None)

    def __hash__(self):
        self.action()
        return str.__hash__(self)

    def __eq__(self, other):
        self.action()
        return str.__eq__(self, other)


class TestNames:
    @BOTH
    def test_of_a_subclass_of_str(self, thread_critical):
        local = Local(thread_critical)
        name = Name("value")
        setattr(local, name, 1)
        assert (local.value, getattr(local, name)) == (1, 1)
        local.value = 2
        assert getattr(local, name) == 2
        delattr(local, name)
        assert not hasattr(local, "value")
        with pytest.raises(AttributeError, match="_data"):
            setattr(Local(), Name("_data"), 1)

    @pytest.mark.skipif(FREE_THREADED, reason="crashes 3.14t with a dict alone, without us")
    @BOTH
    @pytest.mark.parametrize("in_loop", [False, True])
    def test_that_use_the_local_when_they_are_looked_up(self, thread_critical, in_loop):
        """The dictionary changes, and loses its value, in the middle of a look-up."""
        local = Local(thread_critical)

        class Reentrant(Name):
            # A dictionary that changes at every comparison is searched for ever, by Python itself.
            left = 0

            def action(self):
                if Reentrant.left:
                    Reentrant.left -= 1
                    for i in range(20):
                        setattr(local, f"filler{i}", object())
                    if hasattr(local, "value"):
                        del local.value
                    local.value = object()

        def use():
            name = Reentrant("value")
            for left in [1, 2, 3] * 20:
                local.value = object()
                Reentrant.left = left
                assert type(getattr(local, name, None)) is object
                Reentrant.left = left
                setattr(local, name, object())
                assert type(local.value) is object
                Reentrant.left = left
                delattr(local, name)
                Reentrant.left = 0

        async def ause():
            use()

        run(ause()) if in_loop else use()

    @BOTH
    @pytest.mark.parametrize("in_loop", [False, True])
    def test_that_raise(self, thread_critical, in_loop):
        local = Local(thread_critical)

        class Raises(Name):
            def action(self):
                raise ZeroDivisionError

        def use():
            local.value = 1
            name = Raises("value")
            for attempt in (
                lambda: getattr(local, name),
                lambda: getattr(local, name, None),
                lambda: setattr(local, name, 2),
                lambda: delattr(local, name),
            ):
                with pytest.raises(ZeroDivisionError):
                    attempt()
            assert local.value == 1

        async def ause():
            use()

        run(ause()) if in_loop else use()


class TestCallbacks:
    def test_that_submit_again(self, kernel):
        with kernel.ThreadSensitiveExecutor() as executor:
            left, ended = [100], threading.Event()

            def again(future):
                assert future.result() == left[0]
                left[0] -= 1
                if left[0]:
                    executor.submit(identity, left[0]).add_done_callback(again)
                else:
                    ended.set()

            executor.submit(identity, 100).add_done_callback(again)
            assert ended.wait(LIMIT)

    def test_of_a_task_that_start_others(self):
        async def main():
            left, ended = [100], asyncio.Event()

            def again(task):
                left[0] -= 1
                if left[0]:
                    start()
                else:
                    ended.set()

            def start():
                task = asyncio.ensure_future(sync_to_async(identity)(1))
                task.add_done_callback(again)
                tasks.append(task)

            tasks = []
            start()
            await ended.wait()
            return [task.result() for task in tasks]

        assert run(main()) == [1] * 100

    def test_that_a_wait_is_given_and_robbed_of_while_it_runs_them(self, kernel):
        """What a task awaits is an object of ours: others may add callbacks, too."""

        class Equal:
            def __init__(self, wait, log):
                self.wait, self.log = wait, log

            def __call__(self, wait):
                self.log.append(self)

            def __eq__(self, other):
                # Changes the list that is being searched; once, or asyncio's own would never end.
                if self.wait is not None:
                    wait, self.wait = self.wait, None
                    wait.add_done_callback(self.log.append)
                return other is self

            __hash__ = None

        async def main():
            loop = asyncio.get_running_loop()
            call = kernel.SyncCall(loop, int)
            iterator = call.__await__()
            wait = next(iterator)
            log = []
            callbacks = [Equal(wait, log) for _ in range(3)]
            for callback in callbacks:
                wait.add_done_callback(callback)
            assert wait.remove_done_callback(callbacks[1]) == 1
            # It is done before the callbacks are called; one that is added now is called as well.
            wait.add_done_callback(lambda done: done.add_done_callback(log.append))
            call.run()
            call.wake()
            for _ in range(5):
                await asyncio.sleep(0)
            with pytest.raises(StopIteration) as stop:
                next(iterator)
            assert stop.value.value == 0
            return [callback in [x for x in log if x is callback] for callback in callbacks], log

        kept, log = run(main())
        assert log.count(None) == 0
        assert kept[1] is False
        assert kept[0]
        assert kept[2]

    def test_of_an_outcome_that_set_it_again(self, kernel):
        call, heard = kernel.AsyncCall(), []

        def again(done):
            with pytest.raises(Exception, match="already set"):
                done.set_result(2)
            heard.append(done.result())

        call.add_done_callback(again)
        call.set_result(1)
        assert heard == [1]

    def test_that_raise_end_neither_the_loop_nor_the_worker(self, kernel):
        async def main():
            loop = asyncio.get_running_loop()
            told = []
            loop.set_exception_handler(lambda _, context: told.append(type(context["exception"])))
            tasks = [asyncio.ensure_future(sync_to_async(identity)(i)) for i in range(20)]
            for task in tasks[::2]:
                task.add_done_callback(lambda _: 1 / 0)
            assert await asyncio.gather(*tasks) == list(range(20))
            await asyncio.sleep(0)
            return told

        assert run(main()) == [ZeroDivisionError] * 10


@pytest.fixture
def hooks():
    """Set and, at the end, reset what is called on every line or call."""
    yield
    sys.settrace(None)
    sys.setprofile(None)
    threading.settrace(None)  # type: ignore[arg-type]
    threading.setprofile(None)


async def every_crossing(n):
    """A little of everything; the result tells whether it was right."""
    local = Local()
    local.value = n
    variable.set(n)

    def back(value):
        assert local.value == n
        return async_to_sync(there_and_back)(value)

    async with ThreadSensitiveContext():
        values = [await sync_to_async(back)(n)]
    values.append(await sync_to_async(back)(n))
    values += await asyncio.gather(*(sync_to_async(identity)(n) for _ in range(10)))
    values.append(await sync_to_async(identity, thread_sensitive=False)(n))
    values.append(local.value)
    values.append(variable.get())
    return values == [n] * 15


@pytest.mark.thread_unsafe(reason="the hooks of all threads")
@pytest.mark.usefixtures("hooks")
class TestTracing:
    """Not under coverage's or a debugger's own trace function: these tests replace it."""

    @pytest.mark.parametrize("kind", ["trace", "profile"])
    def test_of_every_thread(self, kind):
        seen = set()

        def hook(frame, event, argument):
            seen.add((frame.f_code.co_name, threading.get_ident()))
            return hook

        def traced():
            getattr(sys, f"set{kind}")(hook)
            try:
                return async_to_sync(every_crossing)(1), threading.get_ident()
            finally:
                getattr(sys, f"set{kind}")(None)

        getattr(threading, f"set{kind}")(hook)
        try:
            with ThreadPoolExecutor(1) as pool:
                right, here = pool.submit(traced).result(LIMIT)
        finally:
            getattr(threading, f"set{kind}")(None)
        assert right
        assert ("identity", here) in seen
        assert {thread for name, thread in seen if name == "every_crossing"} - {here}

    @pytest.mark.parametrize("kind", ["trace", "profile"])
    def test_installed_and_removed_by_the_called_function(self, kind):
        install = getattr(sys, f"set{kind}")
        seen = []

        def hook(frame, event, argument):
            seen.append(frame.f_code.co_name)
            return hook

        async def main():
            for _ in range(5):
                await sync_to_async(install)(hook)
                assert await sync_to_async(identity)(1) == 1
                await sync_to_async(install)(None)
                seen.clear()
                assert await sync_to_async(identity)(1) == 1
                assert "identity" not in seen
            return await every_crossing(1)

        assert run(main())

    def test_with_a_hook_that_bridges(self):
        """A debugger's prompt may run anything."""
        depth, values = [0], []

        def hook(frame, event, argument):
            if frame.f_code.co_name == "identity" and event == "call" and not depth[0]:
                depth[0] += 1
                try:
                    values.append(async_to_sync(aidentity)("from the hook"))
                finally:
                    depth[0] -= 1

        def traced():
            sys.setprofile(hook)
            try:
                return async_to_sync(there_and_back)(1)
            finally:
                sys.setprofile(None)

        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(traced).result(LIMIT) == 1
        assert values == ["from the hook"]

    def test_with_a_hook_that_raises_in_the_called_function(self):
        def hook(frame, event, argument):
            if frame.f_code is identity.__code__:
                raise ZeroDivisionError("in the hook")
            return hook

        def call():
            # Python takes a trace function that has raised away.
            sys.settrace(hook)
            try:
                return identity(1)
            finally:
                sys.settrace(None)

        async def main():
            with pytest.raises(ZeroDivisionError, match="in the hook"):
                await sync_to_async(call)()
            return await every_crossing(1)

        assert run(main())


class TestLoad:
    @pytest.mark.parametrize("seed", [1, 2])
    def test_with_a_switch_between_any_two_instructions(self, seed):
        """Six threads, each with a loop, doing a little of everything and cancelling some of it."""
        generator = random.Random(seed)
        local = Local()

        def work(value):
            local.value = value
            if value % 3 == 0:
                return async_to_sync(there_and_back)(value)
            if value % 7 == 0:
                raise KeyError(value)
            return local.value

        async def one(value):
            try:
                return await sync_to_async(work, thread_sensitive=value % 5 != 0)(value)
            except KeyError as error:
                return error.args[0]

        async def main(cancel):
            for _ in range(6):
                async with ThreadSensitiveContext():
                    tasks = [asyncio.create_task(one(value)) for value in range(30)]
                    await asyncio.sleep(0)
                    for task, unlucky in zip(tasks, cancel):
                        if unlucky:
                            task.cancel()
                    results = await asyncio.gather(*tasks, return_exceptions=True)
                for value, unlucky, result in zip(range(30), cancel, results):
                    if unlucky:
                        assert isinstance(result, asyncio.CancelledError) or result == value
                    else:
                        assert result == value
            return True

        plans = [[generator.random() < 0.3 for _ in range(30)] for _ in range(6)]
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            with ThreadPoolExecutor(6) as pool:
                assert all(pool.map(run, map(main, plans), timeout=50))
        finally:
            sys.setswitchinterval(interval)

    def test_with_a_collection_at_every_allocation(self):
        """And garbage whose end bridges, wherever the collector finds it."""
        ended = []

        class Cycle:
            def __init__(self):
                self.me = self

            def __del__(self):
                if asyncio._get_running_loop() is None:
                    ended.append(async_to_sync(aidentity)(1))
                else:
                    ended.append(1)

        async def main():
            for n in range(5):
                Cycle()
                assert await every_crossing(n)
                await sync_to_async(Cycle)()
            return True

        threshold = gc.get_threshold()
        gc.set_threshold(1)
        try:
            assert run(main())
        finally:
            gc.set_threshold(*threshold)
        gc.collect()
        assert ended == [1] * 10


HIDING = """
    import asyncio, sys
    from asgibridge.sync import async_to_sync, sync_to_async

    class Hiding(Exception):
        @property
        def __traceback__(self):
            raise ZeroDivisionError("asked for its traceback")

        @property
        def __context__(self):
            raise ZeroDivisionError("asked for its context")

        @property
        def __cause__(self):
            raise ZeroDivisionError("asked for its cause")

        def with_traceback(self, traceback):
            raise ZeroDivisionError("given a traceback")

        def __str__(self):
            raise ZeroDivisionError("shown")

    hiding = Hiding()

    def fail():
        raise hiding

    def handled():
        return sys.exc_info()[1]

    async def ahandled():
        return sys.exc_info()[1]

    async def main():
        for call in (sync_to_async(fail), sync_to_async(async_to_sync(sync_to_async(fail)))):
            try:
                await call()
            except Hiding as error:
                assert error is hiding
                assert await sync_to_async(handled)() is hiding
                assert await sync_to_async(async_to_sync(ahandled))() is hiding
            else:
                raise AssertionError("lost")
        return True

    assert asyncio.run(main())
    try:
        raise hiding
    except Hiding:
        print(async_to_sync(ahandled)() is hiding)
"""


class TestErrors:
    def test_that_need_arguments_or_refuse_to_be_made(self):
        """They are never made again, only passed on."""

        class NeedsMany(Exception):
            def __init__(self, one, two, *, three):
                super().__init__()

        class OnlyOnce(Exception):
            made = False

            def __new__(cls, *args):
                if OnlyOnce.made:
                    raise AssertionError("made a second time")
                OnlyOnce.made = True
                return super().__new__(cls)

        class Refused(Exception):
            def __init__(self):
                raise ZeroDivisionError("in the constructor")

        errors = [NeedsMany(1, 2, three=3), OnlyOnce()]

        def fail(error):
            raise error

        async def afail(error):
            raise error

        async def main():
            for error in errors:
                for call in (sync_to_async(fail), sync_to_async(async_to_sync(afail))):
                    with pytest.raises(type(error)) as caught:
                        await call(error)
                    assert caught.value is error
            for call in (sync_to_async(fail), sync_to_async(async_to_sync(afail))):
                with pytest.raises(ZeroDivisionError, match="in the constructor"):
                    await call(Refused)

        run(main())
        for error in errors:
            with pytest.raises(type(error)) as caught:
                async_to_sync(afail)(error)
            assert caught.value is error

    def test_that_hide_their_traceback_and_context(self, script_output):
        """Passed on, and handled while a call is made: what is looked at is the real thing.

        A process of its own, because pytest could not show a failure.
        """
        assert script_output(HIDING) == "True"

    def test_whose_end_bridges(self):
        ended = []

        class Ending(Exception):
            def __del__(self):
                if asyncio._get_running_loop() is None:
                    ended.append(async_to_sync(aidentity)(1))
                else:
                    ended.append(1)

        def fail():
            raise Ending

        async def main():
            for _ in range(10):
                with pytest.raises(Ending):
                    await sync_to_async(fail)()
                with pytest.raises(Ending):
                    await sync_to_async(async_to_sync(sync_to_async(fail)))()

        run(main())
        gc.collect()
        until(lambda: len(ended) == 20)
        assert ended == [1] * 20


def at_each_depth_to_the_limit(call):
    """Call it with ever fewer frames left; how often it succeeded, and how often it could not."""

    def deep(left):
        return deep(left - 1) if left else call()

    succeeded = failed = 0
    limit = sys.getrecursionlimit()
    with warnings.catch_warnings():
        # A coroutine that could not even be begun is dropped, and Python says so.
        warnings.simplefilter("ignore")
        for left in FRAMES_LEFT:
            try:
                assert deep(limit - left) == "done"
                succeeded += 1
            except RecursionError:
                failed += 1
    return succeeded, failed


# More than a call needs, what stands below us included; and none.
FRAMES_LEFT = range(150, -1, -1)


@pytest.mark.thread_unsafe(reason="there is one single thread")
class TestRecursion:
    """Close to its limit a call works, or raises RecursionError, and then the next one works."""

    @pytest.fixture(autouse=True)
    def stack(self):
        # musl's threads have 128 KiB: there 1,000 nested calls, or to free their frames, can crash
        # CPython alone.
        before = threading.stack_size(8 << 20)
        yield
        threading.stack_size(before)

    @staticmethod
    async def coroutine():
        return await sync_to_async(identity)("done")

    def check(self, counts):
        succeeded, failed = counts
        assert succeeded
        assert failed

    def test_in_a_worker(self):
        async def main():
            waiting = asyncio.all_tasks() - {asyncio.current_task()}
            counts = await sync_to_async(at_each_depth_to_the_limit)(async_to_sync(self.coroutine))
            self.check(counts)
            assert await every_crossing(1)
            # Nor does what a failed call has begun wait for ever.
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for _ in range(10):
                await asyncio.sleep(0)
            assert {task for task in others if not task.done()} == waiting

        run(main())

    def test_at_the_top_level(self):
        with ThreadPoolExecutor(1) as pool:
            call = async_to_sync(self.coroutine)
            self.check(pool.submit(at_each_depth_to_the_limit, call).result(LIMIT))
            assert pool.submit(async_to_sync(every_crossing), 1).result(LIMIT)
            assert pool.submit(getattr, AsyncToSync.executors, "current", None).result() is None

    def test_in_a_task(self):
        async def deep(left):
            if left:
                return await deep(left - 1)
            return await self.coroutine()

        async def main():
            succeeded = failed = 0
            for left in FRAMES_LEFT:
                try:
                    assert await deep(sys.getrecursionlimit() - left) == "done"
                    succeeded += 1
                except RecursionError:
                    failed += 1
            self.check((succeeded, failed))
            assert await every_crossing(1)
            assert await self.coroutine() == "done"
            # What failed has not been put into the inbox: the thread does not pass for busy.
            assert SyncToAsync.single_thread_executor.is_idle()

        run(main())

    def test_of_the_called_function_itself(self):
        def endless():
            return endless()

        async def aendless():
            return await aendless()

        async def main():
            with pytest.raises(RecursionError):
                await sync_to_async(endless)()
            with pytest.raises(RecursionError):
                await sync_to_async(async_to_sync(aendless))()
            assert await every_crossing(1)

        run(main())


@pytest.mark.skipif(sys.platform == "win32", reason="sends itself signals")
class TestSignals:
    """Handlers run in the main thread, between any two of its instructions."""

    @pytest.mark.thread_unsafe(reason="signals go to the main thread")
    def test_a_handler_that_raises_in_a_function_on_the_main_thread(self, script_output):
        """It is the function that is interrupted, and its caller that hears of it."""
        assert (
            script_output(
                """
    import os, signal
    from asgibridge.sync import async_to_sync, sync_to_async

    class Alarm(Exception):
        pass

    def handler(number, frame):
        raise Alarm

    signal.signal(signal.SIGUSR1, handler)

    def work():
        os.kill(os.getpid(), signal.SIGUSR1)
        return "not interrupted"

    async def main():
        heard = 0
        for _ in range(50):
            try:
                await sync_to_async(work)()
            except Alarm:
                heard += 1
        return heard, await sync_to_async(int)("7")

    print(async_to_sync(main)())
        """
            )
            == "(50, 7)"
        )

    @pytest.mark.thread_unsafe(reason="signals go to the main thread")
    def test_a_handler_that_bridges(self, script_output):
        """While the main thread waits, serves, and runs a loop."""
        assert (
            script_output(
                """
    import asyncio, os, signal
    from asgibridge.sync import async_to_sync, sync_to_async

    values = []

    async def inner():
        return await sync_to_async(int)("1")

    def handler(number, frame):
        if asyncio._get_running_loop() is None:
            values.append(async_to_sync(inner)())
        else:
            tasks.append(asyncio.ensure_future(inner()))

    signal.signal(signal.SIGUSR1, handler)
    tasks = []

    def interrupt():
        os.kill(os.getpid(), signal.SIGUSR1)

    async def main():
        for _ in range(20):
            await sync_to_async(interrupt)()
            await sync_to_async(interrupt, thread_sensitive=False)()
        return "done"

    print(async_to_sync(main)(), values == [1] * len(values), len(values) > 20)
    values.clear()
    print(asyncio.run(main()), values)
        """
            )
            == "done True True\ndone []"
        )

    def test_a_storm_of_them(self, script_output):
        """A timer that ticks all the time interrupts every wait, and spoils none."""
        assert (
            script_output(
                """
    import asyncio, signal
    from asgibridge.sync import ThreadSensitiveContext, async_to_sync, sync_to_async

    ticks = [0]

    def handler(number, frame):
        ticks[0] += 1

    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)

    async def inner(value):
        return await sync_to_async(int)(value)

    async def main():
        while ticks[0] < 200:
            async with ThreadSensitiveContext():
                assert await sync_to_async(async_to_sync(inner))("7") == 7
            await asyncio.gather(*(sync_to_async(int)("7") for _ in range(20)))
        return "done"

    print(async_to_sync(main)())
    ticks[0] = 0
    print(asyncio.run(main()))
    signal.setitimer(signal.ITIMER_REAL, 0)
        """
            )
            == "done\ndone"
        )


class TestShell:
    def test_functions_that_refuse_to_be_asked(self):
        """Wrapping looks at a callable's attributes, and lives with what it finds."""

        class Function:
            def __call__(self, value):
                return value

            def __eq__(self, other):
                raise ZeroDivisionError("compared")

            __hash__ = None

            def __bool__(self):
                raise ZeroDivisionError("asked for its truth")

        call = SyncToAsync(Function())

        async def main():
            return await call(1), await sync_to_async(call.func)(2)

        assert run(main()) == (1, 2)
