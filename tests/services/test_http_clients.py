"""httpx and aiohttp in sync code: a client, streams of it and their chunks, on one event loop."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import aiohttp
import httpx
import pytest

from asgibridge.iterators import async_to_sync_context_manager, async_to_sync_iterator
from asgibridge.runners import shared_loop
from asgibridge.sync import AsyncSingleThreadContext, async_to_sync, sync_to_async

BODY = b"0123456789" * 20_000
SMALL = b"small"
REQUESTS, THREADS = 10_000, 20

BLOCKS = pytest.mark.parametrize(
    "block",
    [contextlib.nullcontext, lambda: AsyncSingleThreadContext(persistent_loop=True), shared_loop],
    ids=["top level", "persistent loop", "shared loop"],
)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # so that clients keep their connections

    def do_GET(self) -> None:
        self.server.clients.add(self.client_address)  # type: ignore[attr-defined]
        self.send_response(200)
        body = SMALL if self.path == "/small" else BODY
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    """A local server that notes the connections which were made."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.clients = set()  # type: ignore[attr-defined]
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def url(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}/"


def with_httpx(server: ThreadingHTTPServer) -> None:
    with async_to_sync_context_manager(httpx.AsyncClient(trust_env=False)) as client:
        for _ in range(3):
            assert async_to_sync(client.get)(url(server)).content == BODY
            with async_to_sync_context_manager(client.stream("GET", url(server))) as response:
                assert b"".join(async_to_sync_iterator(response.aiter_bytes(1000))) == BODY
        with async_to_sync_context_manager(client.stream("GET", url(server))) as response:
            for chunk in async_to_sync_iterator(response.aiter_bytes(1000), max_size=1):
                assert BODY.startswith(chunk)
                assert async_to_sync(client.get)(url(server)).content == BODY
                break


def with_aiohttp(server: ThreadingHTTPServer) -> None:
    @async_to_sync_context_manager
    @contextlib.asynccontextmanager
    async def session():  # type: ignore[no-untyped-def]
        async with aiohttp.ClientSession() as session:
            yield session

    @async_to_sync
    async def get(client: aiohttp.ClientSession) -> bytes:
        async with client.get(url(server)) as response:
            idents.append(await sync_to_async(threading.get_ident)())
            return await response.read()

    idents: list[int] = []
    with session() as client:
        for _ in range(3):
            assert get(client) == BODY
            with async_to_sync_context_manager(client.get(url(server))) as response:
                chunks = async_to_sync_iterator(response.content.iter_chunked(1000))
                assert b"".join(chunks) == BODY
        with async_to_sync_context_manager(client.get(url(server))) as response:
            chunks = async_to_sync_iterator(response.content.iter_chunked(1000), max_size=1)
            for chunk in chunks:
                assert BODY.startswith(chunk)
                assert get(client) == BODY
                break
            chunks.close()
    assert set(idents) == {threading.get_ident()}


@BLOCKS
@pytest.mark.parametrize("use", [with_httpx, with_aiohttp])
def test_a_client_its_streams_and_their_chunks(
    server: ThreadingHTTPServer,
    block: Callable[[], contextlib.AbstractContextManager[object]],
    use: Callable[[ThreadingHTTPServer], None],
) -> None:
    with block():
        use(server)
    # Connections were kept from call to call; one more for what is asked while a stream is open.
    assert len(server.clients) <= 3  # type: ignore[attr-defined]


@BLOCKS
@pytest.mark.parametrize("use", [with_httpx, with_aiohttp])
def test_in_a_worker(
    server: ThreadingHTTPServer,
    block: Callable[[], contextlib.AbstractContextManager[object]],
    use: Callable[[ThreadingHTTPServer], None],
) -> None:
    def in_block() -> None:
        with block():
            use(server)

    async def main() -> None:
        await sync_to_async(in_block)()

    async_to_sync(main)()


async def client_of_httpx() -> tuple[Callable[[str], Any], Callable[[], Any]]:
    client = httpx.AsyncClient(trust_env=False)

    async def get(address: str) -> bytes:
        return (await client.get(address)).content

    return get, client.aclose


async def client_of_aiohttp() -> tuple[Callable[[str], Any], Callable[[], Any]]:
    client = aiohttp.ClientSession()

    async def get(address: str) -> bytes:
        async with client.get(address) as response:
            return await response.read()

    return get, client.close


@pytest.mark.slow
@pytest.mark.parametrize("connect", [client_of_httpx, client_of_aiohttp])
def test_one_client_for_all_threads_keeps_its_connections(
    server: ThreadingHTTPServer,
    connect: Callable[[], Any],
    row: Callable[..., None],
) -> None:
    """As the threads of a WSGI server use it, request after request."""
    address = f"{url(server)}small"
    with shared_loop():
        get, close = async_to_sync(connect)()
        with ThreadPoolExecutor(THREADS) as threads:
            for body in threads.map(lambda _: async_to_sync(get)(address), range(REQUESTS)):
                assert body == SMALL
        async_to_sync(close)()
    made = len(server.clients)  # type: ignore[attr-defined]
    row(f"{REQUESTS:,} requests of {THREADS} threads, {connect.__name__}", connections=made)
    assert made <= REQUESTS / 100  # httpx closes an idle one now and then
