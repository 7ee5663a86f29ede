"""The two kernels have the same names, parameters, docstrings and errors, in the same rooms.

That they behave the same is for all other tests, which run on each. The stub of the compiled kernel
re-exports the pure one's names, so no type checker would notice what is missing from it.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import re
import weakref
from concurrent.futures import Executor, Future, InvalidStateError
from pathlib import Path

import pytest

from asgibridge import _pure
from conftest import KERNELS

if "speedups" not in KERNELS:
    pytest.skip("a pure install has no second kernel to compare", allow_module_level=True)

from asgibridge import _speedups

CLASSES = [name for name in _pure.__all__ if inspect.isclass(getattr(_pure, name))]
FUNCTIONS = [name for name in _pure.__all__ if name not in CLASSES]

ROOT = next(each for each in Path(__file__).parents if (each / "pyproject.toml").exists())
COMPILED_ROOMS = ROOT / "src" / "_speedups"
PURE_ROOMS = ROOT / "src" / "asgibridge" / "_pure"
ROOMS_OF_ONE = {
    "wait": "what a task waits on is no future of asyncio's: the pure kernel takes one",
    "wakeups": "workers are woken one at a time: the pure kernel wakes each at once",
    "parking": "who serves an inbox waits for a lock: in the pure kernel, `queue` waits",
    "renewal": "a worker is made as good as new: the pure kernel's ends with its lease",
}
"""Rooms that only the compiled kernel has, and why the pure one does without."""

# What classes of the one sort or the other have of Python.
PYTHONS = {"__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__"}
PYTHONS |= {"__dict__", "__doc__", "__firstlineno__", "__module__", "__slots__", "__weakref__"}
PYTHONS |= {"__static_attributes__", "__abstractmethods__", "__parameters__", "__orig_bases__"}
PYTHONS |= {"__new__", "__init__", "__pyx_vtable__", "__getstate__"}
# A cdef class has the one where it would be slow with the other, and no third without a second.
PYTHONS |= {"__getattr__", "__getattribute__", "__setattr__", "__delattr__", "__del__"}


def members(kernel, name):
    return {
        member
        for member in dir(getattr(kernel, name))
        if member not in PYTHONS and (not member.startswith("_") or member.endswith("__"))
    }


def methods():
    for name in CLASSES:
        for member in sorted(members(_pure, name)):
            if inspect.isfunction(getattr(getattr(_pure, name), member)):
                yield f"{name}.{member}"


def find(kernel, path):
    found = kernel
    for name in path.split("."):
        found = getattr(found, name)
    return found


def parameters(function):
    return [(each.name, each.kind, each.default) for each in signature(function)]


def signature(function):
    return inspect.signature(function).parameters.values()


def test_names():
    defined = {
        name
        for name, thing in vars(_speedups).items()
        if getattr(thing, "__module__", None) == _speedups.__name__ and not name.startswith("_")
    }
    assert defined == set(_pure.__all__)


def definitions(room):
    """What is defined at the top of a compiled room, but for C's functions."""
    text = room.read_text(encoding="utf-8")
    return set(re.findall(r"^(?:(?:async )?def|(?:cdef )?class) (\w+)", text, re.MULTILINE))


@pytest.mark.skipif(not COMPILED_ROOMS.is_dir(), reason="needs the sources")
class TestRooms:
    def test_are_the_same(self):
        pure = {room.stem for room in PURE_ROOMS.glob("*.py")} - {"__init__"}
        compiled = {room.stem for room in COMPILED_ROOMS.glob("*.pxi")}
        assert pure - compiled == set()
        assert compiled - pure == set(ROOMS_OF_ONE)

    def test_all_are_included(self):
        text = (COMPILED_ROOMS / "_speedups.pyx").read_text(encoding="utf-8")
        included = re.findall(r'^include "(\w+)\.pxi"$', text, re.MULTILINE)
        assert sorted(included) == sorted(room.stem for room in COMPILED_ROOMS.glob("*.pxi"))

    @pytest.mark.parametrize("name", _pure.__all__)
    def test_of_a_name(self, name):
        package, _, room = getattr(_pure, name).__module__.rpartition(".")
        assert package == "asgibridge._pure"
        found = [each.stem for each in COMPILED_ROOMS.glob("*.pxi") if name in definitions(each)]
        assert found == [room]


@pytest.mark.parametrize("name", CLASSES)
def test_members(name):
    assert members(_speedups, name) == members(_pure, name)


@pytest.mark.parametrize("name", CLASSES)
def test_kinds_of_classes(name):
    pure, compiled = getattr(_pure, name), getattr(_speedups, name)
    assert compiled.__name__ == pure.__name__
    assert issubclass(compiled, Executor) == issubclass(pure, Executor)


@pytest.mark.parametrize("path", [*FUNCTIONS, *methods()])
def test_parameters(path):
    if not path.endswith("__"):  # those are slots
        assert parameters(find(_speedups, path)) == parameters(find(_pure, path))


