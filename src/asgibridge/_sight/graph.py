"""Who waits for whom, found by looking: no call registers anything for it.

The collector knows every loop, call and executor. From these follow the arrows of a graph:

* A **task** waits for a call, for other tasks or for a `Wait` (all as `asgibridge._waits.edges`
  tells them, also to the proof of deadlocks), for a future if the task that sets it is known, or,
  if it is ready to run, for its loop.
* A **call** waits for a token of its limiter or a worker, then for the thread that runs it or that
  it is queued for, or for a pool of threads.
* A **token** or a **worker** comes from any one of its borrowers, a free thread of a busy **pool**
  from any one of its threads.
* A **thread** in `async_to_sync` waits for the task that it has started, or, if that has not begun,
  for the loop that is to begin it.
* A **loop** whose thread is busy waits for that thread.

A *culprit* is waited for, and waits for nobody we know of. A *cycle* is a way back to its beginning
on which nothing can go on. A thread that waits for a lock, a socket or a foreign future is a
culprit, shown with its stack: nobody can know who will end that wait.

**Safety.** Other threads run during a dump. It takes no lock that a call takes, and calls nothing
of the user's but ``repr`` of task names. With the GIL a thread stands still while a dump looks at
it. Without it, `faulthandler` stops the world and tells the stacks of threads, and each loop's own
thread tells the loop's tasks. Only if that does not answer, being busy with something else than its
tasks, does the dump read them from outside.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import types
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from .. import _kernel, runners
from .._loops.lent import LentWait
from .._process import cpython, threads
from .._process.handover import call_if_open
from .._waits import edges
from .._waits.names import function_words, partners, task_words
from . import stacks
from .snapshot import Call, Frame, Snapshot, Task, Thread

_ANSWER_SECONDS = 0.5
"""How long loops have to tell their tasks: arbitrary, a turn of theirs takes milliseconds."""

Node = tuple[str, int]
"""A kind, and the id of a thread or else of an object."""


def take(asker: str) -> Snapshot:
    """Look at everything now. From any thread.

    :param asker: the file of the caller; the snapshot leaves out its Python frames, and ours, at
        the end of the calling thread's stack.
    """
    return _Reader((asker, __file__, stacks.__file__)).snapshot()


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
        self.is_any: set[Node] = set()  # those that can go on when one of their targets can
        self.places: dict[Node, str] = {}  # where a task awaits
        self.loops: list[Any] = []
        self.calls: dict[Node, dict[str, Any]] = {}
        self.call_objects: list[Any] = []  # so that no other object gets the id of one
        self.frames: list[tuple[Any, int | None]] = []  # executors, and the idents of their threads
        self.runs: list[runners.TopLevelRun] = []
        self.partners: list[Any] = []
        self.inboxes: dict[int, tuple[Any, list[int]]] = {}  # by id, and their threads' idents
        self.calls_on: dict[int, list[dict[str, Any]]] = {}  # by thread, the outermost first
        self.wakes: dict[int, list[Node]] = {}  # by future
        self.workers = {worker.ident: worker for worker in threads.workers()}
        self._find()
        # After the calls: so it has the threads of all these calls.
        self.names = {thread.ident: thread.name for thread in threading.enumerate()}
        self.held: dict[int, Any] = {}  # the Future or Thread that a thread waits for
        self.stacks = stacks.of_threads(self.held)
        me = threading.get_ident()
        stack = self.stacks.get(me, ())
        while stack and stack[-1].file in ours:
            stack = stack[:-1]
        self.stacks[me] = stack
        self.tasks = self._look_at_tasks()
        self._connect()

    def _find(self) -> None:
        known = (
            self.kernel.SyncCall,
            runners.TopLevelRun,
            self.kernel.ThreadSensitiveExecutor,
            self.kernel.CurrentThreadExecutor,
            asyncio.AbstractEventLoop,
            *partners,
        )
        is_known: dict[type, bool] = {}
        found = []
        for thing in gc.get_objects():
            cls = type(thing)
            if cls not in is_known:
                is_known[cls] = issubclass(cls, known)
            if is_known[cls]:
                found.append(thing)
        loops = []
        for thing in found:
            if issubclass(type(thing), asyncio.AbstractEventLoop):
                loops.append(thing)
            elif type(thing) is runners.TopLevelRun:
                self.runs.append(thing)
                loops += [task.get_loop() for task in thing._tasks]
            elif issubclass(type(thing), tuple(partners)):
                self.partners.append(thing)
            elif (details := self.kernel.details(thing)) is None:
                continue
            elif details["kind"] == "call":
                if details["is_counted"] and not details["is_done"] and details["function"]:
                    self.call_objects.append(thing)
                    self.calls["call", id(thing)] = details
                    loops.append(details["loop"])
            elif details["kind"] == "frame":
                if details["is_serving"]:
                    self.frames.append((thing, details["thread_ident"]))
                    self._add_inbox(details["inbox"], details["thread_ident"])
            elif details["worker"] is not None and details["inbox"] is not None:
                self._add_inbox(details["inbox"], details["worker"].ident)
        # The collector does not show a loop from before a gc.freeze(): runs and calls know it.
        self.loops += {id(loop): loop for loop in loops if _is_open(loop)}.values()
        for ident, worker in self.workers.items():
            self._add_inbox(worker._inbox, ident)

    def _add_inbox(self, inbox: Any, ident: int | None) -> None:
        idents = self.inboxes.setdefault(id(inbox), (inbox, []))[1]
        if ident and ident not in idents:
            idents.append(ident)

    def _look_at_tasks(self) -> list[tuple[Any, list[_SeenTask]]]:
        me = threading.get_ident()
        answers: dict[int, Future[list[_SeenTask]]] = {}
        if not cpython.is_gil_enabled():
            for loop in self.loops:
                if loop.is_running() and _thread_of(loop) != me:
                    answers[id(loop)] = _ask(loop)
            wait(answers.values(), _ANSWER_SECONDS)
        found = []
        for loop in self.loops:
            answer = answers.get(id(loop))
            is_told = answer is not None and answer.done() and answer.exception() is None
            found.append((loop, answer.result() if answer and is_told else _tasks_of(loop)))
        return found

    # --- what waits for what

    def _connect(self) -> None:
        waits: dict[int, edges.Wait] = {}
        for _loop, tasks in self.tasks:
            for seen in tasks:
                for future in seen.wakes:
                    self.wakes.setdefault(id(future), []).append(("task", id(seen.task)))
                if seen.edge.kind == "wait":
                    waits[id(seen.edge.to)] = seen.edge.to
        for details in self.calls.values():
            if details["is_taken"] and details["thread_ident"]:
                self.calls_on.setdefault(details["thread_ident"], []).append(details)
        for found in self.calls_on.values():
            found.sort(key=lambda details: details["started"])
        self._connect_calls({id(each.call): key for key, each in waits.items()})
        for loop, tasks in self.tasks:
            self._connect_tasks(loop, tasks)
        for key, each in waits.items():
            node: Node = ("wait", key)
            self.is_any.add(node)
            self.words[node] = each.what
            self.edges[node] = [self._node_of(giver) for giver in each.borrowers()]
        for ident in self.stacks:
            self.words["thread", ident] = self._words_of_thread(ident)
            self.edges["thread", ident] = self._targets_of_thread(ident)

    def _connect_calls(self, waits: dict[int, int]) -> None:
        queued = {}
        for inbox, _idents in self.inboxes.values():
            details = self.kernel.details(inbox)
            for item in () if details is None else details["items"]:
                queued[id(item)] = inbox
        for node, details in self.calls.items():
            self.words[node] = f"the call of {function_words(details['function'])}"
            inbox = queued.get(node[1], details["inbox"])
            state, on = "queued", 0
            targets: list[Node] = []
            if details["is_taken"]:
                state, on = "running", details["thread_ident"]
            elif inbox is None and node[1] in waits:
                state, targets = "waiting", [("wait", waits[node[1]])]
            elif issubclass(type(inbox), (self.kernel.PoolInbox, ThreadPoolExecutor)):
                targets = [self._node_of_pool(inbox)]
            else:
                on = next(iter(self._threads_of(inbox)), 0)
            details["state"], details["on"] = state, on
            self.edges[node] = [("thread", on)] if on else targets

    def _connect_tasks(self, loop: Any, tasks: list[_SeenTask]) -> None:
        loop_node: Node = ("loop", id(loop))
        ident = _thread_of(loop) or 0
        words = f"the event loop {type(loop).__name__} at {id(loop):#x}"
        is_busy = any(seen.is_current for seen in tasks) or not stacks.is_idle(
            self.stacks.get(ident, ())
        )
        thread: list[Node] = [("thread", ident)] if ident else []
        if loop.is_running():
            words += f" of thread {self.names.get(ident, 'unknown')}"
            self.edges[loop_node] = thread if is_busy else []
        else:
            words += ", which is not running: nobody will run what was given to it"
            self.edges[loop_node] = []
        self.words[loop_node] = words
        for seen in tasks:
            node: Node = ("task", id(seen.task))
            self.words[node] = task_words(seen.task)
            for each in seen.stack[-1:]:
                place = f"{each.file}:{each.line} in {each.function}"
                self.places[node] = f", which awaits at {place}"
            if seen.is_current:
                self.edges[node] = thread
            elif seen.edge.kind == "ready":
                self.edges[node] = [loop_node]
            else:
                self.edges[node] = self._targets_of_task(seen.edge)

    def _threads_of(self, inbox: Any) -> list[int]:
        if issubclass(type(inbox), ThreadPoolExecutor):
            return [thread.ident for thread in list(inbox._threads) if thread.ident]
        details = self.kernel.details(inbox)
        if details is not None and details["kind"] == "executor":
            inbox = details["inbox"]
        return self.inboxes.get(id(inbox), (None, []))[1]

    def _node_of_pool(self, inbox: Any) -> Node:
        node: Node = ("pool", id(inbox))
        if node not in self.words:
            idents = self._threads_of(inbox)
            # With one of our calls, or with anything else that was submitted to the pool.
            busy = [
                ident
                for ident in idents
                if ident in self.calls_on or not stacks.is_free(self.stacks.get(ident, ()))
            ]
            self.words[node] = f"a pool of threads, {len(busy)} of {len(idents)} busy"
            self.is_any.add(node)
            # A free thread is on its way to the queued call.
            self.edges[node] = [("thread", each) for each in idents if len(busy) == len(idents)]
        return node

    def _is_waiting(self, ident: int) -> bool:
        # Whether the thread's innermost Python frame of ours waits in async_to_sync. Calls and such
        # waits alternate.
        found = sum(1 for frame in self.stacks.get(ident, ()) if stacks.is_async_to_sync(frame))
        calls = len(self.calls_on.get(ident, ()))
        return found > 0 and (found >= calls if ident in self.workers else found > calls)

    def _node_of(self, thing: Any) -> Node:
        # Of a call, a task, a thread, an executor of one thread, or any other borrower of a token.
        if ("call", id(thing)) in self.calls:
            return ("call", id(thing))
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
        if edge.kind == "future":
            return self.wakes.get(id(edge.to), [])
        if edge.kind == "wait":
            call: Node = ("call", id(edge.to.call))
            return [call if call in self.calls else ("wait", id(edge.to))]
        if edge.kind != "call":
            return [("task", id(task)) for task in (edge.to if edge.kind == "tasks" else [edge.to])]
        if ("call", id(edge.to)) in self.calls:
            return [("call", id(edge.to))]
        task = edges.innermost(edge.blocker)
        return [] if task is None else [("task", id(task))]

    def _targets_of_thread(self, ident: int) -> list[Node]:
        held = self.held.get(ident)
        if isinstance(held, threading.Thread):
            return [("thread", held.ident)] if held.ident in self.stacks else []
        if held is not None:
            return self.wakes.get(id(held), [])
        mine = [executor for executor, thread_ident in self.frames if thread_ident == ident]
        innermost = {id(executor) for executor in mine}
        for executor in mine:
            # A frame of a lent thread is known by way of frames that never served.
            outer = executor._old_executor
            while outer is not None:
                innermost.discard(id(outer))
                outer = getattr(outer, "_old_executor", None)
        if stacks.is_with_a_partner(self.stacks.get(ident, ())):
            tasks = [
                each.task
                for each in self.partners
                if id(each._frame) in innermost
                and (each._lent is None or each._lent.waiters[-1:] == [each])
            ]
            return [("task", id(task)) for task in tasks if task is not None]
        if not self._is_waiting(ident):
            return []
        for run in self.runs:
            server: Any = run.server
            if isinstance(server, LentWait):
                is_inner = server.lent.waiters[-1:] == [server]
                server = server.lent.frame if is_inner else None
            if id(server) in innermost:
                return [("task", id(task)) for task in run._tasks]
        for details in self.calls_on.get(ident, [])[-1:]:
            task = edges.innermost(details["tasks"])
            return [("loop", id(details["loop"])) if task is None else ("task", id(task))]
        return []

    # --- the result

    def _words_of_thread(self, ident: int) -> str:
        words = f"thread {self.names.get(ident) or f'of ident {ident}'}"
        calls = self.calls_on.get(ident)
        link = ", which"
        if calls:
            link = " and"
            words += f", which runs {function_words(calls[-1]['function'])}"
            if calls[-1]["started"]:
                words += f" since {self.now - calls[-1]['started']:.1f} s"
        if self._is_waiting(ident):
            return f"{words}{link} waits in async_to_sync"
        place = stacks.place(self.stacks.get(ident, ()))
        return f"{words}, {'and' if calls else 'which'} is {place}" if place else words

    def _describe(self, node: Node) -> str:
        return self.words.get(node) or f"a {node[0]} that has just ended"

    def snapshot(self) -> Snapshot:
        starts: list[Node] = [*self.calls]
        starts += [("thread", ident) for ident in self.stacks if ident not in self.calls_on]
        waited = Counter(end for start in starts for end in self._ends(start) if end != start)
        culprits = [
            f"{self._describe(node)}{self.places.get(node, '')}: {count} "
            f"{'call or thread waits' if count == 1 else 'calls and threads wait'} for it"
            for node, count in waited.most_common()
        ]
        calls = []
        for node, details in self.calls.items():
            since = details["started"] if details["is_taken"] else details["submitted"]
            calls.append(
                Call(
                    function=function_words(details["function"]),
                    state=details["state"],
                    thread=self.names.get(details["on"]),
                    seconds=self.now - since if since else None,
                    waits_for=self._way(node),
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

    def _ends(self, start: Node) -> list[Node]:
        # The nodes without targets that a node waits for in the end.
        seen: set[Node] = set()
        ends, todo = [], [start]
        while todo:
            node = todo.pop()
            if node not in seen:
                seen.add(node)
                further = self.edges.get(node, [])
                todo += reversed(further)
                ends += [] if further else [node]
        return ends

    def _cycles(self) -> list[list[Node]]:
        # Depth first, without recursion: a chain may be long.
        cycles: list[list[Node]] = []
        done = self._that_may_go_on()
        for start in self.edges:
            way: list[Node] = []
            todo = [iter([start])]
            while todo:
                node = next(todo[-1], None)
                if node is None:
                    todo.pop()
                    done.update(way[-1:])
                    del way[-1:]
                elif node in way:
                    cycles.append(way[way.index(node) :])
                elif node not in done:
                    way.append(node)
                    todo.append(iter(self.edges[node]))
        return cycles

    def _that_may_go_on(self) -> set[Node]:
        # As far as known: nodes without targets; those that wait for any one target, if one may go
        # on; those that wait for all targets, if all may.
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
            found.add(node)
            for each in waiting.get(node, ()):
                missing[each] -= 1
                if missing[each] == 0:
                    todo.append(each)
        return found


def _ask(loop: Any) -> Future[list[_SeenTask]]:
    # Have the loop tell its tasks on its own thread.
    answer: Future[list[_SeenTask]] = Future()

    def look() -> None:
        try:
            answer.set_result(_tasks_of(loop))
        except BaseException as error:
            answer.set_exception(error)

    if not call_if_open(loop, look):
        answer.set_exception(RuntimeError("the loop is closed"))
    return answer


def _is_open(loop: Any) -> bool:
    try:
        return not loop.is_closed()
    except Exception:  # one that is being made, or somebody's stand-in
        return False


def _thread_of(loop: Any) -> int | None:
    ident = cpython.thread_of_loop(loop)
    if ident:
        return ident
    if not loop.is_running() or not cpython.is_gil_enabled():
        return None
    for ident, frame in cpython.current_frames().items():
        each: types.FrameType | None = frame
        while each is not None:
            if each.f_code.co_name in ("run", "run_until_complete", "run_forever"):
                names = each.f_locals
                runner = names.get("self")
                runs = (runner, cpython.loop_of_runner(runner), names.get("loop"))
                if any(thing is loop for thing in runs):
                    return ident
            each = each.f_back
    return None


def _tasks_of(loop: Any) -> list[_SeenTask]:
    try:
        tasks = asyncio.all_tasks(loop)
        current = asyncio.current_task(loop)
    except RuntimeError:  # all_tasks gives up when they change again and again
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
