"""Who has which worker, where a policy says so: the pool of `asgibridge._workers.leases`.

**Whose worker.** A kept worker is a kernel executor with a thread that serves nobody else. Between
its leases it lies in ``_Pool.idle``, last in, first out. Only leases of the same `Family` (kind and
hooks) take it: a fresh lease never gets one. It ends itself when it has been idle for too long.
Under fresh, each lease has a new kernel executor, and the kernel finds a thread for it.

**Release.** A context that idles gives its worker back (`asgibridge._workers.leases`). The worker's
own thread notices: when it has had nothing to do for a while, it asks `_when_idle`, and its lease
says what is next. What a slot's holder was found to do then is noted in the slot (``seen``): a
lease that begins to wait asks one that idles to look once more (`_Pool.press`).

**The limit** counts leases of contexts (``_Pool.in_use``). A lease that comes at the limit, or
while others wait, goes to the end of ``waiting``; a lease that ends passes its slot on, on whatever
thread. The pool refers to waiting leases weakly, and skips those that nobody waits for any more. It
can't deadlock by itself, because no holder of a worker waits: nested contexts join the outermost;
those of one sticky key have one lease; calls inside `async_to_sync` go to the thread that waits
there; a loop that runs on a leased worker passes; and a run's lease is not counted, because its
caller waits for it and may have a worker.

**The lock** guards the lists, and no foreign code runs under it but finalizers. A thread that needs
a lease's lock too takes that one first; a lease that is dropped waits for neither
(`Lease.__del__`). The lock is re-entrant: the collector may run the program's code at any moment.
In a forked child the pool is empty.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import threading
import time
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from .._kernel import kernel
from .._process import cpython, fork, threads

if TYPE_CHECKING:
    from typing import Literal

    from .._process.items import Item
    from .leases import Lease

Hook = Callable[[threading.Thread], object]
HOOKS = ("on_start", "before_lease", "after_lease", "on_end", "may_release")
"""The names of a policy's hooks: those of a worker's life in the order in which they are called,
and the one that is asked."""

# A top-level run in a hook gets a worker without hooks: its hook would start the next run,
# endlessly.
is_in_hook = contextvars.ContextVar("asgibridge.is_in_hook", default=False)

_logger = logging.getLogger("asgibridge.workers")


class LimitReached(TimeoutError):
    """A context's call has waited ``wait_timeout`` for a worker, and all are in use.

    The call was not run. The message says how many are in use and by what.
    """

    __module__ = "asgibridge.workers"


class Family:
    """What interchangeable workers have in common: the kind, and the hooks.

    Equal ones are the same object (`family_of`), so that the pool compares them without running the
    ``__eq__`` of a hook.
    """

    def __init__(
        self,
        kind: str,
        on_start: Hook | None,
        before_lease: Hook | None,
        after_lease: Hook | None,
        on_end: Hook | None,
        may_release: Hook | None,
    ) -> None:
        self.kind = kind
        self.on_start = on_start
        self.before_lease = before_lease
        self.after_lease = after_lease
        self.on_end = on_end
        self.may_release = may_release

    @property
    def keeps(self) -> bool:
        """Whether a worker lives on after its lease."""
        return self.kind == "keep"

    @property
    def hooks(self) -> tuple[Hook | None, ...]:
        """In the order of `HOOKS`."""
        return self.on_start, self.before_lease, self.after_lease, self.on_end, self.may_release

    @property
    def has_hooks(self) -> bool:
        """Whether there is one of a worker's life."""
        return not (
            self.on_start is self.before_lease is self.after_lease is None and self.on_end is None
        )

    def call(self, name: str, thread: threading.Thread) -> bool:
        """Call a hook on ``thread``, which is the current one. Returns whether it went well."""
        hook = getattr(self, name)
        if hook is None:
            return True
        try:
            _call(hook, thread)
        except BaseException:
            _logger.exception("%s hook %r failed on worker %r", name, hook, thread.name)
            return False
        return True

    def lets_go(self, thread: threading.Thread) -> bool:
        """What ``may_release`` says on ``thread``, which is the current one. An error is a no."""
        hook = self.may_release
        if hook is None:
            return True
        try:
            return bool(_call(hook, thread))
        except Exception:
            _logger.exception("may_release hook %r failed on worker %r", hook, thread.name)
            return False


def _call(hook: Hook, thread: threading.Thread) -> object:
    context = contextvars.Context()
    context.run(is_in_hook.set, True)
    return kernel.at_home(kernel.Home(), context.run, hook, thread)


