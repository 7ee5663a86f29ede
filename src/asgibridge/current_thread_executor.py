"""`CurrentThreadExecutor`: the executor that a waiting thread lends itself to."""

from __future__ import annotations

from ._kernel import kernel

__all__ = ["CurrentThreadExecutor"]

CurrentThreadExecutor = kernel.CurrentThreadExecutor
