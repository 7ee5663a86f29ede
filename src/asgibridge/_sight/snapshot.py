"""Who waits for whom, found out by looking: nothing was noted down beforehand.

The collector knows every loop, call and executor there is; from these follow a graph's edges:

* a **task** waits for a call, for other tasks, or (if it is ready to run) for its loop;
* a **call** waits for the thread that runs it, or that it is queued for;
* a **thread** in `async_to_sync` waits for the task it has started, or, if that has not begun, for
  the loop that is to begin it;
* a **loop** whose thread is busy waits for that thread.

Who is waited for, and waits for nobody we know of, is a *culprit*; a way that comes back to where
it was is a *cycle*. A thread that waits for a lock, a socket or a foreign future is shown with its
stack: whose turn that is, nobody can know.

**Safety.** A dump is taken while other threads run. It takes no lock that a call takes, and calls
nothing of the user's but ``repr`` of task names. With the GIL a thread that is looked at stands
still. Without it, stacks of threads are had from `faulthandler`, which stops the world, and tasks
are asked on their loop's own thread; only those of a loop that does not answer, which is busy with
something else than its tasks, are looked at from outside.
"""

from __future__ import annotations

import asyncio
import dis
import faulthandler
import functools
import gc
import linecache
import os
import re
import sys
import tempfile
import threading
import types
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from .. import _kernel, runners, sync
from .._process import threads

__all__ = ["Call", "Frame", "Snapshot", "Task", "Thread", "take"]

_ANSWER_SECONDS = 0.5
_OURS = (__file__, os.path.join(os.path.dirname(os.path.dirname(__file__)), "debug.py"))
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep

Node = tuple[str, int]


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
    """``running`` or ``queued``."""
    thread: str | None
    """The name of the thread that runs it, or that it is queued for."""
    seconds: float | None
    """For how long it has been running or queued; None if timings are not collected."""
    waits_for: tuple[str, ...]
    """What it waits for, what that waits for, and so on."""


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
    """Whom calls wait for in the end, most waited for first."""
    cycles: tuple[tuple[str, ...], ...]
    """Those that wait for each other; each is waited for by the one before it, the first by the
    last."""
    calls: tuple[Call, ...]
    threads: tuple[Thread, ...]
    tasks: tuple[Task, ...]
    loops: tuple[str, ...]

    def __str__(self) -> str:
        lines = ["asgibridge: process {}, {} threads, {} calls"]
        lines[0] = lines[0].format(os.getpid(), len(self.threads), len(self.calls))
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
            where = {"running": "runs on", "queued": "is queued for"}[call.state]
            on = "a thread" if call.thread is None else f"thread {call.thread}"
            lines.append(f"  {call.function} {where} {on}{since}")
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


# --- looking -------------------------------------------------------------------------------------


def take() -> Snapshot:
    """Look at everything now. From any thread; of the calling one, only its callers are shown."""
    return _Look().snapshot()


@dataclass
class _SeenTask:
    task: Any
    waiter: Any
    is_current: bool
    stack: tuple[Frame, ...]
    wakes: tuple[Any, ...]  # futures that are done when this task is


