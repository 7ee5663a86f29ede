"""`workers.middleware` and `workers.context`: contexts for sockets, tasks and activities."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import threading
from contextvars import ContextVar, copy_context

import pytest

from asgibridge import workers
from asgibridge.compatibility import is_double_callable
from asgibridge.sync import (
    SyncToAsync,
    ThreadSensitiveContext,
    async_to_sync,
    iscoroutinefunction,
    markcoroutinefunction,
    sync_to_async,
)
from asgibridge.workers import Policy
from threads import SECONDS, clean_pool

SOCKETS = 3
current_thread = sync_to_async(threading.current_thread)


@pytest.fixture(autouse=True)
def default_policy():
    with clean_pool():
        yield


def run(main):
    """On a loop of its own; a hang is an error."""

    async def limited():
        return await asyncio.wait_for(main(), SECONDS)

    return asyncio.run(limited())


def inside():
    """The context that is in force here."""
    return SyncToAsync.thread_sensitive_context.get(None)


class Meeting:
    """An application whose sync code has to run on several workers at once, or fails."""

    def __init__(self, count=SOCKETS):
        self._barrier = threading.Barrier(count, timeout=SECONDS)
        self.threads = []

    def meet(self):
        self._barrier.wait()
        self.threads.append(threading.current_thread())

    async def __call__(self, scope, receive, send):
        await sync_to_async(self.meet)()
        thread = await current_thread()
        assert thread in self.threads
        return scope, receive, send


def scope_of(kind, **more):
    return {"type": kind, **more}


async def call(application, scope, receive=None, send=None):
    return await application(scope, receive, send)


class TestMiddleware:
    def test_each_socket_has_a_worker_of_its_own(self):
        meeting = Meeting()
        application = workers.middleware(meeting)

        async def main():
            scopes = [scope_of("websocket", number=number) for number in range(SOCKETS)]
            arguments = [(scope, object(), object()) for scope in scopes]
            answers = await asyncio.gather(*(call(application, *each) for each in arguments))
            assert inside() is None
            for answer, given in zip(answers, arguments):
                assert all(a is b for a, b in zip(answer, given))

        run(main)
        assert len(set(meeting.threads)) == SOCKETS

    def test_without_it_all_sockets_share_a_thread(self):
        threads = []

        async def application(scope, receive, send):
            threads.append(await current_thread())

        async def main():
            await asyncio.gather(*(call(application, scope_of("websocket")) for _ in range(3)))

        run(main)
        assert len(set(threads)) == 1

    def test_tasks_of_the_application_are_inside(self):
        """Channels' consumers wait for several sources at once, each in a task of its own."""

        async def application(scope, receive, send):
            mine = await current_thread()
            others = [asyncio.ensure_future(current_thread()) for _ in range(3)]
            assert await asyncio.gather(*others) == [mine] * 3
            return mine

        async def main():
            await call(workers.middleware(application), scope_of("websocket"))

        run(main)

    @pytest.mark.parametrize(
        ("scopes", "kind", "is_inside"),
        [
            (None, "websocket", True),
            (None, "http", False),
            (None, "lifespan", False),
            (("http", "websocket"), "http", True),
            (["lifespan"], "lifespan", True),
            (["lifespan"], "websocket", False),
            ({"channel"}, "channel", True),
        ],
    )
    def test_scopes(self, scopes, kind, is_inside):
        async def application(scope, receive, send):
            return inside() is not None

        given = {} if scopes is None else {"scopes": scopes}
        wrapped = workers.middleware(application, **given)

        async def main():
            return await call(wrapped, scope_of(kind))

        assert run(main) is is_inside

    def test_inside_another_context_it_changes_nothing(self):
        async def application(scope, receive, send):
            return inside(), await current_thread()

        async def main():
            async with ThreadSensitiveContext() as outer:
                mine = await current_thread()
                answer = await call(workers.middleware(application), scope_of("websocket"))
                assert answer == (outer, mine)
                assert await current_thread() is mine

        run(main)

    def test_the_context_ends_with_the_socket(self):
        local, seen = threading.local(), []

        def look():
            seen.append(getattr(local, "value", None))
            local.value = len(seen)

        async def application(scope, receive, send):
            await sync_to_async(look)()
            await sync_to_async(look)()

        async def main():
            wrapped = workers.middleware(application)
            await call(wrapped, scope_of("websocket"))
            await call(wrapped, scope_of("websocket"))

        run(main)
        assert seen == [None, 1, None, 3]

    def test_an_error_passes(self):
        async def application(scope, receive, send):
            await current_thread()
            raise LookupError("gone")

        async def main():
            with pytest.raises(LookupError, match="gone"):
                await call(workers.middleware(application), scope_of("websocket"))
            assert inside() is None

        run(main)

    def test_a_policy(self):
        local, seen = threading.local(), []

        def look():
            seen.append(getattr(local, "value", None))
            local.value = len(seen)

        async def application(scope, receive, send):
            await sync_to_async(look)()

        async def main():
            for policy in ("keep", Policy(kind="keep")):
                wrapped = workers.middleware(application, policy=policy)
                await call(wrapped, scope_of("websocket"))
                await call(wrapped, scope_of("websocket"))

        run(main)
        assert seen == [None, 1, 2, 3]

    def test_a_policy_for_each_socket(self):
        """The sockets of one user share a worker, those of others do not."""

        async def main():
            leave, threads = asyncio.Event(), {}
            there = asyncio.Semaphore(0)

            async def application(scope, receive, send):
                threads[scope["number"]] = await current_thread()
                there.release()
                await leave.wait()

            wrapped = workers.middleware(
                application, policy=lambda scope: Policy(sticky=scope["user"])
            )
            scopes = [
                scope_of("websocket", user=user, number=number)
                for number, user in enumerate(["ann", "bob", "ann"])
            ]
            tasks = [asyncio.ensure_future(call(wrapped, scope)) for scope in scopes]
            for _ in tasks:
                await there.acquire()
            assert threads[0] is threads[2]
            assert threads[0] is not threads[1]
            leave.set()
            await asyncio.gather(*tasks)

        run(main)

    def test_a_bad_policy_of_a_socket(self):
        async def application(scope, receive, send):
            raise AssertionError("never called")

        async def main():
            wrapped = workers.middleware(application, policy=lambda scope: 7)
            with pytest.raises(TypeError, match="policy must be 'fresh', 'keep', 'new' or an "):
                await call(wrapped, scope_of("websocket"))

        run(main)

    def test_an_application_of_asgi_2(self):
        threads = []

        class Application:
            def __init__(self, scope):
                self.scope = scope

            async def __call__(self, receive, send):
                threads.append(await current_thread())
                return self.scope["number"], inside() is not None

        wrapped = workers.middleware(Application)
        assert wrapped.__wrapped__ is Application

        async def main():
            return await call(wrapped, scope_of("websocket", number=7))

        assert run(main) == (7, True)

    def test_is_an_asgi_3_application_for_servers(self):
        async def application(scope, receive, send):
            """Answers."""

        for each in (application, Meeting(), functools.partial(application)):
            wrapped = workers.middleware(each)
            assert not is_double_callable(wrapped)
            assert not inspect.isclass(wrapped)
            assert iscoroutinefunction(wrapped.__call__)  # as uvicorn and Starlette ask

    def test_names_the_application(self):
        async def application(scope, receive, send):
            """Answers."""

        wrapped = workers.middleware(application)
        assert wrapped.__wrapped__ is application
        assert wrapped.__name__ == "application"
        assert wrapped.__doc__ == "Answers."
        assert repr(wrapped) == f"<middleware({application!r}, scopes=('websocket',))>"

    def test_has_the_attributes_of_the_application(self):
        class Router(Meeting):
            _path_routing = True
            _asgi_double_callable = True

        router = Router()
        router.state = object()
        router._asgi_single_callable = False
        wrapped = workers.middleware(workers.middleware(router), scopes=["http"])
        assert wrapped._path_routing is True
        assert wrapped.state is router.state
        assert wrapped._asgi_single_callable is True
        with pytest.raises(AttributeError, match="nothing"):
            wrapped.nothing

    @pytest.mark.parametrize(
        ("arguments", "error", "words"),
        [
            (("mysite.asgi:application",), TypeError, "takes an ASGI application, not 'mysite"),
            ((None,), TypeError, r"such as ProtocolTypeRouter\(\.\.\.\)"),
            ((print, "websocket"), TypeError, r"a tuple of scope types: \('websocket',\), not"),
            ((print, ()), ValueError, "scopes is empty: name a scope type"),
            ((print, [b"websocket"]), TypeError, "such as 'websocket', not b'websocket'"),
            ((print, ["http"], "sticky"), ValueError, "kind must be 'fresh', 'keep' or 'new'"),
            ((print, ["http"], 5), TypeError, "policy must be 'fresh', 'keep', 'new' or an "),
            ((print, ["http"], Policy), TypeError, "policy must be 'fresh', 'keep', 'new' or an "),
            ((print, ["http"], Policy(limit=3)), ValueError, "limit is the process's alone"),
        ],
    )
    def test_what_it_refuses(self, arguments, error, words):
        with pytest.raises(error, match=words):
            workers.middleware(*arguments)

    def test_warns_of_a_type_that_nobody_knows(self):
        async def application(scope, receive, send):
            return inside() is not None

        with pytest.warns(UserWarning, match="'websockets' in scopes is no scope type") as caught:
            wrapped = workers.middleware(application, ["websockets"])
        assert caught[0].filename == __file__

        async def main():
            assert await call(wrapped, scope_of("websockets"))  # somebody's own

        run(main)


