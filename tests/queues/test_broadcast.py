"""`Broadcast`, `Reader` and `Latest`: each of their rules, for threads and tasks."""

from __future__ import annotations

import asyncio
import copy
import gc
import inspect
import os
import pickle
import signal
import sys
import textwrap
import threading
import weakref
from collections.abc import Coroutine

import pytest

import queues
from asgibridge.queue import (
    Broadcast,
    Latest,
    QueueEmpty,
    QueueFull,
    QueueShutDown,
    Reader,
    ReaderLagged,
)
from queues import (
    SECONDS,
    InterruptedLoop,
    abandoned,
    in_thread,
    on_loop,
    run,
    running_loop,
    step,
    until,
)


def rest(reader):
    try:
        return reader.get_many_nowait()
    except QueueEmpty:
        return []


class Item:
    pass


class TestGet:
    """What `Reader.get` returns is awaited, and treated otherwise, as any coroutine."""

    @staticmethod
    def reader_of(*items):
        broadcast = Broadcast()
        reader = broadcast.subscribe()
        for item in items:
            broadcast.put_nowait(item)
        return broadcast, reader

    @pytest.mark.parametrize(
        "item",
        [None, 1, (1, 2), StopIteration(3), ValueError(), StopAsyncIteration, NotImplemented],
    )
    def test_returns_any_item(self, item):
        async def main():
            again = reader.get()
            return [await reader.get(), await asyncio.ensure_future(reader.get()), await again]

        _, reader = self.reader_of(item, item, item)
        for got in run(main):
            assert got is item

    def test_is_a_coroutine_to_all_that_ask(self):
        _, reader = self.reader_of(1)
        assert inspect.iscoroutinefunction(reader.get)
        assert inspect.iscoroutinefunction(Reader.get)
        get = reader.get()
        assert inspect.isawaitable(get)
        assert isinstance(get, Coroutine)
        assert asyncio.iscoroutine(get)
        assert "get" in get.__qualname__
        get.close()

    def test_runs_in_every_way(self):
        async def main(get):
            return await asyncio.wait_for(get, SECONDS)

        _, reader = self.reader_of(1, 2, 3)
        assert asyncio.run(reader.get()) == 1
        assert run(lambda: main(reader.get())) == 2
        with pytest.raises(StopIteration) as raised:
            reader.get().send(None)
        assert raised.value.value == 3

    def test_stays_what_it_was_when_its_end_is_kept(self):
        async def main():
            return [await reader.get() for _ in range(2)]

        _, reader = self.reader_of(1, 2, 3, 4)
        kept = []
        for _ in range(2):
            try:
                next(reader.get().__await__())
            except StopIteration as end:
                kept.append(end)
        assert run(main) == [3, 4]
        assert [end.value for end in kept] == [1, 2]

    def test_lets_its_item_go(self):
        async def main():
            item = await reader.get()
            found = weakref.ref(item)
            del item
            gc.collect()
            return found()

        _, reader = self.reader_of(Item())
        assert run(main) is None

    def test_takes_nothing_before_it_is_awaited(self):
        _, reader = self.reader_of(1)
        with pytest.warns(RuntimeWarning, match="was never awaited"):
            assert reader.get() is not None
        closed = reader.get()
        closed.close()
        thrown = reader.get()
        with pytest.raises(KeyError):
            thrown.throw(KeyError("x"))
        sent = reader.get()
        with pytest.raises(TypeError, match="non-None value"):
            sent.send(1)
        sent.close()
        assert reader.qsize() == 1

    def test_cannot_be_awaited_twice(self):
        async def main():
            get = reader.get()
            await get
            for again in (lambda: get, lambda: asyncio.ensure_future(get)):
                with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
                    await again()
            with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
                get.throw(KeyError("x"))
            get.close()

        _, reader = self.reader_of(1, 2)
        run(main)
        assert reader.qsize() == 1

    def test_that_waits_can_be_closed_and_thrown_into(self):
        async def main():
            for end in ("close", "throw", "drop"):
                get = reader.get()
                get.send(None)
                assert broadcast.getting == 1
                if end == "close":
                    get.close()
                elif end == "throw":
                    with pytest.raises(KeyError):
                        get.throw(KeyError("x"))
                del get
                gc.collect()
                assert broadcast.getting == 0
            broadcast.put_nowait(1)
            return await reader.get()

        broadcast, reader = self.reader_of()
        assert run(main) == 1

    def test_that_is_cancelled_before_its_first_step(self):
        async def main():
            task = asyncio.ensure_future(reader.get())
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        _, reader = self.reader_of(1)
        run(main)
        assert reader.qsize() == 1

    def test_frees_one_place_at_a_time(self):
        async def main():
            puts = [asyncio.ensure_future(broadcast.put(item)) for item in (3, 4)]
            await asyncio.sleep(0)
            for done in (1, 2):
                await slow.get()
                await quick.get()
                await until_waiting(2 - done)
            await asyncio.gather(*puts)

        async def until_waiting(n):
            while broadcast.putting != n:
                await asyncio.sleep(0)

        broadcast = Broadcast(2)
        slow, quick = broadcast.subscribe(), broadcast.subscribe()
        broadcast.put_nowait(1)
        broadcast.put_nowait(2)
        run(main)
        assert rest(slow) == rest(quick) == [3, 4]