class _Look:
    def __init__(self) -> None:
        self.kernel = _kernel.kernel
        self.now = self.kernel.now()
        self.edges: dict[Node, list[Node]] = {}
        self.words: dict[Node, str] = {}
        self.loops: list[Any] = []
        self.calls: list[tuple[Any, dict[str, Any]]] = []
        self.frames: list[tuple[Any, dict[str, Any]]] = []
        self.runs: list[runners.TopLevelRun] = []
        self.serves: dict[int, int] = {}  # the id of an inbox, and the ident of its thread
        self.inboxes: list[Any] = []
        self.tasks: list[tuple[Any, list[_SeenTask]]] = []
        self._find()
        # After the calls: a thread that begins in between is there, at least.
        self.names = {thread.ident: thread.name for thread in threading.enumerate()}
        self.held: dict[int, Any] = {}  # the Future or Thread that a thread waits for
        self.stacks = _stacks_of_threads(self.held)
        me = threading.get_ident()
        stack = self.stacks.get(me, ())
        while stack and stack[-1].file in _OURS:
            stack = stack[:-1]
        self.stacks[me] = stack
        self._look_at_tasks()
        self._connect()

    def _find(self) -> None:
        is_loop: dict[type, bool] = {}
        known = {self.kernel.SyncCall, runners.TopLevelRun}
        known |= {self.kernel.ThreadSensitiveExecutor, self.kernel.CurrentThreadExecutor}
        executors = []
        for thing in gc.get_objects():
            cls = type(thing)
            if cls in known:
                executors.append(thing)
                continue
            found = is_loop.get(cls)
            if found is None:
                found = is_loop[cls] = issubclass(cls, asyncio.AbstractEventLoop)
            if found:
                self.loops.append(thing)
        self.loops = [loop for loop in self.loops if _is_open(loop)]
        for thing in executors:
            if type(thing) is runners.TopLevelRun:
                self.runs.append(thing)
                continue
            details = self.kernel.details(thing)
            if details is None:
                continue
            if details["kind"] == "call":
                if details["is_counted"] and not details["is_done"] and details["function"]:
                    self.calls.append((thing, details))
            elif details["kind"] == "frame":
                if details["is_serving"]:
                    self.frames.append((thing, details))
                    self._add_inbox(details["inbox"], details["thread_ident"])
            elif details["worker"] is not None and details["inbox"] is not None:
                self._add_inbox(details["inbox"], details["worker"].ident or 0)
        # A loop from before a gc.freeze() is none of the collector's.
        known_loops = [details["loop"] for _call, details in self.calls]
        known_loops += [main[0] for main in [run._main for run in self.runs] if main is not None]
        for loop in known_loops:
            if _is_open(loop) and not any(loop is each for each in self.loops):
                self.loops.append(loop)
        for worker in threads.workers():
            self._add_inbox(worker._inbox, worker.ident or 0)

    def _add_inbox(self, inbox: Any, ident: int) -> None:
        if id(inbox) not in self.serves:
            self.serves[id(inbox)] = ident
            self.inboxes.append(inbox)

    def _look_at_tasks(self) -> None:
        me = threading.get_ident()
        asked = []
        if not getattr(sys, "_is_gil_enabled", lambda: True)():
            for loop in self.loops:
                if loop.is_running() and _thread_of(loop) != me:
                    asked.append((loop, _Question(loop)))
        answers = {id(loop): question.answer() for loop, question in asked}
        for loop in self.loops:
            seen = answers.get(id(loop))
            self.tasks.append((loop, _tasks_of(loop) if seen is None else seen))

    # --- what waits for what

    def _connect(self) -> None:
        wakes: dict[int, list[Node]] = {}
        self.wakes = wakes
        for _loop, tasks in self.tasks:
            for seen in tasks:
                for future in seen.wakes:
                    wakes.setdefault(id(future), []).append(("task", id(seen.task)))
        by_waiter = {
            id(details["waiter"]): ("call", id(call))
            for call, details in self.calls
            if details["waiter"] is not None
        }
        for ident in self.stacks:
            self.words["thread", ident] = self._words_of_thread(ident)
        queued = {}
        for inbox in self.inboxes:
            details = self.kernel.details(inbox)
            for item in () if details is None else details["items"]:
                queued[id(item)] = self.serves[id(inbox)]
        for call, details in self.calls:
            node = ("call", id(call))
            self.words[node] = f"the call of {function_words(details['function'])}"
            details["on"] = details["thread_ident"] or queued.get(id(call), 0)
            self.edges[node] = [("thread", details["on"])] if details["on"] else []
        for loop, tasks in self.tasks:
            loop_node: Node = ("loop", id(loop))
            ident = _thread_of(loop) or 0
            runs = loop.is_running()
            self.words[loop_node] = self._words_of_loop(loop, ident, runs)
            current = any(seen.is_current for seen in tasks)
            self.edges[loop_node] = (
                [("thread", ident)] if runs and ident and (current or self._is_busy(ident)) else []
            )
            for seen in tasks:
                node = ("task", id(seen.task))
                self.words[node] = _words_of_task(seen.task)
                if seen.is_current:
                    self.edges[node] = [("thread", ident)] if ident else []
                elif seen.waiter is None:
                    self.edges[node] = [loop_node]
                elif id(seen.waiter) in by_waiter:
                    self.edges[node] = [by_waiter[id(seen.waiter)]]
                elif isinstance(seen.waiter, asyncio.Task):
                    self.edges[node] = [("task", id(seen.waiter))]
                else:
                    self.edges[node] = wakes.get(id(seen.waiter), [])
        for ident in self.stacks:
            self.edges["thread", ident] = self._targets_of(ident)

    def _calls_on(self, ident: int) -> list[dict[str, Any]]:
        # Outermost first.
        found = [
            details
            for _call, details in self.calls
            if details["is_taken"] and details["thread_ident"] == ident
        ]
        return sorted(found, key=lambda details: details["started"])

    def _is_waiting(self, ident: int) -> bool:
        # Whether the innermost thing that the thread does is to wait in async_to_sync. Calls and
        # such frames alternate.
        frames = sum(1 for frame in self.stacks.get(ident, ()) if _is_async_to_sync(frame))
        calls = len(self._calls_on(ident))
        is_worker = any(worker.ident == ident for worker in threads.workers())
        return frames > 0 and (frames >= calls if is_worker else frames > calls)

    def _targets_of(self, ident: int) -> list[Node]:
        held = self.held.get(ident)
        if isinstance(held, threading.Thread):
            return [("thread", held.ident)] if held.ident in self.stacks else []
        if held is not None:
            return self.wakes.get(id(held), [])
        if not self._is_waiting(ident):
            return []
        calls = self._calls_on(ident)
        mine = [executor for executor, details in self.frames if details["thread_ident"] == ident]
        outer = {id(executor._old_executor) for executor in mine}
        innermost = {id(executor) for executor in mine if id(executor) not in outer}
        for run in self.runs:
            if id(run._executor) in innermost:
                main = run._main
                return [] if main is None else [("task", id(main[1]))]
        if calls:
            loop, tasks = _handler_of(calls[-1]["function"], self.kernel)
            if tasks:
                return [("task", id(tasks[-1]))]
            if loop is not None:
                return [("loop", id(loop))]
        return []

    def _is_busy(self, ident: int) -> bool:
        stack = self.stacks.get(ident, ())
        if not stack:
            return False
        innermost = stack[-1]
        directory = os.path.basename(os.path.dirname(innermost.file))
        if os.path.basename(innermost.file) == "selectors.py" or directory == "asyncio":
            return False  # in select(), or on the way there
        return not (innermost.file.startswith(_PACKAGE) and innermost.function in ("run", "_run"))

    # --- words

    def _words_of_thread(self, ident: int) -> str:
        name = self.names.get(ident) or f"of ident {ident}"
        words = f"thread {name}"
        calls = self._calls_on(ident)
        if calls:
            words += f", which runs {function_words(calls[-1]['function'])}"
            if calls[-1]["started"]:
                words += f" since {self.now - calls[-1]['started']:.1f} s"
        if self._is_waiting(ident):
            return f"{words}{' and' if calls else ', which'} waits in async_to_sync"
        stack = self.stacks.get(ident, ())
        found = [frame for frame in reversed(stack) if not frame.file.startswith(_PACKAGE)]
        # Where the program is, rather than where in the standard library.
        frame = next(
            (frame for frame in found if not _is_standard(frame)), found[0] if found else None
        )
        if frame is None:
            return words
        and_which = "and" if calls else "which"
        return f"{words}, {and_which} is at {frame.file}:{frame.line} in {frame.function}"

    def _words_of_loop(self, loop: Any, ident: int, runs: bool) -> str:
        words = f"the event loop {type(loop).__name__} at {id(loop):#x}"
        if not runs:
            return f"{words}, which is not running: nobody will run what was given to it"
        return f"{words} of thread {self.names.get(ident, 'unknown')}"

    # --- the result

    def _follow(self, start: Node) -> list[Node]:
        way: list[Node] = []
        node = start
        while True:
            nodes = self.edges.get(node, [])
            if not nodes or nodes[0] in way or way[-1:] == [start]:
                return way
            node = nodes[0]
            way.append(node)

    def _describe(self, node: Node) -> str:
        return self.words.get(node) or f"a {node[0]} that has just ended"

    def snapshot(self) -> Snapshot:
        cycles = self._cycles()
        in_cycles = {node for cycle in cycles for node in cycle}
        waited: dict[Node, int] = {}
        starts: list[Node] = [("call", id(call)) for call, _details in self.calls]
        starts += [("thread", ident) for ident in self.stacks if not self._calls_on(ident)]
        for start in starts:
            for end in self._ends(start):
                if end != start and end not in in_cycles:
                    waited[end] = waited.get(end, 0) + 1
        ordered = sorted(waited, key=lambda node: -waited[node])
        culprits = []
        for node in ordered:
            n = waited[node]
            culprits.append(
                f"{self._describe(node)}{self._place_of(node)}: "
                f"{n} {'call or thread waits' if n == 1 else 'calls and threads wait'} for it"
            )
        calls = []
        for call, details in self.calls:
            since = details["started"] if details["is_taken"] else details["submitted"]
            calls.append(
                Call(
                    function=function_words(details["function"]),
                    state="running" if details["is_taken"] else "queued",
                    thread=self.names.get(details["on"]) if details["on"] else None,
                    seconds=self.now - since if since else None,
                    waits_for=self._way(("call", id(call))),
                )
            )
        calls.sort(key=lambda each: -(each.seconds or 0))
        seen_threads = [
            Thread(self.names.get(ident) or "?", ident, self._way(("thread", ident)), stack)
            for ident, stack in self.stacks.items()
        ]
        loops, tasks = [], []
        for loop, seen_tasks in self.tasks:
            if not seen_tasks and not loop.is_running():
                continue
            words = self._describe(("loop", id(loop)))
            loops.append(words)
            for seen in seen_tasks:
                node = ("task", id(seen.task))
                tasks.append(Task(self._describe(node), words, self._way(node), seen.stack))
        return Snapshot(
            culprits=tuple(culprits),
            cycles=tuple(tuple(self._describe(node) for node in cycle) for cycle in cycles),
            calls=tuple(calls),
            threads=tuple(seen_threads),
            tasks=tuple(tasks),
            loops=tuple(loops),
        )

    def _way(self, node: Node) -> tuple[str, ...]:
        return tuple(self._describe(each) for each in self._follow(node))

    def _ends(self, node: Node) -> list[Node]:
        # Those that a node waits for in the end.
        ends: list[Node] = []
        seen: set[Node] = set()
        todo = [node]
        while todo:
            node = todo.pop()
            if node in seen:
                continue
            seen.add(node)
            further = self.edges.get(node, [])
            if not further:
                ends.append(node)
            todo += reversed(further)
        return ends

    def _place_of(self, node: Node) -> str:
        if node[0] != "task":
            return ""
        for _loop, tasks in self.tasks:
            for seen in tasks:
                if id(seen.task) == node[1] and seen.stack:
                    frame = seen.stack[-1]
                    return f", which awaits at {frame.file}:{frame.line} in {frame.function}"
        return ""

    def _cycles(self) -> list[list[Node]]:
        cycles: list[list[Node]] = []
        done: set[Node] = set()
        for start in list(self.edges):
            self._search(start, [], set(), done, cycles)
        return cycles

    def _search(
        self,
        start: Node,
        way: list[Node],
        on_way: set[Node],
        done: set[Node],
        cycles: list[list[Node]],
    ) -> None:
        # Depth first, without recursion: a chain may be long.
        todo: list[tuple[Node, int]] = [(start, 0)]
        while todo:
            node, i = todo.pop()
            if i == 0:
                if node in done:
                    continue
                way.append(node)
                on_way.add(node)
            further = self.edges.get(node, [])
            if i < len(further):
                todo.append((node, i + 1))
                if further[i] in on_way:
                    cycles.append(way[way.index(further[i]) :])
                elif further[i] not in done:
                    todo.append((further[i], 0))
                continue
            way.pop()
            on_way.discard(node)
            done.add(node)


