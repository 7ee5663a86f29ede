"""`asgibridge.django.atomic`: what Django's own tests of transactions ask, in async code."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

from asgiref.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.db import DatabaseError, IntegrityError, connection, connections, transaction
from django.db.transaction import TransactionManagementError
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.test import TransactionTestCase, override_settings
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View

from asgibridge import observers
from asgibridge.django import atomic
from asgibridge.django.test import AsyncClient

from .models import Message


class Wrong(Exception):
    pass


def on_worker(function: Callable[..., Any]) -> Callable[..., Any]:
    return sync_to_async(function)


async def add(text: str) -> Message:
    return await Message.objects.acreate(room="r", text=text)


class AtomicCase(TransactionTestCase):
    async def assert_stored(self, *texts: str) -> None:
        stored = await sync_to_async(list)(Message.objects.order_by("pk").values_list("text"))
        self.assertEqual([text for (text,) in stored], list(texts))
        await self.assert_nothing_open()

    async def assert_nothing_open(self) -> None:
        self.assertEqual(await on_worker(self.open_here)(), (False, [], [], True, False))

    @staticmethod
    def open_here() -> tuple[object, ...]:
        connection.ensure_connection()
        return (
            connection.in_atomic_block,
            connection.savepoint_ids,
            connection.atomic_blocks,
            connection.get_autocommit(),
            connection.needs_rollback,
        )


class BlockTests(AtomicCase):
    @staticmethod
    def fails() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT no_such_column FROM no_such_table")

    async def test_commit(self) -> None:
        async with atomic():
            await add("a")
        await self.assert_stored("a")

    async def test_rollback(self) -> None:
        with self.assertRaises(Wrong):
            async with atomic():
                await add("a")
                raise Wrong
        await self.assert_stored()

    async def test_an_error_of_the_database(self) -> None:
        with self.assertRaises(IntegrityError):
            async with atomic():
                message = await add("a")
                await Message.objects.acreate(pk=message.pk, room="r", text="again")
        await self.assert_stored()

    async def test_nested(self) -> None:
        # (outer fails, inner fails, savepoint) -> what is stored.
        expected = {
            (False, False, True): ["outer", "inner"],
            (False, True, True): ["outer"],
            (True, False, True): [],
            (True, True, True): [],
            (False, False, False): ["outer", "inner"],
            (False, True, False): [],  # merged into the outer block, and rolled back with it
            (True, False, False): [],
            (True, True, False): [],
        }
        for (outer_fails, inner_fails, savepoint), texts in expected.items():
            with self.subTest(outer=outer_fails, inner=inner_fails, savepoint=savepoint):
                await Message.objects.all().adelete()
                try:
                    async with atomic():
                        await add("outer")
                        try:
                            async with atomic(savepoint=savepoint):
                                await add("inner")
                                if inner_fails:
                                    raise Wrong
                        except Wrong:
                            pass
                        if outer_fails:
                            raise Wrong
                except Wrong:
                    self.assertTrue(outer_fails)
                await self.assert_stored(*texts)

    async def test_three_deep_merged(self) -> None:
        async with atomic():
            await add("1")
            with self.assertRaises(Wrong):
                async with atomic(savepoint=True):
                    await add("2")
                    async with atomic(savepoint=False):
                        await add("3")
                        raise Wrong
            await add("4")
        await self.assert_stored("1", "4")

    async def test_merged_inner_savepoint_is_rolled_back_alone(self) -> None:
        async with atomic():
            await add("1")
            async with atomic(savepoint=False):
                await add("2")
                with self.assertRaises(Wrong):
                    async with atomic():
                        await add("3")
                        raise Wrong
        await self.assert_stored("1", "2")

    async def test_one_object_again_and_again(self) -> None:
        block = atomic()
        async with block:
            await add("1")
            async with block:
                await add("2")
            with self.assertRaises(Wrong):
                async with block:
                    await add("3")
                    raise Wrong
        async with block:
            await add("4")
        await self.assert_stored("1", "2", "4")

    async def test_needs_a_rollback_after_an_error_that_was_caught(self) -> None:
        async with atomic():
            message = await add("1")
            with self.assertRaises(IntegrityError):
                async with atomic(savepoint=False):
                    await Message.objects.acreate(pk=message.pk, room="r", text="again")
            with self.assertRaises(TransactionManagementError):
                await add("2")
        await self.assert_stored()

    async def test_force_rollback(self) -> None:
        async with atomic():
            await add("1")
            await on_worker(transaction.set_rollback)(True)
        await self.assert_stored()

    async def test_prevent_rollback(self) -> None:
        async with atomic():
            await add("1")
            savepoint = await on_worker(transaction.savepoint)()
            with self.assertRaises(DatabaseError):
                async with atomic(savepoint=False):
                    await on_worker(self.fails)()
            self.assertTrue(await on_worker(transaction.get_rollback)())
            await on_worker(transaction.set_rollback)(False)
            await on_worker(transaction.savepoint_rollback)(savepoint)
        await self.assert_stored("1")

    async def test_no_autocommit(self) -> None:
        await on_worker(transaction.set_autocommit)(False)
        try:
            async with atomic():
                await add("1")
                with self.assertRaises(Wrong):
                    async with atomic():
                        await add("2")
                        raise Wrong
            await on_worker(transaction.commit)()
            with self.assertRaises(Wrong):
                async with atomic():
                    await add("3")
                    raise Wrong
            if connection.vendor != "sqlite":  # where the end of a first savepoint is a commit
                async with atomic():
                    await add("4")
                await on_worker(transaction.rollback)()
        finally:
            await on_worker(transaction.set_autocommit)(True)
        await self.assert_stored("1")

    async def test_commit_is_forbidden_inside(self) -> None:
        for function in (transaction.commit, transaction.rollback):
            async with atomic():
                with self.assertRaises(TransactionManagementError):
                    await on_worker(function)()
        async with atomic():
            with self.assertRaises(TransactionManagementError):
                await on_worker(transaction.set_autocommit)(True)
        await self.assert_nothing_open()

    async def test_a_lost_connection(self) -> None:
        with self.assertRaises(Wrong):
            async with atomic():
                await add("1")
                await on_worker(lambda: connection.close())()
                raise Wrong
        await self.assert_stored()

    async def test_sync_blocks_inside(self) -> None:
        def inner(fails: bool) -> None:
            with transaction.atomic():
                Message.objects.create(room="r", text="sync")
                async_to_sync(nested)()
                if fails:
                    raise Wrong

        async def nested() -> None:
            async with atomic():
                await add("async")

        async with atomic():
            with self.assertRaises(Wrong):
                await on_worker(inner)(True)
            await on_worker(inner)(False)
        await self.assert_stored("sync", "async")

    async def test_an_unknown_database(self) -> None:
        with self.assertRaisesMessage(Exception, "nowhere"):
            async with atomic("nowhere"):
                self.fail("entered")
        async with atomic(using="default"):
            await add("1")
        await self.assert_stored("1")


class DurableTests(AtomicCase):
    async def test_commit(self) -> None:
        async with atomic(durable=True):
            await add("1")
            async with atomic():
                await add("2")
        await self.assert_stored("1", "2")

    async def test_may_not_be_nested(self) -> None:
        for outer in (atomic(), atomic(durable=True)):
            with self.assertRaisesMessage(RuntimeError, "A durable atomic block cannot be nested"):
                async with outer, atomic(durable=True):
                    self.fail("entered")
            await self.assert_nothing_open()

    async def test_one_after_the_other(self) -> None:
        for text in "12":
            async with atomic(durable=True):
                await add(text)
        await self.assert_stored("1", "2")


class DecoratorTests(AtomicCase):
    async def test_both_ways(self) -> None:
        @atomic
        async def bare(fails: bool = False) -> str:
            """Adds one."""
            await add("bare")
            if fails:
                raise Wrong
            return "done"

        @atomic(using="default", savepoint=False)
        async def with_options() -> None:
            await add("options")

        self.assertEqual((bare.__name__, bare.__doc__), ("bare", "Adds one."))
        self.assertTrue(asyncio.iscoroutinefunction(bare))
        self.assertEqual(await bare(), "done")
        with self.assertRaises(Wrong):
            await bare(fails=True)
        await with_options()
        await self.assert_stored("bare", "options")

    async def test_a_method_of_a_view(self) -> None:
        class Get(View):
            @atomic
            async def get(self, request: HttpRequest) -> HttpResponse:
                await add("get")
                raise Wrong

        class Post(View):
            @method_decorator(atomic)
            async def post(self, request: HttpRequest) -> HttpResponse:
                await add("post")
                return HttpResponse()

        def request(method: str) -> ASGIRequest:
            return ASGIRequest({"type": "http", "method": method, "path": "/", "headers": []}, None)

        with self.assertRaises(Wrong):
            await Get.as_view()(request("GET"))
        self.assertEqual((await Post.as_view()(request("POST"))).status_code, 200)
        await self.assert_stored("post")

    def test_a_sync_function_gets_djangos(self) -> None:
        @atomic
        def bare() -> None:
            Message.objects.create(room="r", text="never")
            raise Wrong

        @atomic(durable=True)
        def with_options() -> bool:
            return connection.in_atomic_block

        with self.assertRaises(Wrong):
            bare()
        self.assertIs(with_options(), True)
        async_to_sync(self.assert_stored)()


class OnCommitTests(AtomicCase):
    async def register(self, done: list[Any], what: Any, **options: Any) -> None:
        await on_worker(functools.partial(transaction.on_commit, **options))(
            functools.partial(done.append, what)
        )

    async def test_runs_after_the_outermost_commit(self) -> None:
        done: list[int] = []
        async with atomic():
            await self.register(done, 1)
            async with atomic():
                await self.register(done, 2)
            with self.assertRaises(Wrong):
                async with atomic():
                    await self.register(done, 3)
                    raise Wrong
            self.assertEqual(done, [])
        self.assertEqual(done, [1, 2])

    async def test_not_after_a_rollback(self) -> None:
        done: list[int] = []
        with self.assertRaises(Wrong):
            async with atomic():
                await self.register(done, 1)
                raise Wrong
        async with atomic():
            pass
        self.assertEqual(done, [])

    async def test_at_once_outside(self) -> None:
        done: list[int] = []
        await self.register(done, 1)
        self.assertEqual(done, [1])

    async def test_async_callbacks_and_their_blocks(self) -> None:
        async def callback() -> None:
            async with atomic(durable=True):
                await add("after")

        async with atomic():
            await add("before")
            await on_worker(transaction.on_commit)(async_to_sync(callback))
        await self.assert_stored("before", "after")

    async def test_an_error_is_the_blocks(self) -> None:
        def fails() -> None:
            raise Wrong

        with self.assertRaises(Wrong):
            async with atomic():
                await add("1")
                await on_worker(transaction.on_commit)(fails)
        await self.assert_stored("1")


class TaskTests(AtomicCase):
    async def test_a_gather_inside_shares_the_transaction(self) -> None:
        with self.assertRaises(Wrong):
            async with atomic():
                await asyncio.gather(*(add(str(n)) for n in range(20)))
                raise Wrong
        await self.assert_stored()
        async with atomic():
            await asyncio.gather(*(add("same") for n in range(20)))
        await self.assert_stored(*["same"] * 20)

    async def test_two_tasks_with_a_block_each(self) -> None:
        """The second is refused while the first is open; what the first does is right."""
        is_open, may_go_on = asyncio.Event(), asyncio.Event()

        async def first(fails: bool) -> None:
            async with atomic():
                await add("first")
                is_open.set()
                await may_go_on.wait()
                if fails:
                    raise Wrong

        async def second() -> None:
            await is_open.wait()
            try:
                async with atomic():
                    await add("second")
            finally:
                may_go_on.set()

        for fails in (True, False):
            is_open.clear()
            may_go_on.clear()
            results = await asyncio.gather(first(fails), second(), return_exceptions=True)
            self.assertIsInstance(results[0], Wrong if fails else type(None))
            self.assertIsInstance(results[1], TransactionManagementError)
            self.assertIn("start both in one block", str(results[1]))
            await self.assert_stored(*([] if fails else ["first"]))

    async def test_siblings_inside_a_block(self) -> None:
        async def sibling(text: str, started: asyncio.Event, other: asyncio.Event) -> None:
            async with atomic():
                await add(text)
                started.set()
                await other.wait()

        one, two = asyncio.Event(), asyncio.Event()

        async def second() -> None:
            await one.wait()
            try:
                await sibling("second", asyncio.Event(), one)
            finally:
                two.set()

        async with atomic():
            await add("outer")
            results = await asyncio.gather(
                sibling("first", one, two), second(), return_exceptions=True
            )
        self.assertIsNone(results[0])
        self.assertIsInstance(results[1], TransactionManagementError)
        await self.assert_stored("outer", "first")

    async def test_one_child_at_a_time_nests(self) -> None:
        async def child(text: str, fails: bool = False) -> None:
            async with atomic():
                await add(text)
                if fails:
                    raise Wrong

        async with atomic():
            await asyncio.create_task(child("1"))
            with self.assertRaises(Wrong):
                await asyncio.create_task(child("2", fails=True))
            await asyncio.create_task(child("3"))
        await self.assert_stored("1", "3")

    async def test_a_block_that_is_left_before_one_inside(self) -> None:
        is_open, is_left = asyncio.Event(), asyncio.Event()

        async def child() -> None:
            async with atomic():
                await add("child")
                is_open.set()
                await is_left.wait()

        with self.assertRaisesMessage(TransactionManagementError, "both are rolled back"):
            async with atomic():
                await add("outer")
                task = asyncio.create_task(child())
                await is_open.wait()
        await self.assert_stored()
        is_left.set()
        with self.assertRaisesMessage(TransactionManagementError, "was rolled back"):
            await task
        await self.assert_stored()

    async def test_blocks_of_tasks_one_after_the_other(self) -> None:
        @atomic
        async def one(text: str) -> None:
            await add(text)

        for text in "12":
            await asyncio.create_task(one(text))
        await self.assert_stored("1", "2")

    def test_one_object_in_tasks_of_two_threads(self) -> None:
        """Each has a connection of its own. (Not under the test's thread, which serves a loop.)"""
        block = atomic()

        async def in_context(here: asyncio.Event, there: asyncio.Event) -> None:
            async with ThreadSensitiveContext():
                async with block:
                    here.set()
                    await there.wait()
                self.assertFalse(await on_worker(lambda: connection.in_atomic_block)())
                await on_worker(lambda: connection.close())()

        async def main() -> None:
            one, two = asyncio.Event(), asyncio.Event()
            await asyncio.gather(in_context(one, two), in_context(two, one))

        with ThreadPoolExecutor(1) as pool:
            pool.submit(asyncio.run, main()).result(30)
        self.assertEqual(block._entered, {})


class CancellationTests(AtomicCase):
    """Cancelled at each of its turns, a task leaves the changes of all of its block, or of none."""

    async def turns_until_cancelled(self, work: Callable[[], Any], turns: int) -> bool:
        # Whether the work was cancelled after that many turns of the loop.
        task = asyncio.create_task(work())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return True
        return False

    async def test_at_every_await(self) -> None:
        finished: list[str] = []

        async def work() -> None:
            finished.clear()
            async with atomic():
                await add("1")
                async with atomic():
                    await add("2")
                await add("3")
                finished.append("body")
            finished.append("block")

        hops = ["enter", "add", "enter", "add", "leave", "add", "leave"]
        for number, name in enumerate(hops):
            for late in (False, True):
                with self.subTest(name, number=number, late=late):
                    await Message.objects.all().adelete()
                    await self.cancel_in_hop(work, number, late)
                    stored = await Message.objects.acount()
                    self.assertIn(stored, (0, 3))
                    # Where the cancellation came before the commit had begun, nothing is stored.
                    self.assertEqual(stored, 3 if "body" in finished else 0)
                    await self.assert_nothing_open()

    async def cancel_in_hop(self, work: Callable[[], Any], number: int, late: bool) -> None:
        """Cancel the task that runs ``work`` while its ``number``th hop is on the worker, or when
        that has just returned, before the task goes on."""
        loop = asyncio.get_running_loop()
        hops = [0]
        task: asyncio.Task[Any]
        is_cancelled = threading.Event()

        class Cancel(observers.Observer):
            def start(self, hop: observers.Hop) -> None:
                if hop.kind == "sync_to_async" and hop.task is task:
                    hop.state[self] = hops[0]
                    hops[0] += 1
                    if hop.state[self] == number and not late:
                        self.cancel()

            def end(self, hop: observers.Hop) -> None:
                if hop.state.get(self) == number and late:
                    self.cancel()

            def cancel(self) -> None:
                loop.call_soon_threadsafe(cancel)
                is_cancelled.wait(10)

        def cancel() -> None:
            task.cancel()
            # Not before the task has had its turn: it has given the call up, or waits for its end.
            loop.call_soon(loop.call_soon, is_cancelled.set)

        observer = Cancel()
        observers.add(observer)
        try:
            task = loop.create_task(work())
            with self.assertRaises(asyncio.CancelledError):
                await task
        finally:
            observers.remove(observer)
        # What was given up runs to its end.
        await on_worker(bool)()
        self.assertTrue(is_cancelled.is_set())

    async def test_at_every_turn(self) -> None:
        async def work() -> None:
            async with atomic():
                await add("1")
                async with atomic():
                    await add("2")

        turns = 0
        while True:
            await Message.objects.all().adelete()
            cancelled = await self.turns_until_cancelled(work, turns)
            self.assertIn(await Message.objects.acount(), (0, 2))
            await self.assert_nothing_open()
            if not cancelled:
                break
            turns += 1 + turns // 8
            self.assertLess(turns, 100_000)

    async def test_by_a_time_out(self) -> None:
        with self.assertRaises(asyncio.TimeoutError):
            async with atomic():
                await add("1")
                await asyncio.wait_for(asyncio.Event().wait(), 0.01)
        await self.assert_stored()

    async def test_an_error_inside_a_group(self) -> None:
        async def fails() -> None:
            raise Wrong

        with self.assertRaises(Wrong):
            async with atomic():
                await add("1")
                await asyncio.gather(fails())
        await self.assert_stored()


async def page(request: HttpRequest) -> HttpResponse:
    await add("page")
    if "fail" in request.GET:
        raise Wrong
    return HttpResponse(str(await on_worker(lambda: connection.in_atomic_block)()))


@transaction.non_atomic_requests
async def without(request: HttpRequest) -> HttpResponse:
    return await page(request)


async def renders(request: HttpRequest) -> TemplateResponse:
    await add("renders")
    return TemplateResponse(request, "no such template")


class Page(View):
    async def get(self, request: HttpRequest) -> HttpResponse:
        return await page(request)


urlpatterns = [
    path("page/", page),
    path("class/", Page.as_view()),
    path("without/", without),
    path("renders/", renders),
]


@override_settings(ROOT_URLCONF=__name__, ASGIBRIDGE={"atomic_async_views": True})
class AtomicRequestTests(AtomicCase):
    client_class = AsyncClient

    def setUp(self) -> None:
        patched = mock.patch.dict(connections.settings["default"], ATOMIC_REQUESTS=True)
        patched.start()
        self.addCleanup(patched.stop)
        self.client = AsyncClient(raise_request_exception=False)

    async def test_commit_and_rollback(self) -> None:
        for url in ("/page/", "/class/"):
            with self.subTest(url):
                await Message.objects.all().adelete()
                self.assertEqual((await self.client.get(url)).content, b"True")
                await self.assert_stored("page")
                with self.assertLogs("django.request", "ERROR"):
                    self.assertEqual((await self.client.get(f"{url}?fail=1")).status_code, 500)
                await self.assert_stored("page")

    async def test_non_atomic_requests(self) -> None:
        self.assertEqual((await self.client.get("/without/")).content, b"False")
        with self.assertLogs("django.request", "ERROR"):
            await self.client.get("/without/?fail=1")
        await self.assert_stored("page", "page")

    async def test_rendering_comes_after_the_commit(self) -> None:
        with self.assertLogs("django.request", "ERROR"):
            self.assertEqual((await self.client.get("/renders/")).status_code, 500)
        await self.assert_stored("renders")

    async def test_without_the_setting_djangos_refusal(self) -> None:
        with self.settings(ASGIBRIDGE={}):
            with self.assertRaisesMessage(RuntimeError, "ATOMIC_REQUESTS with async views"):
                await AsyncClient().get("/page/")
        await self.assert_stored()
