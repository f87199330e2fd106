"""What a ticket is bound to, beside its length: kinds of files, time, connections, a browser, a network."""

from __future__ import annotations

import hashlib
import ipaddress
import math
import re
from dataclasses import dataclass
from hmac import compare_digest
from typing import Any

from ..errors import BadRequest, Forbidden
from ..upload import Upload
from .kinds import accept_of

_COOKIE = re.compile(r"([!#$%&'*+.^_`|~A-Za-z0-9-]{1,100})=([\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]{1,4000})")
_MOST_CONNECTIONS = 10_000
_LONGEST_LIFE = 10 * 365 * 86400.0  # seconds


@dataclass(frozen=True, kw_only=True)
class Terms:
    """See :meth:`incoming_wsgi.Incoming.new_upload`; what is empty, zero or ``None`` binds nothing.

    :raises BadRequest: something means nothing.
    """

    accept: str = ""
    expires_in: float | None = None
    max_connections: int = 0
    bind_cookie: str = ""
    bind_network: str = ""

    def __post_init__(self) -> None:
        try:
            if self.accept:
                accept_of(self.accept)
            if self.bind_network:
                ipaddress.ip_network(self.bind_network)
        except ValueError as error:
            raise BadRequest(str(error)) from None
        if self.bind_cookie and not _COOKIE.fullmatch(self.bind_cookie):
            raise BadRequest("The cookie that a ticket is bound to is written NAME=VALUE.")
        if not 0 <= self.max_connections <= _MOST_CONNECTIONS:
            raise BadRequest(f"A ticket can allow {_MOST_CONNECTIONS} connections at most.")
        if self.expires_in is not None:
            checked_life(self.expires_in)

    def fields(self, now: float) -> dict[str, Any]:
        """The terms as fields of an upload that is made ``now``."""
        return {
            "accept": self.accept,
            "expires_at": 0.0 if self.expires_in is None else now + self.expires_in,
            "max_connections": self.max_connections,
            "bound_cookie": _hashed(self.bind_cookie) if self.bind_cookie else "",
            "bound_network": self.bind_network,
        }


def checked_life(seconds: float) -> float:
    """:raises BadRequest: no ticket lasts so long."""
    if not (math.isfinite(seconds) and 0 < seconds <= _LONGEST_LIFE):
        raise BadRequest("A ticket lasts some seconds, and ten years at most.")
    return seconds


def refuse_unbound(upload: Upload, cookies: str, address: str) -> None:
    """:param cookies: the header ``Cookie`` of the request, and ``address`` whom it comes from.

    :raises Forbidden: the ticket is bound to another browser, or another network.
    """
    if upload.bound_cookie and not _has(cookies, upload.bound_cookie):
        raise Forbidden("This ticket is for another browser, or another session.")
    if upload.bound_network and not _is_in(address, upload.bound_network):
        raise Forbidden("This ticket is for another network.")


def _hashed(pair: str) -> str:
    """A cookie as it is kept: its value is the person's session, and not ours to have."""
    name, _, value = pair.partition("=")
    return f"{name}={hashlib.sha256(value.encode()).hexdigest()}"


def _has(cookies: str, bound: str) -> bool:
    name = bound.partition("=")[0]
    shown = [pair.strip() for pair in cookies.split(";")]
    # A browser may send several of one name, of different paths. All are compared, in constant time.
    fits = [compare_digest(_hashed(_unquoted(pair)), bound) for pair in shown if pair.partition("=")[0] == name]
    return any(fits)


def _unquoted(pair: str) -> str:
    name, _, value = pair.partition("=")
    return f"{name}={value[1:-1]}" if len(value) > 1 and value[0] == value[-1] == '"' else pair


def _is_in(address: str, network: str) -> bool:
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found) in ipaddress.ip_network(network)
