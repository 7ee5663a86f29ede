"""`asyncio.run`, with a loop that is used again if nobody can tell.

Making and closing an event loop is two thirds of what a top-level `async_to_sync` costs: three file
descriptors, and five entries into the kernel each way. `run` keeps the loop of one call for the
next, from whatever thread, when it is as good as new, and does what `asyncio.run` does when not. ::

    made --> running --as good as new--> parked --> running ...
                 `--anything else--> closed, as asyncio.run closes it

**As good as new** is a loop that another call cannot tell from a new one, and that no other code
can reach: otherwise a late ``call_soon_threadsafe`` would run in a stranger's call. Nothing is
ready, scheduled or registered; there is no default executor and no asynchronous generator; every
attribute is the object it was. The reference counts are too: a loop that was stashed away, or is
known to a task, a lock or a WeakKeyDictionary, is not used again. Only asyncio's own selector loop
is looked at like this. Others (uvloop) are made and closed each time, and so is every loop in debug
mode, under another event loop policy or gevent, and where `asyncio.run`, or a function it calls, is
replaced.

A parked loop belongs to `_parked`, or to the thread that has popped it. More than `_MOST` are
closed. Those that have lain there for `IDLE_SECONDS` (a second when the program has no loop open)
are closed when one of our threads ends, all of them at exit. A forked child closes its copies of
the descriptors and nothing else: the parent shares the loop's selector, and would lose what the
child unregisters.
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import sys
import threading
import time
import weakref
from asyncio import events, runners, tasks
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from .._kernel import kernel
from .._process import cpython, fork, loops, threads
from .._process.handover import take

IDLE_SECONDS = _DEFAULT_SECONDS = 10.0
"""How long a loop may lie parked: as long as a worker."""
_LINGER_SECONDS = 0.9
"""The same when no loop of the program's is open: a little less than the second after which its
worker ends, which has run it and looks whether it lies parked for long enough."""

_MOST = 8
"""Loops parked at the same time. Arbitrary: each holds four file descriptors, and few programs make
more top-level calls at once."""

_parked: list[_KeptLoop] = []
_is_leaving = False
_policy_of_other_loops: Any = None  # a policy that makes loops that can't be kept

_LOOP_CLASS: Any = asyncio.SelectorEventLoop
_asyncio_run = asyncio.run
_runner = getattr(runners, "Runner", None)  # 3.11
_new_event_loop = events.new_event_loop
_set_event_loop = events.set_event_loop
_close = _LOOP_CLASS.close
_create_task = _LOOP_CLASS.create_task
_run_forever = _LOOP_CLASS.run_forever
_run_once = cpython.run_once
_get_ident = threading.get_ident
_can_keep = cpython.HAS_KNOWN_LOOPS and not cpython.threading_is_patched()


def _is_asyncio_untouched() -> bool:
    # Written out, because each call asks. `_KeptLoop` compares the attributes of an instance.
    return (
        asyncio.run is _asyncio_run
        and asyncio.new_event_loop is _new_event_loop
        and runners.run is _asyncio_run
        and getattr(runners, "Runner", None) is _runner
        and events.new_event_loop is _new_event_loop
        and events.set_event_loop is _set_event_loop
        and _LOOP_CLASS.close is _close
        and _LOOP_CLASS.create_task is _create_task
        and _LOOP_CLASS.run_forever is _run_forever
        and _LOOP_CLASS._run_once is _run_once
        and threading.get_ident is _get_ident  # greenlets are no threads, but run loops at a time
    )


def run(
    main: Callable[[Callable[[], None] | None], Coroutine[Any, Any, None]],
    held: int,
    let_go: Callable[[], None],
    thread_ends: bool,
) -> None:
    """`asyncio.run` of ``main(None)`` or ``main(stop)``, on a thread that has no event loop.

    The coroutine has to call ``stop``, if there is one, as the last thing it does.

    :param held: how many references to the loop the caller will hold when the coroutine has ended.
    :param let_go: drops those; called before anybody else can have the loop.
    :param thread_ends: whether it does afterwards, or is made as good as new.
    """
    kept = _take()
    if kept is not None:
        kept.run(main, held, let_go, thread_ends)
        return
    coroutine = main(None)
    try:
        asyncio.run(coroutine)
    finally:
        coroutine.close()


def _take() -> _KeptLoop | None:
    global _policy_of_other_loops
    if (
        not _can_keep
        or _is_leaving
        or not _is_asyncio_untouched()
        or cpython.DEBUG_VARIABLE in cpython.variables
        or sys.flags.dev_mode
    ):
        return None
    policy = getattr(events, cpython.POLICY, None)
    while True:
        try:
            kept = _parked.pop()
        except IndexError:
            break
        if kept.policy is policy:
            return kept
        kept.loop.close()
    if policy is not None and policy is _policy_of_other_loops:
        return None
    # Not in the caller's context: the handle of a loop's own reader keeps the one it is made in.
    loop = contextvars.Context().run(asyncio.new_event_loop)
    policy = getattr(events, cpython.POLICY, None)
    if type(loop) is _LOOP_CLASS and policy is not None:
        return _KeptLoop(loop, policy)
    loop.close()
    _policy_of_other_loops = policy
    return None


class _KeptLoop:
    """An event loop, and how it looks when no code has a reference. Of one thread at a time."""

    def __init__(self, loop: Any, policy: Any) -> None:
        self.loop = loop
        self.policy = policy
        self.since = 0.0
        kernel.attach_reader(loop)
        # The one weak reference without a callback that everybody shares.
        self._reference = weakref.ref(loop)
        # Some attributes come with the first run.
        loop.call_soon(loop.stop)
        loop.run_forever()
        self._names = list(loop.__dict__)
        self._values = list(loop.__dict__.values())
        self._descriptors = len(loop._selector.get_map())
        self._references: tuple[int, int, int] | None = None

    def _count(self) -> tuple[int, int, int]:
        return (
            sys.getrefcount(self.loop),
            weakref.getweakrefcount(self.loop),
            sys.getrefcount(self._reference),
        )

    def _is_as_good_as_new(self, held: int) -> bool:
        attributes = self.loop.__dict__
        assert self._references is not None
        references, *weak_references = self._references
        return (
            kernel.are_same(attributes, self._names)
            and kernel.are_same(attributes.values(), self._values)
            and not attributes["_ready"]
            and not attributes["_scheduled"]
            and not attributes["_asyncgens"].data
            and not attributes["_signal_handlers"]
            and len(attributes["_selector"].get_map()) == self._descriptors
            and self._count() == (references + held, *weak_references)
        )

    def run(
        self,
        main: Callable[[Callable[[], None]], Coroutine[Any, Any, None]],
        held: int,
        let_go: Callable[[], None],
        thread_ends: bool,
    ) -> None:
        is_as_good_as_new = False
        asyncio.set_event_loop(self.loop)
        if self._references is None:  # not in __init__, where a caller's frame has one, too
            self._references = self._count()
        try:
            task, is_stopped = self._begin(main)
            if not is_stopped:
                self.loop.run_forever()
            if not task.done():
                raise RuntimeError("Event loop stopped before Future completed.")
            if task.cancelled() or task.exception() is not None:
                self._take_last_turn()
                task.result()
            del task
            has_had_last_turn = bool(self.loop._ready or self.loop._scheduled)
            if has_had_last_turn:  # perhaps only a cancelled timer is left
                self._take_last_turn()
            is_as_good_as_new = self._is_as_good_as_new(held)
            if not (is_as_good_as_new or has_had_last_turn):
                self._take_last_turn()
        finally:
            if is_as_good_as_new:
                if not thread_ends:
                    asyncio.set_event_loop(None)
                let_go()
                self._park()
            else:
                close(self.loop)

    def _begin(
        self, main: Callable[[Callable[[], None]], Coroutine[Any, Any, None]]
    ) -> tuple[asyncio.Task[None], bool]:
        # Make the main task and run its first step, the way run_forever would; also returns whether
        # the loop has been stopped. By hand, because a tenth of the whole call goes by while
        # run_forever asks the selector and the timers of a new loop what has happened.
        # Nothing of the loop is left in our frame, which an exception's traceback may keep.
        loop = self.loop
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(loop._asyncgen_firstiter_hook, loop._asyncgen_finalizer_hook)
        loop._thread_id = threading.get_ident()
        cpython.set_running_loop(loop)
        try:
            # What create_task makes where there is no task factory.
            if sys.version_info >= (3, 12):
                return tasks.Task(main(loop.stop), loop=loop, eager_start=True), loop._stopping
            task = tasks.Task(main(loop.stop), loop=loop)
            loop._ready.popleft()._run()
            return task, loop._stopping
        finally:
            loop._stopping = False
            loop._thread_id = None
            cpython.set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)
            loop = task = hooks = None  # type: ignore[assignment]

    def _take_last_turn(self) -> None:
        # As asyncio.run's loop does, to find its main task done.
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def _park(self) -> None:
        if len(_parked) >= _MOST or _is_leaving:
            self.loop.close()
            return
        self.since = time.monotonic()
        _parked.append(self)
        if close_idle not in threads.when_a_worker_ends:  # twice does no harm
            threads.when_a_worker_ends.append(close_idle)
        if _is_leaving:  # set since, and `_leave` may have emptied the list
            _close_parked()

    def forget(self) -> None:
        """In a forked child: let go of our copies of the descriptors."""
        loop = self.loop
        for owner in (loop._selector, loop._ssock, loop._csock):
            with suppress(OSError):
                owner.close()
        loop._closed = True


# Times that `close` cancels new tasks of functions that still run. Arbitrary: a program may make
# them for ever.
_MOST_CALLS_BACK = 100


def close(loop: asyncio.AbstractEventLoop) -> None:
    """End ``loop`` as `asyncio.run` does. On its thread, whose event loop it is."""
    try:
        cpython.cancel_all_tasks(loop)
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor(*cpython.JOIN_TIMEOUT))
        # A sync function whose call was cancelled goes on, and may have called back meanwhile: the
        # task would be forgotten half done, and the function find that out after a second.
        for _ in range(_MOST_CALLS_BACK):
            if not tasks.all_tasks(loop):
                break
            cpython.cancel_all_tasks(loop)
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def close_idle() -> None:
    """Close the loops that have been parked for as long as an idle worker waits. On any thread."""
    now = time.monotonic()
    for kept in _parked[:]:
        idle = now - kept.since
        if idle >= IDLE_SECONDS or (
            idle >= _LINGER_SECONDS and IDLE_SECONDS == _DEFAULT_SECONDS and not loops.any_open()
        ):
            try:
                _parked.remove(kept)
            except ValueError:
                continue  # it was taken just now
            kept.loop.close()


def _close_parked() -> None:
    while kept := take(_parked):
        kept.loop.close()


def _leave() -> None:
    global _is_leaving
    _is_leaving = True
    _close_parked()


def _after_fork_in_child() -> None:
    while _parked:
        _parked.pop().forget()


atexit.register(_leave)
fork.at_fork(_after_fork_in_child)
