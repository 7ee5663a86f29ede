"""Workers under a policy that is not the default one: leases, the limit on them, and hooks.

Without hooks and without a limit, ``fresh`` is the kernels' own business, and nothing here runs. A
`Lease` is what stands in a kernel executor's place otherwise: the worker that a
ThreadSensitiveContext, or one top-level `async_to_sync`, has for a while. ::

    NEW --first call--> [WAITING -->] [BEGINNING -->] READY --end--> ENDED
         at the limit, in order .'     `. hooks, on the worker

In WAITING and BEGINNING its calls are held (``_pending``); whoever makes it READY posts them.

**Whose worker.** A kept worker is a kernel executor with a thread that serves nobody else; it lies
in ``_Pool.idle`` between its leases, last in, first out, and is taken by leases of the same
`Family` (kind and hooks) only: a fresh lease never sees one. Idle for too long, it finds that out
itself and ends. Under fresh, the worker is a new kernel executor for each lease, and how that finds
its thread is the kernel's business.

**Ends.** A lease ends when its context is left or it is dropped. What it has accepted is run first.
The slot, and a kept worker, are given back by the worker itself in its last item, after the hooks;
so nobody has to wait for that who does not want to, and a cancelled wait loses nothing. With
nothing to do it happens there and then, without a hop.

**The limit** counts leases of contexts (``_Pool.in_use``). Who comes when it is reached, or when
others wait already, is appended to ``waiting``; who gives a slot back passes it on, from whatever
thread. The pool knows the waiting leases weakly: what nobody waits for any more is passed over. It
can't deadlock by itself: nobody waits who has a worker (nested contexts join the outermost; inside
`async_to_sync` calls go to the thread that waits there; a loop that runs on a leased worker is let
through); a run's lease is not counted and never waits, because its caller stands still meanwhile
and may hold a worker.

**Locks.** A lease's guards its state, the pool's the lists. The pool's is taken last, and no
foreign code runs under it. Both are re-entrant: the collector may drop a lease at any allocation.

**Fork.** The child's pool is empty, and a lease of the parent begins anew. **Exit.** Idle ones are
ended like all workers; what waits then is still served.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import os
import threading
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Generator
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

from . import _loops, _threads
from ._backend import kernel
from ._threads import Item

__all__ = ["Family", "Lease", "LimitReached", "pool"]

_R = TypeVar("_R")
_Hook = Callable[[threading.Thread], object]

_logger = logging.getLogger("asgibridge")

_NEW, _WAITING, _BEGINNING, _READY, _ENDED = range(5)


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
            kernel.at_home(kernel.Home(), contextvars.Context().run, hook, thread)
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


class _Worker:
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


def _is_time_up(reference: weakref.ref[_Worker]) -> bool:
    # On its thread, which has had nothing to do for long.
    worker = reference()
    return worker is None or pool.retire(worker)


class _Slot:
    """The right to one of the limited number of workers."""

    __slots__ = ("what", "worker")

    def __init__(self) -> None:
        self.what = "nothing yet"  # the function it ran last
        self.worker: _Worker | None = None


class _Pool:
    """The idle kept workers, and who may have one."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.idle: list[_Worker] = []
        self.in_use: set[_Slot] = set()
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

    def take(self, family: Family, avoiding: kernel.ThreadSensitiveExecutor | None) -> _Worker:
        """The last that has become idle, or a new one."""
        if family.keeps and not _threads.is_exiting():
            with self._lock:
                for i in range(len(self.idle) - 1, -1, -1):
                    worker = self.idle[i]
                    if worker.family is family:
                        del self.idle[i]
                        if worker.thread is None or worker.thread.is_alive():
                            return worker
        return _Worker(family, None if family.keeps else avoiding)

    def give_back(self, worker: _Worker) -> None:
        """A kept one is free."""
        if worker.is_doomed:
            worker.end()
            return
        with self._lock:
            is_resting, worker.is_resting = worker.is_resting, False
            self.idle.append(worker)
        if is_resting:
            worker.executor.look_again()

    def retire(self, worker: _Worker) -> bool:
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

    def apply(self, lease: Lease) -> _Slot | None:
        """A slot for a lease; None if it has to wait for its turn."""
        with self._lock:
            if (
                self.limit is None
                or (len(self.in_use) < self.limit and not self.waiting)
                or self._is_on_a_leased_worker()
            ):
                slot = _Slot()
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

    def leave(self, lease: Lease) -> None:
        """It does not wait any longer."""
        with self._lock:
            self.waiting.pop(id(lease), None)

    def release(self, slot: _Slot | None) -> None:
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
                slot = _Slot()
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


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


