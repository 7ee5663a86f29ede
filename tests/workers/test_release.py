"""`Policy(release_idle=...)`: a context that idles gives its worker back, unless it is bound.

Nothing sleeps: what a worker's thread does when its time is up is waited for.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import os
import sys
import threading
import time
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import Context, ContextVar
from types import SimpleNamespace

import pytest

import limits
from asgibridge import debug, workers
from asgibridge._workers import leases
from asgibridge._workers.pool import ReleaseAfter, pool
from asgibridge.iterators import (
    async_to_sync_context_manager,
    sync_to_async_context_manager,
    sync_to_async_iterator,
)
from asgibridge.local import Local
from asgibridge.sync import (
    AsyncSingleThreadContext,
    SyncToAsync,
    ThreadSensitiveContext,
    async_to_sync,
    sync_to_async,
)
from asgibridge.workers import LimitReached, Policy, bind, set_policy, stats
from queues import until
from threads import SECONDS, clean_pool, join_idle

SOON = 0.01
LATE = 2 * SECONDS

current_thread = sync_to_async(threading.current_thread)


@pytest.fixture(autouse=True)
def default_policy():
    with clean_pool():
        yield
        gc.collect()


def run(main):
    """On a loop of its own; a hang is an error."""

    async def limited():
        return await asyncio.wait_for(main(), SECONDS)

    return asyncio.run(limited())


async def come(condition):
    """Wait for what a thread does next."""
    give_up_at = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < give_up_at, "did not happen"
        await asyncio.sleep(0.001)


async def released(function=threading.current_thread):
    """What a call returns, when the context has idled since and its worker is given back."""
    value = await sync_to_async(function)()
    lease = lease_of_this_context()
    await come(lambda: lease._worker is None)
    return value


async def bound_after_a_call():
    await current_thread()
    return await bound()


async def bound():
    """What binds this context, when that has been found out since now."""
    slot = lease_of_this_context()._slot
    slot.seen = None
    await come(lambda: slot.seen)
    return slot.seen


def lease_of_this_context():
    context = SyncToAsync.thread_sensitive_context.get()
    return SyncToAsync.context_to_thread_executor[context]


async def one(function=threading.current_thread):
    async with ThreadSensitiveContext():
        return await sync_to_async(function)()


def elsewhere(coroutine):
    """A task in no context."""
    return Context().run(asyncio.ensure_future, coroutine)


def keep(**more):
    values = {"limit": 1, "release_idle": SOON, **more}
    set_policy(Policy(kind="keep", **values))


class Gate:
    """A hook, or a function, that waits; and how often it was called."""

    def __init__(self, value=None):
        self.value = value
        self.entered, self.go_on = threading.Event(), threading.Event()
        self.calls = 0

    def __call__(self, _worker=None):
        self.calls += 1
        self.entered.set()
        assert self.go_on.wait(SECONDS)
        return self.value


# --- streams -------------------------------------------------------------------------------------


def test_idle_streams_leave_their_workers_to_others():
    """With what a policy has by default: the request is served before its time-out."""

    async def stream(begun, end):
        async with ThreadSensitiveContext():
            await current_thread()
            begun.set()
            await end.wait()
            return await sync_to_async(str.upper)("message")

    async def main():
        set_policy(Policy(kind="keep", limit=2, wait_timeout=1))
        end = asyncio.Event()
        events = [asyncio.Event() for _ in range(2)]
        streams = [asyncio.ensure_future(stream(begun, end)) for begun in events]
        for begun in events:
            await begun.wait()
        assert await one(int) == 0
        end.set()
        assert await asyncio.gather(*streams) == ["MESSAGE", "MESSAGE"]

    run(main)
    assert not pool.in_use


def test_many_streams_on_few_workers():
    """Each message is delivered; never are there more workers than the limit, nor threads."""
    served_by = set()

    def deliver(number, text):
        served_by.add(threading.current_thread())
        return number, text

    async def stream(number, queue, got):
        async with ThreadSensitiveContext():
            await current_thread()
            while (text := await queue.get()) is not None:
                got.append(await sync_to_async(deliver)(number, text))

    async def main():
        keep(limit=4)
        queues, got = [asyncio.Queue() for _ in range(100)], []
        tasks = [
            asyncio.ensure_future(stream(number, queue, got)) for number, queue in enumerate(queues)
        ]
        for text in ["one", "two", None]:
            for queue in queues:
                queue.put_nowait(text)
            if text is not None:
                await one(int)  # a page, in the middle of it
        await asyncio.gather(*tasks)
        return got

    got = run(main)
    assert sorted(got) == [(number, text) for number in range(100) for text in ("one", "two")]
    assert len(served_by) <= 4


class TestItsNextCall:
    def test_gets_a_worker_again(self):
        async def main():
            keep()
            async with ThreadSensitiveContext():
                mine = await released()
                await come(lambda: not pool.in_use)
                other = await elsewhere(one())
                return mine, other, await current_thread()

        assert len(set(run(main))) == 1

    def test_waits_in_line_like_a_new_context(self):
        order = []

        async def main():
            keep(limit=1)
            async with ThreadSensitiveContext():
                await released()
                gate = Gate()
                holder = elsewhere(one(gate))
                await come(gate.entered.is_set)
                tasks = [elsewhere(one(lambda: order.append("another")))]
                await come(lambda: len(pool.waiting) == 1)
                tasks.append(asyncio.ensure_future(sync_to_async(order.append)("mine")))
                await come(lambda: len(pool.waiting) == 2)
                gate.go_on.set()
                await asyncio.gather(holder, *tasks)

        run(main)
        assert order == ["another", "mine"]

    def test_may_meet_the_limit(self):
        async def main():
            keep(wait_timeout=0.05)
            async with ThreadSensitiveContext():
                await released()
                gate = Gate()
                holder = elsewhere(one(gate))
                await come(gate.entered.is_set)
                with pytest.raises(LimitReached):
                    await current_thread()
                gate.go_on.set()
                await holder
                assert await current_thread()

        run(main)

    def test_a_cancelled_one_gives_up_its_place(self):
        async def main():
            keep()
            async with ThreadSensitiveContext():
                await released()
                gate = Gate()
                holder = elsewhere(one(gate))
                await come(gate.entered.is_set)
                task = asyncio.ensure_future(current_thread())
                await come(lambda: pool.waiting)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert not pool.waiting
                gate.go_on.set()
                await holder
                assert await current_thread()

        run(main)

    def test_finds_what_is_the_requests(self):
        """Context variables and Locals: also those of code that runs in no context of a task's."""
        variable, local, seen = ContextVar("variable"), Local(), []

        class Mine(SyncToAsync):
            def thread_handler(self, loop, *args, **kwargs):
                seen.append((variable.get(None), getattr(local, "value", None)))
                variable.set("mine")
                local.value = "mine"
                return super().thread_handler(loop, *args, **kwargs)

        async def main():
            keep()
            async with ThreadSensitiveContext():
                await Mine(int)()
                await released()
                await Mine(int)()
                executor = lease_of_this_context()
                executor.submit(variable.set, "submitted").result(SECONDS)
                await come(lambda: executor._worker is None)
                seen.append(executor.submit(variable.get, None).result(SECONDS))
            async with ThreadSensitiveContext():
                await Mine(int)()

        run(main)
        assert seen == [(None, None), ("mine", "mine"), "submitted", (None, None)]

    def test_finds_what_is_the_workers(self):
        local = threading.local()

        def count():
            local.count = getattr(local, "count", 0) + 1
            return local.count

        async def main():
            keep()
            async with ThreadSensitiveContext():
                mine = [await released(count)]
                other = await elsewhere(one(count))
                return [*mine, other, await sync_to_async(count)()]

        assert run(main) == [1, 2, 3]

    def test_a_thread_of_its_own_again_under_fresh(self):
        """What it had in a `threading.local` is gone, and nobody else finds it."""
        local, critical = threading.local(), Local(thread_critical=True)
        variable, mine = ContextVar("variable"), Local()

        def use():
            found = [hasattr(each, "value") for each in (local, critical)]
            local.value = critical.value = 1
            return [*found, variable.get(None), getattr(mine, "value", None)], (
                threading.current_thread()
            )

        async def main(kind, limit):
            set_policy(Policy(kind=kind, limit=limit, release_idle=SOON))
            async with ThreadSensitiveContext():
                variable.set(2)
                mine.value = 3
                first, thread = await released(use)
                await asyncio.get_running_loop().run_in_executor(None, thread.join, SECONDS)
                assert not thread.is_alive()
                second, other = await sync_to_async(use)()
                assert first == second == [False, False, 2, 3]
                assert other is not thread
            assert (await elsewhere(one(use)))[0] == [False, False, None, None]

        for kind in ("fresh", "new"):
            for limit in (1, None):
                run(functools.partial(main, kind, limit))

    def test_on_another_loop_of_the_same_context(self):
        async def main():
            keep()
            async with ThreadSensitiveContext():
                await released()
                context = SyncToAsync.thread_sensitive_context.get()

                async def there():
                    SyncToAsync.thread_sensitive_context.set(context)
                    return await current_thread()

                ran = asyncio.get_running_loop().run_in_executor(
                    None, Context().run, asyncio.run, there()
                )
                return await ran, await current_thread()

        assert len(set(run(main))) == 1


