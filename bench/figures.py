"""Figures as the tables have them."""

from __future__ import annotations


def micro(seconds: float) -> str:
    """Microseconds to three digits or so."""
    value = seconds * 1e6
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def times(value: float) -> str:
    return f"{value:.1f}x" if value >= 10 else f"{value:.2f}x"
