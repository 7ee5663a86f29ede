"""What is counted of the calls, and when each began.

Each thread has a tally, and alone writes to it, so counting takes no lock; a reader adds them up.
When a thread ends, the next new thread takes its tally and counts on, since only the sum means
anything: there are never more tallies than threads were alive at once. A forked child begins at
zero.

The clock is read when a call is put into an inbox, begins and ends, if `collect_timings` was told
so. By default it is not, because the three readings take a twentieth of a hop in Python.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable
from typing import Any

from .._process import threads
from .._process.buckets import BOUNDS


class Tally:
    """One thread's. Times are in seconds; 0 is none."""

    def __init__(self) -> None:
        self.since = 0.0
        self.thread_ident = 0
        self.clear()

    def clear(self) -> None:
        self.submitted = self.started = self.finished = self.cancelled = 0
        self.waiting_time = self.running_time = 0.0
        self.waiting = [0] * (len(BOUNDS) + 1)
        self.running = [0] * (len(BOUNDS) + 1)

    def begin(self, submitted: float) -> tuple[float, float]:
        """A call begins on this thread. What is returned is for `end`."""
        outer = self.since
        self.started += 1
        if _timing:
            started = time.monotonic()
            self.since = started
            if submitted:
                waited = started - submitted
                self.waiting_time += waited
                self.waiting[bisect_left(BOUNDS, waited)] += 1
        else:
            started = self.since = 0.0
        return outer, started

    def end(self, begin: tuple[float, float], function: Any) -> None:
        self.since, started = begin
        self.finished += 1
        if started:
            spent = time.monotonic() - started
            self.running_time += spent
            self.running[bisect_left(BOUNDS, spent)] += 1
            report = _when_slow
            if _slow and spent >= _slow and report is not None:
                threads.call_and_report(report, function, spent)  # it costs nobody else anything


all_tallies: list[Tally] = []
free: list[Tally] = []
_timing = False
_slow = 0.0
_when_slow: Callable[[Any, float], object] | None = None


def counts() -> tuple[int, int, int, int, tuple[float, list[int]], tuple[float, list[int]]]:
    """The calls submitted, started, finished and cancelled before they began, and their times.

    A time is a pair: seconds altogether, and how many calls there were in each of the buckets.
    """
    tallies = list(all_tallies)
    # The last step of a call first, so that no call is seen as finished and not as submitted.
    finished = sum(tally.finished for tally in tallies)
    buckets = [sum(column) for column in zip(*[tally.running for tally in tallies])]
    running = sum(tally.running_time for tally in tallies), buckets
    tallies = list(all_tallies)
    started = sum(tally.started for tally in tallies)
    buckets = [sum(column) for column in zip(*[tally.waiting for tally in tallies])]
    waiting = sum(tally.waiting_time for tally in tallies), buckets
    cancelled = sum(tally.cancelled for tally in tallies)
    submitted = sum(tally.submitted for tally in list(all_tallies))
    return submitted, started, finished, cancelled, waiting, running


def collect_timings(on: bool) -> None:
    """Have the clock read for each call from now on, or not."""
    global _timing
    _timing = on


def now() -> float:
    """The time, in seconds, on the clock that calls are timed by."""
    return time.monotonic()


def running() -> list[tuple[int, float]]:
    """The idents of the threads that are running a call, and since when, as `now` tells it.

    If timings are collected.
    """
    found = [(tally.thread_ident, tally.since) for tally in list(all_tallies)]
    return [(ident, since) for ident, since in found if ident and since]


def report_slow(seconds: float, report: Callable[[Any, float], object] | None) -> None:
    """Have ``report(function, seconds)`` called for a call that has run for ``seconds`` or longer.

    On the thread that ran it, before its task is told; if timings are collected. 0: not any more.
    """
    global _slow, _when_slow
    _slow = 0.0
    _when_slow = report
    _slow = seconds
