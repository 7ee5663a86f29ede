"""A dump as data and as text."""

from __future__ import annotations

import linecache
import os
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Frame:
    """A line of a stack."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        text = f'File "{self.file}", line {self.line}, in {self.function}'
        source = linecache.getline(self.file, self.line).strip()
        return f"{text}\n    {source}" if source else text


@dataclass(frozen=True)
class Call:
    """A call of a sync function that has not ended."""

    function: str
    """Its qualified name, with file and line."""
    state: str
    """``waiting`` for a token of its limiter, or for a worker at the limit; ``queued`` for a thread
    or a pool of threads; or ``running``."""
    thread: str | None
    """The name of the thread that runs it, or that it is queued for; None if it is waiting, or any
    thread of a pool may run it."""
    seconds: float | None
    """For how long it has been running, or else has waited; None if timings are not collected."""
    waits_for: tuple[str, ...]
    """The thing that it waits for, the thing that this one waits for, and so on."""


@dataclass(frozen=True)
class Thread:
    """A thread, with its Python stack, innermost last."""

    name: str
    ident: int
    waits_for: tuple[str, ...]
    stack: tuple[Frame, ...]


@dataclass(frozen=True)
class Task:
    """A task of an event loop, with the stack of its coroutines, innermost last."""

    name: str
    loop: str
    waits_for: tuple[str, ...]
    stack: tuple[Frame, ...]


@dataclass(frozen=True)
class Snapshot:
    """Who waits for whom in this process. ``str()`` of it is what `dump` prints."""

    culprits: tuple[str, ...]
    """The ends of all waits, those of most calls and threads first."""
    cycles: tuple[tuple[str, ...], ...]
    """Circles of waits: each member waits for the next, and the last for the first."""
    calls: tuple[Call, ...]
    threads: tuple[Thread, ...]
    tasks: tuple[Task, ...]
    loops: tuple[str, ...]

    def __str__(self) -> str:
        counts = f"{len(self.threads)} threads, {len(self.calls)} calls"
        lines = [f"asgibridge: process {os.getpid()}, {counts}"]
        for cycle in self.cycles:
            lines += ["", "CYCLE: these wait for each other, and none can go on:"]
            lines += [f"  {each}, which waits for" for each in cycle[:-1]]
            lines += [f"  {cycle[-1]}, which waits for the first of these"]
        for culprit in self.culprits:
            lines += ["", f"CULPRIT: {culprit}"]
        if self.calls:
            lines += ["", "Calls:"]
        for call in self.calls:
            since = "" if call.seconds is None else f" since {call.seconds:.1f} s"
            does = {"running": "runs on", "queued": "is queued for", "waiting": "waits for"}
            on = f"thread {call.thread}"
            if call.thread is None:
                known = call.state != "running" and call.waits_for
                on = call.waits_for[0] if known else "a thread"
            lines.append(f"  {call.function} {does[call.state]} {on}{since}")
            lines += _chain(call.waits_for[1:], "    ")
        lines += ["", "Threads:"]
        for thread in self.threads:
            lines.append(f"  {thread.name} ({thread.ident})")
            lines += _chain(thread.waits_for, "    ")
            lines += _stack(thread.stack)
        if self.loops:
            lines += ["", "Event loops:"]
        for loop in self.loops:
            lines.append(f"  {loop}")
            for task in self.tasks:
                if task.loop == loop:
                    lines.append(f"  {task.name}")
                    lines += _chain(task.waits_for, "    ")
                    lines += _stack(task.stack)
        return "\n".join(lines) + "\n"


def _chain(waits_for: Iterable[str], indent: str) -> list[str]:
    return [f"{indent}waits for {each}" for each in waits_for]


def _stack(frames: Iterable[Frame]) -> list[str]:
    return [f"      {line}" for frame in frames for line in str(frame).split("\n")]
