"""What a call takes along and brings back, and that nothing of it stays behind."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from asgibridge.sync import (
    AsyncSingleThreadContext,
    SyncToAsync,
    ThreadSensitiveContext,
    async_to_sync,
    sync_to_async,
)
from threads import until_gone

first = contextvars.ContextVar("first", default="unset")
second = contextvars.ContextVar("second", default="unset")


def run(coroutine):
    """Run in a thread of its own, so that no state of the test's thread plays a part."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


@pytest.fixture
def busy_interpreter():
    """Give the other thread a chance between any two bytecodes."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


class Hostile:
    """Whose comparisons and truth value must not be asked for."""

    def __eq__(self, other):
        raise AssertionError("compared by value")

    __hash__ = None

    def __bool__(self):
        raise AssertionError("asked for its truth")


class TestContextVariables:
    @pytest.mark.parametrize("thread_sensitive", [True, False])
    def test_set_in_sync_code_are_seen_by_the_caller(self, thread_sensitive):
        async def main():
            first.set("caller")
            call = sync_to_async(lambda: second.set(first.get()), thread_sensitive=thread_sensitive)
            await call()
            return first.get(), second.get()

        assert run(main()) == ("caller", "caller")

    @pytest.mark.parametrize("single_thread", [True, False])
    def test_set_in_async_code_are_seen_by_the_caller(self, single_thread):
        async def inner():
            second.set(first.get())

        def outer():
            first.set("caller")
            if single_thread:
                with AsyncSingleThreadContext():
                    async_to_sync(inner)()
            else:
                async_to_sync(inner)()
            return second.get()

        assert contextvars.copy_context().run(outer) == "caller"

    def test_set_before_an_error_are_seen_too(self):
        def fail():
            first.set("set")
            raise ValueError

        async def afail():
            second.set("set")
            raise ValueError

        async def main():
            with pytest.raises(ValueError):
                await sync_to_async(fail)()
            with pytest.raises(ValueError):
                await sync_to_async(async_to_sync(afail))()
            return first.get(), second.get()

        assert run(main()) == ("set", "set")

    def test_are_compared_by_identity(self):
        """asgiref #577."""

        async def main():
            first.set(Hostile())
            value = Hostile()
            await sync_to_async(first.set)(value)
            assert first.get() is value

            async def inner():
                second.set(value)

            await sync_to_async(async_to_sync(inner))()
            assert second.get() is value

        run(main())

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="before, no two tasks share a context")
    def test_that_the_callee_left_alone_are_not_written_back(self):
        """A task that shares the context may have changed one while the function ran."""
        started, release = threading.Event(), threading.Event()

        def work():
            second.set("worker")
            started.set()
            release.wait(10)

        async def sharing():
            await sync_to_async(started.wait, thread_sensitive=False)(10)
            first.set("the other task")
            release.set()

        async def main():
            first.set("before")
            shared = contextvars.copy_context()
            await asyncio.gather(
                asyncio.create_task(sync_to_async(work)(), context=shared),
                asyncio.create_task(sharing(), context=shared),
            )
            return shared[first], shared[second]

        assert run(main()) == ("the other task", "worker")

    def test_in_a_context_of_the_users_own(self):
        async def main():
            first.set("outside")
            own = contextvars.copy_context()
            await sync_to_async(first.set, context=own)("inside")
            return first.get(), own[first]

        assert run(main()) == ("outside", "inside")

    def test_a_thousand_of_them_unchanged(self):
        variables = [contextvars.ContextVar(str(i)) for i in range(1000)]

        async def main():
            for i, variable in enumerate(variables):
                variable.set(i)
            await sync_to_async(variables[500].set)("changed")
            assert [variable.get() for variable in variables[:500]] == list(range(500))
            assert variables[500].get() == "changed"

        run(main())

    def test_are_never_lost(self, busy_interpreter):
        """asgiref sets the result before it saves the context: about one in 14,000 is lost."""
        rounds = 4000

        async def inner(i):
            first.set(i)

        def outer():
            for i in range(rounds):
                async_to_sync(inner)(i)
                assert first.get() == i

        run(sync_to_async(outer)())

    def test_saved_before_the_result_is_set(self):
        """The order that the above depends on, seen from outside."""
        seen = []

        class Watching(type(async_to_sync(asyncio.sleep))):
            async def main_wrap(self, call_result, exc_info, task_context, context, awaitable):
                before = context[0]
                set_result = call_result.set_result

                def watched(result):
                    seen.append(context[0] is not before and context[0][first])
                    set_result(result)

                call_result.set_result = watched
                await super().main_wrap(call_result, exc_info, task_context, context, awaitable)

        async def inner():
            first.set("inner")

        Watching(inner)()
        assert seen == ["inner"]


