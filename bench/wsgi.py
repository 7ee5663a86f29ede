"""Times a WSGI application on ASGI, and an ASGI application on WSGI: every adapter in turn.

    python bench/wsgi.py [--rounds 5] [--unpinned] [--json FILE]

In process, with no server: a request is a call of the adapter with a ``receive`` and a ``send``
that do nothing (or, the other way round, with an environ and a ``start_response``), so that what is
left is the adapter. Each adapter runs in processes of its own, in turn, A B C A B C ..., pinned to
one core unless told otherwise. Minima are compared, since noise only ever adds; the spread shows
how noisy it was. An adapter that is not installed is named and left out.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import importlib
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

# --- one adapter, in this process ----------------------------------------------------------------

HEADERS = [(f"x-header-{number}".encode(), b"value") for number in range(20)]
SCOPE = {
    "type": "http",
    "http_version": "1.1",
    "method": "GET",
    "path": "/",
    "query_string": b"",
    "headers": HEADERS,
}
CHUNK = b"x" * 100
AT_ONCE = 20


def wsgi_list(chunks: int) -> Callable[..., Any]:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [CHUNK] * chunks

    return application


def wsgi_generator(chunks: int) -> Callable[..., Any]:
    def application(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        for _ in range(chunks):
            yield CHUNK

    return application


def wsgi_slow(environ: Any, start_response: Any) -> list[bytes]:
    time.sleep(0.01)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [CHUNK]


def asgi_chunks(chunks: int) -> Callable[..., Any]:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        headers = [(b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for _ in range(chunks - 1):
            await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
        await send({"type": "http.response.body", "body": CHUNK})

    return application


def to_asgi(adapter: str) -> Callable[..., Any]:
    """``make(wsgi_application, workers)`` of an adapter: an ASGI application."""
    if adapter == "a2wsgi":
        wsgi_middleware = importlib.import_module("a2wsgi").WSGIMiddleware
        return lambda application, workers: wsgi_middleware(application, workers=workers or 10)
    if adapter == "hypercorn":
        wrapper = importlib.import_module("hypercorn.app_wrappers").WSGIWrapper

        def make(application: Any, workers: int | None) -> Any:
            wrapped = wrapper(application, 2**20)

            async def on_threads(scope: Any, receive: Any, send: Any) -> None:
                # As hypercorn's asyncio worker runs it, on the loop's default threads.
                loop = asyncio.get_running_loop()

                def call_soon(func: Any, *args: Any) -> Any:
                    return asyncio.run_coroutine_threadsafe(func(*args), loop).result()

                await wrapped(
                    scope, receive, send, functools.partial(loop.run_in_executor, None), call_soon
                )

            return on_threads

        return make
    module = importlib.import_module(f"{adapter}.wsgi")
    if adapter == "asgiref":
        return lambda application, workers: module.WsgiToAsgi(application)
    return lambda application, workers: module.WsgiToAsgi(application, workers=workers)


def to_wsgi(adapter: str) -> Callable[..., Any] | None:
    """``make(asgi_application)`` of an adapter: a WSGI application; None if it has none."""
    if adapter == "a2wsgi":
        make: Callable[..., Any] = importlib.import_module("a2wsgi").ASGIMiddleware
    elif adapter == "asgibridge":
        make = importlib.import_module("asgibridge.wsgi").AsgiToWsgi
    else:
        return None
    return make


async def receive() -> dict[str, Any]:
    return {"type": "http.request"}


async def send(message: Any) -> None:
    pass


def time_asgi(application: Any, requests: int, samples: int) -> list[float]:
    """Seconds per request of each sample, one request after the other."""

    async def run() -> list[float]:
        times = []
        for _ in range(samples + 1):
            start = time.perf_counter()
            for _ in range(requests):
                await application(SCOPE, receive, send)
            times.append((time.perf_counter() - start) / requests)
        return times[1:]

    return asyncio.run(run())


def time_at_once(application: Any, samples: int) -> list[float]:
    """Seconds for `AT_ONCE` requests at once."""

    async def run() -> list[float]:
        times = []
        for _ in range(samples + 1):
            start = time.perf_counter()
            await asyncio.gather(*(application(SCOPE, receive, send) for _ in range(AT_ONCE)))
            times.append(time.perf_counter() - start)
        return times[1:]

    return asyncio.run(run())


def time_wsgi(application: Any, requests: int, samples: int) -> list[float]:
    """Seconds per request of each sample, made by this thread, one after the other."""
    environ = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/",
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        **{f"HTTP_X_HEADER_{number}": "value" for number in range(20)},
    }

    def start_response(status: str, headers: Any, exc_info: Any = None) -> None:
        pass

    times = []
    for _ in range(samples + 1):
        start = time.perf_counter()
        for _ in range(requests):
            result = application(dict(environ), start_response)
            for _chunk in result:
                pass
            if hasattr(result, "close"):
                result.close()
        times.append((time.perf_counter() - start) / requests)
    return times[1:]


def run_cases(adapter: str, samples: int) -> dict[str, list[float]]:
    make = to_asgi(adapter)
    times = {
        "WSGI on ASGI, 1 chunk": time_asgi(make(wsgi_list(1), None), 200, samples),
        "WSGI on ASGI, list of 10": time_asgi(make(wsgi_list(10), None), 100, samples),
        "WSGI on ASGI, generator of 10": time_asgi(make(wsgi_generator(10), None), 100, samples),
        f"{AT_ONCE} requests of 10 ms at once": time_at_once(make(wsgi_slow, AT_ONCE), samples),
    }
    make_wsgi = to_wsgi(adapter)
    if make_wsgi is not None:
        times["ASGI on WSGI, 1 chunk"] = time_wsgi(make_wsgi(asgi_chunks(1)), 100, samples)
        times["ASGI on WSGI, 10 chunks"] = time_wsgi(make_wsgi(asgi_chunks(10)), 50, samples)
    return times


# --- all of them, in processes of their own ------------------------------------------------------


def adapters() -> tuple[list[tuple[str, str, dict[str, str]]], list[str]]:
    """What there is to time (name, argument, environment), and what is not installed."""
    wanted = [
        ("asgiref", "asgiref", {}),
        ("a2wsgi", "a2wsgi", {}),
        ("hypercorn", "hypercorn", {}),
        ("asgibridge pure", "asgibridge", {"ASGIBRIDGE_SPEEDUPS": "off"}),
        ("asgibridge compiled", "asgibridge", {"ASGIBRIDGE_SPEEDUPS": "require"}),
    ]
    found, missing = [], []
    for name, argument, env in wanted:
        done = subprocess.run(
            [sys.executable, "-c", f"import {argument}"],
            env={**os.environ, **env},
            capture_output=True,
            check=False,
        )
        if done.returncode == 0:
            found.append((name, argument, env))
        else:
            missing.append(name)
    return found, missing


def measure(
    found: list[tuple[str, str, dict[str, str]]], rounds: int, core: int | None
) -> dict[str, dict[str, list[float]]]:
    """Seconds, by case and adapter."""
    from rich.console import Console
    from rich.progress import track

    times: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    turns = [each for _ in range(rounds) for each in found]
    for name, argument, env in track(turns, "measuring", console=Console(stderr=True)):
        done = subprocess.run(
            [sys.executable, __file__, "--only", argument],
            env={**os.environ, **env},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            preexec_fn=None if core is None else lambda: os.sched_setaffinity(0, {core}),
        )
        for case, samples in json.loads(done.stdout).items():
            times[case][name].extend(samples)
    return times


def report(times: dict[str, dict[str, list[float]]], names: list[str], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("case", title=title, caption="µs: minimum (median)")
    for name in names:
        table.add_column(name, justify="right")
    for case, by_name in times.items():
        cells = [case]
        for name in names:
            samples = by_name.get(name)
            cells.append(
                f"{min(samples) * 1e6:.0f} ({statistics.median(samples) * 1e6:.0f})"
                if samples
                else ""
            )
        table.add_row(*cells)
    Console(width=140).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="processes of each (default: 5)")
    parser.add_argument("--samples", type=int, default=5, help="of each case in each process")
    parser.add_argument("--unpinned", action="store_true", help="use all cores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument("--only", metavar="MODULE", help="time this one here, and print JSON")
    options = parser.parse_args()
    if options.only:
        json.dump(run_cases(options.only, options.samples), sys.stdout)
        return
    core = None
    if not options.unpinned and hasattr(os, "sched_setaffinity"):
        core = min(os.sched_getaffinity(0))
    found, missing = adapters()
    times = measure(found, options.rounds, core)
    title = (
        f"python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores, "
        f"pinned {core is not None}, rounds {options.rounds}"
    )
    report(times, [name for name, _, _ in found], title)
    for name in missing:
        print(f"NOT TIMED: {name} is not installed")
    if options.json:
        options.json.write_text(json.dumps({"conditions": title, "times": times}, indent=1))


if __name__ == "__main__":
    main()
