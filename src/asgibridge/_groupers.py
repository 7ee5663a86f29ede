"""Locks that several tasks and threads own together, with culsans's names and behaviour.

A `Grouper` is held by one group at a time, and each member of the group owns it as often as it has
acquired it. `RWLock` is one with two groups. Both are made of dicts below one lock; whoever has to
wait does so in a queue of the kernel's (`asgibridge._pure.promises`), into which whoever lets it in
puts an item. So a wait may be cancelled or run out of time at any moment, on any event loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Optional

from ._kernel import kernel
from ._process.cpython import running_loop
from ._process.queue_errors import QueueEmpty

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Grouper", "RWLock"]

_Ident = tuple[str, int]
_Predicate = Callable[["Grouper", Hashable, Optional[_Ident]], bool]


class _Missing(Enum):
    MISSING = "missing"


_MISSING = _Missing.MISSING
"""In place of a group: there is none. Any hashable object may be a group."""


class _Wait:
    # Of the grouper's mutex, but for the queue.
    def __init__(self, ident: _Ident, key: tuple[Hashable, str], count: int) -> None:
        self.ident = ident
        self.key = key
        self.count = count
        self.is_in = False
        self.queue = kernel.QueueCore(0)


class _State:
    # What a grouper and those that wrap it have in common.
    def __init__(self) -> None:
        self.mutex = threading.RLock()
        self.groups: dict[Hashable, dict[_Ident, int]] = {}
        self.owners: dict[_Ident, dict[Hashable, int]] = {}
        self.waits: OrderedDict[tuple[Hashable, str], dict[_Ident, _Wait]] = OrderedDict()
        self.waiting = 0

    def add(self, ident: _Ident, group: Hashable, count: int) -> None:
        owned = self.owners.setdefault(ident, {})
        owned[group] = owned.get(group, 0) + count
        self.groups.setdefault(group, {})[ident] = owned[group]

    def remove(self, ident: _Ident, group: Hashable) -> bool:
        # Whether the group has no member any more.
        del self.owners[ident][group]
        if not self.owners[ident]:
            del self.owners[ident]
        del self.groups[group][ident]
        if self.groups[group]:
            return False
        del self.groups[group]
        return True


def _task() -> _Ident:
    return "asyncio", id(asyncio.current_task())


def _thread() -> _Ident:
    return "threading", threading.get_ident()


def _is_free_or_ours(grouper: Grouper, group: Hashable, _ident: _Ident | None) -> bool:
    # A group that is in lets nobody else in as soon as somebody waits: no group waits for ever.
    return not grouper.groups or (group in grouper.groups and not grouper.waiting)


class Grouper:
    """A lock that the members of one group own together, while all other groups wait.

    The methods that begin with ``async_`` are for tasks, those with ``green_`` for threads. Who
    owns it may acquire it again, and has to release it as often.

    :param wrapped_or_predicate: another grouper, to be the same lock with other defaults; or who
        says whether a group may enter: it is called with the grouper, the group, and who wants to
        enter (None: who has waited), one call at a time.
    :param default_group: the group of `async_acquire` and `green_acquire`, of the two of release
        and of ``with`` and ``async with``. Without it each task and thread is a group by itself.
    :param default_group_factory: called for the same, each time.
    :param default_group_mode: whether those of a group who wait enter together (``"shared"``) or
        one after the other (``"exclusive"``).
    """

    _predicate: _Predicate

    def __init__(
        self,
        wrapped_or_predicate: Grouper | _Predicate | None = None,
        /,
        *,
        default_group: Hashable = _MISSING,
        default_group_factory: Callable[[], Hashable] | None = None,
        default_group_mode: str = "shared",
    ) -> None:
        if default_group is not _MISSING and default_group_factory is not None:
            raise ValueError("default_group= and default_group_factory=: give one of them")
        if default_group_mode not in ("exclusive", "shared"):
            raise ValueError(
                f"default_group_mode={default_group_mode!r}: must be 'exclusive' or 'shared'"
            )
        self._default_group = default_group
        self._default_group_factory = default_group_factory
        self._default_group_mode = default_group_mode
        self._wrapped = None
        predicate: Any = wrapped_or_predicate or _is_free_or_ours
        if isinstance(wrapped_or_predicate, Grouper):
            self._wrapped = wrapped_or_predicate
            predicate = wrapped_or_predicate._predicate
        self._state: _State = _State() if self._wrapped is None else self._wrapped._state
        if not hasattr(self, "_predicate"):
            self._predicate = predicate

    def __bool__(self) -> bool:
        return self.locked()

    async def __aenter__(self) -> Self:
        await self.async_acquire()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self.async_release()

    def __enter__(self) -> Self:
        self.green_acquire()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.green_release()

    async def async_acquire(self, count: int = 1, *, blocking: bool = True) -> bool:
        """Enter the default group, ``count`` times. False: without ``blocking``, it had to wait."""
        group = self._group(_task)
        return await self.async_acquire_on_behalf_of(group, count, blocking=blocking)

    def green_acquire(
        self, count: int = 1, *, blocking: bool = True, timeout: float | None = None
    ) -> bool:
        """The same for a thread; also False if ``timeout`` seconds were not enough.

        RuntimeError where it would have to wait and the thread runs an event loop.
        """
        group = self._group(_thread)
        return self.green_acquire_on_behalf_of(group, count, blocking=blocking, timeout=timeout)

    def async_release(self, count: int = 1) -> None:
        """Leave the default group, ``count`` times. RuntimeError if this task is not in it."""
        self.async_release_on_behalf_of(self._group(_task), count)

    def green_release(self, count: int = 1) -> None:
        """The same for a thread."""
        self.green_release_on_behalf_of(self._group(_thread), count)

    async def async_acquire_on_behalf_of(
        self, group: Hashable, count: int = 1, *, blocking: bool = True
    ) -> bool:
        """`async_acquire` of ``group``."""
        wait = self._enter(_task(), group, count, blocking)
        if isinstance(wait, bool):
            return wait
        try:
            await wait.queue._getting()
        except BaseException:
            self._give_up(wait, None)
            raise
        return True

    def green_acquire_on_behalf_of(
        self,
        group: Hashable,
        count: int = 1,
        *,
        blocking: bool = True,
        timeout: float | None = None,
    ) -> bool:
        """`green_acquire` of ``group``."""
        wait = self._enter(_thread(), group, count, blocking)
        if isinstance(wait, bool):
            return wait
        try:
            if running_loop() is not None:
                raise RuntimeError(
                    "waiting for this lock here would block the event loop that runs on this "
                    "thread: use 'async with', or await async_acquire()"
                )
            wait.queue.sync_get(timeout=timeout)
        except QueueEmpty:
            return self._give_up(wait, True)
        except BaseException:
            self._give_up(wait, None)
            raise
        return True

    def async_release_on_behalf_of(self, group: Hashable, count: int = 1) -> None:
        """`async_release` of ``group``."""
        self._leave(_task(), group, count)

    def green_release_on_behalf_of(self, group: Hashable, count: int = 1) -> None:
        """`green_release` of ``group``."""
        self._leave(_thread(), group, count)

    def async_owned(self, group: Hashable = _MISSING) -> bool:
        """Whether this task owns it, as a member of ``group`` or of any."""
        return self._count(_task(), group) > 0

    def green_owned(self, group: Hashable = _MISSING) -> bool:
        """The same for a thread."""
        return self._count(_thread(), group) > 0

    def async_count(self, group: Hashable = _MISSING) -> int:
        """How often this task has acquired it, as a member of ``group`` or of any."""
        return self._count(_task(), group)

    def green_count(self, group: Hashable = _MISSING) -> int:
        """The same for a thread."""
        return self._count(_thread(), group)

    def locked(self) -> bool:
        """Whether anybody owns it."""
        return bool(self._state.owners)

    @property
    def predicate(self) -> _Predicate:
        """Who says whether a group may enter."""
        return self._predicate

    @property
    def default_group(self) -> Hashable:
        """As it was given."""
        return self._default_group

    @property
    def default_group_factory(self) -> Callable[[], Hashable] | None:
        """As it was given."""
        return self._default_group_factory

    @property
    def groups(self) -> Mapping[Hashable, Mapping[_Ident, int]]:
        """The groups that are in, and for each of their members how often."""
        with self._state.mutex:
            return {
                group: MappingProxyType(members) for group, members in self._state.groups.items()
            }

    @property
    def owners(self) -> Mapping[_Ident, Mapping[Hashable, int]]:
        """The tasks and threads that own it, and for each of their groups how often."""
        with self._state.mutex:
            return {ident: MappingProxyType(owned) for ident, owned in self._state.owners.items()}

    @property
    def mutex(self) -> Any:
        """The re-entrant lock below which all of this changes."""
        return self._state.mutex

    @property
    def waiting(self) -> int:
        """How many wait to enter."""
        return self._state.waiting

    @property
    def wrapped(self) -> Grouper | None:
        """The grouper that this one is the same lock as."""
        return self._wrapped

    def _group(self, own: Callable[[], _Ident]) -> Hashable:
        if self._default_group_factory is not None:
            return self._default_group_factory()
        return own() if self._default_group is _MISSING else self._default_group

    def _count(self, ident: _Ident, group: Hashable) -> int:
        with self._state.mutex:
            owned = self._state.owners.get(ident, {})
            return sum(owned.values()) if group is _MISSING else owned.get(group, 0)

    def _enter(self, ident: _Ident, group: Hashable, count: int, blocking: bool) -> bool | _Wait:
        state = self._state
        if count < 1:
            raise ValueError(f"count={count!r}: must be at least 1")
        with state.mutex:
            if group in state.owners.get(ident, ()) or self._predicate(self, group, ident):
                state.add(ident, group, count)
                return True
            if not blocking:
                return False
            wait = _Wait(ident, (group, self._default_group_mode), count)
            state.waits.setdefault(wait.key, {})[ident] = wait
            state.waiting += 1
            return wait

    def _give_up(self, wait: _Wait, keep: bool | None) -> bool:
        # Whether it was let in after all, in the last moment, and is to be kept.
        state = self._state
        with state.mutex:
            if wait.is_in:
                if not keep and state.remove(wait.ident, wait.key[0]):
                    self._let_in()
                return bool(keep)
            state.waiting -= 1
            waits = state.waits[wait.key]
            del waits[wait.ident]
            if not waits:
                del state.waits[wait.key]
            return False

    def _leave(self, ident: _Ident, group: Hashable, count: int) -> None:
        state = self._state
        if count < 1:
            raise ValueError(f"count={count!r}: must be at least 1")
        with state.mutex:
            owned = state.owners.get(ident, {})
            if group not in owned:
                raise RuntimeError("this task or thread does not own this lock: acquire it first")
            if count > owned[group]:
                raise RuntimeError(f"released {count} times, but acquired {owned[group]} times")
            if count < owned[group]:
                state.add(ident, group, -count)
            elif state.remove(ident, group):
                self._let_in()

    def _let_in(self) -> None:
        # With the mutex held: the first group in line, if it may enter.
        state = self._state
        if not state.waits:
            return
        key, waits = next(iter(state.waits.items()))
        if not self._predicate(self, key[0], None):
            return
        chosen = list(waits.values()) if key[1] == "shared" else [next(iter(waits.values()))]
        for wait in chosen:
            del waits[wait.ident]
            state.waiting -= 1
            wait.is_in = True
            state.add(wait.ident, key[0], wait.count)
        if not waits:
            del state.waits[key]
        else:
            state.waits.move_to_end(key)
        for wait in chosen:
            wait.queue.put_nowait(None)


def _may_enter(grouper: Grouper, group: Hashable, ident: _Ident | None) -> bool:
    if group is None:
        raise RuntimeError("a RWLock has two sides: use its 'reading' or its 'writing'")
    if not grouper.groups:
        return True
    is_owner = ident in grouper.owners
    if group == "writing" and is_owner:
        raise RuntimeError("who reads cannot begin to write: release 'reading' first")
    return group == "reading" and (is_owner or (group in grouper.groups and not grouper.waiting))


class RWLock(Grouper):
    """A lock that many may hold to read, or one to write. Use `reading` and `writing`.

    Who writes may read, too. Who comes to read waits while somebody waits to write.
    """

    def __init__(self) -> None:
        super().__init__(_may_enter, default_group=None)
        self._reading = Grouper(self, default_group="reading")
        self._writing = Grouper(self, default_group="writing", default_group_mode="exclusive")

    @property
    def reading(self) -> Grouper:
        """To hold it to read, with all others who do."""
        return self._reading

    @property
    def writing(self) -> Grouper:
        """To hold it to write, alone."""
        return self._writing