class TestHooks:
    """What agents and adapters patch and override, with what asgiref passes."""

    def test_thread_handler_gets_the_call_as_a_partial(self):
        """asgiref #571: New Relic takes a keyword out of it."""
        seen = []

        class Instrumented(SyncToAsync):
            def thread_handler(self, loop, exc_info, task_context, func, *args, **kwargs):
                seen.append((loop, exc_info, task_context, args, kwargs))
                (child,) = args
                child.keywords.pop("injected")
                return super().thread_handler(loop, exc_info, task_context, func, *args, **kwargs)

        def work(value):
            return value

        async def main():
            return asyncio.get_running_loop(), await Instrumented(work)(42, injected=True)

        own, result = run(main())
        assert result == 42
        [(loop, exc_info, task_context, (child,), kwargs)] = seen
        assert (loop, exc_info, task_context, kwargs) == (own, (None, None, None), [], {})
        assert type(child) is functools.partial
        assert (child.func, child.args) == (work, (42,))

    def test_thread_handler_patched_on_the_class(self, monkeypatch):
        calls = []
        original = SyncToAsync.thread_handler

        def patched(self, loop, *args, **kwargs):
            calls.append(threading.current_thread())
            return original(self, loop, *args, **kwargs)

        monkeypatch.setattr(SyncToAsync, "thread_handler", patched)
        assert run(sync_to_async(threading.current_thread)()) in calls

    def test_thread_handler_around_the_call_as_channels_has_it(self):
        order = []

        class DatabaseSyncToAsync(SyncToAsync):
            def thread_handler(self, loop, *args, **kwargs):
                order.append("before")
                try:
                    return super().thread_handler(loop, *args, **kwargs)
                finally:
                    order.append("after")

        run(DatabaseSyncToAsync(order.append)("call"))
        assert order == ["before", "call", "after"]

    def test_call_patched_on_the_class(self, monkeypatch):
        original = SyncToAsync.__call__

        async def patched(self, *args, **kwargs):
            return "patched", await original(self, *args, **kwargs)

        monkeypatch.setattr(SyncToAsync, "__call__", patched)
        assert run(sync_to_async(int)("1")) == ("patched", 1)

    @pytest.mark.parametrize("top_level", [True, False])
    def test_main_wrap_overridden(self, top_level):
        """Its call_result is a Future, as in asgiref."""
        from concurrent.futures import Future

        from asgibridge.sync import AsyncToSync

        seen = []

        class Instrumented(AsyncToSync):
            async def main_wrap(self, call_result, exc_info, task_context, context, awaitable):
                seen.append((type(call_result), exc_info[1], type(context[0]), len(context)))
                await super().main_wrap(call_result, exc_info, task_context, context, awaitable)

        async def answer():
            return 42

        call = Instrumented(answer)
        assert (call() if top_level else run(sync_to_async(call)())) == 42
        assert seen == [(Future, None, contextvars.Context, 1)]

    @pytest.mark.parametrize("top_level", [True, False])
    def test_main_wrap_that_forgets_the_result_is_no_hang(self, top_level):
        from asgibridge.sync import AsyncToSync

        class Forgetful(AsyncToSync):
            async def main_wrap(self, call_result, exc_info, task_context, context, awaitable):
                await awaitable

        call = Forgetful(asyncio.sleep)
        with pytest.raises(RuntimeError, match="without setting call_result"):
            call(0) if top_level else run(sync_to_async(call)(0))

    def test_main_wrap_without_a_context(self):
        from asgibridge.sync import AsyncToSync

        class Contextless(AsyncToSync):
            async def main_wrap(self, call_result, exc_info, task_context, context, awaitable):
                await super().main_wrap(call_result, exc_info, task_context, None, awaitable)

        assert Contextless(asyncio.sleep)(0, "result") == "result"


