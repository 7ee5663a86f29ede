"""The threads that run thread-sensitive code: whether they are kept, how many, and their hooks.

A *worker* is a thread of ours. It is *leased* to one `ThreadSensitiveContext` (a web framework's
request) from that's first call to its exit, or to one top-level `async_to_sync` call, whose event
loop it runs. A `Policy` says what becomes of it; see docs/workers.md for how to choose one.

``fresh`` (the default)
    A lease's worker looks like a new thread, as with asgiref, to everything that is kept by thread.
``keep``
    It keeps its `threading.local` values and thread-critical Locals from lease to lease, as the
    threads of a WSGI server do, so that a persistent database connection persists. Context
    variables and context-aware Locals do not cross: they belong to the request.

The process's single thread, which thread-sensitive code outside any context runs on, and executors
of a user's own are neither limited nor given hooks.

The environment sets the policy a process begins with: ``ASGIBRIDGE_WORKERS`` (the kind),
``ASGIBRIDGE_WORKERS_LIMIT``, ``ASGIBRIDGE_WORKERS_WAIT_TIMEOUT`` and
``ASGIBRIDGE_WORKERS_IDLE_TIMEOUT``; a bad value is an ImportError.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ._process import fork
from ._workers import leases
from ._workers.pool import LimitReached, pool
from ._workers.stats import CONTENT_TYPE, Histogram, Stats, collect_timings, prometheus, stats

if TYPE_CHECKING:
    from typing import Literal, NoReturn

__all__ = [
    "CONTENT_TYPE",
    "Histogram",
    "LimitReached",
    "Policy",
    "Stats",
    "collect_timings",
    "end_idle_workers",
    "get_policy",
    "prometheus",
    "set_policy",
    "stats",
]

_KINDS = ("fresh", "keep")
_HOOKS = ("on_start", "before_lease", "after_lease", "on_end")
_Hook = Callable[[threading.Thread], object]


class Policy:
    """What becomes of workers. Immutable; equal if all its attributes are.

    :param kind: ``"fresh"`` or ``"keep"``; see the module.
    :param limit: how many contexts may have a worker at once; None is without end. One more waits
        for the first that comes free, in order of arrival and without blocking its event loop. Who
        has a worker never waits for another, nor does a top-level `async_to_sync`.
    :param wait_timeout: the seconds after which a call that waits so raises `LimitReached`; None
        waits for as long as it takes.
    :param idle_timeout: the seconds after which a worker ends that nobody has wanted. The default
        is what trio's thread cache takes: long enough that a site with a request now and then keeps
        a warm one, short enough that those of a burst are soon gone.
    :param on_start: ``on_start(worker)`` is called when a worker starts,
    :param before_lease: before the first call of each lease,
    :param after_lease: after the last one, before the context's exit (or the top-level call)
        returns,
    :param on_end: and when the worker ends. A fresh worker lives for one lease.

    Hooks are called on the worker's thread, a `threading.Thread`, in an empty context of their own.
    An error in one is logged ("asgibridge.workers"), and costs that worker: it is not used again.
    If it was in ``on_start`` or ``before_lease``, the lease's calls run on another, new one; if it
    fails there too, they run there all the same. ``on_end`` is called if ``on_start`` did not fail,
    ``after_lease`` if ``before_lease`` did not. A top-level `async_to_sync` call in a hook runs on
    a fresh worker without hooks. Hooks have to be hashable: equal ones share workers.
    """

    __slots__ = ("kind", "limit", "wait_timeout", "idle_timeout", *_HOOKS)

    kind: Literal["fresh", "keep"]
    limit: int | None
    wait_timeout: float | None
    idle_timeout: float
    on_start: _Hook | None
    before_lease: _Hook | None
    after_lease: _Hook | None
    on_end: _Hook | None

    def __init__(
        self,
        *,
        kind: Literal["fresh", "keep"] = "fresh",
        limit: int | None = None,
        wait_timeout: float | None = None,
        idle_timeout: float = 10.0,
        on_start: _Hook | None = None,
        before_lease: _Hook | None = None,
        after_lease: _Hook | None = None,
        on_end: _Hook | None = None,
    ) -> None:
        values = {
            "kind": _checked_kind(kind),
            "limit": _checked_limit(limit),
            "wait_timeout": None
            if wait_timeout is None
            else _seconds(wait_timeout, "wait_timeout"),
            "idle_timeout": _seconds(idle_timeout, "idle_timeout"),
            "on_start": on_start,
            "before_lease": before_lease,
            "after_lease": after_lease,
            "on_end": on_end,
        }
        for name in _HOOKS:
            _check_hook(name, values[name])
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a Policy can't be changed: make another one with {name}={value!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a Policy can't be changed: make another one")

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in Policy.__slots__)

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if isinstance(other, Policy) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        given = [f"{name}={getattr(self, name)!r}" for name in Policy.__slots__ if self._has(name)]
        return f"Policy({', '.join(given)})"

    def _has(self, name: str) -> bool:
        # Whether it is more than the default.
        return name == "kind" or bool(getattr(self, name) != _DEFAULTS[name])

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Policy can't be pickled or copied: it is of this process")


_DEFAULTS: dict[str, Any] = {**dict.fromkeys(Policy.__slots__), "idle_timeout": 10.0}


def _checked_kind(kind: object) -> str:
    if not isinstance(kind, str):
        raise TypeError(f"kind must be 'fresh' or 'keep', not {kind!r}")
    if kind not in _KINDS:
        raise ValueError(f"kind must be 'fresh' or 'keep', not {kind!r}")
    return kind


def _checked_limit(limit: object) -> int | None:
    if limit is None:
        return None
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise TypeError(f"limit must be a whole number of workers, or None for any: {limit!r}")
    if limit < 1:
        raise ValueError(f"limit must be at least 1, or None for any number of workers: {limit!r}")
    return limit


def _seconds(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds: {value!r}")
    if not 0 <= value <= threading.TIMEOUT_MAX:
        raise ValueError(f"{name} must be between 0 and {threading.TIMEOUT_MAX:.0f}: {value!r}")
    return float(value)


def _check_hook(name: str, hook: object) -> None:
    if hook is None:
        return
    if not callable(hook):
        raise TypeError(f"{name} must be a function of one argument, the worker: {hook!r}")
    try:
        hash(hook)
    except TypeError:
        raise TypeError(f"{name} must be hashable, like a function: {hook!r}") from None


_lock = threading.RLock()
_policy = Policy()


def get_policy() -> Policy:
    """The process's policy."""
    return _policy


