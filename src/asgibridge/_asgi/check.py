"""The rules of the ASGI specification, applied to a server and an application.

`check` wraps an application. For each connection there is one `_Conversation`, of the scope's kind,
which knows what both sides have said. It belongs to that call of the application, and only the
event loop's thread touches it; it judges a message before the message is passed on, without an
await. A message that breaks a rule is not passed on: `ProtocolViolation` is raised instead, by
``send`` for the application's fault, by ``receive`` or the call for the server's. The violation is
also logged, because servers take an exception in a lifespan for an application without one. If the
application swallows the violation, the end of the call raises it again. What every server forgives
(see `rules`) is a RuntimeWarning, the first time, and the message is passed on.

By the specification unknown keys are no error, nor are messages after the client has gone.
Protocols other than http, websocket and lifespan pass unchecked. The specifications are HTTP &
WebSocket 2.5, Lifespan 2.0, TLS 0.2 and the extensions of the ASGI documentation. A message may not
use a key that is younger than the ``spec_version`` of the scope.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from . import rules
from .rules import Broken, Fields, Forgive, Message, show

logger = logging.getLogger("asgibridge.typing")

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class ProtocolViolation(RuntimeError):
    """The ``side`` ("application" or "server") broke a rule of the ASGI specification.

    ``rule`` names the rule, such as ``http.response.start: status``; the text says what it asks for
    and what came instead.
    """

    def __init__(self, side: str, rule: str, text: str) -> None:
        super().__init__(f"the {side} broke the ASGI specification at {rule}: {text}")
        self.side = side
        self.rule = rule


def check(
    application: Callable[..., Any], *, strict: bool = False
) -> Callable[[Any, Any, Any], Awaitable[None]]:
    """Wraps an ASGI application; both it and the server are held to the specification. ::

        application = check(application)

    For tests and development. Raises and logs `ProtocolViolation` at the first message, scope or
    end that breaks a rule, naming it. Other messages pass unchanged, but ``headers`` that can be
    iterated only once become a list.

    What every server forgives, such as capitals in the names of headers, which Django sends, is a
    RuntimeWarning, once for each rule.

    :param strict: what is forgiven is an error, too.
    """
    from ..compatibility import guarantee_single_callable  # loads the bridge; not needed for types

    inner = guarantee_single_callable(application)
    has_warned: set[tuple[str, str]] = set()

    def forgive(side: str, rule: str, text: str) -> None:
        if strict:
            raise Broken(rule, text)
        if (side, rule) not in has_warned:
            has_warned.add((side, rule))
            violation = ProtocolViolation(side, rule, text)
            _warn(f"{violation} (servers forgive it; with strict=True this is an error)")

    async def checked(scope: Any, receive: Receive, send: Send) -> None:
        violations: list[ProtocolViolation] = []

        def judge(side: str, apply: Callable[..., Any], *args: Any) -> Any:
            try:
                return apply(*args)
            except Broken as broken:
                violations.append(ProtocolViolation(side, *broken.args))
            logger.error("%s", violations[-1])
            raise violations[-1]

        kind = _KINDS.get(judge("server", _type_of, "scope", scope))
        if kind is None:
            await inner(scope, receive, send)
            return
        conversation = judge("server", kind, scope, forgive)

        async def checked_receive() -> Any:
            return judge("server", conversation.received, await receive())

        async def checked_send(message: Any) -> None:
            await send(judge("application", conversation.sent, message))

        await inner(scope, checked_receive, checked_send)
        if violations:
            raise violations[0]
        if not conversation.has_disconnected:
            judge("application", conversation.ended)

    return checked


def _warn(text: str) -> None:
    # The line of who sends, receives or calls, which is the next outside of this package.
    frame = inspect.currentframe()
    level = 1
    while frame is not None and frame.f_globals.get("__package__") == __package__:
        frame = frame.f_back
        level += 1
    warnings.warn(text, RuntimeWarning, stacklevel=level)


def _type_of(what: str, message: Any) -> str:
    if not isinstance(message, dict):
        raise Broken(what, f"it must be a dict, not {show(message)}")
    type_ = message.get("type")
    if not isinstance(type_, str):
        raise Broken(f"{what}: type", f"it must be a str, not {show(type_)}")
    return type_


class _Conversation:
    """What has been said on a connection. Each method raises `Broken`."""

    protocol: str
    has_disconnected = False
    """The client."""

    def __init__(self, scope: Message, forgive: Callable[[str, str, str], None]) -> None:
        protocol = self.protocol
        self._forgive_server: Forgive = partial(forgive, "server")
        self._forgive_application: Forgive = partial(forgive, "application")
        rules.check_fields(f"{protocol} scope", scope, rules.SCOPES[protocol], self._forgive_server)
        # A lifespan's scope has no such field: there, ``extensions`` may be anything.
        is_field = "extensions" in rules.SCOPES[protocol]
        self.extensions: Message = (scope.get("extensions") if is_field else None) or {}
        self.version = rules.numbers(scope.get("asgi", {}).get("spec_version", "2.0")) or (2, 0)
        if "tls" in self.extensions:
            where = f"{protocol} scope: extensions: tls"
            rules.check_fields(where, self.extensions["tls"], rules.TLS, self._forgive_server)
            if scope.get("scheme") in (None, "http", "ws"):
                raise Broken(where, f"it is for TLS only, not {scope.get('scheme')!r}")

    def received(self, message: Any) -> Any:
        """Checks what the server gave, and returns what to pass on."""
        checked = self._checked("event", message, rules.RECEIVED, self._forgive_server)
        type_ = checked["type"]
        if type_ == f"{self.protocol}.disconnect":
            self.has_disconnected = True
        elif self.has_disconnected:
            raise Broken(type_, f"nothing but {self.protocol}.disconnect comes after it")
        else:
            self._on_received(type_, checked)
        return checked

    def sent(self, message: Any) -> Any:
        """Checks what the application gave, and returns what to pass on."""
        checked = self._checked("message", message, rules.SENT, self._forgive_application)
        if not self.has_disconnected:
            self._on_sent(checked["type"], checked)
        return checked

    def ended(self) -> None:
        """The application has returned, and the client had not disconnected."""
        raise NotImplementedError

    def _on_received(self, type_: str, message: Message) -> None:
        raise NotImplementedError

    def _on_sent(self, type_: str, message: Message) -> None:
        raise NotImplementedError

    def _checked(
        self, what: str, message: Any, known: Mapping[str, Fields], forgive: Forgive
    ) -> Message:
        type_ = _type_of(what, message)
        if not all(isinstance(key, str) for key in message):
            raise Broken(what, f"its keys must be str: {show(message)}")
        fields = known.get(type_)
        if fields is None or type_.partition(".")[0] != self.protocol:
            raise Broken(
                f"{what}: type", f"{type_!r} is none that goes this way over {self.protocol}"
            )
        if type_ in rules.EXTENSIONS and type_ not in self.extensions:
            raise Broken(type_, "the server does not offer the extension of this name")
        return rules.check_fields(type_, message, fields, forgive)


class _Http(_Conversation):
    protocol = "http"
    request_is_complete = False
    has_debug = False
    has_started = False
    has_body = False
    is_complete = False
    trailers_are_due = False

    def _on_received(self, type_: str, message: Message) -> None:
        if self.request_is_complete:
            raise Broken(type_, "it comes after one that had no more_body")
        self.request_is_complete = not message.get("more_body", False)

    def _on_sent(self, type_: str, message: Message) -> None:
        if type_ == "http.response.debug":
            if self.has_started or self.has_debug:
                raise Broken(type_, "it is sent once, before http.response.start")
            self.has_debug = True
        elif type_ == "http.response.start":
            if self.has_started:
                raise Broken(type_, "the response has been started already")
            self.has_started = True
            self.trailers_are_due = message.get("trailers", False)
            if self.trailers_are_due and "http.response.trailers" not in self.extensions:
                raise Broken(
                    f"{type_}: trailers", "the server does not offer http.response.trailers"
                )
        elif not self.has_started:
            raise Broken(type_, "it comes after http.response.start, which was not sent")
        elif type_ == "http.response.trailers":
            if not self.is_complete:
                raise Broken(type_, "it comes after the last of the body")
            if not self.trailers_are_due:
                raise Broken(type_, "none were announced, or the last of them was sent")
            self.trailers_are_due = message.get("more_trailers", False)
        elif self.is_complete:
            raise Broken(type_, "it comes after the last of the body, and is lost")
        elif type_ == "http.response.pathsend":
            if self.has_body:
                raise Broken(type_, "it cannot be mixed with http.response.body")
            self.is_complete = True
        elif type_ in ("http.response.body", "http.response.zerocopysend"):
            self.has_body = True
            self.is_complete = not message.get("more_body", False)

    def ended(self) -> None:
        if not self.has_started:
            raise Broken("http", "the application returned without a response")
        if not self.is_complete:
            raise Broken("http", "the application returned before the last of the body")
        if self.trailers_are_due:
            raise Broken("http", "the application returned without the trailers it announced")


class _WebSocket(_Conversation):
    protocol = "websocket"
    was_asked = False
    state = "connecting"  # then "open" or "denying", then "closed"

    def __init__(self, scope: Message, forgive: Callable[[str, str, str], None]) -> None:
        super().__init__(scope, forgive)
        self.offered = scope.get("subprotocols", ())

    def _on_received(self, type_: str, message: Message) -> None:
        if type_ == "websocket.connect":
            if self.was_asked:
                raise Broken(type_, "it comes once")
            self.was_asked = True
        elif not self.was_asked:
            raise Broken(type_, "websocket.connect comes first")
        elif self.state == "connecting":
            raise Broken(type_, "the application has not accepted the connection")
        else:
            _check_data(type_, message)

    def _on_sent(self, type_: str, message: Message) -> None:
        if self.state == "closed":
            raise Broken(type_, "the application has closed the connection")
        if type_ == "websocket.accept":
            self._accept(message)
        elif type_ == "websocket.send":
            if self.state != "open":
                raise Broken(type_, "it comes after websocket.accept")
            _check_data(type_, message)
        elif type_ == "websocket.close":
            if self.state == "denying":
                raise Broken(type_, "the application is denying the connection by a response")
            if message.get("reason") and self.version < (2, 3):
                # Channels sends it to whatever server. Daphne takes it, and says no version.
                self._forgive_application(
                    f"{type_}: reason", "the server's spec_version is older than 2.3"
                )
            self.state = "closed"
        else:
            self._deny(type_, message)

    def _accept(self, message: Message) -> None:
        type_ = "websocket.accept"
        if self.state != "connecting":
            raise Broken(type_, "the application has answered websocket.connect already")
        headers = message.get("headers") or ()
        if headers and self.version < (2, 1):
            self._forgive_application(
                f"{type_}: headers", "the server's spec_version is older than 2.1"
            )
        if any(name == b"sec-websocket-protocol" for name, _ in headers):
            raise Broken(f"{type_}: headers", "'subprotocol' is for sec-websocket-protocol")
        subprotocol = message.get("subprotocol")
        if subprotocol is not None and subprotocol not in self.offered:
            raise Broken(f"{type_}: subprotocol", f"the client has not offered {show(subprotocol)}")
        self.state = "open"

    def _deny(self, type_: str, message: Message) -> None:
        if "websocket.http.response" not in self.extensions:
            raise Broken(type_, "the server does not offer websocket.http.response")
        if type_ == "websocket.http.response.start":
            if self.state != "connecting":
                raise Broken(type_, "the application has answered websocket.connect already")
            self.state = "denying"
        elif self.state != "denying":
            raise Broken(type_, "it comes after websocket.http.response.start")
        elif not message.get("more_body", False):
            self.state = "closed"

    def ended(self) -> None:
        if self.was_asked and self.state == "connecting":
            raise Broken("websocket", "the application returned without answering the connect")
        if self.state == "denying":
            raise Broken("websocket", "the application returned before the last of the body")


def _check_data(type_: str, message: Message) -> None:
    if (message.get("bytes") is None) == (message.get("text") is None):
        raise Broken(f"{type_}: bytes, text", "exactly one of them must be there, and not None")


class _Lifespan(_Conversation):
    protocol = "lifespan"

    def __init__(self, scope: Message, forgive: Callable[[str, str, str], None]) -> None:
        super().__init__(scope, forgive)
        self.received_types: set[str] = set()
        self.answered: dict[str, str] = {}  # by the phase: complete or failed

    def _on_received(self, type_: str, message: Message) -> None:
        if type_ in self.received_types:
            raise Broken(type_, "it comes once")
        if type_ == "lifespan.shutdown" and self.answered.get("startup") != "complete":
            raise Broken(type_, "it comes after lifespan.startup.complete")
        self.received_types.add(type_)

    def _on_sent(self, type_: str, message: Message) -> None:
        _, phase, answer = type_.split(".")
        if f"lifespan.{phase}" not in self.received_types:
            raise Broken(type_, f"it answers lifespan.{phase}, which has not been received")
        if phase in self.answered:
            raise Broken(type_, f"lifespan.{phase} has been answered already")
        self.answered[phase] = answer

    def ended(self) -> None:
        # Servers take an end for the answer, or for an application without a lifespan.
        if not self.received_types:
            self._forgive_application(
                "lifespan",
                "the application returned without taking part; one that knows no lifespans should "
                "raise an exception",
            )
        for type_ in sorted(self.received_types):
            if type_.partition(".")[2] not in self.answered:
                self._forgive_application(
                    "lifespan", f"the application returned without answering {type_}"
                )


_KINDS: dict[str, type[_Conversation]] = {
    "http": _Http,
    "websocket": _WebSocket,
    "lifespan": _Lifespan,
}
