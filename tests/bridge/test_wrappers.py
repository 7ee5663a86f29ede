"""What a wrapper and a bound wrapper show of the function: what functools.update_wrapper gives."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import functools
import gc
import inspect
import pickle
import sys
import sysconfig
import unittest.mock
import warnings
import weakref

import pytest

from asgibridge.sync import (
    AsyncToSync,
    SyncToAsync,
    async_to_sync,
    iscoroutinefunction,
    markcoroutinefunction,
    sync_to_async,
)

NAMES = functools.WRAPPER_ASSIGNMENTS
OWN = {"func", "context", "_thread_sensitive", "_executor", "awaitable", "force_new_loop"}
OWN |= {"_is_coroutine", "_is_coroutine_marker", "__self__"}


class Plain:
    """What functools.update_wrapper makes of something with a __dict__."""


def expected(function, wrapper_class=functools.partial):
    """That, but for what the wrapper's class defines, which a function's names do not hide."""
    names = vars(functools.update_wrapper(Plain(), function))
    own = vars(function) if hasattr(function, "__dict__") else {}
    hiding = {name for name in own if name in vars(wrapper_class)} - {*NAMES, "__wrapped__"}
    return {name: value for name, value in names.items() if name not in hiding}


def shown(wrapper):
    return {name: value for name, value in vars(wrapper).items() if name not in OWN}


def plain(a: int, b: str = "x") -> str:
    """Its documentation."""
    return b * a


def bare():
    pass


def noted():
    pass


noted.note = object()


@functools.wraps(plain)
def decorated(*args):
    return plain(*args)


class Callable:
    """An instance that can be called."""

    def __call__(self):
        return 1

    def method(self):
        """A method."""


class Slotted:
    __slots__ = ()

    def __call__(self):
        return 1


def without_names():
    pass


without_names.__doc__ = None
without_names.__module__ = None

FUNCTIONS = [
    plain,
    bare,
    noted,
    decorated,
    Callable(),
    Slotted(),
    Callable().method,
    len,
    [].append,
]
FUNCTIONS += [functools.partial(plain, 1), without_names, Callable, str.upper, lambda: None]


@pytest.fixture(params=FUNCTIONS, ids=lambda each: getattr(each, "__name__", type(each).__name__))
def function(request):
    return request.param


def test_wrapper_shows_what_update_wrapper_gives(function):
    for _ in range(2):
        assert shown(sync_to_async(function)) == expected(function, SyncToAsync)
        with pytest.warns(UserWarning, match="non-async-marked"):
            assert shown(AsyncToSync(function)) == expected(function, AsyncToSync)


def test_bound_wrapper_shows_what_update_wrapper_gives(function):
    class Owner:
        method = sync_to_async(function)

    owner = Owner()
    for _ in range(3):
        bound = owner.method
        assert type(bound) is functools.partial
        assert (bound.args, bound.keywords) == ((owner,), {})
        assert bound.func == Owner.__dict__["method"].__call__
        assert vars(bound) == expected(function)


def test_bound_async_to_sync():
    async def work(self, a):
        """Its documentation."""
        return self, a

    class Owner:
        method = async_to_sync(work)

    owner = Owner()
    for _ in range(3):
        assert vars(owner.method) == expected(work)
    assert owner.method(1) == (owner, 1)


@pytest.mark.parametrize("name", [*NAMES, "note", "__wrapped__"])
def test_bound_wrapper_shows_what_the_function_has_by_then(name):
    def function():
        pass

    if name == "__wrapped__":
        replace = {"__wrapped__": plain}
    else:
        replace = {
            "__annotations__": {"x": int},
            "__annotate__": lambda _format: {},
            "__type_params__": (contextvars.ContextVar("T"),),
        }
    value = replace.get(name, "changed")

    class Owner:
        method = sync_to_async(function)

    before = [vars(Owner().method) for _ in range(2)]
    setattr(function, name, value)
    after = [vars(Owner().method) for _ in range(2)]
    assert before == [before[0]] * 2
    assert after == [expected(function)] * 2
    if name != "__wrapped__":
        assert after[0][name] is value
        assert before[0].get(name) is not value


def test_bound_wrapper_shows_another_function_put_in():
    class Owner:
        method = sync_to_async(plain)

    assert [Owner().method.__name__ for _ in range(2)] == ["plain"] * 2
    Owner.__dict__["method"].func = bare
    assert vars(Owner().method) == vars(Owner().method) == expected(bare)


def test_bound_wrappers_share_nothing():
    class Owner:
        method = sync_to_async(plain)

    first, second = Owner().method, Owner().method
    first.note = 1
    first.__name__ = "other"
    del first.__doc__
    assert vars(second) == vars(Owner().method) == expected(plain)


def test_annotations_are_the_functions_own():
    wrapper = sync_to_async(plain)
    name = "__annotate__" if sys.version_info >= (3, 14) else "__annotations__"
    assert getattr(wrapper, name) is getattr(plain, name)


class Base:
    @sync_to_async
    def load(self, x):
        return self, x

    @async_to_sync
    async def fetch(self, x):
        return self, x


class TestThroughTheClass:
    """A decorated method is called through its class like any function."""

    def test_of_an_instance(self):
        class Child(Base):
            @sync_to_async
            def load(self, x):
                return "the child's", x

            async def both(self, x):
                return await Base.load(self, x), await super().load(x), await self.load(x)

            @async_to_sync
            async def fetch(self, x):
                return "the child's", x

        child = Child()
        theirs = (child, 1)
        assert asyncio.run(child.both(1)) == (theirs, theirs, ("the child's", 1))
        assert (Base.fetch(child, 1), child.fetch(1)) == (theirs, ("the child's", 1))
        assert [*map(Base.fetch, [child], [1])] == [theirs]

    def test_it_is_the_wrapper(self):
        assert Base.load is vars(Base)["load"]
        assert Base.fetch is vars(Base)["fetch"]
        assert iscoroutinefunction(Base.load)
        assert not iscoroutinefunction(Base.fetch)
        assert [*inspect.signature(Base.load).parameters] == ["self", "x"]

    def test_of_a_class_method_and_a_static_one(self):
        class Owner:
            @classmethod
            @sync_to_async
            def of_class(cls, x):
                return cls, x

            @staticmethod
            @async_to_sync
            async def static(x):
                return x

        assert asyncio.run(Owner.of_class(1)) == asyncio.run(Owner().of_class(1)) == (Owner, 1)
        assert Owner.static(1) == Owner().static(1) == 1

    def test_of_a_mock_with_the_class_as_specification(self):
        mocked = unittest.mock.create_autospec(Base)
        mocked.fetch(mocked, 1)
        asyncio.run(mocked.load(mocked, 1))
        mocked.fetch.assert_called_once_with(mocked, 1)
        mocked.load.assert_awaited_once_with(mocked, 1)


class TestSubclassThatNamesItself:
    class NamedAsyncToSync(AsyncToSync):
        """What a task queue shows."""

        __name__ = "transform"
        __module__ = "tasks"

    class NamedSyncToAsync(SyncToAsync):
        """What a task queue shows."""

        __name__ = "transform"
        __module__ = "tasks"

    @pytest.mark.parametrize("named", [NamedAsyncToSync, NamedSyncToAsync])
    def test_keeps_its_names(self, named):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrapper = named(noted)
        shown = (wrapper.__name__, wrapper.__doc__, wrapper.__module__)
        assert shown == ("transform", "What a task queue shows.", "tasks")
        assert (wrapper.__qualname__, wrapper.__wrapped__) == ("noted", noted)
        assert wrapper.note is noted.note
        assert iscoroutinefunction(wrapper) == issubclass(named, SyncToAsync)

    def test_by_a_property(self):
        class Named(AsyncToSync):
            __name__ = property(lambda self: f"task_of_{self.awaitable.__name__}")

        wrapper = Named(async_function)
        assert wrapper.__name__ == "task_of_async_function"
        assert wrapper() == 1

    @pytest.mark.parametrize("is_before", [True, False])
    def test_on_the_instance(self, is_before):
        class Named(AsyncToSync):
            def __init__(self, function):
                if is_before:
                    self.__name__ = self.note = "mine"
                super().__init__(function)
                if not is_before:
                    self.__name__ = self.note = "mine"

        async def work():
            return 1

        work.note = "the function's"
        wrapper = Named(work)
        assert (wrapper.__name__, wrapper.note, wrapper()) == ("mine", "mine", 1)

    def test_only_one_with_a_name_hides_the_functions_documentation(self):
        class Closing(SyncToAsync):
            """About the class, as Channels' database_sync_to_async has it."""

        wrapper = Closing(plain)
        assert (wrapper.__doc__, wrapper.__module__) == (plain.__doc__, plain.__module__)


