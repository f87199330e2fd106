"""Who is at the other end of a request, where proxies that are known stand in between."""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Collection
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

log = logging.getLogger("incoming_wsgi")

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

#: In the list of proxies: whoever comes by a unix socket.
UNIX = "unix"

_IPV6_PREFIX = 64  # bits; a household has at least so many addresses
_HOST = re.compile(r"[A-Za-z0-9._-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")
_PORT = re.compile(r"(\[[^\]]*\]|[0-9.]+):[0-9]{1,5}")
_MOST_HOPS = 20


class Proxies:
    """:param networks: of the proxies whose ``X-Forwarded-…`` headers are believed (``10.0.0.0/8``, ``::1``), and
    :data:`UNIX`.
    :raises ValueError: one is no network.
    """

    def __init__(self, networks: Collection[str]) -> None:
        self._unix = UNIX in networks
        self._networks = [ipaddress.ip_network(text) for text in networks if text != UNIX]
        self._has_warned = False

    def behind(self, environ: WSGIEnvironment) -> WSGIEnvironment:
        """The request as the client has made it: its address, scheme and host. Unchanged, but for what a proxy says.

        Of several proxies each has appended whom it has seen: what stands left of the first that is not trusted is
        anybody's claim.
        """
        if not self._is_trusted(environ.get("REMOTE_ADDR") or ""):
            self._warn_of_proxy(environ)
            return environ
        seen = dict(environ)
        seen["REMOTE_ADDR"] = self._client(environ)
        scheme = _last(environ.get("HTTP_X_FORWARDED_PROTO", "")).lower()
        if scheme in ("http", "https"):
            seen["wsgi.url_scheme"] = scheme
        host = _last(environ.get("HTTP_X_FORWARDED_HOST", ""))
        if _HOST.fullmatch(host):
            seen["HTTP_HOST"] = host
        return seen

    def _client(self, environ: WSGIEnvironment) -> str:
        client = environ.get("REMOTE_ADDR") or ""
        hops = environ.get("HTTP_X_FORWARDED_FOR", "").split(",")[-_MOST_HOPS:]
        for hop in reversed(hops):
            address = _address(_without_port(hop.strip()))
            if address is None:
                break
            client = str(address)
            if not self._is_trusted(client):
                break
        return str(client)

    def _is_trusted(self, text: str) -> bool:
        if not text:
            return self._unix
        address = _address(text) if self._networks else None
        return address is not None and any(address in network for network in self._networks)

    def _warn_of_proxy(self, environ: WSGIEnvironment) -> None:
        if "HTTP_X_FORWARDED_FOR" in environ and not self._has_warned and not self._networks and not self._unix:
            self._has_warned = True
            log.warning(
                "requests come with X-Forwarded-For by %s: if that is a proxy of yours, name it in trusted_proxies",
                environ.get("REMOTE_ADDR") or "a unix socket",
            )


def network_of(environ: WSGIEnvironment) -> str:
    """Whom a request counts for: its IPv4 address, or its IPv6 network.

    Empty where it comes from this machine: then a proxy that nobody has named is in between, and it is everybody.
    """
    return _network(environ.get("REMOTE_ADDR") or "")


@lru_cache(1000)
def _network(text: str) -> str:
    address = _address(text)
    if address is None or address.is_loopback:
        return ""
    if isinstance(address, IPv6Address):
        return str(ipaddress.ip_network((address, _IPV6_PREFIX), strict=False))
    return str(address)


def _address(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _without_port(text: str) -> str:
    found = _PORT.fullmatch(text)
    return (found[1] if found else text).strip("[]")


def _last(header: str) -> str:
    return header.rpartition(",")[2].strip()
