"""Who has which worker, under a policy of the owner's: the pool of `asgibridge._workers.leases`.

**Whose worker.** A kept worker is a kernel executor with a thread that serves nobody else; it lies
in ``_Pool.idle`` between its leases, last in, first out, and is taken by leases of the same
`Family` (kind and hooks) only: a fresh lease never sees one. Idle for too long, it finds that out
itself and ends. Under fresh, the worker is a new kernel executor for each lease, and how that finds
its thread is the kernel's business.

**The limit** counts leases of contexts (``_Pool.in_use``). Who comes when it is reached, or when
others wait already, is appended to ``waiting``; who gives a slot back passes it on, from whatever
thread. The pool knows the waiting leases weakly: what nobody waits for any more is passed over. It
can't deadlock by itself: nobody waits who has a worker (nested contexts join the outermost; inside
`async_to_sync` calls go to the thread that waits there; a loop that runs on a leased worker is let
through); a run's lease is not counted and never waits, because its caller stands still meanwhile
and may hold a worker.

**The lock** guards the lists, and no foreign code runs under it. A lease's own is taken before it,
never after. It is re-entrant: the collector may drop a lease at any allocation. In a forked child
the pool is empty.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import threading
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .._kernel import kernel
from .._process import fork, threads

if TYPE_CHECKING:
    from .leases import Lease

__all__ = ["Family", "LimitReached", "Slot", "Worker", "is_in_hook", "pool"]

_Hook = Callable[[threading.Thread], object]

# A run that a hook starts has none: it would start the next in its turn, without end.
is_in_hook = contextvars.ContextVar("asgibridge.is_in_hook", default=False)

_logger = logging.getLogger("asgibridge.workers")


class LimitReached(TimeoutError):
    """A context's call has waited ``wait_timeout`` for a worker, and all are in use.

    The call was not run. The message says how many are in use and by what.
    """

    __module__ = "asgibridge.workers"


class Family:
    """What workers have in common that may stand in for each other: the kind, and the hooks.

    Equal ones are the same object (`family_of`).
    """

    __slots__ = ("__weakref__", "after_lease", "before_lease", "keeps", "on_end", "on_start")

    def __init__(
        self,
        kind: str,
        on_start: _Hook | None,
        before_lease: _Hook | None,
        after_lease: _Hook | None,
        on_end: _Hook | None,
    ) -> None:
        self.keeps = kind == "keep"
        self.on_start = on_start
        self.before_lease = before_lease
        self.after_lease = after_lease
        self.on_end = on_end

    @property
    def hooks(self) -> tuple[_Hook | None, _Hook | None, _Hook | None, _Hook | None]:
        """In the order in which they are called."""
        return self.on_start, self.before_lease, self.after_lease, self.on_end

    @property
    def has_hooks(self) -> bool:
        """Whether there is any."""
        return self.hooks != (None, None, None, None)

    def call(self, name: str, thread: threading.Thread) -> bool:
        """Call a hook on ``thread``, which is the current one, and say whether that went well."""
        hook = getattr(self, name)
        if hook is None:
            return True
        try:
            context = contextvars.Context()
            context.run(is_in_hook.set, True)
            kernel.at_home(kernel.Home(), context.run, hook, thread)
        except BaseException:
            _logger.exception("%s hook %r failed on worker %r", name, hook, thread.name)
            return False
        return True

    def end(self, thread: threading.Thread) -> None:
        """``on_end``, when a kept worker's thread ends."""
        self.call("on_end", thread)


_families: weakref.WeakValueDictionary[tuple[Any, ...], Family] = weakref.WeakValueDictionary()


def family_of(kind: str, *hooks: _Hook | None) -> Family:
    """The family of that kind and those hooks."""
    key = (kind, *hooks)
    family = _families.get(key)
    if family is None:
        family = _families.setdefault(key, Family(kind, *hooks))
    return family


