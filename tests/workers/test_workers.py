"""`asgibridge.workers`: kept workers and hooks. The limit is in test_workers_limit.py.

What a fresh worker must not show is in test_kept_workers.py; here it is what a lease shows.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import weakref
from contextvars import ContextVar

import pytest

from asgibridge import workers
from asgibridge._workers import leases
from asgibridge._workers import pool as pool_module
from asgibridge.local import Local
from asgibridge.sync import (
    AsyncSingleThreadContext,
    SyncToAsync,
    ThreadSensitiveContext,
    async_to_sync,
    sync_to_async,
)
from asgibridge.workers import Policy, end_idle_workers, get_policy, set_policy
from queues import until
from threads import SECONDS, clean_pool, join_idle

current_thread = sync_to_async(threading.current_thread)


@pytest.fixture(autouse=True)
def default_policy():
    with clean_pool():
        yield


def request(*functions, policy=None):
    """What the functions return in one context, and then its thread."""

    async def main():
        async with ThreadSensitiveContext(policy=policy):
            results = [await sync_to_async(function)() for function in functions]
            return [*results, await current_thread()]

    return asyncio.run(main())


def is_given_back():
    """Whether no lease has a worker; a thread may have its last call, which is in a cycle, for a
    moment."""
    gc.collect()
    return not leases.pool.in_use


class Value:
    """Something that can be referred to weakly."""


class Unhashable:
    __hash__ = None

    def __call__(self, worker):
        pass


class TestPolicy:
    def test_default(self):
        assert get_policy() == Policy()
        policy = Policy()
        assert (policy.kind, policy.limit, policy.wait_timeout) == ("fresh", None, None)
        assert policy.idle_timeout == 10
        assert policy.on_start is policy.before_lease is policy.after_lease is policy.on_end is None

    def test_is_a_value(self):
        one, same = Policy(kind="keep", limit=3), Policy(limit=3, kind="keep")
        assert one == same
        assert hash(one) == hash(same)
        assert one != Policy(kind="keep")
        assert one != "keep"
        assert repr(one) == "Policy(kind='keep', limit=3)"

    def test_can_not_be_changed(self):
        policy = Policy()
        with pytest.raises(AttributeError, match="field 'limit'"):
            policy.limit = 3
        with pytest.raises(AttributeError, match="field 'limit'"):
            del policy.limit
        with pytest.raises(AttributeError):
            policy.other = 3

    @pytest.mark.parametrize(
        ("values", "error", "says"),
        [
            ({"kind": "warm"}, ValueError, "'fresh', 'keep' or 'new'"),
            ({"kind": None}, TypeError, "'fresh', 'keep' or 'new'"),
            ({"limit": 0}, ValueError, "at least 1"),
            ({"limit": "8"}, TypeError, "whole number"),
            ({"limit": True}, TypeError, "whole number"),
            ({"limit": 1.5}, TypeError, "whole number"),
            ({"wait_timeout": -1}, ValueError, "wait_timeout must be between 0"),
            ({"wait_timeout": "1"}, TypeError, "wait_timeout must be a number of seconds"),
            ({"idle_timeout": float("nan")}, ValueError, "idle_timeout must be between 0"),
            ({"idle_timeout": float("inf")}, ValueError, "idle_timeout must be between 0"),
            ({"idle_timeout": None}, TypeError, "idle_timeout must be a number of seconds"),
            ({"on_start": 3}, TypeError, "on_start must be a function of one argument"),
            ({"after_lease": Unhashable()}, TypeError, "after_lease must be hashable"),
        ],
    )
    def test_says_what_is_wrong(self, values, error, says):
        with pytest.raises(error, match=says):
            Policy(**values)

    def test_takes_keywords_only(self):
        with pytest.raises(TypeError):
            Policy("keep")

    def test_of_the_process_must_be_one(self):
        with pytest.raises(TypeError, match=r"takes an asgibridge\.workers\.Policy, not 'keep'"):
            set_policy("keep")
        assert get_policy() == Policy()

    def test_of_a_context_must_be_one(self):
        with pytest.raises(TypeError, match="'fresh', 'keep', 'new' or an asgibridge"):
            ThreadSensitiveContext(policy=3)
        with pytest.raises(ValueError, match="'fresh', 'keep' or 'new'"):
            ThreadSensitiveContext(policy="warm")
        with pytest.raises(ValueError, match=r"limit is the process's alone: .*set_policy"):
            ThreadSensitiveContext(policy=Policy(limit=3))
        with pytest.raises(ValueError, match="idle_timeout is the process's alone"):
            ThreadSensitiveContext(policy=Policy(idle_timeout=3))
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(1) as executor:
            with pytest.raises(TypeError, match="one or the other"):
                ThreadSensitiveContext(executor=executor, policy="keep")

    def test_from_the_environment(self, script_output):
        assert (
            script_output(
                "from asgibridge import workers; print(workers.get_policy())",
                ASGIBRIDGE_WORKERS="keep",
                ASGIBRIDGE_WORKERS_LIMIT="8",
                ASGIBRIDGE_WORKERS_WAIT_TIMEOUT="2.5",
                ASGIBRIDGE_WORKERS_IDLE_TIMEOUT="60",
            )
            == "Policy(kind='keep', limit=8, wait_timeout=2.5, idle_timeout=60.0)"
        )

    @pytest.mark.parametrize(
        ("variable", "text", "takes"),
        [
            ("ASGIBRIDGE_WORKERS", "Keep", "fresh, keep or new"),
            ("ASGIBRIDGE_WORKERS_LIMIT", "0", "a whole number from 1 on"),
            ("ASGIBRIDGE_WORKERS_LIMIT", "many", "a whole number from 1 on"),
            ("ASGIBRIDGE_WORKERS_WAIT_TIMEOUT", "-1", "seconds, from 0 on"),
            ("ASGIBRIDGE_WORKERS_IDLE_TIMEOUT", "nan", "seconds, from 0 on"),
        ],
    )
    def test_from_a_bad_environment(self, variable, text, takes):
        with pytest.raises(ValueError) as caught:
            workers.policy_of({variable: text})
        assert str(caught.value) == f"{variable}={text!r}: must be {takes} (or unset)"


class TestKeep:
    @pytest.fixture(autouse=True)
    def policy(self):
        set_policy(Policy(kind="keep"))

    def test_keeps_what_is_the_threads(self):
        local, critical = threading.local(), Local(thread_critical=True)

        def count():
            local.count = getattr(local, "count", 0) + 1
            critical.count = getattr(critical, "count", 0) + 1
            return local.count, critical.count

        first = request(count, count)
        second = request(count)
        assert first == [(1, 1), (2, 2), second[-1]]
        assert second == [(3, 3), second[-1]]

    def test_does_not_keep_what_is_the_requests(self):
        variable, local = ContextVar("variable"), Local()

        def use():
            assert variable.get(None) is None
            assert not hasattr(local, "value")
            variable.set(1)
            local.value = 1

        assert request(use)[-1] is request(use)[-1]

    def test_does_not_keep_what_an_override_of_thread_handler_sets(self):
        """That runs outside of the function's context, in what is beneath it on the thread."""
        variable, local, seen = ContextVar("variable"), Local(), []

        class Mine(SyncToAsync):
            def thread_handler(self, loop, *args, **kwargs):
                seen.append((variable.get(None), getattr(local, "value", None)))
                variable.set(1)
                local.value = 1
                return super().thread_handler(loop, *args, **kwargs)

        async def main():
            async with ThreadSensitiveContext():
                return [await Mine(threading.current_thread)() for _ in range(2)]

        first, second = asyncio.run(main()), asyncio.run(main())
        assert {*first, *second} == {first[0]}
        assert seen == [(None, None), (1, 1), (None, None), (1, 1)]

    def test_does_not_keep_what_a_submitted_function_sets(self):
        variable = ContextVar("variable")

        async def main():
            async with ThreadSensitiveContext() as context:
                await current_thread()
                executor = SyncToAsync.context_to_thread_executor[context]
                executor.submit(variable.set, 1).result(SECONDS)
                return executor.submit(variable.get, None).result(SECONDS)

        assert asyncio.run(main()) == 1

        def leftover():
            return variable.get(None)

        assert request(leftover)[0] is None

    def test_last_in_first_out(self):
        async def main():
            one, other = ThreadSensitiveContext(), ThreadSensitiveContext()
            threads = []

            async def enter(context, entered, leave):
                async with context:
                    threads.append(await current_thread())
                    entered.set()
                    await leave.wait()

            events = [(asyncio.Event(), asyncio.Event()) for _ in range(2)]
            tasks = [
                asyncio.ensure_future(enter(context, *pair))
                for context, pair in zip((one, other), events)
            ]
            for (entered, leave), task in zip(events, tasks):
                await entered.wait()
            for (_, leave), task in zip(events, tasks):
                leave.set()
                await task
            async with ThreadSensitiveContext():
                return threads, await current_thread()

        threads, last = asyncio.run(main())
        assert threads[0] is not threads[1]
        assert last is threads[1]

    def test_no_more_are_started_than_are_needed_at_once(self, monkeypatch):
        started = []
        original = threading.Thread.start

        def start(self):
            started.append(self)
            original(self)

        monkeypatch.setattr(threading.Thread, "start", start)

        async def one():
            async with ThreadSensitiveContext():
                await current_thread()

        async def main():
            for _ in range(300):
                await one()
            assert len(started) == 1
            for _ in range(20):
                await asyncio.gather(*(one() for _ in range(5)))

        asyncio.run(main())
        assert len(started) <= 5

    def test_leaving_is_without_a_hop(self, monkeypatch):
        posted = []
        original = leases.kernel.ThreadSensitiveExecutor.post
        monkeypatch.setattr(
            leases.kernel.ThreadSensitiveExecutor,
            "post",
            lambda self, item: posted.append(item) or original(self, item),
        )
        request(int)
        assert len(posted) == 2  # int, and the thread

    def test_waits_for_what_was_submitted(self):
        go_on, log = threading.Event(), []

        def work(loop, begun):
            loop.call_soon_threadsafe(begun.set)
            go_on.wait(SECONDS)
            log.append(1)

        async def main():
            loop, begun = asyncio.get_running_loop(), asyncio.Event()
            async with ThreadSensitiveContext():
                first = await current_thread()
                task = asyncio.ensure_future(sync_to_async(work)(loop, begun))
                await begun.wait()
                task.cancel()
                loop.call_later(0.02, go_on.set)
            assert log == [1]
            async with ThreadSensitiveContext():
                assert await current_thread() is first

        asyncio.run(main())

    def test_a_late_call_runs_apart(self):
        """It has a lease of its own, which ends with the context object."""

        async def main():
            leave, left = asyncio.Event(), asyncio.Event()

            async def outlive():
                await current_thread()
                leave.set()
                await left.wait()
                return await current_thread()

            async with ThreadSensitiveContext():
                task = asyncio.ensure_future(outlive())
                await leave.wait()
            async with ThreadSensitiveContext():
                mine = await current_thread()
                left.set()
                assert await task is not mine
                assert len(leases.pool.in_use) == 2

        asyncio.run(main())
        until(is_given_back)
        assert len(leases.pool.idle) == 2

    def test_a_context_that_is_dropped_gives_it_back(self):
        async def main():
            context = ThreadSensitiveContext()
            await context.__aenter__()
            return await current_thread()

        first = asyncio.run(main())
        until(is_given_back)
        assert request()[-1] is first

    def test_nested_contexts_are_one(self):
        async def main():
            async with ThreadSensitiveContext():
                outer = await current_thread()
                async with ThreadSensitiveContext(policy="fresh"):
                    assert await current_thread() is outer
                assert await current_thread() is outer

        asyncio.run(main())

    def test_a_fresh_lease_gets_none_of_the_kept(self):
        local = threading.local()
        *_, kept = request(lambda: setattr(local, "value", 1))
        has_value, fresh = request(lambda: hasattr(local, "value"), policy="fresh")
        assert (has_value, fresh is kept) == (False, False)
        value, again = request(lambda: local.value)
        assert (value, again is kept) == (1, True)

    def test_a_kept_lease_gets_none_of_the_fresh(self):
        local = threading.local()

        def use():
            assert not hasattr(local, "value")
            local.value = 1

        request(use, policy="fresh")
        request(use)

    def test_would_deadlock(self):
        """A coroutine that the worker's own thread runs can't be served by it."""

        def nested():
            return asyncio.run(inner())

        async def inner():
            return await current_thread()

        async def main():
            async with ThreadSensitiveContext():
                with pytest.raises(RuntimeError, match="would deadlock"):
                    await sync_to_async(nested)()

        asyncio.run(main())

    def test_stands_in_the_contexts_place(self):
        async def main():
            async with ThreadSensitiveContext() as context:
                own = await current_thread()
                executor = SyncToAsync.context_to_thread_executor[context]
                assert executor.submit(threading.current_thread).result(SECONDS) is own
                with pytest.raises(ZeroDivisionError):
                    executor.submit(divmod, 1, 0).result(SECONDS)
            with pytest.raises(RuntimeError, match="after shutdown"):
                executor.submit(int)
            executor.shutdown()  # once more is nothing

        asyncio.run(main())

    def test_shutdown_waits(self):
        log = []

        async def main():
            async with ThreadSensitiveContext() as context:
                await current_thread()
                executor = SyncToAsync.context_to_thread_executor.pop(context)
                go_on = threading.Event()
                executor.submit(go_on.wait, SECONDS)
                executor.submit(log.append, 1)
                threading.Timer(0.02, go_on.set).start()
                executor.shutdown()
                assert log == [1]

        asyncio.run(main())