# --- threads -------------------------------------------------------------------------------------

_CODE = sync._CALL.__code__
_CODE_LINES = range(
    _CODE.co_firstlineno, max(line for _, line in dis.findlinestarts(_CODE) if line) + 1
)


_STANDARD = os.path.dirname(os.path.abspath(os.__file__)) + os.sep


def _is_standard(frame: Frame) -> bool:
    return frame.file.startswith(("<", _STANDARD)) and "site-packages" not in frame.file


def _is_async_to_sync(frame: Frame) -> bool:
    return (
        frame.file == _CODE.co_filename
        and frame.function == _CODE.co_name
        and frame.line in _CODE_LINES
    )


def _stacks_of_threads(held: dict[int, Any]) -> dict[int, tuple[Frame, ...]]:
    if getattr(sys, "_is_gil_enabled", lambda: True)():
        stacks = {}
        for ident, frame in sys._current_frames().items():
            stacks[ident] = _stack_of(frame)
            each: types.FrameType | None = frame
            while each is not None and each.f_code.co_filename in _WAITING_FILES:
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
_WAITING_FILES = {code.co_filename for code in _WAITING_CODES}


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


# --- functions -----------------------------------------------------------------------------------


def _handler_of(function: Any, kernel: Any) -> tuple[Any, list[Any]]:
    # The loop that a call came from, and the tasks that its function waits for.
    details = kernel.details(function)
    if details is not None and details["kind"] == "handler":
        return details["loop"], _tasks_in(details["tasks"])
    if isinstance(function, functools.partial) and len(function.args) >= 3:
        loop, _exc_info, tasks = function.args[:3]  # a thread_handler's
        if isinstance(loop, asyncio.AbstractEventLoop) and isinstance(tasks, list):
            return loop, _tasks_in(tasks)
    return None, []


