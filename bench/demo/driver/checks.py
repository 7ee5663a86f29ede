"""Whether a server was the right one and kept its calm: its own word, its log, how it ended."""

from __future__ import annotations

import re
from typing import Any

from .load import Results
from .pages import Answer, differences, in_either_mode
from .servers import ASGIREF, FREE_OF_MODE, VISITED, Contestant, DemoFailure, Server

# The only exception that may be in a log: what the site's error pages raise.
INTENDED_ERROR = "demosite.views.IntendedError: "

_TRACEBACK = re.compile(r"Traceback \(most recent call last\):")
# What CPython, asyncio, Django, Channels, uvicorn and both libraries write when something escaped.
_ALARM = re.compile(
    r"\bException (in|ignored)\b|was never (awaited|retrieved)|Task was destroyed|"
    r"Fatal Python error|deadlock|^CRITICAL|^ERROR",
    re.IGNORECASE | re.MULTILINE,
)


def library_of(stats: dict[str, Any], contestant: Contestant) -> str:
    """What a server runs on, in words; raises DemoFailure if that is not the contestant's."""
    name, file, handler = (
        stats[each] for each in ("asgiref_sync_name", "asgiref_sync_file", "handler")
    )
    if name != contestant.sync_module:
        raise DemoFailure(
            f"WRONG LIBRARY: the server meant to run on {contestant.name} runs on {name} "
            f"({file}). Nothing was compared. Look for an asgibridge.autoinstall in a "
            "sitecustomize or .pth file, or for a PYTHONPATH that hides one of the two."
        )
    if handler != contestant.handler_module:
        raise DemoFailure(
            f"WRONG HANDLER: the server meant to run on {contestant.name} has Django's part from "
            f"{handler}, not from {contestant.handler_module}. Nothing was compared."
        )
    return (
        f"asgiref.sync is {name}, answering for asgiref {stats['asgiref_version']} ({file}); "
        f"the handler is {handler}'s"
    )


def page_troubles(visits: dict[str, list[Answer]]) -> list[str]:
    """Where visits differ from the first, and which pages are not what they should be on any side.

    By the name of who was visited.
    """
    (first, its_answers), *others = visits.items()
    troubles = []
    for name, answers in others:
        one, other = its_answers, answers
        if name in FREE_OF_MODE:
            one, other = in_either_mode(one), in_either_mode(other)
        troubles += differences(one, other, (first, name))
    for name, answers in visits.items():
        troubles += [f"{name}: {one.page}: {one.wrong}" for one in answers if one.wrong]
    return troubles


def log_troubles(server: Server, intended: int) -> list[str]:
    """What is in a server's log that should not be, given how often an error page was asked for."""
    lines = server.log.splitlines()
    troubles = [f"in its log: {line.strip()}" for line in lines if _ALARM.search(line)]
    as_intended = 0
    for start, line in enumerate(lines):
        if not _TRACEBACK.search(line):
            continue
        # A traceback's frames are indented; the first line that is not names the exception.
        ending = next((text for text in lines[start + 1 :] if not text.startswith(" ")), "")
        if line.startswith("Traceback") and ending.startswith(INTENDED_ERROR):
            as_intended += 1
        else:
            troubles.append(f"an unexpected traceback in its log: {ending or 'cut short'}")
    if as_intended != intended:
        troubles.append(f"{as_intended} tracebacks of its error pages instead of {intended}")
    return [f"{server.name}: {text}" for text in troubles]


def count_troubles(results: Results) -> list[str]:
    """Whether threads were counted at all: asgiref starts some for every request."""
    if all(one.threads_per_request for page in results.values() for one in page[ASGIREF.name]):
        return []
    return ["the site counted no threads on asgiref: its counting does not work on this Python"]


def exit_troubles(servers: list[Server]) -> list[str]:
    """Whether the servers ended when asked to, not before, and alike."""
    troubles = []
    for server in servers:
        if server.ended_early:
            troubles.append(f"{server.name}: ended by itself, with status {server.exit_status}")
        elif server.exit_status is None and server.base_url:
            troubles.append(f"{server.name}: did not end when asked to, and was killed")
    statuses = {server.name: server.exit_status for server in servers}
    # A server of another kind has its own way to end.
    alike = {server.exit_status for server in servers if server.contestant in VISITED}
    if not troubles and len(alike) > 1:
        troubles.append(f"the servers ended differently: {statuses}")
    return troubles