# --- which contexts ------------------------------------------------------------------------------


BY_DEFAULT, EXPLICIT = ReleaseAfter(1.0, 0.25), ReleaseAfter(5.0, 5.0)


@pytest.mark.parametrize(
    ("process", "context", "expected"),
    [
        ({}, None, None),
        ({"kind": "keep"}, None, None),
        ({"kind": "keep", "limit": 2}, None, BY_DEFAULT),
        ({"kind": "keep", "limit": 2, "release_idle": None}, None, None),
        ({"kind": "keep", "limit": 2, "release_idle": 5}, None, EXPLICIT),
        ({"kind": "keep", "release_idle": 5}, None, EXPLICIT),
        ({"kind": "keep", "release_idle": 0}, None, ReleaseAfter(0.01, 0.01)),
        ({"kind": "fresh", "limit": 2}, None, None),
        ({"kind": "fresh", "release_idle": 5}, None, EXPLICIT),
        ({"kind": "new", "release_idle": 5}, None, EXPLICIT),
        ({"limit": 2}, "keep", BY_DEFAULT),
        ({"limit": 2}, {"kind": "keep"}, BY_DEFAULT),
        ({}, {"kind": "keep", "release_idle": 5}, EXPLICIT),
        ({"kind": "keep", "limit": 2}, {"kind": "keep", "release_idle": None}, None),
        ({"kind": "keep", "limit": 2, "release_idle": None}, "keep", None),
        ({"limit": 2, "release_idle": None}, "keep", None),
        ({"limit": 2, "release_idle": 5}, "keep", EXPLICIT),
        # They have to be told that it does not matter.
        ({"kind": "keep", "limit": 2, "release_idle": 5}, "fresh", None),
        ({"kind": "keep", "limit": 2}, "fresh", None),
        ({"kind": "keep", "limit": 2}, {"kind": "new", "release_idle": 5}, EXPLICIT),
    ],
)
def test_which_contexts_are_released(process, context, expected):
    set_policy(Policy(**process))
    if isinstance(context, dict):
        context = Policy(**context)
    executor = leases.executor_of_context(context, None)
    assert getattr(executor, "release", None) == expected
    if not process and context is None:
        assert type(executor) is not leases.Lease  # asgiref's default costs nothing


