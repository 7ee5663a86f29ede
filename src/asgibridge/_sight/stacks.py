"""The stacks of threads and of coroutines, and what their Python frames tell."""

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
import traceback
import types
from concurrent.futures import Future
from typing import Any

from .._loops import kept, persistent
from .._process import cpython, threads
from .._waits import names
from .snapshot import Frame

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_WAITS = os.path.dirname(os.path.abspath(names.__file__)) + os.sep
_STANDARD = os.path.dirname(os.path.abspath(os.__file__)) + os.sep
_ASYNCIO = os.path.dirname(asyncio.__file__)
_POOL_WORKER = (concurrent.futures.thread.__file__, "_worker")
_BEFORE_WAITS = {
    (asyncio.base_events.__file__, "call_soon_threadsafe"),
    (threading.__file__, "start"),
}
# Innermost while the C code that they call waits for something to do.
_IDLE = {
    (function.__code__.co_filename, function.__code__.co_name)
    for function in (
        threads.Worker._serve,
        kept.run,
        kept._KeptLoop.run,
        persistent.PersistentLoop._run,
    )
}


def is_free(stack: tuple[Frame, ...]) -> bool:
    """Whether a pool's thread, which runs none of our calls, waits for something to do."""
    return (
        not stack
        or stack[-1].file.startswith(_PACKAGE)
        or (stack[-1].file, stack[-1].function) == _POOL_WORKER
    )


def is_idle(stack: tuple[Frame, ...]) -> bool:
    """Whether a loop's thread is where its loop waits for events, or on the way there."""
    return (
        not stack
        or stack[-1].file == selectors.__file__
        or os.path.dirname(stack[-1].file) == _ASYNCIO
        or (stack[-1].file, stack[-1].function) in _IDLE
    )


def place(stack: tuple[Frame, ...]) -> str:
    """The innermost line outside of this package, if possible also of the standard library."""
    found = [frame for frame in reversed(stack) if not frame.file.startswith(_PACKAGE)]
    programs = [
        frame
        for frame in found
        if not frame.file.startswith(("<", _STANDARD)) or "site-packages" in frame.file
    ]
    return next((f"at {each.file}:{each.line} in {each.function}" for each in programs + found), "")


def is_async_to_sync(frame: Frame) -> bool:
    """Whether a thread waits in this Python frame, or further in, for an async function."""
    return _is_of(frame, names.waiting)


def is_with_a_partner(stack: tuple[Frame, ...]) -> bool:
    """Whether a thread waits for a partner, and runs nothing of the program's meanwhile."""
    codes = [getattr(cls, name).__code__ for cls in names.partners for name in ("_ask", "close")]
    is_ours = True
    for frame in reversed(stack):
        if _is_of(frame, codes):
            return is_ours
        # Before it waits, it wakes the loop, or starts its thread; that may go on before the
        # function has returned. While it waits, it looks for deadlocks, and asks other modules.
        is_ours = (
            frame.file.startswith(_WAITS)
            or (frame.file, frame.function) in _BEFORE_WAITS
            or (is_ours and frame.file.startswith(_WAITING_FILES))
        )
    return False


def _is_of(frame: Frame, codes: list[types.CodeType]) -> bool:
    return any(
        frame.file == code.co_filename
        and frame.function == code.co_name
        and code.co_firstlineno
        <= frame.line
        <= max(line for _, line in dis.findlinestarts(code) if line)
        for code in codes
    )


def of_threads(held: dict[int, Any]) -> dict[int, tuple[Frame, ...]]:
    """The Python stack of each thread, by ident, innermost last.

    :param held: gets the Future or Thread that a thread waits for, where its stack shows it.
    """
    if cpython.is_gil_enabled():
        stacks = {}
        for ident, frame in cpython.current_frames().items():
            stacks[ident] = _stack_of(frame)
            each: types.FrameType | None = frame
            while each is not None and each.f_code.co_filename.startswith(_WAITING_FILES):
                if each.f_code in _WAITING_CODES:
                    held[ident] = each.f_locals.get("self")
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


def _stack_of(innermost: types.FrameType) -> tuple[Frame, ...]:
    return tuple(
        Frame(frame.f_code.co_filename, line or 0, frame.f_code.co_name)
        for frame, line in reversed(list(traceback.walk_stack(innermost)))
    )


_THREAD_LINE = re.compile(r"(?:Current thread|Thread) 0x([0-9a-f]+)")
_FRAME_LINE = re.compile(r'  File "(.*)", line (\d+|\?\?\?) in (.*)')


def _parse(text: str) -> dict[int, tuple[Frame, ...]]:
    # faulthandler's text: lines of frames, innermost first, after a line for their thread.
    found: dict[int, list[Frame]] = {}
    frames: list[Frame] = []
    for line in text.splitlines():
        if thread := _THREAD_LINE.match(line):
            frames = found.setdefault(int(thread[1], 16), [])
        elif frame := _FRAME_LINE.match(line):
            frames.append(Frame(frame[1], int(frame[2]) if frame[2].isdigit() else 0, frame[3]))
    return {ident: tuple(reversed(frames)) for ident, frames in found.items()}


def of_coroutine(coroutine: Any) -> tuple[Frame, ...]:
    """The Python frames of a coroutine and of those that it awaits, innermost last."""
    frames: list[Frame] = []
    for _ in range(1000):  # arbitrary: they may change while a dump reads them
        for prefix, awaited in (("cr_", "await"), ("gi_", "yieldfrom"), ("ag_", "await")):
            frame = getattr(coroutine, f"{prefix}frame", None)
            further = getattr(coroutine, prefix + awaited, None)
            if frame is not None or further is not None:
                break
        else:
            break
        # The frame of a compiled coroutine has no lines.
        if frame is not None and not frame.f_code.co_filename.endswith(".pxi"):
            code = frame.f_code
            frames.append(Frame(code.co_filename, frame.f_lineno or 0, code.co_name))
        coroutine = further
    return tuple(frames)
