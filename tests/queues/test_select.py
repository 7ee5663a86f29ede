"""`select` and `sync_select`: the first item of several queues."""

from __future__ import annotations

import asyncio
import gc
import os
import textwrap
import threading
import weakref

import pytest

import queues
from asgibridge import _pure
from asgibridge._process import greenlets
from asgibridge.queue import (
    Broadcast,
    Latest,
    LifoQueue,
    MessageQueue,
    PriorityQueue,
    QueueEmpty,
    QueueShutDown,
    ReaderLagged,
    SelectTimeout,
    open_channel,
    select,
    sync_select,
)
from queues import (
    SECONDS,
    InterruptedLoop,
    abandoned,
    in_thread,
    on_loop,
    run,
    step,
    until,
)


@pytest.fixture(params=["thread", "task"])
def start(request, loop):
    """Starts a select, in a thread or a task."""
    if request.param == "thread":
        return lambda *args, **kwargs: in_thread(sync_select, *args, **kwargs)
    return lambda *args, **kwargs: on_loop(loop, select(*args, **kwargs))


def waiting(start, *sources, **kwargs):
    before = [each.getting for each in sources]
    future = start(*sources, **kwargs)
    until(lambda: all(each.getting > then for each, then in zip(sources, before)))
    return future


class Item:
    pass


class TestItems:
    def test_that_are_there(self, start):
        a, b = MessageQueue(), MessageQueue()
        b.put_nowait(1)
        assert start(a, b).result(SECONDS) == (b, 1)
        a.put_nowait(None)
        assert start(a, b).result(SECONDS) == (a, None)
        assert a.empty()
        assert b.empty()

    def test_that_are_waited_for(self, start):
        a, b = MessageQueue(), MessageQueue()
        for queue in (a, b, b, a):
            future = waiting(start, a, b)
            queue.put_nowait("x")
            assert future.result(SECONDS) == (queue, "x")
            assert (a.getting, b.getting) == (0, 0)

    def test_only_one_is_taken(self, start):
        many = [MessageQueue() for _ in range(10)]
        for queue in many:
            queue.put_nowait(1)
        start(*many).result(SECONDS)
        assert sum(queue.qsize() for queue in many) == 9

    def test_what_is_promised_by_others_goes_to_the_next(self):
        """Both queues get an item before the task looks: one item stays."""

        async def main():
            a, b = MessageQueue(), MessageQueue()
            task = asyncio.create_task(select(a, b))
            await step()
            other = asyncio.create_task(b.get())
            await step()
            a.put_nowait("a")
            b.put_nowait("b")
            queue, item = await task
            if queue is a:
                assert item == "a"
                assert await other == "b"
            else:
                assert item == "b"
                a_item = a.get_nowait()
                assert a_item == "a"
                b.put_nowait("more")
                assert await other == "more"
            assert (a.getting, b.getting, a.qsize(), b.qsize()) == (0, 0, 0, 0)

        run(main)

    def test_each_queue_is_the_first_as_often(self):
        many = [MessageQueue() for _ in range(6)]
        counts = dict.fromkeys(many, 0)
        del counts[many[0]], counts[many[4]]
        for queue in counts:
            for item in range(400):
                queue.put_nowait(item)
        for _ in range(400):
            queue, _item = sync_select(*many)
            counts[queue] += 1
        assert min(counts.values()) > 40  # less than one in 10^11 runs is less lucky

    def test_waiters_are_served_in_order(self, start, loop):
        a, b = MessageQueue(), MessageQueue()
        first = on_loop(loop, a.get())
        until(lambda: a.getting == 1)
        second = waiting(start, a, b)
        third = on_loop(loop, a.get())
        until(lambda: a.getting == 3)
        for item, future in enumerate([first, second, third]):
            a.put_nowait(item)
            assert future.result(SECONDS) in (item, (a, item))

    def test_one_queue_and_the_same_twice(self, start):
        queue = MessageQueue()
        future = waiting(start, queue)
        queue.put_nowait(1)
        assert future.result(SECONDS) == (queue, 1)
        future = start(queue, queue)
        until(lambda: queue.getting == 2)
        queue.put_nowait(1)
        queue.put_nowait(2)
        assert future.result(SECONDS) == (queue, 1)
        assert queue.getting == 0
        assert queue.get_nowait() == 2

    def test_room_is_made_for_puts_that_wait(self, start, loop):
        a, b = MessageQueue(1), MessageQueue()
        a.put_nowait(0)
        future = on_loop(loop, a.put(1))
        until(lambda: a.putting)
        assert start(a, b).result(SECONDS) == (a, 0)
        future.result(SECONDS)
        assert a.get_nowait() == 1


