"""ASGI 2 or ASGI 3: what asgiref's own tests leave open."""

from __future__ import annotations

import functools

import pytest

from asgibridge.compatibility import (
    double_to_single_callable,
    guarantee_single_callable,
    is_double_callable,
)
from asgibridge.sync import markcoroutinefunction


async def asgi3(scope, receive, send):
    return scope, receive, send


def asgi2(scope):
    async def instance(receive, send):
        return scope, receive, send

    return instance


class Asgi2Class:
    def __init__(self, scope):
        self.scope = scope

    async def __call__(self, receive, send):
        return self.scope, receive, send


def test_the_hint_for_single_wins_over_what_the_object_looks_like():
    class Application:
        _asgi_single_callable = True

        def __call__(self, scope, receive, send):
            return asgi3(scope, receive, send)

    assert not is_double_callable(Application())
    assert not is_double_callable(Application)


def test_the_hint_for_double_wins_over_what_the_object_looks_like():
    class Application:
        _asgi_double_callable = True

        async def __call__(self, scope, receive, send):
            pass

    assert is_double_callable(Application())


def test_a_hint_that_is_false_says_nothing():
    class Application:
        _asgi_single_callable = False
        _asgi_double_callable = False

        async def __call__(self, scope, receive, send):
            pass

    assert not is_double_callable(Application())
    assert is_double_callable(Application)


def test_a_partial_of_a_coroutine_function_is_single():
    assert not is_double_callable(functools.partial(asgi3))
    assert is_double_callable(functools.partial(asgi2))


def test_a_function_marked_as_a_coroutine_function_is_single():
    @markcoroutinefunction
    def application(scope, receive, send):
        return asgi3(scope, receive, send)

    assert not is_double_callable(application)


def test_a_bound_method_is_judged_by_its_function():
    class Holder:
        async def single(self, scope, receive, send):
            pass

        def double(self, scope):
            pass

    assert not is_double_callable(Holder().single)
    assert is_double_callable(Holder().double)


def test_guaranteeing_leaves_a_single_callable_alone():
    assert guarantee_single_callable(asgi3) is asgi3


@pytest.mark.parametrize("application", [asgi2, Asgi2Class])
@pytest.mark.asyncio
async def test_guaranteeing_wraps_a_double_callable(application):
    single = guarantee_single_callable(application)
    assert not is_double_callable(single)
    assert await single("scope", "receive", "send") == ("scope", "receive", "send")
    # Servers and StatelessServer pass them by name.
    assert await single(scope=1, receive=2, send=3) == (1, 2, 3)


@pytest.mark.asyncio
async def test_each_connection_gets_an_instance_of_its_own():
    made = []

    class Application(Asgi2Class):
        def __init__(self, scope):
            made.append(scope)
            super().__init__(scope)

    single = double_to_single_callable(Application)
    assert made == []
    await single(1, None, None)
    await single(2, None, None)
    assert made == [1, 2]
