"""Checksums that a client sends along with bytes, for what the network may do to them."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hmac import compare_digest
from typing import Protocol

from .bulk import Buffer


class Hash(Protocol):
    def update(self, data: Buffer, /) -> None: ...

    def digest(self) -> bytes: ...


class _CRC32:
    """The checksum of zlib, as four bytes in network order."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: Buffer, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


def _md5() -> Hash:
    return hashlib.md5(usedforsecurity=False)


def _sha1() -> Hash:
    return hashlib.sha1(usedforsecurity=False)


#: Algorithms by the names that all dialects use in some spelling, without hyphen.
ALGORITHMS: Mapping[str, Callable[[], Hash]] = {
    "sha1": _sha1,
    "sha256": hashlib.sha256,
    "sha512": hashlib.sha512,
    "md5": _md5,
    "crc32": _CRC32,
}


@dataclass(frozen=True)
class Checksum:
    """What some bytes must have.

    :ivar algorithm: one of :data:`ALGORITHMS`.
    """

    algorithm: str
    value: bytes

    def begin(self) -> Hash:
        return ALGORITHMS[self.algorithm]()

    def fits(self, computed: Hash) -> bool:
        return compare_digest(computed.digest(), self.value)
