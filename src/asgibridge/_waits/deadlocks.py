"""Calls that can never run: who waits for whom, as far as our own bridges know.

A **task** waits for a call of `sync_to_async`, for another task, for a gathering of tasks, or for
something that others have to give back (`Wait`): a token of a CapacityLimiter, a worker at the
limit, the thread of the context that it leaves. A **call** waits for the call that its thread is in
the middle of (which may be itself), if that one's function waits in `async_to_sync`; and that one
waits for its task. A **token** is given back by the call that has borrowed it, when its function
has returned; a **worker**, by the task that is inside the context. When everything that can be
reached from a call that way waits, and nothing is left that could go on, then none of it will ever
(but for a cancellation from outside: a time-out further out, Ctrl-C, more tokens), and the call
raises. One task or call that is seen to wait for anything else, or for nothing, is the end of the
search: no proof, no error. A thread that is blocked in foreign code, or a task that waits for a
plain future, an event or a lock, is never taken for a part of it; nor is a token that was borrowed
by hand, or a context that was entered when there was no limit.

**Why the proof is certain** though the others run on meanwhile: each is looked at *before* what it
waits for. That something was seen to wait later than who waits for it means that nobody's wait had
ended when the search did. A `Wait` is for any one of several to give something back. Who they are
counts only if they are as many as there are tokens or workers, in one look; and if each is still in
the middle of its call when it is looked at in its turn, they were all there was. From outside there
can come more tokens or workers, or one can be kept already for who waits: so each `Wait` is asked
a second time, when the search is over, and must answer the same.

**Time-outs.** A task of the ring that has one of its own (`asyncio.timeout`, `wait_for`) will break
a ring with a `Wait` in it, and that is what the program is written for: no error. That is seen on
asyncio's own loops and uvloop's (`.timers`); on any other such a ring is not found.

**When it is asked.** As a call is posted to a thread that waits in `async_to_sync` further in
(`SyncCall.is_blocked`: every other call pays one comparison for all this); as a task begins a
`Wait`; and every half second by a thread that waits for long (`look_for_ring`), or by a task that
waits for a worker (`look_for_ring_from`), because the last link can be one that is not ours, a task
that begins to wait for another. That is also when a thread notices that the loop it waits for has
been closed. Of a stopped one it can't be known that it will not run again.

**State.** ``_busy``: which tasks an executor that is not ours, or the thread of an
AsyncSingleThreadContext, is busy with. It is written by that executor's thread only. What a task
waits for is read from the task (`.edges`). Who breaks a ring holds ``_looking``. At a `Wait` it is
broken by its loop, which looks once more: a time-out that has just come is in no list any more, and
may not have cancelled its task yet, but not on the loop's own thread. If somebody else has broken
the ring by then, it is none any more.
"""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import Executor
from typing import Any

from .._process import fork
from .._process.handover import call_if_open
from . import edges, timers
from .edges import AwaitedCall, Edge, Tasks, Wait
from .names import task_words

__all__ = [
    "ForeignWait",
    "NeverRuns",
    "begin_to_occupy",
    "begin_wait",
    "busy_with",
    "chain",
    "end_to_occupy",
    "end_wait",
    "look_for_ring",
    "look_for_ring_from",
    "would_never_run",
]

_MOST = 1000  # steps of a search, so that it never takes longer than a millisecond

_busy: dict[int, Tasks] = {}
# So that of two threads that look at the same time only one finds what both could.
_looking = threading.Lock()


def _after_fork_in_child() -> None:
    # Of the parent's threads, which may have looked at that moment, none is there.
    global _looking
    _looking = threading.Lock()
    _busy.clear()


fork.at_fork(_after_fork_in_child)


def begin_to_occupy(executor: Executor, tasks: Tasks) -> Tasks | None:
    """``executor``'s one thread begins something that waits for ``tasks``. On that thread.

    What is returned is for `end_to_occupy`.
    """
    outer = _busy.get(id(executor))
    _busy[id(executor)] = tasks
    return outer


