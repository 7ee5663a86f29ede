"""What a queue keeps, and in what order it gives it out.

First in first out and last in first out are kept here; any other order is a subclass's, which
overrides the hooks. A hook runs with the queue's lock held, and must not use the queue.
"""

from __future__ import annotations

import operator
from collections import deque
from typing import TYPE_CHECKING, Any

from .._process.queue_errors import UnsupportedOperation

_FIFO, _LIFO, _HOOKED = range(3)


class _Storage:
    # All of it is of any thread, with the queue's lock held.
    __slots__ = ("_count", "_is_in_hook", "_items", "_limit", "_order_")

    def __init__(self, maxsize: int, order: int) -> None:
        self._limit = operator.index(maxsize)
        self._order_ = order
        self._items: deque[Any] = deque()
        self._is_in_hook = False
        self._count = 0
        if order == _HOOKED:
            self._init(maxsize)
            self._count = self._qsize()

    if TYPE_CHECKING:  # the hooks of a subclass; called with the lock held

        def _init(self, maxsize: int) -> None: ...
        def _qsize(self) -> int: ...
        def _put(self, item: Any) -> None: ...
        def _get(self) -> Any: ...
        def _peekable(self) -> bool: ...
        def _peek(self) -> Any: ...
        def _clearable(self) -> bool: ...
        def _clear(self) -> None: ...

    def _push(self, item: Any) -> None:
        if self._order_ == _HOOKED:
            self._enter_hook()
            try:
                self._put(item)
            finally:
                self._leave_hook()
        else:
            self._items.append(item)
            self._count += 1

    def _pull(self) -> Any:
        if self._order_ == _HOOKED:
            self._enter_hook()
            try:
                item = self._get()
            finally:
                self._leave_hook()
        else:
            item = self._items.popleft() if self._order_ == _FIFO else self._items.pop()
            self._count -= 1
        return item

    def _enter_hook(self) -> None:
        # The lock is re-entrant, so a hook that uses its queue is no deadlock; it has to be an
        # error.
        if self._is_in_hook:
            raise RuntimeError(
                "a queue's hook, or a comparison of its items, has used the queue it was called by"
            )
        self._is_in_hook = True

    def _leave_hook(self) -> None:
        self._is_in_hook = False
        self._count = self._qsize()

    def _front(self) -> Any:
        if self._order_ == _HOOKED:
            return self._peek()
        return self._items[0 if self._order_ == _FIFO else -1]

    def _check_peekable(self) -> None:
        if self._order_ == _HOOKED and not self._peekable():
            raise UnsupportedOperation(f"{type(self).__name__} cannot peek")

    def _put_back_first(self, item: Any) -> None:
        # The item that was pulled last is not taken: it is the next again.
        if self._order_ == _FIFO:
            self._items.appendleft(item)
            self._count += 1
        else:
            self._push(item)

    def _drop_items(self) -> deque[Any]:
        # Returns the items, for the caller to let go of without the lock: the end of an object may
        # run anybody's code.
        dropped = self._items
        if self._order_ == _HOOKED:
            self._enter_hook()
            try:
                if self._clearable():
                    self._clear()
            finally:
                self._leave_hook()
            while self._count > 0:
                self._pull()
        else:
            self._items = deque()
            self._count = 0
        return dropped
