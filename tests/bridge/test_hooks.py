"""Others' hooks find what they hook, and published code finds the names that it reads.

Agents and profilers replace `thread_handler` and ``submit``. Programs replace the executors, and
read private names of asgiref's. Each class here is one of these, and looks as they look.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import importlib
import inspect
import sys
import threading
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import pytest

from asgibridge import current_thread_executor, local, sync, workers
from asgibridge.local import Local
from asgibridge.sync import (
    AsyncSingleThreadContext,
    AsyncToSync,
    SyncToAsync,
    ThreadSensitiveContext,
    async_to_sync,
    sync_to_async,
)

CurrentThreadExecutor = current_thread_executor.CurrentThreadExecutor
PUBLIC = "compatibility current_thread_executor debug iterators limiters local observers queue"
PUBLIC += " integrations pools runners server sync testing timeout typing workers wsgi"


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 10))


def thread():
    return threading.current_thread()


class TestThreadHandler:
    def test_gets_what_agents_recognise(self, monkeypatch):
        variable = contextvars.ContextVar("variable", default=None)
        original = SyncToAsync.thread_handler
        seen = []

        def handler(self, loop, exc_info, task_context, func, child):
            assert inspect.isfunction(func)
            assert (func.__module__, len(inspect.signature(func).parameters)) == ("asgiref.sync", 1)
            assert isinstance(child, functools.partial)
            assert (child.func, child.args, child.keywords) == (view, (1,), {"b": 2})

            def recipient():
                seen.append((variable.get(), namespace.value))
                return child()

            return original(self, loop, exc_info, task_context, func, recipient)

        def view(a, b):
            variable.set("the view's")
            return a + b

        async def main():
            variable.set("the caller's")
            namespace.value = 1
            assert await sync_to_async(view)(1, b=2) == 3
            return variable.get()

        namespace = Local()
        monkeypatch.setattr(SyncToAsync, "thread_handler", handler)
        assert run(main()) == "the view's"
        assert seen == [("the caller's", 1)]

    def test_keywords_that_an_agent_adds_to_the_call_can_be_taken_out_again(self, monkeypatch):
        handle, call = SyncToAsync.thread_handler, SyncToAsync.__call__
        found = []

        async def adding(self, *args, **kwargs):
            kwargs["_trace"] = "the caller's"
            return await call(self, *args, **kwargs)

        def taking(self, *args, **kwargs):
            bound = inspect.signature(handle).bind(self, *args, **kwargs).arguments
            found.append(bound["args"][0].keywords.pop("_trace"))
            return handle(self, *args, **kwargs)

        monkeypatch.setattr(SyncToAsync, "__call__", adding)
        monkeypatch.setattr(SyncToAsync, "thread_handler", taking)
        assert run(sync_to_async(lambda: 1)()) == 1
        assert found == ["the caller's"]

    def test_is_on_the_stack_below_the_function_if_somebody_asks_for_it(self, monkeypatch):
        original = SyncToAsync.thread_handler
        monkeypatch.setattr(
            SyncToAsync, "thread_handler", lambda self, *args: original(self, *args)
        )

        def view():
            frame = sys._getframe()
            while frame is not None and frame.f_code is not original.__code__:
                frame = frame.f_back
            return frame is not None

        assert run(sync_to_async(view)())


class Heard(list):
    """Replaces ``submit`` of a class by one that hears, and runs a function of its own."""

    def __init__(self, monkeypatch, cls):
        original = cls.submit

        def submit(executor, fn, /, *args, **kwargs):
            self.append((executor, fn))

            def instrumented(*args, **kwargs):
                self.ran.append(thread())
                return fn(*args, **kwargs)

            return original(executor, instrumented, *args, **kwargs)

        self.ran = []
        monkeypatch.setattr(cls, "submit", submit)


def is_hop(function):
    """As a profiler tells asgiref's from any other work of a pool."""
    return (
        isinstance(function, functools.partial)
        and isinstance(getattr(function.func, "__self__", None), SyncToAsync)
        and function.func.__func__ is SyncToAsync.thread_handler
    )