class TestIdle:
    def test_ends_after_its_time(self):
        set_policy(Policy(kind="keep", idle_timeout=0.02))
        *_, thread = request()
        thread.join(SECONDS)
        assert not thread.is_alive()
        assert not leases.pool.idle

    def test_its_time_does_not_run_while_it_is_leased(self):
        set_policy(Policy(kind="keep", idle_timeout=0.01))

        async def main():
            async with ThreadSensitiveContext():
                first = await current_thread()
                first.join(0.1)
                assert await current_thread() is first
                first.join(0.1)  # it rests now
            first.join(SECONDS)
            assert not first.is_alive()

        asyncio.run(main())

    @pytest.mark.parametrize("kind", ["keep", "fresh"])
    def test_a_new_time_holds_for_those_that_lie_idle(self, kind):
        set_policy(Policy(kind=kind))
        *_, thread = request()
        set_policy(Policy(kind=kind, idle_timeout=0.01))
        thread.join(SECONDS)
        assert not thread.is_alive()

    def test_a_longer_time_holds_for_those_that_lie_idle(self):
        set_policy(Policy(kind="keep", idle_timeout=0.2))
        *_, thread = request()
        set_policy(Policy(kind="keep", idle_timeout=60))
        thread.join(0.4)
        assert thread.is_alive()
        assert request()[-1] is thread

    @pytest.mark.parametrize("kind", ["keep", "fresh"])
    def test_can_be_ended_now(self, kind):
        set_policy(Policy(kind=kind))
        *_, thread = request()
        join_idle(thread)

    def test_ends_when_the_policy_has_no_use_for_it(self):
        set_policy(Policy(kind="keep"))
        *_, thread = request()
        set_policy(Policy())
        thread.join(SECONDS)
        assert not thread.is_alive()

    def test_one_that_has_died_is_not_taken(self, monkeypatch):
        """Of an exception that was raised in it from outside."""
        monkeypatch.setattr(threading, "excepthook", lambda _: None)
        started = []
        set_policy(Policy(kind="keep", on_start=started.append))
        *_, thread = request()
        thread.close()
        thread.join(SECONDS)
        *_, other = request()
        assert started == [thread, other]

    def test_is_left_to_no_collector(self, no_gc):
        set_policy(Policy(kind="keep"))
        *_, thread = request()
        reference = weakref.ref(thread)
        end_idle_workers()
        thread.join(SECONDS)
        gone = threading.Event()
        weakref.finalize(thread, gone.set)
        del thread
        assert gone.wait(SECONDS)  # the last reference is the ending thread's own
        assert reference() is None


