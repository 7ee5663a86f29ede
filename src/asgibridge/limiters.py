"""How many calls run at once, and what a call does when its task is cancelled.

For `sync_to_async`: the ``limiter=``, ``thread_name=`` and ``abandon_on_cancel=`` of a wrapper, and
`check_cancelled`, for the function to ask. The names are those of anyio's `to_thread.run_sync`.

A `CapacityLimiter` is a queue of the kernel's (`asgibridge._pure.promises`) put to another use: to
borrow a token is to put an item into the queue, whose size is the number of tokens. So every task
and thread that waits is served in order, and a task holds no thread meanwhile; a wait that is
cancelled, or whose loop is closed, hands its place on; and a forked child forgets the waits of the
threads that it does not have. One more item always lies in the queue, because to the queue a
``maxsize`` of 0 is no limit, and to a limiter it is no token.

``_loans`` has, by borrower, a loan from the request for a token until the token is given back;
whoever put the loan in owns it. ``_calls`` has what the functions of calls wait for, from when
the token has been borrowed until just before it is given back. The dicts' own steps are atomic; no
other lock is needed.

**Deadlocks.** A wait for a token (`_TokenWait`) ends when any that is borrowed is given back. If
all are borrowed by calls (each of them in ``_calls``, and as many as the queue holds), and
each has a function that waits, in the end, for this very wait, it never does: see
`asgibridge._waits.deadlocks`. A token that was borrowed by hand is in no call's chain, and ends the
search. `_TokenWait` drives the queue's waiter by hand, to know the future that its task is
suspended on, and to be ended: then it is woken, looks whether it has got a token after all, and if
not raises.

**Fork.** The child begins with a new queue. Only the tokens of the forking thread, and of the
function that forked, stay borrowed. All others come back, also those of tasks, because the parent's
event loops do not go on there. A task that does go on, since it has forked itself, may give its
token back without effect.

**Interrupts.** A KeyboardInterrupt that a signal handler raises in the middle of borrowing or
giving back, in the main thread, may cost that token; asyncio's own handler raises none there.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from . import current_thread_executor
from ._bridge import state
from ._kernel import kernel
from ._process import fork
from ._process.cpython import running_loop
from ._process.queue_errors import QueueFull
from ._waits import deadlocks
from ._waits.names import function_words

__all__ = [
    "CapacityLimiter",
    "CapacityLimiterStatistics",
    "WouldBlock",
    "check_cancelled",
]


def __dir__() -> list[str]:
    return __all__


class WouldBlock(Exception):
    """No token can be had without waiting."""


@dataclass(frozen=True)
class CapacityLimiterStatistics:
    """What a `CapacityLimiter` is doing."""

    borrowed_tokens: int
    """Tokens that are borrowed."""
    total_tokens: float
    """Tokens there are."""
    borrowers: tuple[object, ...]
    """Who has them: calls, and the tasks, threads and other objects that have borrowed one."""
    tasks_waiting: int
    """Calls, tasks and threads that wait for one."""


class _Loan:
    """One borrower's token, or its wish for one: entered while it waits for the token."""

    __slots__ = ("_borrower", "_loans", "has_token", "ident", "is_of_parent")

    def __init__(self, loans: dict[object, _Loan], borrower: object) -> None:
        self._loans = loans
        self._borrower = borrower
        self.has_token = False
        self.is_of_parent = False  # and the token came back when this process was forked
        # The thread that has the token; None of a task.
        self.ident = threading.get_ident() if running_loop() is None else None

    def __enter__(self) -> None:
        if self._loans.setdefault(self._borrower, self) is not self:
            raise RuntimeError(
                "this borrower has a token of this CapacityLimiter already, or waits for one"
            )

    def __exit__(self, exc: object, value: object, tb: object) -> None:
        if exc is None:
            self.has_token = True
        else:
            self._loans.pop(self._borrower, None)


