"""Celery's worker with its pools of greenlets: fifty tasks at once that call async code."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import sites
from sites import AUTO, PURE, Implementation, Server

TASKS = 50


@pytest.mark.parametrize("pool", ["gevent", "eventlet"])
@pytest.mark.parametrize("implementation", [AUTO, PURE], ids=str)
def test_tasks_in_greenlets(implementation: Implementation, pool: str, tmp_path: Path) -> None:
    """Each has its answer, and no sync code sees a running loop."""
    for folder in ("messages", "control", "results"):
        tmp_path.joinpath(folder).mkdir()
    # Without Django, which Celery sets up if it is named.
    settings = {"BOARD_BROKER": str(tmp_path), "DJANGO_SETTINGS_MODULE": ""}
    with Server(
        implementation,
        *("-m", "celery", "-A", "tasks", "worker", "-P", pool, "-c", str(TASKS), "-l", "INFO"),
        *("--without-gossip", "--without-mingle", "--without-heartbeat"),
        stop=signal.SIGTERM,
        ready=r"celery@\S+ ready",
        quiet=False,
        **settings,
    ) as worker:
        printed = sites.run(implementation, "tasks.py", str(TASKS), seconds=90, **settings)
        assert printed.strip().splitlines()[-1] == ",".join(
            sorted(f"{number} 0" for number in range(TASKS))
        ), worker.log()
        assert "Traceback" not in worker.log()