class TestSources:
    def test_of_each_kind(self, start):
        broadcast, latest = Broadcast(), Latest()
        sender, receiver = open_channel()
        reader, watcher = broadcast.subscribe(), latest.subscribe()
        plain, lifo, heap = MessageQueue(), LifoQueue(), PriorityQueue()
        sources = [
            (plain, plain.put_nowait),
            (lifo, lifo.put_nowait),
            (heap, heap.put_nowait),
            (plain.sync_q, plain.put_nowait),
            (plain.async_q, plain.put_nowait),
            (reader, broadcast.put_nowait),
            (watcher, latest.put_nowait),
            (receiver, sender.send_nowait),
        ]
        all_ = [source for source, _ in sources]
        for source, put in sources:
            future = start(*all_[:3], *all_[5:])
            until(lambda: broadcast.getting and plain.getting and heap.getting and lifo.getting)
            put("x")
            found, item = future.result(SECONDS)
            assert item == "x"
            assert found is source or source in all_[3:5]
            for view in all_[3:5]:
                plain.put_nowait("y")
                assert start(view).result(SECONDS) == (view, "y")
        assert (broadcast.getting, latest.getting, plain.getting) == (0, 0, 0)

    def test_a_reader_that_lags(self, start):
        broadcast, queue = Broadcast(1, "disconnect"), MessageQueue()
        reader = broadcast.subscribe()
        broadcast.put_nowait(1)
        broadcast.put_nowait(2)
        with pytest.raises(ReaderLagged):
            start(reader, queue).result(SECONDS)

    def test_a_reader_that_others_share(self):
        async def main():
            broadcast, queue = Broadcast(), MessageQueue()
            with broadcast.subscribe() as reader:
                get = asyncio.create_task(reader.get())
                await step()
                task = asyncio.create_task(select(reader, queue))
                await step()
                broadcast.put_nowait(1)
                assert await get == 1
                await step()
                assert not task.done()
                assert (broadcast.getting, queue.getting) == (1, 1)
                broadcast.put_nowait(2)
                assert await task == (reader, 2)

        run(main)

    def test_that_are_none(self, start):
        for wrong in (None, asyncio.Queue, "ab", Broadcast()):
            with pytest.raises(TypeError, match="takes message queues"):
                start(MessageQueue(), wrong).result(SECONDS)
        with pytest.raises(TypeError, match="at least one"):
            start().result(SECONDS)
        with pytest.raises(ValueError, match="timeout="):
            start(MessageQueue(), timeout=-1).result(SECONDS)

    def test_no_event_loop(self):
        queue = MessageQueue()
        coroutine = select(queue)
        with pytest.raises(RuntimeError, match="no running event loop"):
            coroutine.send(None)
        assert queue.getting == 0

    def test_an_event_loops_thread_does_not_wait(self):
        async def main():
            queue = MessageQueue()
            with pytest.raises(RuntimeError, match=r"await select\("):
                sync_select(queue)
            with pytest.raises(SelectTimeout):
                sync_select(queue, timeout=0)
            queue.put_nowait(1)
            assert sync_select(queue) == (queue, 1)
            assert queue.getting == 0

        run(main)