class TestReaders:
    def test_each_gets_all_that_is_put_after_it_came(self, loop):
        broadcast = Broadcast()
        broadcast.put_nowait("nobody's")
        first = broadcast.subscribe()
        broadcast.put_nowait(1)
        second = broadcast.subscribe()
        broadcast.sync_put(2)
        on_loop(loop, broadcast.put(3)).result(SECONDS)
        assert broadcast.readers == 2
        assert [first.get_nowait() for _ in range(3)] == [1, 2, 3]
        assert second.qsize() == 2
        assert second.sync_get() == 2
        assert on_loop(loop, second.get()).result(SECONDS) == 3
        for reader in (first, second):
            assert reader.qsize() == 0
            with pytest.raises(QueueEmpty):
                reader.get_nowait()
            with pytest.raises(QueueEmpty):
                reader.sync_get(timeout=0.001)
            with pytest.raises(QueueEmpty):
                reader.sync_get(block=False)

    def test_wait_in_threads_and_tasks(self, loop):
        broadcast = Broadcast()
        with running_loop() as other:
            readers = [broadcast.subscribe() for _ in range(6)]
            futures = [in_thread(each.sync_get) for each in readers[:2]]
            futures += [on_loop(loop, each.get()) for each in readers[2:4]]
            futures += [on_loop(other, each.get()) for each in readers[4:]]
            until(lambda: broadcast.getting == 6)
            broadcast.put_nowait("x")
            assert [future.result(SECONDS) for future in futures] == ["x"] * 6
            assert broadcast.getting == 0

    def test_many_items_at_once(self, loop):
        broadcast = Broadcast()
        with broadcast.subscribe() as reader:
            for item in range(10):
                broadcast.put_nowait(item)
            assert reader.get_many_nowait(2) == [0, 1]
            assert reader.sync_get_many(3) == [2, 3, 4]
            assert on_loop(loop, reader.get_many(2)).result(SECONDS) == [5, 6]
            assert reader.get_many_nowait() == [7, 8, 9]
            with pytest.raises(QueueEmpty):
                reader.get_many_nowait()
            with pytest.raises(ValueError, match="n=0"):
                reader.get_many_nowait(0)
            future = on_loop(loop, reader.get_many())
            until(lambda: broadcast.getting)
            broadcast.put_nowait(10)
            assert future.result(SECONDS) == [10]

    def test_a_reader_that_two_share_gives_each_item_once(self):
        async def main():
            broadcast = Broadcast()
            with broadcast.subscribe() as reader:
                tasks = [asyncio.create_task(reader.get()) for _ in range(3)]
                await step()
                for item in range(3):
                    broadcast.put_nowait(item)
                assert sorted(await asyncio.gather(*tasks)) == [0, 1, 2]

        run(main)

    def test_who_waits_behind_one_that_shares_a_reader_is_told(self):
        """The first two wait for the same item; whoever does not get it waits on, and the third
        gets its own."""

        async def main():
            broadcast = Broadcast()
            with broadcast.subscribe() as shared, broadcast.subscribe() as other:
                both = [asyncio.create_task(shared.get()) for _ in range(2)]
                await step()
                third = asyncio.create_task(other.get())
                await step()
                broadcast.put_nowait(1)
                assert await third == 1
                await step()
                assert sorted(task.done() for task in both) == [False, True]
                broadcast.put_nowait(2)
                assert sorted(await asyncio.gather(*both)) == [1, 2]

        run(main)

    def test_iterate_until_the_end(self, loop):
        broadcast = Broadcast()

        async def collect(reader):
            async with reader:
                return [item async for item in reader]

        def collect_in_thread(reader):
            with reader:
                return list(reader)

        readers = [broadcast.subscribe() for _ in range(2)]
        futures = [
            in_thread(collect_in_thread, readers[0]),
            on_loop(loop, collect(readers[1])),
        ]
        for item in range(500):
            broadcast.put_nowait(item)
        broadcast.shutdown()
        for future in futures:
            assert future.result(SECONDS) == list(range(500))
        assert broadcast.readers == 0

    def test_are_no_more_when_they_are_closed(self, loop):
        broadcast = Broadcast()
        with broadcast.subscribe() as reader:
            broadcast.put_nowait(1)
            assert not reader.closed
        assert reader.closed
        assert broadcast.readers == 0
        assert reader.qsize() == 0
        reader.close()
        for get in (reader.get_nowait, reader.sync_get, reader.get_many_nowait):
            with pytest.raises(QueueShutDown):
                get()
        with pytest.raises(QueueShutDown):
            on_loop(loop, reader.get()).result(SECONDS)
        assert list(reader) == []

    def test_a_close_ends_the_gets_that_wait(self, loop):
        broadcast = Broadcast()
        reader, other = broadcast.subscribe(), broadcast.subscribe()
        futures = [on_loop(loop, other.get()), in_thread(reader.sync_get)]
        futures.append(on_loop(loop, reader.get_many(max_wait=SECONDS)))
        until(lambda: broadcast.getting == 3)
        reader.close()
        for future in futures[1:]:
            with pytest.raises(QueueShutDown):
                future.result(SECONDS)
        until(lambda: broadcast.getting == 1)
        broadcast.put_nowait(1)
        assert futures[0].result(SECONDS) == 1

    def test_have_no_copies(self):
        broadcast = Broadcast()
        for thing in (broadcast, broadcast.subscribe(), Latest()):
            for copied in (copy.copy, copy.deepcopy, pickle.dumps):
                with pytest.raises(TypeError, match="cannot be copied or pickled"):
                    copied(thing)

    def test_show_what_they_are(self):
        broadcast = Broadcast(3)
        reader = broadcast.subscribe()
        assert "maxsize=3 readers=1" in repr(broadcast)
        assert isinstance(reader, Reader)
        broadcast.close()
        assert "shut down" in repr(broadcast)


