"""The context variables of two sides that take turns, each in a Context of its own.

All code of an iterator or context manager runs in one Context, so that a generator can reset after
its ``yield`` what it has set before. What the other side changes meanwhile is set there before that
code goes on, and the other way round.
"""

from __future__ import annotations

import contextvars
from collections import deque

from .. import _kernel
from .._bridge import state


class Side:
    """One side: what it has changed and not told yet, and what it has told and is not heard yet.

    The methods run in this side's Context. The other side may be in another thread meanwhile.
    """

    def __init__(self) -> None:
        # The side's variables when it told last, or heard last.
        self.agreed = contextvars.Context()
        # Pairs (after, before).
        self._news: deque[tuple[contextvars.Context, contextvars.Context]] = deque()

    def tell(self) -> None:
        """Note what this side has changed, for the other side to hear."""
        now = contextvars.copy_context()
        self._news.append((now, self.agreed))
        self.agreed = now

    def hear(self, other: Side) -> None:
        """Set what the other side has told."""
        if not other._news:
            return
        self.tell()  # or what is heard would pass for changes of this side
        kernel = _kernel.kernel
        while other._news:
            after, before = other._news.popleft()
            frame = kernel.peek(state.executors, "current", None)
            kernel.restore_context(after, before)
            # Every nested call sets it and sets it back, and each side has one of its own.
            if kernel.peek(state.executors, "current", None) is not frame:
                state.executors.current = frame
        self.agreed = contextvars.copy_context()
