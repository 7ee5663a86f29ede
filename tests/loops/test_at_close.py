"""`SharedLoop.at_close`: what is called on the shared loop before it ends."""

from __future__ import annotations

import os
import sys

import pytest

from asgibridge._loops import shared
from asgibridge.integrations import at_close

START = """
import asyncio
import os
import sys
import threading
import warnings

from asgibridge.integrations import at_close
from asgibridge.runners import shared_loop
from asgibridge.sync import async_to_sync, sync_to_async

warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads


@async_to_sync
async def loop_of_call():
    return asyncio.get_running_loop()


def register(name):
    @at_close
    async def say():
        print(name, flush=True)


def in_child(function):
    pid = os.fork()
    if not pid:
        function()
        sys.stdout.flush()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


"""

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


@pytest.fixture
def lines(script_output):
    return lambda source: script_output(START + source).splitlines()


def test_last_registered_first_on_the_loop_and_with_its_tasks(lines):
    assert lines("""
@at_close
async def first():
    ident = await sync_to_async(threading.get_ident)()
    print("first", asyncio.get_running_loop() is loop, not task.done(), ident == here)

@at_close
async def last():
    await asyncio.sleep(0)
    print("last")

here = threading.get_ident()
shared_loop()
loop = loop_of_call()

@async_to_sync
async def start():
    global task
    task = asyncio.ensure_future(asyncio.sleep(600))

start()
shared_loop().close()
print(task.cancelled())
loop_of_call()
shared_loop().close()
print("each once")
""") == ["last", "first True True True", "True", "each once"]


def test_at_exit(lines):
    assert lines("""
register("closed")
shared_loop()
loop_of_call()
print("leaves")
""") == ["leaves", "closed"]


def test_not_in_a_process_in_which_the_loop_has_not_run(lines):
    assert lines("""
register("closed")
shared_loop().close()
print("leaves")
""") == ["leaves"]


def test_it_does_not_switch_the_loop_on(lines):
    assert lines("""
register("closed")
print(loop_of_call().is_closed(), shared_loop().is_running)
""") == ["True False"]


def test_an_error_keeps_no_other_from_being_called(run_script):
    done = run_script(
        START
        + """
register("other")

@at_close
async def fails():
    raise LookupError("on purpose")

@at_close
async def is_cancelled():
    raise asyncio.CancelledError

@at_close
def is_no_async_function():
    pass

shared_loop()
loop_of_call()
shared_loop().close()
print("closed")
"""
    )
    assert (done.returncode, done.stdout.splitlines()) == (0, ["other", "closed"])
    assert "on purpose" in done.stderr
    assert done.stderr.count("which was to be called at the end of the loop, failed") == 3


def test_registered_while_the_loop_runs_and_while_it_ends(lines):
    assert lines("""
shared_loop()
loop_of_call()
register("second")

@at_close
async def first():
    register("last, from a task")

shared_loop().close()
""") == ["last, from a task", "second"]


def test_what_a_call_in_flight_registers_is_for_its_own_loop(lines):
    assert lines("""
shared_loop()
began, go = threading.Event(), threading.Event()

async def call():
    began.set()
    await sync_to_async(go.wait, thread_sensitive=False)(10)
    register("of the call")

thread = threading.Thread(target=async_to_sync(call))
thread.start()
began.wait(10)
closer = threading.Thread(target=shared_loop().close)
closer.start()
while shared_loop().is_running:
    pass
loop_of_call()  # on the next loop, while the first one waits for its call
go.set()
closer.join()
thread.join()
print("the first is closed")
shared_loop().close()
""") == ["of the call", "the first is closed"]


@needs_fork
def test_a_child_inherits_what_no_task_has_registered(lines):
    assert lines("""
register("before any loop")
shared_loop()
loop_of_call()
register("while it ran")

@async_to_sync
async def of_task():
    register("of a task of the parent's")

of_task()

def child():
    shared_loop().close()  # it has none
    loop_of_call()
    register("of the child")
    shared_loop().close()

in_child(child)
print("parent")
shared_loop().close()
""") == [
        "of the child",
        "while it ran",
        "before any loop",
        "parent",
        "of a task of the parent's",
        "while it ran",
        "before any loop",
    ]


def test_what_cannot_be_called():
    for register in (at_close, shared._the_one.at_close):
        with pytest.raises(TypeError, match="an async function of no parameters: 3"):
            register(3)


@pytest.mark.skipif(sys.platform == "win32", reason="starts many threads")
def test_threads_that_register_while_loops_come_and_go(lines):
    """Each function is called once, on a loop, or is left for the next."""
    assert lines("""
import collections

shared_loop()
called = collections.Counter()
registered = []

def work(number):
    for turn in range(50):
        async def say(key=(number, turn)):
            called[key] += 1
        at_close(say)
        loop_of_call()

threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
for thread in threads:
    thread.start()
while any(thread.is_alive() for thread in threads):
    shared_loop().close()
for thread in threads:
    thread.join()
loop_of_call()
shared_loop().close()
print(len(called), set(called.values()))
""") == ["200 {1}"]
