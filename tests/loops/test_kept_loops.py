"""A top-level call uses the last one's event loop again, if nobody can tell; else it is closed."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import os
import socket
import sys
import threading
import warnings
import weakref

import pytest

from asgibridge import _kernel
from asgibridge._loops import kept as kept_loops
from asgibridge.sync import (
    AsyncSingleThreadContext,
    AsyncToSync,
    async_to_sync,
    sync_to_async,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="its loops are not kept")


GIL = getattr(sys, "_is_gil_enabled", lambda: True)()


@pytest.fixture(autouse=True)
def no_parked_loop():
    kept_loops._close_parked()
    yield
    kept_loops._close_parked()


def parked():
    return list(kept_loops._parked)


async def nothing():
    pass


def is_kept_after(main):
    """Whether the loop that ``main`` runs on, which a call before it has parked, is there again."""
    async_to_sync(nothing)()
    (before,) = parked()
    loop = id(before.loop)
    del before

    async def check():
        assert id(asyncio.get_running_loop()) == loop
        await main()

    async_to_sync(check)()
    after = parked()
    assert len(after) <= 1
    return bool(after) and id(after[0].loop) == loop


class TestIsKept:
    def test_from_call_to_call_and_thread_to_thread(self):
        seen = []

        async def main():
            seen.append(id(asyncio.get_running_loop()))

        async_to_sync(main)()
        other = threading.Thread(target=async_to_sync(main))
        other.start()
        other.join()
        async_to_sync(main)()
        assert len(set(seen)) == 1

    async def sleep():
        await asyncio.sleep(0.001)

    async def gather():
        await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0))

    async def wait_for():
        await asyncio.wait_for(asyncio.sleep(0), 60)

    async def tasks():
        await asyncio.create_task(asyncio.sleep(0))

    async def synchronize():
        lock = asyncio.Lock()
        async with lock:
            pass

    async def hops():
        for _ in range(10):
            await sync_to_async(int)()

    @pytest.mark.parametrize("main", [nothing, sleep, gather, wait_for, tasks, synchronize])
    def test_after(self, main):
        assert is_kept_after(main)

    def test_after_hops(self):
        # Without the GIL another thread may not have let go yet of the loop, which it has told of
        # the last hop: in the pure kernel it hardly ever has.
        kept = [is_kept_after(TestIsKept.hops) for _ in range(100)]
        assert any(kept) or not (GIL or _kernel.IMPLEMENTATION == "speedups")

    def test_after_what_was_ready_has_run(self):
        log = []

        async def main():
            asyncio.get_running_loop().call_soon(log.append, "run")

        assert is_kept_after(main)
        assert log == ["run"]

    def test_after_an_exception(self):
        async def fail():
            raise ValueError

        async_to_sync(nothing)()
        before = [id(each.loop) for each in parked()]
        with pytest.raises(ValueError):
            async_to_sync(fail)()
        assert [id(each.loop) for each in parked()] == before

    def test_in_a_single_thread_context(self):
        seen = []

        async def main():
            policy = asyncio.events._event_loop_policy
            assert policy.get_event_loop() is asyncio.get_running_loop()
            seen.append(id(asyncio.get_running_loop()))

        with AsyncSingleThreadContext():
            async_to_sync(main)()
            async_to_sync(main)()
        assert len(set(seen)) == 1

    def test_without_the_context_it_was_made_in(self):
        """Or the first caller's variables would live as long as the loop: its readers' handles keep
        the context in which they are made."""

        class Value:
            pass

        def call():
            value = Value()
            variable.set(value)
            async_to_sync(nothing)()
            return weakref.ref(value)

        variable = contextvars.ContextVar("variable")
        value = contextvars.Context().run(call)
        assert len(parked()) == 1
        gc.collect()
        assert value() is None

    def test_at_most_so_many(self, monkeypatch):
        monkeypatch.setattr(kept_loops, "_MOST", 2)
        barrier = threading.Barrier(4)

        async def meet():
            barrier.wait(10)

        threads = [threading.Thread(target=async_to_sync(meet)) for _ in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert len(parked()) == 2

    def test_not_for_ever(self, monkeypatch):
        async_to_sync(nothing)()
        (kept,) = parked()
        kept_loops.close_idle()
        assert parked() == [kept]
        monkeypatch.setattr(kept_loops, "IDLE_SECONDS", -1.0)
        kept_loops.close_idle()
        assert parked() == []
        assert kept.loop.is_closed()


stash = []


class TestIsClosed:
    """Where somebody else knows the loop, or it is not as it was: `asyncio.run` to the letter."""

    def teardown_method(self):
        for each in stash:
            if isinstance(each, asyncio.AbstractEventLoop):
                assert each.is_closed()
        stash.clear()

    async def strong_reference():
        stash.append(asyncio.get_running_loop())

    async def weak_reference():
        stash.append(weakref.ref(asyncio.get_running_loop()))

    async def weak_reference_with_a_callback():
        stash.append(weakref.ref(asyncio.get_running_loop(), print))

    async def weak_key():
        stash.append(weakref.WeakKeyDictionary({asyncio.get_running_loop(): 1}))

    async def bound_method():
        stash.append(asyncio.get_running_loop().call_soon_threadsafe)

    async def finished_task():
        stash.append(asyncio.create_task(nothing()))
        await stash[-1]

    async def contended_lock():
        lock = asyncio.Lock()
        async with lock:
            waiting = asyncio.create_task(lock.acquire())
            await asyncio.sleep(0)
        await waiting
        stash.append(lock)

    async def attribute():
        asyncio.get_running_loop().mine = 1

    async def exception_handler():
        asyncio.get_running_loop().set_exception_handler(print)

    async def task_factory():
        asyncio.get_running_loop().set_task_factory(
            lambda loop, coroutine, **options: asyncio.Task(coroutine, loop=loop, **options)
        )

    async def debug():
        asyncio.get_running_loop().set_debug(True)

    async def slow_callback_duration():
        asyncio.get_running_loop().slow_callback_duration = 3.0

    async def default_executor():
        await asyncio.get_running_loop().run_in_executor(None, int)

    async def pool():
        await sync_to_async(int, thread_sensitive=False)()

    async def timer():
        asyncio.get_running_loop().call_later(60, pytest.fail)

    async def reader():
        ours, theirs = socket.socketpair()
        stash.extend([ours, theirs])
        asyncio.get_running_loop().add_reader(ours, print)

    @pytest.mark.parametrize(
        "main",
        [
            *(strong_reference, weak_reference, weak_reference_with_a_callback, weak_key),
            *(bound_method, finished_task, contended_lock, attribute, exception_handler),
            *(task_factory, debug, slow_callback_duration, default_executor, pool, timer, reader),
        ],
    )
    def test_after(self, main):
        assert not is_kept_after(main)
        for each in stash:
            if isinstance(each, socket.socket):
                each.close()

    def test_by_its_own_close_if_that_was_replaced(self):
        closed = []

        async def main():
            loop = asyncio.get_running_loop()
            original = loop.close
            loop.close = lambda: (closed.append(1), original())

        assert not is_kept_after(main)
        assert closed == [1]

    def test_when_leftover_tasks_have_been_cancelled(self):
        log = []

        async def outlive():
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                log.append(await sync_to_async(threading.current_thread)())
                raise

        async def main():
            task = asyncio.ensure_future(outlive())
            await asyncio.sleep(0)
            assert not task.done()

        assert not is_kept_after(main)
        assert log == [threading.current_thread()]  # which serves to the very end

    def test_when_async_generators_have_been_shut_down(self):
        log = []

        async def generate():
            try:
                yield 1
            finally:
                await asyncio.sleep(0)
                log.append("closed")

        async def main():
            generator = generate()
            stash.append(generator)
            async for _ in generator:
                break

        assert not is_kept_after(main)
        assert log == ["closed"]

    def test_if_another_thread_may_still_call_into_it(self):
        """Or that would run in a stranger's call."""
        go_on, log = threading.Event(), []

        async def main():
            loop = asyncio.get_running_loop()

            def late():
                go_on.wait(10)
                try:
                    loop.call_soon_threadsafe(log.append, "ran")
                except RuntimeError as error:
                    log.append(str(error))

            thread = threading.Thread(target=late)
            stash.append(thread)
            thread.start()

        assert not is_kept_after(main)

        async def stranger():
            go_on.set()
            stash[0].join(10)
            await asyncio.sleep(0)

        async_to_sync(stranger)()
        assert log == ["Event loop is closed"]

    def test_at_exit_without_a_warning(self, script_output):
        assert (
            script_output("""
                import asyncio
                from asgibridge._loops import kept as kept_loops
                from asgibridge.sync import async_to_sync
                async_to_sync(asyncio.sleep)(0)
                print(len(kept_loops._parked))
            """)
            == "1"
        )


