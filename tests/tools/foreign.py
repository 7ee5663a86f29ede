"""Others' own test suites on our queues, limiter, default executor and WSGI adapters.

    python tests/tools/foreign.py              with this interpreter, which has asgibridge[foreign]
    python tests/tools/foreign.py janus        that one suite

CPython's ``test_queue`` and ``test_asyncio.test_queues`` run on `MessageQueue` and on its views,
``test_concurrent_futures`` on `LoopExecutor`, as the interpreter has them in its package ``test``.
The suites of janus, culsans, a2wsgi, and anyio's tests of its limiter and of `to_thread.run_sync`
come from their source distributions, whose hashes are checked. Nothing is copied and no test is
changed: `foreign_plugin` puts our classes where a suite
looks for its own. Each suite runs in a process of its own. `LEFT_OUT` names each test that is not
run, and why; whatever else fails is a failure of this script.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest_run
from environment import TOOLS, child_environment
from upstream import UpstreamFailure, archive

LIMIT = 300
"""Seconds for each suite."""

SUITES = {
    "test_queue": ("test.test_queue",),
    "test_asyncio_queues": ("test.test_asyncio.test_queues",),
    "test_asyncio_queues_views": ("test.test_asyncio.test_queues",),
    "test_concurrent_futures": ("test.test_concurrent_futures",),
    "janus": ("janus-2.0.0", "0970f38e0e725400496c834a368a67ee551dc3b5ad0a257e132f5b46f2e77770"),
    "culsans": (
        "culsans-0.11.0",
        "0b43d0d05dce6106293d114c86e3fb4bfc63088cfe8ff08ed3fe36891447fe33",
    ),
    "a2wsgi": (
        "a2wsgi-1.10.10",
        "a5bcffb52081ba39df0d5e9a884fc6f819d92e3a42389343ba77cbf809fe1f45",
    ),
    "anyio": (
        "anyio-4.12.0",
        "73c693b567b0c55130c104d0b43a9baf3aa6a31fc6110116509f27bf75e21ec0",
    ),
}
"""A module of the interpreter's, or a source distribution and its SHA-256."""

OPTIONS = {"anyio": ("-o", "anyio_mode=auto", "-p", "no:asyncio")}
"""By suite, what its own settings tell pytest."""

CHOSEN = {"anyio": ("conftest.py", "test_synchronization.py", "test_to_thread.py")}
"""By suite, the only files that have to do with what is ours; else all are run."""

PRIVATE = "reads private attributes, of which ours has none"
REPR = "a repr of ours looks different"
HOOKS = "asks a hook, and a queue that is no subclass's stores its items without hooks"
BLOCKS = "blocks the thread of a running event loop, which ours refuses"
WORDS = "asks for the words of anyio's messages"
ANYIOS = "anyio's own, which has no counterpart here"
ALIAS = "typing's Generic makes other aliases than types.GenericAlias"
ASYNCIO_QUEUES = {
    "test_cancelled_getters_not_being_held_in_self_getters": PRIVATE,
    "test_cancelled_puts_not_being_held_in_self_putters": PRIVATE,
    "test_get_with_putters": PRIVATE,
    "test_format": PRIVATE,
    "test_generic_alias": ALIAS,
    "QueueBasicTests::test_repr": REPR,
    "QueueBasicTests::test_str": REPR,
}
LEFT_OUT = {
    "test_queue": {
        "SimpleQueueTest": "queue.SimpleQueue has no counterpart here",
        "PyFailingQueueTest": "overrides hooks of the view; CFailingQueueTest does so of the queue",
    },
    "test_asyncio_queues": ASYNCIO_QUEUES,
    "test_asyncio_queues_views": ASYNCIO_QUEUES,
    "test_concurrent_futures": {
        "Process": "process pools are none of ours",
        "process_pool": "process pools are none of ours",
        "test_deadlock": "process pools are none of ours",
        "InterpreterPool": "pools of interpreters are none of ours",
        "InitializerTest": "a LoopExecutor has no initializer",
        "test_thread_names_default": "its threads are named as those of an event loop's executor",
    },
    "janus": {
        "test_get_loop": "a janus queue belongs to an event loop, ours to none",
        "test_queue_join$": BLOCKS,
        "test_simple_queue$": BLOCKS,
        "test_failing_queue$": BLOCKS,
    },
    "culsans": {
        "test_base.py::TestQueue::test_shutdown$": HOOKS,
        "test_base.py::TestLifoQueue::test_shutdown$": HOOKS,
        "test_base.py::TestQueue::test_immediate_shutdown$": HOOKS,
        "test_base.py::TestLifoQueue::test_immediate_shutdown$": HOOKS,
    },
    "a2wsgi": {
        "test_body": "a2wsgi's own Body",
        "test_build_environ": "a2wsgi's own build_environ",
        "test_http_content_headers": "a2wsgi's own build_scope",
        "test_asgi_exception_info$": "a2wsgi answers an error itself, ours leaves it to the server",
        "test_wsgi_exc_info$": "a2wsgi raises the error that the application has answered itself",
        "test_baize_stream_response": "baize would be needed for this alone",
    },
    "anyio": {
        "trio": "the bridges need asyncio's event loop",
        "TestLock": ANYIOS,
        "TestEvent": ANYIOS,
        "TestCondition": ANYIOS,
        "TestSemaphore": ANYIOS,
        "TestBlockingPortalProvider": ANYIOS,
        "test_current_default_thread_limiter": ANYIOS,
        "test_deprecated_cancellable_param": ANYIOS,
        "test_bad_init_type": WORDS,
        "test_bad_init_value": WORDS,
        "test_borrow_twice": WORDS,
        "test_bad_release": WORDS,
        "test_stopiteration": WORDS,
        "test_cancel_worker_thread": ANYIOS,
        "test_asynclib_detection": "anyio hides its own context variable from the thread",
        "test_run_in_thread_cancelled": "ours calls a function whose task is not cancelled yet",
    },
}
"""By suite, a part of the names of the tests that are not run (``$``: its end), and why."""


