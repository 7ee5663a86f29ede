"""What goes between the application's thread and the connection: order, waiting, and every end."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import io
import logging
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest

from asgibridge._wsgi import exchange
from asgibridge._wsgi.exchange import Exchange
from asgibridge.local import Local
from asgibridge.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
from asgibridge.wsgi import ClientDisconnected, WsgiToAsgi, WsgiToAsgiInstance
from wsgi_tools import (
    EMPTY_REQUEST,
    END,
    Chunks,
    answering,
    body,
    content,
    echo,
    http_scope,
    parts,
    respond,
    start,
)

WAIT = 10


class Connection:
    """A server's side that does what a test wants: waits, fails, or lets the client leave."""

    def __init__(self, *messages):
        self.incoming = asyncio.Queue()
        for message in messages or (EMPTY_REQUEST,):
            self.incoming.put_nowait(message)
        self.sent = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.sending = asyncio.Event()

    async def send(self, message):
        self.sending.set()
        await self.gate.wait()
        self.sent.append(message)

    def serve(self, wsgi_application, **options):
        application = WsgiToAsgi(wsgi_application, **options)
        return asyncio.ensure_future(application(http_scope(), self.incoming.get, self.send))


@pytest.fixture
def reported(caplog):
    """What the loop's exception handler was told, checked by hand or else empty."""
    caplog.set_level(logging.ERROR, "asyncio")
    records = caplog.records
    yield records
    gc.collect()
    assert [record.getMessage() for record in records] == []


# Order, batches, back-pressure


@pytest.mark.parametrize("kind", ["list", "generator", "write"])
@pytest.mark.parametrize("workers", [None, 2])
@pytest.mark.asyncio
async def test_a_thousand_chunks_come_in_order(kind, workers):
    chunks = [b"%d " % number for number in range(1000)]

    def wsgi_application(environ, start_response):
        write = start_response("200 OK", [])
        if kind == "write":
            for chunk in chunks:
                write(chunk)
            return []
        return list(chunks) if kind == "list" else iter(chunks)

    sent = await respond(wsgi_application, workers=workers)
    assert sent == [start(), *(body(chunk) for chunk in chunks), END]


@pytest.mark.parametrize("kind", ["list", "generator"])
@pytest.mark.asyncio
async def test_a_slow_client_holds_up_the_application(kind):
    asked = 0
    size = 10_000

    def chunks():
        nonlocal asked
        for _ in range(1000):
            asked += 1
            yield b"x" * size

    connection = Connection()
    connection.gate.clear()
    if kind == "list":
        application = answering([b"x" * size] * 1000)
    else:
        application = answering(chunks())
    request = connection.serve(application)
    await asyncio.wait_for(connection.sending.wait(), WAIT)
    if kind == "generator":
        assert asked == 1  # the first has not gone out
    connection.gate.set()
    await asyncio.wait_for(request, WAIT)
    assert len(content(connection.sent)) == 1000 * size


@pytest.mark.asyncio
async def test_a_thread_may_end_its_wait_while_the_loop_looks_at_it(monkeypatch):
    """The loop reads once what the thread waits for: it saw a number, then None, and raised."""

    def seen_once(exchange):
        seen, exchange.__dict__["_wanted"] = exchange.__dict__["_wanted"], None
        return seen

    def set_(exchange, wanted):
        exchange.__dict__["_wanted"] = wanted

    monkeypatch.setattr(Exchange, "_wanted", property(seen_once, set_), raising=False)
    connection = Connection()
    exchange = Exchange(connection.incoming.get, connection.send, body_is_complete=True)
    exchange._wanted = 0
    await exchange._pump()
    assert exchange._wanted is None


@pytest.mark.asyncio
async def test_no_more_than_the_limit_is_on_its_way():
    size = 10_000
    most = 0
    made = 0

    def wsgi_application(environ, start_response):
        nonlocal made
        start_response("200 OK", [])
        for _ in range(500):
            made += 1
            yield b"x" * size

    sent = []

    async def send(message):
        nonlocal most
        most = max(most, made - len(sent))
        sent.append(message)

    await respond(wsgi_application, send=send)
    assert len(content(sent)) == 500 * size
    assert most * size <= exchange.LIMIT + 2 * size


