"""What clients in worker processes ask: a server that notes who has asked, and by which connection.

A request for ``/held`` (or what begins so) is answered when the test says so.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECONDS = 30
"""More than any worker takes to come to a task; a hang is a failure then."""


class Backend:
    """The clients' side of a running server. Its attributes are changed under ``changed``."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.requests: list[tuple[int, str]] = []  # process, path: as they come
        self.connections: dict[int, set[object]] = defaultdict(set)  # by process
        self.released = threading.Event()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def processes(self, path: str) -> list[int]:
        """Who has asked for ``path``, each time."""
        with self.changed:
            return [process for process, asked in self.requests if asked == path]

    def wait_for(self, path: str, count: int, say: Callable[[], str]) -> list[int]:
        """Wait until ``path`` has been asked for so often; ``say()`` tells why not."""
        with self.changed:
            came = self.changed.wait_for(lambda: len(self.processes(path)) >= count, SECONDS)
        assert came, f"{path}: {len(self.processes(path))} of {count} requests\n{say()}"
        return self.processes(path)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # so that clients keep their connections

    def do_GET(self) -> None:
        backend: Backend = self.server.backend  # type: ignore[attr-defined]
        process = int(self.headers["X-Process"])
        with backend.changed:
            backend.requests.append((process, self.path))
            backend.connections[process].add(self.client_address)
            backend.changed.notify_all()
        if self.path.startswith("/held"):
            backend.released.wait(SECONDS)
        body = self.path.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            self.close_connection = True  # its client was cancelled

    def log_message(self, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that is gone


@contextmanager
def serving() -> Iterator[Backend]:
    """A new one, until the ``with`` block ends."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.backend = backend = Backend()  # type: ignore[attr-defined]
        backend.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield backend
        finally:
            backend.released.set()
            server.shutdown()
            thread.join()
