"""What a task waits for at one of our bridges: read by the proof of deadlocks, and by a dump.

Nothing registers an `Edge`; `of_task` reads it from the task. A task's ``_fut_waiter`` is the
future that it has yielded. A future that one of our calls has made, also of asyncio's own class,
has the call in ``asgibridge_call``. A `Wait` is its task's ``asgibridge_wait``. Only the task
writes it. What waits for a sync iterator's next item has the task that makes the call for it in
``asgibridge_pull``.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple, Protocol

from .._process import cpython

Tasks = list[asyncio.Task[Any]]


class AwaitedCall(Protocol):
    """A call that a task waits for, as its ``_fut_waiter.asgibridge_call``."""

    @property
    def task_context(self) -> Tasks | None: ...

    def blocked_by(self) -> Tasks | None: ...

    def fail(self, error: BaseException) -> bool: ...


class Wait(Protocol):
    """A task's wait for a token, worker or thread that others have to give back."""

    item: Any
    """The future that the task has yielded, or that future's call; None before."""

    is_harmless: bool
    """Whether breaking a ring here ends the wait without an error."""

    loop: asyncio.AbstractEventLoop

    @property
    def call(self) -> Any:
        """The call that can't begin before the wait is over; None if there is none."""

    @property
    def what(self) -> str:
        """In words."""

    def owners(self) -> list[Tasks] | None:
        """For each possible giver, the tasks that it waits for, innermost last.

        None unless these are certainly all givers, or if the wait is over. From any thread.
        """

    def borrowers(self) -> list[Any]:
        """The possible givers, as far as known: calls, tasks, threads, executors (for their
        thread) and others. For a dump: they may change meanwhile. From any thread.
        """

    def refusal(self, why: str) -> RuntimeError:
        """The error that breaks a ring here. From any thread."""

    def end(self, error: BaseException) -> None:
        """End the wait with that error, if it has not ended. On the loop's thread."""


class Edge(NamedTuple):
    """What a task waits for."""

    kind: str
    """``wait``, ``call``, ``task``, ``tasks`` (it gathers them all), ``future`` (nobody knows who
    sets it) or ``ready`` (it waits for its loop at most)."""

    to: Any
    """The `Wait`, the call, the task, the list of tasks or the future; None if it is ready."""

    blocker: Tasks | None = None
    """Of a call, what `AwaitedCall.blocked_by` said."""


_READY = Edge("ready", None)


def of_task(task: Any) -> Edge:
    """What ``task`` waits for. From any thread."""
    waiter = cpython.waiter_of(task)
    if waiter is None or task.done() or waiter.done():
        return _READY
    call = getattr(waiter, "asgibridge_call", None)
    blocker = None if call is None else call.blocked_by()
    wait = getattr(task, "asgibridge_wait", None)
    if (
        wait is not None
        and (wait.item is waiter or (call is not None and wait.item is call))
        and (blocker is None or wait.is_harmless)  # else the call is with its worker by now
    ):
        return Edge("wait", wait)
    if call is not None:
        return Edge("call", call, blocker)
    if isinstance(waiter, asyncio.Task):
        return Edge("task", waiter)
    pull = getattr(waiter, "asgibridge_pull", None)
    if pull is not None:
        return Edge("task", pull)
    gathered = cpython.children_of(waiter)
    if gathered is not None:
        children = [child for child in gathered if not child.done()]
        if children and all(isinstance(child, asyncio.Task) for child in children):
            return Edge("tasks", children)
    return Edge("future", waiter)


def words(edge: Edge) -> str:
    """What a task with this edge does."""
    return f"waits for {edge.to.what}" if edge.kind == "wait" else _WORDS[edge.kind]


_WORDS = {
    "call": "waits for a sync_to_async call in a thread",
    "task": "waits for another task",
    "tasks": "gathers tasks",
}


def innermost(tasks: Tasks | None) -> asyncio.Task[Any] | None:
    """The task of the innermost frame in a call's ``task_context``; None if there is no frame.

    While the task is in the list, the call is in that frame. From any thread.
    """
    # Another thread may empty the list between a test and an index.
    return next(reversed(tasks or ()), None)
