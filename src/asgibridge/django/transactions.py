"""`atomic`, Django's ``transaction.atomic`` for async code.

A block is entered and left on the thread that has the request's connection, a crossing each
(`asgibridge.iterators.sync_to_async_context_manager`). What runs in between, in this task or in
those that it starts, shares that thread and its connection, one call at a time, and so it shares
the transaction.

**Two tasks** that have a block each on one connection would end each other's:

1. Task A enters: ``BEGIN``. Task B enters: a savepoint in A's transaction.
2. A leaves first. Django takes the innermost entry off its stack, which is B's: A's changes are
   neither committed nor rolled back.
3. B leaves, and Django commits what both have done, whatever has become of A.

So a block may be entered inside of another only by who is inside of that: the same task, or one
that was started in the block. Which blocks a task is in, a context variable tells (``_inside``).
Any other task gets a TransactionManagementError. It does not wait for its turn: if the task that
has the block waits for this one, both would wait for ever.

For the same reason a block must not be left while a task that was started inside has one open: then
all of them are rolled back, from the inside to the outside, and each raises.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from typing import Any, TypeVar, overload

from django.db import transaction
from django.db.transaction import TransactionManagementError

from ..iterators import sync_to_async_context_manager
from ..sync import iscoroutinefunction

__all__ = ["atomic"]

_F = TypeVar("_F", bound=Callable[..., Any])


@overload
def atomic(using: _F) -> _F: ...


@overload
def atomic(
    using: str | None = None, savepoint: bool = True, durable: bool = False
) -> AsyncAtomic: ...


def atomic(using: Any = None, savepoint: bool = True, durable: bool = False) -> Any:
    """Django's ``transaction.atomic`` for async code: ``async with atomic(): ...``, or a decorator.

    ::

        async with atomic():
            order = await Order.objects.acreate(...)
            await asyncio.gather(order.items.acreate(...), order.notes.acreate(...))

        @atomic
        async def view(request): ...

    Commits when the block is left, and rolls back if by an exception, also by a cancellation, which
    is raised when that has been done. Nested blocks are savepoints. ``using``, ``savepoint`` and
    ``durable`` are Django's. Raises what Django's raises; TransactionManagementError if another
    task has a block open on this connection that this task was not started in, and if a block is
    left while a task that was started inside has one open (both are rolled back then). A sync
    function that it decorates gets Django's decorator.

    What is Django's for the thread of the connection is called there:
    ``await sync_to_async(transaction.on_commit)(function)``.
    """
    if callable(using):
        return AsyncAtomic(None, savepoint, durable)(using)
    return AsyncAtomic(using, savepoint, durable)


class AsyncAtomic(AbstractAsyncContextManager[None]):
    """What `atomic` returns. May be entered again, also by several tasks."""

    def __init__(self, using: str | None, savepoint: bool, durable: bool) -> None:
        self._options = using, savepoint, durable
        self._entered: dict[Any, list[AbstractAsyncContextManager[Any]]] = {}  # by task

    def __call__(self, function: _F) -> _F:
        options = self._options
        if not iscoroutinefunction(function):
            # Django's `method_decorator` decorates one, to see what a decorator adds.
            return transaction.Atomic(*options)(function)  # type: ignore[no-any-return]

        @functools.wraps(function)
        async def inner(*args: Any, **kwargs: Any) -> Any:
            async with AsyncAtomic(*options):
                return await function(*args, **kwargs)

        return inner  # type: ignore[return-value]

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        manager = sync_to_async_context_manager(_Block(self._options, task))
        await manager.__aenter__()
        self._entered.setdefault(task, []).append(manager)

    async def __aexit__(self, *error: object) -> None:
        task = asyncio.current_task()
        if task not in self._entered:
            # A generator may be closed by another task than the one that has begun it.
            task = next(reversed(self._entered))
        managers = self._entered[task]
        manager = managers.pop()
        if not managers:
            del self._entered[task]
        try:
            await manager.__aexit__(*error)  # type: ignore[arg-type]
        finally:
            del error


class _Block(transaction.Atomic):
    """One block. Entered and left on the thread that has the connection.

    :param task: who enters it.
    """

    def __init__(self, options: tuple[str | None, bool, bool], task: Any) -> None:
        super().__init__(*options)
        self._task = task

    def __enter__(self) -> None:
        inside = _inside.get()
        for outer in reversed(transaction.get_connection(self.using).atomic_blocks):
            if isinstance(outer, _Block):
                if outer not in inside and not outer._is_left_to(self._task):
                    raise TransactionManagementError(
                        f"{outer._task!r} has an atomic block open on this connection, and this "
                        "task was not started in it: await them one after the other, or start both "
                        "in one block (async with atomic(): await asyncio.gather(...)) and have "
                        "none in them"
                    )
                break
        super().__enter__()
        _inside.set((*inside, self))

    def _is_left_to(self, task: Any) -> bool:
        # Whether nobody else can be in the middle of it: its task, or who has entered it for others
        # and is gone, as a test's fixture.
        return self._task is task or self._task is None or self._task.done()

    def __exit__(self, kind: object, value: BaseException | None, traceback: object) -> None:
        _inside.set(tuple(each for each in _inside.get() if each is not self))
        blocks = transaction.get_connection(self.using).atomic_blocks
        if self not in blocks:
            if value is None:
                raise TransactionManagementError(
                    "this atomic block was rolled back: the one around it was left first, or this "
                    "one is left on another thread than it was entered on"
                )
            return
        if blocks[-1] is self:
            super().__exit__(kind, value, traceback)
            return
        error = TransactionManagementError(
            f"an atomic block is left while {getattr(blocks[-1], '_task', None)!r} has one open "
            "inside: both are rolled back. Wait for the tasks that are started in a block before "
            "its end, as asyncio.TaskGroup does"
        )
        while self in blocks:
            transaction.Atomic.__exit__(blocks[-1], type(error), error, None)
        raise error from value


_inside: ContextVar[tuple[_Block, ...]] = ContextVar("asgibridge_atomic_blocks", default=())
