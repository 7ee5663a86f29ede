"""What the bridges guarantee, as a program of one thread that foretells what a program will see.

`foretell(program)` gives the trace that `programs.Running` must give, on either kernel. It knows no
threads and loops, only whose turn it is: which thread and which loop, by the rules at the head of
`asgibridge.sync`; whose context variables and `Local` attributes; what a cancellation comes to. It
raises Unfit for a program that could only hang, because a thread waits for foreign code.

    python tests/tools/model.py --examples 20000 --seed 1          on this Python and kernel
    python tests/tools/model.py --examples 20000 --seed 1 --asgiref     and on asgiref beside it
    python tests/tools/model.py --examples 20000 --seed 1 --shared-loop

Each bridge runs in a child process; one that takes longer than `LIMIT` hangs. A program that shows
anything else than foretold is made smaller until each step counts, and printed. asgiref's known
differences (docs/differences.md) are counted by name; any other is a failure too.
"""

from __future__ import annotations

import argparse
import collections
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from programs import ATTRIBUTES, NAMES, Generator, read, write


class Unfit(Exception):
    """The program can only hang, whoever runs it."""


class Raised(Exception):
    """An exception of the program's: its outcome, as it appears in a trace."""

    def __init__(self, kind, text):
        self.outcome = (kind, text)


DEADLOCK = ("RuntimeError", "deadlock")
CANCELLED = ("CancelledError", "")


@dataclass(eq=False)
class Loop:
    role: str
    thread: Thread
    handled: Any  # what is being handled where it runs
    late: list[Any] = field(default_factory=list)
    served_by: Frame | None = None


@dataclass(eq=False)
class Thread:
    """A thread; ``top`` of a state says what it is in the middle of."""

    role: str
    critical: dict[Any, dict[str, Any]] = field(default_factory=dict)


@dataclass(eq=False)
class Frame:
    """A sync frame that waits in `async_to_sync`."""

    thread: Thread
    outer: Frame | None
    handled: Any
    is_open: bool = True


@dataclass(eq=False)
class Context:
    """A ThreadSensitiveContext."""

    thread: Thread
    has_executor: bool
    hidden: Frame | None = None
    is_left: bool = False


@dataclass(eq=False)
class Single:
    """An AsyncSingleThreadContext."""

    thread: Thread


@dataclass(eq=False)
class Spine:
    """What a cancellation waits for: so many blocks."""

    left: int


@dataclass(frozen=True)
class State:
    """Where a frame is. ``variables`` is its context, the one thing here that changes."""

    variables: dict[Any, Any]
    thread: Thread
    top: dict[Thread, Any]  # what each thread is in the middle of, as far as we wait for it
    loop: Loop | None = None  # that runs in this thread
    works_for: Loop | None = None  # that brought this thread here
    frame: Frame | None = None
    context: Context | None = None
    single: Single | None = None
    shared: Loop | None = None  # that of the process, if something further out is on it
    home: Any = "home"
    handled: Any = None
    spine: Spine | None = None
    strand: tuple[Any, ...] = ()

    def with_copy(self, **changes):
        return replace(self, variables=dict(self.variables), **changes)


