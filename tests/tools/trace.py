"""How long the way of a call is: the files and calls of four trips on the pure kernel.

    python tests/tools/trace.py              the table; status 1 if a trip misses its target
    python tests/tools/trace.py --lenient    the table; status 0
    python tests/tools/trace.py --list hop   every call of one such trip, in order

A call is a 'call' event of `sys.setprofile`, on whatever thread, of code whose file lies in the
package: one for each function called, and one for each time that a coroutine or generator goes on.
Before CPython 3.12 a comprehension is a call of its own; the figures are of CPython 3.13.
"""

from __future__ import annotations

import argparse
import asyncio
import contextvars
import faulthandler
import inspect
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

if os.environ.get("ASGIBRIDGE_SPEEDUPS") != "off":
    os.environ["ASGIBRIDGE_SPEEDUPS"] = "off"
    if "asgibridge" in sys.modules:  # a .pth file has imported it, with whatever kernel there is
        os.execv(sys.executable, [sys.executable, *sys.argv])

import asgibridge
from asgibridge.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
from asgibridge.wsgi import WsgiToAsgi

PACKAGE = str(Path(asgibridge.__file__).parent) + os.sep
WARM_UP = 20
ROUNDS = 20
QUIET_SECONDS = 0.01
"""A round is over when no call has come for so long. Arbitrary: far longer than a trip takes."""
LIMIT_SECONDS = 60


class Call(NamedTuple):
    """One 'call' event."""

    thread: int
    file: str
    line: int
    function: str


class Recorder:
    """Notes every call of threads that start after `install`, and of the thread that installs."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def install(self) -> None:
        threading.setprofile(self._event)
        sys.setprofile(self._event)

    def _event(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE):
            name = getattr(code, "co_qualname", code.co_name)  # 3.11 has the former
            file = code.co_filename[len(PACKAGE) :].replace(os.sep, "/")
            self.calls.append(Call(threading.get_ident(), file, code.co_firstlineno, name))

    async def take(self) -> list[Call]:
        """The calls since the last time, once there are no more of them."""
        seen, since = -1, 0.0
        while len(self.calls) != seen or time.monotonic() - since < QUIET_SECONDS:
            if len(self.calls) != seen:
                seen, since = len(self.calls), time.monotonic()
            await asyncio.sleep(QUIET_SECONDS / 10)
        taken, self.calls = self.calls, []
        return taken


def function() -> None:
    pass


async def coroutine() -> None:
    pass


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


# Made once, as a decorator's are: a trip is what a call of them takes.
in_thread = sync_to_async(function)
in_loop = async_to_sync(coroutine)
wsgi_to_asgi = WsgiToAsgi(application)


async def hop() -> None:
    await in_thread()


async def context() -> None:
    async with ThreadSensitiveContext():
        await in_thread()


def top_level() -> None:
    in_loop()


async def wsgi() -> None:
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 80),
    }
    messages = [{"type": "http.request", "body": b"", "more_body": False}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if not messages:
            await asyncio.get_running_loop().create_future()  # the client stays connected
        return messages.pop()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await wsgi_to_asgi(scope, receive, send)
    assert b"".join(each.get("body", b"") for each in sent) == b"hello", sent


class Trip(NamedTuple):
    """One way through the package."""

    title: str
    travel: Callable[[], Any]
    files_before: int
    """At ebfb6d1, as the next one; it may not pass more."""
    calls_before: int
    target: int
    """How many calls it may take."""


TRIPS = {
    "hop": Trip("steady hop", hop, 10, 32, 24),
    "context": Trip("context with one call", context, 13, 68, 48),
    "top-level": Trip("top-level async_to_sync", top_level, 14, 93, 70),
    "wsgi": Trip("WSGI request", wsgi, 14, 75, 60),
}


def record(travel: Callable[[], Any], recorder: Recorder) -> list[list[Call]]:
    """The calls of each of ROUNDS trips, after WARM_UP of them."""

    async def in_a_loop() -> list[list[Call]]:
        rounds = []
        for _ in range(WARM_UP + ROUNDS):
            await travel()
            rounds.append(await recorder.take())
        return rounds

    if inspect.iscoroutinefunction(travel):
        return asyncio.run(in_a_loop())[WARM_UP:]
    rounds = []
    for _ in range(WARM_UP + ROUNDS):
        travel()
        rounds.append(asyncio.run(recorder.take()))
    return rounds[WARM_UP:]


def show(calls: list[Call]) -> None:
    """Prints each call in order: which thread, file, line and function."""
    names: dict[int, str] = {threading.get_ident(): "main"}
    for number, each in enumerate(calls, 1):
        thread = names.setdefault(each.thread, f"worker {len(names)}")
        print(f"{number:4}  {thread:<9} {f'{each.file}:{each.line}':<36} {each.function}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trips", nargs="*", metavar="TRIP", help=f"of {', '.join(TRIPS)}")
    parser.add_argument("--list", action="store_true", help="print the calls of the last round")
    parser.add_argument("--lenient", action="store_true", help="status 0 if a target is missed too")
    options = parser.parse_args()
    unknown = set(options.trips) - set(TRIPS)
    if unknown:
        parser.error(f"no such trip: {', '.join(sorted(unknown))}")
    if asgibridge.IMPLEMENTATION != "pure":
        parser.error(f"the kernel is the {asgibridge.IMPLEMENTATION} one: only Python is traced")
    faulthandler.dump_traceback_later(LIMIT_SECONDS, exit=True)
    recorder = Recorder()
    recorder.install()
    missed = False
    print(f"{'':<24} {'files':>11} {'calls':>22}      on CPython {sys.version.split()[0]}")
    print(f"{'':<24} {'before  now':>11} {'before now (min-max)':>22} {'target':>8}")
    for name in options.trips or TRIPS:
        trip = TRIPS[name]
        # In a context of its own: what one trip leaves in a Local is not the next one's.
        rounds = contextvars.copy_context().run(record, trip.travel, recorder)
        files = max(len({each.file for each in calls}) for calls in rounds)
        counts = [len(calls) for calls in rounds]
        mean = sum(counts) / len(counts)
        is_missed = mean > trip.target or files > trip.files_before
        missed = missed or is_missed
        now = f"{mean:.4g} ({min(counts)}-{max(counts)})"
        print(
            f"{trip.title:<24} {trip.files_before:>6}{files:>5} {trip.calls_before:>8} {now:>13} "
            f"{trip.target:>8}  {'missed' if is_missed else 'ok'}"
        )
        if options.list:
            show(rounds[-1])
    return 1 if missed and not options.lenient else 0


if __name__ == "__main__":
    sys.exit(main())