def _tasks_in(tasks: list[Any]) -> list[Any]:
    return [task for task in list(tasks) if isinstance(task, asyncio.Task)]


def function_words(function: Any) -> str:
    """The qualified name of the user's function that a call is about, with its file and line."""
    kernel = _kernel.kernel
    while True:
        details = kernel.details(function)
        if details is not None and details["kind"] == "handler":
            function = details["function"]
        elif isinstance(function, functools.partial):
            handler = _handler_of(function, kernel)[0]
            function = function.func if handler is None else function.args[-1]
        elif type(function).__name__ == "_ObservedFunction":
            function = function._function
        elif isinstance(function, sync.AsyncToSync):
            function = function.awaitable
        else:
            break
    code = getattr(function, "__code__", None)
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    if isinstance(code, types.CodeType):
        return f"{name} ({code.co_filename}:{code.co_firstlineno})"
    module = getattr(function, "__module__", None)
    return f"{module}.{name}" if module else str(name)


# --- tasks ---------------------------------------------------------------------------------------


class _Question:
    """What a loop is asked, to be answered on its thread."""

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self._done = threading.Event()
        self._tasks: list[_SeenTask] | None = None
        try:
            loop.call_soon_threadsafe(self._look)
        except RuntimeError:
            self._done.set()

    def _look(self) -> None:
        try:
            self._tasks = _tasks_of(self._loop)
        finally:
            self._done.set()

    def answer(self) -> list[_SeenTask] | None:
        self._done.wait(_ANSWER_SECONDS)
        return self._tasks


