"""The buckets that both kernels sort a call's waiting and running times into."""

from __future__ import annotations

BOUNDS: tuple[float, ...] = (
    *(float(f"{digits}e{power}") for power in range(-5, 2) for digits in ("1", "2.5", "5")),
    100.0,
)
"""Their upper bounds, in seconds; what took longer is in one more. Three for each power of ten:
from a bare hop's wait for its thread to what no client waits for."""
