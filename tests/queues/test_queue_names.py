"""Code written for janus, culsans and the standard library: names, numbers, sizes, locks.

The names are compared with the installed janus and culsans.
"""

from __future__ import annotations

import asyncio
import copy
import importlib
import inspect
import math
import pickle
import queue as library
import threading
from concurrent.futures import TimeoutError as FutureTimeoutError
from decimal import Decimal
from fractions import Fraction

import pytest

import asgibridge.queue as ours
from asgibridge.limiters import CapacityLimiter, WouldBlock
from asgibridge.queue import (
    Grouper,
    LifoQueue,
    MessageQueue,
    PriorityQueue,
    QueueEmpty,
    QueueFull,
    RWLock,
    UnsupportedOperation,
)
from queues import SECONDS, in_thread, until

NOT_OURS = {"Any", "TYPE_CHECKING"}


def public(thing):
    names = getattr(thing, "__all__", None) or dir(thing)
    return {name for name in names if not name.startswith("_")} - NOT_OURS


@pytest.mark.parametrize("name", ["janus", "culsans"])
class TestNames:
    def test_of_the_module(self, name):
        module = importlib.import_module(name)
        theirs = {each for each in public(module) if not inspect.ismodule(getattr(module, each))}
        assert theirs - set(ours.__all__) == set()

    def test_of_the_classes(self, name):
        module = importlib.import_module(name)
        lost = [
            f"{cls}.{member}"
            for cls in public(module)
            if inspect.isclass(getattr(module, cls)) and issubclass(getattr(ours, cls), object)
            for member in public(getattr(module, cls))
            if not issubclass(getattr(module, cls), BaseException)
            and not hasattr(getattr(ours, cls), member)
        ]
        assert lost == []

    def test_parameters(self, name):
        module = importlib.import_module(name)
        lost = []
        for cls in sorted(public(module)):
            theirs, here = getattr(module, cls), getattr(ours, cls)
            if not inspect.isclass(theirs) or issubclass(theirs, BaseException):
                continue
            constructor = [] if getattr(theirs, "_is_protocol", False) else ["__init__"]
            for member in [*constructor, *sorted(public(theirs))]:
                function = getattr(theirs, member)
                if inspect.isfunction(function):
                    wanted = set(inspect.signature(function).parameters)
                    found = set(inspect.signature(getattr(here, member)).parameters)
                    lost += [f"{cls}.{member}({each}=)" for each in wanted - found]
        assert lost == []


class TestNumbers:
    @pytest.mark.parametrize(
        ("maxsize", "places"),
        [(1.3, 2), (1e3, 1000), (Decimal("2.5"), 3), (Fraction(4, 2), 2), (True, 1), (0.1, 1)],
    )
    def test_a_limit_that_is_no_int(self, maxsize, places):
        other = library.Queue(maxsize)
        queue = MessageQueue(maxsize)
        assert queue.maxsize == maxsize
        for _ in range(places):
            assert not queue.full()
            assert not other.full()
            queue.put_nowait(0)
            other.put_nowait(0)
        assert queue.full()
        assert other.full()
        with pytest.raises(QueueFull):
            queue.put_nowait(0)

    @pytest.mark.parametrize("maxsize", [math.inf, 2**63, 10**400, -math.inf, -(2**70), 0.0, -0.5])
    def test_a_limit_that_is_none(self, maxsize):
        queue = MessageQueue(maxsize)
        assert queue.maxsize == maxsize
        queue.put_nowait(0)
        assert not queue.full()
        queue.maxsize = 1
        assert queue.full()
        queue.sync_q.maxsize = maxsize
        assert not queue.full()

    @pytest.mark.parametrize("maxsize", ["3", None, 1j])
    def test_a_limit_that_is_no_number(self, maxsize):
        queue = MessageQueue(1)
        with pytest.raises(TypeError):
            MessageQueue(maxsize)
        with pytest.raises(TypeError):
            queue.maxsize = maxsize
        assert queue.maxsize == 1

    def test_the_limit_cannot_be_deleted(self):
        queue = MessageQueue(1)
        with pytest.raises(AttributeError):
            del queue.maxsize
        assert queue.maxsize == 1

    @pytest.mark.parametrize("n", [1.5, "1", [], math.inf])
    def test_how_many_is_an_int(self, n):
        queue = MessageQueue()
        queue.put_nowait(0)
        with pytest.raises(TypeError):
            queue.get_many_nowait(n)
        with pytest.raises(TypeError):
            queue.sync_get_many(n)
        with pytest.raises(TypeError):
            asyncio.run(queue.get_many(n))
        assert queue.qsize() == 1

    def test_how_many_may_be_more_than_there_are(self):
        queue = MessageQueue()
        for _ in range(3):
            queue.put_nowait(0)
        assert queue.get_many_nowait(True) == [0]
        assert queue.get_many_nowait(2**70) == [0, 0]

    @pytest.mark.parametrize("tokens", [2**63 - 1, 2**63, 10**30])
    def test_of_tokens(self, tokens):
        limiter = CapacityLimiter(tokens)
        assert limiter.total_tokens == tokens
        limiter.acquire_nowait()
        assert limiter.available_tokens == tokens - 1
        limiter.total_tokens = 1
        with pytest.raises(WouldBlock):
            limiter.acquire_on_behalf_of_nowait("other")
        limiter.total_tokens = tokens
        limiter.acquire_on_behalf_of_nowait("other")
        assert limiter.borrowed_tokens == 2

    @pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
    @pytest.mark.parametrize("cls", [MessageQueue, LifoQueue, PriorityQueue])
    def test_no_copy(self, cls, copied):
        with pytest.raises(TypeError, match="make a new one"):
            copied(cls())