class TestSubmitThatIsReplaced:
    def test_of_a_pool_hears_of_hops_to_the_process_thread(self, monkeypatch):
        usual = run(sync_to_async(thread)())
        heard = Heard(monkeypatch, ThreadPoolExecutor)

        async def main():
            return [await sync_to_async(thread)() for _ in range(3)]

        assert run(main()) == heard.ran == [usual] * 3
        assert all(is_hop(function) for _, function in heard)
        executors = {executor for executor, _ in heard}
        assert len(executors) == 1
        assert isinstance(executors.pop(), ThreadPoolExecutor)

    @pytest.mark.parametrize("policy", ["fresh", "keep"])
    def test_of_a_pool_hears_of_hops_in_a_context(self, monkeypatch, policy):
        heard = Heard(monkeypatch, ThreadPoolExecutor)

        async def main():
            async with ThreadSensitiveContext(policy=policy):
                return [await sync_to_async(thread)() for _ in range(2)]

        threads = run(main())
        assert threads == heard.ran
        assert len({*threads}) == 1
        assert [is_hop(function) for _, function in heard] == [True, True]
        workers.end_idle_workers()

    @pytest.mark.parametrize("own", [True, False])
    def test_of_a_pool_hears_of_hops_to_a_pool(self, monkeypatch, own):
        heard = Heard(monkeypatch, ThreadPoolExecutor)
        with ThreadPoolExecutor(2) as pool:
            hop = sync_to_async(thread, thread_sensitive=False, executor=pool if own else None)
            assert run(hop()) in heard.ran
        assert [is_hop(function) for _, function in heard] == [True]

    def test_of_a_frame_hears_of_hops_to_the_frame(self, monkeypatch):
        heard = Heard(monkeypatch, CurrentThreadExecutor)
        pools = Heard(monkeypatch, ThreadPoolExecutor)

        async def inner():
            return await sync_to_async(thread)()

        async def outer():
            return await sync_to_async(lambda: (thread(), async_to_sync(inner)()))()

        assert async_to_sync(inner)() is thread()
        assert async_to_sync(outer)() == (thread(), thread())
        assert heard.ran == [thread()] * 3
        assert all(
            is_hop(function) and type(executor) is CurrentThreadExecutor
            for executor, function in heard
        )
        assert not [function for _, function in pools if is_hop(function)]

    def test_of_one_executor_or_loop_hears_of_hops_to_the_users_own(self):
        class Loop(asyncio.SelectorEventLoop):
            def run_in_executor(self, executor, function, *args):
                heard.append(executor)
                return super().run_in_executor(executor, function, *args)

        def submit(fn, /, *args, **kwargs):
            heard.append("submit")
            return ThreadPoolExecutor.submit(pool, fn, *args, **kwargs)

        heard = []
        loop = Loop()
        try:
            with ThreadPoolExecutor(1) as pool:
                pool.submit = submit
                hop = sync_to_async(int, thread_sensitive=False, executor=pool)
                assert loop.run_until_complete(hop()) == 0
                assert heard == [pool, "submit"]
                hop = sync_to_async(int, thread_sensitive=False)
                assert loop.run_until_complete(hop()) == 0
                assert heard == [pool, "submit", None]
                assert loop.run_until_complete(sync_to_async(int)()) == 0
                assert heard == [pool, "submit", None]
        finally:
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    def test_leaves_errors_cancellation_and_context_alone(self, monkeypatch):
        variable = contextvars.ContextVar("variable", default=0)
        Heard(monkeypatch, ThreadPoolExecutor)
        entered, go_on = threading.Event(), threading.Event()

        def fail():
            variable.set(variable.get() + 1)
            raise ValueError("the function's")

        def wait():
            entered.set()
            assert go_on.wait(10)

        async def main():
            variable.set(1)
            with pytest.raises(ValueError, match="the function's"):
                await sync_to_async(fail)()
            assert variable.get() == 2
            with pytest.raises(RuntimeError, match="StopIteration"):
                await sync_to_async(next)(iter(()))
            running = asyncio.create_task(sync_to_async(wait)())
            await sync_to_async(entered.wait, thread_sensitive=False)(10)
            queued = asyncio.create_task(sync_to_async(ran.append)(1))
            await asyncio.sleep(0)
            queued.cancel()
            with pytest.raises(asyncio.CancelledError):
                await queued
            go_on.set()
            await running

        ran = []
        run(main())
        assert ran == []

    def test_still_finds_what_would_deadlock(self, monkeypatch):
        Heard(monkeypatch, ThreadPoolExecutor)
        Heard(monkeypatch, CurrentThreadExecutor)

        async def inner():
            await sync_to_async(int)()

        async def main():
            with pytest.raises(RuntimeError, match="would deadlock"):
                await sync_to_async(lambda: asyncio.run(inner()))()

        run(main())

    def test_that_submits_nothing_says_what_comes_of_the_call(self, monkeypatch):
        def submit(_executor, fn, /, *args, **kwargs):
            future = Future()
            future.set_result("its own")
            return future

        monkeypatch.setattr(ThreadPoolExecutor, "submit", submit)
        assert run(sync_to_async(int)()) == "its own"

    def test_whose_future_is_cancelled_cancels_the_call(self, monkeypatch):
        original = ThreadPoolExecutor.submit

        def submit(executor, fn, /, *args, **kwargs):
            future = original(executor, fn, *args, **kwargs)
            assert future.cancel()
            return future

        monkeypatch.setattr(ThreadPoolExecutor, "submit", submit)

        async def main():
            with pytest.raises(asyncio.CancelledError):
                await sync_to_async(int)()

        run(main())

    def test_that_raises_fails_that_call_only(self, monkeypatch):
        def submit(_executor, fn, /, *args, **kwargs):
            raise OSError("no more")

        with monkeypatch.context() as patch:
            patch.setattr(ThreadPoolExecutor, "submit", submit)
            with pytest.raises(OSError, match="no more"):
                run(sync_to_async(int)())
        assert run(sync_to_async(int)()) == 0

    def test_nothing_is_kept_of_a_call_that_was_given_up(self, monkeypatch):
        Heard(monkeypatch, ThreadPoolExecutor)
        from asgibridge._bridge import heard
        from asgibridge.limiters import CapacityLimiter

        async def main():
            limiter = CapacityLimiter(1)
            await limiter.acquire_on_behalf_of("somebody")
            hop = sync_to_async(int, thread_sensitive=False, limiter=limiter)
            waiting = asyncio.create_task(hop())
            await asyncio.sleep(0)
            assert len(heard.handlers) == 1
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

        run(main())
        assert heard.handlers == {}