_families: weakref.WeakValueDictionary[tuple[Any, ...], Family] = weakref.WeakValueDictionary()
_making_family = threading.RLock()  # re-entrant: the collector may run anything meanwhile


def family_of(kind: str, *hooks: Hook | None) -> Family:
    """The family of that kind and those hooks."""
    key = (kind, *hooks)
    family = _families.get(key)
    if family is None:
        with _making_family:  # `setdefault` looks first, and then sets, whoever came meanwhile
            family = _families.setdefault(key, Family(kind, *hooks))
    return family


class Worker:
    """A kernel executor with its thread, and what is known of that.

    :param asks: whether its thread is its alone, and asks what to do when it is idle.
    """

    def __init__(
        self, family: Family, avoiding: kernel.ThreadSensitiveExecutor | None, asks: bool
    ) -> None:
        self.family = family
        when_idle = functools.partial(_when_idle, weakref.ref(self)) if asks else None
        self.executor = kernel.ThreadSensitiveExecutor(avoiding, when_idle, family.kind == "new")
        self.thread: threading.Thread | None = None  # known if there are hooks
        self.stack_size = cpython.stack_size() if family.keeps else 0
        self.has_started = False  # on_start has been called, and went well
        self.is_in_lease = False  # before_lease has been called, and went well
        self.is_doomed = False  # it ends with its lease
        self.is_resting = False  # its idle time ran out while it was leased: it waits without one
        self.lease: weakref.ref[Lease] | None = None  # the one that may give it back while it idles
        self.patience: float | None = None  # seconds after which it asks that
        self.idle_since = 0.0  # if it has a patience, and is in the pool

    def set_patience(self, seconds: float | None) -> None:
        """After what time it asks what to do, at most its idle time, which it has in the pool, too;
        None: after its idle time. From any thread.
        """
        if seconds is not None and seconds > pool.idle_timeout:
            seconds = pool.idle_timeout
        if self.patience != seconds:
            self.patience = seconds
            self.executor.set_patience(seconds)

    def needs_to_begin(self) -> bool:
        """Whether a lease's first hooks are to be called. From any thread."""
        family = self.family
        return family.before_lease is not None or (family.has_hooks and not self.has_started)

    def begin(self) -> bool:
        """Call the first hooks of a lease. On its thread. Returns whether they went well."""
        family, thread = self.family, threading.current_thread()
        self.thread = thread
        if not self.has_started:
            if not family.call("on_start", thread):
                return False
            self.has_started = True
            if family.keeps and family.on_end is not None:
                on_end = functools.partial(family.call, "on_end")
                thread.on_end = on_end  # type: ignore[attr-defined]
        self.is_in_lease = family.call("before_lease", thread)
        return self.is_in_lease

    def has_last_hooks(self) -> bool:
        """Whether a lease's last hooks are to be called. From any thread."""
        family = self.family
        return (self.is_in_lease and family.after_lease is not None) or (
            not family.keeps and self.has_started and family.on_end is not None
        )

    def must_end(self) -> bool:
        """Whether it ends with its lease. From any thread."""
        if threads.any_retired and not self.is_doomed:
            thread = thread_of(self)
            self.is_doomed = thread is not None and thread.is_retired
        return self.is_doomed

    def finish(self) -> None:
        """Call the last hooks of a lease; an error in one ends the thread. On its thread."""
        family, thread = self.family, threading.current_thread()
        if self.is_in_lease:
            self.is_in_lease = False
            if not family.call("after_lease", thread):
                self.is_doomed = True
        if not family.keeps:
            self.end_as_fresh()
        if self.must_end():
            thread.close()  # type: ignore[attr-defined]

    def end_as_fresh(self) -> None:
        """``on_end`` of a fresh worker, which lives for one lease."""
        if self.has_started:
            self.has_started = False
            if not self.family.call("on_end", threading.current_thread()):
                self.is_doomed = True

    def give_up(self) -> None:
        """End its thread, on that: the executor will start the next one after it."""
        if not self.family.keeps:
            self.end_as_fresh()
        self.has_started = self.is_in_lease = False
        threading.current_thread().close()  # type: ignore[attr-defined]


def thread_of(worker: Worker) -> threads.Worker | None:
    """Its thread, once it has one."""
    details = kernel.details(worker.executor)
    return None if details is None else details["worker"]


