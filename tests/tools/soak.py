"""The storm for an hour, and what it leaves behind each minute.

    python tests/tools/soak.py [--minutes 60] [--seed N] [--period SECONDS]

Every period is a `storm.Storm` of another seed, in this one process. Between two of them all is
still, and what there is then is counted: memory, blocks, objects, descriptors, threads. The first
fifth warms up caches, heaps and pools. After that nothing may grow: no thread, no descriptor, and
of blocks and bytes less than what one operation in a thousand would leave if it left one block.

Ends with a line that says PASSED or FAILED, and the figures; the exit status is 1 for FAILED.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import random
import sys
import threading
import time

import asgibridge
from asgibridge import _kernel
from asgibridge._loops import kept as kept_loops
from storm import Report, Storm
from workloads import resident

BLOCK = 16
"""Bytes; the smallest there is."""

HAS_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()

MOODS = {
    "threads": 8,
    "descriptors": 2,
    "objects": 500,
    "blocks": 5_000 if HAS_GIL else 10_000,
    "heap": 2_000_000,
    "resident": 50_000_000,
}
"""How much more there may be of each by chance. Two to nine ``threads`` are seen after any period:
those of executors that are kept. Without the GIL the interpreter's own ``blocks`` grow for its
first twenty thousand operations, ever less. ``heap`` is what is in use of malloc's memory: that
shows a leak in C. ``resident`` is what the process has of the system; the rest of it is fragments,
of malloc's arenas above all, of which each of many short-lived threads may get another."""


def still_there():
    """What there is when nothing happens, and the idle workers have been sent home."""
    _kernel.kernel.end_idle_workers()
    kept_loops._close_parked()  # how many there are is chance
    deadline = time.monotonic() + 10
    for thread in threading.enumerate():
        # Those of an executor that is kept for the next call stay; there are never many.
        if thread is not threading.current_thread() and thread.name.startswith("asgibridge"):
            thread.join(max(0, min(0.2, deadline - time.monotonic())))
    for _ in range(3):
        gc.collect()
    has_proc = os.path.exists("/proc/self/statm")
    return {
        "threads": threading.active_count(),
        "descriptors": len(os.listdir("/proc/self/fd")) if has_proc else 0,
        "objects": len(gc.get_objects()),
        "blocks": sys.getallocatedblocks(),
        "heap": in_use() if in_use else 0,
        "resident": resident() if has_proc else 0,
    }


def _of_malloc():
    """A function that returns the bytes in use, where the C library is glibc 2.33 or newer."""
    try:
        mallinfo = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError, TypeError):
        return None
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"

    class Information(ctypes.Structure):
        _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

    mallinfo.restype = Information

    def in_use():
        told = mallinfo()
        return told.uordblks + told.hblkhd

    return in_use


in_use = _of_malloc()


def growth(rows):
    """From the least of the first half to the least of the second, so that a peak counts for
    nothing and a slope for all."""
    half = len(rows) // 2
    return {
        name: min(row[name] for row in rows[half:]) - min(row[name] for row in rows[:half])
        for name in rows[0]
    }


def too_much(grown, operations):
    """What of it is more than chance."""
    allowed = dict(MOODS)
    allowed["blocks"] += operations // 1000
    allowed["objects"] += operations // 1000
    allowed["heap"] += operations // 1000 * BLOCK
    return {name: number for name, number in grown.items() if number > allowed[name]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60, help="default: %(default)s")
    parser.add_argument("--period", type=float, default=None, help="seconds; default: a minute")
    parser.add_argument("--seed", type=int, default=None, help="default: a new one, printed")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    seconds = options.minutes * 60
    # Never fewer than ten, so that there is a first half and a second.
    period = options.period or min(60.0, seconds / 10)
    whole = Report(seed)
    rows, operations = [], []
    print(
        f"soak: {options.minutes:g} minutes in periods of {period:g} s, seed {seed}, "
        f"{asgibridge.IMPLEMENTATION} kernel on CPython {sys.version.split()[0]}, "
        f"GIL {'on' if HAS_GIL else 'off'}",
        flush=True,
    )
    began = time.monotonic()
    while time.monotonic() - began < seconds and not whole.wrong:
        # What a period needs for itself is not to be seen as growth.
        report = Storm(seed + len(rows)).run(period)
        whole.add(report)
        operations.append(sum(report.operations.values()))
        del report
        rows.append(still_there())
        said = ", ".join(f"{number} {name}" for name, number in rows[-1].items())
        print(
            f"{time.monotonic() - began:6.0f} s  {operations[-1]:>8} operations  {said}", flush=True
        )
    warm = len(rows) // 5
    grown, bad = {}, {}
    if len(rows) - warm >= 2:
        grown = growth(rows[warm:])
        bad = too_much(grown, sum(operations[warm:]) // 2)
    ok = whole.ok and bool(grown) and not bad
    said = ", ".join(f"{number:+} {name}" for name, number in grown.items())
    print(
        f"soak: {'PASSED' if ok else 'FAILED'}: {time.monotonic() - began:.0f} s, seed {seed}, "
        f"{asgibridge.IMPLEMENTATION} kernel, CPython {sys.version.split()[0]}: {whole}; "
        f"growth: {said or 'too short to tell'}{f'; TOO MUCH: {bad}' if bad else ''}",
        flush=True,
    )
    if any("hangs" in what for what in whole.wrong):
        os._exit(1)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