class TestTimeOuts:
    @pytest.mark.parametrize("timeout", [0, 0.01])
    def test_take_nothing(self, start, timeout):
        a, b = MessageQueue(), MessageQueue()
        for error in (SelectTimeout, QueueEmpty, TimeoutError):
            with pytest.raises(error):
                start(a, b, timeout=timeout).result(SECONDS)
        assert (a.getting, b.getting) == (0, 0)
        a.put_nowait(1)
        assert start(a, b, timeout=timeout).result(SECONDS) == (a, 1)

    def test_that_are_not_over(self, start):
        a, b = MessageQueue(), MessageQueue()
        future = waiting(start, a, b, timeout=SECONDS)
        b.put_nowait(1)
        assert future.result(SECONDS) == (b, 1)

    def test_what_comes_in_the_last_moment_is_got(self):
        async def main():
            a, b = MessageQueue(), MessageQueue()
            loop = asyncio.get_running_loop()
            task = asyncio.create_task(select(a, b, timeout=0.02))
            await step()
            loop.call_later(0.02, b.put_nowait, 1)
            await asyncio.sleep(0.05)
            if task.exception() is None:
                assert task.result() == (b, 1)
            else:
                assert b.get_nowait() == 1
            assert (a.getting, b.getting) == (0, 0)

        run(main)


class TestShutdown:
    def test_a_queue_that_is_shut_down_takes_no_part(self, start):
        a, b = MessageQueue(), MessageQueue()
        a.put_nowait(1)
        a.shutdown()
        assert start(a, b).result(SECONDS) == (a, 1)
        future = start(a, b)
        until(lambda: b.getting)
        assert a.getting == 0
        b.put_nowait(2)
        assert future.result(SECONDS) == (b, 2)

    @pytest.mark.parametrize("immediate", [False, True])
    def test_while_it_is_waited_for(self, start, immediate):
        a, b = MessageQueue(), MessageQueue()
        future = waiting(start, a, b)
        a.shutdown(immediate)
        b.put_nowait(1)
        assert future.result(SECONDS) == (b, 1)
        future = start(a, b)
        until(lambda: b.getting)
        b.shutdown(immediate)
        with pytest.raises(QueueShutDown):
            future.result(SECONDS)
        with pytest.raises(QueueShutDown):
            start(a, b).result(SECONDS)

    def test_of_readers_and_channels(self, start):
        broadcast = Broadcast()
        reader = broadcast.subscribe()
        sender, receiver = open_channel()
        future = start(reader, receiver)
        until(lambda: broadcast.getting)
        broadcast.shutdown()
        sender.close()
        with pytest.raises(QueueShutDown):
            future.result(SECONDS)

    def test_what_is_cleared_is_waited_for_again(self):
        async def main():
            a, b = MessageQueue(), MessageQueue()
            task = asyncio.create_task(select(a, b))
            await step()
            a.put_nowait(1)
            a.clear()
            await step()
            assert not task.done()
            a.put_nowait(2)
            assert await task == (a, 2)

        run(main)


