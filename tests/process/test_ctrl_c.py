"""Ctrl-C wherever Python looks for it within a top-level `async_to_sync`, and at random moments.

It looks as a function of Python's begins and as one of C's returns.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from environment import TOOLS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends itself SIGINT: POSIX")

AT_EVERY_CALL = """
    import asyncio, contextvars, os, signal, sys
    import asgibridge
    from asgibridge import _kernel
    from asgibridge.sync import AsyncToSync, async_to_sync, sync_to_async

    ours = os.path.dirname(asgibridge.__file__)
    unraisable = []
    sys.unraisablehook = lambda each: unraisable.append(each.exc_value)

    variable = contextvars.ContextVar("variable", default=0)

    async def coroutine():
        variable.set(variable.get() + 1)  # for the caller to get
        return await sync_to_async(int)("7")

    call = async_to_sync(coroutine)

    def interrupted_at(number):
        # Where the signal came, None if there are fewer such moments; and what came of the call.
        points, where = 0, None

        def profile(frame, event, argument):
            nonlocal points, where
            code = frame.f_code
            if event in ("call", "c_return") and code.co_filename.startswith(ours):
                points += 1
                if points == number:
                    where = f"{code.co_filename}:{frame.f_lineno}, {event}"
                    signal.raise_signal(signal.SIGINT)

        sys.setprofile(profile)
        try:
            outcome = call()
        except KeyboardInterrupt:
            outcome = "interrupted"
        finally:
            sys.setprofile(None)
        return where, outcome

    call()
    number = 0
    while True:
        number += 1
        where, outcome = interrupted_at(number)
        if where is None:
            break
        assert outcome in (7, "interrupted"), (where, outcome)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, where
        assert not AsyncToSync.loop_thread_executors, where
        assert _kernel.kernel.peek(AsyncToSync.executors, "current", None) is None, where
        assert not unraisable, (where, unraisable)
        try:
            # Whoever goes on has a frame of that call in sight, if it left one.
            assert asyncio.run(coroutine()) == 7
            assert call() == 7
        except RuntimeError as error:
            raise AssertionError(where) from error
    print(number > 15)
"""


def test_at_every_call(script_output):
    assert script_output(AT_EVERY_CALL) == "True"


@pytest.mark.slow
def test_at_random_moments():
    """``tests/tools/interrupts.py --runs 1000`` does more of it."""
    done = subprocess.run(
        [sys.executable, str(TOOLS / "interrupts.py"), "--runs", "20", "--seed", "1"],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing lost" in done.stdout
