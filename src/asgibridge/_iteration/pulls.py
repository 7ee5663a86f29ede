"""A sync iterator for a task: all items that are ready come over in one hop, a *pull*.

The **consumer**, a task, takes items from ``ready``, and begins a pull when that is empty. The
**pull** is a call in the iterator's thread. It puts items into ``ready`` until there were
``max_size``, or it has lasted `SLICE` seconds, or the iterator has ended. Then the thread is free:
code in the loop's body may itself call thread-sensitive code. A task of its own awaits the pull's
call, because the consumer goes on when the first item is there, not when the pull is over.

**Waking.**

1. The consumer puts a token into ``_asked``, and then looks into ``ready``.
2. The pull puts an item into ``ready``, and then looks for the token.

At least one of them sees what the other did.

**Closing.** Whoever pops the iterator from ``_held`` owns it, so it is closed once, on its thread:

1. A pull pops the iterator, and puts it back unless it has ended. Then the pull looks at
   ``_closed``: if the consumer has left, the pull pops the iterator again and closes it.
2. A consumer that leaves sets ``_closed``, and then pops the iterator. If it gets one, it has the
   iterator's thread close it, and waits for that, cancelled or not: an iterator that is merely
   dropped would be finalized on the wrong thread.

**Cancelled** during a pull, the consumer leaves at once, as from a `sync_to_async` call. A pull
that has not begun does not run; one that runs closes the iterator when its item is there. An error
that no consumer asks for any more goes to the loop's exception handler.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import time
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from .. import _kernel
from .._process.handover import take
from .._workers import bindings
from ..sync import SyncToAsync
from .variables import Side

_T = TypeVar("_T")
_R = TypeVar("_R")

SLICE = 0.001
"""Seconds after which a batch is closed: far longer than a hop, far shorter than a user notices."""

clock = time.perf_counter


class HopContext:
    """Calls from a task to where sync code runs, all in one Context."""

    def __init__(
        self, thread_sensitive: bool, executor: ThreadPoolExecutor | None, shown: Any = None
    ) -> None:
        if thread_sensitive and executor is not None:
            raise TypeError("executor must not be set when thread_sensitive is True")
        self._thread_sensitive = thread_sensitive
        self._executor = executor
        self._shown = shown  # the user's function, or object
        self._context: contextvars.Context | None = None
        self._binding: bindings.Binding | None = None
        self._here = Side()  # the task's
        self._there = Side()

    def give_context(self) -> None:
        """Have the next `in_context` set what the task has changed. In the task."""
        if self._context is None:
            self._context = contextvars.copy_context()
            self._here.agreed = self._there.agreed = self._context.copy()
        else:
            self._here.tell()

    def bind(self, what: str) -> None:
        """Keep the thread to which the calls go, if that is a context's, until `unbind`."""
        if self._thread_sensitive:
            self._binding = bindings.held(what)

    def unbind(self) -> None:
        """What was open there is closed."""
        binding, self._binding = self._binding, None
        if binding is not None:
            binding.__exit__()

    def take_context(self) -> None:
        """Set in the task's context what the sync code has changed. In the task."""
        self._here.hear(self._there)

    def in_context(self, function: Callable[..., _R], *args: Any) -> _R:
        """Call ``function`` in the one Context. In the thread."""
        assert self._context is not None
        return self._context.run(self._call_there, function, *args)

    def _call_there(self, function: Callable[..., _R], *args: Any) -> _R:
        self._there.hear(self._here)
        try:
            return function(*args)
        finally:
            self._there.tell()

    def tell(self) -> None:
        """Have the next `take_context` set what has changed by now. In a function in the thread."""
        self._there.tell()

    def call(
        self, function: Callable[[], _R], abandon_on_cancel: bool = True
    ) -> Coroutine[Any, Any, _R]:
        """The coroutine of a `sync_to_async` call of ``function``."""
        call = SyncToAsync(
            function,
            thread_sensitive=self._thread_sensitive,
            executor=self._executor,
            abandon_on_cancel=abandon_on_cancel,
        )
        call._shown = lambda _args: self._shown
        return call()

    async def to_the_end(self, function: Callable[[], _R]) -> _R:
        """Call ``function`` and wait for its end, even if the task is cancelled meanwhile.

        The cancellation is raised afterwards, unless the function raises an exception of its own.
        """
        outcome: list[tuple[Any, BaseException | None]] = []

        def run() -> None:
            try:
                outcome.append((self.in_context(function), None))
            except BaseException as error:
                outcome.append((None, error))

        cancelled: asyncio.CancelledError | None = None
        self.give_context()
        while not outcome:  # a call that was cancelled before it had begun is made again
            try:
                await self.call(run, abandon_on_cancel=False)
            except asyncio.CancelledError as error:
                cancelled = error
        self.take_context()
        value, raised = outcome.pop()
        try:
            if raised is not None:
                raise raised
            if cancelled is not None:
                raise cancelled
            return value  # type: ignore[no-any-return]
        finally:
            del raised, cancelled


