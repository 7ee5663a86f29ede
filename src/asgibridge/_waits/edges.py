"""What a task waits for at one of our bridges: read by the proof of deadlocks, and by a dump.

An `Edge` is looked up, never noted down: a task's ``_fut_waiter`` is the future that it has
yielded. A future that a call of ours has made, be it of asyncio's own class, has the call in
``asgibridge_call``. A `Wait` is its task's ``asgibridge_wait``, written by that task only, so it
goes where the task goes.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple, Protocol

from .._process import cpython

__all__ = ["AwaitedCall", "Edge", "Tasks", "Wait", "innermost", "of_task", "words"]

Tasks = list[asyncio.Task[Any]]


class AwaitedCall(Protocol):
    """A call that a task waits for, as its ``_fut_waiter.asgibridge_call``."""

    @property
    def task_context(self) -> Tasks | None: ...

    def blocked_by(self) -> Tasks | None: ...

    def fail(self, error: BaseException) -> bool: ...


class Wait(Protocol):
    """What a task waits for that others have to give back, as its ``asgibridge_wait``."""

    item: Any
    """The future that the task has yielded, or the call of which that is; None before."""

    is_harmless: bool
    """Whether it just ends, and nothing is raised, if a ring is broken there."""

    loop: asyncio.AbstractEventLoop

    @property
    def call(self) -> Any:
        """The call that can't begin before the wait is over; None if there is none."""

    @property
    def what(self) -> str:
        """In words."""

    def owners(self) -> list[Tasks] | None:
        """Of each who could give it back, the tasks that he waits for, innermost last.

        None if that is not all of them, for certain; or if there is nothing to wait for any more.
        From any thread.
        """

    def borrowers(self) -> list[Any]:
        """Who could give it back, as far as known: calls, tasks, threads, executors' threads (by
        their executor) and others. For a dump: a look at what may be changing. From any thread.
        """

    def refusal(self, why: str) -> RuntimeError:
        """The error that it ends with. From any thread."""

    def end(self, error: BaseException) -> None:
        """End it with that error, if it has not ended. On the loop's thread."""


class Edge(NamedTuple):
    """What a task waits for."""

    kind: str
    """``wait``, ``call``, ``task``, ``tasks`` (all of which it gathers), ``future`` (nobody knows
    whose) or ``ready`` (it waits for its turn at most)."""

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
        and (blocker is None or wait.is_harmless)  # else it is with its worker by now
    ):
        return Edge("wait", wait)
    if call is not None:
        return Edge("call", call, blocker)
    if isinstance(waiter, asyncio.Task):
        return Edge("task", waiter)
    gathered = cpython.children_of(waiter)
    if gathered is not None:
        children = [child for child in gathered if not child.done()]
        if children and all(isinstance(child, asyncio.Task) for child in children):
            return Edge("tasks", children)
    return Edge("future", waiter)


def words(edge: Edge) -> str:
    """What a task does that waits so."""
    return f"waits for {edge.to.what}" if edge.kind == "wait" else _WORDS[edge.kind]


_WORDS = {
    "call": "waits for a sync_to_async call in a thread",
    "task": "waits for another task",
    "tasks": "gathers tasks",
}


def innermost(tasks: Tasks | None) -> asyncio.Task[Any] | None:
    """Of a call's ``task_context``, the task of the innermost frame: while that is in the list, the
    call is in that frame. None if it is in none. From any thread.
    """
    for task in reversed(tasks or ()):
        return task
    return None