@pytest.fixture
def log():
    return []


@pytest.fixture
def hooks(log):
    def hook(name):
        def call(worker):
            assert worker is threading.current_thread()
            log.append((name, worker))

        return call

    return {name: hook(name) for name in ("on_start", "before_lease", "after_lease", "on_end")}


def fails(_worker):
    raise ZeroDivisionError


class TestHooks:
    def test_of_a_kept_worker(self, hooks, log):
        set_policy(Policy(kind="keep", **hooks))
        *_, thread = request(lambda: log.append(("call", threading.current_thread())))
        assert [name for name, _ in log] == ["on_start", "before_lease", "call", "after_lease"]
        log.clear()
        request(lambda: log.append(("call", threading.current_thread())))
        assert [name for name, _ in log] == ["before_lease", "call", "after_lease"]
        log.clear()
        join_idle(thread)
        assert log == [("on_end", thread)]

    def test_of_a_fresh_worker(self, hooks, log):
        set_policy(Policy(**hooks))
        for _ in range(2):
            *_, thread = request(lambda: log.append(("call", threading.current_thread())))
            names = ["on_start", "before_lease", "call", "after_lease", "on_end"]
            assert log == [(name, thread) for name in names]
            log.clear()

    def test_of_a_context(self, hooks, log):
        *_, thread = request(policy=Policy(kind="keep", **hooks))
        assert [name for name, _ in log] == ["on_start", "before_lease", "after_lease"]
        request(policy=Policy(kind="keep"))
        assert len(log) == 3  # another family's
        request(policy=Policy(kind="keep", **hooks))
        assert [name for name, _ in log[3:]] == ["before_lease", "after_lease"]
        assert {worker for _, worker in log} == {thread}

    def test_of_the_process_in_a_context_that_names_a_kind(self, hooks, log):
        set_policy(Policy(**hooks))
        request(policy="keep")
        assert [name for name, _ in log] == ["on_start", "before_lease", "after_lease"]

    @pytest.mark.parametrize("kind", ["keep", "fresh"])
    def test_have_a_context_of_their_own(self, kind):
        variable, local, seen = ContextVar("variable"), Local(), []

        def hook(_worker):
            seen.append((variable.get(None), getattr(local, "value", None)))
            variable.set("hook")
            local.value = "hook"

        set_policy(Policy(kind=kind, on_start=hook, before_lease=hook, after_lease=hook))

        def use():
            seen.append((variable.get(None), getattr(local, "value", None)))
            variable.set("call")
            local.value = "call"

        request(use)
        assert seen == [(None, None)] * 4

    @pytest.mark.parametrize("kind", ["keep", "fresh"])
    def test_see_the_threads_values(self, kind):
        """So that a connection can be closed on the thread that it belongs to."""
        local, seen = threading.local(), []

        def look(_worker):
            seen.append(getattr(local, "value", None))

        set_policy(Policy(kind=kind, after_lease=look, on_end=look))
        *_, thread = request(lambda: setattr(local, "value", 1))
        join_idle(thread)
        assert seen == [1, 1]

    def test_what_before_lease_sets_is_there(self):
        local = threading.local()
        set_policy(Policy(before_lease=lambda _: setattr(local, "value", 1)))
        assert request(lambda: local.value)[0] == 1

    @pytest.mark.parametrize("kind", ["keep", "fresh"])
    @pytest.mark.parametrize("name", ["on_start", "before_lease"])
    def test_one_that_fails_costs_the_worker_and_not_the_request(self, kind, name, hooks, caplog):
        failed = []

        def fail_once(worker):
            if not failed:
                failed.append(worker)
                raise ZeroDivisionError

        set_policy(Policy(kind=kind, **{**hooks, name: fail_once}))
        with caplog.at_level(logging.ERROR, logger="asgibridge.workers"):
            result, thread = request(lambda: 7)
        assert result == 7
        assert thread is not failed[0]
        failed[0].join(SECONDS)
        assert not failed[0].is_alive()
        (record,) = caplog.records
        assert f"{name} hook" in record.getMessage()
        assert failed[0].name in record.getMessage()
        assert record.exc_info[0] is ZeroDivisionError

    @pytest.mark.parametrize("kind", ["keep", "fresh"])
    @pytest.mark.parametrize("name", ["on_start", "before_lease"])
    def test_one_that_always_fails_does_not_keep_the_request(self, kind, name, caplog):
        set_policy(Policy(kind=kind, **{name: fails}))
        result, thread = request(lambda: 7)
        assert result == 7
        assert len(caplog.records) == 2
        thread.join(SECONDS)
        assert not thread.is_alive()
        assert request(lambda: 8)[0] == 8

    @pytest.mark.parametrize("kind", ["keep", "fresh"])
    def test_one_that_fails_at_the_end_costs_the_worker(self, kind, caplog):
        set_policy(Policy(kind=kind, after_lease=fails))
        result, thread = request(lambda: 7)
        assert result == 7
        thread.join(SECONDS)
        assert not thread.is_alive()
        assert len(caplog.records) == 1

    def test_the_second_of_a_pair_is_called_if_the_first_did_not_fail(self, hooks, log):
        set_policy(Policy(kind="keep", **{**hooks, "before_lease": fails}))
        *_, thread = request()
        thread.join(SECONDS)
        # Two workers: neither was leased as far as the hooks know, both have started.
        assert sorted(name for name, _ in log) == ["on_end", "on_end", "on_start", "on_start"]
        log.clear()
        set_policy(Policy(kind="fresh", **{**hooks, "on_start": fails}))
        request()
        assert log == []

    def test_the_replacement_starts_when_the_other_has_ended(self, hooks, log):
        """Or there would be two connections for a moment."""
        calls = []

        def fail_once(worker):
            calls.append(worker)
            if len(calls) == 1:
                raise ZeroDivisionError

        set_policy(Policy(kind="keep", **{**hooks, "before_lease": fail_once}))
        request()
        assert [name for name, _ in log] == ["on_start", "on_end", "on_start", "after_lease"]

    def test_are_run_at_exit(self, script_output):
        assert script_output("""
            import asyncio, atexit, threading
            from asgibridge.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
            from asgibridge.workers import Policy, set_policy
            log = []
            atexit.register(lambda: print(*log))  # so it runs after ours
            import asgibridge._process.threads
            set_policy(Policy(kind="keep", on_end=lambda worker: log.append("end")))

            async def main():
                async with ThreadSensitiveContext():
                    await sync_to_async(int)()

            asyncio.run(main())
            async_to_sync(main)()
        """) in ("", "end end", "end end end")

    def test_call_the_bridge(self):
        """A hook is sync code like any other."""
        seen = []

        async def inner():
            return await current_thread()

        def hook(worker):
            seen.append(async_to_sync(inner)() is worker)

        set_policy(Policy(kind="keep", before_lease=hook))
        request()
        assert seen[0] is True