def _is_open(loop: Any) -> bool:
    try:
        return not loop.is_closed()
    except Exception:  # one that is being made, or somebody's stand-in
        return False


def _thread_of(loop: Any) -> int | None:
    ident = getattr(loop, "_thread_id", None)
    if isinstance(ident, int) and ident:
        return ident
    if not loop.is_running():
        return None
    if getattr(sys, "_is_gil_enabled", lambda: True)():
        for ident, frame in sys._current_frames().items():
            each: types.FrameType | None = frame
            while each is not None:
                if each.f_code.co_name in ("run", "run_until_complete", "run_forever"):
                    runner = each.f_locals.get("self")
                    if runner is loop or getattr(runner, "_loop", None) is loop:
                        return ident
                    if each.f_locals.get("loop") is loop:
                        return ident
                each = each.f_back
    return None


def _tasks_of(loop: Any) -> list[_SeenTask]:
    try:
        tasks = asyncio.all_tasks(loop)
        current = asyncio.current_task(loop)
    except RuntimeError:  # they change faster than one can look
        return []
    return [
        _SeenTask(
            task,
            getattr(task, "_fut_waiter", None),
            task is current,
            _stack_of_coroutine(task.get_coro()),
            tuple(_woken_by(task)),
        )
        for task in sorted(tasks, key=lambda task: task.get_name())
    ]


def _stack_of_coroutine(coroutine: Any) -> tuple[Frame, ...]:
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


def _woken_by(task: Any) -> Iterable[Any]:
    # The futures that others wait for until this task is done: gather, wait, wait_for, shield and
    # TaskGroup have a callback that knows theirs.
    for callback, _context in list(getattr(task, "_callbacks", None) or ()):
        yield from getattr(callback, "args", ())
        for cell in getattr(callback, "__closure__", None) or ():
            try:
                yield cell.cell_contents
            except ValueError:
                continue
        owner = getattr(callback, "__self__", None)
        if owner is not None:
            yield owner
            yield getattr(owner, "_on_completed_fut", None)


def _words_of_task(task: Any) -> str:
    coroutine = task.get_coro()
    while True:
        code = getattr(coroutine, "cr_code", None) or getattr(coroutine, "gi_code", None)
        inner = getattr(coroutine, "cr_await", None)
        if code is None or code.co_filename not in _DRIVERS or not hasattr(inner, "cr_code"):
            break
        coroutine = inner  # what the task is about
    name = getattr(coroutine, "__qualname__", None) or type(coroutine).__qualname__
    place = f" ({code.co_filename}:{code.co_firstlineno})" if code is not None else ""
    return f"task {task.get_name()!r} of {name}{place}"


_DRIVERS = tuple(
    os.path.join(_PACKAGE, *parts)
    for parts in (("_pure", "drive.py"), ("runners.py",), ("observers.py",))
)