class Worker:
    """A kernel executor with its thread, and what is known of that."""

    __slots__ = (
        *("__weakref__", "executor", "family", "has_started", "is_doomed", "is_in_lease"),
        *("is_resting", "thread"),
    )

    def __init__(self, family: Family, avoiding: kernel.ThreadSensitiveExecutor | None) -> None:
        self.family = family
        when_idle = None
        if family.keeps:
            when_idle = functools.partial(_is_time_up, weakref.ref(self))
        self.executor = kernel.ThreadSensitiveExecutor(avoiding, when_idle)
        self.thread: threading.Thread | None = None  # known if there are hooks
        self.has_started = False  # on_start has been called, and went well
        self.is_in_lease = False  # so has before_lease
        self.is_doomed = False  # it ends with its lease
        self.is_resting = False  # its time was up while it was leased: it waits without one

    def needs_to_begin(self) -> bool:
        family = self.family
        return family.before_lease is not None or (family.has_hooks and not self.has_started)

    def begin(self) -> bool:
        # On its thread. Whether the hooks went well.
        family, thread = self.family, threading.current_thread()
        self.thread = thread
        if not self.has_started:
            if not family.call("on_start", thread):
                return False
            self.has_started = True
            if family.keeps and family.on_end is not None:
                thread.on_end = family.end  # type: ignore[attr-defined]
        self.is_in_lease = family.call("before_lease", thread)
        return self.is_in_lease

    def has_last_hooks(self) -> bool:
        family = self.family
        return (self.is_in_lease and family.after_lease is not None) or (
            not family.keeps and self.has_started and family.on_end is not None
        )

    def finish(self) -> None:
        # The same at the end of a lease; an error costs us this thread.
        family, thread = self.family, threading.current_thread()
        if self.is_in_lease:
            self.is_in_lease = False
            if not family.call("after_lease", thread):
                self.is_doomed = True
        if not family.keeps:
            self.end_as_fresh()
        if self.is_doomed:
            thread.close()  # type: ignore[attr-defined]

    def end_as_fresh(self) -> None:
        # A fresh worker lives for one lease.
        if self.has_started:
            self.has_started = False
            if not self.family.call("on_end", threading.current_thread()):
                self.is_doomed = True

    def give_up(self) -> None:
        # On its thread: that ends, and the executor will start another one after it.
        if not self.family.keeps:
            self.end_as_fresh()
        self.has_started = self.is_in_lease = False
        threading.current_thread().close()  # type: ignore[attr-defined]

    def end(self) -> None:
        self.executor.shutdown(wait=False)


def _is_time_up(reference: weakref.ref[Worker]) -> bool:
    # On its thread, which has had nothing to do for long.
    worker = reference()
    return worker is None or pool.retire(worker)


class Slot:
    """The right to one of the limited number of workers."""

    __slots__ = ("owner", "what", "worker")

    def __init__(self) -> None:
        self.what = "nothing yet"  # the function it ran last
        self.worker: Worker | None = None
        self.owner: weakref.ref[asyncio.Task[Any]] | None = None