class TestRunners:
    """The workers that run the event loops of top-level async_to_sync calls."""

    def test_are_kept(self):
        local = threading.local()

        async def count():
            local.count = getattr(local, "count", 0) + 1
            return local.count, threading.current_thread()

        set_policy(Policy(kind="keep"))
        first, second = async_to_sync(count)(), async_to_sync(count)()
        assert (first[0], second[0]) == (1, 2)
        assert first[1] is second[1]
        set_policy(Policy())
        assert [async_to_sync(count)()[0] for _ in range(2)] == [1, 1]

    def test_keep_no_context(self):
        variable = ContextVar("variable", default=0)

        async def look():
            value = variable.get()
            variable.set(1)
            return value

        set_policy(Policy(kind="keep"))
        from contextvars import Context

        assert [Context().run(async_to_sync(look)) for _ in range(2)] == [0, 0]

    @pytest.mark.parametrize("kind", ["keep", "fresh"])
    def test_have_hooks(self, kind, hooks, log):
        async def main():
            log.append(("run", threading.current_thread()))

        set_policy(Policy(kind=kind, **hooks))
        async_to_sync(main)()
        names = [name for name, _ in log]
        last = ["on_end"] if kind == "fresh" else []
        assert names == ["on_start", "before_lease", "run", "after_lease", *last]

    def test_raise_what_the_coroutine_raises(self):
        async def main():
            raise LookupError("mine")

        set_policy(Policy(kind="keep"))
        for _ in range(2):
            with pytest.raises(LookupError, match="mine"):
                async_to_sync(main)()

    def test_sync_code_runs_in_the_callers_thread(self):
        set_policy(Policy(kind="keep"))
        assert async_to_sync(current_thread)() is threading.current_thread()

    def test_of_a_block(self):
        local, threads = threading.local(), []

        async def count():
            local.count = getattr(local, "count", 0) + 1
            threads.append(threading.current_thread())
            return local.count

        set_policy(Policy(kind="keep"))
        for _ in range(2):
            with AsyncSingleThreadContext():
                async_to_sync(count)()
                async_to_sync(count)()
        assert async_to_sync(count)() == 5
        assert len(set(threads)) == 1

    def test_of_a_block_with_a_persistent_loop(self):
        told, threads = [], []

        async def work():
            threads.append(threading.current_thread())

        hooks = {
            name: lambda worker, name=name: told.append((name, worker))
            for name in ("before_lease", "after_lease")
        }
        set_policy(Policy(kind="keep", **hooks))
        for _ in range(2):
            with AsyncSingleThreadContext(persistent_loop=True):
                async_to_sync(work)()
                async_to_sync(work)()
        (thread,) = set(threads)
        assert told == [("before_lease", thread), ("after_lease", thread)] * 2


