"""The rules of the ASGI specification, applied to what passes between a server and an application.

`check` wraps an application. For each connection there is one `_Conversation`, of the scope's kind,
which knows what has been said. It belongs to that call of the application; the event loop's thread
alone touches it, and it decides before a message is passed on, so that it is never between two
awaits. What breaks a rule is not passed on: `ProtocolViolation` is raised instead, out of ``send``
for what the application did, out of ``receive`` or the call for what the server did. It is logged
too, because servers take an exception in a lifespan for an application without one; and if the
application swallowed it, it is raised again at the end of the call.

By the specification unknown keys are no error, nor are messages after the client has gone.
Protocols other than http, websocket and lifespan pass unchecked. The specifications meant are HTTP
& WebSocket 2.5, Lifespan 2.0, TLS 0.2 and the extensions of the ASGI documentation; a rule that is
younger than the ``spec_version`` of the scope is not applied, and what is younger is not allowed.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Optional

__all__ = ["ProtocolViolation", "check"]

logger = logging.getLogger("asgibridge.typing")

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class ProtocolViolation(RuntimeError):
    """Somebody broke a rule of the ASGI specification.

    ``side`` is "application" or "server", ``rule`` is what is broken (``http.response.start:
    status``, say), and the text says what the rule is and what came instead.
    """

    def __init__(self, side: str, rule: str, text: str) -> None:
        super().__init__(f"the {side} broke the ASGI specification at {rule}: {text}")
        self.side = side
        self.rule = rule


class _Broken(Exception):
    """(rule, text), before it is known who did it."""


def check(application: Callable[..., Any]) -> Callable[[Any, Any, Any], Awaitable[None]]:
    """Wraps an ASGI application; both it and the server are held to the specification. ::

        application = check(application)

    For tests and development. Raises and logs `ProtocolViolation` at the first message, scope or
    end that breaks a rule, naming it. What keeps the rules passes unchanged, but that ``headers``
    which can be iterated only once become a list.
    """
    from ..compatibility import guarantee_single_callable  # loads the bridge; not needed for types

    inner = guarantee_single_callable(application)

    async def checked(scope: Any, receive: Receive, send: Send) -> None:
        try:
            kind = _kind(scope)
            if kind is None:
                await inner(scope, receive, send)
                return
            conversation = kind(scope)
        except _Broken as broken:
            raise _violation("server", broken) from None
        first: list[ProtocolViolation] = []

        async def checked_receive() -> Any:
            message = await receive()
            try:
                return conversation.received(message)
            except _Broken as broken:
                first.append(_violation("server", broken))
                raise first[-1] from None

        async def checked_send(message: Any) -> None:
            try:
                message = conversation.sent(message)
            except _Broken as broken:
                first.append(_violation("application", broken))
                raise first[-1] from None
            await send(message)

        await inner(scope, checked_receive, checked_send)
        if first:
            raise first[0]
        try:
            conversation.ended()
        except _Broken as broken:
            raise _violation("application", broken) from None

    return checked


def _violation(side: str, broken: _Broken) -> ProtocolViolation:
    violation = ProtocolViolation(side, *broken.args)
    logger.error("%s", violation)
    return violation


def _kind(scope: Any) -> type[_Conversation] | None:
    if not isinstance(scope, dict):
        raise _Broken("scope", f"it must be a dict, not {_show(scope)}")
    type_ = scope.get("type")
    if not isinstance(type_, str):
        raise _Broken("scope: type", f"it must be a str, not {_show(type_)}")
    return _KINDS.get(type_)


def _show(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:
        text = object.__repr__(value)
    return f"{text[:100]}{'...' if len(text) > 100 else ''} ({type(value).__name__})"


# --- what values look like -----------------------------------------------------------------------
# Each takes a value and returns what it must be, or None if it is that.

Rule = Callable[[Any], Optional[str]]


def _is(type_: type, name: str) -> Rule:
    def rule(value: Any) -> str | None:
        # A bool is an int, but nobody means it.
        good = isinstance(value, type_) and (type_ is not int or not isinstance(value, bool))
        return None if good else name

    return rule


_bytes = _is(bytes, "bytes")
_str = _is(str, "a str")
_int = _is(int, "an int")
_bool = _is(bool, "a bool")
_dict = _is(dict, "a dict")


def _or_none(rule: Rule) -> Rule:
    def or_none(value: Any) -> str | None:
        wanted = None if value is None else rule(value)
        return wanted and f"{wanted} or None"

    return or_none


def _one_of(*values: str) -> Rule:
    def rule(value: Any) -> str | None:
        good = isinstance(value, str) and value in values
        return None if good else f"one of {', '.join(map(repr, values))}"

    return rule


def _non_empty(value: Any) -> str | None:
    return None if isinstance(value, str) and value else "a str that is not empty"


def _method(value: Any) -> str | None:
    good = isinstance(value, str) and value and value == value.upper()
    return None if good else "a str in upper case"


def _status(value: Any) -> str | None:
    good = _int(value) is None and 100 <= value <= 999
    return None if good else "an int of three digits"


def _not_negative(value: Any) -> str | None:
    return None if _int(value) is None and value >= 0 else "an int that is not negative"


def _16_bits(value: Any) -> str | None:
    return None if _int(value) is None and 0 <= value <= 0xFFFF else "an int of 16 bits"


def _close_code(value: Any) -> str | None:
    # RFC 6455, 7.4: the others are reserved, or say that no code was sent.
    good = _int(value) is None and (
        (1000 <= value <= 1014 and value not in (1004, 1005, 1006)) or 3000 <= value <= 4999
    )
    return None if good else "a close code that may be sent (RFC 6455, 7.4)"


def _address(*second: type) -> Rule:
    def rule(value: Any) -> str | None:
        good = (
            isinstance(value, (list, tuple))
            and len(value) == 2
            and isinstance(value[0], str)
            and isinstance(value[1], second)
            and not isinstance(value[1], bool)
        )
        port = "a port" if second == (int,) else "a port or None"
        return None if good else f"a host (str) and {port} (int)"

    return rule


def _strings(value: Any) -> str | None:
    if isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value):
        return None
    return "a list of str"


def _links(value: Any) -> str | None:
    if isinstance(value, (list, tuple)) and all(isinstance(each, bytes) for each in value):
        return None
    return "a list of bytes"


def _str_keys(value: Any) -> str | None:
    good = isinstance(value, dict) and all(isinstance(key, str) for key in value)
    return None if good else "a dict with str keys"


def _extensions(value: Any) -> str | None:
    good = _str_keys(value) is None and all(isinstance(each, dict) for each in value.values())
    return None if good else "a dict of dicts, by the extensions' names"


def _versions(value: Any) -> str | None:
    if not isinstance(value, dict):
        return "a dict"
    if not isinstance(value.get("version", ""), str):
        return "a dict whose 'version' is a str"
    if "spec_version" in value and not _numbers(value["spec_version"]):
        return "a dict whose 'spec_version' is a str such as '2.5'"
    return None


def _numbers(version: Any) -> tuple[int, ...] | None:
    # None if it is no version.
    try:
        return tuple(int(part) for part in version.split("."))
    except (AttributeError, ValueError):
        return None


def _file(value: Any) -> str | None:
    return None if callable(getattr(value, "fileno", None)) else "an open file with a descriptor"


def _headers_received(value: Any) -> str | None:
    for name in value:
        if name[:1] == b":":
            return f"without the pseudo-header {name!r} of HTTP/2 and HTTP/3"
    return None


def _headers_sent(value: Any) -> str | None:
    for name in value:
        if name != name.lower():
            return f"with names in lower case, not {name!r}"
    return _headers_received(value)


# --- messages and scopes -------------------------------------------------------------------------

# The keys, with what their values must be; those that must be there end in an exclamation mark.
Fields = Mapping[str, Rule]

_CONNECTION: Fields = {
    "asgi!": _versions,
    "scheme": _non_empty,
    "path!": _str,
    "raw_path": _or_none(_bytes),
    "root_path": _str,
    "headers!": _headers_received,
    "client": _or_none(_address(int)),
    "server": _or_none(_address(int, type(None))),
    "state": _str_keys,
    "extensions": _or_none(_extensions),
}
_SCOPES: Mapping[str, Fields] = {
    "http": {
        **_CONNECTION,
        "http_version!": _one_of("1.0", "1.1", "2", "3"),
        "method!": _method,
        "query_string!": _bytes,
    },
    "websocket": {
        **_CONNECTION,
        "http_version": _one_of("1.1", "2", "3"),
        "query_string": _or_none(_bytes),
        "subprotocols": _strings,
    },
    "lifespan": {"asgi!": _versions, "state": _str_keys},
}
_TLS: Fields = {
    "server_cert!": _or_none(_str),
    "client_cert_chain": _strings,
    "client_cert_name": _or_none(_str),
    "client_cert_error": _or_none(_non_empty),
    "tls_version!": _or_none(_16_bits),
    "cipher_suite!": _or_none(_16_bits),
}
_RESPONSE_START: Fields = {"status!": _status, "headers": _headers_sent, "trailers": _bool}
_BODY: Fields = {"body": _bytes, "more_body": _bool}
_DATA: Fields = {"bytes": _or_none(_bytes), "text": _or_none(_str)}
_FAILED: Fields = {"message": _str}
_RECEIVED: Mapping[str, Fields] = {
    "http.request": _BODY,
    "http.disconnect": {},
    "websocket.connect": {},
    "websocket.receive": _DATA,
    "websocket.disconnect": {"code!": _int, "reason": _or_none(_str)},
    "lifespan.startup": {},
    "lifespan.shutdown": {},
}
_SENT: Mapping[str, Fields] = {
    "http.response.debug": {"info!": _str_keys},
    "http.response.start": _RESPONSE_START,
    "http.response.body": _BODY,
    "http.response.zerocopysend": {
        "file!": _file,
        "offset": _not_negative,
        "count": _not_negative,
        "more_body": _bool,
    },
    "http.response.pathsend": {"path!": _str},
    "http.response.push": {"path!": _str, "headers!": _headers_sent},
    "http.response.early_hint": {"links!": _links},
    "http.response.trailers": {"headers!": _headers_sent, "more_trailers": _bool},
    "websocket.accept": {"subprotocol": _or_none(_str), "headers": _headers_sent},
    "websocket.send": _DATA,
    "websocket.close": {"code": _close_code, "reason": _or_none(_str)},
    "websocket.http.response.start": _RESPONSE_START,
    "websocket.http.response.body": _BODY,
    "lifespan.startup.complete": {},
    "lifespan.startup.failed": _FAILED,
    "lifespan.shutdown.complete": {},
    "lifespan.shutdown.failed": _FAILED,
}
# Each is also the name of the extension that the server must offer.
_EXTENSIONS = {
    "http.response.debug",
    "http.response.zerocopysend",
    "http.response.pathsend",
    "http.response.push",
    "http.response.early_hint",
    "http.response.trailers",
}


def _check_fields(where: str, message: Message, fields: Fields) -> Message:
    # Returns the message, or a copy whose headers can be iterated again.
    for key, rule in fields.items():
        name = key.rstrip("!")
        if name not in message:
            if key != name:
                raise _Broken(f"{where}: {name}", "it must be there")
            continue
        value = message[name]
        if name == "headers":
            pairs = _pairs(f"{where}: headers", value)
            if not isinstance(value, (list, tuple)):
                message = {**message, "headers": pairs}
            value = [pair[0] for pair in pairs]
        wanted = rule(value)
        if wanted is not None:
            shown = "" if name == "headers" else f", not {_show(value)}"
            raise _Broken(f"{where}: {name}", f"it must be {wanted}{shown}")
    return message


def _pairs(where: str, headers: Any) -> list[Any]:
    wrong = f"it must be an iterable of pairs of bytes, not {_show(headers)}"
    if isinstance(headers, (str, bytes, dict)) or not isinstance(headers, Iterable):
        raise _Broken(where, wrong)
    pairs = []
    for header in headers:
        pair = list(header) if isinstance(header, Iterable) else []
        if isinstance(header, (str, bytes)) or len(pair) != 2:
            raise _Broken(where, f"{wrong}; see {_show(header)}")
        if not (isinstance(pair[0], bytes) and isinstance(pair[1], bytes)):
            raise _Broken(where, f"{wrong}; see {_show(header)}")
        pairs.append(header if isinstance(header, (list, tuple)) else pair)
    return pairs


class _Conversation:
    """What has been said on a connection. Each method raises `_Broken`."""

    protocol: str

    def __init__(self, scope: Message) -> None:
        protocol = self.protocol
        _check_fields(f"{protocol} scope", scope, _SCOPES[protocol])
        # What the scope's fields don't name may be anything, as it may in a lifespan's.
        is_field = "extensions" in _SCOPES[protocol]
        self.extensions: Message = (scope.get("extensions") if is_field else None) or {}
        self.version = _numbers(scope["asgi"].get("spec_version", "2.0")) or (2, 0)
        if "tls" in self.extensions:
            where = f"{protocol} scope: extensions: tls"
            _check_fields(where, self.extensions["tls"], _TLS)
            if scope.get("scheme") in (None, "http", "ws"):
                raise _Broken(where, f"it is for TLS only, not {scope.get('scheme')!r}")

    def received(self, message: Any) -> Any:
        """Checks what the server gave, and returns what to pass on."""
        return self._checked("event", message, _RECEIVED, self._on_received)

    def sent(self, message: Any) -> Any:
        """Checks what the application gave, and returns what to pass on."""
        return self._checked("message", message, _SENT, self._on_sent)

    def ended(self) -> None:
        """The application has returned."""

    def _on_received(self, type_: str, message: Message) -> None:
        raise NotImplementedError

    def _on_sent(self, type_: str, message: Message) -> None:
        raise NotImplementedError

    def _checked(
        self,
        what: str,
        message: Any,
        known: Mapping[str, Fields],
        then: Callable[[str, Message], None],
    ) -> Any:
        if not isinstance(message, dict):
            raise _Broken(what, f"it must be a dict, not {_show(message)}")
        if not all(isinstance(key, str) for key in message):
            raise _Broken(what, f"its keys must be str: {_show(message)}")
        type_ = message.get("type")
        if not isinstance(type_, str):
            raise _Broken(f"{what}: type", f"it must be a str, not {_show(type_)}")
        fields = known.get(type_)
        if fields is None or type_.partition(".")[0] != self.protocol:
            raise _Broken(
                f"{what}: type", f"{type_!r} is none that goes this way over {self.protocol}"
            )
        if type_ in _EXTENSIONS and type_ not in self.extensions:
            raise _Broken(type_, "the server does not offer the extension of this name")
        checked = _check_fields(type_, message, fields)
        then(type_, checked)
        return checked


class _Http(_Conversation):
    protocol = "http"

    def __init__(self, scope: Message) -> None:
        super().__init__(scope)
        self.request_is_complete = False
        self.has_disconnected = False
        self.has_debug = False
        self.has_started = False
        self.has_body = False
        self.has_path = False
        self.is_complete = False
        self.trailers_are_due = False

    def _on_received(self, type_: str, message: Message) -> None:
        if type_ == "http.disconnect":
            self.has_disconnected = True
        elif self.has_disconnected:
            raise _Broken(type_, "nothing but http.disconnect comes after http.disconnect")
        elif self.request_is_complete:
            raise _Broken(type_, "it comes after one that had no more_body")
        else:
            self.request_is_complete = not message.get("more_body", False)

    def _on_sent(self, type_: str, message: Message) -> None:
        if self.has_disconnected:
            return
        if type_ == "http.response.debug":
            if self.has_started or self.has_debug:
                raise _Broken(type_, "it is sent once, before http.response.start")
            self.has_debug = True
        elif type_ == "http.response.start":
            if self.has_started:
                raise _Broken(type_, "the response has been started already")
            self.has_started = True
            self.trailers_are_due = message.get("trailers", False)
            if self.trailers_are_due and "http.response.trailers" not in self.extensions:
                raise _Broken(
                    f"{type_}: trailers", "the server does not offer http.response.trailers"
                )
        elif not self.has_started:
            raise _Broken(type_, "it comes after http.response.start, which was not sent")
        elif type_ == "http.response.trailers":
            if not self.is_complete:
                raise _Broken(type_, "it comes after the last of the body")
            if not self.trailers_are_due:
                raise _Broken(type_, "none were announced, or the last of them was sent")
            self.trailers_are_due = message.get("more_trailers", False)
        elif self.is_complete:
            raise _Broken(type_, "it comes after the last of the body, and is lost")
        elif type_ == "http.response.pathsend":
            if self.has_body:
                raise _Broken(type_, "it cannot be mixed with http.response.body")
            self.has_path = self.is_complete = True
        elif type_ in ("http.response.body", "http.response.zerocopysend"):
            self.has_body = True
            self.is_complete = not message.get("more_body", False)

    def ended(self) -> None:
        if self.has_disconnected:
            return
        if not self.has_started:
            raise _Broken("http", "the application returned without a response")
        if not self.is_complete:
            raise _Broken("http", "the application returned before the last of the body")
        if self.trailers_are_due:
            raise _Broken("http", "the application returned without the trailers it announced")


class _WebSocket(_Conversation):
    protocol = "websocket"

    def __init__(self, scope: Message) -> None:
        super().__init__(scope)
        self.offered = scope.get("subprotocols", ())
        self.was_asked = False
        # connecting, then open or denying, then closed
        self.state = "connecting"
        self.has_disconnected = False

    def _on_received(self, type_: str, message: Message) -> None:
        if type_ == "websocket.disconnect":
            self.has_disconnected = True
        elif self.has_disconnected:
            raise _Broken(type_, "nothing but websocket.disconnect comes after it")
        elif type_ == "websocket.connect":
            if self.was_asked:
                raise _Broken(type_, "it comes once")
            self.was_asked = True
        elif not self.was_asked:
            raise _Broken(type_, "websocket.connect comes first")
        elif self.state == "connecting":
            raise _Broken(type_, "the application has not accepted the connection")
        else:
            _check_data(type_, message)

    def _on_sent(self, type_: str, message: Message) -> None:
        if self.has_disconnected:
            return
        if self.state == "closed":
            raise _Broken(type_, "the application has closed the connection")
        if type_ == "websocket.accept":
            self._accept(message)
        elif type_ == "websocket.send":
            if self.state != "open":
                raise _Broken(type_, "it comes after websocket.accept")
            _check_data(type_, message)
        elif type_ == "websocket.close":
            if self.state == "denying":
                raise _Broken(type_, "the application is denying the connection by a response")
            if message.get("reason") and self.version < (2, 3):
                raise _Broken(f"{type_}: reason", "the server's spec_version is older than 2.3")
            self.state = "closed"
        else:
            self._deny(type_, message)

    def _accept(self, message: Message) -> None:
        type_ = "websocket.accept"
        if self.state != "connecting":
            raise _Broken(type_, "the application has answered websocket.connect already")
        headers = message.get("headers") or ()
        if headers and self.version < (2, 1):
            raise _Broken(f"{type_}: headers", "the server's spec_version is older than 2.1")
        if any(name == b"sec-websocket-protocol" for name, _ in headers):
            raise _Broken(f"{type_}: headers", "'subprotocol' is for sec-websocket-protocol")
        subprotocol = message.get("subprotocol")
        if subprotocol is not None and subprotocol not in self.offered:
            raise _Broken(
                f"{type_}: subprotocol", f"the client has not offered {_show(subprotocol)}"
            )
        self.state = "open"

    def _deny(self, type_: str, message: Message) -> None:
        if "websocket.http.response" not in self.extensions:
            raise _Broken(type_, "the server does not offer websocket.http.response")
        if type_ == "websocket.http.response.start":
            if self.state != "connecting":
                raise _Broken(type_, "the application has answered websocket.connect already")
            self.state = "denying"
        elif self.state != "denying":
            raise _Broken(type_, "it comes after websocket.http.response.start")
        elif not message.get("more_body", False):
            self.state = "closed"

    def ended(self) -> None:
        if self.has_disconnected:
            return
        if self.was_asked and self.state == "connecting":
            raise _Broken("websocket", "the application returned without answering the connect")
        if self.state == "denying":
            raise _Broken("websocket", "the application returned before the last of the body")


def _check_data(type_: str, message: Message) -> None:
    if (message.get("bytes") is None) == (message.get("text") is None):
        raise _Broken(f"{type_}: bytes, text", "exactly one of them must be there, and not None")


class _Lifespan(_Conversation):
    protocol = "lifespan"

    def __init__(self, scope: Message) -> None:
        super().__init__(scope)
        self.received_types: set[str] = set()
        self.answered: dict[str, str] = {}  # by the phase: complete or failed

    def _on_received(self, type_: str, message: Message) -> None:
        if type_ in self.received_types:
            raise _Broken(type_, "it comes once")
        if type_ == "lifespan.shutdown" and self.answered.get("startup") != "complete":
            raise _Broken(type_, "it comes after lifespan.startup.complete")
        self.received_types.add(type_)

    def _on_sent(self, type_: str, message: Message) -> None:
        _, phase, answer = type_.split(".")
        if f"lifespan.{phase}" not in self.received_types:
            raise _Broken(type_, f"it answers lifespan.{phase}, which has not been received")
        if phase in self.answered:
            raise _Broken(type_, f"lifespan.{phase} has been answered already")
        self.answered[phase] = answer

    def ended(self) -> None:
        if not self.received_types:
            raise _Broken(
                "lifespan",
                "the application returned without taking part; one that knows no lifespans must "
                "raise an exception, or the server waits for its startup",
            )
        for type_ in sorted(self.received_types):
            if type_.partition(".")[2] not in self.answered:
                raise _Broken("lifespan", f"the application returned without answering {type_}")


_KINDS: dict[str, type[_Conversation]] = {
    kind.protocol: kind for kind in (_Http, _WebSocket, _Lifespan)
}
