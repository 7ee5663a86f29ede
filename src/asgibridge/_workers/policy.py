"""What policy workers have: the process's, a context's, and the environment's.

The public names are those of `asgibridge.workers`, which says what a policy is.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._kernel import kernel
from .._loops import kept
from .._process import fork, settings, threads
from .pool import HOOKS, Hook, pool, release_by_default

if TYPE_CHECKING:
    from typing import Literal, NoReturn

    from .._process import servers

_NAMES = (
    *("kind", "limit", "limit_total", "wait_timeout", "idle_timeout", "release_idle"),
    *(*HOOKS, "sticky"),
)
"""What a Policy has, in the order in which it shows it."""


@dataclass(init=False, repr=False, frozen=True)
class Policy:
    """What workers keep, how many there are, and their hooks. Immutable; equal if all attributes
    are.

    :param kind: ``"fresh"``, ``"keep"`` or ``"new"``; see `asgibridge.workers`.
    :param limit: how many contexts may have a worker at once; None is any number. One more waits
        for the first that comes free, in order of arrival and without blocking its event loop. A
        context with a worker never waits for another, nor does a top-level `async_to_sync`.
    :param wait_timeout: the seconds after which a call that waits so raises `LimitReached`; with
        None it waits for as long as it takes.
    :param idle_timeout: the seconds after which an idle worker ends. The default is that of trio's
        thread cache: a site with a request now and then keeps a warm worker, and the workers of a
        burst are soon gone.
    :param release_idle: the seconds after which a context that has had no call gives its worker
        back, if nothing binds it to its thread: an open transaction, an open iterator,
        ``may_release``, `bind`. Its next call gets a worker like a new context's. None: it keeps
        its worker to its end. The default is None, but for ``keep`` with a limit: there it is 1,
        and 0.25 while others wait for a worker. A context that has been released once is released
        after 0.01 while others wait, whatever is given here. Less than 0.01 is 0.01. Under
        ``fresh`` and ``new`` the `threading.local` values of the context are lost, and its worker
        is a new thread: give it there only if that may be. The worker of a top-level
        `async_to_sync` is never released.
    :param on_start: ``on_start(worker)`` is called when a worker starts,
    :param before_lease: before the first call of each lease,
    :param after_lease: after the last one, before the context's exit (or the top-level call)
        returns,
    :param on_end: and when the worker ends. A fresh worker lives for one lease.
    :param may_release: ``may_release(worker)`` is asked before a worker is released, each
        ``release_idle`` seconds. False, or an error, which is logged, keeps it where it is.
    :param sticky: contexts with an equal key here, and of the same kind and hooks, share one worker
        for as long as any of them is inside. Their calls run one at a time, in the order in which
        they come, from whatever task and loop. Of a context's policy only.

    Hooks are called on the worker's thread, a `threading.Thread`, in an empty context of their own.
    An error in one is logged ("asgibridge.workers") and, but for ``may_release``, costs that
    worker: it is not used again.
    If it was in ``on_start`` or ``before_lease``, the lease's calls run on another, new one; if it
    fails there too, they run there all the same. ``on_end`` is called if ``on_start`` did not fail,
    ``after_lease`` if ``before_lease`` did not. A top-level `async_to_sync` call in a hook runs on
    a fresh worker without hooks. Hooks have to be hashable: equal ones share workers.
    """

    __slots__ = (*_NAMES, "_is_release_given")

    kind: Literal["fresh", "keep", "new"]
    limit: int | None
    limit_total: int | None
    wait_timeout: float | None
    idle_timeout: float
    release_idle: float | None
    on_start: Hook | None
    before_lease: Hook | None
    after_lease: Hook | None
    on_end: Hook | None
    may_release: Hook | None
    sticky: Hashable
    if TYPE_CHECKING:  # it is no field: Policies are equal whether somebody has given the default
        _is_release_given: bool

    def __init__(
        self,
        *,
        kind: Literal["fresh", "keep", "new"] = "fresh",
        limit: int | None = None,
        limit_total: int | None = None,
        wait_timeout: float | None = None,
        idle_timeout: float = 10.0,
        release_idle: float | Literal["default"] | None = "default",
        on_start: Hook | None = None,
        before_lease: Hook | None = None,
        after_lease: Hook | None = None,
        on_end: Hook | None = None,
        may_release: Hook | None = None,
        sticky: Hashable = None,
    ) -> None:
        hooks = (on_start, before_lease, after_lease, on_end, may_release)
        values = (
            _checked_kind(kind),
            _checked_limit(limit, "limit"),
            _checked_limit(limit_total, "limit_total"),
            None if wait_timeout is None else _seconds(wait_timeout, "wait_timeout"),
            _seconds(idle_timeout, "idle_timeout"),
            _checked_release(release_idle, kind, limit or limit_total),
            *hooks,
            sticky,
            release_idle != "default",
        )
        for name, hook in zip(HOOKS, hooks):
            if hook is not None and not callable(hook):
                raise TypeError(f"{name} must be a function of one argument, the worker: {hook!r}")
            try:
                hash(hook)
            except TypeError:
                raise TypeError(f"{name} must be hashable, like a function: {hook!r}") from None
        try:
            hash(sticky)
        except TypeError:
            raise TypeError(f"sticky must be hashable, like the id of a user: {sticky!r}") from None
        for name, value in zip(Policy.__slots__, values):
            object.__setattr__(self, name, value)
        if self.release_idle is not None:
            pool.any_releases = True

    def __repr__(self) -> str:
        given = [f"{name}={getattr(self, name)!r}" for name in _NAMES if self._has(name)]
        return f"Policy({', '.join(given)})"

    def _has(self, name: str) -> bool:
        # Whether the attribute says more than the default.
        value, default = getattr(self, name), {"idle_timeout": 10.0}.get(name)
        if name == "release_idle":
            default = _default_release(self.kind, self.limit or self.limit_total)
        is_said = value is not None if default is None else bool(value != default)
        return name == "kind" or is_said

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Policy can't be pickled or copied: it belongs to this process")


Policy.__module__ = "asgibridge.workers"  # not in its body: dataclass() looks names up there


def changed(policy: Policy, values: Mapping[str, Any]) -> Policy:
    """A Policy that differs in these values. What nobody has said of ``policy`` goes with them."""
    of_policy = {name: getattr(policy, name) for name in _NAMES}
    if not policy._is_release_given:
        del of_policy["release_idle"]
    return Policy(**{**of_policy, **values})


def _checked_kind(kind: object) -> str:
    if not isinstance(kind, str) or kind not in settings.KINDS:
        error = ValueError if isinstance(kind, str) else TypeError
        raise error(f"kind must be 'fresh', 'keep' or 'new', not {kind!r}")
    return kind


def _checked_limit(limit: object, name: str) -> int | None:
    if limit is None:
        return None
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise TypeError(f"{name} must be a whole number of workers, or None for any: {limit!r}")
    if limit < 1:
        raise ValueError(f"{name} must be at least 1, or None for any number of workers: {limit!r}")
    return limit


def _checked_release(seconds: object, kind: str, limit: int | None) -> float | None:
    if seconds is None:
        return None
    if seconds == "default":
        return _default_release(kind, limit)
    return _seconds(seconds, "release_idle")


def _default_release(kind: str, limit: int | None) -> float | None:
    release = release_by_default(kind, limit)
    return None if release is None else release.idle


def _seconds(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds: {value!r}")
    if not 0 <= value <= threading.TIMEOUT_MAX:
        raise ValueError(f"{name} must be between 0 and {threading.TIMEOUT_MAX:.0f}: {value!r}")
    return float(value)


_logger = logging.getLogger("asgibridge.workers")
_lock = threading.RLock()
_policy = Policy()


def get_policy() -> Policy:
    """The process's policy."""
    return _policy