class Model:
    def __init__(self, version=sys.version_info, is_shared=False):
        self.version = version
        self.trace = {}
        self.process = Thread("process")
        self.shared = Thread("shared") if is_shared else None
        self.used = set()

    def foretell(self, program):
        kind, frame = program
        main = Thread("main")
        state = State({}, main, {})
        try:
            if kind == "sync":
                outcome = ("returned", self.do_sync(frame, state, ()))
            else:
                loop = Loop("loop@()", main, None)
                outcome = ("returned", self.root(frame, replace(state, loop=loop), ()))
        except Raised as error:
            outcome = error.outcome
        self.trace["program"] = outcome
        return self.trace

    # What a frame sees.

    def look(self, state, path):
        seen = [state.thread.role, state.loop and state.loop.role]
        seen += [state.variables.get(name) for name in NAMES]
        seen += [self.local(state).get(name) for name in ATTRIBUTES]
        if state.thread.role != "pool":
            seen += [self.critical(state).get(name) for name in ATTRIBUTES]
        seen.append(state.handled)
        self.note(path, tuple(seen))

    def note(self, path, what):
        self.trace.setdefault(path, []).append(what)

    def local(self, state):
        home, attributes = state.variables.get("local", (None, {}))
        return attributes if home == state.home else {}

    def critical(self, state):
        where = state.variables if state.loop else state.thread.critical
        return where.get((state.thread, state.strand), {})

    def simple(self, step, state, path):
        what = step[0]
        if what == "set":
            state.variables[step[1]] = step[2]
        elif what == "local":
            state.variables["local"] = (state.home, {**self.local(state), step[1]: step[2]})
        elif what == "critical":
            if state.thread.role != "pool":
                where = state.variables if state.loop else state.thread.critical
                key = (state.thread, state.strand)
                where[key] = {**self.critical(state), step[1]: step[2]}
        elif what == "delete":
            attributes = dict(self.local(state))
            if step[1] in attributes:
                del attributes[step[1]]
                state.variables["local"] = (state.home, attributes)
            else:
                self.note(path, "nothing to delete")
        elif what == "look":
            self.look(state, path)
        elif what == "raise":
            raise Raised(step[1], str(step[2]))
        else:
            return False
        return True

    def steps(self, do, steps, state, path):
        for i, step in enumerate(steps):
            if self.simple(step, state, path):
                continue
            if step[0] == "block":
                self.block(step[1], state, path)
                continue
            try:
                answer = do(step, state, (*path, i))
            except Raised as error:
                self.note(path, error.outcome)
                if not step[-1]:
                    raise
            else:
                self.note(path, answer)

    # Async frames.

    def root(self, frame, state, path):
        try:
            return self.do_async(frame, state, path)
        finally:
            late = state.loop.late
            while late:
                frame, inner, place = late.pop(0)
                inner = replace(inner, top=state.top)  # who was busy at the time need not be by now
                try:
                    self.note(place, ("returned", self.do_async(frame, inner, place)))
                except Raised as error:
                    self.note(place, error.outcome)

    def task(self, state, **changes):
        """The state in which a task begins."""
        return state.with_copy(handled=state.loop.handled, **changes)

    def do_async(self, frame, state, path):
        self.look(state, path)
        self.steps(self.async_step, frame, state, path)
        self.look(state, path)
        return str(path)

    def async_step(self, step, state, path):
        what, frame, *_ = (*step, None)
        if what == "hop":
            return self.hop(frame, state, path)
        if what == "pool":
            return self.in_pool(frame, state, path)
        if what == "own":
            return self.hop(frame, state, path, writes_back=False)
        if what == "await":
            return self.do_async(frame, state, path)
        if what == "task":
            return self.do_async(frame, self.task(state), path)
        if what == "wait_for":
            if self.version >= (3, 12):
                return self.do_async(frame, state, path)
            left = state.spine and state.spine.left
            try:
                answer = self.do_async(frame, self.task(state), path)
            except Raised:
                if state.spine is None or state.spine.left == left:
                    raise
                answer = None
            if state.spine is not None and state.spine.left < left:
                raise Raised(*CANCELLED)  # whatever became of what it waited for
            return answer
        if what == "expired":
            raise Raised("TimeoutError", "")
        if what == "inline":
            try:
                return self.do_sync(frame, state, path)
            except Raised as error:
                raise leaving_coroutine(error) from None
        if what == "handling":
            return self.steps(self.async_step, step[2], replace(state, handled=str(frame)), path)
        if what == "late":
            state.loop.late.append((frame, self.task(state, strand=path), path))
            return None
        if what == "gather":
            return self.gather(frame, state, path)
        if what == "context":
            return self.enter(step, state, path, False)
        if what == "released":
            return self.enter_released(step, state, path)
        if what == "executor":
            return self.enter(step, state, path, True)
        if what == "cancel":
            return self.do_async(frame, self.task(state, spine=Spine(step[2])), path)
        if what == "gather blocked":
            self.gather_blocked(frame, step[2], state, path)
        if what == "timeout":
            spine = Spine(step[2])
            try:
                return self.do_async(frame, replace(state, spine=spine), path)
            except Raised as error:
                if error.outcome == CANCELLED and not spine.left:
                    raise Raised("TimeoutError", "") from None
                raise
        if what == "cancel running":
            inner = self.task(state)
            if step[1]:
                function = self.at_its_thread(inner, path)
            else:
                function = inner.with_copy(thread=Thread("pool"), loop=None)
            self.look(function, path)
            self.note(path, "went on")
            return "cancelled"
        assert what == "cancel queued"
        self.at_its_thread(self.task(state), path)
        return (True, "the first", "the third")

    def block(self, reaction, state, path):
        self.look(state, path)
        state.spine.left -= 1
        self.note(path, "cancelled")
        if reaction == "fail":
            raise Raised("Error", "instead")
        if reaction == "hop":
            try:
                self.note(path, self.at_its_thread(state, path).thread.role)
            except Raised as error:
                self.note(path, error.outcome)
        if reaction != "return":
            raise Raised(*CANCELLED)

    def gather(self, frames, state, path):
        outcomes = []
        for i, frame in enumerate(frames):
            try:
                outcomes.append(
                    self.do_async(frame, self.task(state, strand=(*path, i)), (*path, i))
                )
            except Raised as error:
                outcomes.append(error.outcome)
        return outcomes

    def gather_blocked(self, frames, shares, state, path):
        # All of them have to block at the same time: each needs threads of its own.
        outer, used = self.used, set()
        for i, (frame, share) in enumerate(zip(frames, shares)):
            self.used = set()
            left = state.spine.left
            try:
                self.do_async(frame, self.task(state, strand=(*path, i)), (*path, i))
            except Raised:
                pass
            if left - state.spine.left < share or self.used & used:
                raise Unfit
            used |= self.used
        self.used = outer | used
        raise Raised(*CANCELLED)

    def enter(self, step, state, path, has_executor):
        if not has_executor and state.context is not None:
            return self.steps(self.async_step, step[1], state, path)
        kind = "executor" if has_executor else "context"
        context = Context(Thread(f"{kind}@{path}"), has_executor)
        inner = replace(state, context=context)
        if has_executor:
            inner = replace(inner, frame=None)
        try:
            return self.steps(self.async_step, step[1], inner, path)
        finally:
            context.is_left = True
            if not has_executor:
                context.thread = Thread(f"{kind}@{path}+")

    def enter_released(self, step, state, path):
        _, before, after, _ = step
        context, inner = None, state
        if state.context is None:
            context = Context(Thread(f"released@{path}"), False)
            inner = replace(state, context=context)
        try:
            self.steps(self.async_step, before, inner, (*path, 0))
            if context is not None:
                context.thread = Thread(f"released@{path}~")
            return self.steps(self.async_step, after, inner, (*path, 1))
        finally:
            if context is not None:
                context.is_left = True
                context.thread = Thread(f"released@{path}+")

    # Hops.

    def target(self, state):
        """The thread of a thread-sensitive call, what that has to be in, and what it handles."""
        frame = state.frame
        while frame is not None and not frame.is_open:
            frame = frame.outer
        if frame is None:
            context = state.context
            if context is not None:
                if context.has_executor and context.is_left:
                    raise Raised("RuntimeError", "exited")
                return context.thread, None, None
            frame = state.loop.served_by
            if frame is None or not frame.is_open:
                return self.process, None, None
        return frame.thread, frame, frame.handled

    def at_its_thread(self, state, path):
        """The state in which a thread-sensitive call runs."""
        thread, within, handled = self.target(state)
        if thread is state.loop.thread:
            raise Raised(*DEADLOCK)
        if state.top.get(thread) is not within:
            raise Unfit
        self.used.add(thread)
        return state.with_copy(
            thread=thread,
            loop=None,
            works_for=state.loop,
            top={**state.top, thread: path},
            handled=state.handled or handled,
        )

    def hop(self, frame, state, path, writes_back=True):
        return self.call(frame, state, self.at_its_thread(state, path), path, writes_back)

    def in_pool(self, frame, state, path):
        thread = Thread("pool")
        inner = state.with_copy(
            thread=thread, loop=None, works_for=state.loop, top={**state.top, thread: path}
        )
        return self.call(frame, state, inner, path, True)

    def call(self, frame, state, inner, path, writes_back):
        try:
            return self.do_sync(frame, inner, path)
        except Raised as error:
            raise leaving_coroutine(error) from None
        finally:
            if writes_back:
                state.variables.update(inner.variables)

    # Sync frames.

    def do_sync(self, frame, state, path):
        self.look(state, path)
        self.steps(self.sync_step, frame, state, path)
        self.look(state, path)
        return str(path)

    def sync_step(self, step, state, path):
        what, frame, *_ = step
        if what == "call":
            return self.do_sync(frame, state, path)
        if what == "bridge":
            return self.bridge(frame, state, path, state.works_for)
        if what == "new loop":
            return self.bridge(frame, state, path, None, is_forced=True)
        if what == "run":
            if state.loop is not None:
                return None
            loop = Loop(f"loop@{path}", state.thread, state.handled)
            return self.root(frame, state.with_copy(loop=loop), path)
        if what == "thread":
            if state.thread is self.shared:
                raise Unfit  # a thread for which the loop waits, and which may need the loop
            thread = Thread(f"thread@{path}")
            inner = state.with_copy(
                thread=thread, home=path, frame=None, loop=None, works_for=None, handled=None
            )
            try:
                return self.do_sync(frame, inner, path)
            except Raised as error:
                return error.outcome
        if what == "schedule":
            if state.works_for is None or state.loop is not None:
                return "no loop"
            loop = state.works_for
            inner = state.with_copy(
                loop=loop, thread=loop.thread, handled=loop.handled, works_for=None, strand=path
            )
            loop.late.append((frame, inner, path))
            return "scheduled"
        if what == "handling":
            return self.steps(self.sync_step, step[2], replace(state, handled=str(frame)), path)
        assert what == "single"
        inner = state
        if state.single is None:
            inner = replace(state, single=Single(Thread(f"single@{path}")))
        try:
            return self.steps(self.sync_step, frame, inner, path)
        finally:
            if inner is not state:
                inner.single.thread = Thread(f"single@{path}+")

    def bridge(self, frame, state, path, loop, is_forced=False):
        if state.loop is not None:
            raise Raised("RuntimeError", "running loop")
        waiting = Frame(state.thread, state.frame, state.handled)
        shared, do = state.shared, self.do_async
        if loop is None and self.shared is not None and not is_forced and state.single is None:
            if shared is None:
                do, shared = self.root, Loop("shared loop", self.shared, None)
            loop = shared
        elif loop is None:
            thread = Thread(f"runner@{path}")
            if state.single is not None:
                thread = state.single.thread
                if state.top.get(thread) is not None:
                    raise Unfit
                self.used.add(thread)
            loop = Loop(f"loop@{path}", thread, None, served_by=waiting)
            do = self.root
        inner = state.with_copy(
            thread=loop.thread,
            loop=loop,
            shared=shared,
            works_for=None,
            frame=waiting,
            handled=state.handled or loop.handled,
            top={**state.top, state.thread: waiting, loop.thread: loop},
        )
        try:
            return do(frame, inner, path)
        finally:
            waiting.is_open = False
            state.variables.update(inner.variables)


