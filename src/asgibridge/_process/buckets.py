"""The buckets that both kernels sort a call's waiting and running times into."""

from __future__ import annotations

__all__ = ["BOUNDS"]

BOUNDS: tuple[float, ...] = (
    *(1e-05, 2.5e-05, 5e-05),
    *(0.0001, 0.00025, 0.0005),
    *(0.001, 0.0025, 0.005),
    *(0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0),
    *(10.0, 25.0, 50.0),
    100.0,
)
"""Their upper bounds, in seconds; what took longer is in one more. Three for each power of ten:
from a bare hop's wait for its thread to what no client waits for."""
