"""Puts one page of a server under load: wrk, or where there is none a client of aiohttp's.

    python bench/site_load.py http://127.0.0.1:8000/ --connections 20 --seconds 5
    python bench/site_load.py http://127.0.0.1:8000/ --connections 20 --requests 1000
    python bench/site_load.py http://127.0.0.1:8000/form/ --post "name=Ada" --cookie "csrftoken=x"

Each connection asks again as soon as it has its answer. Prints JSON: how many requests were
answered and in how many seconds, how many failed, and percentiles of the seconds that an answer
took. As a program it is the aiohttp client, in a process of its own so that it shares no
interpreter with whoever starts it; with ``--requests`` it makes so many and no more, which wrk
cannot.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("site") / "wrk.lua"
PERCENTILES = (50.0, 99.0, 99.9)
FORM = "application/x-www-form-urlencoded"

Load = dict[str, float]
Posted = tuple[str, str]
"""A form as a body, and the cookie that comes with it."""


class LoadFailure(Exception):
    """The load could not be made; the message says why."""


def install_wrk() -> str:
    """Have Debian's package manager install it, if it is missing and we may; "", or why not."""
    if shutil.which("wrk") is not None:
        return ""
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return "wrk is not installed (Debian: apt-get install wrk)"
    print("installing wrk", file=sys.stderr)
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", "wrk"]):
        done = subprocess.run(
            ["apt-get", "-qq", *arguments],
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            return f"apt-get {arguments[0]} failed:\n{done.stdout}{done.stderr}".rstrip()
    return ""


def generator() -> str:
    """What `for_seconds` uses, with its version."""
    wrk = shutil.which("wrk")
    if wrk is None:
        from importlib import metadata

        return f"aiohttp {metadata.version('aiohttp')}"
    # It has no option for its version alone: it prints it, then its usage, and exits with 1.
    usage = subprocess.run([wrk, "-v"], capture_output=True, text=True, check=False)
    return " ".join((usage.stdout + usage.stderr).split()[:2])


def once(url: str, posted: Posted | None = None) -> None:
    """One request: what is made for the first is not made by many threads at once."""
    request = urllib.request.Request(url)
    if posted:
        request.data = posted[0].encode()
        request.headers = {"Content-type": FORM, "Cookie": posted[1]}
    # No proxy from the environment comes between.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=60) as answer:
            answer.read()
    except urllib.error.HTTPError as error:
        raise LoadFailure(f"{url} gave {error.code}:\n{error.read().decode()}") from error


def for_seconds(
    url: str,
    connections: int,
    seconds: float,
    core: int | None = None,
    posted: Posted | None = None,
) -> Load:
    """``connections`` at once for so long, with wrk where it is installed: at least a second."""
    wrk = shutil.which("wrk")
    if wrk is None:
        return _client(url, connections, ["--seconds", str(seconds)], core, posted)
    # Its durations are whole seconds.
    command = [wrk, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}", "-s", str(SCRIPT)]
    return _run([*command, url, *(["--", *posted] if posted else [])], seconds, core)


def so_many(url: str, connections: int, requests: int, posted: Posted | None = None) -> Load:
    """So many requests and no more, when they have all been answered."""
    return _client(url, connections, ["--requests", str(requests)], None, posted)


def _client(
    url: str, connections: int, more: list[str], core: int | None, posted: Posted | None
) -> Load:
    command = [sys.executable, __file__, url, "--connections", str(connections), *more]
    if posted:
        command += ["--post", posted[0], "--cookie", posted[1]]
    return _run(command, 60, core)


def _run(command: list[str], seconds: float, core: int | None) -> Load:
    if core is not None:
        command = ["taskset", "-c", str(core), *command]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds + 60, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise LoadFailure(f"{command} did not end; is the server answering?") from error
    if done.returncode != 0:
        raise LoadFailure(f"{command} failed:\n{done.stdout}{done.stderr}")
    load: Load = json.loads(done.stdout.strip().splitlines()[-1])
    if load["failed"] or not load["requests"]:
        raise LoadFailure(
            f"{load['failed']:.0f} requests failed, {load['requests']:.0f} were answered"
        )
    return load


async def _drive(
    url: str, connections: int, seconds: float, requests: int | None, posted: Posted | None
) -> Load:
    import aiohttp

    times: list[float] = []
    failed = 0
    started = time.perf_counter()
    deadline = started + seconds
    left = iter(range(requests if requests is not None else sys.maxsize))
    method, body, headers = "GET", None, {}
    if posted:
        method, body = "POST", posted[0].encode()
        headers = {"Content-Type": FORM, "Cookie": posted[1]}

    async def connection(session: Any) -> None:
        nonlocal failed
        for _ in left:
            before = time.perf_counter()
            if before > deadline:
                return
            try:
                async with session.request(method, url, data=body, headers=headers) as response:
                    await response.read()
                failed += response.status != 200
            except aiohttp.ClientError:
                failed += 1
            times.append(time.perf_counter() - before)

    connector = aiohttp.TCPConnector(limit=connections)
    async with aiohttp.ClientSession(connector=connector) as session:
        await asyncio.gather(*(connection(session) for _ in range(connections)))
    times.sort()
    return {
        "requests": len(times),
        "seconds": time.perf_counter() - started,
        "failed": failed,
        **{f"p{p:g}": times[min(len(times) - 1, int(len(times) * p / 100))] for p in PERCENTILES},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--connections", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=600, help="at most (default: %(default)s)")
    parser.add_argument("--requests", type=int, help="so many, instead of so long")
    parser.add_argument("--post", metavar="BODY", help="a form, instead of asking for the page")
    parser.add_argument("--cookie", default="", help="with --post")
    options = parser.parse_args()
    posted = None if options.post is None else (options.post, options.cookie)
    load = asyncio.run(
        _drive(options.url, options.connections, options.seconds, options.requests, posted)
    )
    print(json.dumps(load))


if __name__ == "__main__":
    main()