class Hidden(Executor):
    """Many threads, and nothing that tells how many."""

    def __init__(self):
        self.pool = ThreadPoolExecutor(4)

    def submit(self, fn, /, *args, **kwargs):
        return self.pool.submit(fn, *args, **kwargs)

    def shutdown(self, wait=True, **options):
        self.pool.shutdown(wait)


async def waits_for_a_task_outside():
    """A task's call goes to the executor while a function there waits for the task."""
    go_on = asyncio.Event()

    async def refresh():
        await go_on.wait()
        return await sync_to_async(lambda: "fresh")()

    async def wait_for_it():
        go_on.set()
        return await task

    task = asyncio.create_task(refresh())
    return await sync_to_async(lambda: async_to_sync(wait_for_it)())()


async def starts_a_loop():
    async def inner():
        return await sync_to_async(lambda: "inner")()

    return await sync_to_async(lambda: asyncio.run(inner()))()


async def side_by_side():
    barrier = threading.Barrier(3)
    await asyncio.gather(*(sync_to_async(barrier.wait)(5) for _ in range(3)))


class TestExecutorOfTheProcess:
    @pytest.fixture(params=["many", "none", "hidden"])
    def executor(self, request, monkeypatch):
        make = {"many": lambda: ThreadPoolExecutor(20), "none": lambda: None, "hidden": Hidden}
        executor = make[request.param]()
        monkeypatch.setattr(SyncToAsync, "single_thread_executor", executor)
        yield executor
        if executor is not None:
            executor.shutdown()

    def test_may_have_many_threads(self, executor):
        run(side_by_side())
        assert run(waits_for_a_task_outside()) == "fresh"
        assert run(starts_a_loop()) == "inner"

    @pytest.mark.parametrize("case", [waits_for_a_task_outside, starts_a_loop])
    def test_of_one_thread_would_still_deadlock(self, monkeypatch, case):
        with ThreadPoolExecutor(1) as executor:
            monkeypatch.setattr(SyncToAsync, "single_thread_executor", executor)
            with pytest.raises(RuntimeError, match="would deadlock"):
                run(case())

    def test_of_a_loop_may_be_any(self):
        async def main(executor):
            loop = asyncio.get_running_loop()
            AsyncToSync.loop_thread_executors[loop] = executor
            try:
                return await sync_to_async(lambda: thread().name)()
            finally:
                del AsyncToSync.loop_thread_executors[loop]

        with ThreadPoolExecutor(1, "loops") as executor:
            assert run(main(executor)) == "loops_0"
        executor = Hidden()
        assert "ThreadPoolExecutor" in run(main(executor))
        executor.shutdown()

    def test_a_fixture_that_ends_it_before_forks(self, monkeypatch):
        """Shuts down all there is, if it was not, and has the default pool used."""
        executor = type(SyncToAsync.single_thread_executor)()
        monkeypatch.setattr(SyncToAsync, "single_thread_executor", executor)
        assert run(sync_to_async(int)()) == 0
        assert not executor._shutdown
        executor.shutdown(wait=True)
        SyncToAsync.single_thread_executor = None
        for each in list(SyncToAsync.context_to_thread_executor.values()):
            each.shutdown(wait=True)
        SyncToAsync.context_to_thread_executor.clear()
        assert executor._shutdown
        assert executor._threads == set()
        assert run(sync_to_async(int)()) == 0