def end_to_occupy(executor: Executor, outer: Tasks | None) -> None:
    """It has ended."""
    if outer is None:
        _busy.pop(id(executor), None)  # a forked child has forgotten it
    else:
        _busy[id(executor)] = outer


def busy_with(executor: Executor) -> Tasks | None:
    """What the executor's thread waits for in the middle of a call; None if it has none."""
    return _busy.get(id(executor))


def begin_wait(wait: Wait) -> asyncio.Task[Any] | None:
    """The current task begins to wait. What is returned is for `end_wait`; None: nobody can see it.

    On the loop's thread.
    """
    task = asyncio.current_task()
    try:
        task.asgibridge_wait = wait  # type: ignore[union-attr]
    except AttributeError:  # a task class of somebody's own
        return None
    return task


def end_wait(wait: Wait, task: Any) -> None:
    """It waits no more. On the loop's thread, or where a task that was dropped comes to its end."""
    if task is not None and task.asgibridge_wait is wait:
        task.asgibridge_wait = None


def chain(
    blocker: Tasks | None,
    me: asyncio.Task[Any] | None = None,
    mine: Tasks | None = None,
    calls: list[AwaitedCall | Wait] | None = None,
    wait: Wait | None = None,
) -> str | None:
    """Why what waits for ``holder`` never goes on, in words; None if that is not certain.

    :param blocker: the ``task_context`` of the call that is in the way.
    :param me: the task that is about to wait for it; or
    :param mine: the ``task_context`` of the call that is about to. With either, None also if it is
        no part of the ring, but behind one: the ring is going to be broken, and then it goes on.
    :param calls: to be filled with the calls, and the waits, found on the way.
    :param wait: what is waited for, in place of ``holder``.
    """
    is_part = me is None and mine is None
    # Who was seen to wait for what, and whether that is `mine`. It holds the tasks, so that no
    # other has their identity. Words are made in the end: most searches find no proof.
    way: list[tuple[asyncio.Task[Any], Edge | None, bool]] = []
    known: set[int] = set()
    todo: list[asyncio.Task[Any]] = []
    waits: list[tuple[Wait, list[Tasks]]] = []
    owners = None if blocker is None else [blocker]
    if wait is not None:
        owners = wait.owners()
        if owners is not None:
            waits.append((wait, owners))
    if owners is None or not _push(owners, todo):
        return None
    while todo:
        if len(way) > _MOST:
            return None
        task = todo.pop()
        if id(task) in known:
            continue
        known.add(id(task))
        if me is not None and task is me:
            is_part = True
            way.append((task, None, True))
            continue
        edge = edges.of_task(task)
        is_mine = False
        if edge.kind == "wait":
            owners = edge.to.owners()
            if owners is None:
                return None
            waits.append((edge.to, owners))
            is_mine = mine is not None and any(each is mine for each in owners)
            if not _push([each for each in owners if not is_mine or each is not mine], todo):
                return None
        elif edge.kind == "call":
            is_mine = mine is not None and edge.to.task_context is mine
            if not is_mine and (edge.blocker is None or not _push([edge.blocker], todo)):
                return None
        elif edge.kind == "task":
            todo.append(edge.to)
        elif edge.kind == "tasks":
            todo.extend(reversed(edge.to))
        else:
            return None
        is_part = is_part or is_mine
        way.append((task, edge, is_mine))
        if calls is not None and (edge.kind == "wait" or (edge.kind == "call" and not is_mine)):
            calls.append(edge.to)
    if not is_part or (waits and not _stand(waits, [task for task, _edge, _is_mine in way])):
        return None
    return "; ".join(_words(*each) for each in way)


def _push(owners: list[Tasks], todo: list[asyncio.Task[Any]]) -> bool:
    # The task that each of them waits for. False if one waits for none.
    for each in owners:
        task = edges.innermost(each)
        if task is None:
            return False
        todo.append(task)
    return True


def _stand(waits: list[tuple[Wait, list[Tasks]]], tasks: list[Any]) -> bool:
    # Tokens and workers can come from outside while we search.
    if not all(wait.is_harmless for wait, _ in waits) and timers.has_time_out(tasks):
        return False
    return all(wait.owners() == owners for wait, owners in waits)


