"""Contexts that share a worker: those whose policy has the same ``sticky`` key.

Contexts of one key (and of one `Family`) have a `_Share` in common, and that has the `Lease`. In
place of a lease each of them has a `StickyLease`, which hands its calls on::

    context ---> StickyLease --.
    context ---> StickyLease ---+--> _Share ---> Lease ---> worker
    context ---> StickyLease --'

    of a StickyLease:   INSIDE --end()--> LEAVING --its own calls are over--> OUT
    of a _Share:        there, until the last one is OUT: that one ends the lease

**Order.** It is the lease's: what it holds while it waits, and then the worker's inbox, are first
in first out. The lease is one for the limit, too.

**Leaving** waits for the context's own calls, and for nobody else's: a StickyLease is the guard of
its calls (see `asgibridge._pure.calls`), so it hears of the end of each, whatever becomes of it.
The last one out also waits for the end of the lease, with its hooks. A context of the same key that
comes during these hooks gets another lease: no call runs beside another of its key, but a last hook
may run beside a call.

**Deadlocks.** A slot's worker comes free when all tasks have left that are inside (`_Inside`). A
proof wants each of them to wait in vain: one would do, but a worker that idles may be given back.
Of a context that is leaving, the task does not count: its calls are on their way.

**Release.** The lease is released while nobody of the key has a call, and nothing binds any of
them.

**Dropped contexts.** ``_shares`` refers weakly to a _Share, and that to its StickyLeases; they
refer to it, and so do their calls until they are over. So when the last context is dropped without
an exit, the lease is dropped, and ends as any. To calls that wait a lease refers only weakly.

**The lock** guards which shares there are, who is inside, and what each has still to come. Hashing,
comparing and showing a key is the program's code, and runs before, with no lock held: so a share
that was found is looked at again under the lock, and the search begins anew if others came or went.
No other lock is taken under this one.

**Fork.** The child has no shares. A StickyLease of the parent's joins anew with its next call.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
import weakref
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future
from typing import Any, TypeVar

from .._kernel import kernel
from .._process import fork, greenlets
from .._process.stock import Look, StockNames
from . import leases
from .leases import Lease, _LeaseEnd
from .pool import Family, ReleaseAfter, Worker, pool

_R = TypeVar("_R")

_lock = threading.RLock()
_shares: dict[int, tuple[weakref.ref[_Share], ...]] = {}
"""By the hash of the key. A tuple is replaced, never changed: so it tells whether others came."""


class _Inside:
    """The contexts that have a share. It is what the slot of the lease takes for its owner."""

    def __init__(self) -> None:
        self.leases: dict[int, weakref.ref[StickyLease]] = {}  # by id

    def add(self, lease: StickyLease) -> None:
        """It is inside, until it goes out or is dropped."""
        number = id(lease)
        # No other object gets its id before that is called.
        dropped = functools.partial(_drop, self.leases, number)
        self.leases[number] = weakref.ref(lease, dropped)

    @property
    def _bindings(self) -> dict[Any, Any]:
        # What binds any of them to the worker: as that of a context, see `bindings`.
        found: dict[Any, Any] = {}
        for reference in list(self.leases.values()):
            lease = reference()
            context = None if lease is None else lease.context()
            found.update(getattr(context, "_bindings", None) or {})
        return found

    def __call__(self) -> list[asyncio.Task[Any]] | None:
        """The tasks inside; None if not all of them are known. From any thread."""
        found = []
        for reference in list(self.leases.values()):
            lease = reference()
            if lease is not None:
                task = lease.task()
                if task is None:
                    return None
                found.append(task)
        return found or None


def _drop(inside: dict[int, Any], number: int, _reference: object) -> None:
    inside.pop(number, None)


class _Share:
    """What contexts of one key have in common."""

    def __init__(
        self,
        family: Family,
        key: Hashable,
        number: int,
        former: kernel.ThreadSensitiveExecutor | None,
        release: ReleaseAfter | None,
    ) -> None:
        self.family = family
        self.key = key
        self.number = number  # the hash of the key
        self.inside = _Inside()
        self.lease = Lease(
            family,
            is_counted=True,
            avoiding=former,
            owner=self.inside,
            release=release,
            context=self.inside,
        )
        self.lease.whose = f"the contexts of the sticky key {_shown(key)}"
        self.reference = weakref.ref(self, functools.partial(_forget, number))


def _shown(key: Hashable) -> str:
    try:
        text = repr(key)
    except Exception:
        text = f"of {type(key).__qualname__}"
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


_MOST_SHOWN = 60
"""Characters of a key in a dump: arbitrary."""


def _join(
    joining: StickyLease,
    family: Family,
    key: Hashable,
    former: kernel.ThreadSensitiveExecutor | None,
    release: ReleaseAfter | None,
) -> _Share:
    number = hash(key)
    while True:
        seen = _shares.get(number, ())
        share = _found(seen, family, key)
        is_new = share is None
        if share is None:
            share = _Share(family, key, number, former, release)
        with _lock:
            if _shares.get(number, ()) is seen:
                if is_new:
                    _shares[number] = (*seen, share.reference)
                share.inside.add(joining)
                return share


def _found(
    references: tuple[weakref.ref[_Share], ...], family: Family, key: Hashable
) -> _Share | None:
    for reference in references:
        share = reference()
        if share is not None and share.family is family and (share.key is key or share.key == key):
            return share
    return None


def _forget(number: int, reference: weakref.ref[_Share]) -> None:
    # The share is over, or was dropped. From any thread. A share that was made in vain changes
    # nothing: whoever sees a change begins its search anew, and makes another.
    with _lock:
        there = _shares.get(number, ())
        left = tuple(each for each in there if each is not reference and each() is not None)
        if not left:
            _shares.pop(number, None)
        elif len(left) < len(there):
            _shares[number] = left


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()
    _shares.clear()


fork.at_fork(_after_fork_in_child)


class StickyLease(StockNames):
    """A context's part in the lease that it shares: in the place of a `Lease`, from its first call
    on.

    :param former: a former lease's executor, whose thread a fresh lease must not get.
    :param owner: the task that has entered the context, if that is known.
    :param release: when the worker is given back while nobody of the key has a call: what the first
        of them says.
    """

    def __init__(
        self,
        family: Family,
        key: Hashable,
        former: kernel.ThreadSensitiveExecutor | None,
        owner: weakref.ref[asyncio.Task[Any]] | None,
        release: ReleaseAfter | None,
        context: Any,
    ) -> None:
        self._family = family
        self._key = key
        self._owner = owner
        self._release = release
        self._of = None if context is None else weakref.ref(context)
        # What is beneath the context's calls on the thread, and none of another context's.
        self._home = kernel.Home()
        self._context = contextvars.Context()
        # Guarded by the lock.
        self._generation = fork.generation
        self._to_come: set[Any] = set()  # futures, and the ids of calls: a lease must not keep them
        self._over: _LeaseEnd | None = None  # None until it is told to end
        self._is_out = False
        self._share = _join(self, family, key, former, release)

    # Calls.

    def send(self, call: kernel.SyncCall, loop: asyncio.AbstractEventLoop) -> Any:
        """`Lease.send`."""
        call.call_by(functools.partial(kernel.at_home, self._home, self._context.run))
        call.guard = self
        lease = self._begin(id(call))
        try:
            return lease.send(call, loop)
        except BaseException:
            self._end(id(call))
            raise

    def submit(self, fn: Callable[..., _R], /, *args: Any, **kwargs: Any) -> Future[_R]:
        """`Lease.submit`."""
        function = functools.partial(fn, *args, **kwargs)
        lease = self._begin(function)
        try:
            future = lease.submit(self._call, function)
            with _lock:
                self._to_come.add(future)
        finally:
            self._end(function)
        future.add_done_callback(functools.partial(_end_of, weakref.ref(self)))
        return future

    def _call(self, function: Callable[[], _R]) -> Any:
        # Of this object: so it, and with it the share, is there until the call is over.
        return kernel.at_home(self._home, self._context.run, function)

    def _begin(self, what: Any) -> Lease:
        self._renew_after_fork()
        with _lock:
            if self._over is not None:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._to_come.add(what)
        return self._share.lease

    def _end(self, what: Any) -> None:
        # From any thread.
        with _lock:
            self._to_come.discard(what)
        self._go_out()

    # The guard of its calls.

    def begins(self, call: kernel.SyncCall) -> None:
        """Nothing comes of that."""

    def ends(self, call: kernel.SyncCall) -> None:
        """The function has returned, or will never run."""
        self._end(id(call))

    given_up = ends

    def blocker(self, call: kernel.SyncCall) -> None:
        """The call is in no inbox: it waits for a worker."""

    # The end.

    def end(self, listener: Callable[[], object]) -> bool:
        """`Lease.end`: over when the context's own calls are; if it is the last, with the lease."""
        self._renew_after_fork()
        with _lock:
            over = self._over
            if over is None:
                over = self._over = _LeaseEnd()
        self._go_out()
        return over.listen(listener)

    def _go_out(self) -> None:
        # If it is leaving, and nothing is to come. From any thread.
        with _lock:
            over, share = self._over, self._share
            if over is None or self._to_come or self._is_out:
                return
            self._is_out = True
            inside = share.inside.leases
            inside.pop(id(self), None)
            # Held until the lock is free: ours may be the last reference.
            others = [reference() for reference in list(inside.values())]
            is_last = all(other is None for other in others)
            if is_last:
                _forget(share.number, share.reference)
        if not (is_last and share.lease.end(over)):
            over()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """`Lease.shutdown`, of this context's part."""
        lease = self._share.lease
        if cancel_futures:
            for each in list(self._to_come):
                if isinstance(each, Future):
                    each.cancel()
            lease.cancel_held(self)
        over = greenlets.make_event()
        is_on_its_way = self.end(over.set)
        if wait and is_on_its_way and not lease._abandoned and not self.owns_current_thread():
            over.wait()

    def _renew_after_fork(self) -> None:
        # The parent's worker and calls are not in a forked child, nor are most of those who were
        # inside.
        if self._generation != fork.generation:
            self._to_come = set()
            if self._over is None:
                self._share = _join(self, self._family, self._key, None, self._release)
            self._generation = fork.generation

    # What others ask.

    def context(self) -> Any:
        """The context, if there is one. From any thread."""
        return None if self._of is None else self._of()

    @property
    def release(self) -> ReleaseAfter | None:
        """`Lease.release`."""
        return self._share.lease.release

    def note_generators(self, generators: Iterable[Any]) -> None:
        """`Lease.note_generators`."""
        self._renew_after_fork()
        self._share.lease.note_generators(generators)

    def task(self) -> asyncio.Task[Any] | None:
        """The task inside; None if that is not known, or if it is leaving. From any thread."""
        owner = self._owner
        return None if owner is None or self._over is not None else owner()

    @property
    def _worker(self) -> Worker | None:
        return self._share.lease._worker

    def _look(self) -> Look:
        thread, queued, is_over = self._share.lease._look()
        return thread, queued, is_over or self._over is not None

    def abandon(self) -> None:
        """`Lease.abandon`."""
        self._share.lease.abandon()

    def owns_current_thread(self) -> bool:
        """Whether this is the worker's thread."""
        return self._share.lease.owns_current_thread()

    def blocked_by(self) -> list[asyncio.Task[Any]] | None:
        """`Lease.blocked_by`."""
        return self._share.lease.blocked_by()

    def end_blocked_by(self) -> list[asyncio.Task[Any]] | None:
        """`Lease.end_blocked_by`: the same, if this context's end waits for it. From any thread."""
        lease, over = self._share.lease, self._over
        if self._is_out:
            return lease.end_blocked_by()
        blocker = lease.blocked_by()
        # Only now: the worker may have become another lease's meanwhile.
        return blocker if over is not None and not over.is_over and not self._is_out else None

    def former_executor(self) -> kernel.ThreadSensitiveExecutor | None:
        """`Lease.former_executor`."""
        return self._share.lease.former_executor()


def _end_of(lease: weakref.ref[StickyLease], future: Future[Any]) -> None:
    # A future must not keep the lease of a dropped context.
    found = lease()
    if found is not None:
        found._end(future)


def executor_of_context(
    policy: Any,
    former: kernel.ThreadSensitiveExecutor | None,
    owner: weakref.ref[asyncio.Task[Any]] | None = None,
    context: Any = None,
) -> kernel.ThreadSensitiveExecutor | Lease | StickyLease:
    """The executor that a context's first call makes."""
    settle = pool.settle
    if settle is not None:
        settle()
    key = getattr(policy, "sticky", None)
    if key is None:
        return leases.executor_of_context(policy, former, owner, context)
    release = pool.release_for(policy)
    return StickyLease(pool.family_for(policy), key, former, owner, release, context)
