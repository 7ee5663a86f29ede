"""Under eventlet's monkey-patching, as under gevent's: see test_gevent.py.

Unlike gevent, eventlet is there for free-threaded builds, too. They have to run with the GIL.
"""

from __future__ import annotations

import importlib.util
import sys
import sysconfig

import pytest

from greenlets import AT_ONCE, PATCHED_BY_EVENTLET, PROGRAM

# Not imported here: it warns of each fork from then on.
if importlib.util.find_spec("eventlet") is None:
    pytest.skip("needs the extra: pip install asgibridge[eventlet]", allow_module_level=True)


WITH_GIL = {"PYTHON_GIL": "1"} if sysconfig.get_config_var("Py_GIL_DISABLED") else {}


def test_many_calls_at_once(script_output):
    assert script_output(
        PATCHED_BY_EVENTLET
        + PROGRAM
        + AT_ONCE
        + """
    calls = [eventlet.spawn(task, n) for n in range(50)]
    print([each.wait() for each in calls] == list(range(50)), seen)
    """,
        ASGIBRIDGE_SPEEDUPS="auto",
        **WITH_GIL,
    ).splitlines() == ["True []"]


def test_who_waits_imports_nothing(script_output):
    """CPython 3.9's `import_module` may wait for ever for another thread's greenlet (bpo-43392)."""
    assert (
        script_output(
            PATCHED_BY_EVENTLET
            + PROGRAM
            + """
    import importlib

    def refuse(name, package=None):
        raise AssertionError(name)

    async_to_sync(view)(0)
    importlib.import_module = refuse
    calls = [eventlet.spawn(async_to_sync(view), n) for n in range(3)]
    print([call.wait()[0] for call in calls])
    """,
            ASGIBRIDGE_SPEEDUPS="auto",
            **WITH_GIL,
        )
        == "[0, 1, 2]"
    )


def test_the_register_of_threads_is_for_several_real_threads(script_output):
    """eventlet's lock for it is for one: who lets it go would switch to another's greenlet."""
    assert (
        script_output(
            PATCHED_BY_EVENTLET
            + PROGRAM
            + """
    real = eventlet.patcher.original("threading")
    held, go_on = real.Event(), real.Event()

    def hold():
        with threading._active_limbo_lock:
            held.set()
            go_on.wait(20)

    async def main():
        real.Thread(target=hold).start()
        held.wait(20)
        real.Timer(0.05, go_on.set).start()
        return len(threading.enumerate())

    print(async_to_sync(main)() > 0)
    """,
            ASGIBRIDGE_SPEEDUPS="auto",
            **WITH_GIL,
        )
        == "True"
    )


@pytest.mark.skipif(
    getattr(sys, "_is_gil_enabled", lambda: True)(), reason="eventlet works with the GIL"
)
def test_the_first_call_without_the_gil_says_what_to_do(script_output):
    """eventlet's locks would switch to greenlets of other threads."""
    assert script_output(
        PATCHED_BY_EVENTLET
        + PROGRAM
        + """
    import contextlib
    from asgibridge.iterators import async_to_sync_context_manager, async_to_sync_iterator
    from asgibridge.sync import AsyncSingleThreadContext

    async def items():
        yield 1

    def in_loop_of_a_block():
        with AsyncSingleThreadContext(persistent_loop=True):
            return async_to_sync(view)(1)

    def in_manager():
        with async_to_sync_context_manager(contextlib.asynccontextmanager(items)()):
            pass

    def iterate():
        return list(async_to_sync_iterator(items()))

    def call():
        return async_to_sync(view)(1)

    for way in (call, in_loop_of_a_block, in_manager, iterate):
        try:
            way()
        except RuntimeError as error:
            print("PYTHON_GIL=1" in str(error))
    print(asyncio.run(view(1))[0])
    """,
        ASGIBRIDGE_SPEEDUPS="auto",
    ).splitlines() == [*["True"] * 4, "1"]