class TestCulsans:
    def test_while_queue(self):
        queue = MessageQueue()
        for each in range(3):
            queue.put_nowait(each)
        for view in (queue, queue.sync_q, queue.async_q, queue.green_proxy, queue.async_proxy):
            assert view
            assert len(view) == view.size == 3
        got = []
        while queue:
            got.append(queue.get_nowait())
        assert got == [0, 1, 2]
        assert not queue
        assert not queue.sync_q
        assert not queue.async_q

    def test_green_and_async(self):
        queue = MessageQueue(2)

        async def main():
            await queue.async_put(1)
            assert await queue.async_peek() == 1
            assert await queue.async_get() == 1

        asyncio.run(main())
        queue.green_put(2, blocking=False)
        queue.green_put(3, timeout=SECONDS)
        with pytest.raises(QueueFull):
            queue.green_put(4, blocking=False)
        with pytest.raises(QueueFull):
            queue.green_proxy.put(4, blocking=False)
        assert queue.green_peek(blocking=True) == queue.green_proxy.peek() == 2
        assert queue.green_get() == 2
        assert queue.green_proxy.get(blocking=True) == 3
        with pytest.raises(QueueEmpty):
            queue.sync_q.get(blocking=False)
        for call in (queue.green_get, queue.sync_peek, queue.sync_q.get):
            with pytest.raises(ValueError, match="the same"):
                call(False, blocking=False)
        for _ in range(3):
            queue.task_done()
        queue.green_join()
        asyncio.run(queue.async_join())

    def test_peekable_and_clearable(self):
        queue = MessageQueue()
        assert queue.peekable()
        assert queue.clearable()
        assert queue.isize("abc") == queue.sync_q.isize("abc") == 1

    @pytest.mark.parametrize("cls", [MessageQueue, LifoQueue, PriorityQueue])
    def test_sizer(self, cls):
        theirs = getattr(importlib.import_module("culsans"), cls.__name__, None)
        queues = [cls(5, sizer=len)]
        queues.append((theirs or importlib.import_module("culsans").Queue)(5, sizer=len))
        for queue in queues:
            assert queue.isize("abc") == 3
            queue.put_nowait("abc")
            with pytest.raises(library.Full):
                queue.put_nowait("def")
            queue.put_nowait("de")
            assert (queue.size, queue.qsize(), queue.full()) == (5, 2, True)
            queue.put_nowait("")
            assert sorted(queue.get_nowait() for _ in range(3)) == ["", "abc", "de"]
            assert (queue.size, len(queue)) == (0, 0)
            queue.put_nowait("abc")
            queue.clear()
            assert (queue.size, len(queue)) == (0, 0)
            with pytest.raises(library.Full):
                queue.put_nowait("abcdef")

    def test_waiters_with_sizes_get_room_in_order(self):
        queue = MessageQueue(4, sizer=len)
        queue.put_nowait("ab")
        queue.put_nowait("cd")
        large = in_thread(queue.sync_put, "efg")
        until(lambda: queue.putting == 1)
        small = in_thread(queue.sync_put, "h")
        until(lambda: queue.putting == 2)
        assert queue.get_nowait() == "ab"
        assert queue.putting == 2  # the small one would fit
        assert queue.get_nowait() == "cd"
        large.result(SECONDS)
        small.result(SECONDS)
        assert queue.full()
        assert sorted(queue.get_many_nowait()) == ["efg", "h"]
        assert queue.size == 0

    def test_a_put_that_is_given_up_leaves_its_room(self):
        queue = MessageQueue(2, sizer=len)
        queue.put_nowait("ab")

        async def main():
            given_up = asyncio.ensure_future(queue.put("cd"))
            while not queue.putting:
                await asyncio.sleep(0)
            assert queue.get_nowait() == "ab"  # which promises the room
            given_up.cancel()
            await asyncio.wait([given_up])

        asyncio.run(main())
        queue.put_nowait("ef")
        assert queue.get_nowait() == "ef"

    def test_an_item_that_is_too_large_waits_for_a_larger_limit(self):
        queue = MessageQueue(2, sizer=len)
        future = in_thread(queue.sync_put, "abc")
        until(lambda: queue.putting)
        queue.maxsize = 3
        future.result(SECONDS)
        assert queue.size == 3

    def test_a_sizer_that_raises_puts_and_takes_nothing(self):
        sizes = {"a": 1}
        queue = MessageQueue(3, sizer=sizes.__getitem__)
        queue.put_nowait("a")
        for call in (queue.put_nowait, queue.sync_put, lambda item: asyncio.run(queue.put(item))):
            with pytest.raises(KeyError):
                call("b")
        assert len(queue) == 1
        del sizes["a"]
        with pytest.raises(KeyError):
            queue.get_nowait()
        assert len(queue) == 1
        sizes["a"] = 1
        assert queue.get_nowait() == "a"

    @pytest.mark.parametrize(("size", "error"), [(-1, ValueError), (1.5, TypeError)])
    def test_a_sizer_of_nonsense(self, size, error):
        queue = MessageQueue(3, sizer=lambda item: size)
        with pytest.raises(error):
            queue.put_nowait(0)
        assert not queue

    def test_a_sizer_that_uses_the_queue(self):
        queue = MessageQueue(3, sizer=lambda item: queue.put_nowait(item) or 1)
        with pytest.raises(RuntimeError, match="hook"):
            queue.put_nowait(0)
        assert not queue

    def test_a_subclass_with_sizes(self):
        class Sized(MessageQueue):
            def _isize(self, item):
                return item

        queue = Sized(10)
        queue.put_nowait(7)
        with pytest.raises(QueueFull):
            queue.put_nowait(4)
        assert queue.size == 7

    def test_a_subclass_that_keeps_each_item_once(self):
        class Unique(MessageQueue):
            def _init(self, maxsize):
                self.data = {}

            def _qsize(self):
                return len(self.data)

            def _put(self, item):
                self.data[item] = None

            def _get(self):
                item = next(iter(self.data))
                del self.data[item]
                return item

            def _isize(self, item):
                return 2

        queue = Unique()
        for item in "aab":
            queue.put_nowait(item)
        assert (queue.qsize(), queue.size, queue.unfinished_tasks) == (2, 4, 2)
        assert queue.get_many_nowait() == ["a", "b"]
        queue.task_done()
        queue.task_done()
        queue.sync_join()  # each was put once
        assert queue.size == 0


