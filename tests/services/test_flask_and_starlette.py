"""Flask with async views, on gevent and on ASGI servers; Starlette on a WSGI server."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

import aiohttp
import psycopg
import pytest
import sites
from sites import ASGIREF, AUTO, COMPILED, PURE, Implementation, Server

from programs import Postgres

REQUESTS = 60
AT_ONCE = 50
SIZE = 1_000_000
"""Of a body that does not come in one piece."""
STREAM = "".join(f"{number}\n" for number in range(1000))

KERNELS = pytest.mark.parametrize("implementation", [COMPILED, PURE], ids=str)
LOOPS = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


def gunicorn(application: str, *options: str) -> tuple[str, ...]:
    return (
        *("-m", "gunicorn", "--bind", "127.0.0.1:0", "--workers", "1", "--no-control-socket"),
        *(*options, application),
    )


def ask(
    server: Server, paths: list[str], *, at_once: int, method: str = "GET", data: Any = None
) -> list[tuple[int, Any]]:
    """The status and the body (JSON if it is) for each path, in their order."""

    async def one(session: aiohttp.ClientSession, path: str) -> tuple[int, Any]:
        async with session.request(method, path, data=data) as response:
            if response.content_type == "application/json":
                return response.status, await response.json()
            return response.status, await response.text()

    async def everything() -> list[tuple[int, Any]]:
        async with aiohttp.ClientSession(
            server.url,
            connector=aiohttp.TCPConnector(limit=at_once),
            timeout=aiohttp.ClientTimeout(total=60),
        ) as session:
            return await asyncio.gather(*(one(session, path) for path in paths))

    return asyncio.run(everything())


def check(path: str, answer: dict[str, Any], loop: str) -> None:
    """That an async view of Flask's had its request, its context variables and its database."""
    text = path.partition("text=")[2]
    assert answer["text"] == text
    assert answer["texts"] == [text] * 3
    assert answer["count"] == 1
    assert answer["label"] == f"{text} stored"
    assert answer["loop"] == loop


@pytest.mark.parametrize("implementation", [ASGIREF, AUTO, PURE], ids=str)
def test_flask_on_gevent(
    postgres: Postgres, implementation: Implementation, row: Callable[..., None]
) -> None:
    """gunicorn's gevent worker patches `threading`; there, every thread is a greenlet of one.

    With ours all that come at once get their own answer. With asgiref one view at a time works; of
    several, each gets its answer or asyncio's error about the other's running loop.
    """
    with Server(
        implementation,
        *gunicorn("flask_site:application", "--worker-class", "gevent"),
        quiet=False,
        BOARD_POSTGRES_PORT=str(postgres.port),
    ) as server:
        [(_, info)] = ask(server, ["/info"], at_once=1)
        expected = (
            ("asgiref.sync", "pure") if implementation is ASGIREF else ("asgibridge.sync", "pure")
        )
        assert (info["sync_module"], info["kernel"]) == expected
        assert info["patched"]

        def texts(what: str) -> list[str]:
            kinds = ("async", "nested")
            name = f"gevent-{implementation}-{what}"
            return [f"/{kinds[n % 2]}?text={name}-{n}" for n in range(REQUESTS)]

        paths = texts("alone")
        answers = ask(server, paths, at_once=1)
        assert [status for status, _ in answers] == [200] * REQUESTS, server.log()
        for path, (_, answer) in zip(paths, answers):
            check(path, answer, "asyncio")

        assert "Traceback" not in server.log()
        paths = texts("together")
        answers = ask(server, paths, at_once=AT_ONCE)
        refused = 0
        for path, (status, answer) in zip(paths, answers):
            if status == 200:
                check(path, answer, "asyncio")
            else:
                refused += 1
        if implementation is not ASGIREF:
            assert "Traceback" not in server.log(), server.log()
            assert refused == 0

        paths = texts("afterwards")
        answers = ask(server, paths[:10], at_once=1)
        assert [status for status, _ in answers] == [200] * 10, server.log()
        assert ask(server, ["/stream"], at_once=1) == [(200, STREAM)]
    row(
        "Flask on gevent",
        **{
            "asgiref is": implementation,
            "alone": f"{REQUESTS} of {REQUESTS}",
            f"{AT_ONCE} at once": f"{REQUESTS - refused} of {REQUESTS}",
        },
    )


