"""Times the implementations against each other: separate processes, in turn, A B C A B C ….

    python bench/paired.py [--rounds 5] [--unpinned] [--uvloop] [--json FILE]

Every process runs all of `bench/cases.py` for one implementation, pinned to one core unless told
otherwise. Minima are compared, since noise only ever adds; the spread shows how noisy it was.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

CASES = Path(__file__).with_name("cases.py")

Times = dict[str, dict[str, list[float]]]


def implementations() -> list[tuple[str, dict[str, str]]]:
    """What there is to time: its argument to cases.py, and its environment."""
    found = [
        ("floor", {}),
        ("asgiref", {}),
        ("asgibridge", {"ASGIBRIDGE_SPEEDUPS": "off"}),
    ]
    compiled = subprocess.run(
        [sys.executable, "-c", "import asgibridge._speedups"], capture_output=True, check=False
    )
    if compiled.returncode == 0:
        found.append(("asgibridge", {"ASGIBRIDGE_SPEEDUPS": "require"}))
    return found


def measure(rounds: int, core: int | None, options: list[str]) -> Times:
    """Seconds per operation, by case and implementation."""
    times: Times = defaultdict(lambda: defaultdict(list))
    turns = [each for _ in range(rounds) for each in implementations()]
    for argument, env in track(turns, "measuring", console=Console(stderr=True)):
        done = subprocess.run(
            [sys.executable, str(CASES), argument, *options],
            env={**os.environ, **env},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            preexec_fn=None if core is None else lambda: os.sched_setaffinity(0, {core}),
        )
        answer = json.loads(done.stdout)
        for case, samples in answer["times"].items():
            times[case][answer["implementation"]].extend(samples)
    return times


def table(times: Times, title: str) -> Table:
    """Minimum (and median) in microseconds, and how many times faster than asgiref."""
    names = list(dict.fromkeys(name for each in times.values() for name in each))
    result = Table(
        "case", title=title, caption="µs: minimum (median); x: asgiref's minimum divided by it"
    )
    for name in names:
        result.add_column(name, justify="right")
    for case, by_name in times.items():
        cells: list[str] = [case]
        for name in names:
            samples = by_name.get(name)
            if not samples:
                cells.append("")
                continue
            least, middle = min(samples) * 1e6, statistics.median(samples) * 1e6
            cell = f"{least:.2f} ({middle:.2f})"
            if name not in ("asgiref", "floor"):
                cell += f"  {min(by_name['asgiref']) * 1e6 / least:.1f}x"
            cells.append(cell)
        result.add_row(*cells)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="processes of each (default: 5)")
    parser.add_argument("--unpinned", action="store_true", help="use all cores")
    parser.add_argument("--uvloop", action="store_true", help="on uvloop")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    options = parser.parse_args()
    core = None
    if not options.unpinned and hasattr(os, "sched_setaffinity"):
        core = min(os.sched_getaffinity(0))
    times = measure(options.rounds, core, ["--uvloop"] if options.uvloop else [])
    conditions: dict[str, Any] = {
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "pinned": core is not None,
        "loop": "uvloop" if options.uvloop else "asyncio",
        "rounds": options.rounds,
    }
    title = ", ".join(f"{name} {value}" for name, value in conditions.items())
    Console(width=150).print(table(times, title))
    if options.json:
        options.json.write_text(json.dumps({**conditions, "times": times}, indent=1))


if __name__ == "__main__":
    main()
