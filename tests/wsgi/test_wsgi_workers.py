"""``WsgiToAsgi(workers=N)``: N requests at once, no more, in turn, on threads that are kept."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time

import pytest

from asgibridge.sync import async_to_sync, sync_to_async
from asgibridge.wsgi import WsgiToAsgi
from threads import join_idle
from wsgi_tools import EMPTY_REQUEST, END, answering, http_scope, respond, start

WAIT = 10


async def receive():
    return EMPTY_REQUEST


async def drop(message):
    pass


@pytest.mark.parametrize("workers", [0, -1, 1.5, "2", True, ()])
def test_a_wrong_number_is_refused(workers):
    with pytest.raises(ValueError, match="how many requests may run at once"):
        WsgiToAsgi(None, workers=workers)


@pytest.mark.asyncio
async def test_so_many_run_at_once():
    barrier = threading.Barrier(5)

    def wsgi_application(environ, start_response):
        barrier.wait(WAIT)
        return answering([])(environ, start_response)

    application = WsgiToAsgi(wsgi_application, workers=5)
    requests = (application(http_scope(), receive, drop) for _ in range(20))
    await asyncio.wait_for(asyncio.gather(*requests), 2 * WAIT)


@pytest.mark.parametrize(("workers", "allowed"), [(None, 1), (1, 1), (3, 3)])
@pytest.mark.asyncio
async def test_no_more_run_at_once_and_all_get_their_turn_in_order(workers, allowed):
    lock = threading.Lock()
    running = most = 0
    order = []

    def wsgi_application(environ, start_response):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            order.append(int(environ["PATH_INFO"][1:]))
        time.sleep(0.001)  # others could overlap if they were let
        with lock:
            running -= 1
        return answering([])(environ, start_response)

    application = WsgiToAsgi(wsgi_application, workers=workers)
    await asyncio.gather(
        *(application(http_scope(path=f"/{number}"), receive, drop) for number in range(30))
    )
    assert 1 <= most <= allowed
    if allowed == 1:
        assert order == list(range(30))
    else:
        assert sorted(order) == list(range(30))


@pytest.mark.asyncio
async def test_one_thread_is_enough_for_one_request_after_the_other():
    threads = set()

    def wsgi_application(environ, start_response):
        threads.add(threading.get_ident())
        return answering([])(environ, start_response)

    application = WsgiToAsgi(wsgi_application, workers=20)
    for _ in range(50):
        await application(http_scope(), receive, drop)
    assert len(threads) == 1
    assert await sync_to_async(threading.get_ident)() not in threads


@pytest.mark.asyncio
async def test_a_request_cancelled_in_the_line_is_not_run():
    entered = asyncio.Event()
    go_on = threading.Event()
    loop = asyncio.get_running_loop()
    paths = []

    def wsgi_application(environ, start_response):
        paths.append(environ["PATH_INFO"])
        loop.call_soon_threadsafe(entered.set)
        assert go_on.wait(WAIT)
        return answering([])(environ, start_response)

    application = WsgiToAsgi(wsgi_application, workers=1)
    requests = [
        asyncio.ensure_future(application(http_scope(path=f"/{number}"), receive, drop))
        for number in range(3)
    ]
    await asyncio.wait_for(entered.wait(), WAIT)
    requests[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await requests[1]
    go_on.set()
    await asyncio.wait_for(asyncio.gather(requests[0], requests[2]), WAIT)
    assert paths == ["/0", "/2"]


@pytest.mark.asyncio
async def test_errors_come_from_there_too():
    def wsgi_application(environ, start_response):
        raise LookupError("broken")

    application = WsgiToAsgi(wsgi_application, workers=1)
    for _ in range(3):
        with pytest.raises(LookupError, match="broken"):
            await application(http_scope(), receive, drop)


@pytest.mark.asyncio
async def test_the_application_may_call_back_to_the_loop():
    loop = asyncio.get_running_loop()

    async def on_loop():
        assert asyncio.get_running_loop() is loop
        return await sync_to_async(threading.get_ident)()

    def wsgi_application(environ, start_response):
        start_response("200 OK", [])
        assert async_to_sync(on_loop)() == threading.get_ident()
        return []

    assert await respond(wsgi_application, workers=2) == [start(), END]


def test_several_loops_share_the_threads():
    barrier = threading.Barrier(2)

    def wsgi_application(environ, start_response):
        barrier.wait(WAIT)
        return answering([])(environ, start_response)

    application = WsgiToAsgi(wsgi_application, workers=2)
    done = []

    def run():
        asyncio.run(asyncio.wait_for(application(http_scope(), receive, drop), WAIT))
        done.append(True)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * WAIT)
    assert len(done) == 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_has_threads_of_its_own(script_output):
    source = """
        import asyncio, os, threading, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # of 3.12: fork with threads
        from asgibridge.wsgi import WsgiToAsgi

        go_on = threading.Event()
        entered = threading.Event()

        def wsgi_application(environ, start_response):
            if environ["PATH_INFO"] == "/wait":
                entered.set()
                go_on.wait(20)
            start_response("200 OK", [])
            return []

        application = WsgiToAsgi(wsgi_application, workers=1)
        scope = {"type": "http", "http_version": "1.1", "method": "GET", "headers": []}

        async def receive():
            return {"type": "http.request"}

        async def send(message):
            pass

        def serve(path):
            asyncio.run(application({**scope, "path": path}, receive, send))

        busy = threading.Thread(target=serve, args=("/wait",))
        busy.start()
        entered.wait(20)
        child = os.fork()
        if not child:
            serve("/")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        go_on.set()
        busy.join(20)
        serve("/")
        print(status)
    """
    assert script_output(source) == "0"


def test_the_process_ends_though_the_threads_are_idle(script_output):
    source = """
        import asyncio
        from asgibridge.wsgi import WsgiToAsgi

        def wsgi_application(environ, start_response):
            start_response("200 OK", [])
            return []

        async def receive():
            return {"type": "http.request"}

        async def send(message):
            print(message["type"])

        scope = {"type": "http", "http_version": "1.1", "method": "GET", "path": "/"}
        application = WsgiToAsgi(wsgi_application, workers=3)
        asyncio.run(application(scope, receive, send))
    """
    assert script_output(source).split() == ["http.response.start", "http.response.body"]


@pytest.mark.asyncio
async def test_a_dropped_adapter_lets_its_threads_end():
    threads = []

    def wsgi_application(environ, start_response):
        threads.append(threading.current_thread())
        return answering([])(environ, start_response)

    application = WsgiToAsgi(wsgi_application, workers=2)
    await application(http_scope(), receive, drop)
    del application, wsgi_application
    gc.collect()
    await asyncio.get_running_loop().run_in_executor(None, join_idle, threads[0])
