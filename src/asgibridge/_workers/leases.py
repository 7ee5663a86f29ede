"""Workers under a policy other than the default one: leases, the limit on them, and hooks.

Without hooks and without a limit, fresh workers are the kernel's business, and nothing here runs.
Otherwise a `Lease` takes a kernel executor's place: it is the worker that a ThreadSensitiveContext,
or one top-level `async_to_sync`, has for a while. ::

    NEW --first call--> [WAITING -->] [BEGINNING -->] READY --end--> ENDED
         at the limit, in order .'     `. hooks, on the worker

In WAITING and BEGINNING the lease holds its calls (``_pending``). It posts them when it gets READY.

**Ends.** A lease ends when its context is left or the lease is dropped, after all calls that it has
accepted. The worker itself gives back the slot, and itself if it is kept, in its last item, after
the hooks; so a listener hears of the end but nobody has to wait, and a cancelled wait loses
nothing. A worker without a last item is given back at once, without a hop.

**Deadlocks.** The tasks of a lease in WAITING wait for it (`_WorkerWait`). A worker comes free when
the task that has entered its context leaves it. If each such task waits, in the end, for the very
same call, none ever does, unless the wait has a time-out: see `asgibridge._waits.deadlocks`. Such a
ring need have no thread in it, so a task that waits also searches once in a while.

**The lock** guards the lease's state. A thread that needs the pool's too takes this one first. It
is re-entrant: a finalizer may use this very lease.

**Fork.** In the child, a lease of the parent begins anew. **Exit.** Idle workers end like all of
ours; leases that wait then are still served.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
import weakref
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from .._kernel import kernel
from .._process import fork, greenlets
from .._process.handover import take
from .._process.items import FutureCall, Item
from .._process.stock import Look, StockNames
from .._waits import deadlocks
from .pool import Family, LimitReached, Slot, Worker, pool

_R = TypeVar("_R")
_NEW, _WAITING, _BEGINNING, _READY, _ENDED = range(5)


class Held(Item, Protocol):
    """An item that a lease holds until there is a worker."""

    def fail(self, error: BaseException) -> object: ...


class _LeaseEnd:
    """The end of a lease, with its listeners. From any thread."""

    __slots__ = ("_listeners", "is_over", "slot")

    def __init__(self) -> None:
        self._listeners: list[Callable[[], object]] = []
        self.is_over = False
        self.slot: Slot | None = None

    def listen(self, listener: Callable[[], object]) -> bool:
        """Have ``listener`` called at the end; False if that is over, and it may not be called."""
        self._listeners.append(listener)  # and only then look: `__call__` looks the other way round
        return not self.is_over

    def __call__(self) -> None:
        self.is_over = True
        slot, self.slot = self.slot, None
        pool.release(slot)
        while listener := take(self._listeners):
            listener()


class _LeaseItem:
    """The first item of a lease with hooks, or the last one of a lease."""

    __slots__ = ("cancel", "run")

    def __init__(self, run: Callable[[], Any], cancel: Callable[[], Any]) -> None:
        self.run = run
        self.cancel = cancel

    def deliver(self) -> None: ...


def _finish_with(worker: Worker, over: _LeaseEnd) -> None:
    # On the worker, last of all that a lease runs.
    worker.finish()
    if worker.family.keeps:
        pool.give_back(worker)
        over()
    else:
        worker.executor.let_go(over)


class _WorkerWait:
    """A task's `Wait` for a call whose lease is in WAITING."""

    __slots__ = ("__weakref__", "_lease", "_timeout", "_timer", "item", "loop")

    is_harmless = False

    def __init__(
        self, lease: Lease, call: kernel.SyncCall, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._lease = lease
        self.item = call
        self.loop = loop
        self._timeout = pool.wait_timeout
        self._timer: Any = None

    def __await__(self) -> Generator[Any, None, Any]:
        task = deadlocks.begin_wait(self)
        if self._timeout is not None:
            self._timer = self.loop.call_later(self._timeout, self._give_up)
        else:
            why = None if task is None else deadlocks.chain(None, task, wait=self)
            if why is not None and self._lease.forget(self.item):
                self.item.revoke()
                deadlocks.end_wait(self, task)
                raise self.refusal(why)
            self.look_later()
        try:
            return (yield from self.item.__await__())
        except BaseException as error:
            self._lease.forget(self.item)
            if isinstance(error, GeneratorExit):  # the task is dropped, with its loop
                self.item.revoke()
            raise
        finally:
            self._timer.cancel()
            self._timer = None
            deadlocks.end_wait(self, task)
            del task

    @property
    def what(self) -> str:
        return f"a worker for {self._lease.whose}, at the limit of {pool.limit}"

    @property
    def call(self) -> kernel.SyncCall:
        return self.item

    def borrowers(self) -> list[Any]:
        return pool.borrowers()

    def owners(self) -> list[list[asyncio.Task[Any]]] | None:
        # With a time-out the wait ends by itself.
        return None if self._timeout is not None else pool.blocked_by(self._lease)

    def refusal(self, why: str) -> RuntimeError:
        return RuntimeError(
            f"This call would deadlock: its context needs one of {pool.limit} workers (the limit "
            "in asgibridge.workers.Policy), and each task inside a context with one waits for "
            f"{why}. Do not wait there for a task with a context of its own, or raise the limit."
        )

    def end(self, error: BaseException) -> None:
        if self._lease.forget(self.item):
            self.item.fail(error)

    def look_later(self) -> None:
        # The timer must not keep the wait of a dropped task alive.
        look = functools.partial(_look, weakref.ref(self))
        self._timer = self.loop.call_later(deadlocks.LOOK_EVERY, look)

    def _give_up(self) -> None:
        if self._lease.forget(self.item):
            self.item.fail(LimitReached(pool.explain()))


def _look(reference: weakref.ref[_WorkerWait]) -> None:
    waiting = reference()
    if waiting is not None:
        waiting.look_later()
        deadlocks.look_for_ring_from(waiting)


_renewing = threading.RLock()
"""Of two threads of a forked child that want the same lease of the parent's, one renews it."""


def _after_fork_in_child() -> None:
    global _renewing
    _renewing = threading.RLock()


fork.at_fork(_after_fork_in_child)


class Lease(StockNames):
    """The worker of one ThreadSensitiveContext or top-level run, from its first call on.

    :param is_counted: whether it counts towards the limit, and waits at it.
    :param avoiding: a former lease's executor, whose thread a fresh lease must not get.
    :param owner: returns the task that has entered the context, None if that is not known; or the
        list of the tasks inside of all contexts that share the lease.
    """

    whose = "its context"
    """For dumps."""

    def __init__(
        self,
        family: Family,
        *,
        is_counted: bool,
        avoiding: kernel.ThreadSensitiveExecutor | None = None,
        owner: Callable[[], Any] | None = None,
    ) -> None:
        self._family = family
        self._is_counted = is_counted
        self._avoiding = avoiding
        self._owner = owner
        self._generation = fork.generation
        self._lock = threading.RLock()
        # Guarded by the lock.
        self._state = _NEW
        # The held items. A lease refers to calls that wait at the limit weakly: such a call refers
        # to the ThreadSensitiveContext, which its own lease must not keep alive when the task of
        # the call has been dropped.
        self._pending: list[Held | weakref.ref[Held]] = []
        self._worker: Worker | None = None
        self._slot: Slot | None = None
        self._over: _LeaseEnd | None = None  # None until it is told to end
        self._has_tried = False  # a first worker's hook has failed
        self._abandoned = False
        # A kept worker's calls run in these, unless they bring their own.
        self._home = kernel.Home()
        self._context = contextvars.Context()

    # Calls.

    def send(self, call: kernel.SyncCall, loop: asyncio.AbstractEventLoop) -> Any:
        """Have ``call`` run on the worker. Returns an awaitable of its result.

        On the loop's thread. Raises RuntimeError after the end, or the error of a thread that
        cannot start.
        """
        what = ""
        if pool.limit is not None:  # outside the lock: this may run the program's code
            what = getattr(call.shown, "__qualname__", None) or type(call.shown).__name__
        if self._family.keeps:
            call.call_by(functools.partial(kernel.at_home, self._home, self._context.run))
        self._renew_after_fork()
        with self._lock:
            if self._state != _READY or self._over is not None:
                call.accept()
                self._hold(call)
                if self._state == _WAITING:
                    self._pending[-1] = weakref.ref(call)
                    return _WorkerWait(self, call, loop)
            elif self._worker is None or not self._worker.executor.post(call):
                raise RuntimeError("cannot schedule new futures after shutdown")
            if what and self._slot is not None:
                self._slot.what = what
        return call

    def post(self, item: Held) -> None:
        """Have a run's ``item`` run on the worker."""
        with self._lock:
            self._hold(item)

    def submit(self, fn: Callable[..., _R], /, *args: Any, **kwargs: Any) -> Future[_R]:
        """Have ``fn(*args, **kwargs)`` run on the worker. From any thread.

        At the limit it waits for its turn without a time-out. Raises RuntimeError after the end.
        """
        future: Future[_R] = Future()
        call = functools.partial(fn, *args, **kwargs)
        if self._family.keeps:  # nothing stays in the thread's own contextvars.Context
            call = functools.partial(kernel.at_home, self._home, self._context.run, call)
        item = FutureCall(future, call, (), {})
        self._renew_after_fork()
        with self._lock:
            self._hold(item)
            is_waiting = self._state == _WAITING
        if is_waiting:
            future.add_done_callback(
                functools.partial(_forget_if_cancelled, weakref.ref(self), item)
            )
        return future

    def _hold(self, item: Held) -> None:
        # Under the lock.
        if self._over is not None or self._state == _ENDED:
            raise RuntimeError("cannot schedule new futures after shutdown")
        self._pending.append(item)
        if self._state == _NEW:
            slot = pool.apply(self) if self._is_counted else None
            if self._is_counted and slot is None:
                self._state = _WAITING
            else:
                try:
                    self._begin(slot)
                except BaseException:
                    self._pending.clear()
                    pool.release(slot)
                    raise
        elif self._state == _READY:
            self._make_ready()
        elif self._state == _BEGINNING:
            self._show_place(item)

    def _show_place(self, item: Held) -> None:
        # For dumps: which thread is to run it.
        if self._worker is not None and type(item) is kernel.SyncCall:
            item.place = self._worker.executor

    def _held(self) -> list[Held]:
        # The pending items that somebody still waits for.
        items = [_item_of(entry) for entry in self._pending]
        return [item for item in items if item is not None]

    def forget(self, item: Item) -> bool:
        """Give up a held call, and the place in the queue if it was the last. False if too late."""
        if self._generation != fork.generation:
            return False  # a task of the parent's is dropped in a forked child
        with self._lock:
            if self._state != _WAITING:
                return False
            held = self._held()
            self._pending = [
                entry for entry in self._pending if _item_of(entry) not in (None, item)
            ]
            if not self._pending:
                pool.leave(self)
                self._state = _NEW
                if self._over is not None:
                    self._state = _ENDED
                    self._over()
            return item in held

    def fail(self, error: BaseException) -> None:
        """There is no worker: the held calls raise ``error``, and the next call begins anew."""
        with self._lock:
            held, self._pending = self._held(), []
            slot, self._slot = self._slot, None
            self._worker = None
            self._state = _NEW if self._over is None else _ENDED
            over = self._over
        for item in held:
            item.fail(error)
        pool.release(slot)
        if over is not None:
            over()

    # The beginning.

    def go_on(self, slot: Slot) -> bool:
        """Take the slot and begin; False if it is not wanted any more. From any thread."""
        if self._generation != fork.generation:
            return False
        try:
            with self._lock:
                if self._state != _WAITING:
                    return False
                self._begin(slot)
        except Exception as error:  # no thread could be started
            self.fail(error)
            return False
        return True

    def _begin(self, slot: Slot | None) -> None:
        # Under the lock.
        self._has_tried = False
        self._worker = worker = pool.take(self._family, self._avoiding)
        self._slot = slot
        if slot is not None:
            slot.worker = worker
        try:
            if worker.needs_to_begin():
                self._state = _BEGINNING
                for item in self._held():
                    self._show_place(item)
                self._post_first_item(worker)
            else:
                self._make_ready()
        except BaseException:
            self._state, self._worker, self._slot = _NEW, None, None
            raise

    def _post_first_item(self, worker: Worker) -> None:
        ended = RuntimeError("the worker's thread has ended")
        worker.executor.post(
            _LeaseItem(functools.partial(self._run_hooks, worker), lambda: self.fail(ended))
        )

    def _run_hooks(self, worker: Worker) -> None:
        # On the worker.
        try:
            went_well = worker.begin()
            with self._lock:
                if not went_well and not self._has_tried:
                    self._has_tried = True
                    worker.give_up()
                    self._post_first_item(worker)
                    return
                worker.is_doomed |= not went_well
                self._make_ready()
        except BaseException as error:  # raised in this thread from outside
            self.fail(error)
            raise

    def _make_ready(self) -> None:
        # Under the lock.
        assert self._worker is not None
        executor = self._worker.executor
        self._state = _READY
        while self._pending:  # the first may fail to start a thread, none after it
            held = _item_of(self._pending[0])
            if held is not None:
                executor.post(held)
            del self._pending[0]
        if self._over is not None:
            self._finish()
        elif self._slot is not None:
            self._slot.owner = self._owner

    # The end.

    def end(self, listener: Callable[[], object]) -> bool:
        """Refuse further calls, and let the worker go when it has run those it has.

        Then ``listener()`` is called, on some thread. False if that has happened already: then it
        may not be called. From any thread.
        """
        self._renew_after_fork()
        with self._lock:
            over = self._over
            if over is None:
                over = self._over = _LeaseEnd()
                if self._state == _NEW:
                    self._state = _ENDED
                    over()
                elif self._state == _READY:
                    self._finish()
        return over.listen(listener)

    def end_here(self) -> None:
        """End on the worker, in its last item."""
        with self._lock:
            worker = self._worker
            self._state = _ENDED
        if worker is not None:
            if self._abandoned:
                worker.is_doomed = True
            _finish_with(worker, self._over or _LeaseEnd())

    def _finish(self) -> None:
        # Under the lock, in READY.
        worker, over = self._worker, self._over
        assert worker is not None
        assert over is not None
        self._state = _ENDED
        over.slot, self._slot = self._slot, None
        if over.slot is not None:
            over.slot.owner = None
        worker.is_doomed |= self._abandoned
        executor = worker.executor
        must_run = (
            worker.must_end()
            or worker.has_last_hooks()
            or (worker.family.keeps and not executor.is_idle())
        )
        if must_run and executor.post(
            _LeaseItem(functools.partial(_finish_with, worker, over), over)
        ):
            return
        if worker.family.keeps:
            pool.give_back(worker)
            over()
        else:
            executor.let_go(over)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """`end`.

        :param wait: wait for that (not if called on the worker, or if that was abandoned).
        :param cancel_futures: cancel the calls that still wait for a worker.
        """
        if cancel_futures:
            self._renew_after_fork()
            self.cancel_held()
        over = greenlets.make_event()
        is_on_its_way = self.end(over.set)
        if wait and is_on_its_way and not self._abandoned and not self.owns_current_thread():
            over.wait()

    def cancel_held(self, guard: Any = None) -> None:
        """Cancel the calls that wait at the limit; with a ``guard``, those that have it."""
        with self._lock:
            held = self._held() if self._state == _WAITING else []
        for item in held:
            is_meant = guard is None or getattr(item, "guard", None) is guard
            if is_meant and self.forget(item):
                item.cancel()
                item.deliver()

    def _look(self) -> Look:
        worker, state, waiting = self._worker, self._state, len(self._pending)
        thread, queued = None, 0
        if worker is not None and state != _ENDED:
            thread, queued, _ = worker.executor._look()
        return thread, queued + waiting, state == _ENDED or self._over is not None

    def abandon(self) -> None:
        """Do not wait for the thread at exit, and hand it on to nobody. From any thread."""
        worker = self._worker
        if worker is not None and self._state != _ENDED:
            self._abandoned = True
            worker.executor.abandon()

    def owns_current_thread(self) -> bool:
        """Whether this is the worker's thread."""
        worker = self._worker
        return worker is not None and worker.executor.owns_current_thread()

    def blocked_by(self) -> list[asyncio.Task[Any]] | None:
        """`kernel.ThreadSensitiveExecutor.blocked_by` of the worker. From any thread."""
        worker = self._worker
        return None if worker is None else worker.executor.blocked_by()

    def end_blocked_by(self) -> list[asyncio.Task[Any]] | None:
        """The same, if this lease's end waits for it. From any thread."""
        blocker, over = self.blocked_by(), self._over
        # Only now: the worker may have become another lease's meanwhile.
        is_due = self._state == _ENDED and over is not None and not over.is_over
        return blocker if is_due else None

    def former_executor(self) -> kernel.ThreadSensitiveExecutor | None:
        """The executor whose thread a later fresh lease of the same context must not get."""
        return None if self._worker is None or self._family.keeps else self._worker.executor

    def _renew_after_fork(self) -> None:
        # Before the lock is taken: in a forked child it may be held by a thread that is not there.
        # Nor are the parent's worker and calls.
        if self._generation == fork.generation:
            return
        with _renewing:
            if self._generation == fork.generation:
                return
            self._lock = threading.RLock()
            self._pending = []
            self._worker = self._slot = None
            if self._state != _ENDED:
                self._state = _NEW
            self._generation = fork.generation  # last: who finds it so takes the new lock

    def __del__(self) -> None:
        state = getattr(self, "_state", _ENDED)
        if state in (_NEW, _ENDED) or self._generation != fork.generation:
            return
        if state == _WAITING:
            pool.leave(self)
            for item in self._held():
                item.cancel()
                item.deliver()
        elif state == _READY:
            self._over = _LeaseEnd()
            self._finish()


def _item_of(entry: Held | weakref.ref[Held]) -> Held | None:
    # None if nobody waits for it any more.
    return entry() if isinstance(entry, weakref.ref) else entry


def _forget_if_cancelled(lease: weakref.ref[Lease], item: Item, future: Future[Any]) -> None:
    found = lease() if future.cancelled() else None
    if found is not None:
        found.forget(item)


def executor_of_context(
    policy: Any,
    former: kernel.ThreadSensitiveExecutor | None,
    owner: weakref.ref[asyncio.Task[Any]] | None = None,
) -> kernel.ThreadSensitiveExecutor | Lease:
    """The executor that a context's first call makes."""
    family = pool.family if policy is None else pool.family_for(policy)
    if pool.limit is None and not (family.keeps or family.has_hooks):
        return kernel.ThreadSensitiveExecutor(former, None, family.kind == "new")
    return Lease(family, is_counted=True, avoiding=former, owner=owner)
