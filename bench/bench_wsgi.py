"""WSGI applications on ASGI, and ASGI applications on WSGI."""

from __future__ import annotations

import pytest

import wsgi
from conftest import Timed
from implementations import Library

ADAPTERS = {
    "asgiref": "asgiref",
    "pure": "asgibridge",
    "compiled": "asgibridge",
    "a2wsgi": "a2wsgi",
}
REQUESTS = 100
ON_ASGI = {
    "1 chunk": wsgi.wsgi_list(1),
    "list of 10": wsgi.wsgi_list(10),
    "generator of 10": wsgi.wsgi_generator(10),
}


def adapter_of(implementation: str) -> str:
    if implementation not in ADAPTERS:
        pytest.skip(f"{implementation} has no WSGI adapter")
    return ADAPTERS[implementation]


# The library is asked for, so that it is the kernel that was named.
@pytest.mark.parametrize("case", ON_ASGI)
def bench_wsgi_on_asgi(
    timed: Timed, implementation: str, library: Library | None, case: str
) -> None:
    application = wsgi.to_asgi(adapter_of(implementation))(ON_ASGI[case], None)
    wsgi.time_asgi(application, REQUESTS, 0)
    timed(
        f"WSGI on ASGI, {case}", REQUESTS, lambda: wsgi.time_asgi(application, REQUESTS, samples=0)
    )


@pytest.mark.parametrize("chunks", [1, 10])
def bench_asgi_on_wsgi(
    timed: Timed, implementation: str, library: Library | None, chunks: int
) -> None:
    make = wsgi.to_wsgi(adapter_of(implementation))
    if make is None:
        pytest.skip(f"{implementation} has no adapter this way round")
    application = make(wsgi.asgi_chunks(chunks))
    wsgi.time_wsgi(application, REQUESTS, 0)
    timed(
        f"ASGI on WSGI, {chunks} chunks",
        REQUESTS,
        lambda: wsgi.time_wsgi(application, REQUESTS, samples=0),
    )
