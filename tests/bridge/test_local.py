"""`Local`, where asgiref's own suite does not look."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from asgibridge import local as local_module
from asgibridge.local import Local
from asgibridge.sync import ThreadSensitiveContext, async_to_sync, sync_to_async

BOTH = pytest.mark.parametrize("thread_critical", [False, True], ids=["default", "critical"])


def in_thread(function, *args):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *args).result()


class TestAttributes:
    @BOTH
    @pytest.mark.parametrize("in_loop", [False, True])
    def test_are_set_read_and_deleted(self, thread_critical, in_loop):
        local = Local(thread_critical=thread_critical)

        def use():
            assert not hasattr(local, "a")
            local.a = 1
            local.b = 2
            assert (local.a, local.b) == (1, 2)
            del local.a
            assert (getattr(local, "a", "none"), local.b) == ("none", 2)
            with pytest.raises(AttributeError, match="'a'"):
                del local.a

        async def ause():
            use()

        asyncio.run(ause()) if in_loop else use()

    @BOTH
    def test_of_any_name(self, thread_critical):
        local = Local(thread_critical)
        names = ["data", "home", "cvar", "variable", "_copy", "_lock", "_storage", "é"]
        for name in names:
            assert not hasattr(local, name)
            setattr(local, name, name)
        assert [getattr(local, name) for name in names] == names

    def test_data_is_reserved(self):
        with pytest.raises(AttributeError, match="_data"):
            Local()._data = 1

    @BOTH
    def test_missing_ones_are_named(self, thread_critical):
        with pytest.raises(AttributeError, match="no attribute 'language'"):
            Local(thread_critical).language

    @BOTH
    def test_two_locals_are_apart(self, thread_critical):
        one, other = Local(thread_critical), Local(thread_critical)
        one.value = 1
        assert not hasattr(other, "value")

    @BOTH
    def test_die_with_the_local(self, thread_critical):
        import gc
        import weakref

        local = Local(thread_critical)
        reference = weakref.ref(local)
        del local
        gc.collect()
        assert reference() is None


class TestTypes:
    def test_are_exact(self):
        assert type(Local()) is local_module._DefaultLocal
        assert type(Local(thread_critical=True)) is local_module._ThreadCriticalLocal
        assert isinstance(Local(), Local)

    def test_cannot_be_subclassed(self):
        class Mine(Local):
            pass

        with pytest.raises(TypeError, match="cannot be subclassed"):
            Mine()

    def test_take_nothing_else(self):
        with pytest.raises(TypeError):
            Local(True, 1)


class TestVisibility:
    def test_not_in_a_thread_that_inherits_the_context(self):
        """3.14's thread_inherit_context, or a copied context run in a thread."""
        local = Local()
        local.value = "ours"
        context = contextvars.copy_context()

        def other():
            seen = getattr(local, "value", None)
            local.value = "theirs"
            return seen, local.value

        assert in_thread(context.run, other) == (None, "theirs")
        assert local.value == "ours"

    def test_not_in_a_worker_that_belongs_to_somebody_else(self):
        local = Local()

        async def main(value):
            async with ThreadSensitiveContext():
                assert await sync_to_async(getattr)(local, "value", None) is None
                await sync_to_async(setattr)(local, "value", value)
                return await sync_to_async(getattr)(local, "value")

        async def both():
            return await asyncio.gather(*(asyncio.create_task(main(i)) for i in range(20)))

        assert asyncio.run(both()) == list(range(20))

    def test_on_every_hop_of_a_chain(self):
        local = Local()

        async def down(level):
            assert local.level == level
            local.level += 1
            if level < 10:
                await sync_to_async(async_to_sync(down))(level + 1)

        local.level = 0
        async_to_sync(down)(0)
        assert local.level == 11

    def test_in_a_pools_thread_only_as_long_as_the_call_lasts(self):
        local = Local()

        async def main():
            loop = asyncio.get_running_loop()
            loop.set_default_executor(ThreadPoolExecutor(1))
            local.value = 1
            get = sync_to_async(lambda: local.value, thread_sensitive=False)
            context = contextvars.copy_context()
            return await get(), await loop.run_in_executor(
                None, lambda: context.run(getattr, local, "value", None)
            )

        assert asyncio.run(main()) == (1, None)

    def test_in_a_task_that_a_worker_schedules(self):
        """Like the context variables that it inherits from there; asgiref hides them."""
        local = Local()

        async def main():
            loop = asyncio.get_running_loop()
            seen = loop.create_future()

            async def scheduled():
                seen.set_result(getattr(local, "value", None))

            def work():
                local.value = "worker"
                loop.call_soon_threadsafe(lambda: loop.create_task(scheduled()))

            await sync_to_async(work)()
            return await seen

        assert asyncio.run(main()) == "worker"

    def test_thread_critical_is_per_thread_in_sync_code(self):
        local = Local(thread_critical=True)
        local.value = 1
        assert in_thread(getattr, local, "value", None) is None

        async def main():
            local.value = "loop"
            await sync_to_async(setattr)(local, "value", "worker")
            task = await asyncio.create_task(self._get(local))
            fresh = contextvars.Context().run(asyncio.create_task, self._get(local))
            return local.value, await sync_to_async(getattr)(local, "value"), task, await fresh

        assert asyncio.run(main()) == ("loop", "worker", "loop", None)
        assert local.value == 1

    @staticmethod
    async def _get(local):
        return getattr(local, "value", None)

    def test_thread_critical_comes_fresh_with_each_context(self):
        """What Django's connections live in."""
        local = Local(thread_critical=True)

        async def main():
            seen = []
            for i in range(5):
                async with ThreadSensitiveContext():
                    seen.append(await sync_to_async(getattr)(local, "connection", None))
                    await sync_to_async(setattr)(local, "connection", i)
                    seen.append(await sync_to_async(getattr)(local, "connection"))
            return seen

        assert asyncio.run(main()) == [None, 0, None, 1, None, 2, None, 3, None, 4]

    def test_many_threads_at_once(self):
        local = Local()
        barrier = threading.Barrier(8)

        def use(i):
            barrier.wait(10)
            for n in range(500):
                local.value = (i, n)
                assert local.value == (i, n)
            return True

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(use, range(8)))


