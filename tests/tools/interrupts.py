"""Ctrl-C at random moments of programs that cross between threads and loops.

    python tests/tools/interrupts.py --runs 1000 --seed 1

Each run sends the main thread one SIGINT at a moment that the seed and the machine choose, from
before the program begins to after its end. Afterwards nothing may be left: no task that has not
ended, no function that has not, none that ran twice, no frame or handler of ours; and the next
calls must work. `RUNS` of them share a child process, which must end by itself. POSIX only.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import gc
import linecache
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
import weakref

from asgibridge import IMPLEMENTATION
from asgibridge.sync import (
    AsyncSingleThreadContext,
    AsyncToSync,
    ThreadSensitiveContext,
    async_to_sync,
    sync_to_async,
)

RUNS = 25
"""Runs of one child process."""

STUCK = 30
"""Seconds after which a run hangs. One takes some milliseconds."""

HOPS = 8

# What Python does: what asyncio.run leaves if a signal comes while it opens or closes its loop, and
# a KeyboardInterrupt that is raised in a finalizer.
PYTHONS_OWN = (
    "KeyboardInterrupt()",
    "coroutine 'Run.begin'",
    "coroutine 'BaseEventLoop.",
    "BaseEventLoop.__del__",  # of one that was not quite made
    "_ThreadedChildWatcher.__del__",  # the same
    "unclosed event loop",
    "unclosed <socket",
)

# What an interrupt in the middle of a `threading.Condition` or of asyncio.run's clean-up comes to.
INTERRUPTED_CLEAN_UP = (
    "release unlocked lock",
    "Cannot close a running event loop",
    "Event loop stopped before Future completed.",
)


class Run:
    """One program that can be interrupted, and what it leaves behind."""

    def __init__(self, chance):
        self.chance = chance
        self.tasks = weakref.WeakSet()
        self.begun, self.ended = [], []
        self.number = 0

    def program(self):
        return self.chance.choice(
            [
                self.at_the_top,
                self.in_one_thread,
                self.in_asyncio_run,
                self.in_a_context_in_asyncio_run,
                self.nested,
                self.many_at_once,
                self.many_in_asyncio_run,
            ]
        )

    # What the programs are made of.

    def work(self, number):
        self.begun.append(number)
        try:
            return sum(range(100))
        finally:
            self.ended.append(number)

    def next(self):
        self.number += 1
        return self.number

    def note_task(self):
        self.tasks.add(asyncio.current_task())

    async def hops(self, count=HOPS, thread_sensitive=True):
        self.note_task()
        call = sync_to_async(self.work, thread_sensitive=thread_sensitive)
        for _ in range(count):
            await call(self.next())

    def bridged(self, depth):
        self.work(self.next())
        async_to_sync(self.levels)(depth)

    async def levels(self, depth):
        self.note_task()
        await self.hops(1)
        if depth:
            await sync_to_async(self.bridged)(depth - 1)

    async def tasks_at_once(self):
        self.note_task()
        await asyncio.gather(
            *(self.hops(2, thread_sensitive) for thread_sensitive in (True, False, True, False))
        )

    async def context(self):
        async with ThreadSensitiveContext():
            await self.hops(3)
            await self.levels(2)

    async def begin(self, function, *args):
        await function(*args)  # not made before asyncio.run has begun: it might not be awaited

    # The programs.

    def at_the_top(self):
        async_to_sync(self.hops)()

    def in_one_thread(self):
        with AsyncSingleThreadContext():
            async_to_sync(self.hops)(3)
            async_to_sync(self.levels)(1)

    def in_asyncio_run(self):
        asyncio.run(self.begin(self.hops))

    def in_a_context_in_asyncio_run(self):
        asyncio.run(self.begin(self.context))

    def nested(self):
        async_to_sync(self.levels)(4)

    def many_at_once(self):
        async_to_sync(self.tasks_at_once)()

    def many_in_asyncio_run(self):
        asyncio.run(self.begin(self.tasks_at_once))

    # What is left.

    def left_behind(self):
        self.settle()
        found = [f"{task!r} has not ended" for task in self.tasks if not task.done()]
        if sorted(self.begun) != sorted(self.ended):
            found.append(f"begun {self.begun}, ended {self.ended}")
        if len(set(self.begun)) != len(self.begun):
            found.append(f"run twice: {self.begun}")
        if AsyncToSync.loop_thread_executors:
            found.append("loop_thread_executors is not empty")
        if getattr(AsyncToSync.executors, "current", None) is not None:
            found.append("a frame is still current")
        handler = signal.getsignal(signal.SIGINT)
        if handler is not signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            # A signal at the end of asyncio.run makes it leave its own.
            if "Runner._on_sigint" not in repr(handler):
                found.append(f"SIGINT handler {handler}")
        if asyncio._get_running_loop() is not None:
            found.append("a loop still runs")
        return found

    def settle(self):
        """The next calls work, and wait for what still runs."""
        assert asyncio.run(sync_to_async(int)("7")) == 7
        assert async_to_sync(sync_to_async(int))("7") == 7
        deadline = time.monotonic() + STUCK
        while sorted(self.begun) != sorted(self.ended) and time.monotonic() < deadline:
            time.sleep(0.001)


class Sender:
    """Sends the main thread a SIGINT after so many seconds."""

    def __init__(self, seconds):
        self.seconds = seconds
        self.main = threading.main_thread().ident
        self.go = threading.Event()
        self.sent = False  # no event: an interrupt as it is looked at can leave its lock locked
        self.thread = threading.Thread(target=self.send)

    def send(self):
        self.go.wait()
        time.sleep(self.seconds)
        signal.pthread_kill(self.main, signal.SIGINT)
        self.sent = True


def interrupt_once(run, seconds):
    """Whether a KeyboardInterrupt came out."""
    program = run.chosen = run.program()
    sender = Sender(seconds)
    sender.thread.start()
    try:
        try:
            sender.go.set()
            program()
        finally:
            while not sender.sent:
                time.sleep(0.0001)
            time.sleep(0)  # the signal's handler runs here at the latest
        interrupted = False
    except KeyboardInterrupt:
        interrupted = True
    except (RuntimeError, asyncio.CancelledError) as error:
        # `asyncio.run` counts its interrupts from a moment after it has begun to hear of them.
        own = isinstance(error, asyncio.CancelledError) or str(error) in INTERRUPTED_CLEAN_UP
        if not own or "asyncio_run" not in program.__name__:
            raise
        interrupted = True
    if "asyncio_run" in program.__name__:
        asyncio._set_running_loop(None)  # an interrupt in run_forever's clean-up leaves it
    sender.thread.join()
    return interrupted


def dropped_as_it_was_made():
    """Whether a coroutine ends because the interrupt came before the caller's frame had it."""
    frame = sys._getframe()
    while frame is not None:
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        if line.strip() == "coroutine = function(*args, **kwargs)":
            return True
        frame = frame.f_back
    return False