class TestArguments:
    def test_that_are_none(self):
        for wrong in ("blocks", "", None):
            with pytest.raises(ValueError, match="lag="):
                Broadcast(lag=wrong)
        with pytest.raises(ValueError, match="replay=-1"):
            Broadcast(replay=-1)
        with pytest.raises(ValueError, match="must not be more than maxsize"):
            Broadcast(2, replay=3)
        with pytest.raises(TypeError):
            Broadcast("3")
        with pytest.raises(TypeError):
            Broadcast(replay=1.5)
        broadcast = Broadcast()
        with pytest.raises(ValueError, match="replay=-1"):
            broadcast.subscribe(-1)
        with pytest.raises(ValueError, match="timeout="):
            broadcast.subscribe().sync_get(timeout=-1)
        with pytest.raises(ValueError, match="timeout="):
            broadcast.sync_put(1, timeout=-1)
        gc.collect()
        assert broadcast.readers == 0

    def test_an_event_loops_thread_does_not_wait(self):
        async def main():
            broadcast = Broadcast(1)
            with broadcast.subscribe() as reader:
                with pytest.raises(RuntimeError, match="block the event loop"):
                    reader.sync_get()
                broadcast.sync_put(1)
                with pytest.raises(RuntimeError, match="block the event loop"):
                    broadcast.sync_put(2)
                assert reader.sync_get() == 1

        run(main)


