"""pytest-run-parallel for all of our tests: how `parallel.py` runs them.

pytest -p parallel_plugin -p no:asyncio --parallel-threads=N

pytest-asyncio gives a test the event loop of its own thread, and has no second one: here each
thread gives each coroutine function a loop.
"""

from __future__ import annotations

import asyncio
import functools
import inspect

import pytest

PROCESS_WIDE = {
    "test_build": "builds",
    "test_calls_and_sights": "figures, policies and observers are the process's",
    "test_cli": "children",
    "test_compatibility": "children",
    "test_contexts": "which workers are in use",
    "test_ctrl_c": "signals go to the main thread",
    "test_debug": "what is shown is the process's",
    "test_environment": "the checkout",
    "test_eventlet": "children",
    "test_foreign": "the suites' archives",
    "test_gevent": "children",
    "test_install": "children",
    "test_interrupts": "the main thread's signals",
    "test_kept_loops": "which loops are parked",
    "test_kept_workers": "which workers are idle",
    "test_layout": "the checkout",
    "test_leaks": "counts the process's objects",
    "test_limit_total": "the policy, and the environment",
    "test_missing_names": "children",
    "test_model": "what a program sees goes to one list",
    "test_new_workers": "the policy, and the size of stacks",
    "test_observers": "observers are the process's",
    "test_processes": "forks, and ends",
    "test_public_api": "imports",
    "test_pytest_run": "children",
    "test_refleaks": "counts the process's objects",
    "test_release": "the policy, and which workers are idle",
    "test_releasing": "the checkout",
    "test_run_django": "children",
    "test_starters": "children",
    "test_stats": "counts the process's calls",
    "test_sticky": "the policy, and who shares a worker",
    "test_tests_with_pytest": "children",
    "test_typed_applications": "children",
    "test_wake_ways": "builds",
    "test_wheels": "the checkout",
    "test_workers": "the policy, and which workers are idle",
    "test_workers_limit": "the policy, and how many workers there are",
    "test_wsgi_servers": "children",
}
"""Modules whose subject has no second copy in the process, and what that is. They run on 3.14t like
the others, but not beside themselves."""

# Shared by the threads of a test: what the first leaves in them the second would find.
SHARED_FIXTURES = {"caplog", "no_gc", "run_script", "script_output", "waiting"}


def pytest_addoption(parser: pytest.Parser) -> None:
    # pytest-asyncio's, which it is not here to declare.
    for name in ("asyncio_mode", "asyncio_default_fixture_loop_scope"):
        parser.addini(name, "unused")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "asyncio: run by this plugin")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        reason = PROCESS_WIDE.get(item.path.stem)
        if reason is None and not SHARED_FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
            reason = "a fixture that the threads would share"
        if reason is not None:
            item.add_marker(pytest.mark.thread_unsafe(reason=reason))
        function = getattr(item, "obj", None)
        if inspect.iscoroutinefunction(function):
            item.obj = on_a_loop(function)


def on_a_loop(function):
    @functools.wraps(function)
    def run(*args, **kwargs):
        asyncio.run(function(*args, **kwargs))

    return run