@pytest.mark.asyncio
async def test_a_flood_of_tiny_chunks_is_held_up_too():
    made = 0
    most = 0
    sent = []

    def wsgi_application(environ, start_response):
        nonlocal made
        start_response("200 OK", [])
        for _ in range(5000):
            made += 1
            yield b"x"

    async def send(message):
        nonlocal most
        most = max(most, made - len(sent))
        sent.append(message)

    await respond(wsgi_application, send=send)
    assert len(content(sent)) == 5000
    assert most <= exchange.LIMIT // exchange.OVERHEAD + 2


@pytest.mark.asyncio
async def test_a_chunk_is_not_kept_back_until_the_next_one_is_ready():
    # PEP 3333, "Buffering and Streaming": transmission goes on while the next block is made.
    arrived = [threading.Event() for _ in range(5)]
    sent = []

    async def send(message):
        sent.append(message)
        if message.get("body"):
            arrived[int(message["body"])].set()

    def wsgi_application(environ, start_response):
        start_response("200 OK", [])
        for number, event in enumerate(arrived):
            yield b"%d" % number
            assert event.wait(WAIT)

    await respond(wsgi_application, send=send)
    assert content(sent) == b"01234"


@pytest.mark.asyncio
async def test_the_body_is_sent_before_close_has_ended():
    arrived = threading.Event()

    class Result(Chunks):
        def close(self):
            assert arrived.wait(WAIT)
            super().close()

    async def send(message):
        if message == END:
            arrived.set()

    result = Result(b"one")
    await respond(answering(result, headers=[("Content-Length", "3")]), send=send)
    assert result.closed == 1


# Sync code in send() and receive() that needs the application's thread


@pytest.mark.parametrize("how", ["plain", "context", "async_to_sync", "workers"])
@pytest.mark.asyncio
async def test_a_middleware_that_hops_to_the_applications_thread_does_not_deadlock(how):
    threads = set()

    def in_thread():
        threads.add(threading.get_ident())

    waiting = parts(b"a", b"b", b"c")

    async def receive():
        await sync_to_async(in_thread)()
        return waiting.pop(0)

    sent = []

    async def send(message):
        await sync_to_async(in_thread)()
        sent.append(message)

    def wsgi_application(environ, start_response):
        threads.add(threading.get_ident())
        start_response("200 OK", [])
        for number in range(20):
            yield b"%d" % number * 10_000
            if number < 3:
                yield environ["wsgi.input"].read(1)

    application = WsgiToAsgi(wsgi_application, workers=2 if how == "workers" else None)

    async def request():
        await application(http_scope(), receive, send)

    if how == "context":
        async with ThreadSensitiveContext():
            await asyncio.wait_for(request(), WAIT)
    elif how == "async_to_sync":
        await sync_to_async(async_to_sync(request))()
    else:
        await asyncio.wait_for(request(), WAIT)
    assert sent[0] == start()
    assert sent[-1] == END
    assert len(content(sent)) == sum(len(b"%d" % n) * 10_000 for n in range(20)) + 3
    if how != "workers":
        assert len(threads) == 1


@pytest.mark.asyncio
async def test_a_chunk_goes_out_though_its_send_needs_the_thread_that_waits_for_the_client():
    # As with a session saved on http.response.start: the application does not get ahead of it.
    arrived = threading.Event()
    sent = []

    async def send(message):
        await sync_to_async(sent.append)(message)
        if message.get("body"):
            arrived.set()

    def wsgi_application(environ, start_response):
        start_response("200 OK", [])
        for _ in range(5):
            yield b"chunk"
            assert arrived.wait(WAIT)
            arrived.clear()

    await asyncio.wait_for(respond(wsgi_application, send=send), 2 * WAIT)
    assert content(sent) == b"chunk" * 5


# Other threads of the application's


def in_a_thread(function):
    """Runs the function in a new thread, waits for that, and raises what it raised."""
    with ThreadPoolExecutor(1) as executor:
        executor.submit(function).result(WAIT)


@pytest.mark.asyncio
async def test_a_thread_of_the_applications_may_be_the_first_to_write():
    # 1. The helper writes and does not wait, as after a send that was quick: the loop is awake. 2.
    # The client takes no more. 3. The application's thread writes, and has to wait: it has woken no
    # loop, and has made no frame for that.
    arrived, go_on = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    sent = []

    async def send(message):
        sent.append(message)
        if message.get("body") == b"first":
            arrived.set()
            await go_on.wait()

    def wsgi_application(environ, start_response):
        write = start_response("200 OK", [])
        write.__self__._exchange.is_in_step = False
        in_a_thread(lambda: write(b"first"))
        assert arrived.wait(WAIT)
        loop.call_soon_threadsafe(loop.call_later, 0.01, go_on.set)
        write(b"x" * exchange.LIMIT)
        return [b"last"]

    await asyncio.wait_for(respond(wsgi_application, send=send), WAIT)
    assert content(sent) == b"first" + b"x" * exchange.LIMIT + b"last"


