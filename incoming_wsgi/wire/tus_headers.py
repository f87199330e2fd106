"""What the headers of tus 1.0.0 say, without a request: read, or refused."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import BadRequest, TooLarge
from .checksums import ALGORITHMS, Checksum

#: Keys of the file's name: the usual one, and the one that Uppy's other protocols have.
_NAMES = ("filename", "name")


def natural(text: str, header: str) -> int:
    """A number of bytes.

    :raises BadRequest: it is not one.
    :raises TooLarge: no file is so long.
    """
    if not re.fullmatch("[0-9]+", text):
        raise BadRequest(f"{header} must be a whole number of bytes.")
    digits = text.lstrip("0") or "0"
    if len(digits) > 19 or int(digits) >= 2**63:
        raise TooLarge(f"{header} is more than any file has.")
    return int(digits)


def declared_length(length: str | None, defer: str | None) -> int | None:
    """What ``Upload-Length`` and ``Upload-Defer-Length`` of a creation say together; ``None``: it will follow.

    :raises BadRequest: not exactly one of them is there, or it is malformed.
    :raises TooLarge: no file is so long.
    """
    if (length is None) == (defer is None):
        raise BadRequest("Give either Upload-Length, or Upload-Defer-Length: 1.")
    if length is not None:
        return natural(length, "Upload-Length")
    if defer != "1":
        raise BadRequest("Upload-Defer-Length can only be 1.")
    return None


@dataclass(frozen=True)
class Metadata:
    """What a client says of its file.

    :ivar pairs: key, and value in base64, as they came; where there was no value the key stands alone.
    :ivar values: by key, as text: what is not UTF-8 shows as ``\\xff``.
    """

    pairs: Sequence[str]
    values: Mapping[str, str]

    @property
    def filename(self) -> str:
        return next((self.values[name] for name in _NAMES if self.values.get(name)), "")

    def header(self) -> str:
        """As it came, byte for byte: values need not be text."""
        return ",".join(self.pairs)

    def without(self, key: str) -> Metadata:
        """For what only we may know."""
        pairs = [pair for pair in self.pairs if pair.strip(" ").partition(" ")[0] != key]
        return Metadata(pairs, {name: value for name, value in self.values.items() if name != key})


def metadata_of(header: str) -> Metadata:
    """``Upload-Metadata``; an empty one, which some clients always send, is none.

    :raises BadRequest: a key is empty or comes twice, or a value is not base64.
    """
    if not header.strip(" "):
        return Metadata((), {})
    values: dict[str, str] = {}
    pairs = header.split(",")
    for pair in pairs:
        key, _, encoded = pair.strip(" ").partition(" ")
        name = _text(key.encode("latin-1"))
        if not key or name in values:
            raise BadRequest("Upload-Metadata has a key that is empty, or comes twice.")
        values[name] = _text(_decoded(encoded.strip(" "), "Upload-Metadata"))
    return Metadata(pairs, values)


@dataclass(frozen=True)
class Final:
    """``Upload-Concat`` of an upload that is made of others.

    :ivar urls: theirs, absolute or relative, in order.
    """

    urls: Sequence[str]


def concatenation_of(header: str | None) -> Final | str:
    """``Upload-Concat``: ``partial``, a :class:`Final`, or nothing.

    :raises BadRequest: it is something else.
    """
    if header in (None, "partial"):
        return header or ""
    kind, separator, urls = str(header).partition(";")
    if kind.strip(" ") != "final" or not separator or not urls.strip(" "):
        raise BadRequest("Upload-Concat must be «partial», or «final;» with the URLs of the parts.")
    return Final(urls.split())


def checksum_of(header: str) -> Checksum:
    """``Upload-Checksum``, in the header or behind the body.

    :raises BadRequest: it is malformed, or of an algorithm that we do not know.
    """
    algorithm, _, encoded = header.strip(" ").partition(" ")
    if algorithm not in ALGORITHMS:
        raise BadRequest(f"The algorithms for Upload-Checksum are {', '.join(ALGORITHMS)}.")
    value = _decoded(encoded, "Upload-Checksum")
    if len(value) != len(ALGORITHMS[algorithm]().digest()):
        raise BadRequest(f"Upload-Checksum is too long, or too short, for {algorithm}.")
    return Checksum(algorithm, value)


def _decoded(encoded: str, header: str) -> bytes:
    try:
        return base64.b64decode(encoded.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise BadRequest(f"{header} is not base64.") from None


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")
