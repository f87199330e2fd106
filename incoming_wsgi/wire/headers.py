"""What the headers of a request must be, where servers differ in what they let through: nothing is taken on trust."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from webob import Request

from ..errors import BadRequest, NotImplementedHere, TooLarge

#: Headers that have one value without a comma: servers join those that come twice by one.
_SINGLE = (
    "Host",
    "Origin",
    "Content-Range",
    "Incoming-Fingerprint",
    "Incoming-Length",
    "Incoming-Name",
    "Incoming-Opening",
    "Incoming-Reason",
    "Incoming-Session",
    "Sec-WebSocket-Key",
    "Sec-WebSocket-Version",
)
_SINGLE_KEYS = {f"HTTP_{name.upper().replace('-', '_')}": name for name in _SINGLE}
_CONTROL = re.compile(r"[\0-\x08\x0a-\x1f\x7f]")


def refuse_malformed(environ: Mapping[str, Any]) -> None:
    """Refuse what could be read in two ways (RFC 9112, sections 3.2, 5.2, 6.1 and 6.3).

    :raises BadRequest, NotImplementedHere, TooLarge: the headers are not as they must be.
    """
    if environ.get("SERVER_PROTOCOL") == "HTTP/0.9":
        raise BadRequest("Requests have to be of HTTP/1.0 at least.")
    if environ.get("SERVER_PROTOCOL") == "HTTP/1.1" and not environ.get("HTTP_HOST"):
        raise BadRequest("Host is missing.")
    for key, value in environ.items():
        if key.startswith("HTTP_") and (_CONTROL.search(key) or _CONTROL.search(str(value))):
            raise BadRequest("A header is folded, or has control characters.")
    for key, name in _SINGLE_KEYS.items():
        if "," in environ.get(key, ""):
            raise BadRequest(f"{name} takes one value, without a comma.")
    coding, length = environ.get("HTTP_TRANSFER_ENCODING", ""), content_length(environ)
    if coding and length is not None:
        raise BadRequest("Content-Length and Transfer-Encoding exclude each other.")
    if coding.lower() not in ("", "chunked"):
        raise NotImplementedHere("This transfer coding is not supported.")


def has_any(request: Request, *names: str) -> bool:
    """Whether a request has one of these headers. As ``name in request.headers``, at a tenth of its price."""
    return not request.environ.keys().isdisjoint(_keys(names))


@lru_cache
def _keys(names: tuple[str, ...]) -> frozenset[str]:
    """The keys of headers in a WSGI environ."""
    return frozenset(f"HTTP_{name.upper().replace('-', '_')}" for name in names)


def query_of(request: Request) -> Mapping[str, str]:
    """The query of a request.

    :raises BadRequest: it is not UTF-8.
    """
    try:
        return request.GET
    except UnicodeDecodeError:
        raise BadRequest("The query is not UTF-8.") from None


def content_length(environ: Mapping[str, Any]) -> int | None:
    """Bytes of the body by ``Content-Length``; ``None`` where there is none.

    :raises BadRequest: it is malformed.
    :raises TooLarge: no file is so long.
    """
    text = str(environ.get("CONTENT_LENGTH") or "").strip(" \t")
    if not text:
        return None
    if not re.fullmatch("[0-9]+", text):
        raise BadRequest("Content-Length is malformed.")
    digits = text.lstrip("0") or "0"
    if len(digits) > 19 or int(digits) >= 2**63:
        raise TooLarge
    return int(digits)