def _when_idle(reference: weakref.ref[Worker], idle: float) -> Item | float | Literal[True] | None:
    # On its thread, which has had nothing to do for so long. See `items.WhenIdle`.
    worker = reference()
    if worker is None:
        return True
    lease = None if worker.lease is None else worker.lease()
    answer = None if lease is None else lease.when_idle(worker, idle)
    if answer is None:
        return pool.retire(worker)
    if isinstance(answer, float) and answer > pool.idle_timeout:
        # By then it may have been given back, and have been idle for too long.
        given_back = pool.retire(worker)
        return answer if given_back is None else given_back
    return answer


class ReleaseAfter(NamedTuple):
    """When a context that idles gives its worker back."""

    idle: float
    """Seconds since its last call has ended."""
    pressed: float
    """The same while others wait for a worker."""


# Both are arbitrary. A request that waits for a slow answer of somebody else's, between two calls,
# is no stream: most get it within a second. A stream that holds its worker for longer keeps a site
# at its limit from starting more of them: 80 a second at a limit of 20.
_BY_DEFAULT = ReleaseAfter(1.0, 0.25)

# Arbitrary: a context that is bound is looked at again after that, which must not keep its thread
# busy.
_LEAST_SECONDS = 0.01


def release_by_default(kind: str, limit: int | None) -> ReleaseAfter | None:
    """What holds where nobody has said anything."""
    return _BY_DEFAULT if kind == "keep" and limit is not None else None


@functools.lru_cache(maxsize=16)  # each context with a policy of its own asks; arbitrary
def release_after(seconds: float | None) -> ReleaseAfter | None:
    """What holds where somebody has said ``seconds``."""
    if seconds is None:
        return None
    seconds = max(seconds, _LEAST_SECONDS)
    return ReleaseAfter(seconds, seconds)


class Slot:
    """The right to one of the limited number of workers."""

    def __init__(self) -> None:
        self.what = "nothing yet"  # the function it ran last
        self.worker: Worker | None = None
        self.owner: Callable[[], Any] | None = None
        """Returns the task that is inside of its context, or a list of the tasks inside of those
        that share it; None if that is not known."""
        self.seen: str | None = None
        """Of a context that may give its worker back: what binds it, in words; "" if it idles and
        nothing is known to; None if nobody has looked since its last call."""
        self.is_in_block = False  # whether `seen` is a block of `workers.bind`, or the like

    def tasks(self) -> list[asyncio.Task[Any]] | None:
        """The tasks that are inside; None if they are not known. From any thread."""
        owner = None if self.owner is None else self.owner()
        return owner if owner is None or isinstance(owner, list) else [owner]

    def givers(self) -> list[list[asyncio.Task[Any]]] | None:
        """For each task (or call) without which it cannot come free, what that is about, as `Wait`
        tells it; None if that is not known, or it may come free without any. From any thread.

        If several contexts share it, it comes free when all their tasks have left, and each counts.
        """
        tasks, worker = self.tasks(), self.worker
        if tasks is None or worker is None:
            return None
        owners = [[task] for task in tasks]
        lease = None if worker.lease is None else worker.lease()
        if lease is None:
            return owners  # the contexts have to be left
        holders = lease.holders(self)
        return None if holders is None else [*owners, *holders]


