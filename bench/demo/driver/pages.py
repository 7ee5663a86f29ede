"""Visits every page of the site as its users would, and compares two such visits.

What depends on the time or on chance by design is masked before it is recorded: dates, CSRF tokens,
session ids, the time and signature of a message's cookie, and the websocket handshake's answer to a
random key. Everything else must be the same, byte for byte. A page must also be what it should be,
or two servers broken alike would pass.
"""

from __future__ import annotations

import asyncio
import difflib
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from .servers import PASSWORD, USERNAME

ANSWER_SECONDS = 30.0
AT_ONCE = 20

_TOKEN_FIELD = re.compile(r'(name="csrfmiddlewaretoken" value=")(\w{64})"')
_WHOLE = re.compile(r".+")
_HEADER_MASKS = {
    "date": [(_WHOLE, "(date)")],
    "expires": [(_WHOLE, "(date)")],
    "sec-websocket-accept": [(_WHOLE, "(answer)")],
    "set-cookie": [
        # An emptied cookie's value is no secret, and stays; so does the text of a message, but not
        # the time and signature after it.
        (
            re.compile(r"((?:csrftoken|sessionid)=)\w{32,64}(.*?expires=)[^;]+"),
            r"\1(secret)\2(date)",
        ),
        (re.compile(r"(messages=[\w-]+):[\w-]+:[\w-]+"), r"\1(signature)"),
    ],
}

MODE = "x-mode"
"""In which of its forms a middleware of the site ran that can be sync and async."""

Headers = Iterable[tuple[str, str]]


@dataclass(frozen=True)
class Answer:
    """One page as a client got it, masked, and what is wrong with it in itself ("" if nothing)."""

    page: str
    status: int
    headers: tuple[tuple[str, str], ...]
    body: str
    wrong: str

    @classmethod
    def of(cls, page: str, status: int, headers: Headers, body: str, expected: Expected) -> Answer:
        wrong = ""
        if status != expected.status:
            wrong = f"status {status} instead of {expected.status}"
        elif missing := [text for text in expected.texts if text not in body]:
            wrong = f"the page does not have {missing}"
        return cls(
            page,
            status,
            tuple(_masked_header(name, value) for name, value in headers),
            _TOKEN_FIELD.sub(r'\1(secret)"', body),
            wrong,
        )

    def in_either_mode(self) -> Answer:
        """The same from a middleware that can be sync and async, whichever of the two it was."""
        headers = (
            (name, "(sync or async)" if name == MODE and value in ("sync", "async") else value)
            for name, value in self.headers
        )
        return replace(self, headers=tuple(headers))

    def lines(self) -> list[str]:
        """The answer as text, for a diff."""
        headers = [f"{name}: {value}" for name, value in self.headers]
        return [f"status {self.status}", *headers, "", *self.body.splitlines()]


@dataclass(frozen=True)
class Expected:
    status: int = 200
    texts: tuple[str, ...] = ()


def _masked_header(name: str, value: str) -> tuple[str, str]:
    name = name.lower()
    for pattern, replacement in _HEADER_MASKS.get(name, ()):
        value = pattern.sub(replacement, value)
    return name, value


def in_either_mode(answers: list[Answer]) -> list[Answer]:
    """These answers, which do not tell in which form a middleware ran."""
    return [answer.in_either_mode() for answer in answers]


def differences(first: list[Answer], second: list[Answer], names: tuple[str, str]) -> list[str]:
    """What differs between two visits, as unified diffs; empty if they are the same."""
    lines: list[str] = []
    if [answer.page for answer in first] != [answer.page for answer in second]:
        lines.append("the two visits did not see the same pages")
    for one, other in zip(first, second):
        if one != other:
            lines.append(f"{one.page}:")
            lines += difflib.unified_diff(one.lines(), other.lines(), *names, lineterm="", n=1)
    return lines


