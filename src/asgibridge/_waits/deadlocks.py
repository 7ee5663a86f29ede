"""Calls that can never run: the proof, as far as our own bridges know who waits for whom.

A **task** waits for a call of `sync_to_async`, for another task, for tasks that it gathers, or for
something that others have to give back (a `Wait`: a token of a CapacityLimiter, a worker at the
limit, the thread of the context that it leaves). A **call** waits for the call that its thread is
in the middle of (which may be the call itself), if that one's function waits in `async_to_sync`;
that one waits for its task. The call that has borrowed a **token** gives it back when its function
has returned; the task inside a context gives back the **worker**. Where everything that a search
reaches from a call waits, nothing can go on except by a cancellation from outside (a time-out
further out, Ctrl-C, more tokens), and the call raises. A task or call that waits for anything else,
or for nothing, ends the search: no proof, no error. So a thread that is blocked in foreign code is
never part of a ring, nor is a task that waits for a plain future, an event or a lock; nor a token
that was borrowed by hand, or a context that was entered when there was no limit.

**Why the proof is certain** though the others run on meanwhile: the search looks at each task
*before* it looks at what that task waits for. A target that still waits later proves that the waits
for it had not ended. A `Wait` ends when any one of several givers gives. They count only if one
look finds as many givers as there are tokens or workers, and if each is still in the middle of its
call when the search comes to it. More tokens or workers may come from outside, or one may already
be reserved for the waiting task: so the search asks each `Wait` again in the end, which must answer
the same.

**Time-outs.** If a task of the ring has a time-out of its own (`asyncio.timeout`, `wait_for`), or a
task that waits for one of them has, that will break the ring, as its program intends: no error.
asyncio's own loops and uvloop's show their timers (`has_time_out`). On any other loop, a ring that
has a `Wait` in it is not found, and other rings raise whatever their time-outs.

**When a search begins.** When a call is posted to a thread that waits in `async_to_sync` further in
(`SyncCall.is_blocked`: one comparison is what all other calls pay); when a task begins a `Wait`;
and every half second from a thread that waits for long (`look_for_ring`), or from a task that waits
for a worker (`look_for_ring_from`), because the last link may be none of ours, a task that begins
to wait for another. Then a thread also notices that the loop it waits for has been closed. (A
stopped loop may run again.)

**State.** ``_busy``: which tasks an executor that is not ours, or the thread of an
AsyncSingleThreadContext, is busy with. Only that executor's thread writes it. Who breaks a ring
holds ``_looking``. A ring that is to break at a `Wait` breaks on that one's loop, after another
search: a time-out that has just come has left the loop's lists and may not have cancelled its task
yet, but the loop's own thread cannot see that. If somebody else has broken the ring by then, the
search finds none.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import sys
import threading
import time
import types
from concurrent.futures import Executor
from typing import Any

from .._process import cpython, fork
from .._process.handover import call_if_open
from .._process.threads import Worker
from . import edges
from .edges import AwaitedCall, Edge, Tasks, Wait
from .names import stored, task_words

_MOST = 1000  # steps of a search: arbitrary, about a millisecond

_busy: dict[int, Tasks] = {}
# Of two threads that search at the same time, only one may find the ring. Re-entrant: a finalizer
# that runs in the middle of a search may wait in `async_to_sync`, and search.
_looking = threading.RLock()


def _after_fork_in_child() -> None:
    # A thread of the parent may have held it.
    global _looking
    _looking = threading.RLock()
    _busy.clear()


fork.at_fork(_after_fork_in_child)


def occupy(executor: Executor, tasks: Tasks | None) -> Tasks | None:
    """``executor``'s one thread is busy with ``tasks`` from now on. On that thread.

    Returns what it was busy with before, which `occupy` takes at the end.
    """
    outer = _busy.pop(id(executor), None)
    if tasks is not None:
        _busy[id(executor)] = tasks
    return outer


def busy_with(executor: Executor) -> Tasks | None:
    """The tasks that the executor's thread waits for in the middle of a call, or None."""
    return _busy.get(id(executor))


def begin_wait(wait: Wait) -> asyncio.Task[Any] | None:
    """The current task begins to wait. Returns what `end_wait` takes; None if no search can see it.

    On the loop's thread.
    """
    task = asyncio.current_task()
    try:
        task.asgibridge_wait = wait  # type: ignore[union-attr]
    except AttributeError:  # a task class of somebody's own
        return None
    return task


def end_wait(wait: Wait, task: Any) -> None:
    """The task waits no more. On the loop's thread, or on the one that drops the task."""
    if task is not None and task.asgibridge_wait is wait:
        task.asgibridge_wait = None