def test_repr_names_the_function():
    class Own(SyncToAsync):
        pass

    line = plain.__code__.co_firstlineno
    assert repr(sync_to_async(plain)) == f"<SyncToAsync of plain ({__file__}:{line})>"
    assert repr(sync_to_async(decorated)) == repr(sync_to_async(plain))
    assert repr(Own(Callable().method)).startswith("<Own of Callable.method (")
    assert repr(async_to_sync(async_function)).startswith("<AsyncToSync of async_function (")
    assert "<SyncToAsync of Base.load (" in repr(Base().load)
    assert repr(SyncToAsync.__new__(SyncToAsync)).startswith("<SyncToAsync of ")


def test_coroutine_marks_are_not_adopted():
    """A function that only passes for async is none when bound by the wrapper's class."""

    def function():
        pass

    markcoroutinefunction(function)
    with pytest.raises(TypeError, match="only be applied to sync functions"):
        sync_to_async(function)
    assert not iscoroutinefunction(async_to_sync(function))


def test_class_attributes_are_not_hidden_by_the_functions():
    def function():
        pass

    function.thread_handler = function.note = 1
    wrapper = sync_to_async(function)
    assert "thread_handler" not in vars(wrapper)
    assert wrapper.note == 1


def test_what_is_async(kernel):
    async def coroutine_function():
        pass

    class AsyncCallable:
        async def __call__(self):
            pass

    async def with_names():
        pass

    with_names.note = 1
    for each in (coroutine_function, AsyncCallable(), with_names, functools.partial(with_names)):
        with pytest.raises(TypeError, match="only be applied to sync functions"):
            sync_to_async(each)
        async_to_sync(each)  # and no warning

    class Partial:
        async def method(self, a):
            pass

        bound = functools.partialmethod(method, 1)

    for each in (Partial().method, Partial().bound, Partial.bound):
        assert bool(kernel.is_async_def(each)) <= iscoroutinefunction(each)
        assert kernel.is_async_def(each) is not False or not iscoroutinefunction(each)
    assert kernel.is_async_def(Partial().method)
    assert kernel.is_async_def(with_names)
    assert kernel.is_async_def(noted) is False
    assert kernel.is_async_def(Callable().method) is False
    assert kernel.is_async_def(len) is None
    for each in (1, "no"):
        with pytest.raises(TypeError, match="only be applied to sync functions"):
            sync_to_async(each)
    with pytest.warns(UserWarning, match="non-async-marked"):
        AsyncToSync(None)