@pytest.mark.parametrize("doing", ["writing", "reading"])
@pytest.mark.asyncio
async def test_a_middleware_hops_to_the_thread_that_has_it_work(doing):
    # The application's thread waits for its helper, so the thread to hop to is the helper.
    threads = set()
    sent = []
    waiting = parts(b"a", b"b")

    async def hop():
        await sync_to_async(lambda: threads.add(threading.get_ident()))()

    async def receive():
        if len(waiting) < 2:
            await hop()
        return waiting.pop(0)

    async def send(message):
        if doing == "writing" and message.get("body"):
            await hop()
        sent.append(message)

    helper = []

    def wsgi_application(environ, start_response):
        write = start_response("200 OK", [])

        def work():
            helper.append(threading.get_ident())
            if doing == "writing":
                write(b"ab")
            else:
                helper.append(environ["wsgi.input"].read())

        in_a_thread(work)
        return [] if doing == "writing" else helper[1:]

    application = WsgiToAsgi(wsgi_application)
    await asyncio.wait_for(application(http_scope(), receive, send), WAIT)
    assert content(sent) == b"ab"
    assert threads == {helper[0]}


@pytest.mark.asyncio
async def test_a_task_that_outlives_the_request_finds_another_thread():
    tasks = []
    over = asyncio.Event()

    async def later():
        await over.wait()
        return await sync_to_async(threading.get_ident)()

    async def send(message):
        tasks.append(asyncio.ensure_future(later()))

    await respond(answering(Chunks(b"1", b"2")), send=send)
    over.set()
    expected = await sync_to_async(threading.get_ident)()
    for task in tasks:
        assert await asyncio.wait_for(task, WAIT) == expected


# Contexts


variable = contextvars.ContextVar("variable", default="unset")


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.asyncio
async def test_context_variables_go_along(count):
    seen = []
    local = Local()
    variable.set("server")
    local.value = "server"

    async def send(message):
        seen.append((variable.get(), local.value))

    def wsgi_application(environ, start_response):
        seen.append((variable.get(), local.value))
        variable.set("application")
        local.value = "application"
        start_response("200 OK", [])
        for _ in range(count):
            yield b"chunk"

    await respond(wsgi_application, send=send)
    assert seen[0] == ("server", "server")
    assert set(seen[1:]) == {("application", "application")}
    assert len(seen) == count + 3
    assert (variable.get(), local.value) == ("application", "application")


# The client leaves


def long_answer(number, *, seen, reading=False):
    """Many chunks; notes how far it got and that it was closed."""

    class Result(Chunks):
        def close(self):
            super().close()
            seen.append("closed")

    def wsgi_application(environ, start_response):
        start_response("200 OK", [])
        if reading:
            seen.append(environ["wsgi.input"].read())

        def chunks():
            for index in range(number):
                seen.append(index)
                yield b"x" * 20_000

        result = Result()
        result.chunks = chunks()
        return result

    return wsgi_application


@pytest.mark.not_quick
@pytest.mark.parametrize("moment", range(12))
@pytest.mark.parametrize("how", ["send raises", "receive says so"])
@pytest.mark.asyncio
async def test_a_client_that_disconnects_at_any_moment_ends_the_work_quietly(how, moment, reported):
    seen = []
    messages = parts(b"1", b"2", b"3")
    events = 0
    gone = asyncio.Event()

    def next_event():
        nonlocal events
        events += 1
        if events > moment:
            gone.set()

    async def receive():
        next_event()
        if gone.is_set() and how == "receive says so":
            return {"type": "http.disconnect"}
        if not messages:
            await gone.wait()
            return {"type": "http.disconnect"}
        return messages.pop(0)

    async def send(message):
        next_event()
        if gone.is_set() and how == "send raises":
            raise BrokenPipeError("the client has gone")
        await asyncio.sleep(0)

    application = WsgiToAsgi(long_answer(1000, seen=seen, reading=True))
    await asyncio.wait_for(application(http_scope(), receive, send), WAIT)
    assert gone.is_set()
    if moment >= 4:
        assert seen[-1] == "closed"
        assert len(seen) < 200  # far from 1000
    else:  # before the response
        assert b"123" not in seen or seen[-1] == "closed"