def chain(
    blocker: Tasks | None,
    me: asyncio.Task[Any] | None = None,
    mine: Tasks | None = None,
    calls: list[AwaitedCall | Wait] | None = None,
    wait: Wait | None = None,
    *,
    is_harmless: bool = False,
) -> str | None:
    """Why a wait for ``blocker``, or ``wait``, never ends, in words; None if that is not certain.

    :param blocker: the ``task_context`` of the call that is in the way.
    :param me: the task that is about to wait for it; or
    :param mine: the ``task_context`` of the call that is about to. With either, also None for a
        ring that leaves out that task or call: somebody will break the ring, and they go on.
    :param calls: gets the calls and waits on the way.
    :param wait: a `Wait` in place of ``blocker``.
    :param is_harmless: whether nothing raises if there is a ring: then no time-out matters.
    """
    is_part = me is None and mine is None
    # Each task with its edge, and whether that leads to `mine`. The list holds the tasks: no other
    # can get the identity of one. Words are made in the end: most searches find no proof.
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
    if not is_part or not _stand(waits, [task for task, _edge, _is_mine in way], is_harmless):
        return None
    return "; ".join(_words(*each) for each in way)


def _push(owners: list[Tasks], todo: list[asyncio.Task[Any]]) -> bool:
    # Adds the task that each owner waits for. False if one waits for none.
    for each in owners:
        task = edges.innermost(each)
        if task is None:
            return False
        todo.append(task)
    return True


def _stand(waits: list[tuple[Wait, list[Tasks]]], tasks: list[Any], is_harmless: bool) -> bool:
    # Whether the waits are still what they were, and no time-out will end one.
    is_harmless |= bool(waits) and all(wait.is_harmless for wait, _ in waits)
    if not is_harmless and has_time_out(tasks, if_unknown=bool(waits)):
        return False
    return all(wait.owners() == owners for wait, owners in waits)


def has_time_out(tasks: list[Any], if_unknown: bool = True) -> bool:
    """Whether one of the tasks' loops has a timer that is about one of the tasks, or about one that
    waits for them.

    From any thread. It runs no code of the program's.

    :param if_unknown: the answer on a loop that does not show its timers.
    """
    if not cpython.HAS_TIME_OUTS_TASK:
        return if_unknown
    around = _around(tasks)
    idents = {id(each) for each in around}
    loops = {id(each.get_loop()): each.get_loop() for each in around}
    try:
        return any(
            id(each) in idents
            for loop in loops.values()
            for handle in _handles(loop)
            for each in _about(handle)
        )
    except Exception:  # a loop of an unknown class
        return if_unknown


def _around(tasks: list[Any]) -> list[Any]:
    # The tasks, and the tasks and futures that wait for them.
    known = {id(task): task for task in tasks}
    todo = list(tasks)
    while todo and len(known) <= _MOST:
        for callback in cpython.callbacks_of(todo.pop()):
            for each in _waiting(callback):
                if issubclass(type(each), asyncio.Future) and id(each) not in known:
                    known[id(each)] = each
                    todo.append(each)
    return list(known.values())


def _waiting(callback: Any) -> list[Any]:
    # What goes on by a callback of a task's end: the task that awaits it; the future of
    # `asyncio.gather`, `asyncio.wait` and `shield`; that of `wait_for`, below 3.12; a TaskGroup's
    # parent.
    if issubclass(type(callback), functools.partial):
        return list(callback.args)
    if type(callback) is types.FunctionType:
        return gc.get_referents(*(callback.__closure__ or ()))  # a cell may be empty
    owner = stored(callback, "__self__")
    return [owner, stored(owner, "_parent_task")]


def _about(handle: list[Any]) -> list[Any]:
    # The object that a callback is bound to, that object's task, and the callback's arguments; the
    # cells of a function that cancels something, and what a partial is made of.
    found: list[Any] = []
    for part in handle:
        if type(part) is tuple:
            found.extend(part)
        elif type(part) is functools.partial:
            found.extend(_about([part.func, part.args]))
        elif type(part) is types.FunctionType and "cancel" in part.__code__.co_names:
            found.extend(gc.get_referents(*(part.__closure__ or ())))
        elif type(part) in (types.MethodType, types.BuiltinMethodType):
            owner = part.__self__
            named = part.__func__ if type(part) is types.MethodType else part
            if stored(named, "__name__") == "cancel":  # a task's next step is no time-out
                found.append(owner)
            found.extend(stored(owner, name) for name in cpython.TIMED)
    return found


def _handles(loop: Any) -> list[list[Any]]:
    # What the loop is going to call, now or later: functions and tuples of arguments.
    uvloop = sys.modules.get("uvloop.loop")
    if uvloop is not None and issubclass(type(loop), uvloop.Loop):
        # Only the collector shows them. That takes a tenth of a second in a big process, but by now
        # nothing except a time-out could end this ring.
        classes = (uvloop.Handle, uvloop.TimerHandle)
        return [gc.get_referents(each) for each in gc.get_objects() if type(each) in classes]
    if not issubclass(type(loop), asyncio.BaseEventLoop):
        raise TypeError(type(loop))
    return cpython.scheduled(loop)


