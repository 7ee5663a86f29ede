"""The parts of a kernel by themselves, on each kernel there is, and the switch between them."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import queue
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

import asgibridge
from asgibridge import _kernel, _pure
from threads import join_idle


class Item:
    """An inbox's item that notes what becomes of it."""

    def __init__(self, log, name):
        self.log, self.name = log, name

    def run(self):
        self.log.append(f"run {self.name}")

    def deliver(self):
        self.log.append(f"deliver {self.name}")

    def cancel(self):
        self.log.append(f"cancel {self.name}")


class TestInbox:
    def test_first_in_first_out_then_ends(self, kernel):
        inbox, log = kernel.Inbox(), []
        for name in "abc":
            assert inbox.put(Item(log, name))
        assert not inbox.is_idle()
        inbox.close()
        inbox.serve()
        assert log == [f"{what} {name}" for name in "abc" for what in ("run", "deliver")]
        assert inbox.is_idle()

    def test_refuses_when_closed(self, kernel):
        inbox = kernel.Inbox()
        inbox.close()
        inbox.close()
        assert not inbox.put(Item([], "late"))
        inbox.serve()

    def test_is_idle_before_the_waiter_is_told(self, kernel):
        """Who is told goes on at once, and may ask."""
        inbox, idle = kernel.Inbox(), []
        item = Item([], "a")
        item.deliver = lambda: idle.append(inbox.is_idle())
        inbox.put(item)
        inbox.close()
        inbox.serve()
        assert idle == [True]

    def test_what_a_finalizer_does_in_the_middle_of_a_put_is_not_lost(self):
        """The collector may run one at any time, and it may close this very inbox.

        Only in Python: nothing can come between the steps of the compiled kernel's put.
        """
        inbox, log = _pure.Inbox(), []
        inbox.put(Item(log, "a"))
        inbox.close()
        inbox._queue.put(Item(log, "behind the end"))
        inbox.posted += 1
        inbox.serve()
        assert log == ["run a", "deliver a", "run behind the end", "deliver behind the end"]

    def test_the_owner_that_is_told_the_end_in_the_middle_of_a_put_waits_for_its_item(self):
        inbox, log = _pure.Inbox(), []
        has_looked = threading.Event()

        class Queue(queue.SimpleQueue):
            def put(self, item):
                if item is not None and not inbox.closed:
                    inbox.close()  # as a finalizer might, here
                    has_looked.wait(0.2)  # it must not, and then this is for nothing
                super().put(item)

            def empty(self):
                try:
                    return super().empty()
                finally:
                    has_looked.set()

        inbox._queue = Queue()
        owner = threading.Thread(target=inbox.serve)
        owner.start()
        assert inbox.put(Item(log, "a"))
        owner.join(10)
        assert log == ["run a", "deliver a"]

    def test_drain_leaves_the_end_to_the_owner(self, kernel):
        inbox, log = kernel.Inbox(), []
        inbox.put(Item(log, "a"))
        inbox.close()
        assert [item.name for item in inbox.drain()] == ["a"]
        inbox.serve()
        assert log == []

    def test_from_many_threads_nothing_is_lost_or_doubled(self, kernel):
        inbox, log = kernel.Inbox(), []

        def put(i):
            return sum(inbox.put(Item(log, (i, n))) for n in range(1000))

        with ThreadPoolExecutor(8) as pool:
            owner = threading.Thread(target=inbox.serve)
            owner.start()
            assert sum(pool.map(put, range(8))) == 8000
        inbox.close()
        owner.join(10)
        assert len(log) == 16000
        assert len(set(log)) == 16000
        runs = [entry for entry in log if entry.startswith("run (3,")]
        assert runs == [f"run (3, {n})" for n in range(1000)]


