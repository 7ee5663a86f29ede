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