def leaving_coroutine(error):
    """What becomes of an exception that a coroutine passes on."""
    if error.outcome[0] == "StopIteration":
        return Raised("RuntimeError", "StopIteration")
    return error


def foretell(program, is_shared=False):
    """The trace of ``program``, whose top-level calls share a loop if so told; raises Unfit."""
    return Model(is_shared=is_shared).foretell(program)


# --- many programs -------------------------------------------------------------------------------

LIMIT = 20
"""Seconds that a program may take. One that does not hang takes some milliseconds."""

ASGIREFS_LIMIT = 2


class Hangs(Exception):
    pass


class Bridge:
    """A child process that runs programs on the bridge called ``name``."""

    def __init__(self, name, limit=LIMIT, is_shared=False):
        self.name, self.limit, self.is_shared = name, limit, is_shared
        self.process = None

    def start(self):
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-X",
                "faulthandler",
                str(Path(__file__).with_name("programs.py")),
                self.name,
                *(["shared"] if self.is_shared else []),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.answers = queue.SimpleQueue()
        threading.Thread(target=self.listen, args=(self.process.stdout, self.answers)).start()
        self.implementation = self.answer(60)

    @staticmethod
    def listen(stream, answers):
        with stream:
            while True:
                answer = read(stream)
                answers.put(answer)
                if answer is None:
                    return

    def answer(self, limit):
        try:
            answer = self.answers.get(timeout=limit)
        except queue.Empty:
            if self.name != "asgiref" and hasattr(signal, "SIGABRT"):
                self.process.send_signal(signal.SIGABRT)  # at which it prints its stacks
                self.process.wait(10)
            self.stop()
            raise Hangs from None
        if answer is None:
            status = self.process.wait()
            self.stop()
            raise Hangs(f"the process ended with status {status}")
        return answer

    def run(self, program):
        """The trace, and what was left behind; raises Hangs."""
        if self.process is None:
            self.start()
        write(self.process.stdin, program)
        return self.answer(self.limit)

    def stop(self):
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()
            process.stdin.close()