class TestBlock:
    def test_a_put_waits_for_the_slowest_reader(self, loop):
        broadcast = Broadcast(2)
        fast, slow = broadcast.subscribe(), broadcast.subscribe()
        for item in (0, 1):
            broadcast.put_nowait(item)
        assert fast.get_many_nowait() == [0, 1]
        with pytest.raises(QueueFull):
            broadcast.put_nowait(2)
        with pytest.raises(QueueFull):
            broadcast.sync_put(2, timeout=0.001)
        with pytest.raises(QueueFull):
            broadcast.sync_put(2, block=False)
        with pytest.raises(QueueFull):
            broadcast.sync_put(2, blocking=False)
        futures = [in_thread(broadcast.sync_put, 2)]
        until(lambda: broadcast.putting == 1)
        futures.append(on_loop(loop, broadcast.put(3)))
        until(lambda: broadcast.putting == 2)
        assert broadcast.qsize() == 2
        assert slow.get_nowait() == 0
        futures[0].result(SECONDS)
        assert slow.get_nowait() == 1
        futures[1].result(SECONDS)
        assert [slow.sync_get(), slow.sync_get()] == [2, 3]
        assert [fast.sync_get(), fast.sync_get()] == [2, 3]
        assert (slow.missed, fast.missed) == (0, 0)

    def test_a_newcomer_passes_no_put_that_waits(self):
        broadcast = Broadcast(1)
        with broadcast.subscribe() as reader:
            broadcast.put_nowait(0)
            with abandoned(broadcast.put(1), lambda: broadcast.putting):
                assert reader.get_nowait() == 0
                with pytest.raises(QueueFull):
                    broadcast.put_nowait(2)

    @pytest.mark.parametrize("end", ["close", "del"])
    def test_the_end_of_the_slowest_reader_lets_the_put_go_on(self, end):
        broadcast = Broadcast(1)
        fast, slow = broadcast.subscribe(), broadcast.subscribe()
        broadcast.put_nowait(0)
        assert fast.get_nowait() == 0
        future = in_thread(broadcast.sync_put, 1)
        until(lambda: broadcast.putting)
        if end == "close":
            slow.close()
        else:
            del slow
            gc.collect()
        future.result(SECONDS)
        assert fast.get_nowait() == 1

    def test_without_a_reader_nothing_waits(self):
        broadcast = Broadcast(1)
        for item in range(5):
            broadcast.put_nowait(item)
        assert broadcast.qsize() == 0

    def test_a_put_that_is_cancelled_has_put_nothing(self):
        async def main():
            broadcast = Broadcast(1)
            with broadcast.subscribe() as reader:
                broadcast.put_nowait(0)
                tasks = [asyncio.create_task(broadcast.put(each)) for each in (1, 2)]
                await step()
                assert reader.get_nowait() == 0  # which promises the room to the first
                tasks[0].cancel()
                await asyncio.wait(tasks)
                assert tasks[0].cancelled()
                assert reader.get_nowait() == 2

        run(main)

    def test_a_loop_that_was_closed_leaves_its_room(self):
        broadcast = Broadcast(1)
        with broadcast.subscribe() as reader:
            broadcast.put_nowait(0)
            with abandoned(broadcast.put(1), lambda: broadcast.putting) as closed:
                assert reader.get_nowait() == 0
                closed.close()
                broadcast.put_nowait(2)
                assert reader.get_nowait() == 2


class TestDropOldest:
    def test_a_reader_that_lags_loses_its_oldest(self):
        broadcast = Broadcast(3, lag="drop_oldest")
        slow, fast = broadcast.subscribe(), broadcast.subscribe()
        for item in range(10):
            broadcast.put_nowait(item)
            assert fast.get_nowait() == item
        assert (slow.missed, fast.missed) == (7, 0)
        assert slow.qsize() == 3
        assert slow.get_many_nowait() == [7, 8, 9]
        broadcast.put_nowait(10)
        assert slow.get_nowait() == 10
        assert slow.missed == 7

    def test_readers_that_lag_at_different_places(self):
        broadcast = Broadcast(2, "drop_oldest")
        readers = []
        for item in range(6):
            readers.append(broadcast.subscribe())
            broadcast.put_nowait(item)
        assert [reader.missed for reader in readers] == [4, 3, 2, 1, 0, 0]
        readers[1].close()
        assert [rest(reader) for reader in readers[:1] + readers[2:]] == [[4, 5]] * 4 + [[5]]
        broadcast.put_nowait(6)
        assert [rest(reader) for reader in readers[2:]] == [[6]] * 4
        assert broadcast.qsize() == 1
        assert rest(readers[0]) == [6]
        assert broadcast.qsize() == 0

    @pytest.mark.parametrize("close", [False, True])
    def test_one_that_lags_and_never_looks_again(self, close):
        broadcast = Broadcast(2, "drop_oldest")
        slow = broadcast.subscribe()
        for item in range(5):
            broadcast.put_nowait(item)
        if close:
            slow.close()
            assert slow.missed == 3
        del slow
        gc.collect()
        assert (broadcast.readers, broadcast.qsize()) == (0, 0)

    def test_puts_never_wait(self, loop):
        broadcast = Broadcast(1, "drop_oldest")
        with broadcast.subscribe() as reader:
            for item in range(3):
                broadcast.put_nowait(item)
                broadcast.sync_put(item)
                on_loop(loop, broadcast.put(item)).result(SECONDS)
            assert reader.get_many_nowait() == [2]


