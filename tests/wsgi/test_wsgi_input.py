"""``wsgi.input`` while the body comes in: like a file that has it all, and not greedy."""

from __future__ import annotations

import asyncio
import io
import threading
from random import Random

import pytest

from asgibridge._wsgi.input import KEPT, StreamingInput
from asgibridge.sync import async_to_sync
from asgibridge.wsgi import WsgiToAsgi
from wsgi_tools import content, http_scope, parts, respond


class Source:
    """A body in parts, and how many of them were fetched."""

    def __init__(self, *bodies):
        self.bodies = list(bodies)
        self.fetched = 0

    def __call__(self):
        self.fetched += 1
        return self.bodies.pop(0) if self.bodies else b""


def streaming(*bodies):
    return StreamingInput(Source(*bodies[1:]), bodies[0])


def random_parts(random, size):
    """Bytes with line ends here and there, cut anywhere."""
    whole = b"".join(
        random.choice([b"\n", b"a", b"bc\n", b"x" * random.randrange(200)])
        for _ in range(random.randrange(size))
    )
    cuts = sorted(random.randrange(len(whole) + 1) for _ in range(random.randrange(10)))
    bodies = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)])]
    return whole, [bodies[0], *(part for part in bodies[1:] if part)]


READS = {
    "read": lambda file, number: file.read(number),
    "read all": lambda file, number: file.read() if number % 7 == 0 else b"",
    "readline": lambda file, number: file.readline(),
    "readline limited": lambda file, number: file.readline(number),
    "readlines": lambda file, number: file.readlines() if number == 1000 else [],
    "next": lambda file, number: next(iter(file), None),
    "readinto": lambda file, number: (lambda to: (file.readinto(to), to))(bytearray(number)),
    "tell": lambda file, number: file.tell(),
}
SEEKS = {
    "seek": lambda file, number: file.seek(number),
    "seek end": lambda file, number: (
        file.seek(-min(number, 5), io.SEEK_END) if number % 5 == 0 else None
    ),
    "seek forward": lambda file, number: file.seek(number, io.SEEK_CUR),
    "seekable": lambda file, number: file.seekable(),
}


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("seeking", [False, True], ids=["flowing", "seeking"])
def test_it_is_like_a_file_with_the_whole_body(seed, seeking):
    random = Random(seed)
    whole, bodies = random_parts(random, random.choice([3, 40, 400]))
    if len(whole) < 5:
        whole, bodies = b"at least", [b"at ", b"least"]
    theirs, ours = io.BytesIO(whole), streaming(*bodies)
    operations = {**READS, **SEEKS} if seeking else READS
    for _ in range(60):
        name = random.choice(list(operations))
        number = random.choice([0, 1, 2, 5, 50, 1000])
        expected = operations[name](theirs, number)
        assert operations[name](ours, number) == expected, (name, number)
        assert ours.tell() == theirs.tell(), (name, number)


def test_nothing_is_fetched_before_it_is_needed():
    source = Source(b"56\n", b"9")
    file = StreamingInput(source, b"12\n34")
    assert (file.readline(), file.read(2), source.fetched) == (b"12\n", b"34", 0)
    assert (file.read(1), source.fetched) == (b"5", 1)
    assert (file.readline(), source.fetched) == (b"6\n", 1)
    assert (file.read1(100), source.fetched) == (b"9", 2)
    assert (file.read1(100), source.fetched) == (b"", 3)
    assert (file.read(), source.fetched) == (b"", 3)


@pytest.mark.parametrize("seekable_asked", [False, True])
def test_read1_gives_what_there_is(seekable_asked):
    source = Source(b"45")
    file = StreamingInput(source, b"123")
    if seekable_asked:
        assert file.seekable()
    assert [file.read1(2), file.read1(), file.read1(1), file.read1(-1)] == [b"12", b"3", b"4", b"5"]
    assert file.read1(0) == b""


