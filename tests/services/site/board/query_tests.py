"""Queries that stop when their task is cancelled, on each database client."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from unittest import mock

from asgiref.sync import async_to_sync, sync_to_async
from django.db import OperationalError, connection, connections, transaction
from django.db.backends.utils import CursorWrapper
from django.db.transaction import TransactionManagementError
from django.test import TransactionTestCase, override_settings

from asgibridge.django import atomic, cancel_queries, queries

from .models import Message

SECONDS = 10
"""By which a query of half a minute has to be over."""

IS_SQLITE = connection.vendor == "sqlite"
_COUNT = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 10000000000)"
SLOW = f"{_COUNT} SELECT count(*) FROM c" if IS_SQLITE else "SELECT pg_sleep(30)"


def execute(sql: str = SLOW) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()


class Call:
    """A function for the worker, and what becomes of it."""

    def __init__(self, function: Callable[[], Any] = execute) -> None:
        self._function = function
        self.has_begun, self.is_over = threading.Event(), threading.Event()
        self.error: BaseException | None = None

    def __call__(self) -> Any:
        try:
            self.has_begun.set()
            return self._function()
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.is_over.set()


async def wait(event: threading.Event) -> None:
    loop = asyncio.get_running_loop()
    if not await loop.run_in_executor(None, event.wait, SECONDS):
        raise AssertionError("it has not come to that")


async def until_in_query() -> None:
    until = time.monotonic() + SECONDS
    while not queries._running:
        assert time.monotonic() < until
        await asyncio.sleep(0.001)


@asynccontextmanager
async def timeout_in_query(call: Call) -> AsyncIterator[None]:
    """`asyncio.timeout`, whose time has come when a query of the call's runs."""

    async def expire() -> None:
        await wait(call.has_begun)  # not a query before it
        await until_in_query()
        limit.reschedule(asyncio.get_running_loop().time())

    async with asyncio.timeout(SECONDS) as limit:
        expiring = asyncio.ensure_future(expire())
        try:
            yield
        finally:
            expiring.cancel()


@asynccontextmanager
async def around_queries(
    before: Callable[[], Any], after: Callable[[], Any]
) -> AsyncIterator[None]:
    """Have both called on the worker, inside of what watches its queries."""

    def wrapper(execute: Any, sql: Any, params: Any, many: Any, context: Any) -> Any:
        before()
        try:
            return execute(sql, params, many, context)
        finally:
            after()

    await sync_to_async(lambda: connection.execute_wrappers.append(wrapper))()
    try:
        yield
    finally:
        await sync_to_async(lambda: connection.execute_wrappers.remove(wrapper))()


class QueryCase(TransactionTestCase):
    def setUp(self) -> None:
        self.reported: list[Any] = []
        connection.ensure_connection()
        self.database = connection.connection

    async def cancel(self, awaitable: Awaitable[Any]) -> None:
        """Cancel it when its query runs; errors of the loop are noted."""
        asyncio.get_running_loop().set_exception_handler(
            lambda _loop, context: self.reported.append(context)
        )
        task = asyncio.ensure_future(awaitable)
        await until_in_query()
        task.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await task

    async def assert_stopped(self, call: Call, is_same: bool = True) -> None:
        """The function has its CancelledError, nobody else an error, and the connection works."""
        await wait(call.is_over)
        self.assertIsInstance(call.error, asyncio.CancelledError)
        await self.assert_works(is_same)
        self.assertEqual(self.reported, [])
        self.assertEqual(queries._running, {})

    async def assert_works(self, is_same: bool = True) -> None:
        async with asyncio.timeout(SECONDS):
            self.assertEqual(await sync_to_async(execute)("SELECT 1"), (1,))
        self.assertEqual(
            await sync_to_async(lambda: connection.connection)() is self.database, is_same
        )


