"""The items that inboxes hold."""

from __future__ import annotations

from typing import Protocol


class Item(Protocol):
    """The inbox's thread runs it, or somebody cancels it; then `deliver`. A base, or a pattern."""

    __slots__ = ()

    def run(self) -> None: ...

    def deliver(self) -> None:
        """Wake the task or thread that waits for the outcome."""
        return  # nobody does

    def cancel(self) -> None:
        """It will not run: let `deliver` say so."""
        return
