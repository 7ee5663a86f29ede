"""Everything that looks for trouble at random, for a bounded time, from one seed.

    python tests/tools/stress.py [--seed N] [--scale 1] [--only NAME,...] [--list]

Each part below is a process of its own with a share of the time; ``--scale 0.2`` is CI's form, in
about two minutes. All get the same seed, which is printed first: the numbers that are drawn are
the same again with it, what the threads make of them is not. A part that needs what is not here is
NOT RUN, and named. Ends with a table and a line that says PASSED or FAILED; with FAILED, the exit
status is 1.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import asgibridge
import pytest_run
from environment import ROOT, paths_of

GRACE = 120
"""Seconds beyond its share after which a part hangs."""


@dataclass(frozen=True)
class Part:
    """A command, made of its seconds and the seed."""

    name: str
    seconds: float
    what: str
    command: Callable[[float, int], list[str]]


def script(name: str, *more: str) -> list[str]:
    return [f"tests/tools/{name}.py", *more]


def tests(seed: int, *more: str) -> list[str]:
    return [
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "300"),
        *("-p", "stress_plugin", f"--stress-seed={seed}", *more),
    ]


PARTS = (
    Part(
        "storm",
        90,
        "every kind of call at once, with cancellations, time-outs and errors",
        lambda seconds, seed: script("storm", "--seconds", f"{seconds:.0f}", "--seed", str(seed)),
    ),
    Part(
        "crowd",
        50,
        "the same from eight loops and eight threads",
        lambda seconds, seed: script(
            "storm", "--seconds", f"{seconds:.0f}", "--seed", str(seed + 1),
            "--loops", "8", "--threads", "8", "--tasks", "8",
        ),
    ),
    Part(
        "shared",
        40,
        "the same with one event loop for all threads that have none",
        lambda seconds, seed: script(
            "storm", "--seconds", f"{seconds:.0f}", "--seed", str(seed + 2),
            "--threads", "8", "--shared-loop",
        ),
    ),
    Part(
        "soak",
        120,
        "and whether anything stays behind",
        lambda seconds, seed: script("soak", "--minutes", f"{seconds / 60}", "--seed", str(seed)),
    ),
    Part(
        "load",
        60,
        "many calls, contexts, tasks and loops",
        lambda seconds, seed: script(
            "load", "--hops", str(int(seconds * 10_000)), "--contexts", str(int(seconds * 1_000))
        ),
    ),
    Part(
        "model",
        40,
        "random programs, to depth 30, against what they were foretold to do",
        lambda seconds, seed: script(
            "model", "--examples", str(int(seconds * 100)), "--seed", str(seed),
            "--seconds", str(seconds),
        ),
    ),
    Part(
        "one loop",
        20,
        "the same on one event loop for all top-level calls",
        lambda seconds, seed: script(
            "model", "--examples", str(int(seconds * 100)), "--seed", str(seed + 1),
            "--seconds", str(seconds), "--shared-loop",
        ),
    ),
    Part(
        "limit",
        20,
        "contexts that idle, bind and wait for each other at a limit: who would deadlock is told",
        lambda seconds, seed: script(
            "limits", "--seconds", f"{seconds:.0f}", "--seed", str(seed)
        ),
    ),
    Part(
        "ctrl-c",
        40,
        "Ctrl-C at random moments",
        lambda seconds, seed: script(
            "interrupts", "--runs", str(int(seconds * 25)), "--seed", str(seed)
        ),
    ),
    Part(
        "queue",
        60,
        "each item exactly once, between threads and loops that give up",
        lambda seconds, seed: tests(
            seed, "-m", "not slow", *paths_of("test_queue_stress", "test_shapes_stress")
        ),
    ),
    Part(
        "fuzz",
        120,
        "what takes outside input: typing.check, wsgi",
        lambda seconds, seed: tests(
            seed, f"--stress-examples={max(10, int(seconds * 5))}",
            *paths_of("test_check", "test_fuzz"),
        ),
    ),
    Part(
        "models",
        120,
        "queues, broadcasts, channels, selects against models of them, step by step",
        lambda seconds, seed: tests(
            seed, f"--stress-examples={max(10, int(seconds * 5))}",
            *paths_of("test_queue_model", "test_broadcast_model", "test_shape_models"),
        ),
    ),
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=None, help="default: a new one, printed")
    parser.add_argument("--scale", type=float, default=1, help="of the time; default: 13 minutes")
    parser.add_argument(
        "--only", metavar="NAME,...", help="of: " + ", ".join(p.name for p in PARTS)
    )
    parser.add_argument("--list", action="store_true", help="what the parts are, and their seconds")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    wanted = options.only.split(",") if options.only else [part.name for part in PARTS]
    unknown = set(wanted) - {part.name for part in PARTS}
    if unknown:
        parser.error(f"--only: there is no {', '.join(sorted(unknown))}")
    if options.list:
        for part in PARTS:
            print(f"{part.name:<8}{part.seconds * options.scale:>5.0f} s  {part.what}")
        return 0
    print(f"stress: seed {seed}, {asgibridge.IMPLEMENTATION} kernel", flush=True)
    rows = []
    for part in PARTS:
        if part.name not in wanted:
            continue
        seconds = part.seconds * options.scale
        command = [sys.executable, "-u", "-W", "error", *part.command(seconds, seed)]
        print(f"\n### {part.name}: {' '.join(command[1:])}", flush=True)
        began = time.monotonic()
        outcome = pytest_run.run(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": "tests/tools"},
            limit=seconds * 3 + GRACE,
        )
        said = str(outcome) if outcome.counts else ""
        rows.append((part, outcome.status == 0, time.monotonic() - began, said))
    print("\nstress:")
    for part, ok, took, said in rows:
        print(
            f"  {'passed' if ok else 'FAILED'}  {part.name:<8}{took:>5.0f} s  {said or part.what}"
        )
    failed = [part.name for part, ok, _, _ in rows if not ok]
    print(
        f"stress: {'FAILED: ' + ', '.join(failed) if failed else 'PASSED'}: {len(rows)} parts, "
        f"{len(failed)} failed; seed {seed}; {asgibridge.IMPLEMENTATION} kernel, CPython "
        f"{sys.version.split()[0]}",
        flush=True,
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
