"""The site's entry point for WSGI servers: Django, and beside it the page of `stats`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from . import stats

# Before all that could start a thread.
stats.begin()

# isort: split

from django.core.wsgi import get_wsgi_application  # noqa: E402

django_application = get_wsgi_application()


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """The stats page, and Django for everything else."""
    if environ["PATH_INFO"] != stats.PATH:
        answer: Iterable[bytes] = django_application(environ, start_response)
        return answer
    server = environ["SERVER_SOFTWARE"].partition("/")[0].lower()
    body = json.dumps(stats.figures(django_application, server)).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    start_response("200 OK", headers)
    return [body]
