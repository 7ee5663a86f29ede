"""What an object's ``__del__`` may call when the interpreter is finalizing: an error, never a hang.

Its threads have ended by then, and no other can be started. (Below 3.12 `threading` would wait for
ever for one.)
"""

from __future__ import annotations

import pytest

PROGRAM = """
    import asyncio, contextvars, os, sys, threading
    from asgibridge import debug, workers
    from asgibridge.iterators import (
        async_to_sync_context_manager, async_to_sync_iterator, sync_to_async_context_manager,
        sync_to_async_iterator
    )
    from asgibridge.queue import MessageQueue
    from asgibridge.runners import shared_loop
    from asgibridge.sync import (
        AsyncSingleThreadContext, ThreadSensitiveContext, async_to_sync, sync_to_async
    )
    from asgibridge.wsgi import AsgiToWsgi, WsgiToAsgi
    from contextlib import asynccontextmanager, nullcontext

    async def one():
        return 1

    async def two():
        yield 1
        yield 2

    @asynccontextmanager
    async def manager():
        yield 1

    async def hop(**options):
        return await sync_to_async(int, **options)()

    async def hop_in_context(**options):
        async with ThreadSensitiveContext(**options):
            return await hop()

    async def pull():
        return [each async for each in sync_to_async_iterator(iter("ab"))]

    async def enter_sync():
        async with sync_to_async_context_manager(nullcontext(1)) as value:
            return value

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x"})

    def environ():
        return {
            "REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": "/", "SERVER_NAME": "here",
            "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.url_scheme": "http",
            "wsgi.input": sys.stdin.buffer, "wsgi.errors": sys.stderr,
        }

    def request(site):
        return b"".join(site(environ(), lambda status, headers, exc_info=None: None))

    def wsgi_app(environ, start_response):
        start_response("200 OK", [])
        return [b"x"]

    async def ask(site):
        incoming, sent = [{"type": "http.request", "body": b"", "more_body": False}], []
        async def receive():
            return incoming.pop()
        async def send(message):
            sent.append(message["type"])
        scope = {
            "type": "http", "http_version": "1.1", "method": "GET", "path": "/",
            "query_string": b"", "headers": [],
        }
        await site(scope, receive, send)
        return sent

    def in_block(**options):
        with AsyncSingleThreadContext(**options):
            return async_to_sync(one)()

    def enter():
        with async_to_sync_context_manager(manager()) as value:
            return value

    class Client:
        def __init__(self, close):
            self.close = close

        def __del__(self):
            assert sys.is_finalizing()
            try:
                print("closed", self.close())
            except RuntimeError as error:
                print("RuntimeError", error)
            except BaseException as error:
                print(repr(error))
            sys.stdout.flush()

    asyncio.run(one())  # what asyncio imports late, it cannot import then
"""

WAYS = {
    "top-level call": "lambda: async_to_sync(one)()",
    "new loop": "lambda: async_to_sync(one, force_new_loop=True)()",
    "block": "in_block",
    "persistent loop": "lambda: in_block(persistent_loop=True)",
    "shared loop": "lambda: shared_loop() and async_to_sync(one)()",
    "iterator": "lambda: list(async_to_sync_iterator(two()))",
    "context manager": "enter",
    "hop": "lambda: asyncio.run(hop())",
    "hop in a context": "lambda: asyncio.run(hop_in_context())",
    "kept worker": "lambda: asyncio.run(hop_in_context(policy='keep'))",
    "pool": "lambda: asyncio.run(hop(thread_sensitive=False))",
    "sync iterator": "lambda: asyncio.run(pull())",
    "new worker": "lambda: asyncio.run(hop_in_context(policy='new'))",
    "thread name": "lambda: asyncio.run(hop(thread_sensitive=False, thread_name='mine'))",
    "sync context manager": "lambda: asyncio.run(enter_sync())",
    "AsgiToWsgi": "lambda: request(AsgiToWsgi(app))",
    "WsgiToAsgi": "lambda: asyncio.run(ask(WsgiToAsgi(wsgi_app)))",
    "WsgiToAsgi(workers=2)": "lambda: asyncio.run(ask(WsgiToAsgi(wsgi_app, workers=2)))",
    "watch": "lambda: debug.watch(5)",
    "dump on a signal": "lambda: debug.dump_on_signal(10)",
}
# Begun while the program ran.
STATES = {
    "the same call": "first = CLOSE()",
    "an iterator": "rest = async_to_sync_iterator(two()); next(rest); CLOSE = lambda: list(rest)",
    "an iterator to close": (
        "rest = async_to_sync_iterator(two()); next(rest); CLOSE = lambda: rest.close()"
    ),
    "a context manager": (
        "block = async_to_sync_context_manager(manager()); block.__enter__(); "
        "CLOSE = lambda: block.__exit__(None, None, None)"
    ),
    "a persistent loop": (
        "block = AsyncSingleThreadContext(persistent_loop=True); block.__enter__(); "
        "async_to_sync(one)(); context = contextvars.copy_context(); "
        "CLOSE = lambda: context.run(async_to_sync(one))"
    ),
    "a persistent loop to leave": (
        "block = AsyncSingleThreadContext(persistent_loop=True); block.__enter__(); "
        "async_to_sync(one)(); context = contextvars.copy_context(); "
        "CLOSE = lambda: context.run(async_to_sync(one)) and block.__exit__()"
    ),
    "the shared loop": (
        "shared_loop(); async_to_sync(one)(); CLOSE = lambda: async_to_sync(one)()"
    ),
    "the shared loop to close": (
        "shared_loop(); async_to_sync(one)(); CLOSE = lambda: shared_loop().close()"
    ),
    "a context manager on the shared loop": (
        "shared_loop(); block = async_to_sync_context_manager(manager()); block.__enter__(); "
        "CLOSE = lambda: block.__exit__(None, None, None)"
    ),
    "an application": "site = AsgiToWsgi(app); request(site); CLOSE = lambda: request(site)",
    "a WSGI application": (
        "site = WsgiToAsgi(wsgi_app, workers=2); asyncio.run(ask(site)); "
        "CLOSE = lambda: asyncio.run(ask(site))"
    ),
    "an application to close": "site = AsgiToWsgi(app); request(site); CLOSE = site.close",
    "kept workers": (
        "workers.set_policy(workers.Policy(kind='keep')); asyncio.run(hop_in_context()); "
        "CLOSE = lambda: asyncio.run(hop_in_context())"
    ),
}


def run(run_script, close, state=""):
    done = run_script(PROGRAM + f"    CLOSE = {close}\n    {state}\n    client = Client(CLOSE)\n")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("way", WAYS)
def test_that_would_start_a_thread(run_script, way):
    out = run(run_script, WAYS[way])
    assert out.startswith("RuntimeError"), out


def test_says_what_to_do(run_script):
    out = run(run_script, WAYS["top-level call"])
    assert "shutting down: call this before the program ends" in out


@pytest.mark.parametrize("way", ["top-level call", "hop in a context", "AsgiToWsgi"])
def test_after_the_same_call(run_script, way):
    """Its worker was idle, and has ended."""
    out = run(run_script, WAYS[way], STATES["the same call"])
    assert out.startswith("RuntimeError"), out


@pytest.mark.parametrize("state", STATES)
def test_of_what_was_begun(run_script, state):
    out = run(run_script, "lambda: async_to_sync(one)()", STATES[state])
    assert out.startswith(("RuntimeError", "closed")), out