class TestDisconnect:
    def test_a_reader_that_lags_is_ended(self, loop):
        broadcast = Broadcast(3, lag="disconnect")
        slow, fast = broadcast.subscribe(), broadcast.subscribe()
        for item in range(4):
            broadcast.put_nowait(item)
            assert fast.get_nowait() == item
        assert broadcast.readers == 1
        assert slow.closed
        for get in (slow.get_nowait, slow.sync_get, slow.get_many_nowait, slow.sync_get_many):
            with pytest.raises(ReaderLagged, match="3 items behind"):
                get()
        for get in (slow.get, slow.get_many):
            with pytest.raises(ReaderLagged):
                on_loop(loop, get()).result(SECONDS)
        with pytest.raises(ReaderLagged):
            list(slow)
        assert slow.qsize() == 0
        slow.close()
        with pytest.raises(QueueShutDown):
            slow.get_nowait()
        broadcast.put_nowait(4)
        assert fast.get_nowait() == 4
        assert broadcast.readers == 1

    def test_others_keep_what_they_need(self):
        broadcast = Broadcast(3, "disconnect")
        slowest, slow = broadcast.subscribe(), broadcast.subscribe()
        broadcast.put_nowait(0)
        assert slow.get_nowait() == 0
        for item in (1, 2, 3):
            broadcast.put_nowait(item)
        with pytest.raises(ReaderLagged):
            slowest.get_nowait()
        assert slow.get_many_nowait() == [1, 2, 3]
        del slowest
        gc.collect()
        assert broadcast.readers == 1

    def test_late_comers_do_not_bring_it_back(self):
        broadcast = Broadcast(3, "disconnect", replay=3)
        slow = broadcast.subscribe()
        for item in range(5):
            broadcast.put_nowait(item)
        late = broadcast.subscribe()
        assert broadcast.readers == 1
        with pytest.raises(ReaderLagged):
            slow.get_nowait()
        assert late.get_many_nowait() == [2, 3, 4]


class TestReplay:
    def test_late_comers_get_the_last_ones(self):
        broadcast = Broadcast(replay=3)
        early = broadcast.subscribe()
        for item in range(5):
            broadcast.put_nowait(item)
        assert rest(broadcast.subscribe()) == [2, 3, 4]
        assert rest(broadcast.subscribe(2)) == [3, 4]
        assert rest(broadcast.subscribe(0)) == []
        assert rest(broadcast.subscribe(10**30)) == [0, 1, 2, 3, 4]  # as long as `early` needs them
        assert rest(early) == [0, 1, 2, 3, 4]
        assert rest(broadcast.subscribe(10)) == [2, 3, 4]

    def test_with_no_reader_yet(self):
        broadcast = Broadcast(2, replay=2)
        assert rest(broadcast.subscribe()) == []
        for item in range(9):
            broadcast.put_nowait(item)
        assert rest(broadcast.subscribe()) == [7, 8]

    @pytest.mark.parametrize("lag", ["block", "drop_oldest", "disconnect"])
    def test_a_late_comer_counts_from_where_it_stands(self, lag):
        broadcast = Broadcast(2, lag, replay=2)
        for item in range(4):
            broadcast.put_nowait(item)
        late = broadcast.subscribe()
        if lag == "block":
            with pytest.raises(QueueFull):
                broadcast.put_nowait(4)
            assert late.get_nowait() == 2
            broadcast.put_nowait(4)
            assert rest(late) == [3, 4]
        else:
            broadcast.put_nowait(4)
            if lag == "drop_oldest":
                assert rest(late) == [3, 4]
                assert late.missed == 1
            else:
                with pytest.raises(ReaderLagged):
                    late.get_nowait()

    def test_after_the_end(self):
        broadcast = Broadcast(replay=2)
        broadcast.put_nowait(1)
        broadcast.shutdown()
        assert list(broadcast.subscribe()) == [1]
        broadcast.shutdown(immediate=True)
        assert list(broadcast.subscribe()) == []