def set_policy(policy: Policy) -> None:
    """Make ``policy`` the process's. From any thread.

    It holds for contexts whose first call, and top-level `async_to_sync` calls that, come from now
    on. The limit counts what began under a policy that is not the default one; raised, it lets go
    on who waits. A new ``idle_timeout`` also holds for those that lie idle: their time begins anew.
    Idle workers that the new policy has no use for end.
    """
    global _policy
    if not isinstance(policy, Policy):
        raise TypeError(f"set_policy takes an asgibridge.workers.Policy, not {policy!r}")
    with _lock:
        old, _policy = _policy, policy
        if policy.idle_timeout != old.idle_timeout:
            leases.set_idle_timeout(policy.idle_timeout)
        pool.set(pool.family_for(policy), policy.limit, policy.wait_timeout)


def end_idle_workers() -> None:
    """Have the workers that wait for a next lease end now. From any thread; waits for none."""
    leases.end_idle()


def checked_for_context(policy: object) -> Policy | str | None:
    """``ThreadSensitiveContext(policy=...)``, or an error that says what that takes."""
    if policy is None:
        return None
    if isinstance(policy, str):
        return _checked_kind(policy)
    if not isinstance(policy, Policy):
        raise TypeError(
            f"policy must be 'fresh', 'keep' or an asgibridge.workers.Policy, not {policy!r}"
        )
    for name in ("limit", "wait_timeout", "idle_timeout"):
        if policy._has(name):
            raise ValueError(
                f"{name} is the process's alone: set it by asgibridge.workers.set_policy"
            )
    return policy


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()


fork.at_fork(_after_fork_in_child)


def _policy_of(environment: Any) -> Policy:
    # What the environment asks for.
    values: dict[str, Any] = {}
    for variable, name, convert, takes in (
        ("ASGIBRIDGE_WORKERS", "kind", str, "fresh or keep"),
        ("ASGIBRIDGE_WORKERS_LIMIT", "limit", int, "a whole number from 1 on"),
        ("ASGIBRIDGE_WORKERS_WAIT_TIMEOUT", "wait_timeout", float, "seconds, from 0 on"),
        ("ASGIBRIDGE_WORKERS_IDLE_TIMEOUT", "idle_timeout", float, "seconds, from 0 on"),
    ):
        text = environment.get(variable)
        if text:
            try:
                values[name] = convert(text)
                Policy(**values)
            except ValueError:
                raise ImportError(f"{variable}={text!r}: must be {takes} (or unset)") from None
    return Policy(**values)


set_policy(_policy_of(os.environ))