class SlottedContext:
    __slots__ = ("__weakref__",)


class TestForeignContext:
    def test_without_any_attribute(self):
        async def main():
            slot = SlottedContext()
            SyncToAsync.context_to_thread_executor[slot] = pool
            token = SyncToAsync.thread_sensitive_context.set(slot)
            names = [await sync_to_async(name)()]
            async with ThreadSensitiveContext():
                names.append(await sync_to_async(name)())
            other = SlottedContext()
            SyncToAsync.thread_sensitive_context.set(other)
            names.append(await sync_to_async(name)())
            SyncToAsync.thread_sensitive_context.reset(token)
            SyncToAsync.context_to_thread_executor.pop(other).shutdown()
            return names

        def name():
            return thread().name

        with ThreadPoolExecutor(1, "slot") as pool:
            names = run(main())
        assert names[:2] == ["slot_0"] * 2
        assert names[2].startswith("asgibridge-worker-")

    def test_one_that_is_false_is_none(self):
        async def main():
            token = SyncToAsync.thread_sensitive_context.set(False)
            try:
                return await sync_to_async(thread)()
            finally:
                SyncToAsync.thread_sensitive_context.reset(token)

        assert run(main()) is run(sync_to_async(thread)())

    def test_of_top_level_calls(self):
        async def name():
            return thread().name

        def main():
            slot, other = SlottedContext(), SlottedContext()
            AsyncToSync.context_to_thread_executor[slot] = pool
            AsyncToSync.async_single_thread_context.set(slot)
            names = [async_to_sync(name)()]
            with AsyncSingleThreadContext():
                names.append(async_to_sync(name)())
            with AsyncSingleThreadContext(persistent_loop=True):
                names.append(async_to_sync(name)())
            AsyncToSync.async_single_thread_context.set(other)
            names += [async_to_sync(name)(), async_to_sync(name, force_new_loop=True)()]
            AsyncToSync.context_to_thread_executor.pop(other).shutdown()
            AsyncToSync.async_single_thread_context.set(None)
            return [*names, async_to_sync(name)()]

        with ThreadPoolExecutor(1, "slot") as pool:
            names = contextvars.copy_context().run(main)
        assert names[:2] == ["slot_0"] * 2
        assert all(each.startswith("asgibridge-worker-") for each in names[2:])
        assert names[3] == names[4]