def _words(task: asyncio.Task[Any], edge: Edge | None, is_mine: bool) -> str:
    who = f"{task_words(task)}, which "
    if edge is None:
        return f"{who}makes this call"
    if not is_mine:
        return who + edges.words(edge)
    if edge.kind == "call":
        return f"{who}waits for the function that makes this call"
    return f"{who}{edges.words(edge)}; the function that makes this call"


def is_helper() -> bool:
    """Whether this is a thread of the program's own, which another thread may be waiting for.

    Calls of a loop that runs on one are looked at once in a while: see `_bridge.helpers`.
    """
    if cpython.threading_is_patched():
        return False
    thread = threading.current_thread()
    return thread is not threading.main_thread() and not isinstance(thread, Worker)


class NeverRuns(RuntimeError):
    """The call that a thread has submitted, and waits for, can never run."""


class ForeignWait:
    """A thread's wait, not for a loop, but for ``executor`` to run what the thread has submitted.

    :param task_context: of the call that the thread is in the middle of, or None.
    """

    def __init__(self, executor: Executor, task_context: Tasks | None) -> None:
        self._executor = executor
        self._task_context = task_context

    def look(self) -> None:
        """Raise NeverRuns if the executor never will. On the waiting thread."""
        if self._task_context is None:
            return
        why = chain(busy_with(self._executor), mine=self._task_context)
        if why is not None:
            what = "force_new_loop in an AsyncSingleThreadContext"
            raise NeverRuns(*would_never_run(what, why).args)


def look_for_ring(loop: asyncio.AbstractEventLoop | ForeignWait | None, beneath: Any) -> None:
    """A thread has waited for a task of ``loop`` for some time. On that thread.

    Raises RuntimeError if the loop is closed. If the task waits, in the end, for a ring of calls,
    one call of the ring raises, if possible one that only this thread could run. None that waits
    behind the ring does.

    :param loop: None for the loop of a run that the thread has started itself; a ForeignWait if an
        executor may not have begun the run.
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
            _look(mine, None)


def look_for_ring_from(wait: Wait) -> None:
    """A task has waited for long in a `Wait` whose ring need have no thread: the same for it.

    On the loop's thread. Of many tasks that ask, one per half second makes a search.
    """
    global _looked
    now = time.monotonic()
    if now - _looked < LOOK_EVERY or not _looking.acquire(blocking=False):
        return
    try:
        _looked = now
        _look(None, wait)
    finally:
        _looking.release()


_looked = 0.0
LOOK_EVERY = 0.45  # seconds; a bit less than the half second after which a thread looks


def _look(mine: Tasks | None, wait: Wait | None) -> None:
    # Find a ring and break it at one place: best where nothing raises, then at a wait, which is
    # searched once more before it raises, then at a call for our own thread.
    calls: list[Any] = []
    words = chain(mine, calls=calls, wait=wait)
    if words is None:
        return
    error = would_never_run("This call", words)
    calls.sort(
        key=lambda call: (
            not getattr(call, "is_harmless", False),
            not _is_wait(call),
            not _is_for(call, mine),
        )
    )
    for call in calls:
        if _why_in_ring(call) is None:
            continue
        if _break_at(call) if _is_wait(call) else call.fail(error):
            return


def _break_at(wait: Any) -> bool:
    return call_if_open(wait.loop, _settle, wait)


def _settle(wait: Any) -> None:
    # On the wait's own loop.
    with _looking:
        why = _why_in_ring(wait)
        if why is not None:
            wait.end(wait.refusal(why))


def _is_wait(call: Any) -> bool:
    return hasattr(call, "owners")


def _is_for(call: Any, mine: Tasks | None) -> bool:
    if _is_wait(call):
        return any(each is mine for each in call.owners() or ())
    return call.blocked_by() is mine


def _why_in_ring(call: Any) -> str | None:
    # Why the call, or wait, waits for itself; None if it is behind a ring at most.
    calls: list[AwaitedCall | Wait] = []
    if _is_wait(call):
        why = chain(None, calls=calls, wait=call)
    else:
        why = chain(call.blocked_by(), calls=calls)
    return why if any(each is call for each in calls) else None


def would_never_run(what: str, words: str) -> RuntimeError:
    """The error of a call that never runs.

    :param words: what `chain` said.
    """
    return RuntimeError(
        f"{what} would deadlock: the thread that it has to run in waits for {words}. Do not wait "
        "for it there, or make the inner call with thread_sensitive=False. See "
        "docs/troubleshooting.md#would-deadlock."
    )
