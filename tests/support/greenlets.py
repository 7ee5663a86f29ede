"""What the programs of the tests under gevent and under eventlet have in common."""

PATCHED_BY_GEVENT = """
    import warnings
    warnings.simplefilter("ignore")  # gevent's own, and those of asyncio.run in a running loop
    from gevent import monkey; monkey.patch_all()
    import gevent
"""
PATCHED_BY_EVENTLET = """
    import warnings
    warnings.simplefilter("ignore")  # eventlet's own, and those of asyncio.run in a running loop
    import eventlet
    eventlet.monkey_patch()
"""
"""Each is the begin of a program; `PROGRAM` follows, and perhaps `AT_ONCE`."""

PROGRAM = """
    import asyncio, threading, time
    import asgibridge
    from asgibridge.sync import ThreadSensitiveContext, async_to_sync, sync_to_async

    async def view(n):
        await asyncio.sleep(0.01)
        return await sync_to_async(lambda: (n, threading.current_thread()))()
"""

AT_ONCE = """
    from asgibridge.iterators import async_to_sync_iterator, sync_to_async_iterator
    from asgibridge.queue import MessageQueue
    from asgibridge.sync import AsyncSingleThreadContext

    seen = []

    def sync_code():
        try:
            seen.append(asyncio.get_running_loop())
        except RuntimeError:  # what Django asks before each query
            pass
        return threading.get_ident()

    def blocking(n):
        time.sleep(0.001)
        sync_code()
        return n

    async def innermost(n):
        await asyncio.sleep(0.001)
        await sync_to_async(sync_code)()
        return n

    async def view(n, here):
        assert await sync_to_async(sync_code)() == here
        assert await sync_to_async(sync_code, thread_sensitive=False)() != here
        assert await sync_to_async(async_to_sync(innermost))(n) == n
        calls = [sync_to_async(blocking, thread_sensitive=False)(i) for i in range(3)]
        assert await asyncio.gather(*calls) == [0, 1, 2]
        async with ThreadSensitiveContext():
            await sync_to_async(sync_code)()
        assert [i async for i in sync_to_async_iterator(range(3))] == [0, 1, 2]
        return n

    async def views(n):
        for i in range(2):
            yield await innermost(i)

    def task(n):
        sync_code()
        assert async_to_sync(view)(n, threading.get_ident()) == n
        assert list(async_to_sync_iterator(views(n))) == [0, 1]
        with AsyncSingleThreadContext(persistent_loop=n % 2):
            assert async_to_sync(innermost)(n) == async_to_sync(innermost)(n)
        queue = MessageQueue(1)

        async def fill():
            for i in range(3):
                await queue.put(i)
            queue.shutdown()

        filling = threading.Thread(target=async_to_sync(fill))
        filling.start()
        assert list(queue) == [0, 1, 2]
        filling.join()
        sync_code()
        return n
"""
"""`task(n)` calls in each way that there is, and returns n; `seen` has each loop in a greenlet."""