def test_going_back_is_possible_as_long_as_nothing_is_gone():
    bodies = [b"x" * KEPT, b"y"]
    file = streaming(*bodies)
    assert file.read(KEPT) == bodies[0]
    assert file.seek(0) == 0
    assert file.read() == b"".join(bodies)

    file = streaming(*bodies)
    assert file.read() == b"".join(bodies)
    assert not file.seekable()
    with pytest.raises(io.UnsupportedOperation, match=r"seekable\(\) before reading.*buffer_body"):
        file.seek(0)
    assert file.tell() == KEPT + 1


def test_who_asks_first_may_go_back_in_any_size():
    bodies = [bytes([number]) * 50_000 for number in range(20)]
    file = streaming(*bodies)
    assert file.seekable()
    assert file.seek(0, io.SEEK_END) == 1_000_000
    assert file.read() == b""
    file.seek(0)
    assert file.read() == b"".join(bodies)
    file.close()
    assert file.closed


@pytest.mark.parametrize(("offset", "whence"), [(-1, 0), (-9, 1), (-9, 2), (0, 5)])
def test_a_wrong_place_is_refused_as_in_a_file(offset, whence):
    with pytest.raises(ValueError, match=r"seek|whence"):
        streaming(b"12", b"34").seek(offset, whence)


def test_it_can_be_wrapped_as_text():
    assert list(io.TextIOWrapper(streaming(b"Z\xc3", b"\xbcrich\nBern"), "utf-8")) == [
        "Zürich\n",
        "Bern",
    ]


def test_the_error_of_a_fetch_comes_out_of_the_reading():
    def fetch():
        raise ConnectionResetError("gone")

    for read in ("read", "readline", "readlines", "seekable"):
        file = StreamingInput(fetch, b"12")
        with pytest.raises(ConnectionResetError):
            getattr(file, read)() and file.read()


# In a request


@pytest.mark.asyncio
async def test_the_application_reads_while_the_client_still_sends():
    seen = []
    steps = asyncio.Queue()
    loop = asyncio.get_running_loop()

    async def receive():
        return await steps.get()

    def wsgi_application(environ, start_response):
        start_response("200 OK", [])
        for line in environ["wsgi.input"]:
            seen.append(line)
            message = {"type": "http.request", "body": b"%d\n" % len(seen), "more_body": True}
            if len(seen) == 4:
                message["more_body"] = False
            if len(seen) <= 4:  # the client sends more only when this has arrived
                loop.call_soon_threadsafe(steps.put_nowait, message)
        return [b"%d" % len(seen)]

    sent = []

    async def send(message):
        sent.append(message)

    steps.put_nowait({"type": "http.request", "body": b"0\n", "more_body": True})
    await WsgiToAsgi(wsgi_application)(http_scope(method="POST"), receive, send)
    assert seen == [b"0\n", b"1\n", b"2\n", b"3\n", b"4\n"]
    assert content(sent) == b"5"


@pytest.mark.asyncio
async def test_a_body_nobody_reads_is_left_with_the_server():
    messages = parts(*[b"part"] * 10)
    received = []

    async def receive():
        received.append(messages[len(received)])
        return received[-1]

    async def send(message):
        pass

    def wsgi_application(environ, start_response):
        start_response("200 OK", [])
        environ["wsgi.input"].read(10)
        return []

    await WsgiToAsgi(wsgi_application)(http_scope(method="POST"), receive, send)
    assert len(received) == 3


@pytest.mark.asyncio
async def test_empty_parts_do_not_end_the_body():
    def wsgi_application(environ, start_response):
        start_response("200 OK", [])
        return [environ["wsgi.input"].readline(), b"|", environ["wsgi.input"].read()]

    messages = parts(b"", b"", b"one", b"", b"\ntwo", b"", b"")
    assert content(await respond(wsgi_application, messages=messages)) == b"one\n|two"


@pytest.mark.asyncio
async def test_another_thread_of_the_applications_may_read():
    def wsgi_application(environ, start_response):
        start_response("200 OK", [])
        read = []
        reader = threading.Thread(target=lambda: read.append(environ["wsgi.input"].read()))
        reader.start()
        yield b"first "
        reader.join(10)
        yield read[0]

    messages = parts(*[b"%d" % number for number in range(10)])
    assert content(await respond(wsgi_application, messages=messages)) == b"first 0123456789"