class CapacityLimiter:
    """A number of tokens, to be borrowed by calls, tasks and threads, and given back.

    ``sync_to_async(f, thread_sensitive=False, limiter=CapacityLimiter(10))`` runs at most ten calls
    of ``f`` at once. Several wrappers, event loops and threads may share one. Whoever waits gets a
    token in order. Use it by hand with ``async with`` in tasks, and ``with`` in threads.

    A call inside another's function needs a token of its own: functions that wait for each other
    need limiters of their own. When all tokens are taken by such, a call raises RuntimeError
    ("would deadlock"), as long as no token is borrowed by hand.

    :param total_tokens: how many there are; `math.inf` for no limit.
    """

    def __init__(self, total_tokens: float) -> None:
        self._loans: dict[object, _Loan] = {}
        self._calls: dict[Any, Any] = {}  # that have a token, and their `task_context`
        self._places = _places(0)
        self._total_tokens: float = 0
        self.total_tokens = total_tokens
        fork.at_fork_of(self, CapacityLimiter._forget_parent)

    def __repr__(self) -> str:
        return (
            f"<CapacityLimiter at {id(self):#x} total_tokens={self._total_tokens} "
            f"borrowed_tokens={self.borrowed_tokens} tasks_waiting={self._places.putting}>"
        )

    @property
    def total_tokens(self) -> float:
        """How many tokens there are: an int, or `math.inf`. May be set, from any thread.

        More: those who wait get them in order. Fewer: those that are borrowed beyond it stay so
        until they are given back. TypeError and ValueError (below 0) if it is no such number.
        """
        return self._total_tokens

    @total_tokens.setter
    def total_tokens(self, value: float) -> None:
        if value == math.inf:
            places = 0
        elif not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"total_tokens={value!r}: must be an int or math.inf")
        elif value < 0:
            raise ValueError(f"total_tokens={value!r}: must be 0 or more")
        else:
            places = value + 1
        self._total_tokens = value
        self._places.maxsize = places

    @property
    def borrowed_tokens(self) -> int:
        """How many tokens are borrowed. One that a waiter is about to take does not count."""
        return self._places.qsize() - 1

    @property
    def available_tokens(self) -> float:
        """How many tokens are left; negative after there have become fewer."""
        return self._total_tokens - self.borrowed_tokens

    def statistics(self) -> CapacityLimiterStatistics:
        """What is going on, to be looked at. From any thread."""
        loans = list(self._loans.items())
        return CapacityLimiterStatistics(
            self.borrowed_tokens,
            self._total_tokens,
            tuple(borrower for borrower, loan in loans if loan.has_token),
            self._places.putting,
        )

    async def acquire(self) -> None:
        """Borrow a token for the current task, waiting for one. On any event loop.

        RuntimeError if the task has one of this limiter's, or waits for one; and if all are
        borrowed by calls that wait for this task.
        """
        await self.acquire_on_behalf_of(_caller())

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        """Borrow a token for ``borrower``, any hashable object, as `acquire` does."""
        with _Loan(self._loans, borrower):
            if not self._places._offer(None):
                await _TokenWait(self, borrower)

    def acquire_nowait(self) -> None:
        """Borrow a token for the current task or thread, or raise `WouldBlock`.

        That is also raised if there is one, but somebody has been waiting for it.
        """
        self.acquire_on_behalf_of_nowait(_caller())

    def acquire_on_behalf_of_nowait(self, borrower: object) -> None:
        """Borrow a token for ``borrower``, as `acquire_nowait` does. From any thread."""
        with _Loan(self._loans, borrower):
            if not self._places._offer(None):
                raise WouldBlock("all tokens of this CapacityLimiter are borrowed")

    def sync_acquire(self, timeout: float | None = None) -> None:
        """Borrow a token for the current thread, waiting for one up to ``timeout`` seconds.

        Raises TimeoutError if there is none by then; RuntimeError if the thread has one of this
        limiter's, or runs an event loop, which would stand still: await `acquire` there.
        """
        if running_loop() is not None:
            raise RuntimeError(
                "waiting for a token here would block the event loop: use 'async with', or await "
                "acquire()"
            )
        with _Loan(self._loans, threading.current_thread()):
            try:
                self._places.sync_put(None, timeout=timeout)
            except QueueFull:
                raise TimeoutError(f"no token was free for {timeout} seconds") from None

    def release(self) -> None:
        """Give back what the current task or thread has borrowed. RuntimeError if it has not."""
        # In a forked child asyncio does not know any more which task has forked.
        if not self._give_back(_caller()) and not any(
            loan.is_of_parent for loan in list(self._loans.values())
        ):
            raise RuntimeError(_NO_TOKEN)

    def release_on_behalf_of(self, borrower: object) -> None:
        """Give back the token of ``borrower``. RuntimeError if it has none. From any thread."""
        if not self._give_back(borrower):
            raise RuntimeError(_NO_TOKEN)

    def _give_back(self, borrower: object) -> bool:
        """Give back the token of ``borrower``; False if it has none. From any thread."""
        loan = self._loans.get(borrower)
        if loan is None or not loan.has_token or self._loans.pop(borrower, None) is None:
            return False
        self._calls.pop(borrower, None)
        if loan.is_of_parent:
            return True
        try:
            self._places.get_nowait()
        except BaseException:
            # A signal handler raised while the next waiter was woken; nothing was taken out.
            self._places.get_nowait()
            raise
        return True

    def _owners(self) -> list[list[Any]] | None:
        # The `task_context` of each call that has a token. None if a token is left, or is borrowed
        # by hand, or is being borrowed or given back.
        if len(self._calls) > _MOST_OWNERS:
            return None
        known = list(self._calls.values())
        is_all = len(known) == self.borrowed_tokens >= max(1, self._total_tokens)
        return known if is_all else None

    def _begins_here(self, borrower: object) -> None:
        """This thread uses the token of ``borrower``."""
        loan = self._loans.get(borrower)
        if loan is not None:
            loan.ident = threading.get_ident()

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(self, *_exc: object) -> None:
        self.release()

    def __enter__(self) -> None:
        self.sync_acquire()

    def __exit__(self, *_exc: object) -> None:
        self.release()

    def _forget_parent(self) -> None:
        # In a forked child. The parent's queue may be in anybody's hands.
        here = threading.get_ident()
        places = _places(self._places.maxsize)
        self._calls = {}
        for loan in list(self._loans.values()):
            if not loan.has_token or loan.ident != here:
                loan.is_of_parent = True
            elif not loan.is_of_parent:
                places._offer(None)
        self._places = places


