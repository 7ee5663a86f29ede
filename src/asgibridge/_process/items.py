"""What lies in the inboxes."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Item"]


class Item(Protocol):
    """Is run on the inbox's thread, or cancelled, and then delivered. Base, or pattern."""

    __slots__ = ()

    def run(self) -> None: ...

    def deliver(self) -> None:
        """Tell whoever waits for the outcome."""
        return  # nobody does

    def cancel(self) -> None:
        """It is not going to be run: let `deliver` say so."""
        return