class TestCancellation:
    @pytest.mark.parametrize("first", ["put", "cancel"])
    def test_takes_nothing(self, first):
        async def main():
            a, b = MessageQueue(), MessageQueue()
            task = asyncio.create_task(select(a, b))
            await step()
            others = [asyncio.create_task(each.get()) for each in (a, b)]
            await step()
            if first == "put":
                a.put_nowait("a")
                b.put_nowait("b")
                task.cancel()
            else:
                task.cancel()
                a.put_nowait("a")
                b.put_nowait("b")
            assert await asyncio.gather(*others) == ["a", "b"]
            assert task.cancelled()
            assert (a.getting, b.getting) == (0, 0)

        run(main)

    def test_with_a_time_out_that_runs(self):
        async def main():
            a, b = MessageQueue(), MessageQueue()
            task = asyncio.create_task(select(a, b, timeout=SECONDS))
            await step()
            a.put_nowait(1)
            task.cancel()
            await step()
            assert task.cancelled()
            assert a.get_nowait() == 1

        run(main)

    @pytest.mark.parametrize("put", [False, True])
    def test_of_a_loop_that_was_closed(self, put):
        a, b = MessageQueue(), MessageQueue()
        with abandoned(select(a, b), lambda: a.getting and b.getting) as closed:
            if put:
                a.put_nowait(1)
                with pytest.raises(QueueEmpty):
                    a.get_nowait()
            closed.close()
            if not put:
                a.put_nowait(1)
            assert a.sync_get(timeout=SECONDS) == 1
            b.put_nowait(2)
            assert b.sync_get(timeout=SECONDS) == 2

    @pytest.mark.thread_unsafe(reason="whoever notes a loop asks this one, too")
    def test_interrupted_while_others_are_let_go(self):
        """Code of an event loop raises while what was promised beside it is handed on."""

        for _ in range(20):  # which queue is asked first is drawn
            a, b = MessageQueue(), MessageQueue()
            theirs = InterruptedLoop()
            thread = threading.Thread(target=theirs.run_forever)
            thread.start()
            mine = asyncio.new_event_loop()
            try:
                task = mine.create_task(select(a, b))
                mine.run_until_complete(step())
                others = []
                for queue in (a, b):
                    others.append(on_loop(theirs, queue.get()))
                    until(lambda queue=queue: queue.getting == 2)
                a.put_nowait("a")
                b.put_nowait("b")
                theirs.interrupted = True
                with pytest.raises(KeyboardInterrupt):
                    mine.run_until_complete(task)
                assert others[0].result(SECONDS) == "a"
                assert others[1].result(SECONDS) == "b"
                assert (a.getting, b.getting, a.qsize(), b.qsize()) == (0, 0, 0, 0)
            finally:
                theirs.call_soon_threadsafe(theirs.stop)
                thread.join(SECONDS)
                theirs.close()
                mine.close()


class TestReferences:
    def test_nothing_stays_of_a_wait(self, no_gc):
        async def main():
            a, b = MessageQueue(), MessageQueue()
            for end in ("item", "cancel", "time"):
                task = asyncio.create_task(select(a, b, timeout=0.001 if end == "time" else None))
                await step()
                if end == "item":
                    a.put_nowait(Item())
                    alive = weakref.ref((await task)[1])
                    del task
                    await step()
                    assert alive() is None
                elif end == "cancel":
                    task.cancel()
                    await step()
                    del task
                else:
                    with pytest.raises(SelectTimeout):
                        await task
                    del task
            await step()
            alive = weakref.ref(a), weakref.ref(b)
            del a, b
            await step()
            gc.collect()
            assert [each() for each in alive] == [None, None]

        run(main)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_no_waits_of_the_parents_threads(script_output):
    source = """
        import os, sys, warnings
        sys.path.insert(0, sys.argv[1])
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads
        from asgibridge.queue import *
        from queues import *
        a, b = MessageQueue(), MessageQueue()
        future = in_thread(sync_select, a, b)
        until(lambda: a.getting and b.getting)
        child = os.fork()
        if not child:
            assert (a.getting, b.getting) == (0, 0)
            a.put_nowait(1)
            assert sync_select(b, a) == (a, 1)
            other = in_thread(sync_select, a, b)
            until(lambda: a.getting and b.getting)
            b.put_nowait(2)
            os._exit(7 if other.result(SECONDS) == (b, 2) else 1)
        assert os.WEXITSTATUS(os.waitpid(child, 0)[1]) == 7
        b.put_nowait("x")
        assert future.result(SECONDS) == (b, "x")
    """
    assert script_output(textwrap.dedent(source), os.path.dirname(queues.__file__)) == ""


def test_who_is_rung_twice_before_it_sleeps_is_awake():
    """A thread whose time-out ends its sleep looks while somebody else is about to ring it."""
    core = _pure.QueueCore()
    waiter = core._getting()
    waiter.sleep_lock = greenlets.make_sleep_lock()
    for _ in range(2):
        assert core._advance(waiter)
        assert waiter.ring()
    assert waiter.sleep(None)
    assert not waiter.sleep(0)
    core._withdraw(waiter)
