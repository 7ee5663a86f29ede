"""A worker that has served one executor serves the next, if that cannot tell.

The pure kernel starts a new thread each time: there the same holds by itself.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import signal
import sys
import threading
import weakref
from concurrent.futures import Executor
from contextvars import Context, ContextVar, copy_context

import pytest

from asgibridge import _kernel
from asgibridge._process import threads as worker_threads
from asgibridge.local import Local
from asgibridge.sync import SyncToAsync, ThreadSensitiveContext, sync_to_async
from threads import SECONDS, join_idle

thread = sync_to_async(threading.current_thread)


def on_a_lease(kernel, *functions):
    """What the functions return, run on a lease of their own, and then its thread."""
    with kernel.ThreadSensitiveExecutor() as executor:
        results = [executor.submit(function).result(SECONDS) for function in functions]
        return [*results, executor.submit(threading.current_thread).result(SECONDS)]


def keeps(kernel):
    return kernel.__name__ == "asgibridge._speedups"


@pytest.fixture(autouse=True)
def no_idle_workers(kernel):
    """So that the next lease is the last's or a new one."""
    kernel.end_idle_workers()
    yield
    kernel.end_idle_workers()


class Value:
    """Something that can be referred to weakly."""


class TestIsUsedAgain:
    def test_after_plain_work(self, kernel):
        (first,) = on_a_lease(kernel)
        (second,) = on_a_lease(kernel)
        assert (first is second) is keeps(kernel)
        assert isinstance(first, threading.Thread)
        assert not first.daemon
        join_idle(first, kernel)

    def test_after_the_executor_is_dropped(self, kernel):
        executor = kernel.ThreadSensitiveExecutor()
        first = executor.submit(threading.current_thread).result(SECONDS)
        del executor
        join_idle(first, kernel)

    def test_but_not_while_it_has_something_to_do(self, kernel):
        go_on = threading.Event()
        executor = kernel.ThreadSensitiveExecutor()
        first = executor.submit(threading.current_thread).result(SECONDS)
        last = executor.submit(go_on.wait, SECONDS)
        executor.shutdown(wait=False)
        (second,) = on_a_lease(kernel)
        assert first is not second
        go_on.set()
        assert last.result(SECONDS)

    def test_with_what_repr_leaves_in_the_thread_state(self, kernel):
        *_, first = on_a_lease(kernel, lambda: repr([[]]))
        (second,) = on_a_lease(kernel)
        assert (first is second) is keeps(kernel)

    def test_last_in_first_out(self, kernel):
        one, other = kernel.ThreadSensitiveExecutor(), kernel.ThreadSensitiveExecutor()
        threads = [each.submit(threading.current_thread).result(SECONDS) for each in (one, other)]
        one.shutdown()
        other.shutdown()
        (last,) = on_a_lease(kernel)
        assert (last is threads[1]) is keeps(kernel)

    def test_no_more_than_were_needed_at_once(self, kernel, monkeypatch):
        started = []
        original = threading.Thread.start

        def start(self):
            started.append(self)
            original(self)

        monkeypatch.setattr(threading.Thread, "start", start)
        local = threading.local()

        def work():
            assert not hasattr(local, "value")
            local.value = 1

        leases = 500
        for _ in range(leases):
            on_a_lease(kernel, work)
        assert len(started) == (1 if keeps(kernel) else leases)

    def test_not_after_its_time(self, kernel, monkeypatch):
        if keeps(kernel):
            monkeypatch.setattr(kernel, "IDLE_SECONDS", 0.01)
        (first,) = on_a_lease(kernel)
        first.join(SECONDS)
        assert not first.is_alive()

    def test_its_time_does_not_run_while_it_is_leased(self, kernel, monkeypatch):
        if keeps(kernel):
            monkeypatch.setattr(kernel, "IDLE_SECONDS", 0.01)
        with kernel.ThreadSensitiveExecutor() as executor:
            first = executor.submit(threading.current_thread).result(SECONDS)
            first.join(0.2)
            assert executor.submit(threading.current_thread).result(SECONDS) is first