def set_policy(policy: Policy) -> None:
    """Make ``policy`` the process's. From any thread.

    It holds for contexts whose first call comes from now on, and for top-level `async_to_sync`
    calls that do. The limit counts contexts that began under a policy other than the default one; a
    higher limit lets waiting contexts go on. A new ``idle_timeout`` also holds for idle workers,
    whose time begins anew. Idle workers that the new policy has no use for end.
    """
    global _policy
    if not isinstance(policy, Policy):
        raise TypeError(f"set_policy takes an asgibridge.workers.Policy, not {policy!r}")
    if policy.sticky is not None:
        raise ValueError(
            "sticky is a context's alone: give that policy to ThreadSensitiveContext, or to "
            "asgibridge.workers.middleware or context"
        )
    with _lock:
        old, _policy = _policy, policy
        if policy.idle_timeout != old.idle_timeout:
            kept.IDLE_SECONDS = policy.idle_timeout
            pool.set_idle_timeout(policy.idle_timeout)  # first: the next one has them ask for it
            kernel.set_idle_seconds(policy.idle_timeout)
        pool.settle = None if policy.limit_total is None else _settle
        pool.set(policy, *limit_of(policy))


def limit_of(policy: Policy, processes: servers.Processes | None = None) -> tuple[int | None, str]:
    """The limit that ``policy`` sets for one process; and, in words, if it is a part of a total.

    :param processes: how many server processes there are, if not as `servers` finds now.
    """
    total = policy.limit_total
    if total is None:
        return policy.limit, ""
    from .._process import servers  # only now: most programs have no total

    found = processes or servers.processes()
    part = max(total // found.number, 1)
    if policy.limit is not None and policy.limit <= part:
        return policy.limit, ""
    return part, f" (of {total} for {found.number} server processes, {found.source})"


def tell_processes(number: int, source: str) -> None:
    """Say how many server processes there are, and in words who says so. From any thread.

    The environment wins. The limit follows with the next context.
    """
    from .._process import servers

    servers.told = servers.Processes(number, source)
    _settle_soon()


def _settle_soon() -> None:
    with _lock:
        if _policy.limit_total is not None:
            pool.settle = _settle


def _settle() -> None:
    # A context is about to get a worker: by now the server knows how many processes it has.
    from .._process import servers

    with _lock:
        total = _policy.limit_total
        if pool.settle is None or total is None:  # another thread was here
            return
        found = servers.processes()
        pool.set_limit(*limit_of(_policy, found))
        pool.settle = None  # last: other contexts wait for it
    if not found.is_known:
        _logger.warning(
            "limit_total is %d, and nothing tells how many server processes share it: this process "
            "takes all of it. Say how many there are: ASGIBRIDGE_PROCESSES=4, or WEB_CONCURRENCY, "
            "or ASGIBRIDGE = {'processes': 4} in the settings of Django. 1 ends this warning, too.",
            total,
        )
    elif found.number > total:
        _logger.warning(
            "limit_total is %d, less than the %d server processes there are (%s): each has one "
            "worker, and all together more than that. Raise it, or have fewer processes.",
            total,
            found.number,
            found.source,
        )


def end_idle_workers() -> None:
    """End the workers that wait for a next lease. From any thread; waits for none."""
    _end_idle_workers()


def _end_idle_workers() -> list[threads.Worker]:
    return [*pool.end_idle(), *kernel.end_idle_workers()]


def retire_thread() -> None:
    """Have the current thread end with its lease, and serve nobody else. On a worker's thread.

    For code that changes its thread for ever in a way that nobody else can see, such as by a
    sandbox: the other calls of the same context still run there, unless it gives the thread back
    while it idles (``release_idle``), which ends that. A thread that no context and no top-level
    call leases is not changed.
    """
    thread = threading.current_thread()
    if isinstance(thread, threads.Worker):
        thread.retire()


def checked_for_context(policy: object) -> Policy | str:
    """The ``policy`` of a ThreadSensitiveContext, if it is one; or an error that says what it
    takes."""
    if isinstance(policy, str):
        return _checked_kind(policy)
    if not isinstance(policy, Policy):
        raise TypeError(
            f"policy must be 'fresh', 'keep', 'new' or an asgibridge.workers.Policy, not {policy!r}"
        )
    for name in ("limit", "limit_total", "wait_timeout", "idle_timeout"):
        if policy._has(name):
            raise ValueError(
                f"{name} is the process's alone: set it by asgibridge.workers.set_policy"
            )
    return policy


def _before_fork() -> None:
    # Idle workers are of no use to the child, and Python (3.12) warns whoever forks beside threads.
    # Their last hooks run, and those may wait for what the forking thread holds: hence the limit.
    deadline = time.monotonic() + _SECONDS_BEFORE_FORK
    ending = {*_end_idle_workers(), *filter(_is_ending, threads.workers())}
    for thread in ending - {threading.current_thread()}:  # an `on_end` hook may fork
        thread.join(max(0, deadline - time.monotonic()))
        # Before 3.13 a thread is joined a moment before the system has ended it.
        place = f"/proc/self/task/{thread.native_id}"
        while os.path.exists(place) and time.monotonic() < deadline:
            time.sleep(0.0001)


def _is_ending(worker: threads.Worker) -> bool:
    # It has run all that it had to, and only its end is left.
    inbox: Any = worker._inbox
    return type(inbox) is kernel.Inbox and inbox.closed and inbox.posted == inbox.finished


_SECONDS_BEFORE_FORK = 1.0
"""For idle workers to end: arbitrary, an idle thread needs a fraction of a millisecond."""


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()
    _settle_soon()  # a server may have forked us as one of its processes


fork.before_fork(_before_fork)
fork.at_fork(_after_fork_in_child)


def policy_of(environment: Mapping[str, str]) -> Policy:
    settings.read("ASGIBRIDGE_PROCESSES", environment)  # a bad one raises here
    values = {
        name: settings.read(variable, environment)
        for variable, name in (
            ("ASGIBRIDGE_WORKERS", "kind"),
            ("ASGIBRIDGE_WORKERS_LIMIT", "limit"),
            ("ASGIBRIDGE_WORKERS_LIMIT_TOTAL", "limit_total"),
            ("ASGIBRIDGE_WORKERS_WAIT_TIMEOUT", "wait_timeout"),
            ("ASGIBRIDGE_WORKERS_IDLE_TIMEOUT", "idle_timeout"),
            ("ASGIBRIDGE_WORKERS_RELEASE_IDLE", "release_idle"),
        )
    }
    return Policy(**{name: as_told(value) for name, value in values.items() if value is not None})


def as_told(value: Any) -> Any:
    """What a Policy takes, for the value of a variable of the environment."""
    return None if value == settings.OFF else value


set_policy(policy_of(os.environ))