class Pulls(Generic[_T]):
    """What a task takes from a sync iterator.

    :param open_: returns the iterable; called in its thread, at the first pull.
    :param max_size: how many items may wait in ``ready``.
    """

    def __init__(self, open_: Callable[[], Iterable[_T]], hops: HopContext, max_size: int) -> None:
        self.ready: deque[_T] = deque()
        self._open = open_
        self._hops = hops
        self._max_size = max_size
        self._held: list[Iterator[_T]] = [_NOT_OPEN]
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._asked: list[asyncio.Future[None]] = []
        self._ended = False
        self._closed = False
        self._gone = False
        self._errors: list[BaseException] = []  # the one it ended with

    async def more(self) -> bool:
        """Wait until something is in ``ready``; False at the end. Raises what the iterator raised.

        In the consumer.
        """
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise RuntimeError(
                "this iterator was begun on another event loop: iterate over it on one"
            )
        while not self.ready:
            if self._task is None:
                self._hops.take_context()
                if self._ended:
                    self._raise_error()
                    return False
                self._hops.give_context()
                self._task = loop.create_task(self._hops.call(self._pull))
            await self._wait(loop, self._task)
        self._hops.take_context()
        return True

    async def _wait(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
        # For an item, or for the end of the pull.
        if not task.done():
            woken: Any = loop.create_future()
            self._asked.append(woken)
            if not self.ready:
                wake = functools.partial(_set_if_waiting, woken)
                task.add_done_callback(wake)
                woken.asgibridge_pull = task  # for the proof of a deadlock, and for dumps
                try:
                    await woken
                except asyncio.CancelledError:
                    # What comes of the cancellation is the call's business: it ends at once,
                    # unless the iterator waits in `async_to_sync`.
                    if not task.cancel():
                        raise
                    await asyncio.wait({task})
                    if task.cancelled():
                        raise
                finally:
                    task.remove_done_callback(wake)
                    woken.asgibridge_pull = None
            self._asked.clear()
        if task.done():
            self._task = None
            if task.cancelled() or task.exception() is not None:
                # Not the iterator's error: the thread could not be reached, or the loop is ending.
                self._ended = True
            if not self.ready or self._ended:
                task.result()

    def _raise_error(self) -> None:
        error = take(self._errors)
        try:
            if error is not None:
                raise error
        finally:
            del error

    # In the iterator's thread

    def _pull(self) -> None:
        iterator = take(self._held)
        if iterator is None:
            return  # the consumer has left
        try:
            left = self._hops.in_context(self._fill, iterator)
        except BaseException as error:
            left = None
            self._errors.append(error)
        del iterator
        if left is not None:
            # Only now: whoever takes the iterator may run it in the context.
            self._held.append(left)
            del left
            if self._closed:
                self._hops.in_context(_close, take(self._held))
            return
        self._ended = True
        if self._gone:
            self._raise_error()  # to be reported: no consumer asks for it any more

    def _fill(self, iterator: Iterator[_T]) -> Iterator[_T] | None:
        # Returns the iterator unless it has ended.
        if iterator is _NOT_OPEN:
            iterator = iter(self._open())
        ready, asked, room = self.ready, self._asked, self._max_size
        until = clock() + SLICE
        for item in iterator:
            ready.append(item)
            del item
            if asked:
                self._wake()
            # Counted, not measured: the consumer takes items away meanwhile.
            room -= 1
            if not room or self._closed or clock() >= until:
                return iterator
        return None

    def _wake(self) -> None:
        woken = take(self._asked)
        if woken is None:
            return
        self._hops.tell()
        assert self._loop is not None
        try:
            _kernel.kernel.call_soon(self._loop, _set_if_waiting, woken)
        except RuntimeError:
            self._closed = True  # the loop is closed: no consumer will come for more

    # Leaving

    async def close(self) -> None:
        """Let the iterator go, and close it if it is a generator. In the consumer, once."""
        try:
            await self._close()
        finally:
            self._gone = True
            self._report_error()

    async def _close(self) -> None:
        self._closed = True
        self.ready.clear()
        task = self._task
        if task is not None and self._loop is asyncio.get_running_loop():
            # It ends with the item it is at, and closes the iterator on its way.
            if not task.done():
                await asyncio.wait({task})
            self._hops.take_context()
            if not task.cancelled():
                task.result()
        iterator = take(self._held)
        if isinstance(iterator, Generator):
            await self._hops.to_the_end(iterator.close)

    def _report_error(self) -> None:
        # It was met while reading ahead of a consumer that did not go so far. A cancellation is the
        # iterator's answer to that, as in a call that nobody waits for (`check_cancelled`).
        error = take(self._errors)
        if error is not None and not isinstance(error, asyncio.CancelledError):
            asyncio.get_running_loop().call_exception_handler(
                {
                    "message": "an iterator raised after the loop over it was left",
                    "exception": error,
                }
            )
        del error


_NOT_OPEN: Iterator[Any] = iter(())


def _set_if_waiting(woken: asyncio.Future[None], _pull: object = None) -> None:
    if not woken.done():
        woken.set_result(None)


def _close(iterator: Iterator[Any] | None) -> None:
    # Only generators: a file or a cursor is its owner's to close, as after a plain ``for``.
    if isinstance(iterator, Generator):
        iterator.close()
