"""Calls that can never run: who waits for whom, as far as our own bridges know.

A **task** waits for a call of `sync_to_async`, for another task, or for a gathering of tasks. A
**call** waits for the call that its thread is in the middle of (which may be itself), if that one's
function waits in `async_to_sync`; and that one waits for its task. When everything that can be
reached from a call that way waits, and nothing is left that could go on, then none of it will ever
(but for a cancellation from outside: a time-out, Ctrl-C), and the call raises. One task or call
that is seen to wait for anything else, or for nothing, is the end of the search: no proof, no
error. A thread that is blocked in foreign code, or a task that waits for a plain future, an event
or a lock, is never taken for a part of it.

**Why the proof is certain** though the others run on meanwhile: each is looked at *before* what it
waits for. That something was seen to wait later than who waits for it means that nobody's wait had
ended when the search did.

**When it is asked.** As a call is posted to a thread that waits in `async_to_sync` further in
(`SyncCall.is_held`: every other call pays one comparison for all this); and every half second by a
thread that waits for long (`look`), because the last link can be one that is not ours, a task
that begins to wait for another. That is also when a thread notices that the loop it waits for has
been closed. Of a stopped one it can't be known that it will not run again.

Nothing is kept here but `_busy`: which tasks an executor that is not ours, or the thread of an
AsyncSingleThreadContext, is busy with. It is written by that executor's thread only.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any, Protocol

__all__ = [
    *("NeverRuns", "Submitted", "Waiting", "busy_with", "chain", "look", "occupied"),
    "would_never_run",
]

_MOST = 1000  # steps of a search, so that it never takes longer than a millisecond

Tasks = list[asyncio.Task[Any]]


class Waiting(Protocol):
    """A call that a task waits for, as its ``_fut_waiter.asgibridge_call``."""

    @property
    def task_context(self) -> Tasks | None: ...

    def held_by(self) -> Tasks | None: ...

    def fail(self, error: BaseException) -> bool: ...


_busy: dict[int, Tasks] = {}
# So that of two threads that look at the same time only one finds what both could.
_looking = threading.Lock()


def _after_fork_in_child() -> None:
    # Of the parent's threads, which may have looked at that moment, none is there.
    global _looking
    _looking = threading.Lock()
    _busy.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


@contextmanager
def occupied(executor: Executor, tasks: Tasks) -> Iterator[None]:
    """While ``executor``'s one thread is in the middle of something that waits for ``tasks``."""
    key = id(executor)
    outer = _busy.get(key)
    _busy[key] = tasks
    try:
        yield
    finally:
        if outer is None:
            _busy.pop(key, None)  # a forked child has forgotten it
        else:
            _busy[key] = outer


def busy_with(executor: Executor) -> Tasks | None:
    """What the executor's thread waits for in the middle of a call; None if it has none."""
    return _busy.get(id(executor))


def chain(
    holder: Tasks | None,
    me: asyncio.Task[Any] | None = None,
    mine: Tasks | None = None,
    calls: list[Waiting] | None = None,
) -> str | None:
    """Why what waits for ``holder`` never goes on, in words; None if that is not certain.

    :param holder: the ``task_context`` of the call that is in the way.
    :param me: the task that is about to wait for it; or
    :param mine: the ``task_context`` of the call that is about to. With either, None also if it is
        no part of the ring, but behind one: the ring is going to be broken, and then it goes on.
    :param calls: to be filled with the calls found on the way.
    """
    words: list[str] = []
    is_part = me is None and mine is None
    seen: list[Any] = []  # held, so that no other object has their identity
    known: set[int] = set()
    todo: list[Any] = []
    if holder is None or not _push_last(holder, todo):
        return None
    while todo:
        if len(seen) > _MOST:
            return None
        task = todo.pop()
        if id(task) in known:
            continue
        known.add(id(task))
        seen.append(task)
        if me is not None and task is me:
            is_part = True
            words.append(f"{_name(me)}, which makes this call")
            continue
        waiter = getattr(task, "_fut_waiter", None)
        if waiter is None or task.done() or waiter.done():
            return None
        call = getattr(waiter, "asgibridge_call", None)
        if call is not None:
            if mine is not None and call.task_context is mine:
                is_part = True
                words.append(f"{_name(task)}, which waits for the function that makes this call")
                continue
            holder = call.held_by()
            if holder is None or not _push_last(holder, todo):
                return None
            if calls is not None:
                calls.append(call)
            words.append(f"{_name(task)}, which waits for a sync_to_async call in a thread")
        elif isinstance(waiter, asyncio.Task):
            words.append(f"{_name(task)}, which waits for another task")
            todo.append(waiter)
        elif type(waiter) is _Gathering:
            children = [child for child in waiter._children if not child.done()]
            if not children or not all(isinstance(child, asyncio.Task) for child in children):
                return None
            words.append(f"{_name(task)}, which gathers tasks")
            todo.extend(reversed(children))
        else:
            return None
    return "; ".join(words) if is_part else None