@asynccontextmanager
async def browser(base_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client with a cookie jar; no proxy from the environment comes between."""
    timeout = httpx.Timeout(ANSWER_SECONDS)
    async with httpx.AsyncClient(base_url=base_url, timeout=timeout, trust_env=False) as client:
        yield client


async def log_in(client: httpx.AsyncClient, password: str = PASSWORD) -> httpx.Response:
    """Fetch the login form and send it; the client then has the session's cookie."""
    form = await client.get("/login/")
    data = {"username": USERNAME, "password": password, **csrf_field(form.text)}
    return await client.post("/login/", data=data)


def csrf_field(html: str) -> dict[str, str]:
    """The hidden field of a form, as form data."""
    token = _TOKEN_FIELD.search(html)
    if token is None:
        return {}
    return {"csrfmiddlewaretoken": token[2]}


@dataclass
class Visit:
    """One walk through the whole site on one server."""

    base_url: str
    client: httpx.AsyncClient
    answers: list[Answer] = field(default_factory=list)

    async def walk(self) -> list[Answer]:
        await self.plain_pages()
        await self.bridging_pages()
        await self.streams()
        await self.failures()
        await self.strangers()
        await self.many_at_once()
        await self.session()
        await self.websockets()
        await self.log_out()
        return self.answers

    # Recording

    def record(
        self, page: str, response: httpx.Response, status: int = 200, *texts: str
    ) -> httpx.Response:
        headers = [(name.decode(), value.decode()) for name, value in response.headers.raw]
        expected = Expected(status, texts)
        self.answers.append(Answer.of(page, response.status_code, headers, response.text, expected))
        return response

    async def get(
        self,
        page: str,
        path: str,
        status: int = 200,
        *texts: str,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        return self.record(page, await self.client.get(path, headers=headers), status, *texts)

    # The walk

    async def plain_pages(self) -> None:
        await self.get("static page", "/", 200, "Notice board")
        css = await self.get("static file", "/static/demosite/board.css", 200, ".note")
        unchanged = {"If-Modified-Since": css.headers.get("last-modified", "")}
        await self.get("static file, unchanged", css.url.path, 304, headers=unchanged)
        await self.get("sync view, ORM list", "/notes/", 200, "Café Ünal", "&lt;old&gt;")
        await self.get("sync view, ORM row", "/notes/1/", 200, "Wednesday, 31 January 2024 20:30")
        await self.get("async view, ORM list", "/async/notes/", 200, "Cat found", "&lt;old&gt;")
        await self.get("async view, ORM row", "/async/notes/2/", 200, "16 March 2024")
        german = {"Accept-Language": "de"}
        await self.get(
            *("German, UTC+9, sync", "/notes/1/?hours=9", 200, "Donnerstag, 1 Februar 2024 05:30"),
            headers=german,
        )
        await self.get(
            *("German, UTC+9, async", "/async/notes/1/?hours=9", 200, "Donnerstag, 1 Februar"),
            headers=german,
        )

    async def bridging_pages(self) -> None:
        await self.get("sync view calls async_to_sync", "/words/", 200, "37 words")
        await self.get("async view calls sync_to_async", "/async/words/", 200, "37 words")
        await self.get(
            *("which thread calls run on", "/async/threads/", 200),
            *("thread-sensitive call: same thread", "not thread-sensitive: another thread"),
        )
        await self.get("timed-out call", "/async/impatient/", 200, "timed out, then 5 notes")

    async def streams(self) -> None:
        await self.get("stream, sync iterator", "/stream/", 200, "5;Cat found")
        await self.get("stream, async iterator", "/async/stream/", 200, "5;Cat found")
        async with self.client.stream("GET", "/async/stream/endless/") as response:
            async for _ in response.aiter_lines():
                break
        # The server learns of the closed connection when it next looks.
        for _ in range(200):
            left = await self.client.get("/async/stream/left/")
            if left.text == "1\n":
                break
            await asyncio.sleep(0.05)
        self.record("client leaves a stream", left, 200, "1\n")

    async def failures(self) -> None:
        await self.get("no such page", "/nowhere/", 404, "Nothing here")
        await self.get("no such row, sync", "/notes/999/", 404, "Nothing here")
        await self.get("no such row, async", "/async/notes/999/", 404, "Nothing here")
        await self.get("error in a sync view", "/boom/", 500, "Something broke")
        await self.get("error in an async view", "/async/boom/", 500, "Something broke")

    async def strangers(self) -> None:
        await self.get("login needed, sync view", "/me/", 302)
        await self.get("login needed, async view", "/async/me/", 302)
        bare = await self.client.post("/login/", data={"username": USERNAME})
        self.record("form without CSRF token", bare, 403, "CSRF")

    async def many_at_once(self) -> None:
        """Requests that differ in language, time zone and label must not see each other's."""
        languages = ("en", "de", "fr")

        async def one(number: int) -> httpx.Response:
            path = ("/notes/1/", "/async/notes/1/", "/words/", "/async/words/")[number % 4]
            headers = {"Accept-Language": languages[number % 3], "X-Label": f"visitor {number}"}
            return await self.client.get(f"{path}?hours={number % 12}", headers=headers)

        responses = await asyncio.gather(*(one(number) for number in range(AT_ONCE)))
        for number, response in enumerate(responses):
            self.record(f"{AT_ONCE} visitors at once", response)
            if f"visitor {number} >" not in response.headers.get("X-Trail", ""):
                self.answers[-1] = replace(self.answers[-1], wrong="another visitor's context")

    async def session(self) -> None:
        self.record("wrong password", await log_in(self.client, "difference engine"), 200, "error")
        await self.get("login form", "/login/", 200, "csrfmiddlewaretoken")
        self.record("login", await log_in(self.client), 302)
        await self.get("the session's user, sync view", "/me/", 200, f"Hello, {USERNAME}")
        await self.get("the session's user, async view", "/async/me/", 200, f"Hello, {USERNAME}")
        form = await self.get("form", "/notes/new/", 200, "<form")
        empty = await self.client.post("/notes/new/", data=csrf_field(form.text))
        self.record("form post, not valid", empty, 200, "errorlist")
        data = {"title": "Grüße", "text": "from the form", **csrf_field(form.text)}
        self.record("form post", await self.client.post("/notes/new/", data=data), 302)
        await self.get("what was posted", "/me/", 200, "<li>Grüße</li>", "Saved")

    async def websockets(self) -> None:
        cookie = f"sessionid={self.client.cookies['sessionid']}"
        await self.talk("websocket, sync consumer", "/ws/lobby/", cookie)
        await self.talk("websocket, async consumer", "/ws/room/kitchen/", cookie)
        await self.knock("websocket refused", "/ws/members/", 403)
        await self.knock("websocket closed by the server", "/ws/members/", 101, cookie)
        await self.knock("websocket from elsewhere", "/ws/lobby/", 403, origin="http://example.org")

    async def log_out(self) -> None:
        form = await self.client.get("/notes/new/")
        response = await self.client.post("/logout/", data=csrf_field(form.text))
        self.record("logout", response, 302)
        await self.get("after logout", "/me/", 302)

    # Websockets

    def open_socket(self, path: str, cookie: str = "", origin: str = "") -> connect:
        return connect(
            self.base_url.replace("http", "ws", 1) + path,
            origin=origin or self.base_url,  # type: ignore[arg-type]
            additional_headers={"Cookie": cookie} if cookie else None,
            proxy=None,
            open_timeout=ANSWER_SECONDS,
        )

    async def talk(self, page: str, path: str, cookie: str) -> None:
        """The session's user and a stranger meet; each hears what either says."""
        heard: list[str] = []

        async def listen(name: str, socket: ClientConnection) -> None:
            message = await asyncio.wait_for(socket.recv(), ANSWER_SECONDS)
            heard.append(f"{name} hears {message!r}")

        async with AsyncExitStack() as stack:
            sockets: dict[str, ClientConnection] = {}
            for name, as_whom in (("user", cookie), ("stranger", "")):
                opening = self.open_socket(path, as_whom)
                sockets[name] = await stack.enter_async_context(opening)
                await listen(name, sockets[name])
            for speaker in sockets:
                await sockets[speaker].send(f"I am the {speaker}")
                for name, socket in sockets.items():
                    await listen(name, socket)
            response = sockets["user"].response
        assert response is not None
        expected = Expected(101, (f'"hello": "{USERNAME}", "notes": 6', '"hello": "stranger"'))
        self.answers.append(
            Answer.of(
                page,
                response.status_code,
                response.headers.raw_items(),
                "\n".join(heard),
                expected,
            )
        )

    async def knock(
        self, page: str, path: str, status: int, cookie: str = "", origin: str = ""
    ) -> None:
        """A handshake and what comes of it."""
        try:
            async with self.open_socket(path, cookie, origin) as socket:
                response = socket.response
                try:
                    body = repr(await asyncio.wait_for(socket.recv(), ANSWER_SECONDS))
                except ConnectionClosed as closed:
                    body = f"closed with {closed.rcvd.code if closed.rcvd else None}"
        except InvalidStatus as refused:
            response = refused.response
            body = response.body.decode() if response.body else ""
        assert response is not None
        headers = response.headers.raw_items()
        self.answers.append(Answer.of(page, response.status_code, headers, body, Expected(status)))


async def visit(base_url: str) -> list[Answer]:
    """Walk through the whole site served there."""
    async with browser(base_url) as client:
        return await Visit(base_url, client).walk()