class _Over:
    """The end of a lease, and who wants to hear of it. From any thread."""

    __slots__ = ("_is_over", "_listeners", "_lock", "slot")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: list[Callable[[], object]] = []
        self._is_over = False
        self.slot: _Slot | None = None

    def listen(self, listener: Callable[[], object]) -> bool:
        """Have it called at the end, unless that has been: then False."""
        with self._lock:
            if not self._is_over:
                self._listeners.append(listener)
            return not self._is_over

    def __call__(self) -> None:
        with self._lock:
            self._is_over = True
            listeners, self._listeners = self._listeners, []
            slot, self.slot = self.slot, None
        pool.release(slot)
        for listener in listeners:
            listener()


class _Begin:
    """The first item of a lease with hooks."""

    __slots__ = ("_lease", "_worker")

    def __init__(self, lease: Lease, worker: _Worker) -> None:
        self._lease: Lease | None = lease
        self._worker = worker

    def run(self) -> None:
        lease, self._lease = self._lease, None
        assert lease is not None
        try:
            lease.has_begun(self._worker.begin())
        except BaseException as error:  # raised in this thread from outside
            lease.fail(error)
            raise

    def deliver(self) -> None:
        pass

    def cancel(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.fail(RuntimeError("the worker's thread has ended"))


class _Last:
    """The last item of a lease."""

    __slots__ = ("_over", "_worker")

    def __init__(self, worker: _Worker, over: _Over) -> None:
        self._worker: _Worker | None = worker
        self._over = over

    def run(self) -> None:
        worker, self._worker = self._worker, None
        assert worker is not None
        worker.finish()
        if not worker.family.keeps:
            worker.executor.let_go(self._over)
            return
        pool.give_back(worker)
        self._over()

    def deliver(self) -> None:
        pass

    def cancel(self) -> None:
        self._over()


class _Gate:
    """What a held call calls: its function, or the error that it has come to instead."""

    __slots__ = ("error", "function")

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function: Callable[[], Any] | None = function
        self.error: BaseException | None = None

    def __call__(self) -> Any:
        __traceback_hide__ = True
        function, self.function = self.function, None
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        assert function is not None
        return function()


class _Submitted:
    """What ``submit`` makes: the call, and the Future its outcome goes to."""

    __slots__ = ("_future", "_gate", "_outcome")

    def __init__(self, future: Future[Any], gate: _Gate) -> None:
        self._future: Future[Any] | None = future
        self._gate = gate
        self._outcome: tuple[Any, BaseException | None] = (None, None)

    def run(self) -> None:
        if self._future is None or not self._future.set_running_or_notify_cancel():
            self._future = None
            return
        try:
            self._outcome = (self._gate(), None)
        except BaseException as error:
            self._outcome = (None, error)

    def deliver(self) -> None:
        future, self._future = self._future, None
        (value, error), self._outcome = self._outcome, (None, None)
        if future is None:
            return
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)
        del future, value, error, self

    def cancel(self) -> None:
        future, self._future = self._future, None
        if future is not None:
            future.cancel()
            future.set_running_or_notify_cancel()


