"""The keys of a single scope or message, and the rule for the value of each.

A rule has one of two grades. What would break a server or a client is an error; what every server
forgives (uvicorn, Hypercorn, Daphne, Granian) is *forgiven*, which is a warning.

`check` has the rules for the order of messages, and names the specifications.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Optional

Message = dict[str, Any]


class Broken(Exception):
    """The arguments are `ProtocolViolation`'s rule and text; the raiser does not know the side."""


class Forgiven(str):
    """What a value must be, though every server does without."""

    __slots__ = ()


# Is told of the rule and the text of what is forgiven; may raise `Broken`.
Forgive = Callable[[str, str], None]


def show(value: Any) -> str:
    # A body may be large: a hundred characters (arbitrary) are enough to know it by.
    try:
        text = repr(value)
    except Exception:
        text = object.__repr__(value)
    return f"{text[:100]}{'...' if len(text) > 100 else ''} ({type(value).__name__})"


# --- values --------------------------------------------------------------------------------------

# Takes a value and returns None if the value is right, else a text: what it must be.
Rule = Callable[[Any], Optional[str]]


def _rule(
    wanted: str,
    is_good: Callable[[Any], bool],
    is_forgiven: Callable[[Any], bool] = lambda value: False,
) -> Rule:
    return lambda value: (
        None if is_good(value) else Forgiven(wanted) if is_forgiven(value) else wanted
    )


def _or_none(rule: Rule) -> Rule:
    def or_none(value: Any) -> str | None:
        wanted = None if value is None else rule(value)
        return wanted and type(wanted)(f"{wanted} or None")

    return or_none


def _one_of(*values: str) -> Rule:
    names = ", ".join(map(repr, values))
    return _rule(f"one of {names}", lambda value: isinstance(value, str) and value in values)


def _is_int(value: Any) -> bool:
    # For isinstance() a bool is an int.
    return isinstance(value, int) and not isinstance(value, bool)


def _are(type_: type, values: Any) -> bool:
    return isinstance(values, (list, tuple)) and all(isinstance(each, type_) for each in values)