@pytest.mark.parametrize("path", [*_pure.__all__, *methods()])
def test_docstrings(path):
    if not path.endswith("__"):
        pure = find(_pure, path).__doc__
        assert inspect.cleandoc(pure or "")
        assert inspect.cleandoc(find(_speedups, path).__doc__ or "") == inspect.cleandoc(pure)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("AsyncCall", (1,)),
        ("BroadcastCore", (1, "block", 0, 1)),
        ("ContextStorage", (1,)),
        ("CurrentThreadExecutor", ()),
        ("CurrentThreadExecutor", (None, None)),
        ("Home", (1,)),
        ("Inbox", (1,)),
        ("QueueCore", (1, 0, 1)),
        ("ReaderCore", ()),
        ("Selection", ()),
        ("SyncCall", ()),
        ("SyncCall", (1,)),
        ("ThreadSensitiveExecutor", (None, None, True, 1)),
        ("ThreadStorage", (1,)),
        ("WakeChannel", ()),
        ("at_home", ()),
        ("call_soon", ()),
        ("at_home", (1,)),
        ("current_home", (1,)),
        ("restore_context", (contextvars.Context(),)),
    ],
)
def test_wrong_number_of_arguments(kernel, name, arguments):
    with pytest.raises(TypeError):
        getattr(kernel, name)(*arguments)


def error_of(function, *arguments):
    try:
        result = function(*arguments)
    except BaseException as error:
        return type(error), str(error)
    raise AssertionError(f"no exception but {result!r}")


def both(scenario):
    pure, compiled = scenario(_pure), scenario(_speedups)
    assert compiled == pure
    return pure


class TestErrors:
    def test_of_an_outcome_that_is_not_there_or_there_already(self):
        def scenario(kernel):
            call = kernel.AsyncCall()
            missing = error_of(call.result)
            call.set_result(1)
            return missing, error_of(call.set_result, 2), error_of(call.set_exception, KeyError())

        assert [kind for kind, _ in both(scenario)] == [InvalidStateError] * 3

    def test_of_a_sync_function(self):
        async def main(kernel, function):
            call = kernel.SyncCall(asyncio.get_running_loop(), function)
            call.run()
            call.deliver()
            return await call

        class Mine(Exception):
            pass

        for raised in (Mine("x"), StopIteration(7), SystemExit(3), StopAsyncIteration(1)):

            def function(raised=raised):
                raise raised

            both(lambda kernel, f=function: error_of(asyncio.run, main(kernel, f)))

    def test_of_an_executor_that_was_shut_down(self):
        def scenario(kernel):
            executor = kernel.ThreadSensitiveExecutor()
            executor.shutdown()
            assert executor.post(object()) is False
            return error_of(executor.submit, print)

        assert both(scenario)[0] is RuntimeError

    def test_of_a_current_thread_executor(self):
        def scenario(kernel):
            executor, future = kernel.CurrentThreadExecutor(None), Future()
            mine = error_of(executor.submit, print)
            future.set_result(None)
            executor.run_until_future(future)
            return mine, error_of(executor.submit, print)

        assert [kind for kind, _ in both(scenario)] == [RuntimeError] * 2

    @pytest.mark.parametrize("storage", ["ContextStorage", "ThreadStorage"])
    def test_of_a_missing_attribute(self, storage):
        def scenario(kernel):
            local = getattr(kernel, storage)()
            return [
                error_of(getattr, local, "é"),
                error_of(getattr, local, "__nothing__"),
                error_of(delattr, local, "x"),
            ]

        assert [kind for kind, _ in both(scenario)] == [AttributeError] * 3

    def test_of_the_reserved_name(self):
        both(lambda kernel: error_of(setattr, kernel.ContextStorage(), "_data", 1))


class Text(str):
    """An attribute's name that looks at whom it is compared with."""

    def __eq__(self, other):
        gc.collect()
        return str(self) == other

    __hash__ = str.__hash__


@pytest.mark.parametrize("storage", ["ContextStorage", "ThreadStorage"])
class TestStorages:
    def test_names_that_python_has(self, kernel, storage):
        """The type's own come first, as they do for any object."""
        local = getattr(kernel, storage)()
        for name in ("__class__", "__doc__", "__hash__"):
            setattr(local, name, 1)
            assert getattr(local, name) is not 1  # noqa: F632
        local.__mine__ = 2
        assert local.__mine__ == 2
        assert type(local).__name__ == storage

    @pytest.mark.not_quick
    def test_names_that_are_compared_by_their_own_code(self, kernel, storage):
        local = getattr(kernel, storage)()
        setattr(local, Text("name"), 1)
        assert (local.name, getattr(local, Text("name"))) == (1, 1)
        setattr(local, "name", 2)
        assert (local.name, getattr(local, Text("name"))) == (2, 2)

    def test_have_weak_references(self, kernel, storage):
        local = getattr(kernel, storage)()
        assert weakref.ref(local)() is local


def test_executors_are_like_any_object(kernel):
    """A Python class over the compiled one: attributes, subclasses, weak references."""
    for make in (kernel.ThreadSensitiveExecutor, lambda: kernel.CurrentThreadExecutor(None)):
        executor = make()
        executor.mine = 1
        assert weakref.ref(executor)() is executor

    class Mine(kernel.ThreadSensitiveExecutor):
        def __init__(self, name):
            super().__init__()
            self.name = name

    with Mine("x") as executor:
        assert executor.submit(lambda: executor.name).result(10) == "x"
