"""Who is told that nobody waits for a call any more, though its function runs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from asgibridge._bridge import state
from asgibridge.sync import async_to_sync, sync_to_async

SECONDS = 10


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    contexts: list[Any] = []
    monkeypatch.setattr(state, "abandoned", contexts.append)
    yield contexts
    assert all(each.is_abandoned for each in contexts)


class Held:
    """A function that is held on its thread until it may go on."""

    def __init__(self) -> None:
        self.has_begun, self.may_end = threading.Event(), threading.Event()
        self.task_context: Any = None

    def __call__(self) -> None:
        self.task_context = state.threadlocal.task_context
        self.has_begun.set()
        assert self.may_end.wait(SECONDS)

    async def begin(self, **options: Any) -> asyncio.Task[None]:
        task = asyncio.create_task(sync_to_async(self, **options)())
        assert await asyncio.get_running_loop().run_in_executor(None, self.has_begun.wait, SECONDS)
        return task


async def cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, SECONDS)


@pytest.mark.parametrize("thread_sensitive", [True, False])
def test_told_once_of_a_function_that_goes_on(told: list[Any], thread_sensitive: bool) -> None:
    held = Held()

    async def main() -> None:
        await cancel(await held.begin(thread_sensitive=thread_sensitive))
        assert told == [held.task_context]
        held.may_end.set()

    asyncio.run(main())
    assert len(told) == 1


def test_not_told_of_one_that_has_not_begun(told: list[Any]) -> None:
    held = Held()

    async def main() -> None:
        task = await held.begin()
        queued = asyncio.create_task(sync_to_async(Held())())
        await asyncio.sleep(0)
        await cancel(queued)
        held.may_end.set()
        await task

    asyncio.run(main())
    assert told == []


def test_not_told_of_one_that_is_waited_for(told: list[Any]) -> None:
    held = Held()

    async def main() -> None:
        task = await held.begin(abandon_on_cancel=False)
        task.cancel()
        await asyncio.sleep(0)
        held.may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert told == []


@pytest.mark.parametrize("survives", [True, False])
def test_told_of_the_innermost_alone(told: list[Any], survives: bool) -> None:
    """The outer function has its CancelledError from its coroutine, or goes on with that."""
    held = Held()

    async def coroutine() -> None:
        try:
            await sync_to_async(held, thread_sensitive=False)()
        except asyncio.CancelledError:
            if not survives:
                raise

    def outer() -> str:
        async_to_sync(coroutine)()
        return "result"

    async def main() -> None:
        task = asyncio.create_task(sync_to_async(outer)())
        assert await asyncio.get_running_loop().run_in_executor(None, held.has_begun.wait, SECONDS)
        if survives:
            task.cancel()
            assert await task == "result"
        else:
            await cancel(task)
        assert told == [held.task_context]
        held.may_end.set()

    asyncio.run(main())
    assert len(told) == 1