def test_a_context_may_have_its_own():
    async def main():
        async with ThreadSensitiveContext(policy=Policy(kind="keep", release_idle=SOON)):
            await released()
            assert await current_thread()

    run(main)


def test_no_top_level_call_is():
    seen = []
    original = leases.Lease.__init__

    def init(self, *args, **kwargs):
        original(self, *args, **kwargs)
        seen.append(self.release)

    keep(release_idle=SOON)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leases.Lease, "__init__", init)

        async def nothing():
            pass

        async_to_sync(nothing)()
        with AsyncSingleThreadContext():
            async_to_sync(nothing)()
    assert seen == [None, None]


class TestPolicy:
    def test_shows_what_was_said(self):
        assert repr(Policy(kind="keep", limit=2)) == "Policy(kind='keep', limit=2)"
        off = Policy(kind="keep", limit=2, release_idle=None)
        assert repr(off) == "Policy(kind='keep', limit=2, release_idle=None)"
        assert repr(Policy(release_idle=2)) == "Policy(kind='fresh', release_idle=2.0)"
        assert Policy(kind="keep", limit=2).release_idle == 1
        assert Policy(kind="keep").release_idle is Policy(limit=2).release_idle is None

    def test_is_a_value(self):
        assert Policy(kind="keep", limit=2) == Policy(kind="keep", limit=2, release_idle=1)
        assert Policy(kind="keep", limit=2) != Policy(kind="keep", limit=2, release_idle=None)
        assert Policy(may_release=id) != Policy()

    @pytest.mark.parametrize(
        ("values", "error", "says"),
        [
            ({"release_idle": -1}, ValueError, "release_idle must be between 0"),
            ({"release_idle": "off"}, TypeError, "release_idle must be a number of seconds"),
            ({"release_idle": True}, TypeError, "release_idle must be a number of seconds"),
            ({"may_release": 3}, TypeError, "may_release must be a function of one argument"),
        ],
    )
    def test_says_what_is_wrong(self, values, error, says):
        with pytest.raises(error, match=says):
            Policy(**values)

    @pytest.mark.parametrize(
        ("text", "seconds"), [("2.5", 2.5), ("0", 0.0), ("off", None), ("", 1.0)]
    )
    def test_from_the_environment(self, text, seconds):
        environment = {
            "ASGIBRIDGE_WORKERS": "keep",
            "ASGIBRIDGE_WORKERS_LIMIT": "8",
            "ASGIBRIDGE_WORKERS_RELEASE_IDLE": text,
        }
        assert workers.policy_of(environment).release_idle == seconds

    def test_from_a_bad_environment(self):
        with pytest.raises(ValueError, match=r"must be seconds, from 0 on, or off \(or unset\)"):
            workers.policy_of({"ASGIBRIDGE_WORKERS_RELEASE_IDLE": "never"})


# --- what binds ----------------------------------------------------------------------------------


def numbers():
    yield from range(10)