def child(seed, runs):
    faulthandler.enable()
    # A background job of a shell's ignores Ctrl-C, and so would we.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    warnings.simplefilter("error")
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    unraisable = []

    def note(each):
        where = traceback.format_tb(each.exc_traceback)[-1:]
        told = f"{each.exc_value!r} {each.err_msg or 'in'} {each.object!r} {where}"
        if not any(own in told for own in PYTHONS_OWN) and not dropped_as_it_was_made():
            unraisable.append(told + " ".join(traceback.format_stack()[-4:]))

    def note_in_thread(each):
        # Before 3.12 that is what asyncio.run closes its executor with.
        where = traceback.format_tb(each.exc_traceback)
        if not any("in _do_shutdown" in line for line in where):
            unraisable.append(f"{each.exc_value!r} in {each.thread!r} {where[-1:]}")

    sys.unraisablehook = note
    threading.excepthook = note_in_thread
    chance = random.Random(seed)
    warm_up = Run(chance)
    for name in ("at_the_top", "in_asyncio_run", "nested"):
        getattr(warm_up, name)()
    interrupted = 0
    for number in range(runs):
        faulthandler.dump_traceback_later(STUCK * 2, exit=True)
        run = Run(chance)
        interrupted += interrupt_once(run, chance.uniform(0, 0.004))
        found = run.left_behind()
        name = run.chosen.__name__
        run = None
        gc.collect()
        found += unraisable
        unraisable.clear()
        if found:
            print(f"run {number} of seed {seed}, {name}: {'; '.join(found)}", flush=True)
            os._exit(3)
    faulthandler.dump_traceback_later(STUCK, exit=True)
    print(interrupted, flush=True)


def main():
    parser = argparse.ArgumentParser(description="Ctrl-C at random moments.")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, help="default: a new one, which is printed")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.seed, options.runs)
        return 0
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    began = time.monotonic()
    interrupted, failed, done = 0, 0, 0
    while done < options.runs:
        runs = min(RUNS, options.runs - done)
        command = [sys.executable, __file__, "--child", "--runs", str(runs)]
        command += ["--seed", str(seed * 100_000 + done)]
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=runs * STUCK, check=False
        )
        done += runs
        if ended.returncode or ended.stderr:
            failed += 1
            print(ended.stdout, ended.stderr, f"status {ended.returncode}", flush=True)
        else:
            interrupted += int(ended.stdout)
    seconds = time.monotonic() - began
    version = ".".join(map(str, sys.version_info[:3]))
    outcome = f"{failed} processes failed" if failed else "nothing lost"
    print(
        f"interrupts: {done} runs, {interrupted} KeyboardInterrupts, on {IMPLEMENTATION}, Python "
        f"{version}, seed {seed}, {seconds:.0f} s: {outcome}",
        flush=True,
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