_NO_TOKEN = "this borrower has no token of this CapacityLimiter"
# Calls with a token that a search for a deadlock looks at; with more it finds none. As many as the
# steps of a search: `_waits.deadlocks._MOST`.
_MOST_OWNERS = 1000


class _TokenWait:
    """A task's wait for a token: of its loop's thread, but for what a search asks."""

    __slots__ = ("_failure", "_limiter", "_waiter", "call", "item", "loop")

    is_harmless = False

    def __init__(self, limiter: CapacityLimiter, borrower: object) -> None:
        self._limiter = limiter
        self.call = borrower  # or a task, or anything else
        self._waiter: Any = None
        self._failure: BaseException | None = None
        self.item: Any = None  # what the task is suspended on

    def __await__(self) -> Generator[Any, None, None]:
        self._waiter = waiter = self._limiter._places._putting(None)
        waiting = waiter.__await__()
        task = None
        try:
            for future in waiting:  # as long as there is none
                if self._failure is not None:
                    raise self._failure
                if self.item is None:
                    self.loop = asyncio.get_running_loop()
                    task = deadlocks.begin_wait(self)
                    why = None if task is None else deadlocks.chain(None, task, wait=self)
                    if why is not None:
                        raise self.refusal(why)
                self.item = future
                yield future
        finally:
            waiting.close()  # which gives up the place in the line, if it has one
            deadlocks.end_wait(self, task)
            self._failure = None
            del self, task  # an exception's traceback refers to this frame, and we to the exception

    @property
    def what(self) -> str:
        return f"a token of {CapacityLimiter.__repr__(self._limiter)}"

    def borrowers(self) -> list[Any]:
        return list(self._limiter.statistics().borrowers)

    def owners(self) -> list[list[Any]] | None:
        known = self._limiter._owners()
        # Asked afterwards: it was in line when they were all there was.
        return known if self._waiter.is_in_line() else None

    def refusal(self, why: str) -> RuntimeError:
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        held = []
        for call in list(self._limiter._calls)[:5]:
            loan = self._limiter._loans.get(call)
            name = names.get(None if loan is None else loan.ident)
            held.append(f"{function_words(call.shown)} in thread {name!r}")
        return RuntimeError(
            f"This call would deadlock: it needs a token of {self._limiter!r}, and what has them "
            f"({', '.join(held)}) waits for {why}. Give the inner call a limiter of its own, or "
            "this one more tokens. See docs/troubleshooting.md#would-deadlock."
        )

    def end(self, error: BaseException) -> None:
        self._failure = error
        self._waiter.wake()


def _places(maxsize: int) -> kernel.QueueCore:
    queue = kernel.QueueCore(0)
    queue.put_nowait(None)
    queue.maxsize = maxsize
    return queue


def _caller() -> object:
    if running_loop() is not None:
        task = asyncio.current_task()
        if task is not None:
            return task
    return threading.current_thread()


def check_cancelled() -> None:
    """Raise `asyncio.CancelledError` if the task that awaits this call was cancelled.

    Call it, now and then, in a function that `sync_to_async` runs, of any kind, on its own thread,
    and let the exception out. It is raised whether the task waits for the function
    (``abandon_on_cancel=False``) or has gone away; and where `async_to_sync` has called what has
    called this function, also for the tasks further out. Raises RuntimeError where no
    `sync_to_async` call runs; in async code, the exception comes by itself.
    """
    task_context = state.threadlocal.__dict__.get("task_context")
    if task_context is None or running_loop() is not None:
        raise RuntimeError(
            "check_cancelled() is for functions that sync_to_async runs, on the thread that it "
            "runs them in"
        )
    frame: Any = kernel.peek(state.executors, "current", None)
    while True:
        if task_context is not None and task_context.is_cancelled:
            raise asyncio.CancelledError("the task that awaits this call was cancelled")
        # Outwards, to the function that waits in async_to_sync. A frame that waits no more has
        # nothing to do with a task that has outlived it.
        if not isinstance(frame, current_thread_executor.CurrentThreadExecutor):
            return  # there is none, or it is somebody else's
        frame = frame.serving()
        if frame is None:
            return
        task_context = frame._task_context
        frame = frame._old_executor