@pytest.mark.not_quick
def test_two_requests_never_see_each_others_values():
    interleave(1000)


@pytest.mark.slow
def test_many_requests_never_see_each_others_values():
    interleave(10_000)


def interleave(requests):
    """Interleaved, each of three calls: the first meets nothing, the others what the first left."""
    local, critical, counted = threading.local(), Local(thread_critical=True), []

    def first(number):
        found = getattr(local, "number", None), getattr(critical, "number", None)
        local.number = critical.number = number
        return found == (None, None)

    def next_one(number):
        return (local.number, critical.number) == (number, number)

    async def one(number):
        async with ThreadSensitiveContext():
            counted.append(await sync_to_async(first)(number))
            if number % 3:
                await asyncio.sleep(0)
            counted.append(await sync_to_async(next_one)(number))
            if number % 7 == 0:  # one that is not waited for
                task = asyncio.ensure_future(sync_to_async(next_one)(number))
                await asyncio.sleep(0)
                task.cancel()
            counted.append(await sync_to_async(next_one)(number))

    async def main():
        slots = asyncio.Semaphore(20)

        async def limited(number):
            async with slots:
                await one(number)

        await asyncio.gather(*(limited(number) for number in range(requests)))

    asyncio.run(main())
    assert len(counted) == 3 * requests
    assert all(counted)


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork")
def test_a_forked_child_begins_anew(script_output):
    assert (
        script_output("""
            import asyncio, os, threading, warnings
            from asgibridge._workers import leases
            from asgibridge.sync import ThreadSensitiveContext, sync_to_async
            from asgibridge.workers import Policy, set_policy
            warnings.simplefilter("ignore", DeprecationWarning)  # fork and threads
            log = []
            set_policy(Policy(kind="keep", limit=1, on_start=log.append))

            async def main():
                async with ThreadSensitiveContext():
                    return await sync_to_async(threading.current_thread)()

            async def fork_inside():
                async with ThreadSensitiveContext():
                    await sync_to_async(int)()
                    child = os.fork()
                    if child == 0:
                        # The limit of the child is its own, and so is the worker.
                        assert not leases.pool.in_use
                        asyncio._set_running_loop(None)
                        from contextvars import Context
                        Context().run(asyncio.run, main())
                        assert len(log) == 2, log
                        os._exit(7)
                    assert os.waitpid(child, 0)[1] >> 8 == 7

            asyncio.run(fork_inside())
            asyncio.run(main())
            assert len(log) == 1
            print("ok")
        """)
        == "ok"
    )


