"""``wsgi.input`` of a request whose body is still coming in.

Belongs to the thread that runs the WSGI application. It asks for the next part of the body, by
``fetch()``, only when the application reads beyond the parts that have come: an application that
does not read does not make the client send.

Two states. *Flowing*: a part is dropped when it was read, but the first 64 KiB are kept, so that
the application can seek. *Spooled*, from the first ``seek()`` or ``seekable()`` on: all parts go to
a file (in memory up to 64 KiB, then on disk), and reads come from the file. A flowing input can
become spooled as long as nothing was dropped.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from tempfile import SpooledTemporaryFile
from typing import IO, Any

KEPT = 65536
"""Bytes of a body kept in memory: as many as in asgiref. A longer body goes to a file."""


class StreamingInput(io.BufferedIOBase):
    """A file with the request's body.

    :param fetch: waits for more of the body and returns it; b"" at the end. What it raises comes
        out of the method that reads.
    :param first: the part that is already there.
    """

    def __init__(self, fetch: Callable[[], bytes], first: bytes) -> None:
        self._fetch = fetch
        self._position = 0
        self._at_end = False
        # Flowing: the application has read `_part` up to `_begin`. `_early`: all parts so far.
        self._part = first
        self._begin = 0
        self._early: list[bytes] | None = [first]
        self._came = len(first)
        self._file: IO[bytes] | None = None

    def readable(self) -> bool:
        """True."""
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        """The next ``size`` bytes, fewer only at the end; all that is left without a size."""
        wanted = -1 if size is None else size
        if self._file is not None:
            self._have(None if wanted < 0 else self._position + wanted)
            return self._read_there(wanted)
        parts = []
        while wanted and (part := self._take(wanted)):
            parts.append(part)
            if wanted > 0:
                wanted -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read1(self, size: int = -1, /) -> bytes:
        """At most ``size`` bytes of what is there; waits only if nothing is."""
        if self._file is not None:
            self._have(self._position + 1)
            return self._read_there(size)
        return self._take(size) if size else b""

    def readline(self, size: int | None = -1, /) -> bytes:
        """Up to and with the next newline, at most ``size`` bytes."""
        limit = -1 if size is None else size
        if self._file is not None:
            return self._readline_file(limit)
        parts = []
        while limit:
            if self._begin == len(self._part) and not self._next_part():
                break
            newline = self._part.find(b"\n", self._begin)
            length = newline + 1 - self._begin if newline >= 0 else -1
            if limit >= 0 and not 0 <= length <= limit:
                length = limit
            part = self._take(length)
            parts.append(part)
            if part.endswith(b"\n"):
                break
            if limit > 0:
                limit -= len(part)
        return b"".join(parts)

    def tell(self) -> int:
        """How many bytes into the body the next read begins."""
        return self._position

    def seekable(self) -> bool:
        """Whether `seek` works. Asking makes sure that it goes on working."""
        return self._spool()

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to that byte of the body; waits for the whole of it if counted from the end.

        Raises io.UnsupportedOperation if more than 64 KiB have been read before anything asked for
        `seek` or `seekable`.
        """
        if not self._spool():
            raise io.UnsupportedOperation(
                f"the request body can't be gone back in: more than {KEPT} bytes of it were read, "
                "and are gone. Call wsgi.input.seekable() before reading, or give WsgiToAsgi "
                "buffer_body=True"
            )
        if whence == io.SEEK_CUR:
            offset += self._position
        elif whence == io.SEEK_END:
            self._have(None)
            offset += self._came
        elif whence != io.SEEK_SET:
            raise ValueError(f"whence must be 0, 1 or 2, not {whence!r}")
        if offset < 0:
            raise ValueError(f"can't seek to {offset}, before the body's beginning")
        self._position = offset
        return offset

    def close(self) -> None:
        """Drop what is kept."""
        file, self._file = self._file, None
        self._early, self._part, self._at_end = None, b"", True
        if file is not None:
            file.close()
        super().close()

    # Flowing.

    def _next_part(self) -> bool:
        # False at the end. Only when the part at hand was read to its end.
        if self._at_end or not (part := self._fetch()):
            self._at_end = True
            return False
        self._came += len(part)
        if self._came > KEPT:
            self._early = None
        elif self._early is not None:
            self._early.append(part)
        self._part, self._begin = part, 0
        return True

    def _take(self, size: int) -> bytes:
        # At most `size` bytes (all, if negative) of the part at hand, or of the next one.
        if self._begin == len(self._part) and not self._next_part():
            return b""
        begin, part = self._begin, self._part
        end = len(part) if size < 0 else min(begin + size, len(part))
        self._begin = end
        self._position += end - begin
        return part if end - begin == len(part) else part[begin:end]

    # Spooled.

    def _spool(self) -> bool:
        if self._early is not None:
            file: Any = SpooledTemporaryFile(max_size=KEPT)  # noqa: SIM115 - closed by `close`
            for part in self._early:
                file.write(part)
            self._early, self._part, self._begin = None, b"", 0
            self._file = file
        return self._file is not None

    def _have(self, end: int | None) -> None:
        # Fetch until the file reaches to byte `end`, or to the body's end.
        assert self._file is not None
        self._file.seek(self._came)
        while not self._at_end and (end is None or self._came < end):
            part = self._fetch()
            self._at_end = not part
            self._file.write(part)
            self._came += len(part)

    def _read_there(self, size: int) -> bytes:
        assert self._file is not None
        self._file.seek(self._position)
        data = self._file.read(size)
        self._position += len(data)
        return data

    def _readline_file(self, limit: int) -> bytes:
        begin = self._position
        while True:
            assert self._file is not None
            self._file.seek(begin)
            line = self._file.readline(limit)
            if line.endswith(b"\n") or self._at_end or 0 <= limit <= len(line):
                self._position = begin + len(line)
                return line
            self._have(self._came + 1)