class TestExecutors:
    @pytest.mark.thread_unsafe(reason="counts all threads")
    def test_a_thread_of_its_own_started_at_the_first_call(self, kernel):
        kernel.end_idle_workers()
        before = threading.active_count()
        executor = kernel.ThreadSensitiveExecutor()
        assert threading.active_count() == before
        with executor:
            one = executor.submit(threading.current_thread).result(10)
            assert executor.submit(threading.current_thread).result(10) is one
            assert executor.submit(executor.owns_current_thread).result(10) is True
            assert executor.owns_current_thread() is False
        join_idle(one, kernel)

    def test_map_and_exceptions(self, kernel):
        with kernel.ThreadSensitiveExecutor() as executor:
            assert list(executor.map(int, "123")) == [1, 2, 3]
            with pytest.raises(ValueError):
                executor.submit(int, "x").result(10)

    def test_shutdown_runs_what_it_has(self, kernel):
        executor, log, release = kernel.ThreadSensitiveExecutor(), [], threading.Event()
        executor.submit(release.wait, 10)
        executor.submit(log.append, "queued")
        executor.shutdown(wait=False)
        release.set()
        executor.shutdown()
        assert log == ["queued"]

    def test_shutdown_can_cancel_what_has_not_begun(self, kernel):
        executor = kernel.ThreadSensitiveExecutor()
        started, release = threading.Event(), threading.Event()

        def work():
            started.set()
            return release.wait(10)

        running, queued = executor.submit(work), executor.submit(print)
        started.wait(10)
        executor.shutdown(wait=False, cancel_futures=True)
        assert queued.cancelled()
        release.set()
        assert running.result(10)
        executor.shutdown()

    def test_shutdown_on_its_own_thread_does_not_wait_for_itself(self, kernel):
        executor = kernel.ThreadSensitiveExecutor()
        executor.submit(executor.shutdown).result(10)

    def test_cancelled_futures_are_not_run(self, kernel):
        with kernel.ThreadSensitiveExecutor() as executor:
            log, release = [], threading.Event()
            executor.submit(release.wait, 10)
            future = executor.submit(log.append, 1)
            assert future.cancel()
            release.set()
        assert log == []

    def test_many_threads_start_only_one_worker(self, kernel):
        with kernel.ThreadSensitiveExecutor() as executor:
            barrier = threading.Barrier(8)

            def submit():
                barrier.wait(10)
                return executor.submit(threading.current_thread).result(10)

            with ThreadPoolExecutor(8) as pool:
                futures = [pool.submit(submit) for _ in range(8)]
                assert len({future.result() for future in futures}) == 1

    def test_a_worker_that_cannot_start_leaves_the_executor_usable(self, kernel, monkeypatch):
        kernel.end_idle_workers()
        with kernel.ThreadSensitiveExecutor() as executor:
            with monkeypatch.context() as patch:

                def refuse(self):
                    raise RuntimeError("can't start new thread")

                patch.setattr(threading.Thread, "start", refuse)
                with pytest.raises(RuntimeError, match="can't start new thread"):
                    executor.submit(print)
            assert executor.submit(int, "7").result(10) == 7


class TestSyncCall:
    def test_is_run_once_or_revoked(self, kernel):
        ran = []

        async def main():
            loop = asyncio.get_running_loop()
            call = kernel.SyncCall(loop, lambda: ran.append(1))
            assert call.revoke()
            assert not call.revoke()
            call.run()
            other = kernel.SyncCall(loop, lambda: ran.append(2))
            other.run()
            other.run()
            assert not other.revoke()

        asyncio.run(main())
        assert ran == [2]

    def test_can_be_awaited_when_it_is_done(self, kernel):
        async def main():
            call = kernel.SyncCall(asyncio.get_running_loop(), lambda: 42)
            call.run()
            call.deliver()
            assert not call.done()  # that is for the loop to find out
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert call.done()
            return await call

        assert asyncio.run(main()) == 42

    def test_can_be_awaited_again_after_a_cancelled_wait(self, kernel):
        async def main():
            call = kernel.SyncCall(asyncio.get_running_loop(), lambda: 42)

            async def wait():
                try:
                    return await call
                except asyncio.CancelledError:
                    return await call

            task = asyncio.create_task(wait())
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.sleep(0)
            threading.Thread(target=lambda: (call.run(), call.deliver())).start()
            return await task

        assert asyncio.run(main()) == 42

    def test_an_error_is_reported_whenever_it_is_revoked(self, kernel):
        """A task can be cancelled between its wake-up and its next step, too."""

        async def main(revoke_first):
            reported = []
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, told: reported.append(told["exception"]))
            error = ValueError("unheard")

            def fail():
                raise error

            call = kernel.SyncCall(loop, fail)
            call.run()
            if revoke_first:
                call.revoke()
            call.wake()
            if not revoke_first:
                call.revoke()
            return reported == [error]

        assert asyncio.run(main(revoke_first=True))
        assert asyncio.run(main(revoke_first=False))

    def test_given_up_it_is_cancelled(self, kernel):
        async def main():
            call = kernel.SyncCall(asyncio.get_running_loop(), lambda: 42)
            call.cancel()
            call.deliver()
            with pytest.raises(asyncio.CancelledError):
                await call

        asyncio.run(main())

    def test_delivered_to_a_closed_loop_is_dropped(self, kernel):
        async def make():
            return kernel.SyncCall(asyncio.get_running_loop(), lambda: 42)

        call = asyncio.run(make())
        call.run()
        call.deliver()

    def test_delivered_as_the_loop_closes_it_does_not_keep_it(self, kernel):
        """The loop was woken, but did not turn any more."""

        class Loop(asyncio.SelectorEventLoop):
            pass

        def scenario():
            loop = Loop()
            kernel.attach_reader(loop)

            async def make():
                return kernel.SyncCall(loop, int)

            call = loop.run_until_complete(make())
            call.run()
            call.deliver()
            loop.close()
            return weakref.ref(loop)

        with ThreadPoolExecutor(1) as pool:  # a thread may keep the channel it used last
            closed = pool.submit(scenario).result()
        for _ in range(3):  # on PyPy a loop, which has a finalizer, takes more than one
            gc.collect()
        assert closed() is None

    @pytest.mark.parametrize("earlier", [0, 10])
    def test_a_hundred_finished_at_once_wake_the_loop_once(self, kernel, earlier):
        """Through a reader, which the compiled kernel has after some calls, it is once anyway."""

        async def main():
            loop = asyncio.get_running_loop()
            woken = []
            original = loop.call_soon_threadsafe
            loop.call_soon_threadsafe = lambda *args, **kwargs: (
                woken.append(args),
                original(*args, **kwargs),
            )
            for _ in range(earlier):
                call = kernel.SyncCall(loop, int)
                call.run()
                call.deliver()
                await call
            woken.clear()
            calls = [kernel.SyncCall(loop, lambda i=i: i) for i in range(100)]
            tasks = [asyncio.ensure_future(self._await(call)) for call in calls]
            await asyncio.sleep(0)
            for call in calls:
                call.run()
                call.deliver()
            assert await asyncio.gather(*tasks) == list(range(100))
            return len(woken)

        has_reader = earlier and sys.platform != "win32" and "_speedups" in kernel.__name__
        assert asyncio.run(main()) == (0 if has_reader else 1)

    @staticmethod
    async def _await(call):
        return await call

    def test_wakes_are_not_lost_between_two_threads(self, kernel):
        async def main():
            loop = asyncio.get_running_loop()
            executors = [kernel.ThreadSensitiveExecutor() for _ in range(4)]
            for _ in range(300):
                calls = [kernel.SyncCall(loop, int) for _ in executors]
                for executor, call in zip(executors, calls):
                    assert executor.post(call)
                await asyncio.wait_for(asyncio.gather(*(map(self._await, calls))), 20)
            for executor in executors:
                executor.shutdown()

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            asyncio.run(main())
        finally:
            sys.setswitchinterval(interval)