@pytest.mark.asyncio
async def test_the_application_hears_of_it_once_for_each_thing_it_tries():
    errors = []

    async def send(message):
        raise OSError("gone")

    def wsgi_application(environ, start_response):
        write = start_response("200 OK", [])
        for _ in range(3):
            try:
                write(b"chunk")
            except ClientDisconnected as error:
                errors.append(error)
                assert isinstance(error.__cause__, OSError)
        try:
            environ["wsgi.input"].read()
        except ClientDisconnected as error:
            errors.append(error)
        return []

    await respond(wsgi_application, messages=parts(b"1", b"2"), send=send)
    assert len(errors) == len({id(error) for error in errors}) == 4


@pytest.mark.asyncio
async def test_a_chunk_put_in_the_moment_of_the_disconnect_is_dropped(monkeypatch):
    fail = Exchange.fail

    def fail_with_a_late_chunk(self, error):
        fail(self, error)
        self._messages.append((body(b"late"), 4))

    monkeypatch.setattr(Exchange, "fail", fail_with_a_late_chunk)

    async def send(message):
        raise BrokenPipeError

    chunks = Chunks(b"1", b"2", b"3")
    await respond(answering(chunks), send=send)
    assert chunks.closed == 1


@pytest.mark.asyncio
async def test_an_error_that_has_nothing_to_do_with_it_is_reported():
    async def send(message):
        raise OSError("gone")

    def wsgi_application(environ, start_response):
        write = start_response("200 OK", [])
        try:
            write(b"chunk")
        except ClientDisconnected:
            pass
        raise LookupError("broken")

    with pytest.raises(LookupError, match="broken"):
        await respond(wsgi_application, send=send)


@pytest.mark.parametrize("position", range(4))
@pytest.mark.asyncio
async def test_another_error_of_send_reaches_application_and_server(position):
    sent = []
    chunks = Chunks(b"1", b"2", b"3", b"4")

    async def send(message):
        if len(sent) == position:
            raise LookupError("send")
        sent.append(message)

    with pytest.raises(LookupError, match="send"):
        await respond(answering(chunks), send=send)
    assert len(sent) == position
    assert chunks.closed == 1


@pytest.mark.asyncio
async def test_an_error_of_receive_reaches_application_and_server():
    async def receive():
        if messages:
            return messages.pop()
        raise LookupError("receive")

    messages = parts(b"1", b"2")[:1]
    with pytest.raises(LookupError, match="receive"):
        await WsgiToAsgi(echo)(http_scope(), receive, None)


# The request is cancelled


@pytest.mark.parametrize("workers", [None, 1])
@pytest.mark.asyncio
async def test_cancelled_while_the_client_is_slow(workers, reported):
    seen = []
    connection = Connection()
    connection.gate.clear()
    request = connection.serve(long_answer(100, seen=seen), workers=workers)
    await asyncio.wait_for(connection.sending.wait(), WAIT)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    if workers is None:
        await sync_to_async(lambda: None)()  # behind it, on the same thread
        assert seen == [0, "closed"]


@pytest.mark.asyncio
async def test_cancelled_while_the_body_comes_slowly(reported):
    entered = asyncio.Event()
    loop = asyncio.get_running_loop()
    errors = []

    def wsgi_application(environ, start_response):
        loop.call_soon_threadsafe(entered.set)
        try:
            environ["wsgi.input"].read()
        except ClientDisconnected as error:
            errors.append(str(error))
            raise

    connection = Connection(parts(b"1", b"2")[0])
    request = connection.serve(wsgi_application)
    await asyncio.wait_for(entered.wait(), WAIT)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    await sync_to_async(lambda: None)()
    assert errors == ["the server has cancelled the request"]


@pytest.mark.asyncio
async def test_cancelled_while_the_application_computes(reported):
    entered = asyncio.Event()
    go_on = threading.Event()
    loop = asyncio.get_running_loop()
    result = Chunks(b"1", b"2")

    def wsgi_application(environ, start_response):
        loop.call_soon_threadsafe(entered.set)
        assert go_on.wait(WAIT)
        start_response("200 OK", [])
        return result

    connection = Connection()
    request = connection.serve(wsgi_application)
    await asyncio.wait_for(entered.wait(), WAIT)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    go_on.set()
    await sync_to_async(lambda: None)()
    assert result.closed == 1
    assert connection.sent == []