class TestDecorator:
    def test_each_call_has_a_worker_of_its_own(self):
        meeting = Meeting()

        @workers.context()
        async def activity(number):
            await sync_to_async(meeting.meet)()
            return number

        async def main():
            answers = await asyncio.gather(*map(activity, range(SOCKETS)))
            assert inside() is None
            return answers

        assert run(main) == list(range(SOCKETS))
        assert len(set(meeting.threads)) == SOCKETS

    def test_stays_what_it_is(self):
        async def activity(order: int, *, twice: bool = False) -> str:
            """Does it."""

        activity.mark = object()
        decorated = workers.context()(activity)
        assert iscoroutinefunction(decorated)
        assert inspect.signature(decorated) == inspect.signature(activity)
        assert decorated.__name__ == "activity"
        assert decorated.__doc__ == "Does it."
        assert decorated.mark is activity.mark
        assert decorated.__wrapped__ is activity

    def test_kinds_of_functions(self):
        async def function(*args):
            return (inside() is not None, *args)

        @markcoroutinefunction
        def marked(*args):
            return function(*args)

        class Called:
            async def __call__(self, *args):
                return await function(*args)

        class Owner:
            @workers.context()
            async def method(self, *args):
                return await function(*args)

            @workers.context()
            @staticmethod
            async def static(*args):
                return await function(*args)

            @workers.context()
            @classmethod
            async def of_class(cls, *args):
                assert cls is Owner
                return await function(*args)

            @classmethod
            @workers.context()
            async def inner(cls, *args):
                assert cls is Owner
                return await function(*args)

        decorate = workers.context()
        kinds = [
            decorate(function),
            decorate(marked),
            decorate(Called()),
            decorate(functools.partial(function)),
            decorate(sync_to_async(lambda *args: (inside() is not None, *args))),
            Owner().method,
            Owner.static,
            Owner.of_class,
            Owner.inner,
        ]
        assert decorate(Called()).__name__ == "Called"

        async def main():
            for each in kinds:
                assert iscoroutinefunction(each)
                assert await each(1, 2) == (True, 1, 2)
            assert inside() is None

        run(main)

    def test_inside_another_context_it_changes_nothing(self):
        @workers.context("new")
        async def activity():
            return inside(), await current_thread()

        async def main():
            async with ThreadSensitiveContext() as outer:
                assert await activity() == (outer, await current_thread())

        run(main)

    def test_below_sync_code_its_thread_runs_the_calls(self):
        """As the error about sync functions says."""

        @workers.context()
        async def activity():
            return await current_thread()

        assert async_to_sync(activity)() is threading.current_thread()

    def test_a_policy_for_each_call(self):
        @workers.context(lambda order, **_: Policy(sticky=order))
        async def activity(order, there, leave):
            thread = await current_thread()
            there.release()
            await leave.wait()
            return thread

        async def main():
            there, leave = asyncio.Semaphore(0), asyncio.Event()
            tasks = [
                asyncio.ensure_future(activity(order, there=there, leave=leave))
                for order in ("a", "b", "a")
            ]
            for _ in tasks:
                await there.acquire()
            leave.set()
            return await asyncio.gather(*tasks)

        first, second, third = run(main)
        assert first is third
        assert first is not second

    def test_an_error_and_a_cancellation_pass(self):
        @workers.context()
        async def activity(error):
            await current_thread()
            if error is None:
                await asyncio.Event().wait()
            raise error

        async def main():
            with pytest.raises(LookupError):
                await activity(LookupError())
            task = asyncio.ensure_future(activity(None))
            while not task._fut_waiter:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        run(main)

    @pytest.mark.parametrize(
        ("function", "words"),
        [
            (lambda: None, "takes async functions, and .*<lambda> is none. A sync function needs"),
            (len, "takes async functions, and len is none"),
            (type("Activity", (), {}), "not the class Activity: decorate its methods"),
            (7, "takes async functions, and 7 is none"),
        ],
    )
    def test_what_it_refuses(self, function, words):
        with pytest.raises(TypeError, match=words):
            workers.context()(function)

    def test_refuses_a_sync_generator_function(self):
        def generate():
            yield

        with pytest.raises(TypeError, match="comes back to the thread that runs it"):
            workers.context()(generate)

    def test_without_the_parentheses(self):
        with pytest.raises(TypeError, match=r"write @workers.context\(\) with the parentheses"):

            @workers.context
            async def activity(): ...


