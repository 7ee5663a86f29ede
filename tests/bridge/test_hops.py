"""What a hop looks like from the event loop: to tasks, to cancellation, and to its descriptors."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import sys
import threading

import pytest

from asgibridge import IMPLEMENTATION
from asgibridge.sync import async_to_sync, sync_to_async

C_TASK = asyncio.Task
PYTHON_TASK = asyncio.tasks._PyTask


def tasks_of(kind):
    return lambda loop, coroutine, **options: kind(coroutine, loop=loop, **options)


def in_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    thread.join(10)


def run_and_deliver(call):
    call.run()
    call.deliver()


FACTORIES = {"C": tasks_of(C_TASK), "Python": tasks_of(PYTHON_TASK)}
if sys.version_info >= (3, 12):
    FACTORIES["eager"] = asyncio.eager_task_factory


@pytest.fixture(params=list(FACTORIES))
def factory(request):
    return FACTORIES[request.param]


class TestTasks:
    def test_are_woken_with_the_value_in_their_own_context(self, kernel, factory):
        variable = contextvars.ContextVar("variable", default=None)

        async def main():
            loop = asyncio.get_running_loop()
            loop.set_task_factory(factory)
            calls = [kernel.SyncCall(loop, lambda n=n: (n, n)) for n in range(10)]

            async def wait(n):
                variable.set(n)
                value = await calls[n]
                assert (variable.get(), value) == (n, (n, n))

            tasks = [loop.create_task(wait(n)) for n in range(10)]
            await asyncio.sleep(0)
            in_thread(lambda: [run_and_deliver(call) for call in calls])
            await asyncio.wait_for(asyncio.gather(*tasks), 10)
            assert variable.get() is None

        asyncio.run(main())

    @pytest.mark.parametrize("debug", [False, True])
    def test_cancelled_and_cancelled_again_stop_waiting_at_once(self, kernel, factory, debug):
        async def main():
            loop = asyncio.get_running_loop()
            loop.set_task_factory(factory)
            call = kernel.SyncCall(loop, int)
            caught = []

            async def wait():
                for _ in range(2):
                    try:
                        await call
                    except asyncio.CancelledError as error:
                        caught.append(error.args)
                return await call

            task = loop.create_task(wait())
            await asyncio.sleep(0)
            for n in range(2):
                assert task.cancel(f"message {n}")
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                assert len(caught) == n + 1
            assert not call.done()
            in_thread(lambda: run_and_deliver(call))
            assert await asyncio.wait_for(task, 10) == 0

        asyncio.run(main(), debug=debug)

    def test_cancelled_twice_in_a_turn_are_cancelled_once_and_again(self, kernel, factory):
        """As anyio's cancel scopes do at every turn: the second finds the wait over."""

        async def main():
            loop = asyncio.get_running_loop()
            loop.set_task_factory(factory)
            call = kernel.SyncCall(loop, int)
            task = loop.create_task(self._await(call))
            await asyncio.sleep(0)
            task.cancel()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert call.revoke()

        asyncio.run(main())

    @staticmethod
    async def _await(call):
        return await call

    def test_dropped_in_the_middle_leave_the_call_alone(self, kernel):
        async def main():
            loop = asyncio.get_running_loop()
            call = kernel.SyncCall(loop, int)
            coroutine = self._await(call)
            coroutine.send(None)
            coroutine.close()
            other = self._await(call)
            other.send(None)
            with pytest.raises(ZeroDivisionError):
                other.throw(ZeroDivisionError())
            in_thread(lambda: run_and_deliver(call))
            return await asyncio.wait_for(self._await(call), 10)

        assert asyncio.run(main()) == 0


