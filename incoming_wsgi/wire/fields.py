"""Structured fields (RFC 9651) of requests and answers. One that is malformed counts as absent (its section 4.2)."""

from __future__ import annotations

from collections.abc import Mapping

from http_sf import StructuredFieldError, parse, ser

from .checksums import Checksum

#: Digests by their names in RFC 9530, the ones to prefer first, and by ours.
DIGESTS: Mapping[str, str] = {"sha-512": "sha512", "sha-256": "sha256"}


def integer(text: str | None) -> int | None:
    """A whole number that is not negative: of bytes, say."""
    value = _parsed(text, "item")
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def boolean(text: str | None) -> bool | None:
    value = _parsed(text, "item")
    return value if isinstance(value, bool) else None


def checksum(text: str | None) -> Checksum | None:
    """The strongest digest (RFC 9530) that we can check."""
    members = _members(text)
    for name, algorithm in DIGESTS.items():
        value = members.get(name)
        if isinstance(value, bytes):
            return Checksum(algorithm, value)
    return None


def is_wanted(text: str | None, name: str) -> bool:
    """Whether a ``Want-…-Digest`` (RFC 9530, section 4) asks for the digest of that name."""
    weight = _members(text).get(name)
    return isinstance(weight, int) and not isinstance(weight, bool) and weight > 0


def dictionary(members: Mapping[str, int | bytes]) -> str:
    """The text of a dictionary."""
    return ser(dict(members))


def _members(text: str | None) -> dict[str, object]:
    """The members of a dictionary, without their parameters."""
    value = _parsed(text, "dictionary")
    return {name: _bare(member) for name, member in value.items()} if isinstance(value, dict) else {}


def _parsed(text: str | None, kind: str) -> object:
    if text is None:
        return None
    try:
        return _bare(parse(text.encode("latin-1"), tltype=kind))
    except (StructuredFieldError, UnicodeEncodeError):
        return None


def _bare(value: object) -> object:
    """Without parameters."""
    return value[0] if isinstance(value, tuple) else value