class TestAsyncGenerators:
    def test_each_iteration_has_a_worker_of_its_own(self):
        meeting = Meeting(2)

        @workers.context()
        async def lines():
            for _ in range(3):
                await sync_to_async(meeting.meet)()
                yield await current_thread()

        assert inspect.isasyncgenfunction(lines)

        async def iterate():
            threads = []
            async for thread in lines():
                threads.append(thread)
                assert inside() is None  # between the steps
            assert inside() is None
            assert len(set(threads)) == 1
            return threads[0]

        async def main():
            first, second = await asyncio.gather(iterate(), iterate())
            assert first is not second

        run(main)

    def test_each_step_in_another_task(self):
        @workers.context()
        async def lines():
            for _ in range(3):
                yield await current_thread()

        async def main():
            generator = lines()
            threads = [await asyncio.ensure_future(step(generator)) for _ in range(3)]
            assert len(set(threads)) == 1
            with pytest.raises(StopAsyncIteration):
                await asyncio.ensure_future(step(generator))

        async def step(generator):
            return await generator.__anext__()

        run(main)

    def test_what_is_sent_and_thrown_arrives(self):
        seen = []

        @workers.context()
        async def echo():
            value = None
            while True:
                try:
                    value = yield value, inside() is not None
                except LookupError as error:
                    value = await sync_to_async(str)(error)
                except GeneratorExit:
                    seen.append(inside() is not None)
                    await current_thread()
                    raise

        async def main():
            generator = echo()
            assert await generator.asend(None) == (None, True)
            assert await generator.asend(1) == (1, True)
            assert await generator.athrow(LookupError("two")) == ("two", True)
            with pytest.raises(ValueError, match="three"):
                await generator.athrow(ValueError("three"))
            other = echo()
            await other.asend(None)
            await other.aclose()
            with pytest.raises(StopAsyncIteration):
                await other.asend(None)

        run(main)
        assert seen == [True]

    def test_the_context_ends_with_the_iteration(self):
        """Also if that is left early: the next one finds no values of its thread."""
        local = threading.local()

        def look():
            found, local.value = getattr(local, "value", None), 1
            return found

        @workers.context()
        async def lines():
            yield await sync_to_async(look)()
            yield await sync_to_async(look)()

        async def main():
            for _ in range(2):
                assert [line async for line in lines()] == [None, 1]
            generator = lines()
            assert await generator.__anext__() is None
            await generator.aclose()
            assert [line async for line in lines()] == [None, 1]

        run(main)

    def test_variables_of_the_consumer(self):
        """They are the generator's, as ever; its context is not the consumer's."""
        variable = ContextVar("variable")

        @workers.context()
        async def lines():
            yield await sync_to_async(variable.get)()
            variable.set("the generator's")
            yield await sync_to_async(variable.get)()

        async def main():
            variable.set("the consumer's")
            assert [line async for line in lines()] == ["the consumer's", "the generator's"]
            assert variable.get() == "the generator's"
            assert copy_context().run(inside) is None

        run(main)

    def test_inside_another_context_it_changes_nothing(self):
        @workers.context("new")
        async def lines():
            for _ in range(2):
                yield inside(), await current_thread()

        async def main():
            async with ThreadSensitiveContext() as outer:
                mine = await current_thread()
                assert [line async for line in lines()] == [(outer, mine)] * 2
                assert await current_thread() is mine

        run(main)

    def test_in_a_context_of_the_consumers_between_the_steps(self):
        @workers.context()
        async def lines():
            for _ in range(2):
                yield await current_thread()

        async def main():
            generator = lines()
            mine = await generator.__anext__()
            async with ThreadSensitiveContext():
                other = await current_thread()
                assert await generator.__anext__() is mine
                assert other is not mine
                await generator.aclose()
                assert await current_thread() is other

        run(main)

    def test_one_that_is_dropped(self):
        """The loop closes it; nothing stays behind, as the fixture sees."""

        @workers.context("keep")
        async def lines():
            while True:
                yield await current_thread()

        async def main():
            generator = lines()
            await generator.__anext__()
            del generator
            gc.collect()
            for _ in range(3):
                await asyncio.sleep(0)
            assert inside() is None

        run(main)

    def test_an_object_with_an_async_generator_for_call(self):
        class Lines:
            async def __call__(self, count):
                for _ in range(count):
                    yield inside() is not None

        async def main():
            return [line async for line in workers.context()(Lines())(2)]

        assert run(main) == [True, True]


class TestBlock:
    def test_has_a_worker_of_its_own(self):
        meeting = Meeting()

        async def job():
            async with workers.context():
                await sync_to_async(meeting.meet)()
            assert inside() is None

        async def main():
            await asyncio.gather(*(job() for _ in range(SOCKETS)))

        run(main)
        assert len(set(meeting.threads)) == SOCKETS

    def test_one_after_the_other(self):
        async def main():
            block = workers.context("keep")
            for _ in range(2):
                async with block:
                    assert inside() is not None
                assert inside() is None

        run(main)

    def test_one_inside_itself(self):
        async def main():
            block = workers.context()
            async with block:
                with pytest.raises(RuntimeError, match="call it anew for each block"):
                    await block.__aenter__()
                assert inside() is not None
            assert inside() is None

        run(main)

    def test_with_a_function_for_a_policy(self):
        async def main():
            with pytest.raises(TypeError, match=r"give workers\.context the policy itself"):
                async with workers.context(lambda: "keep"):
                    raise AssertionError("never here")

        run(main)

    def test_in_sync_code(self):
        with pytest.raises(TypeError, match=r"write 'async with'\. Sync code needs none"):
            with workers.context():
                raise AssertionError("never here")