class TestMutexAndConditions:
    @pytest.mark.parametrize("cls", [MessageQueue, LifoQueue, PriorityQueue])
    def test_who_has_the_mutex_has_the_queue(self, cls):
        queue = cls()
        with queue.mutex:
            future = in_thread(queue.put_nowait, 1)
            with pytest.raises(FutureTimeoutError):
                future.result(0.05)
            assert queue.qsize() == 0
            queue.put_nowait(0)  # it is re-entrant
        future.result(SECONDS)
        assert sorted(queue.get_many_nowait()) == [0, 1]

    def test_join_with_a_time_out_as_it_is_often_written(self):
        queue = MessageQueue()
        queue.put_nowait(1)
        with queue.all_tasks_done:
            assert not queue.all_tasks_done.wait(0.001)
            future = in_thread(queue.task_done)  # for which it lets the mutex go
            while queue.unfinished_tasks:
                assert queue.all_tasks_done.wait(SECONDS)
        future.result(SECONDS)

    def test_join_with_a_time_out(self):
        queue = MessageQueue()
        queue.put_nowait(1)
        with pytest.raises(TimeoutError, match="not all items"):
            queue.sync_join(timeout=0.001)
        with pytest.raises(ValueError, match="timeout=-1"):
            queue.sync_join(timeout=-1)
        queue.task_done()
        queue.sync_join(timeout=SECONDS)

    def test_an_item(self):
        queue = MessageQueue()
        with queue.not_empty:
            assert not queue.not_empty.wait(0.001)
            future = in_thread(queue.put_nowait, 1)
            assert queue.not_empty.wait(SECONDS)
            assert queue.get_nowait() == 1
        future.result(SECONDS)
        queue.shutdown()
        with queue.not_empty:
            assert queue.not_empty.wait(SECONDS)

    def test_room(self):
        queue = MessageQueue(1)
        with queue.not_full, pytest.raises(UnsupportedOperation, match="sync_put"):
            queue.not_full.wait(1)
        with pytest.raises(RuntimeError):
            queue.not_empty.wait(1)  # without the mutex

    def test_items_that_are_put_by_hand(self):
        class Filled(MessageQueue):
            def _put(self, item):
                super()._put(item)

        queue = Filled()
        future = in_thread(queue.sync_get)
        until(lambda: queue.getting)
        with queue.mutex:
            queue.put_nowait(1)
            queue.not_empty.notify()
            queue.not_empty.notify_all()
        assert future.result(SECONDS) == 1