def test_wrapper_passes_for_a_coroutine_function():
    wrapper = sync_to_async(plain)
    assert iscoroutinefunction(wrapper)
    if hasattr(inspect, "markcoroutinefunction"):
        assert inspect.iscoroutinefunction(wrapper)
    else:
        assert asyncio.iscoroutinefunction(wrapper)
    assert not iscoroutinefunction(SyncToAsync)
    assert not iscoroutinefunction(async_to_sync(wrapper))
    assert inspect.signature(wrapper) == inspect.signature(plain)


def test_self_of_a_method():
    owner = Callable()
    assert sync_to_async(owner.method).__self__ is owner
    with pytest.raises(AttributeError):
        sync_to_async(plain).__self__


def test_errors_while_the_attributes_are_read_are_raised():
    class Faulty:
        def __call__(self):
            pass

        @property
        def __name__(self):
            raise ValueError("no name")

    with pytest.raises(ValueError, match="no name"):
        sync_to_async(Faulty())


def test_attributes_go_through_the_subclass():
    class Noting(SyncToAsync):
        def __init__(self, *args, **kwargs):
            self.early = 1
            super().__init__(*args, **kwargs)

        def __setattr__(self, name, value):
            super().__setattr__(name, value)
            self.__dict__.setdefault("names", []).append(name)

    wrapper = Noting(plain, thread_sensitive=False)
    assert wrapper.early == 1
    assert {*NAMES, "__wrapped__", "early"} <= {*wrapper.names}
    assert wrapper.__name__ == "plain"