class TestWrappers:
    def test_async_to_sync_takes_over_name_and_doc(self):
        """asgiref #500, #565."""

        async def function():
            """Its doc."""

        wrapper = async_to_sync(function)
        assert (wrapper.__name__, wrapper.__doc__) == ("function", "Its doc.")
        assert wrapper.__wrapped__ is function

    def test_async_to_sync_does_not_pass_for_async(self):
        import inspect

        from asgibridge.sync import iscoroutinefunction, markcoroutinefunction

        class Callable:
            async def __call__(self):
                return 1

            method = async_to_sync(asyncio.sleep)

        marked = markcoroutinefunction(Callable())
        assert iscoroutinefunction(marked)
        for wrapper in (async_to_sync(marked), async_to_sync(asyncio.sleep), Callable().method):
            assert not iscoroutinefunction(wrapper)
            assert not inspect.iscoroutinefunction(wrapper)

    def test_sync_to_async_passes_for_async(self):
        from asgibridge.sync import iscoroutinefunction

        class Methods:
            method = sync_to_async(print)

        assert iscoroutinefunction(sync_to_async(print))
        # 3.9 looks into a partial, but not into the bound method in it; asgiref's is no different.
        assert iscoroutinefunction(Methods().method) is (sys.version_info >= (3, 10))

    def test_attributes_of_the_function_do_not_shadow_the_wrappers(self):
        """asgiref #537."""

        async def function():
            return 1

        function.executors = function.main_wrap = function.awaitable = "the user's"

        def work():
            return 2

        work.thread_handler = work.context = work.func = "the user's"
        assert async_to_sync(function)() == 1
        assert run(sync_to_async(work)()) == 2

    def test_bound_to_an_instance_they_are_partials(self):
        class Methods:
            def __init__(self):
                self.seen = []

            @sync_to_async
            def sync(self, value):
                self.seen.append(value)

            @async_to_sync
            async def asynchronous(self, value):
                self.seen.append(value)

        methods = Methods()
        assert type(methods.sync) is type(methods.asynchronous) is functools.partial
        assert methods.sync.__name__ == "sync"
        methods.asynchronous(1)
        run(methods.sync(2))
        assert methods.seen == [1, 2]

    def test_a_sync_callable_that_returns_an_awaitable_works_with_a_warning(self):
        with pytest.warns(UserWarning, match="non-async-marked callable"):
            call = async_to_sync(lambda: asyncio.sleep(0, "slept"))
        assert call() == "slept"

    def test_weak_references_and_attributes(self):
        wrapper = sync_to_async(lambda: None)
        wrapper.mark = 1
        assert weakref.ref(wrapper)() is wrapper


class Tracked:
    """Can be referred to weakly."""


class TrackedError(Exception):
    pass