@pytest.mark.asyncio
async def test_reading_when_the_request_is_over_says_so():
    kept = []

    def wsgi_application(environ, start_response):
        kept.append(environ["wsgi.input"])
        start_response("200 OK", [])
        return []

    await respond(wsgi_application, messages=parts(b"one", b"two", b"three"))
    outcome = []

    def read():
        try:
            kept[0].read()
        except Exception as error:
            outcome.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    await asyncio.get_running_loop().run_in_executor(None, reader.join, 10)
    assert [str(error) for error in outcome] == ["the request is over"]


@pytest.mark.asyncio
async def test_reading_on_the_servers_loop_is_refused_and_loses_nothing():
    """As in an async view of Flask's, that runs on the loop that has to receive the body."""

    def wsgi_application(environ, start_response):
        body = environ["wsgi.input"]

        async def view():
            there = body.read(3)
            with pytest.raises(RuntimeError, match=r"would deadlock.*buffer_body=True"):
                body.read(3)
            return there

        start_response("200 OK", [])
        return [async_to_sync(view)(), body.read()]

    messages = parts(b"one", b"two", b"three")
    assert content(await respond(wsgi_application, messages=messages)) == b"onetwothree"


@pytest.mark.asyncio
async def test_reading_there_is_fine_if_the_body_is_there():
    def wsgi_application(environ, start_response):
        async def view():
            return environ["wsgi.input"].read()

        start_response("200 OK", [])
        return [async_to_sync(view)()]

    assert content(await respond(wsgi_application, messages=parts(b"all"))) == b"all"
    messages = parts(b"one", b"two")
    sent = await respond(wsgi_application, messages=messages, buffer_body=True)
    assert content(sent) == b"onetwo"


@pytest.mark.asyncio
async def test_writing_on_the_servers_loop_is_refused():
    def wsgi_application(environ, start_response):
        write = start_response("200 OK", [])

        async def view():
            write(b"too fast")

        with pytest.raises(RuntimeError, match="would deadlock"):
            async_to_sync(view)()
        return [b", but there"]

    assert content(await respond(wsgi_application)) == b"too fast, but there"


@pytest.mark.parametrize("buffer_body", [False, True])
@pytest.mark.asyncio
async def test_a_body_of_many_parts_arrives_whole(buffer_body):
    bodies = [bytes([number % 251]) * 1000 for number in range(300)]

    def wsgi_application(environ, start_response):
        assert environ["wsgi.input"].read(10) == b"\0" * 10
        if buffer_body:
            environ["wsgi.input"].seek(0)
        start_response("200 OK", [])
        return iter(lambda: environ["wsgi.input"].read(777), b"")

    sent = await respond(wsgi_application, messages=parts(*bodies), buffer_body=buffer_body)
    whole = b"".join(bodies)
    assert content(sent) == (whole if buffer_body else whole[10:])


@pytest.mark.asyncio
async def test_the_application_is_called_before_the_body_is_there_but_not_when_buffered():
    # As asgiref: buffered, a slow client keeps no thread waiting.
    for buffer_body in (False, True):
        called = asyncio.Event()
        loop = asyncio.get_running_loop()
        messages = asyncio.Queue()
        messages.put_nowait({"type": "http.request", "body": b"1", "more_body": True})

        def wsgi_application(environ, start_response):
            loop.call_soon_threadsafe(called.set)
            start_response("200 OK", [])
            return [environ["wsgi.input"].read()]

        sent = []

        async def send(message):
            sent.append(message)

        application = WsgiToAsgi(wsgi_application, buffer_body=buffer_body)
        request = asyncio.ensure_future(application(http_scope(), messages.get, send))
        if buffer_body:
            while not messages.empty():
                await asyncio.sleep(0)
            for _ in range(10):
                await asyncio.sleep(0)
            assert not called.is_set()
        else:
            await asyncio.wait_for(called.wait(), 10)
        messages.put_nowait({"type": "http.request", "body": b"2"})
        await asyncio.wait_for(request, 10)
        assert content(sent) == b"12"