class _Waiting:
    """A call whose lease waits for its turn, with the part of a `SyncCall` that is used."""

    __slots__ = ("__weakref__", "_call", "_gate", "_lease", "_loop", "_timeout")

    def __init__(
        self,
        lease: Lease,
        gate: _Gate,
        call: kernel.SyncCall,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._lease = lease
        self._gate = gate
        self._call = call
        self._loop = loop
        self._timeout = pool.wait_timeout

    def __await__(self) -> Generator[Any, None, Any]:
        timer = None
        if self._timeout is not None:
            timer = self._loop.call_later(self._timeout, self._give_up)
        try:
            return (yield from self._call.__await__())
        except GeneratorExit:  # the task is dropped, with its loop
            self.revoke()
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def done(self) -> bool:
        return self._call.done()

    def revoke(self) -> None:
        self._call.revoke()
        self._lease.forget(self._call)

    def _give_up(self) -> None:
        if self._lease.forget(self._call):
            self._gate.error = LimitReached(pool.explain())
            self._call.run()
            self._call.deliver()


class Lease(Executor):
    """The worker of one ThreadSensitiveContext or top-level run, from its first call on.

    :param is_counted: whether it counts towards the limit, and waits at it.
    :param avoiding: a former lease's executor, whose thread a fresh lease must not get.
    """

    def __init__(
        self,
        family: Family,
        *,
        is_counted: bool,
        avoiding: kernel.ThreadSensitiveExecutor | None = None,
    ) -> None:
        self._family = family
        self._is_counted = is_counted
        self._avoiding = avoiding
        self._generation = _threads.generation()
        self._lock = threading.RLock()
        # Guarded by the lock.
        self._state = _NEW
        self._pending: list[tuple[_Gate, Item]] = []
        self._worker: _Worker | None = None
        self._slot: _Slot | None = None
        self._over: _Over | None = None  # since it has been told to end
        self._has_tried = False  # another worker's hook has failed before
        self._abandoned = False
        # In which a kept worker runs what does not bring its own.
        self._home = kernel.Home()
        self._context = contextvars.Context()

    # Calls.

    def send(
        self,
        call: kernel.SyncCall,
        loop: asyncio.AbstractEventLoop,
        handler: Callable[[], Any],
        function: Callable[..., Any],
    ) -> Any:
        """Have ``call``, which is of ``handler``, run on the worker; what is returned is awaited.

        On the loop's thread. RuntimeError after the end, or what keeps a thread from starting.

        :param function: what the user called, for messages.
        """
        if self._family.keeps and type(handler) is not kernel.ThreadHandler:
            handler = functools.partial(self._at_home, handler)
            call = kernel.SyncCall(loop, handler)
        with self._lock:
            if self._generation != _threads.generation():
                self._forget_parent()
            if self._state != _READY or self._over is not None:
                gate = _Gate(handler)
                call = kernel.SyncCall(loop, gate)
                self._hold(gate, call)
                if self._state == _WAITING:
                    return _Waiting(self, gate, call, loop)
            elif self._worker is None or not self._worker.executor.post(call):
                raise RuntimeError("cannot schedule new futures after shutdown")
            if self._slot is not None:
                self._slot.what = getattr(function, "__qualname__", type(function).__name__)
        return call

    def post(self, item: Item) -> None:
        """Have a run's ``item`` run on the worker."""
        with self._lock:
            self._hold(_Gate(_nothing), item)

    def submit(self, fn: Callable[..., _R], /, *args: Any, **kwargs: Any) -> Future[_R]:
        """Have ``fn(*args, **kwargs)`` run on the worker. From any thread.

        At the limit it waits for its turn without a time-out. Raises RuntimeError after the end.
        """
        future: Future[_R] = Future()
        gate = _Gate(functools.partial(self._at_home, functools.partial(fn, *args, **kwargs)))
        item = _Submitted(future, gate)
        with self._lock:
            if self._generation != _threads.generation():
                self._forget_parent()
            self._hold(gate, item)
            is_waiting = self._state == _WAITING
        if is_waiting:
            future.add_done_callback(
                functools.partial(_forget_if_cancelled, weakref.ref(self), item)
            )
        return future

    def _at_home(self, function: Callable[[], _R]) -> _R:
        __traceback_hide__ = True
        if not self._family.keeps:
            return function()
        return kernel.at_home(self._home, self._context.run, function)  # type: ignore[no-any-return]

    def _hold(self, gate: _Gate, item: Item) -> None:
        # Under the lock.
        if self._over is not None or self._state == _ENDED:
            raise RuntimeError("cannot schedule new futures after shutdown")
        self._pending.append((gate, item))
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

    def forget(self, item: Item) -> bool:
        """Give up a held call, and the place in the queue if it was the last. False if too late."""
        with self._lock:
            if self._state != _WAITING:
                return False
            rest = [held for held in self._pending if held[1] is not item]
            found = len(rest) < len(self._pending)
            self._pending = rest
            if not rest:
                pool.leave(self)
                self._state = _NEW
                if self._over is not None:
                    self._state = _ENDED
                    self._over()
            return found

    def fail(self, error: BaseException) -> None:
        """There is no worker: the held calls raise ``error``, and the next begins anew."""
        with self._lock:
            pending, self._pending = self._pending, []
            slot, self._slot = self._slot, None
            self._worker = None
            self._state = _NEW if self._over is None else _ENDED
            over = self._over
        for gate, item in pending:
            gate.error = error
            item.run()
            item.deliver()
        pool.release(slot)
        if over is not None:
            over()

    # The beginning.

    def go_on(self, slot: _Slot) -> bool:
        """It is this one's turn; False if it does not want the slot. From any thread."""
        try:
            with self._lock:
                if self._state != _WAITING or self._generation != _threads.generation():
                    return False
                self._begin(slot)
        except Exception as error:  # no thread could be started
            self.fail(error)
            return False
        return True

    def _begin(self, slot: _Slot | None) -> None:
        # Under the lock.
        self._has_tried = False
        self._worker = worker = pool.take(self._family, self._avoiding)
        self._slot = slot
        if slot is not None:
            slot.worker = worker
        try:
            if worker.needs_to_begin():
                self._state = _BEGINNING
                worker.executor.post(_Begin(self, worker))
            else:
                self._make_ready()
        except BaseException:
            self._state, self._worker, self._slot = _NEW, None, None
            raise

    def has_begun(self, went_well: bool) -> None:
        """The hooks have been called. On the worker."""
        with self._lock:
            worker = self._worker
            assert worker is not None
            if not went_well:
                if not self._has_tried:
                    self._has_tried = True
                    worker.give_up()
                    worker.executor.post(_Begin(self, worker))
                    return
                worker.is_doomed = True
            self._make_ready()

    def _make_ready(self) -> None:
        # Under the lock.
        assert self._worker is not None
        executor = self._worker.executor
        self._state = _READY
        pending, self._pending = self._pending, []
        for _, item in pending:
            executor.post(item)
        if self._over is not None:
            self._finish()

    # The end.

    def end(self, listener: Callable[[], object]) -> bool:
        """Refuse further calls, and let the worker go when it has run those it has.

        ``listener()`` is called then, on some thread, unless that is the case already: then False
        is returned. From any thread.
        """
        with self._lock:
            if self._generation != _threads.generation():
                self._forget_parent()
            over = self._over
            if over is None:
                over = self._over = _Over()
                if self._state == _NEW:
                    self._state = _ENDED
                    over()
                elif self._state == _READY:
                    self._finish()
        return over.listen(listener)

    def end_here(self) -> None:
        """The same, on the worker, in its last item."""
        with self._lock:
            worker = self._worker
            self._state = _ENDED
        if worker is not None:
            if self._abandoned:
                worker.is_doomed = True
            _Last(worker, self._over or _Over()).run()

    def _finish(self) -> None:
        # Under the lock, when it is ready.
        worker, over = self._worker, self._over
        assert worker is not None
        assert over is not None
        self._state = _ENDED
        over.slot, self._slot = self._slot, None
        worker.is_doomed |= self._abandoned
        executor = worker.executor
        must_run = worker.has_last_hooks() or (worker.family.keeps and not executor.is_idle())
        if must_run and executor.post(_Last(worker, over)):
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
            with self._lock:
                pending = list(self._pending) if self._state == _WAITING else []
            for _, item in pending:
                if self.forget(item):
                    item.cancel()
                    item.deliver()
        over = threading.Event()
        is_on_its_way = self.end(over.set)
        if wait and is_on_its_way and not self._abandoned and not self.owns_current_thread():
            over.wait()

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

    def former_executor(self) -> kernel.ThreadSensitiveExecutor | None:
        """Whose thread a later fresh lease of the same context must not get."""
        return None if self._worker is None or self._family.keeps else self._worker.executor

    def _forget_parent(self) -> None:
        # In a forked child.
        self._lock = threading.RLock()
        self._generation = _threads.generation()
        self._pending = []
        self._worker = self._slot = None
        if self._state != _ENDED:
            self._state = _NEW

    def __del__(self) -> None:
        state = getattr(self, "_state", _ENDED)
        if state in (_NEW, _ENDED) or self._generation != _threads.generation():
            return
        if state == _WAITING:
            pool.leave(self)
            for _, item in self._pending:
                item.cancel()
                item.deliver()
        elif state == _READY:
            self._over = _Over()
            self._finish()


def _nothing() -> None:
    pass


def _forget_if_cancelled(lease: weakref.ref[Lease], item: Item, future: Future[Any]) -> None:
    if future.cancelled():
        found = lease()
        if found is not None:
            found.forget(item)


def executor_of_context(
    policy: Any, former: kernel.ThreadSensitiveExecutor | None
) -> kernel.ThreadSensitiveExecutor | Lease:
    """What a context's first call goes to."""
    if policy is None:
        if pool.is_plain:
            return kernel.ThreadSensitiveExecutor(former)
        family = pool.family
    else:
        family = pool.family_for(policy)
        if pool.limit is None and not (family.keeps or family.has_hooks):
            return kernel.ThreadSensitiveExecutor(former)
    return Lease(family, is_counted=True, avoiding=former)


def executor_of_runs() -> kernel.ThreadSensitiveExecutor | Lease:
    """For the runs of an AsyncSingleThreadContext."""
    if pool.is_plain_run:
        return kernel.ThreadSensitiveExecutor()
    return Lease(pool.family, is_counted=False)


def lease_of_a_run() -> Lease | None:
    """For one top-level run; None if the kernel is to see to it."""
    return None if pool.is_plain_run else Lease(pool.family, is_counted=False)


def set_idle_timeout(seconds: float) -> None:
    """How long idle workers and parked loops stay. From any thread."""
    _loops.IDLE_SECONDS = seconds
    kernel.set_idle_seconds(seconds)


def end_idle() -> None:
    """Have all idle workers end now. From any thread; waits for none."""
    pool.end_idle()
    kernel.end_idle_workers()


def go_over_to(new_kernel: Any) -> None:
    """`threading` has been monkey-patched: see `asgibridge.sync`."""
    global kernel
    pool.end_idle()
    kernel = new_kernel
    kernel.set_idle_seconds(_loops.IDLE_SECONDS)
