"""Figures of the threads that run sync code: `asgibridge.workers.stats` and its Prometheus text.

The kernels count (`_pure/tally.py`); this module adds up and shows the counts. Nothing here is on
the way of a call. Calls go on while it reads one figure after the other, so the figures may differ
by a few calls; none is lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .. import _kernel
from .._process import settings, threads
from .._process.buckets import BOUNDS
from .pool import pool

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The HTTP Content-Type of the text from `prometheus`."""


@dataclass(frozen=True)
class Histogram:
    """How long calls took, in seconds."""

    bounds: tuple[float, ...]
    """The buckets' upper bounds, in seconds, each included."""
    counts: tuple[int, ...]
    """How many calls were in each bucket; one more, at the end, for those that took longer."""
    sum: float
    """All of them together, in seconds."""

    @property
    def count(self) -> int:
        """How many calls were timed."""
        return sum(self.counts)

    def quantile(self, q: float) -> float | None:
        """The upper bound of the bucket in which the quantile ``q`` lies, in seconds.

        Infinity beyond the last bucket; None if nothing was timed. ValueError unless ``q`` is from
        0 to 1.
        """
        if not 0 <= q <= 1:
            raise ValueError(f"q must be from 0 to 1, not {q!r}")
        if not self.count:
            return None
        wanted = max(q * self.count, 1)
        seen = 0
        for bound, count in zip(self.bounds, self.counts):
            seen += count
            if seen >= wanted:
                return bound
        return float("inf")


@dataclass(frozen=True)
class Stats:
    """A look at the workers and the calls of this process, since it started (or was forked)."""

    alive: int
    """Worker threads: they run thread-sensitive code, or a top-level `async_to_sync`'s loop."""
    leased: int
    """The workers that a context, a call or the whole process has in use."""
    idle: int
    """The workers that wait for a next lease."""
    waiting: int
    """ThreadSensitiveContexts that wait for a worker, at the limit."""
    pool_threads: int
    """Threads for calls with ``thread_sensitive=False``, and of ``WsgiToAsgi(workers=N)``."""
    submitted: int
    """Calls of sync functions that were accepted: for a thread, or to wait for a token or a worker
    first."""
    started: int
    finished: int
    cancelled: int
    """Calls that were given up before they began."""
    queue_time: Histogram
    """From being accepted to the first line of the function; empty if not collected."""
    run_time: Histogram
    """In the function; empty if not collected."""
    released: int
    """How often a context has given its worker back because it idled."""
    limit: int | None
    """How many contexts may have a worker at once in this process; None is any number."""

    @property
    def queued(self) -> int:
        """Calls that wait now: for a thread, a token or a worker."""
        return max(self.submitted - self.started - self.cancelled, 0)

    @property
    def running(self) -> int:
        """Calls in the function now, those included that wait in `async_to_sync`."""
        return max(self.started - self.finished, 0)


def stats() -> Stats:
    """The figures of this process, now. From any thread.

    They count all calls of `sync_to_async`, from the moment that they are accepted, whatever
    executor runs them.
    """
    kernel = _kernel.kernel
    workers = threads.workers()
    pool_threads = sum(type(worker._inbox) is kernel.PoolInbox for worker in workers)
    alive = len(workers) - pool_threads
    idle = min(kernel.idle_workers() + len(pool.idle), alive)
    submitted, started, finished, cancelled, queue_time, run_time = kernel.counts()
    return Stats(
        alive=alive,
        leased=alive - idle,
        idle=idle,
        waiting=len(pool.waiting),
        pool_threads=pool_threads,
        submitted=submitted,
        started=started,
        finished=finished,
        cancelled=cancelled,
        queue_time=Histogram(BOUNDS, tuple(queue_time[1]), queue_time[0]),
        run_time=Histogram(BOUNDS, tuple(run_time[1]), run_time[0]),
        released=pool.released,
        limit=pool.limit,
    )


_wanted: bool | None = None  # None: nobody has said
_needed = False


def collect_timings(on: bool) -> None:
    """Time each call from now on (`Stats.queue_time`, `Stats.run_time`), or stop that.

    By default the compiled kernel times calls, at 1 % of a hop's cost, and the pure one does not.
    In the environment: ``ASGIBRIDGE_TIMINGS``, 1 or 0. `asgibridge.debug.watch` needs timings, and
    collects them too.
    """
    global _wanted
    _wanted = bool(on)
    _apply()


def need_timings(needed: bool) -> None:
    """Collect them in any case while ``needed``: `asgibridge.debug` does not work without."""
    global _needed
    _needed = needed
    _apply()


def _apply() -> None:
    wanted = _kernel.IMPLEMENTATION == "speedups" if _wanted is None else _wanted
    _kernel.kernel.collect_timings(wanted or _needed)


def read_environment() -> None:
    """Do what ``ASGIBRIDGE_TIMINGS`` asks for. ValueError for a value other than 0 and 1."""
    value = settings.read("ASGIBRIDGE_TIMINGS")
    if value is not None:
        collect_timings(value == "1")


def prometheus(prefix: str = "asgibridge") -> str:
    """`stats` as text for Prometheus (exposition format 0.0.4; see `CONTENT_TYPE`).

    Serve it from a view of your own, or append it to the text of the client library. A process
    tells its own figures only: under a server with several processes, let each be scraped by
    itself.

    :param prefix: the beginning of every metric's name, before an underscore. ValueError unless it
        makes a metric's name.
    """
    if not prefix.replace(":", "_").isidentifier() or not prefix.isascii():
        raise ValueError(f"prefix {prefix!r} is not the beginning of a metric's name")
    now = stats()
    lines: list[str] = []

    def metric(name: str, kind: str, text: str, samples: Mapping[str, float]) -> None:
        lines.append(f"# HELP {prefix}_{name} {text}")
        lines.append(f"# TYPE {prefix}_{name} {kind}")
        lines.extend(f"{prefix}_{name}{labels} {value!r}" for labels, value in samples.items())

    workers = {'{state="leased"}': now.leased, '{state="idle"}': now.idle}
    calls = {'{state="queued"}': now.queued, '{state="running"}': now.running}
    for name, text, gauges in (
        ("workers", "Worker threads by what they are doing.", workers),
        ("contexts_waiting", "Contexts waiting for a worker at the limit.", {"": now.waiting}),
        (
            "pool_threads",
            "Threads for calls that are not thread-sensitive.",
            {"": now.pool_threads},
        ),
        ("calls", "Calls that have not ended, by where they are.", calls),
    ):
        metric(name, "gauge", text, gauges)
    for name, text, value in (
        ("submitted", "Calls accepted.", now.submitted),
        ("started", "Calls begun.", now.started),
        ("finished", "Calls ended.", now.finished),
        ("cancelled", "Calls given up before they had begun.", now.cancelled),
    ):
        metric(f"calls_{name}_total", "counter", text, {"": value})
    metric(
        "workers_released_total",
        "counter",
        "Workers that contexts gave back because they idled.",
        {"": now.released},
    )
    for name, text, times in (
        ("queue_time", "From being accepted to the beginning.", now.queue_time),
        ("run_time", "In the function.", now.run_time),
    ):
        samples: dict[str, float] = {}
        seen = 0
        for bound, count in zip((*times.bounds, None), times.counts):
            seen += count
            le = "+Inf" if bound is None else repr(bound)
            samples[f'_bucket{{le="{le}"}}'] = seen
        samples.update(_sum=times.sum, _count=seen)
        metric(f"call_{name}_seconds", "histogram", text, samples)
    return "\n".join(lines) + "\n"