class TestPeek:
    def test_is_getattr_with_a_default(self, kernel):
        local = kernel.ContextStorage()
        assert kernel.peek(local, "value", "default") == "default"
        local.value = 1
        assert kernel.peek(local, "value", "default") == 1
        assert kernel.peek(local, "other", "default") == "default"
        elsewhere = contextvars.copy_context()
        assert in_thread(elsewhere.run, kernel.peek, local, "value", "default") == "default"

    def test_of_anything_else(self, kernel):
        """``AsyncToSync.executors`` may have been replaced."""
        assert kernel.peek(threading.local(), "value", "default") == "default"
        assert kernel.peek(kernel, "peek", "default") is kernel.peek


class TestManyAttributes:
    """Few attributes and many are kept in different ways; nobody may notice which."""

    NAMES = [f"attribute_{number}" for number in range(20)]

    def test_from_none_to_many_and_back(self, kernel):
        storage = kernel.ContextStorage()
        seen = {}
        for number, name in enumerate(self.NAMES):
            setattr(storage, name, number)
            seen[name] = number
            assert {each: getattr(storage, each, None) for each in self.NAMES} == {
                each: seen.get(each) for each in self.NAMES
            }
        for name in self.NAMES:
            setattr(storage, name, seen[name] + 100)
            assert getattr(storage, name) == seen[name] + 100
        for name in reversed(self.NAMES):
            delattr(storage, name)
            with pytest.raises(AttributeError):
                getattr(storage, name)
            with pytest.raises(AttributeError):
                delattr(storage, name)
        storage.again = 1
        assert storage.again == 1

    @pytest.mark.parametrize("count", [1, 8, 9, 20])
    def test_a_copied_context_keeps_what_it_had(self, kernel, count):
        storage = kernel.ContextStorage()
        for name in self.NAMES[:count]:
            setattr(storage, name, "before")
        copied = contextvars.copy_context()
        last = self.NAMES[count - 1]
        setattr(storage, last, "after")
        storage.one_more = 1
        assert copied.run(getattr, storage, last) == "before"
        assert not copied.run(hasattr, storage, "one_more")
        copied.run(delattr, storage, last)
        assert getattr(storage, last) == "after"

    @pytest.mark.parametrize("count", [1, 20])
    def test_names_made_at_run_time(self, kernel, count):
        storage = kernel.ContextStorage()
        for name in self.NAMES[:count]:
            setattr(storage, name, 0)
        made = "".join(["made ", "at run time"])
        storage.__setattr__("".join(["made ", "at run time"]), 1)
        assert getattr(storage, made) == getattr(storage, "".join(list(made))) == 1
        storage.__setattr__("".join(list(made)), 2)
        assert getattr(storage, made) == 2
        storage.__delattr__("".join(list(made)))
        assert not hasattr(storage, made)
        with pytest.raises(AttributeError, match="_data"):
            storage.__setattr__("".join(["_da", "ta"]), 1)

    @pytest.mark.parametrize("count", [1, 20])
    def test_names_of_a_subclass_of_str(self, kernel, count):
        class Name(str):
            __slots__ = ()

            def __hash__(self):
                return hash(str(self))

            def __eq__(self, other):
                compared.append(other)
                return str(self) == other

        compared = []
        storage = kernel.ContextStorage()
        for name in self.NAMES[:count]:
            setattr(storage, name, 0)
        setattr(storage, Name("own"), 1)
        assert storage.own == 1
        assert getattr(storage, Name("own")) == 1
        assert getattr(storage, Name(self.NAMES[0])) == 0
        setattr(storage, Name("own"), 2)
        storage.other = 3
        assert (storage.own, storage.other) == (2, 3)
        delattr(storage, Name("own"))
        assert not hasattr(storage, "own")
        assert compared

    def test_values_end_when_they_are_replaced(self, kernel, no_gc):
        class Value:
            pass

        storage = kernel.ContextStorage()
        lives = []
        for _ in range(3):
            storage.value = Value()
            lives.append(weakref.ref(storage.value))
        assert [each() is None for each in lives] == [True, True, False]
        del storage.value
        assert lives[-1]() is None

    def test_a_value_that_writes_when_it_ends(self, kernel):
        class Value:
            def __del__(self):
                storage.note = storage.value

        storage = kernel.ContextStorage()
        storage.value = Value()
        storage.value = 1
        assert (storage.value, storage.note) == (1, 1)