def test_two_threads_that_are_the_first_of_a_family(monkeypatch):
    """They get the same one, or the kept workers of one would be of no use to the other."""
    here, found = threading.Event(), []

    class Lock:
        """Tells that the second thread has come so far."""

        def __init__(self):
            self.lock = threading.RLock()

        def __enter__(self):
            if threading.current_thread() is second:
                here.set()
            self.lock.acquire()

        def __exit__(self, *_error):
            self.lock.release()

    class Data(dict):
        """What the first thread looks into, for the second time, when the second one comes."""

        looks = 0

        def __getitem__(self, key):
            try:
                return super().__getitem__(key)
            finally:
                self.looks += threading.current_thread() is not second
                if self.looks == 2 and second.ident is None:
                    second.start()
                    assert here.wait(SECONDS)

    def come():
        found.append(pool_module.family_of("keep", print, *[None] * 4))
        here.set()

    second = threading.Thread(target=come, daemon=True)
    families = weakref.WeakValueDictionary()
    families.data = Data()
    monkeypatch.setattr(pool_module, "_families", families)
    monkeypatch.setattr(pool_module, "_making_family", Lock(), raising=False)
    mine = pool_module.family_of("keep", print, *[None] * 4)
    second.join(SECONDS)
    assert found == [mine]
