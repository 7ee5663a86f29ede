"""`CurrentThreadExecutor`: the executor that a waiting thread lends itself to."""

from __future__ import annotations

from ._kernel import kernel

__all__ = ["CurrentThreadExecutor"]


def __dir__() -> list[str]:
    return __all__


CurrentThreadExecutor = kernel.CurrentThreadExecutor

_submit = CurrentThreadExecutor.submit  # before anybody can have replaced it