class TestShutdown:
    @pytest.mark.parametrize("immediate", [False, True])
    def test_ends_all_who_wait(self, loop, immediate):
        broadcast = Broadcast(1)
        full, empty = broadcast.subscribe(), broadcast.subscribe()
        broadcast.put_nowait(0)
        assert empty.get_nowait() == 0
        futures = [in_thread(empty.sync_get), on_loop(loop, empty.get())]
        futures += [in_thread(broadcast.sync_put, 1), on_loop(loop, broadcast.put(2))]
        until(lambda: broadcast.getting == 2 and broadcast.putting == 2)
        broadcast.shutdown(immediate)
        for future in futures:
            with pytest.raises(QueueShutDown):
                future.result(SECONDS)
        assert broadcast.is_shutdown
        with pytest.raises(QueueShutDown):
            broadcast.put_nowait(3)
        if not immediate:
            assert full.qsize() == 1
            assert full.get_nowait() == 0
        with pytest.raises(QueueShutDown):
            full.get_nowait()
        with pytest.raises(QueueShutDown):
            on_loop(loop, full.get_many()).result(SECONDS)
        broadcast.shutdown(immediate)
        for reader in (full, empty):
            reader.close()

    @pytest.mark.parametrize("lag", ["block", "drop_oldest", "disconnect"])
    def test_at_once_with_readers_anywhere(self, lag):
        broadcast = Broadcast(2, lag)
        readers = [broadcast.subscribe() for _ in range(2)]
        for item in range(3 if lag != "block" else 2):
            broadcast.put_nowait(item)
            rest(readers[0])
        broadcast.close()
        for reader in readers:
            assert list(reader) == []
            reader.close()
        assert (broadcast.readers, broadcast.qsize()) == (0, 0)


class TestCancellation:
    @pytest.mark.parametrize("get", ["get", "get_many"])
    def test_of_a_get_takes_nothing(self, get):
        async def main():
            broadcast = Broadcast()
            with broadcast.subscribe() as reader:
                task = asyncio.create_task(getattr(reader, get)())
                await step()
                task.cancel()
                await step()
                assert task.cancelled()
                assert broadcast.getting == 0
                task = asyncio.create_task(getattr(reader, get)())
                await step()
                broadcast.put_nowait("x")
                task.cancel()  # it has been told, and has not looked
                await step()
                assert task.cancelled()
                assert reader.get_nowait() == "x"

        run(main)

    def test_another_who_shares_the_reader_gets_it(self):
        async def main():
            broadcast = Broadcast()
            with broadcast.subscribe() as reader:
                tasks = [asyncio.create_task(reader.get()) for _ in range(2)]
                await step()
                broadcast.put_nowait("x")
                tasks[0].cancel()
                assert await tasks[1] == "x"

        run(main)

    def test_of_a_loop_that_was_closed(self):
        broadcast = Broadcast()
        with broadcast.subscribe() as reader:
            with abandoned(reader.get(), lambda: broadcast.getting) as closed:
                other = in_thread(reader.sync_get)
                until(lambda: broadcast.getting == 2)
                closed.close()
                broadcast.put_nowait("x")
                assert other.result(SECONDS) == "x"
                assert broadcast.getting == 0

    @pytest.mark.thread_unsafe(reason="whoever notes a loop asks this one, too")
    def test_in_the_loops_code_that_is_called_to_wake(self):
        """A get that is interrupted while it wakes a put has taken nothing."""

        for get in ("get_nowait", "get_many_nowait"):
            for replay in (0, 2):
                broadcast, loop = Broadcast(2, replay=replay), InterruptedLoop()
                thread = threading.Thread(target=loop.run_forever)
                thread.start()
                try:
                    with broadcast.subscribe() as reader, broadcast.subscribe() as fast:
                        broadcast.put_nowait("a")
                        broadcast.put_nowait("b")
                        assert fast.get_many_nowait() == ["a", "b"]
                        future = on_loop(loop, broadcast.put("c"))
                        until(lambda: broadcast.putting)
                        loop.interrupted = True
                        with pytest.raises(KeyboardInterrupt):
                            getattr(reader, get)()
                        future.result(SECONDS)
                        assert reader.get_many_nowait() == ["a", "b", "c"]
                        assert (reader.missed, fast.get_nowait()) == (0, "c")
                        assert broadcast.qsize() == 0
                finally:
                    loop.call_soon_threadsafe(loop.stop)
                    thread.join(SECONDS)
                    loop.close()