class TestLooksLikeANewThread:
    def test_no_thread_local_values(self, kernel):
        local = threading.local()
        values = weakref.WeakSet()

        def use():
            assert not hasattr(local, "value")
            local.value = Value()
            values.add(local.value)

        on_a_lease(kernel, use)
        gc.collect()
        assert not values  # freed at the end of the lease, not of the next
        *_, first = on_a_lease(kernel, use)
        *_, second = on_a_lease(kernel, use)
        assert (first is second) is keeps(kernel)

    def test_subclasses_of_thread_local_are_initialised_anew(self, kernel):
        class Counted(threading.local):
            def __init__(self):
                self.calls = 0

        counted = Counted()

        def count():
            counted.calls += 1
            return counted.calls

        assert on_a_lease(kernel, count, count)[:2] == [1, 2]
        assert on_a_lease(kernel, count, count)[:2] == [1, 2]
        assert counted.calls == 0  # the other threads' are untouched

    def test_no_thread_critical_local(self, kernel):
        local = Local(thread_critical=True)

        def use():
            assert not hasattr(local, "value")
            local.value = 1

        on_a_lease(kernel, use)
        on_a_lease(kernel, use)

    def test_no_context_variables(self, kernel):
        variable, local = ContextVar("variable"), Local()

        def use():
            assert variable.get(None) is None
            assert not hasattr(local, "value")
            variable.set(1)
            local.value = 1

        on_a_lease(kernel, use)
        on_a_lease(kernel, use)

    def test_another_home_for_locals(self, kernel):
        local, contexts = Local(), []

        def keep_a_context():
            context = copy_context()
            context.run(setattr, local, "value", 1)
            contexts.append(context)

        def look():
            return contexts[0].run(getattr, local, "value", "nothing")

        *_, first = on_a_lease(kernel, keep_a_context)
        found, second = on_a_lease(kernel, look)
        assert found == "nothing"
        assert (first is second) is keeps(kernel)

    def test_values_end_on_the_thread_they_belong_to(self, kernel):
        local, ended_on = threading.local(), []

        class Connection:
            def __del__(self):
                ended_on.append(threading.get_ident())

        *_, first = on_a_lease(kernel, lambda: setattr(local, "connection", Connection()))
        gc.collect()
        if not keeps(kernel):
            first.join(SECONDS)
        assert ended_on == [first.ident]


def keep_a_hook(*_):
    return None


class TestIsNotUsedAgain:
    """What can't be undone, or not be known to be without effect, ends the thread."""

    def check(self, kernel, *functions):
        *_, first = on_a_lease(kernel, *functions)
        first.join(SECONDS / 2)  # sooner than one that is idle
        assert not first.is_alive()
        (second,) = on_a_lease(kernel)
        assert second is not first

    def test_with_another_name(self, kernel):
        self.check(kernel, lambda: setattr(threading.current_thread(), "name", "mine"))

    def test_with_an_attribute_of_somebodys(self, kernel):
        self.check(kernel, lambda: setattr(threading.current_thread(), "request", "mine"))

    def test_with_a_trace_function(self, kernel):
        self.check(kernel, lambda: sys.settrace(keep_a_hook))

    def test_with_a_profile_function(self, kernel):
        self.check(kernel, lambda: sys.setprofile(keep_a_hook))

    def test_when_threads_are_to_be_traced_by_now(self, kernel):
        (first,) = on_a_lease(kernel)
        threading.settrace(keep_a_hook)
        try:
            hook, second = on_a_lease(kernel, sys.gettrace)
        finally:
            threading.settrace(None)
        assert hook is keep_a_hook
        assert second is not first

    @pytest.mark.skipif(sys.platform == "win32", reason="no signal masks")
    def test_with_another_signal_mask(self, kernel):
        self.check(kernel, lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1}))

    def test_with_hooks_for_async_generators(self, kernel):
        self.check(kernel, lambda: sys.set_asyncgen_hooks(firstiter=keep_a_hook))

    def test_with_coroutine_origin_tracking(self, kernel):
        self.check(kernel, lambda: sys.set_coroutine_origin_tracking_depth(3))

    def test_with_a_running_loop(self, kernel):
        loop = asyncio.new_event_loop()
        try:
            self.check(kernel, lambda: asyncio._set_running_loop(loop))
        finally:
            loop.close()

    def test_with_an_unknown_key_in_the_thread_state(self, kernel):
        get_dict = ctypes.pythonapi.PyThreadState_GetDict
        get_dict.restype = ctypes.c_void_p  # borrowed

        def use():
            ctypes.cast(get_dict(), ctypes.py_object).value["extension.state"] = 1

        self.check(kernel, use)

    def test_with_a_context_that_an_extension_left_entered(self, kernel, monkeypatch):
        """It can't be renewed, then; who waits for its end must hear of that all the same."""
        monkeypatch.setattr(threading, "excepthook", lambda _: None)
        enter = ctypes.pythonapi.PyContext_Enter
        enter.argtypes = [ctypes.py_object]
        self.check(kernel, lambda: enter(Context()))

    def test_with_locals_that_finalizers_made(self, kernel):
        first_local, second_local = threading.local(), threading.local()

        class Persistent:
            def __del__(self):
                second_local.value = 1

        self.check(kernel, lambda: setattr(first_local, "value", Persistent()))

    def test_if_a_dictionary_knows_it_weakly(self, kernel):
        known = weakref.WeakKeyDictionary()
        self.check(kernel, lambda: known.__setitem__(threading.current_thread(), "a request's"))

    def test_when_somebody_has_named_it_while_it_lay_idle(self, kernel):
        (first,) = on_a_lease(kernel)
        first.name = "mine"
        (second,) = on_a_lease(kernel)
        assert second is not first

    def test_when_somebody_has_given_it_an_attribute_while_it_lay_idle(self, kernel):
        (first,) = on_a_lease(kernel)
        first.request = "mine"
        (second,) = on_a_lease(kernel)
        assert second is not first

    def test_after_it_was_abandoned(self, kernel):
        executor = kernel.ThreadSensitiveExecutor()
        first = executor.submit(threading.current_thread).result(SECONDS)
        executor.abandon()
        executor.shutdown()
        first.join(SECONDS)
        assert not first.is_alive()

    def test_after_an_exception_raised_in_it_from_outside(self, kernel, monkeypatch):
        """By PyThreadState_SetAsyncExc. What waits is given up: its callers must not hang."""
        monkeypatch.setattr(threading, "excepthook", lambda _: None)
        entered, go_on = threading.Event(), threading.Event()

        class Item:
            """Unlike a call of ours, it lets exceptions through."""

            def run(self):
                entered.set()
                go_on.wait(SECONDS)
                raise SystemExit

        executor = kernel.ThreadSensitiveExecutor()
        first = executor.submit(threading.current_thread).result(SECONDS)
        executor.post(Item())
        waiting = executor.submit(int)
        assert entered.wait(SECONDS)
        go_on.set()
        first.join(SECONDS)
        assert not first.is_alive()
        assert waiting.cancelled()


