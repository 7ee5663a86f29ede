"""The stacks of threads and of coroutines, and what a frame of theirs tells."""

from __future__ import annotations

import asyncio
import concurrent.futures.thread
import dis
import faulthandler
import os
import re
import selectors
import tempfile
import threading
import types
from concurrent.futures import Future
from typing import Any

from .._loops import kept, persistent
from .._process import cpython, threads
from .._waits import names
from .snapshot import Frame

__all__ = [
    "has_gil",
    "is_async_to_sync",
    "is_idle",
    "is_ours",
    "of_coroutine",
    "of_threads",
    "place",
]

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_STANDARD = os.path.dirname(os.path.abspath(os.__file__)) + os.sep


def _is_standard(frame: Frame) -> bool:
    return frame.file.startswith(("<", _STANDARD)) and "site-packages" not in frame.file


_POOLS = concurrent.futures.thread.__file__
_ASYNCIO = os.path.dirname(asyncio.__file__)
# Innermost, while what they call in C waits for something to do.
_IDLE = {
    (function.__code__.co_filename, function.__code__.co_name)
    for function in (
        *(threads.Worker.run, kept.run, kept._KeptLoop.run),
        persistent.PersistentLoop._run,
    )
}


def has_gil() -> bool:
    """Whether there is one now. If so, a thread that is looked at stands still."""
    return cpython.is_gil_enabled()


def is_ours(frame: Frame) -> bool:
    """Whether it is of this package."""
    return frame.file.startswith(_PACKAGE)


def is_free(stack: tuple[Frame, ...]) -> bool:
    """Whether a pool's thread, which runs none of our calls, waits for something to do."""
    if not stack or is_ours(stack[-1]):
        return True
    return (stack[-1].file, stack[-1].function) == (_POOLS, "_worker")


def is_idle(stack: tuple[Frame, ...]) -> bool:
    """Whether a loop's thread is where that waits for events, or on the way there."""
    if not stack:
        return True
    innermost = stack[-1]
    return (
        innermost.file == selectors.__file__
        or os.path.dirname(innermost.file) == _ASYNCIO
        or (innermost.file, innermost.function) in _IDLE
    )


def place(stack: tuple[Frame, ...]) -> str:
    """Where the program is, rather than where in the standard library or in this package."""
    found = [frame for frame in reversed(stack) if not is_ours(frame)]
    found = [frame for frame in found if not _is_standard(frame)] or found
    return f"at {found[0].file}:{found[0].line} in {found[0].function}" if found else ""


def is_async_to_sync(frame: Frame) -> bool:
    """Whether a thread waits there, or further in, for an async function."""
    return any(
        frame.file == code.co_filename
        and frame.function == code.co_name
        and code.co_firstlineno
        <= frame.line
        <= max(line for _, line in dis.findlinestarts(code) if line)
        for code in names.waiting
    )


def of_threads(held: dict[int, Any]) -> dict[int, tuple[Frame, ...]]:
    """Of each thread, by ident, its Python stack, innermost last.

    :param held: gets the Future, Thread or Task that a thread waits for, where that can be seen.
    """
    if has_gil():
        stacks = {}
        for ident, frame in cpython.current_frames().items():
            stacks[ident] = _stack_of(frame)
            each: types.FrameType | None = frame
            while each is not None and each.f_code.co_filename.startswith(_WAITING_FILES):
                if each.f_code in _WAITING_CODES:
                    held[ident] = each.f_locals.get("self")
                elif each.f_code in names.partners:
                    held[ident] = each.f_locals["self"].task
                    break
                each = each.f_back
        return stacks
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return _parse(file.read())


_WAITING_CODES = {
    Future.result.__code__,
    Future.exception.__code__,
    threading.Thread.join.__code__,
}
_WAITING_FILES = (_PACKAGE, *{code.co_filename for code in _WAITING_CODES})


def _stack_of(frame: types.FrameType | None) -> tuple[Frame, ...]:
    frames: list[Frame] = []
    while frame is not None:
        code = frame.f_code
        frames.append(Frame(code.co_filename, frame.f_lineno or 0, code.co_name))
        frame = frame.f_back
    return tuple(reversed(frames))


_THREAD_LINE = re.compile(r"(?:Current thread|Thread) 0x([0-9a-f]+)")
_FRAME_LINE = re.compile(r'  File "(.*)", line (\d+|\?\?\?) in (.*)')


def _parse(text: str) -> dict[int, tuple[Frame, ...]]:
    found: dict[int, list[Frame]] = {}
    frames: list[Frame] = []
    for line in text.splitlines():
        thread = _THREAD_LINE.match(line)
        if thread:
            frames = found.setdefault(int(thread[1], 16), [])
            continue
        frame = _FRAME_LINE.match(line)
        if frame:
            frames.append(Frame(frame[1], int(frame[2]) if frame[2].isdigit() else 0, frame[3]))
    return {ident: tuple(reversed(frames)) for ident, frames in found.items()}


def of_coroutine(coroutine: Any) -> tuple[Frame, ...]:
    """The frames of a coroutine and of those it awaits, innermost last."""
    frames: list[Frame] = []
    for _ in range(1000):
        for prefix, awaited in (("cr_", "await"), ("gi_", "yieldfrom"), ("ag_", "await")):
            frame = getattr(coroutine, f"{prefix}frame", None)
            further = getattr(coroutine, prefix + awaited, None)
            if frame is not None or further is not None:
                break
        else:
            break
        # Not of a compiled one, which has no lines.
        if frame is not None and not frame.f_code.co_filename.endswith(".pxi"):
            code = frame.f_code
            frames.append(Frame(code.co_filename, frame.f_lineno or 0, code.co_name))
        coroutine = further
    return tuple(frames)
