"""Which addresses belong to the public internet.

By IANA's registries of special-purpose addresses (RFC 6890 and its successors): Python's ``is_global`` differs from
version to version, and takes several IPv6 forms for public that carry a private IPv4 address inside.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

_NOT_PUBLIC_V4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this network
            "10.0.0.0/8",
            "100.64.0.0/10",  # shared by customers of a provider
            "127.0.0.0/8",
            "169.254.0.0/16",  # link-local; clouds tell secrets there
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",  # documentation
            "192.31.196.0/24",
            "192.52.193.0/24",
            "192.88.99.0/24",  # 6to4 relays
            "192.168.0.0/16",
            "192.175.48.0/24",
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, and broadcast
        ),
    )
)

_UNICAST_V6 = IPv6Network("2000::/3")
_NOT_PUBLIC_V6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocols; Teredo is among them
            "2001:db8::/32",  # documentation
            "2620:4f:8000::/48",
            "3fff::/20",  # documentation
        ),
    )
)

#: IPv6 forms in which an IPv4 address stands, and how many bits there are to its right.
_TRANSLATED = (
    (IPv6Network("::ffff:0:0/96"), 0),
    (IPv6Network("64:ff9b::/96"), 0),
    (IPv6Network("2002::/16"), 80),
)

#: The interface part of ISATAP addresses (RFC 5214): an IPv4 address follows it.
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)

#: Names as they stand in the DNS; what ends in a number is an address, and must be written as one.
_NAME = re.compile(
    r"(?=.{1,253}\Z)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
)
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


def is_public(address: str) -> bool:
    """Whether an IP address, as text, is one of the public internet."""
    try:
        found = ip_address(address)
    except ValueError:  # among others, one with a zone: that is of a link
        return False
    return _is_public_v4(found) if isinstance(found, IPv4Address) else _is_public_v6(found)


def is_plain_host(host: str) -> bool:
    """Whether a host, in lower case, is a name or an address in its usual form.

    ``127.1``, ``0x7f.1`` and ``2130706433`` are addresses to a resolver, and names to whoever compares texts.
    """
    if ":" in host:
        return _is_usual(host)
    if _NUMBER.fullmatch(host.rpartition(".")[2]):
        return _is_usual(host)
    return _NAME.fullmatch(host) is not None


def _is_usual(address: str) -> bool:
    try:
        found = ip_address(address)
    except ValueError:
        return False
    return "%" not in address if isinstance(found, IPv6Address) else str(found) == address


def _is_public_v4(address: IPv4Address) -> bool:
    return not any(address in network for network in _NOT_PUBLIC_V4)


def _is_public_v6(address: IPv6Address) -> bool:
    for network, shift in _TRANSLATED:
        if address in network:
            return _is_public_v4(IPv4Address(int(address) >> shift & 0xFFFF_FFFF))
    if int(address) >> 32 & 0xFFFF_FFFF in _ISATAP:
        return False
    return address in _UNICAST_V6 and not any(address in network for network in _NOT_PUBLIC_V6)