class TestOnAnEventLoopsThread:
    @pytest.mark.parametrize(
        ("name", "arguments"),
        [
            *[(name, ()) for name in ("sync_get", "sync_peek", "sync_get_many")],
            *[(name, ()) for name in ("green_get", "green_peek")],
        ],
    )
    def test_what_would_have_to_wait_is_refused(self, name, arguments):
        queue = MessageQueue(1)

        async def main():
            with pytest.raises(RuntimeError, match="await queue"):
                getattr(queue, name)(*arguments)
            with pytest.raises(RuntimeError, match="await queue"):
                getattr(queue, name)(timeout=1)
            for options in ({"timeout": 0}, {"block": False}):
                with pytest.raises(QueueEmpty):
                    getattr(queue, name)(**options)
            assert queue.waiting == 0
            queue.put_nowait(1)
            assert getattr(queue, name)() in (1, [1])

        asyncio.run(main())

    def test_puts_joins_views_and_iteration(self):
        queue = MessageQueue(1)

        async def main():
            with pytest.raises(RuntimeError, match=r"await queue\.get"):
                next(iter(queue))
            with pytest.raises(RuntimeError, match=r"await queue\.get"):
                queue.sync_q.get()
            queue.sync_join()
            queue.sync_put(1)
            with pytest.raises(RuntimeError, match=r"await queue\.put"):
                queue.sync_put(2)
            with pytest.raises(RuntimeError, match=r"await queue\.join"):
                queue.sync_join()
            with pytest.raises(QueueFull):
                queue.sync_put(2, timeout=0)
            assert (queue.waiting, queue.unfinished_tasks) == (0, 1)

        asyncio.run(main())
        assert queue.sync_get() == 1


