"""Limits, thread names, cancellation: what a sync_to_async call can be given on its way."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import math
import os
import random
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from asgibridge.limiters import (
    CapacityLimiter,
    CapacityLimiterStatistics,
    WouldBlock,
    check_cancelled,
)
from asgibridge.sync import SyncToAsync, ThreadSensitiveContext, async_to_sync, sync_to_async

SECONDS = 20

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
# A fork with other threads alive warns, from 3.12 on.
ignore_fork_warning = pytest.mark.filterwarnings(
    "ignore:.*multi-threaded, use of fork:DeprecationWarning"
)


def in_pool(function, **options):
    return sync_to_async(function, thread_sensitive=False, **options)


async def until(condition):
    """Give other tasks their turns until it is so; what it needs must be on its way."""
    deadline = asyncio.get_running_loop().time() + SECONDS
    while not condition():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0)


class Gate:
    """A function that counts how many run it at once, and returns when it is let."""

    def __init__(self):
        self.lock = threading.Lock()
        self.go_on = threading.Event()
        self.begun = []
        self.running = self.most = 0

    def __call__(self, number=None):
        with self.lock:
            self.begun.append(number)
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            assert self.go_on.wait(SECONDS)
        finally:
            with self.lock:
                self.running -= 1
        return number


class TestCapacityLimiter:
    def test_tokens(self):
        async def main():
            limiter = CapacityLimiter(2)
            await limiter.acquire_on_behalf_of("first")
            limiter.acquire_on_behalf_of_nowait("second")
            with pytest.raises(WouldBlock):
                limiter.acquire_nowait()
            assert (limiter.borrowed_tokens, limiter.available_tokens) == (2, 0)
            waiting = asyncio.ensure_future(limiter.acquire_on_behalf_of("third"))
            await asyncio.sleep(0)
            assert limiter.statistics() == CapacityLimiterStatistics(2, 2, ("first", "second"), 1)
            assert "total_tokens=2 borrowed_tokens=2 tasks_waiting=1" in repr(limiter)
            limiter.release_on_behalf_of("first")
            # It is the third's, though that has not woken up yet.
            with pytest.raises(WouldBlock):
                limiter.acquire_nowait()
            await waiting
            assert limiter.statistics() == CapacityLimiterStatistics(2, 2, ("second", "third"), 0)
            limiter.release_on_behalf_of("second")
            limiter.release_on_behalf_of("third")
            assert limiter.available_tokens == 2

        asyncio.run(main())

    @pytest.mark.parametrize("total", [1.0, "1", None, True, math.nan])
    def test_no_number_of_tokens(self, total):
        with pytest.raises(TypeError, match="total_tokens"):
            CapacityLimiter(total)

    def test_less_than_none(self):
        limiter = CapacityLimiter(1)
        with pytest.raises(ValueError, match="total_tokens=-1"):
            limiter.total_tokens = -1
        assert limiter.total_tokens == 1

    def test_borrowers_have_one_token_at_most(self):
        async def main():
            limiter = CapacityLimiter(2)
            async with limiter:
                with pytest.raises(RuntimeError, match="already"):
                    await limiter.acquire()
                with pytest.raises(RuntimeError, match="already"):
                    limiter.acquire_nowait()
            with pytest.raises(RuntimeError, match="no token"):
                limiter.release()
            with pytest.raises(RuntimeError, match="no token"):
                limiter.release_on_behalf_of("nobody")
            assert limiter.borrowed_tokens == 0

        asyncio.run(main())

    def test_who_waits_has_none_to_give_back(self):
        async def main():
            limiter = CapacityLimiter(0)
            task = asyncio.ensure_future(limiter.acquire())
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="no token"):
                limiter.release_on_behalf_of(task)
            limiter.total_tokens = 1
            await task
            limiter.release_on_behalf_of(task)
            assert limiter.available_tokens == 1

        asyncio.run(main())

    def test_more_and_fewer(self):
        async def main():
            limiter = CapacityLimiter(0)
            got = []

            async def borrow(number):
                await limiter.acquire_on_behalf_of(number)
                got.append(number)

            tasks = [asyncio.ensure_future(borrow(number)) for number in range(6)]
            await asyncio.sleep(0)
            assert limiter.statistics().tasks_waiting == 6
            limiter.total_tokens = 3
            await asyncio.gather(*tasks[:3])
            assert got == [0, 1, 2]
            limiter.total_tokens = 1
            assert (limiter.borrowed_tokens, limiter.available_tokens) == (3, -2)
            limiter.release_on_behalf_of(0)
            limiter.release_on_behalf_of(1)
            await asyncio.sleep(0)
            assert got == [0, 1, 2]
            limiter.release_on_behalf_of(2)
            await tasks[3]
            limiter.total_tokens = math.inf
            await asyncio.gather(*tasks)
            assert got == [0, 1, 2, 3, 4, 5]
            assert limiter.available_tokens == math.inf
            for number in (3, 4, 5):
                limiter.release_on_behalf_of(number)
            limiter.total_tokens = 1
            assert limiter.available_tokens == 1

        asyncio.run(main())

    def test_cancelled_waiting_gives_up_the_place(self):
        async def main():
            limiter = CapacityLimiter(1)
            limiter.acquire_on_behalf_of_nowait("first")
            second = asyncio.ensure_future(limiter.acquire())
            third = asyncio.ensure_future(limiter.acquire())
            await asyncio.sleep(0)
            second.cancel()
            await asyncio.gather(second, return_exceptions=True)
            assert limiter.statistics().tasks_waiting == 1
            limiter.release_on_behalf_of("first")
            await third
            limiter.release_on_behalf_of(third)
            assert limiter.available_tokens == 1

        asyncio.run(main())

    def test_cancelled_as_the_token_comes_hands_it_on(self):
        async def main():
            limiter = CapacityLimiter(1)
            limiter.acquire_on_behalf_of_nowait("first")
            second = asyncio.ensure_future(limiter.acquire())
            third = asyncio.ensure_future(limiter.acquire())
            await asyncio.sleep(0)
            limiter.release_on_behalf_of("first")
            second.cancel()
            await third
            assert second.cancelled()
            limiter.release_on_behalf_of(third)
            assert limiter.available_tokens == 1

        asyncio.run(main())

    def test_a_loop_that_is_closed_takes_none_with_it(self):
        limiter = CapacityLimiter(1)
        limiter.acquire_on_behalf_of_nowait("first")
        loop = asyncio.new_event_loop()
        task = loop.create_task(limiter.acquire())
        loop.run_until_complete(asyncio.sleep(0))
        assert limiter.statistics().tasks_waiting == 1
        loop.close()
        limiter.release_on_behalf_of("first")
        limiter.acquire_nowait()
        limiter.release()
        assert limiter.available_tokens == 1
        task._log_destroy_pending = False

    def test_by_threads_and_several_loops_in_order(self):
        limiter = CapacityLimiter(1)
        limiter.acquire_on_behalf_of_nowait("first")
        order = []

        def thread(number):
            with limiter:
                order.append(number)

        async def task(number):
            async with limiter:
                order.append(number)

        threads = []
        for number in range(6):
            target = thread if number % 2 else lambda number=number: asyncio.run(task(number))
            args = (number,) if number % 2 else ()
            threads.append(threading.Thread(target=target, args=args))
            threads[-1].start()
            while limiter.statistics().tasks_waiting != len(threads):
                assert threads[-1].is_alive()
        limiter.release_on_behalf_of("first")
        for each in threads:
            each.join(SECONDS)
        assert order == list(range(6))
        assert limiter.available_tokens == 1

    def test_a_thread_that_has_waited_long_enough(self):
        limiter = CapacityLimiter(0)
        with pytest.raises(TimeoutError, match="no token"):
            limiter.sync_acquire(timeout=0.001)
        with pytest.raises(ValueError, match="timeout"):
            limiter.sync_acquire(timeout=-1)
        limiter.total_tokens = 1
        limiter.sync_acquire(timeout=0)
        with pytest.raises(RuntimeError, match="already"):
            limiter.sync_acquire()
        limiter.release()
        assert limiter.available_tokens == 1

    def test_a_loops_thread_may_not_wait(self):
        async def main():
            limiter = CapacityLimiter(1)
            with pytest.raises(RuntimeError, match="async with"):
                with limiter:
                    pass
            assert limiter.available_tokens == 1

        asyncio.run(main())

    def test_can_be_collected(self):
        limiter = CapacityLimiter(1)
        with limiter:
            pass
        gone = weakref.ref(limiter)
        del limiter
        gc.collect()
        assert gone() is None


class TestLimitedCalls:
    def test_as_many_at_once_as_there_are_tokens(self):
        async def main():
            gate = Gate()
            limiter = CapacityLimiter(2)
            call = in_pool(gate, limiter=limiter)
            tasks = [asyncio.ensure_future(call(number)) for number in range(6)]
            await until(lambda: len(gate.begun) == 2)
            statistics = limiter.statistics()
            assert (statistics.borrowed_tokens, statistics.tasks_waiting) == (2, 4)
            assert "call of <test_limiters.Gate object" in repr(statistics.borrowers)
            # A call that waits takes no thread.
            pool = asyncio.get_running_loop()._default_executor
            assert pool._work_queue.qsize() == 0
            assert len(pool._threads) == 2
            gate.go_on.set()
            assert await asyncio.gather(*tasks) == list(range(6))
            assert gate.most <= 2
            assert sorted(gate.begun[:2]) == [0, 1]
            assert limiter.available_tokens == 2

        asyncio.run(main())

    def test_in_order(self):
        async def main():
            order = []
            call = in_pool(order.append, limiter=CapacityLimiter(1))
            await asyncio.gather(*(call(number) for number in range(50)))
            assert order == list(range(50))

        asyncio.run(main())

    def test_one_limiter_for_several_wrappers_and_loops(self):
        limiter = CapacityLimiter(3)
        gate = Gate()
        begun = threading.Barrier(3)

        def loop():
            async def main():
                call = in_pool(gate, limiter=limiter)
                calls = [asyncio.ensure_future(call()) for _ in range(4)]
                begun.wait(SECONDS)
                await asyncio.gather(*calls)

            asyncio.run(main())

        threads = [threading.Thread(target=loop) for _ in range(2)]
        for thread in threads:
            thread.start()
        begun.wait(SECONDS)
        while limiter.borrowed_tokens < 3 or len(gate.begun) < 3:
            assert any(thread.is_alive() for thread in threads)
        gate.go_on.set()
        for thread in threads:
            thread.join(SECONDS)
        assert (len(gate.begun), gate.most) == (8, 3)
        assert limiter.available_tokens == 3

    @pytest.mark.parametrize("executor", [False, True])
    def test_errors_cost_no_token(self, executor):
        async def main():
            limiter = CapacityLimiter(1)
            with ThreadPoolExecutor(1) as pool:
                call = in_pool(int, limiter=limiter, executor=pool if executor else None)
                for _ in range(3):
                    with pytest.raises(ValueError, match="invalid literal"):
                        await call("x")
                assert await call("5") == 5
            assert limiter.available_tokens == 1
            with pytest.raises(RuntimeError, match="after shutdown"):
                await in_pool(int, limiter=limiter, executor=pool)()
            assert limiter.available_tokens == 1

        asyncio.run(main())

    @pytest.mark.parametrize("executor", [False, True])
    def test_cancelled_while_it_waits_for_a_token(self, executor):
        async def main():
            limiter = CapacityLimiter(1)
            gate = Gate()
            with ThreadPoolExecutor(2) as pool:
                call = in_pool(gate, limiter=limiter, executor=pool if executor else None)
                tasks = [asyncio.ensure_future(call(number)) for number in range(3)]
                await until(lambda: gate.begun)
                tasks[1].cancel()
                await until(tasks[1].done)
                assert tasks[1].cancelled()
                gate.go_on.set()
                assert await tasks[0] == 0
                assert await tasks[2] == 2
            assert gate.begun == [0, 2]
            assert limiter.available_tokens == 1

        asyncio.run(main())

    @pytest.mark.parametrize("abandon", [False, True])
    @pytest.mark.parametrize("executor", [False, True])
    def test_cancelled_while_it_waits_for_a_thread(self, executor, abandon):
        """It has its token, and the executor has no thread for it: it is not run."""

        async def main():
            gate = Gate()
            limiter = CapacityLimiter(1)
            with ThreadPoolExecutor(1) as pool:
                if not executor:
                    asyncio.get_running_loop().set_default_executor(pool)
                occupied = asyncio.ensure_future(in_pool(gate, executor=pool)("first"))
                await until(lambda: gate.begun)
                call = in_pool(
                    gate,
                    limiter=limiter,
                    executor=pool if executor else None,
                    abandon_on_cancel=abandon,
                )
                task = asyncio.ensure_future(call("second"))
                await until(lambda: limiter.borrowed_tokens == 1)
                task.cancel()
                await until(task.done)
                assert task.cancelled()
                assert limiter.available_tokens == 1
                gate.go_on.set()
                await occupied
                await in_pool(int, executor=pool)()
            assert gate.begun == ["first"]

        asyncio.run(main())

    def test_abandoned_has_its_token_to_the_end(self):
        async def main():
            gate = Gate()
            limiter = CapacityLimiter(1)
            task = asyncio.ensure_future(in_pool(gate, limiter=limiter)())
            await until(lambda: gate.begun)
            task.cancel()
            await until(task.done)
            assert task.cancelled()
            assert limiter.borrowed_tokens == 1
            gate.go_on.set()
            await in_pool(int, limiter=limiter)()
            assert limiter.available_tokens == 1

        asyncio.run(main())

    def test_a_loop_closed_while_a_function_runs(self):
        limiter = CapacityLimiter(1)
        gate = Gate()
        with ThreadPoolExecutor(1) as pool:
            loop = asyncio.new_event_loop()
            call = in_pool(gate, limiter=limiter, executor=pool)
            first, second = loop.create_task(call(1)), loop.create_task(call(2))

            async def begun():
                await until(lambda: gate.begun)

            loop.run_until_complete(begun())
            assert limiter.statistics().tasks_waiting == 1
            loop.close()
            gate.go_on.set()
        assert gate.begun == [1]
        # The one that waited is passed over, whether its task is still there or not.
        with limiter:
            assert limiter.available_tokens == 0
        assert limiter.available_tokens == 1
        for task in (first, second):
            task._log_destroy_pending = False

    def test_a_coroutine_that_is_closed_before_its_function_has_begun(self):
        async def main():
            limiter = CapacityLimiter(1)
            gate = Gate()
            with ThreadPoolExecutor(1) as pool:
                pool.submit(gate)
                coroutine = in_pool(gate, limiter=limiter, executor=pool)("never")
                coroutine.send(None)
                assert limiter.available_tokens == 0
                coroutine.close()
                assert limiter.available_tokens == 1
                gate.go_on.set()
            assert gate.begun == [None]

        asyncio.run(main())

    def test_an_executor_that_drops_the_call(self):
        async def main():
            gate = Gate()
            limiter = CapacityLimiter(1)
            pool = ThreadPoolExecutor(1)
            pool.submit(gate)
            task = asyncio.ensure_future(in_pool(gate, limiter=limiter, executor=pool)("never"))
            await until(lambda: limiter.borrowed_tokens)
            pool.shutdown(wait=False, cancel_futures=True)
            await until(task.done)
            assert task.cancelled()
            assert limiter.available_tokens == 1
            gate.go_on.set()
            pool.shutdown()
            assert gate.begun == [None]

        asyncio.run(main())

    def test_a_decorated_method_and_its_context(self):
        variable = contextvars.ContextVar("variable", default=0)
        limiter = CapacityLimiter(1)

        class Thing:
            @sync_to_async(thread_sensitive=False, limiter=limiter)
            def method(self, value):
                """Its own."""
                assert variable.get() == 1
                variable.set(2)
                return limiter.borrowed_tokens, value

        async def main():
            assert Thing.method.__doc__ == "Its own."
            variable.set(1)
            assert await Thing().method(5) == (1, 5)
            assert variable.get() == 2

        asyncio.run(main())

    def test_nothing_outlives_its_call(self, no_gc):
        class Thing:
            pass

        def fail(thing):
            raise KeyError(thing)

        async def main():
            limiter = CapacityLimiter(1)
            with ThreadPoolExecutor(1) as pool:
                for executor in (None, pool):
                    call = in_pool(fail, limiter=limiter, thread_name="x", executor=executor)
                    thing = Thing()
                    gone = weakref.ref(thing)
                    try:
                        await call(thing)
                    except KeyError:
                        pass
                    del thing
                    await in_pool(int, executor=executor)()  # the thread lets go of the last
                    assert gone() is None

        asyncio.run(main())

    @needs_fork
    @ignore_fork_warning
    def test_a_forked_child_has_the_tokens_of_threads_it_has_not(self):
        limiter = CapacityLimiter(3)
        gate = Gate()

        def fork():
            assert limiter.borrowed_tokens == 3
            pid = os.fork()
            if pid == 0:
                try:
                    os._exit(1 if limiter.borrowed_tokens != 1 else in_child())
                finally:
                    os._exit(2)
            return os.waitpid(pid, 0)[1]

        def in_child():
            async def main():
                call = in_pool(len, limiter=limiter)
                return sum(await asyncio.gather(*(call("x") for _ in range(5))))

            got = []
            thread = threading.Thread(target=lambda: got.append(asyncio.run(main())))
            thread.start()
            thread.join(SECONDS)
            return 0 if got == [5] and limiter.available_tokens == 2 else 3

        async def main():
            async with limiter:  # of a task, whose loop does not go on there
                other = asyncio.ensure_future(in_pool(gate, limiter=limiter)())
                await until(lambda: gate.begun)
                forking = asyncio.ensure_future(in_pool(fork, limiter=limiter)())
                await until(lambda: limiter.borrowed_tokens == 3)
                late = [asyncio.ensure_future(in_pool(int, limiter=limiter)()) for _ in range(3)]
                assert await forking == 0
                gate.go_on.set()
                await asyncio.gather(other, *late)
            assert limiter.available_tokens == 3

        asyncio.run(main())

    @needs_fork
    @ignore_fork_warning
    def test_a_task_that_forks_gives_its_token_back_without_effect(self):
        async def main():
            limiter = CapacityLimiter(1)
            task = asyncio.current_task()
            async with limiter:
                pid = os.fork()
                if pid == 0:
                    code = 1
                    try:
                        assert limiter.available_tokens == 1
                        limiter.release()
                        assert limiter.available_tokens == 1
                        limiter.release_on_behalf_of(task)
                        assert limiter.available_tokens == 1
                        code = 0
                    finally:
                        os._exit(code)
                assert os.waitpid(pid, 0)[1] == 0
            assert limiter.available_tokens == 1

        asyncio.run(main())

    @pytest.mark.parametrize("seed", range(4))
    def test_whatever_happens_no_token_is_lost(self, seed):
        random_ = random.Random(seed)
        limiter = CapacityLimiter(3)
        lock = threading.Lock()
        running = []

        def work(kind):
            with lock:
                running.append(None)
                assert len(running) <= 3
            try:
                if kind == 0:
                    raise KeyError(kind)
                if kind == 1:
                    check_cancelled()
            finally:
                with lock:
                    running.pop()

        def loop(seed):
            random_ = random.Random(seed)

            async def main():
                tasks = []
                for _ in range(60):
                    options = {"abandon_on_cancel": random_.random() < 0.5, "limiter": limiter}
                    tasks.append(
                        asyncio.ensure_future(in_pool(work, **options)(random_.randrange(4)))
                    )
                    for _ in range(random_.randrange(3)):
                        await asyncio.sleep(0)
                    if random_.random() < 0.4:
                        random_.choice(tasks).cancel()
                if random_.random() < 0.5:
                    await asyncio.gather(*tasks, return_exceptions=True)
                else:
                    asyncio.get_running_loop().set_exception_handler(lambda *_: None)

            asyncio.run(main())

        threads = [threading.Thread(target=loop, args=(random_.random(),)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        gc.collect()
        assert running == []
        assert limiter.statistics() == CapacityLimiterStatistics(0, 3, (), 0)
        assert limiter._loans == {}


class TestThreadName:
    @pytest.mark.parametrize("executor", [False, True])
    def test_during_the_call(self, executor):
        async def main():
            with ThreadPoolExecutor(1, thread_name_prefix="mine") as pool:
                options = {"executor": pool if executor else None}
                name = in_pool(lambda: threading.current_thread().name, **options)
                before = await name()
                named = sync_to_async(
                    lambda: threading.current_thread().name,
                    thread_sensitive=False,
                    thread_name="resize",
                    **options,
                )
                assert await named() == "resize"
                assert await name() == before
                with pytest.raises(ValueError, match="invalid"):
                    await in_pool(int, thread_name="resize", **options)("x")
                assert await name() == before

        asyncio.run(main())


class TestCancellation:
    @pytest.mark.parametrize(
        "options", [{}, {"thread_sensitive": False}, {"thread_sensitive": False, "executor": True}]
    )
    def test_waits_for_the_function_if_asked_to(self, options):
        async def main():
            gate = Gate()
            with ThreadPoolExecutor(1) as pool:
                executor = {"executor": pool} if "executor" in options else {}
                async with ThreadSensitiveContext():
                    call = sync_to_async(gate, abandon_on_cancel=False, **{**options, **executor})
                    task = asyncio.ensure_future(call())
                    await until(lambda: gate.begun)
                    for _ in range(3):  # as often as it may be cancelled
                        task.cancel()
                        for _ in range(3):
                            await asyncio.sleep(0)
                    assert not task.done()
                    gate.go_on.set()
                    with pytest.raises(asyncio.CancelledError):
                        await task
            assert gate.running == 0

        asyncio.run(main())

    def test_an_error_after_it_is_raised(self):
        async def main():
            begun, go_on = threading.Event(), threading.Event()

            def fail():
                begun.set()
                assert go_on.wait(SECONDS)
                raise KeyError("x")

            task = asyncio.ensure_future(in_pool(fail, abandon_on_cancel=False)())
            await until(begun.is_set)
            task.cancel()
            await asyncio.sleep(0)
            go_on.set()
            with pytest.raises(KeyError) as caught:
                await task
            assert isinstance(caught.value.__context__, asyncio.CancelledError)

        asyncio.run(main())

    @pytest.mark.parametrize("abandon", [False, True])
    @pytest.mark.parametrize("sensitive", [False, True])
    def test_goes_on_to_the_coroutine_that_the_function_waits_for(self, sensitive, abandon):
        async def main():
            inside = asyncio.Event()
            happened = []

            async def sleep():
                inside.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    happened.append("cancelled")

            async with ThreadSensitiveContext():
                call = sync_to_async(
                    async_to_sync(sleep), thread_sensitive=sensitive, abandon_on_cancel=abandon
                )
                task = asyncio.ensure_future(call())
                await inside.wait()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert happened == ["cancelled"]

        asyncio.run(main())

    @pytest.mark.parametrize("abandon", [False, True])
    def test_a_coroutine_that_survives_it_gives_the_result(self, abandon):
        async def main():
            inside = asyncio.Event()

            async def survive():
                inside.set()
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    return "survived"

            task = asyncio.ensure_future(
                in_pool(async_to_sync(survive), abandon_on_cancel=abandon)()
            )
            await inside.wait()
            task.cancel()
            assert await task == "survived"

        asyncio.run(main())

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout is 3.11's")
    def test_with_a_timeout(self):
        async def main():
            gate = Gate()
            call = in_pool(gate, abandon_on_cancel=False)
            loop = asyncio.get_running_loop()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(None) as timeout:
                    task = asyncio.current_task()
                    loop.create_task(self.expire(gate, timeout))
                    await call()
            assert gate.running == 0
            assert task.cancelling() == 0

        asyncio.run(main())

    async def expire(self, gate, timeout):
        await until(lambda: gate.begun)
        timeout.reschedule(asyncio.get_running_loop().time())
        await until(timeout.expired)
        gate.go_on.set()


class TestCheckCancelled:
    def polling(self):
        """A function that asks until it is cancelled, and what has become of it."""
        begun, ended = threading.Event(), []

        def poll():
            check_cancelled()
            begun.set()
            try:
                for _ in range(SECONDS * 1000):
                    check_cancelled()
                    threading.Event().wait(0.001)
            except BaseException as error:
                ended.append(type(error))
                raise

        return poll, begun, ended

    @pytest.mark.parametrize("abandon", [False, True])
    @pytest.mark.parametrize("sensitive", [False, True])
    def test_raises_when_the_awaiting_task_was_cancelled(self, sensitive, abandon):
        async def main():
            poll, begun, ended = self.polling()
            async with ThreadSensitiveContext():
                call = sync_to_async(poll, thread_sensitive=sensitive, abandon_on_cancel=abandon)
                task = asyncio.ensure_future(call())
                await until(begun.is_set)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await until(lambda: ended)
            assert ended == [asyncio.CancelledError]

        asyncio.run(main())

    def test_in_the_calls_of_a_coroutine_that_it_waits_for(self):
        async def main():
            poll, begun, ended = self.polling()

            def outer():
                async_to_sync(sync_to_async(poll))()

            task = asyncio.ensure_future(in_pool(outer)())
            await until(begun.is_set)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: ended)

        asyncio.run(main())

    @pytest.mark.parametrize("sensitive", [False, True])
    def test_further_in_when_it_was_cancelled_before(self, sensitive):
        """The function goes on unheard, and what it calls by then is of the same chain."""

        async def main():
            begun, go_on, over = threading.Event(), threading.Event(), threading.Event()
            got = []

            def inner():
                try:
                    check_cancelled()
                except asyncio.CancelledError:
                    got.append("cancelled")

            async def between():
                # A task of its own: nobody has cancelled it.
                await asyncio.ensure_future(sync_to_async(inner, thread_sensitive=sensitive)())
                got.append("went on")

            async def further():
                await sync_to_async(async_to_sync(between))()

            def outer():
                begun.set()
                assert go_on.wait(SECONDS)
                async_to_sync(further)()
                over.set()

            task = asyncio.ensure_future(in_pool(outer)())
            await until(begun.is_set)
            task.cancel()
            await until(task.done)
            go_on.set()
            await until(over.is_set)
            assert got == ["cancelled", "went on"]

        asyncio.run(main())

    def test_a_task_that_was_cancelled_once_and_went_on(self):
        async def main():
            poll, begun, ended = self.polling()

            async def survivor():
                try:
                    await in_pool(poll)()
                except asyncio.CancelledError:
                    pass
                await in_pool(check_cancelled)()
                await sync_to_async(check_cancelled)()

            task = asyncio.ensure_future(survivor())
            await until(begun.is_set)
            task.cancel()
            await task
            await until(lambda: ended)

        asyncio.run(main())

    def test_a_task_that_outlives_the_frame_it_was_started_in(self):
        async def main():
            begun, go_on = threading.Event(), threading.Event()
            late = []

            async def start():
                late.append(asyncio.ensure_future(wait_and_check()))

            async def wait_and_check():
                await until(lambda: task.done())
                await in_pool(check_cancelled)()

            def outer():
                async_to_sync(start)()
                begun.set()
                assert go_on.wait(SECONDS)

            task = asyncio.ensure_future(in_pool(outer)())
            await until(begun.is_set)
            task.cancel()
            await until(task.done)
            await late[0]
            go_on.set()

        asyncio.run(main())

    def test_where_no_call_runs(self):
        with pytest.raises(RuntimeError, match="sync_to_async"):
            check_cancelled()

        async def main():
            await in_pool(int)()
            with pytest.raises(RuntimeError, match="sync_to_async"):
                check_cancelled()
            # Nor on a thread that has served a call.
            loop = asyncio.get_running_loop()
            with pytest.raises(RuntimeError, match="sync_to_async"):
                await loop.run_in_executor(None, check_cancelled)

        asyncio.run(main())
        async_to_sync(main)()

    def test_in_a_thread_sensitive_call_of_a_top_level_one(self):
        async def main():
            await sync_to_async(check_cancelled)()

        async_to_sync(main)()


class TestMisuse:
    @pytest.mark.parametrize("how", [SyncToAsync, sync_to_async])
    def test_thread_sensitive_calls_have_no_limit_and_no_name(self, how):
        with pytest.raises(TypeError, match="limiter must not be set when thread_sensitive"):
            how(int, limiter=CapacityLimiter(1))
        with pytest.raises(TypeError, match="thread_name must not be set when thread_sensitive"):
            how(int, thread_name="x")
        how(int, abandon_on_cancel=False)

    def test_as_a_decorator(self):
        with pytest.raises(TypeError, match="limiter must not be set"):
            sync_to_async(limiter=CapacityLimiter(1))(int)

    def test_of_another_kind(self):
        with pytest.raises(TypeError, match="CapacityLimiter"):
            in_pool(int, limiter=threading.Semaphore(1))
        with pytest.raises(TypeError, match="thread_name=5"):
            in_pool(int, thread_name=5)