@pytest.mark.parametrize("earlier", [0, 10])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_task_that_ends_the_loop_does_not_lose_the_others(kernel, error, earlier):
    loop = asyncio.new_event_loop()
    woken = []

    async def wait(n, call):
        woken.append((n, await call))
        if n == 1:
            raise error

    async def start():
        for _ in range(earlier):
            call = kernel.SyncCall(loop, int)
            run_and_deliver(call)
            await call
        calls = [kernel.SyncCall(loop, lambda n=n: n) for n in range(4)]
        tasks = [loop.create_task(wait(n, call)) for n, call in enumerate(calls)]
        await asyncio.sleep(0)
        return calls, tasks

    try:
        calls, tasks = loop.run_until_complete(start())
        in_thread(lambda: [run_and_deliver(call) for call in calls])
        with pytest.raises(error):
            loop.run_until_complete(asyncio.wait(tasks))
        loop.run_until_complete(asyncio.wait_for(asyncio.wait(tasks), 10))
        assert [n for n, _ in woken] == [0, 1, 2, 3]
        assert type(tasks[1].exception()) is error
    finally:
        loop.close()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts the descriptors in /proc")
class TestDescriptors:
    def test_of_others_are_not_closed_by_a_channel_that_never_was(self, kernel):
        """Its numbers would all be 0, and that is standard input."""
        ours, theirs = os.pipe()
        kept = os.dup(0)
        try:
            os.dup2(ours, 0)
            with pytest.raises(TypeError):
                kernel.WakeChannel()
            gc.collect()
            os.fstat(0)
        finally:
            os.dup2(kept, 0)
            for descriptor in (kept, ours, theirs):
                os.close(descriptor)

    @staticmethod
    def count():
        return len(os.listdir("/proc/self/fd"))

    @staticmethod
    async def calls(kernel, number=10):
        loop = asyncio.get_running_loop()
        for _ in range(number):
            call = kernel.SyncCall(loop, int)
            in_thread(lambda call=call: run_and_deliver(call))
            await asyncio.wait_for(asyncio.ensure_future(TestTasks._await(call)), 10)
        return kernel.SyncCall(loop, int)

    def test_are_closed_with_the_loop(self, kernel, no_gc):
        asyncio.run(self.calls(kernel))
        asyncio.run(asyncio.sleep(0))
        before = self.count()
        for _ in range(20):
            asyncio.run(self.calls(kernel))
        assert self.count() <= before + 1  # the last loop's may be in this thread's cache

    def test_stay_open_as_long_as_a_call_is_in_flight(self, kernel, tmp_path):
        """Else a late worker would write to whatever was opened under that number since."""
        late = asyncio.run(self.calls(kernel))
        asyncio.run(asyncio.sleep(0))
        files = [open(tmp_path / str(n), "w+b") for n in range(20)]  # noqa: SIM115
        try:
            in_thread(lambda: run_and_deliver(late))
            assert [os.fstat(file.fileno()).st_size for file in files] == [0] * 20
        finally:
            for file in files:
                file.close()

    def test_do_not_multiply_where_a_thread_alternates_between_loops(self, kernel):
        loops = [asyncio.new_event_loop() for _ in range(2)]
        try:
            for loop in loops * 2:
                loop.run_until_complete(self.calls(kernel))
            before = self.count()
            for loop in loops * 10:
                loop.run_until_complete(self.calls(kernel))
            assert self.count() <= before
        finally:
            for loop in loops:
                loop.close()
        gc.collect()


def test_callbacks_of_a_closed_loop_are_refused(kernel):
    """By the way of the calls as by the loop's own: who posts them must go elsewhere."""
    refused = []

    async def main():
        loop = asyncio.get_running_loop()
        return kernel.SyncCall(loop, lambda: kernel.call_soon(loop, print))

    call = asyncio.run(main())
    call.run()

    async def outcome():
        try:
            await call
        except RuntimeError as error:
            refused.append(str(error))

    call.wake()
    with pytest.raises(StopIteration):
        outcome().send(None)
    assert refused == ["Event loop is closed"]