class _Pool:
    """The idle kept workers, and who may have one."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.idle: list[Worker] = []
        self.in_use: set[Slot] = set()
        self.waiting: OrderedDict[int, weakref.ref[Lease]] = OrderedDict()
        self.family = family_of("fresh", None, None, None, None)
        self.limit: int | None = None
        self.wait_timeout: float | None = None
        self.is_plain_run = self.is_plain = True

    def set(self, family: Family, limit: int | None, wait_timeout: float | None) -> None:
        """The policy of what begins from now on. Other families' idle workers end."""
        self.family = family
        self.limit = limit
        self.wait_timeout = wait_timeout
        self.is_plain_run = not (family.keeps or family.has_hooks)
        self.is_plain = self.is_plain_run and limit is None
        self.end_idle(but=family)
        self.grant()

    def family_for(self, policy: Any) -> Family:
        """Of a context's policy: a kind, with the hooks of the process's policy, or both."""
        if isinstance(policy, str):
            return family_of(policy, *self.family.hooks)
        return family_of(
            *(policy.kind, policy.on_start, policy.before_lease),
            *(policy.after_lease, policy.on_end),
        )

    # Workers.

    def take(self, family: Family, avoiding: kernel.ThreadSensitiveExecutor | None) -> Worker:
        """The last that has become idle, or a new one."""
        if family.keeps and not threads.exiting:
            with self._lock:
                for i in range(len(self.idle) - 1, -1, -1):
                    worker = self.idle[i]
                    if worker.family is family:
                        del self.idle[i]
                        if worker.thread is None or worker.thread.is_alive():
                            return worker
        return Worker(family, None if family.keeps else avoiding)

    def give_back(self, worker: Worker) -> None:
        """A kept one is free."""
        if worker.is_doomed:
            worker.end()
            return
        with self._lock:
            is_resting, worker.is_resting = worker.is_resting, False
            self.idle.append(worker)
        if is_resting:
            worker.executor.look_again()

    def retire(self, worker: Worker) -> bool:
        """Whether it was idle; then it is out. On its thread."""
        with self._lock:
            try:
                self.idle.remove(worker)
            except ValueError:
                worker.is_resting = True
                return False
        return True

    def end_idle(self, *, but: Family | None = None) -> None:
        """Have those end that are not of that family. Waits for none."""
        with self._lock:
            ended = [worker for worker in self.idle if worker.family is not but]
            self.idle[:] = [worker for worker in self.idle if worker.family is but]
        for worker in ended:
            worker.end()

    # The limit.

    def apply(self, lease: Lease) -> Slot | None:
        """A slot for a lease; None if it has to wait for its turn."""
        with self._lock:
            if (
                self.limit is None
                or (len(self.in_use) < self.limit and not self.waiting)
                or self._is_on_a_leased_worker()
            ):
                slot = Slot()
                self.in_use.add(slot)
                return slot
            self.waiting[id(lease)] = weakref.ref(lease)
            return None

    def _is_on_a_leased_worker(self) -> bool:
        # A loop runs on it, in sync code that waits for that.
        return any(
            slot.worker is not None and slot.worker.executor.owns_current_thread()
            for slot in self.in_use
        )

    def blocked_by(self, lease: Lease) -> list[list[asyncio.Task[Any]]] | None:
        """Of each worker that ``lease`` could get, the task that has it (in a list of one).

        None if not all are known, or if it does not wait in line. From any thread.
        """
        with self._lock:
            reference = self.waiting.get(id(lease))
            if (
                reference is None
                or reference() is not lease
                or self.limit is None
                or len(self.in_use) < max(1, self.limit)
            ):
                return None
            owners = [slot.owner for slot in self.in_use]
        tasks = [None if owner is None else owner() for owner in owners]
        return None if None in tasks else [[task] for task in tasks if task is not None]

    def borrowers(self) -> list[object]:
        """Who has the workers: of each the task that is inside its context, or else its executor.

        For a dump: a look without the lock. From any thread.
        """
        found: list[object] = []
        for slot in list(self.in_use):
            owner, worker = slot.owner, slot.worker
            task = None if owner is None else owner()
            found.append(task or (slot if worker is None else worker.executor))
        return found

    def leave(self, lease: Lease) -> None:
        """It does not wait any longer."""
        with self._lock:
            self.waiting.pop(id(lease), None)

    def release(self, slot: Slot | None) -> None:
        """A lease is over. Passes the slot on. From any thread."""
        if slot is not None:
            with self._lock:
                self.in_use.discard(slot)
                slot.worker = None
            self.grant()

    def grant(self) -> None:
        """Let go on who waits, as far as the limit allows."""
        while self.waiting:
            with self._lock:
                if not self.waiting or (self.limit is not None and len(self.in_use) >= self.limit):
                    return
                _, reference = self.waiting.popitem(last=False)
                lease = reference()
                if lease is None:
                    continue
                slot = Slot()
                self.in_use.add(slot)
            if not lease.go_on(slot):
                with self._lock:
                    self.in_use.discard(slot)
            del lease  # its end may be ours to see to

    def explain(self) -> str:
        """What keeps a lease waiting."""
        with self._lock:
            uses = Counter(slot.what for slot in self.in_use)
            in_use, waiting = len(self.in_use), len(self.waiting)
        by = ", ".join(f"{count} by {what}" for what, count in uses.most_common(5))
        return (
            f"no worker came free within {self.wait_timeout} seconds: {in_use} of {self.limit} are "
            f"in use ({by or 'none'}; named is what each ran last), and {waiting} other contexts "
            "wait. Raise the limit (ASGIBRIDGE_WORKERS_LIMIT, or asgibridge.workers.set_policy) or "
            "wait_timeout, have fewer requests at once, or see what those do for so long."
        )


pool = _Pool()


def _after_fork_in_child() -> None:
    pool._lock = threading.RLock()
    pool.idle, pool.in_use, pool.waiting = [], set(), OrderedDict()


fork.at_fork(_after_fork_in_child)
