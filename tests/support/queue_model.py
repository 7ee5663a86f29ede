"""A message queue as a plain model, and an event loop that goes on only when it is told to."""

from __future__ import annotations

import asyncio
import heapq
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from asgibridge.queue import LifoQueue, PriorityQueue, QueueShutDown

SETTINGS = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
"""Of a state machine: the same steps in each run; `stress_plugin` draws others."""


def alone(case: Any) -> Any:
    """The marks of a state machine's tests."""
    unsafe = pytest.mark.thread_unsafe(reason="hypothesis notices what others draw of `random`")
    return pytest.mark.not_quick(unsafe(case))


class Model:
    """What a queue is, if there were no threads.

    Who waits has ``how`` (``get``, ``peek``, ``put``, or ``get_many`` and ``get_batch``, which wait
    for one item and for several) and ``argument``, the item or the number.
    """

    def __init__(self, kind: Any, maxsize: int) -> None:
        self.kind, self.maxsize = kind, maxsize
        self.items: list[Any] = []
        self.getting: list[Any] = []
        self.putting: list[Any] = []
        self.joining: list[Any] = []
        self.unfinished, self.is_down = 0, False

    def full(self) -> bool:
        return 0 < self.maxsize <= len(self.items)

    def put(self, item: Any) -> None:
        self.items.append(item)
        if self.kind is PriorityQueue:
            heapq.heapify(self.items)
        self.unfinished += 1

    def overwrite(self, item: Any) -> None:
        while self.full() and self.items:
            self.get()
            self.unfinished = max(0, self.unfinished - 1)  # it may have been done already
        self.put(item)

    def first(self) -> Any:
        return self.items[-1 if self.kind is LifoQueue else 0]

    def get(self) -> Any:
        if self.kind is PriorityQueue:
            return heapq.heappop(self.items)
        return self.items.pop(-1 if self.kind is LifoQueue else 0)

    def get_many(self, most: int) -> list[Any]:
        return [self.get() for _ in range(min(most, len(self.items)))]

    def promised(self) -> list[tuple[Any, int]]:
        """Those who wait to get and can go on now, with how many items are theirs. Who waits for
        several is promised one; what nobody is promised is taken by the first who comes."""
        found = []
        free = len(self.items)
        for wait in self.getting:
            is_batch = wait.how == "get_batch"
            if free <= 0 or (
                is_batch and not (self.full() or self.is_down or free >= wait.argument)
            ):
                break
            theirs = min(wait.argument, free) if is_batch else int(wait.how != "peek")
            found.append((wait, theirs))
            free -= theirs
        return found

    def for_newcomers(self) -> int:
        """How many items nobody waits for."""
        return 0 if self.getting else len(self.items)

    def settle(self) -> list[tuple[Any, Any]]:
        """Who can go on now, with the outcome."""
        done: list[tuple[Any, Any]] = []
        while True:
            promised = self.promised()
            if promised:
                kept = sum(theirs for _, theirs in promised)
                del self.getting[: len(promised)]
                for wait, theirs in promised:
                    kept -= theirs
                    if wait.how == "peek":
                        done.append((wait, self.first()))
                    elif wait.argument is None:
                        done.append((wait, self.get()))
                    else:
                        most = min(wait.argument, len(self.items) - kept)
                        done.append((wait, self.get_many(most)))
            elif self.putting and not self.full() and not self.is_down:
                wait = self.putting.pop(0)
                self.put(wait.argument)
                done.append((wait, None))
            elif self.is_down and self.getting and not self.items:
                done.append((self.getting.pop(0), QueueShutDown))
            elif self.is_down and self.putting:
                done.append((self.putting.pop(0), QueueShutDown))
            elif self.joining and not self.unfinished:
                done.append((self.joining.pop(0), None))
            else:
                return done

    def expire(self, wait: Any) -> list[Any]:
        """What a batch gets when its time is over."""
        is_first = self.getting[0] is wait
        self.getting.remove(wait)
        return self.get_many(wait.argument) if is_first else []

    def drop(self) -> None:
        self.unfinished = max(0, self.unfinished - len(self.items))
        self.items.clear()


class SteppedLoop(asyncio.SelectorEventLoop):
    """Runs in `settle` alone, and its clock goes on by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__()

    def time(self) -> float:
        return self.now

    def settle(self) -> None:
        """All tasks go on until they wait, also those that another loop or no loop has woken."""
        for _ in range(4):
            self.run_until_complete(asyncio.sleep(0))

    def end(self) -> None:
        """Close it, with all tasks cancelled."""
        for task in asyncio.all_tasks(self):
            task.cancel()
        self.settle()
        self.close()
