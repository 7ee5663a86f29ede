"""How long an idle thread waits for its next lease."""

from __future__ import annotations

from .._process import threads

# As long as in the other kernel.
IDLE_SECONDS = 10.0


def set_idle_seconds(seconds: float) -> None:
    """How long a thread waits for its next lease from now on; those that wait begin anew."""
    global IDLE_SECONDS
    IDLE_SECONDS = seconds
    for worker in threads.workers():
        worker.look_again()