class TestBinds:
    """Nothing is released as long as it holds, and all is when it holds no longer."""

    async def check(self, words):
        mine = await current_thread()
        assert words in await bound()
        assert await current_thread() is mine
        assert pool.released == self.before
        return mine

    @pytest.fixture(autouse=True)
    def count(self):
        self.before = pool.released
        keep()

    def test_a_block(self):
        async def main():
            async with ThreadSensitiveContext():
                with bind():
                    await self.check("workers.bind()")
                await released()

        run(main)

    def test_a_block_from_before_the_first_call(self):
        async def main():
            async with ThreadSensitiveContext():
                with bind(), bind():
                    pass
                with bind():
                    with bind():
                        pass
                    await self.check("workers.bind()")
                await released()

        run(main)

    def test_blocks_that_overlap_in_two_tasks(self):
        async def main():
            async with ThreadSensitiveContext():
                first, second = bind(), bind()
                first.__enter__()

                async def other():
                    second.__enter__()

                await asyncio.ensure_future(other())
                first.__exit__(None, None, None)
                await self.check("workers.bind()")
                second.__exit__(None, None, None)
                await released()

        run(main)

    def test_a_block_that_has_been_left_keeps_nobody(self):
        """Though the worker has not looked again since: who waits for a worker would deadlock."""

        async def main():
            async with ThreadSensitiveContext():
                with bind():
                    await self.check("workers.bind()")
                    await bound()
                    lease = lease_of_this_context()
                    assert lease.holders(lease._slot) == [[asyncio.current_task()]]
                assert lease.holders(lease._slot) is None
                await released()

        run(main)

    def test_a_block_of_sync_code(self):
        blocks = [bind()]

        async def main():
            async with ThreadSensitiveContext():
                await sync_to_async(blocks[0].__enter__)()
                await self.check("workers.bind()")
                await sync_to_async(blocks[0].__exit__)()
                await released()

        run(main)

    def test_a_block_is_for_one_context(self):
        async def main():
            async with ThreadSensitiveContext():
                with bind():
                    await self.check("workers.bind()")
                    set_policy(Policy(kind="keep", limit=2, release_idle=SOON))

                    async def another():
                        async with ThreadSensitiveContext():
                            await released()

                    await elsewhere(another())

        run(main)

    def test_a_block_outside_of_contexts_does_nothing(self):
        with bind():
            assert run(one)
        block = bind()
        with block:
            pass
        with pytest.raises(RuntimeError, match="call it for each"):
            block.__enter__()

    def test_a_foreign_object_that_stands_in_for_a_context(self):
        class Standing:
            __slots__ = ("__weakref__",)

        async def main():
            token = SyncToAsync.thread_sensitive_context.set(Standing())
            with bind():
                await released()
            SyncToAsync.thread_sensitive_context.reset(token)

        run(main)

    def test_an_iterator(self):
        async def main():
            async with ThreadSensitiveContext():
                async for number in sync_to_async_iterator(numbers(), max_size=1):
                    if number == 3:
                        await self.check("an iterator that is open")
                await released()
                iterator = sync_to_async_iterator(iter(range(10)), max_size=1)
                assert await iterator.__anext__() == 0
                self.before = pool.released
                await self.check("an iterator that is open")
                await iterator.aclose()
                await released()

        run(main)

    @pytest.mark.parametrize("fails", [False, True])
    def test_a_context_manager(self, fails):
        events = []

        class Manager:
            def __enter__(self):
                events.append(threading.current_thread())

            def __exit__(self, *error):
                events.append(threading.current_thread())
                if fails:
                    raise KeyError

        async def main():
            async with ThreadSensitiveContext():
                try:
                    async with sync_to_async_context_manager(Manager()):
                        await self.check("a context manager that is open")
                except KeyError:
                    assert fails
                await released()

        run(main)
        assert len(set(events)) == 1

    def test_a_context_manager_that_can_not_be_entered(self):
        class Manager:
            def __enter__(self):
                raise KeyError

            def __exit__(self, *error):
                pass

        async def main():
            async with ThreadSensitiveContext():
                with pytest.raises(KeyError):
                    async with sync_to_async_context_manager(Manager()):
                        pass
                await released()

        run(main)

    @pytest.mark.parametrize("ends", ["exhausted", "closed", "dropped"])
    @pytest.mark.parametrize("way", ["plain", "keyword", "overridden", "submitted"])
    def test_a_generator_that_a_call_was_given(self, ends, way):
        """Django's ``aiterator`` does so; its cursor is open on the thread."""

        class Overridden(SyncToAsync):
            def thread_handler(self, *args, **kwargs):
                return super().thread_handler(*args, **kwargs)

        def take(generator, n):
            return [number for number, _ in zip(generator, range(n))]

        async def call(generator, n):
            if way == "submitted":
                future = lease_of_this_context().submit(take, generator, n)
                return await asyncio.wrap_future(future)
            if way == "keyword":
                return await sync_to_async(take)(n=n, generator=generator)
            return await (Overridden if way == "overridden" else sync_to_async)(take)(generator, n)

        async def main():
            async with ThreadSensitiveContext():
                await released()
                self.before = pool.released
                generator = numbers()
                assert await call(generator, 3) == [0, 1, 2]
                await self.check("the generator numbers, which is suspended")
                if ends == "exhausted":
                    await call(generator, 20)
                elif ends == "closed":
                    await sync_to_async(generator.close)()
                del generator
                gc.collect()
                await released()

        run(main)

    def test_a_generator_that_somebody_who_replaced_submit_is_told_of(self, monkeypatch):
        original = ThreadPoolExecutor.submit
        monkeypatch.setattr(
            ThreadPoolExecutor,
            "submit",
            lambda self, *args, **kwargs: original(self, *args, **kwargs),
        )

        async def main():
            async with ThreadSensitiveContext():
                generator = numbers()
                assert await sync_to_async(next)(generator) == 0
                await self.check("the generator numbers")
                generator.close()
                await released()

        run(main)

    @pytest.mark.parametrize("new_loop", [False, True])
    def test_what_is_open_on_an_event_loop(self, new_loop):
        """It has to be left on the thread on which it was entered."""

        @asynccontextmanager
        async def session():
            yield "open"

        manager = async_to_sync_context_manager(session(), force_new_loop=new_loop)

        async def main():
            async with ThreadSensitiveContext():
                assert await sync_to_async(manager.__enter__)() == "open"
                await self.check("open on an event loop")
                await sync_to_async(manager.__exit__)(None, None, None)
                await released()

        run(main)

    def test_a_hook_that_says_no(self):
        answers = []

        def may_release(worker):
            assert worker is threading.current_thread()
            return answers[0]

        answers.append(False)
        keep(may_release=may_release)

        async def main():
            async with ThreadSensitiveContext():
                await self.check("may_release")
                answers[0] = True
                await released()

        run(main)

    def test_a_hook_that_fails(self, caplog):
        errors = [KeyError("enough")]

        def may_release(_worker):
            if errors:
                raise errors[0]
            return True

        keep(may_release=may_release)

        async def main():
            async with ThreadSensitiveContext():
                await self.check("may_release")
                errors.clear()
                await released()

        with caplog.at_level(logging.ERROR, "asgibridge.workers"):
            run(main)
        assert "may_release hook" in caplog.records[0].message

    def test_a_call_that_runs_or_waits(self):
        """It asks in the middle of both."""
        gate = Gate()

        async def main():
            async with ThreadSensitiveContext():
                mine = await current_thread()
                lease = lease_of_this_context()
                worker = lease._worker
                first = asyncio.ensure_future(sync_to_async(gate)())
                await come(gate.entered.is_set)
                worker.executor.post(lease.release_item(worker))
                second = asyncio.ensure_future(current_thread())
                await asyncio.sleep(0)
                gate.go_on.set()
                await first
                assert await second is mine

        keep(release_idle=LATE)
        run(main)
        assert pool.released == self.before

    def test_is_shown(self):
        async def main():
            async with ThreadSensitiveContext():
                with bind():
                    await self.check("workers.bind()")
                    await bound()
                    waiting = elsewhere(one())
                    await come(lambda: pool.waiting)
                    (seen,) = [each for each in debug.snapshot().calls if each.state == "waiting"]
                await waiting
                with bind():
                    await bound_after_a_call()
                    keep(wait_timeout=0.01)
                    with pytest.raises(LimitReached) as caught:
                        await elsewhere(one())
            return seen, str(caught.value)

        seen, message = run(main)
        words = "some are kept by contexts that idle: 1 by workers.bind()"
        assert words in seen.waits_for[0]
        assert words in message


