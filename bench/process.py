"""Measures one implementation, in this process: cases in, samples out.

    python bench/process.py compiled hop gathered --samples 5 --core 0

Prints JSON: for each case that the implementation has, a list of samples for each of its measures:
``wall`` and ``cpu`` (seconds per operation), ``p50`` and ``p99`` (seconds), or ``bytes`` (per
operation). Refuses to run another kernel than it is told to. `paired.py` starts this.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

from cases import ROWS, Case, Run
from curves import CURVES, LATENCY, MEMORY
from implementations import IMPLEMENTATIONS, PEERS, load
from loops import LOOPS
from peers import PEER_ROWS

Samples = dict[str, list[float]]

CASES = {case.key: case for case in (*ROWS, *CURVES, *LATENCY, *MEMORY, *LOOPS, *PEER_ROWS)}


def warm_up(case: Case, run: Run) -> None:
    """One round that does not count: the first call starts threads and fills caches."""
    run(case.x if case.x and case.group != "context variables" else max(case.operations // 10, 1))


def percentile(values: list[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def sample(case: Case, run: Run, samples: int) -> Samples:
    """So many samples of each of the case's measures."""
    if case.measure == "memory":
        return {"bytes": [run(case.operations)]}
    if case.measure == "latency":
        run(500)
        times = [run(case.operations) for _ in range(samples)]
        return {f"p{p}": [percentile(each, p) for each in times] for p in (50, 99)}
    warm_up(case, run)
    wall, cpu = [], []
    for _ in range(samples):
        cpu_start, start = time.process_time(), time.perf_counter()
        run(case.operations)
        wall.append((time.perf_counter() - start) / case.operations)
        cpu.append((time.process_time() - cpu_start) / case.operations)
    return {"wall": wall, "cpu": cpu}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("implementation", choices=(*IMPLEMENTATIONS, *PEERS))
    parser.add_argument("cases", nargs="+", metavar="CASE", choices=CASES)
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--core", type=int, help="stay on this one (default: use all)")
    parser.add_argument("--uvloop", action="store_true", help="run all loops on uvloop")
    options = parser.parse_args()
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    if options.uvloop:
        import asyncio

        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    name = options.implementation
    library = None if name in PEERS else load(name)
    measured: dict[str, Samples] = {}
    for key in options.cases:
        run = CASES[key].build(name, library)
        if run is not None:
            measured[key] = sample(CASES[key], run, options.samples)
    json.dump(measured, sys.stdout)


if __name__ == "__main__":
    main()