class TestAsyncCall:
    def test_has_one_outcome(self, kernel):
        from concurrent.futures import InvalidStateError

        call, done = kernel.AsyncCall(), []
        call.add_done_callback(done.append)
        with pytest.raises(InvalidStateError):
            call.result()
        call.set_result(1)
        with pytest.raises(InvalidStateError):
            call.set_exception(ValueError())
        assert (done, call.done(), call.result()) == ([call], True, 1)


class TestRestoreContext:
    variable = contextvars.ContextVar("variable")

    def test_sets_what_changed(self, kernel):
        before = contextvars.copy_context()
        after = before.copy()
        after.run(self.variable.set, 1)
        target = contextvars.Context()
        target.run(kernel.restore_context, after, before)
        assert target[self.variable] == 1

    def test_leaves_alone_what_did_not(self, kernel):
        before = contextvars.Context()
        before.run(self.variable.set, 1)
        after = before.copy()
        target = contextvars.Context()
        target.run(self.variable.set, 2)
        target.run(kernel.restore_context, after, before)
        assert target[self.variable] == 2

    def test_of_an_entered_context(self, kernel):
        before = contextvars.copy_context()
        after = before.copy()
        target = contextvars.Context()

        def inside():
            kernel_restore = kernel.restore_context
            target.run(kernel_restore, after, before)
            assert self.variable not in target
            self.variable.set(3)
            target.run(kernel_restore, after, before)

        after.run(inside)
        assert target[self.variable] == 3


class TestHome:
    def test_is_the_threads_own_but_for_the_length_of_a_call(self, kernel):
        own = kernel.current_home()
        other = kernel.Home()
        assert kernel.at_home(other, kernel.current_home) is other
        with pytest.raises(ValueError):
            kernel.at_home(other, int, "x")
        assert kernel.current_home() is own
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(kernel.current_home).result() not in (own, other)