class FakeConnection:
    """What is used of Django's wrapper of a database connection; the real one is tried in the
    services' tests."""

    allow_thread_sharing = False

    def __init__(self):
        self._thread_ident = threading.get_ident()
        self.in_atomic_block, self.savepoint_ids = False, []
        self.connection, self.autocommit = object(), True
        self.log = []

    def close_if_unusable_or_obsolete(self):
        self.log.append(("renew", threading.get_ident()))

    def close(self):
        self.log.append(("close", threading.get_ident()))


@pytest.fixture
def connections(monkeypatch):
    """`django.db.connections`, as far as it is looked at: {alias: wrapper}, by thread."""
    by_thread = threading.local()

    class Connections(dict):
        _connections = by_thread

        def __init__(self):
            super().__init__(default=None)
            self.settings = {}

    monkeypatch.setitem(sys.modules, "django.db", SimpleNamespace(connections=Connections()))
    return by_thread


class TestDjango:
    @pytest.mark.parametrize(
        ("state", "words"),
        [
            ({"in_atomic_block": True}, "a transaction on the database 'default'"),
            ({"savepoint_ids": ["s1"]}, "a transaction on the database 'default'"),
            ({"autocommit": False}, "database 'default', which does not commit by itself"),
        ],
    )
    def test_a_transaction_binds(self, connections, state, words):
        def begin():
            connections.default = wrapper = FakeConnection()
            vars(wrapper).update(state)
            return wrapper

        async def main():
            keep()
            async with ThreadSensitiveContext():
                wrapper = await sync_to_async(begin)()
                assert words in await bound()
                wrapper.in_atomic_block, wrapper.savepoint_ids = False, []
                wrapper.autocommit = True
                await released()

        run(main)

    def test_what_is_not_connected_or_not_this_threads_does_not(self, connections):
        def begin(state):
            connections.default = wrapper = FakeConnection()
            vars(wrapper).update(state)

        async def main():
            keep()
            for state in (
                {"connection": None, "autocommit": False},
                {"in_atomic_block": True, "allow_thread_sharing": True},
                {"in_atomic_block": True, "_thread_ident": 1},
            ):
                async with ThreadSensitiveContext():
                    await released(functools.partial(begin, state))

        run(main)

    def test_connections_are_looked_at_as_around_a_request(self, connections):
        """A broken one, or one that is too old, is not handed on."""

        def connect():
            connections.default = FakeConnection()
            return connections.default

        async def main():
            keep()
            async with ThreadSensitiveContext():
                wrapper = await released(connect)
                await come(lambda: not pool.in_use)
                assert [what for what, _ in wrapper.log] == ["renew"]
                with bind():
                    await current_thread()
                    assert [what for what, _ in wrapper.log] == ["renew", "renew"]
                    await current_thread()
                    assert len(wrapper.log) == 2
            return wrapper

        assert {ident for _, ident in run(main).log} == {run(one).ident}

    def test_those_of_a_fresh_context_are_closed(self, connections):
        def connect():
            connections.default = FakeConnection()
            return connections.default

        async def main():
            set_policy(Policy(limit=1, release_idle=SOON))
            async with ThreadSensitiveContext():
                wrapper = await released(connect)
                await come(lambda: not pool.in_use)
                return wrapper.log[0][0]

        assert run(main) == "close"

    class Unreadable(dict):
        def __init__(self):
            self.settings = {}

        def __iter__(self):
            raise KeyError("settings")

    def test_what_can_not_be_looked_at_binds(self, monkeypatch, caplog):
        async def main():
            keep()
            async with ThreadSensitiveContext():
                with monkeypatch.context() as patch:
                    fake = SimpleNamespace(connections=self.Unreadable())
                    patch.setitem(sys.modules, "django.db", fake)
                    assert "can't be looked at" in await bound_after_a_call()
                await released()

        run(main)
        assert "is not released" in caplog.text

    @pytest.mark.parametrize("kind", ["keep", "fresh"])
    def test_what_can_not_be_looked_at_as_it_is_released(self, monkeypatch, caplog, kind):
        """It could a moment before. The worker goes on, or ends as others do."""

        def may_release(worker):
            fake = SimpleNamespace(connections=self.Unreadable())
            monkeypatch.setitem(sys.modules, "django.db", fake)
            return True

        async def main():
            set_policy(Policy(kind=kind, release_idle=0, may_release=may_release))
            async with ThreadSensitiveContext():
                await released()
                assert await sync_to_async(int)("7") == 7

        run(main)
        assert "looking for Django's database connections failed" in caplog.text


# --- in the middle of a release ------------------------------------------------------------------