class BlockTests(QueryCase):
    """By `cancel_queries()`, without the setting."""

    async def test_the_query_stops(self) -> None:
        call = Call()
        async with cancel_queries():
            await self.cancel(sync_to_async(call)())
        await self.assert_stopped(call)
        assert call.error is not None
        self.assertIsInstance(call.error.__cause__, OperationalError)

    async def test_a_time_out(self) -> None:
        call = Call()
        with self.assertRaises(TimeoutError):
            async with cancel_queries(), timeout_in_query(call):
                await sync_to_async(call)()
        await self.assert_stopped(call)

    async def test_leaves_no_cursor_to_the_garbage_collector(self) -> None:
        """On SQLite that waits for the next query, with the GIL, if another thread collects it."""
        gc.collect()
        gc.disable()
        try:
            async with cancel_queries():
                await self.cancel(sync_to_async(execute)())
                await self.assert_works()
            left = [each for each in gc.get_objects() if isinstance(each, CursorWrapper)]
        finally:
            gc.enable()
        self.assertEqual(left, [])

    async def test_the_orm(self) -> None:
        if IS_SQLITE:
            slow = Message.objects.extra(select={"slow": f"({SLOW})"})
        else:
            slow = Message.objects.extra(select={"slow": "pg_sleep(30)"})
        await Message.objects.acreate(room="r", text="1")

        async def iterate() -> None:
            async for _ in slow:
                pass

        async with cancel_queries():
            for each in (slow.afirst(), slow.aget(), iterate(), sync_to_async(list)(slow)):
                started = time.monotonic()
                await self.cancel(each)
                await self.assert_works()
                self.assertLess(time.monotonic() - started, SECONDS)
        self.assertEqual(self.reported, [])

    async def test_what_is_fetched(self) -> None:
        def fetch() -> None:
            with transaction.atomic(), connection.chunked_cursor() as cursor:
                if IS_SQLITE:
                    cursor.execute(f"{_COUNT} SELECT x FROM c WHERE x = 1 OR x > 9999999999")
                else:
                    cursor.execute("SELECT pg_sleep(0.05), generate_series(1, 600)")
                executed.set()
                cursor.fetchmany(600)

        executed = threading.Event()
        call = Call(fetch)
        async with cancel_queries():
            task = asyncio.ensure_future(sync_to_async(call)())
            await wait(executed)
            await self.cancel(task)
        await self.assert_stopped(call)

    async def test_sync_code(self) -> None:
        call = Call()

        def function() -> None:
            with cancel_queries():
                call()

        await self.cancel(sync_to_async(function)())
        await self.assert_stopped(call)

    async def test_only_in_the_block(self) -> None:
        async with cancel_queries():
            pass
        call = Call(lambda: execute("SELECT 1"))
        may_go_on = threading.Event()
        async with around_queries(lambda: may_go_on.wait(SECONDS), bool):
            task = asyncio.ensure_future(sync_to_async(call)())
            await wait(call.has_begun)
            task.cancel()
            await asyncio.wait([task])
            may_go_on.set()
            await wait(call.is_over)
        self.assertIsNone(call.error)

    async def test_one_of_several_tasks(self) -> None:
        call = Call()
        async with cancel_queries():
            others = [asyncio.ensure_future(Message.objects.acount()) for _ in range(5)]
            task = asyncio.ensure_future(sync_to_async(call)())
            others += [asyncio.ensure_future(Message.objects.acount()) for _ in range(5)]
            await asyncio.wait(others[:5])
            await self.cancel(task)
            self.assertEqual(await asyncio.gather(*others), [0] * 10)
        await self.assert_stopped(call)

    async def test_a_call_in_a_call(self) -> None:
        call = Call()

        async def inner() -> None:
            await sync_to_async(call)()

        def outer() -> None:
            execute("SELECT 1")
            try:
                async_to_sync(inner)()
            finally:
                seen.append(execute("SELECT 2"))

        seen: list[Any] = []
        async with cancel_queries():
            task = asyncio.ensure_future(sync_to_async(outer)())
            await wait(call.has_begun)  # not the outer function's query
            await self.cancel(task)
        await self.assert_stopped(call)
        self.assertEqual(seen, [(2,)])

    async def test_a_call_that_is_waited_for(self) -> None:
        may_go_on = threading.Event()
        call = Call(lambda: execute("SELECT 1"))
        async with cancel_queries():
            async with around_queries(lambda: may_go_on.wait(SECONDS), bool):
                task = asyncio.ensure_future(sync_to_async(call, abandon_on_cancel=False)())
                await until_in_query()
                task.cancel()
                await asyncio.sleep(0)
                may_go_on.set()
                with self.assertRaises(asyncio.CancelledError):
                    await task
        self.assertIsNone(call.error)


