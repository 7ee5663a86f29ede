"""WSGI's environ from an ASGI scope, and an ASGI scope from an environ.

Pure functions, for any thread. A str of WSGI's is bytes decoded as latin-1 (PEP 3333, "Unicode
Issues"), where ASGI has bytes, and paths decoded as UTF-8.

Only after something has failed, or has come out wrong, does `explain_scope` look for the key that
is to blame: a right scope pays next to nothing.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote
from wsgiref.util import FileWrapper


class BadRequest(ValueError):
    """The client's headers break the rules of HTTP: answered with 400 and ``answer``."""

    def __init__(self, text: str, answer: str = "Malformed header") -> None:
        super().__init__(text)
        self.answer = answer


def build_environ(
    scope: Any, body: Any, limit: int | None, underscores: bool = False
) -> dict[str, Any]:
    """The environ for an HTTP scope; ``limit`` and ``underscores`` are for `add_headers`, which
    raises BadRequest.

    Raises ValueError, naming the key, for a scope that breaks the specification.
    """
    try:
        path = scope["path"]
        root = scope.get("root_path") or ""
        if root:
            # Only whole segments: "/app" is no part of "/apples" (Django #36940).
            root = root.rstrip("/")
            if path == root or path.startswith(root + "/"):
                path = path[len(root) :]
            root = root.encode("utf8").decode("latin1")
        # ASGI servers may not know their address, nor have a port; WSGI demands both.
        server_name, server_port = scope.get("server") or ("localhost", 80)
        method = scope["method"]
        scheme = scope.get("scheme") or "http"
        query = scope.get("query_string") or b""
        environ: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": root,
            "PATH_INFO": path.encode("utf8").decode("latin1"),
            "QUERY_STRING": query.decode("latin1"),
            "SERVER_NAME": server_name,
            "SERVER_PORT": str(server_port or 0),
            "SERVER_PROTOCOL": "HTTP/" + scope["http_version"],
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": scheme,
            "wsgi.input": body,
            # ``body`` ends where the request body ends, also without a Content-Length.
            "wsgi.input_terminated": True,
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
            "wsgi.file_wrapper": FileWrapper,
        }
        client = scope.get("client")
        if client is not None:
            host, port = client
            environ["REMOTE_ADDR"] = host
            if port:  # on a Unix socket there is none
                environ["REMOTE_PORT"] = str(port)
            if type(host) is not str or not (port is None or type(port) is int):
                explain_scope(scope)
        raw_path = scope.get("raw_path")
        if raw_path is not None:
            # By the specification it has no query string. Some servers add it.
            raw_path = raw_path.decode("latin1").partition("?")[0]
            environ["RAW_URI"] = raw_path + "?" + query.decode("latin1") if query else raw_path
        add_headers(scope.get("headers") or (), environ, limit, underscores)
    except BadRequest:
        raise
    except (AttributeError, KeyError, TypeError, ValueError):
        explain_scope(scope)
        raise
    if not (
        type(method) is type(scheme) is type(server_name) is str
        and method.isascii()
        and scheme.isascii()
        and environ["SERVER_PROTOCOL"].isascii()
    ):
        explain_scope(scope)
    return environ


# --- headers, request ----------------------------------------------------------------------------

_names: dict[bytes, str] = {}
# Arbitrary, far more than the header names in use: a client can make up any number of names.
_NAMES_KEPT = 512

# A header's name (RFC 9110, 5.6.2, "token"), but for the underscore.
_is_name = re.compile(rb"[!#$%&'*+.^`|~0-9A-Za-z-]+").fullmatch
# What RFC 9110, 5.5 forbids in a value: whoever passes it on may write a header of the client's.
_has_breaks = re.compile("[\r\n\0]").search
# Of these there is one (RFC 9110, 7.2, 8.3, 8.6): a proxy may have gone by the other one.
_SINGLE = frozenset(("CONTENT_LENGTH", "CONTENT_TYPE", "HTTP_HOST"))