class TestRaces:
    """Step by step: the worker stands still in a hook, before it lets go or after."""

    def test_a_call_while_it_asks(self):
        gate, threads = Gate(True), []

        async def main():
            keep(may_release=gate)
            async with ThreadSensitiveContext():
                threads.append(await current_thread())
                before = pool.released
                await come(gate.entered.is_set)
                call = asyncio.ensure_future(current_thread())
                await asyncio.sleep(0)
                gate.go_on.set()
                threads.append(await call)
                assert pool.released == before or gate.calls > 1

        run(main)
        assert len(set(threads)) == 1

    def test_a_call_when_it_has_let_go(self):
        """It waits in line for the slot, which comes when the hook is through."""
        gate = Gate()

        async def main():
            keep(after_lease=gate)
            async with ThreadSensitiveContext():
                mine = await current_thread()
                await come(gate.entered.is_set)
                call = asyncio.ensure_future(current_thread())
                await come(lambda: pool.waiting)
                gate.go_on.set()
                assert await call is mine
            assert not pool.in_use

        run(main)

    def test_a_call_when_it_has_let_go_and_there_is_no_limit(self):
        gate = Gate()

        async def main():
            keep(limit=None, after_lease=gate)
            async with ThreadSensitiveContext():
                mine = await current_thread()
                await come(gate.entered.is_set)
                other = await current_thread()  # it does not wait for the hook
                assert other is not mine
                gate.go_on.set()

        run(main)

    @pytest.mark.parametrize("hook", ["may_release", "after_lease"])
    def test_the_context_is_left(self, hook):
        """It waits for the hooks, which are called once."""
        gate, ended = Gate(True), []

        async def main():
            hooks = {"after_lease": ended.append, "before_lease": lambda _worker: None}
            keep(**{**hooks, hook: gate})
            threads = []

            async def visit():
                async with ThreadSensitiveContext():
                    thread = await current_thread()
                    await come(gate.entered.is_set)
                    threads.append(thread)

            leaving = asyncio.ensure_future(visit())
            await come(lambda: threads)
            mine = threads[0]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not leaving.done()
            gate.go_on.set()
            await leaving
            assert gate.calls == 1
            assert ended == ([mine] if hook == "may_release" else [])
            assert not pool.in_use
            assert await one() is mine

        run(main)

    def test_the_context_is_left_when_it_is_released(self):
        ended = []

        async def main():
            keep(after_lease=ended.append)
            async with ThreadSensitiveContext():
                mine = await released()
            assert ended == [mine]
            assert not pool.in_use

        run(main)

    def test_the_context_is_left_and_its_call_waits_in_line(self):
        async def main():
            keep()
            gate = Gate()
            async with ThreadSensitiveContext():
                await released()
                holder = elsewhere(one(gate))
                await come(gate.entered.is_set)
                call = asyncio.ensure_future(current_thread())
                await come(lambda: pool.waiting)
                asyncio.get_running_loop().call_soon(gate.go_on.set)
            assert call.done()
            await holder
            assert not pool.in_use

        run(main)

    @pytest.mark.parametrize("way", ["another policy", "no policy"])
    def test_the_policy_changes(self, way):
        async def main():
            keep(after_lease=id)
            async with ThreadSensitiveContext():
                await released()
                set_policy(Policy(kind="keep", limit=3) if way == "another policy" else Policy())
                await released()
                assert await current_thread()
            assert not pool.in_use

        run(main)

    def test_it_is_shut_down(self):
        keep()
        executor = leases.executor_of_context(None, None)
        assert executor.submit(int, "1").result(SECONDS) == 1
        until(lambda: executor._worker is None)
        assert executor.submit(int, "2").result(SECONDS) == 2
        until(lambda: executor._worker is None)
        executor.shutdown()
        with pytest.raises(RuntimeError, match="cannot schedule new futures"):
            executor.submit(int)

    @pytest.mark.parametrize("state", ["released", "bound", "asking", "letting go"])
    def test_it_is_dropped(self, state):
        gate = Gate(True)
        hooks = {
            "released": {},
            "bound": {"may_release": lambda _worker: False},
            "asking": {"may_release": gate},
            "letting go": {"after_lease": gate},
        }
        keep(**hooks[state])
        executor = leases.executor_of_context(None, None)
        assert executor.submit(int, "1").result(SECONDS) == 1
        slot = executor._slot
        if state == "released":
            until(lambda: executor._worker is None)
        elif state == "bound":
            until(lambda: slot.seen)
        else:
            assert gate.entered.wait(SECONDS)
        reference = weakref.ref(executor)
        executor = slot = None
        gate.go_on.set()
        gc.collect()
        until(lambda: reference() is None and not pool.in_use)
        assert run(one)

    def test_its_thread_is_retired(self):
        async def main():
            keep()
            async with ThreadSensitiveContext():
                mine = await released(lambda: (workers.retire_thread(), threading.current_thread()))
                await asyncio.get_running_loop().run_in_executor(None, mine[1].join, SECONDS)
                assert not mine[1].is_alive()
                assert await current_thread() is not mine[1]

        run(main)

    def test_its_thread_is_abandoned(self):
        gate = Gate(True)
        keep(may_release=gate)
        executor = leases.executor_of_context(None, None)
        thread = executor.submit(threading.current_thread).result(SECONDS)
        assert gate.entered.wait(SECONDS)
        executor.abandon()
        gate.go_on.set()
        thread.join(SECONDS)
        assert not thread.is_alive()
        assert executor.submit(threading.current_thread).result(SECONDS) is not thread

    def test_a_hook_that_fails_when_it_lets_go(self, caplog):
        """It costs the worker, and nothing else."""
        failures = [1]

        def after_lease(_worker):
            if failures:
                failures.pop()
                raise KeyError("enough")

        async def main():
            keep(after_lease=after_lease)
            async with ThreadSensitiveContext():
                mine = await released()
                await come(lambda: not pool.in_use)
                assert await current_thread() is not mine

        run(main)
        assert "after_lease hook" in caplog.text

    def test_a_thread_that_can_not_be_started_for_the_next_call(self, monkeypatch):
        original = threading.Thread.start
        fails = []

        def start(self):
            if fails and "asgibridge-w" in self.name:
                fails.pop()
                raise RuntimeError("can't start new thread")
            original(self)

        monkeypatch.setattr(threading.Thread, "start", start)

        async def main():
            keep(idle_timeout=0)
            async with ThreadSensitiveContext():
                thread = await released()
                await asyncio.get_running_loop().run_in_executor(None, thread.join, SECONDS)
                fails.append(1)
                with pytest.raises(RuntimeError, match="can't start new thread"):
                    await current_thread()
                assert await current_thread()

        run(main)


