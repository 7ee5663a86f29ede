"""The package does without each private name of the interpreter that `_process.cpython` has.

One subprocess per name, on the pure kernel: the name is taken away, every module is imported, and a
hop, a context, a top-level call and a WSGI request are made. Names that the standard library itself
needs can't be deleted: there, `cpython` alone is kept from seeing them.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import asgibridge

PACKAGE = Path(asgibridge.__file__).parent
CPYTHON = PACKAGE / "_process" / "cpython.py"

# The standard library looks these up when it makes or ends threads, pools and loops.
NEEDED = {
    "threading._allocate_lock",
    "threading._active",
    "threading._active_limbo_lock",
    "threading._daemon_threads_allowed",
    "concurrent.futures.thread._threads_queues",
    "asyncio.SelectorEventLoop._run_once",
    "runners._cancel_all_tasks",
    "events._event_loop_policy",
    "tasks._GatheringFuture",
    "coroutines._is_coroutine",
    "constants.THREAD_JOIN_TIMEOUT",
    "os.environ._data",
    "os.environ.encodekey",
}

MODULES = {"_signal", "_interpreters", "_xxsubinterpreters"}

PROGRAM = r"""
import asyncio, builtins, concurrent.futures.thread, importlib, os, pkgutil, sys, threading
from asyncio import base_events, constants, coroutines, events, runners, selector_events, tasks

WHAT, NAME = sys.argv[1:]

stock = builtins.getattr
def seen(owner, name, *default):
    caller = frame(1).f_globals.get("__name__")
    if name == NAME and caller == "asgibridge._process.cpython":
        hidden.append(name)
        if not default:
            raise AttributeError(name)
        return default[0]
    return stock(owner, name, *default)

frame, hidden = sys._getframe, []
if WHAT == "hide":
    builtins.getattr = seen
elif WHAT == "flag":
    setattr(importlib.import_module("asgibridge._process.cpython"), NAME, False)
elif WHAT == "module":
    sys.modules[NAME] = None
elif WHAT == "delete":
    owner, _, name = NAME.rpartition(".")
    exec(f"del {owner}.{name}")

import asgibridge
for module in pkgutil.walk_packages(asgibridge.__path__, "asgibridge."):
    if module.name.startswith("asgibridge.django"):  # imports Django, which takes longest of all
        continue
    if module.name.rpartition(".")[2] in ("_speedups", "__main__", "autoinstall", "sitecustomize"):
        continue
    importlib.import_module(module.name)

from asgibridge import _kernel, debug
from asgibridge._process import cpython
from asgibridge.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
from asgibridge.wsgi import WsgiToAsgi

assert _kernel.IMPLEMENTATION == "pure"

async def gathers():
    await asyncio.gather(asyncio.sleep(3600))

async def hop():
    first = await sync_to_async(threading.get_ident)()
    async with ThreadSensitiveContext():
        second = await sync_to_async(threading.get_ident)()
    others = await asyncio.gather(
        *(sync_to_async(threading.get_ident, thread_sensitive=False)() for _ in range(2))
    )
    assert threading.get_ident() not in (first, second, *others) and first != second
    assert await sync_to_async(lambda: async_to_sync(asyncio.sleep)(0, "back"))() == "back"
    asyncio.get_running_loop().set_default_executor(concurrent.futures.ThreadPoolExecutor(1))
    assert await sync_to_async(len, thread_sensitive=False)("four") == 4
    gathering = asyncio.create_task(gathers())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert await sync_to_async(lambda: debug.snapshot().tasks)()
    # Asked in rings, and about groups and loops of other kinds:
    cpython.children_of(gathering._fut_waiter)
    for read in (cpython.loop_of_runner, cpython.future_of_group, cpython.default_executor_of):
        assert read(None) is None
    assert type(cpython.interpreter_flags()) is list  # for a program that begins again
    cpython.share_register_of_threads()  # under eventlet
    gathering.cancel()
    await asyncio.wait([gathering])

def site(environ, start_response):
    start_response("200 OK", [])
    return [environ["PATH_INFO"].encode()]