def _has_str_keys(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def _is_host_and(is_port: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and isinstance(value[0], str)
        and is_port(value[1])
    )


def _may_be_sent(code: Any) -> bool:
    # RFC 6455, 7.4: the others are reserved, or say that no code was sent.
    return _is_int(code) and (
        (1000 <= code <= 1014 and code not in (1004, 1005, 1006)) or 3000 <= code <= 4999
    )


_bytes = _rule("bytes", lambda value: isinstance(value, bytes))
# Starlette sends a memoryview.
_data = _rule(
    "bytes",
    lambda value: isinstance(value, bytes),
    lambda value: isinstance(value, (bytearray, memoryview)),
)
_str = _rule("a str", lambda value: isinstance(value, str))
_non_empty = _rule("a str that is not empty", lambda value: isinstance(value, str) and value != "")
_method = _rule(
    "a str in upper case",
    lambda value: isinstance(value, str) and value != "" and value == value.upper(),
)
_int = _rule("an int", _is_int)
_status = _rule("an int of three digits", lambda value: _is_int(value) and 100 <= value <= 999)
_not_negative = _rule("an int that is not negative", lambda value: _is_int(value) and value >= 0)
_16_bits = _rule("an int of 16 bits", lambda value: _is_int(value) and 0 <= value <= 0xFFFF)
_close_code = _rule("a close code that may be sent (RFC 6455, 7.4)", _may_be_sent)
# Servers ask whether it is true. A str such as "false" is.
_bool = _rule(
    "a bool",
    lambda value: isinstance(value, bool),
    lambda value: value is None or isinstance(value, int),
)
_strings = _rule("a list of str", lambda value: _are(str, value))
_links = _rule("a list of bytes", lambda value: _are(bytes, value))
_str_keys = _rule("a dict with str keys", _has_str_keys)
_client = _rule("a host (str) and a port (int)", _is_host_and(_is_int))
_server = _rule(
    "a host (str) and a port or None (int)",
    _is_host_and(lambda port: port is None or _is_int(port)),
)
_extensions = _rule(
    "a dict of dicts, by the extensions' names",
    lambda value: _has_str_keys(value) and all(isinstance(each, dict) for each in value.values()),
)
_file = _rule(
    "an open file with a descriptor", lambda value: callable(getattr(value, "fileno", None))
)


def _versions(value: Any) -> str | None:
    if not isinstance(value, dict):
        return "a dict"
    if not isinstance(value.get("version", ""), str):
        return "a dict whose 'version' is a str"
    if "spec_version" in value and not numbers(value["spec_version"]):
        return "a dict whose 'spec_version' is a str such as '2.5'"
    return None


def numbers(version: Any) -> tuple[int, ...] | None:
    # None if it is no version.
    try:
        return tuple(int(part) for part in version.split("."))
    except (AttributeError, ValueError):
        return None


def _headers_received(value: Any) -> str | None:
    for name in value:
        if name[:1] == b":":
            return f"without the pseudo-header {name!r} of HTTP/2 and HTTP/3"
    return None


def _headers_sent(value: Any) -> str | None:
    wanted = _headers_received(value)
    if wanted is not None:
        return wanted
    for name in value:
        if name != name.lower():
            # Django sends "Content-Type".
            return Forgiven(f"with names in lower case, not {name!r}")
    return None


# --- messages and scopes -------------------------------------------------------------------------

# The rules by key. A key that must be there ends in an exclamation mark, one that is forgiven if it
# is not there in a question mark.
Fields = Mapping[str, Rule]

_CONNECTION: Fields = {
    "asgi?": _versions,  # the test clients of Starlette and Channels have none
    "scheme": _non_empty,
    "path!": _str,
    "raw_path": _or_none(_bytes),
    "root_path": _str,
    "headers!": _headers_received,
    "client": _or_none(_client),
    "server": _or_none(_server),
    "state": _str_keys,
    "extensions": _or_none(_extensions),
}
SCOPES: Mapping[str, Fields] = {
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
    "lifespan": {"asgi?": _versions, "state": _str_keys},
}
TLS: Fields = {
    "server_cert!": _or_none(_str),
    "client_cert_chain": _strings,
    "client_cert_name": _or_none(_str),
    "client_cert_error": _or_none(_non_empty),
    "tls_version!": _or_none(_16_bits),
    "cipher_suite!": _or_none(_16_bits),
}
_RESPONSE_START: Fields = {"status!": _status, "headers": _headers_sent, "trailers": _bool}
_BODY: Fields = {"body": _data, "more_body": _bool}
_DATA: Fields = {"bytes": _or_none(_data), "text": _or_none(_str)}
_FAILED: Fields = {"message": _str}
RECEIVED: Mapping[str, Fields] = {
    "http.request": _BODY,
    "http.disconnect": {},
    "websocket.connect": {},
    "websocket.receive": _DATA,
    "websocket.disconnect": {"code!": _int, "reason": _or_none(_str)},
    "lifespan.startup": {},
    "lifespan.shutdown": {},
}
SENT: Mapping[str, Fields] = {
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
EXTENSIONS = {
    f"http.response.{name}"
    for name in ("debug", "zerocopysend", "pathsend", "push", "early_hint", "trailers")
}


def check_fields(where: str, message: Message, fields: Fields, forgive: Forgive) -> Message:
    # Returns the message, or a copy whose headers can be iterated again.
    for key, rule in fields.items():
        name = key.rstrip("!?")
        if name not in message:
            if key.endswith("!"):
                raise Broken(f"{where}: {name}", "it must be there")
            if key.endswith("?"):
                forgive(f"{where}: {name}", "it must be there")
            continue
        value = message[name]
        if name == "headers":
            pairs = _pairs(f"{where}: headers", value)
            if not isinstance(value, (list, tuple)):
                message = {**message, "headers": pairs}
            value = [pair[0] for pair in pairs]
        wanted = rule(value)
        if wanted is not None:
            shown = "" if name == "headers" else f", not {show(value)}"
            broken = f"{where}: {name}", f"it must be {wanted}{shown}"
            if not isinstance(wanted, Forgiven):
                raise Broken(*broken)
            forgive(*broken)
    return message


def _pairs(where: str, headers: Any) -> list[Any]:
    wrong = f"it must be an iterable of pairs of bytes, not {show(headers)}"
    if isinstance(headers, (str, bytes, dict)) or not isinstance(headers, Iterable):
        raise Broken(where, wrong)
    pairs = []
    for header in headers:
        is_list = isinstance(header, (list, tuple))
        pair = list(header) if isinstance(header, Iterable) and not is_list else header
        if not _are(bytes, pair) or len(pair) != 2:
            raise Broken(where, f"{wrong}; see {show(header)}")
        pairs.append(pair)
    return pairs
