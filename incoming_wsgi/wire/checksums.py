"""Checksums that a client sends along with bytes, for what the network may do to them."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hmac import compare_digest
from typing import BinaryIO, Protocol

from .bulk import Buffer

_PIECE = 256 * 1024  # bytes that are read and hashed in one go


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


class Check(Protocol):
    """Bytes that are being checked, one after the other."""

    def update(self, data: Buffer, /) -> None: ...

    def fits(self) -> bool:
        """Whether they were the right ones; asked once, after the last."""


class Expectation(Protocol):
    """What some bytes must have."""

    def begin(self) -> Check: ...


def hash_of(file: BinaryIO, length: int, algorithm: str) -> str:
    """The digest of the first ``length`` bytes of a file, in hex."""
    computed = ALGORITHMS[algorithm]()
    while piece := file.read(min(_PIECE, length)):
        computed.update(piece)
        length -= len(piece)
    return computed.digest().hex()


@dataclass(frozen=True)
class Checksum:
    """A checksum that is known before the bytes.

    :ivar algorithm: one of :data:`ALGORITHMS`.
    """

    algorithm: str
    value: bytes

    def begin(self) -> Check:
        return _Comparison(ALGORITHMS[self.algorithm](), self.value)


@dataclass
class _Comparison:
    hash: Hash
    value: bytes

    def update(self, data: Buffer, /) -> None:
        self.hash.update(data)

    def fits(self) -> bool:
        return compare_digest(self.hash.digest(), self.value)


@dataclass(frozen=True)
class Trailed:
    """A checksum that follows the bytes; of which algorithm shows only then.

    :ivar told: gives it, after the last byte; what it raises, :meth:`Check.fits` does.
    """

    told: Callable[[], Checksum]

    def begin(self) -> Check:
        return _AllAtOnce(self.told)


class _AllAtOnce:
    def __init__(self, told: Callable[[], Checksum]) -> None:
        self._told = told
        self._hashes = {name: make() for name, make in ALGORITHMS.items()}

    def update(self, data: Buffer, /) -> None:
        for one in self._hashes.values():
            one.update(data)

    def fits(self) -> bool:
        expected = self._told()
        return compare_digest(self._hashes[expected.algorithm].digest(), expected.value)
