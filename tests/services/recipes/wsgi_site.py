from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import clients


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    clients.fetch_sync(environ["PATH_INFO"])
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