class TestNamesOfAnExecutor:
    """Those of a ThreadPoolExecutor's that published code reads."""

    def test_threads_are_those_that_it_runs_on(self):
        def is_here():
            return any(each is thread() for each in SyncToAsync.single_thread_executor._threads)

        async def main():
            return await sync_to_async(is_here)(), is_here()

        assert run(main()) == (True, False)

    @pytest.mark.parametrize("policy", ["fresh", "keep"])
    def test_of_a_context(self, policy):
        async def main():
            async with ThreadSensitiveContext(policy=policy) as context:
                here = await sync_to_async(thread)()
                executor = SyncToAsync.context_to_thread_executor[context]
                seen = (executor._threads == {here}, executor._shutdown)
            return (*seen, executor._shutdown)

        assert run(main()) == (True, False, True)
        workers.end_idle_workers()

    @pytest.mark.thread_unsafe(reason="there is one single thread")
    def test_numbers_and_names(self):
        executor = SyncToAsync.single_thread_executor
        started, go_on = threading.Event(), threading.Event()

        def wait():
            started.set()
            assert go_on.wait(10)
            return thread().name

        async def main():
            tasks = [asyncio.create_task(sync_to_async(wait)()) for _ in range(3)]
            await sync_to_async(started.wait, thread_sensitive=False)(10)
            size = executor._work_queue.qsize()
            go_on.set()
            return size, await asyncio.gather(*tasks)

        size, names = run(main())
        assert size == 2
        assert executor._max_workers == 1
        assert all(name.startswith(executor._thread_name_prefix) for name in names)
        assert executor._work_queue.empty()
        assert executor._shutdown is False


class TestNamesOfModules:
    def test_of_sync(self):
        assert sync.InvalidStateError is concurrent.futures.InvalidStateError
        for name in ("Dict", "List", "Optional"):
            assert getattr(sync, name) is getattr(importlib.import_module("typing"), name)
        assert sync.Local is Local
        assert sync.weakref is importlib.import_module("weakref")
        assert sync.warnings is importlib.import_module("warnings")
        with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
            sync.nothing

    def test_restore_context_brings_variables_and_locals(self):
        variable = contextvars.ContextVar("variable")
        namespace = Local()

        def fill():
            variable.set(1)
            namespace.value = 2
            return contextvars.copy_context()

        def read():
            assert not hasattr(namespace, "value")
            sync._restore_context(context)
            seen.append((variable.get(), namespace.value))

        seen = []
        context = contextvars.copy_context().run(fill)
        reader = threading.Thread(target=read)
        reader.start()
        reader.join(10)
        assert seen == [(1, 2)]
        assert variable.get(None) is None

    def test_of_local(self):
        assert local.asyncio is asyncio

    @pytest.mark.parametrize("thread_critical", [False, True])
    def test_namespace_of_a_local_has_nothing_of_the_users(self, thread_critical):
        namespace = Local(thread_critical)
        namespace.mine = 1
        assert set(vars(namespace)) == {"_storage"} | ({"_lock"} - {"_lock" * thread_critical})
        assert vars(namespace)["_storage"].mine == 1
        vars(namespace).clear()
        assert namespace.mine == 1
        assert isinstance(namespace.__dict__, dict)

    @pytest.mark.parametrize("name", PUBLIC.split())
    def test_dir_shows_what_is_public(self, name):
        module = importlib.import_module(f"asgibridge.{name}")
        assert dir(module) == sorted(module.__all__)


class TestWarnings:
    """Point at the line of the program's that they are about."""

    @pytest.mark.parametrize("wrap", [async_to_sync, AsyncToSync, async_to_sync()])
    def test_of_a_function_that_is_not_async(self, wrap):
        line = sys._getframe().f_lineno + 2
        with pytest.warns(UserWarning, match="non-async-marked") as caught:
            wrap(int)
        assert [(each.filename, each.lineno) for each in caught] == [(__file__, line)]

    @pytest.mark.parametrize("abandon", [True, False])
    def test_of_the_real_asgiref(self, monkeypatch, abandon):
        from asgibridge._bridge import routes
        from asgibridge._start import install

        async def main():
            hop = sync_to_async(int, abandon_on_cancel=abandon)
            line = sys._getframe().f_lineno + 2
            with pytest.warns(RuntimeWarning, match="beside asgibridge") as caught:
                await hop()
            return [(each.filename, each.lineno) for each in caught], line

        monkeypatch.setattr(routes, "_asgiref", object())
        monkeypatch.setattr(routes, "_warned", False)
        monkeypatch.setattr(install, "real_asgiref_loaded", lambda: True)
        found, line = run(main())
        assert found == [(__file__, line)]


def test_help_shows_the_parameters():
    for function in (sync_to_async, async_to_sync):
        for name in inspect.signature(function).parameters:
            assert f":param {name}: " in function.__doc__