def _words(task: asyncio.Task[Any], edge: Edge | None, is_mine: bool) -> str:
    who = f"{task_words(task)}, which "
    if edge is None:
        return f"{who}makes this call"
    if not is_mine:
        return who + edges.words(edge)
    if edge.kind == "call":
        return f"{who}waits for the function that makes this call"
    return f"{who}{edges.words(edge)}; the function that makes this call"


class NeverRuns(RuntimeError):
    """What a thread has submitted, and waits for, can never run."""


class ForeignWait:
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


def look_for_ring(loop: asyncio.AbstractEventLoop | ForeignWait | None, beneath: Any) -> None:
    """A thread has waited for a task of ``loop`` for some time. On that thread.

    Raises RuntimeError if the loop is closed. If the task waits, in the end, for a ring of calls,
    one of the ring raises: one that only this thread could run, if it is a part of it. None that
    waits behind the ring does.

    :param loop: None if it belongs to a run that the thread has started itself; what that was
        submitted to, if an executor may not have begun it.
    :param beneath: the SyncCall that the thread is in the middle of, or None.
    """
    if isinstance(loop, ForeignWait):
        loop.look()
    elif loop is not None and loop.is_closed():
        raise RuntimeError(
            "the event loop was closed while a thread waited in async_to_sync for a task of it, "
            "which can never end: let the task end before closing the loop"
        )
    mine = None if beneath is None else beneath.blocked_by()
    if mine:
        with _looking:
            calls: list[AwaitedCall | Wait] = []
            words = chain(mine, calls=calls)
            if words is not None:
                _break(calls, words, mine)


def look_for_ring_from(wait: Wait) -> None:
    """The same for a task that has waited for long for what a thread need not be waited for with.

    On the loop's thread. Many may ask: they are heard every half second.
    """
    global _looked
    now = time.monotonic()
    if now - _looked < LOOK_EVERY or not _looking.acquire(blocking=False):
        return
    try:
        _looked = now
        calls: list[AwaitedCall | Wait] = []
        words = chain(None, calls=calls, wait=wait)
        if words is not None:
            _break(calls, words, None)
    finally:
        _looking.release()


_looked = 0.0
LOOK_EVERY = 0.45  # seconds; less than anybody's patience


def _break(calls: list[AwaitedCall | Wait], words: str, mine: Tasks | None) -> None:
    # One is enough: best one that takes no harm; else one that is looked at again before it raises;
    # and better one of our own thread's.
    calls.sort(
        key=lambda call: (
            not getattr(call, "is_harmless", False),
            not _is_wait(call),
            not _is_for(call, mine),
        )
    )
    error = would_never_run("This call", words)
    for call in calls:
        if _why_it_waits_for_itself(call) is None:
            continue
        if _break_at(call) if _is_wait(call) else call.fail(error):  # type: ignore[union-attr]
            return


def _break_at(wait: Any) -> bool:
    # On its loop's thread. On any other, a time-out that has just come would be in nobody's list,
    # and not have cancelled its task yet.
    return call_if_open(wait.loop, _settle, wait)


def _settle(wait: Any) -> None:
    with _looking:
        why = _why_it_waits_for_itself(wait)
        if why is not None:
            wait.end(wait.refusal(why))


def _is_wait(call: AwaitedCall | Wait) -> bool:
    return hasattr(call, "owners")


def _is_for(call: Any, mine: Tasks | None) -> bool:
    if _is_wait(call):
        return any(each is mine for each in call.owners() or ())
    return call.blocked_by() is mine


def _why_it_waits_for_itself(call: Any) -> str | None:
    calls: list[AwaitedCall | Wait] = []
    if _is_wait(call):
        why = chain(None, calls=calls, wait=call)
    else:
        why = chain(call.blocked_by(), calls=calls)
    return why if any(each is call for each in calls) else None


def would_never_run(what: str, words: str) -> RuntimeError:
    """The error that such a call raises."""
    return RuntimeError(
        f"{what} would deadlock: the thread that it has to run in waits for {words}. Do not wait "
        "for it there, or make the inner call with thread_sensitive=False."
    )
