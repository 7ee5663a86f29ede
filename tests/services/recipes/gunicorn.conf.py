from __future__ import annotations

from asgibridge.integrations import gunicorn as bridge
from asgibridge.integrations.gunicorn import worker_exit  # noqa: F401 - gunicorn looks for it


def post_fork(server: object, worker: object) -> None:
    bridge.post_fork(server, worker)
    server.log.info("our own hook, too")  # type: ignore[attr-defined]
