"""Where a hand-over may go: the check of ``signalFinishURL``."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from .errors import BadRequest, Forbidden

_LONGEST = 2048  # characters
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class FinishHosts:
    """The hosts that a back end may have called.

    :ivar allowed: ``host`` or ``host:port``; ``*`` for any host whose address is public.
    :ivar loopback: whether this machine is among them.
    :ivar caller: whether the address is that the ticket is asked for from.
    :ivar path: whether it may be a path of a wrapped app.
    :ivar prefix: our own mount point, which is never a target.
    """

    allowed: Collection[str] = ()
    loopback: bool = False
    caller: bool = False
    path: bool = False
    prefix: str = "/incoming"


def checked_target(url: str, hosts: FinishHosts, caller: str | None = None) -> str:
    """``url``, if it is one that may be called.

    :param caller: address of who asks.
    :raises BadRequest: it is no URL of the right form.
    :raises Forbidden: its host is not among those allowed.
    """
    parts = parsed_target(url, hosts.prefix)
    if not parts.netloc:
        if not hosts.path:
            raise BadRequest("signalFinishURL must be an http or https URL.")
        return url
    if not _is_allowed(parts, hosts, caller):
        raise Forbidden(f"Files may not be handed over to {parts.hostname}.")
    return url


def parsed_target(url: str, prefix: str) -> SplitResult:
    """:raises BadRequest: it is neither an http(s) URL nor an absolute path, or has what it should not."""
    if len(url) > _LONGEST or not url.isprintable() or " " in url or "\\" in url:
        raise BadRequest("signalFinishURL is too long, or has characters that no URL has.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise BadRequest("signalFinishURL is not a URL.") from None
    if parts.fragment or "#" in url or parts.username is not None or parts.password is not None or port == 0:
        raise BadRequest("signalFinishURL may have neither user, password, fragment nor port 0.")
    if url.startswith("/") and not url.startswith("//"):
        if parts.path == prefix or parts.path.startswith(prefix + "/"):
            raise BadRequest("signalFinishURL must be an address of the app's.")
        return parts
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadRequest("signalFinishURL must be an http or https URL, or an absolute path.")
    return parts


def _is_allowed(parts: SplitResult, hosts: FinishHosts, caller: str | None) -> bool:
    host = (parts.hostname or "").lower()
    if host in hosts.allowed or parts.netloc.lower() in hosts.allowed:
        return True
    if hosts.loopback and host in _LOOPBACK:
        return True
    if hosts.caller and caller is not None and host == caller:
        return True
    return "*" in hosts.allowed and _is_public(host)


def _is_public(host: str) -> bool:
    try:
        addresses = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except OSError:
        raise BadRequest("The host of signalFinishURL can't be found.") from None
    return all(_is_global(ipaddress.ip_address(address.partition("%")[0])) for address in addresses)


def _is_global(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether it is a public address, also of an IPv4 one that stands in an IPv6 one."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return inner.is_global
    return address.is_global