def _check_uploads(server: Server, paths: list[str]) -> None:
    for path in paths:
        data = b"x" * SIZE
        answers = ask(server, [path] * 3, at_once=3, method="POST", data=data)
        assert answers == [(200, str(SIZE))] * 3


@KERNELS
def test_an_async_view_that_reads_a_body_which_is_still_coming(
    postgres: Postgres, implementation: Implementation
) -> None:
    """It runs on the loop that has to receive the body: refused, and nobody else waits for it."""
    with Server(
        implementation,
        *sites.uvicorn("flask_site:adapted", "--factory"),
        quiet=False,
        BOARD_POSTGRES_PORT=str(postgres.port),
    ) as server:
        data = b"x" * SIZE
        [(status, _)] = ask(server, ["/async-upload"], at_once=1, method="POST", data=data)
        assert status == 500
        assert "would deadlock: async code of the WSGI application's" in server.log()
        _check_uploads(server, ["/upload"])
        [(status, body)] = ask(server, ["/async-upload"], at_once=1, method="POST", data=b"small")
        assert (status, body) == (200, "5")


@LOOPS
@KERNELS
def test_flask_on_uvicorn(
    postgres: Postgres, implementation: Implementation, loop: str, row: Callable[..., None]
) -> None:
    """By `WsgiToAsgi`, whose requests run on threads; their async views on the server's loop."""
    with Server(
        implementation,
        *sites.uvicorn("flask_site:adapted", "--factory", loop=loop),
        BOARD_POSTGRES_PORT=str(postgres.port),
        BOARD_BUFFER_BODY="yes",
    ) as server:
        [(_, info)] = ask(server, ["/info"], at_once=1)
        assert info["sync_module"] == "asgibridge.sync"
        name = f"uvicorn-{implementation}-{loop}"
        paths = [f"/{['async', 'nested'][n % 2]}?text={name}-{n}" for n in range(REQUESTS)]
        answers = ask(server, paths, at_once=20)
        assert [status for status, _ in answers] == [200] * REQUESTS
        for path, (_, answer) in zip(paths, answers):
            check(path, answer, loop)
            if path.startswith("/nested"):
                assert answer["back_home"] is True
        _check_uploads(server, ["/upload", "/async-upload"])
        assert ask(server, ["/stream"], at_once=1) == [(200, STREAM)]
    row(
        f"Flask on uvicorn, {loop}",
        **{"asgiref is": implementation, "requests": REQUESTS, "answered": len(answers)},
    )


@LOOPS
@KERNELS
def test_starlette_on_gunicorn(
    postgres: Postgres,
    redis_port: int,
    implementation: Implementation,
    loop: str,
    row: Callable[..., None],
) -> None:
    """By `AsgiToWsgi`, with clients that are bound to its loop for the lifespan."""
    key = f"starlette-{implementation}-{loop}"
    with Server(
        implementation,
        *gunicorn("starlette_site:adapted", "--worker-class", "gthread", "--threads", "4"),
        # Not SIGINT: its handler there takes a lock that the code it interrupts may hold.
        stop=signal.SIGTERM,
        BOARD_POSTGRES_PORT=str(postgres.port),
        BOARD_REDIS_PORT=str(redis_port),
        BOARD_LOOP=loop,
    ) as server:
        answers = ask(server, [f"/count/{key}"] * REQUESTS, at_once=10)
        assert [status for status, _ in answers] == [200] * REQUESTS, server.log()
        assert sorted(answer["number"] for _, answer in answers) == list(range(1, REQUESTS + 1))
        assert {answer["loop"] for _, answer in answers} == {loop}
        assert all(answer["on_a_thread"] for _, answer in answers)
        assert ask(server, ["/sync"], at_once=1) == [(200, "on a thread of anyio's")]
        _check_uploads(server, ["/upload"])
        assert ask(server, ["/stream"], at_once=1) == [(200, STREAM)]
    with psycopg.connect(postgres.dsn) as connection:
        [stored] = connection.execute(
            "SELECT count(*) FROM board_message WHERE room = %s", [key]
        ).fetchone() or [None]
    assert stored == REQUESTS
    row(
        f"Starlette on gunicorn, {loop}",
        **{"asgiref is": implementation, "requests": REQUESTS, "answered": len(answers)},
    )
