"""Who waits for whom, found out by looking: nothing was noted down beforehand.

The collector knows every loop, call and executor there is; from these follow a graph's edges:

* a **task** waits for a call, for other tasks, for what somebody has to give back (all these as
  `asgibridge._waits.edges` tells them, also to the proof of deadlocks), for a future whose setter
  can be told, or (if it is ready to run) for its loop;
* a **call** waits for a token of its limiter or a worker, then for the thread that runs it, or that
  it is queued for, or for a pool of threads;
* a **token** or a **worker** is waited for from any one of those that have one; so is a **pool**
  whose threads are all busy;
* a **thread** in `async_to_sync` waits for the task it has started, or, if that has not begun, for
  the loop that is to begin it;
* a **loop** whose thread is busy waits for that thread.

Who is waited for, and waits for nobody we know of, is a *culprit*; a way that comes back to where
it was is a *cycle*, if nothing on it can go on. A thread that waits for a lock, a socket or a
foreign future is shown with its stack: whose turn that is, nobody can know.

**Safety.** A dump is taken while other threads run. It takes no lock that a call takes, and calls
nothing of the user's but ``repr`` of task names. With the GIL a thread that is looked at stands
still. Without it, stacks of threads are had from `faulthandler`, which stops the world, and tasks
are asked on their loop's own thread; only those of a loop that does not answer, which is busy with
something else than its tasks, are looked at from outside.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import types
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from .. import _kernel, runners
from .._process import cpython, threads
from .._process.handover import call_if_open
from .._waits import edges
from .._waits.names import function_words
from . import names, stacks
from .snapshot import Call, Frame, Snapshot, Task, Thread

__all__ = ["take"]

_ANSWER_SECONDS = 0.5

Node = tuple[str, int]


def take(asker: str) -> Snapshot:
    """Look at everything now. From any thread.

    :param asker: the file of who asks; of the calling thread its frames, and ours, are left out.
    """
    return _Reader(
        (asker, take.__code__.co_filename, stacks.of_threads.__code__.co_filename)
    ).snapshot()


@dataclass
class _SeenTask:
    task: Any
    edge: edges.Edge
    is_current: bool
    stack: tuple[Frame, ...]
    wakes: tuple[Any, ...]  # futures that are done when this task is


class _Reader:
    def __init__(self, ours: tuple[str, ...]) -> None:
        self.kernel = _kernel.kernel
        self.now = self.kernel.now()
        self.edges: dict[Node, list[Node]] = {}
        self.words: dict[Node, str] = {}
        self.is_any: set[Node] = set()  # of whose edges one is enough
        self.places: dict[Node, str] = {}  # where a task awaits
        self.loops: list[Any] = []
        self.calls: list[tuple[Any, dict[str, Any]]] = []
        self.frames: list[tuple[Any, dict[str, Any]]] = []
        self.runs: list[runners.TopLevelRun] = []
        self.inboxes: dict[int, tuple[Any, list[int]]] = {}  # by id, and their threads' idents
        self.tasks: list[tuple[Any, list[_SeenTask]]] = []
        self.workers = {worker.ident: worker for worker in threads.workers()}
        self._find()
        # After the calls: a thread that begins in between is there, at least.
        self.names = {thread.ident: thread.name for thread in threading.enumerate()}
        self.held: dict[int, Any] = {}  # the Future, Thread or Task that a thread waits for
        self.stacks = stacks.of_threads(self.held)
        me = threading.get_ident()
        stack = self.stacks.get(me, ())
        while stack and stack[-1].file in ours:
            stack = stack[:-1]
        self.stacks[me] = stack
        self._look_at_tasks()
        self._connect()

    def _find(self) -> None:
        known = (
            self.kernel.SyncCall,
            runners.TopLevelRun,
            self.kernel.ThreadSensitiveExecutor,
            self.kernel.CurrentThreadExecutor,
            asyncio.AbstractEventLoop,
        )
        is_known: dict[type, bool] = {}
        found = []
        for thing in gc.get_objects():
            cls = type(thing)
            if cls not in is_known:
                is_known[cls] = issubclass(cls, known)
            if is_known[cls]:
                found.append(thing)
        for thing in found:
            if issubclass(type(thing), asyncio.AbstractEventLoop):
                if _is_open(thing):
                    self.loops.append(thing)
                continue
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
                self._add_inbox(details["inbox"], details["worker"].ident)
        # A loop from before a gc.freeze() is none of the collector's.
        known_loops = [details["loop"] for _call, details in self.calls]
        known_loops += [main[0] for main in [run._main for run in self.runs] if main is not None]
        for loop in known_loops:
            if _is_open(loop) and not any(loop is each for each in self.loops):
                self.loops.append(loop)
        for ident, worker in self.workers.items():
            self._add_inbox(worker._inbox, ident)

    def _add_inbox(self, inbox: Any, ident: int | None) -> None:
        idents = self.inboxes.setdefault(id(inbox), (inbox, []))[1]
        if ident and ident not in idents:
            idents.append(ident)

    def _look_at_tasks(self) -> None:
        me = threading.get_ident()
        asked = []
        if not stacks.has_gil():
            for loop in self.loops:
                if loop.is_running() and _thread_of(loop) != me:
                    asked.append((loop, _Question(loop)))
        answers = {id(loop): question.answer() for loop, question in asked}
        for loop in self.loops:
            seen = answers.get(id(loop))
            self.tasks.append((loop, _tasks_of(loop) if seen is None else seen))

    # --- what waits for what

    def _connect(self) -> None:
        self.wakes: dict[int, list[Node]] = {}
        waits: dict[int, edges.Wait] = {}
        for _loop, tasks in self.tasks:
            for seen in tasks:
                for future in seen.wakes:
                    self.wakes.setdefault(id(future), []).append(("task", id(seen.task)))
                if seen.edge.kind == "wait":
                    waits[id(seen.edge.to)] = seen.edge.to
        waited_by = {id(wait.call): wait for wait in waits.values() if wait.call is not None}
        self.nodes: dict[int, Node] = {}  # of calls
        self.calls_on: dict[int, list[dict[str, Any]]] = {}  # outermost first
        for call, details in self.calls:
            self.nodes[id(call)] = ("call", id(call))
            if details["is_taken"] and details["thread_ident"]:
                self.calls_on.setdefault(details["thread_ident"], []).append(details)
        for found in self.calls_on.values():
            found.sort(key=lambda details: details["started"])
        for ident in self.stacks:
            self.words["thread", ident] = self._words_of_thread(ident)
        self._connect_calls(waited_by)
        for loop, tasks in self.tasks:
            loop_node: Node = ("loop", id(loop))
            ident = _thread_of(loop) or 0
            runs = loop.is_running()
            self.words[loop_node] = self._words_of_loop(loop, ident, runs)
            is_busy = any(seen.is_current for seen in tasks) or not stacks.is_idle(
                self.stacks.get(ident, ())
            )
            self.edges[loop_node] = [("thread", ident)] if runs and ident and is_busy else []
            for seen in tasks:
                node: Node = ("task", id(seen.task))
                self.words[node] = names.task_words(seen.task)
                for frame in seen.stack[-1:]:
                    place = f"{frame.file}:{frame.line} in {frame.function}"
                    self.places[node] = f", which awaits at {place}"
                if seen.is_current:
                    self.edges[node] = [("thread", ident)] if ident else []
                elif seen.edge.kind == "ready":
                    self.edges[node] = [loop_node]
                else:
                    self.edges[node] = self._targets_of_task(seen.edge)
        for wait in waits.values():
            node = ("wait", id(wait))
            self.is_any.add(node)
            self.words[node] = wait.what
            self.edges[node] = [self._node_of(each) for each in wait.borrowers()]
        for ident in self.stacks:
            self.edges["thread", ident] = self._targets_of_thread(ident)

    def _connect_calls(self, waited_by: dict[int, edges.Wait]) -> None:
        queued = {}
        for inbox, _idents in self.inboxes.values():
            details = self.kernel.details(inbox)
            for item in () if details is None else details["items"]:
                queued[id(item)] = inbox
        for call, details in self.calls:
            node: Node = ("call", id(call))
            self.words[node] = f"the call of {function_words(details['function'])}"
            details["on"] = 0
            inbox = queued.get(id(call), details["inbox"])
            wait = waited_by.get(id(call))
            if details["is_taken"]:
                details["state"], details["on"] = "running", details["thread_ident"]
            elif inbox is None and wait is not None:
                details["state"] = "waiting"
                self.edges[node] = [("wait", id(wait))]
                continue
            else:
                details["state"] = "queued"
                idents = self._threads_of(inbox)
                if self._is_pool(inbox):
                    self.edges[node] = [self._node_of_pool(inbox, idents)]
                    continue
                details["on"] = idents[0] if idents else 0
            self.edges[node] = [("thread", details["on"])] if details["on"] else []

    def _is_pool(self, inbox: Any) -> bool:
        return issubclass(type(inbox), (self.kernel.PoolInbox, ThreadPoolExecutor))

    def _threads_of(self, inbox: Any) -> list[int]:
        if issubclass(type(inbox), ThreadPoolExecutor):
            return [thread.ident for thread in list(inbox._threads) if thread.ident]
        details = self.kernel.details(inbox)
        if details is not None and details["kind"] == "executor":
            inbox = details["inbox"]
        return self.inboxes.get(id(inbox), (None, []))[1]

    def _node_of_pool(self, inbox: Any, idents: list[int]) -> Node:
        node: Node = ("pool", id(inbox))
        if node not in self.words:
            busy = [ident for ident in idents if self._is_busy(ident)]
            self.words[node] = f"a pool of threads, {len(busy)} of {len(idents)} busy"
            self.is_any.add(node)
            # Else one is on its way to what is queued.
            self.edges[node] = (
                [("thread", ident) for ident in idents] if len(busy) == len(idents) else []
            )
        return node

    def _is_busy(self, ident: int) -> bool:
        # A thread of a pool: with one of our calls, or with whatever was submitted to it.
        return ident in self.calls_on or not stacks.is_free(self.stacks.get(ident, ()))

    def _is_waiting(self, ident: int) -> bool:
        # Whether the innermost thing that the thread does is to wait in async_to_sync. Calls and
        # such frames alternate.
        frames = sum(1 for frame in self.stacks.get(ident, ()) if stacks.is_async_to_sync(frame))
        calls = len(self.calls_on.get(ident, ()))
        return frames > 0 and (frames >= calls if ident in self.workers else frames > calls)

    def _node_of(self, thing: Any) -> Node:
        # Of a call, a task, a thread, an executor of one thread, or whatever has borrowed a token.
        if id(thing) in self.nodes:
            return self.nodes[id(thing)]
        if issubclass(type(thing), asyncio.Future):
            return ("task", id(thing))
        if issubclass(type(thing), threading.Thread):
            return ("thread", thing.ident or 0)
        details = self.kernel.details(thing)
        if details is not None and details["kind"] == "executor" and details["worker"] is not None:
            return ("thread", details["worker"].ident or 0)
        node: Node = ("object", id(thing))
        self.words[node] = f"an object of {type(thing).__qualname__} that stands for a borrower"
        return node

    def _targets_of_task(self, edge: edges.Edge) -> list[Node]:
        if edge.kind == "wait":
            call = self.nodes.get(id(edge.to.call))
            return [("wait", id(edge.to)) if call is None else call]
        if edge.kind == "call":
            if id(edge.to) in self.nodes:
                return [self.nodes[id(edge.to)]]
            task = edges.innermost(edge.blocker)
            return [] if task is None else [("task", id(task))]
        if edge.kind == "future":
            return self.wakes.get(id(edge.to), [])
        return [("task", id(task)) for task in (edge.to if edge.kind == "tasks" else [edge.to])]

    def _targets_of_thread(self, ident: int) -> list[Node]:
        held = self.held.get(ident)
        if isinstance(held, threading.Thread):
            return [("thread", held.ident)] if held.ident in self.stacks else []
        if isinstance(held, asyncio.Task):
            return [("task", id(held))]
        if held is not None:
            return self.wakes.get(id(held), [])
        if not self._is_waiting(ident):
            return []
        mine = [executor for executor, details in self.frames if details["thread_ident"] == ident]
        outer = {id(executor._old_executor) for executor in mine}
        innermost = {id(executor) for executor in mine if id(executor) not in outer}
        for run in self.runs:
            if id(run._executor) in innermost:
                main = run._main
                return [] if main is None else [("task", id(main[1]))]
        for details in self.calls_on.get(ident, [])[-1:]:
            task = edges.innermost(details["tasks"])
            return [("loop", id(details["loop"])) if task is None else ("task", id(task))]
        return []

    # --- words

    def _words_of_thread(self, ident: int) -> str:
        words = f"thread {self.names.get(ident) or f'of ident {ident}'}"
        calls = self.calls_on.get(ident)
        and_which = "which"
        if calls:
            and_which = "and"
            words += f", which runs {function_words(calls[-1]['function'])}"
            if calls[-1]["started"]:
                words += f" since {self.now - calls[-1]['started']:.1f} s"
        if self._is_waiting(ident):
            return f"{words}{'' if calls else ','} {and_which} waits in async_to_sync"
        place = stacks.place(self.stacks.get(ident, ()))
        return f"{words}, {and_which} is {place}" if place else words

    def _words_of_loop(self, loop: Any, ident: int, runs: bool) -> str:
        words = f"the event loop {type(loop).__name__} at {id(loop):#x}"
        if not runs:
            return f"{words}, which is not running: nobody will run what was given to it"
        return f"{words} of thread {self.names.get(ident, 'unknown')}"

    # --- the result

    def _describe(self, node: Node) -> str:
        return self.words.get(node) or f"a {node[0]} that has just ended"

    def snapshot(self) -> Snapshot:
        waited: dict[Node, int] = {}
        starts: list[Node] = [("call", id(call)) for call, _details in self.calls]
        starts += [("thread", ident) for ident in self.stacks if ident not in self.calls_on]
        for start in starts:
            for end in self._ends(start):
                if end != start:
                    waited[end] = waited.get(end, 0) + 1
        ordered = sorted(waited, key=lambda node: -waited[node])
        culprits = [
            f"{self._describe(node)}{self.places.get(node, '')}: {waited[node]} "
            f"{'call or thread waits' if waited[node] == 1 else 'calls and threads wait'} for it"
            for node in ordered
        ]
        calls = []
        for call, details in self.calls:
            since = details["started"] if details["is_taken"] else details["submitted"]
            calls.append(
                Call(
                    function=function_words(details["function"]),
                    state=details["state"],
                    thread=self.names.get(details["on"]),
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
            cycles=tuple(tuple(self._describe(node) for node in cycle) for cycle in self._cycles()),
            calls=tuple(calls),
            threads=tuple(seen_threads),
            tasks=tuple(tasks),
            loops=tuple(loops),
        )

    def _way(self, start: Node) -> tuple[str, ...]:
        way: list[Node] = []
        further = self.edges.get(start, [])
        while further and further[0] not in way and way[-1:] != [start]:
            way.append(further[0])
            further = self.edges.get(way[-1], [])
        return tuple(self._describe(each) for each in way)

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

    def _cycles(self) -> list[list[Node]]:
        # Depth first, without recursion: a chain may be long.
        cycles: list[list[Node]] = []
        done = self._that_may_go_on()
        for start in list(self.edges):
            way: list[Node] = []
            todo: list[tuple[Node, int]] = [(start, 0)]
            while todo:
                node, i = todo.pop()
                if i == 0:
                    if node in done:
                        continue
                    way.append(node)
                if i == len(self.edges[node]):
                    done.add(way.pop())
                    continue
                further = self.edges[node][i]
                todo.append((node, i + 1))
                if further in way:
                    cycles.append(way[way.index(further) :])
                else:
                    todo.append((further, 0))
        return cycles

    def _that_may_go_on(self) -> set[Node]:
        # As far as known: those that wait for nobody; those that wait for any one of several if one
        # of them may; those that wait for all if all may.
        waiting: dict[Node, list[Node]] = {}
        missing: dict[Node, int] = {}
        for node, further in self.edges.items():
            missing[node] = 1 if node in self.is_any else len(further)
            for each in further:
                waiting.setdefault(each, []).append(node)
        todo = [node for node in {*waiting, *self.edges} if not self.edges.get(node)]
        found: set[Node] = set()
        while todo:
            node = todo.pop()
            if node in found:
                continue
            found.add(node)
            for each in waiting.get(node, ()):
                missing[each] -= 1
                if missing[each] == 0:
                    todo.append(each)
        return found


class _Question:
    """What a loop is asked, to be answered on its thread."""

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self._done = threading.Event()
        self._tasks: list[_SeenTask] | None = None
        if not call_if_open(loop, self._look):
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
    ident = cpython.thread_of_loop(loop)
    if ident:
        return ident
    if not loop.is_running():
        return None
    if stacks.has_gil():
        for ident, frame in cpython.current_frames().items():
            each: types.FrameType | None = frame
            while each is not None:
                if each.f_code.co_name in ("run", "run_until_complete", "run_forever"):
                    runner = each.f_locals.get("self")
                    if runner is loop or cpython.loop_of_runner(runner) is loop:
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
            edges.of_task(task),
            task is current,
            stacks.of_coroutine(task.get_coro()),
            tuple(_woken_by(task)),
        )
        for task in sorted(tasks, key=lambda task: task.get_name())
    ]


def _woken_by(task: Any) -> Iterable[Any]:
    # The futures that others wait for until this task is done: gather, wait, wait_for, shield and
    # TaskGroup have a callback that knows theirs.
    for callback in cpython.callbacks_of(task):
        yield from getattr(callback, "args", ())
        for cell in getattr(callback, "__closure__", None) or ():
            try:
                yield cell.cell_contents
            except ValueError:
                continue
        owner = getattr(callback, "__self__", None)
        if owner is not None:
            yield owner
            yield cpython.future_of_group(owner)
