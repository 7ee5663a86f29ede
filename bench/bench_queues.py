"""Message queues between threads and loops; asgiref has none."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

import queues
from conftest import Timed
from implementations import Library

ITEMS = 10_000
MAKE = {
    "pure": "asgibridge",
    "compiled": "asgibridge",
    "janus": "janus",
    "culsans": "culsans",
    "aiologic": "aiologic.SimpleQueue",
    "asyncio": "asyncio.Queue",
}
BOUNDED = {**MAKE, "aiologic": "aiologic.Queue"}


# The library is asked for, so that it is the kernel that was named.
@pytest.mark.parametrize("case", queues.CASES)
def bench_queue(timed: Timed, implementation: str, library: Library | None, case: str) -> None:
    run, room = queues.CASES[case]
    n = ITEMS // 10 if run is queues.ping_pong else ITEMS
    name = (BOUNDED if room else MAKE).get(implementation)
    body: Any
    if implementation == "floor" and run is queues.ping_pong:
        body = queues.least_ping_pong
    elif name is None or (run is queues.thread_to_loops and name in queues.ONE_LOOP):
        pytest.skip(f"{implementation} has no queue for this")
    else:
        make = queues.IMPLEMENTATIONS[name]
        assert make is not None
        body = partial(run, make, room)
    try:
        asyncio.run(body(n // 10))
    except queues.Missing:
        pytest.skip(f"{name} cannot do this")
    timed(f"queue: {case}", n, lambda: asyncio.run(body(n)))