def shows(bridge, program):
    """How what a bridge shows differs from what is foretold; None if it does not."""
    try:
        expected = foretell(program, bridge.is_shared)
    except Unfit:
        return None
    try:
        trace, left = bridge.run(program)
    except Hangs as error:
        return ("hangs", str(error))
    if left:
        return ("left behind", left)
    for path in dict.fromkeys([*expected, *trace]):
        if expected.get(path) != trace.get(path):
            return (path, expected.get(path), trace.get(path))
    return None


def smaller(program):
    """Programs with a step less, or with a step's own steps in its place."""
    kind, frame = program
    for each in smaller_frames(frame):
        yield (kind, each)


def smaller_frames(frame):
    for i, step in enumerate(frame):
        if has_blocks(step):
            continue
        yield (*frame[:i], *frame[i + 1 :])
    for i, step in enumerate(frame):
        if step[0] in ("await", "call", "handling", "context") and isinstance(step[-2], tuple):
            yield (*frame[:i], *step[-2], *frame[i + 1 :])
        for j, part in enumerate(step):
            if not isinstance(part, tuple):
                continue
            if step[0] in ("gather", "gather blocked"):
                for k, each in enumerate(part):
                    if isinstance(each, tuple):
                        for less in smaller_frames(each):
                            frames = (*part[:k], less, *part[k + 1 :])
                            yield (*frame[:i], (*step[:j], frames, *step[j + 1 :]), *frame[i + 1 :])
            else:
                for less in smaller_frames(part):
                    yield (*frame[:i], (*step[:j], less, *step[j + 1 :]), *frame[i + 1 :])