def _environ_name(raw: bytes, underscores: bool) -> str:
    # The key in the environ; "" if the application is not to see such a header.
    #
    # "x_user" and "x-user" have the same key, and a proxy that takes "x-user" away, or sets it,
    # leaves "x_user" alone. So names with an underscore are dropped, as by gunicorn, Werkzeug and
    # nginx. Other bytes that are no part of a name are dropped, too: by str.upper(), "\xdf" is
    # "SS".
    has_underscore = b"_" in raw
    if has_underscore and not underscores:
        return ""
    if not _is_name(raw.replace(b"_", b"-") if has_underscore else raw):
        return ""
    # Compared before "-" becomes "_", or a header "content_length" would pass for Content-Length.
    prefix = "" if raw.lower() in (b"content-length", b"content-type") else "HTTP_"
    name = prefix + raw.decode("ascii").upper().replace("-", "_")
    if not has_underscore and type(raw) is bytes and len(_names) < _NAMES_KEPT and len(raw) <= 64:
        _names[raw] = name
    return name


def add_headers(
    headers: Any, environ: dict[str, Any], limit: int | None, underscores: bool
) -> None:
    """Add the request's headers, repeated ones joined, to an environ.

    Those whose name has an underscore are left out, unless ``underscores``. Raises BadRequest if
    one is there more than ``limit`` times (None, 0: no limit; CVE-2025-14550), if one that must be
    single has two values, and for a wrong value.
    """
    repeated: dict[str, list[str]] = {}
    known = _names.get
    for raw_name, raw_value in headers:
        name = known(raw_name) or _environ_name(raw_name, underscores)
        value = raw_value.decode("latin1")
        if not value.isprintable() and _has_breaks(value):  # the first test is the quick one
            raise BadRequest(f"header {raw_name!r} has a line break or NUL in its value")
        if name not in environ:
            if name:
                environ[name] = value
            continue
        if name in _SINGLE:
            if value != environ[name]:
                raise BadRequest(f"header {name} is there twice, with different values")
            continue
        values = repeated.get(name)
        if values is None:
            values = repeated[name] = [environ[name]]
        if limit and len(values) >= limit:
            raise BadRequest(
                f"header {name} is repeated more than {limit} times", "Too many duplicate headers"
            )
        values.append(value)
    for name, values in repeated.items():
        # HTTP/2 clients send cookies one by one, to be joined so (RFC 9113, 8.2.3).
        environ[name] = ("; " if name == "HTTP_COOKIE" else ",").join(values)
    length = environ.get("CONTENT_LENGTH")
    if length:
        # int() takes "+5" and "5_0", too.
        if not (length.isascii() and length.isdigit()):
            raise BadRequest(f"header CONTENT_LENGTH is no number of bytes: {length!r:.80}")
        if "HTTP_TRANSFER_ENCODING" in environ:
            del environ["CONTENT_LENGTH"]  # the other one counts (RFC 9112, 6.3)


# --- malformed scopes ----------------------------------------------------------------------------


def _is_pair(value: Any, *types: type) -> bool:
    try:
        first, second = value
    except (TypeError, ValueError):
        return False
    return isinstance(first, types[0]) and isinstance(second, types[1:])


def _is_address(value: Any) -> bool:
    is_pair = isinstance(value, (list, tuple)) and _is_pair(value, str, int, type(None))
    return is_pair and (value[1] or 0) >= 0


def _is_ascii(value: Any) -> bool:
    return isinstance(value, str) and value.isascii()


def _is_text(value: Any) -> bool:
    # Half of a surrogate pair has no UTF-8.
    return isinstance(value, str) and not any("\ud800" <= each <= "\udfff" for each in value)


_KEYS: dict[str, tuple[bool, str, Callable[[Any], bool]]] = {
    "http_version": (True, "a str such as '1.1'", _is_ascii),
    "method": (True, "a str such as 'GET'", _is_ascii),
    "path": (True, "a str of decoded UTF-8", _is_text),
    "scheme": (False, "a str such as 'http'", _is_ascii),
    "root_path": (False, "a str", _is_text),
    "query_string": (False, "bytes", lambda value: isinstance(value, bytes)),
    "raw_path": (False, "bytes or None", lambda value: isinstance(value, bytes)),
    "server": (False, "a pair of a host (str) and a port (int or None), or None", _is_address),
    "client": (False, "a pair of a host (str) and a port (int or None), or None", _is_address),
}