async def request():
    sent, incoming = [], [{"type": "http.request", "body": b"", "more_body": False}]
    scope = {"type": "http", "method": "GET", "path": "/there", "query_string": b"",
             "headers": [], "http_version": "1.1", "scheme": "http", "root_path": ""}
    async def receive():
        if incoming:
            return incoming.pop()
        await asyncio.sleep(3600)
    async def send(message):
        sent.append(message)
    await WsgiToAsgi(site)(scope, receive, send)
    assert sent[0]["status"] == 200
    assert b"".join(each.get("body", b"") for each in sent[1:]) == b"/there"

asyncio.run(hop())
for _ in range(2):  # the second one's loop may be a kept one
    assert async_to_sync(asyncio.sleep)(0, "done") == "done"
asyncio.run(request())
assert WHAT != "hide" or hidden, "it has not been asked for"
print("done")
"""


def names() -> list[tuple[str, str]]:
    """What to take away: a name (deleted, or hidden from `cpython`), a module, a constant."""
    found = set()
    for node in ast.walk(ast.parse(CPYTHON.read_text("utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "_reader":
            assert isinstance(node.args[0], ast.Constant)
            found.add(("hide", node.args[0].value))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr":
            owner, name = node.args[:2]
            if not isinstance(name, ast.Constant) or name.value in ("__code__", "Timeout"):
                continue
            path = f"{ast.unparse(owner)}.{name.value}"
            if path in NEEDED or not exists(path):
                found.add(("hide", name.value))
            else:
                found.add(("delete", path))
        elif isinstance(node, ast.Constant) and str(node.value) in MODULES:
            found.add(("module", node.value))
        elif isinstance(node, ast.Name) and node.id.startswith("HAS_"):
            found.add(("flag", node.id))
    return sorted(found)


def exists(path: str) -> bool:
    program = (
        "import asyncio, concurrent.futures.thread, os, sys, threading\n"
        "from asyncio import base_events, constants, coroutines, events, runners\n"
        "from asyncio import selector_events, tasks\n"
    )
    names: dict[str, object] = {}
    exec(program, names)
    try:
        eval(path, names)
    except (AttributeError, NameError):  # of a later or earlier Python, or an argument's
        return False
    return True


def run(what: tuple[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *what],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "ASGIBRIDGE_SPEEDUPS": "off"},
    )
    if (done.returncode, done.stdout, done.stderr) == (0, "done\n", ""):
        return ""
    return f"{what}: {done.returncode} {done.stdout}{done.stderr}"


def test_each_name_can_be_missing():
    todo = [("none", ""), *names()]
    assert len(todo) > 20
    with ThreadPoolExecutor(4) as pool:
        assert [each for each in pool.map(run, todo) if each] == []


# --- nobody else names one -----------------------------------------------------------------------


NOT_OF_THE_LIBRARY = ("asgibridge", "asgibridge_bootstrap", "django")


def private_names(file: Path) -> list[str]:
    """The private attributes, in ``file``, of what it imports from the library."""
    tree = ast.parse(file.read_text("utf-8"))
    library, found = set(), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                library.add(each.asname or each.name.partition(".")[0])
                found += [each.name] * is_private(each.name.rpartition(".")[2])
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module != "__future__":
            if (node.module or "").partition(".")[0] in NOT_OF_THE_LIBRARY:
                continue
            library.update(each.asname or each.name for each in node.names)
            found += [each.name for each in node.names if is_private(each.name)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            path = ast.unparse(node)
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in ("getattr", "setattr", "hasattr")
            and isinstance(node.args[1], ast.Constant)
            and is_private(str(node.args[1].value))
        ):
            path = f"{ast.unparse(node.args[0])}.{node.args[1].value}"
        else:
            continue
        if path.partition(".")[0] in library:
            found.append(path)
    return found


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import threading\nthreading._register_atexit(print)", "threading._register_atexit"),
        ("import asyncio\nx = asyncio.tasks._GatheringFuture", "asyncio.tasks._GatheringFuture"),
        ("from asyncio import events as e\ngetattr(e, '_policy', None)", "e._policy"),
        ("from concurrent.futures.thread import _threads_queues", "_threads_queues"),
        ("import _signal", "_signal"),
    ],
)
def test_a_private_name_is_found(tmp_path, source, name):
    (tmp_path / "room.py").write_text(source)
    assert private_names(tmp_path / "room.py") == [name]


def test_only_one_module_has_private_names_of_the_library():
    found = {
        str(file.relative_to(PACKAGE)): names
        for file in PACKAGE.rglob("*.py")
        if file != CPYTHON and (names := private_names(file))
    }
    assert found == {}