@pytest.mark.timeout(SECONDS * 2)
class TestRWLock:
    def test_readers_share_and_a_writer_is_alone(self):
        lock = RWLock()

        def read():
            with lock.reading:
                return len(lock.owners) == 2

        with lock.reading:
            assert in_thread(read).result(SECONDS)
            assert not in_thread(lock.writing.green_acquire, blocking=False).result(SECONDS)
            assert lock.reading.green_owned()
            assert lock.locked()
            assert lock
            with pytest.raises(RuntimeError, match="begin to write"):
                lock.writing.green_acquire()
            with pytest.raises(RuntimeError, match="two sides"):
                lock.green_acquire()

    def test_a_writer_that_waits_keeps_new_readers_out(self):
        lock = RWLock()
        lock.reading.green_acquire()
        written, go_on = threading.Event(), threading.Event()

        def write():
            with lock.writing:
                written.set()
                assert go_on.wait(SECONDS)

        writer = in_thread(write)
        until(lambda: lock.waiting == 1)
        reader = in_thread(lambda: lock.reading.__enter__() and not written.is_set())
        until(lambda: lock.waiting == 2)
        with lock.reading:  # who reads already may go on
            assert lock.reading.green_count() == 2
        lock.reading.green_release()
        assert written.wait(SECONDS)
        assert not reader.done()
        go_on.set()
        writer.result(SECONDS)
        assert reader.result(SECONDS) is False

    def test_tasks_and_threads(self):
        lock = RWLock()
        order = []

        async def write(name):
            async with lock.writing:
                order.append(name)
                assert lock.async_owned("writing")
                assert not lock.async_owned("reading")
                async with lock.reading:  # who writes may read
                    assert lock.async_count() == 2

        async def main():
            await lock.reading.async_acquire()
            tasks = [asyncio.ensure_future(write(name)) for name in "abc"]
            while lock.waiting < 3:
                await asyncio.sleep(0)
            tasks[1].cancel()
            await asyncio.wait([tasks[1]])
            assert lock.waiting == 2
            with pytest.raises(RuntimeError, match="async_acquire"):
                lock.writing.green_acquire()
            assert lock.waiting == 2
            lock.reading.async_release()
            await asyncio.gather(tasks[0], tasks[2])

        asyncio.run(main())
        assert order == ["a", "c"]
        assert not lock.locked()
        assert not lock.owners
        assert not lock.groups

    def test_too_late(self):
        lock = RWLock()
        lock.reading.green_acquire()
        assert not in_thread(lock.writing.green_acquire, timeout=0.001).result(SECONDS)
        assert lock.waiting == 0
        lock.reading.green_release()
        with pytest.raises(RuntimeError, match="does not own"):
            lock.reading.green_release()


@pytest.mark.timeout(SECONDS * 2)
class TestGrouper:
    def test_a_group_enters_together(self):
        grouper = Grouper()
        grouper.green_acquire_on_behalf_of("a")
        waits = [in_thread(grouper.green_acquire_on_behalf_of, "b") for _ in range(3)]
        until(lambda: grouper.waiting == 3)
        assert set(grouper.groups) == {"a"}
        grouper.green_release_on_behalf_of("a")
        assert all(wait.result(SECONDS) for wait in waits)
        assert len(grouper.groups["b"]) == len(grouper.owners) == 3

    def test_own_groups(self):
        grouper = Grouper()
        with grouper:
            assert grouper.green_owned()
            assert grouper.green_count() == 1
            assert not in_thread(grouper.green_acquire, blocking=False).result(SECONDS)
            grouper.green_acquire(2)
            grouper.green_release(2)
            with pytest.raises(RuntimeError, match="acquired 1"):
                grouper.green_release(2)
            with pytest.raises(ValueError, match="count=0"):
                grouper.green_acquire(0)

        async def main():
            async with grouper:
                assert grouper.async_owned()
                assert grouper.async_count() == 1
                assert not await asyncio.ensure_future(grouper.async_acquire(blocking=False))

        asyncio.run(main())
        assert not grouper

    def test_a_factory_and_one_that_is_wrapped(self):
        grouper = Grouper(default_group_factory=lambda: "x")
        other = Grouper(grouper, default_group="y")
        assert other.wrapped is grouper
        assert other.mutex is grouper.mutex
        with grouper:
            assert not in_thread(other.green_acquire, blocking=False).result(SECONDS)
            assert in_thread(grouper.green_acquire, blocking=False).result(SECONDS)
        with pytest.raises(ValueError, match="give one"):
            Grouper(default_group=1, default_group_factory=list)
        with pytest.raises(ValueError, match="must be 'exclusive'"):
            Grouper(default_group_mode="both")
