"""Random programs of nested sync and async frames, and what running one of them shows.

A *frame* is the body of a function: a tuple of steps, each a tuple that begins with what to do.
Frames nest in steps. A program is ``("async" or "sync", frame)``; what it does is determined: who
runs at the same time never looks at what the other does, a cancellation strikes when what it
strikes has said that it waits, and a time-out has certainly expired or certainly not. So its
*trace*, a dict from each frame's place in the program to what that frame has seen in order, is the
same in every run, on either kernel, on asgiref, and in `model`, which foretells it.

`Running` runs a program on a bridge. Threads and loops appear in the trace by their roles:

``main`` began the program, ``process`` is the bridge's single thread, ``context@PLACE`` the thread
of the ThreadSensitiveContext entered there (``released@PLACE``, of one that gives it back while it
idles), ``runner@PLACE`` and ``loop@PLACE`` what the top-level `async_to_sync` there started,
``shared`` and ``shared loop`` those that all such calls share, ``thread@PLACE`` a thread that the
program itself started there, and ``pool`` one of the loop's default executor. Who claims a role
must be nobody else who is alive.

    python tests/tools/programs.py asgibridge|asgiref [shared]      run what comes on stdin: see
                                                                    `model`
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import faulthandler
import gc
import importlib
import logging
import os
import pickle
import struct
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

SECONDS = 20
"""No wait in a program takes longer unless something hangs."""

SHARED = "asgibridge-shared-loop"
"""The name of the thread of the loop that all top-level calls share."""

NAMES = ("x", "y")
ATTRIBUTES = ("a", "b")


class Error(Exception):
    pass


class BaseError(BaseException):
    pass


ERRORS = {"Error": Error, "BaseError": BaseError, "StopIteration": StopIteration}


def outcome_of(error):
    """An exception as it appears in a trace."""
    text = str(error)
    if isinstance(error, RuntimeError):
        for part, what in (
            ("would deadlock", "deadlock"),
            ("submit onto CurrentThreadExecutor from its own thread", "deadlock"),
            ("same thread as an async event loop", "running loop"),
            ("raised StopIteration", "StopIteration"),
            ("has exited", "exited"),
            ("already quit or is broken", "broken"),
        ):
            if part in text:
                return ("RuntimeError", what)
    if isinstance(error, asyncio.CancelledError):
        return ("CancelledError", "")
    if isinstance(error, asyncio.TimeoutError):
        return ("TimeoutError", "")
    return (type(error).__name__, text)


# --- generating ----------------------------------------------------------------------------------


class Generator:
    """Makes programs out of the choices of a `random.Random`, or of something like it."""

    def __init__(self, random, depth=30, frames=40, plain=False, ours=True):
        self.random = random
        self.plain = plain  # only what asgiref does, too
        self.ours = ours  # also what asgiref does not have
        self.released = 2  # each takes a hundredth of a second
        self.depth = depth
        self.frames = frames
        self.pool = 4  # the least that a default executor has is five threads
        self.number = 0

    def program(self):
        depth = self.random.randint(1, self.depth)
        kind = self.random.choice(("async", "async", "sync"))
        return (kind, self.frame(kind, depth, 0))

    def chance(self, per_cent):
        return self.random.randint(1, 100) <= per_cent

    def next(self):
        self.number += 1
        return self.number

    def frame(self, kind, depth, spine):
        """``spine``: how many times it must block, as what a cancellation waits for."""
        self.frames -= 1
        steps = self.noise(kind)
        if self.chance(15) and self.frames > 0 and depth > 1:
            # A small branch beside the way down.
            steps += self.calls(kind, self.random.randint(0, 2), 0)
        if spine and depth <= 0 and kind == "async" and spine == 1:
            steps.append(("block", self.random.choice(("raise", "raise", "return", "fail", "hop"))))
        elif spine or (depth > 0 and self.frames > 0):
            steps += self.calls(kind, depth - 1, spine)
        steps += self.noise(kind)
        if self.chance(6):
            errors = ("Error", "BaseError") if kind == "async" else tuple(ERRORS)
            errors = errors[:2] if self.plain else errors
            steps.append(("raise", self.random.choice(errors), self.next()))
        return tuple(steps)

    def noise(self, kind):
        steps = []
        for _ in range(self.random.choice((0, 1, 1, 2))):
            what = self.random.choice(("set", "local", "critical", "delete", "look"))
            if what == "set":
                steps.append(("set", self.random.choice(NAMES), self.next()))
            elif what in ("local", "critical"):
                steps.append((what, self.random.choice(ATTRIBUTES), self.next()))
            elif what == "delete":
                steps.append(("delete", self.random.choice(ATTRIBUTES)))
            else:
                steps.append(("look",))
        return steps

    def calls(self, kind, depth, spine):
        """One step that calls further frames, with what may be around it."""
        catch = self.chance(30)
        call = (self.of_async if kind == "async" else self.of_sync)(depth, spine)
        steps = ((*call, catch),)
        if self.chance(10):
            steps = (("handling", self.next(), steps, self.chance(30)),)
        if kind == "async" and self.chance(12):
            what = self.random.choice(("context", "context", "executor"))
            steps = (*self.noise(kind), *steps, *self.noise(kind))
            if what == "context" and self.ours and self.released and self.chance(30):
                self.released -= 1
                before, after = (("hop", self.frame("sync", 0, 0), True) for _ in range(2))
                steps = (
                    ("released", (before, *self.noise(kind)), (*steps, after), self.chance(30)),
                )
            else:
                steps = ((what, steps, self.chance(30)),)
        if kind == "sync" and not spine and self.chance(8):
            if self.chance(50):
                steps = ((*self.of_sync(min(depth, 1), 0), True), *steps)
            steps = (("single", steps, self.chance(30)),)
        return [*steps]

    def of_async(self, depth, spine):
        ways = ["hop"] * 8 + ["pool"] * 2 + ["own", "await", "await", "task", "task"]
        if spine > 1 and (depth <= 0 or self.chance(50)):
            first = self.random.randint(1, spine - 1)
            shares = (first, spine - first)
            frames = tuple(self.frame("async", depth - 1, share) for share in shares)
            return ("gather blocked", frames, shares)
        if spine:
            ways += ["wait_for"]
        else:
            ways += ["gather", "wait_for", "late"]
            if self.plain:
                ways.remove("late")
            ways += ["cancel", "timeout", "cancel running", "cancel queued", "expired", "inline"]
        way = self.random.choice(ways)
        if way == "pool":
            self.pool -= 1
            if self.pool < 0:
                way = "hop"
        if way in ("hop", "pool", "own"):
            return (way, self.frame("sync", depth, spine))
        if way == "inline":
            return (way, self.frame("sync", min(depth, 1), 0))
        if way in ("cancel", "timeout"):
            blocks = self.random.choice((1, 1, 1, 2, 3))
            return (way, self.frame("async", depth, blocks), blocks)
        if way == "cancel running":
            self.pool -= 1
            return (way, self.pool < 0 or self.random.choice((True, False)))
        if way == "cancel queued":
            return (way,)
        if way == "gather":
            count = self.random.randint(1, 3)
            depths = [depth] + [self.random.randint(0, 2) for _ in range(count - 1)]
            return (way, tuple(self.frame("async", each, 0) for each in depths))
        if way in ("late", "expired"):
            depth = min(depth, self.random.randint(0, 3))
        return (way, self.frame("async", depth, spine))

    def of_sync(self, depth, spine):
        ways = ["bridge"] * 10 + ["new loop", "call", "call"]
        if self.plain:
            ways.remove("new loop")
        if not spine and not self.plain:
            ways += ["run", "thread", "schedule"]
        way = self.random.choice(ways) if depth > 0 else "bridge"
        if way == "schedule":
            depth = min(depth, self.random.randint(0, 2))
        kind = "sync" if way in ("call", "thread") else "async"
        return (way, self.frame(kind, depth, spine))


# --- running -------------------------------------------------------------------------------------


class Cell:
    """Who plays a role: known when the first one claims it."""

    def __init__(self, role, who=None):
        self.role = role
        self.who = who


@dataclass(frozen=True)
class Env:
    """What a frame knows of where it is. Passed down, never changed."""

    threads: tuple[Cell, ...]
    loops: tuple[Cell, ...]
    context: ContextCell | None = None  # the ThreadSensitiveContext we are in
    single: ContextCell | None = None  # the runner of the AsyncSingleThreadContext we are in
    home: Any = None  # the loop that brought us into this thread
    late: Any = None  # what the loop's first frame has still to run
    reached: Any = None  # to call when a block is reached
    late_of_shared: Any = None  # what the first frame further out that is on the shared loop has
    strand: tuple[Any, ...] = ()  # whose thread-critical Local: of those that run at a time


class ContextCell:
    """Who serves a context: another one after it has been left."""

    def __init__(self, role):
        self.cells = [Cell(role)]
        self.role = role

    def idle(self):
        self.cells.append(Cell(self.role + "~"))

    def leave(self):
        self.cells.append(Cell(self.role + "+"))


class Running:
    """Runs programs on the bridge called ``name``, on the shared loop if so told."""

    def __init__(self, name, is_shared=False):
        self.is_shared = is_shared
        self.sync = importlib.import_module(f"{name}.sync")
        self.local_module = importlib.import_module(f"{name}.local")
        self.process = asyncio.run(self.sync.sync_to_async(threading.current_thread)())

    def run(self, program):
        """The trace of a program."""
        kind, frame = program
        self.trace = {}
        self.claimed = []
        self.lock = threading.Lock()
        self.variables = {name: contextvars.ContextVar(name, default=None) for name in NAMES}
        self.local = self.local_module.Local()
        self.criticals = {}
        self.shared = Cell("shared"), Cell("shared loop")
        with self.loop_of_process():
            self.trace["program"] = contextvars.Context().run(self._run, kind, frame)
        self.release(*self.shared)
        return self.trace

    def loop_of_process(self):
        if not self.is_shared:
            return contextlib.nullcontext()
        return importlib.import_module("asgibridge.runners").shared_loop()

    def _run(self, kind, frame):
        main = Cell("main", threading.current_thread())
        env = Env(threads=(main, Cell("process", self.process)), loops=())
        self.claimed.append(main)
        try:
            if kind == "sync":
                return ("returned", self.do_sync(frame, env, ()))
            return ("returned", asyncio.run(self.root(frame, env, (), Cell("loop@()"))))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            return outcome_of(error)

    # Who is who.

    def claim(self, cell, who):
        with self.lock:
            if cell.who is None:
                cell.who = who
                for other in self.claimed:
                    if other.who is who:
                        cell.role += f" is {other.role}"
                self.claimed.append(cell)
        return cell.role if cell.who is who else "unknown"

    def release(self, *cells):
        with self.lock:
            self.claimed = [cell for cell in self.claimed if cell not in cells]

    def role(self, env):
        thread = threading.current_thread()
        for cell in env.threads:
            if cell.who is thread:
                return cell.role
        if thread.name.startswith("asyncio_"):
            return "pool"
        if env.context is not None:
            return self.claim(env.context.cells[-1], thread)
        return "unknown"

    def role_of_loop(self, env):
        loop = asyncio._get_running_loop()
        if loop is None:
            return None
        for cell in env.loops:
            if cell.who is loop:
                return cell.role
        return "unknown"

    # What a frame sees.

    def look(self, env, path):
        role = self.role(env)
        seen = [role, self.role_of_loop(env)]
        seen += [self.variables[name].get() for name in NAMES]
        seen += [getattr(self.local, name, None) for name in ATTRIBUTES]
        if role != "pool":  # which of its threads it is, nobody knows
            critical = self.critical(env)
            seen += [getattr(critical, name, None) for name in ATTRIBUTES]
        handled = sys.exc_info()[1]
        seen.append(handled and str(handled))
        handled = None
        self.trace.setdefault(path, []).append(tuple(seen))

    def critical(self, env):
        with self.lock:
            if env.strand not in self.criticals:
                self.criticals[env.strand] = self.local_module.Local(thread_critical=True)
            return self.criticals[env.strand]

    def note(self, path, what):
        self.trace.setdefault(path, []).append(what)

    def simple(self, step, env, path):
        what = step[0]
        if what == "set":
            self.variables[step[1]].set(step[2])
        elif what == "local":
            setattr(self.local, step[1], step[2])
        elif what == "critical":
            if self.role(env) != "pool":
                setattr(self.critical(env), step[1], step[2])
        elif what == "delete":
            try:
                delattr(self.local, step[1])
            except AttributeError:
                self.note(path, "nothing to delete")
        elif what == "look":
            self.look(env, path)
        elif what == "raise":
            raise ERRORS[step[1]](str(step[2]))
        else:
            return False
        return True

    # Async frames.

    async def root(self, frame, env, path, cell):
        """The first frame of a loop."""
        cell.who = asyncio.get_running_loop()
        return await self.with_late(frame, replace(env, loops=(*env.loops, cell), late=[]), path)

    async def with_late(self, frame, env, path):
        try:
            return await self.do_async(frame, env, path)
        finally:
            await asyncio.sleep(0)  # `schedule` may have put something in line only just now
            while env.late:
                task, go = env.late.pop(0)
                go.set()
                await asyncio.wait([task])

    async def new_loop(self, frame, env, path):
        """The first frame of a loop that a top-level `async_to_sync` started."""
        cell, runner = Cell(f"loop@{path}"), Cell(f"runner@{path}")
        thread = threading.current_thread()
        if env.single is None:
            self.claim(runner, thread)
        else:
            runner = env.single.cells[-1]
            if runner.who is None:
                self.claim(runner, thread)
            elif runner.who is not thread:
                runner = Cell("unknown", thread)
        try:
            # First: a late task may know the thread by what it was before.
            env = replace(env, threads=(runner, *env.threads))
            return await self.root(frame, env, path, cell)
        finally:
            if env.single is None:
                self.release(runner)

    async def arrive(self, frame, env, path):
        """The first frame of a task that a thread waits for."""
        if threading.current_thread().name == SHARED:
            return await self.on_shared_loop(frame, env, path)
        run = self.new_loop if self.role_of_loop(env) == "unknown" else self.do_async
        return await run(frame, env, path)

    async def on_shared_loop(self, frame, env, path):
        thread, loop = self.shared
        self.claim(thread, threading.current_thread())
        if loop.who is None:
            loop.who = asyncio.get_running_loop()
        if env.late_of_shared is None:
            late = []
            threads, loops = (thread, *env.threads), (*env.loops, loop)
            env = replace(env, threads=threads, loops=loops, late_of_shared=late)
            return await self.with_late(frame, replace(env, late=late), path)
        return await self.do_async(frame, replace(env, late=env.late_of_shared), path)

    async def do_async(self, frame, env, path):
        self.look(env, path)
        await self.async_steps(frame, env, path)
        self.look(env, path)
        return str(path)

    async def async_steps(self, steps, env, path):
        for i, step in enumerate(steps):
            if not self.simple(step, env, path):
                if step[0] == "block":
                    await self.block(step[1], env, path)
                    # Coroutines into which an exception was thrown do not see what those that await
                    # them handle until they are resumed the next time: CPython's own doing.
                    await asyncio.sleep(0)
                    continue
                try:
                    answer = await self.async_step(step, env, (*path, i))
                except BaseException as error:
                    self.note(path, outcome_of(error))
                    if not step[-1]:
                        raise
                    failed = True
                else:
                    self.note(path, answer)
                    failed = False
                if failed:
                    await asyncio.sleep(0)  # see `block`

    async def async_step(self, step, env, path):
        what, frame, *_ = step
        bridged = self.sync.sync_to_async
        if what in ("hop", "pool", "own"):
            env = replace(env, home=asyncio.get_running_loop())
        if what == "hop":
            return await bridged(self.do_sync)(frame, env, path)
        if what == "pool":
            return await bridged(self.do_sync, thread_sensitive=False)(frame, env, path)
        if what == "own":
            call = bridged(self.do_sync, context=contextvars.copy_context())
            return await call(frame, env, path)
        if what == "await":
            return await self.do_async(frame, env, path)
        if what == "task":
            return await asyncio.ensure_future(self.do_async(frame, env, path))
        if what == "wait_for":
            return await asyncio.wait_for(self.do_async(frame, env, path), 1000)
        if what == "expired":
            coroutine = self.do_async(frame, env, path)
            try:
                return await asyncio.wait_for(coroutine, 0)
            finally:
                coroutine.close()
        if what == "inline":
            return self.do_sync(frame, env, path)
        if what == "handling":
            try:
                raise Error(str(frame))
            except Error:
                return await self.async_steps(step[2], env, path)
        if what == "late":
            self.run_late(frame, env, path)
            return None
        return await getattr(self, "async_" + what.replace(" ", "_"))(step, env, path)

    def run_late(self, frame, env, path):
        go = asyncio.Event()
        env = replace(env, strand=path)
        env.late.append((asyncio.ensure_future(self.late_task(frame, env, path, go)), go))

    async def late_task(self, frame, env, path, go):
        await go.wait()
        try:
            self.note(path, ("returned", await self.do_async(frame, env, path)))
        except BaseException as error:
            self.note(path, outcome_of(error))

    async def async_gather_blocked(self, step, env, path):
        return await self.async_gather(step, env, path)

    async def async_gather(self, step, env, path):
        places = [(*path, i) for i in range(len(step[1]))]
        frames = [
            self.do_async(frame, replace(env, strand=place), place)
            for frame, place in zip(step[1], places)
        ]
        outcomes = await asyncio.gather(*frames, return_exceptions=True)
        return [o if isinstance(o, str) else outcome_of(o) for o in outcomes]

    async def async_context(self, step, env, path):
        if env.context is not None:
            async with self.sync.ThreadSensitiveContext():
                return await self.async_steps(step[1], env, path)
        cell = ContextCell(f"context@{path}")
        async with self.sync.ThreadSensitiveContext():
            try:
                await self.async_steps(step[1], replace(env, context=cell), path)
            finally:
                # Not later: its thread may be at work for others before the block has been left.
                self.release(cell.cells[0])
                cell.leave()

    async def async_released(self, step, env, path):
        # It is bound while it has calls: when it is released between two of them is not foretold.
        _, before, after, _ = step
        workers = importlib.import_module("asgibridge.workers")
        context = self.sync.ThreadSensitiveContext(
            policy=workers.Policy(kind="fresh", release_idle=0)
        )
        cell = ContextCell(f"released@{path}") if env.context is None else None
        if cell is not None:
            env = replace(env, context=cell)
        async with context:
            try:
                with workers.bind():
                    await self.async_steps(before, env, (*path, 0))
                if cell is not None:
                    await self.has_let_go(context)
                    self.release(cell.cells[0])
                    cell.idle()
                with workers.bind():
                    return await self.async_steps(after, env, (*path, 1))
            finally:
                if cell is not None:
                    self.release(cell.cells[-1])
                    cell.leave()

    async def has_let_go(self, context):
        lease = self.sync.SyncToAsync.context_to_thread_executor.get(context)
        deadline = time.monotonic() + SECONDS
        while lease is not None and lease._worker is not None:
            if time.monotonic() > deadline:
                raise TimeoutError("a context that idles was not released")
            await asyncio.sleep(0.001)

    async def async_executor(self, step, env, path):
        executor = ThreadPoolExecutor(1)
        cell = ContextCell(f"executor@{path}")
        try:
            async with self.sync.ThreadSensitiveContext(executor=executor):
                await self.async_steps(step[1], replace(env, context=cell), path)
        finally:
            self.release(cell.cells[0])
            executor.shutdown(wait=False)

    # Cancellation.

    async def block(self, reaction, env, path):
        self.look(env, path)
        env.reached()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.note(path, "cancelled")
            if reaction == "raise":
                raise
            if reaction == "fail":
                raise Error("instead") from None
            if reaction == "hop":

                def clean_up():
                    self.note(path, self.role(env))

                try:
                    await self.sync.sync_to_async(clean_up)()
                except RuntimeError as error:
                    self.note(path, outcome_of(error))
                raise

    def counting(self, blocks, call):
        # ``call`` on this loop when the last of so many blocks is reached.
        loop = asyncio.get_running_loop()
        left = list(range(blocks))

        def reached():
            with self.lock:
                left.pop()
                if left:
                    return
            loop.call_soon_threadsafe(call)

        return reached

    async def async_cancel(self, step, env, path):
        _, frame, blocks, _ = step
        reached = asyncio.Event()
        env = replace(env, reached=self.counting(blocks, reached.set))
        task = asyncio.ensure_future(self.do_async(frame, env, path))
        await self.first(task, reached)
        task.cancel()
        return await task

    async def first(self, task, event):
        # Of a task's end and an event.
        waiter = asyncio.ensure_future(event.wait())
        await asyncio.wait([task, waiter], return_when=asyncio.FIRST_COMPLETED)
        waiter.cancel()
        await asyncio.wait([waiter])

    async def async_timeout(self, step, env, path):
        _, frame, blocks, _ = step
        if sys.version_info >= (3, 11):
            timeout = asyncio.timeout(None)
            now = lambda: timeout.reschedule(0)  # noqa: E731
            env = replace(env, reached=self.counting(blocks, now))
            async with timeout:
                return await self.do_async(frame, env, path)
        task = asyncio.current_task()
        expired = []

        def expire():
            expired.append(True)
            task.cancel()

        env = replace(env, reached=self.counting(blocks, expire))
        try:
            return await self.do_async(frame, env, path)
        except asyncio.CancelledError:
            if expired:
                raise asyncio.TimeoutError from None
            raise

    async def async_cancel_running(self, step, env, path):
        loop = asyncio.get_running_loop()
        started, ended, release = asyncio.Event(), asyncio.Event(), threading.Event()

        def work():
            self.look(env, path)
            loop.call_soon_threadsafe(started.set)
            release.wait(SECONDS)
            self.note(path, "went on")
            loop.call_soon_threadsafe(ended.set)

        task = asyncio.ensure_future(self.sync.sync_to_async(work, thread_sensitive=step[1])())
        await self.first(task, started)
        if task.done():
            return await task
        task.cancel()
        await asyncio.wait([task])
        answer = "cancelled" if task.cancelled() else "not cancelled"
        release.set()
        await ended.wait()
        return answer

    async def async_cancel_queued(self, _step, env, path):
        loop = asyncio.get_running_loop()
        started, release = asyncio.Event(), threading.Event()
        ran = []

        def work():
            loop.call_soon_threadsafe(started.set)
            release.wait(SECONDS)
            ran.append("the first")

        first = asyncio.ensure_future(self.sync.sync_to_async(work)())
        await self.first(first, started)
        if first.done():
            return await first
        second = asyncio.ensure_future(self.sync.sync_to_async(ran.append)("the second"))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait([second])
        release.set()
        await first
        await self.sync.sync_to_async(ran.append)("the third")
        return (second.cancelled(), *ran)

    # Sync frames.

    def do_sync(self, frame, env, path):
        self.look(env, path)
        self.sync_steps(frame, env, path)
        self.look(env, path)
        return str(path)

    def sync_steps(self, steps, env, path):
        for i, step in enumerate(steps):
            if not self.simple(step, env, path):
                try:
                    answer = self.sync_step(step, env, (*path, i))
                except BaseException as error:
                    self.note(path, outcome_of(error))
                    if not step[-1]:
                        raise
                else:
                    self.note(path, answer)

    def sync_step(self, step, env, path):
        what, frame, *_ = step
        if what == "call":
            return self.do_sync(frame, env, path)
        if what == "bridge":
            env = self.with_this_thread(env)
            return self.sync.async_to_sync(self.arrive)(frame, env, path)
        if what == "new loop":
            env = self.with_this_thread(env)
            call = self.sync.async_to_sync(self.new_loop, force_new_loop=True)
            return call(frame, env, path)
        if what == "run":
            if asyncio._get_running_loop() is not None:
                return None
            env = self.with_this_thread(env)
            return asyncio.run(self.root(frame, env, path, Cell(f"loop@{path}")))
        if what == "thread":
            return self.in_thread(frame, env, path)
        if what == "schedule":
            return self.schedule(frame, env, path)
        if what == "handling":
            try:
                raise Error(str(frame))
            except Error:
                return self.sync_steps(step[2], env, path)
        assert what == "single"
        cell = env.single or ContextCell(f"single@{path}")
        with self.sync.AsyncSingleThreadContext():
            try:
                return self.sync_steps(frame, replace(env, single=cell), path)
            finally:
                if cell is not env.single:
                    self.release(cell.cells[0])
                    cell.leave()

    def with_this_thread(self, env):
        """A pool's thread that waits is known by itself, not only as one of the pool's."""
        thread = threading.current_thread()
        if any(cell.who is thread for cell in env.threads):
            return env
        role = self.role(env)
        return replace(env, threads=(*env.threads, Cell(role, thread)))

    def in_thread(self, frame, env, path):
        outcome = []
        env = self.with_this_thread(env)

        def target():
            cell = Cell(f"thread@{path}", threading.current_thread())
            with self.lock:
                self.claimed.append(cell)
            inner = replace(env, threads=(*env.threads, cell), home=None)
            try:
                outcome.append(self.do_sync(frame, inner, path))
            except BaseException as error:
                outcome.append(outcome_of(error))
            self.release(cell)

        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(target,))
        thread.start()
        thread.join()
        return outcome[0]

    def schedule(self, frame, env, path):
        if env.home is None or asyncio._get_running_loop() is not None:
            return "no loop"
        env.home.call_soon_threadsafe(self.run_late, frame, self.with_this_thread(env), path)
        return "scheduled"


# --- in a process of its own ---------------------------------------------------------------------


unraisable: list[Any] = []


def read(stream):
    head = stream.read(4)
    if len(head) < 4:
        return None
    return pickle.loads(stream.read(struct.unpack("!I", head)[0]))


def write(stream, what):
    data = pickle.dumps(what)
    stream.write(struct.pack("!I", len(data)) + data)
    stream.flush()


def check(running):
    """What a bridge of ours has to have left behind after a program: nothing."""
    sync = running.sync
    found = list(unraisable)
    if sync.AsyncToSync.loop_thread_executors:
        found.append("loop_thread_executors is not empty")
    deadline = time.monotonic() + SECONDS
    while not sync.SyncToAsync.single_thread_executor.is_idle():
        # Who was cancelled while it ran has said that it is over as the last thing it did.
        if time.monotonic() > deadline:
            found.append("the process's thread is busy")
            break
        time.sleep(0.0001)
    for cell in running.claimed:
        if cell.role != "main" and not cell.role.endswith("+"):
            found.append(f"{cell.role} was not released")
    return found


def main():
    name, *more = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    faulthandler.enable()
    warnings.simplefilter("error")
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    sys.unraisablehook = lambda each: unraisable.append(repr(each.exc_value))
    running = Running(name, is_shared=more == ["shared"])
    write(answers, getattr(sys.modules[name], "IMPLEMENTATION", name))
    count = 0
    while True:
        program = read(sys.stdin.buffer)
        if program is None:
            return
        unraisable.clear()
        trace = running.run(program)
        count += 1
        if count % 50 == 0:
            gc.collect()
        write(answers, (trace, [] if name == "asgiref" else check(running)))


if __name__ == "__main__":
    main()
