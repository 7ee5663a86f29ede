"""Django's database connections die with the thread that they belong to, not with the collector.

asgiref leaves them open: the wrapper that Django keeps in a thread-critical Local is in a cycle.
"""

from __future__ import annotations

import pytest

pytest.importorskip("django", reason="tests/matrix.py installs it, without asgiref")

SITE = """
    import asyncio, gc, logging, sys, threading, warnings
    warnings.simplefilter("ignore")  # Django's own, about this Python
    gc.disable()
    import asgibridge
    asgibridge.install()
    import django
    from django.conf import settings
    settings.configure(
        DATABASES={
            alias: {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": sys.argv[1] + alias,
                "CONN_MAX_AGE": 60,
            }
            for alias in ("default", "other")
        },
        INSTALLED_APPS=[],
        USE_TZ=True,
    )
    django.setup()
    from django.db import connections
    from asgiref.sync import ThreadSensitiveContext, sync_to_async

    def use(alias="default"):
        with connections[alias].cursor() as cursor:
            cursor.execute("SELECT 1")
        return connections[alias], threading.current_thread()

    def is_open(wrapper):
        return wrapper.connection is not None

    async def request(*functions):
        async with ThreadSensitiveContext():
            return [await sync_to_async(function)() for function in functions]

    def over(thread):
        # Its request is: in the pure kernel the thread ends with it, a moment later.
        if asgibridge.IMPLEMENTATION == "pure":
            thread.join(30)
"""


def test_closed_with_their_request(script_output, tmp_path):
    assert (
        script_output(
            SITE
            + """
    (one, thread), (other, _) = asyncio.run(request(use, lambda: use("other")))
    over(thread)
    print(is_open(one), is_open(other))
    """,
            f"{tmp_path}/",
        )
        == "False False"
    )


def test_open_as_long_as_the_request(script_output, tmp_path):
    assert (
        script_output(
            SITE
            + """
    (first, _), (second, _) = asyncio.run(request(use, use))
    print(first is second)
    """,
            f"{tmp_path}/",
        )
        == "True"
    )


def test_other_threads_and_shared_ones_are_left_alone(script_output, tmp_path):
    assert (
        script_output(
            SITE
            + """
    mine, _ = use()
    shared, _ = use("other")
    shared.inc_thread_sharing()

    def borrow():
        connections["default"], connections["other"] = mine, shared
        return threading.current_thread()

    [thread] = asyncio.run(request(borrow))
    over(thread)
    print(is_open(mine), is_open(shared))
    """,
            f"{tmp_path}/",
        )
        == "True True"
    )


def test_what_closing_raises_is_logged_and_costs_no_other(script_output, tmp_path):
    out = script_output(
        SITE
        + """
    logging.basicConfig(format="%(name)s %(message)s", stream=sys.stdout)

    def broken():
        wrapper, thread = use()
        wrapper._close = lambda: 1 / 0
        return use("other")

    [(other, thread)] = asyncio.run(request(broken))
    over(thread)
    print(is_open(other))
    print(*asyncio.run(request(lambda: "next")))
    """,
        f"{tmp_path}/",
    ).splitlines()
    assert out[0] == "asgibridge.workers closing Django's database connection 'default' failed"
    assert "ZeroDivisionError: division by zero" in out
    assert out[-2:] == ["False", "next"]


def test_settings_that_are_not_there_are_not_asked_for(script_output):
    assert (
        script_output(
            """
    import asyncio, warnings
    warnings.simplefilter("ignore")
    import asgibridge
    asgibridge.install()
    import django.db, threading
    from asgiref.sync import ThreadSensitiveContext, sync_to_async

    local = threading.local()

    async def request():
        async with ThreadSensitiveContext():
            await sync_to_async(setattr)(local, "something", "left")
            return await sync_to_async(threading.current_thread)()

    thread = asyncio.run(request())
    if asgibridge.IMPLEMENTATION == "pure":
        thread.join(30)
    print("done")
    """
        )
        == "done"
    )