class TransactionTests(QueryCase):
    async def test_a_block_is_rolled_back(self) -> None:
        call = Call()

        async def work() -> None:
            async with atomic():
                await Message.objects.acreate(room="r", text="never")
                is_ready.set()
                await sync_to_async(call)()

        is_ready = asyncio.Event()
        async with cancel_queries():
            task = asyncio.ensure_future(work())
            await is_ready.wait()
            await self.cancel(task)
        await self.assert_stopped(call)
        self.assertEqual(await Message.objects.acount(), 0)

    async def test_a_block_around_goes_on(self) -> None:
        call = Call()
        async with cancel_queries(), atomic():
            await Message.objects.acreate(room="r", text="stays")
            with self.assertRaises(TimeoutError):
                async with timeout_in_query(call), atomic():
                    await Message.objects.acreate(room="r", text="goes")
                    await sync_to_async(call)()
            await Message.objects.acreate(room="r", text="too")
        await self.assert_stopped(call)
        self.assertEqual(await Message.objects.acount(), 2)

    async def test_needs_a_rollback_as_after_any_error(self) -> None:
        call = Call()
        async with cancel_queries(), atomic():
            await Message.objects.acreate(room="r", text="never")
            with self.assertRaises(TimeoutError):
                async with timeout_in_query(call):
                    await sync_to_async(call)()
            await wait(call.is_over)
            with self.assertRaises(TransactionManagementError):
                await Message.objects.acount()
        await self.assert_stopped(call)
        self.assertEqual(await Message.objects.acount(), 0)

    async def test_sync_blocks_are_rolled_back(self) -> None:
        def work() -> None:
            with transaction.atomic():
                Message.objects.create(room="r", text="outer")
                with transaction.atomic():
                    Message.objects.create(room="r", text="inner")
                    is_ready.set()
                    execute()

        is_ready = threading.Event()
        call = Call(work)
        async with cancel_queries():
            task = asyncio.ensure_future(sync_to_async(call)())
            await wait(is_ready)
            await self.cancel(task)
        await self.assert_stopped(call)
        self.assertEqual(await Message.objects.acount(), 0)

    async def test_cancelled_between_two_queries(self) -> None:
        """The next query does not begin; those that the function makes then do."""

        def work() -> None:
            with transaction.atomic():
                Message.objects.create(room="r", text="outer")
                try:
                    with transaction.atomic():
                        Message.objects.create(room="r", text="inner")
                        is_ready.set()
                        may_go_on.wait(SECONDS)
                        execute("SELECT 1")
                except asyncio.CancelledError as error:
                    caught.append(error)
                Message.objects.create(room="r", text="cleaned up")

        is_ready, may_go_on = threading.Event(), threading.Event()
        caught: list[BaseException] = []
        call = Call(work)
        async with cancel_queries():
            task = asyncio.ensure_future(sync_to_async(call)())
            await wait(is_ready)
            task.cancel()
            await asyncio.wait([task])
            may_go_on.set()
            await wait(call.is_over)
        self.assertEqual(len(caught), 1)
        self.assertIsNone(caught[0].__cause__)
        self.assertIsNone(call.error)
        stored = await sync_to_async(list)(Message.objects.order_by("pk").values_list("text"))
        self.assertEqual(stored, [("outer",), ("cleaned up",)])