_Gathering: Any = asyncio.tasks._GatheringFuture  # type: ignore[attr-defined]


def _push_last(holder: Tasks, todo: list[Any]) -> bool:
    # The task of the innermost frame: while that is in the list, the call is in that frame. (What
    # is no task is `sync.CANCELLED`: the call goes on, also if nobody waits for it any more.)
    for each in reversed(list(holder)):
        if type(each) is not object:
            todo.append(each)
            return True
    return False


def _name(task: asyncio.Task[Any]) -> str:
    try:
        coroutine: Any = task.get_coro()
        what = getattr(coroutine, "__qualname__", None) or type(coroutine).__name__
        return f"task {task.get_name()!r} ({what})"
    except AttributeError:  # a task class of somebody's own
        return repr(task)


class NeverRuns(RuntimeError):
    """What a thread has submitted, and waits for, can never run."""


class Submitted:
    """What a thread waits for if not for a loop: that ``executor`` runs what it was given by the
    call whose ``task_context`` this is, or None.
    """

    def __init__(self, executor: Executor, task_context: Tasks | None) -> None:
        self._executor = executor
        self._task_context = task_context

    def look(self) -> None:
        """Raises NeverRuns. On the waiting thread."""
        if self._task_context is None:
            return
        why = chain(busy_with(self._executor), mine=self._task_context)
        if why is not None:
            error = would_never_run("force_new_loop in an AsyncSingleThreadContext", why)
            raise NeverRuns(*error.args)


def look(loop: asyncio.AbstractEventLoop | Submitted | None, beneath: Any) -> None:
    """A thread has waited for a task of ``loop`` for some time. On that thread.

    Raises RuntimeError if the loop is closed. If the task waits, in the end, for a ring of calls,
    one of the ring raises: one that only this thread could run, if it is a part of it. None that
    waits behind the ring does.

    :param loop: None if it belongs to a run that the thread has started itself; what that was
        submitted to, if an executor may not have begun it.
    :param beneath: the SyncCall that the thread is in the middle of, or None.
    """
    if isinstance(loop, Submitted):
        loop.look()
    elif loop is not None and loop.is_closed():
        raise RuntimeError(
            "the event loop was closed while a thread waited in async_to_sync for a task of it, "
            "which can never end: let the task end before closing the loop"
        )
    if beneath is None:
        return
    mine = beneath.held_by()
    if not mine:
        return
    with _looking:
        calls: list[Waiting] = []
        words = chain(mine, calls=calls)
        if words is None:
            return
        error = would_never_run("This call", words)
        # One is enough, and better one of our own thread's.
        calls.sort(key=lambda call: call.held_by() is not mine)
        for call in calls:
            if _waits_for_itself(call) and call.fail(error):
                return


def _waits_for_itself(call: Waiting) -> bool:
    calls: list[Waiting] = []
    return chain(call.held_by(), calls=calls) is not None and any(each is call for each in calls)


def would_never_run(what: str, words: str) -> RuntimeError:
    """The error that such a call raises."""
    return RuntimeError(
        f"{what} would deadlock: the thread that it has to run in waits for {words}. Do not wait "
        "for it there, or make the inner call with thread_sensitive=False."
    )