def test_callbacks_run_in_a_copy_of_the_posting_context(kernel):
    variable = contextvars.ContextVar("variable", default=None)

    async def main():
        loop = asyncio.get_running_loop()
        seen = loop.create_future()

        def work():
            variable.set("worker's")
            kernel.call_soon(loop, lambda: (seen.set_result(variable.get()), variable.set("x")))
            return variable.get()

        call = kernel.SyncCall(loop, work)
        in_thread(lambda: run_and_deliver(call))
        assert await asyncio.wait_for(seen, 10) == "worker's"
        assert await call == "worker's"
        assert variable.get() is None

    asyncio.run(main())


class TestFirstStepOfAWorkersCoroutine:
    """It is taken in the loop's turn that gets the call, or in the next where tasks are not made
    as usual."""

    @pytest.fixture(autouse=True)
    def turns(self, monkeypatch):
        """In which turns of the loop tasks have been made, since `begins_at_once` looks."""
        self.turn, self.made_in = 0, []
        test = self

        class Task(asyncio.Task):
            def __init__(self, *args, **options):
                test.made_in.append(test.turn)
                super().__init__(*args, **options)

        monkeypatch.setattr(asyncio.tasks, "Task", Task)

    def begins_at_once(self, prepare=lambda loop: None, made=()):
        """Whether it does, and how many tasks were made for it in the way that ``prepare`` set."""

        async def begin():
            assert asyncio.current_task() in asyncio.all_tasks()
            return self.turn

        async def main():
            loop = asyncio.get_running_loop()
            run_once = loop._run_once

            def count():
                self.turn += 1
                run_once()

            loop._run_once = count
            await asyncio.sleep(0)
            prepare(loop)
            began_in = await sync_to_async(async_to_sync(begin))()
            return began_in == self.made_in[-1], len(made)

        return asyncio.run(main())

    def test_at_once(self):
        assert self.begins_at_once() == (True, 0)

    def test_with_a_task_factory(self):
        made = []

        def factory(loop, coroutine, **options):
            made.append(coroutine)
            return asyncio.tasks.Task(coroutine, loop=loop, **options)

        assert self.begins_at_once(lambda loop: loop.set_task_factory(factory), made) == (False, 1)

    def test_with_a_create_task_of_somebodys(self):
        made = []

        def prepare(loop):
            original = loop.create_task
            loop.create_task = lambda *args, **options: made.append(1) or original(*args, **options)

        assert self.begins_at_once(prepare, made) == (False, 1)

    def test_in_debug_mode(self):
        assert self.begins_at_once(lambda loop: loop.set_debug(True)) == (False, 0)


class TestATaskGoesOn:
    """Which differs between the kernels, as docs/differences.md says."""

    @staticmethod
    def turns_and_waiter(debug):
        """How often a hop asks the loop for a turn, and what its task waits for meanwhile."""

        async def main():
            loop = asyncio.get_running_loop()
            await sync_to_async(int)()
            turns = []
            call_soon = loop.call_soon
            loop.call_soon = lambda *args, **options: (
                turns.append(args) or call_soon(*args, **options)
            )
            await sync_to_async(int)()
            del loop.call_soon
            let_go = threading.Event()
            task = loop.create_task(sync_to_async(let_go.wait)(10))
            await asyncio.sleep(0)
            waiter = task._fut_waiter
            let_go.set()
            assert await task
            return len(turns), waiter

        loop = asyncio.SelectorEventLoop()
        try:
            loop.set_debug(debug)
            return loop.run_until_complete(main())
        finally:
            loop.close()

    @pytest.mark.skipif(IMPLEMENTATION != "speedups", reason="the compiled kernel's way")
    def test_in_the_callback_that_brings_the_result(self):
        turns, waiter = self.turns_and_waiter(False)
        assert turns == 0
        assert asyncio.isfuture(waiter)
        assert not isinstance(waiter, asyncio.Future)

    @pytest.mark.skipif(IMPLEMENTATION != "pure", reason="the pure kernel's way")
    def test_in_a_turn_of_its_own(self):
        turns, waiter = self.turns_and_waiter(False)
        assert turns == 1
        assert isinstance(waiter, asyncio.Future)

    def test_in_a_turn_of_its_own_in_debug_mode(self):
        assert self.turns_and_waiter(True)[0] == 1