def test_who_waits_is_not_kept_waiting_by_one_that_was_released_before():
    """By then it has idled as others do for a living."""

    async def main():
        keep()
        async with ThreadSensitiveContext():
            await released()
            lease = lease_of_this_context()
            assert lease.release == ReleaseAfter(SOON, SOON)
            lease.release = ReleaseAfter(LATE, SOON)
            await current_thread()
            await come(lambda: lease._slot.seen == "")
            assert await elsewhere(one())  # which asks for it
            await current_thread()
            other = elsewhere(one())  # it is found waiting when the time has come
            assert await other

    run(main)


def test_of_those_that_idle_the_one_that_is_free_to_go_is_found():
    """A first one that is asked turns out to be bound: then the next is."""

    async def main():
        keep(limit=2, release_idle=LATE)
        binds, leases_of = [], []

        async def stream(number, begun, end):
            async with ThreadSensitiveContext():
                await current_thread()
                lease = lease_of_this_context()
                lease.release = ReleaseAfter(LATE, SOON)
                leases_of.append(lease)
                if number == 0:
                    binds.append(bind())
                    binds[0].__enter__()
                await current_thread()
                lease._worker.lease = lease._reference
                lease._worker.set_patience(SOON)
                await current_thread()
                begun.set()
                await end.wait()
            return number

        end, events = asyncio.Event(), [asyncio.Event() for _ in range(2)]
        streams = [elsewhere(stream(number, begun, end)) for number, begun in enumerate(events)]
        for begun in events:
            await begun.wait()
        await come(lambda: all(each._slot.seen == "" for each in leases_of))
        assert await elsewhere(one())
        assert leases_of[0]._worker is not None
        end.set()
        assert await asyncio.gather(*streams) == [0, 1]

    run(main)


# --- idle workers --------------------------------------------------------------------------------


class TestIdleWorkers:
    def test_have_their_idle_time_when_they_are_given_back(self):
        async def main():
            keep(idle_timeout=LATE)
            async with ThreadSensitiveContext():
                thread = await released()
                await come(lambda: pool.idle)
                left = pool.retire(pool.idle[0])
                assert LATE - SECONDS < left <= LATE
                return thread

        thread = run(main)
        assert thread.is_alive()
        join_idle(thread)

    @pytest.mark.parametrize("release_idle", [SOON, LATE])
    def test_end_in_time_whatever_a_context_waits_for(self, release_idle):
        keep(idle_timeout=0.05, release_idle=release_idle)
        thread = run(one)
        thread.join(SECONDS)
        assert not thread.is_alive()

    def test_end_in_a_time_that_was_set_meanwhile(self):
        keep(idle_timeout=LATE, release_idle=LATE)
        thread = run(one)
        keep(idle_timeout=0.05, release_idle=LATE)
        thread.join(SECONDS)
        assert not thread.is_alive()

    def test_end_in_a_time_that_was_set_while_they_were_leased(self):
        async def main():
            keep(idle_timeout=LATE, release_idle=LATE)
            async with ThreadSensitiveContext():
                thread = await current_thread()
                keep(idle_timeout=0.05, release_idle=LATE)
            await asyncio.get_running_loop().run_in_executor(None, thread.join, SECONDS)
            assert not thread.is_alive()

        run(main)

    def test_end_in_time_when_they_have_asked_what_may_be_done_with_a_lease(self):
        async def main():
            keep(idle_timeout=0.05, release_idle=LATE)
            async with ThreadSensitiveContext():
                thread = await current_thread()
                worker = lease_of_this_context()._worker
                await come(lambda: worker.is_resting)
                assert await current_thread() is thread
                worker.is_resting = False
                await come(lambda: worker.is_resting)
            await asyncio.get_running_loop().run_in_executor(None, thread.join, SECONDS)
            assert not thread.is_alive()

        run(main)

    def test_serve_contexts_that_are_not_released_too(self):
        async def main():
            keep()
            async with ThreadSensitiveContext():
                mine = await released()
            policy = Policy(kind="keep", release_idle=None)
            async with ThreadSensitiveContext(policy=policy):
                assert await current_thread() is mine
                assert lease_of_this_context()._worker.patience is None
            async with ThreadSensitiveContext():
                assert await released() is mine

        run(main)