def unpack_tests(suite: str, release: Path, target: Path) -> None:
    """Its tests alone, never its package."""
    chosen = CHOSEN.get(suite, ())
    with tarfile.open(release) as tar:
        for member in tar.getmembers():
            parts = Path(member.name).parts[1:]
            source = tar.extractfile(member) if member.isfile() else None
            if source is None or parts[:1] != ("tests",) or not member.name.endswith(".py"):
                continue
            # Flat, and without the package's marker: its name is the one of the tested package.
            if parts[-1] in chosen if chosen else parts[-1] != "__init__.py":
                (target / parts[-1]).write_bytes(source.read())
    if chosen:  # these import from each other
        (target / "__init__.py").touch()


def run(suite: str) -> bool:
    """Whether the suite went as it must, or is not there, which is said loudly."""
    what, *sha256 = SUITES[suite]
    with tempfile.TemporaryDirectory() as directory:
        if sha256:
            tests = Path(directory, "tests")
            tests.mkdir()
            unpack_tests(suite, archive(sys.executable, what, *sha256), tests)
            where = [str(tests)]
        elif not has_module(what):
            print(
                f"NOT RUN: {suite}: this interpreter has no {what}: Linux distributions have it in "
                "a package of its own, and CPython 3.11.7 and 3.12.1 do not install this one"
            )
            return True
        else:
            where = ["--pyargs", what]
        outcome = pytest_run.run(
            [
                *(sys.executable, "-m", "pytest", "-q", "-rfE", "-p", "no:cacheprovider"),
                *(
                    "-p",
                    "foreign_plugin",
                    "-p",
                    "no:logging",
                    "-p",
                    "no:subtests",
                    "-p",
                    "no:benchmark",
                    "-c",
                    os.devnull,
                    "--rootdir",
                    directory,
                ),
                *("--timeout", "60", "--timeout-method", "thread", "-W", "ignore"),
                *OPTIONS.get(suite, ()),
                *where,
            ],
            cwd=Path(directory),
            env=child_environment(
                PYTHONPATH=str(TOOLS),
                FOREIGN_SUITE=suite,
                ASGIBRIDGE_SPEEDUPS=os.environ.get("ASGIBRIDGE_SPEEDUPS", ""),
            ),
            limit=LIMIT,
        )
    for name, reason in LEFT_OUT.get(suite, {}).items():
        print(f"  left out: {name}: {reason}")
    print(f"{'ok' if outcome.ok else 'FAILED'}: {suite}: {outcome}", flush=True)
    return outcome.ok


def has_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def suites(arguments: list[str]) -> list[str]:
    """Those that the command line names: all, if it names none."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    # Without `choices`: whether those are asked about the default is another matter on each Python.
    parser.add_argument("suites", nargs="*", help=f"of {', '.join(SUITES)}")
    named = parser.parse_args(arguments).suites
    unknown = [name for name in named if name not in SUITES]
    if unknown:
        parser.error(f"no such suite: {', '.join(unknown)}; there are {', '.join(SUITES)}")
    return named or list(SUITES)


def main() -> int:
    try:
        went = [run(suite) for suite in suites(sys.argv[1:])]
    except UpstreamFailure as failure:
        print(f"FAILED: {failure}")
        return 1
    return 0 if all(went) else 1


if __name__ == "__main__":
    sys.exit(main())
