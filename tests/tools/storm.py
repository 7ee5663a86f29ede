"""Every kind of call at once, from many loops and threads, with faults: what the long runs run.

    python tests/tools/storm.py [--seed N] [--seconds S] [--loops N] [--threads N] [--tasks N]
                                [--shared-loop]

Each actor draws one operation after the other from its own random numbers (the seed's, so they draw
the same again; what meets what is the scheduler's). An operation checks what it can by itself: the
very object came back, context variables went both ways, the thread was the right one. What only the
whole can tell is counted, and must agree when all have ended:

* a function runs once; not at all if it was cancelled before it began, never twice;
* each exception raised is met by whoever waits, or by the loop's exception handler;
* each item put into a queue is got once, and so forth: see `storm_queues.py`.

An actor that does not come to its end within `PATIENCE` seconds is a hang: then all stacks are
printed. Nothing here waits by sleeping.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import contextvars
import faulthandler
import gc
import os
import random
import sys
import threading
import time
import traceback
import weakref
from collections import Counter
from dataclasses import dataclass, field

import asgibridge
from asgibridge import workers
from asgibridge.iterators import (
    async_to_sync_context_manager,
    async_to_sync_iterator,
    sync_to_async_context_manager,
    sync_to_async_iterator,
)
from asgibridge.local import Local
from asgibridge.runners import shared_loop
from asgibridge.sync import (
    AsyncSingleThreadContext,
    ThreadSensitiveContext,
    async_to_sync,
    sync_to_async,
)
from storm_queues import Queues, Wrong, ensure

PATIENCE = 60
"""Seconds for what an actor does last, with everybody else at it."""

RELEASED = workers.Policy(kind="keep", release_idle=0)
"""Of contexts that give their worker back as soon as that may be, after a hundredth of a second."""
STICKY = [workers.Policy(kind=kind, sticky="storm") for kind in ("fresh", "keep", "new")]
"""Of contexts that share their worker with those of other loops."""

variable = contextvars.ContextVar("variable")
local = Local()


class Fault(Exception):
    """An error that an operation raises on purpose."""


@dataclass
class Report:
    """What a storm did, and what went wrong."""

    seed: int
    operations: Counter = field(default_factory=Counter)
    faults: Counter = field(default_factory=Counter)
    wrong: list = field(default_factory=list)

    @property
    def ok(self):
        return not self.wrong and sum(self.operations.values()) > 0

    def add(self, other):
        self.operations += other.operations
        self.faults += other.faults
        self.wrong += other.wrong

    def __str__(self):
        faults = ", ".join(f"{number} {name}" for name, number in sorted(self.faults.items()))
        return (
            f"{sum(self.operations.values())} operations of {len(self.operations)} kinds; "
            f"faults: {faults or 'none'}; {len(self.wrong)} wrong"
        )


class Call:
    """A sync function that knows whether it was run, and where."""

    def __init__(self, storm, fails=False):
        self.storm = storm
        self.error = Fault() if fails else None
        self.runs = 0
        self.thread = None
        self.argument = object()
        self.found = None

    def __call__(self, argument):
        self.runs += 1
        self.storm.tally(begun=1, twice=self.runs > 1)
        try:
            self.thread = threading.current_thread()
            self.found = variable.get(None)
            ensure(argument is self.argument, "another call's argument")
            variable.set(self)
            local.value = self
            if self.error is not None:
                self.storm.tally(raised=1)
                raise self.error
            return argument
        finally:
            self.storm.tally(ended=1)

    def check(self, result, outside):
        """It has returned, to a caller that had ``outside`` set."""
        ensure(self.runs == 1, "not run once", self.runs)
        ensure(result is self.argument, "another call's result", result)
        ensure(self.found is outside, "the caller's context variable", self.found)
        ensure(variable.get(None) is self, "the function's context variable")
        ensure(local.value is self, "the function's Local attribute")

    def met(self, error):
        """Whoever waited got ``error``."""
        ensure(error is self.error, "another call's error", error)
        self.storm.tally(met=1)


class Storm(Queues):
    """``loops`` threads with a loop of ``tasks`` tasks each, and ``threads`` without, whose calls
    share a loop if so told."""

    def __init__(self, seed, *, loops=3, threads=3, tasks=4, shared=False):
        super().__init__()
        self.report = Report(seed)
        self.shared = shared
        self.loops, self.threads, self.tasks = loops, threads, tasks
        self.over = threading.Event()
        self.counts = Counter()
        self.alone = [threading.Lock() for _ in STICKY]

    def tally(self, **counts):
        with self.lock:
            for name, number in counts.items():
                self.counts[name] += number

    def fault(self, name):
        with self.lock:
            self.report.faults[name] += 1

    # What it is made of.

    def run(self, seconds):
        """Let it blow for so long; the report."""
        outer_hooks = threading.excepthook, sys.unraisablehook
        # Weakly: a thread keeps the hook of the time when it was made, and ours are kept.
        blame = weakref.WeakMethod(self.blame)
        threading.excepthook = lambda args: blame()("in a thread", args.exc_value)
        sys.unraisablehook = lambda args: blame()(f"in {args.object!r}", args.exc_value)
        actors = [
            threading.Thread(target=self.actor, args=(target, number), name=f"{kind}-{number}")
            for kind, target, count in (
                ("loop", self.on_loop, self.loops),
                ("thread", self.on_thread, self.threads),
            )
            for number in range(count)
        ]
        shared = shared_loop() if self.shared else None
        try:
            for actor in actors:
                actor.start()
            self.over.wait(seconds)
            self.over.set()
            deadline = time.monotonic() + PATIENCE
            for actor in actors:
                actor.join(max(0, deadline - time.monotonic()))
                if actor.is_alive():
                    faulthandler.dump_traceback(all_threads=True)
                    self.blame(f"{actor.name} hangs")
                    return self.report
            if shared is not None:
                shared.switch_off()
            self.settle()
        finally:
            threading.excepthook, sys.unraisablehook = outer_hooks
        return self.report

    def settle(self):
        """All have ended: what must agree now."""
        gc.collect()
        counts = self.counts
        for what, agrees in (
            ("a function did not end", counts["begun"] == counts["ended"]),
            ("a function ran twice", not counts["twice"]),
            ("an error was lost", counts["raised"] == counts["met"] + counts["unheard"]),
            *self.agreements(),
        ):
            if not agrees:
                self.blame(f"{what}: {dict(counts)}, {len(self.put)} put, {len(self.got)} got")

    def blame(self, what, error=None):
        told = (
            "".join(traceback.format_exception(type(error), error, error.__traceback__))
            if (error is not None)
            else ""
        )
        print(f"WRONG, seed {self.report.seed}: {what}\n{told}", file=sys.stderr, flush=True)
        with self.lock:
            self.report.wrong.append(what)

    def actor(self, target, number):
        try:
            target(number)
        except BaseException as error:
            self.over.set()
            self.blame(threading.current_thread().name, error)

    def chance(self, *who):
        return random.Random(f"{self.report.seed} {who}")

    def on_loop(self, number):
        asyncio.run(self.main(number))

    async def main(self, number):
        asyncio.get_running_loop().set_exception_handler(self.on_unheard)
        await asyncio.gather(
            *(self.on_task(self.chance("task", number, each)) for each in range(self.tasks))
        )

    def on_unheard(self, _loop, context):
        error = context.get("exception")
        if isinstance(error, Fault):  # ours says so, and asyncio of a shielded task
            self.tally(unheard=1)
        else:
            self.blame(f"in the loop's exception handler: {context['message']}", error)

    async def on_task(self, chance):
        while not self.over.is_set():
            operation = chance.choice(self.IN_TASKS)
            await operation(self, chance)
            with self.lock:
                self.report.operations[operation.__name__] += 1

    def on_thread(self, number):
        chance = self.chance("thread", number)
        while not self.over.is_set():
            operation = chance.choice(self.IN_THREADS)
            operation(self, chance)
            with self.lock:
                self.report.operations[operation.__name__] += 1

    # What tasks do.

    async def hop(self, chance):
        call = Call(self)
        outside = variable.get(None)
        call.check(await sync_to_async(call)(call.argument), outside)

    async def pool_hop(self, chance):
        call = Call(self)
        outside = variable.get(None)
        call.check(await sync_to_async(call, thread_sensitive=False)(call.argument), outside)

    async def failing(self, chance):
        call = Call(self, fails=True)
        self.fault("exception")
        try:
            await sync_to_async(call, thread_sensitive=chance.random() < 0.7)(call.argument)
        except Fault as error:
            call.met(error)
        else:
            raise Wrong("an error was lost on the way")

    async def many(self, chance):
        calls = [Call(self) for _ in range(chance.randrange(2, 20))]
        results = await asyncio.gather(*(sync_to_async(call)(call.argument) for call in calls))
        for call, result in zip(calls, results):
            ensure(call.runs == 1 and result is call.argument, "a gathered call", call.runs)

    async def context(self, chance):
        async with ThreadSensitiveContext():
            calls = [Call(self) for _ in range(chance.randrange(1, 4))]
            for call in calls:
                outside = variable.get(None)
                call.check(await sync_to_async(call)(call.argument), outside)
            ensure(len({call.thread for call in calls}) == 1, "a context has one thread")
            if chance.random() < 0.2:
                await self.cancelled(chance)

    async def released(self, chance):
        """A context that idles gives its worker back, and one that is bound does not."""
        async with ThreadSensitiveContext(policy=RELEASED):
            for _ in range(chance.randrange(1, 4)):
                before = workers.stats().released
                calls = [Call(self) for _ in range(2)]
                with workers.bind():
                    for call in calls:
                        outside = variable.get(None)
                        call.check(await sync_to_async(call)(call.argument), outside)
                        await sync_to_async(int, thread_sensitive=False)()
                ensure(calls[0].thread is calls[1].thread, "a bound context has one thread")
                while workers.stats().released == before and not self.over.is_set():
                    await sync_to_async(int, thread_sensitive=False)()

    async def shared(self, chance):
        """Contexts of one key: no two of their calls run at once, from whatever loop they come."""
        # It inherits nothing, or its calls would go to a thread that waits in `async_to_sync`.
        await contextvars.Context().run(asyncio.ensure_future, self.of_one_key(chance))

    async def of_one_key(self, chance):
        which = chance.randrange(len(STICKY))

        def alone(call):
            ensure(self.alone[which].acquire(blocking=False), "two calls of one key at once")
            try:
                return call(call.argument)
            finally:
                self.alone[which].release()

        async with ThreadSensitiveContext(policy=STICKY[which]):
            calls = [Call(self) for _ in range(chance.randrange(1, 4))]
            for call in calls:
                outside = variable.get(None)
                call.check(await sync_to_async(alone)(call), outside)
            ensure(len({call.thread for call in calls}) == 1, "a context has one thread")
            if chance.random() < 0.2:
                await self.cancelled(chance)

    async def there_and_back(self, chance):
        depth = chance.randrange(1, 5)
        error = Fault() if chance.random() < 0.3 else None
        if error is not None:
            self.fault("exception")
        try:
            await self.down(depth, error, None)
        except Fault as met:
            ensure(met is error, "another call's error")
            self.tally(met=1)
        else:
            ensure(error is None, "an error was lost on the way")

    async def down(self, depth, error, thread):
        if not depth:
            if error is not None:
                self.tally(raised=1)
                raise error
            return
        mark = object()
        variable.set(mark)
        await sync_to_async(self.up)(depth, error, thread, mark)
        ensure(variable.get() is not mark, "the inner side's context variable")

    def up(self, depth, error, thread, mark):
        here = threading.current_thread()
        ensure(thread is None or here is thread, "sync code of one chain has one thread", here)
        ensure(variable.get() is mark, "the outer side's context variable")
        variable.set(object())
        async_to_sync(self.down)(depth - 1, error, here)

    async def cancelled(self, chance):
        call = Call(self, fails=chance.random() < 0.3)
        waits = chance.random() < 0.2
        work = sync_to_async(call, thread_sensitive=self.where(call, chance))(call.argument)
        if call.error is None and chance.random() < 0.2:  # asyncio's shield may lose an error
            work = asyncio.shield(work)
        task = asyncio.ensure_future(work)
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        if waits:
            await asyncio.wait([task], timeout=chance.choice((1e-5, 1e-4)))
        self.fault("cancellation")
        await self.cancel(task, call)

    def where(self, call, chance):
        """An error nobody waits for goes to the loop, if there still is one: see `heard`."""
        return call.error is not None or chance.random() < 0.7

    async def heard(self, call):
        """By now the function has ended, and what it raised been told: one thread, in order."""
        if call.error is not None:
            await sync_to_async(int)()

    async def cancel(self, task, call):
        task.cancel()
        try:
            result = await task
        except asyncio.CancelledError:
            ensure(call.runs <= 1, "run twice")
        except Fault as error:
            call.met(error)
        else:
            ensure(result is call.argument, "another call's result")
        await self.heard(call)

    async def cancelled_inside(self, chance):
        """What waits in `async_to_sync`: the cancellation goes on to the coroutine there."""
        ended = []

        async def inner():
            try:
                await sync_to_async(int)()
                await let_go.wait()
            finally:
                ended.append(1)

        begun, let_go, over = asyncio.Event(), asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def work():
            loop.call_soon_threadsafe(begun.set)
            try:
                async_to_sync(inner)()
            finally:
                loop.call_soon_threadsafe(over.set)

        task = asyncio.ensure_future(sync_to_async(work)())
        await begun.wait()
        for _ in range(chance.randrange(6)):
            await asyncio.sleep(0)
        self.fault("cancellation")
        task.cancel()
        let_go.set()  # the cancellation may have come before the coroutine, and been over then
        try:
            await task
        except asyncio.CancelledError:
            pass
        await over.wait()  # it may go on unheard, and needs the loop
        ensure(len(ended) == 1, "the coroutine ended once", ended)

    async def out_of_time(self, chance):
        call = Call(self, fails=chance.random() < 0.3)
        self.fault("time-out")
        try:
            result = await asyncio.wait_for(
                sync_to_async(call, thread_sensitive=self.where(call, chance))(call.argument),
                chance.choice((0, 1e-5, 1e-4, 5e-4)),
            )
        except asyncio.TimeoutError:
            ensure(call.runs <= 1, "run twice")
        except Fault as error:
            call.met(error)
        else:
            ensure(result is call.argument, "another call's result")
        await self.heard(call)

    async def iterate(self, chance):
        n, at_most = chance.randrange(50), chance.randrange(60)
        closed = []

        def items():
            try:
                yield from range(n)
            finally:
                closed.append(threading.current_thread())

        seen = []
        async with contextlib.AsyncExitStack() as stack:
            source = sync_to_async_iterator(items, max_size=chance.choice((1, 4, 128)))()
            stack.push_async_callback(source.aclose)
            async for item in source:
                seen.append(item)
                if len(seen) > at_most:
                    break
        ensure(seen == list(range(min(n, at_most + 1))), "items of an iterator", seen)
        ensure(len(closed) == 1, "a generator is closed once", closed)

    async def manage(self, chance):
        @contextlib.contextmanager
        def managed():
            token = variable.set(self)
            yield threading.current_thread()
            variable.reset(token)

        outside = object()  # that a variable has no value any more does not cross
        variable.set(outside)
        async with sync_to_async_context_manager(managed)():
            ensure(variable.get() is self, "a context manager's variable")
        ensure(variable.get() is outside, "a context manager's variable, reset")

    async def scheduled(self, chance):
        """A task that a worker schedules onto its loop makes calls of its own."""
        loop = asyncio.get_running_loop()
        call = Call(self)

        async def later():
            return await sync_to_async(call)(call.argument)

        def work():
            return asyncio.run_coroutine_threadsafe(later(), loop)

        future = await sync_to_async(work)()
        ensure(await asyncio.wrap_future(future) is call.argument, "a scheduled task's result")

    # What threads do.

    def top_level(self, chance):
        call = Call(self, fails=chance.random() < 0.3)
        outside = variable.get(None)

        async def main():
            return await sync_to_async(call)(call.argument)

        try:
            result = async_to_sync(main)()
        except Fault as error:
            self.fault("exception")
            call.met(error)
        else:
            call.check(result, outside)
        ensure(call.thread is threading.current_thread(), "the caller's own thread", call.thread)

    def top_level_of_many(self, chance):
        async def main():
            asyncio.get_running_loop().set_exception_handler(self.on_unheard)
            for _ in range(chance.randrange(1, 4)):
                await chance.choice(self.IN_TASKS)(self, chance)

        async_to_sync(main)()

    def new_loop(self, chance):
        async def main():
            asyncio.get_running_loop().set_exception_handler(self.on_unheard)
            for _ in range(chance.randrange(1, 6)):
                await self.hop(chance)

        asyncio.run(main())

    def one_thread(self, chance):
        with AsyncSingleThreadContext():
            threads = {async_to_sync(self.loop_thread)() for _ in range(chance.randrange(1, 4))}
        ensure(len(threads) == 1, "an AsyncSingleThreadContext has one thread", threads)

    async def loop_thread(self):
        await sync_to_async(int)()
        return threading.current_thread()

    def iterate_in_thread(self, chance):
        n, at_most = chance.randrange(30), chance.randrange(40)
        closed = []

        async def items():
            try:
                for item in range(n):
                    yield item
            finally:
                closed.append(1)

        seen = []
        source = async_to_sync_iterator(items)()
        try:
            for item in source:
                seen.append(item)
                if len(seen) > at_most:
                    break
        finally:
            source.close()
        ensure(seen == list(range(min(n, at_most + 1))), "items of an iterator", seen)
        ensure(len(closed) == 1, "an async generator is closed once", closed)

    def manage_in_thread(self, chance):
        @contextlib.asynccontextmanager
        async def managed():
            yield await sync_to_async(threading.current_thread)()

        with async_to_sync_context_manager(managed)() as thread:
            ensure(thread is threading.current_thread(), "the caller's own thread", thread)

    IN_TASKS = (
        hop,
        pool_hop,
        failing,
        many,
        context,
        released,
        shared,
        there_and_back,
        cancelled,
        cancelled_inside,
        out_of_time,
        *Queues.IN_TASKS,
        iterate,
        manage,
        scheduled,
    )
    IN_THREADS = (
        top_level,
        top_level_of_many,
        new_loop,
        one_thread,
        iterate_in_thread,
        manage_in_thread,
        *Queues.IN_THREADS,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=None, help="default: a new one, printed")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--loops", type=int, default=3)
    parser.add_argument("--threads", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=4, help="on each loop")
    parser.add_argument("--shared-loop", action="store_true", help="for what threads call")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    storm = Storm(
        seed,
        loops=options.loops,
        threads=options.threads,
        tasks=options.tasks,
        shared=options.shared_loop,
    )
    report = storm.run(options.seconds)
    print(f"storm ({asgibridge.IMPLEMENTATION} kernel, seed {seed}): {report}")
    print("PASSED" if report.ok else "FAILED", flush=True)
    if any("hangs" in what for what in report.wrong):
        os._exit(1)  # the end of the interpreter would wait for it
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