class TestWhatAThreadAsks:
    """`asgibridge._process.items.WhenIdle`, of each kernel."""

    def ask(self, kernel, *answers):
        """Its executor, what it was asked with, and an event for the last of the answers."""
        answers, asked, done = list(answers), [], threading.Event()

        def when_idle(idle):
            asked.append(idle)
            if len(answers) == 1:
                done.set()
            return answers.pop(0) if answers else None

        return kernel.ThreadSensitiveExecutor(None, when_idle), asked, done

    @pytest.mark.parametrize("before", [True, False])
    def test_after_its_patience_and_again(self, kernel, before):
        executor, asked, done = self.ask(kernel, 0.02, 0.03, None)
        if not before:
            executor.submit(int).result(SECONDS)
        executor.set_patience(0.01)
        executor.submit(int).result(SECONDS)
        assert done.wait(SECONDS)
        assert asked == pytest.approx([0.01, 0.03, 0.06])
        assert executor.submit(int, "7").result(SECONDS) == 7
        executor.shutdown()

    def test_for_something_to_do(self, kernel):
        ran = []

        class Doing:
            def run(self):
                ran.append(threading.current_thread())

            def deliver(self):
                ran.append("delivered")

        executor, asked, done = self.ask(kernel, Doing(), None)
        executor.set_patience(0.01)
        thread = executor.submit(threading.current_thread).result(SECONDS)
        assert done.wait(SECONDS)
        assert ran == [thread, "delivered"]
        assert asked == pytest.approx([0.01, 0.01])  # it has begun anew
        assert executor.is_idle()
        executor.shutdown()

    def test_for_its_end(self, kernel):
        executor, _asked, _done = self.ask(kernel, 0.01, True)
        executor.set_patience(0.01)
        thread = executor.submit(threading.current_thread).result(SECONDS)
        thread.join(SECONDS)
        assert not thread.is_alive()
        assert executor.submit(threading.current_thread).result(SECONDS) is not thread
        executor.shutdown()

    def test_not_any_more_until_it_is_to_look_again(self, kernel):
        executor, asked, done = self.ask(kernel, None, None)
        executor.set_patience(0.01)
        executor.submit(int).result(SECONDS)
        until(lambda: len(asked) == 1)
        executor.look_again()
        assert done.wait(SECONDS)
        executor.shutdown()

    def test_nothing_when_it_has_been_closed(self, kernel):
        """What it is told to do then does not begin a second thread."""
        executor = None
        entered, go_on, ran = threading.Event(), threading.Event(), []

        class Doing:
            def run(self):
                ran.append(1)

            def deliver(self):
                pass

        def when_idle(_idle):
            entered.set()
            go_on.wait(SECONDS)
            return Doing()

        executor = kernel.ThreadSensitiveExecutor(None, when_idle)
        executor.set_patience(0.01)
        thread = executor.submit(threading.current_thread).result(SECONDS)
        assert entered.wait(SECONDS)
        thread.close()
        go_on.set()
        thread.join(SECONDS)
        assert not thread.is_alive()
        assert ran == []
        executor.shutdown()

    def test_and_a_call_that_comes_meanwhile_is_run(self, kernel):
        entered, go_on = threading.Event(), threading.Event()

        def when_idle(_idle):
            entered.set()
            go_on.wait(SECONDS)

        executor = kernel.ThreadSensitiveExecutor(None, when_idle)
        executor.set_patience(0.01)
        executor.submit(int).result(SECONDS)
        assert entered.wait(SECONDS)
        future = executor.submit(int, "7")
        go_on.set()
        assert future.result(SECONDS) == 7
        executor.shutdown()


# --- figures, processes --------------------------------------------------------------------------


def test_figures():
    async def main():
        before = stats()
        keep()
        async with ThreadSensitiveContext():
            with bind():
                await current_thread()
                assert stats().leased == before.leased + 1
            await released()
            await come(lambda: stats().leased == before.leased)
        return stats().released - before.released

    assert run(main) == 1
    assert f"\nasgibridge_workers_released_total {stats().released}\n" in workers.prometheus()


def test_who_waits_in_vain_is_told_of_it():
    gate = Gate()

    async def main():
        set_policy(Policy(limit=1, wait_timeout=0.01))
        holder = elsewhere(one(gate))
        await come(gate.entered.is_set)
        with pytest.raises(LimitReached, match="ASGIBRIDGE_WORKERS_RELEASE_IDLE"):
            await one()
        gate.go_on.set()
        await holder

    run(main)


FORK = """
import os, sys, threading
from asgibridge._workers import leases
from asgibridge.workers import Policy, set_policy

may = [True]
set_policy(Policy(kind="keep", limit=1, release_idle=0.01, may_release=lambda _worker: may[0]))
executor = leases.executor_of_context(None, None)

def wait_for(condition):
    turn = threading.Event()
    while not condition():
        turn.wait(0.001)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("state", ["released", "bound"])
def test_in_a_forked_child_it_begins_anew(run_script, state):
    done = run_script(
        FORK
        + f"""
may[0] = {state == "released"}
import warnings
warnings.simplefilter("ignore")
executor.submit(int).result(10)
slot = executor._slot
wait_for(lambda: executor._worker is None if may[0] else slot.seen)
pid = os.fork()
if not pid:
    may[0] = True
    print(executor.submit(int, "7").result(10), flush=True)
    wait_for(lambda: executor._worker is None)
    print(executor.submit(int, "8").result(10), flush=True)
    os._exit(0)
print(os.waitpid(pid, 0)[1])
print(executor.submit(int, "9").result(10))
"""
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["7", "8", "0", "9"]


@pytest.mark.parametrize("state", ["released", "bound", "asking"])
def test_at_exit(script_output, state):
    """Whatever it is in the middle of, its thread ends, and what comes late is run."""
    assert (
        script_output(
            FORK
            + f"""
state = {state!r}
asking = threading.Event()

def may_release(_worker):
    asking.set()
    if state == "asking":
        threading.Event().wait(0.05)  # the exit comes meanwhile
    return state != "bound"

set_policy(Policy(kind="keep", limit=1, release_idle=0.01, may_release=may_release))
executor = leases.executor_of_context(None, None)
executor.submit(int).result(10)
if state == "released":
    wait_for(lambda: executor._worker is None)
else:
    asking.wait(10)

print(state)
"""
        )
        == state
    )


@pytest.mark.parametrize(
    ("loops", "of_contexts"),
    [(1, [None]), (2, limits.policies())],
    ids=["of one policy", "of several and two loops"],
)
def test_random_programs(loops, of_contexts):
    """Contexts that idle, bind, leave, are cancelled and wait for each other, at a limit of 2: none
    hangs. A call that waits for a context that is bound and waits for it is told so."""
    found = sum(
        (limits.play(n, limit=2, loops=loops, of_contexts=of_contexts) for n in range(4)), Counter()
    )
    assert found["done"]
    assert found["told"]