class TestIsLeftToAsyncioRun:
    """Whoever changes how loops are made gets what he asked for."""

    @contextlib.contextmanager
    def policy(self, policy):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            asyncio.set_event_loop_policy(policy)
            try:
                yield
            finally:
                asyncio.set_event_loop_policy(None)

    def default_policy(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return asyncio.DefaultEventLoopPolicy

    def test_under_a_policy_with_loops_of_its_own(self):
        made = []

        class Loop(asyncio.SelectorEventLoop):
            pass

        class Policy(self.default_policy()):
            def new_event_loop(self):
                made.append(Loop())
                return made[-1]

        async def main():
            return type(asyncio.get_running_loop())

        async_to_sync(nothing)()
        with self.policy(Policy()):
            assert async_to_sync(main)() is Loop
            del made[:]
            assert async_to_sync(main)() is Loop
            assert len(made) == 1
        assert all(each.is_closed() for each in made)
        assert async_to_sync(main)() is asyncio.SelectorEventLoop

    def test_under_another_policy_with_asyncios_loops(self):
        made = []

        class Policy(self.default_policy()):
            def new_event_loop(self):
                made.append(1)
                return super().new_event_loop()

        async_to_sync(nothing)()
        (before,) = parked()
        with self.policy(Policy()):
            async_to_sync(nothing)()
            assert made == [1]
            assert before.loop.is_closed()

    @pytest.mark.parametrize("module", [asyncio, asyncio.events])
    def test_where_new_event_loop_is_replaced(self, monkeypatch, module):
        made = []
        original = module.new_event_loop

        def patched():
            made.append(original())
            return made[-1]

        async_to_sync(nothing)()
        monkeypatch.setattr(module, "new_event_loop", patched)
        async_to_sync(nothing)()
        assert len(made) == (1 if module is asyncio.events else 0)  # where asyncio.run looks
        assert all(each.is_closed() for each in made)

    def test_where_loops_are_closed_in_another_way(self, monkeypatch):
        closed = []
        original = asyncio.SelectorEventLoop.close

        def close(self):
            closed.append(1)
            original(self)

        async_to_sync(nothing)()
        monkeypatch.setattr(asyncio.SelectorEventLoop, "close", close)
        async_to_sync(nothing)()
        assert closed == [1]

    def test_in_debug_mode(self, monkeypatch):
        async def main():
            return asyncio.get_running_loop().get_debug()

        async_to_sync(nothing)()
        monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
        assert async_to_sync(main)() is True


class TestRunsAsAsyncioRunDoes:
    def test_the_first_step_has_all_that_a_task_has(self):
        async def main():
            loop = asyncio.get_running_loop()
            hooks = sys.get_asyncgen_hooks()
            assert asyncio.current_task() in asyncio.all_tasks()
            assert loop.is_running()
            assert loop._thread_id == threading.get_ident()
            assert hooks.firstiter.__self__ is loop
            assert asyncio.events._event_loop_policy.get_event_loop() is loop

        async_to_sync(main)()
        async_to_sync(main)()

    def test_a_loop_that_is_stopped_too_early_is_an_error(self):
        async def main():
            asyncio.get_running_loop().stop()
            await asyncio.sleep(60)

        async_to_sync(nothing)()
        with pytest.raises(RuntimeError, match="stopped before Future completed"):
            async_to_sync(main)()
        assert parked() == []

    def test_a_loop_that_is_stopped_at_the_end_is_none(self):
        async def main():
            await asyncio.sleep(0)
            asyncio.get_running_loop().stop()
            return 1

        assert async_to_sync(main)() == 1

    @pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, asyncio.CancelledError])
    def test_errors_that_end_more_than_a_task(self, error):
        async def main():
            raise error

        with pytest.raises(error):
            async_to_sync(main)()
        async_to_sync(nothing)()

    def test_the_thread_has_no_loop_afterwards(self):
        with AsyncSingleThreadContext() as context:
            async_to_sync(nothing)()
            executor = type(async_to_sync(nothing)).context_to_thread_executor[context]
            assert executor.submit(asyncio._get_running_loop).result(10) is None
            with pytest.raises(RuntimeError, match="no current event loop"):
                executor.submit(asyncio.events._event_loop_policy.get_event_loop).result(10)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_leaves_the_parents_loop_alone(script_output):
    """The two share the selector: to unregister in the child would make the parent's loop deaf."""
    assert (
        script_output("""
            import asyncio, gc, os, warnings
            from asgibridge._loops import kept as kept_loops
            from asgibridge.sync import async_to_sync, sync_to_async
            warnings.simplefilter("ignore", DeprecationWarning)  # fork and threads

            async def main():
                loop = asyncio.get_running_loop()
                for _ in range(10):
                    await asyncio.sleep(0)
                    loop.call_soon_threadsafe(int)  # so that it has to be told
                return id(loop)

            before = async_to_sync(main)()
            child = os.fork()
            if child == 0:
                assert not kept_loops._parked
                gc.collect()
                async_to_sync(main)()
                async_to_sync(main)()
                os._exit(7)
            assert os.waitpid(child, 0)[1] >> 8 == 7
            assert async_to_sync(main)() == before
            print("ok")
        """)
        == "ok"
    )


def test_a_run_that_ends_leaves_the_entry_of_the_next_on_its_loop(monkeypatch):
    """The loop is parked, and taken by another thread, before the run is quite over."""
    entries = AsyncToSync.loop_thread_executors
    async_to_sync(nothing)()
    original = kept_loops._KeptLoop._park
    when_parked = []

    def park(self):
        when_parked.append(dict(entries))
        original(self)

    monkeypatch.setattr(kept_loops._KeptLoop, "_park", park)
    async_to_sync(nothing)()
    assert when_parked == [{}]