def test_arguments_of_the_wrapper():
    context = contextvars.Context()
    made = vars(sync_to_async(bare))
    own = {"func": bare, "context": None, "_thread_sensitive": True, "_executor": None}
    assert {name: made[name] for name in own} == own
    assert made.keys() - {"_is_coroutine", "_is_coroutine_marker"} == {
        *own,
        *NAMES,
        "__wrapped__",
    }
    wrapper = sync_to_async(bare, thread_sensitive=False, context=context)
    assert wrapper.context is context
    assert wrapper._thread_sensitive is False
    wrapper = sync_to_async(thread_sensitive=False)(bare)
    assert wrapper._thread_sensitive is False
    assert sync_to_async(bare, thread_sensitive=1)._thread_sensitive == 1


def test_wrappers_can_be_copied():
    class Owner:
        method = sync_to_async(plain)

    Owner().method
    wrapper = Owner.__dict__["method"]
    for each in (copy.copy(wrapper), copy.deepcopy(wrapper)):
        assert type(each) is SyncToAsync
        assert each.func is plain
        assert vars(each).keys() == vars(wrapper).keys()
        assert iscoroutinefunction(each)
        assert asyncio.run(each(2, "y")) == "yy"
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        each = pickle.loads(pickle.dumps(wrapper, protocol))
        assert iscoroutinefunction(each)
        assert asyncio.run(each(2, "y")) == "yy"
    assert iscoroutinefunction(pickle.loads(pickle.dumps(copy.deepcopy(wrapper))))
    for each in (
        copy.copy(async_to_sync(async_function)),
        copy.deepcopy(async_to_sync(async_function)),
    ):
        assert not iscoroutinefunction(each)
    assert copy.copy(async_to_sync(async_function))() == 1
    assert pickle.loads(pickle.dumps(async_to_sync(async_function)))() == 1


async def async_function():
    return 1


@pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")) and sys.version_info >= (3, 15),
    reason="3.15t leaves a class's descriptors to the collector, whosever they are",
)
def test_nothing_outlives_the_wrapper(no_gc):
    def function():
        pass

    class Owner:
        method = sync_to_async(function)

    owner = Owner()
    for _ in range(3):
        owner.method
    wrapper = weakref.ref(Owner.__dict__["method"])
    function_lives = weakref.ref(function)
    del Owner.method, owner, function
    assert wrapper() is None
    assert function_lives() is None


def test_a_wrapper_in_a_cycle_is_collected():
    def make():
        def function():
            return wrapper

        wrapper = sync_to_async(function)
        for _ in range(3):
            wrapper.__get__(1, int)
        return weakref.ref(wrapper)

    lives = make()
    gc.collect()
    assert lives() is None


def test_binding_survives_a_destructor_that_binds():
    class Document(str):
        __slots__ = ()

        def __del__(self):
            seen.append(vars(Owner().method) == expected(function))

    def function():
        pass

    class Owner:
        method = sync_to_async(function)

    seen = []
    for i in range(5):
        function.__doc__ = Document(i)
        Owner().method
        Owner().method
    function.__doc__ = None
    Owner().method
    assert seen == [True] * 5