@pytest.mark.usefixtures("no_gc")
class TestNothingOutlivesItsCall:
    """With the garbage collector off, and the worker idle."""

    @pytest.mark.parametrize("thread_sensitive", [True, False])
    def test_arguments_and_result_of_sync_to_async(self, thread_sensitive):
        call = sync_to_async(lambda argument: Tracked(), thread_sensitive=thread_sensitive)

        async def main():
            argument = Tracked()
            references = [weakref.ref(argument)]
            references.append(weakref.ref(await call(argument)))
            del argument
            return [await asyncio.to_thread(until_gone, each) for each in references]

        assert run(main()) == [True, True]

    def test_arguments_and_result_of_async_to_sync(self):
        async def call(argument):
            return Tracked()

        argument = Tracked()
        references = [weakref.ref(argument), weakref.ref(async_to_sync(call)(argument))]
        del argument
        assert [until_gone(each) for each in references] == [True, True]

        async def main():
            argument = Tracked()
            references = [weakref.ref(argument)]
            references.append(weakref.ref(await sync_to_async(async_to_sync(call))(argument)))
            del argument
            return [await asyncio.to_thread(until_gone, each) for each in references]

        assert run(main()) == [True, True]

    @pytest.mark.parametrize("thread_sensitive", [True, False])
    def test_context_variables_of_sync_to_async(self, thread_sensitive):
        """Not even until the task awaits again."""
        variable = contextvars.ContextVar("variable")

        async def main():
            variable.set(Tracked())
            reference = weakref.ref(variable.get())
            await sync_to_async(int, thread_sensitive=thread_sensitive)()
            variable.set(None)
            return until_gone(reference)

        assert run(main())

    @pytest.mark.parametrize("thread_sensitive", [True, False])
    def test_exceptions_of_sync_to_async(self, thread_sensitive):
        def fail(argument):
            raise TrackedError

        call = sync_to_async(fail, thread_sensitive=thread_sensitive)

        async def main():
            argument = Tracked()
            references = [weakref.ref(argument)]
            try:
                await call(argument)
            except TrackedError as error:
                references.append(weakref.ref(error))
            del argument
            return [await asyncio.to_thread(until_gone, each) for each in references]

        assert run(main()) == [True, True]

    def test_exceptions_of_async_to_sync(self):
        async def fail(argument):
            raise TrackedError

        def caught(argument):
            try:
                async_to_sync(fail)(argument)
            except TrackedError as error:
                return weakref.ref(error)

        argument = Tracked()
        references = [weakref.ref(argument), caught(argument)]
        del argument
        assert [until_gone(each) for each in references] == [True, True]
        inner = run(sync_to_async(caught)(Tracked()))
        assert until_gone(inner)

    def test_the_exception_being_handled(self):
        async def inner():
            pass

        def sync():
            async_to_sync(inner)()

        async def main():
            try:
                raise TrackedError
            except TrackedError as error:
                reference = weakref.ref(error)
                await sync_to_async(sync)()
            return await asyncio.to_thread(until_gone, reference)

        assert run(main())

    def test_an_error_of_asyncio_run_itself(self, monkeypatch):
        def broken(coroutine):
            raise TrackedError

        monkeypatch.setattr(asyncio, "run", broken)
        try:
            async_to_sync(asyncio.sleep)(0)
        except TrackedError as error:
            reference = weakref.ref(error)
        assert until_gone(reference)

    def test_loops(self):
        async def loop():
            return weakref.ref(asyncio.get_running_loop())

        async def main():
            await sync_to_async(int)()
            return weakref.ref(asyncio.get_running_loop())

        gc.enable()  # asyncio's loops are in cycles of their own
        references = [async_to_sync(loop)(), run(main())]
        gc.collect()
        assert [until_gone(each) for each in references] == [True, True]

    def test_a_context_and_its_executor(self, kernel):
        async def main():
            async with ThreadSensitiveContext() as context:
                await sync_to_async(int)()
                references = [
                    weakref.ref(context),
                    weakref.ref(SyncToAsync.context_to_thread_executor[context]),
                ]
            del context
            return references

        assert [until_gone(each) for each in run(main())] == [True, True]

    def test_what_was_submitted_to_an_executor(self, kernel):
        executor = kernel.ThreadSensitiveExecutor()
        argument = Tracked()
        references = [weakref.ref(argument)]
        references.append(weakref.ref(executor.submit(lambda _: Tracked(), argument).result(10)))
        try:
            executor.submit(lambda: (_ for _ in ()).throw(TrackedError)).result(10)
        except TrackedError as error:
            references.append(weakref.ref(error))
        del argument
        assert [until_gone(each) for each in references] == [True, True, True]
        executor.shutdown()
