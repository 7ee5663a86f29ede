"""Calls that are not thread-sensitive, and the loop's default executor that runs them."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import random
import sys
import threading
import weakref
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest

from asgibridge import _kernel, pools
from asgibridge.local import Local
from asgibridge.pools import LoopExecutor
from asgibridge.sync import SyncToAsync, async_to_sync, sync_to_async

SECONDS = 20


def in_pool(function, **options):
    return sync_to_async(function, thread_sensitive=False, **options)


def thread_name():
    return threading.current_thread().name


def default_executor():
    return asyncio.get_running_loop()._default_executor


class Busy:
    """Keeps threads of the pool busy until it is left; async, because it waits for them."""

    def __init__(self, count):
        self.count = count
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Event()

    def work(self):
        self.begun.release()
        assert self.go_on.wait(SECONDS)

    async def __aenter__(self):
        self.tasks = [asyncio.ensure_future(in_pool(self.work)()) for _ in range(self.count)]
        for _ in range(self.count):
            while not self.begun.acquire(blocking=False):
                await asyncio.sleep(0)
        return self

    async def __aexit__(self, *exc_info):
        self.go_on.set()
        await asyncio.gather(*self.tasks)


class TestWhichExecutor:
    def test_ours_is_set_if_there_is_none(self):
        async def main():
            name = await in_pool(thread_name)()
            executor = default_executor()
            assert type(executor) is LoopExecutor
            assert isinstance(executor, ThreadPoolExecutor)
            with ThreadPoolExecutor() as stock:
                assert executor._max_workers == stock._max_workers
            assert name == "asyncio_0"
            # What asyncio sends goes there, too.
            loop = asyncio.get_running_loop()
            assert await loop.run_in_executor(None, thread_name) == "asyncio_0"
            assert default_executor() is executor
            return executor

        executor = asyncio.run(main())
        assert [thread.is_alive() for thread in executor._threads] == [False]

    def test_the_users_stays(self):
        async def main():
            loop = asyncio.get_running_loop()
            executor = ThreadPoolExecutor(1, thread_name_prefix="mine")
            loop.set_default_executor(executor)
            assert await in_pool(thread_name)() == "mine_0"
            assert default_executor() is executor

        asyncio.run(main())

    def test_asyncios_stays(self):
        async def main():
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, int)
            executor = default_executor()
            assert await in_pool(thread_name)() == "asyncio_0"
            assert default_executor() is executor
            assert type(executor) is ThreadPoolExecutor

        asyncio.run(main())

    def test_an_argument_comes_first(self):
        async def main():
            with ThreadPoolExecutor(1, thread_name_prefix="mine") as executor:
                assert await in_pool(thread_name, executor=executor)() == "mine_0"
            assert default_executor() is None

        asyncio.run(main())

    def test_the_users_replaces_ours(self):
        async def main():
            await in_pool(thread_name)()
            ours = default_executor()
            loop = asyncio.get_running_loop()
            loop.set_default_executor(ThreadPoolExecutor(1, thread_name_prefix="mine"))
            assert await in_pool(thread_name)() == "mine_0"
            ours.shutdown()

        asyncio.run(main())

    def test_a_patched_submit_is_called(self, monkeypatch):
        submitted = []
        stock = ThreadPoolExecutor.submit

        def submit(self, function, /, *args, **kwargs):
            submitted.append(type(self))
            return stock(self, function, *args, **kwargs)

        async def main():
            await in_pool(int)()
            monkeypatch.setattr(ThreadPoolExecutor, "submit", submit)
            await in_pool(int)()
            await asyncio.get_running_loop().run_in_executor(None, int)

        asyncio.run(main())
        assert submitted == [LoopExecutor, LoopExecutor]

    @pytest.mark.parametrize("where", ["class", "instance", "subclass"])
    def test_run_in_executor_of_the_users_own_is_called(self, where, monkeypatch):
        called = []
        stock = asyncio.BaseEventLoop.run_in_executor

        def run_in_executor(self, executor, function, *args):
            called.append(executor)
            return stock(self, executor, function, *args)

        class Loop(asyncio.SelectorEventLoop):
            pass

        async def main():
            loop = asyncio.get_running_loop()
            if where == "instance":
                loop.run_in_executor = lambda *args: run_in_executor(loop, *args)
            assert await in_pool(thread_name)() == "asyncio_0"
            assert type(default_executor()) is ThreadPoolExecutor
            await loop.shutdown_default_executor()

        if where == "subclass":
            Loop.run_in_executor = run_in_executor
        elif where == "class":
            monkeypatch.setattr(asyncio.BaseEventLoop, "run_in_executor", run_in_executor)
        loop = Loop()
        try:
            loop.run_until_complete(main())
        finally:
            loop.close()
        assert called == [None]

    def test_a_loop_that_is_none_of_asyncios(self):
        class Loop:
            pass

        assert pools.executor_of(Loop()) is None


class TestThreads:
    def test_one_call_after_the_other_needs_one(self):
        async def main():
            for _ in range(200):
                await in_pool(int)()
            return len(default_executor()._threads)

        assert asyncio.run(main()) == 1

    def test_as_many_at_once_as_the_executor_has(self):
        async def main():
            await in_pool(int)()
            count = default_executor()._max_workers
            async with Busy(count):
                assert len(default_executor()._threads) == count
                late = asyncio.ensure_future(in_pool(thread_name)())
                await asyncio.sleep(0)
                assert default_executor()._work_queue.qsize() == 1
            assert await late in {f"asyncio_{number}" for number in range(count)}
            assert default_executor()._work_queue.empty()

        asyncio.run(main())

    def test_a_callback_that_waits_for_another_call(self):
        """It runs on the thread that has just finished a call; that thread is not free."""

        def second():
            return thread_name()

        names = []
        done = threading.Event()

        def callback(future):
            names.append(executor.submit(second).result(SECONDS))
            done.set()

        executor = LoopExecutor()
        begin = threading.Event()
        future = executor.submit(begin.wait, SECONDS)
        future.add_done_callback(callback)
        begin.set()
        assert done.wait(SECONDS)
        executor.shutdown()
        assert names == ["asyncio_1"]

    def test_that_cannot_be_started(self, monkeypatch):
        async def main():
            def start(self):
                raise RuntimeError("can't start new thread")

            ran = []
            monkeypatch.setattr(pools.Worker, "start", start)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                await in_pool(ran.append)(1)
            monkeypatch.undo()
            await in_pool(ran.append)(2)
            await in_pool(ran.append)(3)
            assert ran == [2, 3]
            assert len(default_executor()._threads) == 1

        asyncio.run(main())

    @pytest.mark.parametrize("moment", ["hired", "before it is started", "when it is started"])
    def test_whose_start_a_signal_handler_interrupts(self, moment, monkeypatch):
        """It is counted as what it is: the next calls are neither lost, nor too many at once."""

        class Interrupt(Exception):
            pass

        class HiresAndRaises:
            def hire(self, *ticket):
                assert inbox.hire(*ticket)
                raise Interrupt

            def __getattr__(self, name):
                return getattr(inbox, name)

        start = pools.Worker.start

        def interrupted(worker):
            if moment == "when it is started":
                start(worker)
            raise Interrupt

        executor = LoopExecutor()
        executor._inbox = inbox = _kernel.kernel.PoolInbox(1)
        executor._work_queue = pools._Queue(inbox, executor)
        if moment == "hired":
            executor._inbox = HiresAndRaises()
        else:
            monkeypatch.setattr(pools.Worker, "start", interrupted)
        with pytest.raises(Interrupt):
            executor.submit(int)
        monkeypatch.undo()
        executor._inbox = inbox
        both = threading.Barrier(2)

        def meet():
            with pytest.raises(threading.BrokenBarrierError):
                both.wait(0.2)

        for future in [executor.submit(meet), executor.submit(meet)]:
            future.result(SECONDS)
        for _ in range(3):  # nobody is thought to be looking who is not
            executor.submit(int).result(SECONDS)
        executor.shutdown(wait=True)
        assert not [thread for thread in executor._threads if thread.is_alive()]

    def test_end_when_the_loop_is_closed(self):
        async def main():
            async with Busy(2):
                pass
            return default_executor()

        loop = asyncio.new_event_loop()
        executor = loop.run_until_complete(main())
        loop.close()
        for thread in executor._threads:
            thread.join(SECONDS)
            assert not thread.is_alive()

    def test_end_when_the_executor_is_dropped(self, no_gc):
        executor = LoopExecutor()
        assert executor.submit(int).result(SECONDS) == 0
        (thread,) = executor._threads
        lives = weakref.ref(executor)
        del executor
        assert lives() is None
        thread.join(SECONDS)
        assert not thread.is_alive()

    def test_keep_nothing_of_a_call(self, no_gc):
        class Argument:
            pass

        async def main():
            argument = Argument()
            lives = weakref.ref(argument)
            await in_pool(id)(argument)
            future = default_executor().submit(id, argument)
            await asyncio.wrap_future(future)
            del argument, future
            async with Busy(1):
                pass  # the thread has taken another call
            return lives

        assert asyncio.run(main())() is None


class TestCalls:
    def test_results_and_errors(self):
        def fail(error):
            raise error

        async def main():
            assert await in_pool(lambda *args, **kwargs: (args, kwargs))(1, a=2) == (
                (1,),
                {"a": 2},
            )
            for error in (ValueError("x"), KeyboardInterrupt(), SystemExit(1)):
                with pytest.raises(type(error)) as caught:
                    await in_pool(fail)(error)
                assert caught.value is error
            with pytest.raises(RuntimeError, match="StopIteration"):
                await in_pool(fail)(StopIteration())

        asyncio.run(main())

    def test_context_and_locals_go_there_and_back(self):
        variable = contextvars.ContextVar("variable", default=0)
        local = Local()

        def work():
            seen = (variable.get(), local.value)
            variable.set(2)
            local.value = 2
            return seen

        async def main():
            variable.set(1)
            local.value = 1
            assert await in_pool(work)() == (1, 1)
            assert (variable.get(), local.value) == (2, 2)

        asyncio.run(main())

    def test_async_to_sync_within_goes_to_the_loop(self):
        async def which():
            return asyncio.get_running_loop()

        async def main():
            assert await in_pool(async_to_sync(which))() is asyncio.get_running_loop()

        asyncio.run(main())

    def test_the_exception_being_handled_is_there(self):
        async def main():
            try:
                raise ValueError("handled")
            except ValueError as error:
                assert (await in_pool(sys.exc_info)())[:2] == (ValueError, error)

        asyncio.run(main())

    def test_an_overridden_thread_handler_is_called(self):
        class Own(SyncToAsync):
            def thread_handler(self, loop, *args, **kwargs):
                return ("own", super().thread_handler(loop, *args, **kwargs))

        async def main():
            return await Own(thread_name, thread_sensitive=False)()

        assert asyncio.run(main()) == ("own", "asyncio_0")

    def test_cancelled_before_it_has_begun_it_is_not_run(self):
        async def main():
            ran = []
            await in_pool(int)()
            async with Busy(default_executor()._max_workers):
                task = asyncio.ensure_future(in_pool(ran.append)(1))
                await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            await in_pool(int)()
            return ran

        assert asyncio.run(main()) == []

    def test_many_at_once(self):
        async def main():
            results = await asyncio.gather(*(in_pool(lambda x: x)(i) for i in range(500)))
            assert results == list(range(500))

        asyncio.run(main())

    def test_from_several_loops_at_once(self):
        def body():
            async def main():
                return await asyncio.gather(*(in_pool(lambda x: x)(i) for i in range(50)))

            return asyncio.run(main())

        with ThreadPoolExecutor(4) as threads:
            futures = [threads.submit(body) for _ in range(8)]
        assert [future.result() for future in futures] == [list(range(50))] * 8


class TestAsAnExecutor:
    def test_submit_and_map(self):
        with LoopExecutor() as executor:
            assert executor.submit(pow, 2, 3).result(SECONDS) == 8
            assert list(executor.map(abs, [-1, 2, -3])) == [1, 2, 3]
            with pytest.raises(ZeroDivisionError):
                executor.submit(divmod, 1, 0).result(SECONDS)
        assert [thread.is_alive() for thread in executor._threads] == [False] * len(
            executor._threads
        )

    def test_shutdown_runs_what_it_has(self):
        executor = LoopExecutor()
        begin = threading.Event()
        futures = [executor.submit(begin.wait, SECONDS) for _ in range(50)]
        executor.shutdown(wait=False)
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(int)
        begin.set()
        executor.shutdown()
        assert [future.result(SECONDS) for future in futures] == [True] * 50

    def test_shutdown_cancels_what_has_not_begun(self):
        async def main():
            ran = []
            await in_pool(int)()
            executor = default_executor()
            async with Busy(executor._max_workers):
                call = asyncio.ensure_future(in_pool(ran.append)(1))
                await asyncio.sleep(0)
                future = executor.submit(ran.append, 2)
                executor.shutdown(wait=False, cancel_futures=True)
                with pytest.raises(asyncio.CancelledError):
                    await call
                with pytest.raises(CancelledError):
                    future.result(SECONDS)
                with pytest.raises(RuntimeError, match="after shutdown"):
                    await in_pool(int)()
            assert ran == []

        asyncio.run(main())

    @pytest.mark.parametrize("used", [True, False])
    def test_the_loop_shuts_it_down(self, used):
        async def main():
            if used:
                await in_pool(int)()
            await asyncio.get_running_loop().shutdown_default_executor()
            with pytest.raises(RuntimeError, match=r"Executor shutdown|after shutdown"):
                await in_pool(int)()

        asyncio.run(main())


class TestPoolInbox:
    """The inbox by itself, on each kernel."""

    class Item:
        def __init__(self, log, value):
            self.log, self.value = log, value

        def run(self):
            self.log.append(self.value)

        def deliver(self):
            self.log.append(f"{self.value} told")

        def cancel(self):
            self.log.append(f"{self.value} cancelled")

    def test_first_in_first_out_then_ends(self, kernel):
        inbox, log = kernel.PoolInbox(1), []
        assert [inbox.put(self.Item(log, i)) for i in range(3)] == [True] * 3
        assert inbox.qsize() == 3
        assert inbox.hire()
        inbox.close()
        assert not inbox.put(self.Item(log, "late"))
        inbox.serve()
        assert log == [0, "0 told", 1, "1 told", 2, "2 told"]
        assert inbox.closed

    def test_hires_for_what_nobody_is_free_for(self, kernel):
        inbox = kernel.PoolInbox(3)
        assert not inbox.hire()
        for _ in range(2):
            inbox.put(self.Item([], 0))
            assert [inbox.hire(), inbox.hire()] == [True, False]
        inbox.dismiss()
        assert [inbox.hire(), inbox.hire()] == [True, False]
        for _ in range(5):
            inbox.put(self.Item([], 0))
        assert [inbox.hire(), inbox.hire()] == [True, False]  # that is all it may

    def test_drain(self, kernel):
        inbox = kernel.PoolInbox(1)
        items = [self.Item([], i) for i in range(3)]
        for item in items:
            inbox.put(item)
        assert inbox.drain() == items
        assert inbox.drain() == []
        assert inbox.qsize() == 0

    def test_wakes_who_lay_down_last(self, kernel):
        inbox = kernel.PoolInbox(2)
        names, told = [], threading.Semaphore(0)

        class Item:
            def __init__(self, wait_for=None):
                self.wait_for = wait_for

            def run(self):
                if self.wait_for is not None:
                    assert self.wait_for.wait(SECONDS)
                names.append(threading.current_thread().name)

            def deliver(self):
                told.release()

        first, second = threading.Event(), threading.Event()
        threads = [threading.Thread(target=inbox.serve, name=name) for name in "ab"]
        for thread, event in zip(threads, (first, second)):
            inbox.put(Item(event))
            assert inbox.hire()
            thread.start()
        first.set()
        assert told.acquire(timeout=SECONDS)
        second.set()
        assert told.acquire(timeout=SECONDS)
        last = names[-1]
        for _ in range(20):
            inbox.put(Item())
            assert told.acquire(timeout=SECONDS)
        assert not inbox.hire()
        inbox.close()
        for thread in threads:
            thread.join(SECONDS)
            assert not thread.is_alive()
        assert {"a", "b"} >= set(names)
        assert last in names

    def test_nothing_is_lost_among_many(self, kernel):
        inbox = kernel.PoolInbox(4)
        ran, threads, lock = [], [], threading.Lock()
        chance = random.Random(3)

        class Item:
            def __init__(self, value):
                self.value = value

            def run(self):
                ran.append(self.value)

            def deliver(self):
                pass

        def produce(values):
            for value in values:
                assert inbox.put(Item(value))
                if inbox.hire():
                    thread = threading.Thread(target=inbox.serve)
                    with lock:
                        threads.append(thread)
                    thread.start()

        values = list(range(4000))
        chance.shuffle(values)
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            producers = [
                threading.Thread(target=produce, args=(values[number::4],)) for number in range(4)
            ]
            for producer in producers:
                producer.start()
            for producer in producers:
                producer.join(SECONDS)
            inbox.close()
            for thread in threads:
                thread.join(SECONDS)
        finally:
            sys.setswitchinterval(interval)
        assert sorted(ran) == sorted(values)
        assert 1 <= len(threads) <= 4

    def test_takes_a_call_of_its_kernel(self, kernel):
        async def main():
            inbox = kernel.PoolInbox(1)
            call = kernel.SyncCall(asyncio.get_running_loop(), thread_name)
            inbox.put(call)
            assert inbox.hire()
            thread = threading.Thread(target=inbox.serve, name="one")
            thread.start()
            assert await call == "one"
            inbox.close()
            thread.join(SECONDS)

        asyncio.run(main())

    def test_ends_with_what_is_in_it(self, kernel, no_gc):
        inbox = kernel.PoolInbox(1)
        item = self.Item([], 0)
        inbox.put(item)
        lives = weakref.ref(item)
        del inbox, item
        assert lives() is None


def test_at_exit_a_call_is_waited_for(script_output):
    assert (
        script_output(
            """
            import asyncio, threading
            from asgibridge.sync import sync_to_async

            begun, go_on = threading.Event(), threading.Event()

            def work():
                begun.set()
                go_on.wait(20)
                print("done")

            async def main():
                task = asyncio.ensure_future(sync_to_async(work, thread_sensitive=False)())
                while not begun.is_set():
                    await asyncio.sleep(0)
                return task

            loop = asyncio.new_event_loop()
            task = loop.run_until_complete(main())
            threading.Timer(0.05, go_on.set).start()
            task.cancel()
            loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
            loop.close()
            print("leaving")
            """
        )
        == "leaving\ndone"
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_in_a_forked_child_it_begins_anew(script_output):
    assert (
        script_output(
            """
            import os, threading, warnings
            from asgibridge.pools import LoopExecutor

            warnings.simplefilter("ignore", DeprecationWarning)  # of a fork with threads
            executor = LoopExecutor()
            assert executor.submit(int).result(10) == 0
            child = os.fork()
            if child == 0:
                try:
                    assert [executor.submit(pow, 2, i).result(5) for i in range(3)] == [1, 2, 4]
                    executor.shutdown()
                    print("child", flush=True)
                    os._exit(0)
                finally:
                    os._exit(1)
            assert os.waitpid(child, 0)[1] == 0
            assert executor.submit(int).result(10) == 0
            executor.shutdown()
            print("parent")
            """
        )
        == "child\nparent"
    )


def test_collected_in_a_cycle():
    executor = LoopExecutor()
    executor.cycle = executor
    executor.submit(int).result(SECONDS)
    (thread,) = executor._threads
    del executor
    gc.collect()
    thread.join(SECONDS)
    assert not thread.is_alive()


class TestWhatEscapesACall:
    """Such as SystemExit from a done callback: it costs nobody else anything."""

    def test_is_reported_and_the_pool_goes_on(self, monkeypatch):
        reported = []
        monkeypatch.setattr(threading, "excepthook", lambda hook: reported.append(hook.exc_type))

        def leave(_future):
            raise SystemExit

        async def main():
            loop = asyncio.get_running_loop()
            call = sync_to_async(int, thread_sensitive=False)
            assert await call() == 0
            executor = pools.executor_of(loop)
            go_on = threading.Event()
            future = executor.submit(go_on.wait, 10)
            waiting = asyncio.wrap_future(future)
            future.add_done_callback(
                leave
            )  # after that of the waiting, or that would not be called
            go_on.set()
            assert await asyncio.wait_for(waiting, 10)
            assert [await call() for _ in range(20)] == [0] * 20
            assert await loop.run_in_executor(None, int) == 0

        asyncio.run(main())
        assert reported == [SystemExit]
