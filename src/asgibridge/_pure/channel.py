"""The way from any thread to the tasks of one event loop.

Finished calls are chained. The first of them wakes the loop, once, for all that are in the chain
when the loop looks. Neither side takes a lock; ``_idle`` holds one token.

A thread that has finished a call: 1. appends the call; 2. takes the token, and if it was there,
wakes the loop. The loop: 1. puts the token back; 2. empties the chain. If a call is appended too
late for the loop's step 2, the token is back, and the thread wakes the loop again.

If the loop is closed, nobody is left to be told, and the call is dropped.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from .._waits import deadlocks
from .home import this_thread


class Woken(Protocol):
    """What a channel carries."""

    def wake(self) -> None: ...


class WakeChannel:
    """The way from other threads to the tasks that wait on one event loop."""

    __slots__ = ("__weakref__", "_finished", "_idle", "_is_of_helper", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)  # a thread's cache must not keep a finished loop alive
        self._finished: deque[Woken] = deque()
        self._idle = [True]
        self._is_of_helper = False  # see `_waits.deadlocks.is_helper`

    def post(self, call: Woken) -> None:
        """Tell the loop that ``call`` has run. From any thread."""
        self._finished.append(call)
        try:
            self._idle.pop()
        except IndexError:
            return  # somebody has woken the loop, and it has not looked yet
        loop = self._loop()
        if loop is not None:
            try:
                loop.call_soon_threadsafe(self._drain)
                return
            except BaseException as error:
                # Not so a RecursionError, which leaves no frame to ask the loop in.
                if not (type(error) is RuntimeError and loop.is_closed()):
                    self._idle.append(True)  # not told: the next one tries again, for all
                    raise
        self._finished.clear()
        self._idle.append(True)

    def _drain(self) -> None:
        self._idle.append(True)
        while True:
            try:
                call = self._finished.popleft()
            except IndexError:
                return
            call.wake()


def call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *args: Any) -> None:
    """``loop.call_soon_threadsafe(callback, *args)``, from a thread that runs a call of that loop.

    Raises RuntimeError if the loop is closed.
    """
    loop.call_soon_threadsafe(callback, *args)


def attach_reader(loop: asyncio.AbstractEventLoop) -> None:
    """Have other threads wake ``loop`` the cheapest way from the first time on.

    For a loop that will be used for long, while it is not running: it takes a file descriptor.
    """
    # In Python no way is cheaper than the loop's own: only the channel stays the same. The loop
    # alone keeps it: what finishes as that closes stays in its chain, and a call knows its loop.
    try:
        loop._asgibridge_channel = WakeChannel(loop)  # type: ignore[attr-defined]
    except AttributeError:
        pass  # a loop of slots: each thread makes a channel of its own


def wake_channel(loop: asyncio.AbstractEventLoop) -> WakeChannel:
    """The channel of the loop that runs on this thread.

    A thread that goes to and fro between loops gets a new one each time; two channels for a loop
    cost a wake-up, not correctness.
    """
    channel = this_thread.channel
    if channel is None or channel._loop() is not loop:
        channel = getattr(loop, "_asgibridge_channel", None)
        if type(channel) is not WakeChannel:  # the compiled kernel's, until we were patched
            channel = WakeChannel(loop)
            channel._is_of_helper = deadlocks.is_helper()
        this_thread.channel = channel
    return channel