def has_blocks(step):
    """Whether a cancellation further out waits for a block in here."""
    if step[0] in ("cancel", "timeout"):
        return False
    return step[0] == "block" or any(
        has_blocks(each) for part in step if isinstance(part, tuple) for each in steps_in(part)
    )


def steps_in(part):
    for each in part:
        if isinstance(each, tuple):
            if each and isinstance(each[0], str):
                yield each
            else:
                yield from steps_in(each)


def shrink(program, differs, seconds=60):
    """The smallest program found that still differs."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for candidate in smaller(program):
            if time.monotonic() > deadline or differs(candidate):
                break
        else:
            return program
        program = candidate
    return program


def steps_of(program):
    """The names of all steps in it."""
    return collections.Counter(step[0] for step in walk(program[1]))


def walk(frame):
    """All steps in ``frame``, also those in frames further in."""
    for step in steps_in(frame):
        yield step
        for part in step:
            if isinstance(part, tuple):
                yield from walk(part)


# --- asgiref -------------------------------------------------------------------------------------

# Where asgiref 3.13.0 is known to do something else (docs/differences.md). Which of them a program
# can meet is told by its steps, so that nothing else can hide behind a name.
KNOWN = {
    "a call that would have to wait for its own thread": lambda step: step[0] in ("run", "thread"),
    "StopIteration": lambda step: step[0] == "raise" and step[1] == "StopIteration",
    "a task that outlives its frame": lambda step: step[0] == "late",
    "a task that a worker schedules": lambda step: step[0] == "schedule",
    # It forgets the loop that brought it into a thread; and how to cancel what is on another.
    "a call on another loop": lambda step: step[0] == "new loop",
    # It does not reach a thread that a coroutine has called back into; what is made of it is lost
    # if the thread is quick.
    "a cancellation": lambda step: step[0] in ("cancel", "timeout"),
}


def excuse(program):
    """The name of a known difference that ``program`` can meet; None if there is none."""
    steps = list(walk(program[1]))
    for name, meets in KNOWN.items():
        if any(map(meets, steps)):
            return name
    return None


class Tally:
    """What many programs have shown."""

    def __init__(self, options):
        self.options = options
        self.unfit = 0
        self.steps = collections.Counter()
        self.deepest = 0
        self.excused = collections.Counter()
        self.failed = []


def depth_of(frame):
    return 1 + max(
        (depth_of(part) for step in steps_in(frame) for part in frames_of(step)), default=0
    )


def frames_of(step):
    for part in step:
        if isinstance(part, tuple):
            if step[0] in ("gather", "gather blocked"):
                yield from (each for each in part if isinstance(each, tuple))
            else:
                yield part


def main():
    parser = argparse.ArgumentParser(description="Random programs: what they show, and foretold.")
    parser.add_argument("--examples", type=int, default=2000, help="how many programs")
    parser.add_argument("--seed", type=int, help="default: a new one, which is printed")
    parser.add_argument("--asgiref", action="store_true", help="run them on asgiref, too")
    parser.add_argument("--seconds", type=float, help="stop after so long")
    parser.add_argument(
        "--shared-loop", action="store_true", help="for all top-level calls; asgiref has none"
    )
    options = parser.parse_args()
    if options.asgiref and options.shared_loop:
        parser.error("--shared-loop: asgiref has none")
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    bridges = [Bridge("asgibridge", is_shared=options.shared_loop)]
    if options.asgiref:
        bridges.append(Bridge("asgiref", ASGIREFS_LIMIT))
    began = time.monotonic()
    tally = Tally(options)
    count = 0
    try:
        for count in range(1, options.examples + 1):
            if options.seconds and time.monotonic() - began > options.seconds:
                break
            # With asgiref, every other one has nothing that asgiref is known to fail at.
            plain = options.asgiref and count % 2 == 0
            program = Generator(
                random.Random(f"{seed}/{count}"), plain=plain, ours=not options.asgiref
            ).program()
            try:
                foretell(program, options.shared_loop)
            except Unfit:
                tally.unfit += 1
                continue
            tally.steps.update(steps_of(program))
            tally.deepest = max(tally.deepest, depth_of(program[1]))
            for bridge in bridges:
                judge(bridge, program, f"{seed}/{count}", tally)
    finally:
        for bridge in bridges:
            bridge.stop()
    return report(bridges, seed, count, tally, time.monotonic() - began)


def judge(bridge, program, number, tally):
    difference = shows(bridge, program)
    if difference is None:
        return
    if bridge.name == "asgiref":
        name = excuse(program)
        if name is not None and difference[0] == "hangs":
            tally.excused[f"hangs: {name}"] += 1
            return
        for _ in range(3):
            # It is not the same each time.
            if shows(bridge, program) is None:
                tally.excused["a race: right at another time"] += 1
                return
        if name is not None:
            tally.excused[name] += 1
            return
    tally.failed.append(number)
    if len(tally.failed) > 3:
        return
    print(f"program {number} on {bridge.name}: {difference}", flush=True)
    program = shrink(program, lambda each: shows(bridge, each) is not None)
    print(f"made smaller: {program}\n  {shows(bridge, program)}", flush=True)


def report(bridges, seed, count, tally, seconds):
    print(", ".join(f"{name} {n}" for name, n in tally.steps.most_common()))
    for name, n in tally.excused.most_common():
        print(f"asgiref: {name}: {n}")
    version = ".".join(map(str, sys.version_info[:3]))
    gil = "" if getattr(sys, "_is_gil_enabled", lambda: True)() else " without the GIL"
    loop = ", the shared loop" if tally.options.shared_loop else ""
    kernels = " and ".join(getattr(bridge, "implementation", "?") for bridge in bridges)
    outcome = f"{len(tally.failed)} differ: {tally.failed[:9]}" if tally.failed else "none differs"
    print(
        f"model: {count - tally.unfit} programs ({tally.unfit} unfit), to depth {tally.deepest}, "
        f"on {kernels}, Python {version}{gil}{loop}, seed {seed}, {seconds:.0f} s: {outcome}",
        flush=True,
    )
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