class TestMemory:
    @pytest.mark.parametrize("readers", [1, 3, 200])
    def test_an_item_goes_when_the_last_reader_has_got_it(self, readers, no_gc):
        broadcast = Broadcast()
        all_ = [broadcast.subscribe() for _ in range(readers)]
        for round_ in range(200):
            item = Item()
            alive = weakref.ref(item)
            broadcast.put_nowait(item)
            del item
            for reader in all_:
                assert alive() is not None
                reader.get_nowait()
            assert alive() is None, round_

    def test_an_item_goes_when_its_last_reader_goes(self, no_gc):
        broadcast = Broadcast()
        first, second = broadcast.subscribe(), broadcast.subscribe()
        alive = []
        for _ in range(100):
            item = Item()
            alive.append(weakref.ref(item))
            broadcast.put_nowait(item)
        del item
        rest(first)
        second.close()
        assert not any(each() for each in alive)

    def test_an_item_goes_when_it_is_dropped(self, no_gc):
        for lag in ("drop_oldest", "disconnect"):
            broadcast = Broadcast(1, lag)
            reader = broadcast.subscribe()
            item = Item()
            alive = weakref.ref(item)
            broadcast.put_nowait(item)
            del item
            broadcast.put_nowait(None)
            assert alive() is None
            reader.close()
            broadcast = Broadcast()
            reader = broadcast.subscribe()
            broadcast.put_nowait(Item())
            alive = weakref.ref(broadcast.subscribe(1).get_nowait())
            broadcast.close()
            assert alive() is None

    def test_a_slow_reader_in_the_middle_of_many_items(self):
        """Through all of what the storage does to keep small."""
        broadcast = Broadcast()
        slow, fast, middle = (broadcast.subscribe() for _ in range(3))
        n, read = 0, {slow: 0, fast: 0, middle: 0}
        for size in (1, 70, 300, 5, 2000, 0, 129, 64, 1000):
            for _ in range(size):
                broadcast.put_nowait(n)
                n += 1
            for reader, share in ((fast, 1), (middle, 2), (slow, 3)):
                for _ in range((n - read[reader]) // share):
                    assert reader.get_nowait() == read[reader]
                    read[reader] += 1
        for reader, got in read.items():
            assert rest(reader) == list(range(got, n))

    @pytest.mark.not_quick
    def test_does_not_depend_on_the_number_of_readers(self):
        tracemalloc = pytest.importorskip("tracemalloc")  # PyPy has none

        def bytes_for(readers):
            broadcast = Broadcast()
            all_ = [broadcast.subscribe() for _ in range(readers)]
            gc.collect()
            tracemalloc.start()
            try:
                for item in range(20_000):
                    broadcast.put_nowait(item)
                return tracemalloc.get_traced_memory()[0] / 20_000
            finally:
                tracemalloc.stop()
                del all_

        assert bytes_for(100) <= bytes_for(1) + 8

    def test_cycles_are_found(self):
        broadcast = Broadcast()
        reader = broadcast.subscribe()
        alive = weakref.ref(broadcast), weakref.ref(reader)
        broadcast.put_nowait(reader)
        del broadcast, reader
        gc.collect()
        assert [each() for each in alive] == [None, None]


class TestHostileItems:
    def test_finalizers_that_put_and_close(self):
        broadcast = Broadcast(2, "drop_oldest")
        reader = broadcast.subscribe()

        class Putter:
            def __init__(self, other):
                self.other = other

            def __del__(self):
                self.other.close()
                broadcast.put_nowait("from a finalizer")

        for _ in range(3):
            broadcast.put_nowait(Putter(broadcast.subscribe()))
        assert "from a finalizer" in rest(reader)
        gc.collect()
        rest(reader)
        gc.collect()
        rest(reader)
        assert (broadcast.readers, broadcast.qsize()) == (1, 0)

    def test_the_collector_at_any_moment(self):
        """Finalizers put, and close readers, in the middle of each step."""
        broadcast, got, rounds = Broadcast(), [], 300
        reader = broadcast.subscribe()

        class Cycle:
            def __init__(self):
                self.me = self
                self.other = broadcast.subscribe()

            def __del__(self):
                broadcast.put_nowait("finalizer's")
                self.other.close()

        before = gc.get_threshold()
        gc.set_threshold(1)
        try:
            for item in range(rounds):
                Cycle()
                broadcast.put_nowait(item)
                got += rest(reader)
        finally:
            gc.set_threshold(*before)
        gc.collect()
        got += rest(reader)
        assert [item for item in got if item != "finalizer's"] == list(range(rounds))
        assert got.count("finalizer's") == rounds
        assert (broadcast.readers, broadcast.qsize()) == (1, 0)

    @pytest.mark.thread_unsafe(reason="signals go to the main thread")
    @pytest.mark.skipif(sys.platform == "win32", reason="no such signal")
    def test_a_signal_handler_at_any_moment(self):
        broadcast = Broadcast(maxsize=50, lag="drop_oldest")
        reader, late = broadcast.subscribe(), []

        def handler(*_):
            broadcast.put_nowait(-1)
            if late:
                late.pop().close()

        before = signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
        got = []
        try:
            for item in range(3000):
                if not late and item % 7 == 0:
                    late.append(broadcast.subscribe())
                broadcast.put_nowait(item)
                got += rest(reader)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        got += rest(reader)
        assert [item for item in got if item >= 0] == list(range(3000))
        assert reader.missed == 0
        del late[:]
        gc.collect()
        assert (broadcast.readers, broadcast.qsize()) == (1, 0)


class TestFork:
    pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

    PRELUDE = """
        import os, sys, warnings
        sys.path.insert(0, sys.argv[1])
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads
        from asgibridge.queue import *
        from queues import *
    """

    def test_the_child_has_the_readers_and_none_of_the_waiting_threads(self, script_output):
        body = """
            broadcast = Broadcast(2)
            behind, waits = broadcast.subscribe(), broadcast.subscribe()
            broadcast.put_nowait(1)
            assert waits.get_nowait() == 1
            future = in_thread(waits.sync_get)
            until(lambda: broadcast.getting)

            def check():
                assert broadcast.getting == 0
                broadcast.put_nowait(2)
                assert waits.get_nowait() == 2
                putting = in_thread(broadcast.sync_put, 3)
                until(lambda: broadcast.putting)
                assert behind.get_many_nowait() == [1, 2]
                putting.result(SECONDS)
                assert in_thread(waits.sync_get).result(SECONDS) == 3
                behind.close()
                broadcast.put_nowait(4)
                assert waits.sync_get() == 4

            in_child(check)
            broadcast.put_nowait("parent's")
            assert future.result(SECONDS) == "parent's"
            assert behind.get_many_nowait() == [1, "parent's"]
        """
        source = textwrap.dedent(self.PRELUDE) + textwrap.dedent(body)
        assert script_output(source, os.path.dirname(queues.__file__)) == ""


def test_at_exit_a_daemon_may_wait_at_a_reader(script_output):
    source = """
        import threading, sys
        sys.path.insert(0, sys.argv[1])
        from asgibridge.queue import Broadcast
        from queues import until
        broadcast = Broadcast(1)
        reader = broadcast.subscribe()
        threading.Thread(target=reader.sync_get, daemon=True).start()
        until(lambda: broadcast.getting)
        full = Broadcast(1)
        kept = full.subscribe()
        full.put_nowait(1)
        threading.Thread(target=full.sync_put, args=(2,), daemon=True).start()
        until(lambda: full.putting)
    """
    assert script_output(source, os.path.dirname(queues.__file__)) == ""


class TestLatest:
    def test_is_the_newest(self, loop):
        latest = Latest()
        with pytest.raises(QueueEmpty):
            latest.get_nowait()
        with pytest.raises(QueueEmpty):
            latest.sync_get(timeout=0.001)
        futures = [on_loop(loop, latest.get()), in_thread(latest.sync_get)]
        until(lambda: latest.getting == 2)
        latest.put_nowait(1)
        assert [future.result(SECONDS) for future in futures] == [1, 1]
        latest.sync_put(2)
        on_loop(loop, latest.put(3)).result(SECONDS)
        for _ in range(2):
            assert latest.get_nowait() == 3
            assert latest.sync_get() == 3
            assert on_loop(loop, latest.get()).result(SECONDS) == 3
        assert latest.readers == 0

    def test_a_newer_one_is_waited_for(self, loop):
        latest = Latest()
        latest.put_nowait(1)
        futures = [on_loop(loop, latest.get_newer()), in_thread(latest.sync_get_newer)]
        until(lambda: latest.getting == 2)
        latest.put_nowait(2)
        assert [future.result(SECONDS) for future in futures] == [2, 2]
        with pytest.raises(QueueEmpty):
            latest.sync_get_newer(timeout=0.001)

    def test_a_reader_sees_each_change_that_it_is_in_time_for(self):
        latest = Latest()
        latest.put_nowait(1)
        with latest.subscribe() as reader:
            assert reader.get_nowait() == 1
            with pytest.raises(QueueEmpty):
                reader.get_nowait()
            for value in range(2, 6):
                latest.put_nowait(value)
            assert reader.get_nowait() == 5
            assert reader.missed == 3

    def test_ends(self):
        async def main():
            latest = Latest()

            async def watch():
                async with latest.subscribe() as reader:
                    return [value async for value in reader]

            task = asyncio.create_task(watch())
            await step()
            for value in range(3):
                latest.put_nowait(value)
                await step()
            latest.shutdown()
            assert await task == [0, 1, 2]
            assert latest.get_nowait() == 2

        run(main)
