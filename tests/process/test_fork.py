"""`asgibridge._process.fork`: what a forked child renews, and in which order."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")

IN_A_CHILD = """
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of os.fork beside threads
from asgibridge._process import fork

def in_child(check):
    child = os.fork()
    if child == 0:
        try:
            check()
        except BaseException as error:
            print(repr(error), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def run(program: str) -> tuple[list[str], str]:
    done = subprocess.run(
        [sys.executable, "-c", IN_A_CHILD + program],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.split(), done.stderr


def test_order_and_what_a_callback_raises():
    out, errors = run("""
def fail():
    say("second")
    raise LookupError("on purpose")

def say(word):
    print(word, flush=True)

class Thing: ...

thing, dead = Thing(), Thing()
fork.at_fork_of(thing, lambda it: say("object" if it is thing else "wrong"))
fork.at_fork_of(dead, lambda it: say("dead"))
del dead
fork.at_fork(lambda: say("first"))
fork.at_fork(fail)
fork.at_fork(lambda: say("third"))
in_child(lambda: None)
""")
    assert out == ["first", "second", "third", "object"]
    assert "LookupError: on purpose" in errors


def test_generation_and_pid_are_renewed_before_the_callbacks():
    out, errors = run("""
def tell():
    print(fork.generation, fork.pid == os.getpid(), len(fork.forkers), flush=True)

assert fork.pid == os.getpid()
fork.at_fork(tell)
in_child(lambda: in_child(lambda: None))
""")
    assert out == ["1", "True", "1", "2", "True", "2"], errors
    assert errors == ""


SOURCES = Path(__file__).parents[2] / "src"


@pytest.mark.skipif(not SOURCES.is_dir(), reason="needs the sources")
def test_there_is_one_register():
    text = "os.register_at_fork("
    files = [each for each in SOURCES.rglob("*.p*") if each.suffix in (".py", ".pyx", ".pxi")]
    assert [each.name for each in files if text in each.read_text("utf-8")] == ["fork.py"]


def test_a_lock_that_a_gone_thread_holds():
    """A lease's and an executor's: whoever comes first in the child makes a new one."""
    out, _ = run("""
import asyncio, faulthandler, threading
from asgibridge import workers
from asgibridge.sync import SyncToAsync, ThreadSensitiveContext, sync_to_async

faulthandler.dump_traceback_later(30, exit=True)
workers.set_policy(workers.Policy(kind="keep"))

async def use(of_parent):
    async with ThreadSensitiveContext() as context:
        await sync_to_async(int)()
        lease = SyncToAsync.context_to_thread_executor[context]
        locks = [lease._lock, getattr(lease._worker.executor, "_lock", threading.RLock())]
        held, let_go = threading.Event(), threading.Event()

        def hold():
            for lock in locks:
                lock.acquire()
            held.set()
            let_go.wait(30)
            for lock in locks:
                lock.release()

        holder = threading.Thread(target=hold, daemon=True)
        holder.start()
        held.wait(30)
        in_child(lambda: of_parent(lease))
        let_go.set()
        holder.join(30)

def call(lease):
    print("ran" if lease.submit(lambda: True).result(20) else "", flush=True)

def end(lease):
    lease.shutdown(cancel_futures=True)
    print("ended", flush=True)

def forget(lease):
    print(lease.forget(None), flush=True)

def end_executor(lease):
    lease._worker.executor.shutdown(wait=False)
    print("shut", flush=True)

for of_parent in (call, end, forget, end_executor):
    asyncio.run(use(of_parent))
""")
    assert out == ["ran", "ended", "False", "shut"]