@pytest.mark.asyncio
async def test_cancelled_while_what_is_left_is_sent(reported):
    connection = Connection()
    connection.gate.clear()
    request = connection.serve(answering([b"1", b"2"]))
    await asyncio.wait_for(connection.sending.wait(), WAIT)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert connection.sent == []


@pytest.mark.asyncio
async def test_cancelled_before_its_turn_never_runs(reported):
    entered = asyncio.Event()
    go_on = threading.Event()
    loop = asyncio.get_running_loop()
    called = []

    def first(environ, start_response):
        loop.call_soon_threadsafe(entered.set)
        assert go_on.wait(WAIT)
        return answering([])(environ, start_response)

    def second(environ, start_response):
        called.append(True)

    requests = [Connection().serve(first)]
    await asyncio.wait_for(entered.wait(), WAIT)
    requests.append(Connection().serve(second))
    for _ in range(3):
        await asyncio.sleep(0)
    requests[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await requests[1]
    go_on.set()
    await requests[0]
    await sync_to_async(lambda: None)()
    assert called == []


def test_a_loop_that_ends_midway_leaves_no_thread_waiting():
    entered = threading.Event()
    result = Chunks(b"1", b"2", b"3")

    async def send(message):
        entered.set()
        await asyncio.get_running_loop().create_future()

    async def receive():
        return EMPTY_REQUEST

    async def main():
        application = WsgiToAsgi(answering(result))
        task = asyncio.ensure_future(application(http_scope(), receive, send))
        await asyncio.get_running_loop().run_in_executor(None, entered.wait, WAIT)
        assert not task.done()  # asyncio.run cancels it

    asyncio.run(main())
    # The thread is free, or this would wait for ever.
    asyncio.run(asyncio.wait_for(sync_to_async(lambda: None)(), WAIT))
    assert result.closed == 1


# Nothing is left


@pytest.mark.asyncio
async def test_nothing_outlives_the_request(no_gc):
    class Thing:
        pass

    things = []

    def wsgi_application(environ, start_response):
        thing = Thing()
        things.append(weakref.ref(thing))
        environ["thing"] = thing
        start_response("200 OK", [])
        yield b"1"
        yield b"2"

    class Instance(WsgiToAsgiInstance):
        pass

    async def request():
        connection = Connection(*parts(b"1", b"2"))
        instance = Instance(wsgi_application)
        things.append(weakref.ref(instance))
        await instance(http_scope(), connection.incoming.get, connection.send)

    await request()
    await sync_to_async(lambda: None)()
    for _ in range(3):
        await asyncio.sleep(0)
    alive = [reference() for reference in things if reference() is not None]
    if alive:  # cycles are the collector's, but there must be no more than it can break
        del alive
        gc.collect()
    assert [reference() for reference in things] == [None, None]
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.asyncio
async def test_nobody_listens_for_the_client_when_the_response_is_complete():
    connection = Connection()
    await connection.serve(answering(Chunks(b"1", b"2", b"3", b"4")))
    for _ in range(3):  # a cancelled task's last step
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


# All of it at once


@pytest.mark.parametrize("workers", [None, 8])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.asyncio
async def test_a_storm_of_requests(seed, workers, reported):
    random = Random(seed)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)

    def wsgi_application(environ, start_response):
        write = start_response("200 OK", [])
        plan = Random(int(environ["QUERY_STRING"]))
        for _ in range(plan.randrange(3)):
            write(b"w" * plan.randrange(20_000))
        for _ in range(plan.randrange(20)):
            if plan.random() < 0.3:
                yield environ["wsgi.input"].read(plan.randrange(1, 5000))
            else:
                yield b"y" * plan.randrange(1, plan.choice([2, 50_000]))
        yield environ["wsgi.input"].read()

    async def request(number):
        plan = Random(-number - 1)
        whole = bytes(plan.randrange(30_000))
        cuts = sorted(plan.randrange(len(whole) + 1) for _ in range(plan.randrange(6)))
        messages = parts(*(whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)])))
        end = plan.choice(["whole", "whole", "cancelled", "disconnected", "send fails"])
        steps = plan.randrange(20)
        hops = plan.random() < 0.3
        sent = []

        async def step():
            nonlocal steps
            steps -= 1
            if hops:
                await sync_to_async(int)()
            elif plan.random() < 0.5:
                await asyncio.sleep(0)
            if end == "cancelled" and steps == 0:
                task.cancel()

        async def receive():
            await step()
            if end == "disconnected" and steps < 0:
                return {"type": "http.disconnect"}
            if not messages:
                await asyncio.get_running_loop().create_future()
            return messages.pop(0)

        async def send(message):
            await step()
            if end == "send fails" and steps < 0:
                raise BrokenPipeError
            sent.append(message)

        scope = http_scope(query_string=b"%d" % number)
        task = asyncio.ensure_future(application(scope, receive, send))
        try:
            await task
        except asyncio.CancelledError:
            assert end == "cancelled"
            return
        if end == "whole":
            assert content(sent) == reference(number, whole)

    def reference(number, whole):
        written = []
        environ = {"QUERY_STRING": str(number), "wsgi.input": io.BytesIO(whole)}
        for chunk in wsgi_application(environ, lambda status, headers: written.append):
            written.append(chunk)
        return b"".join(written)

    application = WsgiToAsgi(wsgi_application, workers=workers)
    try:
        numbers = [random.randrange(10**6) for _ in range(60)]
        await asyncio.wait_for(asyncio.gather(*map(request, numbers)), 4 * WAIT)
        await sync_to_async(int)()
    finally:
        sys.setswitchinterval(interval)