class RaceTests(QueryCase):
    """Told too late, too early, and in vain. The steps are those of `asgibridge.django.queries`."""

    async def test_the_query_ends_while_the_server_is_told(self) -> None:
        """The worker does not go on before the server has heard: the next query is unharmed."""
        is_telling, has_ended = threading.Event(), threading.Event()
        tell, order = queries._tell_server, []

        def tell_late(connection: Any) -> None:
            is_telling.set()
            has_ended.wait(SECONDS)
            tell(connection)
            order.append("told")

        call = Call(lambda: execute("SELECT 1"))
        with mock.patch.object(queries, "_tell_server", tell_late):
            async with cancel_queries():
                async with around_queries(lambda: is_telling.wait(SECONDS), has_ended.set):
                    await self.cancel(sync_to_async(call)())
                    await wait(call.is_over)
                    order.append("over")
        self.assertEqual(order, ["told", "over"])
        await self.assert_stopped(call)
        assert call.error is not None
        self.assertIsNone(call.error.__cause__)

    async def test_the_server_is_told_before_it_has_the_query(self) -> None:
        """It is told again."""
        tell, has_told = queries._tell_server, threading.Event()

        def tell_early(connection: Any) -> None:
            tell(connection)
            has_told.set()

        call = Call()
        with mock.patch.object(queries, "_tell_server", tell_early):
            async with cancel_queries():
                async with around_queries(lambda: has_told.wait(SECONDS), bool):
                    await self.cancel(sync_to_async(call)())
                    await wait(call.is_over)
        await self.assert_stopped(call)

    async def test_the_server_cannot_be_told(self) -> None:
        """The connection is closed, and the next query has a new one."""
        may_end = threading.Event()

        def fail(_connection: Any) -> None:
            may_end.set()
            raise OSError("no way there")

        call = Call(lambda: execute("SELECT 1"))
        with mock.patch.object(queries, "_tell_server", fail):
            async with cancel_queries():
                async with around_queries(lambda: may_end.wait(SECONDS), bool):
                    with self.assertLogs("asgibridge.django", "WARNING") as logs:
                        await self.cancel(sync_to_async(call)())
                        await wait(call.is_over)
        self.assertIn("could not be stopped", logs.output[0])
        await self.assert_stopped(call, is_same=False)

    async def test_the_next_call_at_once(self) -> None:
        """Many short queries, each cancelled at another moment, with a query of the next call right
        behind: that one is never hit."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: self.reported.append(context))
        spent = itertools.cycle(range(0, 2000, 97))
        short = f"{_COUNT.replace('10000000000', '3000')} SELECT count(*) FROM c"
        async with cancel_queries():
            for _ in range(150):
                task = asyncio.ensure_future(sync_to_async(execute)(short))
                follower = asyncio.ensure_future(sync_to_async(execute)(short))
                for _ in range(next(spent)):
                    await asyncio.sleep(0)
                task.cancel()
                self.assertEqual(await follower, (3000,))
                await asyncio.wait([task])
        self.assertEqual(self.reported, [])
        await self.assert_works()


@override_settings(ASGIBRIDGE={"cancel_queries": True})
class SettingTests(QueryCase):
    def setUp(self) -> None:
        super().setUp()
        queries.watch()
        queries.watch_connections()

    async def test_everywhere(self) -> None:
        call = Call()
        await self.cancel(sync_to_async(call)())
        await self.assert_stopped(call)

    async def test_a_new_connection(self) -> None:
        def work() -> None:
            connections["default"].close()
            del connections["default"]
            execute()

        call = Call(work)
        await self.cancel(sync_to_async(call)())
        await self.assert_stopped(call, is_same=False)

    async def test_not_in_a_block_that_wants_none_of_it(self) -> None:
        may_go_on = threading.Event()
        call = Call(lambda: execute("SELECT 1"))
        async with around_queries(lambda: may_go_on.wait(SECONDS), bool):
            async with cancel_queries(False):
                task = asyncio.ensure_future(sync_to_async(call)())
                await wait(call.has_begun)
                task.cancel()
                await asyncio.wait([task])
            may_go_on.set()
            await wait(call.is_over)
        self.assertIsNone(call.error)


class MySQLTests(QueryCase):
    """There is no MySQL here: what is told to which connection."""

    def test_a_second_connection_kills_the_query(self) -> None:
        first, second = mock.MagicMock(vendor="mysql"), mock.MagicMock()
        first.connection = mock.Mock(spec=["thread_id", "cursor"])
        first.connection.thread_id.return_value = 17
        first.copy.return_value = second
        second.settings_dict = {"OPTIONS": {}}
        queries._tell_server(first)
        cursor = second.cursor.return_value.__enter__.return_value
        cursor.execute.assert_called_once_with("KILL QUERY 17")
        second.close.assert_called_once_with()
        self.assertEqual(second.settings_dict["OPTIONS"], {"connect_timeout": queries._SECONDS})