class _Pool:
    """The idle kept workers, and the slots under the limit."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.idle: list[Worker] = []
        self.in_use: set[Slot] = set()
        self.waiting: OrderedDict[int, weakref.ref[Lease]] = OrderedDict()
        self.family = family_of("fresh", *[None] * len(HOOKS))
        self.limit: int | None = None
        self.part = ""  # in words, if the limit is a part of a total
        self.settle: Callable[[], None] | None = None  # finds the limit, before the first lease
        self.wait_timeout: float | None = None
        self.idle_timeout = 10.0
        self.release_policy: ReleaseAfter | None = None
        self.is_release_given = False
        self.any_releases = False  # whether any context may have had a reason to give one back
        self.released = 0  # how often one has
        self.is_plain_run = self.is_plain = True

    def set(self, policy: Any, limit: int | None, part: str) -> None:
        """Set the policy of leases that begin from now on, and the limit that comes of it (see
        `set_limit`). Other families' idle workers end.
        """
        self.family = family = self.family_for(policy)
        self.wait_timeout = policy.wait_timeout
        self.is_release_given = policy._is_release_given
        self.release_policy = (
            release_after(policy.release_idle)
            if policy._is_release_given
            else release_by_default(policy.kind, limit)
        )
        # With a limit a context may choose `keep` for itself.
        self.any_releases |= limit is not None or self.release_policy is not None
        self.is_plain_run = not (family.kind != "fresh" or family.has_hooks)
        self.is_plain = self.is_plain_run and limit is None and self.release_policy is None
        self.end_idle(but=family)
        self.set_limit(limit, part)

    def set_limit(self, limit: int | None, part: str) -> None:
        """Set the limit alone, and in words of what it is a part. Leases that wait go on as far as
        it allows.
        """
        self.limit, self.part = limit, part
        self.grant()

    def set_idle_timeout(self, seconds: float) -> None:
        """How long an idle worker lives; that of those that are idle begins anew."""
        with self._lock:
            self.idle_timeout = seconds
            for worker in self.idle:
                worker.idle_since = time.monotonic()
                if worker.patience is not None and worker.patience > seconds:
                    worker.set_patience(seconds)

    def family_for(self, policy: Any) -> Family:
        """The family of a Policy, or of a kind with the hooks of the process's policy."""
        if isinstance(policy, str):
            return family_of(policy, *self.family.hooks)
        return family_of(policy.kind, *(getattr(policy, name) for name in HOOKS))

    def release_for(self, policy: Any) -> ReleaseAfter | None:
        """When a context with that Policy, or kind, gives its worker back. What its Policy says
        counts, then what the process's says: for `fresh` and `new` only if that is about them, for
        they have to be told that it does not matter. Without any it depends on kind and limit.
        """
        kind = policy if isinstance(policy, str) else policy.kind
        if kind is not policy and policy._is_release_given:
            return release_after(policy.release_idle)
        if not self.is_release_given:
            return release_by_default(kind, self.limit)
        return self.release_policy if kind in ("keep", self.family.kind) else None

    # Workers.

    def take(
        self, family: Family, avoiding: kernel.ThreadSensitiveExecutor | None, is_released: bool
    ) -> Worker:
        """The worker of ``family`` that has become idle last, or a new one; for a lease that may
        give it back, or not."""
        if family.keeps and not threads.exiting:
            stack_size = cpython.stack_size()
            while worker := self._pop_idle(family):
                if worker.stack_size != stack_size:
                    worker.executor.shutdown(wait=False)
                elif worker.thread is None or worker.thread.is_alive():
                    return worker
        return Worker(family, None if family.keeps else avoiding, family.keeps or is_released)

    def _pop_idle(self, family: Family) -> Worker | None:
        with self._lock:
            for worker in self.idle[::-1]:
                if worker.family is family:
                    self.idle.remove(worker)
                    return worker
        return None

    def give_back(self, worker: Worker) -> None:
        """A kept worker is free."""
        if worker.must_end():
            worker.executor.shutdown(wait=False)
            return
        must_look = False
        if worker.patience is not None:  # it waits for that, and not for its idle time
            worker.lease = None
            worker.idle_since = time.monotonic()
            if worker.patience > self.idle_timeout:  # that has changed
                worker.set_patience(self.idle_timeout)
                must_look = True
        with self._lock:
            must_look |= worker.is_resting
            worker.is_resting = False
            self.idle.append(worker)
        if must_look:
            worker.executor.look_again()

    def retire(self, worker: Worker) -> float | Literal[True] | None:
        """Take it out if its idle time is up, and return True; else the seconds that are left.
        None, and it waits without a time-out, if it is leased. On its thread.
        """
        with self._lock:
            if worker not in self.idle:
                worker.is_resting = True
                return None
            if worker.patience is not None:
                left = worker.idle_since + self.idle_timeout - time.monotonic()
                if left > 0:
                    return left
            self.idle.remove(worker)
        return True

    def end_idle(self, *, but: Family | None = None) -> list[threads.Worker]:
        """End the idle workers of all other families, and return them. Waits for none."""
        with self._lock:
            ended = [worker for worker in self.idle if worker.family is not but]
            for worker in ended:  # a finalizer may put another one in meanwhile
                self.idle.remove(worker)
        for worker in ended:
            worker.executor.shutdown(wait=False)
        return [thread for thread in map(thread_of, ended) if thread is not None]

    # The limit.

    def apply(self, lease: Lease) -> Slot | None:
        """A slot for a lease; None if it has to wait for its turn."""
        with self._lock:
            if (
                self.limit is None
                or (len(self.in_use) < self.limit and not self.waiting)
                # This loop runs on a leased worker, whose lease waits for the loop.
                or any(
                    slot.worker is not None and slot.worker.executor.owns_current_thread()
                    for slot in self.in_use
                )
            ):
                slot = Slot()
                self.in_use.add(slot)
                return slot
            self.waiting[id(lease)] = weakref.ref(lease)
            return None

    def blocked_by(self, lease: Lease) -> list[list[asyncio.Task[Any]]] | None:
        """What has each worker that ``lease`` could get, as `Wait.owners` tells it.

        None unless all are known, or if ``lease`` does not wait in line. From any thread.
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
            slots = list(self.in_use)
        found: list[list[asyncio.Task[Any]]] = []
        for slot in slots:
            givers = slot.givers()
            if givers is None:
                return None
            found += givers
        return found

    def borrowers(self) -> list[object]:
        """For each worker in use the task that is inside its context (the tasks that are inside of
        those that share it), or else its executor.

        For a dump: it takes no lock. From any thread.
        """
        found: list[object] = []
        for slot in list(self.in_use):
            tasks: list[Any] | None = slot.tasks()
            worker = slot.worker
            found += tasks or [slot if worker is None else worker.executor]
        return found

    def press(self) -> None:
        """A lease waits: ask a context that idles whether it gives its worker back. From any
        thread, under no lock: it may let go of a lease.
        """
        with self._lock:
            slot = next((each for each in self.in_use if each.seen == ""), None)
            worker = None if slot is None else slot.worker
            if slot is not None:
                slot.seen = None  # the next one asks another
        lease = None if worker is None or worker.lease is None else worker.lease()
        if worker is not None and lease is not None and not threads.exiting:
            worker.executor.post(lease.release_item(worker))

    def count_release(self) -> None:
        """A context gives its worker back."""
        with self._lock:
            self.released += 1

    def kept_by_idle(self) -> str:
        """What binds contexts that idle to their workers, in words; "" if nothing does. It takes no
        lock, for a dump. From any thread.
        """
        bound = Counter(each.seen for each in list(self.in_use) if each.seen)
        what = ", ".join(f"{count} by {words}" for words, count in bound.most_common(5))
        return f"some are kept by contexts that idle: {what}" if bound else ""

    def leave(self, lease: Lease, blocking: bool = True) -> None:
        """The lease does not wait any longer. From any thread.

        :param blocking: wait for the lock. A finalizer must not; who is dropped is skipped, too.
        """
        if self._lock.acquire(blocking):
            try:
                self.waiting.pop(id(lease), None)
            finally:
                self._lock.release()

    def release(self, slot: Slot | None) -> None:
        """A lease is over: pass its slot, if it has one, on. From any thread."""
        if slot is not None:
            with self._lock:
                self.in_use.discard(slot)
                slot.worker = None
            self.grant()

    def grant(self) -> None:
        """Give slots to waiting leases, as far as the limit allows. From any thread."""
        while self.waiting:
            with self._lock:
                if self.limit is not None and len(self.in_use) >= self.limit:
                    return
                try:
                    _, reference = self.waiting.popitem(last=False)
                except KeyError:  # a finalizer has just taken the last one out
                    return
                lease = reference()
                if lease is None:
                    continue
                slot = Slot()
                self.in_use.add(slot)
            if not lease.go_on(slot):
                with self._lock:
                    self.in_use.discard(slot)
            del lease  # not under the lock: ours may be the last reference

    def explain(self) -> str:
        """What keeps a lease waiting."""
        with self._lock:
            uses = Counter(slot.what for slot in self.in_use)
            in_use, waiting = len(self.in_use), len(self.waiting)
        by = ", ".join(f"{count} by {what}" for what, count in uses.most_common(5))
        kept = self.kept_by_idle()
        idle = f" Of those in use {kept}." if kept else ""
        if not kept and self.release_policy is None:
            idle = (
                " A stream or socket that idles has its worker all the while, unless Policy("
                "release_idle=...) or ASGIBRIDGE_WORKERS_RELEASE_IDLE says after how many seconds "
                "it gives that back."
            )
        return (
            f"no worker came free within {self.wait_timeout} seconds: {in_use} of {self.limit}"
            f"{self.part} are in use ({by or 'none'}; named is what each ran last), and {waiting} "
            "other contexts wait. Raise the limit (ASGIBRIDGE_WORKERS_LIMIT, or "
            "asgibridge.workers.set_policy) or wait_timeout, have fewer requests at once, or see "
            f"what those do for so long.{idle} See docs/workers.md#the-limit."
        )


pool = _Pool()


def _after_fork_in_child() -> None:
    global _making_family
    _making_family = threading.RLock()
    pool._lock = threading.RLock()
    pool.idle, pool.in_use, pool.waiting = [], set(), OrderedDict()
    pool.released = 0


fork.at_fork(_after_fork_in_child)
