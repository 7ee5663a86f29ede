"""The loop of what is open at the top level: an AsyncSingleThreadContext that nobody has written.

The first iterator or context manager that a thread opens, where no loop waits for the thread and no
block has a persistent one, makes a `Block`, and enters it in the thread's context. So calls within,
and further iterators and context managers, find a persistent loop there and run on it. They need
not end in order: the block ends with the last.

    made --join()--> users: 2, 3 ... --let_go()--> users: 0 --close() or abandon()--> its loop ends

The count is guarded by the lock of the AsyncSingleThreadContext. A copy of the context that still
has a block without users sees what was in force outside of it.
"""

from __future__ import annotations

import contextvars
import weakref
from concurrent.futures import Executor
from typing import Any

from .._bridge import state
from .._bridge.contexts import AsyncSingleThreadContext, executor_of_runs, in_force
from .._loops.lent import LentThread, LentWait
from .._loops.persistent import PersistentLoop
from .._process import threads


class Block(AsyncSingleThreadContext):
    """See the module's header. Made with one user, on the thread that opens."""

    def __init__(self, outer: AsyncSingleThreadContext | None) -> None:
        threads.refuse_if_late()  # the first `weakref.finalize` imports a module
        super().__init__(persistent_loop=True)
        self._outer = outer
        self._users = 1
        self._persistent = PersistentLoop(executor_of_runs(self))
        weakref.finalize(self, self._persistent.end).atexit = False
        self.token: contextvars.Token[AsyncSingleThreadContext] | None = (
            state.single_thread_context.set(self)
        )

    def join(self) -> bool:
        """Count one user more; False if the block has ended. From any thread."""
        with self._lock:
            if not self._users:
                return False
            self._users += 1
        return True

    def let_go(self) -> bool:
        """A user is over. Returns whether it was the last: then `close` comes next. Any thread."""
        with self._lock:
            self._users -= 1
            return not self._users

    def _in_force(self) -> Any:
        if self._users:
            return self
        return in_force(self._outer)

    def _runs_on(self) -> Executor | PersistentLoop | None:
        context = self._in_force()
        if context is self:
            return super()._runs_on()
        if isinstance(context, AsyncSingleThreadContext):
            return context._runs_on()
        return None if context is None else executor_of_runs(context)

    def close(self, lent: LentThread | None) -> None:
        """End the loop, when its last user has gone, and wait for that. Raises what has ended it.

        :param lent: the calling thread's. None: do not wait; from any thread.
        """
        with self._lock:
            persistent, self._persistent = self._persistent, None
        try:
            if persistent is not None and lent is not None:
                wait = LentWait(lent)
                try:
                    persistent.close(wait)
                finally:
                    wait.end()
            elif persistent is not None:
                persistent.end()
        finally:
            executor = state.executors_of_runs.pop(self, None)
            if executor is not None:
                executor.shutdown(wait=False)


def forget_ended() -> None:
    """Take blocks that have ended out of the context, as far as they were entered in this one."""
    variable = state.single_thread_context
    while type(block := variable.get(None)) is Block and not block._users:
        token, block.token = block.token, None
        if token is None:
            return
        try:
            variable.reset(token)
        except ValueError:  # entered in another context, of which this is a copy
            return