class TestSwitch:
    @staticmethod
    def implementation(choice):
        env = {**os.environ, "ASGIBRIDGE_SPEEDUPS": choice}
        return subprocess.run(
            [sys.executable, "-c", "import asgibridge; print(asgibridge.IMPLEMENTATION)"],
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def test_this_process_runs_what_was_asked_for(self):
        choice = os.environ.get("ASGIBRIDGE_SPEEDUPS", "auto")
        expected = {"off": "pure", "require": "speedups"}.get(choice)
        assert asgibridge.IMPLEMENTATION in ([expected] if expected else ["pure", "speedups"])
        assert _kernel.kernel.__name__.endswith(asgibridge.IMPLEMENTATION)

    def test_off(self):
        assert self.implementation("off").stdout.strip() == "pure"

    def test_auto_takes_the_compiled_kernel_if_there_is_one(self):
        from conftest import KERNELS

        expected = "speedups" if "speedups" in KERNELS else "pure"
        assert self.implementation("auto").stdout.strip() == expected
        assert self.implementation("").stdout.strip() == expected

    def test_require_has_it_or_says_what_to_do(self):
        from conftest import KERNELS

        done = self.implementation("require")
        if "speedups" in KERNELS:
            assert done.stdout.strip() == "speedups"
        else:
            assert done.returncode == 1
            assert "reinstall with a C compiler" in done.stderr

    @pytest.mark.parametrize("choice", ["1", "pure", "ON"])
    def test_anything_else_is_an_error(self, choice):
        done = self.implementation(choice)
        assert done.returncode == 1
        assert "must be one of auto, require, off" in done.stderr

    def test_a_broken_extension_is_not_taken_for_a_missing_one(self, tmp_path):
        """Else everything would silently be ten times slower."""
        program = (
            "import importlib.abc, importlib.machinery, sys\n"
            "class Broken(importlib.abc.MetaPathFinder, importlib.abc.Loader):\n"
            "    def find_spec(self, name, path, target=None):\n"
            "        if name == 'asgibridge._speedups':\n"
            "            return importlib.machinery.ModuleSpec(name, self)\n"
            "    def create_module(self, spec): return None\n"
            "    def exec_module(self, module): raise ImportError('undefined symbol')\n"
            "sys.meta_path.insert(0, Broken())\n"
            "import asgibridge.sync\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "ASGIBRIDGE_SPEEDUPS": "auto"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1
        assert "undefined symbol" in done.stderr


class TestHomeOfContexts:
    """A thread of many chains is at the home at which one certain Local was set."""

    def make(self, kernel, whose, local, value):
        home, context = kernel.Home(), contextvars.copy_context()

        def set_both():
            whose.mark = True
            local.value = value

        context.run(kernel.at_home, home, set_both)
        return home, context

    def test_is_that_of_the_current_context(self, kernel):
        whose, local = kernel.ContextStorage(), kernel.ContextStorage()
        many = kernel.home_of_contexts(whose)
        chains = [self.make(kernel, whose, local, value) for value in range(3)]

        def look():
            return kernel.current_home(), local.value, kernel.peek(local, "value", None)

        for value, (home, context) in enumerate(chains):
            assert context.run(kernel.at_home, many, look) == (home, value, value)

    def test_what_is_set_there_belongs_to_it(self, kernel):
        whose, local = kernel.ContextStorage(), kernel.ContextStorage()
        many = kernel.home_of_contexts(whose)
        home, context = self.make(kernel, whose, local, 1)
        fresh = kernel.ContextStorage()

        def change():
            del local.value
            local.other = 2
            fresh.value = 3

        context.run(kernel.at_home, many, change)

        def look():
            return hasattr(local, "value"), local.other, fresh.value

        assert context.run(kernel.at_home, home, look) == (False, 2, 3)

    def test_values_of_other_homes_are_not_seen(self, kernel):
        whose, local = kernel.ContextStorage(), kernel.ContextStorage()
        _, context = self.make(kernel, kernel.ContextStorage(), local, 1)
        context.run(kernel.at_home, kernel.Home(), setattr, whose, "mark", True)

        def look():
            return hasattr(local, "value"), kernel.peek(local, "value", None)

        many = kernel.home_of_contexts(whose)
        assert context.run(kernel.at_home, many, look) == (False, None)

    def test_is_one_itself_where_nothing_was_set(self, kernel):
        local = kernel.ContextStorage()
        many = kernel.home_of_contexts(kernel.ContextStorage())

        def set_and_look():
            local.value = 1
            return kernel.current_home(), local.value

        assert contextvars.Context().run(kernel.at_home, many, set_and_look) == (many, 1)

    def test_a_call_is_made_at_the_home_of_its_context(self, kernel):
        whose, local = kernel.ContextStorage(), kernel.ContextStorage()
        many = kernel.home_of_contexts(whose)
        home, context = self.make(kernel, whose, local, 1)
        loop = asyncio.new_event_loop()
        seen = []

        def make():
            def function():
                seen.append((kernel.current_home(), local.value))

            return kernel.SyncCall(
                loop, function, None, contextvars.copy_context(), threading.local()
            )

        try:
            call = context.run(kernel.at_home, many, make)
            call.run()
        finally:
            loop.close()
        assert seen == [(home, 1)]