# Subclasses, as they are in the wild


@pytest.mark.asyncio
async def test_run_wsgi_app_taken_to_other_threads():
    with ThreadPoolExecutor(1) as executor:
        thread = executor.submit(threading.get_ident).result()

        class Instance(WsgiToAsgiInstance):
            run_wsgi_app = sync_to_async(
                WsgiToAsgiInstance.__dict__["run_wsgi_app"].func,
                thread_sensitive=False,
                executor=executor,
            )

        seen = []

        def wsgi_application(environ, start_response):
            seen.append(threading.get_ident())
            start_response("200 OK", [])
            yield environ["wsgi.input"].read()
            yield b"!"

        connection = Connection(*parts(b"1", b"2"))
        await Instance(wsgi_application)(http_scope(), connection.incoming.get, connection.send)
        assert connection.sent == [start(), body(b"12"), body(b"!"), END]
        assert seen == [thread]


@pytest.mark.asyncio
async def test_a_run_wsgi_app_of_its_own_with_sync_send():
    class Instance(WsgiToAsgiInstance):
        @sync_to_async
        def run_wsgi_app(self, body):
            environ = self.build_environ(self.scope, body)
            chunks = self.wsgi_application(environ, self.start_response)
            self.sync_send(self.response_start)
            for chunk in chunks:
                self.sync_send({"type": "http.response.body", "body": chunk, "more_body": True})
                assert connection.sent[-1]["body"] == chunk
            self.sync_send({"type": "http.response.body"})

    connection = Connection(*parts(b"1", b"2"))
    await Instance(echo)(http_scope(), connection.incoming.get, connection.send)
    assert connection.sent == [start(), body(b"12"), END]


@pytest.mark.asyncio
async def test_a_call_of_its_own_with_the_rest_as_it_is():
    class Instance(WsgiToAsgiInstance):
        async def __call__(self, scope, receive, send):
            self.scope = scope
            self.sync_send = async_to_sync(send)
            await self.run_wsgi_app(None)

    connection = Connection()
    await Instance(answering([b"1", b"2"]))(http_scope(), connection.incoming.get, connection.send)
    assert connection.sent == [start(), body(b"1"), body(b"2"), END]


@pytest.mark.asyncio
async def test_a_start_response_and_build_environ_of_its_own():
    class Instance(WsgiToAsgiInstance):
        def build_environ(self, scope, body):
            return {**super().build_environ(scope, body), "extra": "1"}

        def start_response(self, status, response_headers, exc_info=None):
            return super().start_response(status, [*response_headers, ("X-Extra", "2")], exc_info)

    def wsgi_application(environ, start_response):
        start_response("200 OK", [])
        return [environ["extra"].encode()]

    connection = Connection()
    await Instance(wsgi_application)(http_scope(), connection.incoming.get, connection.send)
    assert connection.sent == [start(headers=[(b"x-extra", b"2")]), body(b"1"), END]
