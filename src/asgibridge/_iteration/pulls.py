"""A sync iterator for a task: what is ready comes over in one hop, a *pull*.

Three take part. The **consumer**, a task, takes items from ``ready`` and asks for more when that is
empty. The **pull** is a call in the iterator's thread; it puts items into ``ready`` until there
were ``max_size``, or the pull has lasted `SLICE` seconds, or the iterator has ended. Then the
thread is free for others: so that code in the loop's body may itself call thread-sensitive code,
and a slow iterator gets one hop an item and never runs ahead. The **pull task** awaits the pull's
call, because the consumer goes on when the first item is there, not when the pull is over.

**Waking.** The consumer puts a token into ``_asked`` and then looks into ``ready``; the pull puts
an item into ``ready`` and then looks for the token. One of them sees what the other did.

**Who has the iterator** is who popped it from ``_held``. A pull pops it, and puts it back unless it
has ended; then it looks whether the consumer has left (``_closed``), and if so pops it again and
closes it. The consumer that leaves sets ``_closed`` first, and pops afterwards. So it is closed
once, on its own thread, however the two meet.

**Context.** All of the iterator's code runs in one Context, so that what a generator sets before a
``yield`` it can reset after it. What the consumer changed meanwhile is set there before a pull, and
what the iterator changed is set in the consumer's context with the items.

**Cancelled** while a pull is on, the consumer leaves at once, as from a `sync_to_async` call: a
pull that has not begun does not run, one that runs closes the iterator when its item is there. An
error that nobody hears any more goes to the loop's exception handler. Only closing that has to be
begun is waited for, cancelled or not (`to_the_end`): an iterator that is merely dropped would be
finalized on the wrong thread.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from .. import _kernel
from ..sync import SyncToAsync

__all__ = ["SLICE", "HopContext", "Pulls", "clock"]

_T = TypeVar("_T")
_R = TypeVar("_R")

SLICE = 0.001
"""Seconds after which a batch is closed: far longer than a hop, far shorter than anyone notices."""

clock = time.perf_counter


class HopContext:
    """Calls from a task to where sync code runs, all in the one ``context``."""

    def __init__(
        self, thread_sensitive: bool, executor: ThreadPoolExecutor | None, shown: Any = None
    ) -> None:
        if thread_sensitive and executor is not None:
            raise TypeError("executor must not be set when thread_sensitive is True")
        self._thread_sensitive = thread_sensitive
        self._executor = executor
        self._shown = shown  # the user's function, or object
        self.context: contextvars.Context | None = None
        # What each side's was when it last told the other; and the task's news since, as pairs
        # (after, before).
        self._ours = self._theirs = contextvars.Context()
        self._news: list[tuple[contextvars.Context, contextvars.Context]] = []

    def give_context(self) -> None:
        """Set in ``context`` what the task changed since the last time. In the task."""
        now = contextvars.copy_context()
        if self.context is None:
            self.context = now.copy()
        else:
            for after, before in [*self._news, (now, self._ours)]:
                self.context.run(_kernel.kernel.restore_context, after, before)
            self._news.clear()
        self._ours = now
        self._theirs = self.context.copy()

    def take_context(self, theirs: contextvars.Context) -> None:
        """Set in the task's context what the other side changed; ``theirs`` is a copy of its."""
        self._news.append((contextvars.copy_context(), self._ours))
        _kernel.kernel.restore_context(theirs, self._theirs)
        self._theirs = theirs
        self._ours = contextvars.copy_context()

    def call(self, function: Callable[[], _R]) -> Coroutine[Any, Any, _R]:
        """The coroutine of a `sync_to_async` call of ``function``."""
        call = SyncToAsync(
            function, thread_sensitive=self._thread_sensitive, executor=self._executor
        )
        call._shown = lambda _args: self._shown
        return call()

    def in_context(self, function: Callable[..., _R], *args: Any) -> _R:
        """Call ``function`` in ``context``. In the thread."""
        assert self.context is not None
        return self.context.run(function, *args)

    def copy_context(self) -> contextvars.Context:
        """A copy of ``context``, when nothing runs in it."""
        assert self.context is not None
        return self.context.copy()

    async def to_the_end(self, function: Callable[[], _R]) -> _R:
        """Call ``function`` and wait for its end, even if the task is cancelled meanwhile.

        The cancellation is raised afterwards, unless the function raises an exception of its own.
        """
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        token = [function]  # who pops it runs it: a call that was revoked is made again
        outcome: list[tuple[Any, BaseException | None]] = []
        after = [self._theirs]

        def end() -> None:
            if not ended.done():
                ended.set_result(None)

        def run() -> None:
            try:
                function = token.pop()
            except IndexError:
                return
            try:
                outcome.append((self.in_context(function), None))
            except BaseException as error:
                outcome.append((None, error))
            finally:
                after[0] = self.copy_context()
                try:
                    loop.call_soon_threadsafe(end)
                except RuntimeError:
                    pass  # the loop is closed: nobody waits any more

        cancelled: asyncio.CancelledError | None = None
        self.give_context()
        while not outcome:
            try:
                if token:
                    await self.call(run)
                else:
                    await asyncio.wait({ended})
            except asyncio.CancelledError as error:
                cancelled = error
        self.take_context(after[0])
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
        # None stands for an iterator that is not open yet.
        self._held: list[Iterator[_T] | None] = [None]
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._asked: list[asyncio.Future[None]] = []
        self._handed: contextvars.Context | None = None
        self._taken: contextvars.Context | None = None
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
                if self._ended:
                    self._take_context()
                    self._raise_error()
                    return False
                self._begin_pull()
            await self._wait()
        self._take_context()
        return True

    def _begin_pull(self) -> None:
        self._take_context()
        self._hops.give_context()
        assert self._loop is not None
        self._task = self._loop.create_task(self._hops.call(self._pull))

    async def _wait(self) -> None:
        # For an item, or for the end of the pull.
        loop, task = self._loop, self._task
        assert loop is not None
        assert task is not None
        if not task.done():
            woken = loop.create_future()
            self._asked.append(woken)
            if not self.ready:

                def wake(_task: object) -> None:
                    if not woken.done():
                        woken.set_result(None)

                task.add_done_callback(wake)
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
            self._asked.clear()
        if task.done():
            self._task = None
            if task.cancelled() or task.exception() is not None:
                # Not the iterator's error: the thread could not be reached, or the loop is ending.
                self._ended = True
            if not self.ready or self._ended:
                task.result()

    def _take_context(self) -> None:
        handed = self._handed
        if handed is not self._taken:
            assert handed is not None
            self._taken = handed
            self._hops.take_context(handed)

    def _raise_error(self) -> None:
        try:
            error = self._errors.pop()
        except IndexError:
            return
        try:
            raise error
        finally:
            del error

    # In the iterator's thread

    def _pull(self) -> None:
        try:
            iterator = self._held.pop()
        except IndexError:
            return  # the consumer has left
        held: list[Iterator[_T]] = []
        error: BaseException | None = None
        try:
            self._hops.in_context(self._fill, iterator, held)
        except BaseException as raised:
            error = raised
        self._handed = self._hops.copy_context()
        # Only now: whoever takes it then may run it in the context.
        del iterator
        self._held.extend(held)
        if held:
            held.clear()
            if self._closed:
                self._close_if_mine()
                self._handed = self._hops.copy_context()
            return
        if error is not None:
            self._errors.append(error)
        self._ended = True
        del error
        if self._gone:
            self._raise_error()  # to be reported: nobody asks for it any more

    def _fill(self, iterator: Iterator[_T] | None, held: list[Iterator[_T]]) -> None:
        # Puts the iterator into ``held`` unless it has ended.
        if iterator is None:
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
                held.append(iterator)
                return

    def _wake(self) -> None:
        try:
            woken = self._asked.pop()
        except IndexError:
            return
        self._handed = contextvars.copy_context()
        assert self._loop is not None
        try:
            _kernel.kernel.call_soon(self._loop, _set_if_waiting, woken)
        except RuntimeError:
            self._closed = True  # the loop is closed: nobody will come for more

    def _close_if_mine(self) -> None:
        try:
            iterator = self._held.pop()
        except IndexError:
            return
        self._hops.in_context(_close, iterator)

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
            self._take_context()
            if not task.cancelled():
                task.result()
        try:
            iterator = self._held.pop()
        except IndexError:
            pass
        else:
            if isinstance(iterator, Generator):
                await self._hops.to_the_end(lambda: _close(iterator))

    def _report_error(self) -> None:
        # It was met while reading ahead of a consumer that did not go so far.
        try:
            error = self._errors.pop()
        except IndexError:
            return
        asyncio.get_running_loop().call_exception_handler(
            {"message": "an iterator raised after the loop over it was left", "exception": error}
        )
        del error


def _set_if_waiting(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


def _close(iterator: Iterator[Any] | None) -> None:
    # Only generators: a file or a cursor is its owner's to close, as after a plain ``for``.
    if isinstance(iterator, Generator):
        iterator.close()
