"""What janus and culsans publish as usage, with nothing changed but the import."""

from __future__ import annotations

import asyncio

import anyio
import pytest

import asgibridge.queue as culsans
import asgibridge.queue as janus


def test_janus():
    def threaded(sync_q: janus.SyncQueue[int]) -> None:
        for i in range(100):
            sync_q.put(i)
        sync_q.join()

    async def async_coro(async_q: janus.AsyncQueue[int]) -> None:
        for i in range(100):
            val = await async_q.get()
            assert val == i
            async_q.task_done()

    async def main() -> None:
        queue: janus.Queue[int] = janus.Queue()
        loop = asyncio.get_running_loop()
        fut = loop.run_in_executor(None, threaded, queue.sync_q)
        await async_coro(queue.async_q)
        await fut
        await queue.aclose()
        assert queue.closed

    asyncio.run(main())


class TestCulsans:
    def test_example(self):
        def sync_run(sync_q: culsans.SyncQueue[int]) -> None:
            for i in range(100):
                sync_q.put(i)
            else:
                sync_q.join()

        async def async_run(async_q: culsans.AsyncQueue[int]) -> None:
            for i in range(100):
                value = await async_q.get()

                assert value == i

                async_q.task_done()

        async def main() -> None:
            queue: culsans.Queue[int] = culsans.Queue()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.to_thread.run_sync, sync_run, queue.sync_q)
                tasks.start_soon(async_run, queue.async_q)

            queue.shutdown()

        anyio.run(main)

    def test_growing_and_shrinking(self):
        async def main() -> None:
            async with anyio.create_task_group() as tasks:
                async_q = culsans.Queue(1).async_q

                for i in range(4):
                    tasks.start_soon(async_q.put, i)

                await anyio.wait_all_tasks_blocked()
                assert async_q.qsize() == 1

                async_q.maxsize = 2  # growing

                await anyio.wait_all_tasks_blocked()
                assert async_q.qsize() == 2

                async_q.maxsize = 1  # shrinking

                await anyio.wait_all_tasks_blocked()
                assert async_q.qsize() == 2

                async_q.get_nowait()

                await anyio.wait_all_tasks_blocked()
                assert async_q.qsize() == 1

                async_q.maxsize = 0  # now the queue size is infinite

                await anyio.wait_all_tasks_blocked()
                assert async_q.qsize() == 3

        anyio.run(main)

    def test_peek(self):
        sync_q = culsans.Queue().sync_q

        sync_q.put("spam")

        assert sync_q.peekable()
        assert sync_q.peek() == "spam"
        assert sync_q.peek_nowait() == "spam"
        assert sync_q.qsize() == 1

    def test_clear(self):
        async def main() -> None:
            async with anyio.create_task_group() as tasks:
                async_q = culsans.Queue(3).async_q

                for i in range(5):
                    tasks.start_soon(async_q.put, i)

                await anyio.wait_all_tasks_blocked()
                assert async_q.qsize() == 3
                assert async_q.clearable()

                async_q.clear()  # clearing

                await anyio.wait_all_tasks_blocked()
                assert async_q.qsize() == 2
                assert async_q.get_nowait() == 3
                assert async_q.get_nowait() == 4

        anyio.run(main)

    def test_subclasses(self):
        from asgibridge.queue import Queue

        class UniqueQueue(Queue):
            def _init(self, maxsize):
                self.data = set()

            def _qsize(self):
                return len(self.data)

            def _put(self, item):
                self.data.add(item)

            def _get(self):
                return self.data.pop()

            def _peekable(self):
                return False

            _peek = None

            def _clearable(self):
                return True

            def _clear(self):
                self.data.clear()

        sync_q = UniqueQueue().sync_q

        sync_q.put_nowait(23)
        sync_q.put_nowait(42)
        sync_q.put_nowait(23)

        assert sync_q.qsize() == 2
        assert sorted(sync_q.get_nowait() for _ in range(2)) == [23, 42]
        assert not sync_q.peekable()
        sync_q.put_nowait(1)
        with pytest.raises(culsans.UnsupportedOperation):
            sync_q.peek_nowait()
        sync_q.clear()
        assert sync_q.empty()


class TestViews:
    """The names that `queue.Queue` and `asyncio.Queue` have, and janus's and culsans's own."""

    def test_do_what_the_queue_does(self):
        queue = janus.MessageQueue(2)
        for view in (queue.sync_q, queue.async_q):
            assert (view.maxsize, view.empty(), view.full()) == (2, True, False)
            view.put_nowait(1)
            assert (view.qsize(), len(view), view.peek_nowait()) == (1, 1, 1)
            assert view.unfinished_tasks == 1
            assert (view.getting, view.putting, view.waiting) == (0, 0, 0)
            view.task_done()
            assert view.get_nowait() == 1
            view.put_nowait(2)
            view.clear()
            assert "MessageQueue" in repr(view)
        for name in ("put", "get", "put_nowait", "get_nowait", "join", "task_done", "shutdown"):
            assert callable(getattr(queue.sync_q, name))
            assert callable(getattr(queue.async_q, name))
        queue.sync_q.join()
        with pytest.raises(janus.SyncQueueEmpty):
            queue.sync_q.get(True, 0.001)
        with pytest.raises(janus.SyncQueueEmpty):
            queue.sync_q.get(block=False)
        queue.maxsize = 1
        queue.sync_q.put(1)
        with pytest.raises(janus.SyncQueueFull):
            queue.sync_q.put(2, timeout=0.001)

    def test_of_tasks(self):
        async def main():
            queue = janus.MessageQueue()
            await queue.async_q.put(1)
            assert await queue.async_q.peek() == 1
            assert await queue.async_q.get() == 1
            queue.async_q.task_done()
            await queue.async_q.join()
            queue.put_nowait(2)
            queue.async_q.shutdown()
            assert [item async for item in queue.async_q] == [2]
            assert queue.async_q.is_shutdown
            assert queue.async_q.closed
            with pytest.raises(janus.AsyncQueueShutDown):
                await queue.async_q.get()

        asyncio.run(main())

    def test_iteration_of_threads(self):
        queue = janus.LifoQueue()
        queue.put_nowait(1)
        queue.put_nowait(2)
        queue.sync_q.shutdown()
        assert list(queue.sync_q) == [2, 1]
        with pytest.raises(janus.SyncQueueShutDown):
            queue.sync_q.put(1)

    def test_closing(self):
        async def main():
            queue = janus.Queue()
            with pytest.raises(RuntimeError, match="non-closed"):
                await queue.wait_closed()
            queue.put_nowait(1)
            queue.close()
            await queue.wait_closed()
            assert queue.empty()

        asyncio.run(main())