def explain_scope(scope: Any) -> None:
    """Raise the ValueError that says what is wrong with an HTTP scope, if anything is."""
    for key, (required, wanted, is_right) in _KEYS.items():
        value = scope.get(key)
        if value is None and key not in scope and required:
            raise ValueError(f"malformed ASGI scope: {key!r} is missing; it must be {wanted}")
        if (value is not None or required) and not is_right(value):
            raise ValueError(f"malformed ASGI scope: {key!r} must be {wanted}, not {value!r:.80}")
    headers = scope.get("headers") or ()
    wanted = (
        "malformed ASGI scope: 'headers' must be an iterable of pairs (name, value), both bytes"
    )
    if not isinstance(headers, Iterable) or isinstance(headers, (str, bytes)):
        raise ValueError(f"{wanted}, not {headers!r:.80}")
    for header in headers:
        if not _is_pair(header, bytes, bytes):
            raise ValueError(f"{wanted}; one is {header!r:.80}")


# --- the other way round -------------------------------------------------------------------------

# The characters that a path need not quote, besides letters, digits and "_.-~" (RFC 3986, pchar).
_SAFE_IN_PATHS = "/!$&'()*+,;=:@"


def build_scope(environ: dict[str, Any], state: dict[str, Any] | None) -> dict[str, Any]:
    """The HTTP scope for an environ, by the HTTP specification's version 2.3.

    Raises ValueError for an environ that breaks PEP 3333, BadRequest for the client's headers.
    """
    try:
        root_path = _decoded(environ.get("SCRIPT_NAME") or "")
        path_info = _decoded(environ.get("PATH_INFO") or "")
        method = environ["REQUEST_METHOD"]
        scope: dict[str, Any] = {
            "type": "http",
            # By 2.4 ``send`` tells that the client has left, and an application need not listen for
            # http.disconnect. One that has nothing to send would go on. Starlette looks at this.
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": environ.get("SERVER_PROTOCOL", "HTTP/1.0").partition("/")[2] or "1.0",
            "method": method.upper(),
            "scheme": environ.get("wsgi.url_scheme") or "http",
            "path": root_path + path_info or "/",
            "raw_path": _raw_path(environ),
            "query_string": (environ.get("QUERY_STRING") or "").encode("latin1"),
            "root_path": root_path,
            "headers": _scope_headers(environ),
            "client": None,
            "server": None,
            "extensions": {},
        }
        if environ.get("REMOTE_ADDR"):
            scope["client"] = (environ["REMOTE_ADDR"], int(environ.get("REMOTE_PORT") or 0))
        if environ.get("SERVER_NAME"):
            port = environ.get("SERVER_PORT")
            scope["server"] = (environ["SERVER_NAME"], int(port) if port else None)
    except BadRequest:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"the WSGI server's environ is not what PEP 3333 asks for: {error!r}"
        ) from error
    if state is not None:
        # A copy: a request does not see a key that another request adds (lifespan, "State").
        scope["state"] = state.copy()
    return scope


def _decoded(text: str) -> str:
    return text.encode("latin1").decode("utf8", "replace")


def _raw_path(environ: dict[str, Any]) -> bytes:
    raw = environ.get("RAW_URI") or environ.get("REQUEST_URI")
    if raw and raw.startswith("/"):  # not "*", nor a proxy's full URL
        return str(raw).partition("?")[0].encode("latin1")
    path = (environ.get("SCRIPT_NAME") or "") + (environ.get("PATH_INFO") or "")
    return quote(path.encode("latin1"), safe=_SAFE_IN_PATHS).encode("ascii")


# What servers make of a header's name: capitals, and "_" where there was "-".
_is_key = re.compile(r"HTTP_[!#$%&'*+.^`|~0-9A-Z_]+").fullmatch
# Some servers give these twice, with HTTP_ and without; WSGI's are without.
_scope_names = {
    "CONTENT_TYPE": b"content-type",
    "CONTENT_LENGTH": b"content-length",
    "HTTP_CONTENT_TYPE": b"",
    "HTTP_CONTENT_LENGTH": b"",
}


def _scope_name(key: str) -> bytes:
    # b"" if it is no header.
    if not _is_key(key):
        return b""
    name = key[5:].lower().replace("_", "-").encode("ascii")
    if len(_scope_names) < _NAMES_KEPT and len(key) <= 64:
        _scope_names[key] = name
    return name


def _scope_headers(environ: dict[str, Any]) -> list[tuple[bytes, bytes]]:
    headers = []
    known = _scope_names.get
    for key, value in environ.items():
        name = known(key)
        if name is None:
            name = _scope_name(key)
        if not name or (not value and key in ("CONTENT_TYPE", "CONTENT_LENGTH")):
            continue
        if not value.isprintable() and _has_breaks(value):
            raise BadRequest(f"header {key} has a line break or NUL in its value")
        headers.append((name, value.encode("latin1")))
    return headers