class TestLease:
    def test_is_an_executor(self, kernel):
        executor = kernel.ThreadSensitiveExecutor()
        assert isinstance(executor, Executor)
        with executor:
            assert list(executor.map(int, "12")) == [1, 2]
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(int)

    def test_shutdown_waits_for_what_was_submitted_also_the_second_time(self, kernel):
        go_on, log = threading.Event(), []
        executor = kernel.ThreadSensitiveExecutor()
        executor.submit(go_on.wait, SECONDS)
        executor.submit(log.append, "run")
        executor.shutdown(wait=False)
        threading.Timer(0.05, go_on.set).start()
        executor.shutdown()
        assert log == ["run"]

    def test_shutdown_can_cancel_what_has_not_begun(self, kernel):
        go_on, begun = threading.Event(), threading.Event()
        executor = kernel.ThreadSensitiveExecutor()
        first = executor.submit(lambda: begun.set() or go_on.wait(SECONDS))
        second = executor.submit(int)
        assert begun.wait(SECONDS)
        executor.shutdown(wait=False, cancel_futures=True)
        assert second.cancelled()
        go_on.set()
        assert first.result(SECONDS)
        executor.shutdown()

    def test_a_former_tenant_does_not_own_the_thread(self, kernel):
        former = kernel.ThreadSensitiveExecutor()
        assert former.submit(former.owns_current_thread).result(SECONDS)
        former.shutdown()
        assert on_a_lease(kernel, former.owns_current_thread)[0] is False

    def test_another_thread_than_that_of_the_one_before(self, kernel):
        with kernel.ThreadSensitiveExecutor() as former:
            first = former.submit(threading.current_thread).result(SECONDS)
        with kernel.ThreadSensitiveExecutor(former) as executor:
            assert executor.submit(threading.current_thread).result(SECONDS) is not first

    def test_a_former_tenant_abandons_nobody_elses_worker(self, kernel):
        former = kernel.ThreadSensitiveExecutor()
        former.submit(int).result(SECONDS)
        former.shutdown()
        with kernel.ThreadSensitiveExecutor() as executor:
            second = executor.submit(threading.current_thread).result(SECONDS)
            former.abandon()
            assert not second.abandoned
            assert second in worker_threads.workers()

    def test_a_former_tenant_waits_for_nobody_elses_call(self, kernel):
        former = kernel.ThreadSensitiveExecutor()
        former.submit(setattr, threading.local(), "value", 1).result(SECONDS)
        former.shutdown()  # the long way: by a renewal
        go_on = threading.Event()
        executor = kernel.ThreadSensitiveExecutor()
        second = executor.submit(threading.current_thread).result(SECONDS)
        blocked = executor.submit(go_on.wait, SECONDS)
        second.close()  # as the exit does
        waiting = threading.Thread(target=former.shutdown)
        waiting.start()
        waiting.join(SECONDS / 2)
        is_waiting = waiting.is_alive()
        go_on.set()
        waiting.join(SECONDS)
        assert not is_waiting
        assert blocked.result(SECONDS)
        executor.shutdown()

    def test_owns_a_worker_that_is_just_being_started(self, kernel, monkeypatch):
        """Though it had another lease before: or nobody notices that a call waits for itself."""
        with kernel.ThreadSensitiveExecutor() as former:
            former.submit(setattr, threading.local(), "value", 1).result(SECONDS)
        executor = kernel.ThreadSensitiveExecutor()
        first = executor.submit(threading.current_thread).result(SECONDS)
        first.close()
        first.join(SECONDS)
        answered, answers = threading.Event(), []
        original = threading.Thread.start

        def start(self):
            original(self)
            assert answered.wait(SECONDS)  # before start() returns

        def work():
            answers.append(executor.owns_current_thread())
            answered.set()

        monkeypatch.setattr(threading.Thread, "start", start)
        executor.submit(work).result(SECONDS)
        assert answers == [True]
        executor.shutdown()

    def test_stands_in_the_contexts_place(self):
        async def main():
            async with ThreadSensitiveContext() as context:
                own = await thread()
                executor = SyncToAsync.context_to_thread_executor[context]
                return type(executor), executor.submit(threading.current_thread).result(
                    SECONDS
                ) is own

        assert asyncio.run(main()) == (_kernel.kernel.ThreadSensitiveExecutor, True)

    def test_a_late_call_of_a_context_gets_another_thread(self):
        """Nothing that the context left behind may be met by it, nor what it leaves by the next."""

        async def main():
            leave, left = asyncio.Event(), asyncio.Event()

            async def outlive(seen):
                seen.append(await thread())
                leave.set()
                await left.wait()
                seen.append(await thread())
                seen.append(await thread())

            seen = []
            async with ThreadSensitiveContext():
                task = asyncio.create_task(outlive(seen))
                await leave.wait()
            left.set()
            await task
            return seen

        before, late, again = asyncio.run(main())
        assert late is not before
        assert again is late

    def test_leaving_waits_for_the_end_of_its_values(self):
        local = threading.local()
        values = weakref.WeakSet()

        def use():
            local.value = Value()
            values.add(local.value)

        async def main():
            async with ThreadSensitiveContext():
                await sync_to_async(use)()
            gc.collect()
            return len(values)

        if keeps(_kernel.kernel):  # in the other the thread ends soon
            assert asyncio.run(main()) == 0


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork")
def test_a_forked_child_has_workers_of_its_own(script_output):
    assert (
        script_output("""
            import os, threading, warnings
            from asgibridge import _kernel
            from asgibridge._process import threads as worker_threads
            warnings.simplefilter("ignore", DeprecationWarning)  # fork and threads
            make = _kernel.kernel.ThreadSensitiveExecutor

            def work():
                return threading.current_thread()

            with make() as executor:
                executor.submit(work).result(10)
            child = os.fork()
            if child == 0:
                with make() as executor:
                    assert executor.submit(work).result(10).is_alive()
                os._exit(7)
            assert os.waitpid(child, 0)[1] >> 8 == 7
            with make() as executor:
                executor.submit(work).result(10)
            print("ok")
        """)
        == "ok"
    )


def test_idle_ones_do_not_hold_up_the_exit(script_output):
    assert (
        script_output("""
            import time, atexit
            start = time.monotonic()
            atexit.register(lambda: print(time.monotonic() - start < 5))  # so it runs after ours
            from asgibridge import _kernel
            from asgibridge._process import threads as worker_threads
            with _kernel.kernel.ThreadSensitiveExecutor() as executor:
                executor.submit(int).result(10)
        """)
        == "True"
    )


def test_one_that_has_ended_is_left_to_no_collector(kernel, no_gc):
    """Nor anything that it consists of, its lock for one."""
    (first,) = on_a_lease(kernel)
    inbox = weakref.ref(first._started)  # what only the Thread object's dictionary holds
    ended = threading.Event()
    weakref.finalize(first._started, ended.set)
    join_idle(first, kernel)
    del first
    assert ended.wait(SECONDS)  # its last reference is in the ending thread itself
    assert inbox() is None
