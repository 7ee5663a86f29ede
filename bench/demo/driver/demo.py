"""The demo from start to end.

The servers and the directory with their databases and logs live as long as the call of ``run``, and
are gone on every way out of it.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import platform
import sys
import tempfile
import time
import traceback
from contextlib import ExitStack
from pathlib import Path

import django
from rich.console import Console

import asgibridge

from .checks import count_troubles, exit_troubles, library_of, log_troubles, page_troubles
from .load import FULL, QUICK, Plan, Results, fetch_stats, measure
from .pages import Answer, visit
from .report import figures_table, pages_table, plot
from .servers import BRIDGED, THREADS, UNDER_LOAD, VISITED, DemoFailure, Server

LOADS = f"""\
README's figures are of another load: wrk, and views that do little else than cross. Here a client
in Python shares the processors with the server, whose pages do more between crossings. WSGI is the
same site under gunicorn, in {THREADS} threads. One of its middlewares is async-only: for that, WSGI
starts an event loop for each request. `make bench-site` has none of the kind."""
"""Why a page gains less here than there, and what it means for WSGI."""

BRIDGE = ("manage.py", "bridge", "--settings=bridged_settings")

SAYS_SO_EVERY = 5.0
"""Seconds between two lines about the load, where there is no terminal. Arbitrary."""

# A pipe has no width of its own.
PIPE_WIDTH = 150


def run(quick: bool, output: Path) -> int:
    """Serve, visit, measure and report; gives the exit status, 0 or 1."""
    began = time.monotonic()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
    plan = QUICK if quick else FULL
    names = [contestant.name for contestant in UNDER_LOAD]
    print(describe())

    with tempfile.TemporaryDirectory(prefix="asgibridge-demo-") as directory:
        servers = [Server(contestant, Path(directory)) for contestant in UNDER_LOAD]
        try:
            with ExitStack() as stack:
                for server in servers:
                    stack.callback(server.stop)
                    start(server)
                visits = {
                    server.name: asyncio.run(visit(server.base_url))
                    for server in servers
                    if server.contestant in VISITED
                }
                console.print("", pages_table(visits))
                show_chain(servers)
                results = put_under_load(console, servers, plan)
        except BaseException as failure:
            # The stack has stopped the servers by now, so that the logs are whole.
            print_log_tails(servers)
            if not isinstance(failure, Exception):
                raise
            if not isinstance(failure, DemoFailure):
                traceback.print_exc()
            reason = f"{type(failure).__name__}: {failure}"
            print("demo: FAILED:", reason, *exit_troubles(servers), sep="\n", file=sys.stderr)
            return 1
        troubles = page_troubles(visits) + count_troubles(results)
        if server_troubles := troubles_of(servers, visits):
            print_log_tails(servers)
        troubles += server_troubles

    console.print(figures_table(results, names, plan))
    print(LOADS)
    plot(results, names, describe(), output)
    print(f"plot: {output}\n{time.monotonic() - began:.0f} s in all", flush=True)
    if troubles:
        print("demo: FAILED:", *troubles, sep="\n", file=sys.stderr)
        return 1
    answers = len(next(iter(visits.values())))
    print(f"All {answers} answers are the same; all logs are as they should be.")
    return 0


def start(server: Server) -> None:
    """Start it, and see that it runs on what it should."""
    command = ["python", *server.contestant.command(*server.contestant.server)[1:]]
    print(f"\n$ {' '.join(command)}", flush=True)
    server.start()
    stats = asyncio.run(fetch_stats(server.base_url))
    print(library_of(stats, server.contestant), flush=True)


def show_chain(servers: list[Server]) -> None:
    """What asgibridge.django makes of the site's middlewares and views, as it says itself."""
    for server in servers:
        if server.contestant is BRIDGED:
            command = ["python", *server.contestant.command(*BRIDGE)[1:]]
            print(f"\n$ {' '.join(command)}\n{server.run(*BRIDGE).rstrip()}\n", flush=True)


def put_under_load(console: Console, servers: list[Server], plan: Plan) -> Results:
    # On a terminal a line that changes, elsewhere one now and then.
    if console.is_terminal:
        with console.status("") as line:
            return asyncio.run(measure(servers, plan, line.update))
    said = 0.0

    def say(text: str) -> None:
        nonlocal said
        if time.monotonic() >= said + SAYS_SO_EVERY:
            said = time.monotonic()
            print(text, flush=True)

    return asyncio.run(measure(servers, plan, say))


def troubles_of(servers: list[Server], visits: dict[str, list[Answer]]) -> list[str]:
    """What the servers that gave these answers, now stopped, did wrong besides."""
    troubles = exit_troubles(servers)
    for server in servers:
        intended = sum(answer.status == 500 for answer in visits.get(server.name, ()))
        troubles += log_troubles(server, intended)
    return troubles


def describe() -> str:
    """What runs here, in a line."""
    return (
        f"asgibridge {asgibridge.__version__} ({asgibridge.IMPLEMENTATION}) beside "
        f"asgiref {importlib.metadata.version('asgiref')}; Django {django.__version__}, "
        f"{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} CPUs"
    )


def print_log_tails(servers: list[Server]) -> None:
    for server in servers:
        print(f"--- the end of {server.name}'s log ---\n{server.log_tail}\n", file=sys.stderr)
