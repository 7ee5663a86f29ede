"""One pytest run in a process of its own, with a time limit, and what its closing line says.

The limit of a single test is pytest-timeout's. This one is for what no test owns: collection, the
end of the interpreter, a process left behind that keeps the output open. At the limit pytest gets
SIGABRT, at which Python's fault handler prints every thread's stack; then the rest of its process
group does; then whoever is left gets SIGKILL.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

_CLOSING = re.compile(r"(?:=+ )?((?:\d+ [a-z]+(?:, )?)+) in \d[\d.:]*s(?: \([\d:]+\))?(?: =+)?")
_NOT_OUTCOMES = {"warning", "warnings", "deselected"}

GRACE = 10
"""Seconds in which a process that was told to abort can print its stacks."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    status: int
    """pytest's exit status; -1 if the time limit ended it, else below 0 if a signal did."""
    counts: dict[str, int] = field(default_factory=dict)
    """Such as {"passed": 133, "xfailed": 1}; empty if there was no closing line."""

    @property
    def ok(self) -> bool:
        return self.status == 0 and self.counts.get("passed", 0) > 0

    def __str__(self) -> str:
        said = ", ".join(f"{number} {what}" for what, number in self.counts.items())
        if self.status == -1:
            return "stopped at the time limit"
        if self.status < 0:
            return f"{said}, then " * bool(said) + f"crashed ({signal_name(-self.status)})"
        if not said:
            return f"no result (exit status {self.status})"
        return said if self.ok else f"{said} (exit status {self.status})"


def signal_name(number: int) -> str:
    """Such as "SIGSEGV"; of a real-time signal, which has no name, the number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def counts_in(line: str) -> dict[str, int]:
    """The outcomes that pytest's closing line names; empty for any other line."""
    match = _CLOSING.fullmatch(line.strip())
    if not match:
        return {}
    pairs = (part.split() for part in match.group(1).split(", "))
    return {what: int(number) for number, what in pairs if what not in _NOT_OUTCOMES}


def run(command: list[str], *, cwd: Path, env: dict[str, str], limit: float) -> Outcome:
    """Run `command`, which must run pytest, for at most `limit` seconds, echoing its output."""
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env={**env, "PYTHONFAULTHANDLER": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    expired, ended = threading.Event(), threading.Event()

    def expire() -> None:
        expired.set()
        print(f"\nTIME LIMIT: {limit:.0f} s are over, stopping {command}", flush=True)
        stop(process, ended)

    timer = threading.Timer(limit, expire)
    timer.start()
    counts: dict[str, int] = {}
    assert process.stdout is not None
    try:
        for line in process.stdout:
            # As bytes: a test's output need not fit this terminal's encoding.
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
            counts = counts_in(line.decode("utf-8", "replace")) or counts
        status = process.wait()
    except BaseException:
        _signal_group(process, "SIGKILL")
        process.wait()
        raise
    finally:
        ended.set()
        timer.cancel()
        timer.join()
        process.stdout.close()
    return Outcome(-1 if expired.is_set() else status, counts)


def stop(process: subprocess.Popen[bytes], ended: threading.Event) -> None:
    """Abort pytest, then what it left behind: stacks printed at the same time cannot be read."""
    if os.name != "nt":
        process.send_signal(signal.SIGABRT)
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            pass  # it gets SIGKILL in the end
        _signal_group(process, "SIGABRT")
        if ended.wait(GRACE):
            return
    _signal_group(process, "SIGKILL")


def _signal_group(process: subprocess.Popen[bytes], name: str) -> None:
    if os.name == "nt":
        process.kill()
        return
    try:
        os.killpg(process.pid, getattr(signal, name))
    except ProcessLookupError:
        pass  # all of it has ended
