"""Workers under a policy other than the default one: leases, the limit on them, and hooks.

Without hooks and without a limit, fresh workers are the kernel's business, and nothing here runs.
Otherwise a `Lease` takes a kernel executor's place: it is the worker that a ThreadSensitiveContext,
or one top-level `async_to_sync`, has for a while. ::

    NEW --first call--> [WAITING -->] [BEGINNING -->] READY --end--> ENDED
     ^   at the limit, in order .'     `. hooks, on the worker
     '---------------------released while it idles----'

In WAITING and BEGINNING the lease holds its calls (``_pending``). It posts them when it gets READY.

**Ends.** A lease ends when its context is left or the lease is dropped, after all calls that it has
accepted. The worker itself gives back the slot, and itself if it is kept, in its last item, after
the hooks; so a listener hears of the end but nobody has to wait, and a cancelled wait loses
nothing. A worker without a last item is given back at once, without a hop. A lease that is dropped
is ended by its worker (`Lease.__del__`).

**Release.** A context that has had no call for a while, and that nothing binds to its thread, gives
its worker back, with all that a lease's end has; its next call begins like a new context's. On the
worker's thread, as an item in its inbox (`Lease._release_from`):

1. Without a lock, it asks what binds the context, which may run code of the program's.
2. Under the lock, if no call has come and the lease is still this worker's: the lease is NEW. A
   call that comes from here on takes another worker, or waits in line.
3. Without the lock: the last hooks; then the worker is free, or ends; then its slot.

An end that comes before 2 finds a worker that is busy with this item, and is posted behind it. One
that comes between 2 and 3 has no worker, but its listeners hear of it only after 3. What binds: a
block of `workers.bind`, or what `Lease._bound_by` finds. A bound lease asks again after the same
time.

That it idles, the worker notices by itself (`Lease.when_idle`): its calls pay nothing for it. While
others wait in line a context is released sooner, above all one that has been already: what it had
in `threading.local` is gone, and it is likely to idle again. Else each message of a stream would
hold a worker for a second.

**Deadlocks.** The tasks of a lease in WAITING wait for it (`_WorkerWait`). A worker comes free when
the task that has entered its context leaves it. If each such task waits, in the end, for the very
same call, none ever does, unless the wait has a time-out: see `asgibridge._waits.deadlocks`. Such a
ring need have no thread in it, so a task that waits also searches once in a while. A worker that
may be released comes free without anybody, so it is part of a ring only if it is in the middle of a
call that is, or was bound when it was last asked (`Lease.holders`).

**The lock** guards the lease's state. A thread that needs the pool's too takes this one first. It
is re-entrant: a finalizer may use this very lease.

**Fork.** In the child, a lease of the parent begins anew. **Exit.** Idle workers end like all of
ours; leases that wait then are still served.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import logging
import threading
import weakref
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from .._kernel import kernel
from .._process import connections, fork, greenlets
from .._process.handover import take
from .._process.items import FutureCall, Item, generators_given
from .._process.stock import Look, StockNames
from .._waits import deadlocks
from .bindings import tasks_of, words_of
from .pool import Family, LimitReached, ReleaseAfter, Slot, Worker, pool, thread_of

_R = TypeVar("_R")
_NEW, _WAITING, _BEGINNING, _READY, _ENDED = range(5)

_logger = logging.getLogger("asgibridge.workers")

# While others wait, of a context that was released before. Arbitrary: longer than a task needs from
# one call to its next, if its loop is not late; short for those who wait.
_AGAIN_SECONDS = 0.01

_ABOUT = 0.0005  # seconds: microseconds are rounded on the way to the kernel and back


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
    """An item of a lease's own: for its hooks, for its end or release."""

    __slots__ = ("cancel", "run")

    def __init__(self, run: Callable[[], Any], cancel: Callable[[], Any] = lambda: None) -> None:
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
        pool.press()
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
        except GeneratorExit:  # the task is dropped, with its loop: no lock, see `Lease.__del__`
            self.item.revoke()
            raise
        except BaseException:
            self._lease.forget(self.item)
            raise
        finally:
            self._timer.cancel()
            self._timer = None
            deadlocks.end_wait(self, task)
            del task

    @property
    def what(self) -> str:
        kept = pool.kept_by_idle()
        of_those = f" ({kept})" if kept else ""
        return f"a worker for {self._lease.whose}, at the limit of {pool.limit}{of_those}"

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
            f"{why}. Do not wait there for a task with a context of its own, or raise the limit. "
            "See docs/troubleshooting.md#would-deadlock."
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
    :param release: when it gives its worker back while it idles; None: never.
    :param context: the context, if there is a ``release``, or what stands for all that share it.
    """

    whose = "its context"
    """For dumps."""

    # Of one with a ``release``.
    _reference: weakref.ref[Lease] | None = None
    _binds: weakref.ref[Any] | None = None  # the context, which knows what binds it
    _generators: Iterable[weakref.ref[Any]] = ()  # that its calls were given; under the lock
    _giving_back: _LeaseEnd | None = None  # its last release
    _is_resuming = False  # it was released, and has had no call since

    def __init__(
        self,
        family: Family,
        *,
        is_counted: bool,
        avoiding: kernel.ThreadSensitiveExecutor | None = None,
        owner: Callable[[], Any] | None = None,
        release: ReleaseAfter | None = None,
        context: Any = None,
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
        # Calls on a worker that serves others, too, run in these, unless they bring their own; so
        # do those of a context that may change its worker.
        self._has_context = family.keeps or release is not None
        self._home = kernel.Home()
        self._context = contextvars.Context()
        self.release = release
        if release is not None:
            self._reference = weakref.ref(self)
            self._binds = None if context is None else weakref.ref(context)

    # Calls.

    def send(self, call: kernel.SyncCall, loop: asyncio.AbstractEventLoop) -> Any:
        """Have ``call`` run on the worker. Returns an awaitable of its result.

        On the loop's thread. Raises RuntimeError after the end, or the error of a thread that
        cannot start.
        """
        what = ""
        if pool.limit is not None:  # outside the lock: this may run the program's code
            what = getattr(call.shown, "__qualname__", None) or type(call.shown).__name__
        if self._has_context:
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
            slot = self._slot
            if what and slot is not None:
                slot.what = what
                slot.seen = None
        return call

    def note_generators(self, generators: Iterable[Any]) -> None:
        """Calls are given these: the context is bound while one of them is suspended."""
        self._renew_after_fork()
        with self._lock:
            known = {each for each in self._generators if each() is not None}
            self._generators = known.union(map(weakref.ref, generators))

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
        if self._has_context:  # nothing stays in the thread's own contextvars.Context
            call = functools.partial(kernel.at_home, self._home, self._context.run, call)
        item = FutureCall(future, call, (), {})
        self._renew_after_fork()
        if self.release is not None:
            generators = generators_given(functools.partial(fn, *args, **kwargs))
            if generators:
                self.note_generators(generators)
        with self._lock:
            self._hold(item)
            is_waiting = self._state == _WAITING
            if self._slot is not None:
                self._slot.seen = None
        if is_waiting:
            pool.press()
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
                self._stop_waiting()
            return item in held

    def _stop_waiting(self) -> None:
        # Under the lock, in WAITING: nobody does.
        self._pending = []
        self._state = _NEW
        if self._over is not None:
            self._end_without_worker(self._over)

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
                if not self._held():  # the tasks that waited were dropped
                    self._stop_waiting()
                    return False
                self._begin(slot)
        except Exception as error:  # no thread could be started
            self.fail(error)
            return False
        return True

    def _begin(self, slot: Slot | None) -> None:
        # Under the lock.
        self._has_tried = False
        release = self.release
        self._worker = worker = pool.take(self._family, self._avoiding, release is not None)
        if release is not None:
            worker.lease = self._reference
            if worker.patience != release.pressed:
                worker.set_patience(release.pressed)
        elif worker.patience is not None:
            worker.lease = None
            worker.set_patience(None)
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
        if self._is_resuming:
            if connections.are_possible():
                executor.post(_LeaseItem(connections.renew_connections))
            self._is_resuming = False
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
                    self._end_without_worker(over)
                elif self._state == _READY:
                    self._finish()
        return over.listen(listener)

    def _end_without_worker(self, over: _LeaseEnd) -> None:
        # Under the lock. The worker that it had may be in its last hooks still.
        self._state = _ENDED
        if self._giving_back is None or not self._giving_back.listen(over):
            over()

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

    # Release.

    def when_idle(self, worker: Worker, idle: float) -> Item | float | None:
        """What ``worker`` does after so many seconds with nothing to do: see `items.WhenIdle`. None
        if it is not ours. On its thread.
        """
        release = self.release
        if release is None or not self._has(worker) or self._generation != fork.generation:
            return None
        idle += _ABOUT
        if idle < release.pressed:
            return release.pressed - idle + _ABOUT
        slot = self._slot
        is_bound = slot is not None and bool(slot.seen)
        if idle >= release.idle or (pool.waiting and not is_bound):
            return self.release_item(worker)
        # Without a wait for the lock: who has it posts a call, or ends us.
        if slot is not None and self._lock.acquire(blocking=False):
            if slot.seen is None and not worker.executor._look()[1]:
                slot.seen = ""
            self._lock.release()
        return release.idle - idle + _ABOUT

    def release_item(self, worker: Worker) -> Item:
        """For ``worker``'s inbox: has it given back if nothing binds us. It does not hold us."""
        return _LeaseItem(functools.partial(_release, weakref.ref(self), worker))

    def _has(self, worker: Worker) -> bool:
        # Whether it is ours, and is to stay that.
        return self._worker is worker and self._state == _READY and self._over is None

    def _release_from(self, worker: Worker) -> None:
        # On the worker: see the header.
        if self._generation != fork.generation or not self._has(worker):
            return
        block = words_of(self._binds)
        why = block or self._bound_by(worker)
        if self._generation != fork.generation:  # a hook has forked, and the lock is the parent's
            return
        with self._lock:
            if not self._has(worker) or worker.executor._look()[1]:
                return
            slot = self._slot
            if why is None:
                why = block = words_of(self._binds)  # `workers.bind` takes no lock
            if why is not None:
                if slot is not None:
                    slot.seen = why
                    slot.is_in_block = block is not None
            else:
                pool.count_release()
                over = self._giving_back = _LeaseEnd()
                over.slot = slot
                if slot is not None:
                    slot.owner = None
                worker.is_doomed |= self._abandoned
                self._state, self._worker, self._slot = _NEW, None, None
                self._is_resuming = True
                assert self.release is not None
                idle, pressed = self.release
                self.release = ReleaseAfter(idle, min(pressed, _AGAIN_SECONDS))
        if why is not None:
            if pool.waiting:
                pool.press()  # then another
            return
        try:
            if self._family.keeps:
                connections.renew_connections()
            else:
                connections.close_connections()  # before another gets the slot
            _finish_with(worker, over)
        except BaseException:  # raised in this thread from outside
            over()
            raise

    def _bound_by(self, worker: Worker) -> str | None:
        # What binds us to our worker but a block, in words; None if nothing does. On the worker,
        # under no lock.
        for reference in self._generators:
            generator = reference()
            if generator is not None and inspect.getgeneratorstate(generator) in _IN_THE_MIDDLE:
                return f"the generator {generator.__qualname__}, which is suspended"
        try:
            bound = connections.transaction()
        except Exception:
            _logger.exception("looking for transactions failed on a worker: it is not released")
            return "database connections that can't be looked at"
        if bound is not None:
            return bound
        return None if worker.family.lets_go(threading.current_thread()) else "may_release"

    def holders(self, slot: Slot) -> list[list[asyncio.Task[Any]]] | None:
        """Who keeps us from giving our worker and ``slot`` back, as `Wait.owners` tells it; None if
        nobody does, or that is not known. From any thread.
        """
        worker = self._worker
        if worker is None or self._slot is not slot:
            return None
        blocker = worker.executor.blocked_by()
        if blocker is not None:
            return [blocker]
        if not worker.executor.is_idle():
            return None
        tasks = tasks_of(self._binds)
        if tasks is not None:
            return [[task] for task in tasks]
        # A block that was seen has been left since: then we are released at the next look.
        return [] if slot.seen and not slot.is_in_block else None

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
            self._worker = self._slot = self._giving_back = None
            self._is_resuming = False
            self._generators = ()
            if self._state != _ENDED:
                self._state = _NEW
            self._generation = fork.generation  # last: who finds it so takes the new lock

    def __del__(self) -> None:
        # Whatever the collector has interrupted in this thread may have a lock of the pool's or of
        # another lease. So we wait for none here, or there could be a deadlock:
        #
        # 1. A thread has the pool's lock, and the collector drops us.
        # 2. Another one has the lock of a lease that waits in line, and waits for the pool's.
        # 3. We give our slot back. It is for that lease, for whose lock the first one waits.
        #
        # So the worker ends us, in an item that holds us until then (and this is not called again).
        # A thread that has found us by a weak reference this moment, to release us or because it is
        # our turn, looks whether we are told to end when it has set the state; we look the other
        # way round.
        if getattr(self, "_state", _ENDED) in (_NEW, _ENDED) or self._generation != fork.generation:
            return
        self._over = self._over or _LeaseEnd()
        state, worker = self._state, self._worker
        if state == _WAITING:
            pool.leave(self, blocking=False)
            for item in self._held():
                item.cancel()
                item.deliver()
        elif state == _READY and worker is not None:
            thread = thread_of(worker)
            is_posted = False
            if thread is not None and thread.is_alive():
                try:
                    is_posted = worker.executor.post(
                        _LeaseItem(self._end_dropped, self._end_dropped)
                    )
                except RuntimeError:  # it has just ended, and there can be no other
                    pass
            if not is_posted:
                self._end_dropped()

    def _end_dropped(self) -> None:
        with self._lock:
            if self._state == _READY:
                self._finish()


def _release(reference: weakref.ref[Lease], worker: Worker) -> None:
    lease = reference()
    if lease is not None:
        lease._release_from(worker)


_IN_THE_MIDDLE = (inspect.GEN_SUSPENDED, inspect.GEN_RUNNING)


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
    context: Any = None,
) -> kernel.ThreadSensitiveExecutor | Lease:
    """The executor that a context's first call makes."""
    family, release = pool.family, pool.release_policy
    if policy is not None:
        family, release = pool.family_for(policy), pool.release_for(policy)
    if pool.limit is None and release is None and not (family.keeps or family.has_hooks):
        return kernel.ThreadSensitiveExecutor(former, None, family.kind == "new")
    return Lease(
        family, is_counted=True, avoiding=former, owner=owner, release=release, context=context
    )
